"""When a sequential comparison of pairs may stop: critical values that stay honest when looked at after every pair.

The statistic is the signed-rank statistic of Wilcoxon (F. Wilcoxon, 1945, "Individual comparisons by ranking
methods", Biometrics Bulletin 1). If the log ratios of the pairs lie symmetrically around the hypothesised value then,
given their distances from it, every sign is a fair coin. Pairs of launches have this symmetry by design: where both
sides draw the same noise, the difference of two equal draws is symmetric whatever its shape, heavy tails included. So
the law of the statistic at all looks together is one and the same for every noise, and no spread has to be known.

Looking after every pair would inflate the error of a fixed-size test. The error is therefore spent over the looks by a
function fixed beforehand: alpha * (n / planned) ** power (K. K. G. Lan and D. L. DeMets, 1983, "Discrete sequential
boundaries for clinical trials", Biometrika 70; the power family is from K. Kim and D. L. DeMets, 1987, "Design and
analysis of group sequential tests based on the type I error spending rate function", Biometrika 74). Inverting the
test gives an interval at every look that holds at all looks together (C. Jennison and B. W. Turnbull, 1989, "Interim
analyses: the repeated confidence interval approach", Journal of the Royal Statistical Society B 51).

A comparison is given up where neither answer is likely any more, by a rule on the same statistic. It is part of the
plan: pairs beyond it do not count, so what would have crossed there spends no error, and the critical values are lower
for it (binding futility bounds; S. Pampallona and A. A. Tsiatis, 1994, "Group sequential designs for one-sided and
two-sided hypothesis testing with provision for early stopping in favor of the null hypothesis", Journal of Statistical
Planning and Inference 42). The chance of an answer is the predictive power, with a flat prior, of D. J. Spiegelhalter,
L. S. Freedman and P. R. Blackburn (1986, "Monitoring clinical trials: conditional or predictive power?", Controlled
Clinical Trials 7).

The tail at a single look is exact. How the looks hang together is taken from Brownian motion with the exact
covariance of the statistic, integrated look by look (P. Armitage, C. K. McPherson and B. C. Rowe, 1969, "Repeated
significance tests on accumulating data", Journal of the Royal Statistical Society A 132). That understates the true
crossing probability by up to a tenth, so only a share of alpha is spent. Since the true law is the same for every
noise, one simulation checks it for all: the tests hold that no plan there crosses more often than it promises.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pytest_h2o.errors import UsageError
from pytest_h2o.inputs.options import MAX_DECODE_PAIRS

Floats = npt.NDArray[np.float64]
MAX_PAIRS = MAX_DECODE_PAIRS
LOWEST_CONFIDENCE, HIGHEST_CONFIDENCE = 0.8, 0.995


class Spending(NamedTuple):
    """How the error of an answer is spent: this share of it, as (n / planned) ** power after n pairs.

    The rest of the share is kept for what Brownian motion understates.
    """

    power: float
    share: float


class Rule(NamedTuple):
    """How a plan spends its error over its looks, and when it gives up. The figures are chosen by simulation.

    Attributes
    ----------
    fails : Spending
        Early, with a small power: a large slow-down is seen after 6 or 7 pairs.
    passes : Spending
        Late, with a large power: small gaps need many pairs anyway.
    hope : float
        The comparison is given up where the chance of an answer within the plan is smaller; 0 to look at all pairs.
    """

    fails: Spending
    passes: Spending
    hope: float


GIVES_UP = Rule(Spending(0.6, 0.9), Spending(2.0, 0.87), hope=0.18)
LOOKS_AT_ALL = Rule(Spending(0.7, 0.9), Spending(2.0, 0.9), hope=0.0)
"""For pairs that are all there, however they look; and the rule of comparisons of version 1."""

SPREAD_FROM_PAIRS = 6
"""Fewer pairs say too little about the noise to foretell anything."""

_GRID_POINTS = 401
_GRID_REACH = 6.0  # standard deviations: 1e-9 of the mass lies beyond
_NORMAL = NormalDist()


class Plan(NamedTuple):
    """The critical values of a comparison, fixed before its first pair.

    Attributes
    ----------
    pairs : int
        Pairs that can be compared, at most; the error is spent over so many looks.
    confidence : float
        Of each answer: a bound of the interval is wrong at any look with a probability of at most 1 - confidence.
    fail_counts, pass_counts : tuple of (int or None)
        Entry n - 1 is for the look after n pairs: so many Walsh averages must lie above (below) a value for it to be
        rejected as too small (too large). None: at this look nothing can be rejected.
    hope_counts : tuple of (int or None)
        The comparison is given up at a look where neither so many averages lie above the target nor below it.
    """

    pairs: int
    confidence: float
    fail_counts: tuple[int | None, ...]
    pass_counts: tuple[int | None, ...]
    hope_counts: tuple[int | None, ...]

    def gives_up(self, walsh: Floats, n: int, target: float) -> npt.NDArray[np.bool_]:
        """Whether an answer on the target has become unlikely after n pairs: `[...]`, of `[..., n (n + 1) / 2]`."""
        above, below = (walsh > target).sum(axis=-1), (walsh < target).sum(axis=-1)
        given_up: npt.NDArray[np.bool_] = np.maximum(above, below) < (self.hope_counts[n - 1] or 0)
        return given_up

    @property
    def can_decide(self) -> bool:
        """False where the plan has so few pairs that not even the clearest ones would give a verdict."""
        return any(count is not None for count in (*self.fail_counts, *self.pass_counts))

    @property
    def final_z(self) -> tuple[float, float]:
        """Standard normal quantiles of the last look's critical counts, fail and pass; infinite if there is none."""
        return normal_quantile(self.fail_counts[-1], self.pairs), normal_quantile(self.pass_counts[-1], self.pairs)


