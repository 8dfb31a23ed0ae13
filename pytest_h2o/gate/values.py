"""Measured values and targets: numbers that know their unit, spread and origin, and that keep every comparison.

A gate file compares a `Measured` with a `Target` by ``>=`` or ``<=``. The comparison gives a plain bool, and
leaves a `Comparison` behind, from which the failure text, the journal and the summary are made. So a gate file
that a user edits is reported as well as the shipped one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from pytest_h2o.errors import UsageError

Outcome = Literal["pass", "fail", "reported", "inconclusive"]
_MOST_DECIMALS = 15
"""Beyond these two numbers that differ are taken for rounding of the arithmetic."""


@dataclass(frozen=True)
class Metric:
    """One kind of figure: its name in tables, unit, direction and number format."""

    name: str
    title: str
    unit: str
    higher_is_better: bool
    decimals: int = 3
    style: Literal["number", "percent", "signed percent"] = "number"

    def render(self, value: float, decimals: int | None = None) -> str:
        """The value with its unit, rounded to the metric's decimals or to others."""
        text = self.render_bare(value, decimals)
        return f"{text} {self.unit}" if self.unit else text

    def render_bare(self, value: float, decimals: int | None = None) -> str:
        """`render` without the unit."""
        decimals = self.decimals if decimals is None else decimals
        if self.style == "number":
            return f"{value:.{decimals}f}"
        return f"{value:+.{decimals}%}" if self.style == "signed percent" else f"{value:.{decimals}%}"

    def render_target(self, target: float) -> str:
        """A target as it was given: with more decimals than the metric's where those would round it."""
        return self.render(target, next((d for d in self._decimals() if self._shows(target, d)), _MOST_DECIMALS))

    def render_measured(self, value: float, std: float | None, target: float | None = None) -> str:
        """A value with its spread, and as many decimals as tell it from a target that it differs from."""
        text = self.render_bare(value)
        if target is not None and value != target and math.isfinite(value):
            enough = (d for d in self._decimals() if not self._shows(target, d, of=value))
            text = self.render_bare(value, next(enough, None))
        spread = "" if std is None else f" ± {self.render_bare(std).lstrip('+')}"
        return f"{text}{spread} {self.unit}" if self.unit else f"{text}{spread}"

    def render_gap(self, gap: float) -> str:
        """A distance of at least 0, with as many decimals as show that it is not 0."""
        decimals = next((d for d in self._decimals() if gap == 0 or self._number(gap, d) > 0), self.decimals)
        return self.render_bare(gap, decimals).lstrip("+") + (f" {self.unit}" if self.unit else "")

    def _decimals(self) -> range:
        return range(self.decimals, _MOST_DECIMALS + 1)

    def _number(self, value: float, decimals: int) -> float:
        """What a reader makes of the rendered value."""
        text = self.render_bare(value, decimals)
        return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)

    def _shows(self, value: float, decimals: int, *, of: float | None = None) -> bool:
        """Whether a reader takes the value, or another one, for `value` when it is rendered with so many decimals."""
        return math.isclose(self._number(value if of is None else of, decimals), value, rel_tol=1e-12)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("h2o_lossy", "lossy ratio", "", True),
        Metric("h2o_keep", "keep ratio", "", False, 4),
        Metric("h2o_lossless", "runtime lossless ratio", "", True),
        Metric("decode_tok_per_s", "decode speed", "tok/s", True, 2),
        Metric("decode_drop", "decode slow-down", "", False, 2, "percent"),
        Metric("lossless_ratio", "lossless ratio", "", True, 4),
        Metric("quality_ppl_rise", "rise in perplexity", "", False, 2, "signed percent"),
        Metric("runtime_difference", "difference of runtime and dump", "bytes", False, 0),
        Metric("demo_similarity", "similarity of generated text", "", True, 3),
        Metric("joint_margin", "joint margin", "", True, 2, "signed percent"),
    )
}
"""Every metric that a verdict can rest on, declared once; plugins add theirs (`pytest_h2o.gate.row_metrics`)."""

BUILT_IN = tuple(METRICS)
"""Those of this package, in the order in which reports show them."""


@dataclass(frozen=True)
class Target:
    """What is asked of one metric; `value` None means: reported, never gates."""

    metric: str
    value: float | None
    origin: str
    """Where it was said: an option, an ini key, a preset or scope file, or ``default``."""

    def __repr__(self) -> str:
        return "no target" if self.value is None else METRICS[self.metric].render_target(self.value)


