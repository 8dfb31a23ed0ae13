"""The container: its bytes, its bounds, and what a right checksum over wrong contents comes to."""

from __future__ import annotations

import random
import struct
import tracemalloc
import zlib
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_streams import ROPE, cut, real_streams

from pytest_h2o.codecs.base import Rope, SideInfo, Stream, Words
from pytest_h2o.codecs.byteplane import Byteplane
from pytest_h2o.codecs.container import MAX_RAW_BYTES, decode_container, read_container, write_container
from pytest_h2o.codecs.registry import codec_names, register, unregister
from pytest_h2o.codecs.wire import encode_varint
from pytest_h2o.codecs.zstd import Zstd
from pytest_h2o.errors import CodecError

SMALL = Stream(np.arange(6, dtype=np.uint16).reshape(1, 2, 3), "v", np.array([7]), Rope(1e4, "interleaved"))


def sign(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def make(*, head: str = "89 48 32 4F 01 00", codec: bytes = b"\x04zstd", rest: bytes = b"\1\1\1\0") -> bytes:
    return sign(bytes.fromhex(head) + codec + rest)


def test_every_byte_is_where_the_layout_says() -> None:
    payload = b"PAYLOAD"
    data = write_container(Zstd(level=5), SMALL, payload)
    parts = (
        b"\x89H2O",
        b"\x01",
        bytes([1 + 2 + 4 + 8 + 16]),
        b"\x04zstd",
        b'\x0b{"level":5}',
        bytes([1, 2, 3]),
        bytes([1, 14, 1]),
        struct.pack("<d", 1e4),
        b"\x07PAYLOAD",
    )
    assert data == sign(b"".join(parts))
    container = read_container(data)
    assert (container.codec, container.side, container.rope) == (Zstd(level=5), SMALL.side_info(), SMALL.rope)
    assert container.positions is not None
    assert container.positions.tolist() == [7]
    assert container.payload == payload
    assert container.overhead_bytes == len(data) - 7


def test_overhead_of_a_chunk_is_small() -> None:
    chunk = real_streams()[0]
    bare = replace(chunk, positions=None, rope=None)
    for stream, expected in ((bare, 6 + 10 + 4 + 3 + 4), (chunk, 6 + 10 + 4 + 5 + 8 + 3 + 4)):
        payload = Byteplane().encode(stream)
        assert read_container(write_container(Byteplane(), stream, payload)).overhead_bytes == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "this is no container\n  came: \n  expected: 8948324f"),
        (b"PK\3\4" + bytes(40), "this is no container\n  came: 504b0304\n  expected: 8948324f"),
        (b"\x89H2O\1\0\0", "a container is cut short\n  came: 7 bytes"),
        (
            sign(b"\x89H2O\2" + bytes(20)),
            "a container has a version that is not known here\n  came: 2\n  expected: 1",
        ),
        (
            b"\x89H2O\1" + bytes(20),
            "a container is damaged\n  came: checksum eb9af0c0\n  expected: checksum 00000000",
        ),
        (make(head="89 48 32 4F 01 20"), "a container has flags that are not known here\n  came: 00100000"),
        (make(head="89 48 32 4F 01 08"), "a container has flags that are not known here\n  came: 00001000"),
        (
            make(codec=b"\x04zsta"),
            f"there is no codec 'zsta'\n  expected: {', '.join(codec_names())}\n  next: did you mean 'zstd'?",
        ),
        (make(codec=b"\x02\xff\xfe"), "the id of the codec is no text\n  came: fffe"),
        (make(codec=b"\x41" + b"a" * 65), "the id of the codec is too long\n  came: 65 bytes\n  expected: at most 64"),
        (
            make(rest=b"\1\1\1\0\0"),
            "bytes follow the payload of a container\n  came: 1 bytes\n  expected: none",
        ),
        (
            make(rest=b"\1\1\1\2\0"),
            "the payload is cut short\n  where: byte 15\n  came: 1 bytes\n  expected: 2 bytes",
        ),
        (
            make(head="89 48 32 4F 01 10", rest=b"\x02[]\1\1\1\0"),
            "the settings in a container are damaged\n  came: list\n  expected: a JSON object",
        ),
        (
            make(head="89 48 32 4F 01 04", rest=b"\1\1\1" + struct.pack("<d", float("nan")) + b"\0"),
            "theta of a rotation is impossible\n  came: nan\n  expected: a finite number above 0",
        ),
        (
            make(head="89 48 32 4F 01 02", rest=b"\2\1\1" + b"\1\0\1" + b"\0"),
            "positions do not cover their stream\n  where: byte 17\n  came: 1 tokens\n  expected: 2 tokens",
        ),
        (
            make(head="89 48 32 4F 01 02", rest=b"\2\1\1" + b"\1\0\3" + b"\0"),
            "a run of positions does not fit\n  where: byte 17\n  came: 3 from 0, after 0 of 2",
        ),
    ],
    ids=lambda value: value.partition("\n")[0] if isinstance(value, str) else "",
)
def test_what_is_wrong_is_said(data: bytes, message: str) -> None:
    with pytest.raises(CodecError) as caught:
        read_container(data)
    assert str(caught.value) == message


