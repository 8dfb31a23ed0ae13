"""Frames: what they declare of themselves bounds nothing here."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h2o.codecs import planes as frames
from pytest_h2o.codecs.planes import Search, compress, compress_each, decompress
from pytest_h2o.errors import CodecError

HUGE = 1 << 31


def bare(data: bytes, **settings: object) -> bytes:
    """A magicless frame with settings that `compress` never uses."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        3, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_checksum=False, **settings
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(data) + compressor.flush()


@settings(max_examples=100, deadline=None)
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


def test_a_bare_frame_that_declares_a_size_is_refused_before_it_is_allocated() -> None:
    # Single segment, 4 bytes of size (2 GiB), one empty last block of raw bytes.
    frame = bytes([0b1010_0000]) + HUGE.to_bytes(4, "little") + b"\1\0\0"
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CodecError) as caught:
        decompress(frame, 1000, bare=True)
    assert str(caught.value) == (
        "a zstd frame does not fit its stream\n  came: 2147483648 bytes\n  expected: 1000 bytes"
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 10_000


def test_a_frame_with_a_large_window_is_refused() -> None:
    with pytest.raises(CodecError) as caught:
        decompress(bare(b"ab" * 500, window_log=27), 1000, bare=True)
    assert str(caught.value) == (
        "a zstd frame declares too large a window\n  came: 134217728 bytes\n  expected: about 1000 bytes"
    )


def test_a_bomb_is_refused_by_its_size() -> None:
    frame = compress(bytes(1 << 24), 3)
    with pytest.raises(CodecError, match="does not fit its stream"):
        decompress(frame, 100)
    with pytest.raises(CodecError, match="a zstd frame"):
        decompress(compress(bytes(1 << 24), Search.REPEATS), 100, bare=True)
