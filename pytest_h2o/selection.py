"""What a command line asks for by name, and what an item is about. Pure; standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

SCOPE_FIXTURES = ("h2o_lossless", "h2o_upper_bound", "h2o_scope")


def names_asked_for(keyword: str, arguments: Iterable[str]) -> tuple[str, ...]:
    """Give the words of a ``-k`` expression that are not negated, and the parameter ids of node ids; in lower case.

    A word behind ``not`` does not ask for anything, nor do those in parentheses behind it.
    """
    words: list[str] = []
    negated, denied_depth = False, 0
    for token in re.findall(r"[()]|[^\s()]+", keyword.lower()):
        if token == "(":
            denied_depth += bool(denied_depth or negated)
        elif token == ")":
            denied_depth -= bool(denied_depth)
        elif token not in ("and", "or", "not") and not negated and not denied_depth:
            words.append(token)
        negated = token == "not"
    ids = (argument.split("::", 1)[1] for argument in arguments if "::" in argument)
    return (*words, *(name.split("[", 1)[1].rstrip("]").lower() for name in ids if "[" in name))


def preset_of(params: Mapping[str, Any]) -> str | None:
    """The preset that an item with these parameters is about; None if it is about none."""
    if "h2o_point" in params:
        return str(params["h2o_point"][0])
    if "h2o_sweep" in params:
        return str(params["h2o_sweep"])
    kind, _, name = str(params.get("h2o_comparison", "")).partition(" ")
    return name if kind == "preset" else None


def scope_of(params: Mapping[str, Any]) -> str | None:
    """The scope that an item with these parameters is about; None if it is about none."""
    kind, _, name = str(params.get("h2o_comparison", "")).partition(" ")
    return name if kind == "scope" else next((str(params[f]) for f in SCOPE_FIXTURES if f in params), None)


def measures_nothing(params: Mapping[str, Any]) -> bool:
    """Whether this is the item that pytest makes of an empty list: no comparison is asked for, or no scope is such."""
    return any(name.startswith("h2o_") and not isinstance(key, str | tuple) for name, key in params.items())
