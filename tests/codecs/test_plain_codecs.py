"""What `zstd` and `byteplane` write, byte by byte, and what the frames below them refuse."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard
from sample_streams import real_streams, worst_words

from pytest_h2o.codecs.base import SideInfo, Stream
from pytest_h2o.codecs.byteplane import Byteplane
from pytest_h2o.codecs.planes import decompress
from pytest_h2o.codecs.zstd import Zstd
from pytest_h2o.errors import CodecError


@pytest.mark.parametrize("level", [1, 3, 19])
def test_zstd_is_one_frame_of_the_words(level: int) -> None:
    stream = real_streams()[0]
    payload = Zstd(level=level).encode(stream)
    assert payload == zstandard.compress(stream.words.tobytes(), level)


def test_byteplane_is_two_planes_after_a_length() -> None:
    stream = real_streams()[0]
    payload = Byteplane().encode(stream)
    raw = stream.words.tobytes()
    hi = zstandard.compress(raw[1::2], 3)
    assert 128 <= len(hi) < 1 << 21
    length = bytes((len(hi) & 127 | 128, len(hi) >> 7 & 127 | 128, len(hi) >> 14))
    assert payload == length + hi + raw[0::2], "the noise of the mantissas is kept raw"
    assert Byteplane().modes(payload, stream.side_info()) == {"hi": {"zstd": 1}, "lo": {"raw": 1}}


def test_byteplane_of_noise_is_the_planes() -> None:
    words = worst_words()["random"]
    payload = Byteplane().encode(Stream(words, "k"))
    raw = words.tobytes()
    assert payload[3:] == raw[1::2] + raw[0::2]
    assert Byteplane().modes(payload, SideInfo("k", (96, 3, 64))) == {"hi": {"raw": 1}, "lo": {"raw": 1}}


def test_nothing_costs_one_byte() -> None:
    assert Byteplane().encode(Stream(worst_words()["empty"], "k")) == b"\0"


@pytest.mark.parametrize("level", [0, 23, -1])
@pytest.mark.parametrize("cls", [Zstd, Byteplane])
def test_a_level_out_of_range_is_refused(cls: type[Zstd] | type[Byteplane], level: int) -> None:
    with pytest.raises(CodecError) as caught:
        cls(level=level)
    assert str(caught.value) == (
        f"setting 'level' of codec {cls.id} is out of range\n  came: {level}\n  expected: 1 to 22"
    )


def test_a_frame_of_another_size_is_refused_before_it_is_unpacked() -> None:
    bomb = zstandard.compress(bytes(1 << 24), 3)
    with pytest.raises(CodecError) as caught:
        decompress(bomb, 1000)
    assert str(caught.value) == "a zstd frame does not fit its stream\n  came: 16777216 bytes\n  expected: 1000 bytes"


def test_a_frame_without_its_size_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(b"abc" * 100)
    with pytest.raises(CodecError, match="a zstd frame does not fit its stream"):
        decompress(frame, 300)


@pytest.mark.parametrize("size", [256, 299, 301, 400])
def test_a_frame_that_lies_about_its_size_is_refused(size: int) -> None:
    frame = bytearray(zstandard.compress(b"abc" * 100, 3))
    frame[5:7] = (size - 256).to_bytes(2, "little")
    assert zstandard.get_frame_parameters(bytes(frame)).content_size == size
    with pytest.raises(CodecError, match="a zstd frame is damaged"):
        decompress(bytes(frame), size)


@pytest.mark.parametrize("more", [b"\0", zstandard.compress(b"more", 3)])
def test_bytes_after_a_frame_are_refused(more: bytes) -> None:
    with pytest.raises(CodecError) as caught:
        decompress(zstandard.compress(b"abc" * 100, 3) + more, 300)
    assert str(caught.value) == (
        f"a zstd frame is damaged\n  came: compressed input contains {len(more)} bytes of unused data,"
        " which is disallowed\n  expected: a frame of 300 bytes"
    )


def test_a_plane_that_is_cut_short_says_so() -> None:
    stream = Stream(np.zeros((4, 1, 8), np.uint16), "k")
    with pytest.raises(CodecError) as caught:
        Byteplane().decode(b"\x20\x00", stream.side_info())
    assert str(caught.value) == "the hi plane is cut short\n  came: 1 bytes\n  expected: 32 bytes"
