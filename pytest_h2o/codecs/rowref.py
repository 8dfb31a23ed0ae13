"""rowref: every row predicted from an earlier row of the stream, rotated to its position.

Tokens repeat, or resemble earlier ones, in every layer; a key differs then by the rotation between the two positions,
a value not at all. The encoder finds the nearest earlier row of each (see `rows.references`), the residual is taken
between bit patterns (see `rows.prediction`), and rows are sorted by how near their reference is, so that each class of
rows has a histogram of its own. Rows without a near reference get a bias a channel (see `planes.channel_bias`). Chains
of references have at most two steps: the decoder works level by level on whole arrays.

Payload: an expbias payload where that is chosen (mode byte below 32); else mode byte 32, shape (three varints), the
rotation and, if there is one, the positions (see `wire.turned_header`), then the segments (see `rows.row_segments`).
A rotation is left out where the stream holds values that are not finite. Segments refer to no other segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pytest_h2o.codecs.base import Codec, Rope, SideInfo, Stream, Words
from pytest_h2o.codecs.expbias import ExpBias
from pytest_h2o.codecs.planes import (
    Plane,
    Search,
    choose_bias,
    read_bias,
    read_plane,
    split_planes,
    write_bias,
    write_plane,
)
from pytest_h2o.codecs.rotation import (
    MAX_DEPTH,
    MAX_HEAD_DIM,
    Indices,
    Turner,
    build_turner,
    choose_rope,
    find_references,
    predict,
    row_features,
)
from pytest_h2o.codecs.wire import (
    MAX_HEADER_BYTES,
    ByteReader,
    Positions,
    StreamHeader,
    check_shape,
    decode_positions,
    decode_rope,
    encode_positions,
    encode_rope,
    read_header,
    usable_positions,
    write_header,
)

SEGMENT_ROWS = 256
_ALMOST_EQUAL = 2.0**-12
"""Squared distance, over the row's energy, under which low bytes of residuals hold structure as well."""

_EQUAL, _NEAR_ROW, _UNREFERENCED = 0, 1, 2
_BIAS = 1 << 6
_CLASSES_IN_BYTE = np.arange(256, dtype=np.uint8)[:, None] >> np.array([6, 4, 2, 0], np.uint8) & np.uint8(3)
_BIAS_ROWS = 24
"""Fewer rows than this do not pay for a table of up to a byte a channel."""


def encode_segment(rows_of_heads: Words, positions: Indices, turner: Turner | None, near: float) -> bytes:
    """Encode a segment.

    Parameters
    ----------
    rows_of_heads : uint16 ``[rows, kv_heads, head_dim]``, C order
    positions : int64 ``[rows]``
    turner : Turner or None
        None: a reference predicts a row as it is.
    near : float
        Share of a row's energy within which a reference must lie.
    """
    rows = len(rows_of_heads)
    words = rows_of_heads.reshape(rows, -1)
    references = find_references(row_features(rows_of_heads, turner, positions), near)
    source = references.source
    (referenced,) = (source != np.arange(rows)).nonzero()
    row_class = np.full(rows, _UNREFERENCED, np.uint8)
    row_class[referenced] = references.distance[referenced] >= _ALMOST_EQUAL
    order = row_class.argsort(kind="stable")
    coded = words.take(order, axis=0)
    if len(referenced):
        by_class = order[: len(referenced)]
        distances = positions[by_class] - positions[source[by_class]]
        coded[: len(referenced)] -= predict(words, source[by_class], turner, distances)
    hi, lo = split_planes(coded)
    flags, planes = 0, []
    table = b""
    for c, rows_of_class in _class_slices(row_class):
        class_hi = hi[rows_of_class]
        if c == _UNREFERENCED and len(class_hi) >= _BIAS_ROWS:
            bias = choose_bias(class_hi)
            class_hi, table, flags = bias.apply(class_hi), write_bias(bias), flags | _BIAS
        for bit, plane, worth in ((2 * c, class_hi, True), (2 * c + 1, lo[rows_of_class], c != _NEAR_ROW)):
            is_frame, plane_bytes = write_plane(plane, Search.HISTOGRAM if worth else None)
            flags |= is_frame << bit
            planes.append(plane_bytes)
    back = (referenced - source[referenced]).astype(np.uint8)
    return b"".join([bytes([flags]), _write_classes(row_class), back.tobytes(), table, *planes])


