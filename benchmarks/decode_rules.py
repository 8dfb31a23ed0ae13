"""Rules that judge a drop in decode speed, each over thousands of comparisons at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from pytest_h2o.gate.decode import DEFAULT_CONFIDENCE, Budget
from pytest_h2o.gate.sequential import GIVES_UP, LOOKS_AT_ALL, Look, Plan, Rule, look_at, make_plan, walsh_averages

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
PASS, INCONCLUSIVE, FAIL = 1, 0, -1
STUDENT_GRID = np.linspace(0.0, 200.0, 200_001)


@dataclass(frozen=True)
class Outcomes:
    """What a rule said of every comparison.

    Attributes
    ----------
    outcome : ndarray
        `[comparisons]`, one of PASS, INCONCLUSIVE, FAIL.
    launches : ndarray
        `[comparisons]`, both sides together.
    """

    outcome: npt.NDArray[np.int64]
    launches: npt.NDArray[np.int64]


def sequential(
    values: Floats, target: float, budget: Budget, confidence: float = DEFAULT_CONFIDENCE, rule: Rule = GIVES_UP
) -> Outcomes:
    """The paired verdict and its policy of stopping, on log ratios `[comparisons, pairs]`."""
    plan = make_plan(budget.pairs, confidence, rule)
    target_log = -math.log1p(-target)
    return _stopping(values, target_log, plan, lambda walsh, n, look: plan.gives_up(walsh, n, target_log))


def sequential_before(
    values: Floats, target: float, budget: Budget, confidence: float = DEFAULT_CONFIDENCE
) -> Outcomes:
    """The paired verdict of comparisons of version 1: from 8 pairs on it stopped at a chance below 2 %."""
    plan, target_log = make_plan(budget.pairs, confidence, LOOKS_AT_ALL), -math.log1p(-target)

    def stops(walsh: Floats, n: int, look: Look) -> Flags:
        if not 8 <= n < plan.pairs:
            return np.zeros(len(walsh), dtype=bool)
        moves = look.spread * math.sqrt(1 / n - 1 / plan.pairs) + 1e-12
        error, gap = look.spread / math.sqrt(plan.pairs), look.centre - target_log
        fail_z, pass_z = plan.final_z
        below: Flags = normal_law((gap - fail_z * error) / moves) + normal_law((-gap - pass_z * error) / moves) < 0.02
        return below

    return _stopping(values, target_log, plan, stops)


def normal_law(z: Floats) -> Floats:
    """P(Z <= z) of a standard normal value."""
    return np.asarray(np.vectorize(NormalDist().cdf, otypes=[np.float64])(z))


def _stopping(
    values: Floats, target_log: float, plan: Plan, gives_up: Callable[[Floats, int, Look], Flags]
) -> Outcomes:
    count, pairs = values.shape
    outcome = np.zeros(count, dtype=np.int64)
    spent = np.full(count, pairs)
    going = np.arange(count)
    walsh = walsh_averages(values)
    for n in range(1, pairs + 1):
        averages = walsh[going, : n * (n + 1) // 2]
        look = look_at(averages, n, plan)
        said = np.where(look.low > target_log, FAIL, np.where(look.high < target_log, PASS, INCONCLUSIVE))
        stops = (said != INCONCLUSIVE) | gives_up(averages, n, look)
        outcome[going], spent[going[stops]] = said, n
        going = going[~stops]
    return Outcomes(outcome, 2 * spent)


def sequential_fitted(values: Floats, target: float, first_pair_s: Floats, budget: Budget) -> Outcomes:
    """The paired verdict where the time of the first pair `[comparisons]` says how many pairs are planned."""
    planned = np.array([budget.fitted(seconds, seconds).pairs for seconds in first_pair_s.tolist()])
    outcome, launches = np.zeros(len(values), dtype=np.int64), np.zeros(len(values), dtype=np.int64)
    for pairs in np.unique(planned).tolist():
        group = planned == pairs
        found = sequential(values[group, :pairs], target, replace(budget, pairs=pairs))
        outcome[group], launches[group] = found.outcome, found.launches
    return Outcomes(outcome, launches)


def crossing_shares(values: Floats, plan: Plan) -> tuple[float, float]:
    """Shares of comparisons whose interval misses 0 at any look: it lies above, it lies below."""
    walsh = walsh_averages(values)
    above = np.zeros(len(values), dtype=bool)
    below = above.copy()
    for n in range(1, plan.pairs + 1):
        look = look_at(walsh[:, : n * (n + 1) // 2], n, plan)
        above |= look.low > 0
        below |= look.high < 0
    return float(above.mean()), float(below.mean())


def best_of_rows(candidates: Floats, target: float) -> Outcomes:
    """The original rule: the fastest of many rows `[comparisons, rows]`, as log of speed, against the true baseline."""
    passed = candidates.max(axis=1) >= math.log1p(-target)
    return Outcomes(np.where(passed, PASS, FAIL), np.full(len(candidates), candidates.shape[1]))


def mean_of_rows(candidates: Floats, target: float, alpha: float, baseline: Floats | float) -> Outcomes:
    """The rule of rows against a number: Student's interval of their mean speed `[comparisons, rows]`, given as logs.

    `baseline` is the log of the number.
    """
    count, rows = candidates.shape
    speeds, number = np.exp(candidates), np.exp(baseline)
    half = student_quantile(1 - alpha, rows - 1) * speeds.std(axis=1, ddof=1) / math.sqrt(rows)
    low, high = (1 - (speeds.mean(axis=1) + sign * half) / number for sign in (1, -1))
    said = np.where(low > target, FAIL, np.where(high <= target, PASS, INCONCLUSIVE))
    return Outcomes(said, np.full(count, rows))


def fixed_t_test(values: Floats, target: float, alpha: float) -> Outcomes:
    """Two one-sided t-tests on all pairs at once, after the last of them."""
    count, pairs = values.shape
    t = t_statistic(values, target)
    critical = student_quantile(1 - alpha, pairs - 1)
    said = np.where(t > critical, FAIL, np.where(t < -critical, PASS, INCONCLUSIVE))
    return Outcomes(said, np.full(count, 2 * pairs))


def peeking_t_test(values: Floats, target: float, alpha: float) -> Outcomes:
    """The same t-test looked at after every pair from the third on, without paying for the looks."""
    count, pairs = values.shape
    outcome = np.zeros(count, dtype=np.int64)
    spent = np.full(count, pairs)
    for n in range(3, pairs + 1):
        t, critical = t_statistic(values[:, :n], target), student_quantile(1 - alpha, n - 1)
        said = np.where(t > critical, FAIL, np.where(t < -critical, PASS, INCONCLUSIVE))
        new = (outcome == INCONCLUSIVE) & (said != INCONCLUSIVE)
        outcome[new], spent[new] = said[new], n
    return Outcomes(outcome, 2 * spent)


def t_statistic(values: Floats, target: float) -> Floats:
    gap = values.mean(axis=1) + math.log1p(-target)
    statistic: Floats = gap / (values.std(axis=1, ddof=1) / math.sqrt(values.shape[1]))
    return statistic


def student_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t above one half: good to about 1e-4."""
    return float(np.interp(probability, _student_law(degrees), STUDENT_GRID))


def student_tail(t: Floats, degrees: int) -> Floats:
    """P(T > t) of Student's t."""
    upper = 1.0 - np.interp(np.abs(t), STUDENT_GRID, _student_law(degrees))
    tail: Floats = np.where(t > 0, upper, 1.0 - upper)
    return tail


@cache
def _student_law(degrees: int) -> Floats:
    """P(T <= t) on the grid, by integrating the density."""
    log_scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - 0.5 * math.log(degrees * math.pi)
    density = np.exp(log_scale - (degrees + 1) / 2 * np.log1p(STUDENT_GRID**2 / degrees))
    law: Floats = 0.5 + np.concatenate([[0.0], ((density[1:] + density[:-1]) / 2).cumsum() * STUDENT_GRID[1]])
    return law
