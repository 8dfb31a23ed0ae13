"""The probability of every fp16 bit pattern under a logistic distribution, as whole numbers that all machines agree on.

A value x is expected around p with a scale s. The share of each of the 65,536 patterns, ordered by value (see
`ordered_fp16`), is the probability of its rounding interval, ``F((upper - p) / s) - F((lower - p) / s)`` with F the
logistic function, of 2^24 in all; one is added for each pattern, so that none is impossible, NaN and infinities
included. Upper and lower are the midpoints to the neighbouring values.

Tables are made from Python integers. What is left for floating point are single float64 subtractions and
multiplications, each rounded in one way only, and bit patterns of float64 read as integers.
"""

from __future__ import annotations

from math import isqrt

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

TOTAL_BITS = 24
PATTERNS = 1 << 16
HALF = PATTERNS // 2

_RANGE = 24
"""F is 0 below minus this many units and 1 above."""
_NODES_BITS = 6
_STEP_BITS = 16
UNIT = 1 << _NODES_BITS + _STEP_BITS
"""Resolution of the argument of F: as fine as 2^24 shares can tell apart, for intervals near 0 are narrow."""
_TENTHS_A_DEVIATION = 17
"""The logistic function with a slope of 1.7 is close to the normal one of deviation 1."""


def _logistic_nodes() -> tuple[Integers, Integers]:
    """F at 64 nodes a unit, scaled so that F and one for each pattern make 2^24, and the steps between nodes."""
    bits = 96
    # exp(1 / 64) by its Taylor series, truncated fixed point.
    growth, term = 0, 1 << bits
    for n in range(1, 30):
        growth += term
        term //= n << _NODES_BITS
    powers = [1 << bits]
    for _ in range(_RANGE << _NODES_BITS):
        powers.append(powers[-1] * growth >> bits)
    scale = (1 << TOTAL_BITS) - PATTERNS
    # F(-u) = 1 / (1 + exp(u)), F(u) = 1 - F(-u); the ends are set so that nothing is lost.
    below = [(scale << bits) // ((1 << bits) + power) for power in powers]
    below[-1] = 0
    nodes = np.array([*reversed(below), *(scale - value for value in below[1:])], np.int64)
    return nodes[:-1].copy(), np.diff(nodes)


def _value_tables() -> tuple[Doubles, Doubles]:
    """Value of every ordered pattern, and the lower edge of its interval; what is not finite counts as 2^16."""
    ordered = np.arange(-HALF, HALF)
    magnitude = np.where(ordered >= 0, ordered, -ordered - 1).astype(np.uint16)
    finite = np.minimum(magnitude, 0x7BFF).view(np.float16).astype(np.float64)
    value = np.where(magnitude > 0x7BFF, 65536.0, finite) * np.where(ordered >= 0, 1.0, -1.0)
    edges = np.empty(PATTERNS + 1)
    edges[1:-1] = (value[1:] + value[:-1]) * 0.5
    far = 1e30
    edges[0], edges[-1] = -far, far
    edges[1 : HALF - 0x7C00], edges[HALF + 0x7C01 : -1] = -far, far
    return value, edges


def _slope_table() -> Doubles:
    """2^22 * 1.7 / sqrt(v) for v by the top 16 bits of its float64 pattern: exponent and four bits of mantissa."""
    slopes = []
    for index in range(_LOWEST, _HIGHEST + 1):
        exponent, mantissa = (index >> 4) - 1023, 2 * (16 + (index & 15)) + 1
        # v = mantissa * 2 ** (exponent - 5), in the middle of what the index covers; root in 2^-100.
        shift = exponent - 5 + 200
        root = isqrt(mantissa << shift)
        slopes.append((UNIT * _TENTHS_A_DEVIATION << 100) / (10 * root))
    return np.array(slopes)


_LOWEST, _HIGHEST = 1023 - 100 << 4, 1023 + 80 << 4
_NODES, _STEPS = _logistic_nodes()
VALUES, EDGES = _value_tables()
_SLOPES = _slope_table()


def slopes_of(variance: Doubles) -> Doubles:
    """Give the slope of the logistic function for non-negative variances, to be passed to `cumulated`."""
    index = variance.view(np.int64) >> 48
    np.minimum(index, _HIGHEST, out=index)
    index -= _LOWEST
    np.maximum(index, 0, out=index)
    slopes: Doubles = _SLOPES[index]
    return slopes


def cumulated(boundary: Integers, expected: Doubles, slope: Doubles) -> Integers:
    """Give the share of 2^24 of all patterns below a boundary, 0 to 65,536 (pattern + 32,768).

    Strictly rising in `boundary`, 0 at its lower and 2^24 at its upper end.
    """
    units = (EDGES[boundary] - expected) * slope
    np.maximum(units, -_RANGE * UNIT, out=units)
    np.minimum(units, _RANGE * UNIT - 1, out=units)
    units += _RANGE * UNIT
    fixed = units.astype(np.int64)
    node = fixed >> _STEP_BITS
    fixed &= (1 << _STEP_BITS) - 1
    fixed *= _STEPS[node]
    fixed >>= _STEP_BITS
    fixed += _NODES[node]
    fixed += boundary
    return fixed
