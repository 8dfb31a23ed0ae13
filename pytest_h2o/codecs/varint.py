"""Unsigned integers of few bytes: seven bits a byte, the least significant first, high bit set = more follow.

The form is that of LEB128. A reader walks over untrusted bytes: everything that it gives was checked against
what is left of the payload.
"""

from __future__ import annotations

from pytest_h2o.errors import CodecError

_MAX_BITS = 35


def write_varint(value: int) -> bytes:
    """Encode `value`, 0 <= value < 2**35, in the fewest bytes."""
    if not 0 <= value < 1 << _MAX_BITS:
        raise CodecError("a number does not fit a variable-length integer", came=str(value), expected="0 to 2**35 - 1")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(value: int) -> int:
    """Map 0, -1, 1, -2, … to 0, 1, 2, 3, …: small magnitudes become small unsigned numbers."""
    return value << 1 if value >= 0 else (-value << 1) - 1


def unzigzag(value: int) -> int:
    """Inverse of `zigzag`."""
    return value >> 1 if value & 1 == 0 else -(value >> 1) - 1


class PayloadReader:
    """Walks over the bytes of a payload, from the front.

    Parameters
    ----------
    payload : bytes or memoryview
        Untrusted bytes.
    codec : str
        Named in errors.
    """

    def __init__(self, payload: bytes | memoryview, codec: str) -> None:
        self._view = memoryview(payload).cast("B")
        self._at = 0
        self._codec = codec

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self._view) - self._at

    def damaged(self, what: str, *, came: str | None = None, expected: str | None = None) -> CodecError:
        """Give the error for damage found at the current offset."""
        return CodecError(
            f"{self._codec}: {what}",
            where=f"byte {self._at} of {len(self._view)}",
            came=came,
            expected=expected,
            hint="the payload is damaged, cut or of another codec; encode the stream again",
        )

    def read_byte(self) -> int:
        """Read one byte."""
        return self.read_bytes(1)[0]

    def read_bytes(self, count: int) -> memoryview:
        """Read `count` bytes.

        Raises
        ------
        CodecError
            Fewer are left.
        """
        if count > self.left:
            raise self.damaged("the payload ends too early", came=f"{self.left} bytes left", expected=f"{count}")
        self._at += count
        return self._view[self._at - count : self._at]

    def read_rest(self) -> memoryview:
        """Read all that is left."""
        return self.read_bytes(self.left)

    def read_varint(self, limit: int) -> int:
        """Read an integer of at most `limit`.

        Raises
        ------
        CodecError
            It is cut, longer than any that `write_varint` gives, or above `limit`.
        """
        value = shift = 0
        while True:
            byte = self.read_byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift >= _MAX_BITS:
                raise self.damaged("an integer has no end", expected=f"at most {_MAX_BITS // 7} bytes")
        if value > limit:
            raise self.damaged("a number is out of range", came=str(value), expected=f"at most {limit}")
        return value

    def expect_end(self) -> None:
        """Refuse bytes after the last field.

        Raises
        ------
        CodecError
            Bytes are left.
        """
        if self.left:
            raise self.damaged("bytes follow the last field", came=f"{self.left} bytes", expected="the end")
