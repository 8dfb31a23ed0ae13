"""Settings of a codec checked against the annotations of its fields, so that a configuration is a closed schema."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pytest_h2o.errors import CodecError


def check_settings(cls: type, codec_id: str, given: Mapping[str, Any]) -> None:
    """Raise `CodecError` for the first setting that `cls`, a dataclass, does not take.

    Checked are names, and the types bool, int, float, str, None, Literal, and unions and tuples of these; a
    field of another type is left to the codec, as are ranges.
    """
    known = {f.name: f for f in fields(cls)}
    for name in sorted(set(given) - set(known)):
        near = difflib.get_close_matches(name, known, n=1)
        raise CodecError(
            f"codec {codec_id} has no setting {name!r}",
            came=", ".join(sorted(set(given) - set(known))),
            expected=", ".join(known) or "no settings",
            hint=f"did you mean {near[0]!r}?" if near else None,
        )
    hints = _hints(cls)
    for name, value in given.items():
        if name in hints and not _fits(value, hints[name]):
            raise CodecError(
                f"setting {name!r} of codec {codec_id} has the wrong type",
                came=f"{value!r} ({type(value).__name__})",
                expected=str(known[name].type),
            )


def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls)
    except NameError:  # an annotation imported for type checkers only: nothing to check against
        return {}


def _fits(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return isinstance(value, tuple) and all(_fits(v, args[0]) for v in value)
        return isinstance(value, tuple) and len(value) == len(args) and all(map(_fits, value, args))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint in (bool, int, str, NoneType):
        return type(value) is hint
    return True
