"""The loops of rowref_max, compiled by numba: the same bytes as the numpy code of that module, many times as fast.

Both take the same steps in the same order, each a whole number or a single IEEE-754 operation; numba neither reorders
nor fuses them unless told to (a test looks for fused ones in the machine code). Without numba, the extra ``fast``, this
module cannot be imported, and `rowref_max` does without.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

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
_inlined: Any = njit(cache=_CACHE, forceinline=True, **OPTIONS)
"""For what runs once a word: an array as an argument is seven."""

_NODE_BITS = 16
_TABLES = plain.NODES << _NODE_BITS | plain.STEPS, plain.SLOPES, plain.COSTS
_SCALES = np.array(plain.SCALES), np.array(plain.INVERSE_SCALES)

_LOW, _TOTAL_BITS, _WORD_BITS = plain.LOW, plain.TOTAL_BITS, plain.WORD_BITS
_PATTERNS, _HALF, _UNIT = plain.PATTERNS, plain.HALF, plain.UNIT
_STEP_BITS, _FRACTION = plain.STEP_BITS, (1 << plain.STEP_BITS) - 1
_FLOOR, _CEILING, _OFFSET = float(-plain.RANGE * _UNIT), float(plain.RANGE * _UNIT - 1), float(plain.RANGE * _UNIT)
_LOWEST, _HIGHEST = plain.LOWEST, plain.HIGHEST
_FAR = float(plain.NUMBERS["fp16"].edges[-1])
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
_EXACT = 0x433 << 52
"""The bits of 2^52: with a whole number below, those of their sum."""

_solve_weights: Any = compiled(plain.solve_weights)
_guess_scale: Any = compiled(plain.guess_scale)


def plan_rows(model: RowModel, ordered: Ordered, sources: Integers, tail: int) -> tuple[Plans, Integers, Integers]:
    """`rowref_max.plan_rows`."""
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
    """`rowref_max.find_sources`."""
    found: Integers = _find_sources(*_turns(model)[1:], ordered, last_source, least_gain, _numbers(model))
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
_NO_PARTNERS = np.zeros(1, np.int64)


def _numbers(model: RowModel) -> tuple[Any, ...]:
    """What makes values and edges of patterns: see `_half_steps`; then the limits of `rowref_max.Numbers`."""
    _, _, least, rounding, mantissa_bits, bias = model.numbers
    shift, offset = 51 - mantissa_bits, (1023 - bias) << 52
    infinity = 2 * bias + 1 << mantissa_bits
    return shift, offset, 2 << mantissa_bits, 2.0 ** -(bias + mantissa_bits), infinity, least, rounding


def _guessing(model: RowModel) -> tuple[Any, ...]:
    """What makes about the pattern of a float32: see `_nearest`."""
    _, _, least, _, mantissa_bits, bias = model.numbers
    shift, offset = 23 - mantissa_bits, (127 - bias) << mantissa_bits
    # A float32 has no fewer bits where its exponents end as those of the words do.
    limits = (least, 2.0**mantissa_bits / least) if offset else (0.0, 0.0)
    return shift, 1 << shift - 1, offset, *map(np.float32, (*limits, model.numbers.largest))


def _turns(model: RowModel) -> tuple[Any, ...]:
    if model.rounding is None:
        return model.history, False, _UNTURNED, _UNTURNED, _NO_PARTNERS
    return model.history, True, model.cos, model.sin, model.partner


# A word at a time. Loops over the channels of a row either compute or look up, never both: those that compute run on
# vectors, which look-ups would forbid. Patterns are counted from the middle, 0 being that of 0.0.


@_inlined
def _half_steps(steps, numbers):
    """The value of a magnitude: 2 m half steps make that of pattern m, 2 m - 1 the edge below it."""
    exact = np.int64((np.int64(steps) << numbers[0]) + numbers[1]).view(np.float64)
    return exact if steps >= numbers[2] else np.float64(np.int32(steps)) * numbers[3]


@_inlined
def _value(pattern, numbers):
    """`rowref_max.Numbers.values`."""
    value = _half_steps(2 * min(pattern if pattern >= 0 else -1 - pattern, numbers[4]), numbers)
    return -value if pattern < 0 else value


@_inlined
def _edge(pattern, numbers):
    """`rowref_max.Numbers.edges`."""
    size = -pattern if pattern < 0 else pattern
    edge = _half_steps(max(2 * size - 1, 0), numbers) if size <= numbers[4] else _FAR
    return -edge if pattern < 0 else edge


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
    argument = np.uint32(_argument(_edge(pattern, numbers) - expected, slope))
    return _within(nodes[argument >> _STEP_BITS], argument) + pattern + _HALF


# A row at a time


@_inlined
def _copy(row, to):
    for c in range(len(row)):
        to[c] = row[c]


@compiled
def _set_distances(patterns, size, expected, numbers, below, above):
    """From the expectation to the edges of intervals of `size` patterns."""
    for c in range(len(expected)):
        first = np.int32(patterns[c] & -size)
        below[c] = _edge(first, numbers) - expected[c]
        above[c] = _edge(np.int32(first + size), numbers) - expected[c]


@compiled
def _set_shares(patterns, size, below, above, slopes, nodes, arguments, found, low, width):
    """The intervals of 2^24 that `_set_distances` has the edges of."""
    for c in range(len(slopes)):
        arguments[0, c] = _argument(below[c], slopes[c])
        arguments[1, c] = _argument(above[c], slopes[c])
    for c in range(len(slopes)):
        found[0, c] = nodes[np.int64(arguments[0, c]) >> _STEP_BITS]
        found[1, c] = nodes[np.int64(arguments[1, c]) >> _STEP_BITS]
    for c in range(len(slopes)):
        first = _within(found[0, c], arguments[0, c])
        low[c] = first + (patterns[c] & -size) + _HALF
        width[c] = _within(found[1, c], arguments[1, c]) - first + size


@compiled
def _set_slopes(variance, scale, turned, rounding, expected_variance, slopes, table):
    """`RowModel.expect_variance`, and `rowref_max.slopes_of` it."""
    for c in range(len(variance)):
        value = variance[c] * scale
        if turned:
            value += rounding[c]
        expected_variance[c] = value
    bits = expected_variance.view(np.int64)
    for c in range(len(variance)):
        slopes[c] = table[max(min(bits[c] >> 48, _HIGHEST) - _LOWEST, 0)]


@compiled
def _turn_back(row, values, cos, sin, partner, partners, back):
    """`RowModel.back`; `partners` are the values of the partners."""
    for c in range(len(values)):
        partners[c] = values[partner[c]]
    for c in range(len(values)):
        back[c] = values[c] * cos[row, c] - partners[c] * sin[row, c]


@compiled
def _expect(
    row, history, turned, cos, sin, partner, mean, roundings, sources, weights, still, partners, expected, rounding
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
    for c in range(len(mean)):
        partners[c] = still[partner[c]]
    for c in range(len(mean)):
        expected[c] = still[c] * cos[row, c] + partners[c] * sin[row, c]


@compiled
def _learn(
    row, values, partners, turned, partner, history, mean, total, variance, roundings, learned_rows, expected,
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
        for c in range(channels):
            partners[c] = squared[partner[c]]
        for c in range(channels):
            squared[c] = (squared[c] + partners[c]) * 0.5 - rounding[c]
    before, after = float(learned_rows), 1.0 / (learned_rows + 1)
    for c in range(channels):
        found = max(min(squared[c] * inverse_scale, variance[c] * _MOST_SURPRISE), _SMALLEST)
        variance[c] = min((found + variance[c] * before) * after, _LARGEST)
    return min(learned_rows + 1, _WINDOW_ROWS)


@compiled
def _plan_rows(history, turned, cos, sin, partner, patterns, sources, tail, tables, scales, numbers):
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
    squared, below, above = np.empty(channels), np.empty(channels), np.empty(channels)
    arguments = np.empty((2, channels), np.uint32)
    samples, sampled = np.empty((6, channels)), np.empty((2, channels), np.int32)
    own_patterns = np.empty(channels, np.int16)
    looked_up, costs = np.empty((2, channels), np.int64), np.empty(256, np.int64)
    used_sources, used_weights = np.zeros(_MOST, np.int64), np.zeros(_MOST, np.int64)
    learned_rows, count = _PRIOR_ROWS, 0
    for row in range(rows):
        own = patterns[row]
        for c in range(channels):
            values[c] = _value(np.int32(own[c]), numbers)
        if turned:
            _turn_back(row, values, cos, sin, partner, partners, history[row])
        else:
            _copy(values, history[row])
        for c in range(channels):
            certainty[c] = 1.0 / variance[c]
            target[c] = history[row, c] - mean[c]
        used = _fit_weights(sources[row], target, history, mean, certainty, used_sources, used_weights)
        _expect(
            row, history, turned, cos, sin, partner, mean, roundings, used_sources, used_weights, still, scratch,
            expected, rounding,
        )  # fmt: skip
        instructive = _squares(values, expected, turned, rounding, certainty, squared, scratch)
        size = 1 if row < tail else 256
        _set_distances(own, 1, expected, numbers, below, above)
        scale = _choose_scale(
            own, below, above, scratch[0], instructive, variance, turned, rounding, samples, sampled, own_patterns,
            arguments, looked_up, costs, tables, scales[0],
        )  # fmt: skip
        _set_slopes(variance, scales[0][scale], turned, rounding, scratch, slopes, slope_table)
        if size > 1:
            _set_distances(own, size, expected, numbers, below, above)
        _set_shares(own, size, below, above, slopes, nodes, arguments, looked_up, low[row], width[row])
        learns = row < tail and instructive
        kinds[row], chosen_scales[row] = used | (_LEARNS if learns else 0), scale
        for k in range(used):
            back[count], coded_weights[count] = row - used_sources[k], used_weights[k] + 128
            count += 1
        if row < tail:
            learned_rows = _learn(
                row, values, partners, turned, partner, history, mean, total, variance, roundings, learned_rows,
                expected, rounding, scales[1][scale], learns, squared, numbers[5], numbers[6],
            )  # fmt: skip
    return kinds, chosen_scales, back[:count], coded_weights[:count], low, width


@compiled
def _fit_weights(candidates, target, history, mean, certainty, used_sources, used_weights):
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
    gram, aim = np.array((a, b, c, b, d, e, c, e, f)).reshape(3, 3), np.array((p, q, r))
    weights = _solve_weights(gram[:count, :count], aim[:count])
    used = 0
    for i in range(count):
        if weights[i]:
            used_sources[used], used_weights[used] = candidates[i], weights[i]
            used += 1
    return used


@compiled
def _squares(values, expected, turned, rounding, certainty, squared, weighed):
    """Whether a row is instructive; into the first of `weighed` the mean of its squared errors over the variance."""
    total, more = 0.0, 0
    for c in range(len(values)):
        error = values[c] - expected[c]
        squared[c] = error * error
        weighed[c] = squared[c] * certainty[c]
    for c in range(len(values)):
        more += squared[c] > 4 * rounding[c]
    for c in range(len(values)):
        total += weighed[c]
    weighed[0] = total * (1.0 / len(values))
    return 2 * more > len(values) if turned else more > 0


@compiled
def _choose_scale(
    patterns,
    below,
    above,
    ratio,
    instructive,
    variance,
    turned,
    rounding,
    samples,
    sampled,
    own_patterns,
    arguments,
    found,
    costs,
    tables,
    scales,
):
    """`rowref_max._choose_scale`; `samples` has room for what is gathered of the channels that count."""
    nodes, slope_table, cost_table = tables
    step = max(1, len(patterns) // _COST_CHANNELS)
    count = (len(patterns) + step - 1) // step
    own_variance, own_rounding, own_below = samples[0, :count], samples[1, :count], samples[2, :count]
    own_above, scratch, slopes = samples[3, :count], samples[4, :count], samples[5, :count]
    few_patterns, low, width = own_patterns[:count], sampled[0, :count], sampled[1, :count]
    for c in range(count):
        at = c * step
        own_variance[c], own_rounding[c] = variance[at], rounding[at]
        own_below[c], own_above[c], few_patterns[c] = below[at], above[at], patterns[at]
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
                _set_slopes(own_variance, scales[scale], turned, own_rounding, scratch, slopes, slope_table)
                _set_shares(few_patterns, 1, own_below, own_above, slopes, nodes, arguments, found, low, width)
                cost = 0
                for c in range(count):
                    cost += cost_table[(np.float64(width[c]).view(np.int64) >> _COST_SHIFT) - _COST_FIRST]
                costs[scale] = cost
            if costs[scale] < least:
                nearest, least = scale, costs[scale]
        if least > reached - _WORTH_COST:
            return best
        best, reached = nearest, least
        tried, first, second = best, max(best - 1, 0), min(best + 1, 255)


@compiled
def _find_sources(turned, cos, sin, partner, patterns, last_source, least_gain, numbers):
    rows, channels = patterns.shape
    deviation, features = np.empty((rows, channels)), np.empty((rows, channels), np.int16)
    total, values, partners = np.zeros(channels), np.empty(channels), np.empty(channels)
    for row in range(rows):
        own = deviation[row]
        for c in range(channels):
            values[c] = _value(np.int32(patterns[row, c]), numbers)
        if turned:
            _turn_back(row, values, cos, sin, partner, partners, own)
        else:
            _copy(values, own)
        for c in range(channels):
            total[c] += own[c]
    share = 1.0 / rows
    mean, total = total * share, np.zeros(channels)
    for row in range(rows):
        own = deviation[row]
        for c in range(channels):
            own[c] -= mean[c]
        for c in range(channels):
            total[c] += own[c] * own[c]
    _set_features(deviation, total, plain.LEAST_SPREAD, plain.FIRST_UNITS, features)
    first = _pursue(np.ascontiguousarray(features[:, :: plain.FIRST_STEP]), last_source, least_gain, 1)
    total = np.zeros(channels)
    for row in range(rows):
        own, source = features[row], first[row, 0]
        weight = np.int32(source >= 0)
        other = features[max(source, 0)]
        for c in range(channels):
            rest = np.float64(np.int32(own[c] - other[c] * weight)) * (1 / plain.FIRST_UNITS)
            total[c] += rest * rest
    _set_features(deviation, total, plain.LEAST_REST, plain.SECOND_UNITS, features)
    return _pursue(features, last_source, least_gain, _MOST)


@compiled
def _set_features(deviation, total, least, units, features):
    """Weigh channels by one over the root of their mean square, and round."""
    rows, channels = deviation.shape
    share = 1.0 / rows
    for c in range(channels):
        total[c] = 1.0 / np.sqrt(total[c] * share + least)
    for row in range(rows):
        own, rounded = deviation[row], features[row]
        for c in range(channels):
            own[c] *= total[c]
            found = np.rint(own[c] * units)
            rounded[c] = np.int16(np.int32(min(max(found, -_FEATURE_LIMIT), _FEATURE_LIMIT)))


@compiled
def _multiply(features):
    """The products of all rows with all, by fours of those that lie near enough."""
    rows, channels = features.shape
    products = np.zeros((rows + 3, rows + 3), np.int32)
    for row in range(rows):
        own = features[row]
        for other in range(max(0, row - _FARTHEST_BACK), row + 1, 4):
            last = rows - 1
            first, second = features[other], features[min(other + 1, last)]
            third, fourth = features[min(other + 2, last)], features[min(other + 3, last)]
            a = b = c = d = np.int32(0)
            for at in range(channels):
                one = np.int32(own[at])
                a = np.int32(a + one * np.int32(first[at]))
                b = np.int32(b + one * np.int32(second[at]))
                c = np.int32(c + one * np.int32(third[at]))
                d = np.int32(d + one * np.int32(fourth[at]))
            for beside, product in enumerate((a, b, c, d)):
                products[row, other + beside] = products[other + beside, row] = product
    return products


@compiled
def _pursue(features, last_source, least_gain, most):
    rows = len(features)
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


@compiled
def _push_lanes(begin, width, state):
    steps, lanes = begin.shape
    at = 2 * steps * lanes
    words = np.empty(at + 1, np.uint16)  # the last written word lies above `at`
    for step in range(steps - 1, -1, -1):
        low, spans = begin[step], width[step]
        for lane in range(lanes - 1, -1, -1):  # without a branch that nobody could foresee
            full = state[lane] >= np.int64(spans[lane]) << _WORD_BITS
            words[at] = state[lane] & 0xFFFF
            at -= full
            state[lane] >>= _WORD_BITS if full else 0
        for lane in range(lanes - 1, -1, -1):  # few give off a second word
            if state[lane] >= np.int64(spans[lane]) << _WORD_BITS:
                words[at] = state[lane] & 0xFFFF
                at -= 1
                state[lane] >>= _WORD_BITS
        # Of whole numbers below 2^40 and 2^25, and below 2^16: a quotient is not rounded up to the next whole number.
        for lane in range(lanes):
            exact = np.int64(state[lane] | _EXACT).view(np.float64) - 2.0**52
            quotient = np.int64(np.int32(exact / np.float64(spans[lane])))
            state[lane] += (quotient << _TOTAL_BITS) - quotient * np.int64(spans[lane]) + low[lane]
    return words, at + 1


@compiled
def _follow_plans(
    history, turned, cos, sin, partner, kinds, chosen_scales, back, coded_weights, words, state, tail, tables, scales,
    numbers, guessing,
):  # fmt: skip
    nodes, slope_table, _ = tables
    rows, channels = history.shape
    patterns = np.empty((rows, channels), np.int16)
    roundings = np.zeros((rows if turned else 1, channels))
    mean, total, variance, rounding = np.zeros(channels), np.zeros(channels), np.ones(channels), np.zeros(channels)
    values, still, expected, partners = np.empty(channels), np.empty(channels), np.empty(channels), np.empty(channels)
    slopes, scratch, squared = np.empty(channels), np.empty(channels), np.empty(channels)
    below, above, arguments = np.empty(channels), np.empty(channels), np.empty((2, channels), np.uint32)
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
            row, history, turned, cos, sin, partner, mean, roundings, sources, weights, still, partners, expected,
            rounding,
        )  # fmt: skip
        _set_slopes(variance, scales[0][scale], turned, rounding, scratch, slopes, slope_table)
        size = 1 if row < tail else 256
        _guess(state, expected, slopes, guessing, singles[0], singles[1], found)
        _set_distances(found, size, expected, numbers, below, above)
        _set_shares(found, size, below, above, slopes, nodes, arguments, looked_up, low, width)
        at = _advance(state, words, at, found, size, expected, slopes, nodes, numbers, low, width)
        for lane in range(channels):
            patterns[row, lane] = found[lane]
        if at > last:
            break
        if row < tail:
            for lane in range(channels):
                values[lane] = _value(found[lane], numbers)
            if turned:
                _turn_back(row, values, cos, sin, partner, partners, history[row])
            else:
                _copy(values, history[row])
            learned_rows = _learn(
                row, values, partners, turned, partner, history, mean, total, variance, roundings, learned_rows,
                expected, rounding, scales[1][scale], (kinds[row] & _LEARNS) != 0, squared, numbers[5], numbers[6],
            )  # fmt: skip
    return patterns, at


@compiled
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


@compiled
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
