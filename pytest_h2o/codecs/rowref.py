"""rowref: every row predicted from an earlier row of the stream, rotated to its position.

Tokens repeat, or resemble earlier ones, in every layer; a key differs then by the rotation between the two positions,
a value not at all. The encoder finds the nearest earlier row of each, the residual is taken between bit patterns (see
`rotation.predict_rows`), and rows are sorted by how near their reference is, so that each class of rows has a
histogram of its own. Rows without a near reference get a bias a channel (see `planes.ChannelBias`). Chains of
references have at most two steps: the decoder works level by level on whole arrays.

Payload: an expbias payload where that is chosen (mode byte below 32); else mode byte 32, shape (three varints), the
rotation and, if there is one, the positions (see `wire`), then the segments of 256 rows. A rotation is left out where
the stream holds values that are not finite. Segments refer to no other segment.

A segment: flags (1 << 2 c: hi plane of class c is a frame, 2 << 2 c: its lo plane is one, 64: there is a bias table),
the classes of its rows (2 bits each), how many rows back each reference lies (a byte), the bias table, then hi and lo
plane of each class that has rows: 0 rows that all but equal their reference, 1 near ones, 2 those without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Codec, DType, Rope, SideInfo, Stream, Words
from pytest_h2o.codecs.expbias import ExpBias
from pytest_h2o.codecs.planes import (
    Plane,
    Search,
    choose_bias,
    read_bias,
    read_plane,
    split_planes,
    turn_left,
    turn_right,
    write_bias,
    write_plane,
)
from pytest_h2o.codecs.rotation import (
    MAX_HEAD_DIM,
    SAMPLE_STEP,
    Floats,
    Turner,
    build_turner,
    choose_rope,
    predict_rows,
    widen,
)
from pytest_h2o.codecs.wire import (
    MAX_HEADER_BYTES,
    ByteReader,
    Positions,
    check_shape,
    decode_positions,
    decode_rope,
    encode_positions,
    encode_rope,
    read_mode,
    usable_positions,
    write_header,
)

Indices = NDArray[np.int64]

_ROWS_MODE = 32
_SEGMENT_ROWS = 256
_NEAR = {"k": 0.5, "v": 0.35}
"""A reference is used if its squared distance is under this share of the row's energy."""
_SHORT_ROWS = 96
_POOR_SHARE, _RICH_SHARE = 0.9, 0.25
"""Streams that are short, or longer than a segment, or come to less or more than these shares of raw, are tried without
references as well: noise has none, and where whole rows repeat zstd finds them, farther back than a segment reaches."""


