"""Numbers, positions, rotations and headers of payloads, read from data that nobody vouches for.

Unsigned integers are varints: one byte a seven bits, low bits first, the top bit set on all bytes but the last (the
form of LEB128), in as few bytes as the value needs.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Rope, SideInfo, Stream
from pytest_h2o.errors import CodecError

Positions = NDArray[np.int64]

MAX_VARINT = (1 << 64) - 1
_MAX_VARINT_BYTES = 10
"""Enough for 64 bits; a longer one is refused."""


def encode_varint(value: int) -> bytes:
    """Encode `value`, from 0 to 2**64 - 1, in the fewest bytes."""
    if not 0 <= value <= MAX_VARINT:
        raise CodecError("a number does not fit a varint", came=str(value), expected="0 to 2**64 - 1")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class ByteReader:
    """Reads varints and bytes from the front of `data`; every read is bounded by it and raises CodecError past its end.

    `codec` says whose payload it is: named in errors.
    """

    def __init__(self, data: bytes | bytearray | memoryview, codec: str | None = None) -> None:
        self._data = memoryview(data).cast("B")
        self._size = len(self._data)
        self._at = 0
        self._codec = codec

    @property
    def left(self) -> int:
        """Bytes that have not been read."""
        return self._size - self._at

    def damaged(self, what: str, *, came: str | None = None, expected: str | None = None) -> CodecError:
        """The error for damage that was found at the current place."""
        if self._codec is None:
            return CodecError(what, where=f"byte {self._at}", came=came, expected=expected)
        return CodecError(
            f"{self._codec}: {what}",
            where=f"byte {self._at} of {self._size}",
            came=came,
            expected=expected,
            hint="the payload is damaged, cut or of another codec; encode the stream again",
        )

    def read_byte(self, what: str = "the payload") -> int:
        if self._at >= self._size:
            self.take(1, what)
        self._at += 1
        return self._data[self._at - 1]

    def read_varint(self, what: str = "a number", limit: int = MAX_VARINT) -> int:
        """The next varint, at most `limit`; `what` names it in an error."""
        value = self.read_byte(what)
        if value >= 0x80:
            value = self._rest_of_varint(value & 0x7F, what)
        if value > limit:
            raise self.damaged(f"{what} is out of range", came=str(value), expected=f"at most {limit}")
        return value

    def _rest_of_varint(self, value: int, what: str) -> int:
        for index in range(1, _MAX_VARINT_BYTES):
            byte = self.read_byte(what)
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if value > MAX_VARINT or byte == 0:
                    break
                return value
        self._at -= 1
        raise self.damaged(f"{what} is no number", expected="a varint of at most 64 bits")

    def skip(self, expected: bytes) -> bool:
        """Whether the next bytes are those; they are then behind."""
        end = self._at + len(expected)
        found = self._data[self._at : end] == expected
        if found:
            self._at = end
        return found

    def take(self, size: int, what: str = "the payload") -> memoryview:
        """The next `size` bytes, without a copy."""
        if size > self.left:
            raise self.damaged(f"{what} is cut short", came=f"{self.left} bytes", expected=f"{size} bytes")
        self._at += size
        return self._data[self._at - size : self._at]

    def rest(self) -> memoryview:
        """All bytes that have not been read."""
        return self.take(self.left)

    def expect_end(self) -> None:
        """Refuse bytes after the last field."""
        if self.left:
            raise self.damaged("bytes follow the last field", came=f"{self.left} bytes", expected="the end")


MAX_HEADER_BYTES = 8
_BF16 = 128
"""Added to the mode byte of payloads of bf16 words."""
MAX_WORDS = 1 << 28


def check_shape(shape: tuple[int, ...], codec: str) -> None:
    """Refuse what no decoder would accept."""
    if math.prod(max(axis, 1) for axis in shape) > MAX_WORDS:
        raise CodecError(
            f"{codec}: a stream of this shape cannot be coded",
            came=str(tuple(shape)),
            expected=f"[seq_len, kv_heads, head_dim] of at most {MAX_WORDS} words",
            hint="cut the stream in chunks of fewer tokens",
        )


def write_header(mode: int, stream: Stream, codec: str) -> bytes:
    """Mode byte, and the shape in three varints."""
    return bytes([mode | (_BF16 if stream.dtype == "bf16" else 0)]) + _shape_bytes(stream.words.shape, codec)


def read_mode(reader: ByteReader, side: SideInfo, codec: str) -> int:
    """Read a header, and give its mode; its shape and dtype must be those that the dump says of the stream."""
    mode = reader.read_byte()
    if not reader.skip(_shape_bytes(side.shape, codec)):
        shape = tuple(reader.read_varint("an axis of the shape", MAX_WORDS) for _ in range(3))
        raise reader.damaged("the payload is of another shape", came=str(shape), expected=str(tuple(side.shape)))
    dtype = "bf16" if mode & _BF16 else "fp16"
    if dtype != side.dtype:
        raise reader.damaged("the payload is of another dtype", came=dtype, expected=side.dtype)
    return mode & ~_BF16


@lru_cache(maxsize=64)  # most streams of a dump are cut to one shape
def _shape_bytes(shape: tuple[int, ...], codec: str) -> bytes:
    check_shape(shape, codec)
    return b"".join(encode_varint(axis) for axis in shape)


_POSITION_END = 1 << 31


def usable_positions(positions: Positions | None, rows: int) -> Positions:
    """Positions that a payload can afford: those given, or 0, 1, 2, … where they are unknown or wild.

    Any positions decode; others than the true ones only predict worse.
    """
    if positions is not None and rows:
        jumps = int(np.count_nonzero(positions[1:] - positions[:-1] != 1))
        if jumps <= 4 + rows // 16 and int(positions.min()) >= 0 and int(positions.max()) < _POSITION_END:
            return positions
    return np.arange(rows, dtype=np.int64)


def encode_positions(positions: Positions) -> bytes:
    """Encode usable `positions`, ``[seq_len]``.

    The number of runs of consecutive ones (varint), then two varints a run: the distance of its first position from
    the one after the last run (signed to unsigned: 0, -1, 1, -2 are 0, 1, 2, 3), and its length.
    """
    starts = [0, *(np.flatnonzero(positions[1:] - positions[:-1] != 1) + 1).tolist()]
    parts = [encode_varint(len(starts))]
    expected = 0
    for begin, end in pairwise([*starts, positions.size]):
        distance = int(positions[begin]) - expected
        parts += (encode_varint(distance << 1 if distance >= 0 else ~distance << 1 | 1), encode_varint(end - begin))
        expected += distance + end - begin
    return b"".join(parts)


def decode_positions(reader: ByteReader, seq_len: int) -> Positions:
    """Read what `encode_positions` wrote; `seq_len` was bounded by the caller."""
    positions = np.empty(seq_len, dtype=np.int64)
    at = expected = 0
    for _ in range(reader.read_varint("the number of runs of positions")):
        distance = reader.read_varint("a run of positions")
        start = expected + (~(distance >> 1) if distance & 1 else distance >> 1)
        length = reader.read_varint("a run of positions")
        expected = start + length
        if not 0 < length <= seq_len - at or start < -(1 << 63) or expected > 1 << 63:
            raise reader.damaged(
                "a run of positions does not fit", came=f"{length} from {start}, after {at} of {seq_len}"
            )
        positions[at : at + length] = np.arange(start, start + length, dtype=np.int64)
        at += length
    if at != seq_len:
        raise reader.damaged("positions do not cover their stream", came=f"{at} tokens", expected=f"{seq_len} tokens")
    return positions


KNOWN_THETAS = (1e4, 1e5, 5e5, 1e6, 2.5e5, 1e7, 5e6, 3e5, 1.5e5, 2e5, 8e6, 1e8)
"""Append only: payloads name a theta by its index."""


def encode_rope(rope: Rope | None) -> bytes:
    """One byte: 0 without a rotation, else 1 + 2 * index + whether pairs interleave; an unknown theta follows it."""
    if rope is None:
        return b"\0"
    interleaved = rope.pairing == "interleaved"
    if rope.theta in KNOWN_THETAS:
        return bytes([1 + 2 * KNOWN_THETAS.index(rope.theta) + interleaved])
    return bytes([1 + 2 * len(KNOWN_THETAS) + interleaved]) + struct.pack("<d", rope.theta)


def decode_rope(reader: ByteReader) -> Rope | None:
    """Read what `encode_rope` wrote."""
    code = reader.read_byte("the rotation")
    if code == 0:
        return None
    index, interleaved = divmod(code - 1, 2)
    if index > len(KNOWN_THETAS):
        raise reader.damaged("an unknown rotation", came=str(code), expected=f"at most {2 + 2 * len(KNOWN_THETAS)}")
    theta: float
    (theta,) = KNOWN_THETAS[index : index + 1] or struct.unpack("<d", reader.take(8, "the rotation"))
    rope = Rope(theta, "interleaved" if interleaved else "half")
    if not is_usable(rope):
        raise reader.damaged("theta is out of range", came=repr(theta), expected="1 to 1e12")
    return rope


def is_usable(rope: Rope) -> bool:
    """Whether theta is a number that a rotation can be built from."""
    return math.isfinite(rope.theta) and 1 <= rope.theta <= 1e12
