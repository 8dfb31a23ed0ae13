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
from pytest_h2o.codecs.rowref_max import Integers, LaneDecoder, Plans, RowModel

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

_TABLES = plain.NODES, plain.STEPS, plain.SLOPES, plain.COSTS
_SCALES, _INVERSE_SCALES = np.array(plain.SCALES), np.array(plain.INVERSE_SCALES)
_NODE_BITS = 10
_NEAREST_NODE = np.searchsorted(plain.NODES, np.arange(0, 1 << plain.TOTAL_BITS, 1 << _NODE_BITS), side="right") - 1
"""The node at or below every 1,024th share."""
_GUESSING = _NEAREST_NODE.astype(np.int16), 1.0 / np.maximum(plain.STEPS, 1)

_LOW, _TOTAL_BITS, _WORD_BITS = plain.LOW, plain.TOTAL_BITS, plain.WORD_BITS
_PATTERNS, _HALF, _UNIT = plain.PATTERNS, plain.HALF, plain.UNIT
_STEP_BITS, _FRACTION, _NODES_BITS = plain.STEP_BITS, (1 << plain.STEP_BITS) - 1, plain.NODES_BITS
_FLOOR, _CEILING, _OFFSET = float(-plain.RANGE * _UNIT), float(plain.RANGE * _UNIT - 1), float(plain.RANGE * _UNIT)
_LOWEST, _HIGHEST = plain.LOWEST, plain.HIGHEST
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

_solve_weights: Any = compiled(plain.solve_weights)
_guess_scale: Any = compiled(plain.guess_scale)


def plan_rows(model: RowModel, patterns: Integers, sources: Integers, tail: int) -> tuple[Plans, Integers, Integers]:
    """`rowref_max.plan_rows`."""
    kinds, scales, back, weights, low, width = _plan_rows(
        *_turns(model), patterns, sources, tail, _TABLES, _BOTH_SCALES, _numbers(model)
    )
    return Plans(kinds, scales, back, weights), low, width


def follow_plans(model: RowModel, plans: Plans, decoder: LaneDecoder, tail: int) -> Integers:
    """`rowref_max.follow_plans`."""
    patterns, decoder.state, decoder.at = _follow_plans(
        *_turns(model),
        *plans,
        np.append(decoder.words, np.uint16(0)),
        decoder.state,
        tail,
        _TABLES,
        _BOTH_SCALES,
        _GUESSING,
        _numbers(model),
    )
    if decoder.at > len(decoder.words):
        raise decoder.too_short()
    found: Integers = patterns
    return found


def find_sources(model: RowModel, patterns: Integers, last_source: int, least_gain: float) -> Integers:
    """`rowref_max.find_sources`."""
    found: Integers = _find_sources(*_turns(model)[1:], patterns, last_source, least_gain, model.numbers.values)
    return found


def push_lanes(begin: Integers, width: Integers, state: Integers) -> tuple[Integers, Words]:
    """`rowref_max.push_lanes`."""
    words, first = _push_lanes(begin, width, state)
    return state, words[first:]


_BOTH_SCALES = (_SCALES, _INVERSE_SCALES)
_UNTURNED = np.zeros((1, 1))
_NO_PARTNERS = np.zeros(1, np.int64)


def _numbers(model: RowModel) -> tuple[Any, ...]:
    """Tables and limits of `rowref_max.Numbers`, and what makes a pattern of a float64: see `_pattern_of`."""
    values, edges, least, rounding, mantissa_bits, bias = numbers = model.numbers
    shift = 52 - mantissa_bits
    fields = (shift, 1 << shift - 1, (1023 - bias) << mantissa_bits, least, 2.0**mantissa_bits / least, numbers.largest)
    return values, edges, least, rounding, fields


def _turns(model: RowModel) -> tuple[Any, ...]:
    if model.rounding is None:
        return model.history, False, _UNTURNED, _UNTURNED, _NO_PARTNERS
    return model.history, True, model.cos, model.sin, model.partner


