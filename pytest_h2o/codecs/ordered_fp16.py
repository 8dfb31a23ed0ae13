"""fp16 bit patterns as ordered integers, and residuals between them.

``ord(u) = u`` for a clear sign bit, else ``-(u & 0x7fff) - 1``: neighbours in value are neighbours in number, across
zero too, for every bit pattern (infinities and NaN lie at the ends). Residuals are differences of ordered numbers
modulo 2^16, zigzag coded, so a near prediction leaves a small unsigned number whose high byte is mostly zero.
All arithmetic is that of wrapping 16-bit integers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Words

Ordered = NDArray[np.int16]

_EXPONENT_SHIFT = (127 - 15) << 23


def to_ordered(words: Words) -> Ordered:
    """Map bit patterns to ordered integers, int16; the map is its own inverse."""
    signed = words.view(np.int16)
    mask = signed >> 15
    mask &= 0x7FFF
    mask ^= signed
    return mask


def from_ordered(ordered: Ordered) -> Words:
    """Inverse of `to_ordered`."""
    return to_ordered(ordered.view(np.uint16)).view(np.uint16)


def round_to_ordered(values: NDArray[np.float32]) -> Ordered:
    """Round float32 to the ordered integers of near fp16 values, by integer arithmetic on the bit patterns.

    Ties go away from zero, what is below the normal fp16 range goes to zero, and what is above it, up to 2^17, runs on
    through the patterns of NaN: a rule of our own for predictions, equal on every machine, faster than a conversion.
    """
    bits = values.view(np.int32)
    magnitude = bits & 0x7FFFFFFF
    magnitude -= _EXPONENT_SHIFT - 0x1000
    magnitude >>= 13
    np.maximum(magnitude, 0, out=magnitude)
    magnitude ^= bits >> 31
    return magnitude.astype(np.int16)


def widen(ordered: Ordered) -> NDArray[np.float32]:
    """Give the float32 values of ordered integers, all but exact, by integer arithmetic on the bit patterns.

    Normal fp16 values come out exact; below them, zero included, 2^-14 takes the place of what is smaller; the
    patterns of infinity and NaN run on as larger values. As `round_to_ordered`, a rule for predictions.
    """
    bits = ordered.astype(np.int32)
    sign = bits >> 31
    bits ^= sign
    bits <<= 13
    bits += _EXPONENT_SHIFT
    sign <<= 31
    bits |= sign
    return bits.view(np.float32)


def residual(ordered: Ordered, predicted: Ordered) -> Words:
    """Give the zigzag difference of two arrays of ordered integers, uint16."""
    difference = ordered - predicted
    sign = difference >> 15
    difference <<= 1
    difference ^= sign
    return difference.view(np.uint16)


def unzigzag(zigzagged: Words) -> Ordered:
    """Give the differences that `residual` coded: to be added, modulo 2^16, to the same predictions."""
    half = (zigzagged >> 1).view(np.int16)
    half ^= -(zigzagged & 1).view(np.int16)
    return half
