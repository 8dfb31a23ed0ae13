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

from pytest_h2o.codecs import predictors
from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Words
from pytest_h2o.codecs.predictors import FlatBytes, Plane
from pytest_h2o.codecs.zstd_frames import check_level, compressor, frame_length, read_frame

_PREDICTOR = {"hi": "delta_seq", "lo": "raw"}


@dataclass(frozen=True)
class Legacy(Codec):
    """The codec of the module's docstring.

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
        check_level(self.zstd_level, self.id)

    def encode(self, stream: Stream) -> bytes:
        words = np.ascontiguousarray(stream.words)
        hi, lo = (words >> 8).astype(np.uint8), words.astype(np.uint8)
        return self._encode_plane(hi, "hi") + self._encode_plane(lo, "lo")

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        view = memoryview(payload)
        end_of_hi = self._end_of_hi(view)
        hi = self._decode_plane(view[:end_of_hi], "hi", side)
        lo = self._decode_plane(view[end_of_hi:], "lo", side)
        words: Words = np.left_shift(hi, 8, dtype=np.uint16)
        words |= lo
        return words

    def modes(self, payload: bytes | memoryview, side: SideInfo) -> Mapping[str, Mapping[str, int]]:
        return {plane: {name: 1} for plane, name in _PREDICTOR.items()}

    def plane_bytes(self, payload: bytes | memoryview, side: SideInfo) -> Mapping[str, int]:
        end_of_hi = self._end_of_hi(memoryview(payload))
        return {"hi": end_of_hi, "lo": len(payload) - end_of_hi}

    def _end_of_hi(self, payload: memoryview) -> int:
        return frame_length(payload, f"codec {self.id}, hi plane")

    def _encode_plane(self, plane: Plane, name: str) -> bytes:
        (predicted,) = predictors.predict(plane, [_PREDICTOR[name]], max(1, len(plane)))
        data: FlatBytes = predicted.reshape(-1)
        return compressor(self.zstd_level).compress(predictors.bitshuffle(data).data if self.bitshuffle else data.data)

    def _decode_plane(self, frame: memoryview, name: str, side: SideInfo) -> Plane:
        rows, heads, dim = side.shape
        coded = np.frombuffer(read_frame(frame, rows * heads * dim, f"codec {self.id}, {name} plane"), np.uint8)
        if self.bitshuffle:
            coded = predictors.bitunshuffle(coded.reshape(1, -1))
        plane: Plane = predictors.restore(coded.reshape(1, rows, heads, dim), _PREDICTOR[name])[0]
        return plane
