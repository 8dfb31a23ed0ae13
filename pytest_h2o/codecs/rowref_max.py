"""rowref_max: every word coded under a distribution that earlier rows predict; the smallest, and slow.

As in `rowref`, rows resemble earlier rows of the stream, for keys after the rotation between the positions is removed.
Here up to three earlier rows and the running mean make up a prediction, and the variance of its errors is followed by
channel and told by row: what the payload says of a row is its `RowPlan`.

The words are then coded one by one. A value x is expected around p with a scale s. The share of each of the 65,536
patterns, ordered by value, is the probability of its rounding interval, ``F((upper - p) / s) - F((lower - p) / s)``
with F the logistic function, of 2^24 in all; one is added for each pattern, so that none is impossible, NaN and
infinities included. Upper and lower are the midpoints to the neighbouring values. A range coder (rANS, Duda 2013) has a
lane a channel, so that all of it runs on whole rows in numpy.

All machines agree on every share: tables are made from Python integers, and what is left for floating point are single
float64 subtractions and multiplications, each rounded in one way only, and bit patterns of float64 read as integers.

Payload: a rowref payload where that is smaller (mode byte up to 32); else mode byte 64, shape (three varints), the
rotation and, if there is one, the positions (see `wire`), then the segments of 1,024 rows. A segment: the plans (flags,
then kinds, scales, distances back and weights, each a plane), the states of the lanes, the coded words (a varint of how
many, then 16 bits each). Of its last three rows only the high bytes are coded so; their low bytes are the seeds of the
lanes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from math import isqrt
from types import ModuleType
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Codec, DType, SideInfo, Stream, Words
from pytest_h2o.codecs.planes import Plane, Search, read_plane, write_plane
from pytest_h2o.codecs.rotation import Rotation, build_rotation
from pytest_h2o.codecs.rowref import RowRef, read_turned_header, write_turned_header
from pytest_h2o.codecs.wire import MAX_HEADER_BYTES, ByteReader, Positions, check_shape, encode_varint, read_mode
from pytest_h2o.errors import CodecError

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Ordered = NDArray[np.int16]
"""Words as `to_ordered` gives them: their pattern minus 32,768."""

_DENSITY_MODE = 64
_LEAST_CHANNELS, _MAX_CHANNELS = 32, 1 << 14
"""Other rows are left to `rowref`: a plan costs narrow ones more than it gains and takes as long as that of a wide one,
and the working memory of a segment stays small."""
_SHORT_ROWS, _RICH_SHARE, _POOR_SHARE = 48, 0.4, 0.9
"""Streams that are short, or come to less or more of raw, are tried with rowref as well: repeated rows, and noise."""
SEGMENT_ROWS = 1024
_TAIL_ROWS = 3
LEARNS = 4
MOST_REFERENCES = 3


@dataclass(frozen=True)
class RowRefMax(Codec):
    """Row references through RoPE and a range coder; the payload alone decodes."""

    id: ClassVar[str] = "rowref_max"
    max_overhead_bytes: ClassVar[int] = MAX_HEADER_BYTES

    def encode(self, stream: Stream) -> bytes:
        check_shape(stream.words.shape, self.id)
        rows = len(stream.words)
        if not _LEAST_CHANNELS * rows <= stream.words.size <= _MAX_CHANNELS * rows or not rows:
            return RowRef().encode(stream)
        words = np.ascontiguousarray(stream.words)
        header, rope, positions = write_turned_header(_DENSITY_MODE, stream, words, self.id)
        rotation = None if rope is None else build_rotation(rope, words.shape[2])
        parts = [header]
        for at in range(0, len(words), SEGMENT_ROWS):
            end = at + SEGMENT_ROWS
            parts.append(_encode_segment(words[at:end], positions[at:end], rotation, stream.dtype))
        payload = b"".join(parts)
        if rows > _SHORT_ROWS and _RICH_SHARE < len(payload) / stream.raw_bytes < _POOR_SHARE:
            return payload
        return min(payload, RowRef().encode(stream), key=len)

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        reader = ByteReader(payload, self.id)
        mode = read_mode(reader, side, self.id)
        if mode < _DENSITY_MODE:
            return RowRef().decode(payload, side)
        if mode != _DENSITY_MODE or side.words == 0 or side.words // side.shape[0] > _MAX_CHANNELS:
            raise reader.damaged("unknown mode", came=str(mode), expected=f"at most {_DENSITY_MODE}")
        rope, positions = read_turned_header(reader, side)
        rotation = None if rope is None else build_rotation(rope, side.shape[2])
        words = np.empty(side.shape, np.uint16)
        for at in range(0, len(words), SEGMENT_ROWS):
            rows = slice(at, at + SEGMENT_ROWS)
            _decode_segment(reader, words[rows], positions[rows], rotation, side.dtype)
        reader.expect_end()
        return words


@lru_cache(maxsize=1)
def compiled() -> ModuleType | None:
    """The compiled loops, where the extra ``fast`` is installed; they give the same bytes."""
    try:
        return import_module("pytest_h2o.codecs.compiled")
    except ImportError:
        return None


class RowPlan(NamedTuple):
    """What the payload says of one row.

    Attributes
    ----------
    sources : tuple of int
        Earlier rows, at most three.
    weights : tuple of int
        Their weights in sixteenths.
    scale : int
        Variance of the row in half powers of two, plus 128: 0 to 255.
    learns : bool
        Whether its errors enter the running variance.
    """

    sources: tuple[int, ...]
    weights: tuple[int, ...]
    scale: int
    learns: bool


class Plans(NamedTuple):
    """The plans of a segment, each a plane of bytes: kinds and scales by row, then distances and weights by source."""

    kinds: Plane
    scales: Plane
    back: Plane
    weights: Plane


def _encode_segment(words: Words, positions: Positions, rotation: Rotation | None, dtype: DType) -> bytes:
    """Encode ``[rows, kv_heads, head_dim]``, C order, at least one row."""
    rows, heads, head_dim = words.shape
    ordered = to_ordered(words.reshape(rows, -1))
    model = RowModel(rotation, positions, heads, head_dim, dtype)
    tail = max(0, rows - _TAIL_ROWS)
    sources = find_sources(model, ordered, tail)
    fast = compiled()
    plans, low, width = (plan_rows if fast is None else fast.plan_rows)(model, ordered, sources, tail)
    seeds = np.zeros(heads * head_dim, np.int64)
    for row in range(tail, rows):
        seeds = seeds << 8 | ordered[row] & 255
    return _write_plans(plans) + encode_lanes(low, width, seeds)


def plan_rows(model: RowModel, ordered: Ordered, sources: Integers, tail: int) -> tuple[Plans, Integers, Integers]:
    """Choose the plan of each row of ``[rows, channels]``; the plans, and the intervals of 2^24 under them."""
    patterns = ordered.astype(np.int64) + HALF
    kinds, scales, back, weights = bytearray(), bytearray(), bytearray(), bytearray()
    expected, slopes = np.empty(patterns.shape), np.empty(patterns.shape)
    for row in range(len(patterns)):
        chosen = tuple(sources[row][sources[row] >= 0].tolist())
        plan, expected[row], variance = _plan_row(model, row, chosen, patterns[row], row < tail)
        slopes[row] = slopes_of(variance)
        kinds.append(len(plan.sources) | (LEARNS if plan.learns else 0))
        scales.append(plan.scale)
        back += bytes(row - source for source in plan.sources)
        weights += bytes(weight + 128 for weight in plan.weights)
    begin, end = patterns.copy(), patterns + 1
    begin[tail:] &= ~255
    end[tail:] = begin[tail:] + 256
    edges = model.numbers.edges
    low = cumulated(begin, expected, slopes, edges)
    plans = Plans(*(np.frombuffer(plane, np.uint8) for plane in (kinds, scales, back, weights)))
    return plans, low, cumulated(end, expected, slopes, edges) - low


def _decode_segment(
    reader: ByteReader, words: Words, positions: Positions, rotation: Rotation | None, dtype: DType
) -> None:
    """Decode what `_encode_segment` gave into `words`."""
    rows, heads, head_dim = words.shape
    tail = max(0, rows - _TAIL_ROWS)
    plans = _read_plans(reader, rows, tail)
    decoder = LaneDecoder(reader, heads * head_dim, rows)
    model = RowModel(rotation, positions, heads, head_dim, dtype)
    fast = compiled()
    ordered = (follow_plans if fast is None else fast.follow_plans)(model, plans, decoder, tail)
    seeds = decoder.seeds()
    for row in range(rows - 1, tail - 1, -1):
        ordered[row] |= (seeds & 255).astype(np.int16)
        seeds >>= 8
    words[...] = to_ordered(ordered.view(np.uint16)).view(np.uint16).reshape(words.shape)


def follow_plans(model: RowModel, plans: Plans, decoder: LaneDecoder, tail: int) -> Ordered:
    """The ordered words ``[rows, channels]`` that the decoder's words hold; of the last rows their high bytes."""
    patterns = np.empty(model.history.shape, np.int64)
    at = 0
    back, weights = plans.back.tolist(), plans.weights.tolist()
    for row, (kind, scale) in enumerate(zip(plans.kinds.tolist(), plans.scales.tolist(), strict=True)):
        stop = at + (kind & MOST_REFERENCES)
        sources = tuple(row - distance for distance in back[at:stop])
        plan = RowPlan(sources, tuple(weight - 128 for weight in weights[at:stop]), scale, bool(kind & LEARNS))
        at = stop
        expected, rounding = model.expect(row, plan.sources, plan.weights)
        slope = slopes_of(model.expect_variance(plan.scale, rounding))
        slots = decoder.slots()
        found, low, width = find_patterns(slots, expected, slope, 0 if row < tail else 8, model.numbers)
        decoder.advance(low, width, slots)
        patterns[row] = found
        if row < tail:
            model.learn(row, model.numbers.values[found], expected, rounding, plan)
    return (patterns - HALF).astype(np.int16)