@cache
def signed_rank_tail(pairs: int) -> Floats:
    """Exact P(W >= w) for w = 0 ... n (n + 1) / 2; W sums the ranks of the positive ones of n symmetric values."""
    law = np.ones(1)
    for rank in range(1, pairs + 1):
        longer = np.zeros(len(law) + rank)
        longer[: len(law)] += law / 2
        longer[rank:] += law / 2
        law = longer
    tail: Floats = np.minimum(law[::-1].cumsum()[::-1], 1.0)
    return tail


def normal_quantile(count: int | None, pairs: int) -> float:
    """The standard normal value with the same tail as `count` after `pairs` pairs; infinite for None."""
    if count is None:
        return math.inf
    tail = float(signed_rank_tail(pairs)[count])
    return -_NORMAL.inv_cdf(tail) if tail < 1 else -math.inf


def fixed_count(pairs: int, alpha: float) -> int | None:
    """The smallest critical count of a test with one look; None if even the largest is likelier than `alpha`."""
    fitting = np.nonzero(signed_rank_tail(pairs) <= alpha)[0]
    return int(fitting[0]) if len(fitting) else None


@cache
def make_plan(pairs: int, confidence: float, rule: Rule = GIVES_UP) -> Plan:
    """Critical values for a comparison of at most `pairs` pairs, looked at after each one."""
    if not 1 <= pairs <= MAX_PAIRS:
        raise UsageError(
            "a decode comparison cannot be planned for this number of pairs",
            came=str(pairs),
            expected=f"1 to {MAX_PAIRS} pairs",
        )
    if not LOWEST_CONFIDENCE <= confidence <= HIGHEST_CONFIDENCE:
        raise UsageError(
            "a decode comparison cannot be planned for this confidence",
            came=repr(confidence),
            expected=f"{LOWEST_CONFIDENCE} to {HIGHEST_CONFIDENCE}",
        )
    alpha = 1.0 - confidence
    hopes = hope_counts(pairs, confidence, rule.hope)
    fails, passes = (critical_counts(pairs, one.share * alpha, one.power, hopes) for one in (rule.fails, rule.passes))
    return Plan(pairs, confidence, fails, passes, hopes)


