"""adaptive_v22 and legacy against the arithmetic written out plainly, and their payloads byte by byte."""

import struct
from collections.abc import Callable

import numpy as np
import pytest
import zstandard
from battery import check_round_trip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_streams import any_stream, real_streams, worst_words
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.codecs import adaptive_v22 as block_trials
from pytest_h2o.codecs.adaptive_v22 import AdaptiveV22, Legacy
from pytest_h2o.codecs.base import Codec, SideInfo, Stream
from pytest_h2o.codecs.planes import PREDICTORS
from pytest_h2o.errors import CodecError
from tests.told import error_text

NAMES = st.permutations(PREDICTORS).flatmap(lambda names: st.integers(1, 5).map(lambda n: tuple(names[:n])))
CODECS = st.one_of(
    st.builds(
        AdaptiveV22,
        zstd_level=st.sampled_from([1, 3, 9]),
        adaptive_block_seq=st.sampled_from([1, 2, 3, 7, 64, 1000]),
        bitshuffle=st.booleans(),
        k_hi_predictors=NAMES,
        k_lo_predictors=NAMES,
        v_hi_predictors=NAMES,
        v_lo_predictors=NAMES,
    ),
    st.builds(Legacy, zstd_level=st.sampled_from([1, 3, 9]), bitshuffle=st.booleans()),
)


def plain_predict(block: np.ndarray, name: str) -> np.ndarray:
    """[rows, heads, dim] in int16, modulo 256."""
    wide = block.astype(np.int16)
    if name.startswith("pair_delta"):
        for odd in range(1, wide.shape[2], 2):
            wide[:, :, odd] -= block[:, :, odd - 1]
        wide &= 255
    if name.endswith("delta_seq"):
        wide[1:] = wide[1:] - wide[:-1]
    if name == "xor_seq":
        wide[1:] ^= wide[:-1]
    return (wide & 255).astype(np.uint8)


def plain_shuffle(data: bytes, bitshuffle: bool) -> bytes:
    if not bitshuffle:
        return data
    bits = [[byte >> bit & 1 for bit in range(8)] for byte in data]
    flat = [row[bit] for bit in range(8) for row in bits]
    return bytes(sum(flat[8 * n + bit] << bit for bit in range(8)) for n in range(len(data)))


def plain_size(codec: Codec, stream: Stream) -> int:
    """The size by the rule, block by block, with every trial made."""
    compressor = zstandard.ZstdCompressor(level=codec.zstd_level)
    planes = (stream.words >> 8).astype(np.uint8), (stream.words & 255).astype(np.uint8)
    if isinstance(codec, Legacy):
        coded = plain_predict(planes[0], "delta_seq").tobytes(), planes[1].tobytes()
        return sum(len(compressor.compress(plain_shuffle(data, codec.bitshuffle))) for data in coded)
    size = 0
    for plane, names in zip(planes, codec.candidates(stream.tensor), strict=True):
        chosen = []
        for start in range(0, len(plane), codec.adaptive_block_seq):
            block = plane[start : start + codec.adaptive_block_seq]
            trials = [plain_shuffle(plain_predict(block, name).tobytes(), codec.bitshuffle) for name in names]
            chosen.append(min(trials, key=lambda data: len(compressor.compress(data))))
        size += len(compressor.compress(b"".join(chosen))) + len(chosen) + 8
    return size


@given(codec=CODECS, stream=any_stream())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_setting_gives_the_bits_back_from_as_many_bytes_as_the_rule_counts(codec: Codec, stream: Stream) -> None:
    assert len(check_round_trip(codec, stream)) == plain_size(codec, stream)


@pytest.mark.parametrize("codec", [AdaptiveV22(), AdaptiveV22(adaptive_block_seq=50), Legacy()], ids=str)
def test_real_streams_take_as_many_bytes_as_the_rule_counts(codec: Codec) -> None:
    for stream in real_streams():
        assert len(check_round_trip(codec, stream)) == plain_size(codec, stream)


@pytest.mark.parametrize("bitshuffle", [False, True])
def test_long_streams_are_predicted_in_batches_of_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, bitshuffle: bool
) -> None:
    stream = real_streams()[0]
    codec = AdaptiveV22(adaptive_block_seq=16, bitshuffle=bitshuffle)
    whole = codec.encode(stream)
    monkeypatch.setattr(block_trials, "BATCH_BYTES", 1)
    assert codec.encode(stream) == whole
    short = Stream(stream.words[:40], "k")
    assert codec.encode_many([short, stream, short]) == [codec.encode(short), whole, codec.encode(short)]


def test_payload_is_laid_out_as_documented() -> None:
    stream = real_streams()[0]  # K, 192 rows
    codec = AdaptiveV22(k_hi_predictors=("delta_seq",), k_lo_predictors=("xor_seq",))
    payload = codec.encode(stream)
    side = stream.side_info()
    at = 0
    for plane, mode, name in ((stream.words >> 8, 1, "delta_seq"), (stream.words & 255, 2, "xor_seq")):
        blocks, length = struct.unpack_from("<II", payload, at)
        assert blocks == 3
        assert payload[at + 8 : at + 11] == bytes([mode]) * 3
        predicted = [plain_predict(plane.astype(np.uint8)[start : start + 64], name) for start in (0, 64, 128)]
        frame = payload[at + 11 : at + 11 + length]
        assert zstandard.ZstdDecompressor().decompress(frame) == np.concatenate(predicted).tobytes()
        assert zstandard.get_frame_parameters(frame).content_size == 192 * 3 * 64
        assert not zstandard.get_frame_parameters(frame).has_checksum
        at += 11 + length
    assert at == len(payload)
    assert codec.modes(payload, side) == {"hi": {"delta_seq": 3}, "lo": {"xor_seq": 3}}
    planes = codec.plane_bytes(payload, side)
    assert planes["hi"] == 11 + struct.unpack_from("<II", payload)[1]
    assert sum(planes.values()) == len(payload)


