"""The paired decode verdict: has decoding become slower than allowed? Pure statistics, nothing is launched here.

The drop is the fraction of decode speed lost, 1 - candidate / baseline; lower is better. It is judged on the log ratios
of pairs of launches, by a sequential signed-rank test that may be looked at after every pair (see
`pytest_h2o.gate.sequential` for the method and its literature):

- pass: the drop is below the target, with confidence;
- fail: it is above the target, with confidence;
- inconclusive: neither yet. That is no pass.

A verdict is wrong with a probability of at most 1 - confidence, at a true drop exactly on the target and so for every
other; far from the target it is wrong far more seldom (docs/decode-verdict.md has the measured rates).
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pytest_h2o.errors import H2OError, NotMeasured, StoreError, UsageError
from pytest_h2o.files import load
from pytest_h2o.gate.sequential import (
    CHANCE_WANTED_Z,
    GIVES_UP,
    LOOKS_AT_ALL,
    MAX_PAIRS,
    SPREAD_FROM_PAIRS,
    Plan,
    Rule,
    look_at,
    make_plan,
    pairs_for_verdict,
    walsh_averages,
)
from pytest_h2o.inputs.options import MAX_DECODE_PAIRS

Order = Literal["AB", "BA"]
"""``AB``: the baseline (A) is launched first; ``BA``: the candidate (B)."""


@dataclass(frozen=True)
class TimedLaunch:
    """One launch of one side.

    Attributes
    ----------
    run_id : str
        Name of its files under ``decode/``.
    decode_tok_per_s : float
        Mean decode speed of its repeats, tokens per second, higher is better.
    elapsed_s : float
        Seconds from launch to end.
    disturbance : str or None
        What disturbed it, if anything is known to have.
    """

    run_id: str
    decode_tok_per_s: float
    elapsed_s: float
    disturbance: str | None = None


@dataclass(frozen=True)
class Pair:
    """Two launches side by side, baseline and candidate.

    Attributes
    ----------
    order : str
        Which side was launched first.
    excluded : str or None
        Why the two sides cannot be compared (unlike contexts, say); None for a sound pair. An excluded pair takes no
        part in the statistics and is listed in the verdict.
    """

    order: Order
    baseline: TimedLaunch
    candidate: TimedLaunch
    excluded: str | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds of both launches."""
        return self.baseline.elapsed_s + self.candidate.elapsed_s

    @property
    def drop(self) -> float:
        """Fraction of speed that the candidate lost."""
        return 1.0 - self.candidate.decode_tok_per_s / self.baseline.decode_tok_per_s

    @property
    def log_ratio(self) -> float:
        """ln(baseline / candidate): positive where the candidate is slower. NotMeasured where a side has no speed."""
        sides = {"baseline": self.baseline.decode_tok_per_s, "candidate": self.candidate.decode_tok_per_s}
        for side, speed in sides.items():
            if not (math.isfinite(speed) and speed > 0):
                raise NotMeasured(
                    f"the {side} of a decode pair has no speed",
                    came=f"{speed!r} tok/s",
                    expected="a positive number of tokens per second",
                    hint="launch the pair again, or exclude it with the reason",
                )
        # Two logarithms and not one of a quotient, which can overflow or vanish.
        return math.log(sides["baseline"]) - math.log(sides["candidate"])


def log_ratios(pairs: Sequence[Pair]) -> npt.NDArray[np.float64]:
    """ln(baseline / candidate) of the pairs that can be compared, in launch order: float64 `[compared]`."""
    return np.array([pair.log_ratio for pair in pairs if pair.excluded is None], dtype=np.float64)


def plan_order(pairs: int, seed: int) -> tuple[Order, ...]:
    """Which side goes first in each pair: balanced and shuffled.

    Two pairs make a block that runs as A B B A or as B A A B, drawn by the seed. So after any number of pairs each side
    has gone first equally often, give or take one; a steady drift of the machine cancels within a block; and a
    disturbance with a period of its own cannot keep step with one side. A longer plan starts like a shorter one.
    """
    if pairs < 0:
        raise UsageError("an order of launches needs a number of pairs", came=str(pairs), expected="0 or more")
    rng = random.Random(seed)
    order: list[Order] = []
    while len(order) < pairs:
        # Only random() is promised to give the same draws in every version of Python.
        order += ["AB", "BA"] if rng.random() < 0.5 else ["BA", "AB"]
    return tuple(order[:pairs])


