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

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from pytest_h2o.codecs import planes as predictors
from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Tensor, Words
from pytest_h2o.codecs.planes import (
    PREDICTORS,
    Plane,
    check_level,
    compress_each,
    decompress,
    join_planes,
    split_planes,
)
from pytest_h2o.errors import CodecError

BATCH_BYTES = 1 << 19
"""Of one plane: with what all predictors make of it, this much stays in the cache of one core."""


class Part(NamedTuple):
    """Rows of one stream in a batch: from the first row of a block, `is_end` if the stream ends with them."""

    stream: int
    first: int
    rows: int
    is_end: bool


class _Block(NamedTuple):
    """One block of a part, and the bytes for zstd of every candidate that can differ from the others."""

    part: Part
    modes: Sequence[int]
    options: Sequence[memoryview]


def cut_batches(lengths: Sequence[int], block: int, row_bytes: int) -> Iterator[list[Part]]:
    """Cut streams of so many rows into batches of about `BATCH_BYTES`, parts at the edges of blocks of `block` rows."""
    most = max(1, BATCH_BYTES // max(1, block * row_bytes)) * block
    batch: list[Part] = []
    room = most
    for stream, length in enumerate(lengths):
        first, is_end = 0, False
        while not is_end:
            rows = min(length - first, room)
            is_end = first + rows == length
            batch.append(Part(stream, first, rows, is_end))
            first += rows
            room -= -(-rows // block) * block
            if room <= 0:
                yield batch
                batch, room = [], most
    if batch:
        yield batch


class PlaneCoder:
    """Codes one plane of streams, batch by batch.

    Parameters
    ----------
    streams : int
        How many there are.
    names : sequence of str
        Candidates out of `PREDICTORS`; the first wins a tie.
    block : int
        Rows a block, at least 1; the last of a stream may be shorter.
    level : int
        Of zstd.
    bitshuffle : bool
        Whether the bits of each predicted block are transposed.

    Attributes
    ----------
    modes : list of bytearray
        Of each stream, the place in `PREDICTORS` of each block's predictor.
    frames : list of bytes
        Of each stream, the frame of its predicted blocks, once it has ended.
    """

    def __init__(self, streams: int, names: Sequence[str], block: int, level: int, bitshuffle: bool) -> None:
        self._names, self._block, self._level, self._bitshuffle = names, block, level, bitshuffle
        self._codes = [PREDICTORS.index(name) for name in names]
        self._on_one_row = predictors.distinct_on_one_row(names)
        self._begun: dict[int, bytearray] = {}
        self.modes = [bytearray() for _ in range(streams)]
        self.frames = [b""] * streams

    def take(self, plane: Plane, batch: Sequence[Part]) -> None:
        """Code the parts of a batch, whose rows lie one after the other in `plane` ``[rows, kv_heads, head_dim]``."""
        blocks = self._predict(plane, batch)
        tried = [data for block in blocks if self._is_tried(block) for data in block.options]
        trials = iter(compress_each(tried, self._level))
        pieces: dict[int, list[memoryview]] = {part.stream: [] for part in batch}
        for block in blocks:
            part, best = block.part, 0
            if self._is_tried(block):
                frames = [next(trials) for _ in block.options]
                sizes = [len(frame) for frame in frames]
                best = sizes.index(min(sizes))
                if self._is_whole(part):
                    self.frames[part.stream] = bytes(frames[best])  # the trial of the only block is the stream's frame
            self.modes[part.stream].append(block.modes[best])
            pieces[part.stream].append(block.options[best])
        self._end(batch, pieces)

    def _predict(self, plane: Plane, batch: Sequence[Part]) -> list[_Block]:
        spans, at = [], 0
        for part in batch:
            spans += [
                (part, at + first, min(self._block, part.rows - first)) for first in range(0, part.rows, self._block)
            ]
            at += part.rows
        starts = np.array([first for _, first, _ in spans], np.intp)
        predicted = [one.reshape(-1) for one in predictors.predict(plane, self._names, starts)]
        row_bytes = plane.shape[1] * plane.shape[2]
        blocks = []
        for part, first, rows in spans:
            places = range(len(predicted)) if rows > 1 else self._on_one_row
            span = slice(first * row_bytes, (first + rows) * row_bytes)
            options = [self._shuffled(predicted[place][span]) for place in places]
            blocks.append(_Block(part, [self._codes[place] for place in places], options))
        return blocks

    def _is_whole(self, part: Part) -> bool:
        """Whether a part is a whole stream of one block."""
        return part.is_end and part.first == 0 and part.rows <= self._block

    def _is_tried(self, block: _Block) -> bool:
        return len(block.options) > 1 or self._is_whole(block.part)

    def _shuffled(self, data: predictors.FlatBytes) -> memoryview:
        return predictors.bitshuffle(data).data if self._bitshuffle else data.data

    def _end(self, batch: Sequence[Part], pieces: dict[int, list[memoryview]]) -> None:
        """Make the frames of the streams that end here; keep the bytes of those that go on."""
        ended: list[int] = []
        contents: list[bytes | bytearray | memoryview] = []
        for part in batch:
            if not part.is_end:
                self._begun.setdefault(part.stream, bytearray()).extend(b"".join(pieces[part.stream]))
            elif part.rows == 0 or not self._is_whole(part):
                begun = self._begun.pop(part.stream, None)
                ended.append(part.stream)
                if begun is None:
                    contents.append(b"".join(pieces[part.stream]))
                else:
                    begun.extend(b"".join(pieces[part.stream]))
                    contents.append(begun)
        for stream, frame in zip(ended, compress_each(contents, self._level), strict=True):
            self.frames[stream] = bytes(frame)


_HEADER = struct.Struct("<II")
_U32_MAX = 2**32 - 1


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
        return self.encode_many([stream])[0]

    def encode_many(self, streams: Sequence[Stream]) -> list[bytes]:
        payloads = [b""] * len(streams)
        alike: dict[tuple[Tensor, tuple[int, ...]], list[int]] = {}
        for place, stream in enumerate(streams):
            alike.setdefault((stream.tensor, stream.words.shape[1:]), []).append(place)
        for (tensor, _), places in alike.items():
            coded = self._encode_alike([streams[place].words for place in places], tensor)
            for place, payload in zip(places, coded, strict=True):
                payloads[place] = payload
        return payloads

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

    def _encode_alike(self, words: Sequence[Words], tensor: Tensor) -> list[bytes]:
        """Encode streams of equal heads and dimensions."""
        block = self.adaptive_block_seq
        hi, lo = (
            PlaneCoder(len(words), names, block, self.zstd_level, self.bitshuffle) for names in self.candidates(tensor)
        )
        for batch in cut_batches([len(one) for one in words], block, math.prod(words[0].shape[1:])):
            parts = [words[part.stream][part.first : part.first + part.rows] for part in batch]
            hi_plane, lo_plane = split_planes(parts[0] if len(parts) == 1 else np.concatenate(parts))
            hi.take(hi_plane, batch)
            lo.take(lo_plane, batch)
        return [
            b"".join(part for coder in (hi, lo) for part in self._plane(bytes(coder.modes[place]), coder.frames[place]))
            for place in range(len(words))
        ]

    def _plane(self, modes: bytes, frame: bytes) -> tuple[bytes, bytes, bytes]:
        if len(frame) > _U32_MAX:
            raise CodecError(f"codec {self.id}: the stream is too large", came=f"{len(frame)} bytes in one plane")
        return _HEADER.pack(len(modes), len(frame)), modes, frame

    def _decode_plane(self, payload: memoryview, at: int, side: SideInfo, plane: str) -> tuple[Plane, int]:
        modes, frame, end = self._split(payload, at, side, plane)
        rows, heads, dim = side.shape
        row_bytes = heads * dim
        coded = np.frombuffer(decompress(frame, rows * row_bytes), np.uint8)
        restored = []
        for mode, first, blocks, height in _runs(modes, rows, self.adaptive_block_seq):
            part = coded[first * row_bytes : (first + blocks * height) * row_bytes].reshape(blocks, height * row_bytes)
            if self.bitshuffle:
                part = predictors.bitunshuffle(part)
            undone = predictors.restore(part.reshape(blocks, height, heads, dim), PREDICTORS[mode])
            restored.append(undone.reshape(blocks * height, heads, dim))
        if not restored:
            return np.empty(side.shape, np.uint8), end
        return restored[0] if len(restored) == 1 else np.concatenate(restored), end

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
