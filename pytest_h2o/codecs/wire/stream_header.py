"""The first bytes of a payload of our own codecs: how the stream is coded, and its shape.

Layout: one mode byte (its meaning is the codec's), then seq_len, kv_heads and head_dim as variable-length
integers: 4 to 8 bytes together. Mode 0 is the same for all: the words follow as they are, little-endian, C
order, so a stream that nothing predicts costs `MAX_HEADER_BYTES` over raw at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pytest_h2o.codecs.base import SideInfo, Stream, Words
from pytest_h2o.codecs.wire.byte_reader import ByteReader, encode_varint
from pytest_h2o.errors import CodecError

RAW_MODE = 0
MAX_HEADER_BYTES = 8
MAX_WORDS = 1 << 28


@dataclass(frozen=True)
class StreamHeader:
    """Mode byte and shape, ``[seq_len, kv_heads, head_dim]``."""

    mode: int
    shape: tuple[int, int, int]

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def channels(self) -> int:
        return self.shape[1] * self.shape[2]

    @property
    def words(self) -> int:
        return self.rows * self.channels


def check_shape(shape: tuple[int, ...], codec: str) -> None:
    """Refuse what no decoder would accept.

    Raises
    ------
    CodecError
        Not three axes, or more than `MAX_WORDS` words, an axis of no length counted as one.
    """
    size = 1
    for axis in shape:
        size *= max(axis, 1)
    if len(shape) != 3 or size > MAX_WORDS:
        raise CodecError(
            f"{codec}: a stream of this shape cannot be coded",
            came=str(tuple(shape)),
            expected=f"[seq_len, kv_heads, head_dim] of at most {MAX_WORDS} words",
            hint="cut the stream in chunks of fewer tokens",
        )


def write_header(mode: int, stream: Stream, codec: str) -> bytes:
    """Encode mode and shape of `stream`."""
    return bytes([mode]) + _shape_bytes(stream.words.shape, codec)


@lru_cache(maxsize=64)
def _shape_bytes(shape: tuple[int, ...], codec: str) -> bytes:
    """Encode a shape that a decoder accepts; kept, because most streams of a dump are cut to one shape."""
    check_shape(shape, codec)
    return b"".join(encode_varint(axis) for axis in shape)


def read_header(reader: ByteReader, side: SideInfo, codec: str) -> StreamHeader:
    """Decode mode and shape; they must be those that the dump says of the stream.

    Raises
    ------
    CodecError
        The payload is cut, or its shape is not that of `side`: nothing has been allocated yet.
    """
    mode = reader.read_byte()
    if reader.skip(_shape_bytes(side.shape, codec)):
        return StreamHeader(mode, side.shape)
    shape = tuple(reader.read_varint("an axis of the shape", MAX_WORDS) for _ in range(3))
    raise reader.damaged("the payload is of another shape", came=str(shape), expected=str(tuple(side.shape)))


def encode_raw(stream: Stream, codec: str) -> bytes:
    """Encode the words as they are."""
    return write_header(RAW_MODE, stream, codec) + stream.words.astype("<u2").tobytes()


def decode_raw(reader: ByteReader, header: StreamHeader) -> Words:
    """Decode what follows the header in mode 0.

    Raises
    ------
    CodecError
        Not as many bytes as the shape asks for.
    """
    raw = reader.take(header.words * 2)
    reader.expect_end()
    return np.frombuffer(raw, "<u2").astype(np.uint16).reshape(header.shape)
