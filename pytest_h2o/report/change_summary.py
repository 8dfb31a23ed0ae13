"""Comparisons with an earlier run in the summary: what could not be compared, why an item failed, the table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_h2o.bench.printable import one_line
from pytest_h2o.report.changes import (
    SHOWN,
    TABLE_HEADER,
    failing_changes,
    name_earlier,
    render_change,
    render_counts,
    table_rows,
)
from pytest_h2o.report.markdown import escape, render_table


def find_uncompared(items: Sequence[Mapping[str, Any]], asked: str | None) -> list[str]:
    """What was to be held against an earlier run and was not, from the records of all items."""
    if asked is None:
        return []
    comparisons = [item for item in items if item["kind"] == "comparison"]
    if not comparisons:
        return [f"nothing was compared with {asked}: no item of test_no_regression ran"]
    reasons: dict[str, list[str]] = {}
    for item in comparisons:
        if item["outcome"] == "skipped":
            reasons.setdefault(str(item["reason"]), []).append(item["name"])
    found = [f"{', '.join(names)} not compared: {reason}" for reason, names in reasons.items()]
    made = [item for item in comparisons if item["comparison"]]
    found += [
        f"{', '.join(item['comparison']['unmet'])} of {item['name']} was to be compared with {asked} and cannot be"
        for item in made
        if item["comparison"]["unmet"]
    ]
    beside = {title for item in made for title in item["comparison"]["beside"]}
    gone = sorted(beside - {f"{item['subject']} {item['name']}" for item in comparisons})
    return found + ([f"baseline {asked} holds figures of {', '.join(gone)}, and this run does not"] if gone else [])


def summarize_failure(comparison: Mapping[str, Any] | None) -> str | None:
    """One line about a comparison that failed; None about any other."""
    failing = failing_changes(comparison)
    if comparison is None or not failing:
        return None
    more = f", and {len(failing) - 1} more figures" if len(failing) > 1 else ""
    first = f"{one_line(failing[0]['row'])}: {render_change(failing[0])}"
    return f"worse than {name_earlier(comparison)}: {first}{more}"


def render_changes_md(subjects: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The changes of all presets and scopes as Markdown; nothing where nothing was to be compared."""
    lines = [f"- {escape(name)}: {escape(s['not_compared'])}" for name, s in subjects.items() if s["not_compared"]]
    rows: list[Sequence[str]] = []
    for name, subject in subjects.items():
        comparison = subject["comparison"]
        if comparison is None:
            continue
        counts = escape(render_counts(comparison["counts"]))
        lines.append(f"- {escape(name)} against {escape(name_earlier(comparison))}: {counts}")
        lines += [f"  - {escape(note)}" for note in subject["comparison_notes"]]
        rows += table_rows(name, comparison["changes"][:SHOWN])
        if len(comparison["changes"]) > SHOWN:
            rows.append((name, "…", f"{len(comparison['changes']) - SHOWN} more", "", "", "", ""))
    table = ["", *render_table(TABLE_HEADER, rows)] if rows else []
    return ["", "## Change against an earlier run", "", *lines, *table] if lines else []
