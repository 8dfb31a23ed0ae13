"""The types of which presets and scopes are made: strict values with ranges, one value or a list, paths, names.

Strict means that a truth value is no number, text is no number, and a number with a fraction is no whole number. A
whole number is taken where a number is asked for, and becomes one.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic.annotated_handlers import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from pydantic_core.core_schema import ValidationInfo

from pytest_h2o.decode_options import MAX_DECODE_PAIRS
from pytest_h2o.points import MAX_POINTS
from pytest_h2o.schema.json_schema import MAX_INT
from pytest_h2o.schema.yaml_source import KeyPath


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


Given = BeforeValidator(_refuse_null)
"""Goes with ``X | None = None``: a key may be left out, but not be null."""

Count = Annotated[int, Field(strict=True, ge=0, le=MAX_INT)]
Positive = Annotated[int, Field(strict=True, ge=1, le=MAX_INT)]
PairCount = Annotated[int, Field(strict=True, ge=1, le=MAX_DECODE_PAIRS)]
LayerEnd = Annotated[int, Field(strict=True, ge=-1, le=MAX_INT)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
KeepRatio = Annotated[float, Field(strict=True, gt=0, le=1)]
LossyRatio = Annotated[float, Field(strict=True, ge=1, allow_inf_nan=False)]
Above0 = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
AtLeast0 = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
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
ZstdLevel = Annotated[int, Field(strict=True, ge=1, le=22)]
FilePath = Annotated[Path, BeforeValidator(_resolve_path), WithJsonSchema({"type": "string", "minLength": 1})]
SweptCount = Annotated[tuple[Count, ...], OneOrMore()]
SweptPositive = Annotated[tuple[Positive, ...], OneOrMore()]
SweptFraction = Annotated[tuple[Fraction, ...], OneOrMore()]
SweptKeepRatio = Annotated[tuple[KeepRatio, ...], OneOrMore()]
SweptLossyRatio = Annotated[tuple[LossyRatio, ...], OneOrMore()]
