"""The decode speed with H2O off that a slow-down is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_h2o.bench.result import PointResult
    from pytest_h2o.bench.row import BenchRow
    from pytest_h2o.gate.paired import PairedComparison


@dataclass(frozen=True)
class Baseline:
    """Decode tok/s with H2O off, where it comes from, and what speaks against the comparison."""

    tok_per_s: float
    origin: str
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    """What it was read from."""


def paired_baseline(comparison: PairedComparison | None) -> Baseline | None:
    """The median speed of a comparison's baseline, for figures that want one number; the verdict rests on the pairs."""
    speed = None if comparison is None else comparison.baseline_tok_per_s()
    if comparison is None or speed is None:
        return None
    return Baseline(speed, f"median of its launches in {len(comparison.pairs)} pairs: {comparison.baseline}")


def pick_recorded(
    rows: Sequence[PointResult], results: Sequence[PointResult], uncompressed: str = "H2O off"
) -> Baseline | None:
    """The recorded row with nothing compressed that the given runs may be compared with; None if there is none.

    It must have the prompt, gen, model (with its size), backend, threads, precision, mmap and further conditions of
    every run. Of several the fastest is taken: the one that is hardest to hold. `uncompressed` is how the bench calls
    such a row.
    """
    wanted = {_identity(result.row) for result in results}
    fitting = [
        (row.row.decode_tok_per_s.mean, row)
        for row in rows
        if wanted == {_identity(row.row)} and row.row.decode_tok_per_s is not None
    ]
    if not fitting:
        return None
    speed, best = max(fitting, key=lambda pair: pair[0])
    others = f" (the fastest of {len(fitting)})" if len(fitting) > 1 else ""
    return Baseline(
        speed,
        f"recorded row with {uncompressed}, {best.row.log_file}{others}",
        unlike_contexts(results),
        tuple(path for path in (best.log_path, best.config_path, best.stdout_path) if path is not None),
    )


def describe_unfit(rows: Sequence[PointResult], results: Sequence[PointResult]) -> list[str]:
    """Say of each recorded row with H2O off why `pick_recorded` could not take it: what differs from which run."""
    lines = []
    for row in rows:
        other = next((r for r in results if _identity(r.row) != _identity(row.row)), None)
        if other is None:
            lines.append(f"{row.row.log_file} has no decode speed")
            continue
        pairs = zip(_IDENTITY, _identity(row.row), _identity(other.row), strict=True)
        differs = ", ".join(f"{name} {came}, not {asked}" for name, came, asked in pairs if came != asked)
        lines.append(f"{row.row.log_file} has {differs} as {other.run_id} has")
    return lines


_FIELDS = ("prompt_len", "gen_len", "model", "backend", "threads")
_CELLS = ("modelSize", "precision", "mmap", "conditions")
_IDENTITY = (*_FIELDS, *_CELLS)


def _identity(row: BenchRow) -> tuple[object, ...]:
    """What two rows must have alike; a cell that both lack is alike, one that one of them lacks is not."""
    return (*(getattr(row, name) for name in _FIELDS), *(row.cells.get(name) for name in _CELLS))


def unlike_contexts(results: Sequence[PointResult]) -> tuple[str, ...]:
    """Say where the binary's own warnings show that H2O on and off decoded different contexts."""
    for result in results:
        row, seen = result.row, result.output.max_kv_len if result.output else None
        if seen is None or row.prompt_len is None or row.gen_len is None:
            continue
        if seen > row.prompt_len + row.gen_len:
            return (
                f"decode speeds are not comparable: warnings of {result.run_id} show a kv_len of {seen}, above prompt "
                f"+ gen = {row.prompt_len + row.gen_len}, so H2O on decoded a longer context than H2O off",
            )
    return ()
