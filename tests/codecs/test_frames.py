"""What `zstd` and `byteplane` write, byte by byte; what a frame declares of itself bounds nothing here."""

from __future__ import annotations

import resource
from collections.abc import Callable

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from sample_streams import real_streams, worst_words
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.codecs import planes as frames
from pytest_h2o.codecs.base import SideInfo, Stream
from pytest_h2o.codecs.planes import Search, compress, compress_each, decompress
from pytest_h2o.codecs.zstd import Byteplane, Zstd
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


def bare(data: bytes, **settings: object) -> bytes:
    """A magicless frame with settings that `compress` never uses."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        3, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_checksum=False, **settings
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(data) + compressor.flush()


# Single segment, 4 bytes of size (2 GiB), one empty last block of raw bytes.
HUGE = bytes([0b1010_0000]) + (1 << 31).to_bytes(4, "little") + b"\1\0\0"
FRAME = zstandard.compress(b"abc" * 100, 3)
REFUSED: dict[str, Callable[[], object]] = {
    **{f"{cls.id} of level {level}": lambda cls=cls, level=level: cls(level=level)  # type: ignore[misc]
       for cls in (Zstd, Byteplane) for level in (0, 23, -1)},
    "a byte after a frame": lambda: decompress(FRAME + b"\0", 300),
    "a frame after a frame": lambda: decompress(FRAME + zstandard.compress(b"more", 3), 300),
    "a plane that is cut short": lambda: Byteplane().decode(b"\x20\x00", SideInfo("k", (4, 1, 8))),
    "2 GiB declared": lambda: decompress(HUGE, 1000, bare=True),
    "a large window": lambda: decompress(bare(b"ab" * 500, window_log=27), 1000, bare=True),
}  # fmt: skip


def test_what_is_refused(snapshot: SnapshotAssertion) -> None:
    """And nothing is allocated for it."""
    before_kib, told = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
    for name, act in REFUSED.items():
        with pytest.raises(CodecError) as caught:
            act()
        told[name] = str(caught.value)
    assert told == snapshot
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 10_000


@given(data=st.binary(min_size=1, max_size=3000), times=st.integers(1, 200))
def test_bytes_come_back(data: bytes, times: int) -> None:
    content = data * times
    assert decompress(compress(content, 3), len(content)) == content
    for search in Search:
        frame = compress(content, search)
        assert decompress(frame, len(content), bare=True) == content
        for size in (len(content) - 1, len(content) + 1):
            with pytest.raises(CodecError, match="a zstd frame"):
                decompress(frame, size, bare=True)


@pytest.mark.parametrize("count", [0, 1, 31, 32, 60])
@pytest.mark.parametrize("has_batches", [True, False])
def test_frames_of_many_are_those_of_each(count: int, has_batches: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of unlike sizes; also where zstandard has no call for many, as on PyPy."""
    random = np.random.default_rng(count)
    data = [memoryview(random.integers(0, 9, size, np.uint8)) for size in random.integers(1, 40_000, count)]
    if not has_batches:
        monkeypatch.setattr(frames, "_HAS_BATCHES", False)
    for inputs in (data, [*data, b""]):
        assert [bytes(frame) for frame in compress_each(inputs, 3)] == [compress(one, 3) for one in inputs]


def test_a_bomb_is_refused_by_its_size() -> None:
    frame = compress(bytes(1 << 24), 3)
    with pytest.raises(CodecError, match="does not fit its stream"):
        decompress(frame, 100)
    with pytest.raises(CodecError, match="a zstd frame"):
        decompress(compress(bytes(1 << 24), Search.REPEATS), 100, bare=True)
