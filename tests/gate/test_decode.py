"""The decode verdict on recorded and on made-up pairs, and the policy that ends a comparison."""

import json
import math
import random
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.errors import H2OError, StoreError
from pytest_h2o.files import plain
from pytest_h2o.gate.decode import (
    FIT_SLACK,
    Budget,
    Noise,
    Pair,
    PairedComparison,
    RowSpeed,
    explain,
    judge,
    judge_median,
    judge_rows,
    measure_noise,
    next_action,
    plan_order,
    student_quantile,
)
from pytest_h2o.gate.sequential import MAX_PAIRS
from tests.sweeps import make_pair, make_pairs
from tests.told import error_text

RECORDED = Path(__file__).parents[2] / "fixtures" / "recordings" / "decode_pairs.json"
TARGET = 0.05


def slower_by(drop: float, pairs: int, spread: float = 0.03, seed: int = 1) -> list[Pair]:
    noise = np.random.default_rng(seed).normal(0.0, spread, (pairs, 2))
    speeds = (70.0 * np.exp(noise) * [1.0, 1.0 - drop]).tolist()
    return [make_pair(baseline, candidate) for baseline, candidate in speeds]


def test_the_recorded_launches_are_inconclusive() -> None:
    speeds = json.loads(RECORDED.read_text(encoding="utf-8"))
    verdict = judge([make_pair(off, on) for off, on in zip(speeds["h2o_off"], speeds["h2o_on"], strict=True)], TARGET)
    assert (verdict.outcome, verdict.pairs) == ("inconclusive", 10)
    assert verdict.drop == pytest.approx(-0.026, abs=0.001)
    assert (verdict.needed_pairs or 0) > 10


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
    assert verdict.low < verdict.drop < verdict.high
    assert verdict.drop == pytest.approx(drop, abs=0.04)
    assert (verdict.high < TARGET, verdict.low > TARGET) == (outcome == "pass", outcome == "fail")
    assert (verdict.needed_pairs is None) or outcome == "inconclusive"


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
    assert (1 - swapped.drop) * (1 - verdict.drop) == pytest.approx(1.0)


@pytest.mark.parametrize(("speed", "clear"), [(62, "fail"), (130, "pass")])
def test_a_comparison_that_is_given_up_stays_inconclusive_whatever_comes_after_it(speed: float, clear: str) -> None:
    """What would cross after it has no error left. The rule of version 1 looked at all pairs."""
    pairs = [make_pair(100, 95 + 8 * n) for n in range(-4, 5)]
    action = next_action(pairs, Budget(), TARGET)
    assert not action.launch
    assert action.reason == "the chance of a clear verdict within 20 pairs has fallen below 18%"
    now = replace(SOUND, pairs=(*pairs, *[make_pair(100, speed)] * 11))
    old = PairedComparison.from_json({**plain(now), "version": 1})
    assert (now.judge(TARGET).outcome, old.judge(TARGET).outcome) == ("inconclusive", clear)
    assert kept(old) == old


@pytest.mark.parametrize(
    ("budget", "spent", "pairs"),
    [
        (Budget(20, 60.0), (5.0, 5.0), 11),
        (Budget(20, 60.0), (5.0, 15.0), 9),
        (Budget(20, 60.0), (1.0, 1.0), 20),
        (Budget(20, 60.0), (100.0, 100.0), 1),
        (Budget(20, 60.0), (math.nan, 0.0), 20),
        (Budget(20, 100.0), (0.5, 0.5), 20),
        (Budget(20, 4.0), (0.5, 0.5), 1 + int(3.5 / (0.5 * FIT_SLACK))),
        (Budget(20, 0.1), (0.5, 0.5), 1),
        (Budget(20, 10.0), (0.0, 0.0), 20),
        (Budget(20, None), (5.0, 5.0), 20),
        (Budget(MAX_PAIRS, 0.25, 0), (0.0, 0.0), MAX_PAIRS),
    ],
)
def test_a_budget_of_time_is_fitted_to_the_first_pair(budget: Budget, spent: tuple[float, float], pairs: int) -> None:
    assert budget.fitted(*spent) == replace(budget, pairs=pairs)


