"""Plain data against a pydantic model: a checked value, or every fault with file, line, key and expectation."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError, WithJsonSchema
from pydantic.annotated_handlers import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from pydantic_core.core_schema import ValidationInfo

from pytest_h2o.errors import Fault, PresetError, UsageError, did_you_mean, near_names
from pytest_h2o.inputs.options import LEAST_DECODE_PAIRS, MAX_DECODE_PAIRS, MAX_LAUNCHES
from pytest_h2o.inputs.yaml import REFUSED, KeyPath, Source, resolve_scalar

MAX_INT = 2**31 - 1
"""The engine reads whole numbers as 32-bit integers; a message does not name a limit at this value."""

LLM_BENCH = "llm_bench"
"""The bench that the swept H2O keys are for; others are named by their adapters."""

MAX_POINTS = 100_000
"""The largest grid of one preset. A preset above it is refused when it is checked, before any point is made."""

MAX_FAULTS = 1000
"""More than a person reads; a hostile file has hundreds of thousands, and each costs a search for near names."""

Model = TypeVar("Model", bound=BaseModel)


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
    """Make a `model` of the data of `source`; paths in it are relative to `folder`, if there is one."""
    faults = list(source.faults)
    try:
        checked = model.model_validate(source.data, context={"folder": folder or ""})
    except ValidationError as error:
        faults += _find_faults(error.errors(include_url=False), source, schema_of(model))
    if faults:
        raise PresetError.from_faults(sorted(faults, key=lambda fault: (fault.line or 0, fault.column or 0)))
    return checked


def _find_faults(errors: Sequence[Any], source: Source, schema: dict[str, Any]) -> Iterator[Fault]:
    """A fault for every error of a validation; the JSON schema of the model tells what was expected."""
    if len(errors) > MAX_FAULTS:
        yield source.fault(f"{len(errors) - MAX_FAULTS} more faults than are listed")
    for item in errors[:MAX_FAULTS]:
        if "troubles" in item.get("ctx", {}):  # what a validator of ours found: see `fault_error`
            for what, expected, below in item["ctx"]["troubles"]:
                came = None if below else describe(item["input"])
                yield source.fault(what, _known_path((*item["loc"], *below), source), came=came, expected=expected)
        elif item["input"] is not REFUSED:
            yield _fault(item, source, schema)


def _fault(item: Any, source: Source, schema: dict[str, Any]) -> Fault:
    path, kind, context = item["loc"], item["type"], item.get("ctx", {})
    place = _known_path(path, source)
    if kind == "extra_forbidden":
        names = find_node(schema, path[:-1]).get("properties", {})
        return source.fault(_WHAT[kind], place, at_key=True, hint=hint_key(str(path[-1]), names))
    expected = expect_text(find_node(schema, path), context.get("le"))
    if kind == "missing":
        return source.fault(_WHAT[kind], place, expected=expected)
    known = re.findall("'([^']*)'", context["expected"]) if kind == "literal_error" else []
    hint, came = did_you_mean(str(item["input"]), known), describe(item["input"])
    several = f"{path[-1]}s" if path else ""  # a key that is no text has no place
    if isinstance(item["input"], list) and several in find_node(schema, path[:-1]).get("properties", {}):
        hint = f"several values stand under {several}"
    return source.fault(_WHAT.get(kind, "wrong type"), place, came=came, expected=expected, hint=hint)


def hint_key(name: str, names: Iterable[str]) -> str:
    """What to do about an unknown key; with no likely name, the nearest one still shows what keys look like."""
    names = list(names)
    nearest = next(iter(near_names(name, names, cutoff=0.0)), None)
    return did_you_mean(name, names) or f"the nearest known key is {nearest}; `pytest-h2o schema` lists all"


def _known_path(path: KeyPath, source: Source) -> KeyPath:
    """A value that was given alone for a list stands at the key of the list."""
    if not path or path[-1] != 0:
        return path
    value: Any = source.data
    for part in path[:-1]:
        value = value[part]
    return path if isinstance(value, (list, tuple)) else path[:-1]


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


class Trouble(NamedTuple):
    """What a validator finds: `at` is the path of the fault below the value that is validated."""

    what: str
    expected: str
    at: KeyPath = ()


def fault_error(*troubles: Trouble) -> PydanticCustomError:
    """The error that a validator raises for what it found."""
    return PydanticCustomError("h2o_fault", "{text}", {"text": troubles[0].what, "troubles": troubles})


class OneOrMore:
    """Marks a tuple that a file may give as a list or as one value: never empty, no value twice."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        inner = core_schema.no_info_after_validator_function(_check_distinct, handler(source))
        return core_schema.no_info_before_validator_function(_as_list, inner)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        many = handler.resolve_ref_schema(handler(core))
        return {"anyOf": [many["items"], {**many, "minItems": 1, "uniqueItems": True}]}


