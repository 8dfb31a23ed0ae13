"""fp16 words as high and low bytes, and as bytes in a row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Words

Plane = NDArray[np.uint8]


def split_planes(words: Words) -> tuple[Plane, Plane]:
    """High and low bytes of `words`, each in its shape and C order."""
    words = np.ascontiguousarray(words)
    return (words >> 8).astype(np.uint8), words.astype(np.uint8)


def join_planes(hi: Plane, lo: Plane, shape: tuple[int, ...]) -> Words:
    """Words of `shape` from their high and low bytes; the inverse of `split_planes`."""
    words: Words = np.left_shift(hi, 8, dtype=np.uint16)
    words |= lo
    return words.reshape(shape)


def to_bytes(words: Words) -> bytes:
    """`words` as little-endian bytes in C order."""
    return words.astype("<u2", copy=False).tobytes()


def from_bytes(data: bytes | memoryview, shape: tuple[int, ...]) -> Words:
    """Words of `shape`, owning their memory, from little-endian bytes in C order."""
    return np.frombuffer(data, dtype="<u2").astype(np.uint16).reshape(shape)
