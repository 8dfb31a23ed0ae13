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

from pytest_h2o.codecs.base import SideInfo, Stream
from pytest_h2o.codecs.expbias import ExpBias
from pytest_h2o.errors import CodecError

CODEC = ExpBias()


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
    assert ratio(lambda chunk: chunk.layer < 2) > 1.500
    assert ratio(lambda chunk: True) > 1.303
    floors = dict(zip(PROMPTS, (1.261, 1.337, 1.250), strict=True))
    for run_id, floor in floors.items():
        assert ratio(lambda chunk, run_id=run_id: chunk.run_id == run_id) > floor
    check_no_chunk_larger_than_reference(payloads)
    check_decodes(CODEC, payloads, every=1)


@pytest.mark.parametrize("index", [0, 7, 60, 149])
def test_damage(index: int) -> None:
    check_damage(CODEC, read_chunks()[index].stream)


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    check_bytes(CODEC, data)


def test_other_shape() -> None:
    check_other_shape_is_refused(CODEC, read_chunks()[3].stream)


def test_error_text() -> None:
    with pytest.raises(CodecError) as caught:
        CODEC.decode(b"\x03\x02", SideInfo("k", (2, 3, 64)))
    assert str(caught.value) == (
        "expbias: the payload ends too early\n"
        "  where: byte 2 of 2\n"
        "  came: 0 bytes left\n"
        "  expected: 1\n"
        "  next: the payload is damaged, cut or of another codec; encode the stream again"
    )


def test_a_stream_too_large_is_refused_before_it_is_copied() -> None:
    words = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint16), (1 << 20, 300, 1), (0, 0, 0))
    with pytest.raises(CodecError, match="cannot be coded"):
        CODEC.encode(Stream(words, "v"))


def test_config() -> None:
    assert CODEC.config() == {"id": "expbias"}
    assert ExpBias.from_config(CODEC.config()) == CODEC
