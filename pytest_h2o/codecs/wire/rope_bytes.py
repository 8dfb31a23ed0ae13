"""RoPE parameters in a payload.

One byte: 0 none, else 1 + 2 * i + (1 if interleaved) with i the index of theta in `KNOWN_THETAS`, or the length of
that table, and then theta follows as a little-endian float64.
"""

from __future__ import annotations

import math
import struct

from pytest_h2o.codecs.base import Rope
from pytest_h2o.codecs.wire.byte_reader import ByteReader

KNOWN_THETAS = (1e4, 1e5, 5e5, 1e6, 2.5e5, 1e7, 5e6, 3e5, 1.5e5, 2e5, 8e6, 1e8)
"""Append only: payloads name a theta by its index."""


def encode_rope(rope: Rope | None) -> bytes:
    """Encode a rotation, or that there is none."""
    if rope is None:
        return b"\0"
    interleaved = 1 if rope.pairing == "interleaved" else 0
    if rope.theta in KNOWN_THETAS:
        return bytes([1 + 2 * KNOWN_THETAS.index(rope.theta) + interleaved])
    return bytes([1 + 2 * len(KNOWN_THETAS) + interleaved]) + struct.pack("<d", rope.theta)


def decode_rope(reader: ByteReader) -> Rope | None:
    """Decode a rotation, or that there is none.

    Raises
    ------
    CodecError
        It is cut, or no theta that can be used.
    """
    code = reader.read_byte("the rotation")
    if code == 0:
        return None
    index, interleaved = divmod(code - 1, 2)
    theta: float
    if index < len(KNOWN_THETAS):
        theta = KNOWN_THETAS[index]
    elif index == len(KNOWN_THETAS):
        (theta,) = struct.unpack("<d", reader.take(8, "the rotation"))
    else:
        raise reader.damaged("an unknown rotation", came=str(code), expected=f"at most {2 + 2 * len(KNOWN_THETAS)}")
    rope = Rope(theta, "interleaved" if interleaved else "half")
    if not is_usable(rope):
        raise reader.damaged("theta is out of range", came=repr(theta), expected="1 to 1e12")
    return rope


def is_usable(rope: Rope) -> bool:
    """Whether theta is a number that a rotation can be built from."""
    return math.isfinite(rope.theta) and 1 <= rope.theta <= 1e12
