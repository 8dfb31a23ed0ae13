"""Decoder-side search: the pattern whose interval holds a slot.

A guess by the inverse of the logistic function is near; what is found is settled by the exact intervals alone, so the
guess may use any arithmetic.
"""

from __future__ import annotations

import numpy as np

from pytest_h2o.codecs.density.logistic import HALF, PATTERNS, TOTAL_BITS, UNIT, Doubles, Integers, cumulated
from pytest_h2o.codecs.density.ordered_fp16 import to_ordered

_LOGISTIC_TOTAL = (1 << TOTAL_BITS) - PATTERNS
_GUESSES = 2


def find_patterns(
    slots: Integers, expected: Doubles, slope: Doubles, dropped_bits: int
) -> tuple[Integers, Integers, Integers]:
    """Find the patterns (0 to 65,535) of slots under the distributions of `cumulated`.

    Parameters
    ----------
    slots : int64 ``[lanes]``, 0 to 2^24 - 1
    expected, slope : float64 ``[lanes]``
    dropped_bits : int
        So many low bits of the patterns are not coded: they come out as 0.

    Returns
    -------
    tuple of int64 ``[lanes]``
        Patterns, and where their intervals begin and how wide they are.
    """
    size = 1 << dropped_bits
    probe = _guess(slots, expected, slope) & -size
    low = cumulated(probe, expected, slope)
    high = cumulated(probe + size, expected, slope)
    wrong = np.flatnonzero((slots < low) | (slots >= high))
    if len(wrong):
        found = _search(slots[wrong], expected[wrong], slope[wrong], probe[wrong], slots[wrong] >= high[wrong], size)
        probe[wrong] = found
        low[wrong] = cumulated(found, expected[wrong], slope[wrong])
        high[wrong] = cumulated(found + size, expected[wrong], slope[wrong])
    return probe, low, high - low


def _search(
    slots: Integers, expected: Doubles, slope: Doubles, probe: Integers, above: np.ndarray, size: int
) -> Integers:
    """Search from wrong probes, in steps that double until the slot is passed, then by halving.

    `floor` is at or below the pattern, `ceiling` above it, throughout.
    """
    floor = np.where(above, probe + size, 0)
    ceiling = np.where(above, PATTERNS, probe)
    step = size
    while True:
        width = ceiling - floor
        if int(width.max()) <= size:
            return floor
        halved = floor + ((width >> 1) & -size)
        near = np.where(above, np.minimum(floor + step, halved), np.maximum(ceiling - step, halved))
        middle = np.where(width > size, near, floor)
        holds = cumulated(middle, expected, slope) <= slots
        floor = np.where(holds, middle, floor)
        ceiling = np.where(holds | (width <= size), ceiling, middle)
        # Once the direction is wrong for a lane, plain halving is as good: steps only ever shrink the bracket.
        step *= 4


def _guess(slots: Integers, expected: Doubles, slope: Doubles) -> Integers:
    """Invert the distribution; the one share that each pattern adds is taken from the guess before."""
    pattern = _pattern_of(expected)
    spread = UNIT / slope
    for _ in range(_GUESSES):
        share = (slots - pattern + 0.5) * (1 / _LOGISTIC_TOTAL)
        np.maximum(share, 1e-9, out=share)
        np.minimum(share, 1 - 1e-9, out=share)
        pattern = _pattern_of(expected + np.log(share / (1 - share)) * spread)
    return pattern


def _pattern_of(values: Doubles) -> Integers:
    finite = np.minimum(np.maximum(values, -65504.0), 65504.0).astype(np.float16)
    return to_ordered(finite.view(np.uint16)).astype(np.int64) + HALF
