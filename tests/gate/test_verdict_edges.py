"""The edges of every verdict: where it turns, and by how little; each case is one that a changed line would pass."""

from __future__ import annotations

import math

import pytest

from pytest_h2o.errors import UsageError
from pytest_h2o.gate.compare import Allowances, FigureChange, parse_allowances
from pytest_h2o.gate.decode import FIT_SLACK, Budget, judge, next_action
from pytest_h2o.gate.metrics import METRICS
from pytest_h2o.gate.rule import (
    Bound,
    decide_best_of,
    decide_joint,
    decode_drop,
    find_bound,
)
from pytest_h2o.gate.sequential import FAIL_POWER, MAX_PAIRS, critical_counts, fixed_count, signed_rank_tail
from pytest_h2o.gate.values import Interval, Measured, Target
from tests.sweeps import make_asked, make_facts, make_pair

LOSSY, DROP = "h2o_lossy", "decode_drop"


@pytest.mark.parametrize(
    ("value", "relation", "outcome"),
    [(3.0, ">=", "pass"), (math.nextafter(3.0, 0), ">=", "fail"), (math.nan, ">=", "fail")],
)
def test_a_target_is_met_by_its_own_value_and_by_nothing_below(value: float, relation: str, outcome: str) -> None:
    assert Measured(LOSSY, value, "row").judge(">=", Target(LOSSY, 3.0, "here")) == outcome


@pytest.mark.parametrize(
    ("value", "holds"), [(0.05, True), (math.nextafter(0.05, 1), False), (-0.5, True), (math.nan, False)]
)
def test_a_drop_is_held_by_its_target_and_by_nothing_above(value: float, holds: bool) -> None:
    seen = []
    measured = Measured(DROP, value, "row", on_compare=seen.append)
    assert (measured <= 0.05) is holds
    assert [(c.relation, c.target.origin, c.target.value) for c in seen] == [("<=", "gate file", 0.05)]


@pytest.mark.parametrize(
    ("low", "high", "relation", "outcome"),
    [
        (0.06, 0.09, "<=", "fail"),
        (0.01, 0.04, "<=", "pass"),
        (0.01, 0.09, "<=", "inconclusive"),
        (0.05, 0.09, "<=", "inconclusive"),
        (0.01, 0.05, "<=", "inconclusive"),
        (0.06, None, ">=", "pass"),
        (None, 0.04, ">=", "fail"),
        (None, None, ">=", "inconclusive"),
    ],
)
def test_an_interval_decides_only_where_the_target_lies_outside_it(
    low: float | None, high: float | None, relation: str, outcome: str
) -> None:
    interval = Interval(low, high, "inconclusive", decided_for=0.5, basis="pairs")
    assert interval.judge(relation, 0.05) == outcome  # type: ignore[arg-type]
    metric = DROP if relation == "<=" else LOSSY
    measured = Measured(metric, 0.0, "row", interval=interval)
    assert measured.judge(relation, Target(metric, 0.05, "here")) == outcome  # type: ignore[arg-type]
    holds = measured <= 0.05 if relation == "<=" else measured >= 0.05
    assert holds is (outcome != "fail")


def test_a_comparison_the_wrong_way_round_says_both() -> None:
    with pytest.raises(UsageError) as caught:
        _ = Measured(LOSSY, 3.0, "row") <= 3.0
    assert str(caught.value) == (
        "a lossy ratio was compared the wrong way round\n  came: <=\n  expected: higher is better: >="
    )
    with pytest.raises(UsageError) as caught:
        _ = Measured(DROP, 0.0, "row") >= 0.05
    assert str(caught.value).endswith("\n  came: >=\n  expected: lower is better: <=")


def test_a_slow_baseline_is_a_baseline() -> None:
    assert decode_drop(0.5, 0.4) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="must be a positive number"):
        decode_drop(0.0, 1.0)


def test_margins_are_fractions_of_their_target() -> None:
    """A row that misses a target of 4 by a fifth of it ranks behind one that misses by a tenth."""
    verdict = decide_joint([make_facts("row", 3.2, lossless=1.5)], make_asked(lossy=4.0, lossless=1.25))
    assert verdict.best is not None
    assert verdict.best.by_metric == {LOSSY: pytest.approx(-0.2), "lossless_ratio": pytest.approx(0.2)}
    assert not verdict.passed