@_inlined
def _share(boundary, expected, slope, edges, nodes, steps):
    """`rowref_max.cumulated` of one boundary."""
    units = (edges[boundary] - expected) * slope
    units = min(max(units, _FLOOR), _CEILING) + _OFFSET
    fixed = np.int64(units)
    node = fixed >> _STEP_BITS
    return ((fixed & _FRACTION) * steps[node] >> _STEP_BITS) + nodes[node] + boundary


@_inlined
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
def _expect(row, history, turned, cos, sin, partner, mean, roundings, sources, weights, still, expected, rounding):
    """`RowModel.expect`; `still` is the expectation before it is turned."""
    for c in range(len(mean)):
        still[c] = mean[c]
        rounding[c] = 0.0
    for k in range(len(sources)):
        source, weight = sources[k], weights[k] / 16
        for c in range(len(mean)):
            still[c] += (history[source, c] - mean[c]) * weight
        if turned:
            square = weight * weight
            for c in range(len(mean)):
                rounding[c] += roundings[source, c] * square
    if turned:
        for c in range(len(mean)):
            expected[c] = still[c] * cos[row, c] + still[partner[c]] * sin[row, c]
    else:
        for c in range(len(mean)):
            expected[c] = still[c]


@compiled
def _learn(
    row, values, history, turned, cos, sin, partner, mean, total, variance, roundings, learned_rows, expected, rounding,
    inverse_scale, learns, squared, magnitude, least, rounding_of_one,
):  # fmt: skip
    """`RowModel.learn`; the number of learned rows after it."""
    channels = len(mean)
    share = 1.0 / (row + 1)
    for c in range(channels):
        if turned:
            history[row, c] = values[c] * cos[row, c] - values[partner[c]] * sin[row, c]
        else:
            history[row, c] = values[c]
    for c in range(channels):
        total[c] += history[row, c]
        mean[c] = total[c] * share
    if turned:
        for c in range(channels):
            magnitude[c] = max(max(abs(values[c]), abs(values[partner[c]])), least)
        bits = magnitude.view(np.int64)
        for c in range(channels):
            bits[c] &= ~((1 << 52) - 1)
        for c in range(channels):
            roundings[row, c] = magnitude[c] * magnitude[c] * rounding_of_one
    if not learns:
        return learned_rows
    for c in range(channels):
        error = values[c] - expected[c]
        squared[c] = error * error
    before, after = float(learned_rows), 1.0 / (learned_rows + 1)
    for c in range(channels):
        found = squared[c]
        if turned:
            found = (found + squared[partner[c]]) * 0.5 - rounding[c]
        found = max(min(found * inverse_scale, variance[c] * _MOST_SURPRISE), _SMALLEST)
        magnitude[c] = min((found + variance[c] * before) * after, _LARGEST)
    for c in range(channels):
        variance[c] = magnitude[c]
    return min(learned_rows + 1, _WINDOW_ROWS)


