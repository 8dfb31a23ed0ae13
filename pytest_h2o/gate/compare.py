"""One run against another: which figures are worse, and which of those are too much worse. Pure.

Exact figures (ratios, sizes, counts, quality) are the same to the last digit in two runs of the same thing, so any
worsening of one fails, unless it is allowed. Timings are compared only where all that they were measured with is known
and equal, and even then they fail only where an allowance asks for it: noise makes any two of them differ. Quality is a
sum over many floats: the libraries of linear algebra add them in an order that suits the processor. Where that may be
another, a quality figure is held only against an allowance.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal

from pytest_h2o.errors import StoreError, UsageError
from pytest_h2o.gate.figure_metrics import FIGURE_METRICS, HEADLINES, is_rounded, render_figure
from pytest_h2o.history.record import MetricFacts, SubjectRecord

State = Literal["equal", "better", "allowed", "worse", "changed", "missing", "new", "timed", "not comparable"]
"""``changed``: a figure that says what was measured is another. ``missing``: measured then, and not now.
``timed``: a comparable timing that no allowance holds."""

_EPSILON = 1e-9
"""Percent: what the arithmetic of floats may add to a worsening that is just allowed."""

_ARITHMETIC = ("machine", "threads", "backend")
"""Parts of a fingerprint that the last digits of a rounded figure depend on, beside the binary that is judged."""

FAILING: frozenset[State] = frozenset({"worse", "changed", "missing"})


@dataclass(frozen=True)
class Allowances:
    """Allowed worsening in percent by metric; what is not named may not worsen at all."""

    percent: Mapping[str, float]
    origin: str = "--h2o-compare-fail"

    def find(self, metric: str) -> tuple[str, float] | None:
        """The allowance that holds for a metric: its own, else that of what it is a part of; and whose it is."""
        name: str | None = metric
        while name is not None:
            if name in self.percent:
                return name, self.percent[name]
            known = FIGURE_METRICS.get(name)
            name = known.part_of if known else None
        return None


def check_metric(name: str, origin: str) -> None:
    """Check that a metric is recorded; UsageError with the nearest names if none is called so."""
    if name not in FIGURE_METRICS:
        near = get_close_matches(name, FIGURE_METRICS, n=3, cutoff=0.5)
        raise UsageError(
            f"{origin} names no metric that is recorded",
            came=repr(name),
            expected=", ".join(FIGURE_METRICS),
            hint=f"did you mean {' or '.join(near)}?" if near else None,
        )


def parse_allowances(texts: Iterable[str], origin: str = "--h2o-compare-fail") -> Allowances:
    """Read ``METRIC:PERCENT`` settings.

    Raises
    ------
    UsageError
        One has another form, an unknown metric (with the nearest names), a percentage below 0, or comes twice.
    """
    percent: dict[str, float] = {}
    for text in texts:
        metric, colon, number = (part.strip() for part in text.partition(":"))
        check_metric(metric, origin)
        try:
            value = float(number.removesuffix("%")) if colon else math.nan
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise UsageError(
                f"{origin} takes METRIC:PERCENT",
                came=repr(text),
                expected=f"a percentage of at least 0, for example {metric}:0.5",
            )
        if metric in percent:
            raise UsageError(f"{origin} was given twice for one metric", came=repr(text), expected="once a metric")
        percent[metric] = value
    return Allowances(percent, origin)


@dataclass(frozen=True)
class FigureChange:
    """One figure then and now; None where it was not measured."""

    row: str
    metric: str
    then: float | None
    now: float | None
    state: State
    allowed_percent: float | None = None

    @property
    def percent(self) -> float | None:
        """Change in percent of the figure then, with its sign; None where that cannot be said."""
        if self.then is None or self.now is None or not self.then:
            return None
        return (self.now - self.then) / abs(self.then) * 100

    def __repr__(self) -> str:
        change = "" if self.percent is None else f" ({self.percent:+.2f} %)"
        then, now = render_figure(self.metric, self.then), render_figure(self.metric, self.now)
        return f"{self.metric} of {self.row}: {then} -> {now}{change}"


@dataclass(frozen=True)
class SubjectComparison:
    """A preset or scope of one run against the same one of an earlier run.

    Attributes
    ----------
    changes : tuple of FigureChange
        Every figure of both, those that fail first.
    differing : tuple of str
        Parts of the fingerprint that differ or are not known, each with both values: why timings are not compared.
    """

    changes: tuple[FigureChange, ...]
    differing: tuple[str, ...]

    @property
    def regressions(self) -> tuple[FigureChange, ...]:
        """What makes the comparison fail: figures that are worse, changed or missing."""
        return tuple(change for change in self.changes if change.state in FAILING)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was not compared, and why."""
        asked = f" ({', '.join(self.unmet)} should have been)" if self.unmet else ""
        timings = (f"timings are not compared{asked}; {'; '.join(self.differing)}",) if self.differing else ()
        names = dict.fromkeys(c.metric for c in self.changes if c.state == "not comparable" and is_rounded(c.metric))
        if not names:
            return timings
        return (
            *timings,
            f"{', '.join(names)} changed, and another machine gives other last digits: judged only where "
            f"--h2o-compare-fail {next(iter(names))}:PERCENT says by how much",
        )

    @property
    def unmet(self) -> tuple[str, ...]:
        """Timings that were asked to be held against the earlier run and cannot be."""
        return tuple(
            dict.fromkeys(
                change.metric
                for change in self.changes
                if change.state == "not comparable" and change.allowed_percent is not None
            )
        )

    @property
    def counts(self) -> dict[str, int]:
        """Number of figures in each state that occurs."""
        return dict(Counter(change.state for change in self.changes))

    def to_json(self) -> dict[str, Any]:
        """Built-in types only; figures that are equal, and timings that nothing was asked of, are only counted."""
        shown = [c for c in self.changes if c.state not in ("equal", "timed", "not comparable")]
        return {
            "counts": self.counts,
            "changes": [change_to_json(change) for change in shown],
            "differing": list(self.differing),
            "unmet": list(self.unmet),
        }


