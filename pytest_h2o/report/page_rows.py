"""The rows of a preset as the report shows them: figures, the Pareto front, what each one misses. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_h2o.bench.command import repeat_command
from pytest_h2o.gate.bounds import find_bound
from pytest_h2o.gate.rule import RowMargins, Thresholds, row_margins
from pytest_h2o.gate.sweep_items import row_facts
from pytest_h2o.gate.totals import split_layers, whole_cache_ratio
from pytest_h2o.report.document import Cell, Table
from pytest_h2o.report.links import Links

if TYPE_CHECKING:
    from pytest_h2o.bench.result import PointResult
    from pytest_h2o.bench.row import Measurement

MAX_ROWS = 400
"""Rows of a preset that a page shows; the CSV beside it has all."""


@dataclass(frozen=True)
class Limits:
    """What the rows of a preset are held against; None where it is not known or left out.

    Attributes
    ----------
    lossless : float or None
        Lossless ratio of the deciding scope, raw over coded bytes.
    baseline_tok_per_s : float or None
        Decode speed with H2O off.
    """

    thresholds: Thresholds
    lossless: float | None
    baseline_tok_per_s: float | None

    @property
    def least_decode_tok_per_s(self) -> float | None:
        """The decode speed at which the allowed drop is reached."""
        drop = self.thresholds.decode_drop
        return None if drop is None or self.baseline_tok_per_s is None else self.baseline_tok_per_s * (1 - drop)


@dataclass(frozen=True)
class ReportRow:
    """One row.

    Attributes
    ----------
    number : int
        Its place in the sweep, from 1.
    total : float or None
        Lossy ratio times the lossless ratio of the deciding scope; None if either is not known.
    whole_cache : float or None
        Ratio over the cache of all layers; None where the number of layers is not known.
    on_front : bool
        No other row has both a higher lossy ratio and a higher decode speed, or one higher and the other equal.
    """

    number: int
    result: PointResult
    lossy: Measurement | None
    decode: Measurement | None
    total: float | None
    whole_cache: float | None
    margins: RowMargins | None
    on_front: bool = False

    @property
    def is_launch(self) -> bool:
        """Whether the row is of a run of its own, and not one that it shares."""
        return self.result.shares_run_with is None


def limits_of(facts: Mapping[str, Any] | None, lossless: float | None) -> Limits:
    """The limits of a preset, from what the run kept of it; all None if nothing was."""
    if facts is None:
        return Limits(Thresholds(None, None, None), lossless, None)
    targets = facts["targets"]
    # Paired launches give the slow-down of one row; other rows are not held against the decode target.
    is_free = facts["decode_left_out"] or facts.get("paired")
    drop = None if is_free else targets["decode_drop"]
    return Limits(replace(Thresholds(**targets), decode_drop=drop), lossless, facts["baseline_tok_per_s"])


def build_rows(
    results: Sequence[PointResult],
    numbers: Sequence[int],
    facts: Mapping[str, Any] | None,
    limits: Limits,
    coded_layers: Sequence[int],
) -> tuple[ReportRow, ...]:
    """Every row with what is said of it.

    Parameters
    ----------
    results : sequence of PointResult
    numbers : sequence of int
        Place of each in the sweep.
    facts : mapping or None
        What the run kept of the preset.
    limits : Limits
    coded_layers : sequence of int
        Layers that the lossless ratio was measured on.
    """
    layers = None
    if facts is not None and facts["model_layers"] is not None:
        layers = split_layers(facts["model_layers"], facts["h2o_layer_start"], facts["h2o_layer_end"], coded_layers)
    rows = []
    for number, result in zip(numbers, results, strict=True):
        lossy, decode = result.row.get("h2o_lossy"), result.row.decode_tok_per_s
        is_usable = lossy is not None and math.isfinite(lossy.mean) and lossy.mean > 0
        known = lossy.mean if lossy is not None and is_usable else None
        margins = None
        if facts is not None:
            margins = row_margins(
                row_facts(result),
                limits.thresholds,
                baseline_tok_per_s=limits.baseline_tok_per_s,
                lossless=limits.lossless,
            )
        rows.append(
            ReportRow(
                number,
                result,
                lossy,
                decode,
                total=None if known is None or limits.lossless is None else known * limits.lossless,
                whole_cache=None
                if layers is None or known is None
                else whole_cache_ratio(layers, known, limits.lossless),
                margins=margins,
            )
        )
    front = find_front([(row.lossy.mean, row.decode.mean) if row.lossy and row.decode else None for row in rows])
    return tuple(replace(row, on_front=on_front) for row, on_front in zip(rows, front, strict=True))


def find_front(points: Sequence[tuple[float, float] | None]) -> list[bool]:
    """Which points no other point dominates (at least as high in both, higher in one); None is never on the front."""
    usable = [p for p in points if p is not None and all(map(math.isfinite, p))]
    tops: dict[float, float] = {}
    for x, y in usable:
        tops[x] = max(y, tops.get(x, -math.inf))
    best: dict[float, float] = {}
    highest = -math.inf
    for x in sorted(tops, reverse=True):
        if tops[x] > highest:
            best[x] = highest = tops[x]
    return [p is not None and best.get(p[0]) == p[1] for p in points]


def show(value: float | None, digits: int, missing: str = "missing") -> str:
    """A number with so many digits after the point."""
    return missing if value is None else f"{value:.{digits}f}"


def show_spread(value: Measurement | None, digits: int) -> str:
    """``mean ± std``; without the spread where it is not known."""
    if value is None:
        return "missing"
    return show(value.mean, digits) + ("" if value.std is None else f" ± {value.std:.{digits}f}")


def rows_table(name: str, rows: Sequence[ReportRow], links: Links) -> Table:
    """The rows with links to their files, and their commands."""
    header = (
        *("run", "lossy ratio", "decode tok/s", "total", "whole cache", "keep", "bound", "misses"),
        *("warnings", "files"),
    )
    left_out = None
    if len(rows) > MAX_ROWS:
        left_out = f"{len(rows) - MAX_ROWS} more rows are in {name}/h2o_metrics.csv"
    return Table(
        caption=f"Rows of {name}; total is lossy × lossless ratio of the deciding scope, ± is one standard deviation",
        header=header,
        rows=tuple(_row_cells(name, row, links) for row in rows[:MAX_ROWS]),
        numeric=frozenset({1, 2, 3, 4, 5, 8}),
        left_out=left_out,
    )


def _row_cells(name: str, row: ReportRow, links: Links) -> tuple[Cell, ...]:
    result = row.result
    shared = "" if result.shares_run_with is None else f" (row of {result.shares_run_with})"
    files = links.to_run(name, result.shares_run_with or result.run_id)
    missed = row.margins.missed if row.margins is not None else ()
    command = repeat_command(result.argv) if result.argv else None
    return (
        Cell(f"{result.run_id}{shared}{' · Pareto' if row.on_front else ''}"),
        Cell(show_spread(row.lossy, 3)),
        Cell(show_spread(row.decode, 2)),
        Cell(show(row.total, 4, "")),
        Cell(show(row.whole_cache, 4, "")),
        Cell(show(_mean(result, "h2o_keep"), 4)),
        Cell(_bound(result)),
        Cell(", ".join(missed) or ("nothing" if row.margins is not None else ""), "bad" if missed else ""),
        Cell("not kept" if result.output is None else f"{sum(result.output.warnings.values()):,}"),
        Cell("" if files or command else "none kept", "quiet", files, command),
    )


def _mean(result: PointResult, column: str) -> float | None:
    cell = result.row.get(column)
    return cell.mean if cell else None


def _bound(result: PointResult) -> str:
    columns = ("h2o_floor_keep", "h2o_target_keep_effective", "h2o_quantized_keep")
    bound = find_bound(*(_mean(result, column) for column in columns))
    return "unknown" if bound is None else bound.kind.replace(" ", "\u00a0")  # on one line, or every row has two
