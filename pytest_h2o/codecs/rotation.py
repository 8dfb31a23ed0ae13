"""Rotary position embedding in exact arithmetic: the same bits on every machine.

A pair (x, y) of a head at position p is stored rotated by ``p * theta ** (-2 i / head_dim)`` (RoPE, Su et al. 2021).
A prediction that takes part in a lossless code has to come out equal wherever it is computed, so nothing here uses
cos, sin, exp or pow of a math library: frequencies are integer roots of Python integers, in 2^-64 of a turn; cosine
and sine are integer polynomials of int64, rounded to 2^-15; rotations are single float32 multiplications, additions
and subtractions, each of which IEEE 754 rounds in one way only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Rope, Stream, Words
from pytest_h2o.codecs.wire import Positions, is_usable

Floats = NDArray[np.float32]
SCALE_BITS = 15
MAX_HEAD_DIM = 512
"""Above, a stream is not turned: the exact frequencies would take long to compute."""

_CACHED_DISTANCES = 256
_NEAR = np.arange(1 - _CACHED_DISTANCES, _CACHED_DISTANCES, dtype=np.int64)
_MAX_TABLE_CHANNELS = 2048
SAMPLE_STEP = 6
"""Every sixth channel or pair is looked at in the search for references: more find hardly better ones."""


"""References lie at most 255 rows back; a small table, because a payload may name any theta."""

_FRACTION_BITS = 30
_PI_DIGITS = 3141592653589793238462643383279502884197169399375105820974944592307816406286
_PI_SCALE = 10**75


@dataclass(frozen=True)
class Rotation:
    """A pairing of dimensions and the turn of each pair from one position to the next.

    Attributes
    ----------
    pairing : "half" or "interleaved"
    head_dim : int
        Even.
    steps : tuple of int
        Turn of each pair a position, in 2^-64 of a turn.
    """

    pairing: Literal["half", "interleaved"]
    head_dim: int
    steps: tuple[int, ...]

    def cos_sin(self, distances: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Cosine and signed sine of each distance, whole multiples of 2^-15, each ``[len(distances), head_dim]``.

        The sine is negative at the first dimension of a pair: turned = row * cosine + partner * sine.
        """
        if len(distances) and int(distances.max()) < _CACHED_DISTANCES and int(distances.min()) > -_CACHED_DISTANCES:
            cos, sin = _near_table(self)
            at = distances + (_CACHED_DISTANCES - 1)
            return cos[at], sin[at]
        return _spread(self, *_cos_sin(self.steps, distances))

    def rotate(self, rows: Floats, distances: NDArray[np.int64]) -> Floats:
        """Turn finite ``[rows, heads, head_dim]`` by `distances` positions a row."""
        cos, sin = self.cos_sin(distances)
        turned = rows * cos[:, None, :]
        partner = self.swap(rows)
        partner *= sin[:, None, :]
        turned += partner
        return turned

    def swap(self, rows: Floats) -> Floats:
        """Give a copy of ``[rows, heads, head_dim]`` in which the two dimensions of every pair have changed places."""
        swapped = np.empty(rows.shape, np.float32)
        if self.pairing == "half":
            half = self.head_dim // 2
            swapped[..., :half], swapped[..., half:] = rows[..., half:], rows[..., :half]
        else:
            swapped[..., 0::2], swapped[..., 1::2] = rows[..., 1::2], rows[..., 0::2]
        return swapped

    def first_and_second(self, step: int) -> tuple[slice, slice]:
        """Give the first and the second dimensions of every `step`-th pair."""
        if self.pairing == "half":
            return slice(0, self.head_dim // 2, step), slice(self.head_dim // 2, None, step)
        return slice(0, None, 2 * step), slice(1, None, 2 * step)


class Turner:
    """Turns whole rows ``[rows, heads * head_dim]``, all heads alike, from a table of near distances.

    Parameters
    ----------
    rotation : Rotation
    heads : int
    """

    def __init__(self, rotation: Rotation, heads: int) -> None:
        self.rotation = rotation
        self._heads = heads
        near = _NEAR if heads * rotation.head_dim <= _MAX_TABLE_CHANNELS else _NEAR[:0]
        self._cos, self._sin = self._tile(near)
        self._sampled = self._sample(_NEAR)

    def turn(self, rows: Floats, distances: NDArray[np.int64]) -> Floats:
        """Turn finite `rows`, which are used up, by `distances` positions a row."""
        # One comparison for both ends: numbers below zero are large ones without a sign.
        at = distances + (_CACHED_DISTANCES - 1)
        if len(at) and int(at.view(np.uint64).max()) < len(self._cos):
            cos, sin = self._cos.take(at, axis=0), self._sin.take(at, axis=0)
        else:
            cos, sin = self._tile(distances)
        turned = rows * cos
        rows *= sin
        if self.rotation.pairing == "half":
            pairs = (-1, 2, self.rotation.head_dim // 2)
            turned.reshape(pairs)[...] += rows.reshape(pairs)[:, ::-1]
        else:
            turned[:, 0::2] += rows[:, 1::2]
            turned[:, 1::2] += rows[:, 0::2]
        return turned

    def sampled(self, distances: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Cosine and sine of every `SAMPLE_STEP`-th pair for each distance, ``[len(distances), pairs]``."""
        at = distances + (_CACHED_DISTANCES - 1)
        if int(at.view(np.uint64).max()) < len(_NEAR):
            cos, sin = self._sampled
            return cos.take(at, axis=0), sin.take(at, axis=0)
        return self._sample(distances)

    def _sample(self, distances: NDArray[np.int64]) -> tuple[Floats, Floats]:
        first, second = self.rotation.first_and_second(SAMPLE_STEP)
        cos, sin = self.rotation.cos_sin(distances)
        return np.ascontiguousarray(cos[:, first]), np.ascontiguousarray(sin[:, second])

    def _tile(self, distances: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Cosine and sine for all heads; the sine stands at the dimension that it is multiplied with."""
        cos, sin = self.rotation.cos_sin(distances)
        return np.tile(cos, (1, self._heads)), np.tile(-sin, (1, self._heads))


@lru_cache(maxsize=8)
def build_turner(rope: Rope, heads: int, head_dim: int) -> Turner:
    """Give the turner of `rope` for rows of `heads` times an even `head_dim`."""
    return Turner(build_rotation(rope, head_dim), heads)


@lru_cache(maxsize=64)
def build_rotation(rope: Rope, head_dim: int) -> Rotation:
    """Give the exact rotation of `rope` for an even `head_dim`."""
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


@lru_cache(maxsize=8)
def _near_table(rotation: Rotation) -> tuple[Floats, Floats]:
    table = _spread(rotation, *_cos_sin(rotation.steps, _NEAR))
    for part in table:
        part.flags.writeable = False
    return table


def _spread(rotation: Rotation, cos: Floats, sin: Floats) -> tuple[Floats, Floats]:
    """Lay out cosine and signed sine of the pairs over the dimensions of a head."""
    if rotation.pairing == "half":
        return np.concatenate([cos, cos], axis=1), np.concatenate([-sin, sin], axis=1)
    return np.repeat(cos, 2, axis=1), np.stack([-sin, sin], axis=2).reshape(len(sin), -1)


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
    return _round(x), _round(y)


def _polynomial(square: NDArray[np.int64], coefficients: tuple[int, ...]) -> NDArray[np.int64]:
    value = np.full_like(square, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = coefficient + (value * square >> _FRACTION_BITS)
    return value


def _round(value: NDArray[np.int64]) -> Floats:
    shift = _FRACTION_BITS - SCALE_BITS
    rounded = (value + (1 << shift - 1) >> shift).astype(np.float32)
    rounded *= np.float32(2.0**-SCALE_BITS)
    return rounded


def _inverse_factorials(first: int) -> tuple[int, ...]:
    """Signed 1 / n! for n = first, first + 2, … in 2^-30: the Taylor series of cosine (0) and of sine over x (1)."""
    values, factorial = [], 1
    for n in range(1, first + 15):
        factorial *= n
        if n % 2 == first % 2 and n >= first:
            values.append((1 << _FRACTION_BITS) // factorial * (1 if (n - first) // 2 % 2 == 0 else -1))
    return tuple(values) if first else (1 << _FRACTION_BITS, *values)


_EIGHTH_TURN = (_PI_DIGITS << _FRACTION_BITS) // (4 * _PI_SCALE)
_COSINE = _inverse_factorials(0)
_SINE = _inverse_factorials(1)
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


_THETAS = (1e4, 1e5, 5e5, 1e6)
_PAIRINGS: tuple[Literal["half", "interleaved"], ...] = ("half", "interleaved")
_SAMPLED_ROWS = 24
_PAIR_STEP = 4
_CLEAR_GAIN = 1.1


def choose_rope(stream: Stream, words: Words, positions: Positions) -> Rope | None:
    """Give the rotation to code `words`, ``[seq_len, kv_heads, head_dim]``, with, or None.

    None for V, for a head_dim that is odd or too large, and where a value is not finite (infinities cannot be turned).
    Else `stream.rope` if it is known; if not, the candidate under which the mean over positions keeps most energy: keys
    share a constant that a right rotation brings to rest and a wrong one smears out.
    """
    head_dim = words.shape[2]
    if stream.tensor != "k" or head_dim % 2 or not head_dim or head_dim > MAX_HEAD_DIM:
        return None
    if ((words & 0x7C00) == 0x7C00).any():
        return None
    if stream.rope is not None:
        return stream.rope if is_usable(stream.rope) else None
    step = max(1, len(words) // _SAMPLED_ROWS)
    return _find_rope(words[::step], positions[::step] - positions[0])


def _find_rope(words: Words, positions: Positions) -> Rope | None:
    head_dim = words.shape[2]
    frequencies = _frequencies(head_dim)
    turns = np.multiply.outer(frequencies, positions) * -1j
    np.exp(turns, out=turns)
    values = widen(words)
    best, best_energy = None, 0.0
    for pairing in _PAIRINGS:
        if pairing == "half":
            x, y = values[..., : head_dim // 2 : _PAIR_STEP], values[..., head_dim // 2 :: _PAIR_STEP]
        else:
            x, y = values[..., :: 2 * _PAIR_STEP], values[..., 1 :: 2 * _PAIR_STEP]
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


Indices = NDArray[np.int64]
MAX_DEPTH = 2
"""Steps of a chain of references: rows of one depth are decoded together, so every step is a pass."""

_DETOUR = 1.15
"""A reference one step up the chain is taken if it is farther away by this factor at most."""

_ONE_THREAD_PRODUCTS = 1 << 18
"""OpenBLAS hands products of more than this many multiplications to several threads, which costs more than it gains."""


@dataclass(frozen=True)
class References:
    """Found references.

    Attributes
    ----------
    source : int64 ``[rows]``
        Row that each row is predicted from, an earlier one; itself where none is near.
    distance : float32 ``[rows]``
        Squared distance to it over the row's own energy; infinite where there is none.
    """

    source: Indices
    distance: Floats


def row_features(words: Words, turner: Turner | None, positions: Indices) -> Floats:
    """Give a sixth of the channels of ``[rows, heads, head_dim]``, comparable across positions, ``[rows, features]``.

    Under a rotation these are every sixth pair, turned back to the first position and freed of their mean, because
    keys share a large constant that says nothing of the token.
    """
    rows = len(words)
    if turner is None:
        features = widen(words.reshape(rows, -1)[:, ::SAMPLE_STEP])
    else:
        first, second = turner.rotation.first_and_second(SAMPLE_STEP)
        x, y = widen(words[..., first]), widen(words[..., second])
        cosine, sine = turner.sampled(positions - positions[0])
        cos, sin = cosine[:, None], sine[:, None]
        turned = np.empty((2, *x.shape), np.float32)
        np.multiply(x, cos, out=turned[0])
        turned[0] += y * sin
        np.multiply(y, cos, out=turned[1])
        turned[1] -= x * sin
        features = turned.reshape(2, rows, -1).transpose(1, 0, 2).reshape(rows, -1)
        features -= np.add.reduce(features, axis=0) * np.float32(1 / rows)
    # One scale a channel, so that no channel rules the distance; 1e-12 keeps constant channels finite.
    scale = np.einsum("rc,rc->c", features, features)
    scale *= np.float32(1 / rows)
    scale += np.float32(1e-12)
    features *= 1 / np.sqrt(scale)
    return features


def find_references(features: Floats, near: float) -> References:
    """Find the nearest earlier row of each, by squared distance under `near` times the row's energy.

    Chains are shortened where a reference of the reference is about as near, then cut at `MAX_DEPTH` steps: 2.
    """
    at = np.arange(len(features))
    energy = np.einsum("rc,rc->r", features, features)
    likeness = _likeness(features, energy)
    flat, row_start = likeness.reshape(-1), at * len(at)

    def distance_to(other: Indices) -> Floats:
        distances: Floats = flat.take(row_start + other)  # minus infinity for a row itself: infinitely far
        distances *= -2
        distances += energy
        return distances

    limit = energy * np.float32(near)
    source = likeness.argmax(axis=1)
    distance = distance_to(source)
    source = np.where(distance < limit, source, at)
    # A little of the energy as well: among exact repeats all distances are rounding noise.
    slack = energy * np.float32(1e-6)
    for _ in range(2):
        above = source[source]
        reached = distance_to(above)
        distance *= np.float32(_DETOUR)
        distance += slack
        np.copyto(source, above, where=reached <= distance)
        distance = distance_to(source)
    above = source[source]
    deep = np.flatnonzero(source[above] != above)
    if len(deep):
        allowed = likeness.take(deep, axis=0)
        allowed[:, above != source] = -np.inf
        nearest = allowed.argmax(axis=1)
        source[deep] = nearest
        distance = distance_to(source)
        source[deep] = np.where(distance[deep] < limit[deep], nearest, deep)
    energy += np.float32(1e-30)
    return References(source, distance_to(source) / energy)


def _likeness(features: Floats, energy: Floats) -> Floats:
    """Product of two rows less half the energy of the other, minus infinity for rows that are not earlier.

    The earlier row with the largest is the nearest one: a row's own energy does not change the order.
    """
    rows, count = features.shape
    ours = np.empty((rows, count + 1), np.float32)
    ours[:, :-1], ours[:, -1] = features, 1
    theirs = np.empty((count + 1, rows), np.float32)
    theirs[:-1] = features.T
    np.multiply(energy, np.float32(-0.5), out=theirs[-1])
    likeness = np.empty((rows, rows), np.float32)
    block = max(1, _ONE_THREAD_PRODUCTS // ours.size)
    for start in range(0, rows, block):
        end = start + block
        np.matmul(ours[start:end], theirs, out=likeness[start:end])
    likeness += _not_later(rows)
    return likeness


@lru_cache(maxsize=8)
def _not_later(rows: int) -> Floats:
    """Give 0 for earlier rows, minus infinity for a row itself and later ones ``[row, other]``.

    Kept, because most streams are cut to one length.
    """
    mask = np.where(np.triu(np.ones((rows, rows), np.bool_)), -np.inf, 0).astype(np.float32)
    mask.flags.writeable = False
    return mask
