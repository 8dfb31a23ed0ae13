"""Positions of tokens as runs of consecutive ones: a few bytes for a sequence, whole or after eviction.

A varint counts the runs; a run is the zigzag varint of the distance of its first position from the one after
the last run (from 0 for the first), and the varint of its length. Distances are taken modulo 2**64.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.wire.byte_reader import ByteReader, encode_varint, unzigzag, zigzag

Positions = NDArray[np.int64]

_WORD = 1 << 64
_MOST_USABLE = 1 << 31


def usable_positions(positions: Positions | None, rows: int) -> Positions:
    """Positions that a payload can afford: those given, or 0, 1, 2, … where they are unknown or wild.

    Any positions decode; others than the true ones only predict worse.
    """
    if positions is not None and rows and len(positions) == rows:
        jumps = int(np.count_nonzero(positions[1:] - positions[:-1] != 1))
        if jumps <= 4 + rows // 16 and int(positions.min()) >= 0 and int(positions.max()) < _MOST_USABLE:
            return positions
    return np.arange(rows, dtype=np.int64)


def encode_positions(positions: Positions) -> bytes:
    """Encode `positions`, ``[seq_len]``, in any order."""
    last, here = positions[:-1], positions[1:]
    breaks = (here < last) | (here - last != 1)  # the difference alone would wrap from the largest to the least
    starts = [0, *(np.flatnonzero(breaks) + 1).tolist()][: positions.size]
    parts = [encode_varint(len(starts))]
    expected = 0
    for begin, end in pairwise([*starts, positions.size]):
        start = int(positions[begin])
        parts += (encode_varint(zigzag(_signed(start - expected))), encode_varint(end - begin))
        expected = start + end - begin
    return b"".join(parts)


def decode_positions(reader: ByteReader, seq_len: int) -> Positions:
    """Read what `encode_positions` wrote; `seq_len` was bounded by the caller.

    Raises
    ------
    CodecError
        The runs do not add up to `seq_len`.
    """
    positions = np.empty(seq_len, dtype=np.int64)
    at = expected = 0
    for _ in range(reader.read_varint("the number of runs of positions")):
        start = _signed(expected + unzigzag(reader.read_varint("a run of positions")))
        length = reader.read_varint("a run of positions")
        if not 0 < length <= seq_len - at or start + length > 1 << 63:
            raise reader.damaged(
                "a run of positions does not fit", came=f"{length} from {start}, after {at} of {seq_len}"
            )
        positions[at : at + length] = np.arange(start, start + length, dtype=np.int64)
        at += length
        expected = start + length
    if at != seq_len:
        raise reader.damaged("positions do not cover their stream", came=f"{at} tokens", expected=f"{seq_len} tokens")
    return positions


def _signed(value: int) -> int:
    """`value` modulo 2**64, as a signed 64-bit integer."""
    value %= _WORD
    return value - _WORD if value >= _WORD >> 1 else value
