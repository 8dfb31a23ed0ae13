"""A scope: streams of a KV dump, how they are put together and coded, and what ratio is asked for.

`Scope` is at once what a scope file has by that name and the settings of an evaluation; names of its keys are those of
the flags of the original evaluation script. It is a plain dataclass, which ``pytest-h2o lossless`` makes of its flags
without pydantic; `inputs.scopes` makes the model of it that checks files.
"""

# ruff: noqa: RUF009 (`_key` makes a field)

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from pytest_h2o.errors import UsageError

Stage = Literal["prefill", "decode", "both"]
LayerChoice = Literal["front_n", "layer_range", "layer_ids"]
Degenerate = Literal["refuse", "allow"]
EntryMode = Literal["per_meta", "aggregate", "chunked", "chunked_grouped"]
CHUNKED = ("chunked", "chunked_grouped")

FLAT_KEYS: dict[str, tuple[str, ...]] = {
    "adaptive_v22": (
        "zstd_level",
        "adaptive_block_seq",
        "bitshuffle",
        "k_hi_predictors",
        "k_lo_predictors",
        "v_hi_predictors",
        "v_lo_predictors",
    ),
    "legacy": ("zstd_level", "bitshuffle"),
}
"""Codecs of the original script, and which of their settings may be keys of a scope: `fold_codec` takes them in."""

ONLY_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "front_n": ("scope", ("front_n",)),
    "layer_start": ("scope", ("layer_range",)),
    "layer_end": ("scope", ("layer_range",)),
    "layer_ids": ("scope", ("layer_ids",)),
    "online_chunk_seq": ("entry_mode", CHUNKED),
    "online_framing_bytes": ("entry_mode", CHUNKED),
    "aggregate_by_stage": ("entry_mode", ("aggregate", "chunked_grouped")),
}
"""Keys that mean something only where another key has one of some values."""


def _key(default: Any, description: str | None = None, **limits: int) -> Any:
    """A key of a scope file; `ge` is the least value of a whole number."""
    return field(default=default, metadata={"description": description, **limits})


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
    stage: Stage = _key("both", "entries of which stage")
    scope: LayerChoice = _key("front_n", "choice of layers")
    front_n: int = _key(2, "layers 0 to n - 1", ge=1)
    layer_start: int = _key(2, "first layer of layer_range", ge=0)
    layer_end: int = _key(-1, "last layer of layer_range; -1: no bound", ge=-1)
    layer_ids: tuple[int, ...] = _key((), "the layers of layer_ids")
    min_seq_len: int = _key(0, "entries of fewer tokens are left out; 0: no bound", ge=0)
    max_seq_len: int = _key(0, "entries of more tokens are left out; 0: no bound", ge=0)
    strict_fp16: bool = _key(False, "refuse fp32 entries instead of rounding them to fp16")
    allow_skips: bool = _key(False, "take the ratio even if entries could not be read")
    degenerate: Degenerate = _key("refuse", "allow: take the ratio of a dump that says nothing about a codec")
    entry_mode: EntryMode = _key("per_meta", "each entry alone, joined by layer, cut in chunks, or joined and then cut")
    online_chunk_seq: int = _key(0, "tokens a chunk; 0: the whole", ge=0)
    online_framing_bytes: int = _key(16, "bytes of framing counted a chunk of a tensor", ge=0)
    aggregate_by_stage: bool = _key(False, "prefill and decode are not joined")
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


def stream_keys() -> list[Field[Any]]:
    """The keys that say which streams there are: flags of the command, and fields of a result."""
    others = ("description", "root", "allow_skips", "degenerate", "codec", "rope", "target", "decides")
    return [key for key in fields(Scope) if key.metadata and key.name not in others]


def flag_of(name: str) -> str:
    """The flag of ``pytest-h2o lossless`` for a key."""
    return f"--{name.replace('_', '-')}"


def _unfit(name: str, value: object, expected: str) -> UsageError:
    return UsageError(f"{flag_of(name)} does not fit", came=repr(value), expected=expected)


def idle_keys(given: Collection[str], scope: Any) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Keys that were given and do nothing: the key, the other that rules it out, and the values that would not."""
    for key, (other, values) in ONLY_WITH.items():
        if key in given and getattr(scope, key) is not False and getattr(scope, other) not in values:
            yield key, other, values


def foreign_settings(given: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Flat settings beside a codec that would not hear of them: the key, the codec, and its name for the setting."""
    codec = given.get("codec_mode") or given.get("codec", "adaptive_v22")
    name = str(codec["id"] if isinstance(codec, Mapping) else codec)
    if name in FLAT_KEYS:
        return
    name = name.partition(":")[0]
    for key in FLAT_KEYS["adaptive_v22"]:
        if key in given:
            yield key, name, "level" if key == "zstd_level" and name not in FLAT_KEYS else key


def fold_codec(given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with one `codec` in place of `codec_mode` and of the flat settings; legacy takes its own of them."""
    keys = dict(given)
    flat = {name: keys.pop(name) for name in FLAT_KEYS["adaptive_v22"] if name in keys}
    codec = keys.pop("codec_mode", None) or keys.get("codec", "adaptive_v22")
    own = dict(codec) if isinstance(codec, Mapping) else {"id": codec}
    taken = {name: value for name, value in flat.items() if name in FLAT_KEYS.get(own["id"], ())}
    return {**keys, "codec": {**own, **taken} if taken else codec}
