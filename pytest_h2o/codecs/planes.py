"""16-bit words as planes of high and low bytes, and what codecs do with planes: frames, predictors, biases."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from pytest_h2o.codecs.base import DType, Words
from pytest_h2o.codecs.wire import ByteReader, encode_varint
from pytest_h2o.errors import CodecError

Plane = NDArray[np.uint8]
Buffer = bytes | bytearray | memoryview
__path__: list[str] = []  # so that codecs.planes.byte_planes, which is documented for 0.1, is looked for at all


def split_planes(words: Words, dtype: DType = "fp16") -> tuple[Plane, Plane]:
    """High and low bytes of `words`, each in its shape and C order.

    bf16 words are turned left by a bit first: high bytes are the exponents, low ones the mantissa and, last, the sign.
    """
    words = turn_left(np.ascontiguousarray(words)) if dtype == "bf16" else np.ascontiguousarray(words)
    return (words >> 8).astype(np.uint8), words.astype(np.uint8)


def join_planes(hi: Plane, lo: Plane, shape: tuple[int, ...], dtype: DType = "fp16") -> Words:
    """Words of `shape` from their high and low bytes; the inverse of `split_planes`."""
    words: Words = np.left_shift(hi, 8, dtype=np.uint16)
    words |= lo
    return (turn_right(words) if dtype == "bf16" else words).reshape(shape)


def turn_left(words: Words) -> Words:
    """Words with their sign behind the mantissa."""
    turned: Words = np.bitwise_or(words << 1, words >> 15, dtype=np.uint16)
    return turned


def turn_right(words: Words) -> Words:
    """Inverse of `turn_left`."""
    turned: Words = np.bitwise_or(words >> 1, words << 15, dtype=np.uint16)
    return turned


def to_bytes(words: Words) -> bytes:
    """`words` as little-endian bytes in C order."""
    return words.astype("<u2", copy=False).tobytes()


def from_bytes(data: bytes | memoryview, shape: tuple[int, ...]) -> Words:
    """Words of `shape`, owning their memory, from little-endian bytes in C order."""
    return np.frombuffer(data, dtype="<u2").astype(np.uint16).reshape(shape)


# zstd frames


class Search(Enum):
    """What zstd looks for in a bare frame beside the histogram of the bytes."""

    REPEATS = "repeats"
    HISTOGRAM = "histogram"


_FRAMED, _BARE, _NO_SIZE = zstandard.FORMAT_ZSTD1, zstandard.FORMAT_ZSTD1_MAGICLESS, zstandard.CONTENTSIZE_UNKNOWN
MIN_LEVEL, MAX_LEVEL = 1, 22
_LEAST_WINDOW = 1 << 10
"""The smallest window that a frame can declare."""
_SIZE_CLASSES = (1 << 14, 1 << 17, 1 << 18)
"""Up to these sizes of its input a level means other parameters each."""
_HAS_BATCHES = hasattr(zstandard.ZstdCompressor, "multi_compress_to_buffer")
"""Its other backend, for PyPy, has no call for many inputs."""
_WORTH_A_BATCH = 32
"""From so many inputs on a call for all of them makes up for the context that it makes."""


class _Contexts(threading.local):
    """Contexts of a thread: making one costs as much as a small frame, and none may be shared.

    Inputs of another size class have a context of their own, or zstd would clear its tables whenever the class changes.
    """

    def __init__(self) -> None:
        self.compressors: dict[tuple[int | Search, int], zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()
        self.bare_decompressor = zstandard.ZstdDecompressor(format=_BARE)

    def compressor(self, kind: int | Search, size: int) -> zstandard.ZstdCompressor:
        """Of a level, or for bare frames; for `size` bytes."""
        key = kind, bisect_left(_SIZE_CLASSES, size)
        found = self.compressors.get(key)
        if found is None:
            if isinstance(kind, Search):
                found = zstandard.ZstdCompressor(compression_params=_bare_parameters(kind))
            else:
                found = zstandard.ZstdCompressor(level=kind)
            self.compressors[key] = found
        return found


_contexts = _Contexts()


def _bare_parameters(search: Search) -> zstandard.ZstdCompressionParameters:
    bare: dict[str, Any] = {
        "format": _BARE,
        "write_content_size": False,
        "write_checksum": False,
    }
    if search is Search.REPEATS:
        return zstandard.ZstdCompressionParameters.from_level(3, **bare)
    return zstandard.ZstdCompressionParameters.from_level(
        1, **bare, strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, window_log=17
    )


def check_level(codec_id: str, level: int, setting: str = "level") -> None:
    """Raise `CodecError` unless `level`, the value of `setting`, is a zstd level from 1 to 22."""
    if not MIN_LEVEL <= level <= MAX_LEVEL:
        raise CodecError(
            f"setting {setting!r} of codec {codec_id} is out of range",
            came=str(level),
            expected=f"{MIN_LEVEL} to {MAX_LEVEL}",
        )


def compress(data: Buffer | Plane, kind: int | Search) -> bytes:
    """One zstd frame of `data` (contiguous, of bytes): of a level, or a bare one, without its magic number and size."""
    view = data.data if isinstance(data, np.ndarray) else memoryview(data)
    return _contexts.compressor(kind, view.nbytes).compress(view)


def compress_each(data: Sequence[Buffer], level: int) -> list[bytes] | list[memoryview]:
    """One zstd frame of each of `data` (contiguous, of bytes), the same as from `compress`; many of them in one call.

    Frames that are views keep the memory of all of them: those that are to live on should be copied.
    """
    if not _HAS_BATCHES or len(data) < _WORTH_A_BATCH or not all(data):  # it refuses to compress nothing
        return [compress(one, level) for one in data]
    frames = _contexts.compressor(level, len(data[0])).multi_compress_to_buffer(list(data))
    return [memoryview(frames[place]) for place in range(len(data))]  # type: ignore[arg-type]  # a buffer it is


def decompress(frame: bytes | memoryview, size: int, *, bare: bool = False) -> bytes:
    """The content of one frame of `compress` that must hold exactly `size` bytes, at least one in a bare frame."""
    kind, expected_size = (_BARE, _NO_SIZE) if bare else (_FRAMED, size)
    try:
        declared = zstandard.get_frame_parameters(frame, format=kind)
        if (declared_size := declared.content_size) != expected_size:
            raise _unfit("no size" if declared_size == _NO_SIZE else f"{declared_size} bytes", size)
        if (window := declared.window_size) > 2 * size and window > _LEAST_WINDOW:
            raise CodecError(
                "a zstd frame declares too large a window", came=f"{window} bytes", expected=f"about {size} bytes"
            )
        decompressor = _contexts.bare_decompressor if bare else _contexts.decompressor
        content = decompressor.decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodecError("a zstd frame is damaged", came=str(error), expected=f"a frame of {size} bytes") from error
    if len(content) != size:
        raise _unfit(f"{len(content)} bytes", size)
    return content


def _unfit(came: str, size: int) -> CodecError:
    return CodecError("a zstd frame does not fit its stream", came=came, expected=f"{size} bytes")


def compress_plane(plane: Plane, search: Search) -> bytes | None:
    """The bare frame of a plane's bytes in C order, or None where it is not smaller than the bytes."""
    frame = compress(np.ascontiguousarray(plane), search)
    return frame if len(frame) < plane.size else None


