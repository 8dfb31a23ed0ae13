"""The battery, over every codec of the package in its default configuration and some others."""

import importlib
import inspect
import itertools
import pkgutil
from dataclasses import replace

import numpy as np
import pytest
from battery import check_config, check_payload_damage, check_repr, check_round_trip, check_threads, check_words
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_streams import DUMP, ROPE, SHAPES, any_stream, as_dtype, cut, real_streams, worst_words

import pytest_h2o.codecs
from pytest_h2o.cli.codecs_bench import streams as dumped_streams
from pytest_h2o.codecs.base import Codec, DType, SideInfo, Stream
from pytest_h2o.codecs.registry import BUILT_IN, codec_class, get_codec, parse_codec, render_codec
from pytest_h2o.errors import CodecError

OTHER_SETTINGS = ("zstd:level=19", "byteplane:level=1", "gear_v3:predictors_k=pair_delta:predictors_v=xor_seq,raw")


def str_or_codec(value: object) -> str:
    return render_codec(value) if isinstance(value, Codec) else str(value)


DEFAULTS = [get_codec(name) for name in BUILT_IN]

every_codec = pytest.mark.parametrize("codec", [*DEFAULTS, *map(parse_codec, OTHER_SETTINGS)], ids=render_codec)
every_default = pytest.mark.parametrize("codec", DEFAULTS, ids=render_codec)
every_default_and_dtype = pytest.mark.parametrize(
    ("codec", "dtype"), [(codec, dtype) for codec in DEFAULTS for dtype in codec.dtypes], ids=str_or_codec
)


@every_codec
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stream=any_stream(with_bf16=True))
def test_any_bits_come_back(codec: Codec, stream: Stream) -> None:
    if stream.dtype in codec.dtypes:
        check_round_trip(codec, stream)
    else:
        with pytest.raises(CodecError, match=f"codec {codec.id} does not code bf16"):
            codec.encode(stream)


@every_default
def test_payloads_are_decoded_as_what_they_are(codec: Codec) -> None:
    """What is of fp16 only refuses bf16, and a payload that says what it is of is no other's."""
    stream = cut(real_streams()[0], 0, 20)
    payload, side = codec.encode(stream), replace(stream.side_info(), dtype="bf16")
    if codec.dtypes == ("fp16",):
        with pytest.raises(
            CodecError, match=r"does not code bf16\n  came: bf16\n  expected: fp16\n  next: it is defined"
        ):
            codec.decode(payload, side)
    elif not codec.out_of_band:
        with pytest.raises(CodecError, match=r"another dtype\n.*\n  came: fp16\n  expected: bf16"):
            codec.decode(payload, side)


@every_default_and_dtype
def test_streams_of_all_kinds_are_encoded_and_decoded_together(codec: Codec, dtype: DType) -> None:
    """In any order: real and odd ones, coded in any of the codec's modes, with unlike shapes and rotations."""
    streams = [cut(stream, 0, 40) for stream in real_streams()[:4]]
    streams += [Stream(words, "k", None, ROPE, dtype) for words in worst_words().values()]
    streams += [as_dtype(stream, dtype) for stream in streams[:4]]
    payloads = codec.encode_many(streams)
    assert payloads == [codec.encode(stream) for stream in streams]
    decoded = codec.decode_many(payloads, [stream.side_info() for stream in streams])
    for words, stream in zip(decoded, streams, strict=True):
        check_words(words, stream.words)


@every_default_and_dtype
def test_real_streams_come_back_smaller(codec: Codec, dtype: DType) -> None:
    streams = [as_dtype(cut(stream, 0, 192), dtype) for stream in real_streams()]
    assert sum(len(check_round_trip(codec, stream)) for stream in streams) < sum(s.raw_bytes for s in streams)


