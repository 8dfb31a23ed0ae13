"""Values that are held against targets: by their own, by an interval, and what cannot be compared."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pytest_h2o.errors import UsageError
from pytest_h2o.gate.metrics import METRICS
from pytest_h2o.gate.values import Comparison, Interval, Measured, Target

LOSSY, DROP = "h2o_lossy", "decode_drop"


@pytest.mark.parametrize(
    ("metric", "value", "target", "outcome", "margin"),
    [
        (LOSSY, 3.0, 3.0, "pass", 0.0),
        (LOSSY, math.nextafter(3.0, 0), 3.0, "fail", 0.0),
        (LOSSY, 2.961, 3.0, "fail", -0.039),
        (LOSSY, math.nan, 3.0, "fail", math.nan),
        (LOSSY, 1.1, None, "reported", None),
        (DROP, 0.05, 0.05, "pass", 0.0),
        (DROP, math.nextafter(0.05, 1), 0.05, "fail", 0.0),
        (DROP, 0.07, 0.05, "fail", -0.02),
        (DROP, -0.5, 0.05, "pass", 0.55),
        (DROP, math.nan, 0.05, "fail", math.nan),
    ],
)
def test_a_target_is_met_by_its_own_value_and_by_nothing_worse(
    metric: str, value: float, target: float | None, outcome: str, margin: float | None
) -> None:
    seen: list[Comparison] = []
    measured, asked = Measured(metric, value, "row", on_compare=seen.append), Target(metric, target, "here")
    assert (measured >= asked if metric == LOSSY else measured <= asked) is (outcome != "fail")
    (kept,) = seen
    assert (kept.relation, kept.outcome, kept.target) == (">=" if metric == LOSSY else "<=", outcome, asked)
    assert kept.margin == (None if margin is None else pytest.approx(margin, abs=1e-12, nan_ok=True))


def test_a_number_in_a_gate_file_is_a_target() -> None:
    seen: list[Comparison] = []
    assert not Measured(DROP, 0.07, "row", on_compare=seen.append) <= 0.05
    assert Measured(LOSSY, 2.961, "row", on_compare=seen.append) >= 2.5
    assert [comparison.target for comparison in seen] == [
        Target(DROP, 0.05, "gate file"),
        Target(LOSSY, 2.5, "gate file"),
    ]
    assert seen[1].relative_margin == pytest.approx(0.461 / 2.5)


@pytest.mark.parametrize(
    ("low", "high", "relation", "outcome"),
    [
        (0.06, 0.09, "<=", "fail"),
        (0.01, 0.04, "<=", "pass"),
        (0.01, 0.09, "<=", "inconclusive"),
        (0.05, 0.09, "<=", "inconclusive"),
        (0.01, 0.05, "<=", "inconclusive"),
        (None, 0.06, "<=", "inconclusive"),
        (0.06, None, "<=", "fail"),
        (0.06, None, ">=", "pass"),
        (None, 0.04, ">=", "fail"),
        (None, None, ">=", "inconclusive"),
    ],
)
def test_an_interval_decides_only_where_the_target_lies_outside_it(
    low: float | None, high: float | None, relation: str, outcome: str
) -> None:
    """Whatever the value is; what is inconclusive holds, unless it was asked to fail."""
    metric = DROP if relation == "<=" else LOSSY
    usual = Interval(low, high, "inconclusive", 0.5, "pairs")
    for value, fails, interval in ((0.0, False, usual), (math.nan, True, replace(usual, inconclusive_fails=True))):
        seen: list[Comparison] = []
        measured = Measured(metric, value, "row", interval=interval, on_compare=seen.append)
        holds = measured <= 0.05 if relation == "<=" else measured >= 0.05
        assert holds is (outcome == "pass" or (outcome == "inconclusive" and not fails))
        assert [comparison.outcome for comparison in seen] == [outcome]


def test_an_interval_says_of_its_own_target_what_was_decided() -> None:
    for outcome in ("pass", "fail"):
        interval = Interval(0.01, 0.09, outcome, 0.05, "12 pairs")
        assert interval.judge("<=", 0.05) == outcome
        assert interval.judge("<=", 0.06) == "inconclusive"
    assert Measured(DROP, 0.9, "row", interval=interval) <= Target(DROP, None, "preset")


def test_a_comparison_that_says_nothing_is_refused() -> None:
    lossy = Measured(LOSSY, 3.0, "run_0001")
    with pytest.raises(UsageError, match="a lossy ratio is neither true nor false"):
        bool(lossy)
    with pytest.raises(UsageError, match="compared with the target of another metric"):
        _ = lossy >= Target(DROP, 0.05, "default")
    with pytest.raises(UsageError) as caught:
        _ = lossy <= 3.0
    assert str(caught.value) == (
        "a lossy ratio was compared the wrong way round\n  came: <=\n  expected: higher is better: >="
    )
    with pytest.raises(UsageError, match=r"(?s)\n  came: >=\n  expected: lower is better: <=$"):
        _ = Measured(DROP, 0.0, "row") >= 0.05


def test_values_and_targets_are_shown_with_their_spread_or_what_they_rest_on() -> None:
    intervals = [
        Measured(DROP, value, "row", interval=Interval(low, high, "inconclusive", 0.05, "2 pairs"))
        for value, low, high in ((0.03, -0.02, 0.08), (0.03, None, 0.08), (math.nan, None, None))
    ]
    shown: list[object] = [Measured(LOSSY, 2.961, "row", 0.026), Measured(DROP, 0.07, "row"), *intervals]
    assert [repr(value) for value in (*shown, Target(DROP, 0.05, ""), Target(DROP, None, ""))] == [
        "2.961 ± 0.026",
        "7.00%",
        "3.00% (interval -2.00% to 8.00%, 2 pairs)",
        "3.00% (interval unbounded to 8.00%, 2 pairs)",
        "no value (no interval, 2 pairs)",
        "5.00%",
        "no target",
    ]
    metric = METRICS[LOSSY]
    assert metric.render_measured(2.9996, 0.02, 3.0) == "2.9996 ± 0.020"  # apart from a target that it differs from
    assert metric.render_measured(3.0, None, 3.0) == "3.000"
    assert [metric.render_gap(gap) for gap in (0.0, 0.00004)] == ["0.000", "0.00004"]
