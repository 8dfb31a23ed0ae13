"""A byte plane in a payload: a bare zstd frame with its length before it, or the bytes where that is not larger."""

from __future__ import annotations

import numpy as np

from pytest_h2o.codecs.planes.byte_planes import Plane
from pytest_h2o.codecs.planes.frames import Search, compress_bare, decompress_bare
from pytest_h2o.codecs.wire.byte_reader import ByteReader, encode_varint
from pytest_h2o.errors import CodecError


def compress_plane(plane: Plane, search: Search) -> bytes | None:
    """Give the frame of a plane's bytes in C order, or None where it is not smaller than the bytes."""
    raw = np.ascontiguousarray(plane).data
    frame = compress_bare(raw, search)
    return frame if len(frame) < raw.nbytes else None


def decompress_plane(frame: memoryview, count: int, reader: ByteReader) -> Plane:
    """Give the `count` bytes of a frame that `reader` took; never allocates much more than that.

    Raises
    ------
    CodecError
        The frame is damaged or holds another number of bytes.
    """
    if count == 0:
        raise reader.damaged("a compressed plane of no bytes")
    try:
        return np.frombuffer(decompress_bare(frame, count), np.uint8)
    except CodecError as error:
        raise reader.damaged(error.what, came=error.came, expected=error.expected) from error


def write_plane(plane: Plane, search: Search | None) -> tuple[bool, bytes]:
    """Give whether a plane became a frame, and its bytes: the frame, its length before it, or the plane."""
    frame = None if search is None else compress_plane(plane, search)
    if frame is None:
        return False, plane.tobytes()
    return True, encode_varint(len(frame)) + frame


def read_plane(reader: ByteReader, count: int, is_frame: bool) -> Plane:
    """Read what `write_plane` wrote of a plane of `count` bytes.

    Raises
    ------
    CodecError
        It is cut or damaged.
    """
    if is_frame:
        return decompress_plane(reader.take(reader.read_varint("the length of a plane", count)), count, reader)
    return np.frombuffer(reader.take(count), np.uint8)
