from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_chunks import PROMPTS, measure_ratios, read_chunks
from own_codec_checks import (
    check_bytes,
    check_damage,
    check_decodes,
    check_no_chunk_larger_than_reference,
    check_other_shape_is_refused,
    check_overhead,
    check_round_trip,
    check_shapes,
    streams,
)

from pytest_h2o.codecs.base import Rope, SideInfo, Stream
from pytest_h2o.codecs.rowref import RowRef
from pytest_h2o.errors import CodecError

CODEC = RowRef()


@settings(deadline=None, max_examples=80)
@given(stream=streams())
def test_round_trip(stream: Stream) -> None:
    payload = check_round_trip(CODEC, stream)
    assert len(payload) <= stream.raw_bytes + CODEC.max_overhead_bytes


def test_shapes() -> None:
    check_shapes(CODEC)


def test_overhead() -> None:
    check_overhead(CODEC, CODEC.max_overhead_bytes)


def test_recorded_dumps() -> None:
    payloads, ratio = measure_ratios(CODEC)
    assert ratio(lambda chunk: chunk.layer < 2) > 1.895
    assert ratio(lambda chunk: True) > 1.453
    floors = dict(zip(PROMPTS, (1.359, 1.538, 1.328), strict=True))
    for run_id, floor in floors.items():
        assert ratio(lambda chunk, run_id=run_id: chunk.run_id == run_id) > floor
    check_no_chunk_larger_than_reference(payloads)
    check_decodes(CODEC, payloads, every=1)


@pytest.mark.parametrize("index", [0, 5, 7, 60, 149])
def test_damage(index: int) -> None:
    check_damage(CODEC, read_chunks()[index].stream)


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    check_bytes(CODEC, data)


def test_other_shape() -> None:
    check_other_shape_is_refused(CODEC, read_chunks()[3].stream)


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
    for chunk in read_chunks()[::10]:
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
        "  where: byte 22 of 22\n"
        "  expected: at most 3 steps\n"
        "  next: the payload is damaged, cut or of another codec; encode the stream again"
    )


def test_a_stream_too_large_is_refused_before_it_is_copied() -> None:
    words = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint16), (1 << 20, 300, 1), (0, 0, 0))
    with pytest.raises(CodecError, match="cannot be coded"):
        CODEC.encode(Stream(words, "v"))


def test_config() -> None:
    assert CODEC.config() == {"id": "rowref"}
    assert RowRef.from_config(CODEC.config()) == CODEC
