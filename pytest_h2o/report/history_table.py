"""Two records side by side, and the runs of a history, as text tables. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_h2o.bench.printable import one_line
from pytest_h2o.gate.compare import Allowances, SubjectComparison, change_to_json, compare_subjects
from pytest_h2o.gate.figure_metrics import HEADLINES, metric_facts, render_figure
from pytest_h2o.history.record import MetricFacts, RunRecord, SubjectRecord
from pytest_h2o.report.changes import TABLE_HEADER, table_rows


def render_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a plain table, each column as wide as its widest cell."""
    # Names come from files that somebody else may have written.
    shown = [[one_line(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in shown) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in shown]
    return [line.rstrip() for line in lines]


def compare_records(
    then: RunRecord, now: RunRecord, allowances: Allowances, where: str
) -> dict[str, SubjectComparison | str]:
    """Every preset and scope of two runs: its comparison, or ``missing`` (not in the later one) or ``new``.

    Raises
    ------
    StoreError
        The figures of one are of another model.
    """
    metrics = {**then.metrics, **now.metrics, **metric_facts()}
    found: dict[str, SubjectComparison | str] = {}
    for subject in now.subjects:
        old = then.subject(subject.kind, subject.name)
        found[subject.title] = (
            "new" if old is None else compare_subjects(old, subject, metrics, allowances, where=where)
        )
    for subject in then.subjects:
        if now.subject(subject.kind, subject.name) is None:
            found[subject.title] = "missing"
    return found


def render_comparison(found: dict[str, SubjectComparison | str], *, everything: bool) -> list[str]:
    """A table of the figures that changed (of all of them, with `everything`), and what there is to say beside it."""
    rows: list[Sequence[str]] = []
    notes: list[str] = []
    for title, comparison in found.items():
        if isinstance(comparison, str):
            later = "was measured then, and not now" if comparison == "missing" else "was not measured then"
            notes.append(f"{title} {later}")
            continue
        changes = [change_to_json(change) for change in comparison.changes]
        quiet = ("equal", "timed", "not comparable")
        rows += table_rows(title, changes if everything else [c for c in changes if c["state"] not in quiet])
        equal = sum(change["state"] == "equal" for change in changes)
        notes.append(f"{title}: {equal} of {len(changes)} figures are equal")
        notes += [f"{title}: {remark}" for remark in comparison.remarks]
    return [*(render_columns(TABLE_HEADER, rows) if rows else []), *(one_line(note, limit=1000) for note in notes)]


def history_rows(records: Iterable[RunRecord], metric: str | None) -> list[Sequence[str]]:
    """One row a run and preset or scope: when, verdict, the figure, and its change since the run before it.

    Parameters
    ----------
    records : iterable of RunRecord
        Oldest first.
    metric : str or None
        What to show, the best over all rows; None: the one that matters most of each.
    """
    before: dict[str, float] = {}
    rows: list[Sequence[str]] = []
    for record in records:
        for subject in record.subjects:
            name = metric or HEADLINES[subject.kind][0]
            value = best_figure(subject, name, record.metrics)
            if value is None:
                continue
            old = before.get(subject.title)
            change = "" if not old else f"{(value - old) / abs(old) * 100:+.2f} %"
            held = "held" if subject.held else "FAILED"
            rows.append((record.run, record.ended, subject.title, held, name, render_figure(name, value), change))
            before[subject.title] = value
    return rows


HISTORY_HEADER = ("run", "ended", "of", "items", "figure", "best", "since then")


def best_figure(subject: SubjectRecord, metric: str, known: Mapping[str, MetricFacts]) -> float | None:
    """The best value of a metric over all rows; None if no row has it. `known` says which way is better."""
    values = [figures[metric] for figures in subject.figures.values() if metric in figures]
    pick: Any = max if metric in known and known[metric].better == "higher" else min
    return None if not values else float(pick(values))