def test_modes_count_blocks_and_name_every_candidate() -> None:
    stream = real_streams()[0]
    codec = AdaptiveV22()
    counts = codec.modes(codec.encode(stream), stream.side_info())
    assert list(counts["hi"]) == list(PREDICTORS)
    assert sum(counts["hi"].values()) == sum(counts["lo"].values()) == 3
    v = real_streams()[1]
    assert list(codec.modes(codec.encode(v), v.side_info())["lo"]) == list(PREDICTORS[:3])


def test_first_predictor_wins_a_tie() -> None:
    zeros = Stream(np.zeros((128, 3, 64), np.uint16), "k")
    for first in PREDICTORS:
        names = (first, *(name for name in PREDICTORS if name != first))
        codec = AdaptiveV22(k_hi_predictors=names)
        assert codec.modes(codec.encode(zeros), zeros.side_info())["hi"][first] == 2


def test_one_row_needs_no_trial_of_predictors_that_look_back(monkeypatch: pytest.MonkeyPatch) -> None:
    trials: list[int] = []
    compress_each = block_trials.compress_each

    def count(data: list[memoryview], level: int) -> list[bytes] | list[memoryview]:
        trials.extend(map(len, data))
        return compress_each(data, level)

    monkeypatch.setattr(block_trials, "compress_each", count)
    row = Stream(worst_words()["random_one_token"], "k")
    AdaptiveV22().encode(row)
    assert len(trials) == 4  # raw and pair_delta of each plane; the better one is the stream's frame
    trials.clear()
    AdaptiveV22().encode(Stream(row.words, "v"))
    assert len(trials) == 2


@pytest.mark.parametrize(
    "config",
    [
        {"adaptive_block_seq": 0},
        {"zstd_level": 23},
        {"k_hi_predictors": []},
        {"v_lo_predictors": ["raw", "delta"]},
        {"v_hi_predictors": ["raw", "raw"]},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(config: dict[str, object], snapshot: SnapshotAssertion) -> None:
    assert error_text(CodecError, AdaptiveV22.from_config, config) == snapshot


def spoil(payload: bytes, at: int, new: bytes) -> bytes:
    return payload[:at] + new + payload[at + len(new) :]


@pytest.mark.parametrize(
    ("codec", "damage", "message"),
    [
        (AdaptiveV22(), lambda p: p[:5], "a plane is cut short"),
        (AdaptiveV22(), lambda p: p[:-1], "a plane is cut short"),
        (AdaptiveV22(), lambda p: p + b"\0", "bytes behind the end of the payload"),
        (AdaptiveV22(), lambda p: spoil(p, 0, b"\4"), "another number of blocks than the shape gives"),
        (AdaptiveV22(), lambda p: spoil(p, 4, b"\xff\xff\xff\xff"), "a plane is cut short"),
        (AdaptiveV22(), lambda p: spoil(p, 8, b"\5"), "a block has a mode that does not exist"),
        (AdaptiveV22(), lambda p: spoil(p, 11, b"\0\0\0\0"), "a zstd frame is damaged"),
        (Legacy(), lambda p: b"", "a zstd frame is damaged"),
        (Legacy(), lambda p: p[:40], "a zstd frame is cut short"),
        (Legacy(), lambda p: p[:-1], "a zstd frame is"),
        (Legacy(), lambda p: p + b"\0", "a zstd frame is damaged"),
    ],
)
def test_damage_is_named(codec: Codec, damage: Callable[[bytes], bytes], message: str) -> None:
    stream = real_streams()[0]
    payload = codec.encode(stream)
    with pytest.raises(CodecError, match=message):
        codec.decode(damage(payload), stream.side_info())


@pytest.mark.parametrize("level", [1, 3, 19])
@pytest.mark.parametrize("kind", ["random", "constant", "specials", "empty"])
def test_legacy_finds_the_end_of_its_first_frame(level: int, kind: str) -> None:
    stream = Stream(worst_words()[kind], "v")
    codec = Legacy(zstd_level=level)
    payload = codec.encode(stream)
    hi = zstandard.ZstdCompressor(level=level).compress(plain_predict(stream.words >> 8, "delta_seq").tobytes())
    assert codec.plane_bytes(payload, stream.side_info()) == {"hi": len(hi), "lo": len(payload) - len(hi)}
    assert codec.modes(payload, stream.side_info()) == {"hi": {"delta_seq": 1}, "lo": {"raw": 1}}


def test_large_frames_of_several_blocks_are_walked() -> None:
    words = np.random.default_rng(3).integers(0, 1 << 16, (4000, 3, 64), dtype=np.uint16)
    words[1000:2000] = 0
    check_round_trip(Legacy(), Stream(words, "k"))
    check_round_trip(AdaptiveV22(), Stream(words, "k"))


def test_frame_with_a_checksum_is_walked_to_its_end() -> None:
    """No encoder of ours writes one, but the format allows it."""
    row = np.arange(192, dtype=np.uint16).reshape(1, 3, 64)
    with_checksum = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(192))
    payload = with_checksum + zstandard.ZstdCompressor().compress(row.astype(np.uint8).tobytes())
    side = SideInfo("k", row.shape)
    assert np.array_equal(Legacy().decode(payload, side), row)


def test_a_plane_that_its_header_cannot_count_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_trials, "_U32_MAX", 8)
    with pytest.raises(CodecError, match="the stream is too large"):
        AdaptiveV22().encode(real_streams()[0])