class Resolver:
    """Turns residuals into words, all rows of one depth at once, over the segments of any number of streams.

    Parameters
    ----------
    words : uint16 ``[rows, channels]``
        The rows of all segments; `read_segment` fills in what is coded, `resolve` makes words of it.
    turner : Turner or None
    """

    def __init__(self, words: Words, turner: Turner | None) -> None:
        self._words = words
        self._turner = turner
        self._steps: list[tuple[list[Indices], ...]] = [([], [], []) for _ in range(MAX_DEPTH)]

    def read_segment(self, reader: ByteReader, start: int, positions: Indices) -> None:
        """Read what `encode_segment` gave of ``len(positions)`` rows into those from `start` on."""
        words = self._words[start : start + len(positions)]
        flags = reader.read_byte()
        row_class = _read_classes(reader, len(words))
        source = _read_sources(reader, row_class)
        self._add_steps(reader, start, positions, source)
        bias = read_bias(reader, words.shape[1]) if flags & _BIAS else None
        coded = np.empty_like(words)
        for c, rows_of_class in _class_slices(row_class):
            part = coded[rows_of_class]
            hi = read_plane(reader, part.size, bool(flags >> 2 * c & 1)).reshape(part.shape)
            lo = read_plane(reader, part.size, bool(flags >> 2 * c + 1 & 1)).reshape(part.shape)
            np.left_shift(hi if bias is None or c != _UNREFERENCED else bias.undo(hi), 8, out=part, dtype=np.uint16)
            part |= lo
        words[row_class.argsort(kind="stable")] = coded

    def _add_steps(self, reader: ByteReader, start: int, positions: Indices, source: Indices) -> None:
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
            raise reader.damaged("a chain of references is too long", expected=f"at most {MAX_DEPTH} steps")

    def resolve(self) -> None:
        """Make words of all rows."""
        for parts in self._steps:
            if parts[0]:
                rows, source, distances = (part[0] if len(part) == 1 else np.concatenate(part) for part in parts)
                predicted = predict(self._words, source, self._turner, distances)
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


