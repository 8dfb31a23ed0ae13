"""The battery, over every codec of the package in its default configuration and some others."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import numpy as np
import pytest
from battery import (
    check_bytes,
    check_config,
    check_not_larger_than,
    check_other_shape_is_refused,
    check_overhead,
    check_payload_damage,
    check_repr,
    check_round_trip,
    check_threads,
    check_words,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_streams import DUMP, ROPE, SHAPES, any_stream, cut, real_streams, worst_words

import pytest_h2o.codecs
from pytest_h2o.cli.codecs_bench import streams as dumped_streams
from pytest_h2o.codecs.base import Codec, Stream
from pytest_h2o.codecs.registry import BUILT_IN, codec_class, get_codec, parse_codec, render_codec

OTHER_SETTINGS = (
    "zstd:level=19",
    "byteplane:level=1",
    "gear_v3:predictors_k=pair_delta:predictors_v=xor_seq,raw",
)

DEFAULTS = [get_codec(name) for name in BUILT_IN]
BOUNDED = [codec for codec in DEFAULTS if codec.max_overhead_bytes is not None]

NOT_LARGER = [("byteplane", "zstd"), *((name, "adaptive_v22") for name in ("expbias", "rowref", "rowref_max"))]
"""Codecs that take no more bytes than another one, on every real stream."""

every_codec = pytest.mark.parametrize("codec", [*DEFAULTS, *map(parse_codec, OTHER_SETTINGS)], ids=render_codec)
every_default = pytest.mark.parametrize("codec", DEFAULTS, ids=render_codec)
every_bounded = pytest.mark.parametrize("codec", BOUNDED, ids=render_codec)


@every_codec
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stream=any_stream())
def test_any_bits_come_back(codec: Codec, stream: Stream) -> None:
    check_round_trip(codec, stream)


@every_codec
def test_real_streams_come_back_smaller(codec: Codec) -> None:
    streams = real_streams()
    assert sum(len(check_round_trip(codec, stream)) for stream in streams) < sum(s.raw_bytes for s in streams)


@every_default
def test_streams_of_all_kinds_are_encoded_and_decoded_together(codec: Codec) -> None:
    """In any order: real and odd ones, coded in any of the codec's modes, with unlike shapes and rotations."""
    streams = [cut(stream, 0, 40) for stream in real_streams()[:4]]
    streams += [Stream(words, "k", None, ROPE) for words in worst_words().values()]
    payloads = codec.encode_many(streams)
    assert payloads == [codec.encode(stream) for stream in streams]
    decoded = codec.decode_many(payloads, [stream.side_info() for stream in streams])
    for words, stream in zip(decoded, streams, strict=True):
        check_words(words, stream.words)


@pytest.mark.parametrize(("name", "other"), NOT_LARGER)
def test_no_real_stream_is_larger_than_with_another_codec(name: str, other: str) -> None:
    for stream in real_streams():
        check_not_larger_than(get_codec(name), get_codec(other), stream)


@pytest.mark.parametrize("name", ["expbias", "rowref"])  # rowref_max falls back on rowref
def test_no_recorded_stream_is_larger_than_with_adaptive_v22(name: str) -> None:
    """Whole sequences, chunks of 128 tokens and single tokens; chunks of 192 are in the tests of each codec."""
    codec, other = get_codec(name), get_codec("adaptive_v22")
    for dumped in dumped_streams(DUMP, rope=ROPE):
        stream = dumped.stream
        check_not_larger_than(codec, other, stream)
        for start in range(0, len(stream.words), 128):
            check_not_larger_than(codec, other, cut(stream, start, start + 128))
        for start in range(0, len(stream.words), 50):
            check_not_larger_than(codec, other, cut(stream, start, start + 1))


@every_codec
@pytest.mark.parametrize("words", worst_words().values(), ids=worst_words())
@pytest.mark.parametrize("tensor", ["k", "v"])
def test_worst_words_come_back(codec: Codec, words: np.ndarray, tensor: str) -> None:
    check_round_trip(codec, Stream(words, tensor, np.arange(len(words)), ROPE if tensor == "k" else None))


@every_codec
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("tensor", ["k", "v"])
def test_every_shape_comes_back(codec: Codec, shape: tuple[int, int, int], tensor: str) -> None:
    values = np.random.default_rng(5).normal(0, 1, (shape[1], shape[2], 2 * shape[0]))
    words = values.astype(np.float16).view(np.uint16).transpose(2, 0, 1)
    check_round_trip(codec, Stream(np.ascontiguousarray(words[1::2]), tensor))
    check_round_trip(codec, Stream(words[::2], tensor, None, ROPE))  # apart in memory, a rotation without positions


@every_bounded
@pytest.mark.parametrize("words", worst_words().values(), ids=worst_words())
@pytest.mark.parametrize("tensor", ["k", "v"])
def test_worst_words_cost_at_most_what_is_promised(codec: Codec, words: np.ndarray, tensor: str) -> None:
    check_overhead(codec, Stream(words, tensor, np.arange(len(words)), ROPE if tensor == "k" else None))


@every_bounded
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stream=any_stream())
def test_any_words_cost_at_most_what_is_promised(codec: Codec, stream: Stream) -> None:
    check_overhead(codec, stream)


@every_codec
def test_configuration_goes_there_and_back(codec: Codec) -> None:
    check_config(codec)
    check_repr(codec)
    assert parse_codec(render_codec(codec)) == codec


@every_default
def test_threads_do_not_meet(codec: Codec) -> None:
    check_threads(codec, real_streams()[:4])


@every_default
@pytest.mark.parametrize("index", [0, 1])
def test_damaged_payloads_are_safe(codec: Codec, index: int) -> None:
    stream = cut(real_streams()[index], 0, 20)
    check_payload_damage(codec, stream, codec.encode(stream), samples=25)


@every_default
@pytest.mark.parametrize("kind", ["constant", "random", "specials", "one_word", "empty"])
def test_damaged_payloads_of_odd_streams_are_safe(codec: Codec, kind: str) -> None:
    stream = Stream(worst_words()[kind], "k", None, ROPE)
    check_payload_damage(codec, stream, codec.encode(stream), samples=25)


@every_default
@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_are_safe(codec: Codec, data: bytes) -> None:
    check_bytes(codec, data)


@pytest.mark.parametrize("codec", [c for c in DEFAULTS if "shape" not in c.out_of_band], ids=render_codec)
def test_a_payload_is_decoded_for_its_own_shape_alone(codec: Codec) -> None:
    check_other_shape_is_refused(codec, cut(real_streams()[0], 0, 20))


def test_every_codec_of_the_package_is_registered() -> None:
    found = set()
    for module in pkgutil.walk_packages(pytest_h2o.codecs.__path__, "pytest_h2o.codecs."):
        members = vars(importlib.import_module(module.name)).values()
        found |= {
            member.id
            for member in members
            if inspect.isclass(member)
            and issubclass(member, Codec)
            and not inspect.isabstract(member)
            and member.__module__ == module.name
        }
    assert found == set(BUILT_IN)
    summaries = [(codec_class(name).__doc__ or "").partition("\n")[0] for name in BUILT_IN]
    assert all(summaries)
    assert len(set(summaries)) == len(summaries), "the list of codecs shows the first line of each docstring"