def _plan_row(
    model: RowModel, row: int, sources: tuple[int, ...], patterns: Integers, is_known_later: bool
) -> tuple[RowPlan, Doubles, Doubles]:
    """Choose the plan of a row, and go on to the next; the plan, and the mean and variance under it."""
    values = model.numbers.values[patterns]
    weights: tuple[int, ...] = ()
    if sources:
        target = model.back(values, row) - model.mean
        weights = _fit_weights(target, model.history[list(sources)] - model.mean, 1.0 / model.variance)
        used = [(source, weight) for source, weight in zip(sources, weights, strict=True) if weight]
        sources, weights = tuple(source for source, _ in used), tuple(weight for _, weight in used)
    expected, rounding = model.expect(row, sources, weights)
    error = values - expected
    instructive = _is_instructive(error, rounding)
    scale = _choose_scale(patterns, error, expected, model, rounding, instructive)
    plan = RowPlan(sources, weights, scale, is_known_later and instructive)
    variance = model.expect_variance(scale, rounding)
    if is_known_later:
        model.learn(row, values, expected, rounding, plan)
    return plan, expected, variance


def _write_plans(plans: Plans) -> bytes:
    flags, parts = 0, []
    for bit, plane in enumerate(plans):
        is_frame, coded = write_plane(plane, Search.HISTOGRAM)
        flags |= is_frame << bit
        parts.append(coded)
    return bytes([flags]) + b"".join(parts)


