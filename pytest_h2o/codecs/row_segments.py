"""Segments of rows coded against earlier rows of the same segment: the body of a `rowref` payload.

Layout of a segment of up to `SEGMENT_ROWS` rows:

- flags (byte): for each class c of rows, 0 to 2, bit 2 c = its hi plane is a zstd frame, bit 2 c + 1 = its lo plane is
  one; bit 6 = a bias table is there;
- the classes of the rows, two bits each, most significant first: 0 = a reference that is all but equal, 1 = a near
  one, 2 = none;
- for each row of classes 0 and 1, in order, how many rows back its reference lies (byte, 1 to 255);
- the bias table, if any, for class 2 (see `channel_bias`);
- for each class that has rows, the hi plane and then the lo plane of its rows, in order: of zigzag residuals against
  the rotated reference for classes 0 and 1, of words for class 2.

Every frame has its length before it (varint).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Words
from pytest_h2o.codecs.channel_bias import choose_bias, read_bias, write_bias
from pytest_h2o.codecs.ordered_fp16 import (
    Ordered,
    from_ordered,
    residual,
    round_to_ordered,
    to_ordered,
    unzigzag,
    widen,
)
from pytest_h2o.codecs.planes import Plane, Search, join_planes, read_plane, split_planes, write_plane
from pytest_h2o.codecs.references import MAX_DEPTH, find_references, row_features
from pytest_h2o.codecs.rotation import Rotation
from pytest_h2o.codecs.varint import PayloadReader

SEGMENT_ROWS = 256

_ALMOST_EQUAL = 2.0**-12
"""Squared distance, over the row's energy, under which low bytes of residuals hold structure as well."""
_EQUAL, _NEAR, _UNREFERENCED = 0, 1, 2
_BIAS = 1 << 6
_BIAS_ROWS = 24
"""Fewer rows than this do not pay for a table of up to a byte a channel."""


@dataclass(frozen=True)
class Segment:
    """Rows that are coded together.

    Attributes
    ----------
    words : uint16 ``[rows, kv_heads, head_dim]``, C order
        Filled in by `decode_segment`.
    positions : int64 ``[rows]``
    rotation : Rotation or None
        None: a reference predicts a row as it is.
    """

    words: Words
    positions: NDArray[np.int64]
    rotation: Rotation | None


def encode_segment(segment: Segment, near: float) -> bytes:
    """Encode a segment; `near` is the share of a row's energy within which a reference must lie."""
    words = segment.words
    rows = len(words)
    references = find_references(row_features(words, segment.rotation, segment.positions), near)
    referenced = np.flatnonzero(references.source >= 0)
    row_class = np.full(rows, _UNREFERENCED, np.uint8)
    row_class[referenced] = np.where(references.distance[referenced] < _ALMOST_EQUAL, _EQUAL, _NEAR)
    coded = words.reshape(rows, -1)
    if len(referenced):
        ordered, coded = to_ordered(coded), coded.copy()
        source = references.source[referenced]
        predicted = _predict(segment, referenced, source, ordered[source])
        coded[referenced] = residual(ordered[referenced], predicted)
    order = np.argsort(row_class, kind="stable")
    hi, lo = split_planes(coded[order])
    flags, planes = 0, []
    table = b""
    for c, rows_of_class in _class_slices(row_class):
        class_hi = hi[rows_of_class]
        if c == _UNREFERENCED and len(class_hi) >= _BIAS_ROWS:
            bias = choose_bias(class_hi)
            class_hi, table, flags = bias.apply(class_hi), write_bias(bias), flags | _BIAS
        for bit, plane, worth in ((2 * c, class_hi, True), (2 * c + 1, lo[rows_of_class], c != _NEAR)):
            is_frame, plane_bytes = write_plane(plane, *((Search.HISTOGRAM,) if worth else ()))
            flags |= is_frame << bit
            planes.append(plane_bytes)
    back = (referenced - references.source[referenced]).astype(np.uint8)
    return b"".join([bytes([flags]), _write_classes(row_class), back.tobytes(), table, *planes])


