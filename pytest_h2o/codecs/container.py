r"""A container for encoded bytes that are kept or sent: everything that decoding needs, and what refuses damage.

Layout, version 1 (varint: LEB128, low bits first; integers and floats little-endian):

==============  =============================================================================================
bytes           content
==============  =============================================================================================
4               magic, 89 48 32 4F (``\x89H2O``)
1               version, 1
1               flags: 1 tensor is V; 2 positions; 4 rope; 8 pairing interleaved; 16 settings; others are 0
varint, text    length and id of the codec, ASCII
varint, text    with flag 16: length and settings that differ from their defaults, JSON with sorted keys, UTF-8
3 varints       shape: seq_len, kv_heads, head_dim
varint, 2 each  with flag 2: number of runs of positions; for each the distance of its first position from the
                one after the last run (zigzag: 0, -1, 1, -2 are 0, 1, 2, 3), and its length
8               with flag 4: theta, float64
varint, bytes   length of the payload, payload
4               CRC-32 (ISO 3309, as in zlib and gzip) of all bytes before it
==============  =============================================================================================

What is refused. A CRC-32 changes with every single flipped bit and every burst of up to 32 bits, wherever it
is, so these are detected always; of other damage one in 2**32 passes. A truncated container no longer has the
length that its own lengths add up to, so every truncation is detected without help of the checksum, and so are
bytes that follow. A wider checksum would cost 4 bytes more on every container and detect nothing more of these.
It is no signature: it protects against accidents, not against an author.

What is bounded. The words that a container declares (positions counted with 8 bytes each) are at most
`MAX_RAW_BYTES` and at most `MAX_EXPANSION` times the bytes that are there; that is checked before anything of
that size is made. No zstd frame expands by more than half of `MAX_EXPANSION`.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Codec, Rope, SideInfo, Stream, Words
from pytest_h2o.codecs.registry import codec_from_config
from pytest_h2o.codecs.wire import ByteReader, decode_positions, encode_positions, encode_varint
from pytest_h2o.errors import CodecError

MAGIC = b"\x89H2O"
VERSION = 1
MAX_RAW_BYTES = 1 << 30
MAX_EXPANSION = 1 << 16
MAX_ID_BYTES = 64
MAX_SETTINGS_BYTES = 4096
_IS_V, _POSITIONS, _ROPE, _INTERLEAVED, _SETTINGS = 1, 2, 4, 8, 16
_THETA = struct.Struct("<d")
_CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True)
class Container:
    """What a container holds.

    Attributes
    ----------
    codec : Codec
        Configured as the one that encoded.
    side : SideInfo
    positions : numpy.ndarray of int64, ``[seq_len]``, or None
    rope : Rope or None
    payload : bytes
        What `codec` encoded.
    total_bytes : int
        Length of the container.
    """

    codec: Codec
    side: SideInfo
    positions: NDArray[np.int64] | None
    rope: Rope | None
    payload: bytes
    total_bytes: int

    @property
    def overhead_bytes(self) -> int:
        """Bytes of the container beside its payload."""
        return self.total_bytes - len(self.payload)


def write_container(codec: Codec, stream: Stream, payload: bytes) -> bytes:
    """Wrap `payload`, which `codec` made of `stream`."""
    side = stream.side_info()
    settings = _encode_settings(codec)
    rope, positions = stream.rope, stream.positions
    flags = (
        (_IS_V if stream.tensor == "v" else 0)
        | (_POSITIONS if positions is not None else 0)
        | (_ROPE if rope is not None else 0)
        | (_INTERLEAVED if rope is not None and rope.pairing == "interleaved" else 0)
        | (_SETTINGS if settings else 0)
    )
    parts = [MAGIC, bytes((VERSION, flags)), _sized(codec.id.encode("ascii"))]
    if settings:
        parts.append(_sized(settings))
    parts += map(encode_varint, side.shape)
    if positions is not None:
        parts.append(encode_positions(positions))
    if rope is not None:
        parts.append(_THETA.pack(_checked_theta(rope.theta)))
    parts.append(_sized(payload))
    body = b"".join(parts)
    _check_size(side, positions is not None, len(body) + _CHECKSUM.size)
    return body + _CHECKSUM.pack(zlib.crc32(body))


def read_container(data: bytes | bytearray | memoryview) -> Container:
    """Check and take apart a container; the payload is not decoded."""
    data = memoryview(data).cast("B")
    if bytes(data[: len(MAGIC)]) != MAGIC:
        raise CodecError("this is no container", came=bytes(data[: len(MAGIC)]).hex(), expected=MAGIC.hex())
    if len(data) < len(MAGIC) + 2 + _CHECKSUM.size:
        raise CodecError("a container is cut short", came=f"{len(data)} bytes")
    if data[len(MAGIC)] != VERSION:
        raise CodecError(
            "a container has a version that is not known here", came=str(data[len(MAGIC)]), expected=str(VERSION)
        )
    body = data[: -_CHECKSUM.size]
    (checksum,) = _CHECKSUM.unpack(data[-_CHECKSUM.size :])
    if zlib.crc32(body) != checksum:
        raise CodecError(
            "a container is damaged", came=f"checksum {zlib.crc32(body):08x}", expected=f"checksum {checksum:08x}"
        )
    return _read_body(body)


def decode_container(data: bytes | bytearray | memoryview) -> Words:
    """The words in a container, ``[seq_len, kv_heads, head_dim]``."""
    container = read_container(data)
    words = container.codec.decode(container.payload, container.side)
    if words.shape != container.side.shape or words.dtype != np.uint16:
        raise CodecError(
            f"codec {container.codec.id} decoded to other than it was asked for",
            came=f"{words.dtype.str} {list(words.shape)}",
            expected=f"uint16 {list(container.side.shape)}",
        )
    return words


def _read_body(body: memoryview) -> Container:
    """`body` is all but the checksum, which was right."""
    reader = ByteReader(body)
    flags = reader.take(len(MAGIC) + 2, "the head of the container")[-1]
    if flags >= 2 * _SETTINGS or (flags & _INTERLEAVED and not flags & _ROPE):
        raise CodecError("a container has flags that are not known here", came=f"{flags:08b}")
    codec_id = _text(_take_sized(reader, "the id of the codec", MAX_ID_BYTES), "the id of the codec")
    settings = _take_sized(reader, "the settings of the codec", MAX_SETTINGS_BYTES) if flags & _SETTINGS else b"{}"
    shape = tuple(reader.read_varint("the shape") for _ in range(3))
    side = SideInfo(tensor="v" if flags & _IS_V else "k", shape=(shape[0], shape[1], shape[2]))
    _check_size(side, bool(flags & _POSITIONS), len(body) + _CHECKSUM.size)
    positions = decode_positions(reader, shape[0]) if flags & _POSITIONS else None
    rope = None
    if flags & _ROPE:
        pairing: Literal["half", "interleaved"] = "interleaved" if flags & _INTERLEAVED else "half"
        rope = Rope(_checked_theta(_THETA.unpack(reader.take(_THETA.size, "theta"))[0]), pairing)
    payload = bytes(_take_sized(reader, "the payload", len(body)))
    if reader.left:
        raise CodecError("bytes follow the payload of a container", came=f"{reader.left} bytes", expected="none")
    codec = codec_from_config({**_decode_settings(settings), "id": codec_id})
    return Container(codec, side, positions, rope, payload, len(body) + _CHECKSUM.size)


def _check_size(side: SideInfo, has_positions: bool, total_bytes: int) -> None:
    # An axis of no length counts as one: numpy refuses the others beside it where their product is too large.
    declared = 2 * math.prod(max(axis, 1) for axis in side.shape) + (8 * side.shape[0] if has_positions else 0)
    limit = min(MAX_RAW_BYTES, MAX_EXPANSION * total_bytes)
    if declared > limit:
        raise CodecError(
            "a container declares too much",
            came=f"{declared} bytes for the shape {list(side.shape)}",
            expected=f"at most {limit} in {total_bytes} bytes",
            hint="cut the stream in chunks",
        )


def _encode_settings(codec: Codec) -> bytes:
    """Settings that differ from their defaults, as JSON; nothing if there are none."""
    defaults = {f.name: f.default for f in fields(codec)}
    config = codec.config()
    changed = {
        k: v for k, v in config.items() if k != "id" and not (k in defaults and getattr(codec, k) == defaults[k])
    }
    if not changed:
        return b""
    try:
        settings = json.dumps(changed, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise CodecError(
            f"the settings of codec {codec.id} cannot be written", came=str(error), expected="built-in types, finite"
        ) from error
    if len(settings) > MAX_SETTINGS_BYTES:
        raise CodecError(
            f"the settings of codec {codec.id} are too long for a container",
            came=f"{len(settings)} bytes",
            expected=f"at most {MAX_SETTINGS_BYTES}",
        )
    return settings


def _decode_settings(settings: bytes | memoryview) -> dict[str, Any]:
    try:
        config = json.loads(_text(settings, "the settings of the codec"))
    except (ValueError, RecursionError) as error:
        raise CodecError("the settings in a container are damaged", came=str(error), expected="JSON") from error
    if not isinstance(config, dict):
        raise CodecError(
            "the settings in a container are damaged", came=type(config).__name__, expected="a JSON object"
        )
    return config


def _sized(data: bytes) -> bytes:
    return encode_varint(len(data)) + data


def _take_sized(reader: ByteReader, what: str, most: int) -> memoryview:
    size = reader.read_varint(f"the length of {what}")
    if size > most:
        raise CodecError(f"{what} is too long", came=f"{size} bytes", expected=f"at most {most}")
    return reader.take(size, what)


def _text(data: bytes | memoryview, what: str) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise CodecError(f"{what} is no text", came=bytes(data).hex()) from error


def _checked_theta(theta: float) -> float:
    if not (math.isfinite(theta) and theta > 0):
        raise CodecError("theta of a rotation is impossible", came=repr(theta), expected="a finite number above 0")
    return theta
