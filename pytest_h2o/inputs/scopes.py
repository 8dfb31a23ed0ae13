"""Scope files: checked, with every fault and its place; see `inputs.scope` for what a scope is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, create_model, model_validator

from pytest_h2o.errors import Fault, PresetError
from pytest_h2o.inputs.checking import (
    MAX_INT,
    Above0,
    Count,
    FilePath,
    Flag,
    Maybe,
    OneLine,
    Positive,
    Swept,
    Trouble,
    ZstdLevel,
    check_name,
    check_source,
    fault_error,
    merge_settings,
    name_option,
    parse_assignments,
)
from pytest_h2o.inputs.keys import FLAT_KEYS, ONLY_WITH, fold_codec, foreign_settings, idle_keys
from pytest_h2o.inputs.scope import RopeKeys, Scope
from pytest_h2o.inputs.yaml import Source, read_source

_CODEC = r"^[A-Za-z0-9_.-]+(:[A-Za-z0-9_]+=[A-Za-z0-9_.+-]+)*$"
CodecText = Annotated[str, Field(strict=True, pattern=_CODEC, examples=["adaptive_v22"])]
Predictor = Literal["raw", "delta_seq", "xor_seq", "pair_delta", "pair_delta_delta_seq"]
Predictors = Swept[Predictor]


def _check_codec(value: Any) -> Any:
    """A codec as text or as a mapping; lists of a mapping become the tuples that codecs have."""
    if isinstance(value, str) and re.fullmatch(_CODEC, value):
        return value
    if isinstance(value, dict) and isinstance(value.get("id"), str):
        return {str(key): tuple(one) if isinstance(one, list) else one for key, one in value.items()}
    expected = "a codec: zstd, zstd:level=19, or a mapping with its id and settings, {id: zstd, level: 19}"
    raise fault_error(Trouble("this names no codec", expected))


CodecChoice = Annotated[
    Any,
    AfterValidator(_check_codec),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": _CODEC},
                {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
            ]
        }
    ),
]


class _Keys(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class _Checked(_Keys):
    @model_validator(mode="after")
    def _check_together(self) -> _Checked:
        if troubles := tuple(_troubles(self)):
            raise fault_error(*troubles)
        return self


def _troubles(keys: Any) -> Iterator[Trouble]:
    for key, other, values in idle_keys(keys.model_fields_set, keys):
        expected = f"{other}: {' or '.join(values)}, or {key} left out"
        yield Trouble(f"means nothing with {other}: {getattr(keys, other)}", expected, (key,))
    if keys.codec_mode is not None and "codec" in keys.model_fields_set:
        yield Trouble("says again what codec says", "one of codec and codec_mode", ("codec_mode",))
    for key, codec, setting in foreign_settings({name: getattr(keys, name) for name in keys.model_fields_set}):
        value = getattr(keys, key)
        shown = f"[{', '.join(value)}]" if isinstance(value, tuple) else str(value).lower()
        instead = f"codec: {{id: {codec}, {setting}: {shown}}}, or {key} left out"
        yield Trouble(f"means nothing to the codec {codec}", instead, (key,))
    if keys.decides and keys.entry_mode == "aggregate":
        yield Trouble("an upper bound cannot decide", "entry_mode: chunked_grouped, chunked or per_meta", ("decides",))
    if keys.scope == "layer_ids" and not keys.layer_ids:
        yield Trouble("scope: layer_ids without layer_ids", "layer_ids: [0, 1]", ("scope",))
    if -1 < keys.layer_end < keys.layer_start:
        yield Trouble("empty range of layers", f"-1, or at least layer_start ({keys.layer_start})", ("layer_end",))
    if 0 < keys.max_seq_len < keys.min_seq_len:
        yield Trouble("empty range of lengths", f"0, or at least min_seq_len ({keys.min_seq_len})", ("max_seq_len",))


_maybe: Any = Maybe  # as a value: these annotations are made at run time


def _declared(cls: type, **special: Any) -> dict[str, Any]:
    """What `create_model` takes for the keys of a dataclass; types are those there, but for the `special` ones."""
    declared: dict[str, Any] = {}
    for key, kind in get_type_hints(cls).items():
        known = cls.__dataclass_fields__[key]  # type: ignore[attr-defined]
        if known.metadata:
            limits: dict[str, Any] = {"strict": True} if kind in (bool, int) else {}
            limits |= {"le": MAX_INT} if kind is int else {}
            declared[key] = (special.get(key, kind), Field(default=known.default, **known.metadata, **limits))
    return declared


def _older(kind: Any, description: str) -> tuple[Any, Any]:
    return _maybe[kind], Field(default=None, description=description)


_Rope = create_model("RopeKeys", __base__=_Keys, __doc__=RopeKeys.__doc__, theta=(Above0, ...), **_declared(RopeKeys))

_KEYS = _declared(
    Scope,
    description=_maybe[OneLine],
    layer_ids=Swept[Count],
    codec=CodecChoice,
    rope=_maybe[_Rope],
    target=_maybe[Above0],
)
_KEYS["root"] = (FilePath, Field(description=_KEYS["root"][1].description))
_KEYS |= {
    "codec_mode": _older(CodecText, "older spelling of `codec`, as text"),
    "zstd_level": _older(ZstdLevel, "of adaptive_v22 and legacy"),
    "adaptive_block_seq": _older(Positive, "of adaptive_v22: tokens for which one predictor is chosen"),
    "bitshuffle": _older(Flag, "of adaptive_v22 and legacy: transpose bits before zstd"),
    **{
        name: _older(Predictors, "of adaptive_v22: candidates")
        for name in FLAT_KEYS["adaptive_v22"]
        if name.endswith("predictors")
    },
}

ScopeKeys: Any = create_model("ScopeKeys", __base__=_Checked, __doc__="The keys of one scope.", **_KEYS)
"""The keys of `Scope`, and older spellings of its codec."""


class ScopeFile(_Keys):
    """A scope file: ``scopes:`` with a name for each scope."""

    scopes: Annotated[dict[str, ScopeKeys], Field(min_length=1)]


def load_scopes(path: str | Path) -> tuple[Scope, ...]:
    """Read and check a scope file."""
    path = Path(path)
    source = read_source(path)
    source = replace(source, faults=(*source.faults, *_name_faults(source), *_decision_faults(source)))
    checked = check_source(ScopeFile, source, path.parent)
    return tuple(_scope(keys, name, path) for name, keys in checked.scopes.items())


def override(scope: Scope, *assignments: str) -> Scope:
    """A copy with ``KEY=VALUE`` settings, checked like a file; lists separated by commas, keys may be dotted."""
    settings = parse_assignments(ScopeKeys, assignments)
    data = dict(scope.given)
    for key, (other, values) in ONLY_WITH.items():
        if (other,) in settings and settings[other,] not in values:
            data.pop(key, None)  # it belonged to the value that is replaced
    for key, other in (("codec", "codec_mode"), ("codec_mode", "codec")):
        if (key,) in settings:
            data.pop(other, None)
            if settings[key,] not in FLAT_KEYS:
                data = {flat: value for flat, value in data.items() if flat not in FLAT_KEYS["adaptive_v22"]}
    try:
        checked = check_source(ScopeKeys, Source("", merge_settings(data, settings)))
    except PresetError as error:
        raise name_option(error, assignments, f"scope {scope.name}") from None
    return _scope(checked, scope.name, scope.path)


def _scope(keys: BaseModel, name: str, path: Path | None) -> Scope:
    given = keys.model_dump(exclude_unset=True)
    values = fold_codec(given)
    if "rope" in values:
        values["rope"] = RopeKeys(**values["rope"])
    return Scope(name, path, given, **values)


def _named(source: Source) -> dict[str, Any]:
    scopes = source.data.get("scopes")
    return scopes if isinstance(scopes, dict) else {}


def _name_faults(source: Source) -> Iterator[Fault]:
    for name in _named(source):
        if expected := check_name(name):
            what = "the name cannot name a test item"
            yield source.fault(what, ("scopes", name), at_key=True, came=name, expected=expected)


def _decision_faults(source: Source) -> Iterator[Fault]:
    scopes = _named(source)
    deciding = [name for name, keys in scopes.items() if isinstance(keys, dict) and keys.get("decides") is True]
    if scopes and not deciding:
        yield source.fault("no scope decides", ("scopes",), expected="`decides: true` in exactly one scope")
    for name in deciding[1:]:
        what = f"a second scope that decides, beside {deciding[0]}"
        yield source.fault(what, ("scopes", name, "decides"), expected="`decides: true` in exactly one scope")
