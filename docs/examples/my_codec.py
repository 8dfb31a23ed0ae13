"""A codec of one's own: Deflate over byte planes."""

import zlib
from dataclasses import dataclass

import numpy as np

from pytest_h2o import Codec, CodecError, SideInfo, Stream, Words, join_planes, register, split_planes


@register
@dataclass(frozen=True)
class MyCodec(Codec):
    """High bytes, then low bytes, in one zlib stream."""

    id = "my_codec"
    out_of_band = ("shape",)

    def encode(self, stream: Stream) -> bytes:
        return zlib.compress(np.concatenate(split_planes(stream.words)).tobytes())

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        try:
            planes = np.frombuffer(zlib.decompressobj().decompress(payload, side.raw_bytes + 1), np.uint8)
            hi, lo = planes.reshape(2, side.words)
        except (zlib.error, ValueError) as error:
            raise CodecError("a my_codec payload is damaged", came=str(error)) from error
        return join_planes(hi, lo, side.shape)
