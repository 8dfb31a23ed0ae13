"""Zstandard frames and the byte planes that go into them: what several codecs share.

Frames are one-shot frames with content size (RFC 8878), without dictionary and checksum.
"""

from __future__ import annotations

import threading

import numpy as np
import zstandard
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Words
from pytest_h2o.errors import CodecError

Plane = NDArray[np.uint8]

MIN_LEVEL, MAX_LEVEL = 1, 22


class _Contexts(threading.local):
    """One context a thread and level: making one costs as much as a small frame, and none may be shared."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _Contexts()


def check_level(codec_id: str, level: int, setting: str = "level") -> None:
    """Raise `CodecError` unless `level`, the value of `setting`, is a zstd level from 1 to 22."""
    if not MIN_LEVEL <= level <= MAX_LEVEL:
        raise CodecError(
            f"setting {setting!r} of codec {codec_id} is out of range",
            came=str(level),
            expected=f"{MIN_LEVEL} to {MAX_LEVEL}",
        )


def compress(data: bytes | memoryview | Plane, level: int) -> bytes:
    """One zstd frame of `data` (contiguous)."""
    compressor = _contexts.compressors.get(level)
    if compressor is None:
        compressor = zstandard.ZstdCompressor(level=level)
        _contexts.compressors[level] = compressor
    return compressor.compress(data.data if isinstance(data, np.ndarray) else data)


def decompress(frame: bytes | memoryview, size: int) -> bytes:
    """The content of one frame that must hold exactly `size` bytes.

    Raises
    ------
    CodecError
        The frame is damaged, declares another size (nothing is allocated then), or bytes follow it.
    """
    try:
        declared = zstandard.get_frame_parameters(frame).content_size
        if declared != size:
            raise CodecError("a zstd frame does not fit its stream", came=f"{declared} bytes", expected=f"{size} bytes")
        return _contexts.decompressor.decompress(frame, allow_extra_data=False)  # holds the frame to its size
    except zstandard.ZstdError as error:
        raise CodecError("a zstd frame is damaged", came=str(error), expected=f"a frame of {size} bytes") from error


def split_planes(words: Words) -> tuple[Plane, Plane]:
    """High and low bytes of `words`, each in C order and flat."""
    flat = np.ascontiguousarray(words).reshape(-1)
    return (flat >> 8).astype(np.uint8), flat.astype(np.uint8)


def join_planes(hi: Plane, lo: Plane, shape: tuple[int, ...]) -> Words:
    """Words of `shape` from their flat high and low bytes; the inverse of `split_planes`."""
    words: Words = np.left_shift(hi, 8, dtype=np.uint16)
    words |= lo
    return words.reshape(shape)


def to_bytes(words: Words) -> bytes:
    """`words` as little-endian bytes in C order."""
    return words.astype("<u2", copy=False).tobytes()


def from_bytes(data: bytes | memoryview, shape: tuple[int, ...]) -> Words:
    """Words of `shape`, owning their memory, from little-endian bytes in C order."""
    return np.frombuffer(data, dtype="<u2").astype(np.uint16).reshape(shape)
