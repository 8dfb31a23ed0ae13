"""Which streams there are: entries selected, joined, cut, and put together into pieces of work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from pytest_h2o.codecs.base import Tensor
from pytest_h2o.dumps import DumpEntry, DumpIndex, SkippedEntry
from pytest_h2o.dumps.read import Piece
from pytest_h2o.errors import DumpError
from pytest_h2o.lossless.framing import ChunkFraming, EntryTable, Framing, NoFraming
from pytest_h2o.lossless.settings import LosslessSettings

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
class Selection:
    """The entries of a dump that are evaluated, in path order, and those that should be but cannot."""

    entries: tuple[DumpEntry, ...]
    skipped: tuple[SkippedEntry, ...]


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


def select(index: DumpIndex, settings: LosslessSettings) -> Selection:
    """Take the entries that the settings ask for.

    Raises
    ------
    DumpError
        There are none, or none that can be read.
    """
    entries = [e for e in index.entries if settings.takes(e.layer_id, e.stage, e.seq_len)]
    skipped = [s for s in index.skipped if settings.takes(s.layer_id, s.stage, s.seq_len)]
    if settings.strict_fp16:
        detail = "fp32, and strict fp16 is asked for"
        refused = [e for e in entries if e.bytes_per_elem != 2]
        skipped += [SkippedEntry(e.meta, "skip_fp32_strict", detail, e.layer_id, e.seq_len, e.stage) for e in refused]
        skipped.sort(key=lambda s: s.path.split("/"))
        entries = [e for e in entries if e.bytes_per_elem == 2]
    if not entries:
        raise _nothing(index, settings, skipped)
    return Selection(tuple(entries), tuple(skipped))


def plan_groups(entries: Sequence[DumpEntry], settings: LosslessSettings) -> list[list[DumpEntry]]:
    """Entries that are coded as one sequence, in its order; groups in order of their first entry."""
    if settings.entry_mode in ("per_meta", "chunked"):
        return [[entry] for entry in entries]
    groups: dict[tuple[object, ...], list[DumpEntry]] = {}
    for entry in entries:
        stage = entry.stage if settings.aggregate_by_stage else None
        key = (entry.run_id, entry.layer_id, entry.kv_heads, entry.head_dim, stage)
        groups.setdefault(key, []).append(entry)
    for group in groups.values():
        group.sort(key=lambda entry: entry.seq_start)  # stable: path order within equals
    return list(groups.values())


def plan_tasks(groups: Iterable[Sequence[DumpEntry]], settings: LosslessSettings) -> Iterator[Task]:
    """The work to do, bundled layer by layer; first K, then V of each bundle."""
    for (layer_id, _, _), same in groupby(sorted(groups, key=_alike), key=_alike):
        for framing, chunks in _bundles(same, settings):
            yield Task(layer_id, "k", chunks, framing)
            yield Task(layer_id, "v", chunks, framing)


def _alike(group: Sequence[DumpEntry]) -> tuple[int, int, int]:
    return group[0].layer_id, group[0].kv_heads, group[0].head_dim


def _bundles(
    groups: Iterable[Sequence[DumpEntry]], settings: LosslessSettings
) -> Iterator[tuple[Framing, tuple[Chunk, ...]]]:
    if settings.entry_mode == "aggregate":
        for group in groups:
            yield EntryTable(tuple(entry.seq_len for entry in group)), (_whole(group),)
        return
    chunked = settings.entry_mode in ("chunked", "chunked_grouped")
    framing: Framing = ChunkFraming(settings.online_framing_bytes) if chunked else NoFraming()
    rows = settings.online_chunk_seq if chunked else 0
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


def _nothing(index: DumpIndex, settings: LosslessSettings, skipped: Sequence[SkippedEntry]) -> DumpError:
    if skipped:
        first = skipped[0]
        return DumpError(
            "no selected entry of the dump can be read",
            where=index.root,
            came=f"{len(skipped)} that cannot; the first is {first.path}: {first.reason}, {first.detail}",
            expected=settings.describe(),
        )
    lengths = [entry.seq_len for entry in index.entries]
    layers = sorted({entry.layer_id for entry in index.entries})
    stages = sorted({entry.stage for entry in index.entries})
    there = f"layers {', '.join(map(str, layers))}; {' and '.join(stages)}; {min(lengths)} to {max(lengths)} tokens"
    return DumpError(
        "the selection takes nothing of the dump",
        where=index.root,
        came=f"{len(lengths)} entries: {there}" if lengths else "no entry that can be read",
        expected=settings.describe(),
        hint="change the selection; a ratio over nothing is no measurement",
    )
