"""adaptive_v22: byte planes, the best of a few predictors for each block, one zstd frame a plane.

Payload: the high plane, then the low plane, each

======================= ===========================================================================
bytes                   what
======================= ===========================================================================
4                       number of blocks, u32 little-endian
4                       length of the zstd frame, u32 little-endian
1 a block               mode: the place of the block's predictor in `predictors.PREDICTORS`
the rest                one zstd frame with content size: the predicted blocks, one after the other
======================= ===========================================================================

A block is `adaptive_block_seq` rows (all rows, if there are fewer; the last block may be shorter). Its
predictor is the one whose predicted bytes make the smallest zstd frame by themselves, the first on a tie.
With `bitshuffle` the bits of each predicted block are transposed before zstd sees them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Tensor, Words
from pytest_h2o.codecs.planes import predictors
from pytest_h2o.codecs.planes.byte_planes import Plane, join_planes
from pytest_h2o.codecs.planes.frames import check_level, compress, decompress
from pytest_h2o.codecs.planes.predictors import PREDICTORS, FlatBytes
from pytest_h2o.errors import CodecError

_HEADER = struct.Struct("<II")
_U32_MAX = 2**32 - 1
_SLAB_BYTES = 1 << 19
"""Predicted planes of a long stream are made piece by piece: this much stays in the cache of one core."""


@dataclass(frozen=True)
class AdaptiveV22(Codec):
    """Byte planes, for each block the best of a few predictors, one zstd frame a plane.

    Attributes
    ----------
    zstd_level : int
        1 to 22.
    adaptive_block_seq : int
        Rows a block, at least 1.
    bitshuffle : bool
    k_hi_predictors, k_lo_predictors, v_hi_predictors, v_lo_predictors : tuple of str
        Candidates by tensor and plane, without repeats; earlier ones win ties.
    """

    zstd_level: int = 3
    adaptive_block_seq: int = 64
    bitshuffle: bool = False
    k_hi_predictors: tuple[str, ...] = PREDICTORS
    k_lo_predictors: tuple[str, ...] = PREDICTORS
    v_hi_predictors: tuple[str, ...] = PREDICTORS[:3]
    v_lo_predictors: tuple[str, ...] = PREDICTORS[:3]

    id: ClassVar[str] = "adaptive_v22"
    out_of_band: ClassVar[tuple[str, ...]] = ("shape",)

    def __post_init__(self) -> None:
        check_level(self.id, self.zstd_level, "zstd_level")
        if self.adaptive_block_seq < 1:
            raise CodecError(
                f"setting 'adaptive_block_seq' of codec {self.id} is out of range",
                came=str(self.adaptive_block_seq),
                expected="at least 1 row",
            )
        for name in ("k_hi_predictors", "k_lo_predictors", "v_hi_predictors", "v_lo_predictors"):
            _check_predictors(name, getattr(self, name))

    def encode(self, stream: Stream) -> bytes:
        words = np.ascontiguousarray(stream.words)
        hi_names, lo_names = self.candidates(stream.tensor)
        return b"".join([*self._encode_plane(words, 8, hi_names), *self._encode_plane(words, 0, lo_names)])

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        hi, at = self._decode_plane(memoryview(payload), 0, side, "hi")
        lo, at = self._decode_plane(memoryview(payload), at, side, "lo")
        if at != len(payload):
            raise CodecError(
                f"codec {self.id}: bytes behind the end of the payload",
                came=f"{len(payload)} bytes",
                expected=f"{at} bytes",
                hint="the payload is damaged",
            )
        return join_planes(hi, lo, side.shape)

    def modes(self, payload: bytes | memoryview, side: SideInfo) -> Mapping[str, Mapping[str, int]]:
        view, at, counts = memoryview(payload), 0, {}
        for plane, names in zip(("hi", "lo"), self.candidates(side.tensor), strict=True):
            modes, _, at = self._split(view, at, side, plane)
            counts[plane] = {name: modes.count(PREDICTORS.index(name)) for name in names}
        return counts

    def plane_bytes(self, payload: bytes | memoryview, side: SideInfo) -> Mapping[str, int]:
        _, _, end_of_hi = self._split(memoryview(payload), 0, side, "hi")
        return {"hi": end_of_hi, "lo": len(payload) - end_of_hi}

    def candidates(self, tensor: Tensor) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Predictors that are tried for the high and for the low plane of K or V."""
        if tensor == "k":
            return self.k_hi_predictors, self.k_lo_predictors
        return self.v_hi_predictors, self.v_lo_predictors

    def _encode_plane(self, words: Words, shift: int, names: Sequence[str]) -> tuple[bytes, bytes, bytes]:
        level = self.zstd_level
        block = min(self.adaptive_block_seq, len(words))
        single = block == len(words)
        modes = bytearray()
        chosen = bytearray(0 if single else words.size)
        best = compress(b"", level) if block == 0 else b""
        at = 0
        for options in self._options(words, shift, names, block):
            mode, data = options[0]
            if single or len(options) > 1:
                best = compress(data, level)
                for other_mode, other in options[1:]:
                    frame = compress(other, level)
                    if len(frame) < len(best):
                        mode, data, best = other_mode, other, frame
            modes.append(mode)
            if not single:
                chosen[at : at + len(data)] = data
                at += len(data)
        frame = (
            best if single else compress(memoryview(chosen), level)
        )  # the trial of the only block is the frame of the stream
        if len(frame) > _U32_MAX:
            raise CodecError(f"codec {self.id}: the stream is too large", came=f"{len(frame)} bytes in one plane")
        return _HEADER.pack(len(modes), len(frame)), bytes(modes), frame

    def _options(
        self, words: Words, shift: int, names: Sequence[str], block: int
    ) -> Iterator[list[tuple[int, memoryview]]]:
        """For each block, the (mode byte, bytes for zstd) of every candidate that can differ from the others."""
        row_bytes = words.shape[1] * words.shape[2]
        codes = [PREDICTORS.index(name) for name in names]
        every, on_one_row = range(len(names)), predictors.distinct_on_one_row(names)
        slab = max(1, _SLAB_BYTES // max(1, block * row_bytes)) * max(1, block)
        for start in range(0, len(words), slab):
            part = words[start : start + slab]
            plane = (part >> 8 if shift else part).astype(np.uint8)
            predicted = [p.reshape(-1) for p in predictors.predict(plane, names, block)]
            for row in range(0, len(part), block):
                span = slice(row * row_bytes, (row + block) * row_bytes)
                places = every if min(block, len(part) - row) > 1 else on_one_row
                yield [(codes[place], self._shuffled(predicted[place][span])) for place in places]

    def _shuffled(self, data: FlatBytes) -> memoryview:
        return predictors.bitshuffle(data).data if self.bitshuffle else data.data

    def _decode_plane(self, payload: memoryview, at: int, side: SideInfo, plane: str) -> tuple[Plane, int]:
        modes, frame, end = self._split(payload, at, side, plane)
        rows, heads, dim = side.shape
        row_bytes = heads * dim
        coded = np.frombuffer(decompress(frame, rows * row_bytes), np.uint8)
        out = np.empty(side.shape, np.uint8)
        for mode, first, blocks, height in _runs(modes, rows, self.adaptive_block_seq):
            end_row = first + blocks * height
            part = coded[first * row_bytes : end_row * row_bytes].reshape(blocks, height * row_bytes)
            if self.bitshuffle:
                part = predictors.bitunshuffle(part)
            restored = predictors.restore(part.reshape(blocks, height, heads, dim), PREDICTORS[mode])
            out[first:end_row] = restored.reshape(-1, heads, dim) if restored.size else 0
        return out, end

    def _split(self, payload: memoryview, at: int, side: SideInfo, plane: str) -> tuple[bytes, memoryview, int]:
        """Modes and frame of the plane that starts at `at`, and where it ends; checked against the shape."""
        where = f"codec {self.id}, {plane} plane"
        if len(payload) - at < _HEADER.size:
            raise CodecError("a plane is cut short", where=where, came=f"{len(payload) - at} bytes")
        n_modes, n_frame = _HEADER.unpack_from(payload, at)
        rows = side.shape[0]
        n_blocks = -(-rows // self.adaptive_block_seq)
        if n_modes != n_blocks:
            raise CodecError(
                "a plane has another number of blocks than the shape gives",
                where=where,
                came=f"{n_modes} blocks",
                expected=f"{n_blocks} blocks ({rows} rows by {self.adaptive_block_seq})",
                hint="the payload is damaged, or belongs to another shape or block length",
            )
        start = at + _HEADER.size + n_modes
        end = start + n_frame
        if end > len(payload):
            raise CodecError(
                "a plane is cut short", where=where, came=f"{len(payload) - at} bytes", expected=f"{end - at} bytes"
            )
        modes = bytes(payload[start - n_modes : start])
        if modes and max(modes) >= len(PREDICTORS):
            raise CodecError(
                "a block has a mode that does not exist", where=where, came=str(max(modes)), expected="0 to 4"
            )
        return modes, payload[start:end], end


def _runs(modes: bytes, rows: int, block: int) -> Iterator[tuple[int, int, int, int]]:
    """Runs of blocks of one mode and length: (mode, first row, blocks, rows a block)."""
    whole = rows // block
    first = 0
    while first < len(modes):
        if first == whole:
            yield modes[first], first * block, 1, rows - first * block
            return
        last = first + 1
        while last < whole and modes[last] == modes[first]:
            last += 1
        yield modes[first], first * block, last - first, block
        first = last


def _check_predictors(setting: str, names: tuple[str, ...]) -> None:
    what = f"setting {setting!r} of codec {AdaptiveV22.id}"
    if not names:
        raise CodecError(f"{what} names no predictor", expected=", ".join(PREDICTORS))
    for name in names:
        if name not in PREDICTORS:
            raise CodecError(f"{what} names an unknown predictor", came=repr(name), expected=", ".join(PREDICTORS))
    if len(set(names)) < len(names):
        raise CodecError(f"{what} names a predictor twice", came=", ".join(names), expected="each at most once")