def _read_plans(reader: ByteReader, rows: int, tail: int) -> Plans:
    flags = reader.read_byte()
    kinds = read_plane(reader, rows, bool(flags & 1))
    scales = read_plane(reader, rows, bool(flags & 2))
    counts = kinds & MOST_REFERENCES
    back, weights = (read_plane(reader, int(counts.sum()), bool(flags & bit)) for bit in (4, 8))
    row = np.repeat(np.arange(rows), counts)
    source = row - back
    if ((source < 0) | (source >= np.minimum(row, tail))).any():
        raise reader.damaged("a reference leaves its segment", expected="an earlier row of it, not one of the last")
    return Plans(kinds, scales, back, weights)


# The model

SCALES, INVERSE_SCALES = (
    # 2 ** (exponent / 2), written so that no math library has a say in its last bit
    tuple(math.ldexp(1.4142135623730951 if exponent % 2 else 1.0, exponent // 2) for exponent in exponents)
    for exponents in (range(-128, 128), range(128, -128, -1))
)
SMALLEST, LARGEST = 2.0**-80, 2.0**60
PRIOR_ROWS, WINDOW_ROWS = 4, 64
MOST_SURPRISE = 8.0


@lru_cache(maxsize=32)  # the layers of a dump have the same positions
def _turns(rotation: Rotation, positions: bytes, heads: int) -> tuple[Doubles, Doubles]:
    """Cosine and sine for positions, int64, each ``[rows, heads * head_dim]``."""
    cos, sin = rotation.cos_sin(np.frombuffer(positions, np.int64))
    return np.tile(cos.astype(np.float64), (1, heads)), np.tile(sin.astype(np.float64), (1, heads))


class RowModel:
    """Expectation of row after row of one segment; both sides call `expect` and `learn` for each row in order.

    Rows, float64 ``[channels]``, are kept turned back to position 0; without a rotation they stay as they are.
    """

    def __init__(
        self, rotation: Rotation | None, positions: Positions, heads: int, head_dim: int, dtype: DType = "fp16"
    ) -> None:
        self.numbers = NUMBERS[dtype]
        rows, channels = len(positions), heads * head_dim
        self.history = np.empty((rows, channels))
        self.mean = np.zeros(channels)
        self.variance = np.ones(channels)
        """Running variance of the channels, each row's errors taken over the scale of the row."""
        self.total = np.zeros(channels)
        self.learned_rows = PRIOR_ROWS
        self.rounding: Doubles | None = None
        if rotation is not None:
            self.rounding = np.empty((rows, channels))
            self.cos, self.sin = _turns(rotation, positions.tobytes(), heads)
            first, second = rotation.first_and_second(1)
            channel = np.arange(channels).reshape(heads, head_dim)
            partner = channel.copy()
            partner[:, first], partner[:, second] = channel[:, second], channel[:, first]
            self.partner = partner.ravel()

    def back(self, values: Doubles, at: int | slice) -> Doubles:
        """Turn ``[channels]`` or ``[rows, channels]`` from the positions of rows `at` to 0."""
        if self.rounding is None:
            return values
        turned: Doubles = values * self.cos[at]
        turned -= values[..., self.partner] * self.sin[at]
        return turned

    def expect(self, row: int, sources: tuple[int, ...], weights: tuple[int, ...]) -> tuple[Doubles, Doubles | None]:
        """The prediction of a row, and the variance it takes over from the rounding of its sources."""
        expected = self.mean
        rounding = None if self.rounding is None else np.zeros(len(expected))
        for source, sixteenths in zip(sources, weights, strict=True):
            weight = sixteenths / 16
            step = self.history[source] - self.mean
            step *= weight
            expected = expected + step
            if rounding is not None and self.rounding is not None:
                rounding += self.rounding[source] * (weight * weight)
        if rounding is None:
            return expected, None
        turned: Doubles = expected * self.cos[row]
        turned += expected[self.partner] * self.sin[row]
        return turned, rounding

    def expect_variance(self, scale: int, rounding: Doubles | None) -> Doubles:
        """The variance of the next row's channels."""
        expected: Doubles = self.variance * SCALES[scale]
        if rounding is not None:
            expected += rounding
        return expected

    def learn(self, row: int, values: Doubles, expected: Doubles, rounding: Doubles | None, plan: RowPlan) -> None:
        """Take in a row, once it is known."""
        self.history[row] = self.back(values, row)
        self.total += self.history[row]
        self.mean = self.total * (1.0 / (row + 1))
        if self.rounding is not None:
            self.rounding[row] = self._rounding_of(values)
        if not plan.learns:
            return
        squared = values - expected
        squared *= squared
        if rounding is not None:
            squared = squared + squared[self.partner]  # both dimensions of a pair have the mean of the two
            squared *= 0.5
            squared -= rounding
        learned = squared * INVERSE_SCALES[plan.scale]
        np.minimum(learned, self.variance * MOST_SURPRISE, out=learned)
        np.maximum(learned, SMALLEST, out=learned)
        learned += self.variance * float(self.learned_rows)
        learned *= 1.0 / (self.learned_rows + 1)
        self.variance = np.minimum(learned, LARGEST, out=learned)
        self.learned_rows = min(self.learned_rows + 1, WINDOW_ROWS)

    def _rounding_of(self, values: Doubles) -> Doubles:
        """Variance of the rounding that turned values carry: a twelfth of a squared unit in the last place."""
        magnitude = np.abs(values)
        largest = np.maximum(magnitude, magnitude[self.partner])
        np.maximum(largest, self.numbers.least, out=largest)
        power: Doubles = (largest.view(np.int64) & ~((1 << 52) - 1)).view(np.float64)
        power *= power
        power *= self.numbers.rounding
        return power


# What the encoder chooses
#
# Single IEEE operations and whole numbers in a fixed order here, too: compiled code comes to the same bytes.

FARTHEST_BACK = 255
_REFERENCE_BITS = 14.0
"""What a reference costs, back distance and weight: it must gain more."""

FEATURE_LIMIT = 255
FIRST_UNITS, SECOND_UNITS = 32.0, 8.0
FIRST_STEP = 4
LEAST_SPREAD, LEAST_REST = 1e-30, 2.0**-6
LEAST_INDEPENDENT, LEAST_LEFT = 2.0**-10, 2.0**-30
WEIGHT_LIMIT = 32
COST_CHANNELS = 32
WORTH_COST = 1 << 12
"""In 2^-12 of a bit."""


def find_sources(model: RowModel, ordered: Ordered, last_source: int) -> Integers:
    """Up to three earlier rows for each of ``[rows, channels]``, all before `last_source`, and -1: ``[rows, 3]``.

    The channels are weighed by what a first, single reference leaves of them. Features are small whole numbers, so that
    their products are exact in any order.
    """
    least_gain = 2.0 ** (2 * _REFERENCE_BITS / ordered.shape[1])
    if (fast := compiled()) is not None:
        found: Integers = fast.find_sources(model, ordered, last_source, least_gain)
        return found
    values = model.back(model.numbers.values[ordered.astype(np.int64) + HALF], slice(None))
    total = np.zeros(values.shape[1])
    for row in values:
        total += row
    deviation = values - total * (1.0 / len(values))
    deviation *= _one_over_root(deviation, LEAST_SPREAD)
    features = _features(deviation * FIRST_UNITS)
    first = _pursue(features[:, ::FIRST_STEP], last_source, least_gain, 1)[:, 0]
    rest = (features - np.where(first[:, None] >= 0, features[first], 0)).astype(np.float64)
    deviation *= _one_over_root(rest * (1 / FIRST_UNITS), LEAST_REST)
    return _pursue(_features(deviation * SECOND_UNITS), last_source, least_gain, MOST_REFERENCES)


def _one_over_root(rows: Doubles, least: float) -> Doubles:
    """One over the root of the mean square of each channel and `least`."""
    total = np.zeros(rows.shape[1])
    for row in rows:
        total += row * row
    found: Doubles = 1.0 / np.sqrt(total * (1.0 / len(rows)) + least)
    return found


def _features(scaled: Doubles) -> NDArray[np.int16]:
    return np.clip(np.rint(scaled), -FEATURE_LIMIT, FEATURE_LIMIT).astype(np.int16)


def _pursue(features: NDArray[np.int16], last_source: int, least_gain: float, most: int) -> Integers:
    """Orthogonal least squares (Chen et al. 1989): the row that takes most off the remainder, then what does beside it.

    Of int16 ``[rows, channels]``; the rows that were found, -1 where there is none, ``[rows, most]``.
    """
    rows = features.astype(np.float64)
    products = rows @ rows.T  # of whole numbers: exact
    own = products.diagonal()
    found = np.full((len(rows), most), -1, np.int64)
    for row in range(1, len(rows)):
        first, end = max(0, row - FARTHEST_BACK), min(row, last_source)
        remainder, energy, left = products[row, first:end], own[first:end], own[row]
        least = energy * LEAST_INDEPENDENT + 0.5
        crossed: list[tuple[Doubles, float]] = []
        for place in range(most if first < end else 0):
            score = np.where(energy > least, remainder * remainder / np.maximum(energy, 0.5), -1.0)
            best = int(score.argmax())
            now_left = max(left - score[best], own[row] * LEAST_LEFT)
            if score[best] <= 0 or left <= now_left * least_gain:
                break
            found[row, place], left = first + best, now_left
            cross = products[first + best, first:end]
            for earlier, earlier_share in crossed:
                cross = cross - earlier * (earlier[best] * earlier_share)
            share = 1.0 / energy[best]
            remainder = remainder - cross * (remainder[best] * share)
            energy = energy - cross * cross * share
            crossed.append((cross, share))
    return found


def _fit_weights(target: Doubles, sources: Doubles, certainty: Doubles) -> tuple[int, ...]:
    """The weights, in sixteenths, that make ``[sources, channels]`` come nearest to `target`."""
    weighed = sources * certainty
    gram = np.array(
        [[_sum(weighed[min(i, j)] * sources[max(i, j)]) for j in range(len(sources))] for i in range(len(sources))]
    )
    aim = np.array([_sum(one * target) for one in weighed])
    return tuple(map(int, solve_weights(gram, aim)))


def _sum(values: Doubles) -> float:
    """The sum from first to last: numpy's own, of pairs, is another one."""
    return float(np.add.accumulate(values)[-1])


def solve_weights(gram: Doubles, aim: Doubles) -> Doubles:
    """Weights in sixteenths, whole numbers, in place of `aim`, by elimination. Compiled as it stands, too."""
    count = len(aim)
    for i in range(count):
        gram[i, i] = gram[i, i] * (1 + 1e-9) + 1e-30
    for i in range(count):
        for j in range(i + 1, count):
            share = gram[j, i] / gram[i, i]
            for k in range(i, count):
                gram[j, k] -= share * gram[i, k]
            aim[j] -= share * aim[i]
    for i in range(count - 1, -1, -1):
        for k in range(i + 1, count):
            aim[i] -= gram[i, k] * aim[k]
        aim[i] /= gram[i, i]
    for i in range(count):
        aim[i] = math.floor(min(max(aim[i] * 16 + 0.5, -WEIGHT_LIMIT), WEIGHT_LIMIT))
    return aim


def guess_scale(ratio: float) -> int:
    """The scale of rows whose squared errors are `ratio` times their variance. Compiled as it stands, too."""
    mantissa, exponent = math.frexp(min(max(ratio, 2.0**-60), 2.0**60))
    return 125 + 2 * exponent + (1 if mantissa >= _HALF_OCTAVE else 0)


def _choose_scale(
    patterns: Integers,
    error: Doubles,
    expected: Doubles,
    model: RowModel,
    rounding: Doubles | None,
    instructive: bool,
) -> int:
    """The row's scale by the coded size of its patterns, on some of the channels."""
    guess = guess_scale(_sum(error * error * (1.0 / model.variance)) * (1.0 / len(error)))
    channels = slice(None, None, max(1, len(patterns) // COST_CHANNELS))
    boundaries = np.stack([patterns[channels], patterns[channels] + 1])[:, None, :]
    costs: dict[int, int] = {}

    def evaluate(scales: list[int]) -> None:
        variance = np.stack([model.expect_variance(scale, rounding)[channels] for scale in scales])
        low, high = cumulated(boundaries, expected[channels], slopes_of(variance), model.numbers.edges)
        costs.update(zip(scales, cost_of(high - low).sum(axis=-1).tolist(), strict=True))

    # Where the rounding of the sources rules, the scale hardly matters, and a much smaller one is as good.
    evaluate([guess - 1, guess] if instructive else [guess - 6, guess - 1, guess])
    while True:
        best = min(costs, key=lambda scale: costs[scale])
        reached = costs[best]
        evaluate([max(best - 1, 0), min(best + 1, 255)])
        if min(costs.values()) > reached - WORTH_COST:
            return best


def _is_instructive(error: Doubles, rounding: Doubles | None) -> bool:
    """Whether a row's errors are more than the rounding of its sources."""
    if rounding is None:
        return bool(np.any(error))
    return 2 * int(np.count_nonzero(error * error > 4 * rounding)) > len(error)


# The distribution

TOTAL_BITS = 24
PATTERNS = 1 << 16
HALF = PATTERNS // 2
RANGE = 24
"""F is 0 below minus this many units and 1 above."""
NODES_BITS = 6
STEP_BITS = 16
UNIT = 1 << NODES_BITS + STEP_BITS
"""Resolution of the argument of F: as fine as 2^24 shares can tell apart, for intervals near 0 are narrow."""
_TENTHS_A_DEVIATION = 17
"""The logistic function with a slope of 1.7 is close to the normal one of deviation 1."""
_LOGISTIC_TOTAL = (1 << TOTAL_BITS) - PATTERNS
_GUESSES = 2
_HALF_OCTAVE = 0.7071067811865476
COST_SHIFT, COST_FIRST = 46, 1023 << 6
COSTS = np.array(
    [round((TOTAL_BITS - i // 64 - math.log2(1 + (i % 64 + 0.5) / 64)) * 4096) for i in range(TOTAL_BITS + 1 << 6)]
)
"""Bits of a share of 2^24, in 2^-12, by its octave and the sixty-fourths of it: for the encoder's choices."""


def _logistic_nodes() -> tuple[Integers, Integers]:
    """F at 64 nodes a unit, scaled so that F and one for each pattern make 2^24, and the steps between nodes."""
    bits = 96
    # exp(1 / 64) by its Taylor series, truncated fixed point.
    growth, term = 0, 1 << bits
    for n in range(1, 30):
        growth += term
        term //= n << NODES_BITS
    powers = [1 << bits]
    for _ in range(RANGE << NODES_BITS):
        powers.append(powers[-1] * growth >> bits)
    scale = _LOGISTIC_TOTAL
    # F(-u) = 1 / (1 + exp(u)), F(u) = 1 - F(-u); the ends are set so that nothing is lost.
    below = [(scale << bits) // ((1 << bits) + power) for power in powers]
    below[-1] = 0
    nodes = np.array([*reversed(below), *(scale - value for value in below[1:])], np.int64)
    return nodes[:-1].copy(), np.diff(nodes)


class Numbers(NamedTuple):
    """What the 65,536 patterns of a kind of words, ordered, stand for.

    Attributes
    ----------
    values : numpy.ndarray of float64, ``[65536]``
        What is not finite counts as the power of two after the largest.
    edges : numpy.ndarray of float64, ``[65537]``
        Lower edges of the intervals that are rounded to each, and what is above all.
    least : float
        The least value with all bits of mantissa.
    rounding : float
        Variance of the rounding of a value of 1.
    mantissa_bits, bias : int
    """

    values: Doubles
    edges: Doubles
    least: float
    rounding: float
    mantissa_bits: int
    bias: int

    @property
    def largest(self) -> float:
        """The largest finite value."""
        return (2.0 - 2.0**-self.mantissa_bits) * 2.0**self.bias


def _numbers(mantissa_bits: int, bias: int) -> Numbers:
    ordered = np.arange(-HALF, HALF)
    magnitude = np.where(ordered >= 0, ordered, -ordered - 1)
    infinity = 2 * bias + 1 << mantissa_bits
    exponent, mantissa = np.maximum(magnitude >> mantissa_bits, 1), magnitude & (1 << mantissa_bits) - 1
    mantissa = mantissa + ((magnitude >> mantissa_bits > 0) << mantissa_bits)
    finite = np.ldexp(mantissa.astype(np.float64), exponent - bias - mantissa_bits)
    value = np.where(magnitude >= infinity, 2.0 ** (bias + 1), finite) * np.where(ordered >= 0, 1.0, -1.0)
    edges = np.empty(PATTERNS + 1)
    edges[1:-1] = (value[1:] + value[:-1]) * 0.5
    far = 1e60
    edges[0], edges[-1] = -far, far
    edges[1 : HALF - infinity], edges[HALF + infinity + 1 : -1] = -far, far
    return Numbers(value, edges, 2.0 ** (1 - bias), 2.0 ** (-2 * mantissa_bits) / 12, mantissa_bits, bias)


def _slope_table() -> Doubles:
    """2^22 * 1.7 / sqrt(v) for v by the top 16 bits of its float64 pattern: exponent and four bits of mantissa."""
    slopes = []
    for index in range(LOWEST, HIGHEST + 1):
        exponent, mantissa = (index >> 4) - 1023, 2 * (16 + (index & 15)) + 1
        # v = mantissa * 2 ** (exponent - 5), in the middle of what the index covers; root in 2^-100.
        shift = exponent - 5 + 200
        root = isqrt(mantissa << shift)
        slopes.append((UNIT * _TENTHS_A_DEVIATION << 100) / (10 * root))
    return np.array(slopes)


LOWEST, HIGHEST = 1023 - 100 << 4, 1023 + 80 << 4
NODES, STEPS = _logistic_nodes()
NUMBERS: dict[DType, Numbers] = {"fp16": _numbers(10, 15), "bf16": _numbers(7, 127)}
SLOPES = _slope_table()


def slopes_of(variance: Doubles) -> Doubles:
    """The slope of the logistic function for non-negative variances, to be passed to `cumulated`."""
    index = variance.view(np.int64) >> 48
    np.minimum(index, HIGHEST, out=index)
    index -= LOWEST
    np.maximum(index, 0, out=index)
    slopes: Doubles = SLOPES[index]
    return slopes


def cumulated(boundary: Integers, expected: Doubles, slope: Doubles, edges: Doubles) -> Integers:
    """The share of 2^24 of all patterns below a boundary, 0 to 65,536 (pattern + 32,768).

    Strictly rising in `boundary`, 0 at its lower and 2^24 at its upper end.
    """
    units = (edges[boundary] - expected) * slope
    np.maximum(units, -RANGE * UNIT, out=units)
    np.minimum(units, RANGE * UNIT - 1, out=units)
    units += RANGE * UNIT
    fixed = units.astype(np.int64)
    node = fixed >> STEP_BITS
    fixed &= (1 << STEP_BITS) - 1
    fixed *= STEPS[node]
    fixed >>= STEP_BITS
    fixed += NODES[node]
    fixed += boundary
    return fixed


def cost_of(width: Integers) -> Integers:
    """What a share of 2^24 costs, in 2^-12 of a bit, to a hundredth."""
    costs: Integers = COSTS[(width.astype(np.float64).view(np.int64) >> COST_SHIFT) - COST_FIRST]
    return costs


def to_ordered(words: Words) -> Ordered:
    """Map bit patterns to ordered integers, int16; the map is its own inverse."""
    signed = words.view(np.int16)
    mask = signed >> 15
    mask &= 0x7FFF
    mask ^= signed
    return mask


def find_patterns(
    slots: Integers, expected: Doubles, slope: Doubles, dropped_bits: int, numbers: Numbers
) -> tuple[Integers, Integers, Integers]:
    """The patterns (0 to 65,535) of slots under the distributions of `cumulated`."""
    size, edges = 1 << dropped_bits, numbers.edges
    probe = _guess(slots, expected, slope, numbers) & -size
    low = cumulated(probe, expected, slope, edges)
    high = cumulated(probe + size, expected, slope, edges)
    wrong = np.flatnonzero((slots < low) | (slots >= high))
    if len(wrong):
        above = slots[wrong] >= high[wrong]
        found = _search(slots[wrong], expected[wrong], slope[wrong], probe[wrong], above, size, edges)
        probe[wrong] = found
        low[wrong] = cumulated(found, expected[wrong], slope[wrong], edges)
        high[wrong] = cumulated(found + size, expected[wrong], slope[wrong], edges)
    return probe, low, high - low


def _search(
    slots: Integers, expected: Doubles, slope: Doubles, probe: Integers, above: np.ndarray, size: int, edges: Doubles
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
        holds = cumulated(middle, expected, slope, edges) <= slots
        floor = np.where(holds, middle, floor)
        ceiling = np.where(holds | (width <= size), ceiling, middle)
        # Once the direction is wrong for a lane, plain halving is as good: steps only ever shrink the bracket.
        step *= 4


def _guess(slots: Integers, expected: Doubles, slope: Doubles, numbers: Numbers) -> Integers:
    """Invert the distribution; the one share that each pattern adds is taken from the guess before."""
    pattern = _pattern_of(expected, numbers)
    spread = UNIT / slope
    for _ in range(_GUESSES):
        share = (slots - pattern + 0.5) * (1 / _LOGISTIC_TOTAL)
        np.maximum(share, 1e-9, out=share)
        np.minimum(share, 1 - 1e-9, out=share)
        pattern = _pattern_of(expected + np.log(share / (1 - share)) * spread, numbers)
    return pattern


def _pattern_of(values: Doubles, numbers: Numbers) -> Integers:
    finite = np.minimum(np.maximum(values, -numbers.largest), numbers.largest)
    if numbers.mantissa_bits == 10:
        words = finite.astype(np.float16).view(np.uint16)
    else:
        words = (finite.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return to_ordered(words).astype(np.int64) + HALF


# The coder

LOW = 1 << TOTAL_BITS
WORD_BITS = 16
_STATE_BITS = TOTAL_BITS + WORD_BITS


def encode_lanes(begin: Integers, width: Integers, seeds: Integers) -> bytes:
    """Encode intervals ``[steps, lanes]``, each `width` >= 1 from `begin` of 2^24, and seeds ``[lanes]`` < 2^24."""
    fast = compiled()
    state, stream = (push_lanes if fast is None else fast.push_lanes)(begin, width, seeds + LOW)
    return _write_states(state) + encode_varint(len(stream)) + stream.astype("<u2", copy=False).tobytes()


def push_lanes(begin: Integers, width: Integers, state: Integers) -> tuple[Integers, NDArray[np.uint16]]:
    """The states in the end, and the words that they gave off, in the order in which they are taken back."""
    words: list[NDArray[np.uint16]] = []
    for step in range(len(begin) - 1, -1, -1):
        span = width[step]
        limit = span << WORD_BITS
        for _ in range(2):
            full = state >= limit
            if not full.any():
                break
            words.append(state[full].astype(np.uint16))
            state = np.where(full, state >> WORD_BITS, state)
        quotient, rest = np.divmod(state, span)
        state = (quotient << TOTAL_BITS) + rest + begin[step]
    return state, np.concatenate(words[::-1]) if words else np.zeros(0, np.uint16)


class LaneDecoder:
    """Gives back, step by step, what `encode_lanes` took; `lanes` and `steps` bound what may be read.

    `reader` stands where the bytes of `encode_lanes` begin, and after them once this is built.
    """

    def __init__(self, reader: ByteReader, lanes: int, steps: int) -> None:
        self._reader = reader
        self.state = _read_states(reader, lanes)
        count = reader.read_varint("the number of coded words", 2 * lanes * steps)
        self.words = np.frombuffer(reader.take(2 * count), "<u2").astype(np.uint16)
        self.at = 0

    def slots(self) -> Integers:
        """A number of each lane's interval: the symbol is the one whose interval holds it."""
        return self.state & (LOW - 1)

    def advance(self, begin: Integers, width: Integers, slots: Integers) -> None:
        """Leave the intervals that hold `slots`."""
        state = self.state >> TOTAL_BITS
        state *= width
        state += slots
        state -= begin
        # A lane that needs two words needs them before the others take their one.
        for low in (LOW >> WORD_BITS, LOW):
            hungry = np.flatnonzero(state < low)
            if len(hungry):
                taken = self.words[self.at : self.at + len(hungry)]
                self.at += len(hungry)
                if len(taken) < len(hungry):
                    raise self.too_short()
                state[hungry] = (state[hungry] << WORD_BITS) + taken
        self.state = state

    def too_short(self) -> CodecError:
        return self._reader.damaged("the stream of coded words ends too early")

    def seeds(self) -> Integers:
        """The seeds, after the last step."""
        seeds = self.state - LOW
        if self.at != len(self.words) or int(seeds.min()) < 0 or int(seeds.max()) >= LOW:
            raise self._reader.damaged("coded words do not end where they began")
        return seeds


def _write_states(state: Integers) -> bytes:
    length = np.frexp(state.astype(np.float64))[1] - (TOTAL_BITS + 1)
    nibbles = np.zeros(len(state) + 1 & ~1, np.uint8)
    nibbles[: len(state)] = length
    fast = compiled()
    packed = (pack_states if fast is None else fast.pack_states)(state, length.astype(np.int64) + TOTAL_BITS)
    return (nibbles[::2] << 4 | nibbles[1::2]).tobytes() + packed.tobytes()


def _read_states(reader: ByteReader, lanes: int) -> Integers:
    nibbles = np.frombuffer(reader.take((lanes + 1) // 2), np.uint8)
    counts = np.stack([nibbles >> 4, nibbles & 15], axis=1).ravel()[:lanes].astype(np.int64) + TOTAL_BITS
    packed = np.frombuffer(reader.take((int(counts.sum()) + 7) // 8), np.uint8)
    fast = compiled()
    state: Integers = (unpack_states if fast is None else fast.unpack_states)(packed, counts)
    return state


def pack_states(state: Integers, counts: Integers) -> Plane:
    """The bits below the leading one of each state, `counts` of them, most significant first."""
    big_endian = np.ascontiguousarray(state.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 3:])
    return np.packbits(np.unpackbits(big_endian, axis=1)[_below_leading_one(counts)])


def unpack_states(packed: Plane, counts: Integers) -> Integers:
    """The states that `pack_states` took."""
    bits = np.zeros((len(counts), _STATE_BITS), np.uint8)
    bits[_below_leading_one(counts)] = np.unpackbits(packed, count=int(counts.sum()))
    bytes_of_state = np.zeros((len(counts), 8), np.uint8)
    bytes_of_state[:, 3:] = np.packbits(bits, axis=1)
    state: Integers = bytes_of_state.view(">u8")[:, 0].astype(np.int64)
    state += np.int64(1) << counts
    return state


def _below_leading_one(counts: Integers) -> NDArray[np.bool_]:
    """Mask of the stored bits of each state, most significant first ``[lanes, 40]``."""
    stored: NDArray[np.bool_] = np.arange(_STATE_BITS)[None, :] >= _STATE_BITS - counts[:, None]
    return stored
