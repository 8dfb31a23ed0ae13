"""Critical values: exact tails, and no plan that crosses more often than it promises."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest

from pytest_h2o.errors import UsageError
from pytest_h2o.gate.decode import DEFAULT_CONFIDENCE
from pytest_h2o.gate.sequential import (
    MAX_PAIRS,
    Plan,
    _information,
    fixed_count,
    make_plan,
    normal_quantile,
    signed_rank_tail,
)
from pytest_h2o.inputs.options import LEAST_DECODE_PAIRS


def signed_rank_after_every_pair(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Sums of the ranks of the positive values after 1 ... n of them: `[comparisons, n]`, the textbook way."""
    sums = np.zeros(values.shape, dtype=np.int64)
    for n in range(1, values.shape[1] + 1):
        ranks = np.abs(values[:, :n]).argsort(axis=1).argsort(axis=1) + 1
        sums[:, n - 1] = (ranks * (values[:, :n] > 0)).sum(axis=1)
    return sums


@pytest.mark.parametrize("pairs", [LEAST_DECODE_PAIRS - 1, LEAST_DECODE_PAIRS])
def test_the_fewest_pairs_that_can_be_asked_for_are_those_that_can_decide(pairs: int) -> None:
    plan = make_plan(pairs, DEFAULT_CONFIDENCE)
    can = pairs >= LEAST_DECODE_PAIRS
    assert plan.can_decide == can
    assert any(count is not None for count in plan.fail_counts) == can
    assert any(count is not None for count in plan.pass_counts) == can


@pytest.mark.parametrize("n", [1, 2, 3, 6, 10])
def test_the_tail_is_that_of_all_signs_counted_out(n: int) -> None:
    sums = [sum(itertools.compress(range(1, n + 1), signs)) for signs in itertools.product((0, 1), repeat=n)]
    expected = [np.mean(np.array(sums) >= w) for w in range(n * (n + 1) // 2 + 1)]
    assert signed_rank_tail(n) == pytest.approx(expected, abs=1e-15)


def test_a_test_with_one_look_has_the_tabulated_critical_values() -> None:
    # One-sided 5 %: W+ of 6, 10, 20 pairs has to reach 19, 45, 150 (n (n + 1) / 2 less the tabulated 2, 10, 60).
    assert [fixed_count(n, 0.05) for n in (4, 6, 10, 20)] == [None, 19, 45, 150]


def test_the_looks_are_correlated_as_the_brownian_motion_is() -> None:
    values = np.random.default_rng(1).standard_normal((100_000, 12))
    sums = signed_rank_after_every_pair(values).astype(float)
    for m, n in ((2, 12), (5, 12), (6, 7)):
        found = np.corrcoef(sums[:, m - 1], sums[:, n - 1])[0, 1]
        assert found == pytest.approx(math.sqrt(_information(m) / _information(n)), abs=0.005)


@pytest.mark.parametrize(
    ("pairs", "confidence"),
    [(6, 0.95), (8, 0.9), (12, 0.95), (20, 0.9), (20, 0.95), (20, 0.99), (24, 0.95), (40, 0.95)],
)
def test_no_plan_crosses_more_often_than_it_promises(pairs: int, confidence: float) -> None:
    count = 20_000
    # The law is the same for every symmetric noise, so any one will do: here one without a mean.
    sums = signed_rank_after_every_pair(np.random.default_rng(2).standard_cauchy((count, pairs)))
    plan = make_plan(pairs, confidence)
    for counts in (plan.fail_counts, plan.pass_counts):
        critical = np.array([np.inf if c is None else c for c in counts])
        crossed = float((sums >= critical).any(axis=1).mean())
        allowed = 1 - confidence
        assert crossed <= allowed + 3 * math.sqrt(allowed * confidence / count)
        if pairs >= 12:
            assert crossed >= 0.7 * allowed  # an honest test that never rejects would be no use


def test_small_plans_cannot_decide_and_say_so() -> None:
    assert [make_plan(pairs, 0.95).can_decide for pairs in (1, 4, 5, 6)] == [False, False, True, True]
    assert make_plan(4, 0.95).final_z == (math.inf, math.inf)
    assert make_plan(20, 0.95).fail_counts[:6] == (None, None, None, None, None, 21)


def test_counts_and_normal_quantiles_belong_together() -> None:
    assert normal_quantile(None, 10) == math.inf
    assert normal_quantile(0, 10) == -math.inf
    assert normal_quantile(fixed_count(100, 0.05), 100) == pytest.approx(1.645, abs=0.01)


@pytest.mark.parametrize("pairs", [0, -3, MAX_PAIRS + 1])
def test_a_number_of_pairs_out_of_range_is_refused(pairs: int) -> None:
    with pytest.raises(UsageError) as caught:
        make_plan(pairs, 0.95)
    assert str(caught.value) == (
        "a decode comparison cannot be planned for this number of pairs\n"
        f"  came: {pairs}\n  expected: 1 to {MAX_PAIRS} pairs"
    )


@pytest.mark.parametrize("confidence", [0.5, 1.0, math.nan, 95.0])
def test_a_confidence_out_of_range_is_refused(confidence: float) -> None:
    with pytest.raises(UsageError) as caught:
        make_plan(20, confidence)
    assert str(caught.value) == (
        f"a decode comparison cannot be planned for this confidence\n  came: {confidence!r}\n  expected: 0.8 to 0.995"
    )


def test_a_plan_is_a_value() -> None:
    assert isinstance(make_plan(20, 0.95), Plan)
    assert make_plan(20, 0.95) == make_plan(20, 0.95)
    assert len(make_plan(20, 0.95).fail_counts) == len(make_plan(20, 0.95).pass_counts) == 20


def test_the_critical_counts_of_the_default_plan() -> None:
    """Written down once: any change of them is a change of verdicts."""
    plan = make_plan(20, 0.95)
    none = (None,)
    fail = (21, 28, 34, 42, 50, 58, 68, 78, 89, 100, 111, 124, 137, 150, 164)
    assert plan.fail_counts == 5 * none + fail
    assert plan.pass_counts == 7 * none + (36, 43, 51, 59, 68, 78, 88, 98, 110, 121, 132, 145, 157)


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
    plan = make_plan(pairs, confidence)
    assert (sum(n or 0 for n in plan.fail_counts), sum(n or 0 for n in plan.pass_counts)) == (fail_sum, pass_sum)
