"""Why the signed-rank test: sequential methods side by side, on the same pairs, with the same error to spend.

    python benchmarks/decode_methods.py

Every method may stop after every pair and never stops for lack of hope. All but the last spend their error over the
looks in the same way; the last, betting on the signs (I. Waudby-Smith and A. Ramdas, 2024, "Estimating means of bounded
random variables by betting", Journal of the Royal Statistical Society B 86), needs no plan and may go on for ever.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from decode_error_rates import TARGET, draw_log_ratios
from decode_noise import NOISES
from decode_rules import student_tail, t_statistic

from pytest_h2o.gate.decode import DEFAULT_CONFIDENCE, DEFAULT_PAIRS
from pytest_h2o.gate.sequential import LOOKS_AT_ALL, critical_counts

Floats = npt.NDArray[np.float64]
Stops = npt.NDArray[np.bool_]
Method = Callable[[Floats, float], Stops]
"""Values `[comparisons, pairs]` and the power of spending, to: is the centre above 0 at this look? `[..., pairs]`."""
DROPS = (0.0, 0.05, 0.10, 0.20)
ALPHA = 1 - DEFAULT_CONFIDENCE
SPENT = LOOKS_AT_ALL.fails.share * ALPHA
CONTINUOUS = np.linspace(1.0, 0.0, 100_001)[:-1]
NEVER = 10**9


def truncated_ranks(share: float) -> Method:
    """Signed ranks, of which those above a share of n all count alike: 1 is the signed-rank test, 0 the sign test."""

    def scores(n: int) -> npt.NDArray[np.int64]:
        ranks = np.arange(1, n + 1)
        return np.minimum(ranks, max(1, math.ceil(share * n)))

    @cache
    def tail(n: int) -> Floats:
        law = np.ones(1)
        for score in scores(n).tolist():
            longer = np.zeros(len(law) + score)
            longer[: len(law)] += law / 2
            longer[score:] += law / 2
            law = longer
        found: Floats = np.minimum(law[::-1].cumsum()[::-1], 1.0)
        return found

    def stops(values: Floats, power: float) -> Stops:
        pairs = values.shape[1]
        above = np.zeros(values.shape, dtype=bool)
        for n, count in enumerate(critical_counts(pairs, SPENT, power, tail_of=tail), start=1):
            ranks = np.abs(values[:, :n]).argsort(axis=1).argsort(axis=1)
            statistic = (scores(n)[ranks] * (values[:, :n] > 0)).sum(axis=1)
            above[:, n - 1] = statistic >= (NEVER if count is None else count)
        return above

    return stops


def student(values: Floats, power: float) -> Stops:
    """Student's t-test with spending: right for normal noise only."""
    above = np.zeros(values.shape, dtype=bool)
    counts = critical_counts(values.shape[1], SPENT, power, tail_of=lambda n: CONTINUOUS)
    for n, count in enumerate(counts, start=1):
        if count is not None and n > 1:
            above[:, n - 1] = student_tail(t_statistic(values[:, :n], 0.0), n - 1) <= CONTINUOUS[count]
    return above


def sign_betting(values: Floats, power: float) -> Stops:
    """Bets on the signs, mixed evenly over the chances above a half; stops at a wealth of 1 / alpha."""
    chances = np.linspace(0.5, 1.0, 101)[1:-1]
    positive = (values > 0).cumsum(axis=1)
    negative = (values <= 0).cumsum(axis=1)
    log_wealth = positive[..., None] * np.log(2 * chances) + negative[..., None] * np.log(2 - 2 * chances)
    above: Stops = np.exp(log_wealth).mean(axis=-1) >= 1 / ALPHA
    return above


METHODS: dict[str, Method] = {
    "signed rank": truncated_ranks(1.0),
    "signed rank, truncated at 70 %": truncated_ranks(0.7),
    "signed rank, truncated at 50 %": truncated_ranks(0.5),
    "sign": truncated_ranks(0.0),
    "Student's t": student,
    "betting on signs": sign_betting,
}


def first_stop(stops: Stops) -> npt.NDArray[np.int64]:
    found = stops.any(axis=1)
    return np.where(found, stops.argmax(axis=1) + 1, NEVER)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=20)
    arguments = parser.parse_args(argv)
    target_log = -math.log1p(-TARGET)
    write = sys.stdout.write
    write("Pass / fail in %, then pairs spent, median (mean).\n\n")
    write("| noise | method | " + " | ".join(f"drop {drop:.0%}" for drop in DROPS) + " |\n")
    write("| --- | --- |" + " --- |" * len(DROPS) + "\n")
    for noise in NOISES:
        for name, method in METHODS.items():
            row = []
            for drop in DROPS:
                shape = (arguments.replicates, DEFAULT_PAIRS)
                gaps = draw_log_ratios(noise, drop, shape, arguments.seed) - target_log
                fails = first_stop(method(gaps, LOOKS_AT_ALL.fails.power))
                passes = first_stop(method(-gaps, LOOKS_AT_ALL.passes.power))
                spent = np.minimum(np.minimum(fails, passes), DEFAULT_PAIRS)
                shares = f"{100 * (passes < fails).mean():.1f} / {100 * (fails < passes).mean():.1f}"
                row.append(f"{shares}<br>{np.median(spent):.0f} ({spent.mean():.1f})")
            write(f"| {noise.name} | {name} | " + " | ".join(row) + " |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
