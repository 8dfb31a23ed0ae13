"""The frame ``fp16_gear_predictive_v3``, in which the runtime keeps and counts its cold tokens.

A payload is (integers little-endian):

===========  ================================================================================================
bytes        content
===========  ================================================================================================
4            number of words
frame        low bytes
frame        high bytes
===========  ================================================================================================

and a frame is 1 byte predictor (0 raw, 1 delta, 2 xor), 1 byte code (0 run length, 1 zstd at level 3), 4 bytes
raw length, 4 bytes coded length, the coded bytes. Words stand head-major, ``[kv_heads, seq_len, head_dim]``;
predictors run over the flat bytes of a plane, each byte against the one before it, the first against 0.

Where coded is not smaller than raw the runtime counts raw bytes; here they are written: a payload as long as the
raw words is the words themselves, head-major. A coded one is always shorter, so the length tells them apart.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Codec, DType, SideInfo, Stream, Tensor, Words
from pytest_h2o.codecs.planes import (
    Plane,
    compress,
    decompress,
    from_bytes,
    join_planes,
    predict,
    restore,
    split_planes,
    to_bytes,
)
from pytest_h2o.codecs.wire import ByteReader
from pytest_h2o.errors import CodecError

PREDICTORS = ("raw", "delta_seq", "xor_seq")
CODES = ("rle", "zstd")
ZSTD_LEVEL = 3
MIN_RUN, MAX_RUN, MAX_LITERAL = 4, 131, 128
_COUNT = struct.Struct("<I")
_FRAME = struct.Struct("<BBII")
_Index = NDArray[np.int64]


@dataclass(frozen=True)
class GearV3(Codec):
    """The runtime's own frame: per byte plane the smallest of predictors by run length and zstd.

    Parameters
    ----------
    predictors_k, predictors_v : str
        Names of predictors for K and for V, with commas, in the order of trial: ``raw``, ``delta_seq``,
        ``xor_seq``. The first of equally small ones is taken. As in the runtime a name that it does not know
        (``pair_delta`` is one) is passed over, and if none is left ``raw`` is tried.
    """

    id: ClassVar[str] = "gear_v3"
    out_of_band: ClassVar[tuple[str, ...]] = ("shape",)
    max_overhead_bytes: ClassVar[int | None] = 0
    dtypes: ClassVar[tuple[DType, ...]] = ("fp16",)

    predictors_k: str = "raw,delta_seq,xor_seq,pair_delta"
    predictors_v: str = "raw,delta_seq,xor_seq"

    def encode(self, stream: Stream) -> bytes:
        self.check_dtype(stream)
        if stream.words.size >= 1 << 32:
            raise CodecError("a stream is too long for gear_v3", came=f"{stream.words.size} words", expected="< 2**32")
        head_major = np.ascontiguousarray(stream.words.transpose(1, 0, 2))
        hi, lo = split_planes(head_major.reshape(-1))
        known = self._known(stream.tensor)
        coded = _COUNT.pack(head_major.size) + _encode_plane(lo, known) + _encode_plane(hi, known)
        return coded if len(coded) < stream.raw_bytes else to_bytes(head_major)

    def count_wide(self, values: NDArray[np.float32], tensor: Tensor) -> int:
        """Bytes that the runtime counts for ``[seq_len, kv_heads, head_dim]`` of fp32: four planes, lowest first."""
        planes = np.ascontiguousarray(values.transpose(1, 0, 2).reshape(-1, 1).astype("<f4").view(np.uint8).T)
        coded = _COUNT.size + sum(len(_encode_plane(plane, self._known(tensor))) for plane in planes)
        return min(coded, planes.size)

    def _known(self, tensor: Tensor) -> list[str]:
        names = (self.predictors_k if tensor == "k" else self.predictors_v).split(",")
        return [name for name in map(str.strip, names) if name in PREDICTORS] or ["raw"]

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        self.check_dtype(side)
        seq_len, kv_heads, head_dim = side.shape
        head_major_shape = (kv_heads, seq_len, head_dim)
        if len(payload) == side.raw_bytes:
            head_major = from_bytes(payload, head_major_shape)
        else:
            lo, hi = (_decode_plane(frame, side.words) for frame in _read_frames(payload, side.words))
            head_major = join_planes(hi, lo, head_major_shape)
        return np.ascontiguousarray(head_major.transpose(1, 0, 2))

    def modes(self, payload: bytes | memoryview, side: SideInfo) -> Mapping[str, Mapping[str, int]]:
        if len(payload) == side.raw_bytes:
            return {"hi": {"stored": 1}, "lo": {"stored": 1}}
        lo, hi = (f"{frame.predictor}-{frame.code}" for frame in _read_frames(payload, side.words))
        return {"hi": {hi: 1}, "lo": {lo: 1}}


class _Frame(NamedTuple):
    predictor: str
    code: str
    coded: memoryview


def _encode_plane(plane: Plane, predictors: list[str]) -> bytes:
    """The smallest frame of `plane`, the first on a tie; run-length codes are planned where they could be smaller."""
    best_bytes, best = -1, b""
    for predictor in predictors:
        (residual,) = predict(plane, [predictor], slice(0, 1))
        coded, code = compress(residual, ZSTD_LEVEL), "zstd"
        if least_rle_bytes(residual) <= len(coded):
            plan = plan_rle(residual)
            if plan.encoded_bytes <= len(coded):
                coded, code = encode_rle(residual, plan), "rle"
        if best_bytes < 0 or len(coded) < best_bytes:
            best_bytes = len(coded)
            best = _FRAME.pack(PREDICTORS.index(predictor), CODES.index(code), plane.size, best_bytes) + coded
    return best


def _decode_plane(frame: _Frame, words: int) -> Plane:
    unpack = decode_rle if frame.code == "rle" else decompress
    plane: Plane = restore(np.frombuffer(unpack(frame.coded, words), np.uint8)[None], frame.predictor)[0]
    return plane


def _read_frames(payload: bytes | memoryview, words: int) -> list[_Frame]:
    """The frames of the low and of the high bytes."""
    reader = ByteReader(payload)
    (count,) = _COUNT.unpack(reader.take(_COUNT.size, "the number of words"))
    if count != words:
        raise CodecError("a gear_v3 payload does not fit its stream", came=f"{count} words", expected=f"{words} words")
    frames = []
    for _ in range(2):
        predictor, code, raw_bytes, coded_bytes = _FRAME.unpack(reader.take(_FRAME.size, "the header of a frame"))
        if predictor >= len(PREDICTORS) or code >= len(CODES) or raw_bytes != words:
            raise CodecError(
                "the header of a gear_v3 frame is damaged",
                came=f"predictor {predictor}, code {code}, {raw_bytes} bytes",
                expected=f"predictor 0 to 2, code 0 or 1, {words} bytes",
            )
        frames.append(_Frame(PREDICTORS[predictor], CODES[code], reader.take(coded_bytes, "a coded plane")))
    if reader.left:
        raise CodecError("bytes follow a gear_v3 payload", came=f"{reader.left} bytes", expected="none")
    return frames


# Run lengths: a control of 0 to 127 and one more literal bytes, or of 128 to 255 and a byte that stands 4 to 131 times


@dataclass(frozen=True)
class RlePlan:
    """The controls that a plane needs, in order: where each starts, how many bytes it covers, if it is a run."""

    start: _Index
    length: _Index
    is_run: NDArray[np.bool_]

    @property
    def encoded_bytes(self) -> int:
        """Length of the code: 2 bytes a run, 1 + its bytes a literal."""
        return int(np.where(self.is_run, 2, 1 + self.length).sum())


def plan_rle(plane: Plane) -> RlePlan:
    """Find the controls of `plane`, flat."""
    run_start, run_length = _split(*_long_runs(plane), MAX_RUN)
    long = run_length >= MIN_RUN
    run_start, run_length = run_start[long], run_length[long]
    gap_start = np.concatenate(([0], run_start + run_length))
    gap_length = np.concatenate((run_start, [plane.size])) - gap_start
    literal_start, literal_length = _split(gap_start, gap_length, MAX_LITERAL)
    start = np.concatenate((run_start, literal_start))
    order = np.argsort(start, kind="stable")
    return RlePlan(
        start=start[order],
        length=np.concatenate((run_length, literal_length))[order],
        is_run=np.repeat([True, False], (run_start.size, literal_start.size))[order],
    )


def least_rle_bytes(plane: Plane) -> int:
    """A bound that `RlePlan.encoded_bytes` of `plane` is never below, at a tenth of the cost of a plan.

    A run of L bytes has L - 3 places where `MIN_RUN` equal bytes start: it covers at most 4 bytes for each of them, and
    its code saves at most 2. What is not covered is literal, 128 bytes to a control.
    """
    same = plane[1:] == plane[:-1]
    starts = int(np.count_nonzero(same[:-2] & same[1:-1] & same[2:]))
    literal_bytes = max(0, plane.size - MIN_RUN * starts)
    return plane.size - 2 * starts - (-literal_bytes // MAX_LITERAL)


def encode_rle(plane: Plane, plan: RlePlan) -> bytes:
    """Code `plane` with its own `plan`."""
    size = np.where(plan.is_run, 2, 1 + plan.length)
    at = np.cumsum(size) - size
    out = np.empty(plan.encoded_bytes, dtype=np.uint8)
    out[at] = np.where(plan.is_run, 128 + plan.length - MIN_RUN, plan.length - 1)
    out[at[plan.is_run] + 1] = plane[plan.start[plan.is_run]]
    start, length = plan.start[~plan.is_run], plan.length[~plan.is_run]
    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    out[np.repeat(at[~plan.is_run] + 1, length) + within] = plane[np.repeat(start, length) + within]
    return out.tobytes()


def decode_rle(code: bytes | memoryview, size: int) -> bytes:
    """The `size` bytes that `code` stands for."""
    code = bytes(code)
    out = bytearray()
    at = 0
    while at < len(code):
        control = code[at]
        if control < 128:
            out += code[at + 1 : at + 2 + control]
            at += 2 + control
        else:
            out += code[at + 1 : at + 2] * (control - 128 + MIN_RUN)
            at += 2
        if len(out) > size or at > len(code):
            break
    if len(out) != size or at != len(code):
        raise CodecError("a run-length code does not fit its plane", where=f"byte {at}", expected=f"{size} bytes")
    return bytes(out)


def _long_runs(plane: Plane) -> tuple[_Index, _Index]:
    """Start and length of each maximal run of one value that has at least `MIN_RUN` bytes."""
    if plane.size < MIN_RUN:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    same = plane[1:] == plane[:-1]
    inside = np.zeros(plane.size - MIN_RUN + 3, dtype=np.int8)
    inside[1:-1] = same[:-2] & same[1:-1] & same[2:]  # a run of MIN_RUN starts here
    edge = np.diff(inside)
    start, end = np.flatnonzero(edge == 1), np.flatnonzero(edge == -1)
    return start, end - start + MIN_RUN - 1


def _split(start: _Index, length: _Index, most: int) -> tuple[_Index, _Index]:
    """Cut each span into pieces of `most`, the last one shorter; empty spans give no piece."""
    pieces = -(-length // most)
    within = (np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * most
    return np.repeat(start, pieces) + within, np.minimum(np.repeat(length, pieces) - within, most)
