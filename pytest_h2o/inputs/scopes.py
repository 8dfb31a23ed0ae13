"""Scope files: named sets of KV-dump streams with a codec and a target.

A scope says which dump entries are taken, how they are put together and coded, and what ratio is asked for. Names
of the settings are those of the original evaluation script's flags.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pytest_h2o.errors import Fault, PresetError
from pytest_h2o.inputs.checking import (
    Above0,
    AtLeast0,
    Count,
    FilePath,
    Flag,
    Given,
    LayerEnd,
    OneLine,
    OneOrMore,
    PlainName,
    Positive,
    Trouble,
    ZstdLevel,
    check_name,
    check_source,
    fault_error,
    merge_settings,
    name_option,
    parse_assignments,
)
from pytest_h2o.inputs.yaml import Source, read_source

Predictor = Literal["raw", "delta_seq", "xor_seq", "pair_delta", "pair_delta_delta_seq"]
Predictors = Annotated[tuple[Predictor, ...], OneOrMore()]
LayerIds = Annotated[tuple[Count, ...], OneOrMore()]
_K_PREDICTORS: tuple[Predictor, ...] = ("raw", "delta_seq", "xor_seq", "pair_delta", "pair_delta_delta_seq")
_V_PREDICTORS: tuple[Predictor, ...] = ("raw", "delta_seq", "xor_seq")

_ONLY_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "front_n": ("scope", ("front_n",)),
    "layer_start": ("scope", ("layer_range",)),
    "layer_end": ("scope", ("layer_range",)),
    "layer_ids": ("scope", ("layer_ids",)),
    "online_chunk_seq": ("entry_mode", ("chunked", "chunked_grouped")),
    "online_framing_bytes": ("entry_mode", ("chunked", "chunked_grouped")),
    "aggregate_by_stage": ("entry_mode", ("aggregate", "chunked_grouped")),
}
"""Keys that mean something only where another key has one of some values."""


class RopeKeys(BaseModel):
    """How K was rotated, where it is known: angle = position * theta ** (-2 i / head_dim) for pair i."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    theta: Above0
    pairing: Literal["half", "interleaved"] = Field(
        default="half", description="i with i + head_dim / 2, or 2i with 2i + 1"
    )


