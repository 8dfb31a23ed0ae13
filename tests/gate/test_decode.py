"""The decode verdict on recorded and on made-up pairs, and the policy that ends a comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h2o.errors import UsageError
from pytest_h2o.gate.decode import (
    Budget,
    DecodeVerdict,
    Pair,
    RowSpeed,
    judge,
    judge_median,
    judge_rows,
    next_action,
    student_quantile,
)
from tests.sweeps import make_pair

RECORDED = Path(__file__).parents[2] / "fixtures" / "recordings" / "decode_pairs.json"
TARGET = 0.05


def slower_by(drop: float, pairs: int, spread: float = 0.03, seed: int = 1) -> list[Pair]:
    noise = np.random.default_rng(seed).normal(0.0, spread, (pairs, 2))
    speeds = (70.0 * np.exp(noise) * [1.0, 1.0 - drop]).tolist()
    return [make_pair(baseline, candidate) for baseline, candidate in speeds]


@pytest.fixture
def recorded() -> list[Pair]:
    speeds = json.loads(RECORDED.read_text(encoding="utf-8"))
    return [make_pair(off, on) for off, on in zip(speeds["h2o_off"], speeds["h2o_on"], strict=True)]


def test_the_recorded_launches_are_inconclusive(recorded: list[Pair]) -> None:
    verdict = judge(recorded, TARGET)
    assert verdict.outcome == "inconclusive"
    assert verdict.pairs == 10
    assert verdict.drop == pytest.approx(-0.026, abs=0.001)
    assert verdict.needed_pairs is not None
    assert verdict.needed_pairs > 10


def test_recorded_launches_against_slowed_ones_fail_despite_their_outlier() -> None:
    speeds = json.loads(RECORDED.read_text(encoding="utf-8"))["h2o_off"]
    rolled = speeds[3:] + speeds[:3]
    assert judge([make_pair(a, b * 0.7) for a, b in zip(speeds, rolled, strict=True)], TARGET).outcome == "fail"
    same = judge([make_pair(a, b) for a, b in zip(speeds * 2, rolled * 2, strict=True)], TARGET)
    assert (same.outcome, same.pairs) == ("pass", 20)


@pytest.mark.parametrize(
    ("drop", "outcome"), [(0.0, "pass"), (-0.3, "pass"), (0.05, "inconclusive"), (0.12, "fail"), (0.5, "fail")]
)
def test_the_outcome_is_that_of_the_interval(drop: float, outcome: str) -> None:
    verdict = judge(slower_by(drop, 20), TARGET)
    assert verdict.outcome == outcome
    assert verdict.low is not None
    assert verdict.drop is not None
    assert verdict.high is not None
    assert verdict.low < verdict.drop < verdict.high
    assert verdict.drop == pytest.approx(drop, abs=0.04)
    assert (verdict.high < TARGET, verdict.low > TARGET) == (outcome == "pass", outcome == "fail")
    assert (verdict.needed_pairs is None) or outcome == "inconclusive"


def test_without_pairs_nothing_is_known() -> None:
    verdict = judge([], TARGET)
    assert (verdict.outcome, verdict.drop, verdict.low, verdict.high) == ("inconclusive", None, None, None)


def test_one_pair_bounds_nothing() -> None:
    verdict = judge([make_pair(100.0, 50.0)], TARGET)
    assert (verdict.outcome, verdict.drop) == ("inconclusive", pytest.approx(0.5))
    assert (verdict.low, verdict.high, verdict.needed_pairs) == (None, None, None)


def test_a_clear_verdict_stays_whatever_comes_after_it() -> None:
    pairs = slower_by(0.4, 8)
    assert judge(pairs, TARGET).outcome == "fail"
    assert judge([*pairs, *slower_by(0.0, 3, seed=2)], TARGET).outcome == "fail"


def test_pairs_that_contradict_each_other_are_no_verdict() -> None:
    action = next_action([*slower_by(0.4, 7), *slower_by(-9, 13)], Budget(), TARGET)
    verdict = action.verdict
    assert (verdict.outcome, verdict.low, verdict.high, verdict.needed_pairs) == ("inconclusive", None, None, None)
    note = "earlier and later pairs contradict each other: the machine or a side has changed meanwhile"
    assert verdict.note == note
    assert (action.launch, action.reason) == (False, note)


def test_excluded_pairs_change_nothing_but_the_list() -> None:
    sound = slower_by(0.12, 10)
    bad = make_pair(70.0, 700.0, excluded="disturbed by another process")
    with_bad = judge([*sound[:4], bad, *sound[4:]], TARGET)
    without = judge(sound, TARGET)
    assert with_bad.excluded == ("pair 5: disturbed by another process",)
    assert (with_bad.drop, with_bad.low, with_bad.high, with_bad.pairs) == (
        without.drop,
        without.low,
        without.high,
        without.pairs,
    )


def test_equal_values_without_any_noise_are_judged() -> None:
    assert judge([make_pair(70.0, 70.0)] * 10, TARGET).outcome == "pass"
    assert judge([make_pair(70.0, 35.0)] * 10, TARGET).outcome == "fail"
    on_target = judge([make_pair(100.0, 95.0)] * 10, 0.0)
    assert (on_target.outcome, on_target.low) == ("fail", pytest.approx(0.05))
    undecidable = judge([make_pair(100.0, 100.0)] * 10, 0.0)
    assert (undecidable.outcome, undecidable.needed_pairs) == ("inconclusive", None)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.01, 0.3), st.floats(-0.3, 0.5), st.integers(1, 20))
def test_units_do_not_matter_and_the_sides_are_opposites(seed: int, spread: float, drop: float, pairs: int) -> None:
    measured = slower_by(drop, pairs, spread, seed)
    speeds = [(pair.baseline.decode_tok_per_s, pair.candidate.decode_tok_per_s) for pair in measured]
    verdict = judge(measured, TARGET)
    scaled = judge([make_pair(a * 1000, b * 1000) for a, b in speeds], TARGET)
    assert scaled.outcome == verdict.outcome
    assert scaled.drop == pytest.approx(verdict.drop, abs=1e-9)
    swapped = judge([make_pair(b, a) for a, b in speeds], TARGET)
    assert swapped.drop is not None
    assert verdict.drop is not None
    assert (1 - swapped.drop) * (1 - verdict.drop) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("make", "launch", "reason"),
    [
        (lambda: next_action([], Budget(), TARGET), True, "not clear after 0 of 20 pairs"),
        (lambda: next_action(slower_by(0.5, 6), Budget(), TARGET), False, "the verdict is clear after 6 pairs"),
        (lambda: next_action(slower_by(0.05, 6), Budget(6), TARGET), False, "the budget of 6 pairs is spent"),
        (
            lambda: next_action([], Budget(pairs=4), TARGET),
            False,
            "4 pairs can never give a verdict with 95.0% confidence: plan more",
        ),
        (
            lambda: next_action([make_pair(70.0, 70.0, excluded="swap")] * 3, Budget(spare_pairs=2), TARGET),
            False,
            "3 pairs could not be compared, more than the 2 to spare",
        ),
        (
            lambda: next_action([make_pair(70.0, 70.0, excluded="swap")] * 2, Budget(spare_pairs=2), TARGET),
            False,
            "not one of the first 2 pairs could be compared, so more would not help",
        ),
        (lambda: next_action([make_pair(70.0, 70.0, excluded="swap")], Budget(), TARGET), True, None),
        (
            lambda: next_action(
                [*slower_by(0.05, 1), *[make_pair(70.0, 70.0, excluded="swap")] * 2], Budget(spare_pairs=2), TARGET
            ),
            True,
            None,
        ),
        (
            lambda: next_action(slower_by(0.05, 4), Budget(elapsed_s=60), TARGET, elapsed_s=50.0),
            False,
            "another pair would not fit into the budget of 60 s (50.0 s are spent)",
        ),
        (lambda: next_action(slower_by(0.05, 4), Budget(elapsed_s=60), TARGET, elapsed_s=48.0), True, None),
    ],
)
def test_the_next_action_and_its_reason(make: Callable[[], object], launch: bool, reason: str | None) -> None:
    action = make()
    assert (action.launch, action.reason if reason else None) == (launch, reason)  # type: ignore[attr-defined]


def test_a_hopeless_comparison_ends_early_unless_told_otherwise() -> None:
    pairs = slower_by(0.05, 16, spread=0.12, seed=3)
    action = next_action(pairs, Budget(), TARGET)
    assert not action.launch
    assert action.reason.startswith("the chance of a clear verdict within 20 pairs has fallen to ")
    assert action.verdict.outcome == "inconclusive"
    assert next_action(pairs, Budget(futility=0.0), TARGET).launch


def test_hope_is_not_given_up_before_eight_pairs() -> None:
    seven, eight = (next_action(slower_by(0.05, n, spread=0.12, seed=0), Budget(pairs=9), TARGET) for n in (7, 8))
    assert seven.launch
    assert eight.reason.startswith("the chance of a clear verdict within 9 pairs has fallen to ")


def test_a_budget_of_time_is_fitted_to_the_first_pair() -> None:
    assert Budget(pairs=20, elapsed_s=60.0).fitted(5.0, 5.0) == Budget(pairs=11, elapsed_s=60.0)
    assert Budget(pairs=20, elapsed_s=60.0).fitted(5.0, 15.0).pairs == 9
    assert Budget(pairs=20, elapsed_s=60.0).fitted(1.0, 1.0).pairs == 20
    assert Budget(pairs=20, elapsed_s=60.0).fitted(100.0, 100.0).pairs == 1
    assert Budget(pairs=20).fitted(5.0, 5.0) == Budget(pairs=20)
    assert Budget(pairs=20, elapsed_s=60.0).fitted(math.nan, 0.0).pairs == 20


@pytest.mark.parametrize(
    ("make", "came", "expected"),
    [
        (lambda: Budget(pairs=0), "pairs = 0", "1 to 200"),
        (lambda: Budget(pairs=201), "pairs = 201", "1 to 200"),
        (lambda: Budget(elapsed_s=0.0), "elapsed_s = 0.0", "a positive number of seconds, or None"),
        (lambda: Budget(spare_pairs=-1), "spare_pairs = -1", "0 or more"),
        (lambda: Budget(futility=0.5), "futility = 0.5", "a probability from 0 to below 0.5"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(make: Callable[[], Budget], came: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert str(caught.value) == f"a decode budget that cannot be kept\n  came: {came}\n  expected: {expected}"


@pytest.mark.parametrize("target", [1.0, 5.0, math.nan, math.inf, -math.inf])
def test_a_target_that_is_no_fraction_is_refused(target: float) -> None:
    with pytest.raises(UsageError) as caught:
        judge([], target)
    assert str(caught.value) == (
        "the target of a decode comparison is not a fraction of speed that may be lost\n"
        f"  came: {target!r}\n  expected: a number below 1, such as 0.05 for 5 %"
    )


def test_more_pairs_than_planned_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        judge(slower_by(0.0, 21), TARGET, planned_pairs=20)
    assert str(caught.value) == (
        "more pairs were compared than were planned, so the error rates of the verdict are not known\n"
        "  came: 21 pairs\n  expected: 20 at most\n"
        "  next: fix the number of pairs before the first one, and start a new comparison for more"
    )


def test_a_verdict_is_plain_data() -> None:
    verdict = judge(slower_by(0.2, 10), TARGET)
    assert isinstance(verdict, DecodeVerdict)
    assert json.loads(json.dumps(vars(verdict)))["outcome"] == "fail"


@pytest.mark.parametrize(
    ("rows", "interval"),
    [
        ([(60.0, None, None), (54.0, None, None)], (57.0, 3.0 * 6.3138)),
        ([(60.0, 0.1, 3), (54.0, 0.1, 3)], (57.0, 3.0 * 6.3138)),
        ([(60.0, 30.0, 3), (60.0, 30.0, 3)], (60.0, math.sqrt(300 / 2) * 6.3138)),
        ([(60.0, 30.0, 3), (60.0, None, 3)], (60.0, 0.0)),
        ([(60.0, 3.0, 4)], (60.0, 1.5 * 2.3534)),
        ([(60.0, 0.0, 1)], None),
        ([(60.0, None, 3)], None),
        ([(60.0, 0.0, None)], None),
    ],
)
def test_the_mean_of_rows_has_the_interval_of_its_spread_or_of_the_repeats(
    rows: list[tuple[float, float | None, int | None]], interval: tuple[float, float] | None
) -> None:
    """The larger of the two, in tok/s against 60; Student's quantile at 95 % is 6.31 at 1 degree, 2.35 at 3."""
    verdict = judge_rows([RowSpeed(*row) for row in rows], 60.0, 0.05)
    assert verdict.pairs == len(rows)
    assert verdict.basis == ("1 row" if len(rows) == 1 else f"{len(rows)} rows")
    if interval is None:
        assert (verdict.low, verdict.high, verdict.outcome) == (None, None, "inconclusive")
        return
    mean, half = interval
    assert verdict.drop == pytest.approx(1 - mean / 60)
    assert verdict.low == pytest.approx(1 - (mean + half) / 60, abs=1e-5)
    assert verdict.high == pytest.approx(1 - (mean - half) / 60, abs=1e-5)


