"""Streams for the battery: real ones, and what hypothesis makes of raw integers seen as floats."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pytest_h2o.cli.codecs_bench import streams
from pytest_h2o.codecs.base import Codec, DType, Rope, Stream, Words

DUMP = Path(__file__).parents[2] / "fixtures" / "dumps" / "fp16.zip"
SMALL = DUMP.with_name("small")
"""One layer of one run, as a folder."""

ROPE = Rope(theta=100_000.0)
PROMPTS = ("code", "log", "prose")
CHUNK_TOKENS, FRAMING_BYTES = 192, 8
SHAPES = ((0, 3, 64), (1, 3, 64), (2, 1, 1), (5, 2, 7), (33, 1, 64), (70, 3, 16), (4, 0, 8), (3, 8, 128), (300, 1, 2))
"""Odd and even ones, axes of no length, few and many tokens."""

SPECIAL = (0, 0x8000, 1, 0x8001, 0x3FF, 0x400, 0x3C00, 0x7BFF, 0x7C00, 0xFC00, 0x7C01, 0x7E00, 0xFE01, 0xFFFF)
"""Zeros, subnormals, the least normal, one, the largest, infinities, NaNs with their payloads."""


def cut(stream: Stream, start: int, end: int) -> Stream:
    """Tokens `start` to `end` of a stream."""
    positions = None if stream.positions is None else stream.positions[start:end]
    return replace(stream, words=stream.words[start:end], positions=positions)


def as_dtype(stream: Stream, dtype: DType) -> Stream:
    """An fp16 stream as it is, or its values rounded to bf16, to even."""
    if dtype == "fp16":
        return stream
    bits = np.ascontiguousarray(stream.words).view(np.float16).astype(np.float32).view(np.uint32)
    return replace(stream, words=(bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16), dtype=dtype)


@dataclass(frozen=True)
class Chunk:
    """What an online store codes at once: `CHUNK_TOKENS` tokens at most of one tensor of one layer of one run."""

    run_id: str
    layer: int
    stream: Stream


@cache
def all_chunks() -> tuple[Chunk, ...]:
    """Every chunk of the recorded dumps."""
    return tuple(
        Chunk(dumped.run_id, dumped.layer, cut(dumped.stream, start, start + CHUNK_TOKENS))
        for dumped in streams(DUMP, rope=ROPE)
        for start in range(0, len(dumped.stream.words), CHUNK_TOKENS)
    )


Ratio = Callable[[Callable[[Chunk], bool]], float]


def measure_ratios(codec: Codec) -> tuple[list[bytes], Ratio]:
    """Encode every chunk; give the payloads, and the ratio (raw over coded, framing counted) of a selection."""
    payloads = [codec.encode(chunk.stream) for chunk in all_chunks()]

    def ratio(select: Callable[[Chunk], bool]) -> float:
        chosen = [(chunk, payload) for chunk, payload in zip(all_chunks(), payloads, strict=True) if select(chunk)]
        raw_bytes = sum(chunk.stream.raw_bytes for chunk, _ in chosen)
        return raw_bytes / sum(len(payload) + FRAMING_BYTES for _, payload in chosen)

    return payloads, ratio


@cache
def real_streams() -> tuple[Stream, ...]:
    """One chunk of 192 tokens of K and V of some runs and layers, with positions and rotation."""
    wanted = {("code", 0), ("log", 1), ("prose", 15), ("prose", 29)}
    chunks = tuple(
        cut(dumped.stream, 100, 292) for dumped in streams(DUMP, rope=ROPE) if (dumped.run_id, dumped.layer) in wanted
    )
    assert len(chunks) == 2 * len(wanted)
    return chunks


def worst_words() -> dict[str, Words]:
    """Words in which there is nothing to find, or nothing but one thing."""
    rng = np.random.default_rng(20)
    shape = (96, 3, 64)
    return {
        "random": rng.integers(0, 1 << 16, shape, dtype=np.uint16),
        "constant": np.full(shape, 0x3C00, np.uint16),
        "zero": np.zeros(shape, np.uint16),
        "nan": np.full(shape, 0x7E00, np.uint16),
        "random_nan": rng.integers(0x7C01, 0x8000, shape, dtype=np.uint16),
        "infinite": np.where(rng.random(shape) < 0.5, 0x7C00, 0xFC00).astype(np.uint16),
        "specials": rng.choice(np.array(SPECIAL, np.uint16), shape),
        "random_one_token": rng.integers(0, 1 << 16, (1, 3, 64), dtype=np.uint16),
        "one_word": np.array([[[0xABCD]]], np.uint16),
        "empty": np.empty((0, 3, 64), np.uint16),
    }


@st.composite
def any_stream(draw: st.DrawFn, *, with_bf16: bool = False) -> Stream:
    """Streams of any small shape, odd, even and empty, not always contiguous, with any positions."""
    words = draw(_small_words() | _patterned_words())
    words = draw(st.sampled_from((words, words[::-1], words[..., ::-1], np.asfortranarray(words), words[::2])))
    positions = draw(
        st.none()
        | st.integers(0, 1 << 20).map(lambda first: np.arange(first, first + len(words), dtype=np.int64))
        | hnp.arrays(np.int64, len(words), elements=st.integers(0, 1 << 20))
    )
    tensor = draw(st.sampled_from(("k", "v")))
    pairings = st.sampled_from(("half", "interleaved"))
    rope = draw(st.none() | st.builds(Rope, st.sampled_from((1e4, 1e5, 5e5)), pairings)) if tensor == "k" else None
    stream = Stream(words, tensor, positions, rope)
    kind = (
        draw(st.sampled_from(("fp16", "bits", "values"))) if with_bf16 else "fp16"
    )  # the same bits as bf16, or the same values
    return as_dtype(stream, "bf16") if kind == "values" else replace(stream, dtype="bf16" if kind == "bits" else "fp16")


def _small_words() -> st.SearchStrategy[Words]:
    shape = st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 9))
    return hnp.arrays(np.uint16, shape, elements=st.sampled_from(SPECIAL) | st.integers(0, 0xFFFF))


@st.composite
def _patterned_words(draw: st.DrawFn) -> Words:
    """Longer streams, in the patterns that codecs look for: repeated rows, small steps, rotated rows, noise."""
    shape = draw(st.tuples(st.integers(1, 140), st.integers(1, 3), st.sampled_from((1, 2, 7, 16, 64))))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    values = rng.standard_normal(shape)
    pattern = draw(st.sampled_from(("noise", "normal", "walk", "repeats", "channels", "extreme")))
    if pattern == "noise":
        return rng.integers(0, 1 << 16, shape, dtype=np.uint16)
    if pattern == "walk":
        values = np.cumsum(values * 0.05, axis=0)
    elif pattern == "repeats":
        values = values[rng.integers(0, 1 + len(values) // 4, len(values))] + rng.choice(
            (0.0, 1e-3), (len(values), 1, 1)
        )
    elif pattern == "channels":
        values = values * 2.0 ** rng.integers(-20, 12, shape[2])
    elif pattern == "extreme":
        values = values * 10.0 ** rng.integers(-8, 6, shape)
    with np.errstate(over="ignore"):
        return values.astype(np.float16).view(np.uint16)