class ScopeKeys(BaseModel):
    """The keys of one scope. Ratios are raw fp16 bytes over coded bytes, every header counted; higher is better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: Annotated[OneLine | None, Given] = Field(default=None, description="one line for reports")
    root: FilePath = Field(description="folder or .zip of the dump, relative to this file")
    stage: Literal["prefill", "decode", "both"] = "both"
    scope: Literal["front_n", "layer_range", "layer_ids"] = Field(default="front_n", description="choice of layers")
    front_n: Positive = Field(default=2, description="layers 0 to n - 1")
    layer_start: Count = Field(default=2, description="first layer of layer_range")
    layer_end: LayerEnd = Field(default=-1, description="last layer of layer_range; -1: no bound")
    layer_ids: LayerIds = ()
    min_seq_len: Count = Field(default=0, description="entries of fewer tokens are left out; 0: no bound")
    max_seq_len: Count = Field(default=0, description="entries of more tokens are left out; 0: no bound")
    strict_fp16: Flag = Field(default=False, description="refuse fp32 entries instead of rounding them to fp16")
    allow_skips: Flag = Field(default=False, description="take the ratio even if entries could not be read")
    entry_mode: Literal["per_meta", "aggregate", "chunked", "chunked_grouped"] = Field(
        default="per_meta", description="each entry alone, joined by layer, cut in chunks, or joined and then cut"
    )
    online_chunk_seq: Count = Field(default=0, description="tokens a chunk; 0: the whole")
    online_framing_bytes: Count = Field(default=16, description="bytes of framing counted a chunk of a tensor")
    aggregate_by_stage: Flag = Field(default=False, description="prefill and decode are not joined")
    codec_mode: PlainName = Field(default="adaptive_v22", description="name of a registered codec")
    zstd_level: ZstdLevel = 3
    adaptive_block_seq: Positive = Field(default=64, description="tokens for which one predictor is chosen")
    bitshuffle: Flag = Field(default=False, description="transpose bits before zstd")
    k_hi_predictors: Predictors = _K_PREDICTORS
    k_lo_predictors: Predictors = _K_PREDICTORS
    v_hi_predictors: Predictors = _V_PREDICTORS
    v_lo_predictors: Predictors = _V_PREDICTORS
    rope: Annotated[RopeKeys | None, Given] = Field(default=None, description="rotation of K, for codecs that use it")
    target: Annotated[AtLeast0 | None, Given] = Field(default=None, description="least ratio; left out: only reported")
    decides: Flag = Field(default=False, description="its ratio is the gate's; true in exactly one scope")

    @model_validator(mode="after")
    def _check_together(self) -> ScopeKeys:
        if troubles := tuple(self._troubles()):
            raise fault_error(*troubles)
        return self

    def _troubles(self) -> Iterator[Trouble]:
        for key, (other, values) in _ONLY_WITH.items():
            value = getattr(self, other)
            if key in self.model_fields_set and getattr(self, key) is not False and value not in values:
                expected = f"{other}: {' or '.join(values)}, or {key} left out"
                yield Trouble(f"means nothing with {other}: {value}", expected, (key,))
        if self.decides and self.entry_mode == "aggregate":
            yield Trouble(
                "an upper bound cannot decide", "entry_mode: chunked_grouped, chunked or per_meta", ("decides",)
            )
        if self.scope == "layer_ids" and not self.layer_ids:
            yield Trouble("scope: layer_ids without layer_ids", "layer_ids: [0, 1]", ("scope",))
        if -1 < self.layer_end < self.layer_start:
            yield Trouble("empty range of layers", f"-1, or at least layer_start ({self.layer_start})", ("layer_end",))
        if 0 < self.max_seq_len < self.min_seq_len:
            expected = f"0, or at least min_seq_len ({self.min_seq_len})"
            yield Trouble("empty range of lengths", expected, ("max_seq_len",))


class ScopeFile(BaseModel):
    """A scope file: ``scopes:`` with a name for each scope."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scopes: Annotated[dict[str, ScopeKeys], Field(min_length=1)]


class Scope(ScopeKeys):
    """A checked scope: its keys, its name, and the file it is from. `root` is resolved against that file's folder."""

    name: str
    path: Path | None = None

    def override(self, *assignments: str) -> Scope:
        """A copy with ``KEY=VALUE`` settings, checked like a file; lists separated by commas, keys may be dotted."""
        settings = parse_assignments(ScopeKeys, assignments)
        data = self.model_dump(exclude_unset=True, exclude={"name", "path"})
        for key, (other, values) in _ONLY_WITH.items():
            if (other,) in settings and settings[other,] not in values:
                data.pop(key, None)  # it belonged to the value that is replaced
        try:
            checked = check_source(ScopeKeys, Source("", merge_settings(data, settings)))
        except PresetError as error:
            raise name_option(error, assignments, f"scope {self.name}") from None
        return _scope(checked, self.name, self.path)


def _scope(keys: ScopeKeys, name: str, path: Path | None) -> Scope:
    # The keys are checked already, and a file must not be able to set name and path.
    values: dict[str, Any] = dict(keys)
    return Scope.model_construct(keys.model_fields_set | {"name", "path"}, **values, name=name, path=path)


def load_scopes(path: str | Path) -> tuple[Scope, ...]:
    """Read and check a scope file."""
    path = Path(path)
    source = read_source(path)
    source = replace(source, faults=(*source.faults, *_name_faults(source), *_decision_faults(source)))
    checked = check_source(ScopeFile, source, path.parent)
    return tuple(_scope(keys, name, path) for name, keys in checked.scopes.items())


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
