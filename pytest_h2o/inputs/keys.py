"""The keys of a scope as data: what there are, what each says, and which of them mean nothing beside others.

``pytest-h2o lossless --help`` needs no more, so no dataclass is made here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, NamedTuple

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


class StreamKey(NamedTuple):
    """A key that says which streams there are: a flag of the command, a key of a scope file, a field of a result."""

    name: str
    default: Any
    description: str
    least: int | None = None
    """Of a whole number."""


STREAM_KEYS = (
    StreamKey("stage", "both", "entries of which stage"),
    StreamKey("scope", "front_n", "choice of layers"),
    StreamKey("front_n", 2, "layers 0 to n - 1", 1),
    StreamKey("layer_start", 2, "first layer of layer_range", 0),
    StreamKey("layer_end", -1, "last layer of layer_range; -1: no bound", -1),
    StreamKey("layer_ids", (), "the layers of layer_ids"),
    StreamKey("min_seq_len", 0, "entries of fewer tokens are left out; 0: no bound", 0),
    StreamKey("max_seq_len", 0, "entries of more tokens are left out; 0: no bound", 0),
    StreamKey("strict_fp16", False, "refuse fp32 entries instead of rounding them to fp16"),
    StreamKey("entry_mode", "per_meta", "each entry alone, joined by layer, cut in chunks, or joined and then cut"),
    StreamKey("online_chunk_seq", 0, "tokens a chunk; 0: the whole", 0),
    StreamKey("online_framing_bytes", 16, "bytes of framing counted a chunk of a tensor", 0),
    StreamKey("aggregate_by_stage", False, "prefill and decode are not joined"),
    StreamKey("measure_heads", False, "each KV head is coded alone as well, for its ratio: twice the encoding"),
)


def flag_of(name: str) -> str:
    """The flag of ``pytest-h2o lossless`` for a key."""
    return f"--{name.replace('_', '-')}"


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
