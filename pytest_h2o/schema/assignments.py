"""Settings given as text on a command line: ``KEY=VALUE`` and flags, as the plain data that a file would have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from pytest_h2o.errors import Fault, PresetError
from pytest_h2o.schema.checking import find_node
from pytest_h2o.schema.json_schema import schema_of
from pytest_h2o.schema.yaml_source import KeyPath, resolve_scalar

OPTION = "--h2o-set"


def parse_setting(model: type[BaseModel], path: KeyPath, text: str) -> Any:
    """The value that `text` means for the key at `path`.

    A key of text keeps it as it is; a key that takes a list is cut at commas (brackets around it are allowed);
    else a number, ``true`` or ``false`` becomes one. What does not fit stays text: the model says what is wrong.
    """
    node = find_node(schema_of(model), path)
    if node.get("type") == "string":
        return text
    if any(option.get("type") == "array" for option in node.get("anyOf", ())):
        return [resolve_scalar(part.strip()) for part in text.strip().removeprefix("[").removesuffix("]").split(",")]
    return resolve_scalar(text.strip())


def parse_assignments(model: type[BaseModel], assignments: Sequence[str]) -> dict[KeyPath, Any]:
    """Key paths and values of ``KEY=VALUE`` texts, dots in KEY leading into a mapping; the last one of a key wins.

    Raises
    ------
    PresetError
        A text is no ``KEY=VALUE``; all of them are named.
    """
    values: dict[KeyPath, Any] = {}
    faults: list[Fault] = []
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if sign and key.strip():
            path = tuple(key.strip().split("."))
            values[path] = parse_setting(model, path, text)
        else:
            faults.append(Fault("not KEY=VALUE", f"{OPTION} {assignment}", expected="such as h2o_block_tokens=8,16"))
    if faults:
        raise PresetError.from_faults(faults, OPTION)
    return values


def merge_settings(data: Mapping[str, Any], settings: Mapping[KeyPath, Any]) -> dict[str, Any]:
    """A copy of `data` with each setting in its place."""
    merged = dict(data)
    for path, value in settings.items():
        head, *rest = path
        if rest:
            inner = merged.get(str(head))
            value = merge_settings(inner if isinstance(inner, dict) else {}, {tuple(rest): value})
        merged[str(head)] = value
    return merged


def name_option(error: PresetError, assignments: Sequence[str], owner: str) -> PresetError:
    """The same error, of `owner`, each fault at the assignment that brought it (all of them, if none set that key)."""

    def option_of(fault: Fault) -> str:
        head = fault.key.partition(".")[0].partition("[")[0]
        own = [text for text in assignments if text.partition("=")[0].strip().partition(".")[0] == head]
        return " ".join(f"{OPTION} {text}" for text in own or assignments)

    return PresetError.from_faults(
        [fault._replace(file=option_of(fault)) for fault in error.faults], f"{OPTION} for {owner}"
    )
