"""Names that a dump gives to its files: which are metas, and which lead outside."""

from __future__ import annotations

import re
from typing import NoReturn

from pytest_h2o.errors import DumpError

_DRIVE = re.compile(r"[A-Za-z]:")


def is_meta_name(name: str) -> bool:
    """Whether a file of this name describes an entry; ``packed_meta_*.json`` does not."""
    return name.startswith("meta_") and name.endswith(".json")


def join_inside(prefix: str, name: str) -> str | None:
    """Path below the root that `name` means when it is written in a folder.

    Parameters
    ----------
    prefix : str
        The folder below the root, empty or with a ``/`` at its end.
    name : str
        As it is written; ``\\`` counts as ``/``, wherever the dump was made.

    Returns
    -------
    str or None
        Without ``.`` and ``..``; None if it is absolute or climbs above the root.
    """
    plain = name.replace("\\", "/")
    if plain.startswith("/") or _DRIVE.match(plain) or "\0" in plain:
        return None
    parts: list[str] = []
    for part in f"{prefix}{plain}".split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def refuse_outside(where: str, came: str) -> NoReturn:
    """Refuse a dump that names a file outside its root.

    Raises
    ------
    DumpError
    """
    raise DumpError(
        "a dump leads outside its own root",
        where=where,
        came=came,
        expected="files inside the dump, named relative to the meta file that names them",
        hint="nothing outside was read; copy the files into the dump, or do not trust it",
    )
