"""Estimate, interval and foresight from log ratios."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h2o.gate.sequential import (
    SPREAD_FROM_PAIRS,
    Look,
    chance_of_verdict,
    fixed_count,
    look_at,
    make_plan,
    normal_quantile,
    pairs_for_verdict,
    walsh_averages,
)

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


def test_averages_of_a_prefix_come_first() -> None:
    values = np.array([0.3, -0.1, 0.7, 0.2])
    assert sorted(walsh_averages(values)[:6]) == sorted(walsh_averages(values[:3]))


def test_many_comparisons_at_once_are_the_same_as_one_by_one() -> None:
    values = np.random.default_rng(3).normal(0.0, 0.2, (7, 12))
    together = look_at(walsh_averages(values), 12, PLAN)
    for i, one in enumerate(values):
        alone = look_at(walsh_averages(one), 12, PLAN)
        assert (alone.centre, alone.low, alone.high, alone.spread) == (
            together.centre[i],
            together.low[i],
            together.high[i],
            together.spread[i],
        )


def test_the_spread_of_normal_values_is_their_deviation() -> None:
    values = np.random.default_rng(4).normal(0.0, 0.17, (4000, 20))
    spread = look_at(walsh_averages(values), 20, PLAN).spread
    assert np.median(spread) == pytest.approx(0.17, rel=0.05)


def test_one_outlier_hardly_moves_centre_and_spread() -> None:
    values = np.random.default_rng(5).normal(0.0, 0.04, 20)
    spoilt = values.copy()
    spoilt[3] = 0.5
    clean, dirty = (look_at(walsh_averages(some), 20, PLAN) for some in (values, spoilt))
    assert abs(float(dirty.centre - clean.centre)) < 0.01
    assert float(dirty.spread) < 2 * float(clean.spread)
    assert abs(spoilt.mean() - values.mean()) > 0.02


def test_the_spread_is_missing_below_six_pairs() -> None:
    assert SPREAD_FROM_PAIRS == 6
    assert math.isnan(float(look_at(walsh_averages(np.zeros(5)), 5, PLAN).spread))
    assert float(look_at(walsh_averages(np.zeros(6)), 6, PLAN).spread) == 0.0


def look(centre: float, spread: float) -> Look:
    nothing = np.array(math.inf)
    return Look(np.array(centre), -nothing, nothing, np.array(spread))


def test_the_chance_of_a_verdict_follows_the_gap_and_ends_with_the_plan() -> None:
    target = 0.05
    far, near = (float(chance_of_verdict(look(centre, 0.17), 12, target, PLAN)) for centre in (0.3, 0.05))
    assert far > 0.99
    assert near < 0.02
    assert float(chance_of_verdict(look(0.3, 0.17), 20, target, PLAN)) == 0.0
    assert float(chance_of_verdict(look(0.05, math.nan), 3, target, PLAN)) == 1.0
    assert float(chance_of_verdict(look(0.05, 0.0), 12, target, PLAN)) == pytest.approx(1.0)


def test_the_foretold_pairs_grow_with_the_square_of_the_noise() -> None:
    one, two = (pairs_for_verdict(-0.05, spread, PLAN) for spread in (0.1, 0.2))
    assert one is not None
    assert two is not None
    assert two == pytest.approx(4 * one, rel=0.05)
    assert pairs_for_verdict(0.0, 0.1, PLAN) is None
    assert pairs_for_verdict(0.05, math.nan, PLAN) is None
    assert pairs_for_verdict(1e-6, 0.1, PLAN) is None
    assert pairs_for_verdict(0.05, 0.1, make_plan(4, 0.95)) is None
    assert pairs_for_verdict(0.05, 0.0, PLAN) == 1


def test_the_spread_is_a_width_of_order_statistics_over_its_normal_width() -> None:
    values = np.random.default_rng(5).normal(0.0, 0.2, 12)
    count = fixed_count(12, 0.16)
    assert count is not None
    averages = sorted((a + b) / 2 for a, b in itertools.combinations_with_replacement(values, 2))
    width = averages[count - 1] - averages[-count]
    spread = look_at(walsh_averages(values), 12, PLAN).spread
    assert spread == pytest.approx(width * math.sqrt(12) / (2 * normal_quantile(count, 12)))


def test_the_chance_is_that_of_a_normal_estimate_beyond_either_bound() -> None:
    n, target = 8, 0.05
    fail_z, pass_z = PLAN.final_z
    assert fail_z != pass_z
    for centre in (-0.1, 0.0, 0.05, 0.2):
        look = Look(np.array(centre), np.array(-np.inf), np.array(np.inf), np.array(0.15))
        final = statistics.NormalDist(centre, 0.15 * math.sqrt(1 / n - 1 / PLAN.pairs))
        error = 0.15 / math.sqrt(PLAN.pairs)
        expected = final.cdf(target - pass_z * error) + 1 - final.cdf(target + fail_z * error)
        assert chance_of_verdict(look, n, target, PLAN) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("gap", "side"), [(0.1, 0), (-0.1, 1)])
def test_the_pairs_that_are_foretold_are_those_of_the_side(gap: float, side: int) -> None:
    needed = ((PLAN.final_z[side] + 0.8416) * 0.3 / gap) ** 2
    assert pairs_for_verdict(gap, 0.3, PLAN) == math.ceil(needed)
