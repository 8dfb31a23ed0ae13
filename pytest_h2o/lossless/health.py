"""Whether a dump says anything about a codec: signs of a cache that was not written, overflowed, or repeats one token.

Every codec folds zeros or repeated rows a hundredfold, so a runtime that stops writing its cache would pass any target.
Words are looked at once while they are in memory: three reductions without a temporary for a healthy stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless.index import DumpEntry, DumpIndex, Piece
from pytest_h2o.lossless.result import MISSING_LAYER, DumpFault, SkippedEntry

_LARGEST = {"fp16": 0x7BFF, "bf16": 0x7F7F}
"""65504 and 3.39e38, the largest finite words; infinities and NaN lie above."""

_SIGN = 0x8000
_PREFIX = 8
"""Words of a row that are compared before the whole of it."""

_FEWEST_PAIRS = 8
"""Neighbours from which on rows that repeat are told."""

_SHOWN = 6


@dataclass
class Health:
    """What was seen of the words of one tensor of a layer in a run; adds up in any order.

    `lowest` and `highest` are bit patterns, `largest` is without the sign; `pairs` are neighbouring rows that were
    compared, `alike` those of them that are equal.
    """

    words: int = 0
    lowest: int = 0xFFFF
    highest: int = 0
    largest: int = 0
    not_finite: int = 0
    saturated: int = 0
    pairs: int = 0
    alike: int = 0
    dtype: Literal["fp16", "bf16"] = "fp16"

    def add(self, other: Health) -> None:
        self.lowest = min(self.lowest, other.lowest)
        self.highest = max(self.highest, other.highest)
        self.largest = max(self.largest, other.largest)
        self.dtype = other.dtype
        for name in ("words", "not_finite", "saturated", "pairs", "alike"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def faults(self) -> Iterator[tuple[str, str]]:
        """The kind of each fault, and what was seen."""
        if self.largest == 0:
            yield "zero", f"all {self.words:,} words are 0"
        elif self.lowest == self.highest:
            yield "constant", f"all {self.words:,} words are 0x{self.lowest:04x}"
        elif self.pairs >= _FEWEST_PAIRS and 2 * self.alike > self.pairs:
            yield (
                "repeated",
                f"{self.alike:,} of {self.pairs:,} rows equal the row before, as if one token were repeated",
            )
        if self.not_finite:
            yield "not_finite", f"{self.not_finite:,} of {self.words:,} words are NaN or infinite as {self.dtype}"
        if self.saturated:
            largest = "65504" if self.dtype == "fp16" else "3.39e38"
            yield "saturated", f"{self.saturated:,} of {self.words:,} words are saturated at {largest}"


def examine(words: NDArray[np.uint16], pieces: Iterable[Piece]) -> dict[str | None, Health]:
    """Look at the words of some pieces, ``[rows, kv_heads, head_dim]``, run by run, so that a dead one is found."""
    seen: dict[str | None, Health] = {}
    first = 0
    for (run, dtype), same in groupby(pieces, key=_kind):
        end = first + sum(piece.rows for piece in same)
        seen.setdefault(run, Health()).add(_examine(words[first:end], dtype))
        first = end
    return seen


def _kind(piece: Piece) -> tuple[str | None, Literal["fp16", "bf16"]]:
    return piece.entry.run_id, piece.entry.dtype


def _examine(words: NDArray[np.uint16], dtype: Literal["fp16", "bf16"]) -> Health:
    highest = int(words.max())
    largest = max(int(words.view(np.int16).max()), highest - _SIGN, 0)
    health = Health(words.size, int(words.min()), highest, largest, pairs=len(words) - 1, dtype=dtype)
    if largest >= (finite := _LARGEST[dtype]):
        magnitudes = words & 0x7FFF
        health.not_finite = int(np.count_nonzero(magnitudes > finite))
        health.saturated = int(np.count_nonzero(magnitudes == finite))
    rows = words.reshape(len(words), -1)
    maybe = np.flatnonzero((rows[1:, :_PREFIX] == rows[:-1, :_PREFIX]).all(axis=1))
    health.alike = sum(bool(np.array_equal(rows[row], rows[row + 1])) for row in maybe.tolist())
    return health


def find_faults(
    index: DumpIndex,
    scope: Scope,
    entries: Sequence[DumpEntry],
    skipped: Iterable[SkippedEntry],
    seen: Mapping[tuple[int, str], Mapping[str | None, Health]],
) -> tuple[DumpFault, ...]:
    """Everything that speaks against taking the ratio of these entries for one of the codec."""
    allowed = scope.degenerate == "allow"
    degenerate = [
        DumpFault(kind, f"run {run or 'without id'}, layer {layer}, {tensor.upper()}: {detail}", allowed)
        for (layer, tensor), runs in sorted(seen.items())
        for run, health in sorted(runs.items(), key=lambda item: item[0] or "")
        for kind, detail in health.faults()
    ]
    if quantized := [entry.meta for entry in entries if entry.quantized]:
        detail = f"{len(quantized)} metas say quant_key or quant_value, the first is {quantized[0]}"
        degenerate.insert(0, DumpFault("quantized", f"{detail}: its words are codes, no fp16", allowed))
    missing = [DumpFault(MISSING_LAYER, detail) for detail in _missing_layers(index, scope, entries, skipped)]
    return (*missing, *degenerate)


def _missing_layers(
    index: DumpIndex, scope: Scope, entries: Iterable[DumpEntry], skipped: Iterable[SkippedEntry]
) -> Iterator[str]:
    """Layers that the scope names and nothing was taken of, and those that one run has and another has not."""
    held = {entry.layer_id for entry in entries} | {entry.layer_id for entry in skipped}
    named = scope.named_layers()
    count = len(named) - sum(layer in named for layer in held)
    if count > 0:
        missing = islice((layer for layer in named if layer not in held), _SHOWN)
        yield f"the scope names {_layers(missing, count)}, of which the dump holds nothing"
    by_run: dict[tuple[str | None, str], set[int]] = {}
    for entry in index.entries:
        if scope.takes(entry.layer_id, entry.stage, None):
            by_run.setdefault((entry.run_id, ""), set()).add(entry.layer_id)
            if entry.stage == "prefill":  # a tuning pass at start-up decodes in some layers only
                by_run.setdefault((entry.run_id, " in prefill"), set()).add(entry.layer_id)
    everywhere = set().union(*by_run.values())
    for (run, stage), layers in by_run.items():
        lost = sorted(everywhere - layers)
        if lost and not (stage and lost == sorted(everywhere - by_run[run, ""])):
            yield f"run {run or 'without id'} has nothing of {_layers(lost[:_SHOWN], len(lost))}{stage}, others have"


def _layers(layers: Iterable[int], count: int) -> str:
    more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
    return f"layer{'s' * (count > 1)} {', '.join(map(str, layers))}{more}"
