"""Unsigned integers in one byte a seven bits, low bits first (LEB128), the top bit set on all bytes but the last."""

from __future__ import annotations

from pytest_h2o.errors import CodecError

MAX_VARINT_BYTES = 10
"""Enough for 64 bits; a longer one is refused."""


def encode_varint(value: int) -> bytes:
    """Encode `value`, from 0 to 2**64 - 1."""
    if not 0 <= value < 1 << 64:
        raise CodecError("a number does not fit a varint", came=str(value), expected="0 to 2**64 - 1")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(value: int) -> int:
    """Signed to unsigned, small magnitudes to small numbers: 0, -1, 1, -2 become 0, 1, 2, 3."""
    return value << 1 if value >= 0 else ~value << 1 | 1


def unzigzag(value: int) -> int:
    """The inverse of `zigzag`."""
    return ~(value >> 1) if value & 1 else value >> 1


class ByteReader:
    """Reads varints and bytes from the front of `data`; every read is bounded by it.

    Raises
    ------
    CodecError
        From every read: the data ends too early, or a varint is longer than its value needs or 64 bits allow.
    """

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data).cast("B")
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes that have not been read."""
        return len(self._data) - self._at

    def read_varint(self, what: str) -> int:
        """The next varint; `what` names it in an error."""
        value = 0
        for index in range(MAX_VARINT_BYTES):
            byte = self.take(1, what)[0]
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if value >= 1 << 64 or (byte == 0 and index > 0):
                    break
                return value
        raise CodecError(f"{what} is no number", where=f"byte {self._at - 1}", expected="a varint of at most 64 bits")

    def take(self, size: int, what: str) -> memoryview:
        """The next `size` bytes, without a copy."""
        if size > self.left:
            raise CodecError(
                f"{what} is cut short", where=f"byte {self._at}", came=f"{self.left} bytes", expected=f"{size} bytes"
            )
        self._at += size
        return self._data[self._at - size : self._at]

    def rest(self) -> memoryview:
        """All bytes that have not been read."""
        return self.take(self.left, "the rest")
