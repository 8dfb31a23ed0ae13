"""Pairs of launches for a decode comparison: their values, their order, and which of them can be compared. Pure.

A pair is one launch of the baseline and one of the candidate, close together in time, so that what slows the
machine for longer than a pair slows both sides and cancels in their ratio. Every launch gives one decode speed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pytest_h2o.errors import NotMeasured, UsageError

Order = Literal["AB", "BA"]
"""``AB``: the baseline (A) is launched first; ``BA``: the candidate (B)."""


@dataclass(frozen=True)
class Pair:
    """Decode speeds of two launches, baseline and candidate.

    Attributes
    ----------
    baseline_tok_per_s, candidate_tok_per_s : float or None
        Decode tokens per second, higher is better; None only in an excluded pair.
    order : str or None
        Which side was launched first, for the record.
    excluded : str or None
        Why the two sides cannot be compared (unlike contexts, a disturbed launch); None for a sound pair. An excluded
        pair takes no part in the statistics and is listed in the verdict.

    Raises
    ------
    NotMeasured
        A pair that is not excluded lacks a speed, or a speed is not a positive finite number.
    """

    baseline_tok_per_s: float | None
    candidate_tok_per_s: float | None
    order: Order | None = None
    excluded: str | None = None

    def __post_init__(self) -> None:
        if self.excluded is not None:
            return
        for side, speed in (("baseline", self.baseline_tok_per_s), ("candidate", self.candidate_tok_per_s)):
            if speed is None or not (math.isfinite(speed) and speed > 0):
                raise NotMeasured(
                    f"the {side} of a decode pair has no speed",
                    came="no value" if speed is None else f"{speed!r} tok/s",
                    expected="a positive number of tokens per second",
                    hint="launch the pair again, or exclude it with the reason",
                )

    @property
    def log_ratio(self) -> float | None:
        """ln(baseline / candidate): positive where the candidate is slower; None for an excluded pair."""
        if self.excluded is not None or self.baseline_tok_per_s is None or self.candidate_tok_per_s is None:
            return None
        # Two logarithms and not one of a quotient, which can overflow or vanish.
        return math.log(self.baseline_tok_per_s) - math.log(self.candidate_tok_per_s)


def log_ratios(pairs: Sequence[Pair]) -> npt.NDArray[np.float64]:
    """ln(baseline / candidate) of the pairs that can be compared, in launch order: float64 `[compared]`."""
    return np.array([value for pair in pairs if (value := pair.log_ratio) is not None], dtype=np.float64)


def exclusions(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """The excluded pairs in words, numbered from 1 in launch order."""
    return tuple(f"pair {i}: {pair.excluded}" for i, pair in enumerate(pairs, start=1) if pair.excluded is not None)


def plan_order(pairs: int, seed: int) -> tuple[Order, ...]:
    """Which side goes first in each pair: balanced and shuffled.

    Two pairs make a block that runs as A B B A or as B A A B, drawn by the seed. So after any number of pairs each side
    has gone first equally often, give or take one; a steady drift of the machine cancels within a block; and a
    disturbance with a period of its own cannot keep step with one side. A longer plan starts like a shorter one.

    Parameters
    ----------
    pairs : int
        How many pairs, 0 or more.
    seed : int
        The same seed gives the same order.

    Raises
    ------
    UsageError
        The number of pairs is negative.
    """
    if pairs < 0:
        raise UsageError("an order of launches needs a number of pairs", came=str(pairs), expected="0 or more")
    rng = random.Random(seed)
    order: list[Order] = []
    while len(order) < pairs:
        # Only random() is promised to give the same draws in every version of Python.
        order += ["AB", "BA"] if rng.random() < 0.5 else ["BA", "AB"]
    return tuple(order[:pairs])
