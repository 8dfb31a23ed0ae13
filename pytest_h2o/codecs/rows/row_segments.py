"""Segments of rows coded against earlier rows of the same segment: the body of a `rowref` payload.

Layout of a segment of up to `SEGMENT_ROWS` rows:

- flags (byte): for each class c of rows, 0 to 2, bit 2 c = its hi plane is a zstd frame, bit 2 c + 1 = its lo plane is
  one; bit 6 = a bias table is there;
- the classes of the rows, two bits each, most significant first: 0 = a reference that is all but equal, 1 = a near
  one, 2 = none;
- for each row of classes 0 and 1, in order, how many rows back its reference lies (byte, 1 to 255);
- the bias table, if any, for class 2 (see `planes.channel_bias`);
- for each class that has rows, the hi plane and then the lo plane of its rows, in order: of residuals against the
  turned reference for classes 0 and 1 (see `prediction`), of words for class 2.

Every frame has its length before it (varint).
"""

from __future__ import annotations

import numpy as np

from pytest_h2o.codecs.base import Words
from pytest_h2o.codecs.planes.byte_planes import Plane, split_planes
from pytest_h2o.codecs.planes.channel_bias import choose_bias, read_bias, write_bias
from pytest_h2o.codecs.planes.frames import Search
from pytest_h2o.codecs.planes.plane_frames import read_plane, write_plane
from pytest_h2o.codecs.rows.prediction import predict
from pytest_h2o.codecs.rows.references import MAX_DEPTH, Indices, find_references, row_features
from pytest_h2o.codecs.rows.rotation import Turner
from pytest_h2o.codecs.wire.byte_reader import ByteReader

SEGMENT_ROWS = 256

_ALMOST_EQUAL = 2.0**-12
"""Squared distance, over the row's energy, under which low bytes of residuals hold structure as well."""
_EQUAL, _NEAR, _UNREFERENCED = 0, 1, 2
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
        for bit, plane, worth in ((2 * c, class_hi, True), (2 * c + 1, lo[rows_of_class], c != _NEAR)):
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
        """Read what `encode_segment` gave of ``len(positions)`` rows into those from `start` on.

        Raises
        ------
        CodecError
            The segment is cut or damaged.
        """
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