def hope_counts(pairs: int, confidence: float, hope: float) -> tuple[int | None, ...]:
    """The smallest counts with which an answer at the last look has a chance of at least `hope` (see `Plan`)."""
    wanted = _NORMAL.inv_cdf(confidence)

    def chance(count: int, n: int) -> float:
        z, root, moves = normal_quantile(count, n), math.sqrt(pairs / n), math.sqrt(pairs / n - 1)
        return sum(_NORMAL.cdf((side * root - wanted) / moves) for side in (z, -z))

    counts: list[int | None] = []
    for n in range(1, pairs):
        size = n * (n + 1) // 2
        middle = (size + 1) // 2
        count = middle + bisect_left(range(middle, size), hope, key=lambda count: chance(count, n))
        counts.append(None if count == middle or n < SPREAD_FROM_PAIRS else count)
    return (*counts, None)


def critical_counts(
    pairs: int,
    alpha: float,
    power: float,
    hopes: Sequence[int | None] = (),
    tail_of: Callable[[int], Floats] = signed_rank_tail,
) -> tuple[int | None, ...]:
    """The smallest counts that keep the error spent after n pairs within alpha * (n / pairs) ** power (see the module).

    `hopes` says of each look where the comparison is given up. `tail_of` gives the tail of the statistic after n pairs,
    for a statistic other than the signed-rank one.
    """
    counts: list[int | None] = []
    mass, spent = _Mass(), 0.0
    for n in range(1, pairs + 1):
        time = _information(n)
        reach = _GRID_REACH * math.sqrt(time)
        room = alpha * (n / pairs) ** power - spent
        first, bounds = _candidate_bounds(tail_of(n), n, alpha)
        crossing = mass.above(bounds, time, reach)
        fitting = np.nonzero(crossing <= room)[0]
        if len(fitting):
            counts.append(first + int(fitting[0]))
            spent += float(crossing[fitting[0]])
            mass = mass.stopped_above(float(bounds[fitting[0]]), time, reach)
        else:
            counts.append(None)
            mass = mass.stopped_above(reach, time, reach)
        if hopes and (hope := hopes[n - 1]) is not None:
            mass = mass.stopped_within(normal_quantile(hope, n) * math.sqrt(time))
    return tuple(counts)


def _information(n: int) -> float:
    """Time of the Brownian motion after n pairs.

    The correlation of the signed-rank statistic after m and after n pairs is sqrt(_information(m) / _information(n)),
    exactly: a rank among m grows to (n + 1) / (m + 1) of itself on average, and the variance after n pairs is
    n (n + 1) (2 n + 1) / 24.
    """
    return n * (2 * n + 1) / (2 * (n + 1))


def _candidate_bounds(tail: Floats, n: int, alpha: float) -> tuple[int, Floats]:
    """The first count whose tail is at most alpha, and the bounds on the Brownian motion of it and of all above it."""
    first = int(np.searchsorted(-tail, -alpha))
    z = np.array([-_NORMAL.inv_cdf(value) for value in tail[first:].tolist()], dtype=np.float64)
    return first, z * math.sqrt(_information(n))


@dataclass(frozen=True)
class _Mass:
    """Where a Brownian motion may be that no bound has stopped yet: weights on points, at one time."""

    time: float = 0.0
    points: Floats = field(default_factory=lambda: np.zeros(1))
    weights: Floats = field(default_factory=lambda: np.ones(1))

    def density(self, at: Floats, time: float) -> Floats:
        step = time - self.time
        kernel = np.exp((at[:, None] - self.points) ** 2 / (-2 * step))
        density: Floats = kernel @ self.weights / math.sqrt(2 * math.pi * step)
        return density

    def above(self, bounds: Floats, time: float, reach: float) -> Floats:
        """Probability of being above each bound at a later time."""
        grid, width = np.linspace(-reach, reach, 2 * _GRID_POINTS - 1, retstep=True)
        density = self.density(grid, time)
        below = np.concatenate([[0.0], ((density[1:] + density[:-1]) * width / 2).cumsum()])
        above: Floats = np.interp(bounds, grid, below[-1] - below)
        return above

    def stopped_above(self, bound: float, time: float, reach: float) -> _Mass:
        """The motion at a later time, without what has gone above the bound."""
        grid, width = np.linspace(-reach, bound, _GRID_POINTS, retstep=True)
        weights = self.density(grid, time) * width
        weights[[0, -1]] /= 2
        return _Mass(time, grid, weights)

    def stopped_within(self, bound: float) -> _Mass:
        """The same, without what is nearer to 0 than the bound."""
        return _Mass(self.time, self.points, np.where(np.abs(self.points) < bound, 0.0, self.weights))


