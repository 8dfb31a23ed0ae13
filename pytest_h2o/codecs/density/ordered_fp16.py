"""fp16 bit patterns as ordered integers.

``ord(u) = u`` for a clear sign bit, else ``-(u & 0x7fff) - 1``: neighbours in value are neighbours in number, across
zero too, for every bit pattern (infinities and NaN lie at the ends).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Words

Ordered = NDArray[np.int16]


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
