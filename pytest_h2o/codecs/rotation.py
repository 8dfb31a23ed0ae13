"""Rotary position embedding in exact arithmetic: the same bits on every machine.

A pair (x, y) of a head at position p is stored rotated by ``p * theta ** (-2 i / head_dim)`` (RoPE, Su et al. 2021).
A prediction that takes part in a lossless code has to come out equal wherever it is computed, so nothing here uses
cos, sin, exp or pow of a math library, but for the choice of a rotation, which the payload then names: frequencies are
integer roots of Python integers, in 2^-64 of a turn; cosine and sine are integer polynomials of int64, rounded to
2^-15; rotations are single float32 multiplications, additions and subtractions, each of which IEEE 754 rounds in one
way only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.base import DType, Pairing, Rope, Stream, Words
from pytest_h2o.codecs.wire import Positions, is_usable

Floats = NDArray[np.float32]
SAMPLE_STEP = 6
"""Every sixth channel or pair is looked at in the search for references: more find hardly better ones."""
MAX_HEAD_DIM = 512
"""Above, a stream is not turned: the exact frequencies would take long to compute."""

_NEARER_THAN = 256
_NEAR = np.arange(1 - _NEARER_THAN, _NEARER_THAN, dtype=np.int64)
"""References lie at most 255 rows back; a small table, because a payload may name any theta."""
_MAX_TABLE_CHANNELS = 2048
_SCALE_BITS, _FRACTION_BITS = 15, 30
_PI_DIGITS = 3141592653589793238462643383279502884197169399375105820974944592307816406286
_PI_SCALE = 10**75
_EIGHTH_TURN = (_PI_DIGITS << _FRACTION_BITS) // (4 * _PI_SCALE)
_COSINE, _SINE = (
    tuple((1 - n // 2 % 2 * 2) * ((1 << _FRACTION_BITS) // math.factorial(n)) for n in range(first, 16, 2))
    for first in (0, 1)
)
"""Signed 1 / n! in 2^-30: the Taylor series of cosine and of sine over x."""


@dataclass(frozen=True)
class Rotation:
    """A pairing of dimensions, and the turn of each pair from one position to the next in 2^-64 of a turn."""

    pairing: Pairing
    head_dim: int
    steps: tuple[int, ...]

    def cos_sin(self, distances: Positions) -> tuple[Floats, Floats]:
        """Cosine and signed sine of each distance, whole multiples of 2^-15, each ``[len(distances), head_dim]``.

        The sine is negative at the first dimension of a pair: turned = row * cosine + partner * sine.
        """
        cos, sin = _cos_sin(self.steps, distances)
        if self.pairing == "half":
            return np.concatenate([cos, cos], axis=1), np.concatenate([-sin, sin], axis=1)
        return np.repeat(cos, 2, axis=1), np.stack([-sin, sin], axis=2).reshape(len(sin), -1)

    def first_and_second(self, step: int) -> tuple[slice, slice]:
        return first_and_second(self.pairing, self.head_dim, step)


def first_and_second(pairing: Pairing, head_dim: int, step: int) -> tuple[slice, slice]:
    """The first and the second dimensions of every `step`-th pair."""
    if pairing == "half":
        return slice(0, head_dim // 2, step), slice(head_dim // 2, None, step)
    return slice(0, None, 2 * step), slice(1, None, 2 * step)


@lru_cache(maxsize=64)
def build_rotation(rope: Rope, head_dim: int) -> Rotation:
    """The exact rotation of `rope` for an even `head_dim`."""
    numerator, denominator = rope.theta.as_integer_ratio()
    pairs = head_dim // 2
    steps = []
    for pair in range(pairs):
        # theta ** (-pair / pairs), in 2^-96: the root of theta ** -pair in 2^-(96 * pairs).
        power = (denominator**pair << 96 * pairs) // numerator**pair
        frequency = _integer_root(power, pairs)
        steps.append((frequency * _PI_SCALE // (2 * _PI_DIGITS) >> 32) & (1 << 64) - 1)
    return Rotation(rope.pairing, head_dim, tuple(steps))


def _integer_root(value: int, degree: int) -> int:
    """Largest r with ``r ** degree <= value``, of a value of at least 1 (Newton's method from above)."""
    root = 1 << -(-value.bit_length() // degree)
    while True:
        nearer = ((degree - 1) * root + value // root ** (degree - 1)) // degree
        if nearer >= root:
            return root
        root = nearer


def _cos_sin(steps: tuple[int, ...], distances: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Cosine and sine from phases that wrap at a turn, by octants."""
    phase = distances.astype(np.int64).view(np.uint64)[:, None] * np.array(steps, np.uint64)
    octant = (phase >> np.uint64(61)).astype(np.int64)
    within = (phase >> np.uint64(61 - _FRACTION_BITS)).astype(np.int64) & (1 << _FRACTION_BITS) - 1
    # Odd octants run backwards from their end, so that the polynomials see at most an eighth of a turn.
    within = np.where(octant & 1, (1 << _FRACTION_BITS) - within, within)
    angle = within * _EIGHTH_TURN >> _FRACTION_BITS
    square = angle * angle >> _FRACTION_BITS
    cos = _polynomial(square, _COSINE)
    sin = angle * _polynomial(square, _SINE) >> _FRACTION_BITS
    swapped = (octant + 1 & 2) != 0
    x, y = np.where(swapped, sin, cos), np.where(swapped, cos, sin)
    x = np.where((octant + 2 & 4) != 0, -x, x)
    y = np.where(octant & 4, -y, y)
    return _rounded(x), _rounded(y)


def _polynomial(square: NDArray[np.int64], coefficients: tuple[int, ...]) -> NDArray[np.int64]:
    value = np.full_like(square, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = coefficient + (value * square >> _FRACTION_BITS)
    return value


def _rounded(value: NDArray[np.int64]) -> Floats:
    shift = _FRACTION_BITS - _SCALE_BITS
    rounded = (value + (1 << shift - 1) >> shift).astype(np.float32)
    rounded *= np.float32(2.0**-_SCALE_BITS)
    return rounded


class Turner:
    """Turns whole rows ``[rows, heads * head_dim]``, all heads alike, from a table of near distances."""

    def __init__(self, rotation: Rotation, heads: int) -> None:
        self.rotation = rotation
        self._heads = heads
        self._near = rotation.cos_sin(_NEAR)
        self._sampled = self._sample(*self._near)
        is_wide = heads * rotation.head_dim > _MAX_TABLE_CHANNELS
        self._tiled = None if is_wide else self._tile(*self._near)

    def turn(self, rows: Floats, distances: Positions) -> Floats:
        """Turn finite `rows`, which are used up, by `distances` positions a row, at least one."""
        at = _near_rows(distances)
        if at is None:
            cos, sin = self._tile(*self.rotation.cos_sin(distances))
        elif self._tiled is None:
            cos, sin = self._tile(*(table.take(at, axis=0) for table in self._near))
        else:
            cos, sin = (table.take(at, axis=0) for table in self._tiled)
        turned = rows * cos
        rows *= sin
        if self.rotation.pairing == "half":
            pairs = (-1, 2, self.rotation.head_dim // 2)
            turned.reshape(pairs)[...] += rows.reshape(pairs)[:, ::-1]
        else:
            turned[:, 0::2] += rows[:, 1::2]
            turned[:, 1::2] += rows[:, 0::2]
        return turned

    def sampled(self, distances: Positions) -> tuple[Floats, Floats]:
        """Cosine and sine of every `SAMPLE_STEP`-th pair for each distance, ``[len(distances), pairs]``."""
        at = _near_rows(distances)
        if at is None:
            return self._sample(*self.rotation.cos_sin(distances))
        cos, sin = self._sampled
        return cos.take(at, axis=0), sin.take(at, axis=0)

    def _sample(self, cos: Floats, sin: Floats) -> tuple[Floats, Floats]:
        first, second = self.rotation.first_and_second(SAMPLE_STEP)
        return np.ascontiguousarray(cos[:, first]), np.ascontiguousarray(sin[:, second])

    def _tile(self, cos: Floats, sin: Floats) -> tuple[Floats, Floats]:
        """Cosine and sine for all heads; the sine stands at the dimension that it is multiplied with."""
        return np.tile(cos, (1, self._heads)), np.tile(-sin, (1, self._heads))


def _near_rows(distances: Positions) -> Positions | None:
    """Rows of a table of near distances, or None where one is not in it."""
    at = distances + (_NEARER_THAN - 1)
    # One comparison for both ends: numbers below zero are large ones without a sign.
    return at if int(at.view(np.uint64).max()) < len(_NEAR) else None


@lru_cache(maxsize=8)
def build_turner(rope: Rope, heads: int, head_dim: int) -> Turner:
    """The turner of `rope` for rows of `heads` times an even `head_dim`."""
    return Turner(build_rotation(rope, head_dim), heads)


CENTRE = 128
"""Predictions are this much too small, so that small residuals of either sign share a high byte."""
_EXPONENTS = (127 - 15) << 23
"""What an exponent field of fp16 lacks, once it lies where that of float32 does."""
_MANTISSA_SHIFT = 13
_SIGN_AND_MAGNITUDE = np.int32(0x8FFFE000 - (1 << 32))
_BLOCK_WORDS = 24 << 10
"""Rows are turned in blocks whose arrays stay under 128 KiB: larger ones the C library gives back to the system each
time, and the page faults take longer than the arithmetic."""
_SIGN = np.uint16(0x8000)
_HALF_A_WORD = 1 << _MANTISSA_SHIFT - 1
_HALF_A_BF16 = np.uint32(1 << 15)
_UNTURNABLE = {"fp16": 0x7C00, "bf16": 177 << 7}
"""Magnitudes from which on a word cannot be turned: infinities and NaN, and of bf16 what comes near to overflow."""


def predict_rows(
    words: Words, source: NDArray[np.int64], turner: Turner | None, distances: NDArray[np.int64], dtype: DType
) -> Words:
    """The predictions, less `CENTRE`, that rows `source` of uint16 ``[rows, channels]`` make: a new array.

    Each is turned by `distances`, int64 ``[len(source)]``, or without a turner taken as it is.
    """
    found: Words = words.take(source, axis=0)
    if turner is None:
        found -= np.uint16(CENTRE)
        return found
    step = max(1, _BLOCK_WORDS // words.shape[1])
    for start in range(0, len(found), step):
        block = found[start : start + step]
        _narrow(turner.turn(widen(block, dtype), distances[start : start + step]), block, dtype)
    return found


def widen(words: Words, dtype: DType) -> Floats:
    """The float32 values of words, of any shape: a new array."""
    if dtype == "bf16":
        upper = words.astype(np.uint32)
        upper <<= 16
        return upper.view(np.float32)
    bits = words.view(np.int16).astype(np.int32)  # the sign is extended, and cut below
    bits <<= _MANTISSA_SHIFT
    bits &= _SIGN_AND_MAGNITUDE
    bits += _EXPONENTS
    return bits.view(np.float32)


def _narrow(values: Floats, words: Words, dtype: DType) -> None:
    """Round float32, which it changes, to words less `CENTRE`."""
    if dtype == "bf16":
        rounded = values.view(np.uint32)
        rounded += _HALF_A_BF16
        rounded >>= 16
        np.copyto(words, rounded, casting="unsafe")
        words -= np.uint16(CENTRE)
        return
    bits = values.view(np.int32)
    bits += _HALF_A_WORD - _EXPONENTS - (CENTRE << _MANTISSA_SHIFT)
    sign = (bits >> 16).astype(np.uint16)
    sign &= _SIGN
    bits >>= _MANTISSA_SHIFT
    np.copyto(words, bits, casting="unsafe")
    words |= sign


_THETAS = (1e4, 1e5, 5e5, 1e6)
_SAMPLED_ROWS = 24
_PAIR_STEP = 4
_CLEAR_GAIN = 1.1


def choose_rope(stream: Stream, words: Words, positions: Positions) -> Rope | None:
    """The rotation to code `words`, ``[seq_len, kv_heads, head_dim]``, with, or None.

    None for V, for a head_dim that is odd or too large, and where a value is not finite (infinities cannot be turned).
    Else `stream.rope` if it is known; if not, the candidate under which the mean over positions keeps most energy: keys
    share a constant that a right rotation brings to rest and a wrong one smears out.
    """
    head_dim = words.shape[2]
    if stream.tensor != "k" or head_dim % 2 or not head_dim or head_dim > MAX_HEAD_DIM:
        return None
    if ((words & 0x7FFF) >= _UNTURNABLE[stream.dtype]).any():
        return None
    if stream.rope is not None:
        return stream.rope if is_usable(stream.rope) else None
    step = max(1, len(words) // _SAMPLED_ROWS)
    return _find_rope(widen(words[::step], stream.dtype), positions[::step] - positions[0])


def _find_rope(values: Floats, positions: Positions) -> Rope | None:
    head_dim = values.shape[2]
    frequencies = _frequencies(head_dim)
    turns = np.multiply.outer(frequencies, positions) * -1j
    np.exp(turns, out=turns)
    best, best_energy = None, 0.0
    for pairing in get_args(Pairing):
        x, y = (values[..., dimensions] for dimensions in first_and_second(pairing, head_dim, _PAIR_STEP))
        pairs = (x + 1j * y).transpose(2, 0, 1)  # [pairs, rows, heads]
        resting = _energy(pairs.sum(axis=1))
        turned = np.matmul(turns[:, :, None, :], pairs[None])  # [thetas, pairs, 1, heads]
        for theta, sums in zip(_THETAS, turned, strict=True):
            energy = _energy(sums)
            if energy > max(best_energy, _CLEAR_GAIN * resting):
                best, best_energy = Rope(theta, pairing), energy
    return best


@lru_cache(maxsize=16)
def _frequencies(head_dim: int) -> NDArray[np.float64]:
    """Radians a position ``[thetas, pairs]``."""
    exponents = np.arange(0, head_dim // 2, _PAIR_STEP) / (head_dim // 2)
    return np.array(_THETAS)[:, None] ** -exponents


def _energy(sums: NDArray[np.complex128]) -> float:
    return float((sums.real * sums.real + sums.imag * sums.imag).sum())
