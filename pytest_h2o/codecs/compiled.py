"""The loops of rowref_max, compiled by numba: the same bytes as the numpy code of that module, many times as fast.

Both take the same steps in the same order, each a whole number or a single IEEE-754 operation; numba neither reorders
nor fuses them unless told to (a test looks for fused ones in the machine code). Without numba, the extra ``fast``, this
module cannot be imported, and `rowref_max` does without.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numba.core.options import DefaultOptions

from pytest_h2o.codecs import rowref_max as plain
from pytest_h2o.codecs.base import Words
from pytest_h2o.codecs.rowref_max import Integers, LaneDecoder, Ordered, Plans, RowModel

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def can_cache(jit: Any) -> bool:
    """Whether what is compiled can be kept for the next process: numba raises where no folder can be written to."""
    try:
        jit(cache=True)(lambda: None)
    except RuntimeError:
        return False
    return True


_CACHE = can_cache(njit)
compiled: Any = njit(cache=_CACHE, **OPTIONS)
_UNCOUNTED = {"_nrt": False} if hasattr(DefaultOptions, "_nrt") else {}  # no promise of numba's: others do without
_inlined: Any = njit(cache=_CACHE, forceinline=True, **_UNCOUNTED, **OPTIONS)
"""For what runs once a word or a row: an array as an argument is seven, and a loop looks first whether they overlap.

