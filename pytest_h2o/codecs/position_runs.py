"""Positions and RoPE parameters in a payload, in as few bytes as they usually need.

Positions are runs of successive numbers: the number of runs less one (varint), then for each run the jump from
where the last one ended (zigzag varint; the first from 0) and, but for the last run, its length (varint). A chunk
from the middle of a sequence costs two or three bytes.

RoPE is one byte: 0 none, else 1 + 2 * i + (1 if interleaved) with i the index of theta in `KNOWN_THETAS`, or the
length of that table, and then theta follows as a little-endian float64.
"""

from __future__ import annotations

import math
import struct
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Rope
from pytest_h2o.codecs.varint import PayloadReader, unzigzag, write_varint, zigzag

Positions = NDArray[np.int64]

KNOWN_THETAS = (1e4, 1e5, 5e5, 1e6, 2.5e5, 1e7, 5e6, 3e5, 1.5e5, 2e5, 8e6, 1e8)
"""Append only: payloads name a theta by its index."""

_MAX_POSITION = 1 << 31


def usable_positions(positions: Positions | None, rows: int) -> Positions:
    """Give positions that can be written cheaply: those given, or 0, 1, 2, … where they are unknown or wild.

    Any positions decode; others than the true ones only predict worse.
    """
    if positions is not None and rows and len(positions) == rows:
        jumps = int(np.count_nonzero(np.diff(positions) != 1))
        if jumps <= 4 + rows // 16 and int(positions.min()) >= 0 and int(positions.max()) < _MAX_POSITION:
            return positions.astype(np.int64)
    return np.arange(rows, dtype=np.int64)


def write_positions(positions: Positions) -> bytes:
    """Encode positions that `usable_positions` gave; at least one row."""
    starts = [0, *(np.flatnonzero(np.diff(positions) != 1) + 1).tolist(), len(positions)]
    out = [write_varint(len(starts) - 2)]
    reached = 0
    for begin, end in pairwise(starts):
        out.append(write_varint(zigzag(int(positions[begin]) - reached)))
        if end < len(positions):
            out.append(write_varint(end - begin))
        reached = int(positions[end - 1]) + 1
    return b"".join(out)


def read_positions(reader: PayloadReader, rows: int) -> Positions:
    """Decode the positions of `rows` >= 1 rows, int64 ``[rows]``.

    Raises
    ------
    CodecError
        They are cut, or do not cover the rows.
    """
    runs = reader.read_varint(rows - 1) + 1
    positions = np.arange(rows, dtype=np.int64)
    at = reached = 0
    for run in range(runs):
        start = reached + unzigzag(reader.read_varint(4 * _MAX_POSITION))
        length = rows - at if run == runs - 1 else reader.read_varint(rows)
        if length == 0 or at + length > rows:
            raise reader.damaged("positions do not cover the rows", came=f"{at} + {length}", expected=f"{rows} rows")
        positions[at : at + length] += start - at
        at, reached = at + length, start + length
    return positions


def write_rope(rope: Rope | None) -> bytes:
    """Encode a rotation, or that there is none."""
    if rope is None:
        return b"\0"
    interleaved = 1 if rope.pairing == "interleaved" else 0
    if rope.theta in KNOWN_THETAS:
        return bytes([1 + 2 * KNOWN_THETAS.index(rope.theta) + interleaved])
    return bytes([1 + 2 * len(KNOWN_THETAS) + interleaved]) + struct.pack("<d", rope.theta)


def read_rope(reader: PayloadReader) -> Rope | None:
    """Decode a rotation, or that there is none.

    Raises
    ------
    CodecError
        It is cut, or no theta that can be used.
    """
    code = reader.read_byte()
    if code == 0:
        return None
    index, interleaved = divmod(code - 1, 2)
    theta: float
    if index < len(KNOWN_THETAS):
        theta = KNOWN_THETAS[index]
    elif index == len(KNOWN_THETAS):
        (theta,) = struct.unpack("<d", reader.read_bytes(8))
    else:
        raise reader.damaged("an unknown rotation", came=str(code), expected=f"at most {2 + 2 * len(KNOWN_THETAS)}")
    rope = Rope(theta, "interleaved" if interleaved else "half")
    if not is_usable(rope):
        raise reader.damaged("theta is out of range", came=repr(theta), expected="1 to 1e12")
    return rope


def is_usable(rope: Rope) -> bool:
    """Whether theta is a number that a rotation can be built from."""
    return math.isfinite(rope.theta) and 1 <= rope.theta <= 1e12
