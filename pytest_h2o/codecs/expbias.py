"""expbias: byte planes with a bias a channel, the fast one.

Words are split into bytes; of bf16 words these are the exponents, and the mantissas with the signs. High bytes are
shifted by a table of one bias and one sign a channel (see `planes.ChannelBias`), which gathers channels of unlike scale
under one histogram; then both planes go through zstd, each left raw where that is not smaller.
Two cases where a plain method wins are tried when they are likely: the table is left out where repeated rows
compress better than it saves (a short stream, or a lo plane that compresses well), and the lo plane is coded
as differences of successive rows where that is smaller.

Payload: mode byte (0 raw words; else the sum of 1, 2 = a bias table is there, 4 = the hi plane is a zstd frame,
8 = the lo plane is one, 16 = it is one of row differences), shape (three varints), the bias table if any, the
length of the hi frame (varint) if it is one, the hi plane ``[seq_len, kv_heads, head_dim]``, and what is left is
the lo plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Words
from pytest_h2o.codecs.planes import (
    Plane,
    Search,
    choose_bias,
    compress_plane,
    decompress_plane,
    from_bytes,
    join_planes,
    read_bias,
    read_plane,
    split_planes,
    to_bytes,
    write_bias,
    write_plane,
)
from pytest_h2o.codecs.wire import MAX_HEADER_BYTES, ByteReader, check_shape, read_mode, write_header

_RAW_MODE = 0
_PLANES, _BIAS, _HI_FRAME, _LO_FRAME, _LO_DELTA = 1, 2, 4, 8, 16
_SHORT_ROWS = 48
"""Up to here a table of up to a byte a channel may cost more than it saves."""


@dataclass(frozen=True)
class ExpBias(Codec):
    """Byte planes with exponent bias a channel, zstd level 3; the payload alone decodes."""

    id: ClassVar[str] = "expbias"
    max_overhead_bytes: ClassVar[int] = MAX_HEADER_BYTES

    def encode(self, stream: Stream) -> bytes:
        check_shape(stream.words.shape, self.id)
        rows = len(stream.words)
        if stream.words.size:
            hi, lo = split_planes(stream.words.reshape(rows, -1), stream.dtype)
            table = choose_bias(hi, lo, stream.dtype)
            shifted, signed = table.apply(hi, lo)
            lo_mode, lo_bytes = plain_lo = _encode_lo(signed)
            mode, body = _encode_hi(shifted, _BIAS, write_bias(table))
            found = mode | lo_mode, body + lo_bytes
            if rows <= _SHORT_ROWS or len(lo_bytes) * 8 < lo.size * 7:
                if signed is not lo:
                    plain_lo = _encode_lo(lo)
                mode, body = _encode_hi(hi, 0, b"")
                found = min(found, (mode | plain_lo[0], body + plain_lo[1]), key=lambda candidate: len(candidate[1]))
            payload = write_header(found[0], stream, self.id) + found[1]
            if len(payload) <= stream.raw_bytes + MAX_HEADER_BYTES:
                return payload
        return write_header(_RAW_MODE, stream, self.id) + to_bytes(stream.words)

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        reader = ByteReader(payload, self.id)
        mode = read_mode(reader, side, self.id)
        if mode == _RAW_MODE:
            raw = reader.take(side.raw_bytes)
            reader.expect_end()
            return from_bytes(raw, side.shape)
        if mode & _PLANES == 0 or mode > 31 or side.words == 0:
            raise reader.damaged("unknown mode", came=str(mode), expected="0, or an odd number up to 31")
        rows, channels = side.shape[0], side.words // side.shape[0]
        table = read_bias(reader, channels, side.dtype) if mode & _BIAS else None
        hi = read_plane(reader, side.words, bool(mode & _HI_FRAME)).reshape(rows, channels)
        if mode & (_LO_FRAME | _LO_DELTA):
            lo = decompress_plane(reader.rest(), side.words, reader)
        else:
            lo = np.frombuffer(reader.take(side.words), np.uint8)
            reader.expect_end()
        lo = lo.reshape(rows, channels)
        if mode & _LO_DELTA:
            lo = np.add.accumulate(lo, axis=0, dtype=np.uint8)
        if table is not None:
            hi, lo = table.undo(hi, lo)
        return join_planes(hi, lo, side.shape, side.dtype)


def _encode_hi(hi: Plane, mode: int, table: bytes) -> tuple[int, bytes]:
    """Mode bits and bytes of a hi plane and its table."""
    is_frame, coded = write_plane(hi, Search.REPEATS)
    return _PLANES | (_HI_FRAME if is_frame else 0) | mode, table + coded


def _encode_lo(lo: Plane) -> tuple[int, bytes]:
    """Mode bits and bytes of a lo plane."""
    difference = lo.copy()
    difference[1:] -= lo[:-1]
    plain, delta = (compress_plane(plane, Search.REPEATS) for plane in (lo, difference))
    if plain is None and delta is None:
        return 0, lo.tobytes()
    if delta is None or (plain is not None and len(plain) <= len(delta)):
        return _LO_FRAME, plain or b""
    return _LO_DELTA, delta
