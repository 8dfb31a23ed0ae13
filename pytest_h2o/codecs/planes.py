"""Byte planes of fp16 words, and zstd frames without the bytes that the payload knows anyway.

Frames are zstd level 3 in the magicless format, without content size: the decoder always knows how many bytes
must come out, so magic (4 bytes) and size (1 to 4 bytes) would be paid twice.
"""

from __future__ import annotations

import threading

import numpy as np
import zstandard
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Words
from pytest_h2o.codecs.varint import PayloadReader

Plane = NDArray[np.uint8]

_LEVEL = 3
_local = threading.local()


def _compressor() -> zstandard.ZstdCompressor:
    """One compressor a thread: building one costs as much as a small frame, and sharing one is not safe."""
    found: zstandard.ZstdCompressor | None = getattr(_local, "compressor", None)
    if found is None:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            _LEVEL, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False, write_checksum=False
        )
        found = _local.compressor = zstandard.ZstdCompressor(compression_params=parameters)
    return found


def _decompressor() -> zstandard.ZstdDecompressor:
    found: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if found is None:
        found = _local.decompressor = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    return found


def split_planes(words: Words) -> tuple[Plane, Plane]:
    """Give the high and the low bytes of `words`, each in its shape, C order."""
    return (words >> 8).astype(np.uint8), words.astype(np.uint8)


def join_planes(hi: Plane, lo: Plane) -> Words:
    """Inverse of `split_planes`."""
    words: Words = hi.astype(np.uint16)
    words <<= 8
    words |= lo
    return words


def compress_plane(plane: Plane) -> bytes | None:
    """Give the zstd frame of a plane's bytes in C order, or None where it is not smaller than the bytes."""
    raw = np.ascontiguousarray(plane).data
    frame = _compressor().compress(raw)
    return frame if len(frame) < raw.nbytes else None


def decompress_plane(frame: bytes | memoryview, count: int, reader: PayloadReader) -> Plane:
    """Give the `count` bytes of a frame; never allocates more than that.

    Raises
    ------
    CodecError
        The frame is damaged or holds another number of bytes.
    """
    if count == 0:
        raise reader.damaged("a compressed plane of no bytes")
    try:
        raw = _decompressor().decompress(frame, max_output_size=count, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise reader.damaged("a zstd frame cannot be decoded", came=str(error)) from error
    if len(raw) != count:
        raise reader.damaged("a plane has another length", came=f"{len(raw)} bytes", expected=f"{count}")
    return np.frombuffer(raw, np.uint8)
