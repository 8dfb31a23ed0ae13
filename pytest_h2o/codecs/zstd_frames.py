"""One-shot zstd frames, read without trusting them.

The frame layout is that of RFC 8878: magic number, frame header, blocks of at most 128 KiB each behind a
3-byte header (bit 0 last block, bits 1-2 type, bits 3-23 size), and an optional 4-byte checksum.
"""

from __future__ import annotations

import threading

import zstandard

from pytest_h2o.errors import CodecError

_MAGIC = b"\x28\xb5\x2f\xfd"
_RLE_BLOCK = 1
_RESERVED_BLOCK = 3
_HIGHEST_LEVEL = 22

_per_thread = threading.local()


def check_level(level: object, codec_id: str) -> None:
    """Refuse what is no zstd level from 1 to 22.

    Raises
    ------
    CodecError
    """
    if isinstance(level, bool) or not isinstance(level, int) or not 1 <= level <= _HIGHEST_LEVEL:
        raise CodecError(
            f"codec {codec_id}: zstd_level is no level of zstd",
            came=repr(level),
            expected=f"a whole number from 1 to {_HIGHEST_LEVEL}",
        )


def compressor(level: int) -> zstandard.ZstdCompressor:
    """The calling thread's compressor for `level`; it writes one-shot frames with content size, no checksum.

    A compressor is not safe to share between threads and is slow to set up, so that each thread keeps its
    own for the level it used last. Which one is used never shows in the bytes.
    """
    kept: tuple[int, zstandard.ZstdCompressor] | None = getattr(_per_thread, "compressor", None)
    if kept is None or kept[0] != level:
        kept = (level, zstandard.ZstdCompressor(level=level))
        _per_thread.compressor = kept
    return kept[1]


def read_frame(frame: bytes | memoryview, expected_bytes: int, where: str) -> bytes:
    """Decompress exactly one frame that must hold exactly `expected_bytes`.

    The size that the frame declares is compared before anything is allocated for it.

    Raises
    ------
    CodecError
        No frame, another size, damage, or bytes behind the frame.
    """
    if frame_length(frame, where) != len(frame):
        raise CodecError("bytes behind the end of a zstd frame", where=where, hint="the payload is damaged")
    declared = zstandard.get_frame_parameters(frame).content_size
    if declared != expected_bytes:
        raise CodecError(
            "a zstd frame declares another size than the shape gives",
            where=where,
            came=f"{declared} bytes",
            expected=f"{expected_bytes} bytes",
            hint="the payload is damaged, or belongs to another shape",
        )
    try:
        data = _decompressor().decompress(frame, max_output_size=expected_bytes)
    except zstandard.ZstdError as error:
        raise CodecError("a zstd frame is damaged", where=where, came=str(error)) from error
    if len(data) != expected_bytes:
        raise CodecError(
            "a zstd frame holds another number of bytes than it declares",
            where=where,
            came=f"{len(data)} bytes",
            expected=f"{expected_bytes} bytes",
        )
    return data


def frame_length(data: bytes | memoryview, where: str) -> int:
    """Bytes that the zstd frame at the start of `data` takes, found by walking its block headers.

    Raises
    ------
    CodecError
        There is no whole frame.
    """
    if bytes(data[:4]) != _MAGIC:
        raise CodecError("no zstd frame", where=where, came=bytes(data[:4]).hex() or "no bytes", expected=_MAGIC.hex())
    try:
        at = zstandard.frame_header_size(data)
        has_checksum = zstandard.get_frame_parameters(data).has_checksum
    except zstandard.ZstdError as error:
        raise CodecError("a zstd frame header is damaged", where=where, came=str(error)) from error
    last = False
    while not last:
        if at + 3 > len(data):
            raise CodecError("a zstd frame is cut short", where=where, came=f"{len(data)} bytes")
        header = int.from_bytes(data[at : at + 3], "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        if kind == _RESERVED_BLOCK:
            raise CodecError("a zstd frame has a block of no known type", where=where)
        at += 3 + (1 if kind == _RLE_BLOCK else size)
    at += 4 if has_checksum else 0
    if at > len(data):
        raise CodecError("a zstd frame is cut short", where=where, came=f"{len(data)} bytes", expected=f"{at} bytes")
    return at


def _decompressor() -> zstandard.ZstdDecompressor:
    kept: zstandard.ZstdDecompressor | None = getattr(_per_thread, "decompressor", None)
    if kept is None:
        kept = zstandard.ZstdDecompressor()
        _per_thread.decompressor = kept
    return kept
