"""Pieces of work: which streams of a dump there are, and what each comes to.

Entries are selected, joined, cut and framed (`select`, `plan_groups`, `plan_tasks`); the streams of a `Task` are then
read together, encoded, counted, decoded from the counted bytes and compared (`Measurement`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import NamedTuple
from zlib import crc32

import numpy as np

from pytest_h2o.codecs.base import Codec, Rope, Words
from pytest_h2o.errors import CodecError, DumpError, H2OError, RoundTripError
from pytest_h2o.inputs.keys import CHUNKED
from pytest_h2o.inputs.options import CODEC_TIMEOUT_S
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless.apart import (
    Coded,
    Coder,
    Encoded,
    Here,
    NotPlain,
    Streams,
    add_counts,
    is_plain,
    keep_apart,
    type_name,
)
from pytest_h2o.lossless.index import DumpEntry, DumpIndex, Health, Piece, Tensor, examine, positions_of, read_pieces
from pytest_h2o.lossless.result import SkippedEntry

_CHUNK = struct.Struct("<II")
_TASK_BYTES = 1 << 21
"""Streams are handed out in bundles of about this many raw bytes: few enough hand-overs, little memory."""


@dataclass(frozen=True)
class Framing:
    """What stands before the payload in the record of a stream, and is counted with it: here nothing."""

    @property
    def overhead_bytes(self) -> int:
        return 0

    def header(self, payload: bytes | memoryview) -> bytes:
        """The bytes to write before `payload`."""
        return b""

    def unwrap(self, record: memoryview) -> memoryview:
        """The payload of a record; CodecError where the header does not fit it."""
        header, payload = bytes(record[: self.overhead_bytes]), record[self.overhead_bytes :]
        if header != (fitting := self.header(payload)):
            what, expected = self._damage(fitting)
            raise CodecError(what, came=header.hex() or "no bytes", expected=expected)
        return payload

    def _damage(self, fitting: bytes) -> tuple[str, str]:
        what = "a chunk is damaged: its framing does not fit its payload"
        return what, f"{fitting.hex()} (length, CRC-32, zero bytes)"


@dataclass(frozen=True)
class ChunkFraming(Framing):
    """Length and CRC-32 of the payload, u32 little-endian each, cut or padded with zero bytes to `length`."""

    length: int

    @property
    def overhead_bytes(self) -> int:
        return self.length

    def header(self, payload: bytes | memoryview) -> bytes:
        if len(payload) >= 2**32:
            raise CodecError(
                "a chunk is too long for its framing", came=f"{len(payload)} bytes", expected="under 4 GiB"
            )
        return _CHUNK.pack(len(payload), crc32(payload))[: self.length].ljust(self.length, b"\0")


@dataclass(frozen=True)
class EntryTable(Framing):
    """Number of joined entries, then the length of each in tokens, u32 little-endian each."""

    seq_lens: tuple[int, ...]

    @property
    def overhead_bytes(self) -> int:
        return 4 + 4 * len(self.seq_lens)

    def header(self, payload: bytes | memoryview) -> bytes:
        return struct.pack(f"<{1 + len(self.seq_lens)}I", len(self.seq_lens), *self.seq_lens)

    def _damage(self, fitting: bytes) -> tuple[str, str]:
        what = "the table of a joined stream is damaged: it does not fit its entries"
        return what, f"{len(self.seq_lens)} entries, {sum(self.seq_lens)} tokens"


class Chunk(NamedTuple):
    """One stream: the pieces that make it, in order, and how many tokens they have together."""

    pieces: tuple[Piece, ...]
    rows: int

    @property
    def raw_bytes(self) -> int:
        """Of 16-bit words, K or V alone."""
        return self.pieces[0].entry.row_elements * 2 * self.rows


class Task(NamedTuple):
    """Streams of one tensor of one layer, read together, coded one by one."""

    layer_id: int
    tensor: Tensor
    chunks: tuple[Chunk, ...]
    framing: Framing
    heads: bool = False
    """Whether each KV head is coded alone, too."""

    @property
    def raw_bytes(self) -> int:
        return sum(chunk.raw_bytes for chunk in self.chunks)

    @property
    def pieces(self) -> list[Piece]:
        return [piece for chunk in self.chunks for piece in chunk.pieces]


def select(index: DumpIndex, scope: Scope) -> tuple[list[DumpEntry], list[SkippedEntry]]:
    """The entries that the scope takes, in path order, and those that it would but that cannot be read."""
    entries = [e for e in index.entries if scope.takes(e.layer_id, e.stage, e.seq_len)]
    skipped = [s for s in index.skipped if _would_take(scope, s)]
    if scope.strict_fp16:
        detail = "fp32, and strict fp16 is asked for"
        refused = [e for e in entries if e.bytes_per_elem != 2]
        skipped += [SkippedEntry(e.meta, "skip_fp32_strict", detail, e.layer_id, e.seq_len, e.stage) for e in refused]
        skipped.sort(key=lambda s: s.path.split("/"))
        entries = [e for e in entries if e.bytes_per_elem == 2]
    if not entries:
        raise _nothing(index, scope, skipped)
    return entries, skipped


def _would_take(scope: Scope, skipped: SkippedEntry) -> bool:
    """Whether the scope takes what an unsound meta says that it is; a number that may be the fault is not believed."""
    unsure = skipped.reason in ("invalid_shape", "meta_invalid_numeric_fields", "binary_read_error")
    absurd = skipped.layer_id is not None and not 0 <= skipped.layer_id < 2**31
    return scope.takes(None if absurd else skipped.layer_id, skipped.stage, None if unsure else skipped.seq_len)


def plan_groups(entries: Sequence[DumpEntry], scope: Scope) -> list[list[DumpEntry]]:
    """Entries that are coded as one sequence, in its order; groups in order of their first entry."""
    if scope.entry_mode in ("per_meta", "chunked"):
        return [[entry] for entry in entries]
    groups: dict[tuple[object, ...], list[DumpEntry]] = {}
    for entry in entries:
        stage = entry.stage if scope.aggregate_by_stage else None
        key = (entry.run_id, entry.layer_id, entry.kv_heads, entry.head_dim, stage, entry.bf16)
        groups.setdefault(key, []).append(entry)
    for group in groups.values():
        group.sort(key=lambda entry: entry.seq_start)  # stable: path order within equals
    return list(groups.values())


def plan_tasks(groups: Iterable[Sequence[DumpEntry]], scope: Scope) -> Iterator[Task]:
    """The work to do, bundled layer by layer; first K, then V of each bundle."""
    for (layer_id, *_), same in groupby(sorted(groups, key=_alike), key=_alike):
        for framing, chunks in _bundles(same, scope):
            yield Task(layer_id, "k", chunks, framing, scope.measure_heads)
            yield Task(layer_id, "v", chunks, framing, scope.measure_heads)


def _alike(group: Sequence[DumpEntry]) -> tuple[int, int, int, bool]:
    return group[0].layer_id, group[0].kv_heads, group[0].head_dim, group[0].bf16


def _bundles(groups: Iterable[Sequence[DumpEntry]], scope: Scope) -> Iterator[tuple[Framing, tuple[Chunk, ...]]]:
    if scope.entry_mode == "aggregate":
        for group in groups:
            yield EntryTable(tuple(entry.seq_len for entry in group)), (_whole(group),)
        return
    chunked = scope.entry_mode in CHUNKED
    framing = ChunkFraming(scope.online_framing_bytes) if chunked else Framing()
    rows = scope.online_chunk_seq if chunked else 0
    bundle: list[Chunk] = []
    size = 0
    for group in groups:
        for chunk in _cut(group, rows) if rows else (_whole(group),):
            bundle.append(chunk)
            size += chunk.raw_bytes
            if size >= _TASK_BYTES:
                yield framing, tuple(bundle)
                bundle, size = [], 0
    if bundle:
        yield framing, tuple(bundle)


def _whole(group: Sequence[DumpEntry]) -> Chunk:
    pieces = tuple(Piece(entry, 0, entry.seq_len) for entry in group)
    return Chunk(pieces, sum(piece.rows for piece in pieces))


def _cut(group: Sequence[DumpEntry], rows: int) -> Iterator[Chunk]:
    """Chunks of `rows` tokens of the joined sequence; the last may be shorter."""
    pieces: list[Piece] = []
    free = rows
    for entry in group:
        first = 0
        while first < entry.seq_len:
            taken = min(free, entry.seq_len - first)
            pieces.append(Piece(entry, first, taken))
            first += taken
            free -= taken
            if not free:
                yield Chunk(tuple(pieces), rows)
                pieces, free = [], rows
    if pieces:
        yield Chunk(tuple(pieces), rows - free)


def _nothing(index: DumpIndex, scope: Scope, skipped: Sequence[SkippedEntry]) -> DumpError:
    if skipped:
        first = skipped[0]
        return DumpError(
            "no selected entry of the dump can be read",
            where=index.root,
            came=f"{len(skipped)} that cannot; the first is {first.path}: {first.reason}, {first.detail}",
            expected=scope.describe(),
        )
    came = "no entry that can be read"
    if index.entries:
        lengths = [entry.seq_len for entry in index.entries]
        layers = ", ".join(map(str, sorted({entry.layer_id for entry in index.entries})))
        stages = " and ".join(sorted({entry.stage for entry in index.entries}))
        came = f"{len(lengths)} entries: layers {layers}; {stages}; {min(lengths)} to {max(lengths)} tokens"
    return DumpError(
        "the selection takes nothing of the dump",
        where=index.root,
        came=came,
        expected=scope.describe(),
        hint="change the selection; a ratio over nothing is no measurement",
    )


class RawAndCoded(NamedTuple):
    """Bytes of words, and of what was written of them, framing included."""

    raw: int
    coded: int

    def plus(self, raw: int, coded: int) -> RawAndCoded:
        return RawAndCoded(self.raw + raw, self.coded + coded)


NOTHING = RawAndCoded(0, 0)


@dataclass
class Tally:
    """What streams of one tensor came to; tallies add up in any order.

    Bytes are those of the words, those written (framing included), and the framing alone; by run, the first two, and
    what was seen of the words; by KV head that was coded alone, the first two; by plane, payload bytes and how often
    each mode was chosen, where the codec tells; seconds are processor seconds of the threads that did it.
    """

    streams: int = 0
    verified: int = 0
    raw_bytes: int = 0
    coded_bytes: int = 0
    framing_bytes: int = 0
    encode_s: float = 0.0
    decode_s: float = 0.0
    health: dict[str | None, Health] = field(default_factory=dict)
    runs: dict[str | None, RawAndCoded] = field(default_factory=dict)
    heads: dict[int, RawAndCoded] = field(default_factory=dict)
    plane_bytes: dict[str, int] = field(default_factory=dict)
    mode_counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        for name in ("streams", "verified", "raw_bytes", "coded_bytes", "framing_bytes", "encode_s", "decode_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for run, health in other.health.items():
            self.health.setdefault(run, Health()).add(health)
        for run, sizes in other.runs.items():
            self.runs[run] = self.runs.get(run, NOTHING).plus(*sizes)
        for head, sizes in other.heads.items():
            self.heads[head] = self.heads.get(head, NOTHING).plus(*sizes)
        self.add_planes(other.plane_bytes, other.mode_counts)

    def add_planes(self, plane_bytes: Mapping[str, int], mode_counts: Mapping[str, Mapping[str, int]]) -> None:
        add_counts(self.plane_bytes, plane_bytes)
        for plane, counts in mode_counts.items():
            add_counts(self.mode_counts.setdefault(plane, {}), counts)

    def count(self, task: Task, encoded: Encoded, record_bytes: Sequence[int]) -> None:
        """Count what the streams of a task were encoded to."""
        self.encode_s += encoded.seconds
        self.streams += len(task.chunks)
        self.framing_bytes += len(task.chunks) * task.framing.overhead_bytes
        for chunk, coded_bytes in zip(task.chunks, record_bytes, strict=True):
            raw_bytes, run = chunk.raw_bytes, chunk.pieces[0].entry.run_id
            self.raw_bytes += raw_bytes
            self.coded_bytes += coded_bytes
            self.runs[run] = self.runs.get(run, NOTHING).plus(raw_bytes, coded_bytes)
        self.add_planes(encoded.plane_bytes, encoded.mode_counts)


class Measured(NamedTuple):
    """The tally of one task."""

    layer_id: int
    tensor: Tensor
    tally: Tally


def read_words(task: Task) -> Words:
    """The words of all streams of a task, one after the other, ``[rows, kv_heads, head_dim]``."""
    return read_pieces(task.pieces, task.tensor)


# What is wrong with a codec: the kind of error, what it says, what to do.
_NO_ENCODING = (
    CodecError,
    "cannot encode a stream",
    "mend the codec: every shape and bit pattern can be encoded, and the words are read-only",
)
_NO_PLANES = (
    CodecError,
    "cannot tell the planes and modes of a stream",
    "mend plane_bytes and modes of the codec, which count in whole numbers, or leave them out",
)
_NO_DECODING = (
    RoundTripError,
    "cannot decode what it encoded",
    "the size of such a stream means nothing; mend the codec",
)
_NO_ENCODING_TOGETHER = (
    CodecError,
    "encodes streams one by one and fails with several",
    "mend encode_many of the codec, or leave it out",
)
_NO_DECODING_TOGETHER = (
    RoundTripError,
    "decodes streams one by one and fails with several",
    "mend decode_many of the codec, or leave it out",
)
_OTHER_PAYLOADS = (
    CodecError,
    "gave another number of payloads than streams",
    "mend encode_many of the codec, or leave it out",
)
_OTHER_STREAMS = (
    RoundTripError,
    "gave back another number of streams",
    "mend decode_many of the codec, or leave it out",
)


class _Work(NamedTuple):
    """A task on its way."""

    task: Task
    words: Words
    streams: Streams
    coded: Coded
    tally: Tally


@dataclass(frozen=True)
class Measurement:
    """How tasks are measured; `coder` codes for `codec` (see `opened`), which runs here without one."""

    codec: Codec
    verify: bool
    rope: Rope | None = None
    limit_s: float = CODEC_TIMEOUT_S
    coder: Coder | None = None

    @contextmanager
    def opened(self) -> Iterator[Measurement]:
        """The same with a coder of its own, for one thread."""
        with keep_apart(self.codec, decodes=self.verify, limit_s=self.limit_s) as coder:
            yield replace(self, coder=coder)

    def __call__(self, tasks: Iterable[Task]) -> list[Measured]:
        return self.measure((task, read_words(task)) for task in tasks)

    def measure(self, given: Iterable[tuple[Task, Words]]) -> list[Measured]:
        """Measure tasks whose words, ``[rows, kv_heads, head_dim]``, are at hand; all of them are decoded together.

        No file is opened, and no codec ever has the words that its decoder is held against.
        """
        coder = self.coder or Here(self.codec)
        batch = [self._encode(coder, task, words) for task, words in given]
        if self.verify:
            self._verify(coder, batch)
        return [Measured(work.task.layer_id, work.task.tensor, work.tally) for work in batch]

    def _encode(self, coder: Coder, task: Task, words: Words) -> _Work:
        """The record of each stream, counted; all of a task are encoded together."""
        rope = self.rope if task.tensor == "k" else None
        dtype = task.chunks[0].pieces[0].entry.dtype
        rows = [chunk.rows for chunk in task.chunks]
        streams = Streams(words, rows, task.tensor, positions_of(task.pieces), rope, dtype)
        tally = Tally(health=examine(words, task.pieces))
        try:
            encoded = coder.encode(streams)
        except (H2OError, MemoryError):
            raise
        except Exception as error:  # which of them it was comes out one by one
            for place, chunk in enumerate(task.chunks):
                with self._naming(_NO_ENCODING, task, chunk):
                    coder.encode(streams.alone(place), many=False)
            with self._naming(_NO_ENCODING_TOGETHER, task, task.chunks[0]):
                raise error
        self._check_number(_OTHER_PAYLOADS, task, len(encoded.payloads))
        for chunk, payload in zip(task.chunks, encoded.payloads, strict=True):
            if isinstance(payload, NotPlain):
                check_payload(payload, self.codec.id, _where(task, chunk))
        coded = _frame(task.framing, streams, encoded.payloads)
        tally.count(task, encoded, coded.lengths)
        if encoded.untold:
            place, untold = encoded.untold
            with self._naming(_NO_PLANES, task, task.chunks[place]):
                raise untold
        if task.heads:
            self._count_heads(coder, task, streams, tally)
        return _Work(task, words, streams, coded, tally)

    def _count_heads(self, coder: Coder, task: Task, streams: Streams, tally: Tally) -> None:
        """Code each KV head alone, and count; the ratio is of all heads together, so nothing of this is decoded."""
        framing = len(streams.rows) * task.framing.overhead_bytes
        for head in range(streams.words.shape[1]):
            alone = streams._replace(words=streams.words[:, head : head + 1])
            with self._naming(_NO_ENCODING, task, task.chunks[0]):
                coded = sum(map(len, coder.encode(alone).payloads))
            tally.heads[head] = RawAndCoded(alone.words.nbytes, coded + framing)

    def _verify(self, coder: Coder, batch: Sequence[_Work]) -> None:
        """Decode all streams of a batch from the counted bytes, and compare."""
        answers = coder.decode([work.coded for work in batch])
        for work in reversed(batch):
            task, words = work.task, work.words
            try:
                decoded = next(answers)
            except MemoryError:
                raise
            except Exception as error:  # which of them it was comes out one by one
                for place, chunk in enumerate(task.chunks):
                    with self._naming(_NO_DECODING, task, chunk):
                        next(coder.decode([work.coded.alone(place)], many=False))
                with self._naming(_NO_DECODING_TOGETHER, task, task.chunks[0]):
                    raise error
            self._check_number(_OTHER_STREAMS, task, decoded.number)
            if decoded.others or not is_same(words, decoded.words):
                for place, (chunk, span) in enumerate(zip(task.chunks, work.streams.spans(), strict=True)):
                    if not is_same(words[span], came := decoded.part(place, span)):
                        raise difference(words[span], came, self.codec.id, _where(task, chunk))
            work.tally.decode_s += decoded.seconds
            work.tally.verified += len(task.chunks)

    @contextmanager
    def _naming(self, fault: tuple[type[CodecError], str, str], task: Task, chunk: Chunk) -> Iterator[None]:
        """A codec may be anybody's: whatever it raises must name the codec and the stream."""
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:
            kind, what, hint = fault
            came, expected = f"{type(error).__name__}: {error}", None
            if isinstance(error, H2OError) and kind is CodecError:
                raise
            if isinstance(error, CodecError):
                came, expected = ": ".join(filter(None, (error.what, error.came))), error.expected
            what, where = f"codec {self.codec.id} {what}", _where(task, chunk)
            raise kind(what, where=where, came=came, expected=expected, hint=hint) from error

    def _check_number(self, fault: tuple[type[CodecError], str, str], task: Task, number: int) -> None:
        if number != len(task.chunks):
            kind, what, hint = fault
            where, came, expected = _where(task, task.chunks[0]), str(number), str(len(task.chunks))
            raise kind(f"codec {self.codec.id} {what}", where=where, came=came, expected=expected, hint=hint)


