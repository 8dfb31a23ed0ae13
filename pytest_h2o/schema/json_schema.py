"""JSON schema of a model that checks files."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel

MAX_INT = 2**31 - 1
"""The engine reads whole numbers as 32-bit integers; a message does not name a limit at this value."""


@cache
def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """JSON schema of the files that `model` checks: as pydantic gives it, but a key may be left out, not be null."""
    return dict(_without_null(model.model_json_schema()))


def _without_null(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _without_null(value) for key, value in node.items() if not (key == "default" and value is None)}
    if {"type": "null"} in node.get("anyOf", ()):
        options = [option for option in node.pop("anyOf") if option != {"type": "null"}]
        node = {**options[0], **node} if len(options) == 1 else {"anyOf": options, **node}
    return node