@pytest.mark.parametrize("config", [b"{", b"[" * 3000, b'{"level":"x"}', b'{"level":1e999}', b'{"levels":3}', b"\xff"])
def test_settings_that_make_no_codec_are_refused(config: bytes) -> None:
    with pytest.raises(CodecError):
        read_container(make(head="89 48 32 4F 01 10", rest=encode_varint(len(config)) + config + b"\1\1\1\0"))


@pytest.mark.parametrize(
    "shape",
    [(1 << 20, 3, 64), (1, 1, 1 << 40), (1 << 63, 1 << 63, 1 << 63), (1 << 30, 1, 0), (1 << 12, 1 << 10, 1 << 10)],
)
def test_huge_declared_sizes_allocate_nothing(shape: tuple[int, int, int]) -> None:
    """The positions of all those tokens are declared too."""
    runs = bytes([1, 0]) + encode_varint(shape[0])
    data = make(head="89 48 32 4F 01 02", rest=b"".join(map(encode_varint, shape)) + runs + bytes(20))
    with pytest.raises(CodecError):
        decode_container(data)
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match="a container declares too much"):
            decode_container(data)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_what_could_not_be_read_is_not_written() -> None:
    stream = Stream(np.broadcast_to(np.uint16(0), (MAX_RAW_BYTES // 128, 1, 65)), "k")
    with pytest.raises(CodecError) as caught:
        write_container(Zstd(), stream, b"")
    assert str(caught.value) == (
        "a container declares too much\n"
        "  came: 1090519040 bytes for the shape [8388608, 1, 65]\n"
        "  expected: at most 1441792 in 22 bytes\n"
        "  next: cut the stream in chunks"
    )
    with pytest.raises(CodecError, match="theta of a rotation is impossible"):
        write_container(Zstd(), replace(SMALL, rope=Rope(0.0)), b"")


def test_a_right_checksum_over_damage_is_safe() -> None:
    """Whoever can make a checksum gets an error or words of the shape that was declared, nothing else."""
    rng = random.Random(7)
    stream = cut(real_streams()[0], 0, 8)
    body = write_container(Byteplane(level=1), replace(stream, rope=ROPE), Byteplane().encode(stream))[:-4]
    refused = 0
    for index in [*range(70), *(rng.randrange(len(body)) for _ in range(200))]:
        for value in {0, 255, body[index] ^ 1 << rng.randrange(8), body[index] ^ 128}:
            damaged = sign(body[:index] + bytes([value]) + body[index + 1 :])
            tracemalloc.start()
            try:
                words = decode_container(damaged)
                assert words.shape == read_container(damaged).side.shape
            except CodecError:
                refused += 1
            finally:
                peak_bytes = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
            assert peak_bytes < 4_000_000
    assert refused > 100


def test_a_codec_that_decodes_to_another_shape_is_found_out() -> None:
    @dataclass(frozen=True)
    class Flat(Zstd):
        id: ClassVar[str] = "flat"

        def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
            return super().decode(payload, side).reshape(-1, 1, 1)

    register(Flat)
    try:
        with pytest.raises(CodecError) as caught:
            decode_container(write_container(Flat(), SMALL, Flat().encode(SMALL)))
    finally:
        unregister("flat")
    assert str(caught.value) == (
        "codec flat decoded to other than it was asked for\n  came: <u2 [6, 1, 1]\n  expected: uint16 [1, 2, 3]"
    )


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=80), signed=st.booleans())
def test_any_bytes_are_safe(data: bytes, signed: bool) -> None:
    with pytest.raises(CodecError):
        decode_container(make(codec=b"", rest=data) if signed else data)
