"""What `zstd` and `byteplane` write, byte by byte; what a frame declares of itself bounds nothing here."""

import resource
from collections.abc import Callable

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sample_streams import real_streams, worst_words
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.codecs import planes as frames
from pytest_h2o.codecs.base import SideInfo, Stream
from pytest_h2o.codecs.planes import Search, compress, compress_each, decompress
from pytest_h2o.codecs.wire import ByteReader, decode_positions, encode_positions, encode_varint
from pytest_h2o.codecs.zstd import Byteplane, Zstd
from pytest_h2o.errors import CodecError
from tests.told import error_text


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
    noise = Stream(worst_words()["random"], "k")
    payload, raw = Byteplane().encode(noise), noise.words.tobytes()
    assert payload[3:] == raw[1::2] + raw[0::2]
    assert Byteplane().modes(payload, noise.side_info()) == {"hi": {"raw": 1}, "lo": {"raw": 1}}


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
        told[name] = error_text(CodecError, act)
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


positions = hnp.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, (1 << 31) - 1)) | st.lists(
    st.tuples(st.integers(0, 50), st.integers(1, 9)), min_size=1, max_size=8
).map(lambda runs: np.array([start + i for start, length in runs for i in range(length)], np.int64))


@given(positions=positions)
def test_positions_come_back(positions: np.ndarray) -> None:
    reader = ByteReader(encode_positions(positions))
    assert np.array_equal(decode_positions(reader, len(positions)), positions)
    assert reader.left == 0
    assert encode_positions(np.arange(100, 292)) == bytes([1]) + encode_varint(200) + encode_varint(192)
    assert encode_positions(np.array([0, 1, 2, 0, 1])) == bytes([2, 0, 3, 5, 2])


def test_a_run_beyond_64_bits_is_refused() -> None:
    run = encode_varint(1) + encode_varint(2 * ((1 << 63) - 2)) + encode_varint(3)
    assert error_text(CodecError, decode_positions, ByteReader(run), 3) == (
        "a run of positions does not fit\n  where: byte 12\n  came: 3 from 9223372036854775806, after 0 of 3"
    )


@given(value=st.integers(0, (1 << 64) - 1))
def test_varints_come_back(value: int) -> None:
    encoded = encode_varint(value)
    assert len(encoded) == max(1, -(-value.bit_length() // 7))
    assert ByteReader(encoded).read_varint("it") == value


@pytest.mark.parametrize("encoded", ["", "80", "8000", "ffffffffffffffffff02", "ff" * 11])
def test_a_varint_that_is_none_is_refused(encoded: str) -> None:
    with pytest.raises(CodecError, match="it is"):
        ByteReader(bytes.fromhex(encoded)).read_varint("it")
    for value in (-1, 1 << 64):
        with pytest.raises(CodecError, match="a number does not fit a varint"):
            encode_varint(value)
