from __future__ import annotations

import numpy as np
import pytest
from battery import check_decodes, check_every_chunk_not_larger, check_round_trip
from sample_streams import PROMPTS, all_chunks, measure_ratios

from pytest_h2o.codecs.base import Stream
from pytest_h2o.codecs.density import (
    PATTERNS,
    TOTAL_BITS,
    LaneDecoder,
    cumulated,
    encode_lanes,
    find_patterns,
    slopes_of,
)
from pytest_h2o.codecs.registry import get_codec
from pytest_h2o.codecs.rowref_max import RowRefMax
from pytest_h2o.codecs.wire import ByteReader
from pytest_h2o.errors import CodecError

CODEC = RowRefMax()


def test_recorded_dumps() -> None:
    payloads, ratio = measure_ratios(CODEC)
    assert ratio(lambda chunk: chunk.layer < 2) > 2.068
    assert ratio(lambda chunk: True) > 1.568
    floors = dict(zip(PROMPTS, (1.448, 1.678, 1.406), strict=True))
    for run_id, floor in floors.items():
        assert ratio(lambda chunk, run_id=run_id: chunk.run_id == run_id) > floor
    check_every_chunk_not_larger(CODEC, payloads, get_codec("adaptive_v22"))
    check_decodes(CODEC, payloads, every=6)


def _head(stream: Stream) -> Stream:
    positions = None if stream.positions is None else stream.positions[:20]
    return Stream(stream.words[:20], stream.tensor, positions, stream.rope)


def test_the_words_of_a_chunk_are_coded_by_density() -> None:
    """Damage is looked for in payloads of this codec's own mode, not of its fallbacks."""
    for index in (0, 7, 60, 149):
        assert CODEC.encode(_head(all_chunks()[index].stream))[0] == 64


def test_every_word_has_a_share_of_the_distribution() -> None:
    """Whatever is expected, all 65,536 patterns can be coded, and found again."""
    patterns = np.arange(PATTERNS, dtype=np.int64)
    for expected, variance in ((0.0, 1.0), (-3.25, 2.0**-30), (65504.0, 2.0**40), (1e-7, 2.0**-90), (2.0, 2.0**70)):
        slope = slopes_of(np.full(PATTERNS, variance))
        mean = np.full(PATTERNS, expected)
        low = cumulated(patterns, mean, slope)
        high = cumulated(patterns + 1, mean, slope)
        assert low[0] == 0
        assert high[-1] == 1 << TOTAL_BITS
        assert np.array_equal(low[1:], high[:-1])
        assert (high > low).all()
        for slots in (low, high - 1):
            found, begin, width = find_patterns(slots, mean, slope, 0)
            assert np.array_equal(found, patterns)
            assert np.array_equal(begin, low)
            assert np.array_equal(width, high - low)
        found, begin, width = find_patterns(low, mean, slope, 8)
        assert np.array_equal(found, patterns & ~255)


def test_tables_are_those_of_the_format() -> None:
    """Payloads decode with these numbers alone: they must never change."""
    variance = np.array([2.0**-30, 0.3, 1.0, 7.5, 2.0**33])
    assert slopes_of(variance).tolist() == [
        230078893540.50363,
        12917590.334104616,
        7021450.608535877,
        2582194.2040300136,
        75.7585958719197,
    ]
    boundary = np.array([20000, 32768, 47000, 48128, 50000])
    shares = cumulated(boundary, np.full(5, 0.5), slopes_of(np.full(5, 0.3)))
    assert shares.tolist() == [1834889, 2983266, 8074732, 13807480, 16760673]


@pytest.mark.parametrize("lanes", [1, 7, 192])
@pytest.mark.parametrize("steps", [1, 30])
def test_lanes(lanes: int, steps: int) -> None:
    rng = np.random.default_rng(9)
    width = 1 << rng.integers(0, 24, (steps, lanes))
    begin = rng.integers(0, (1 << 24) - width + 1)
    seeds = rng.integers(0, 1 << 24, lanes)
    coded = encode_lanes(begin, width, seeds)
    reader = ByteReader(coded, "lanes")
    decoder = LaneDecoder(reader, lanes, steps)
    reader.expect_end()
    for step in range(steps):
        slots = decoder.slots()
        assert (slots >= begin[step]).all()
        assert (slots < begin[step] + width[step]).all()
        decoder.advance(begin[step], width[step], slots)
    assert np.array_equal(decoder.seeds(), seeds)
    information_bits = (24 - np.log2(width)).sum() + 24 * lanes
    assert len(coded) * 8 < information_bits + 6 * lanes + 40


def test_very_wide_rows_are_left_to_rowref() -> None:
    words = np.random.default_rng(11).normal(0, 1, (6, 1, (1 << 14) + 1)).astype(np.float16).view(np.uint16)
    assert check_round_trip(CODEC, Stream(words, "v"))[0] != 64


def test_several_segments() -> None:
    rng = np.random.default_rng(10)
    tokens = rng.normal(0, 1, (20, 1, 6)).astype(np.float16).view(np.uint16)
    for rows in (1024, 1026):
        payload = check_round_trip(CODEC, Stream(tokens[rng.integers(0, 20, rows)] ^ 1, "v"))
        assert len(payload) < rows * 12


def test_a_stream_too_large_is_refused_before_it_is_copied() -> None:
    words = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint16), (1 << 20, 300, 1), (0, 0, 0))
    with pytest.raises(CodecError, match="cannot be coded"):
        CODEC.encode(Stream(words, "v"))
