"""A scope: streams of a KV dump, how they are put together and coded, and what ratio is asked for.

`Scope` is at once what a scope file has by that name and the settings of an evaluation; names of its keys are those of
the flags of the original evaluation script. It is a plain dataclass, which ``pytest-h2o lossless`` makes of its flags
without pydantic; `inputs.scopes` makes the model of it that checks files.
"""

# ruff: noqa: RUF009 (`_key` makes a field)

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from pytest_h2o.errors import UsageError
from pytest_h2o.inputs.keys import STREAM_KEYS, Degenerate, EntryMode, LayerChoice, Stage, flag_of


def _key(default: Any, description: str | None = None, **limits: int) -> Any:
    """A key of a scope file; `ge` is the least value of a whole number."""
    return field(default=default, metadata={"description": description, **limits})


_STREAM = {key.name: key for key in STREAM_KEYS}


def _stream(name: str) -> Any:
    key = _STREAM[name]
    return _key(key.default, key.description, **({} if key.least is None else {"ge": key.least}))


_CHOICES: dict[str, Any] = {"stage": Stage, "scope": LayerChoice, "entry_mode": EntryMode, "degenerate": Degenerate}


@dataclass(frozen=True)
class RopeKeys:
    """How K was rotated, where it is known: angle = position * theta ** (-2 i / head_dim) for pair i."""

    theta: float
    pairing: Literal["half", "interleaved"] = _key("half", "i with i + head_dim / 2, or 2i with 2i + 1")


@dataclass(frozen=True)
class Scope:
    """One scope; `root` is resolved against the folder of its file.

    Ratios are raw fp16 bytes over coded bytes, every header counted; higher is better. UsageError where a value is none
    of those that are possible.
    """

    name: str = ""
    path: Path | None = None
    given: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The keys as they stand in the file."""

    description: str | None = _key(None, "one line for reports")
    root: Path = _key(Path(), "folder or .zip of the dump, relative to this file")
    stage: Stage = _stream("stage")
    scope: LayerChoice = _stream("scope")
    front_n: int = _stream("front_n")
    layer_start: int = _stream("layer_start")
    layer_end: int = _stream("layer_end")
    layer_ids: tuple[int, ...] = _stream("layer_ids")
    min_seq_len: int = _stream("min_seq_len")
    max_seq_len: int = _stream("max_seq_len")
    strict_fp16: bool = _stream("strict_fp16")
    allow_skips: bool = _key(False, "take the ratio even if entries could not be read")
    degenerate: Degenerate = _key("refuse", "allow: take the ratio of a dump that says nothing about a codec")
    entry_mode: EntryMode = _stream("entry_mode")
    online_chunk_seq: int = _stream("online_chunk_seq")
    online_framing_bytes: int = _stream("online_framing_bytes")
    aggregate_by_stage: bool = _stream("aggregate_by_stage")
    measure_heads: bool = _stream("measure_heads")
    codec: str | Mapping[str, Any] = _key(
        "adaptive_v22", "a codec as NAME or NAME:SETTING=VALUE, or a mapping of its id and settings"
    )
    rope: RopeKeys | None = _key(None, "rotation of K, for codecs that use it")
    target: float | None = _key(None, "least ratio; left out: only reported")
    decides: bool = _key(False, "its ratio is the gate's; true in exactly one scope")

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise _unfit(name, getattr(self, name), f"one of {', '.join(get_args(choices))}")
        numbers = [(f.name, getattr(self, f.name), f.metadata["ge"]) for f in fields(self) if "ge" in f.metadata]
        for name, value, least in (*numbers, *(("layer_ids", layer, 0) for layer in self.layer_ids)):
            if type(value) is not int or value < least:
                raise _unfit(name, value, f"a whole number, at least {least}")
        if self.scope == "layer_ids" and not self.layer_ids:
            raise _unfit("layer_ids", (), "at least one layer, as the scope is layer_ids")

    def takes(self, layer_id: int | None, stage: str | None, seq_len: int | None) -> bool:
        """Whether an entry is selected; what is not known of it does not speak against it."""
        return (
            (layer_id is None or self._takes_layer(layer_id))
            and (stage is None or self.stage in ("both", stage))
            and (seq_len is None or seq_len >= self.min_seq_len)
            and (seq_len is None or not self.max_seq_len or seq_len <= self.max_seq_len)
        )

    def _takes_layer(self, layer_id: int) -> bool:
        if self.scope == "front_n":
            return layer_id < self.front_n
        if self.scope == "layer_range":
            return self.layer_start <= layer_id and (self.layer_end < 0 or layer_id <= self.layer_end)
        return layer_id in self.layer_ids

    def named_layers(self) -> Collection[int]:
        """The layers that the selection names; none where it has no end."""
        if self.scope == "front_n":
            return range(self.front_n)
        if self.scope == "layer_range":
            return range(self.layer_start, self.layer_end + 1)
        return dict.fromkeys(self.layer_ids)

    def describe(self) -> str:
        """The selection in words, for messages."""
        layers = {
            "front_n": f"layers below {self.front_n}",
            "layer_range": f"layers {self.layer_start} to {'the last' if self.layer_end < 0 else self.layer_end}",
            "layer_ids": f"layers {', '.join(map(str, self.layer_ids))}",
        }[self.scope]
        parts = [layers, "both stages" if self.stage == "both" else f"stage {self.stage}"]
        if self.min_seq_len:
            parts.append(f"at least {self.min_seq_len} tokens")
        if self.max_seq_len:
            parts.append(f"at most {self.max_seq_len} tokens")
        return ", ".join(parts)


def _unfit(name: str, value: object, expected: str) -> UsageError:
    return UsageError(f"{flag_of(name)} does not fit", came=repr(value), expected=expected)
