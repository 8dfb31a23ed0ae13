"""Settings given as text on a command line: ``KEY=VALUE`` and flags, as the plain data that a file would have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel

from pytest_h2o.errors import Fault, PresetError, UsageError
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


def share_assignments(assignments: Sequence[str], models: Sequence[type[BaseModel]]) -> tuple[list[str], ...]:
    """Tell for which of `models` each ``KEY=VALUE`` is: the first that knows its key, or the key nearest to it.

    Returns
    -------
    tuple of list of str
        The assignments of each model. What resembles no key goes to the first, which then says so.
    """
    shares: tuple[list[str], ...] = tuple([] for _ in models)
    known = list(dict.fromkeys(key for model in models for key in model.model_fields))
    for text in assignments:
        key = text.partition("=")[0].strip().partition(".")[0]
        nearest = next(iter([key] if key in known else get_close_matches(key, known, 1)), None)
        shares[next((n for n, model in enumerate(models) if nearest in model.model_fields), 0)].append(text)
    return shares


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


def refuse_unknown_settings(assignments: Sequence[str], origin: str, models: Sequence[type[BaseModel]]) -> None:
    """Refuse a setting of a key that none of the models has, or that a run must not change, whichever files are read.

    Raises
    ------
    UsageError
        Naming the setting and the nearest key.
    """
    known = {name for model in models for name in model.model_fields} - {"name", "path", "decides"}
    for text in assignments:
        key = text.partition("=")[0].strip().partition(".")[0]
        if key not in known:
            near = get_close_matches(key, known, 1)
            raise UsageError(
                f"{origin} sets a key that neither presets nor scopes have, or that is fixed",
                came=text,
                hint=f"did you mean {near[0]}?" if near else "pytest-h2o schema shows the keys",
            )