_SPREAD_ALPHA = 0.16
_MOST_PAIRS_FORETOLD = 5000
CHANCE_WANTED_Z = 0.8416  # of a clear verdict, 80 %
_NO_MOVE = 1e-12  # keeps the quotient finite for values without any spread


class Look(NamedTuple):
    """What n pairs say, all on the scale of log ratios, shape `[...]` of the comparisons.

    Attributes
    ----------
    centre : ndarray
        Hodges-Lehmann estimate.
    low, high : ndarray
        Bounds of the interval at this look alone; minus and plus infinity where there is none yet.
    spread : ndarray
        Standard deviation that one pair's log ratio would have if it were normal and as informative; NaN below
        `SPREAD_FROM_PAIRS` pairs.
    """

    centre: Floats
    low: Floats
    high: Floats
    spread: Floats


def walsh_averages(values: Floats) -> Floats:
    """Means of all pairs of values, each with itself too: `[..., n]` to `[..., n (n + 1) / 2]`, unsorted.

    The averages of the first m values come first, so that a prefix belongs to an earlier look.
    """
    n = values.shape[-1]
    later, earlier = np.tril_indices(n)
    averages: Floats = (values[..., later] + values[..., earlier]) / 2
    return averages


def look_at(walsh: Floats, n: int, plan: Plan) -> Look:
    """Estimate, interval and spread after n pairs, from their Walsh averages `[..., n (n + 1) / 2]`."""
    size = walsh.shape[-1]
    fail_count, pass_count = plan.fail_counts[n - 1], plan.pass_counts[n - 1]
    spread_count = fixed_count(n, _SPREAD_ALPHA) if n >= SPREAD_FROM_PAIRS else None
    wanted = {(size - 1) // 2, size // 2}
    wanted |= {size - count for count in (fail_count, spread_count) if count is not None}
    wanted |= {count - 1 for count in (pass_count, spread_count) if count is not None}
    ordered = np.partition(walsh, sorted(wanted), axis=-1)
    centre = (ordered[..., (size - 1) // 2] + ordered[..., size // 2]) / 2
    infinite = np.full_like(centre, np.inf)
    spread = infinite * np.nan
    if spread_count is not None:
        # For large n the interval of the signed-rank test is 2 z spread / sqrt(n) wide; here z is that of a one-sided
        # tail of about 16 %, in the middle of the data where outliers have no say.
        width = ordered[..., spread_count - 1] - ordered[..., size - spread_count]
        spread = width * math.sqrt(n) / (2 * normal_quantile(spread_count, n))
    return Look(
        centre=centre,
        low=-infinite if fail_count is None else ordered[..., size - fail_count],
        high=infinite if pass_count is None else ordered[..., pass_count - 1],
        spread=spread,
    )


def pairs_for_verdict(gap: float, spread: float, plan: Plan) -> int | None:
    """Pairs after which a verdict is clear with a chance of 80 %, if the drop is `gap` away from the target."""
    if not math.isfinite(spread) or gap == 0:
        return None
    z = plan.final_z[0 if gap > 0 else 1]
    if not math.isfinite(z):
        return None
    needed = ((z + CHANCE_WANTED_Z) * spread / gap) ** 2
    return max(math.ceil(needed), 1) if needed <= _MOST_PAIRS_FORETOLD else None
