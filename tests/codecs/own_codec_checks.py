"""What every codec of our own must hold, whatever its method; the tests of a codec call these."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import strategies as st
from kv_chunks import FIXTURES, FRAMING_BYTES, read_chunks, read_reference_sizes

from pytest_h2o.codecs.base import Codec, Rope, SideInfo, Stream, Tensor
from pytest_h2o.errors import CodecError

SHAPES = [(0, 3, 64), (1, 3, 64), (2, 1, 1), (5, 2, 7), (33, 1, 64), (70, 3, 16), (4, 0, 8), (3, 8, 128), (300, 1, 2)]


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Small streams of any bits: uniform words, few distinct words, repeated rows, or plausible fp16 values."""
    shape = (draw(st.integers(0, 40)), draw(st.integers(0, 3)), draw(st.integers(0, 17)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["uniform", "few", "rows", "values"]))
    if kind == "uniform":
        words = rng.integers(0, 1 << 16, shape, dtype=np.uint16)
    elif kind == "few":
        words = rng.choice(np.array([0, 0x8000, 0x7E01, 0xFC00, 0x7C00, 0x0001, 0x83FF, 0x3C00], np.uint16), shape)
    else:
        words = rng.normal(0, 10.0 ** draw(st.integers(-7, 4)), shape).astype(np.float16).view(np.uint16)
        if kind == "rows" and shape[0]:
            words = words[rng.integers(0, max(1, shape[0] // 3), shape[0])]
    tensor: Tensor = draw(st.sampled_from(["k", "v"]))
    positions = draw(st.sampled_from(["none", "run", "overlap", "far"]))
    rope = draw(st.sampled_from([None, Rope(1e4), Rope(1e5, "interleaved"), Rope(123_456.5)]))
    return Stream(words, tensor, _positions(positions, shape[0]), rope)


def _positions(kind: str, rows: int) -> np.ndarray | None:
    at = np.arange(rows, dtype=np.int64)
    return {"none": None, "run": at + 1000, "overlap": np.maximum(at - 3, 0), "far": at * 7_000_000_019}[kind]


def check_round_trip(codec: Codec, stream: Stream) -> bytes:
    """Encode, decode, compare bits; give the payload."""
    before = stream.words.copy()
    payload = codec.encode(stream)
    words = codec.decode(payload, stream.side_info())
    assert words.shape == stream.words.shape
    assert words.dtype == np.uint16
    assert words.flags.c_contiguous
    assert words.flags.owndata or words.base is not None
    assert np.array_equal(words, before)
    assert np.array_equal(stream.words, before)
    assert np.array_equal(codec.decode(memoryview(payload), stream.side_info()), before)
    return payload


def check_shapes(codec: Codec) -> None:
    """Odd and even shapes, an axis of no length, and words that lie apart in memory."""
    rng = np.random.default_rng(5)
    for shape in SHAPES:
        for tensor in ("k", "v"):
            words = rng.normal(0, 1, shape).astype(np.float16).view(np.uint16)
            check_round_trip(codec, Stream(words, tensor))
            apart = rng.normal(0, 1, (shape[1], shape[2], shape[0] * 2)).astype(np.float16).view(np.uint16)
            check_round_trip(codec, Stream(apart.transpose(2, 0, 1)[::2], tensor, None, Rope(1e4)))


def check_overhead(codec: Codec, max_overhead_bytes: int) -> None:
    """Streams that hold no structure, or nothing but one, cost a few bytes over raw at most."""
    rng = np.random.default_rng(6)
    for shape in [*SHAPES, (192, 3, 64), (129, 4, 80)]:
        size = int(np.prod(shape))
        contents = {
            "random": rng.integers(0, 1 << 16, size, dtype=np.uint16),
            "constant": np.full(size, 0x3C00, np.uint16),
            "zero": np.zeros(size, np.uint16),
            "nan": rng.integers(0x7C01, 0x8000, size).astype(np.uint16) | np.uint16(0x8000),
            "infinite": rng.choice(np.array([0x7C00, 0xFC00], np.uint16), size),
        }
        for name, words in contents.items():
            for tensor in ("k", "v"):
                stream = Stream(words.reshape(shape), tensor, None, Rope(1e4))
                payload = check_round_trip(codec, stream)
                assert len(payload) <= stream.raw_bytes + max_overhead_bytes, (name, shape)


def check_no_chunk_larger_than_reference(payloads: list[bytes]) -> None:
    """No chunk of the recordings is larger than adaptive_v22's, whose sizes are those of the original scripts."""
    reference = read_reference_sizes()
    oracle = json.loads((FIXTURES / "oracle" / "fp16" / "all_layers_grouped.json").read_text())
    assert sum(reference) + FRAMING_BYTES * len(reference) == oracle["compressed_bytes"]
    larger = [
        (chunk.run_id, chunk.layer, chunk.stream.tensor, len(payload), size)
        for chunk, payload, size in zip(read_chunks(), payloads, reference, strict=True)
        if len(payload) > size
    ]
    assert larger == []


def check_decodes(codec: Codec, payloads: list[bytes], every: int) -> None:
    """Every `every`-th payload of the recordings decodes to its words."""
    for chunk, payload in list(zip(read_chunks(), payloads, strict=True))[::every]:
        assert np.array_equal(codec.decode(payload, chunk.stream.side_info()), chunk.stream.words)


def check_damage(codec: Codec, stream: Stream, flips: int = 150) -> None:
    """A truncation or a flipped bit gives a CodecError or other words of the same shape, never anything else."""
    payload = codec.encode(stream)
    side = stream.side_info()
    rng = np.random.default_rng(7)
    cuts = {*range(min(len(payload), 40)), *rng.integers(0, len(payload), 40).tolist()}
    for cut in sorted(cuts):
        with pytest.raises(CodecError):
            codec.decode(payload[:cut], side)
    with pytest.raises(CodecError):
        codec.decode(payload + b"\0", side)
    bits = {*range(min(len(payload) * 8, flips)), *rng.integers(0, len(payload) * 8, flips).tolist()}
    for bit in sorted(bits):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            words = codec.decode(bytes(damaged), side)
        except CodecError:
            continue
        assert words.shape == stream.words.shape


def check_other_shape_is_refused(codec: Codec, stream: Stream) -> None:
    """The shape that the dump tells must be the shape in the payload."""
    payload = codec.encode(stream)
    rows, heads, dim = stream.words.shape
    with pytest.raises(CodecError, match="another shape"):
        codec.decode(payload, SideInfo(stream.tensor, (rows + 1, heads, dim)))


def check_bytes(codec: Codec, data: bytes) -> None:
    """Bytes of no codec at all."""
    for shape in [(0, 1, 1), (1, 1, 1), (9, 2, 4)]:
        try:
            words = codec.decode(data, SideInfo("k", shape))
        except CodecError:
            continue
        assert words.shape == shape
