"""legacy: two zstd frames, the high plane as row differences and the low plane as it is.

Payload: the frame of the high plane (``delta_seq`` over the whole stream), then the frame of the low plane
(``raw``), with nothing around them: each frame tells its own end. With `bitshuffle` the bits of each plane of the
stream are transposed before zstd sees them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import zstandard

from pytest_h2o.codecs import planes as predictors
from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Words
from pytest_h2o.codecs.planes import FlatBytes, Plane, check_level, compress, decompress, join_planes, split_planes
from pytest_h2o.errors import CodecError

_RLE_BLOCK = 1
_PREDICTOR = {"hi": "delta_seq", "lo": "raw"}


@dataclass(frozen=True)
class Legacy(Codec):
    """High bytes as row differences and low bytes as they are, a zstd frame each.

    Attributes
    ----------
    zstd_level : int
        1 to 22.
    bitshuffle : bool
    """

    zstd_level: int = 3
    bitshuffle: bool = False

    id: ClassVar[str] = "legacy"
    out_of_band: ClassVar[tuple[str, ...]] = ("shape",)

    def __post_init__(self) -> None:
        check_level(self.id, self.zstd_level, "zstd_level")

    def encode(self, stream: Stream) -> bytes:
        hi, lo = split_planes(stream.words)
        return self._encode_plane(hi, "hi") + self._encode_plane(lo, "lo")

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        view = memoryview(payload)
        end_of_hi = _frame_length(view)
        hi = self._decode_plane(view[:end_of_hi], "hi", side)
        lo = self._decode_plane(view[end_of_hi:], "lo", side)
        return join_planes(hi, lo, side.shape)

    def modes(self, payload: bytes | memoryview, side: SideInfo) -> Mapping[str, Mapping[str, int]]:
        return {plane: {name: 1} for plane, name in _PREDICTOR.items()}

    def plane_bytes(self, payload: bytes | memoryview, side: SideInfo) -> Mapping[str, int]:
        end_of_hi = _frame_length(memoryview(payload))
        return {"hi": end_of_hi, "lo": len(payload) - end_of_hi}

    def _encode_plane(self, plane: Plane, name: str) -> bytes:
        (predicted,) = predictors.predict(plane, [_PREDICTOR[name]], slice(0, 1))
        data: FlatBytes = predicted.reshape(-1)
        return compress(predictors.bitshuffle(data) if self.bitshuffle else data, self.zstd_level)

    def _decode_plane(self, frame: memoryview, name: str, side: SideInfo) -> Plane:
        rows, heads, dim = side.shape
        coded = np.frombuffer(decompress(frame, rows * heads * dim), np.uint8)
        if self.bitshuffle:
            coded = predictors.bitunshuffle(coded.reshape(1, -1))
        plane: Plane = predictors.restore(coded.reshape(1, rows, heads, dim), _PREDICTOR[name])[0]
        return plane


def _frame_length(data: memoryview) -> int:
    """Bytes that the zstd frame at the start of `data` takes.

    Found without decompressing it, as RFC 8878 lays it out: a header, then blocks of a 3-byte header each (bit 0
    the last block, bits 1 and 2 its type, the others its size), then a checksum if the header says so.
    """
    try:
        at = zstandard.frame_header_size(data)
        has_checksum = zstandard.get_frame_parameters(data).has_checksum
    except zstandard.ZstdError as error:
        raise CodecError("a zstd frame is damaged", where="codec legacy, hi plane", came=str(error)) from error
    last = 0
    while not last:
        header = int.from_bytes(data[at : at + 3], "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        at += 3 + (1 if kind == _RLE_BLOCK else size)
        if at > len(data):
            raise CodecError(
                "a zstd frame is cut short",
                where="codec legacy, hi plane",
                came=f"{len(data)} bytes",
                expected=f"at least {at}",
            )
    return at + (4 if has_checksum else 0)