@compiled
def _plan_rows(history, turned, cos, sin, partner, patterns, sources, tail, tables, scales, numbers):
    nodes, steps, slope_table, cost_table = tables
    value_table, edges, least, rounding_of_one, _ = numbers
    rows, channels = patterns.shape
    kinds, chosen_scales = np.zeros(rows, np.uint8), np.zeros(rows, np.uint8)
    back, coded_weights = np.zeros(_MOST * rows, np.uint8), np.zeros(_MOST * rows, np.uint8)
    low, width = np.empty((rows, channels), np.int32), np.empty((rows, channels), np.int32)
    roundings = np.zeros((rows if turned else 1, channels))
    mean, total, variance = np.zeros(channels), np.zeros(channels), np.ones(channels)
    values, target, still, expected = np.empty(channels), np.empty(channels), np.empty(channels), np.empty(channels)
    certainty, samples = np.empty(channels), np.empty((3, channels))
    rounding, slopes, scratch, squared = np.empty(channels), np.empty(channels), np.empty(channels), np.empty(channels)
    used_sources, used_weights = np.zeros(_MOST, np.int64), np.zeros(_MOST, np.int64)
    learned_rows, count = _PRIOR_ROWS, 0
    for row in range(rows):
        for c in range(channels):
            values[c] = value_table[patterns[row, c]]
        for c in range(channels):
            certainty[c] = 1.0 / variance[c]
            if turned:
                target[c] = values[c] * cos[row, c] - values[partner[c]] * sin[row, c] - mean[c]
            else:
                target[c] = values[c] - mean[c]
        used = _fit_weights(sources[row], target, history, mean, certainty, used_sources, used_weights)
        _expect(
            row, history, turned, cos, sin, partner, mean, roundings, used_sources[:used], used_weights[:used], still,
            expected, rounding,
        )  # fmt: skip
        instructive = _squares(values, expected, turned, rounding, certainty, squared)
        scale = _choose_scale(
            patterns[row], squared[0], instructive, expected, variance, turned, rounding, samples, slopes, edges, nodes,
            steps, slope_table, cost_table, scales[0],
        )  # fmt: skip
        _set_slopes(variance, scales[0][scale], turned, rounding, scratch, slopes, slope_table)
        for c in range(channels):
            begin, end = patterns[row, c], patterns[row, c] + 1
            if row >= tail:
                begin &= ~255
                end = begin + 256
            low[row, c] = _share(begin, expected[c], slopes[c], edges, nodes, steps)
            width[row, c] = _share(end, expected[c], slopes[c], edges, nodes, steps) - low[row, c]
        learns = row < tail and instructive
        kinds[row], chosen_scales[row] = used | (_LEARNS if learns else 0), scale
        for k in range(used):
            back[count], coded_weights[count] = row - used_sources[k], used_weights[k] + 128
            count += 1
        if row < tail:
            learned_rows = _learn(
                row, values, history, turned, cos, sin, partner, mean, total, variance, roundings, learned_rows,
                expected, rounding, scales[1][scale], learns, squared, scratch, least, rounding_of_one,
            )  # fmt: skip
    return kinds, chosen_scales, back[:count], coded_weights[:count], low, width


@compiled
def _fit_weights(candidates, target, history, mean, certainty, used_sources, used_weights):
    """`rowref_max._fit_weights` over the sources of a row that there are; how many have a weight."""
    count = 0
    while count < _MOST and candidates[count] >= 0:
        count += 1
    gram, aim = np.zeros((count, count)), np.zeros(count)
    for c in range(len(mean) if count else 0):  # the sums of all at once: each waits for its last addition
        for i in range(count):
            one = (history[candidates[i], c] - mean[c]) * certainty[c]
            for j in range(i, count):
                gram[i, j] += one * (history[candidates[j], c] - mean[c])
            aim[i] += one * target[c]
    for i in range(count):
        for j in range(i):
            gram[i, j] = gram[j, i]
    weights = _solve_weights(gram, aim)
    used = 0
    for i in range(count):
        if weights[i]:
            used_sources[used], used_weights[used] = candidates[i], weights[i]
            used += 1
    return used


@compiled
def _squares(values, expected, turned, rounding, certainty, squared):
    """Whether a row is instructive; into the first of `squared` the mean of its squared errors over the variance."""
    total, more = 0.0, 0
    for c in range(len(values)):
        error = values[c] - expected[c]
        square = error * error
        more += square > 4 * rounding[c] if turned else error != 0
        total += square * certainty[c]
    squared[0] = total * (1.0 / len(values))
    return 2 * more > len(values) if turned else more > 0