@pytest.mark.parametrize(("drop", "outcome"), [(0.05, "pass"), (0.0499, "pass"), (0.0501, "fail"), (-0.3, "pass")])
def test_rows_without_any_spread_are_held_to_the_digit(drop: float, outcome: str) -> None:
    assert judge_rows([RowSpeed(100 * (1 - drop))] * 3, 100.0, 0.05).outcome == outcome


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 6.313752), (2, 2.919986), (3, 2.353363), (4, 2.131847), (5, 2.015048), (17, 1.739607), (26, 1.705618)],
)
def test_quantiles_of_student_are_those_of_the_tables(degrees: int, quantile: float) -> None:
    assert student_quantile(0.95, degrees) == pytest.approx(quantile, abs=1e-6)


@pytest.mark.parametrize(
    ("speeds", "interval"),
    [
        ([60.0, 61.0, 62.0, 63.0], None),
        ([60.0, 61.0, 62.0, 63.0, 64.0], (60.0, 64.0)),
        ([60.0, 61.0, 62.0, 63.0, 64.0, 90.0, 30.0, 61.5], (60.0, 64.0)),
    ],
)
def test_the_median_of_rows_has_the_interval_of_the_sign_test(
    speeds: list[float], interval: tuple[float, float] | None
) -> None:
    """One row in 2^5 = 3.1 % lies beyond all of five; two of eight beyond the second, 3.5 %."""
    verdict = judge_median([RowSpeed(speed) for speed in speeds], 100.0, 0.05)
    bounds = None if verdict.low is None or verdict.high is None else (1 - verdict.high, 1 - verdict.low)
    assert bounds == (None if interval is None else pytest.approx(tuple(speed / 100 for speed in interval)))
    assert verdict.outcome == ("inconclusive" if interval is None else "fail")