@dataclass(frozen=True)
class RowRef(Codec):
    """Row references through RoPE, zstd level 3; the payload alone decodes."""

    id: ClassVar[str] = "rowref"
    max_overhead_bytes: ClassVar[int] = MAX_HEADER_BYTES

    def encode(self, stream: Stream) -> bytes:
        check_shape(stream.words.shape, self.id)
        if stream.words.shape[0] < 2 or stream.words.size == 0:
            return ExpBias().encode(stream)
        words = np.ascontiguousarray(stream.words)
        header, rope, positions = write_turned_header(_ROWS_MODE, stream, words, self.id)
        turner = None if rope is None else build_turner(rope, *words.shape[1:])
        parts = [header]
        for at in range(0, len(words), _SEGMENT_ROWS):
            rows = slice(at, at + _SEGMENT_ROWS)
            near = _NEAR[stream.tensor]
            parts.append(_encode_segment(words[rows], positions[rows], turner, near, stream.dtype))
        payload = b"".join(parts)
        share = len(payload) / stream.raw_bytes
        if not (_SHORT_ROWS < len(words) <= _SEGMENT_ROWS and _RICH_SHARE < share < _POOR_SHARE):
            return min(payload, ExpBias().encode(stream), key=len)
        return payload

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        return self.decode_many([payload], [side])[0]

    def decode_many(self, payloads: Sequence[bytes | memoryview], sides: Sequence[SideInfo]) -> list[Words]:
        """Streams of one width and rotation are resolved together; their words are parts of one array."""
        found: dict[int, Words] = {}
        batches: dict[tuple[DType, Rope | None, int, int], list[tuple[int, ByteReader, Positions]]] = {}
        for index, (payload, side) in enumerate(zip(payloads, sides, strict=True)):
            reader = ByteReader(payload, self.id)
            mode = read_mode(reader, side, self.id)
            if mode < _ROWS_MODE:
                found[index] = ExpBias().decode(payload, side)
                continue
            if mode != _ROWS_MODE or side.words == 0:
                raise reader.damaged("unknown mode", came=str(mode), expected=f"at most {_ROWS_MODE}")
            rope, positions = read_turned_header(reader, side)
            batches.setdefault((side.dtype, rope, *side.shape[1:]), []).append((index, reader, positions))
        for (dtype, rope, heads, head_dim), batch in batches.items():
            words = np.empty((sum(len(positions) for _, _, positions in batch), heads, head_dim), np.uint16)
            turner = None if rope is None else build_turner(rope, heads, head_dim)
            resolver = _Resolver(words.reshape(len(words), -1), turner, dtype)
            start = 0
            for index, reader, positions in batch:
                for at in range(0, len(positions), _SEGMENT_ROWS):
                    resolver.read_segment(reader, start + at, positions[at : at + _SEGMENT_ROWS])
                reader.expect_end()
                found[index] = words[start : start + len(positions)]
                start += len(positions)
            resolver.resolve()
        return [found[index] for index in range(len(payloads))]


def write_turned_header(mode: int, stream: Stream, words: Words, codec: str) -> tuple[bytes, Rope | None, Positions]:
    """Choose the rotation of a stream with rows; the header's bytes, the rotation and the positions."""
    positions = usable_positions(stream.positions, len(words))
    rope = choose_rope(stream, words, positions)
    header = write_header(mode, stream, codec) + encode_rope(rope)
    return header if rope is None else header + encode_positions(positions), rope, positions


def read_turned_header(reader: ByteReader, side: SideInfo) -> tuple[Rope | None, Positions]:
    """Read what follows the shape; without a rotation the positions are all 0."""
    rows, _, head_dim = side.shape
    rope = decode_rope(reader)
    if rope is None:
        return None, np.zeros(rows, np.int64)
    if head_dim % 2 or head_dim > MAX_HEAD_DIM:
        raise reader.damaged(
            "a head that cannot be turned", came=str(head_dim), expected=f"even, at most {MAX_HEAD_DIM}"
        )
    return rope, decode_positions(reader, rows)


# Segments

_MAX_DEPTH = 2
"""Steps of a chain of references: rows of one depth are decoded together, so every step is a pass."""
_ALMOST_EQUAL = 2.0**-12
"""Squared distance, over the row's energy, under which low bytes of residuals hold structure as well."""
_NEAR_ROW, _UNREFERENCED = 1, 2
_BIAS = 1 << 6
_BIAS_ROWS = 24
"""Fewer rows than this do not pay for a table of up to a byte a channel."""
_CLASSES_IN_BYTE = np.arange(256, dtype=np.uint8)[:, None] >> np.array([6, 4, 2, 0], np.uint8) & np.uint8(3)