Outcome = Literal["pass", "fail", "inconclusive"]
DEFAULT_PAIRS = 20
DEFAULT_CONFIDENCE = 0.95
UNLIKE_PAIRS = 2
"""So many pairs, all of them unlike, and no other: what makes them unlike is no accident, and more would not help."""

FIT_SLACK = 1.05
"""Pairs are planned a little longer than the first one: a plan that does not fit loses its last and strongest looks."""

METHOD = (
    "sequential Wilcoxon signed-rank test on log ratios of paired launches, error spent as (n / planned) ** power, "
    "Hodges-Lehmann estimate, repeated confidence interval"
)


@dataclass(frozen=True)
class DecodeVerdict:
    """What the pairs say about the drop in decode speed.

    Attributes
    ----------
    outcome : str
        ``pass``, ``fail`` or ``inconclusive``.
    drop : float or None
        Estimated fraction of decode speed lost, negative where the candidate is faster; None without a pair.
    low, high : float or None
        Interval of the drop. Each bound holds with `confidence`, at all looks so far together. None: not bounded yet.
    pairs : int
        Pairs that were compared.
    target : float
        The largest allowed drop, a fraction.
    confidence : float
        Of a pass and of a fail, one-sided.
    needed_pairs : int or None
        If inconclusive: about how many pairs a new comparison would need for a clear verdict with a chance of 80 %, if
        drop and noise are as they seem. None if that cannot be told.
    planned_pairs : int
        The number of pairs that the error was spread over.
    excluded : tuple of str
        Pairs that could not be compared, each with its reason.
    note : str or None
        What else is wrong with these pairs.
    method : str
        The statistics in a line.
    """

    outcome: Outcome
    drop: float | None
    low: float | None
    high: float | None
    pairs: int
    target: float
    confidence: float
    needed_pairs: int | None
    planned_pairs: int
    excluded: tuple[str, ...] = ()
    note: str | None = None
    method: str = METHOD
    unit: Literal["pair", "row"] = "pair"
    """What was compared: then `pairs` counts these."""

    @property
    def basis(self) -> str:
        """What the verdict rests on, in a few words."""
        left_out = f", {len(self.excluded)} excluded" if self.excluded else ""
        return f"{self.pairs} {self.unit}{'s' * (self.pairs != 1)}{left_out}"


@dataclass(frozen=True)
class Budget:
    """What may be spent on one comparison. Fix it before the first pair: the critical values depend on it.

    Attributes
    ----------
    pairs : int
        Pairs to compare, at most.
    elapsed_s : float or None
        Seconds, at most; None without a limit. Ends a comparison early and leaves its error rates as they are.
    spare_pairs : int
        Pairs that may be launched again because they could not be compared.
    """

    pairs: int = DEFAULT_PAIRS
    elapsed_s: float | None = None
    spare_pairs: int = 5

    def __post_init__(self) -> None:
        checks = (
            ("pairs", 1 <= self.pairs <= MAX_PAIRS, f"1 to {MAX_PAIRS}"),
            ("elapsed_s", self.elapsed_s is None or self.elapsed_s > 0, "a positive number of seconds, or None"),
            ("spare_pairs", self.spare_pairs >= 0, "0 or more"),
        )
        for name, holds, expected in checks:
            if not holds:
                came = f"{name} = {getattr(self, name)!r}"
                raise UsageError("a decode budget that cannot be kept", came=came, expected=expected)

    def fitted(self, pair_s: float, spent_s: float) -> Budget:
        """The same budget with as many pairs as its time has room for, once the first pair was launched.

        Without this a comparison that runs out of time has kept most of its error for looks that never came, and is
        weaker than it could be. Fitting looks at the time of the first pair as a whole, never at which side was faster:
        if the drop is what is tested, exchanging the luck of both sides leaves the time as it is and turns the sign, so
        that the sign stays a fair coin whatever the plan. benchmarks/decode_error_rates.py measures it.
        """
        if self.elapsed_s is None or not pair_s > 0:
            return self
        room = int(max(0.0, self.elapsed_s - spent_s) / (pair_s * FIT_SLACK))
        return replace(self, pairs=min(self.pairs, 1 + room))


class Action(NamedTuple):
    """What to do next, why, and the verdict so far."""

    launch: bool
    reason: str
    verdict: DecodeVerdict


