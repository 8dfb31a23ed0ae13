"""Checks that every codec must pass, whatever its format; the tests run them over the registry.

Each check takes a codec, and the streams it is to be held to, and fails with an assertion.
"""

import json
import pickle
import random
import tracemalloc
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from sample_streams import all_chunks

from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Words
from pytest_h2o.codecs.registry import codec_from_config
from pytest_h2o.errors import CodecError

SLACK_BYTES = 4 << 20
"""Memory that a decoder may take whatever the stream: tables, contexts."""


def check_round_trip(codec: Codec, stream: Stream) -> bytes:
    """The same bits come back, from bytes that depend on nothing else; gives the payload for further checks."""
    before = stream.words.copy()
    payload = codec.encode(stream)
    assert type(payload) is bytes
    if codec.max_overhead_bytes is not None:
        assert len(payload) <= stream.raw_bytes + codec.max_overhead_bytes, "more than its promised worst case"
    assert np.array_equal(stream.words, before), "encode changed its input"
    before.flags.writeable = False  # as they are where they are measured
    assert codec.encode(replace(stream, words=before)) == payload, "equal streams gave unlike bytes"

    assert codec.encode_many([stream, stream]) == [payload, payload]
    side = stream.side_info()
    decoded = codec.decode(payload, side)
    check_words(decoded, before)
    assert not np.shares_memory(decoded, np.frombuffer(payload, np.uint8)), "decoded words lean on the payload"
    assert not np.shares_memory(decoded, stream.words)
    decoded[...] = 0
    check_words(codec.decode(memoryview(payload), side), before)
    many = codec.decode_many([payload, payload], [side, side])
    assert len(many) == 2
    many[0][...] = 0  # no two results share a word
    check_words(many[1], before)
    if "tensor" not in codec.out_of_band:
        other = replace(side, tensor="v" if side.tensor == "k" else "k")
        check_words(codec.decode(payload, other), before)
    for plane, counts in codec.modes(payload, side).items():
        assert plane in {"hi", "lo"}
        assert all(isinstance(mode, str) and type(count) is int and count >= 0 for mode, count in counts.items())
    assert sum(codec.plane_bytes(payload, side).values()) in {0, len(payload)}
    return payload


def check_words(words: Words, expected: Words) -> None:
    """Bits, shape, type and ownership."""
    assert words.dtype == np.uint16
    assert words.shape == expected.shape
    assert words.flags.c_contiguous
    assert words.flags.writeable
    assert np.array_equal(words, expected)


def check_config(codec: Codec) -> None:
    """The configuration goes through JSON and back, and is closed."""
    config = json.loads(json.dumps(codec.config()))
    assert config["id"] == codec.id
    assert codec_from_config(config) == codec
    with pytest.raises(CodecError, match="no setting 'not_a_setting'"):
        codec_from_config({**config, "not_a_setting": 1})


def check_repr(codec: Codec) -> None:
    """`repr` is the call that makes an equal codec; codecs are values."""
    again = eval(repr(codec), {type(codec).__name__: type(codec)})
    assert again == codec
    assert hash(again) == hash(codec)
    assert pickle.loads(pickle.dumps(codec)) == codec
    with pytest.raises(FrozenInstanceError):
        codec.anything = 1  # type: ignore[attr-defined]


def check_decodes(codec: Codec, payloads: Sequence[bytes], *, every: int) -> None:
    """Every `every`-th chunk of the recordings comes back from its payload."""
    for chunk, payload in list(zip(all_chunks(), payloads, strict=True))[::every]:
        check_words(codec.decode(payload, chunk.stream.side_info()), chunk.stream.words)


def check_threads(codec: Codec, streams: Sequence[Stream]) -> None:
    """Threads that share a codec get the bytes and the words that one thread gets."""
    expected = [codec.encode(stream) for stream in streams]

    def both(stream: Stream) -> tuple[bytes, Words]:
        payload = codec.encode(stream)
        return payload, codec.decode(payload, stream.side_info())

    with ThreadPoolExecutor(4) as pool:
        for index, (payload, words) in enumerate(pool.map(both, [*streams] * 4)):
            assert payload == expected[index % len(streams)]
            assert np.array_equal(words, streams[index % len(streams)].words)


def check_payload_damage(codec: Codec, stream: Stream, payload: bytes, *, samples: int) -> None:
    """Damage that no checksum catches gives an error of ours or other words, within the memory of the shape."""
    side = stream.side_info()
    codec.decode(payload, side)  # contexts and tables are made before memory is watched
    for damaged in _damage(payload, samples):
        _check_decodes_safely(codec, damaged, side)
    for shape in ((side.shape[0] * 3 + 1, *side.shape[1:]), (0, 0, 0), (1, 1, 1)):
        _check_decodes_safely(codec, payload, replace(side, shape=shape))


def _check_decodes_safely(codec: Codec, payload: bytes, side: SideInfo) -> None:
    tracemalloc.start()
    try:
        words = codec.decode(payload, side)
    except CodecError:
        pass
    else:
        assert words.shape == side.shape
        assert words.dtype == np.uint16
    finally:
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak_bytes <= 32 * side.raw_bytes + SLACK_BYTES, "damage made a decoder take memory"


def _damage(payload: bytes, samples: int) -> Iterator[bytes]:
    """Flipped bits, bytes of all ones, truncations, insertions: the front, where headers are, and a seeded sample."""
    rng = random.Random(len(payload))
    front = range(min(24, len(payload)))
    places = [*front, *(rng.randrange(len(payload)) for _ in range(samples if payload else 0))]
    for index in places:
        for mask in (1 << rng.randrange(8), 0xFF):
            yield payload[:index] + bytes([payload[index] ^ mask]) + payload[index + 1 :]
        yield payload[:index]
        yield payload[:index] + b"\xff" * rng.randrange(1, 9) + payload[index:]
    yield payload + b"\0"
