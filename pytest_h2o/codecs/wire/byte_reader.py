"""Numbers and bytes, read from data that nobody vouches for.

Unsigned integers are varints: one byte a seven bits, low bits first, the top bit set on all bytes but the last (the
form of LEB128), in as few bytes as the value needs.
"""

from __future__ import annotations

from pytest_h2o.errors import CodecError

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


def zigzag(value: int) -> int:
    """Signed to unsigned, small magnitudes to small numbers: 0, -1, 1, -2 become 0, 1, 2, 3."""
    return value << 1 if value >= 0 else ~value << 1 | 1


def unzigzag(value: int) -> int:
    """The inverse of `zigzag`."""
    return ~(value >> 1) if value & 1 else value >> 1


class ByteReader:
    """Reads varints and bytes from the front of `data`; every read is bounded by it.

    Parameters
    ----------
    data : bytes, bytearray or memoryview
    codec : str, optional
        Whose payload it is: named in errors.

    Raises
    ------
    CodecError
        From every read: the data ends too early, or a varint is out of range or longer than its value needs.
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
        """The next byte."""
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
        return self.take(self.left, "the rest")

    def expect_end(self) -> None:
        """Refuse bytes after the last field."""
        if self.left:
            raise self.damaged("bytes follow the last field", came=f"{self.left} bytes", expected="the end")
