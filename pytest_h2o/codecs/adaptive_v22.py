"""The codec of the original evaluation script in its two modes, adaptive_v22 and legacy.

adaptive_v22: byte planes, the best of a few predictors for each block, one zstd frame a plane. Payload: the high plane,
then the low plane, each

======================= ===========================================================================
bytes                   what
======================= ===========================================================================
4                       number of blocks, u32 little-endian
4                       length of the zstd frame, u32 little-endian
1 a block               mode: the place of the block's predictor in `planes.PREDICTORS`
the rest                one zstd frame with content size: the predicted blocks, one after the other
======================= ===========================================================================

A block is `adaptive_block_seq` rows (all rows, if there are fewer; the last block may be shorter). Its
predictor is the one whose predicted bytes make the smallest zstd frame by themselves, the first on a tie.
With `bitshuffle` the bits of each predicted block are transposed before zstd sees them.

legacy: one predictor for each plane of the whole stream, see `Legacy`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar, NamedTuple

import numpy as np
import zstandard

from pytest_h2o.codecs import planes
from pytest_h2o.codecs.base import Codec, DType, SideInfo, Stream, Tensor, Words
from pytest_h2o.codecs.planes import PREDICTORS, Plane, check_level, compress_each, decompress
from pytest_h2o.errors import CodecError

BATCH_BYTES = 1 << 19
"""Of one plane: with what all predictors make of it, this much stays in the cache of one core."""

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
    dtypes: ClassVar[tuple[DType, ...]] = ("fp16",)

    def __post_init__(self) -> None:
        check_level(self.id, self.zstd_level, "zstd_level")
        if self.adaptive_block_seq < 1:
            raise CodecError(
                f"setting 'adaptive_block_seq' of codec {self.id} is out of range",
                came=str(self.adaptive_block_seq),
                expected="at least 1 row",
            )
        for setting in ("k_hi_predictors", "k_lo_predictors", "v_hi_predictors", "v_lo_predictors"):
            what, names = f"setting {setting!r} of codec {self.id}", getattr(self, setting)
            if not names:
                raise CodecError(f"{what} names no predictor", expected=", ".join(PREDICTORS))
            if unknown := [name for name in names if name not in PREDICTORS]:
                expected = ", ".join(PREDICTORS)
                raise CodecError(f"{what} names an unknown predictor", came=repr(unknown[0]), expected=expected)
            if len(set(names)) < len(names):
                raise CodecError(f"{what} names a predictor twice", came=", ".join(names), expected="each at most once")

    def encode(self, stream: Stream) -> bytes:
        return self.encode_many([stream])[0]

    def encode_many(self, streams: Sequence[Stream]) -> list[bytes]:
        payloads = [b""] * len(streams)
        alike: dict[tuple[Tensor, tuple[int, ...]], list[int]] = {}
        for place, stream in enumerate(streams):
            self.check_dtype(stream)
            alike.setdefault((stream.tensor, stream.words.shape[1:]), []).append(place)
        for (tensor, _), places in alike.items():
            coded = self._encode_alike([streams[place].words for place in places], tensor)
            for place, payload in zip(places, coded, strict=True):
                payloads[place] = payload
        return payloads

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        self.check_dtype(side)
        parts = self._split(payload, side)
        hi, lo = (self._decode_plane(modes, decompress(frame, side.words), side) for modes, frame in parts)
        return planes.join_planes(hi, lo, side.shape)

    def modes(self, payload: bytes | memoryview, side: SideInfo) -> Mapping[str, Mapping[str, int]]:
        parts = zip(("hi", "lo"), self.candidates(side.tensor), self._split(payload, side), strict=True)
        return {
            plane: {name: modes.count(PREDICTORS.index(name)) for name in names} for plane, names, (modes, _) in parts
        }

    def plane_bytes(self, payload: bytes | memoryview, side: SideInfo) -> Mapping[str, int]:
        parts = zip(("hi", "lo"), self._split(payload, side), strict=True)
        return {plane: _HEADER.size + len(modes) + len(frame) for plane, (modes, frame) in parts}

    def candidates(self, tensor: Tensor) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Predictors that are tried for the high and for the low plane of K or V."""
        if tensor == "k":
            return self.k_hi_predictors, self.k_lo_predictors
        return self.v_hi_predictors, self.v_lo_predictors

    def _encode_alike(self, words: Sequence[Words], tensor: Tensor) -> list[bytes]:
        """Encode streams of equal heads and dimensions."""
        coders = [_PlaneCoder(self, names, len(words)) for names in self.candidates(tensor)]
        for batch in _batches(words, self.adaptive_block_seq):
            parts = []
            for stream, group in groupby(batch, key=lambda block: block.stream):
                blocks = list(group)
                parts.append(words[stream][blocks[0].first : blocks[-1].first + blocks[-1].rows])
            together = parts[0] if len(parts) == 1 else np.concatenate(parts)
            for coder, plane in zip(coders, planes.split_planes(together), strict=True):
                coder.take(plane, batch)
        hi, lo = (coder.end() for coder in coders)
        return [b"".join(parts) for parts in zip(hi, lo, strict=True)]

    def _split(self, payload: bytes | memoryview, side: SideInfo) -> list[tuple[bytes, memoryview]]:
        """Modes and frame of the high and the low plane, checked against the shape."""
        view, at, parts = memoryview(payload), 0, []
        rows = side.shape[0]
        n_blocks = -(-rows // self.adaptive_block_seq)
        for plane in ("hi", "lo"):
            where, left = f"codec {self.id}, {plane} plane", len(view) - at
            if left < _HEADER.size:
                raise CodecError("a plane is cut short", where=where, came=f"{left} bytes")
            n_modes, n_frame = _HEADER.unpack_from(view, at)
            if n_modes != n_blocks:
                raise CodecError(
                    "a plane has another number of blocks than the shape gives",
                    where=where,
                    came=f"{n_modes} blocks",
                    expected=f"{n_blocks} blocks ({rows} rows by {self.adaptive_block_seq})",
                    hint="the payload is damaged, or belongs to another shape or block length",
                )
            size = _HEADER.size + n_modes + n_frame
            if size > left:
                came, expected = f"{left} bytes", f"{size} bytes"
                raise CodecError("a plane is cut short", where=where, came=came, expected=expected)
            modes = bytes(view[at + _HEADER.size : at + size - n_frame])
            if modes and max(modes) >= len(PREDICTORS):
                came = str(max(modes))
                raise CodecError("a block has a mode that does not exist", where=where, came=came, expected="0 to 4")
            parts.append((modes, view[at + size - n_frame : at + size]))
            at += size
        if at != len(view):
            raise CodecError(
                f"codec {self.id}: bytes behind the end of the payload",
                came=f"{len(view)} bytes",
                expected=f"{at} bytes",
                hint="the payload is damaged",
            )
        return parts

    def _decode_plane(self, modes: bytes, content: bytes, side: SideInfo) -> Plane:
        """Undo the predictors; runs of blocks of one mode and height at once."""
        rows, heads, dim = side.shape
        whole, rest = divmod(rows, self.adaptive_block_seq)
        runs = [(mode, len(list(run)), self.adaptive_block_seq) for mode, run in groupby(modes[:whole])]
        if rest:
            runs.append((modes[-1], 1, rest))
        coded = np.frombuffer(content, np.uint8)
        restored, at = [], 0
        for mode, blocks, height in runs:
            size = blocks * height * heads * dim
            part = coded[at : at + size]
            if self.bitshuffle:
                part = planes.bitunshuffle(part.reshape(blocks, -1))
            restored.append(planes.restore(part.reshape(blocks, height, heads, dim), PREDICTORS[mode]).reshape(-1))
            at += size
        return np.concatenate(restored) if len(restored) > 1 else restored[0] if restored else coded


class _Block(NamedTuple):
    """Rows `first` to `first + rows` of a stream; `is_only` where it has no others."""

    stream: int
    first: int
    rows: int
    is_only: bool


def _batches(words: Sequence[Words], height: int) -> Iterator[list[_Block]]:
    """The blocks of all streams in order, in batches of about `BATCH_BYTES`."""
    batch: list[_Block] = []
    room = BATCH_BYTES
    for stream, one in enumerate(words):
        for first in range(0, len(one), height):
            rows = min(height, len(one) - first)
            batch.append(_Block(stream, first, rows, len(one) <= height))
            room -= rows * one[0].size
            if room <= 0:
                yield batch
                batch, room = [], BATCH_BYTES
    if batch:
        yield batch


class _PlaneCoder:
    """Codes one plane of streams, batch by batch, with the candidates `names`; the first wins a tie."""

    def __init__(self, codec: AdaptiveV22, names: Sequence[str], streams: int) -> None:
        self._codec, self._names = codec, names
        self._modes = [bytearray() for _ in range(streams)]
        self._contents = [bytearray() for _ in range(streams)]
        self._frames = [b""] * streams
        # A single row has no row before it: predictors differ only in whether they look at pairs. Leaving the later
        # of two equal candidates out never changes which one is chosen.
        first: dict[bool, int] = {}
        for place, name in enumerate(names):
            first.setdefault(name.startswith("pair_delta"), place)
        self._on_one_row = tuple(first.values())

    def take(self, plane: Plane, batch: Sequence[_Block]) -> None:
        """Choose the predictors of blocks whose rows lie one after the other in ``[rows, kv_heads, head_dim]``."""
        starts = np.cumsum([0, *(block.rows for block in batch)], dtype=np.intp)
        predicted = [one.reshape(-1) for one in planes.predict(plane, self._names, starts[:-1])]
        row_bytes = plane.shape[1] * plane.shape[2]
        ends = (starts * row_bytes).tolist()
        blocks, tried = [], []
        for block, start, end in zip(batch, ends, ends[1:], strict=False):
            places = range(len(predicted)) if block.rows > 1 else self._on_one_row
            options = [self._shuffled(predicted[place][start:end]) for place in places]
            blocks.append((block, places, options))
            if len(options) > 1 or block.is_only:
                tried += options
        trials = iter(compress_each(tried, self._codec.zstd_level))
        for block, places, options in blocks:
            best = 0
            if len(options) > 1 or block.is_only:
                frames = [next(trials) for _ in options]
                sizes = [len(frame) for frame in frames]
                best = sizes.index(min(sizes))
                if block.is_only:
                    self._frames[block.stream] = bytes(frames[best])  # its trial is the frame of the stream
            self._modes[block.stream].append(PREDICTORS.index(self._names[places[best]]))
            if not block.is_only:
                self._contents[block.stream] += options[best]

    def _shuffled(self, data: Plane) -> memoryview:
        return planes.bitshuffle(data).data if self._codec.bitshuffle else data.data

    def end(self) -> list[bytes]:
        """The plane of each stream, as it stands in the payload."""
        left = [stream for stream, frame in enumerate(self._frames) if not frame]
        made = compress_each([self._contents[stream] for stream in left], self._codec.zstd_level)
        for stream, frame in zip(left, made, strict=True):
            self._frames[stream] = bytes(frame)
        coded = []
        for modes, frame in zip(self._modes, self._frames, strict=True):
            if len(frame) > _U32_MAX:
                raise CodecError(
                    f"codec {self._codec.id}: the stream is too large", came=f"{len(frame)} bytes in one plane"
                )
            coded.append(_HEADER.pack(len(modes), len(frame)) + modes + frame)
        return coded


_RLE_BLOCK = 1
_LEGACY_PREDICTORS = {"hi": "delta_seq", "lo": "raw"}


@dataclass(frozen=True)
class Legacy(Codec):
    """High bytes as row differences and low bytes as they are, a zstd frame each.

    Payload: the frame of the high plane (``delta_seq`` over the whole stream), then the frame of the low plane
    (``raw``), with nothing around them: each frame tells its own end. With `bitshuffle` the bits of each plane of the
    stream are transposed before zstd sees them.

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
    dtypes: ClassVar[tuple[DType, ...]] = ("fp16",)

    def __post_init__(self) -> None:
        check_level(self.id, self.zstd_level, "zstd_level")

    def encode(self, stream: Stream) -> bytes:
        self.check_dtype(stream)
        frames = []
        for plane, name in zip(planes.split_planes(stream.words), _LEGACY_PREDICTORS.values(), strict=True):
            (predicted,) = planes.predict(plane, [name], slice(0, 1))
            data: Plane = predicted.reshape(-1)
            frames.append(planes.compress(planes.bitshuffle(data) if self.bitshuffle else data, self.zstd_level))
        return b"".join(frames)

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        self.check_dtype(side)
        view = memoryview(payload)
        end_of_hi = _frame_length(view)
        restored = []
        for frame, name in zip((view[:end_of_hi], view[end_of_hi:]), _LEGACY_PREDICTORS.values(), strict=True):
            coded = np.frombuffer(decompress(frame, side.words), np.uint8).reshape(1, -1)
            if self.bitshuffle:
                coded = planes.bitunshuffle(coded)
            restored.append(planes.restore(coded.reshape(1, *side.shape), name)[0])
        return planes.join_planes(restored[0], restored[1], side.shape)

    def modes(self, payload: bytes | memoryview, side: SideInfo) -> Mapping[str, Mapping[str, int]]:
        return {plane: {name: 1} for plane, name in _LEGACY_PREDICTORS.items()}

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
