"""Keys of an ini file that begin like ours and are none. Standard library only: every pytest run loads this module."""

from __future__ import annotations

import warnings
from typing import Any

from pytest_h2o.errors import UsageError
from pytest_h2o.options import OPTIONS


def refuse_unknown_keys(config: Any) -> None:
    """Refuse an ini key that begins like ours and is none: a misspelt target would silently not be asked for.

    pytest 9.1 deprecates ``config.inicfg`` and has no other way to see the keys that nothing has declared.

    Raises
    ------
    UsageError
        Naming the key and the nearest known one.
    """
    known = {option.key for option in OPTIONS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keys = tuple(getattr(config, "inicfg", ()))
    for key in keys:
        if key.startswith("h2o_") and key not in known:
            from difflib import get_close_matches

            near = get_close_matches(key, known, 1)
            raise UsageError(
                f"the ini file has an unknown key {key}",
                hint=f"did you mean {near[0]}?" if near else "see pytest --help",
            )
