"""What is evaluated and how: one value that says it all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from pytest_h2o.codecs.adaptive_v22 import AdaptiveV22
from pytest_h2o.codecs.base import Codec
from pytest_h2o.codecs.legacy import Legacy
from pytest_h2o.codecs.planes.predictors import PREDICTORS
from pytest_h2o.errors import UsageError

STAGES = ("prefill", "decode", "both")
SCOPES = ("front_n", "layer_range", "layer_ids")
ENTRY_MODES = ("per_meta", "aggregate", "chunked", "chunked_grouped")
_AT_LEAST_ZERO = ("front_n", "layer_start", "min_seq_len", "max_seq_len", "online_chunk_seq", "online_framing_bytes")


@dataclass(frozen=True)
class LosslessSettings:
    """Selection, entry mode and codec of one evaluation; every field is a flag of ``pytest-h2o lossless``.

    Attributes
    ----------
    stage : "prefill", "decode" or "both"
    scope : "front_n", "layer_range" or "layer_ids"
        Layers 0 to `front_n` - 1; layers `layer_start` to `layer_end`, both included, -1 for no bound; or `layer_ids`.
    min_seq_len, max_seq_len : int
        Entries of fewer or more tokens are left out; 0 for no bound.
    strict_fp16 : bool
        Skip fp32 entries instead of rounding them to fp16.
    entry_mode : "per_meta", "aggregate", "chunked" or "chunked_grouped"
        Each entry alone; all entries of a run and layer joined, with a table of their lengths; each entry cut into
        chunks of `online_chunk_seq` tokens (0: not cut) with `online_framing_bytes` of framing each; or joined, then
        cut like that.
    aggregate_by_stage : bool
        Join prefill and decode apart.
    codec_mode : str
        ``adaptive_v22``, ``legacy``, or any registered codec as ``NAME`` or ``NAME:SETTING=VALUE``. The settings below
        are those of the first two.

    Raises
    ------
    UsageError
        A value is none of those that are possible.
    """

    stage: str = "both"
    scope: str = "front_n"
    front_n: int = 2
    layer_start: int = 2
    layer_end: int = -1
    layer_ids: tuple[int, ...] = ()
    zstd_level: int = 3
    strict_fp16: bool = False
    min_seq_len: int = 0
    max_seq_len: int = 0
    entry_mode: str = "per_meta"
    online_chunk_seq: int = 0
    online_framing_bytes: int = 16
    aggregate_by_stage: bool = False
    codec_mode: str = AdaptiveV22.id
    adaptive_block_seq: int = 64
    bitshuffle: bool = False
    k_hi_predictors: tuple[str, ...] = PREDICTORS
    k_lo_predictors: tuple[str, ...] = PREDICTORS
    v_hi_predictors: tuple[str, ...] = PREDICTORS[:3]
    v_lo_predictors: tuple[str, ...] = PREDICTORS[:3]

    def __post_init__(self) -> None:
        for name, choices in (("stage", STAGES), ("scope", SCOPES), ("entry_mode", ENTRY_MODES)):
            if getattr(self, name) not in choices:
                raise _unfit(name, getattr(self, name), "one of " + ", ".join(choices))
        for name in _AT_LEAST_ZERO:
            self._check_number(name, getattr(self, name), 0)
        self._check_number("layer_end", self.layer_end, -1)
        for layer_id in self.layer_ids:
            self._check_number("layer_ids", layer_id, 0)
        if self.scope == "layer_ids" and not self.layer_ids:
            raise _unfit("layer_ids", (), "at least one layer, as the scope is layer_ids")

    def _check_number(self, name: str, value: object, least: int) -> None:
        if type(value) is not int or value < least:
            raise _unfit(name, value, f"a whole number, at least {least}")

    def make_codec(self) -> Codec:
        """The codec that these settings name.

        Raises
        ------
        CodecError
            There is no such codec, or a setting of it is wrong.
        """
        for cls in (AdaptiveV22, Legacy):
            if self.codec_mode == cls.id:
                return cls.from_config({f.name: getattr(self, f.name) for f in fields(cls)})
        from pytest_h2o.codecs.spec import parse_codec  # looks up installed distributions, which takes time

        return parse_codec(self.codec_mode)

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
            return 0 <= layer_id < self.front_n
        if self.scope == "layer_range":
            return self.layer_start <= layer_id and (self.layer_end < 0 or layer_id <= self.layer_end)
        return layer_id in self.layer_ids

    def describe(self) -> str:
        """The selection in words, for messages."""
        layers = {
            "front_n": f"layers below {self.front_n}",
            "layer_range": f"layers {self.layer_start} to {'the last' if self.layer_end < 0 else self.layer_end}",
            "layer_ids": f"layers {_listed(self.layer_ids)}",
        }[self.scope]
        parts = [layers, "both stages" if self.stage == "both" else f"stage {self.stage}"]
        if self.min_seq_len:
            parts.append(f"at least {self.min_seq_len} tokens")
        if self.max_seq_len:
            parts.append(f"at most {self.max_seq_len} tokens")
        return ", ".join(parts)


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _unfit(name: str, value: Any, expected: str) -> UsageError:
    return UsageError(f"--{name.replace('_', '-')} does not fit", came=repr(value), expected=expected)
