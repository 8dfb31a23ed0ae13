"""Plain data against a pydantic model: a checked value, or every fault with file, line, key and expectation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pytest_h2o.errors import Fault, PresetError
from pytest_h2o.schema.json_schema import MAX_INT, schema_of
from pytest_h2o.schema.yaml_source import REFUSED, KeyPath, Source

Model = TypeVar("Model", bound=BaseModel)

MAX_FAULTS = 1000
"""More than a person reads; a hostile file has hundreds of thousands, and each costs a search for near names."""

_WHAT = {
    "extra_forbidden": "unknown key",
    "missing": "missing key",
    "literal_error": "unknown value",
    "too_short": "nothing in it",
    "greater_than": "out of range",
    "greater_than_equal": "out of range",
    "less_than": "out of range",
    "less_than_equal": "out of range",
    "finite_number": "out of range",
    "string_too_short": "empty text",
    "string_too_long": "text too long",
    "string_pattern_mismatch": "text of another form",
}
_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "object": "a mapping of keys",
}
_LIMITS = (
    ("minimum", "at least"),
    ("exclusiveMinimum", "above"),
    ("maximum", "at most"),
    ("maxLength", "no longer than"),
)


def check_source(model: type[Model], source: Source, folder: Path | None = None) -> Model:
    """Make a `model` of the data of `source`; paths in it are relative to `folder`, if there is one.

    Raises
    ------
    PresetError
        With every fault that the reader and the model found, in the order of the text.
    """
    faults = list(source.faults)
    try:
        checked = model.model_validate(source.data, context={"folder": folder or ""})
    except ValidationError as error:
        faults += find_faults(error, source, schema_of(model))
    if faults:
        raise PresetError.from_faults(sorted(faults, key=lambda fault: (fault.line or 0, fault.column or 0)))
    return checked


def find_faults(error: ValidationError, source: Source, schema: dict[str, Any]) -> list[Fault]:
    """Turn every error of a validation into a fault; the JSON schema of the model tells what was expected."""
    faults: list[Fault] = []
    errors = error.errors(include_url=False)
    if len(errors) > MAX_FAULTS:
        faults.append(source.fault(f"{len(errors) - MAX_FAULTS} more faults than are listed"))
    for item in errors[:MAX_FAULTS]:
        if "troubles" in item.get("ctx", {}):
            faults += _own_faults(item, source)
        elif item["input"] is not REFUSED:
            faults.append(_fault(item, source, schema))
    return faults


def _own_faults(item: Any, source: Source) -> Iterator[Fault]:
    """What a validator of this project found (`field_types.fault_error`)."""
    for what, expected, below in item["ctx"]["troubles"]:
        came = None if below else describe(item["input"])
        yield source.fault(what, _known_path((*item["loc"], *below), source), came=came, expected=expected)


def _fault(item: Any, source: Source, schema: dict[str, Any]) -> Fault:
    path, kind, context = item["loc"], item["type"], item.get("ctx", {})
    place = _known_path(path, source)
    expected = expect_text(find_node(schema, path), context.get("le"))
    if kind == "extra_forbidden":
        names = list(find_node(schema, path[:-1]).get("properties", {}))
        return source.fault(_WHAT[kind], place, at_key=True, hint=_near_key(str(path[-1]), names))
    if kind == "missing":
        return source.fault(_WHAT[kind], place, expected=expected)
    known = re.findall("'([^']*)'", context["expected"]) if kind == "literal_error" else []
    hint = _near(str(item["input"]), known)
    came = describe(item["input"])
    return source.fault(_WHAT.get(kind, "wrong type"), place, came=came, expected=expected, hint=hint)


def _known_path(path: KeyPath, source: Source) -> KeyPath:
    """A value that was given alone for a list stands at the key of the list."""
    if not path or path[-1] != 0:
        return path
    value: Any = source.data
    for part in path[:-1]:
        value = value[part]
    return path if isinstance(value, (list, tuple)) else path[:-1]


def _near(name: str, names: Iterable[str]) -> str | None:
    close = get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else None


def _near_key(name: str, names: list[str]) -> str:
    """What to do about an unknown key; with no likely name, the nearest one still shows what keys look like."""
    nearest = "".join(get_close_matches(name, names, n=1, cutoff=0.0))
    return _near(name, names) or f"the nearest known key is {nearest}; `pytest-h2o schema` lists all"


def find_node(schema: dict[str, Any], path: KeyPath) -> dict[str, Any]:
    """The part of a JSON schema that describes `path`; empty where it says nothing."""
    node = _deref(schema, schema)
    for part in path:
        options = [_deref(option, schema) for option in node.get("anyOf", [node])]
        if isinstance(part, int):
            steps = [option["items"] for option in options if "items" in option]
        else:
            steps = [o.get("properties", {}).get(part) or o.get("additionalProperties") or {} for o in options]
        node = _deref(steps[0], schema) if steps else {}
    return node


def _deref(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "allOf" in node:  # the way of older pydantic to say more beside a reference
        node = {**node["allOf"][0], **node}
    name = str(node.get("$ref", "")).removeprefix("#/$defs/")
    return {**schema["$defs"][name], **node} if name else node


def expect_text(node: dict[str, Any], largest: object = None) -> str | None:
    """Say in words what a node of a JSON schema accepts; None if it says nothing.

    The limit of whole numbers goes without saying, unless it is the `largest` value that was passed.
    """
    if "enum" in node:
        return f"one of {', '.join(node['enum'])}"
    kind = _KINDS.get(str(node.get("type")))
    if kind is None:
        return None
    if "examples" in node:
        return f"{kind}, such as {node['examples'][0]}"
    said = [(word, int(node[sign])) for sign, word in _LIMITS if sign in node]  # all limits here are whole
    limits = [f"{word} {limit}" for word, limit in said if limit != MAX_INT or limit == largest]
    return f"{kind}, {' and '.join(limits)}" if limits else kind


def describe(value: object) -> str:
    """What came, as a message says it: the value, shortened, and its kind."""
    if isinstance(value, dict):
        return f"a mapping of {len(value)} keys"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if value is None:
        return "nothing (null)"
    kinds: dict[type, str] = {bool: "truth value", int: "whole number", float: "number", str: "text"}
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, (bool, str)) else repr(value)
    text = text if len(text) <= 60 else text[:57] + "…"
    return f"{text} ({kinds.get(type(value), type(value).__name__)})"
