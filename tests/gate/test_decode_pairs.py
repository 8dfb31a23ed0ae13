"""Pairs of launches: what counts as one, and in which order they are launched."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h2o.errors import NotMeasured, UsageError
from pytest_h2o.gate.decode import judge, log_ratios, plan_order
from tests.sweeps import make_pair


def test_the_log_ratio_is_positive_where_the_candidate_is_slower() -> None:
    assert make_pair(100.0, 80.0).log_ratio == pytest.approx(math.log(1.25))
    assert make_pair(80.0, 100.0).log_ratio == pytest.approx(-math.log(1.25))
    assert make_pair(1e300, 1e-300).log_ratio == pytest.approx(600 * math.log(10))


@pytest.mark.parametrize(
    ("baseline", "candidate", "side", "came"),
    [
        (0.0, 70.0, "baseline", "0.0 tok/s"),
        (70.0, -1.0, "candidate", "-1.0 tok/s"),
        (math.nan, 70.0, "baseline", "nan tok/s"),
        (70.0, math.inf, "candidate", "inf tok/s"),
    ],
)
def test_a_missing_speed_is_an_error_and_never_a_number(
    baseline: float, candidate: float, side: str, came: str
) -> None:
    with pytest.raises(NotMeasured) as caught:
        judge([make_pair(baseline, candidate)], 0.05)
    assert str(caught.value) == (
        f"the {side} of a decode pair has no speed\n"
        f"  came: {came}\n"
        "  expected: a positive number of tokens per second\n"
        "  next: launch the pair again, or exclude it with the reason"
    )


def test_an_excluded_pair_takes_no_part_and_is_listed() -> None:
    pairs = [
        make_pair(70.0, 69.0),
        make_pair(70.0, 7.0, excluded="kv_len 1287 above 640"),
        make_pair(70.0, 71.0),
    ]
    assert log_ratios(pairs) == pytest.approx(np.log([70 / 69, 70 / 71]))
    assert judge(pairs, 0.05).excluded == ("pair 2: kv_len 1287 above 640",)
    silent = make_pair(70.0, math.nan, excluded="swapping")
    assert judge([silent], 0.05).excluded == ("pair 1: swapping",)


@given(st.integers(0, 200), st.integers(0, 2**63))
def test_the_order_is_balanced_after_every_pair(pairs: int, seed: int) -> None:
    order = plan_order(pairs, seed)
    assert len(order) == pairs
    assert set(order) <= {"AB", "BA"}
    lead = np.cumsum([1 if first == "AB" else -1 for first in order])
    assert all(abs(ahead) <= 1 for ahead in lead)
    assert all(ahead == 0 for ahead in lead[1::2])


def test_the_order_is_drawn_by_the_seed_and_grows_from_the_front() -> None:
    assert plan_order(20, 7) == plan_order(20, 7)
    assert plan_order(40, 7)[:20] == plan_order(20, 7)
    orders = {plan_order(20, seed) for seed in range(200)}
    assert len(orders) > 150
    first = sum(plan_order(1, seed) == ("AB",) for seed in range(400))
    assert 140 < first < 260


def test_a_negative_number_of_pairs_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        plan_order(-1, 0)
    assert str(caught.value) == "an order of launches needs a number of pairs\n  came: -1\n  expected: 0 or more"
