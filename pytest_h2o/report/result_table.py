"""The table at the end of a run: one row a preset or scope, for 80 columns without colour. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_h2o.gate.compare import FAILING
from pytest_h2o.gate.measured import METRICS

WIDTH = 80
NOTHING = "-"
"""Stands where there is no such figure."""

Subject = Mapping[str, Any]


def render_result_table(presets: Mapping[str, Subject], scopes: Mapping[str, Subject]) -> list[str]:
    """Lines of the table; columns in which no row has anything are left out.

    Where a row has no room for its name, the name stands on a line of its own.
    """
    named = [*presets.items(), *scopes.items()]
    cells = [[make(subject) for _, make in COLUMNS] for _, subject in named]
    kept = [place for place in range(len(COLUMNS)) if any(row[place] != NOTHING for row in cells)]
    if not named:
        return []
    rows = [[COLUMNS[place][0] for place in kept], *([row[place] for place in kept] for row in cells)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(kept))]
    names = ["preset or scope", *(name for name, _ in named)]
    longest = max(map(len, names))
    figures = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    if longest + 2 + len(figures[0]) <= WIDTH:
        return [f"{name:<{longest}}  {line}".rstrip() for name, line in zip(names, figures, strict=True)]
    return [line.rstrip() for pair in zip(names, (f"    {line}" for line in figures), strict=True) for line in pair]


def name_verdict(subject: Subject) -> str:
    """``PASS``, ``FAIL``, ``INCONCLUSIVE``; ``reported`` where no target was set; ``skipped`` where nothing ran."""
    outcomes = set(subject["outcomes"].values())
    verdicts = [verdict["outcome"] for verdict in subject.get("verdicts", ())]
    if "failed" in outcomes:
        return "FAIL"
    if "passed" not in outcomes:
        return "skipped"
    if "inconclusive" in verdicts:
        return "INCONCLUSIVE"
    return "reported" if verdicts and set(verdicts) == {"reported"} else "PASS"


def smallest_margin(subject: Subject) -> float | None:
    """The smallest of its margins, each as a part of its target; None where no target was set, or a value is missing.

    Of a slow-down it is a part of the baseline speed, and a joint margin is the smallest of several by itself.
    """
    margins = [verdict["relative_margin"] for verdict in subject.get("verdicts", ())]
    numbers = [margin for margin in margins if isinstance(margin, float | int)]
    return min(numbers) if numbers else None


def _metric(*names: str) -> Callable[[Subject], str]:
    def cell(subject: Subject) -> str:
        found = next((v for name in names for v in subject.get("verdicts", ()) if v["metric"] == name), None)
        return NOTHING if found is None else render_value(found)

    return cell


def render_value(verdict: Mapping[str, Any]) -> str:
    """The value of a verdict, with its interval where there is one: ``0.9% [-1.4, 3.2]``."""
    metric, value = METRICS[verdict["metric"]], float(verdict["value"])
    if verdict["basis"] is None:
        return metric.render_bare(value)
    percent = metric.style != "number"
    scale, decimals = (100.0, 1) if percent else (1.0, metric.decimals)
    bounds = ("..." if end is None else f"{end * scale:.{decimals}f}" for end in (verdict["low"], verdict["high"]))
    text = "no value" if value != value else f"{value * scale:.{decimals}f}" + ("%" if percent else "")
    return f"{text} [{', '.join(bounds)}]"


def _lossless(subject: Subject) -> str:
    if "lossless_ratio" in subject:
        return "none" if subject["refused"] else METRICS["lossless_ratio"].render_bare(subject["lossless_ratio"])
    return _metric("lossless_ratio")(subject)


def _margin(subject: Subject) -> str:
    margin = smallest_margin(subject)
    return NOTHING if margin is None else METRICS["joint_margin"].render_bare(margin)


def _change(subject: Subject) -> str:
    """How many figures changed against the earlier run, the worst kind first."""
    comparison = subject["comparison"]
    if comparison is None:
        return NOTHING
    counts: Mapping[str, int] = comparison["counts"]
    worse = sum(counts.get(state, 0) for state in FAILING)
    for number, word in ((worse, "worse"), (counts.get("allowed", 0), "allowed"), (counts.get("better", 0), "better")):
        if number:
            return f"{number} {word}"
    return "equal"


QUALITY = tuple(name for name in METRICS if name.startswith(("quality", "demo")))

COLUMNS: Sequence[tuple[str, Callable[[Subject], str]]] = (
    ("lossy", _metric("h2o_lossy")),
    ("lossless", _lossless),
    ("decode", _metric("decode_drop", "decode_tok_per_s")),
    ("quality", _metric(*QUALITY)),
    ("verdict", name_verdict),
    ("margin", _margin),
    ("change", _change),
)
"""Heads of the columns, and how each is made of the summary of a preset or scope."""

SHOWN_METRICS = frozenset({"h2o_lossy", "lossless_ratio", "decode_drop", "joint_margin", *QUALITY})
"""Metrics that the table shows; any other that a gate file compares is told below it."""