def test_the_best_of_rule_names_its_rows_and_its_drop() -> None:
    rows = [make_facts("a", 3.5, 40.0, baseline=60.0), make_facts("b", 2.0, 59.0, baseline=60.0)]
    verdict = decide_best_of(rows, make_asked(lossy=3.0, decode_drop=0.05))
    assert verdict.rows == {LOSSY: rows[0], DROP: rows[1]}
    assert verdict.margins.by_metric[DROP] == pytest.approx(0.05 - 1 / 60)
    assert verdict.passed


def test_allowances() -> None:
    allowances = parse_allowances(["lossless_ratio:0", "h2o_lossy:2%"], "ini key")
    assert allowances == Allowances({"lossless_ratio": 0.0, "h2o_lossy": 2.0}, "ini key")
    assert allowances.find("no such metric") is None


def test_which_limit_binds() -> None:
    assert find_bound(1.0, 1.0, 1.0) == Bound("floor", 1.0)
    assert find_bound(0.4, 0.4, 0.3) == Bound("floor", 0.4)
    assert find_bound(0.3, 0.4, 0.2) == Bound("target", 0.4)
    assert find_bound(0.3, 0.2, 0.4) == Bound("block quantisation", 0.4)
    assert find_bound(0.2, 0.3, 0.3) == Bound("target", 0.3)
    assert find_bound(0.0, 0.3, 0.3) is None
    assert Bound("target", 0.25).could_pass(4.0 * 1.01)
    assert not Bound("target", 0.25).could_pass(math.nextafter(4.0 * 1.01, 5))


def test_critical_counts_are_those_of_the_definition() -> None:
    """Not from a cache. After n pairs at most n (n + 1) / 2 averages can lie on one side."""
    for pairs in (6, 9):
        counts = critical_counts(pairs, 0.05, FAIL_POWER)
        assert len(counts) == pairs
        assert counts[0] is None
        assert counts[-1] is not None
        for n, count in enumerate(counts, start=1):
            assert count is None or n * (n + 1) // 4 < count <= n * (n + 1) // 2
            if count is not None:
                assert signed_rank_tail(n)[count] <= 0.05
    # Spread over looks each bound is at least as strict as with one look.
    last, alone = critical_counts(9, 0.05, FAIL_POWER)[-1], fixed_count(9, 0.05)
    assert last is not None
    assert alone is not None
    assert last >= alone
    assert fixed_count(5, 1 / 32) == 15  # exactly alpha is enough: the largest count has a tail of 2 to the -5
    assert fixed_count(5, 1 / 33) is None


def test_budgets_at_their_edges() -> None:
    assert Budget(MAX_PAIRS, 0.25, 0).pairs == MAX_PAIRS
    assert Budget(20, 100.0).fitted(0.5, 0.5).pairs == 20
    assert Budget(20, 4.0).fitted(0.5, 0.5).pairs == 1 + int(3.5 / (0.5 * FIT_SLACK))
    assert Budget(20, 0.1).fitted(0.5, 0.5).pairs == 1
    assert Budget(20, 10.0).fitted(0.0, 0.0) == Budget(20, 10.0)
    assert Budget(20, None).fitted(0.5, 0.5) == Budget(20, None)


def test_the_first_pair_is_launched_whatever_its_time_may_be() -> None:
    assert next_action([], Budget(20, 0.5), 0.05).launch
    one = [make_pair(60.0, 60.0)]
    assert next_action(one, Budget(20, 2.0), 0.05, elapsed_s=1.0).launch
    assert not next_action(one, Budget(20, 2.0), 0.05, elapsed_s=1.01).launch


