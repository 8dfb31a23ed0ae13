"""Critical values: exact tails, and no plan that crosses more often than it promises."""

import itertools
import math
import statistics

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h2o.errors import UsageError
from pytest_h2o.gate.decode import DEFAULT_CONFIDENCE
from pytest_h2o.gate.sequential import (
    GIVES_UP,
    LOOKS_AT_ALL,
    Rule,
    fixed_count,
    look_at,
    make_plan,
    normal_quantile,
    pairs_for_verdict,
    signed_rank_tail,
    walsh_averages,
)
from pytest_h2o.inputs.options import LEAST_DECODE_PAIRS


def signed_rank_after_every_pair(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Sums of the ranks of the positive values after 1 ... n of them: `[comparisons, n]`, the textbook way."""
    sums = np.zeros(values.shape, dtype=np.int64)
    for n in range(1, values.shape[1] + 1):
        ranks = np.abs(values[:, :n]).argsort(axis=1).argsort(axis=1) + 1
        sums[:, n - 1] = (ranks * (values[:, :n] > 0)).sum(axis=1)
    return sums


@pytest.mark.parametrize("pairs", [1, 4, LEAST_DECODE_PAIRS - 1, LEAST_DECODE_PAIRS])
def test_the_fewest_pairs_that_can_be_asked_for_are_those_that_can_decide(pairs: int) -> None:
    plan = make_plan(pairs, DEFAULT_CONFIDENCE)
    can = pairs >= LEAST_DECODE_PAIRS
    assert plan.can_decide == can
    assert any(count is not None for count in plan.fail_counts) == can
    assert any(count is not None for count in plan.pass_counts) == can
    assert (plan.final_z == (math.inf, math.inf)) == (not can)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 10])
def test_the_tail_is_that_of_all_signs_counted_out(n: int) -> None:
    sums = [sum(itertools.compress(range(1, n + 1), signs)) for signs in itertools.product((0, 1), repeat=n)]
    expected = [np.mean(np.array(sums) >= w) for w in range(n * (n + 1) // 2 + 1)]
    assert signed_rank_tail(n) == pytest.approx(expected, abs=1e-15)


def test_a_test_with_one_look_has_the_tabulated_critical_values() -> None:
    # One-sided 5 %: W+ of 6, 10, 20 pairs has to reach 19, 45, 150 (n (n + 1) / 2 less the tabulated 2, 10, 60).
    assert [fixed_count(n, 0.05) for n in (4, 6, 10, 20)] == [None, 19, 45, 150]
    # Exactly alpha is enough: the largest count of five pairs has a tail of 2 to the -5.
    assert [fixed_count(5, alpha) for alpha in (1 / 32, 1 / 33)] == [15, None]
    assert [normal_quantile(None, 10), normal_quantile(0, 10)] == [math.inf, -math.inf]
    assert normal_quantile(fixed_count(100, 0.05), 100) == pytest.approx(1.645, abs=0.01)


@pytest.mark.parametrize(
    ("pairs", "confidence", "rule"),
    [
        *((6, 0.95, GIVES_UP), (8, 0.9, GIVES_UP), (12, 0.95, GIVES_UP), (20, 0.9, GIVES_UP), (20, 0.95, GIVES_UP)),
        *((20, 0.99, GIVES_UP), (24, 0.95, GIVES_UP), (40, 0.95, GIVES_UP)),
        *((6, 0.95, LOOKS_AT_ALL), (20, 0.95, LOOKS_AT_ALL)),
    ],
)
def test_no_plan_crosses_more_often_than_it_promises(pairs: int, confidence: float, rule: Rule) -> None:
    count = 20_000
    # The law is the same for every symmetric noise, so any one will do: here one without a mean.
    sums = signed_rank_after_every_pair(np.random.default_rng(2).standard_cauchy((count, pairs)))
    plan = make_plan(pairs, confidence, rule)
    both = np.maximum(sums, np.arange(1, pairs + 1) * np.arange(2, pairs + 2) // 2 - sums)
    ended = (both < [hope or 0 for hope in plan.hope_counts]).cumsum(axis=1) > 0
    for counts in (plan.fail_counts, plan.pass_counts):
        critical = np.array([np.inf if c is None else c for c in counts])
        crossed = float(((sums >= critical) & ~ended).any(axis=1).mean())
        allowed = 1 - confidence
        assert crossed <= allowed + 3 * math.sqrt(allowed * confidence / count)
        if pairs >= 12:
            assert crossed >= 0.7 * allowed  # an honest test that never rejects would be no use


def test_the_critical_counts_of_the_default_plan() -> None:
    """Written down once: any change of them is a change of verdicts."""
    now, old, none = PLAN, make_plan(20, 0.95, LOOKS_AT_ALL), (None,)
    fail = (21, 27, 34, 42, 50, 58, 69, 78, 89, 100, 112, 124, 137, 150, 163)
    assert now.fail_counts == 5 * none + fail
    assert now.pass_counts == 7 * none + (36, 43, 51, 59, 69, 78, 88, 99, 109, 120, 131, 142, 153)
    assert now.hope_counts == 8 * none + (27, 34, 41, 49, 58, 68, 78, 90, 102, 116, 131, None)
    fail = (21, 28, 34, 42, 50, 58, 68, 78, 89, 100, 111, 124, 137, 150, 164)
    assert old.fail_counts == 5 * none + fail
    assert old.pass_counts == 7 * none + (36, 43, 51, 59, 68, 78, 88, 98, 110, 121, 132, 145, 157)
    assert old.hope_counts == 20 * none


@pytest.mark.parametrize(
    ("pairs", "confidence", "fail_sum", "pass_sum"),
    [
        (6, 0.90, 44, 33), (6, 0.95, 35, 20), (8, 0.90, 90, 89), (8, 0.95, 96, 79), (8, 0.99, 64, 35),
        (12, 0.90, 293, 274), (12, 0.95, 293, 269), (12, 0.99, 267, 266), (20, 0.90, 1209, 1153),
        (20, 0.99, 1312, 1211), (40, 0.90, 8229, 8044), (40, 0.95, 8589, 8414), (40, 0.99, 9201, 8983),
        *(pytest.param(60, *case, marks=pytest.mark.slow)
          for case in ((0.90, 25803, 25438), (0.95, 26848, 26414), (0.99, 28714, 28197))),
    ],
)  # fmt: skip
def test_the_critical_counts_of_other_plans(pairs: int, confidence: float, fail_sum: int, pass_sum: int) -> None:
    plan = make_plan(pairs, confidence, LOOKS_AT_ALL)
    assert (sum(n or 0 for n in plan.fail_counts), sum(n or 0 for n in plan.pass_counts)) == (fail_sum, pass_sum)


PLAN = make_plan(20, 0.95)
finite = st.floats(-2, 2, allow_nan=False).map(lambda value: round(value, 3))


@given(st.lists(finite, min_size=1, max_size=20))
def test_centre_and_bounds_are_what_the_definitions_say(values: list[float]) -> None:
    n = len(values)
    averages = [(a + b) / 2 for a, b in itertools.combinations_with_replacement(values, 2)]
    look = look_at(walsh_averages(np.array(values)), n, PLAN)
    assert look.centre == pytest.approx(statistics.median(averages), abs=1e-12)
    fail_count, pass_count = PLAN.fail_counts[n - 1], PLAN.pass_counts[n - 1]
    # A value is rejected as too small when enough averages lie above it; the lower bound is where that begins.
    if fail_count is None:
        assert look.low == -math.inf
    else:
        assert sum(average > look.low + 1e-9 for average in averages) < fail_count
        assert sum(average > look.low - 1e-9 for average in averages) >= fail_count
    if pass_count is None:
        assert look.high == math.inf
    else:
        assert sum(average < look.high - 1e-9 for average in averages) < pass_count
        assert sum(average < look.high + 1e-9 for average in averages) >= pass_count


def test_many_comparisons_at_once_are_the_same_as_one_by_one() -> None:
    values = np.random.default_rng(3).normal(0.0, 0.2, (7, 12))
    together = look_at(walsh_averages(values), 12, PLAN)
    for i, one in enumerate(values):
        alone = look_at(walsh_averages(one), 12, PLAN)
        assert alone == tuple(values[i] for values in together)


def test_the_spread_is_a_width_of_order_statistics_over_its_normal_width() -> None:
    values = np.random.default_rng(5).normal(0.0, 0.2, 12)
    count = fixed_count(12, 0.16)
    averages = sorted((a + b) / 2 for a, b in itertools.combinations_with_replacement(values, 2))
    width = averages[count - 1] - averages[-count]
    spread = look_at(walsh_averages(values), 12, PLAN).spread
    assert spread == pytest.approx(width * math.sqrt(12) / (2 * normal_quantile(count, 12)))
    assert math.isnan(float(look_at(walsh_averages(np.zeros(5)), 5, PLAN).spread)), "too few"
    assert float(look_at(walsh_averages(np.zeros(6)), 6, PLAN).spread) == 0.0


def test_a_comparison_is_given_up_where_neither_answer_has_the_chance_that_is_asked() -> None:
    """The last look's z is foretold as normal around the present one, with a flat prior."""
    wanted = statistics.NormalDist().inv_cdf(0.95)

    def chance(count: int, n: int) -> float:
        final = statistics.NormalDist(normal_quantile(count, n) * math.sqrt(20 / n), math.sqrt(20 / n - 1))
        return 1 - final.cdf(wanted) + final.cdf(-wanted)

    for n, count in enumerate(PLAN.hope_counts[8:-1], start=9):
        assert chance(count - 1, n) < GIVES_UP.hope <= chance(count, n)
        averages = walsh_averages(np.linspace(-1.0, 1.0, n))  # as many above 0 as below
        assert [bool(PLAN.gives_up(averages, n, target)) for target in (-0.9, 0.0, 0.9)] == [False, True, False]


@pytest.mark.parametrize(("gap", "side"), [(0.1, 0), (-0.1, 1)])
def test_the_pairs_that_are_foretold_are_those_of_the_side(gap: float, side: int) -> None:
    for spread in (0.3, 0.6):
        needed = ((PLAN.final_z[side] + statistics.NormalDist().inv_cdf(0.8)) * spread / gap) ** 2
        assert pairs_for_verdict(gap, spread, PLAN) == math.ceil(needed)


@pytest.mark.parametrize(
    ("pairs", "confidence", "said"),
    [
        *((pairs, 0.95, f"number of pairs\n  came: {pairs}\n  expected: 1 to 200 pairs") for pairs in (0, -3, 201)),
        *(
            (20, confidence, f"confidence\n  came: {confidence!r}\n  expected: 0.8 to 0.995")
            for confidence in (0.5, 1.0, math.nan, 95.0)
        ),
    ],
)
def test_a_plan_out_of_range_is_refused(pairs: int, confidence: float, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_plan(pairs, confidence)
    assert str(caught.value) == f"a decode comparison cannot be planned for this {said}"


@pytest.mark.parametrize(("gap", "spread"), [(0.0, 0.1), (0.05, math.nan), (1e-6, 0.1)])
def test_pairs_that_cannot_be_foretold(gap: float, spread: float) -> None:
    assert pairs_for_verdict(gap, spread, PLAN) is None
    assert pairs_for_verdict(0.05, 0.1, make_plan(4, 0.95)) is None
    assert pairs_for_verdict(0.05, 0.0, PLAN) == 1
