"""What changed against an earlier run, and the history of a figure; nothing where there is no such data. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pytest_h2o.report.chart_data import Band, Dot, Series, XYChart, is_drawable
from pytest_h2o.report.document import Block, Bullets, Cell, Figure, Section, Table, Tone

_TONES: Mapping[str, Tone] = {"worse": "bad", "changed": "bad", "missing": "bad", "better": "good", "allowed": "warn"}


def _show(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.6g}" if isinstance(value, float) else f"{value:,}"
    return "missing" if value is None else str(value)


def change_blocks(name: str, subject: Mapping[str, Any]) -> list[Block]:
    """The comparison of a preset or scope with an earlier run: counts, notes, and the figures that changed."""
    notes = [str(note) for note in subject.get("comparison_notes") or ()]
    if subject.get("not_compared"):
        notes.insert(0, f"not compared: {subject['not_compared']}")
    comparison = subject.get("comparison")
    if not comparison:
        return [Bullets(tuple(notes))] if notes else []
    counts = ", ".join(f"{count} {state}" for state, count in (comparison.get("counts") or {}).items())
    notes.insert(0, f"against {comparison.get('asked')} (run {comparison.get('run')}): {counts or 'no figure'}")
    changes = list({repr(c): c for key in ("changes", "headlines") for c in comparison.get(key) or ()}.values())
    blocks: list[Block] = [Bullets(tuple(notes))]
    if changes:
        header = ("figure", "row", "then", "now", "change", "verdict")
        rows = tuple(_change_cells(change) for change in changes)
        blocks.append(Table(f"Figures of {name} against an earlier run", header, rows, frozenset({2, 3, 4})))
    return blocks


def _change_cells(change: Mapping[str, Any]) -> tuple[Cell, ...]:
    percent, state = change.get("percent"), str(change.get("state", ""))
    return (
        Cell(str(change.get("metric"))),
        Cell(str(change.get("row"))),
        Cell(_show(change.get("then"))),
        Cell(_show(change.get("now"))),
        Cell(f"{percent:+.2f} %" if isinstance(percent, int | float) and math.isfinite(percent) else ""),
        Cell(state, _TONES.get(state, "")),
    )


def history_section(summary: Mapping[str, Any]) -> Section | None:
    """Figures over earlier runs, each with the band of its baseline.

    ``history`` of the summary is a list of figures: `title`, `unit`, `low` and `high` (the band, or None), and `runs`,
    oldest first, each with `run` and `value`.
    """
    blocks: list[Block] = []
    for number, figure in enumerate(summary.get("history") or ()):
        runs = [run for run in figure.get("runs") or () if isinstance(run.get("value"), int | float)]
        if not runs:
            continue
        title, unit = str(figure.get("title")), str(figure.get("unit") or "")
        cells = tuple((Cell(str(run.get("run"))), Cell(_show(run["value"]))) for run in runs)
        table = Table(f"{title} in earlier runs", ("run", f"value {unit}".strip()), cells, frozenset({1}))
        low, high = figure.get("low"), figure.get("high")
        is_band = low is not None and high is not None and is_drawable(low, high)
        dots = tuple(Dot(place, run["value"]) for place, run in enumerate(runs, 1))
        chart = XYChart(
            f"history-{number}",
            f"{title} over {len(runs)} runs",
            f"from {_show(runs[0]['value'])} to {_show(runs[-1]['value'])}.",
            "run, oldest first",
            f"{title}{f', {unit}' if unit else ''}",
            (Series("", "c1", dots, line="solid"),),
            bands=(Band("baseline", "c3", low, high),) if is_band else (),
            width=400,
            height=260,
        )
        blocks.append(Figure(f"{title} of this run and those before it.", (chart,), table))
    return Section("history", "History", tuple(blocks)) if blocks else None