@compiled
def _choose_scale(
    patterns, ratio, instructive, expected, variance, turned, rounding, samples, slopes, edges, nodes, steps,
    slope_table, cost_table, scales,
):  # fmt: skip
    """`rowref_max._choose_scale`; `samples` has room for what is gathered of the channels that count."""
    step = max(1, len(patterns) // _COST_CHANNELS)
    count = (len(patterns) + step - 1) // step
    sampled_variance, sampled_rounding, scratch = samples[0, :count], samples[1, :count], samples[2, :count]
    for c in range(count):
        sampled_variance[c], sampled_rounding[c] = variance[c * step], rounding[c * step]
    unknown = np.int64(-1)
    costs = np.full(256, unknown)
    guess = _guess_scale(ratio)
    tried = guess - 1 if instructive else guess - 6
    first, second = guess - 1, guess
    best, reached = tried, np.int64(1) << 62
    while True:
        nearest, least = best, reached
        for scale in (tried, first, second):
            if costs[scale] == unknown:
                _set_slopes(sampled_variance, scales[scale], turned, sampled_rounding, scratch, slopes, slope_table)
                for c in range(count):
                    at = patterns[c * step]
                    low = _share(at, expected[c * step], slopes[c], edges, nodes, steps)
                    scratch[c] = _share(at + 1, expected[c * step], slopes[c], edges, nodes, steps) - low
                bits, cost = scratch.view(np.int64), 0
                for c in range(count):
                    cost += cost_table[(bits[c] >> _COST_SHIFT) - _COST_FIRST]
                costs[scale] = cost
            if costs[scale] < least:
                nearest, least = scale, costs[scale]
        if least > reached - _WORTH_COST:
            return best
        best, reached = nearest, least
        tried, first, second = best, max(best - 1, 0), min(best + 1, 255)


@compiled
def _find_sources(turned, cos, sin, partner, patterns, last_source, least_gain, value_table):
    rows, channels = patterns.shape
    deviation, features = np.empty((rows, channels)), np.empty((rows, channels), np.int16)
    total, values = np.zeros(channels), np.empty(channels)
    for row in range(rows):
        for c in range(channels):
            values[c] = value_table[patterns[row, c]]
        for c in range(channels):
            if turned:
                deviation[row, c] = values[c] * cos[row, c] - values[partner[c]] * sin[row, c]
            else:
                deviation[row, c] = values[c]
            total[c] += deviation[row, c]
    share = 1.0 / rows
    for c in range(channels):
        total[c] *= share
    for row in range(rows):
        for c in range(channels):
            deviation[row, c] -= total[c]
    total[:] = 0.0
    for row in range(rows):
        for c in range(channels):
            total[c] += deviation[row, c] * deviation[row, c]
    _set_features(deviation, total, plain.LEAST_SPREAD, plain.FIRST_UNITS, features)
    first = _pursue(np.ascontiguousarray(features[:, :: plain.FIRST_STEP]), last_source, least_gain, 1)
    total[:] = 0.0
    for row in range(rows):
        source = first[row, 0]
        for c in range(channels):
            rest = np.float64(features[row, c])
            if source >= 0:
                rest -= features[source, c]
            rest *= 1 / plain.FIRST_UNITS
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
        for c in range(channels):
            deviation[row, c] *= total[c]
            found = np.rint(deviation[row, c] * units)
            features[row, c] = np.int16(min(max(found, -_FEATURE_LIMIT), _FEATURE_LIMIT))


@compiled
def _pursue(features, last_source, least_gain, most):
    rows, channels = features.shape
    found = np.full((rows, most), -1, np.int64)
    products = np.zeros((rows, rows), np.int32)
    for row in range(rows):
        first = max(0, row - _FARTHEST_BACK)
        for other in range(first, row + 1):
            product = np.int32(0)
            for c in range(channels):
                product = np.int32(product + np.int32(features[row, c]) * np.int32(features[other, c]))
            products[row, other] = products[other, row] = product
    size = _FARTHEST_BACK
    remainder, energy, least, crossed = np.empty(size), np.empty(size), np.empty(size), np.empty((most, size))
    shares = np.empty(most)
    for row in range(1, rows):
        first, end = max(0, row - _FARTHEST_BACK), min(row, last_source)
        count = end - first
        own = float(products[row, row])
        left = own
        for j in range(count):
            remainder[j], energy[j] = products[row, first + j], products[first + j, first + j]
            least[j] = energy[j] * _INDEPENDENT + 0.5
        for place in range(most if count > 0 else 0):
            best, best_score = 0, -2.0
            for j in range(count):
                score = remainder[j] * remainder[j] / max(energy[j], 0.5) if energy[j] > least[j] else -1.0
                if score > best_score:
                    best, best_score = j, score
            now_left = max(left - best_score, own * _LEFT)
            if best_score <= 0 or left <= now_left * least_gain:
                break
            found[row, place] = first + best
            left = now_left
            cross = crossed[place]
            for j in range(count):
                cross[j] = products[first + best, first + j]
            for earlier in range(place):
                factor = crossed[earlier, best] * shares[earlier]
                for j in range(count):
                    cross[j] -= crossed[earlier, j] * factor
            shares[place] = 1.0 / energy[best]
            factor = remainder[best] * shares[place]
            for j in range(count):
                remainder[j] -= cross[j] * factor
                energy[j] -= cross[j] * cross[j] * shares[place]
    return found


@compiled
def _push_lanes(begin, width, state):
    steps, lanes = begin.shape
    at = 2 * steps * lanes
    words = np.empty(at + 1, np.uint16)  # the last written word lies above `at`
    for step in range(steps - 1, -1, -1):
        for _ in range(2):
            for lane in range(lanes - 1, -1, -1):  # without a branch that nobody could foresee
                full = state[lane] >= np.int64(width[step, lane]) << _WORD_BITS
                words[at] = state[lane] & 0xFFFF
                at -= full
                state[lane] >>= _WORD_BITS if full else 0
        for lane in range(lanes):
            span = np.int64(width[step, lane])
            quotient = state[lane] // span
            state[lane] = (quotient << _TOTAL_BITS) + (state[lane] - quotient * span) + begin[step, lane]
    return words, at + 1


@compiled
def _follow_plans(
    history, turned, cos, sin, partner, kinds, chosen_scales, back, coded_weights, words, state, tail, tables, scales,
    guessing, numbers,
):  # fmt: skip
    nodes, steps, slope_table, _ = tables
    value_table, edges, least, rounding_of_one, fields = numbers
    nearest_node, one_over_steps = guessing
    rows, channels = history.shape
    patterns = np.empty((rows, channels), np.int64)
    roundings = np.zeros((rows if turned else 1, channels))
    mean, total, variance = np.zeros(channels), np.zeros(channels), np.ones(channels)
    values, still, expected, spreads = np.empty(channels), np.empty(channels), np.empty(channels), np.empty(channels)
    rounding, slopes, scratch, squared = np.empty(channels), np.empty(channels), np.empty(channels), np.empty(channels)
    sources, weights = np.zeros(_MOST, np.int64), np.zeros(_MOST, np.int64)
    learned_rows, at, count, last = _PRIOR_ROWS, 0, 0, len(words) - 1  # of the words the last is none
    for row in range(rows):
        used = kinds[row] & _MOST
        for k in range(used):
            sources[k], weights[k] = row - np.int64(back[count]), np.int64(coded_weights[count]) - 128
            count += 1
        scale = chosen_scales[row]
        _expect(
            row, history, turned, cos, sin, partner, mean, roundings, sources[:used], weights[:used], still, expected,
            rounding,
        )  # fmt: skip
        _set_slopes(variance, scales[0][scale], turned, rounding, scratch, slopes, slope_table)
        size = 1 if row < tail else 256
        likely = scratch.view(np.int64)
        _set_guesses(expected, slopes, spreads, likely, fields)
        for lane in range(channels):
            slot = state[lane] & (_LOW - 1)
            guess = slot - likely[lane]
            guess = _guess(guess, expected[lane], spreads[lane], nodes, one_over_steps, nearest_node, fields) & -size
            low = _share(guess, expected[lane], slopes[lane], edges, nodes, steps)
            high = _share(guess + size, expected[lane], slopes[lane], edges, nodes, steps)
            found = guess
            if slot < low or slot >= high:
                guess = slot - guess
                guess = _guess(guess, expected[lane], spreads[lane], nodes, one_over_steps, nearest_node, fields)
                found, low, high = _find(slot, guess, size, expected[lane], slopes[lane], edges, nodes, steps)
            patterns[row, lane] = found
            values[lane] = value_table[found]
            state[lane] = (state[lane] >> _TOTAL_BITS) * (high - low) + slot - low
        for limit in (_LOW >> _WORD_BITS, _LOW):
            for lane in range(channels):  # without a branch that nobody could foresee
                hungry = state[lane] < limit
                word = np.int64(words[min(at, last)])
                state[lane] = (state[lane] << _WORD_BITS) + word if hungry else state[lane]
                at += hungry
        if at > last:
            return patterns, state, at
        if row < tail:
            learned_rows = _learn(
                row, values, history, turned, cos, sin, partner, mean, total, variance, roundings, learned_rows,
                expected, rounding, scales[1][scale], (kinds[row] & _LEARNS) != 0, squared, scratch, least,
                rounding_of_one,
            )  # fmt: skip
    return patterns, state, at


@_inlined
def _guess(share, expected, spread, nodes, one_over_steps, nearest_node, fields):
    """About the pattern with so many of the shares that follow the logistic function below it."""
    share = min(max(share, 0), _LOW - _PATTERNS - 1)
    node = np.int64(nearest_node[share >> _NODE_BITS])
    while node + 1 < len(nodes) and nodes[node + 1] <= share:
        node += 1
    within = (share - nodes[node] + 0.5) * one_over_steps[node]
    return _pattern_of(expected + ((node + within) * (1 << _STEP_BITS) - _OFFSET) * spread, fields)


@_inlined
def _pattern_of(value, fields):
    """The nearest pattern of a float64, nearly."""
    shift, half, offset, least, subnormal, largest = fields
    magnitude = min(abs(value), largest)
    if magnitude < least:
        found = np.int64(magnitude * subnormal + 0.5)
    else:
        found = ((np.float64(magnitude).view(np.int64) + half) >> shift) - offset
    return _HALF - 1 - found if value < 0 else _HALF + found


@compiled
def _set_guesses(expected, slopes, spreads, likely, fields):
    """One over each slope, and the pattern of each expectation."""
    for c in range(len(expected)):
        spreads[c] = 1.0 / slopes[c]
        likely[c] = _pattern_of(expected[c], fields)


@_inlined
def _find(slot, guess, size, expected, slope, edges, nodes, steps):
    """The pattern, a multiple of `size`, whose interval holds a slot, and the ends of the interval."""
    found = guess & -size
    low = _share(found, expected, slope, edges, nodes, steps)
    step = size
    if slot < low:
        ceiling, high = found, low
        while slot < low:
            found = max(found - step, 0)
            low = _share(found, expected, slope, edges, nodes, steps)
            if slot < low:
                ceiling, high = found, low
                step *= 4
    else:
        ceiling = found + step
        high = _share(ceiling, expected, slope, edges, nodes, steps)
        while slot >= high:
            found, low = ceiling, high
            step *= 4
            ceiling = min(found + step, _PATTERNS)
            high = _share(ceiling, expected, slope, edges, nodes, steps)
    while ceiling - found > size:
        middle = (found + (ceiling - found >> 1)) & -size
        share = _share(middle, expected, slope, edges, nodes, steps)
        if share <= slot:
            found, low = middle, share
        else:
            ceiling, high = middle, share
    return found, low, high