def test_what_a_verdict_says_of_its_plan() -> None:
    """An even machine, a drop of about 4 % against a target of 5 %: few pairs more would decide, not fewer."""
    noise = (0.00, 0.03, -0.02, 0.04, -0.03, 0.01)
    pairs = [make_pair(60.0, 60.0 * 0.96 * math.exp(n)) for n in noise]
    verdict = judge(pairs, 0.05, planned_pairs=12)
    assert (verdict.outcome, verdict.planned_pairs, verdict.pairs) == ("inconclusive", 12, 6)
    near = verdict.needed_pairs
    assert near is not None
    assert near >= 7
    # A target far from what was measured needs fewer pairs than one beside it, on either side.
    far = judge(pairs, 0.20, planned_pairs=12)
    assert far.outcome != "inconclusive" or (far.needed_pairs is not None and far.needed_pairs < near)
    below = judge(pairs, -0.10, planned_pairs=12)
    assert below.outcome != "inconclusive" or (below.needed_pairs is not None and below.needed_pairs < near)


def test_margins_of_the_best_of_each_column() -> None:
    rows = [make_facts(*row, baseline=60.0, lossless=1.5) for row in (("a", 3.6, 40.0, 0.03), ("b", 2.0, 57.0, 0.01))]
    asked = make_asked(lossy=3.0, decode_drop=0.10, quality=0.02, lossless=1.25)
    best = decide_best_of([*rows, make_facts("c", None, lossless=1.5)], asked).margins
    assert best.run_id == "best of each column"
    assert list(best.by_metric.values()) == [pytest.approx(margin) for margin in (0.2, 0.05, 0.01, 0.2)]
    none = decide_best_of([], asked).margins
    assert set(none.by_metric.values()) == {-math.inf}


@pytest.mark.parametrize(
    ("then", "now", "percent"), [(2.0, 3.0, 50.0), (2.0, 1.0, -50.0), (-2.0, -1.0, 50.0), (None, 1.0, None)]
)
def test_change_in_percent_has_its_sign(then: float | None, now: float, percent: float | None) -> None:
    assert FigureChange("row", LOSSY, then, now, "equal").percent == percent
    assert FigureChange("row", LOSSY, 0.0, now, "equal").percent is None
    assert FigureChange("row", LOSSY, 1.0, None, "missing").percent is None


def test_a_value_is_shown_apart_from_a_target_that_it_differs_from() -> None:
    metric = METRICS[LOSSY]
    assert metric.render_measured(2.9996, 0.02, 3.0) == "2.9996 ± 0.020"
    assert metric.render_measured(3.0, None, 3.0) == "3.000"
    assert metric.render_gap(0.0) == "0.000"
    assert metric.render_gap(0.00004) == "0.00004"


@pytest.mark.parametrize(
    ("rises", "target", "holds"),
    [
        ((0.03, 0.02), 0.02, True),
        ((0.03, 0.021), 0.02, False),
        ((-0.01, 0.5), 0.0, True),
        ((None, 0.01), 0.02, True),
        ((None, None), 0.02, False),
        ((0.9, 0.9), None, None),
    ],
)
def test_the_best_of_rule_takes_the_smallest_rise_of_perplexity(
    rises: tuple[float | None, ...], target: float | None, holds: bool | None
) -> None:
    rows = [make_facts(f"row {n}", 3.0, rise=rise) for n, rise in enumerate(rises)]
    verdict = decide_best_of(rows, make_asked(lossy=3.0, quality=target))
    assert verdict.passed is (holds is not False)
    assert verdict.margins.missed == (("quality",) if holds is False else ())


def test_the_joint_rule_asks_one_row_for_quality_too() -> None:
    """Each row meets one of the two targets; together they would pass."""
    rows = [make_facts("dense", 3.2, rise=0.05), make_facts("sound", 2.8, rise=0.01)]
    asked = make_asked(lossy=3.0, quality=0.02)
    verdict = decide_joint(rows, asked)
    assert not verdict.passed
    margins = [row.by_metric["quality_ppl_rise"] for row in verdict.rows]
    assert margins == [pytest.approx(-0.03), pytest.approx(0.01)]
    assert decide_best_of(rows, asked).passed
    assert decide_joint([*rows, make_facts("both", 3.0, rise=0.02)], asked).passed
    assert not decide_joint([make_facts("unknown", 9.0)], asked).passed
