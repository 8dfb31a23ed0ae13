"""Byte planes of fp16 words, and zstd frames without the bytes that the payload knows anyway.

Frames are in the magicless format, without content size: the decoder always knows how many bytes must come out, so
magic (4 bytes) and size (1 to 4 bytes) would be paid twice.

Two ways to compress, one format: `Search.REPEATS` is zstd level 3. `Search.HISTOGRAM` all but switches off the search
for repeats: on residuals, the short chance repeats that level 3 finds cost more bits than the Huffman code of the
bytes, and time as well.
"""

from __future__ import annotations

import threading
from enum import Enum

import numpy as np
import zstandard
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Words
from pytest_h2o.codecs.varint import PayloadReader, write_varint

Plane = NDArray[np.uint8]

_local = threading.local()


class Search(Enum):
    """What zstd looks for beside the histogram of the bytes."""

    REPEATS = "repeats"
    HISTOGRAM = "histogram"


def _parameters(search: Search) -> zstandard.ZstdCompressionParameters:
    if search is Search.REPEATS:
        return zstandard.ZstdCompressionParameters.from_level(
            3, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False, write_checksum=False
        )
    return zstandard.ZstdCompressionParameters.from_level(
        1,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=False,
        write_checksum=False,
        strategy=zstandard.STRATEGY_FAST,
        min_match=7,
        hash_log=6,
        window_log=17,
    )


def _compressor(search: Search) -> zstandard.ZstdCompressor:
    """One compressor a thread: building one costs as much as a small frame, and sharing one is not safe."""
    found: zstandard.ZstdCompressor | None = getattr(_local, search.value, None)
    if found is None:
        found = zstandard.ZstdCompressor(compression_params=_parameters(search))
        setattr(_local, search.value, found)
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


def compress_plane(plane: Plane, search: Search) -> bytes | None:
    """Give the zstd frame of a plane's bytes in C order, or None where it is not smaller than the bytes."""
    raw = np.ascontiguousarray(plane).data
    frame = _compressor(search).compress(raw)
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


def write_plane(plane: Plane, *searches: Search) -> tuple[bool, bytes]:
    """Give whether a plane became a frame, and its bytes: the smallest frame, its length before it, or the plane."""
    frames = [frame for frame in (compress_plane(plane, search) for search in searches) if frame is not None]
    frame = min(frames, key=len, default=None)
    if frame is None:
        return False, plane.tobytes()
    return True, write_varint(len(frame)) + frame


def read_plane(reader: PayloadReader, count: int, is_frame: bool) -> Plane:
    """Read what `write_plane` wrote of a plane of `count` bytes.

    Raises
    ------
    CodecError
        It is cut or damaged.
    """
    if is_frame:
        return decompress_plane(reader.read_bytes(reader.read_varint(count)), count, reader)
    return np.frombuffer(reader.read_bytes(count), np.uint8)
