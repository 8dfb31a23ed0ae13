"""What changed against an earlier run, and the history of a figure; nothing where there is no such data. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pytest_h2o.report.chart_data import Band, Dot, Rule, Series, XYChart, is_drawable
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
    """Figures over earlier runs, each with the band of its baseline, as `collect_history` gives them.

    Read with care for what is not there: a run of another version may lack a field, and what is missing is left out.
    """
    blocks: list[Block] = []
    for number, figure in enumerate(summary.get("history") or (), 1):
        runs = [run for run in figure.get("runs") or () if isinstance(run.get("value"), int | float)]
        if runs:
            blocks.append(_history_figure(f"history-{number}", figure, runs))
    return Section("history", "History", tuple(blocks)) if blocks else None


def _history_figure(chart_id: str, figure: Mapping[str, Any], runs: list[Mapping[str, Any]]) -> Figure:
    title, unit = str(figure.get("title")), str(figure.get("unit") or "")
    name = f"{title} of {figure.get('subject', 'this run')}"
    best = ", the best row of each" if str(figure.get("subject")).startswith("preset ") else ""
    words = ["held" if run.get("held", True) else "failed" for run in runs]
    cells = tuple(
        (Cell(str(run.get("run"))), Cell(str(run.get("ended", ""))), Cell(_show(run["value"])), Cell(word))
        for run, word in zip(runs, words, strict=True)
    )
    header = ("run", "ended", f"value, {unit}" if unit else "value", "items")
    table = Table(f"{name} in earlier runs and this one{best}", header, cells, frozenset({2}))
    dots = [(Dot(place, run["value"]), word) for place, (run, word) in enumerate(zip(runs, words, strict=True), 1)]
    series = (
        Series("", "quiet", tuple(dot for dot, _ in dots), marker="", line="solid"),
        Series("held", "c1", tuple(dot for dot, word in dots if word == "held")),
        Series("failed", "bad", tuple(dot for dot, word in dots if word != "held"), marker="x"),
    )
    low, high, baseline = figure.get("low"), figure.get("high"), figure.get("baseline") or {}
    bands: tuple[Band, ...] = ()
    rules: tuple[Rule, ...] = ()
    if low is not None and high is not None and is_drawable(low, high):
        bands = (Band("band", "c3", low, high),)
    if isinstance(baseline.get("value"), int | float) and is_drawable(baseline["value"]):
        rules = (Rule("baseline", "c3", baseline["value"], "y"),)
    chart = XYChart(
        chart_id,
        f"{name} over {len(runs)} runs",
        f"from {_show(runs[0]['value'])} to {_show(runs[-1]['value'])}.",
        "run, oldest first; this one last",
        f"{title}{f', {unit}' if unit else ''}",
        series,
        rules,
        bands,
        ticks=tuple((float(place), str(place)) for place in range(1, len(runs) + 1, 1 + len(runs) // 12)),
        width=400,
        height=260,
    )
    told = [f"{name[:1].upper()}{name[1:]} in this run and in those before it{best}."]
    if baseline:
        told.append(f"Baseline: {_show(baseline.get('value'))} ({baseline.get('name')}).")
    if bands:
        told.append(f"Band: {_show(low)} to {_show(high)} ({figure.get('band')}).")
    return Figure(" ".join(told), (chart,), table)