def decompress_plane(frame: memoryview, count: int, reader: ByteReader) -> Plane:
    """The `count` bytes of a frame that `reader` took; never allocates much more than that."""
    if count == 0:
        raise reader.damaged("a compressed plane of no bytes")
    try:
        return np.frombuffer(decompress(frame, count, bare=True), np.uint8)
    except CodecError as error:
        raise reader.damaged(error.what, came=error.came, expected=error.expected) from error


def write_plane(plane: Plane, search: Search | None) -> tuple[bool, bytes]:
    """Whether a plane became a frame, and its bytes: the frame, its length before it, or the plane."""
    frame = None if search is None else compress_plane(plane, search)
    if frame is None:
        return False, plane.tobytes()
    return True, encode_varint(len(frame)) + frame


def read_plane(reader: ByteReader, count: int, is_frame: bool) -> Plane:
    """Read what `write_plane` wrote of a plane of `count` bytes."""
    if is_frame:
        return decompress_plane(reader.take(reader.read_varint("the length of a plane", count)), count, reader)
    return np.frombuffer(reader.take(count), np.uint8)


# Predictors

PREDICTORS = ("raw", "delta_seq", "xor_seq", "pair_delta", "pair_delta_delta_seq")
"""Every predictor; its place here is its mode byte in an encoded stream, so the order never changes.

``delta_seq`` and ``xor_seq`` take the row before off, ``pair_delta`` the even element of a pair off the odd one.
"""


