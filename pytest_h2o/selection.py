"""What a command line asks for by name. Pure; standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any


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
    """Name of the preset that parametrizes an item, from its parameters; None where a scope does."""
    if "h2o_point" in params:
        return str(params["h2o_point"][0])
    return params.get("h2o_sweep")