def _as_list(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        return (value,)
    if len(value) > MAX_POINTS:  # before each value is looked at
        raise fault_error(Trouble("list too long", f"at most {MAX_POINTS:,} values"))
    return value


def _check_distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise fault_error(Trouble("empty list", "at least one value"))
    if len(set(values)) < len(values):
        seen: set[Any] = set()
        for index, value in enumerate(values):
            if value in seen:
                raise fault_error(Trouble(f"{value} stands twice in the list", "each value once", (index,)))
            seen.add(value)
    return values


def _refuse_null(value: Any) -> Any:
    if value is None:
        raise fault_error(Trouble("no value", "a value, or the key left out"))
    return value


def _resolve_path(value: Any, info: ValidationInfo) -> Any:
    """A path in a file is relative to the folder of that file, which the context carries."""
    if not isinstance(value, str):
        if isinstance(value, Path):
            return value
        raise fault_error(Trouble("wrong type", "the path of a file, as text"))
    if not value or "\0" in value:
        raise fault_error(Trouble("empty path", "the path of a file"))
    return Path((info.context or {}).get("folder", ""), value)


def _is_one_line(text: str) -> bool:
    return not any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") for sign in text)


def _check_one_line(text: str) -> str:
    if not _is_one_line(text):
        raise fault_error(Trouble("more than one line, or a control character", "one line of text"))
    return text


def _check_scalar(value: Any) -> Any:
    is_number = isinstance(value, int | float) and abs(value) <= MAX_INT  # no nan or infinity either
    if not (is_number or (isinstance(value, str) and value and _is_one_line(value))):
        raise fault_error(Trouble("wrong type", "one value: text of one line, a number, true or false"))
    return value


def check_name(name: str) -> str | None:
    """Say why `name` cannot name a test item and a folder; None if it can."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) is None:
        return "letters, digits, `_`, `-` and `.`, the first one no `-` or `.`: `-k` must be able to select it"
    if name in ("and", "or", "not"):
        return "a name that is no word of `-k` expressions (and, or, not)"
    return None


class Named(dict[str, Any]):
    """Values by name. Presets are hashed, so it is: nothing is to be put in after it was made."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


T = TypeVar("T")
Maybe = Annotated[T | None, BeforeValidator(_refuse_null)]
"""Goes with ``= None``: a key may be left out, but not be null."""

Swept = Annotated[tuple[T, ...], OneOrMore()]
"""One value or a list."""

Count = Annotated[int, Field(strict=True, ge=0, le=MAX_INT)]
Positive = Annotated[int, Field(strict=True, ge=1, le=MAX_INT)]
LaunchCount = Annotated[int, Field(strict=True, ge=1, le=MAX_LAUNCHES)]
PairCount = Annotated[int, Field(strict=True, ge=LEAST_DECODE_PAIRS, le=MAX_DECODE_PAIRS)]
LayerEnd = Annotated[int, Field(strict=True, ge=-1, le=MAX_INT)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
KeepRatio = Annotated[float, Field(strict=True, gt=0, le=1)]
LossyRatio = Annotated[float, Field(strict=True, ge=1, allow_inf_nan=False)]
Above0 = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
OneLine = Annotated[str, Field(strict=True, min_length=1, max_length=200), AfterValidator(_check_one_line)]
PlainName = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9_.-]+$", examples=["adaptive_v22"])]

PlainNames = Annotated[
    str, Field(strict=True, pattern=r"^[A-Za-z0-9_.-]+(,[A-Za-z0-9_.-]+)*$", examples=["raw,delta_seq"])
]

BenchOption = Annotated[
    bool | int | float | str,
    BeforeValidator(_check_scalar),
    WithJsonSchema({"type": ["boolean", "number", "string"]}),
]

BenchOptions = Annotated[dict[str, BenchOption], AfterValidator(Named)]
NamedNumbers = Annotated[dict[str, Finite], AfterValidator(Named)]
AllowedSigns = Annotated[dict[str, Count], AfterValidator(Named)]
ZstdLevel = Annotated[int, Field(strict=True, ge=1, le=22)]
FilePath = Annotated[Path, BeforeValidator(_resolve_path), WithJsonSchema({"type": "string", "minLength": 1})]
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
    """Key paths and values of ``KEY=VALUE`` texts, dots in KEY leading into a mapping; the last one of a key wins."""
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


def _head(assignment: str) -> str:
    """The key of the file that ``KEY.INNER=VALUE`` changes."""
    return assignment.partition("=")[0].strip().partition(".")[0]


def share_assignments(assignments: Sequence[str], models: Sequence[type[BaseModel]]) -> tuple[list[str], ...]:
    """Tell for which of `models` each ``KEY=VALUE`` is: the first that knows its key, or the key nearest to it."""
    shares: tuple[list[str], ...] = tuple([] for _ in models)
    known = list(dict.fromkeys(key for model in models for key in model.model_fields))
    for text in assignments:
        near = near_names(_head(text), known)
        shares[next((n for n, model in enumerate(models) if set(near) & set(model.model_fields)), 0)].append(text)
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
        own = [text for text in assignments if _head(text) == head]
        return " ".join(f"{OPTION} {text}" for text in own or assignments)

    return PresetError.from_faults(
        [fault._replace(file=option_of(fault)) for fault in error.faults], f"{OPTION} for {owner}"
    )


def refuse_unknown_settings(assignments: Sequence[str], origin: str, models: Sequence[type[BaseModel]]) -> None:
    """Refuse a setting of a key that none of the models has, or that a run must not change."""
    known = {name for model in models for name in model.model_fields} - {"name", "path", "decides"}
    for text in assignments:
        if (key := _head(text)) not in known:
            raise UsageError(
                f"{origin} sets a key that neither presets nor scopes have, or that is fixed",
                came=text,
                hint=did_you_mean(key, known) or "pytest-h2o schema shows the keys",
            )
