"""Segments of rows whose words are coded under the distributions that `row_model` expects: the body of `rowref_max`.

Layout of a segment of up to `SEGMENT_ROWS` rows:

- flags (byte): bit k = plane k of the plans is a zstd frame (its length before it, varint);
- plane 0: a byte a row: number of references (bits 0 and 1), 4 = the row's errors are learned from; plane 1: the scale
  of each row; plane 2: how many rows back each reference lies, row by row; plane 3: its weight in sixteenths, plus 128;
- the coded words (see `rans`): a step a row, a lane a channel.

Of the last `_TAIL_ROWS` rows only the high eight bits of the ordered patterns are coded so: the low ones are the seeds
of the lanes. Those rows serve as no reference.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Words
from pytest_h2o.codecs.density.logistic import HALF, VALUES, Doubles, Integers, cumulated, slopes_of
from pytest_h2o.codecs.density.mixture_search import choose_scale, find_sources, fit_weights, is_instructive
from pytest_h2o.codecs.density.ordered_fp16 import from_ordered, to_ordered
from pytest_h2o.codecs.density.pattern_search import find_patterns
from pytest_h2o.codecs.density.rans import LaneDecoder, encode_lanes
from pytest_h2o.codecs.density.row_model import MAX_REFERENCES, RowModel, RowPlan
from pytest_h2o.codecs.planes.frames import Search
from pytest_h2o.codecs.planes.plane_frames import read_plane, write_plane
from pytest_h2o.codecs.rows.rotation import Rotation
from pytest_h2o.codecs.wire.byte_reader import ByteReader

SEGMENT_ROWS = 1024
_TAIL_ROWS = 3
_LEARNS = 4


def encode_segment(words: Words, positions: NDArray[np.int64], rotation: Rotation | None) -> bytes:
    """Encode ``[rows, kv_heads, head_dim]``, C order, at least one row."""
    rows, heads, head_dim = words.shape
    patterns = to_ordered(words.reshape(rows, -1)).astype(np.int64) + HALF
    values = VALUES[patterns]
    model = RowModel(rotation, positions, heads, head_dim)
    tail = max(0, rows - _TAIL_ROWS)
    sources = find_sources(model.turner.back(values, slice(None)), tail)
    plans, expected, slopes = [], np.empty(values.shape), np.empty(values.shape)
    for row in range(rows):
        plan, expected[row], variance = _plan_row(model, row, sources[row], patterns[row], row < tail)
        slopes[row] = slopes_of(variance)
        plans.append(plan)
    begin, end = patterns.copy(), patterns + 1
    begin[tail:] &= ~255
    end[tail:] = begin[tail:] + 256
    low = cumulated(begin, expected, slopes)
    width = cumulated(end, expected, slopes) - low
    seeds = np.zeros(heads * head_dim, np.int64)
    for row in range(tail, rows):
        seeds = seeds << 8 | patterns[row] & 255
    return _write_plans(plans) + encode_lanes(low, width, seeds)


def decode_segment(reader: ByteReader, words: Words, positions: NDArray[np.int64], rotation: Rotation | None) -> None:
    """Decode what `encode_segment` gave into `words`.

    Raises
    ------
    CodecError
        The segment is cut or damaged.
    """
    rows, heads, head_dim = words.shape
    tail = max(0, rows - _TAIL_ROWS)
    plans = _read_plans(reader, rows, tail)
    decoder = LaneDecoder(reader, heads * head_dim, rows)
    model = RowModel(rotation, positions, heads, head_dim)
    patterns = np.empty((rows, heads * head_dim), np.int64)
    for row, plan in enumerate(plans):
        expected, rounding = model.expect(row, plan.sources, plan.weights)
        slope = slopes_of(model.variance.expect(plan.scale, rounding))
        slots = decoder.slots()
        found, low, width = find_patterns(slots, expected, slope, 0 if row < tail else 8)
        decoder.advance(low, width, slots)
        patterns[row] = found
        if row < tail:
            model.learn(row, VALUES[found], expected, rounding, plan)
    seeds = decoder.seeds()
    for row in range(rows - 1, tail - 1, -1):
        patterns[row] |= seeds & 255
        seeds >>= 8
    words[...] = from_ordered((patterns - HALF).astype(np.int16)).reshape(words.shape)


def _plan_row(
    model: RowModel, row: int, sources: tuple[int, ...], patterns: Integers, is_known_later: bool
) -> tuple[RowPlan, Doubles, Doubles]:
    """Choose the plan of a row, and go on to the next; give the plan, and the mean and variance under it."""
    values = VALUES[patterns]
    weights: tuple[int, ...] = ()
    if sources:
        target = model.turner.back(values, row) - model.mean
        weights = fit_weights(target, model.history[list(sources)] - model.mean, model.variance.variance)
        used = [(source, weight) for source, weight in zip(sources, weights, strict=True) if weight]
        sources, weights = tuple(source for source, _ in used), tuple(weight for _, weight in used)
    expected, rounding = model.expect(row, sources, weights)
    error = values - expected
    scale = choose_scale(patterns, error, expected, model.variance, rounding)
    plan = RowPlan(sources, weights, scale, is_known_later and is_instructive(error, rounding))
    variance = model.variance.expect(scale, rounding)
    if is_known_later:
        model.learn(row, values, expected, rounding, plan)
    return plan, expected, variance


def _write_plans(plans: list[RowPlan]) -> bytes:
    kinds = [len(plan.sources) | (_LEARNS if plan.learns else 0) for plan in plans]
    back = [row - source for row, plan in enumerate(plans) for source in plan.sources]
    weights = [weight + 128 for plan in plans for weight in plan.weights]
    flags, parts = 0, []
    for bit, numbers in enumerate((kinds, [plan.scale for plan in plans], back, weights)):
        is_frame, coded = write_plane(np.array(numbers, np.uint8), Search.HISTOGRAM)
        flags |= is_frame << bit
        parts.append(coded)
    return bytes([flags]) + b"".join(parts)


def _read_plans(reader: ByteReader, rows: int, tail: int) -> list[RowPlan]:
    flags = reader.read_byte()
    kinds = read_plane(reader, rows, bool(flags & 1))
    scales = read_plane(reader, rows, bool(flags & 2)).tolist()
    count = int((kinds & MAX_REFERENCES).sum())
    back = read_plane(reader, count, bool(flags & 4)).tolist()
    weights = read_plane(reader, count, bool(flags & 8)).tolist()
    plans, at = [], 0
    for row, (kind, scale) in enumerate(zip(kinds.tolist(), scales, strict=True)):
        stop = at + (kind & MAX_REFERENCES)
        sources = tuple(row - distance for distance in back[at:stop])
        if any(not 0 <= source < min(row, tail) for source in sources):
            raise reader.damaged("a reference leaves its segment", expected="an earlier row of it, not one of the last")
        plans.append(RowPlan(sources, tuple(w - 128 for w in weights[at:stop]), scale, bool(kind & _LEARNS)))
        at = stop
    return plans
