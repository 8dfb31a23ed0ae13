"""Codecs measured side by side on a dump: ratio with every byte counted, speed, and every decode verified.

Online, a stream is cut in chunks of tokens, each coded alone and charged with framing; aggregate, a stream is coded
whole and charged with 4 bytes and 4 bytes a dump entry. Ratio is raw fp16 bytes / encoded bytes, higher is better.

A timed round codes and decodes every chunk once with every contender. Rounds are interleaved stream by stream, the
order of the contenders shifted by one each time, so that a slow moment of the machine hits all alike; a pass before
them, untimed, gives the sizes. A speed is the median of its rounds, never the best. Time is processor time of the whole
process, threads of a library included: on a machine that others use as well, wall time says more about them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import process_time

import numpy as np

from pytest_h2o.codecs.base import Stream, Tensor, Words
from pytest_h2o.codecs_bench.contenders import Contender
from pytest_h2o.codecs_bench.streams import DumpStream
from pytest_h2o.errors import CodecError, H2OError, RoundTripError, UsageError


@dataclass(frozen=True)
class BenchSettings:
    """How a comparison is made.

    Attributes
    ----------
    chunk_tokens : int
        Tokens of an online chunk.
    framing_bytes : int
        Bytes that an online chunk of one tensor is charged with.
    front_layers : int
        The layers from 0 that "front" means.
    rounds : int
        Timed rounds.
    """

    chunk_tokens: int = 192
    framing_bytes: int = 8
    front_layers: int = 2
    rounds: int = 5

    def __post_init__(self) -> None:
        for name, least in (("chunk_tokens", 1), ("framing_bytes", 0), ("front_layers", 1), ("rounds", 1)):
            if getattr(self, name) < least:
                raise UsageError(
                    f"{name.replace('_', ' ')} is too small",
                    came=str(getattr(self, name)),
                    expected=f"at least {least}",
                )


@dataclass(frozen=True)
class StreamSizes:
    """Bytes of one stream with one contender."""

    run_id: str
    layer: int
    tensor: Tensor
    raw_bytes: int
    online_bytes: int
    aggregate_bytes: int


@dataclass
class Result:
    """What one contender did; filled stream by stream.

    Attributes
    ----------
    sizes : list of StreamSizes
    encode_s, decode_s : list of float
        Processor seconds of each round, all streams together.
    verified_chunks : int
        Decodes that were compared with their input, bit for bit.
    failure : str or None
        Why a peer is out of the comparison. A codec of ours is never: its failure is an error.
    """

    contender: Contender
    sizes: list[StreamSizes] = field(default_factory=list)
    encode_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)
    verified_chunks: int = 0
    failure: str | None = None

    def mb_per_s(self, rounds_s: Sequence[float]) -> float:
        """Median speed over rounds, in 10**6 raw bytes a second."""
        return sum(s.raw_bytes for s in self.sizes) / 1e6 / statistics.median(rounds_s)


def ratio(sizes: Iterable[StreamSizes], *, online: bool) -> float | None:
    """Raw over encoded bytes of the streams together, higher is better; None if there are none."""
    raw_bytes = encoded_bytes = 0
    for stream in sizes:
        raw_bytes += stream.raw_bytes
        encoded_bytes += stream.online_bytes if online else stream.aggregate_bytes
    return raw_bytes / encoded_bytes if encoded_bytes else None


def measure(dump: Iterable[DumpStream], contenders: Sequence[Contender], settings: BenchSettings) -> list[Result]:
    """Measure `contenders` on the streams of a dump, one stream in memory at a time.

    Raises
    ------
    RoundTripError
        A codec of ours gave other bits back. A peer that fails is left out from there on, and says why.
    """
    results = [
        Result(contender, encode_s=[0.0] * settings.rounds, decode_s=[0.0] * settings.rounds)
        for contender in contenders
    ]
    for number, dumped in enumerate(dump):
        chunks = _cut(dumped.stream, settings.chunk_tokens)
        for result in results:
            _attempt(result, dumped, partial(_add_sizes, result, dumped, chunks, settings))
        for round_index in range(settings.rounds):
            shift = (number + round_index) % max(1, len(results))
            for result in results[shift:] + results[:shift]:
                _attempt(result, dumped, partial(_add_times, result, dumped, chunks, round_index))
    return results


def _attempt(result: Result, dumped: DumpStream, step: Callable[[], None]) -> None:
    """Do `step`; whatever goes wrong takes a peer out of the comparison, and is an error for a codec of ours."""
    if result.failure is not None:
        return
    try:
        step()
    except Exception as error:
        if result.contender.kind == "peer":
            result.failure = f"{_name(dumped)}: {type(error).__name__}: {error}"
        elif isinstance(error, H2OError):
            raise
        else:
            raise CodecError(
                f"codec {result.contender.name} failed",
                where=_name(dumped),
                came=f"{type(error).__name__}: {error}",
                expected="bytes, or a CodecError",
            ) from error


def _add_sizes(result: Result, dumped: DumpStream, chunks: Sequence[Stream], settings: BenchSettings) -> None:
    """Code the chunks, and the stream whole, untimed; verify both."""
    contender = result.contender
    payloads = [contender.encode(chunk) for chunk in chunks]
    whole = contender.encode(dumped.stream)
    for stream, payload in zip((*chunks, dumped.stream), (*payloads, whole), strict=True):
        _verify(result, dumped, stream, contender.decode(payload, stream.side_info()))
    result.sizes.append(
        StreamSizes(
            dumped.run_id,
            dumped.layer,
            dumped.stream.tensor,
            dumped.stream.raw_bytes,
            sum(map(len, payloads)) + settings.framing_bytes * len(chunks),
            len(whole) + 4 + 4 * dumped.entries,
        )
    )


def _add_times(result: Result, dumped: DumpStream, chunks: Sequence[Stream], round_index: int) -> None:
    """Code and decode the chunks once, timed; verify after the clock has stopped."""
    contender = result.contender
    sides = [chunk.side_info() for chunk in chunks]
    begin = process_time()
    payloads = [contender.encode(chunk) for chunk in chunks]
    middle = process_time()
    decoded = contender.decode_all(payloads, sides)
    end = process_time()
    result.encode_s[round_index] += middle - begin
    result.decode_s[round_index] += end - middle
    for chunk, words in zip(chunks, decoded, strict=True):
        _verify(result, dumped, chunk, words)


def _verify(result: Result, dumped: DumpStream, stream: Stream, decoded: Words) -> None:
    expected = stream.words
    if decoded.shape != expected.shape or decoded.dtype != np.uint16:
        raise RoundTripError(
            f"{result.contender.name} decoded to another shape",
            where=_name(dumped),
            came=f"{decoded.dtype.str} {list(decoded.shape)}",
            expected=f"uint16 {list(expected.shape)}",
        )
    differs = np.flatnonzero(decoded != expected)
    if differs.size:
        at = int(differs[0])
        raise RoundTripError(
            f"{result.contender.name} decoded to other bits",
            where=f"{_name(dumped)}, word {at} of {expected.size} in a chunk of {len(expected)} tokens",
            came=f"{decoded.flat[at]:#06x} ({differs.size} words differ)",
            expected=f"{expected.flat[at]:#06x}",
        )
    result.verified_chunks += 1


def _cut(stream: Stream, chunk_tokens: int) -> list[Stream]:
    return [
        Stream(
            stream.words[start : start + chunk_tokens],
            stream.tensor,
            None if stream.positions is None else stream.positions[start : start + chunk_tokens],
            stream.rope,
        )
        for start in range(0, len(stream.words), chunk_tokens)
    ]


def _name(dumped: DumpStream) -> str:
    return f"run {dumped.run_id}, layer {dumped.layer}, {dumped.stream.tensor.upper()}"
