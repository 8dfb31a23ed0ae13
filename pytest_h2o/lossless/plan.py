"""Which streams there are: entries selected, joined, cut, framed, and put together into pieces of work."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple
from zlib import crc32

from pytest_h2o.errors import CodecError, DumpError
from pytest_h2o.inputs.scope import CHUNKED, Scope
from pytest_h2o.lossless.index import DumpEntry, DumpIndex, SkippedEntry, Tensor
from pytest_h2o.lossless.read import Piece

_CHUNK = struct.Struct("<II")


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
        if header != (expected := self.header(payload)):
            raise self._damaged(header, expected)
        return payload

    def _damaged(self, came: bytes, expected: bytes) -> CodecError:
        return CodecError(
            "a chunk is damaged: its framing does not fit its payload",
            came=came.hex() or "no bytes",
            expected=f"{expected.hex()} (length, CRC-32, zero bytes)",
        )


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

    def _damaged(self, came: bytes, expected: bytes) -> CodecError:
        return CodecError(
            "the table of a joined stream is damaged: it does not fit its entries",
            came=came.hex() or "no bytes",
            expected=f"{len(self.seq_lens)} entries, {sum(self.seq_lens)} tokens",
        )


_TASK_BYTES = 1 << 21
"""Streams are handed out in bundles of about this many raw bytes: few enough hand-overs, little memory."""


class Chunk(NamedTuple):
    """One stream: the pieces that make it, in order, and how many tokens they have together."""

    pieces: tuple[Piece, ...]
    rows: int

    @property
    def raw_bytes(self) -> int:
        """As fp16, K or V alone."""
        return self.pieces[0].entry.row_elements * 2 * self.rows


@dataclass(frozen=True)
class Task:
    """Streams of one tensor of one layer, read together, coded one by one."""

    layer_id: int
    tensor: Tensor
    chunks: tuple[Chunk, ...]
    framing: Framing

    @property
    def raw_bytes(self) -> int:
        return sum(chunk.raw_bytes for chunk in self.chunks)


def select(index: DumpIndex, scope: Scope) -> tuple[list[DumpEntry], list[SkippedEntry]]:
    """The entries that the scope takes, in path order, and those that it would but that cannot be read."""
    entries = [e for e in index.entries if scope.takes(e.layer_id, e.stage, e.seq_len)]
    skipped = [s for s in index.skipped if scope.takes(s.layer_id, s.stage, s.seq_len)]
    if scope.strict_fp16:
        detail = "fp32, and strict fp16 is asked for"
        refused = [e for e in entries if e.bytes_per_elem != 2]
        skipped += [SkippedEntry(e.meta, "skip_fp32_strict", detail, e.layer_id, e.seq_len, e.stage) for e in refused]
        skipped.sort(key=lambda s: s.path.split("/"))
        entries = [e for e in entries if e.bytes_per_elem == 2]
    if not entries:
        raise _nothing(index, scope, skipped)
    return entries, skipped


def plan_groups(entries: Sequence[DumpEntry], scope: Scope) -> list[list[DumpEntry]]:
    """Entries that are coded as one sequence, in its order; groups in order of their first entry."""
    if scope.entry_mode in ("per_meta", "chunked"):
        return [[entry] for entry in entries]
    groups: dict[tuple[object, ...], list[DumpEntry]] = {}
    for entry in entries:
        stage = entry.stage if scope.aggregate_by_stage else None
        key = (entry.run_id, entry.layer_id, entry.kv_heads, entry.head_dim, stage)
        groups.setdefault(key, []).append(entry)
    for group in groups.values():
        group.sort(key=lambda entry: entry.seq_start)  # stable: path order within equals
    return list(groups.values())


def plan_tasks(groups: Iterable[Sequence[DumpEntry]], scope: Scope) -> Iterator[Task]:
    """The work to do, bundled layer by layer; first K, then V of each bundle."""
    for (layer_id, _, _), same in groupby(sorted(groups, key=_alike), key=_alike):
        for framing, chunks in _bundles(same, scope):
            yield Task(layer_id, "k", chunks, framing)
            yield Task(layer_id, "v", chunks, framing)


def _alike(group: Sequence[DumpEntry]) -> tuple[int, int, int]:
    return group[0].layer_id, group[0].kv_heads, group[0].head_dim


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