def decode_segment(reader: PayloadReader, segment: Segment) -> None:
    """Decode what `encode_segment` gave into `segment.words`.

    Raises
    ------
    CodecError
        The segment is cut or damaged.
    """
    rows = len(segment.words)
    flat = segment.words.reshape(rows, -1)
    channels = flat.shape[1]
    flags = reader.read_byte()
    row_class = _read_classes(reader, rows)
    source = _read_sources(reader, row_class)
    bias = read_bias(reader, channels) if flags & _BIAS else None
    hi, lo = np.empty((rows, channels), np.uint8), np.empty((rows, channels), np.uint8)
    for c, rows_of_class in _class_slices(row_class):
        class_hi, class_lo = hi[rows_of_class], lo[rows_of_class]
        class_hi[...] = read_plane(reader, class_hi.size, bool(flags >> 2 * c & 1)).reshape(class_hi.shape)
        class_lo[...] = read_plane(reader, class_lo.size, bool(flags >> 2 * c + 1 & 1)).reshape(class_lo.shape)
        if c == _UNREFERENCED and bias is not None:
            class_hi[...] = bias.undo(class_hi)
    coded = join_planes(hi, lo)
    by_class = np.argsort(row_class, kind="stable")
    referenced = rows - int(np.count_nonzero(row_class == _UNREFERENCED))
    ordered = np.empty((rows, channels), np.int16)
    ordered[by_class[:referenced]] = unzigzag(coded[:referenced])
    ordered[by_class[referenced:]] = to_ordered(coded[referenced:])
    _add_predictions(reader, segment, source, ordered)
    flat[...] = from_ordered(ordered)


def _add_predictions(reader: PayloadReader, segment: Segment, source: NDArray[np.int64], ordered: Ordered) -> None:
    """Turn differences into values in place, all rows of one depth at once."""
    known = source < 0
    waiting = np.flatnonzero(~known)
    for _ in range(MAX_DEPTH):
        if not len(waiting):
            return
        ready = known[source[waiting]]
        rows = waiting[ready]
        predicted = _predict(segment, rows, source[rows], ordered[source[rows]])
        predicted += ordered[rows]
        ordered[rows] = predicted
        known[rows] = True
        waiting = waiting[~ready]
    if len(waiting):
        raise reader.damaged("a chain of references is too long", expected=f"at most {MAX_DEPTH} steps")


def _predict(segment: Segment, rows: NDArray[np.int64], source: NDArray[np.int64], ordered: Ordered) -> Ordered:
    """Predict `rows` from their sources, given as ordered integers ``[len(rows), channels]``, in the same form."""
    if segment.rotation is None:
        return ordered
    values = widen(ordered).reshape(len(rows), *segment.words.shape[1:])
    turned = segment.rotation.rotate(values, segment.positions[rows] - segment.positions[source])
    return round_to_ordered(turned).reshape(ordered.shape)


def _read_sources(reader: PayloadReader, row_class: Plane) -> NDArray[np.int64]:
    referenced = np.flatnonzero(row_class != _UNREFERENCED)
    back = np.frombuffer(reader.read_bytes(len(referenced)), np.uint8)
    source = np.full(len(row_class), -1, np.int64)
    source[referenced] = referenced - back
    if len(referenced) and (not back.all() or int(source[referenced].min()) < 0):
        raise reader.damaged("a reference leaves its segment", expected="an earlier row of it")
    return source


def _write_classes(row_class: Plane) -> bytes:
    bits = np.stack([row_class >> 1, row_class & 1], axis=1)
    return np.packbits(bits).tobytes()


def _read_classes(reader: PayloadReader, rows: int) -> Plane:
    packed = np.frombuffer(reader.read_bytes((rows + 3) // 4), np.uint8)
    bits = np.unpackbits(packed, count=2 * rows).reshape(rows, 2)
    row_class = (bits[:, 0] << 1) | bits[:, 1]
    if int(row_class.max()) > _UNREFERENCED:
        raise reader.damaged("an unknown class of rows", came="3", expected="0 to 2")
    return row_class.astype(np.uint8)


def _class_slices(row_class: Plane) -> list[tuple[int, slice]]:
    """Give each class that has rows, and where they lie once rows are sorted by class."""
    ends = np.cumsum(np.bincount(row_class, minlength=_UNREFERENCED + 1)).tolist()
    return [
        (c, slice(begin, end)) for c, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)) if end > begin
    ]