def _write_classes(row_class: Plane) -> bytes:
    fours = np.zeros((len(row_class) + 3) // 4 * 4, np.uint8)
    fours[: len(row_class)] = row_class
    return (fours.reshape(-1, 4) @ np.array([64, 16, 4, 1], np.uint8)).tobytes()


def _read_classes(reader: ByteReader, rows: int) -> Plane:
    packed = np.frombuffer(reader.take((rows + 3) // 4), np.uint8)
    row_class: Plane = _CLASSES_IN_BYTE.take(packed, axis=0).reshape(-1)[:rows]
    if int(row_class.max()) > _UNREFERENCED:
        raise reader.damaged("an unknown class of rows", came="3", expected="0 to 2")
    return row_class


def _class_slices(row_class: Plane) -> list[tuple[int, slice]]:
    """Give each class that has rows, and where they lie once rows are sorted by class."""
    begin, slices = 0, []
    for c, count in enumerate(np.bincount(row_class).tolist()):
        if count:
            slices.append((c, slice(begin, begin + count)))
            begin += count
    return slices


def write_turned_header(mode: int, stream: Stream, words: Words, codec: str) -> tuple[bytes, Rope | None, Positions]:
    """Choose the rotation of a stream with rows; give the header's bytes, the rotation and the positions."""
    positions = usable_positions(stream.positions, len(words))
    rope = choose_rope(stream, words, positions)
    header = write_header(mode, stream, codec) + encode_rope(rope)
    if rope is None:
        return header, None, positions
    return header + encode_positions(positions), rope, positions


def read_turned_header(reader: ByteReader, header: StreamHeader) -> tuple[Rope | None, Positions]:
    """Read what follows the shape; without a rotation the positions are all 0."""
    rope = decode_rope(reader)
    if rope is None:
        return None, np.zeros(header.rows, np.int64)
    if header.shape[2] % 2 or header.shape[2] > MAX_HEAD_DIM:
        raise reader.damaged(
            "a head that cannot be turned", came=str(header.shape[2]), expected=f"even, at most {MAX_HEAD_DIM}"
        )
    return rope, decode_positions(reader, header.rows)


_ROWS_MODE = 32
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
    """No payload is longer than the raw words by more than this."""

    def encode(self, stream: Stream) -> bytes:
        check_shape(stream.words.shape, self.id)
        if stream.words.shape[0] < 2 or stream.words.size == 0:
            return ExpBias().encode(stream)
        payload = self._encode_rows(stream)
        share = len(payload) / stream.raw_bytes
        if not (_SHORT_ROWS < len(stream.words) <= SEGMENT_ROWS and _RICH_SHARE < share < _POOR_SHARE):
            return min(payload, ExpBias().encode(stream), key=len)
        return payload

    def _encode_rows(self, stream: Stream) -> bytes:
        words = np.ascontiguousarray(stream.words)
        header, rope, positions = write_turned_header(_ROWS_MODE, stream, words, self.id)
        turner = _turner(rope, words.shape)
        parts = [header]
        for at in range(0, len(words), SEGMENT_ROWS):
            rows = slice(at, at + SEGMENT_ROWS)
            parts.append(encode_segment(words[rows], positions[rows], turner, _NEAR[stream.tensor]))
        return b"".join(parts)

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        return self.decode_many([payload], [side])[0]

    def decode_many(self, payloads: Sequence[bytes | memoryview], sides: Sequence[SideInfo]) -> list[Words]:
        """Streams of one width and rotation are resolved together; their words are parts of one array."""
        found: dict[int, Words] = {}
        batches: dict[tuple[Rope | None, int, int], list[_Opened]] = {}
        for index, (payload, side) in enumerate(zip(payloads, sides, strict=True)):
            reader = ByteReader(payload, self.id)
            header = read_header(reader, side, self.id)
            if header.mode < _ROWS_MODE:
                found[index] = ExpBias().decode(payload, side)
                continue
            if header.mode != _ROWS_MODE or header.words == 0:
                raise reader.damaged("unknown mode", came=str(header.mode), expected=f"at most {_ROWS_MODE}")
            rope, positions = read_turned_header(reader, header)
            batches.setdefault((rope, *header.shape[1:]), []).append(_Opened(index, reader, header.rows, positions))
        for (rope, heads, head_dim), batch in batches.items():
            words = np.empty((sum(opened.rows for opened in batch), heads, head_dim), np.uint16)
            resolver = Resolver(words.reshape(len(words), -1), _turner(rope, words.shape))
            start = 0
            for opened in batch:
                opened.read_into(resolver, start)
                found[opened.index] = words[start : start + opened.rows]
                start += opened.rows
            resolver.resolve()
        return [found[index] for index in range(len(payloads))]


@dataclass(frozen=True)
class _Opened:
    """A payload whose header has been read."""

    index: int
    reader: ByteReader
    rows: int
    positions: Positions

    def read_into(self, resolver: Resolver, start: int) -> None:
        """Read all segments into the rows from `start` on."""
        for at in range(0, self.rows, SEGMENT_ROWS):
            resolver.read_segment(self.reader, start + at, self.positions[at : at + SEGMENT_ROWS])
        self.reader.expect_end()


def _turner(rope: Rope | None, shape: tuple[int, ...]) -> Turner | None:
    return None if rope is None else build_turner(rope, shape[1], shape[2])
