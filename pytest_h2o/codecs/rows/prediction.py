"""Rows predicted from other rows, turned to their position: words in, words out, the same bits on every machine.

fp16 words are widened to float32, turned, and rounded back by integer arithmetic on the bit patterns, in a rule of our
own for predictions: equal everywhere and faster than a conversion. Normal fp16 values widen exactly; below them, zero
included, 2^-15 and what the mantissa adds takes their place; the patterns of infinity and NaN run on as larger values.
Rounding goes to the nearest word, ties away from zero; what is beyond fp16 wraps to some word, which predicts badly
and decodes as well as any.

A residual is the word less its prediction, modulo 2^16, plus `CENTRE`: a good prediction leaves a high byte of 0 and a
low byte that spreads around 128. The prediction that is given here has `CENTRE` taken off already.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Words
from pytest_h2o.codecs.rows.rotation import Floats, Turner

CENTRE = 128

_EXPONENTS = (127 - 15) << 23
"""What an exponent field of fp16 lacks, once it lies where that of float32 does."""
_MANTISSA_SHIFT = 13
_SIGN_AND_MAGNITUDE = np.int32(0x8FFFE000 - (1 << 32))
_BLOCK_WORDS = 24 << 10
"""Rows are turned in blocks whose arrays stay under 128 KiB: larger ones the C library gives back to the system each
time, and the page faults take longer than the arithmetic."""
_SIGN = np.uint16(0x8000)
_HALF_A_WORD = 1 << _MANTISSA_SHIFT - 1


def predict(words: Words, source: NDArray[np.int64], turner: Turner | None, distances: NDArray[np.int64]) -> Words:
    """Give the predictions, less `CENTRE`, that rows `source` make: a new array ``[len(source), channels]``.

    Parameters
    ----------
    words : uint16 ``[rows, channels]``
    source : int64
    turner : Turner or None
        None: rows predict as they are.
    distances : int64 ``[len(source)]``
        How many positions to turn each by.
    """
    found: Words = words.take(source, axis=0)
    if turner is None:
        found -= np.uint16(CENTRE)
        return found
    step = max(1, _BLOCK_WORDS // words.shape[1])
    for start in range(0, len(found), step):
        block = found[start : start + step]
        _narrow(turner.turn(widen(block), distances[start : start + step]), block)
    return found


def widen(words: Words) -> Floats:
    """Give float32 values of words, of any shape: a new array."""
    bits = words.view(np.int16).astype(np.int32)  # the sign is extended, and cut below
    bits <<= _MANTISSA_SHIFT
    bits &= _SIGN_AND_MAGNITUDE
    bits += _EXPONENTS
    return bits.view(np.float32)


def _narrow(values: Floats, words: Words) -> None:
    """Round float32, which it changes, to words less `CENTRE`."""
    bits = values.view(np.int32)
    bits += _HALF_A_WORD - _EXPONENTS - (CENTRE << _MANTISSA_SHIFT)
    sign = (bits >> 16).astype(np.uint16)
    sign &= _SIGN
    bits >>= _MANTISSA_SHIFT
    np.copyto(words, bits, casting="unsafe")
    words |= sign
