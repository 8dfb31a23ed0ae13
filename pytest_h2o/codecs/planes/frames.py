"""Zstandard frames: one-shot (RFC 8878), without dictionary and checksum, in two forms.

`compress` gives frames with magic and content size. `compress_bare` gives frames in the magicless format without
content size, for payloads that know how many bytes must come out: magic (4 bytes) and size (1 to 4) would be paid
twice. It takes a `Search`: ``REPEATS`` is level 3; ``HISTOGRAM`` all but switches off the search for repeats: on
residuals, the short chance repeats that level 3 finds cost more bits than the Huffman code of the bytes, and time.

What a frame declares of itself is read before it is decoded: a size or a window beyond the known size would be
allocated whatever is asked for.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np
import zstandard

from pytest_h2o.codecs.planes.byte_planes import Plane
from pytest_h2o.errors import CodecError

MIN_LEVEL, MAX_LEVEL = 1, 22

_LEAST_WINDOW = 1 << 10
"""The smallest window that a frame can declare."""


class Search(Enum):
    """What zstd looks for in a bare frame beside the histogram of the bytes."""

    REPEATS = "repeats"
    HISTOGRAM = "histogram"


_SIZE_CLASSES = (1 << 14, 1 << 17, 1 << 18)
"""Up to these sizes of its input a level means other parameters each."""
_HAS_BATCHES = hasattr(zstandard.ZstdCompressor, "multi_compress_to_buffer")
"""Its other backend, for PyPy, has no call for many inputs."""
_WORTH_A_BATCH = 32
"""From so many inputs on a call for all of them makes up for the context that it makes."""


class _Contexts(threading.local):
    """Contexts of a thread: making one costs as much as a small frame, and none may be shared.

    Inputs of another size class have a context of their own, or zstd would clear its tables whenever the class changes.
    """

    def __init__(self) -> None:
        self.compressors: dict[tuple[int | Search, int], zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()
        self.bare_decompressor = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)

    def compressor(self, kind: int | Search, size: int) -> zstandard.ZstdCompressor:
        """Of a level, or for bare frames; for `size` bytes."""
        key = kind, bisect_left(_SIZE_CLASSES, size)
        found = self.compressors.get(key)
        if found is None:
            if isinstance(kind, Search):
                found = zstandard.ZstdCompressor(compression_params=_bare_parameters(kind))
            else:
                found = zstandard.ZstdCompressor(level=kind)
            self.compressors[key] = found
        return found


_contexts = _Contexts()


def _bare_parameters(search: Search) -> zstandard.ZstdCompressionParameters:
    bare: dict[str, Any] = {
        "format": zstandard.FORMAT_ZSTD1_MAGICLESS,
        "write_content_size": False,
        "write_checksum": False,
    }
    if search is Search.REPEATS:
        return zstandard.ZstdCompressionParameters.from_level(3, **bare)
    return zstandard.ZstdCompressionParameters.from_level(
        1, **bare, strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, window_log=17
    )


def check_level(codec_id: str, level: int, setting: str = "level") -> None:
    """Raise `CodecError` unless `level`, the value of `setting`, is a zstd level from 1 to 22."""
    if not MIN_LEVEL <= level <= MAX_LEVEL:
        raise CodecError(
            f"setting {setting!r} of codec {codec_id} is out of range",
            came=str(level),
            expected=f"{MIN_LEVEL} to {MAX_LEVEL}",
        )


def compress(data: bytes | bytearray | memoryview | Plane, level: int) -> bytes:
    """One zstd frame of `data` (contiguous, of bytes)."""
    view = data.data if isinstance(data, np.ndarray) else memoryview(data)
    return _contexts.compressor(level, view.nbytes).compress(view)


def compress_each(data: Sequence[bytes | bytearray | memoryview], level: int) -> list[bytes] | list[memoryview]:
    """One zstd frame of each of `data` (contiguous, of bytes), the same as from `compress`; many of them in one call.

    Frames that are views keep the memory of all of them: those that are to live on should be copied.
    """
    if not _HAS_BATCHES or len(data) < _WORTH_A_BATCH or not all(data):  # it refuses to compress nothing
        return [compress(one, level) for one in data]
    frames = _contexts.compressor(level, len(data[0])).multi_compress_to_buffer(list(data))
    return [memoryview(frames[place]) for place in range(len(data))]  # type: ignore[arg-type]  # a buffer it is


def decompress(frame: bytes | memoryview, size: int) -> bytes:
    """The content of one frame that must hold exactly `size` bytes.

    Raises
    ------
    CodecError
        The frame is damaged, declares another size (nothing is allocated then), or bytes follow it.
    """
    try:
        declared = zstandard.get_frame_parameters(frame)
        _check_declared(declared.content_size, declared.window_size, size, size)
        return _contexts.decompressor.decompress(frame, allow_extra_data=False)  # holds the frame to its size
    except zstandard.ZstdError as error:
        raise _damaged(error, size) from error


def compress_bare(data: memoryview, search: Search) -> bytes:
    """One magicless frame of `data` (contiguous), without its size."""
    return _contexts.compressor(search, data.nbytes).compress(data)


def decompress_bare(frame: bytes | memoryview, size: int) -> bytes:
    """The content of one frame of `compress_bare`, which must hold exactly `size` bytes, at least one.

    Raises
    ------
    CodecError
        The frame is damaged, or holds another number of bytes.
    """
    try:
        declared = zstandard.get_frame_parameters(frame, format=zstandard.FORMAT_ZSTD1_MAGICLESS)
        _check_declared(declared.content_size, declared.window_size, zstandard.CONTENTSIZE_UNKNOWN, size)
        content = _contexts.bare_decompressor.decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _damaged(error, size) from error
    if len(content) != size:
        raise CodecError("a zstd frame does not fit its stream", came=f"{len(content)} bytes", expected=f"{size} bytes")
    return content


def _check_declared(content_size: int, window_size: int, expected_size: int, size: int) -> None:
    if content_size != expected_size:
        came = "no size" if content_size == zstandard.CONTENTSIZE_UNKNOWN else f"{content_size} bytes"
        raise CodecError("a zstd frame does not fit its stream", came=came, expected=f"{size} bytes")
    if window_size > max(_LEAST_WINDOW, 2 * size):
        raise CodecError(
            "a zstd frame declares too large a window", came=f"{window_size} bytes", expected=f"about {size} bytes"
        )


def _damaged(error: zstandard.ZstdError, size: int) -> CodecError:
    return CodecError("a zstd frame is damaged", came=str(error), expected=f"a frame of {size} bytes")
