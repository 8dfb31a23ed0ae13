"""fixedexp: fixed-length codes for the commonest exponents, the idea of SplitZip (arXiv 2605.01708).

Half of a bf16 word is an exponent, of which a stream has few: the 15 commonest get a code of four bits, the 16th code
says that an exponent follows in a list. Everything has its place, so that a decoder needs no serial pass. The format is
this project's. Of fp16, which has five bits of exponent, at most one bit of 16 is saved.

Payload: mode byte (0 raw words, 1 coded), shape (three varints), the 15 exponents, the codes (two a byte, the first in
the upper half), the exponents that have no code, and sign and mantissa: of bf16 a byte a word, the sign in its lowest
bit; of fp16 the low bytes, then sign and two bits of mantissa of each word, packed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Words
from pytest_h2o.codecs.planes import Plane, from_bytes, join_planes, split_planes, to_bytes
from pytest_h2o.codecs.wire import MAX_HEADER_BYTES, ByteReader, check_shape, read_mode, write_header

_RAW_MODE, _CODED_MODE = 0, 1
_CODES = 15
_THREE_BITS = np.array([4, 2, 1], np.uint8)


@dataclass(frozen=True)
class FixedExp(Codec):
    """Codes of four bits for the 15 commonest exponents; the payload alone decodes."""

    id: ClassVar[str] = "fixedexp"
    max_overhead_bytes: ClassVar[int] = MAX_HEADER_BYTES

    def encode(self, stream: Stream) -> bytes:
        check_shape(stream.words.shape, self.id)
        if stream.words.size:
            hi, lo = (plane.reshape(-1) for plane in split_planes(stream.words, stream.dtype))
            exponents: Plane = hi if stream.dtype == "bf16" else (hi >> 2 & 31).astype(np.uint8)
            commonest = (
                np.bincount(exponents, minlength=256).argsort(kind="stable")[: -_CODES - 1 : -1].astype(np.uint8)
            )
            code_of = np.full(256, _CODES, np.uint8)
            code_of[commonest] = np.arange(_CODES)
            codes = code_of[exponents]
            even = np.resize(codes, (codes.size + 1) // 2 * 2).reshape(-1, 2)
            parts = [commonest, even[:, 0] << 4 | even[:, 1], exponents[codes == _CODES], lo]
            if stream.dtype == "fp16":
                parts.append(np.packbits((hi >> 5 & 4 | hi & 3)[:, None] & _THREE_BITS))
            payload = write_header(_CODED_MODE, stream, self.id) + b"".join(part.tobytes() for part in parts)
            if len(payload) <= stream.raw_bytes + MAX_HEADER_BYTES:
                return payload
        return write_header(_RAW_MODE, stream, self.id) + to_bytes(stream.words)

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        reader = ByteReader(payload, self.id)
        mode = read_mode(reader, side, self.id)
        if mode == _RAW_MODE:
            words = from_bytes(reader.take(side.raw_bytes), side.shape)
        elif mode == _CODED_MODE and side.words:
            words = _decode(reader, side)
        else:
            raise reader.damaged("unknown mode", came=str(mode), expected="0 or 1")
        reader.expect_end()
        return words


def _decode(reader: ByteReader, side: SideInfo) -> Words:
    commonest = _take(reader, _CODES)
    packed = _take(reader, (side.words + 1) // 2)
    codes = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[: side.words]
    exponents = np.append(commonest, np.uint8(0))[codes]
    rare = codes == _CODES
    exponents[rare] = _take(reader, int(np.count_nonzero(rare)))
    lo = _take(reader, side.words)
    if side.dtype == "bf16":
        return join_planes(exponents, lo, side.shape, "bf16")
    bits = np.unpackbits(_take(reader, (3 * side.words + 7) // 8), count=3 * side.words).reshape(-1, 3) @ _THREE_BITS
    hi = ((bits & 4) << 5 | exponents << 2 | bits & 3).astype(np.uint8)
    return join_planes(hi, lo, side.shape)


def _take(reader: ByteReader, size: int) -> Plane:
    return np.frombuffer(reader.take(size), np.uint8)
