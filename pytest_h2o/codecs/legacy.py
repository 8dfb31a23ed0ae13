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

from pytest_h2o.codecs import planes
from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Words
from pytest_h2o.codecs.planes import Plane
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
        planes.check_level(self.id, self.zstd_level, "zstd_level")

    def encode(self, stream: Stream) -> bytes:
        frames = []
        for plane, name in zip(planes.split_planes(stream.words), _PREDICTOR.values(), strict=True):
            (predicted,) = planes.predict(plane, [name], slice(0, 1))
            data: Plane = predicted.reshape(-1)
            frames.append(planes.compress(planes.bitshuffle(data) if self.bitshuffle else data, self.zstd_level))
        return b"".join(frames)

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        view = memoryview(payload)
        end_of_hi = _frame_length(view)
        restored = []
        for frame, name in zip((view[:end_of_hi], view[end_of_hi:]), _PREDICTOR.values(), strict=True):
            coded = np.frombuffer(planes.decompress(frame, side.words), np.uint8).reshape(1, -1)
            if self.bitshuffle:
                coded = planes.bitunshuffle(coded)
            restored.append(planes.restore(coded.reshape(1, *side.shape), name)[0])
        return planes.join_planes(restored[0], restored[1], side.shape)

    def modes(self, payload: bytes | memoryview, side: SideInfo) -> Mapping[str, Mapping[str, int]]:
        return {plane: {name: 1} for plane, name in _PREDICTOR.items()}

    def plane_bytes(self, payload: bytes | memoryview, side: SideInfo) -> Mapping[str, int]:
        end_of_hi = _frame_length(memoryview(payload))
        return {"hi": end_of_hi, "lo": len(payload) - end_of_hi}


def _frame_length(data: memoryview) -> int:
    """Bytes that the zstd frame at the start of `data` takes.

    Found without decompressing it, as RFC 8878 lays it out: a header, then blocks of a 3-byte header each (bit 0
    the last block, bits 1 and 2 its type, the others its size), then a checksum if the header says so.
    """
    where = "codec legacy, hi plane"
    try:
        at = zstandard.frame_header_size(data)
        has_checksum = zstandard.get_frame_parameters(data).has_checksum
    except zstandard.ZstdError as error:
        raise CodecError("a zstd frame is damaged", where=where, came=str(error)) from error
    last = 0
    while not last:
        header = int.from_bytes(data[at : at + 3], "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        at += 3 + (1 if kind == _RLE_BLOCK else size)
        if at > len(data):
            came, expected = f"{len(data)} bytes", f"at least {at}"
            raise CodecError("a zstd frame is cut short", where=where, came=came, expected=expected)
    return at + (4 if has_checksum else 0)