def judge(
    pairs: Sequence[Pair],
    target: float,
    *,
    planned_pairs: int = DEFAULT_PAIRS,
    confidence: float = DEFAULT_CONFIDENCE,
    rule: Rule = GIVES_UP,
) -> DecodeVerdict:
    """The verdict on pairs in launch order; may be asked after every pair."""
    return _judge(pairs, target, make_plan(planned_pairs, confidence, rule))[1]


def next_action(
    pairs: Sequence[Pair],
    budget: Budget,
    target: float,
    *,
    confidence: float = DEFAULT_CONFIDENCE,
    elapsed_s: float = 0.0,
) -> Action:
    """Launch another pair, or stop: the verdict is clear, the budget is spent, or little hope is left within it.

    `elapsed_s` is the time spent on `pairs`, in seconds. Raises as `judge` does.
    """
    plan = make_plan(budget.pairs, confidence, GIVES_UP)
    given_up, verdict = _judge(pairs, target, plan)
    stop = _reason_to_stop(pairs, budget, plan, verdict, elapsed_s)
    if stop is None and given_up:
        stop = f"the chance of a clear verdict within {plan.pairs} pairs has fallen below {GIVES_UP.hope:.0%}"
    return Action(stop is None, stop or f"not clear after {verdict.pairs} of {_count(plan.pairs)}", verdict)


def _reason_to_stop(
    pairs: Sequence[Pair], budget: Budget, plan: Plan, verdict: DecodeVerdict, elapsed_s: float
) -> str | None:
    if verdict.outcome != "inconclusive":
        return f"the verdict is clear after {verdict.pairs} pairs"
    if verdict.note is not None:
        return verdict.note
    if not plan.can_decide:
        return f"{_count(plan.pairs)} can never give a verdict with {plan.confidence:.1%} confidence: plan more"
    if verdict.pairs >= plan.pairs:
        return f"the budget of {_count(plan.pairs)} is spent"
    if len(verdict.excluded) > budget.spare_pairs:
        return f"{_count(len(verdict.excluded))} could not be compared, more than the {budget.spare_pairs} to spare"
    if budget.elapsed_s is not None and elapsed_s + (elapsed_s / len(pairs) if pairs else 0.0) > budget.elapsed_s:
        return f"another pair would not fit into the budget of {budget.elapsed_s:g} s ({elapsed_s:.1f} s are spent)"
    if len(pairs) >= UNLIKE_PAIRS and verdict.pairs == 0:
        return f"not one of the first {len(pairs)} pairs could be compared, so more would not help"
    return None


def _target_log(target: float) -> float:
    if not (math.isfinite(target) and target < 1):
        raise UsageError(
            "the target of a decode comparison is not a fraction of speed that may be lost",
            came=repr(target),
            expected="a number below 1, such as 0.05 for 5 %",
        )
    return -math.log1p(-target)


