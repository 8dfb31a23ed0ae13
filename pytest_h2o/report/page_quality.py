"""Quality under eviction against the keep ratio, where a bench measured it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_h2o.report.chart_data import Dot, Rule, Series, XYChart, is_drawable
from pytest_h2o.report.document import Cell, Figure, Section, Table

if TYPE_CHECKING:
    from pytest_h2o.bench.row import BenchRow
    from pytest_h2o.report.page_rows import ReportRow

COLUMNS = (
    ("quality_ppl_full", "perplexity, full cache", ".4g"),
    ("quality_ppl_evicted", "perplexity, evicted", ".4g"),
    ("quality_ppl_rise", "rise", ".2%"),
    ("quality_top1_agreement", "same first token", ".2%"),
    ("quality_greedy_prefix", "common greedy prefix, tokens", ".4g"),
    ("quality_greedy_equal", "equal greedy tokens", ".2%"),
)
"""Columns of a row that say what eviction costs the model: name, title, format."""


def _value(row: BenchRow, column: str) -> float | None:
    cell = row.get(column)
    return cell.mean if cell is not None and is_drawable(cell.mean) else None


def quality_section(section_id: str, rows: Sequence[ReportRow], target: float | None = None) -> Section | None:
    """The rise in perplexity over the keep ratio, and every quality column of every run; None if no row has any.

    `target` is the largest rise that the preset allows, a fraction.
    """
    measured = [
        row for row in rows if row.is_launch and any(_value(row.result.row, c) is not None for c, *_ in COLUMNS)
    ]
    if not measured:
        return None
    shown = [column for column in COLUMNS if any(_value(row.result.row, column[0]) is not None for row in measured)]
    cells = []
    dots = []
    for row in measured:
        bench_row = row.result.row
        keep, rise = _value(bench_row, "h2o_keep"), _value(bench_row, "quality_ppl_rise")
        if keep is not None and rise is not None:
            dots.append(Dot(keep, 100 * rise, label=f"{row.number}"))
        values = [(_value(bench_row, name), form) for name, _, form in shown]
        texts = ["missing" if value is None else format(value, form) for value, form in values]
        cells.append((Cell(row.result.run_id), Cell("missing" if keep is None else f"{keep:.4f}"), *map(Cell, texts)))
    header = ("run", "keep", *(title for _, title, _ in shown))
    table = Table("Quality of every run", header, tuple(cells), frozenset(range(1, len(header))))
    title = f"{section_id}-quality"
    if not dots:
        return Section(title, "Quality against keep ratio", (table,))
    limit = () if target is None else (Rule(f"target {100 * target:g} %", "c2", 100 * target, "y"),)
    chart = XYChart(
        f"{title}-chart",
        "Rise in perplexity against keep ratio",
        "; ".join(f"run {dot.label}: {dot.y:.2f} % at keep {dot.x:.4f}" for dot in dots) + ".",
        "keep ratio (share of tokens kept)",
        "rise in perplexity, %",
        (Series("", "c1", tuple(dots)),),
        (Rule("no rise", "quiet", 0.0, "y"), *limit),
        width=400,
        height=280,
    )
    caption = "Perplexity on held-out text with eviction, over that with the whole cache, less 1. Lower is better."
    return Section(title, "Quality against keep ratio", (Figure(caption, (chart,), table),))
