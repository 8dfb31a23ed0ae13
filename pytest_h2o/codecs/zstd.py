"""zstd on the words as they are, the measure that every other codec is held against; and on their byte planes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Words
from pytest_h2o.codecs.planes import check_level, compress, decompress, from_bytes, join_planes, split_planes, to_bytes
from pytest_h2o.codecs.wire import ByteReader, encode_varint
from pytest_h2o.errors import CodecError


@dataclass(frozen=True)
class Zstd(Codec):
    """One zstd frame of the raw words.

    Payload: a zstd frame of the words, little-endian, C order ``[seq_len, kv_heads, head_dim]``.

    Parameters
    ----------
    level : int
        zstd level, 1 to 22.
    """

    id: ClassVar[str] = "zstd"
    out_of_band: ClassVar[tuple[str, ...]] = ("shape",)

    level: int = 3

    def __post_init__(self) -> None:
        check_level(self.id, self.level)

    def encode(self, stream: Stream) -> bytes:
        return compress(to_bytes(stream.words), self.level)

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        return from_bytes(decompress(payload, side.raw_bytes), side.shape)


@dataclass(frozen=True)
class Byteplane(Codec):
    """High and low bytes apart, each one zstd frame, or raw where zstd does not shrink it.

    The cheapest split that helps floating point data, known as byte shuffle from Blosc and HDF5: exponents and signs
    apart from the noise of the mantissas.

    Of bf16 words the planes are the exponents, and the mantissas with the signs.

    Payload: length of the coded hi plane (varint), hi plane, lo plane (the rest). A plane whose length is the
    number of words is raw, any other a zstd frame; one frame is never as long as its plane.

    Parameters
    ----------
    level : int
        zstd level, 1 to 22.
    """

    id: ClassVar[str] = "byteplane"
    out_of_band: ClassVar[tuple[str, ...]] = ("shape", "dtype")
    max_overhead_bytes: ClassVar[int | None] = 5

    level: int = 3

    def __post_init__(self) -> None:
        check_level(self.id, self.level)

    def encode(self, stream: Stream) -> bytes:
        planes = split_planes(stream.words, stream.dtype)
        frames = [compress(plane, self.level) for plane in planes]
        hi, lo = (f if len(f) < plane.size else plane.tobytes() for f, plane in zip(frames, planes, strict=True))
        return b"".join((encode_varint(len(hi)), hi, lo))

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        hi, lo = (
            np.frombuffer(plane if len(plane) == side.words else decompress(plane, side.words), np.uint8)
            for plane in _cut_planes(payload)
        )
        return join_planes(hi, lo, side.shape, side.dtype)

    def modes(self, payload: bytes | memoryview, side: SideInfo) -> Mapping[str, Mapping[str, int]]:
        planes = zip(("hi", "lo"), _cut_planes(payload), strict=True)
        return {name: {"raw" if len(plane) == side.words else "zstd": 1} for name, plane in planes}


def _cut_planes(payload: bytes | memoryview) -> tuple[memoryview, memoryview]:
    reader = ByteReader(payload)
    hi_bytes = reader.read_varint("length of the hi plane")
    rest = reader.rest()
    if hi_bytes > len(rest):
        raise CodecError("the hi plane is cut short", came=f"{len(rest)} bytes", expected=f"{hi_bytes} bytes")
    return rest[:hi_bytes], rest[hi_bytes:]