@dataclass(frozen=True)
class Comparison:
    """One comparison that a gate file made."""

    measured: Measured
    relation: Literal[">=", "<="]
    target: Target
    outcome: Outcome

    @property
    def margin(self) -> float | None:
        """Distance to the target, positive when it is held, in the metric's own unit; None without a target."""
        if self.target.value is None:
            return None
        gap = self.measured.value - self.target.value
        return gap if self.relation == ">=" else -gap

    @property
    def relative_margin(self) -> float | None:
        """`margin` as a fraction of the target; None without a target or with one of 0."""
        margin = self.margin
        return None if margin is None or not self.target.value else margin / abs(self.target.value)


@dataclass(frozen=True)
class Interval:
    """Where a measured value lies, with confidence, and what that says of its target.

    Attributes
    ----------
    low, high : float or None
        Bounds in the metric's unit; None: not bounded.
    outcome : str
        The verdict on the target `decided_for`: ``pass``, ``fail`` or ``inconclusive``.
    decided_for : float
        The target that the verdict was made for. Another one is held against the bounds.
    basis : str
        What it rests on, in a few words.
    inconclusive_fails : bool
        Whether an inconclusive comparison is false, as a failed one is.
    """

    low: float | None
    high: float | None
    outcome: Outcome
    decided_for: float
    basis: str
    inconclusive_fails: bool = False

    def judge(self, relation: Literal[">=", "<="], target: float) -> Outcome:
        if target == self.decided_for:
            return self.outcome
        above = self.low is not None and self.low > target
        below = self.high is not None and self.high < target
        if not (above or below):
            return "inconclusive"
        return "pass" if above == (relation == ">=") else "fail"

    def render(self, metric: Metric) -> str:
        return render_interval(metric, self.low, self.high, self.basis)


def render_interval(metric: Metric, low: float | None, high: float | None, basis: str) -> str:
    """An interval and what it rests on, in brackets."""
    if low is None and high is None:
        return f"(no interval, {basis})"
    low_text, high_text = ("unbounded" if bound is None else metric.render(bound) for bound in (low, high))
    return f"(interval {low_text} to {high_text}, {basis})"


@dataclass(frozen=True)
class Measured:
    """A measured number.

    Attributes
    ----------
    metric : str
        Key of `METRICS`.
    value : float
        In the metric's unit. NaN fails every comparison.
    std : float or None
        Standard deviation over repeats; None where unknown.
    source : str
        The row, run or scope that gave it.
    interval : Interval or None
        Where there is one it decides, and not the value.
    """

    metric: str
    value: float
    source: str
    std: float | None = None
    interval: Interval | None = None
    on_compare: Callable[[Comparison], None] | None = field(default=None, compare=False, repr=False)

    def __bool__(self) -> bool:
        raise UsageError(
            f"a {METRICS[self.metric].title} is neither true nor false",
            came="an assertion on the value alone, which any value would hold",
            expected="a comparison: assert h2o_sweep.best(...) >= h2o_targets.lossy",
        )

    def __ge__(self, target: Target | float) -> bool:
        return self._compare(">=", target)

    def __le__(self, target: Target | float) -> bool:
        return self._compare("<=", target)

    def _compare(self, relation: Literal[">=", "<="], target: Target | float) -> bool:
        if not isinstance(target, Target):
            target = Target(self.metric, float(target), "gate file")
        self._check_sense(relation, target)
        outcome = self.judge(relation, target)
        if self.on_compare is not None:
            self.on_compare(Comparison(self, relation, target, outcome))
        fails = outcome == "inconclusive" and self.interval is not None and self.interval.inconclusive_fails
        return outcome != "fail" and not fails

    def judge(self, relation: Literal[">=", "<="], target: Target) -> Outcome:
        """The outcome of a comparison with a target, leaving no `Comparison` behind."""
        if target.value is None:
            return "reported"
        if self.interval is not None:
            return self.interval.judge(relation, target.value)
        holds = self.value >= target.value if relation == ">=" else self.value <= target.value
        return "pass" if holds else "fail"

    def _check_sense(self, relation: str, target: Target) -> None:
        """Refuse a comparison that says nothing: with the target of another metric, or in the wrong direction."""
        metric = METRICS[self.metric]
        if target.metric != self.metric:
            raise UsageError(
                f"a {metric.title} was compared with the target of another metric",
                came=f"the target of {METRICS[target.metric].title}, {target!r}",
                expected=f"the target of {metric.title}, or a number",
            )
        if metric.higher_is_better != (relation == ">="):
            sense = "higher is better: >=" if metric.higher_is_better else "lower is better: <="
            raise UsageError(f"a {metric.title} was compared the wrong way round", came=relation, expected=sense)

    def __repr__(self) -> str:
        metric = METRICS[self.metric]
        if self.interval is not None:
            text = "no value" if math.isnan(self.value) else metric.render(self.value)
            return f"{text} {self.interval.render(metric)}"
        return metric.render_measured(self.value, self.std)
