"""How comparisons with an earlier run read: one line, a few lines of a diagnosis, a table. Pure.

All take the comparison as the journal has it: built-in types only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_h2o.bench.printable import one_line
from pytest_h2o.gate.compare import FAILING
from pytest_h2o.gate.figure_metrics import FIGURE_METRICS, render_figure

WORDS: Mapping[str, str] = {
    "worse": "WORSE",
    "changed": "CHANGED",
    "missing": "MISSING",
    "allowed": "worse, allowed",
    "better": "better",
    "new": "new",
    "equal": "equal",
    "timed": "timing",
    "not comparable": "not comparable",
}

SHOWN = 12
"""Changes that a diagnosis or a summary shows of one preset or scope."""


def failing_changes(comparison: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The changes that make a comparison fail; none without one."""
    return [] if comparison is None else [c for c in comparison["changes"] if c["state"] in FAILING]


def name_earlier(comparison: Mapping[str, Any]) -> str:
    """``main`` or ``last``, with the run that it is."""
    return one_line(f"{comparison['asked']} (run {comparison['run']})")


def render_change(change: Mapping[str, Any]) -> str:
    """``lossless ratio 1.4676 -> 1.4600 (-0.52 %)``."""
    metric = FIGURE_METRICS.get(change["metric"])
    then, now = (render_figure(change["metric"], change[key]) for key in ("then", "now"))
    if then == now and change["then"] != change["now"]:
        then, now = repr(change["then"]), repr(change["now"])  # a difference that the usual digits do not show
    return f"{metric.title if metric else one_line(change['metric'])} {then} -> {now}{render_percent(change)}"


def render_percent(change: Mapping[str, Any]) -> str:
    """The change in brackets, with its sign; empty where it cannot be said in percent."""
    percent = change["percent"]
    if percent is None:
        return ""
    return f" ({percent:+.2f} %)" if abs(percent) >= 0.005 or not percent else f" ({percent:+.1g} %)"


def render_counts(counts: Mapping[str, int]) -> str:
    """``2 worse, 1 missing, 400 equal``: exact figures and judged timings; other timings are left out."""
    shown = [(state, counts[state]) for state in WORDS if state in counts and state not in ("timed", "not comparable")]
    return ", ".join(f"{number} {WORDS[state].lower()}" for state, number in shown) or "nothing to compare"


def render_lines(comparison: Mapping[str, Any]) -> list[str]:
    """The change against the earlier run: how many figures, then the few that matter most if they changed."""
    lines = [f"change against {comparison['asked']}: {render_counts(comparison['counts'])}"]
    shown = [change for change in comparison["headlines"] if change["state"] != "equal"]
    failing = failing_changes(comparison)
    if failing and not any(change["state"] in FAILING for change in shown):
        shown.insert(0, failing[0])
    remarks = {"not comparable": ", not comparable", "timed": ", a timing"}
    return lines + [f"  {render_change(change)}{remarks.get(change['state'], '')}" for change in shown]


def explain_changes(comparison: Mapping[str, Any] | None) -> list[str]:
    """The lines of a diagnosis: what got worse, where, by how much, and how much is allowed; none without one."""
    if comparison is None:
        return []
    failing = failing_changes(comparison)
    lines = [f"compared   with {name_earlier(comparison)}, ended {one_line(comparison['ended'])}"]
    lines.append(f"figures    {render_counts(comparison['counts'])}")
    for change in failing[:SHOWN]:
        allowed = change["allowed_percent"]
        text = "" if allowed is None else f", allowed {allowed:g} %"
        lines.append(f"  {WORDS[change['state']]:<8} {one_line(change['row'])}: {render_change(change)}{text}")
    if len(failing) > SHOWN:
        lines.append(f"  … and {len(failing) - SHOWN} more")
    if any(change["state"] == "changed" for change in failing):
        lines.append("changed    figures that say what was measured are others: this is a comparison of unlike things")
    metrics = [change["metric"] for change in failing if change["state"] != "missing"]
    if metrics:
        lines.append(f"allow      --h2o-compare-fail={metrics[0]}:PERCENT lets it be worse by that much")
    name = comparison["asked"]
    accept = "run once without --h2o-compare" if name == "last" else f"run with --h2o-save={name} --h2o-overwrite alone"
    lines.append(f"accept     {accept}: its figures are then what later runs are held against")
    return lines


def table_rows(subject: str, changes: Iterable[Mapping[str, Any]]) -> list[Sequence[str]]:
    """Rows of a table: what, row, figure, then, now, change, verdict."""
    rows: list[Sequence[str]] = []
    for change in changes:
        then, now = (render_figure(change["metric"], change[key]) for key in ("then", "now"))
        if then == now and change["then"] != change["now"]:
            then, now = repr(change["then"]), repr(change["now"])
        percent = render_percent(change).strip(" ()")
        rows.append((subject, change["row"], change["metric"], then, now, percent, WORDS[change["state"]]))
    return rows


TABLE_HEADER = ("of", "row", "figure", "then", "now", "change", "verdict")