def predict(plane: Plane, names: Sequence[str], starts: slice | NDArray[np.intp]) -> list[Plane]:
    """Apply each predictor to a whole plane at once, block by block.

    Parameters
    ----------
    plane : numpy.ndarray of uint8, ``[rows, kv_heads, head_dim]``, C order
        ``raw`` gives this very array back, so it must not be written to afterwards.
    names : sequence of str
        Out of `PREDICTORS`; those of pairs need the last axis to be ``head_dim``.
    starts : slice or numpy.ndarray of int
        The first row of each block.

    Returns
    -------
    list of numpy.ndarray of uint8, of the shape of `plane`, C order
        In the order of `names`.
    """

    def on_rows(plane: Plane, operation: np.ufunc) -> Plane:
        out = np.empty_like(plane)
        operation(plane[1:], plane[:-1], out=out[1:])  # over all blocks at once; their first rows are put right below
        out[starts] = plane[starts]
        return out

    paired = _on_pairs(plane, np.subtract) if any(name.startswith("pair_delta") for name in names) else plane
    made: dict[str, Callable[[], Plane]] = {
        "raw": lambda: plane,
        "delta_seq": lambda: on_rows(plane, np.subtract),
        "xor_seq": lambda: on_rows(plane, np.bitwise_xor),
        "pair_delta": lambda: paired,
        "pair_delta_delta_seq": lambda: on_rows(paired, np.subtract),
    }
    return [made[name]() for name in names]


def restore(blocks: Plane, name: str) -> Plane:
    """Undo one predictor on blocks of equal length, uint8 ``[blocks, rows, kv_heads, head_dim]``, C order.

    They are left as they are; ``raw`` gives them back themselves.
    """
    if name == "raw":
        return blocks
    if name == "xor_seq":
        undone: Plane = np.bitwise_xor.accumulate(blocks, axis=1)
        return undone
    paired: Plane = blocks if name == "pair_delta" else np.add.accumulate(blocks, axis=1, dtype=np.uint8)
    return _on_pairs(paired, np.add) if name.startswith("pair_delta") else paired


def _on_pairs(plane: Plane, operation: np.ufunc) -> Plane:
    """Apply `operation` to every odd element of the last axis and the even one before it."""
    if plane.shape[-1] % 2 == 0:
        pairs = plane.view("<u2")  # the even element is the low byte, so that one shift serves all pairs
        moved: Plane = operation(pairs, pairs << 8).view(np.uint8)
        return moved
    out: Plane = plane.copy()
    odd = out[..., 1::2]
    operation(odd, plane[..., 0 : plane.shape[-1] - 1 : 2], out=odd)
    return out


def bitshuffle(data: Plane) -> Plane:
    """Turn uint8 ``[n]``, seen as bits ``[n, 8]``, least significant first, into the bits ``[8, n]``, packed alike."""
    if data.size % 8 == 0:
        return np.concatenate([np.packbits(data & np.uint8(1 << bit), bitorder="little") for bit in range(8)])
    bits = np.unpackbits(data, bitorder="little").reshape(-1, 8)
    return np.packbits(bits.T.ravel(), bitorder="little")