def _encode_segment(
    rows_of_heads: Words, positions: Positions, turner: Turner | None, near: float, dtype: DType
) -> bytes:
    """Encode ``[rows, kv_heads, head_dim]``, C order; without a turner a reference predicts a row as it is."""
    rows = len(rows_of_heads)
    words = rows_of_heads.reshape(rows, -1)
    source, distance = _find_references(_row_features(rows_of_heads, turner, positions, dtype), near)
    (referenced,) = (source != np.arange(rows)).nonzero()
    row_class = np.full(rows, _UNREFERENCED, np.uint8)
    row_class[referenced] = distance[referenced] >= _ALMOST_EQUAL
    order = row_class.argsort(kind="stable")
    coded = words.take(order, axis=0)
    if len(referenced):
        by_class = order[: len(referenced)]
        turns = positions[by_class] - positions[source[by_class]]
        coded[: len(referenced)] -= predict_rows(words, source[by_class], turner, turns, dtype)
    if dtype == "bf16":
        coded[len(referenced) :] = turn_left(coded[len(referenced) :])
    hi, lo = split_planes(coded)
    flags, planes = 0, []
    table = b""
    for c, rows_of_class in _class_slices(row_class):
        class_hi, class_lo = hi[rows_of_class], lo[rows_of_class]
        if c == _UNREFERENCED and len(class_hi) >= _BIAS_ROWS:
            bias = choose_bias(class_hi, class_lo, dtype)
            table, flags = write_bias(bias), flags | _BIAS
            class_hi, class_lo = bias.apply(class_hi, class_lo)
        is_lo_worth = c != _NEAR_ROW or dtype == "bf16"  # seven bits of mantissa are not all noise
        for bit, plane, worth in ((2 * c, class_hi, True), (2 * c + 1, class_lo, is_lo_worth)):
            is_frame, plane_bytes = write_plane(plane, Search.HISTOGRAM if worth else None)
            flags |= is_frame << bit
            planes.append(plane_bytes)
    back = (referenced - source[referenced]).astype(np.uint8)
    fours = np.zeros((rows + 3) // 4 * 4, np.uint8)
    fours[:rows] = row_class
    classes = fours.reshape(-1, 4) @ np.array([64, 16, 4, 1], np.uint8)
    return b"".join([bytes([flags]), classes.tobytes(), back.tobytes(), table, *planes])


class _Resolver:
    """Turns residuals into words, all rows of one depth at once, over the segments of any number of streams.

    `words`, uint16 ``[rows, channels]``, has the rows of all: `read_segment` fills in what is coded, `resolve` makes
    words of it.
    """

    def __init__(self, words: Words, turner: Turner | None, dtype: DType) -> None:
        self._words = words
        self._dtype: DType = dtype
        self._turner = turner
        self._steps: list[tuple[list[Indices], ...]] = [([], [], []) for _ in range(_MAX_DEPTH)]

    def read_segment(self, reader: ByteReader, start: int, positions: Positions) -> None:
        """Read what `_encode_segment` gave of ``len(positions)`` rows into those from `start` on."""
        words = self._words[start : start + len(positions)]
        flags = reader.read_byte()
        row_class = _read_classes(reader, len(words))
        source = _read_sources(reader, row_class)
        self._add_steps(reader, start, positions, source)
        bias = read_bias(reader, words.shape[1], self._dtype) if flags & _BIAS else None
        coded = np.empty_like(words)
        for c, rows_of_class in _class_slices(row_class):
            part = coded[rows_of_class]
            hi = read_plane(reader, part.size, bool(flags >> 2 * c & 1)).reshape(part.shape)
            lo = read_plane(reader, part.size, bool(flags >> 2 * c + 1 & 1)).reshape(part.shape)
            if bias is not None and c == _UNREFERENCED:
                hi, lo = bias.undo(hi, lo)
            np.left_shift(hi, 8, out=part, dtype=np.uint16)
            part |= lo
            if self._dtype == "bf16" and c == _UNREFERENCED:
                part[...] = turn_right(part)
        words[row_class.argsort(kind="stable")] = coded

    def _add_steps(self, reader: ByteReader, start: int, positions: Positions, source: Indices) -> None:
        """Take note of the rows of each depth: rows without a reference are their own source."""
        reached = source == np.arange(len(source))
        distances = positions - positions[source]
        for step in self._steps:
            ready = reached[source] & ~reached
            (rows,) = ready.nonzero()
            if not len(rows):
                break
            for parts, part in zip(step, (rows + start, source[rows] + start, distances[rows]), strict=True):
                parts.append(part)
            reached |= ready
        if not reached.all():
            raise reader.damaged("a chain of references is too long", expected=f"at most {_MAX_DEPTH} steps")

    def resolve(self) -> None:
        """Make words of all rows."""
        for parts in self._steps:
            if parts[0]:
                rows, source, distances = (part[0] if len(part) == 1 else np.concatenate(part) for part in parts)
                predicted = predict_rows(self._words, source, self._turner, distances, self._dtype)
                predicted += self._words.take(rows, axis=0)
                self._words[rows] = predicted


def _read_sources(reader: ByteReader, row_class: Plane) -> Indices:
    """Row that each row is predicted from; of rows without a reference, their own."""
    source = np.arange(len(row_class))
    (referenced,) = (row_class != _UNREFERENCED).nonzero()
    if len(referenced):
        back = np.frombuffer(reader.take(len(referenced)), np.uint8)
        found = referenced - back
        if int(back.min()) == 0 or int(found.min()) < 0:
            raise reader.damaged("a reference leaves its segment", expected="an earlier row of it")
        source[referenced] = found
    return source


def _read_classes(reader: ByteReader, rows: int) -> Plane:
    packed = np.frombuffer(reader.take((rows + 3) // 4), np.uint8)
    row_class: Plane = _CLASSES_IN_BYTE.take(packed, axis=0).reshape(-1)[:rows]
    if int(row_class.max()) > _UNREFERENCED:
        raise reader.damaged("an unknown class of rows", came="3", expected="0 to 2")
    return row_class


def _class_slices(row_class: Plane) -> list[tuple[int, slice]]:
    """Each class that has rows, and where they lie once rows are sorted by class."""
    begin, slices = 0, []
    for c, count in enumerate(np.bincount(row_class).tolist()):
        if count:
            slices.append((c, slice(begin, begin + count)))
            begin += count
    return slices


# References

_LARGEST_FEATURE = np.float32(2.0**50)
_DETOUR = 1.15
"""A reference one step up the chain is taken if it is farther away by this factor at most."""
_ONE_THREAD_PRODUCTS = 1 << 18
"""OpenBLAS hands products of more than this many multiplications to several threads, which costs more than it gains."""


def _row_features(words: Words, turner: Turner | None, positions: Positions, dtype: DType) -> Floats:
    """A sixth of the channels of ``[rows, heads, head_dim]``, comparable across positions, ``[rows, features]``.

    Under a rotation these are every sixth pair, turned back to the first position and freed of their mean, because
    keys share a large constant that says nothing of the token.
    """
    rows = len(words)
    if turner is None:
        features = widen(words.reshape(rows, -1)[:, ::SAMPLE_STEP], dtype)
        if dtype == "bf16":  # whose squares can be too large, and which has infinities and NaN
            features = np.clip(np.nan_to_num(features), -_LARGEST_FEATURE, _LARGEST_FEATURE)
    else:
        first, second = turner.rotation.first_and_second(SAMPLE_STEP)
        x, y = widen(words[..., first], dtype), widen(words[..., second], dtype)
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


def _find_references(features: Floats, near: float) -> tuple[Indices, Floats]:
    """The nearest earlier row of each, int64 ``[rows]``, and its squared distance over the row's own energy.

    A row's own place and infinity where none is under `near` times its energy. Chains are shortened where a reference
    of the reference is about as near, then cut at `_MAX_DEPTH` steps: 2.
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
    return source, distance_to(source) / energy


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
    """0 for earlier rows, minus infinity for a row itself and later ones ``[row, other]``.

    Kept, because most streams are cut to one length.
    """
    mask = np.where(np.triu(np.ones((rows, rows), np.bool_)), -np.inf, 0).astype(np.float32)
    mask.flags.writeable = False
    return mask