def change_to_json(change: FigureChange) -> dict[str, Any]:
    return {
        "row": change.row,
        "metric": change.metric,
        "then": change.then,
        "now": change.now,
        "percent": change.percent,
        "allowed_percent": change.allowed_percent,
        "state": change.state,
    }


def compare_subjects(
    then: SubjectRecord,
    now: SubjectRecord,
    metrics: Mapping[str, MetricFacts],
    allowances: Allowances,
    *,
    where: str = "the baseline",
) -> SubjectComparison:
    """Hold the figures of a preset or scope against those of an earlier run.

    Parameters
    ----------
    metrics : mapping
        What is known of each metric that either has.
    where : str
        What the earlier run is called, for messages.

    Raises
    ------
    StoreError
        The earlier figures are those of another model.
    """
    refuse_other_model(then, now, where)
    differing = differing_parts(then.fingerprint, now.fingerprint)
    elsewhere = any(
        then.fingerprint.get(part) is None or then.fingerprint[part] != now.fingerprint.get(part)
        for part in _ARITHMETIC
        if part in then.fingerprint or part in now.fingerprint
    )
    changes = []
    for row in dict.fromkeys([*now.figures, *then.figures]):
        old, new = then.figures.get(row, {}), now.figures.get(row, {})
        for metric, facts in metrics.items():
            if metric in old or metric in new:
                change = _compare_figure(row, metric, old.get(metric), new.get(metric), facts)
                loose = elsewhere and is_rounded(metric)
                changes.append(_judge(change, facts, allowances, differs=bool(differing), loose=loose))
    return SubjectComparison(tuple(sorted(changes, key=lambda c: c.state not in FAILING)), differing)


def refuse_other_model(then: SubjectRecord, now: SubjectRecord, where: str) -> None:
    """Refuse to compare the figures of two models: StoreError with both."""
    old, new = then.fingerprint.get("model"), now.fingerprint.get("model")
    if old is not None and new is not None and old != new:
        raise StoreError(
            f"{where} is of another model",
            where=now.title,
            came=old,
            expected=new,
            hint="compare with a run of the same model, or save this one under a name of its own: --h2o-save NAME",
        )


def differing_parts(then: Mapping[str, str | None], now: Mapping[str, str | None]) -> tuple[str, ...]:
    """The parts of two fingerprints that are not known to be equal, each with both values."""
    parts = dict.fromkeys([*now, *then])
    unknown = [part for part in parts if then.get(part) is None and now.get(part) is None]
    return (
        *(
            f"{part}: {then.get(part) or 'not known'} then, {now.get(part) or 'not known'} now"
            for part in parts
            if then.get(part) != now.get(part)
        ),
        *([f"not known: {', '.join(unknown)}"] if unknown else []),
    )


def _compare_figure(row: str, metric: str, then: float | None, now: float | None, facts: MetricFacts) -> FigureChange:
    """How a figure changed, before anything is allowed."""
    state: State
    if now is None:
        state = "missing"
    elif then is None:
        state = "new"
    elif now == then:
        state = "equal"
    elif facts.better == "same":
        state = "changed"
    else:
        state = "better" if (now > then) == (facts.better == "higher") else "worse"
    return FigureChange(row, metric, then, now, state)


def _judge(
    change: FigureChange, facts: MetricFacts, allowances: Allowances, *, differs: bool, loose: bool
) -> FigureChange:
    """The same change, with what is allowed, and whether it can be compared at all; `loose`: not to the last digit."""
    state, found = change.state, allowances.find(change.metric)
    if state in ("missing", "new"):
        return change
    if not facts.exact and differs:
        state = "not comparable"
    elif not facts.exact and found is None:
        state = "timed"
    elif loose and found is None and state in ("better", "worse"):
        state = "not comparable"
    elif state in ("worse", "changed") and found is not None:
        state = "allowed" if _worsening(change, facts, found[0]) <= found[1] + _EPSILON else state
    return replace(change, state=state, allowed_percent=None if found is None else found[1])


def _worsening(change: FigureChange, facts: MetricFacts, allowed_by: str) -> float:
    """Percent by which a figure is worse.

    An allowance for a ratio holds for the sizes that it is made of in the ratio's own terms: 1 % less of a ratio is
    1.0101 % more bytes, and both are the same worsening.
    """
    then, now = float(change.then or 0.0), float(change.now or 0.0)
    if facts.better == "lower" and allowed_by != change.metric and FIGURE_METRICS[allowed_by].better == "higher":
        then, now = now, then
    return abs(now - then) / abs(then) * 100 if then else math.inf


def headlines(
    then: SubjectRecord, now: SubjectRecord, metrics: Mapping[str, MetricFacts], *, comparable: bool
) -> list[FigureChange]:
    """The few figures that one line can show: the best over all rows, then and now; nothing is allowed.

    `comparable` says whether timings are.
    """
    found = []
    for metric in HEADLINES[now.kind]:
        facts = metrics[metric]
        pick = max if facts.better == "higher" else min
        old, new = (
            pick((figures[metric] for figures in subject.figures.values() if metric in figures), default=None)
            for subject in (then, now)
        )
        if old is None and new is None:
            continue
        change = _compare_figure("the best row", metric, old, new, facts)
        if not facts.exact and change.state not in ("missing", "new"):
            change = replace(change, state="timed" if comparable else "not comparable")
        found.append(change)
    return found