def bitunshuffle(blocks: Plane) -> Plane:
    """Undo `bitshuffle` on blocks of equal length, uint8 ``[blocks, n]``."""
    bits = np.unpackbits(blocks, axis=1, bitorder="little").reshape(len(blocks), 8, -1)
    out: Plane = bits[:, 0].copy()
    for bit in range(1, 8):
        out |= bits[:, bit] << np.uint8(bit)
    return out


# Biases

_SAMPLED_ROWS = 64
_PLACE_VALUES = [np.array([128, *(1 << bit for bit in reversed(range(bits)))], np.uint8) for bits in range(8)]
"""What the bits of a channel stand for, by the bits of an offset: the sign comes to lie in bit 7, the offset below."""


@dataclass(frozen=True)
class ChannelBias:
    """`bias` 0 to 127, or 255 for bf16, and `sign` 0 or 128 a channel, uint8 ``[channels]``.

    Gathers channels of unlike scale. The sign is in the high bytes of fp16 words, in the low ones of bf16 (see
    `split_planes`).
    """

    bias: Plane
    sign: Plane
    dtype: DType = "fp16"

    def apply(self, hi: Plane, lo: Plane) -> tuple[Plane, Plane]:
        """Shift the bytes ``[rows, channels]``; fp16 low bytes stay what they are."""
        if self.dtype == "bf16":
            return hi - self.bias, np.bitwise_xor(lo, self.sign >> 7, dtype=np.uint8)
        shifted = hi ^ self.sign
        shifted -= self.bias
        return shifted, lo

    def undo(self, shifted: Plane, lo: Plane) -> tuple[Plane, Plane]:
        """Inverse of `apply`."""
        hi = shifted + self.bias
        if self.dtype == "bf16":
            return hi, np.bitwise_xor(lo, self.sign >> 7, dtype=np.uint8)
        hi ^= self.sign
        return hi, lo


def choose_bias(hi: Plane, lo: Plane, dtype: DType) -> ChannelBias:
    """Choose bias and sign from the bytes ``[rows, channels]``; at least one row.

    A sample of the rows is enough: the choice moves the size by a per mille.
    """
    # Sixteen bits, because numpy sorts them many times faster than eight.
    step = max(1, len(hi) // _SAMPLED_ROWS)
    sampled = hi[::step]
    count = len(sampled)
    is_bf16 = dtype == "bf16"
    negative = np.add.reduce(lo[::step] & 1 if is_bf16 else sampled >> 7, axis=0, dtype=np.uint16)
    sample = (sampled if is_bf16 else sampled & 0x7F).T.astype(np.uint16)
    sample.sort(axis=1)
    bias = sample[:, count * 3 // 4].astype(np.uint8)
    if is_bf16:
        bias = np.minimum(bias, min(255, int(bias.min()) + 127))  # an offset has seven bits
    return ChannelBias(bias=bias, sign=(negative > count // 2) * np.uint8(128), dtype=dtype)


def write_bias(table: ChannelBias) -> bytes:
    """The least bias, the bits of an offset to it, then sign and offset of each channel, packed bit by bit."""
    low = int(table.bias.min())
    bits = int(table.bias.max() - low).bit_length()
    fields = ((table.sign >> 7 << bits) | (table.bias - low)).astype(np.uint8)
    columns = np.unpackbits(fields[:, None], axis=1)[:, 7 - bits :]
    return bytes([low, bits]) + np.packbits(columns).tobytes()


def read_bias(reader: ByteReader, channels: int, dtype: DType) -> ChannelBias:
    """Read the table of `channels` channels."""
    low, bits = reader.read_byte(), reader.read_byte()
    most = 255 if dtype == "bf16" else 127
    if low > most or bits > 7:
        expected = f"0 to {most}, 0 to 7"
        raise reader.damaged("a bias table is out of range", came=f"{low}, {bits} bits", expected=expected)
    width = bits + 1
    packed = np.frombuffer(reader.take((channels * width + 7) // 8), np.uint8)
    fields = np.unpackbits(packed, count=channels * width).reshape(channels, width) @ _PLACE_VALUES[bits]
    return ChannelBias(bias=(fields & 0x7F) + np.uint8(low), sign=fields & np.uint8(0x80), dtype=dtype)
