"""One piece of work: its streams read, encoded, counted, and decoded and compared."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import thread_time

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Codec, Rope, Stream, Tensor, Words
from pytest_h2o.errors import CodecError, H2OError, RoundTripError
from pytest_h2o.lossless.plan import Chunk, Task
from pytest_h2o.lossless.read import Piece, read_pieces

_MANY_FILES = 64
_reading = threading.Lock()
"""Taken to read many tiny files: two threads that do so at once hand the interpreter's lock to and fro at each system
call, which takes longer (0.44 s for 100,000 files) than one after the other (0.29 s); the other can encode instead."""


@dataclass
class Tally:
    """What streams of one tensor came to; tallies add up in any order.

    Bytes are those of fp16 words, those written (framing included), and the framing alone; by plane, payload bytes and
    how often each mode was chosen, where the codec tells; seconds are processor seconds of the threads that did it.
    """

    streams: int = 0
    verified: int = 0
    raw_bytes: int = 0
    coded_bytes: int = 0
    framing_bytes: int = 0
    encode_s: float = 0.0
    decode_s: float = 0.0
    plane_bytes: dict[str, int] = field(default_factory=dict)
    mode_counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        self.streams += other.streams
        self.verified += other.verified
        self.raw_bytes += other.raw_bytes
        self.coded_bytes += other.coded_bytes
        self.framing_bytes += other.framing_bytes
        self.encode_s += other.encode_s
        self.decode_s += other.decode_s
        self.add_planes(other.plane_bytes, other.mode_counts)

    def add_planes(self, plane_bytes: Mapping[str, int], mode_counts: Mapping[str, Mapping[str, int]]) -> None:
        _add_counts(self.plane_bytes, plane_bytes)
        for plane, counts in mode_counts.items():
            _add_counts(self.mode_counts.setdefault(plane, {}), counts)


def _add_counts(to: dict[str, int], counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        to[name] = to.get(name, 0) + count


@dataclass(frozen=True)
class Measured:
    """The tally of one task."""

    layer_id: int
    tensor: Tensor
    tally: Tally


def read_words(task: Task) -> Words:
    """The words of all streams of a task, one after the other, ``[rows, kv_heads, head_dim]``."""
    pieces = _pieces(task)
    if len(pieces) > _MANY_FILES:
        with _reading:
            return read_pieces(pieces, task.tensor)
    return read_pieces(pieces, task.tensor)


def _pieces(task: Task) -> list[Piece]:
    return [piece for chunk in task.chunks for piece in chunk.pieces]


@dataclass(frozen=True)
class Measurement:
    """How tasks are measured; safe to call from several threads."""

    codec: Codec
    verify: bool
    rope: Rope | None = None

    def __call__(self, task: Task) -> Measured:
        return self.measure(task, read_words(task))

    def measure(self, task: Task, words: Words) -> Measured:
        """Measure a task whose words, ``[rows, kv_heads, head_dim]``, are at hand; no file is opened."""
        positions = _positions(_pieces(task))
        rope = self.rope if task.tensor == "k" else None
        streams = []
        start = 0
        for chunk in task.chunks:
            span = slice(start, start + chunk.rows)
            streams.append(Stream(words[span], task.tensor, positions[span], rope))
            start += chunk.rows
        tally = Tally()
        records = self._encode(task, streams, tally)
        if self.verify:
            self._verify(task, streams, records, tally)
        return Measured(task.layer_id, task.tensor, tally)

    def _encode(self, task: Task, streams: Sequence[Stream], tally: Tally) -> list[bytes]:
        """The record of each stream, counted; all are encoded together."""
        started = thread_time()
        try:
            payloads = self.codec.encode_many(streams)
        except (H2OError, MemoryError):
            raise
        except Exception:  # which of them it was comes out one by one
            payloads = []
            for stream, chunk in zip(streams, task.chunks, strict=True):
                with self._naming(task, chunk):
                    payloads.append(self.codec.encode(stream))
        if len(payloads) != len(streams):
            raise CodecError(
                f"codec {self.codec.id} gave another number of payloads than streams",
                where=_where(task, task.chunks[0]),
                came=str(len(payloads)),
                expected=str(len(streams)),
                hint="mend encode_many of the codec, or leave it out",
            )
        records = [task.framing.header(payload) + payload for payload in payloads]
        tally.encode_s += thread_time() - started
        tally.streams += len(streams)
        tally.framing_bytes += len(streams) * task.framing.overhead_bytes
        for stream, chunk, payload, record in zip(streams, task.chunks, payloads, records, strict=True):
            tally.raw_bytes += stream.raw_bytes
            tally.coded_bytes += len(record)
            side = stream.side_info()
            with self._naming(task, chunk):
                tally.add_planes(self.codec.plane_bytes(payload, side), self.codec.modes(payload, side))
        return records

    @contextmanager
    def _naming(self, task: Task, chunk: Chunk) -> Iterator[None]:
        """A codec may be anybody's: whatever it raises must name the codec and the stream."""
        try:
            yield
        except (H2OError, MemoryError):
            raise
        except Exception as error:
            raise CodecError(
                f"codec {self.codec.id} cannot encode a stream",
                where=_where(task, chunk),
                came=f"{type(error).__name__}: {error}",
                hint="mend the codec: every shape and bit pattern can be encoded",
            ) from error

    def _verify(self, task: Task, streams: Sequence[Stream], records: Sequence[bytes], tally: Tally) -> None:
        """Decode all streams of a task together, from the counted bytes, and compare each."""
        started = thread_time()
        sides = [stream.side_info() for stream in streams]
        try:
            payloads = [task.framing.unwrap(memoryview(record)) for record in records]
            decoded = self.codec.decode_many(payloads, sides)
        except MemoryError:
            raise
        except Exception:  # which of them it was comes out one by one
            decoded = [
                self._decode_one(task, chunk, stream, record)
                for chunk, stream, record in zip(task.chunks, streams, records, strict=True)
            ]
        tally.decode_s += thread_time() - started
        if len(decoded) != len(streams):
            raise RoundTripError(
                f"codec {self.codec.id} gave back another number of streams",
                where=_where(task, task.chunks[0]),
                came=str(len(decoded)),
                expected=str(len(streams)),
                hint="mend decode_many of the codec, or leave it out",
            )
        for chunk, stream, words in zip(task.chunks, streams, decoded, strict=True):
            self._compare(stream.words, words, _where(task, chunk))
        tally.verified += len(streams)

    def _decode_one(self, task: Task, chunk: Chunk, stream: Stream, record: bytes) -> Words:
        came: str | None
        try:
            return self.codec.decode(task.framing.unwrap(memoryview(record)), stream.side_info())
        except CodecError as error:
            came, expected = error.what if error.came is None else f"{error.what}: {error.came}", error.expected
            cause: Exception = error
        except MemoryError:
            raise
        except Exception as error:
            came, expected, cause = f"{type(error).__name__}: {error}", None, error
        raise RoundTripError(
            f"codec {self.codec.id} cannot decode what it encoded",
            where=_where(task, chunk),
            came=came,
            expected=expected,
            hint="the size of such a stream means nothing; mend the codec",
        ) from cause

    def _compare(self, words: Words, decoded: Words, where: str) -> None:
        """Bits, as unsigned words: as floats -0.0 would pass for 0.0, and no NaN for itself."""
        if decoded.dtype != np.uint16 or decoded.shape != words.shape:
            raise RoundTripError(
                f"codec {self.codec.id} gave back another shape",
                where=where,
                came=f"{decoded.dtype} {list(decoded.shape)}",
                expected=f"uint16 {list(words.shape)}",
            )
        if np.array_equal(decoded, words):
            return
        wrong = np.flatnonzero(decoded.reshape(-1) != words.reshape(-1))
        first = int(wrong[0])
        row, head, dim = (int(i) for i in np.unravel_index(first, words.shape))
        raise RoundTripError(
            f"codec {self.codec.id} gave back other bits",
            where=f"{where}, first at word {first} (byte {2 * first}): token {row}, head {head}, dimension {dim}",
            came=f"0x{int(decoded.reshape(-1)[first]):04x}; {wrong.size} of {words.size} words differ",
            expected=f"0x{int(words.reshape(-1)[first]):04x}",
            hint="the codec is not lossless on this stream; no ratio of it counts",
        )


def _where(task: Task, chunk: Chunk) -> str:
    first, last = chunk.pieces[0], chunk.pieces[-1]
    begin = first.entry.seq_start + first.first
    end = last.entry.seq_start + last.first + last.rows - 1
    files = first.entry.meta if len(chunk.pieces) == 1 else f"{first.entry.meta} to {last.entry.meta}"
    return f"{files}, layer {task.layer_id}, {task.tensor.upper()}, tokens {begin} to {end}"


def _positions(pieces: Sequence[Piece]) -> NDArray[np.int64]:
    """Position of each token of some pieces in its run."""
    starts = np.array([piece.entry.seq_start + piece.first for piece in pieces], np.int64)
    rows = np.array([piece.rows for piece in pieces], np.int64)
    ends = np.cumsum(rows)
    return np.repeat(starts - (ends - rows), rows) + np.arange(ends[-1])