def _frame(framing: Framing, streams: Streams, payloads: Sequence[bytes]) -> Coded:
    """The records of streams."""
    parts = [part for payload in payloads for part in (framing.header(payload), payload)]
    lengths = [framing.overhead_bytes + len(payload) for payload in payloads]
    return Coded(b"".join(parts), lengths, streams.sides(), streams.words.shape, framing.unwrap)


def check_payload(payload: object, codec: str, where: str) -> None:
    """Refuse what is no bytes: its length would be no size."""
    if not is_plain(payload):
        raise CodecError(
            f"codec {codec} gave no bytes for a stream",
            where=where,
            came=type_name(payload),
            expected="bytes",
            hint="mend encode of the codec: what it gives is what is counted",
        )


def is_same(words: Words, decoded: object) -> bool:
    """Whether decoded words are these, bit for bit: as floats -0.0 would pass for 0.0, and no NaN for itself."""
    return type(decoded) is np.ndarray and decoded.dtype == np.uint16 and np.array_equal(decoded, words)


def difference(words: Words, decoded: object, codec: str, where: str) -> RoundTripError:
    """The error for decoded words that are not these."""
    expected = f"uint16 {list(words.shape)}"
    if type(decoded) is not np.ndarray:
        what, came = f"codec {codec} gave back no array of words", type_name(decoded)
        hint = "mend decode of the codec: it gives a numpy.ndarray, and none of a subclass of it"
        return RoundTripError(what, where=where, came=came, expected=f"numpy.ndarray, {expected}", hint=hint)
    if decoded.dtype != np.uint16 or decoded.shape != words.shape:
        came = f"{decoded.dtype} {list(decoded.shape)}"
        return RoundTripError(f"codec {codec} gave back another shape", where=where, came=came, expected=expected)
    wrong = np.flatnonzero(decoded.reshape(-1) != words.reshape(-1))
    first = int(wrong[0])
    row, head, dim = (int(i) for i in np.unravel_index(first, words.shape))
    return RoundTripError(
        f"codec {codec} gave back other bits",
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
