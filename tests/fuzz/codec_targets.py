"""Encoded bytes: framed chunks, and the payload of every codec."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pytest_h2o.codecs.base import Codec, Rope, SideInfo, Stream, Words
from pytest_h2o.codecs.gear_v3 import decode_rle
from pytest_h2o.codecs.registry import BUILT_IN, get_codec
from pytest_h2o.codecs.zstd import Byteplane
from pytest_h2o.lossless.measure import ChunkFraming
from tests.fuzz.target import Target

DIMS = (0, 1, 2, 7, 8, 16, 64, 128)
HEAD = 3
"""Bytes before a payload that say of which shape it is meant to be."""
_NUMBERS = (b"\x00", b"\x7f", b"\x80\x80\x80\x80\x10", b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff", b"\x28\xb5\x2f\xfd")
_CHUNKS = ChunkFraming(8)
_CHUNK_SIDE = SideInfo("v", (9, 2, 8))


def sample_words(rows: int, heads: int, dim: int, kind: int) -> Words:
    """Words that make a codec use one of its modes: noise, repeated rows, zeros, a random walk."""
    random = np.random.default_rng([rows, heads, dim, kind])
    if kind == 0:
        return random.integers(0, 1 << 16, (rows, heads, dim), dtype=np.uint16)
    if kind == 1:
        few = random.standard_normal((3, heads, dim)).astype(np.float16).view(np.uint16)
        return np.ascontiguousarray(few[random.integers(0, 3, rows)])
    if kind == 2:
        return np.zeros((rows, heads, dim), np.uint16)
    walk = np.cumsum(random.standard_normal((rows, heads, dim)) * 0.05, axis=0)
    return np.ascontiguousarray(walk.astype(np.float16).view(np.uint16))


def _check_again(codec: Codec, words: Words, side: SideInfo) -> None:
    """What was decoded is coded and decoded to the same bits: damage may change words, not the codec."""
    assert words.shape == side.shape
    assert words.dtype == np.uint16
    again = codec.decode(codec.encode(Stream(words, side.tensor)), side)
    assert np.array_equal(again, words)


def run_chunk(data: bytes, folder: Path) -> bool:
    _check_again(Byteplane(), Byteplane().decode(_CHUNKS.unwrap(memoryview(data)), _CHUNK_SIDE), _CHUNK_SIDE)
    return True


def run_rle(data: bytes, folder: Path) -> bool:
    size = int.from_bytes(data[:2], "little")
    assert len(decode_rle(memoryview(data[2:]), size)) == size
    return True


def shape_of(head: bytes) -> SideInfo:
    rows, heads, dim = head
    return SideInfo("v" if heads & 4 else "k", (rows, heads % 4, DIMS[dim % len(DIMS)]))


class Payload:
    """The payload decoder of one codec."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    def __call__(self, data: bytes, folder: Path) -> bool:
        side = shape_of(data[:HEAD].ljust(HEAD, b"\1"))
        payload = data[HEAD:]
        words = self.codec.decode(payload, side)
        _check_again(self.codec, words, side)
        self.codec.modes(payload, side)
        self.codec.plane_bytes(payload, side)
        return True

    def seeds(self) -> Sequence[bytes]:
        found = []
        for head in (b"\x00\x01\x04", b"\x01\x03\x05", b"\x09\x02\x04", b"\x46\x05\x05", b"\x30\x01\x06"):
            side = shape_of(head)
            for kind in range(4):
                rope = Rope(1e5) if side.tensor == "k" else None
                positions = np.arange(7, 7 + side.shape[0], dtype=np.int64)
                stream = Stream(sample_words(*side.shape, kind), side.tensor, positions, rope)
                found.append(head + self.codec.encode(stream))
        self(found[-1], Path())  # what compiles itself at its first call writes files, and is not watched yet
        return found


def _allow_payload(data: bytes) -> int:
    return (16 << 20) + 64 * shape_of(data[:HEAD].ljust(HEAD, b"\1")).raw_bytes + 16 * len(data)


def _chunks() -> Sequence[bytes]:
    payloads = [Byteplane().encode(Stream(sample_words(9, 2, 8, kind), "v")) for kind in range(4)]
    return [_CHUNKS.header(payload) + payload for payload in payloads]


def _payload_target(name: str) -> Target:
    payload = Payload(get_codec(name))
    return Target(f"payload_{name}", payload, payload.seeds, _NUMBERS, _allow_payload)


CODEC_TARGETS = (
    Target("chunk", run_chunk, _chunks, _NUMBERS),
    Target("rle", run_rle, lambda: [b"\x08\x00\x03abcd\x80x", b"\x83\x00\xffz"]),
    *map(_payload_target, BUILT_IN),
)
