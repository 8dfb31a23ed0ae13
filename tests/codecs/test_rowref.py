from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from battery import check_decodes, check_every_chunk_not_larger, check_round_trip
from sample_streams import PROMPTS, all_chunks, measure_ratios

from pytest_h2o.codecs.base import Rope, SideInfo, Stream
from pytest_h2o.codecs.registry import get_codec
from pytest_h2o.codecs.rowref import RowRef, read_turned_header
from pytest_h2o.codecs.wire import ByteReader, read_mode
from pytest_h2o.errors import CodecError

CODEC = RowRef()


def test_recorded_dumps() -> None:
    payloads, ratio = measure_ratios(CODEC)
    assert ratio(lambda chunk: chunk.layer < 2) > 1.869
    assert ratio(lambda chunk: True) > 1.446
    floors = dict(zip(PROMPTS, (1.353, 1.528, 1.324), strict=True))
    for run_id, floor in floors.items():
        assert ratio(lambda chunk, run_id=run_id: chunk.run_id == run_id) > floor
    check_every_chunk_not_larger(CODEC, payloads, get_codec("adaptive_v22"))
    check_decodes(CODEC, payloads, every=1)


def _keys(rope: Rope, positions: np.ndarray, repeats: int) -> Stream:
    """Keys of few distinct tokens, turned to their positions as a runtime would, in float64."""
    rng = np.random.default_rng(8)
    tokens = rng.normal(0, 1, (len(positions) // repeats + 1, 2, 32)) + rng.normal(0, 3, (1, 2, 32))
    rows = tokens[rng.integers(0, len(tokens), len(positions))]
    angle = positions[:, None] * rope.theta ** (-np.arange(16) / 16)
    cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    turned = np.empty_like(rows)
    first, second = (slice(0, 16), slice(16, 32)) if rope.pairing == "half" else (slice(0, 32, 2), slice(1, 32, 2))
    turned[..., first] = rows[..., first] * cos - rows[..., second] * sin
    turned[..., second] = rows[..., first] * sin + rows[..., second] * cos
    return Stream(turned.astype(np.float16).view(np.uint16), "k", positions, rope)


@pytest.mark.parametrize("rope", [Rope(1e4), Rope(1e6, "interleaved"), Rope(54_321.25)])
def test_the_rotation_between_two_positions_is_removed(rope: Rope) -> None:
    positions = np.arange(100, 400)
    stream = _keys(rope, positions, repeats=8)
    turned_back = len(check_round_trip(CODEC, stream))
    as_they_are = len(check_round_trip(CODEC, Stream(stream.words, "v", positions)))
    assert turned_back < 0.7 * as_they_are


@pytest.mark.parametrize("rope", [Rope(1e4), Rope(1e5), Rope(5e5, "interleaved")])
def test_an_unknown_rotation_is_found(rope: Rope) -> None:
    stream = _keys(rope, np.arange(300), repeats=8)
    unknown = Stream(stream.words, "k")
    assert abs(len(check_round_trip(CODEC, unknown)) - len(CODEC.encode(stream))) <= 2


def test_the_rotation_of_the_recordings_is_found() -> None:
    for chunk in all_chunks()[::10]:
        stream = chunk.stream
        if stream.tensor == "k" and len(stream.words) > 100:
            unknown = Stream(stream.words, "k", stream.positions)
            assert CODEC.encode(unknown) == CODEC.encode(stream)


def test_keys_that_are_not_finite_are_not_turned() -> None:
    stream = _keys(Rope(1e4), np.arange(200), repeats=8)
    words = stream.words.copy()
    words[50, 1, 3] = 0x7E01
    check_round_trip(CODEC, Stream(words, "k", stream.positions, stream.rope))


def test_several_segments_and_jumps_of_position() -> None:
    positions = np.concatenate([np.arange(7), np.arange(500), np.arange(100_000, 100_093)])
    check_round_trip(CODEC, _keys(Rope(1e4), positions, repeats=5))


def test_a_chain_of_references_that_is_too_long() -> None:
    header = b"\x20\x05\x01\x01" + b"\x00"
    segment = b"\x00" + b"\x80\x00" + b"\x01" * 4 + bytes(10)
    with pytest.raises(CodecError) as caught:
        CODEC.decode(header + segment, SideInfo("v", (5, 1, 1)))
    assert str(caught.value) == (
        "rowref: a chain of references is too long\n"
        "  where: byte 12 of 22\n"
        "  expected: at most 2 steps\n"
        "  next: the payload is damaged, cut or of another codec; encode the stream again"
    )


def test_a_stream_too_large_is_refused_before_it_is_copied() -> None:
    words = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint16), (1 << 20, 300, 1), (0, 0, 0))
    with pytest.raises(CodecError, match="cannot be coded"):
        CODEC.encode(Stream(words, "v"))


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (None, Rope(1e5)),  # found: it is that of the recordings
        (Rope(1e5), Rope(1e5)),
        (Rope(77_777.5, "interleaved"), Rope(77_777.5, "interleaved")),
        (Rope(0.5), None),  # no rotation can be built from it
    ],
    ids=str,
)
def test_the_rotation_that_was_used_is_in_the_header(given: Rope | None, written: Rope | None) -> None:
    stream = next(chunk.stream for chunk in all_chunks() if chunk.stream.tensor == "k")
    payload = CODEC.encode(replace(stream, rope=given))
    reader = ByteReader(payload)
    read_mode(reader, stream.side_info(), CODEC.id)
    rope, positions = read_turned_header(reader, stream.side_info())
    assert rope == written
    if rope is not None:
        assert np.array_equal(positions, stream.positions)