def _judge(pairs: Sequence[Pair], target: float, plan: Plan) -> tuple[bool, DecodeVerdict]:
    """Whether the comparison is given up, and the verdict on all looks up to there."""
    target_log, values = _target_log(target), log_ratios(pairs)
    if len(values) > plan.pairs:
        raise UsageError(
            "more pairs were compared than were planned, so the error rates of the verdict are not known",
            came=f"{len(values)} pairs",
            expected=f"{plan.pairs} at most",
            hint="fix the number of pairs before the first one, and start a new comparison for more",
        )
    walsh, low, high, given_up = walsh_averages(values), -math.inf, math.inf, False
    for n in range(1, len(values) + 1):
        averages = walsh[: n * (n + 1) // 2]
        look = look_at(averages, n, plan)
        # Every look's interval holds at all looks together, so the drop lies in all of them.
        low, high = max(low, float(look.low)), min(high, float(look.high))
        if given_up := low <= target_log <= high and bool(plan.gives_up(averages, n, target_log)):
            break
    contradiction = low > high
    outcome: Outcome = "inconclusive"
    if not contradiction:
        outcome = "fail" if low > target_log else "pass" if high < target_log else "inconclusive"
    last = look_at(walsh, len(values), plan) if len(values) else None
    needed = None
    if last is not None and outcome == "inconclusive" and not contradiction:
        needed = pairs_for_verdict(float(last.centre) - target_log, float(last.spread), plan)
        needed = None if needed is None else max(needed, len(values) + 1)
    return given_up, DecodeVerdict(
        outcome=outcome,
        drop=_drop(float(last.centre)) if last is not None else None,
        low=None if contradiction else _drop(low),
        high=None if contradiction else _drop(high),
        pairs=len(values),
        target=target,
        confidence=plan.confidence,
        needed_pairs=needed,
        planned_pairs=plan.pairs,
        excluded=tuple(
            f"pair {n}: {pair.excluded}" for n, pair in enumerate(pairs, start=1) if pair.excluded is not None
        ),
        note=_CONTRADICTION if contradiction else None,
    )


_CONTRADICTION = "earlier and later pairs contradict each other: the machine or a side has changed meanwhile"


def _drop(log_ratio: float) -> float | None:
    """A log ratio as a fraction of speed lost; None for an infinite one, which bounds nothing."""
    return -math.expm1(-log_ratio) if np.isfinite(log_ratio) else None


def _count(pairs: int) -> str:
    return "1 pair" if pairs == 1 else f"{pairs} pairs"


# -- rows against a number -----------------------------------------------------------------------------------------

ROWS_METHOD = "Student's t interval of the mean over rows, each a launch, against a baseline that is taken as exact"
MEDIAN_METHOD = "sign test interval of the median over rows, each a launch, against a baseline that is taken as exact"


class RowSpeed(NamedTuple):
    """Decode speed of a row, tok/s, higher is better: mean over repeats, their standard deviation if it is known."""

    mean: float
    std: float | None = None
    repeats: int | None = None

    @property
    def error(self) -> float | None:
        """Squared standard error of the mean that the repeats give it."""
        known = self.std is not None and self.repeats is not None and self.repeats > 1
        return self.std**2 / self.repeats if known and self.std is not None and self.repeats else None


def judge_rows(
    rows: Sequence[RowSpeed], baseline: float, target: float, *, confidence: float = DEFAULT_CONFIDENCE
) -> DecodeVerdict:
    """The verdict of the mean over rows, each a launch of its own, on a baseline in tok/s.

    The standard error of the mean is that of the spread between the rows, or of the repeats inside them where that is
    larger. One row has its repeats alone; where these are not known there is no interval, and no verdict.
    """
    count, mean = len(rows), statistics.fmean(row.mean for row in rows)
    errors = [error for row in rows if (error := row.error) is not None]
    inside = statistics.fmean(errors) if len(errors) == count else 0.0
    low = high = None
    degrees = count - 1 or (rows[0].repeats or 1) - 1
    if count > 1 or errors:
        between = statistics.variance(row.mean for row in rows) if count > 1 else 0.0
        error = math.sqrt(max(between, inside) / count)
        half = student_quantile(confidence, degrees) * error
        low, high = mean - half, mean + half
    return _against(baseline, (low, mean, high), target, confidence, count, ROWS_METHOD)


def judge_median(
    rows: Sequence[RowSpeed], baseline: float, target: float, *, confidence: float = DEFAULT_CONFIDENCE
) -> DecodeVerdict:
    """The verdict of the median over rows: no spread is taken for that of a bell curve, and five rows are needed."""
    speeds, count = sorted(row.mean for row in rows), len(rows)
    chances = itertools.accumulate(math.comb(count, below) / 2**count for below in range(count))
    place = sum(chance <= 1 - confidence for chance in chances)  # so many rows from either end
    low, high = (speeds[place - 1], speeds[-place]) if place else (None, None)
    return _against(baseline, (low, statistics.median(speeds), high), target, confidence, count, MEDIAN_METHOD)


def _against(
    baseline: float,
    speeds: tuple[float | None, float, float | None],
    target: float,
    confidence: float,
    count: int,
    method: str,
) -> DecodeVerdict:
    """What a speed in an interval, tok/s, says of a baseline; an interval that is not known says nothing."""
    _target_log(target)
    high, drop, low = (None if speed is None else (baseline - speed) / baseline for speed in speeds)
    outcome: Outcome = "inconclusive"
    if low is not None and high is not None:
        outcome = "fail" if low > target else "pass" if high <= target else "inconclusive"
    return DecodeVerdict(outcome, drop, low, high, count, target, confidence, None, count, method=method, unit="row")


@cache
def student_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t above one half, for whole degrees of freedom."""
    low, high = 0.0, 1.0
    while _student_below(high, degrees) < probability:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_below(middle, degrees) < probability else (low, middle)
    return high


def _student_below(t: float, degrees: int) -> float:
    """P(T <= t) for t of at least 0: the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    cosine, odd = math.cos(angle), degrees % 2
    term, total = (cosine, cosine) if odd else (1.0, 1.0)
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if degrees == 1:
        total = 0.0
    share = (angle + math.sin(angle) * total) * 2 / math.pi if odd else math.sin(angle) * total
    return (1.0 + share) / 2


DECODE_FOLDER = "decode"
"""Folder of a preset in the run folder that takes configs, logs and output of its pairs."""

PAIRS_NAME = "pairs.json"


def pairs_key(preset: str, workload: str) -> str:
    """What the pairs of a preset are kept by, or those of one of its workloads."""
    return f"{preset}/{workload}" if workload else preset


def decode_folder(workload: str) -> str:
    """Where they lie in the folder of the preset."""
    return f"{DECODE_FOLDER}-{workload}" if workload else DECODE_FOLDER


def pairs_folder(key: str) -> str:
    """Where those of a key lie in a run folder: ``PRESET/decode``, or ``PRESET/decode-p512-g128``."""
    preset, _, workload = key.partition("/")
    return f"{preset}/{decode_folder(workload)}"


@dataclass(frozen=True)
class PairedComparison:
    """All pairs of one comparison.

    Attributes
    ----------
    candidate : str
        Run id of the row that is judged.
    baseline : str
        What it was paired with, in words.
    seed : int
        Of the order of launches.
    planned_pairs : int
        Pairs that the error was spread over, fixed before the first one.
    pairs : tuple of Pair
        In launch order.
    measured_again : tuple of str
        Launches that were disturbed and made again, each with its reason; they take no part.
    stopped : str
        Why no further pair was launched.
    elapsed_s : float
        Seconds of all launches together, those that were made again too.
    notes : tuple of str
        What else a reader should know.
    """

    candidate: str
    baseline: str
    seed: int
    planned_pairs: int
    pairs: tuple[Pair, ...] = ()
    measured_again: tuple[str, ...] = ()
    stopped: str = ""
    elapsed_s: float = 0.0
    notes: tuple[str, ...] = ()
    version: Literal[1, 2] = 2
    """1: made by a rule that looked at all pairs, and judged by it."""
    plan: str = ""
    """Checksum of what was fixed before the pairs; empty where an earlier version wrote them."""

    @property
    def checksum(self) -> str:
        fixed = (self.candidate, self.baseline, self.seed, self.planned_pairs, self.version)
        return f"{zlib.crc32(repr(fixed).encode()):08x}"

    @property
    def launches(self) -> int:
        return 2 * len(self.pairs) + len(self.measured_again)

    @property
    def is_comparable(self) -> bool:
        """False where pairs were launched and not one of them could be compared."""
        return not self.pairs or any(pair.excluded is None for pair in self.pairs)

    def judge(self, target: float) -> DecodeVerdict:
        """The verdict of these pairs on a largest allowed drop, a fraction."""
        rule = LOOKS_AT_ALL if self.version == 1 else GIVES_UP
        return judge(self.pairs, target, planned_pairs=self.planned_pairs, rule=rule)

    def median_tok_per_s(self, side: Literal["baseline", "candidate"]) -> float | None:
        """Median decode speed of one side in the pairs that could be compared; None without one."""
        speeds = [getattr(pair, side).decode_tok_per_s for pair in self.pairs if pair.excluded is None]
        return statistics.median(speeds) if speeds else None

    @classmethod
    def from_json(cls, value: object) -> PairedComparison:
        """Read what `files.plain` made of one; the pairs must be those of a plan that can be judged."""
        what, hint = "a paired comparison", "start a new run folder"
        made = load(cls, value, what, hint=hint)
        if made.plan not in ("", made.checksum):
            raise StoreError(
                f"{what} has another plan than it was launched with",
                came=f"seed {made.seed}, {made.planned_pairs} planned pairs",
                expected=f"candidate, baseline, seed, planned pairs and version as checksum {made.plan} has them",
                hint="copy pairs.json again, or measure it again",
            )
        try:
            made.judge(0.0)
        except H2OError as error:
            raise StoreError(f"{what} cannot be judged", came=error.what, hint=hint) from error
        return made


def explain(comparison: PairedComparison, verdict: DecodeVerdict) -> list[str]:
    """What a reader of the verdict should know beside its interval, a line each."""
    lines = [f"paired with {comparison.baseline}: {comparison.launches} launches; {comparison.stopped}"]
    if not comparison.is_comparable:
        lines.append("not comparable: no pair could be compared, so this is no verdict on the decode speed")
    elif verdict.outcome == "inconclusive" and verdict.note is None and verdict.pairs:
        lines.append(f"to decide: {_need(verdict.needed_pairs)}")
    if verdict.note is not None and verdict.note != comparison.stopped:
        lines.append(verdict.note)
    lines += [f"excluded {text}" for text in verdict.excluded]
    if busy := _describe_disturbed(comparison):
        lines.append(busy)
    return [*lines, *comparison.notes]


def _describe_disturbed(comparison: PairedComparison) -> str | None:
    """What others on the machine did to the launches, said once however often it was; None if nothing is known."""
    again = comparison.measured_again
    kept = [launch for pair in comparison.pairs for launch in (pair.baseline, pair.candidate) if launch.disturbance]
    said = [f"{len(again)} measured again"] if again else []
    said += [f"{len(kept)} of {2 * len(comparison.pairs)} counted all the same"] if kept else []
    firsts = [*again, *(f"{launch.run_id}: {launch.disturbance}" for launch in kept)]
    return f"disturbed launches: {', '.join(said)}; first {firsts[0]}" if firsts else None


def _need(pairs: int | None) -> str:
    if pairs is None:
        return "how many pairs cannot be told from these"
    if pairs > MAX_DECODE_PAIRS:
        return (
            f"about {pairs} pairs, more than the {MAX_DECODE_PAIRS} that a comparison can have: too near to the target "
            "for this noise; make launches quieter (more repeats, a machine of its own)"
        )
    return (
        f"a new comparison planned with about {pairs} pairs (--h2o-decode-budget {pairs}, or "
        "decode_pairs under targets: in the preset)"
    )


@dataclass(frozen=True)
class Noise:
    """What a bench against itself showed.

    Attributes
    ----------
    launch_spread : float
        Standard deviation of the logarithm of decode speed over all launches: about the relative spread of a launch.
    pair_spread : float
        Robust standard deviation of the log ratio of a pair; what slows both sides is no part of it.
    drop : float
        Estimated drop of the bench against itself: 0 but for noise, and for a bias of going first or second.
    pairs : int
        Pairs that were compared.
    """

    launch_spread: float
    pair_spread: float
    drop: float
    pairs: int
    version: Literal[1] = 1

    def floor(self, pairs: int) -> float | None:
        """The smallest drop that `pairs` pairs tell from none with a chance of 80 %, a fraction; None if none can.

        A target below it is too fine for this noise: a build without any slow-down would often end inconclusive.
        """
        z = max(make_plan(pairs, DEFAULT_CONFIDENCE, GIVES_UP).final_z)
        if not math.isfinite(z):
            return None
        return -math.expm1(-(z + CHANCE_WANTED_Z) * self.pair_spread / math.sqrt(pairs))

    @classmethod
    def from_json(cls, value: object, where: str = "") -> Noise:
        """Read what `files.plain` made of one, or the file (Path) that holds it; further keys are left aside."""
        what, hint = "a calibration", "calibrate again: pytest-h2o calibrate"
        made = load(cls, value, what, where=where, hint=hint)
        if made.launch_spread < 0 or made.pair_spread < 0:
            raise StoreError(f"{what} has a spread below 0", where=where or None, came=repr(made), hint=hint)
        return made


def measure_noise(pairs: Sequence[Pair]) -> Noise:
    """The noise of pairs whose two sides are the same build."""
    values = log_ratios(pairs)
    if len(values) < SPREAD_FROM_PAIRS:
        raise UsageError(
            "too few pairs could be compared to know the noise",
            came=f"{len(values)} of {len(pairs)} pairs",
            expected=f"at least {SPREAD_FROM_PAIRS}",
            hint="raise --pairs",
        )
    look = look_at(walsh_averages(values), len(values), make_plan(len(values), DEFAULT_CONFIDENCE, GIVES_UP))
    speeds = [side.decode_tok_per_s for pair in pairs for side in (pair.baseline, pair.candidate)]
    return Noise(
        launch_spread=float(np.log(speeds).std(ddof=1)),
        pair_spread=float(look.spread),
        drop=-math.expm1(-float(look.centre)),
        pairs=len(values),
    )