@pytest.mark.parametrize(
    ("rows", "interval"),
    [
        ([(60.0, None, None), (54.0, None, None)], (57.0, 3.0 * 6.3138)),
        ([(60.0, 0.1, 3), (54.0, 0.1, 3)], (57.0, 3.0 * 6.3138)),
        ([(60.0, 30.0, 3), (60.0, 30.0, 3)], (60.0, math.sqrt(300 / 2) * 6.3138)),
        ([(60.0, 30.0, 3), (60.0, None, 3)], (60.0, 0.0)),
        ([(60.0, 3.0, 4)], (60.0, 1.5 * 2.3534)),
        ([(60.0, 0.2, 4)], (60.0, 0.1 * 2.3534)),
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


def test_the_log_ratio_is_positive_where_the_candidate_is_slower() -> None:
    assert make_pair(100.0, 80.0).log_ratio == pytest.approx(math.log(1.25))
    assert make_pair(80.0, 100.0).log_ratio == pytest.approx(-math.log(1.25))
    assert make_pair(1e300, 1e-300).log_ratio == pytest.approx(600 * math.log(10))


def test_an_excluded_pair_takes_no_part_and_is_listed() -> None:
    sound = slower_by(0.12, 10)
    bad = make_pair(70.0, math.nan, excluded="disturbed by another process")
    verdict = judge([*sound[:4], bad, *sound[4:]], TARGET)
    assert verdict == replace(judge(sound, TARGET), excluded=("pair 5: disturbed by another process",))


@given(st.integers(0, 200), st.integers(0, 2**63))
def test_the_order_is_balanced_after_every_pair(pairs: int, seed: int) -> None:
    order = plan_order(pairs, seed)
    assert len(order) == pairs
    assert set(order) <= {"AB", "BA"}
    lead = np.cumsum([1 if first == "AB" else -1 for first in order])
    assert all(abs(ahead) <= 1 for ahead in lead)
    assert all(ahead == 0 for ahead in lead[1::2])
    assert plan_order(2 * pairs, seed)[:pairs] == order  # drawn by the seed, from the front


def test_the_order_is_drawn() -> None:
    assert len({plan_order(20, seed) for seed in range(200)}) > 150
    assert 140 < sum(plan_order(1, seed) == ("AB",) for seed in range(400)) < 260


def draw_pairs(count: int, spread: float, excluded: int = 0) -> list[Pair]:
    draw = random.Random(7)
    speeds = [60 * draw.lognormvariate(0, spread) for _ in range(2 * count)]
    return [make_pair(speeds[2 * n], speeds[2 * n + 1], "unlike" if n < excluded else None) for n in range(count)]


def test_the_noise_of_a_bench_against_itself() -> None:
    noise = measure_noise(draw_pairs(40, 0.12))
    assert noise.launch_spread == pytest.approx(0.12, rel=0.15)
    assert noise.pair_spread == pytest.approx(0.12 * math.sqrt(2), rel=0.25)
    assert abs(noise.drop) < 0.06
    pairs = [make_pair(60 + n / 10, 54 + n / 10) for n in range(12)]
    slower = measure_noise(pairs)
    assert slower.drop == pytest.approx(0.1, abs=0.002)
    speeds = [math.log(speed) for n in range(12) for speed in (60 + n / 10, 54 + n / 10)]
    assert slower.launch_spread == pytest.approx(statistics.stdev(speeds))
    for one in (noise, Noise(0.0, 0.0, 0.0, 12)):
        assert Noise.from_json(json.loads(json.dumps(plain(one)))) == one


def test_more_pairs_lower_the_floor_and_too_few_have_none() -> None:
    noise = Noise(launch_spread=0.12, pair_spread=0.17, drop=0.0, pairs=20)
    floors = [noise.floor(pairs) for pairs in (10, 20, 30)]
    assert all(floor is not None for floor in floors)
    assert floors == sorted(floors, reverse=True)  # type: ignore[type-var]
    assert 0.08 < floors[1] < 0.13  # type: ignore[operator]
    assert noise.floor(3) is None
    assert Noise(0.0, 0.0, 0.0, 20).floor(20) == 0.0


@pytest.mark.parametrize("damage", [{"launch_spread": -0.1}, {"pair_spread": -0.1}, {"pairs": "x"}, {"version": 2}])
def test_a_damaged_calibration_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(StoreError, match="a calibration"):
        Noise.from_json({**plain(Noise(0.1, 0.1, 0.0, 8)), **damage})


SOUND = make_pairs("run_0001", 0.02)
UNLIKE = replace(
    SOUND.pairs[0], excluded="unlike contexts", candidate=replace(SOUND.pairs[0].candidate, disturbance="load")
)


def kept(comparison: PairedComparison) -> PairedComparison:
    return PairedComparison.from_json(json.loads(json.dumps(plain(comparison))))


def test_a_comparison_reads_back_with_its_order_its_disturbances_and_what_was_left_out() -> None:
    comparison = replace(SOUND, pairs=(*SOUND.pairs, UNLIKE), measured_again=("x",), notes=("n",), elapsed_s=3.5)
    assert kept(comparison) == comparison
    assert kept(comparison).judge(0.05) == comparison.judge(0.05)
    assert kept(comparison).judge(0.05).excluded == ("pair 13: unlike contexts",)
    with pytest.raises(StoreError, match=r"(?s)a paired comparison has another shape.*version"):
        PairedComparison.from_json({**plain(comparison), "version": 9})


def test_the_bounds_are_those_of_the_pairs_that_were_planned() -> None:
    """The error is spread over all looks of the plan: the same pairs prove less where more looks were to come."""
    few, many = (replace(SOUND, planned_pairs=planned).judge(0.05) for planned in (12, 40))
    assert (few.planned_pairs, many.planned_pairs) == (12, 40)
    assert many.high is None or many.high > few.high


@pytest.mark.parametrize(("speeds", "drop"), [([], None), ([(100.0, 50.0)], 0.5)])
def test_no_pair_and_one_bound_nothing(speeds: list[tuple[float, float]], drop: float | None) -> None:
    verdict = judge([make_pair(*pair) for pair in speeds], TARGET)
    assert (verdict.outcome, verdict.drop) == ("inconclusive", drop if drop is None else pytest.approx(drop))
    assert (verdict.low, verdict.high, verdict.needed_pairs) == (None, None, None)


SWAP = make_pair(70.0, 70.0, excluded="swap")


@pytest.mark.parametrize(
    ("pairs", "budget", "elapsed_s", "reason"),
    [
        (slower_by(0.5, 6), Budget(), 0.0, "the verdict is clear after 6 pairs"),
        (slower_by(0.05, 6), Budget(6), 0.0, "the budget of 6 pairs is spent"),
        ([], Budget(4), 0.0, "4 pairs can never give a verdict with 95.0% confidence: plan more"),
        ([SWAP] * 3, Budget(spare_pairs=2), 0.0, "3 pairs could not be compared, more than the 2 to spare"),
        (
            [SWAP] * 2,
            Budget(spare_pairs=2),
            0.0,
            "not one of the first 2 pairs could be compared, so more would not help",
        ),
        (
            slower_by(0.05, 4),
            Budget(elapsed_s=60),
            50.0,
            "another pair would not fit into the budget of 60 s (50.0 s are spent)",
        ),
    ],
)
def test_no_other_pair_is_launched_and_why(pairs: list[Pair], budget: Budget, elapsed_s: float, reason: str) -> None:
    action = next_action(pairs, budget, TARGET, elapsed_s=elapsed_s)
    assert (action.launch, action.reason) == (False, reason)


@pytest.mark.parametrize(
    ("pairs", "budget", "elapsed_s"),
    [
        ([SWAP], Budget(), 0.0),
        ([*slower_by(0.05, 1), SWAP, SWAP], Budget(spare_pairs=2), 0.0),
        (slower_by(0.05, 4), Budget(elapsed_s=60), 48.0),
        ([], Budget(20, 0.5), 0.0),  # the first one whatever its time may be
        ([make_pair(60.0, 60.0)], Budget(20, 2.0), 1.0),
    ],
)
def test_another_pair_is_launched(pairs: list[Pair], budget: Budget, elapsed_s: float) -> None:
    assert next_action(pairs, budget, TARGET, elapsed_s=elapsed_s).launch
    assert next_action([], Budget(), TARGET).reason == "not clear after 0 of 20 pairs"
    assert not next_action([make_pair(60.0, 60.0)], Budget(20, 2.0), TARGET, elapsed_s=1.01).launch


def test_what_a_verdict_says_of_its_plan() -> None:
    """An even machine, a drop of about 4 % against a target of 5 %: few pairs more would decide, not fewer."""
    noise = (0.00, 0.03, -0.02, 0.04, -0.03, 0.01)
    pairs = [make_pair(60.0, 60.0 * 0.96 * math.exp(n)) for n in noise]
    near, *others = (judge(pairs, target, planned_pairs=12) for target in (0.05, 0.20, -0.10))
    assert (near.outcome, near.planned_pairs, near.pairs) == ("inconclusive", 12, 6)
    assert near.needed_pairs >= 7
    # A target far from what was measured needs fewer pairs than one beside it, on either side.
    for far in others:
        assert far.outcome != "inconclusive" or (far.needed_pairs or 99) < near.needed_pairs


@pytest.mark.parametrize(
    "make",
    [
        *(
            lambda fields=fields: Budget(**fields)  # type: ignore[misc]
            for fields in ({"pairs": 0}, {"pairs": 201}, {"elapsed_s": 0.0}, {"spare_pairs": -1})
        ),
        *(lambda target=target: judge([], target) for target in (1.0, 5.0, math.nan, math.inf, -math.inf)),  # type: ignore[misc]
        lambda: judge(slower_by(0.0, 21), TARGET, planned_pairs=20),
        *(
            lambda speeds=speeds: judge([make_pair(*speeds)], TARGET)  # type: ignore[misc]
            for speeds in ((0.0, 70.0), (70.0, -1.0), (math.nan, 70.0), (70.0, math.inf))
        ),
        lambda: plan_order(-1, 0),
        lambda: measure_noise(draw_pairs(8, 0.1, excluded=3)),
        lambda: kept(replace(SOUND, pairs=(make_pair(0.0, 60.0),))),
    ],
)
def test_what_cannot_be_planned_or_judged_is_refused(make: Callable[[], object], snapshot: SnapshotAssertion) -> None:
    assert error_text(H2OError, make) == snapshot


FEW = replace(make_pairs("r", 0.02, count=2), stopped="no time is left")


ODD = replace(FEW, pairs=(*FEW.pairs, UNLIKE))


CONTRADICTING = replace(SOUND, pairs=(*make_pairs("r", 0.4, 8).pairs, *make_pairs("r", -9.0, 12).pairs))


@pytest.mark.parametrize(
    ("comparison", "needed"),
    [
        (replace(SOUND, measured_again=("pair 2 for load",), notes=("one more thing",)), None),
        (ODD, None),
        (replace(ODD, measured_again=("pair 2 for load", "pair 2 for swapping")), None),
        (FEW, 30),
        (FEW, 300),
        (replace(SOUND, pairs=(UNLIKE, UNLIKE), stopped="more would not help"), None),
        (CONTRADICTING, None),
        (replace(CONTRADICTING, stopped=CONTRADICTING.judge(0.05).note or ""), None),
    ],
)
def test_what_is_said_of_a_comparison(
    comparison: PairedComparison, needed: int | None, snapshot: SnapshotAssertion
) -> None:
    """The pairs that would decide, disturbed and excluded launches, notes; nothing of it twice."""
    verdict = comparison.judge(0.05)
    assert explain(comparison, replace(verdict, needed_pairs=needed or verdict.needed_pairs)) == snapshot