Without `_nrt` it can allocate nothing, and need not count references to what it is given, an atomic step each.
"""

_NODE_BITS = 16
_TABLES = plain.NODES << _NODE_BITS | plain.STEPS, plain.SLOPES, plain.COSTS
_SCALES = np.array(plain.SCALES), np.array(plain.INVERSE_SCALES)

_LOW, _TOTAL_BITS, _WORD_BITS = plain.LOW, plain.TOTAL_BITS, plain.WORD_BITS
_PATTERNS, _HALF, _UNIT = plain.PATTERNS, plain.HALF, plain.UNIT
_STEP_BITS, _FRACTION = plain.STEP_BITS, (1 << plain.STEP_BITS) - 1
_FLOOR, _CEILING, _OFFSET = float(-plain.RANGE * _UNIT), float(plain.RANGE * _UNIT - 1), float(plain.RANGE * _UNIT)
_LOWEST = plain.LOWEST
_LEAST_VARIANCE, _MOST_VARIANCE = np.array([plain.LOWEST << 48, plain.HIGHEST << 48]).view(np.float64).tolist()
_INFINITE = np.float32(np.inf)
_COST_SHIFT, _COST_FIRST, _WORTH_COST, _COST_CHANNELS = (
    plain.COST_SHIFT,
    plain.COST_FIRST,
    plain.WORTH_COST,
    plain.COST_CHANNELS,
)
_SMALLEST, _LARGEST, _MOST_SURPRISE = plain.SMALLEST, plain.LARGEST, plain.MOST_SURPRISE
_PRIOR_ROWS, _WINDOW_ROWS = plain.PRIOR_ROWS, plain.WINDOW_ROWS
_FEATURE_LIMIT = float(plain.FEATURE_LIMIT)
_LEARNS, _MOST = plain.LEARNS, plain.MOST_REFERENCES
_FARTHEST_BACK, _INDEPENDENT, _LEFT = plain.FARTHEST_BACK, plain.LEAST_INDEPENDENT, plain.LEAST_LEFT
_LOGISTIC_TOTAL = _LOW - _PATTERNS
_BESIDE = 4
_EXACT = 0x433 << 52
"""The bits of 2^52: with a whole number below, those of their sum."""

_solve_weights: Any = _inlined(plain.solve_weights)
_guess_scale: Any = _inlined(plain.guess_scale)


def plan_rows(model: RowModel, ordered: Ordered, sources: Integers, tail: int) -> tuple[Plans, Integers, Integers]:
    """`rowref_max.plan_rows`, after `find_sources`."""
    kinds, scales, back, weights, low, width = _plan_rows(
        *_turns(model), ordered, sources, tail, _TABLES, _SCALES, _numbers(model)
    )
    return Plans(kinds, scales, back, weights), low, width


def follow_plans(model: RowModel, plans: Plans, decoder: LaneDecoder, tail: int) -> Ordered:
    """`rowref_max.follow_plans`."""
    ordered, decoder.at = _follow_plans(
        *_turns(model),
        *plans,
        np.append(decoder.words, np.uint16(0)),
        decoder.state,
        tail,
        _TABLES,
        _SCALES,
        _numbers(model),
        _guessing(model),
    )
    if decoder.at > len(decoder.words):
        raise decoder.too_short()
    found: Ordered = ordered
    return found


def find_sources(model: RowModel, ordered: Ordered, last_source: int, least_gain: float) -> Integers:
    """`rowref_max.find_sources`; it leaves the rows in the history of the model."""
    found: Integers = _find_sources(*_turns(model), ordered, last_source, least_gain, _numbers(model))
    return found


def push_lanes(begin: Integers, width: Integers, state: Integers) -> tuple[Integers, Words]:
    """`rowref_max.push_lanes`."""
    words, first = _push_lanes(begin, width, state)
    return state, words[first:]


@compiled
def pack_states(state, counts):
    """`rowref_max.pack_states`."""
    packed = np.empty(counts.sum() + 7 >> 3, np.uint8)
    at, held, bits = 0, 0, 0
    for lane in range(len(state)):
        held = held << counts[lane] | state[lane] & (1 << counts[lane]) - 1
        bits += counts[lane]
        while bits >= 8:
            bits -= 8
            packed[at] = held >> bits
            held &= (1 << bits) - 1
            at += 1
    if bits:
        packed[at] = held << 8 - bits
    return packed


@compiled
def unpack_states(packed, counts):
    """`rowref_max.unpack_states`."""
    state = np.empty(len(counts), np.int64)
    at, held, bits = 0, 0, 0
    for lane in range(len(counts)):
        while bits < counts[lane]:
            held = held << 8 | np.int64(packed[at])
            bits += 8
            at += 1
        bits -= counts[lane]
        state[lane] = held >> bits | 1 << counts[lane]
        held &= (1 << bits) - 1
    return state


_UNTURNED = np.zeros((1, 1))


def _numbers(model: RowModel) -> tuple[Any, ...]:
    """What makes values and edges of patterns: see `_half_steps`; then the limits of `rowref_max.Numbers`."""
    _, _, least, rounding, mantissa_bits, bias = model.numbers
    shift, offset = 22 - mantissa_bits, (126 - bias) << 23
    infinity = 2 * bias + 1 << mantissa_bits
    unit = np.float32(2.0 ** -(bias + mantissa_bits + 1))
    return *map(np.int32, (shift, offset, 4 << mantissa_bits, infinity)), unit, least, rounding


def _guessing(model: RowModel) -> tuple[Any, ...]:
    """What makes about the pattern of a float32: see `_nearest`."""
    _, _, least, _, mantissa_bits, bias = model.numbers
    shift, offset = 23 - mantissa_bits, (127 - bias) << mantissa_bits
    # A float32 has no fewer bits where its exponents end as those of the words do.
    limits = (least, 2.0**mantissa_bits / least) if offset else (0.0, 0.0)
    return shift, 1 << shift - 1, offset, *map(np.float32, (*limits, model.numbers.largest))


def _turns(model: RowModel) -> tuple[Any, ...]:
    if model.rounding is None:
        return model.history, False, _UNTURNED, _UNTURNED, 1
    return model.history, True, model.cos, model.sin, int(model.partner[0])


# A word at a time. Loops over the channels of a row either compute or look up, never both: those that compute run on
# vectors, which look-ups would forbid. Patterns are counted from the middle, 0 being that of 0.0.


@_inlined
def _half_steps(steps, numbers):
    """Half the value of a magnitude, float32: 2 m half steps make that of pattern m, 2 m - 1 the edge below it."""
    exact = np.int32(np.int32(steps << (numbers[0] & 31)) + numbers[1]).view(np.float32)
    return exact if steps >= numbers[2] else np.float32(steps) * numbers[4]


@_inlined
def _half_value(pattern, numbers):
    """Half of `rowref_max.Numbers.values`, which float32 would not hold."""
    magnitude = np.int32(pattern ^ (pattern >> 31))
    half = _half_steps(np.int32(min(magnitude, numbers[3]) << 1), numbers)
    return -half if pattern < 0 else half


@_inlined
def _half_edge(pattern, numbers):
    """Half of `rowref_max.Numbers.edges`; what is far is infinite."""
    size = np.int32(abs(pattern))
    half = _half_steps(max(np.int32((min(size, numbers[3]) << 1) - 1), np.int32(0)), numbers)
    half = half if size <= numbers[3] else _INFINITE
    return -half if pattern < 0 else half


@_inlined
def _argument(distance, slope):
    """Where F is to be looked up: its node, and the fraction of a step beyond."""
    return np.int32(min(max(distance * slope, _FLOOR), _CEILING) + _OFFSET)


@_inlined
def _within(node, argument):
    """F at an argument whose node has been looked up."""
    step = np.uint32(node & (1 << _NODE_BITS) - 1)
    return np.int32(node >> _NODE_BITS) + np.int32(np.uint32((argument & _FRACTION) * step) >> _STEP_BITS)


@_inlined
def _share(pattern, expected, slope, nodes, numbers):
    """`rowref_max.cumulated` of one boundary."""
    argument = np.uint32(_argument(2.0 * np.float64(_half_edge(np.int32(pattern), numbers)) - expected, slope))
    return _within(nodes[argument >> _STEP_BITS], argument) + pattern + _HALF


# A row at a time


@_inlined
def _copy(row, to):
    for c in range(len(row)):
        to[c] = row[c]


@_inlined
def _set_values(patterns, numbers, halves, values):
    """`rowref_max.Numbers.values` of a row."""
    for c in range(len(values)):
        halves[c] = _half_value(np.int32(patterns[c]), numbers)
    for c in range(len(values)):
        values[c] = 2.0 * np.float64(halves[c])


@_inlined
def _set_edges(patterns, size, numbers, halves):
    """Half the edges of the intervals of `size` patterns."""
    for c in range(len(patterns)):
        first = np.int32(patterns[c] & -size)
        halves[0, c], halves[1, c] = _half_edge(first, numbers), _half_edge(np.int32(first + size), numbers)


@_inlined
def _set_shares(patterns, size, halves, expected, slopes, nodes, arguments, found, low, width):
    """The intervals of 2^24 between edges."""
    for c in range(len(slopes)):
        arguments[0, c] = _argument(2.0 * np.float64(halves[0, c]) - expected[c], slopes[c])
        arguments[1, c] = _argument(2.0 * np.float64(halves[1, c]) - expected[c], slopes[c])
    for c in range(len(slopes)):
        found[0, c] = nodes[np.int64(arguments[0, c]) >> _STEP_BITS]
        found[1, c] = nodes[np.int64(arguments[1, c]) >> _STEP_BITS]
    for c in range(len(slopes)):
        first = _within(found[0, c], arguments[0, c])
        low[c] = first + (patterns[c] & -size) + _HALF
        width[c] = _within(found[1, c], arguments[1, c]) - first + size


@_inlined
def _place(variance):
    """Where the slope of a variance is to be looked up."""
    return (np.float64(min(max(variance, _LEAST_VARIANCE), _MOST_VARIANCE)).view(np.int64) >> 48) - _LOWEST


@_inlined
def _set_slopes(variance, scale, turned, rounding, places, slopes, table):
    """`RowModel.expect_variance`, and `rowref_max.slopes_of` it."""
    if turned:
        for c in range(len(slopes)):
            places[c] = _place(variance[c] * scale + rounding[c])
    else:
        for c in range(len(slopes)):
            places[c] = _place(variance[c] * scale)
    for c in range(len(slopes)):
        slopes[c] = table[np.uint64(places[c])]


@_inlined
def _swap(values, reach, partners):
    """The values of the partners, which lie so far apart."""
    if reach == 1:
        for c in range(0, len(values), 2):
            partners[c], partners[c + 1] = values[c + 1], values[c]
        return
    for start in range(0, len(values), 2 * reach):
        first, second = values[start : start + reach], values[start + reach : start + 2 * reach]
        to_first, to_second = partners[start : start + reach], partners[start + reach : start + 2 * reach]
        for c in range(reach):
            to_first[c], to_second[c] = second[c], first[c]


@_inlined
def _turn_back(row, values, cos, sin, reach, partners, back):
    """`RowModel.back`; `partners` are the values of the partners."""
    _swap(values, reach, partners)
    for c in range(len(values)):
        back[c] = values[c] * cos[row, c] - partners[c] * sin[row, c]


@_inlined
def _expect(
    row, history, turned, cos, sin, reach, mean, roundings, sources, weights, still, partners, expected, rounding
):
    """`RowModel.expect` of three sources, some of no weight; `still` is the expectation before it is turned."""
    first, second, third = history[sources[0]], history[sources[1]], history[sources[2]]
    one, two, three = weights[0] / 16, weights[1] / 16, weights[2] / 16
    for c in range(len(mean)):
        middle = mean[c]
        step = middle + (first[c] - middle) * one
        step += (second[c] - middle) * two
        still[c] = step + (third[c] - middle) * three
    if not turned:
        _copy(still, expected)
        return
    first, second, third = roundings[sources[0]], roundings[sources[1]], roundings[sources[2]]
    one, two, three = one * one, two * two, three * three
    for c in range(len(mean)):
        rounding[c] = first[c] * one + second[c] * two + third[c] * three
    _swap(still, reach, partners)
    for c in range(len(mean)):
        expected[c] = still[c] * cos[row, c] + partners[c] * sin[row, c]


@_inlined
def _learn(
    row, values, partners, turned, reach, history, mean, total, variance, roundings, learned_rows, expected,
    rounding, inverse_scale, learns, squared, least, rounding_of_one,
):  # fmt: skip
    """`RowModel.learn` but for the history; the number of learned rows after it."""
    channels, back, own = len(mean), history[row], roundings[row if turned else 0]
    share = 1.0 / (row + 1)
    for c in range(channels):
        total[c] += back[c]
        mean[c] = total[c] * share
    if turned:
        for c in range(channels):
            magnitude = max(max(abs(values[c]), abs(partners[c])), least)
            power = np.int64(np.float64(magnitude).view(np.int64) & ~((1 << 52) - 1)).view(np.float64)
            own[c] = power * power * rounding_of_one
    if not learns:
        return learned_rows
    for c in range(channels):
        error = values[c] - expected[c]
        squared[c] = error * error
    if turned:
        _swap(squared, reach, partners)
        for c in range(channels):
            squared[c] = (squared[c] + partners[c]) * 0.5 - rounding[c]
    before, after = float(learned_rows), 1.0 / (learned_rows + 1)
    for c in range(channels):
        found = max(min(squared[c] * inverse_scale, variance[c] * _MOST_SURPRISE), _SMALLEST)
        variance[c] = min((found + variance[c] * before) * after, _LARGEST)
    return min(learned_rows + 1, _WINDOW_ROWS)


@compiled
def _plan_rows(history, turned, cos, sin, reach, patterns, sources, tail, tables, scales, numbers):
    nodes, slope_table, _ = tables
    rows, channels = patterns.shape
    kinds, chosen_scales = np.zeros(rows, np.uint8), np.zeros(rows, np.uint8)
    back, coded_weights = np.zeros(_MOST * rows, np.uint8), np.zeros(_MOST * rows, np.uint8)
    low, width = np.empty((rows, channels), np.int32), np.empty((rows, channels), np.int32)
    roundings = np.zeros((rows if turned else 1, channels))
    mean, total, variance, rounding = np.zeros(channels), np.zeros(channels), np.ones(channels), np.zeros(channels)
    values, target, still, expected = np.empty(channels), np.empty(channels), np.empty(channels), np.empty(channels)
    partners, certainty, slopes, scratch = (
        np.empty(channels),
        np.empty(channels),
        np.empty(channels),
        np.empty(channels),
    )
    squared, arguments = np.empty(channels), np.empty((2, channels), np.uint32)
    samples, halves = np.empty((5, channels)), np.empty((2, channels), np.float32)
    looked_up, costs = np.empty((2, channels), np.int64), np.empty(256, np.int64)
    equations = np.empty((_MOST + 1, _MOST))
    used_sources, used_weights = np.zeros(_MOST, np.int64), np.zeros(_MOST, np.int64)
    learned_rows, count = _PRIOR_ROWS, 0
    for row in range(rows):
        own = patterns[row]
        _set_values(own, numbers, halves[0], values)
        if turned:
            _swap(values, reach, partners)
        for c in range(channels):
            certainty[c] = 1.0 / variance[c]
            target[c] = history[row, c] - mean[c]
        used = _fit_weights(sources[row], target, history, mean, certainty, equations, used_sources, used_weights)
        _expect(
            row, history, turned, cos, sin, reach, mean, roundings, used_sources, used_weights, still, scratch,
            expected, rounding,
        )  # fmt: skip
        instructive = _squares(values, expected, turned, rounding, certainty, squared, scratch)
        size = 1 if row < tail else 256
        _set_edges(own, 1, numbers, halves)
        scale = _choose_scale(
            halves, expected, scratch[0], instructive, variance, turned, rounding, samples, arguments,
            looked_up, costs, tables, scales[0],
        )  # fmt: skip
        _set_slopes(variance, scales[0][scale], turned, rounding, looked_up[0], slopes, slope_table)
        if size > 1:
            _set_edges(own, size, numbers, halves)
        _set_shares(own, size, halves, expected, slopes, nodes, arguments, looked_up, low[row], width[row])
        learns = row < tail and instructive
        kinds[row], chosen_scales[row] = used | (_LEARNS if learns else 0), scale
        for k in range(used):
            back[count], coded_weights[count] = row - used_sources[k], used_weights[k] + 128
            count += 1
        if row < tail:
            learned_rows = _learn(
                row, values, partners, turned, reach, history, mean, total, variance, roundings, learned_rows,
                expected, rounding, scales[1][scale], learns, squared, numbers[5], numbers[6],
            )  # fmt: skip
    return kinds, chosen_scales, back[:count], coded_weights[:count], low, width


@_inlined
def _fit_weights(candidates, target, history, mean, certainty, equations, used_sources, used_weights):
    """`rowref_max._fit_weights` over the sources of a row that there are; how many have a weight."""
    count = 0
    while count < _MOST and candidates[count] >= 0:
        count += 1
    for k in range(_MOST):
        used_sources[k] = used_weights[k] = 0
    if not count:
        return 0
    first = history[candidates[0]]
    a = b = c = d = e = f = p = q = r = 0.0
    if count == 1:
        for at in range(len(mean)):
            one = first[at] - mean[at]
            weighed = one * certainty[at]
            a += weighed * one
            p += weighed * target[at]
    else:
        second, third = history[candidates[1]], history[candidates[count - 1]]
        for at in range(len(mean)):
            one, two, three = first[at] - mean[at], second[at] - mean[at], third[at] - mean[at]
            weighed = one * certainty[at]
            a += weighed * one
            b += weighed * two
            c += weighed * three
            p += weighed * target[at]
            weighed = two * certainty[at]
            d += weighed * two
            e += weighed * three
            q += weighed * target[at]
            weighed = three * certainty[at]
            f += weighed * three
            r += weighed * target[at]
    gram, aim = equations[:3], equations[3]
    for i, one in enumerate(((a, b, c), (b, d, e), (c, e, f), (p, q, r))):
        equations[i, 0], equations[i, 1], equations[i, 2] = one
    weights = _solve_weights(gram[:count, :count], aim[:count])
    used = 0
    for i in range(count):
        if weights[i]:
            used_sources[used], used_weights[used] = candidates[i], np.int64(weights[i])
            used += 1
    return used


@_inlined
def _sum_of_lanes(values):
    """The sum of values that are not negative, in eight lanes: within a relative 1e-9 of the sum from first to last."""
    a = b = c = d = e = f = g = h = 0.0
    whole = len(values) & -8
    for at in range(0, whole, 8):
        a, b, c, d = a + values[at], b + values[at + 1], c + values[at + 2], d + values[at + 3]
        e, f, g, h = e + values[at + 4], f + values[at + 5], g + values[at + 6], h + values[at + 7]
    for at in range(whole, len(values)):
        a += values[at]
    return a + b + c + d + e + f + g + h


@_inlined
def _squares(values, expected, turned, rounding, certainty, squared, weighed):
    """Whether a row is instructive; into the first of `weighed` the mean of its squared errors over the variance."""
    total, more = 0.0, 0
    for c in range(len(values)):
        error = values[c] - expected[c]
        squared[c] = error * error
        weighed[c] = squared[c] * certainty[c]
    for c in range(len(values)):
        more += squared[c] > 4 * rounding[c]
    share = 1.0 / len(values)
    total = _sum_of_lanes(weighed)
    if _guess_scale(total * share * (1 - 1e-9)) != _guess_scale(total * share * (1 + 1e-9)):
        total = 0.0
        for c in range(len(values)):
            total += weighed[c]
    weighed[0] = total * share
    return 2 * more > len(values) if turned else more > 0


@_inlined
def _choose_scale(
    halves, expected, ratio, instructive, variance, turned, rounding, samples, places, found, costs, tables, scales
):  # fmt: skip
    """`rowref_max._choose_scale`; `samples` has room for what is gathered of the channels that count."""
    step = max(1, len(variance) // _COST_CHANNELS)
    count = (len(variance) + step - 1) // step
    for c in range(count):
        at = c * step
        samples[0, c], samples[1, c] = variance[at], rounding[at]
        samples[2, c] = 2.0 * np.float64(halves[0, at]) - expected[at]
        samples[3, c] = 2.0 * np.float64(halves[1, at]) - expected[at]
    unknown = np.int64(-1)
    for scale in range(256):
        costs[scale] = unknown
    guess = _guess_scale(ratio)
    tried = guess - 1 if instructive else guess - 6
    first, second = guess - 1, guess
    best, reached = tried, np.int64(1) << 62
    while True:
        nearest, least = best, reached
        for scale in (tried, first, second):
            if costs[scale] == unknown:
                costs[scale] = _cost(scales[scale], count, samples, turned, places, found, tables)
            if costs[scale] < least:
                nearest, least = scale, costs[scale]
        if least > reached - _WORTH_COST:
            return best
        best, reached = nearest, least
        tried, first, second = best, max(best - 1, 0), min(best + 1, 255)


@_inlined
def _cost(scale, count, samples, turned, places, found, tables):
    """`rowref_max.cost_of` all samples at a scale."""
    nodes, slope_table, cost_table = tables
    slopes = samples[4, :count]
    _set_slopes(samples[0], scale, turned, samples[1], found[0], slopes, slope_table)
    for c in range(count):
        places[0, c], places[1, c] = _argument(samples[2, c], slopes[c]), _argument(samples[3, c], slopes[c])
    for c in range(count):
        found[0, c] = nodes[np.uint64(places[0, c] >> _STEP_BITS)]
        found[1, c] = nodes[np.uint64(places[1, c] >> _STEP_BITS)]
    widths = slopes
    for c in range(count):
        low, high = _within(found[0, c], places[0, c]), _within(found[1, c], places[1, c])
        widths[c] = np.float64(np.int32(high - low + 1))
    bits = widths.view(np.int64)
    cost = 0
    for c in range(count):
        cost += cost_table[np.uint64((bits[c] >> _COST_SHIFT) - _COST_FIRST)]
    return cost


@compiled
def _find_sources(history, turned, cos, sin, reach, patterns, last_source, least_gain, numbers):
    rows, channels = patterns.shape
    total, values, partners = np.zeros(channels), np.empty(channels), np.empty(channels)
    halves, features = np.empty(channels, np.float32), np.zeros((rows + _BESIDE, channels), np.int16)
    for row in range(rows):
        own = history[row]
        _set_values(patterns[row], numbers, halves, values)
        if turned:
            _turn_back(row, values, cos, sin, reach, partners, own)
        else:
            _copy(values, own)
        for c in range(channels):
            total[c] += own[c]
    share = 1.0 / rows
    mean, total = total * share, np.zeros(channels)
    for row in range(rows):
        own = history[row]
        for c in range(channels):
            deviation = own[c] - mean[c]
            total[c] += deviation * deviation
    first_scale, second_scale = np.empty(channels), np.ones(channels)
    _set_one_over_root(total, share, plain.LEAST_SPREAD, first_scale)
    _set_features(history, mean, first_scale, second_scale, plain.FIRST_UNITS, features)
    first = _pursue(np.ascontiguousarray(features[:, :: plain.FIRST_STEP]), last_source, least_gain, 1)
    total = np.zeros(channels)
    for row in range(rows):
        own, source = features[row], first[row, 0]
        weight = np.int32(source >= 0)
        other = features[max(source, 0)]
        for c in range(channels):
            rest = np.float64(np.int32(own[c] - other[c] * weight)) * (1 / plain.FIRST_UNITS)
            total[c] += rest * rest
    _set_one_over_root(total, share, plain.LEAST_REST, second_scale)
    _set_features(history, mean, first_scale, second_scale, plain.SECOND_UNITS, features)
    return _pursue(features, last_source, least_gain, _MOST)


@compiled
def _set_one_over_root(total, share, least, scale):
    """`rowref_max._one_over_root` of the sums of squares."""
    for c in range(len(total)):
        scale[c] = 1.0 / np.sqrt(total[c] * share + least)


@compiled
def _set_features(history, mean, first_scale, second_scale, units, features):
    """What rows deviate from the mean by, weighed by channel, and rounded."""
    for row in range(len(history)):
        own, rounded = history[row], features[row]
        for c in range(len(mean)):
            found = np.rint((own[c] - mean[c]) * first_scale[c] * second_scale[c] * units)
            rounded[c] = np.int16(np.int32(min(max(found, -_FEATURE_LIMIT), _FEATURE_LIMIT)))


@compiled
def _multiply(features):
    """The products of all rows with all that lie near enough, two with four at a time; the last `_BESIDE` are none."""
    rows, channels = features.shape
    products = np.zeros((rows, rows), np.int32)
    for row in range(0, rows - _BESIDE, 2):
        own, next_own = features[row], features[row + 1]
        for other in range(max(0, row - _FARTHEST_BACK), row + 2, _BESIDE):
            first, second = features[other], features[other + 1]
            third, fourth = features[other + 2], features[other + 3]
            a = b = c = d = e = f = g = h = np.int32(0)
            for at in range(channels):
                one, two = np.int32(own[at]), np.int32(next_own[at])
                p, q, r, s = np.int32(first[at]), np.int32(second[at]), np.int32(third[at]), np.int32(fourth[at])
                a, b, c, d = np.int32(a + one * p), np.int32(b + one * q), np.int32(c + one * r), np.int32(d + one * s)
                e, f, g, h = np.int32(e + two * p), np.int32(f + two * q), np.int32(g + two * r), np.int32(h + two * s)
            for beside, (product, next_product) in enumerate(((a, e), (b, f), (c, g), (d, h))):
                products[row, other + beside] = products[other + beside, row] = product
                products[row + 1, other + beside] = products[other + beside, row + 1] = next_product
    return products


@compiled
def _pursue(features, last_source, least_gain, most):
    rows = len(features) - _BESIDE
    found = np.full((rows, most), -1, np.int64)
    products = _multiply(features)
    size = _FARTHEST_BACK
    remainder, energy, crossed, shares = np.empty(size), np.empty(size), np.empty((most, size)), np.empty(most)
    energies, leasts, scores = np.empty(rows), np.empty(rows), np.empty(size)
    ranks = scores.view(np.int64)  # -1.0 ranks below what is not negative
    for row in range(rows):
        energies[row] = products[row, row]
        leasts[row] = energies[row] * _INDEPENDENT + 0.5
    for row in range(1, rows):
        first, end = max(0, row - _FARTHEST_BACK), min(row, last_source)
        count = end - first
        own, least = energies[row], leasts[first:end]
        left, of_row = own, products[row, first:]
        for j in range(count):
            remainder[j], energy[j] = of_row[j], energies[first + j]
        for place in range(most if count > 0 else 0):
            for j in range(count):
                score = remainder[j] * remainder[j] / max(energy[j], 0.5)
                scores[j] = score if energy[j] > least[j] else -1.0
            highest, best = ranks[0], 0
            for j in range(count):
                highest = max(highest, ranks[j])
            while ranks[best] != highest:
                best += 1
            now_left = max(left - scores[best], own * _LEFT)
            if scores[best] <= 0 or left <= now_left * least_gain:
                break
            found[row, place] = first + best
            left = now_left
            if place + 1 == most:
                break
            cross, of_best = crossed[place], products[first + best, first:]
            for j in range(count):
                cross[j] = of_best[j]
            for earlier in range(place):
                before, factor = crossed[earlier], crossed[earlier, best] * shares[earlier]
                for j in range(count):
                    cross[j] -= before[j] * factor
            share = shares[place] = 1.0 / energy[best]
            factor = remainder[best] * share
            for j in range(count):
                remainder[j] -= cross[j] * factor
                energy[j] -= cross[j] * cross[j] * share
    return found


# The coder


@_inlined
def _enter(low, spans, state):
    """Take the intervals into the states: whole numbers below 2^41, exact in float64, which runs on vectors.

    A state is below 2^40 and 2^16 times its span: no quotient is rounded up to the next whole number.
    """
    for lane in range(len(state)):
        exact, span = np.int64(state[lane] | _EXACT).view(np.float64) - 2.0**52, np.float64(spans[lane])
        quotient = np.float64(np.int32(exact / span))
        exact += quotient * (2.0**_TOTAL_BITS - span) + np.float64(low[lane])
        state[lane] = np.float64(exact + 2.0**52).view(np.int64) ^ _EXACT


@compiled
def _push_lanes(begin, width, state):
    steps, lanes = begin.shape
    at = 2 * steps * lanes
    words = np.empty(at + 1, np.uint16)  # the last written word lies above `at`
    for step in range(steps - 1, -1, -1):
        low, spans = begin[step], width[step]
        more = 0
        for lane in range(lanes - 1, -1, -1):  # without a branch that nobody could foresee
            given, limit = state[lane], np.int64(spans[lane]) << _WORD_BITS
            full = given >= limit
            words[at] = given & 0xFFFF
            at -= full
            left = given >> _WORD_BITS if full else given
            state[lane] = left
            more |= left >= limit
        for lane in range(lanes - 1 if more else -1, -1, -1):  # few give off a second word
            if state[lane] >= np.int64(spans[lane]) << _WORD_BITS:
                words[at] = state[lane] & 0xFFFF
                at -= 1
                state[lane] >>= _WORD_BITS
        _enter(low, spans, state)
    return words, at + 1


@compiled
def _follow_plans(
    history, turned, cos, sin, reach, kinds, chosen_scales, back, coded_weights, words, state, tail, tables, scales,
    numbers, guessing,
):  # fmt: skip
    nodes, slope_table, _ = tables
    rows, channels = history.shape
    patterns = np.empty((rows, channels), np.int16)
    roundings = np.zeros((rows if turned else 1, channels))
    mean, total, variance, rounding = np.zeros(channels), np.zeros(channels), np.ones(channels), np.zeros(channels)
    values, still, expected, partners = np.empty(channels), np.empty(channels), np.empty(channels), np.empty(channels)
    slopes, squared, arguments = np.empty(channels), np.empty(channels), np.empty((2, channels), np.uint32)
    history[0] = 0.0  # what no source names is taken with no weight
    looked_up, singles = np.empty((2, channels), np.int64), np.empty((2, channels), np.float32)
    found, low, width = np.empty(channels, np.int32), np.empty(channels, np.int32), np.empty(channels, np.int32)
    sources, weights = np.zeros(_MOST, np.int64), np.zeros(_MOST, np.int64)
    learned_rows, at, count, last = _PRIOR_ROWS, 0, 0, len(words) - 1  # of the words the last is none
    for row in range(rows):
        for k in range(_MOST):
            sources[k] = weights[k] = 0
        for k in range(kinds[row] & _MOST):
            sources[k], weights[k] = row - np.int64(back[count]), np.int64(coded_weights[count]) - 128
            count += 1
        scale = chosen_scales[row]
        _expect(
            row, history, turned, cos, sin, reach, mean, roundings, sources, weights, still, partners, expected,
            rounding,
        )  # fmt: skip
        _set_slopes(variance, scales[0][scale], turned, rounding, looked_up[0], slopes, slope_table)
        size = 1 if row < tail else 256
        _guess(state, expected, slopes, guessing, singles[0], singles[1], found)
        _set_edges(found, size, numbers, singles)
        _set_shares(found, size, singles, expected, slopes, nodes, arguments, looked_up, low, width)
        at = _advance(state, words, at, found, size, expected, slopes, nodes, numbers, low, width)
        for lane in range(channels):
            patterns[row, lane] = found[lane]
        if at > last:
            break
        if row < tail:
            _set_values(found, numbers, singles[0], values)
            if turned:
                _turn_back(row, values, cos, sin, reach, partners, history[row])
            else:
                _copy(values, history[row])
            learned_rows = _learn(
                row, values, partners, turned, reach, history, mean, total, variance, roundings, learned_rows,
                expected, rounding, scales[1][scale], (kinds[row] & _LEARNS) != 0, squared, numbers[5], numbers[6],
            )  # fmt: skip
    return patterns, at


@_inlined
def _advance(state, words, at, found, size, expected, slopes, nodes, numbers, low, width):
    """Mend the guesses that do not hold the slots, and leave the intervals; the place in the words after it."""
    last = len(words) - 1
    for lane in range(len(state)):
        slot = np.int32(state[lane] & (_LOW - 1))
        if slot < low[lane] or slot >= low[lane] + width[lane]:
            found[lane], low[lane], width[lane] = _find(
                slot, found[lane], size, expected[lane], slopes[lane], nodes, numbers
            )
        else:
            found[lane] &= -size
    for lane in range(len(state)):
        beyond = (state[lane] & (_LOW - 1)) - low[lane]
        state[lane] = np.int64(np.int32(state[lane] >> _TOTAL_BITS)) * np.int64(width[lane]) + beyond
    for lane in range(len(state)):  # few take two words
        if state[lane] < _LOW >> _WORD_BITS:
            state[lane] = (state[lane] << _WORD_BITS) + np.int64(words[min(at, last)])
            at += 1
    for lane in range(len(state)):  # without a branch that nobody could foresee
        hungry = state[lane] < _LOW
        word = np.int64(words[min(at, last)])
        state[lane] = (state[lane] << _WORD_BITS) + word if hungry else state[lane]
        at += hungry
    return at


_ONE_HALF, _TWO, _TWO_THIRDS, _TWO_FIFTHS = np.float32(0.5), np.float32(2), np.float32(2 / 3), np.float32(2 / 5)
_LN2, _ROOT2, _ALL, _SPREAD = (
    np.float32(np.log(2)),
    np.float32(np.sqrt(2)),
    np.float32(_LOGISTIC_TOTAL),
    np.float32(_UNIT),
)


@_inlined
def _guess(state, expected, slopes, guessing, middles, spreads, found):
    """About the patterns that hold the slots: the logistic function inverted, but for the shares that patterns add."""
    for c in range(len(state)):
        found[c] = state[c] & (_LOW - 1)
        middles[c], spreads[c] = expected[c], slopes[c]
    for c in range(len(state)):
        middle, spread = middles[c], _SPREAD / spreads[c]
        likely = _nearest(middle, guessing)
        share = np.int32(found[c] - likely - _HALF)
        share = np.int32(min(max(share, 0), _LOGISTIC_TOTAL - 1))
        below = np.float32(share) + _ONE_HALF
        above = np.float32(np.int32(_LOGISTIC_TOTAL - share)) - _ONE_HALF
        bits = np.float32(below / above).view(np.int32)
        mantissa = np.int32((bits & 0x7FFFFF) | 0x3F800000).view(np.float32)
        exponent = np.float32(np.int32((bits >> 23) - 127)) + _ONE_HALF
        x = (mantissa - _ROOT2) / (mantissa + _ROOT2)  # log(mantissa / root 2) is 2 artanh(x)
        logit = exponent * _LN2 + x * (_TWO + x * x * (_TWO_THIRDS + x * x * _TWO_FIFTHS))
        added = np.float32(np.int32(_nearest(middle + logit * spread, guessing) - likely))
        found[c] = _nearest(middle + (logit - added * (_ALL / (below * above))) * spread, guessing)


@_inlined
def _nearest(value, guessing):
    """The pattern nearest to a float32, nearly."""
    shift, half, offset, least, subnormal, largest = guessing
    magnitude = min(abs(value), largest)
    normal = np.int32((np.int32(np.float32(magnitude).view(np.int32) + half) >> (shift & 31)) - offset)
    found = normal if magnitude >= least else np.int32(magnitude * subnormal + _ONE_HALF)
    return np.int32(-1 - found if value < 0 else found)


@_inlined
def _find(slot, guess, size, expected, slope, nodes, numbers):
    """The pattern, a multiple of `size`, whose interval holds a slot, and the interval."""
    found = np.int64(guess) & -size
    low = _share(found, expected, slope, nodes, numbers)
    step = size
    if slot < low:
        ceiling, high = found, low
        while slot < low:
            found = max(found - step, -_HALF)
            low = _share(found, expected, slope, nodes, numbers)
            if slot < low:
                ceiling, high = found, low
                step *= 4
    else:
        ceiling = found + step
        high = _share(ceiling, expected, slope, nodes, numbers)
        while slot >= high:
            found, low = ceiling, high
            step *= 4
            ceiling = min(found + step, _HALF)
            high = _share(ceiling, expected, slope, nodes, numbers)
    while ceiling - found > size:
        middle = (found + (ceiling - found >> 1)) & -size
        share = _share(middle, expected, slope, nodes, numbers)
        if share <= slot:
            found, low = middle, share
        else:
            ceiling, high = middle, share
    return found, low, high - low