@pytest.mark.parametrize("name", ["expbias", "rowref"])  # rowref_max falls back on rowref
def test_no_recorded_stream_is_larger_than_with_adaptive_v22(name: str) -> None:
    """Whole sequences, chunks of 128 tokens and single tokens; chunks of 192 are in the tests of each codec."""
    codec, other = get_codec(name), get_codec("adaptive_v22")
    for dumped in dumped_streams(DUMP, rope=ROPE):
        starts = range(0, len(dumped.stream.words), 128)
        parts = [dumped.stream, *(cut(dumped.stream, start, start + 128) for start in starts)]
        parts += [cut(dumped.stream, start, start + 1) for start in range(0, len(dumped.stream.words), 50)]
        for part, payload in zip(parts, other.encode_many(parts), strict=True):
            assert len(codec.encode(part)) <= len(payload), f"{dumped}, {len(part.words)} tokens"


@every_codec
@pytest.mark.parametrize("words", worst_words().values(), ids=worst_words())
@pytest.mark.parametrize("tensor", ["k", "v"])
def test_worst_words_come_back(codec: Codec, words: np.ndarray, tensor: str) -> None:
    for dtype in codec.dtypes:
        check_round_trip(codec, Stream(words, tensor, np.arange(len(words)), ROPE if tensor == "k" else None, dtype))


@every_codec
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("tensor", ["k", "v"])
def test_every_shape_comes_back(codec: Codec, shape: tuple[int, int, int], tensor: str) -> None:
    values = np.random.default_rng(5).normal(0, 1, (shape[1], shape[2], 2 * shape[0]))
    words = values.astype(np.float16).view(np.uint16).transpose(2, 0, 1)
    for dtype in codec.dtypes:
        stream = as_dtype(Stream(words, tensor, None, ROPE), dtype)
        check_round_trip(codec, Stream(np.ascontiguousarray(stream.words[1::2]), tensor, dtype=dtype))
        check_round_trip(codec, cut(stream, 0, shape[0]))  # a rotation without positions
        apart = stream.words.transpose(1, 2, 0).copy().transpose(2, 0, 1)[::2]  # in memory
        check_round_trip(codec, Stream(apart, tensor, dtype=dtype))


@every_codec
def test_configuration_goes_there_and_back(codec: Codec) -> None:
    check_config(codec)
    check_repr(codec)
    assert parse_codec(render_codec(codec)) == codec


@every_default
def test_threads_do_not_meet(codec: Codec) -> None:
    check_threads(codec, [cut(stream, 0, 24) for stream in real_streams()[:4]])


@every_default_and_dtype
@pytest.mark.parametrize("kind", ["real_k", "real_v", "constant", "random", "specials", "one_word", "empty"])
def test_damaged_payloads_are_safe(codec: Codec, dtype: DType, kind: str) -> None:
    if kind.startswith("real"):
        stream = as_dtype(cut(real_streams()[0 if kind == "real_k" else 3], 0, 12), dtype)
        assert codec.id != "rowref_max" or codec.encode(stream)[0] & 127 == 64, "its own mode, not a fallback"
    else:
        stream = Stream(worst_words()[kind][:24], "k", None, ROPE, dtype)
    check_payload_damage(codec, stream, codec.encode(stream), samples=4 if codec.id == "rowref_max" else 15)


@every_default
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_are_safe(codec: Codec, data: bytes) -> None:
    for shape, dtype in itertools.product(((0, 1, 1), (1, 1, 1), (9, 2, 4)), codec.dtypes):
        try:
            words = codec.decode(data, SideInfo("k", shape, dtype))
        except CodecError:
            continue
        assert words.shape == shape


@pytest.mark.parametrize("codec", [c for c in DEFAULTS if "shape" not in c.out_of_band], ids=render_codec)
def test_a_payload_is_decoded_for_its_own_shape_alone(codec: Codec) -> None:
    stream = cut(real_streams()[0], 0, 20)
    with pytest.raises(CodecError, match="another shape"):
        codec.decode(codec.encode(stream), SideInfo("k", (21, 3, 64)))


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
