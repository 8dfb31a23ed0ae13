"""Which streams there are: entries selected, joined, cut, and put together into pieces of work."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any, NamedTuple, Protocol
from zlib import crc32

from pytest_h2o.codecs.adaptive_v22 import AdaptiveV22
from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Tensor, Words
from pytest_h2o.codecs.legacy import Legacy
from pytest_h2o.codecs.planes import PREDICTORS
from pytest_h2o.errors import CodecError, DumpError, UsageError
from pytest_h2o.lossless.index import DumpEntry, DumpIndex, SkippedEntry
from pytest_h2o.lossless.read import Piece

_CHUNK = struct.Struct("<II")


class Framing(Protocol):
    """One kind of framing."""

    @property
    def overhead_bytes(self) -> int:
        """Bytes before a payload."""

    def header(self, payload: bytes) -> bytes:
        """The bytes to write before `payload`."""

    def unwrap(self, record: memoryview) -> memoryview:
        """The payload of a record."""


@dataclass(frozen=True)
class NoFraming:
    """Nothing: the payload is the record."""

    overhead_bytes: int = 0

    def header(self, payload: bytes) -> bytes:
        return b""

    def unwrap(self, record: memoryview) -> memoryview:
        return record


@dataclass(frozen=True)
class ChunkFraming:
    """Length and CRC-32 of the payload, u32 little-endian each, cut or padded with zero bytes to `overhead_bytes`."""

    overhead_bytes: int

    def header(self, payload: bytes | memoryview) -> bytes:
        if len(payload) >= 2**32:
            raise CodecError(
                "a chunk is too long for its framing", came=f"{len(payload)} bytes", expected="under 4 GiB"
            )
        return _CHUNK.pack(len(payload), crc32(payload))[: self.overhead_bytes].ljust(self.overhead_bytes, b"\0")

    def unwrap(self, record: memoryview) -> memoryview:
        payload = record[self.overhead_bytes :]
        written = bytes(record[: self.overhead_bytes])
        if written != (expected := self.header(payload)):
            raise CodecError(
                "a chunk is damaged: its framing does not fit its payload",
                came=written.hex() or "no bytes",
                expected=f"{expected.hex()} (length, CRC-32, zero bytes)",
            )
        return payload


@dataclass(frozen=True)
class EntryTable:
    """Number of joined entries, then the length of each in tokens, u32 little-endian each."""

    seq_lens: tuple[int, ...]

    @property
    def overhead_bytes(self) -> int:
        return 4 + 4 * len(self.seq_lens)

    def header(self, payload: bytes) -> bytes:
        return struct.pack(f"<{1 + len(self.seq_lens)}I", len(self.seq_lens), *self.seq_lens)

    def unwrap(self, record: memoryview) -> memoryview:
        if record[: self.overhead_bytes] != self.header(b""):
            raise CodecError(
                "the table of a joined stream is damaged: it does not fit its entries",
                came=f"{len(record)} bytes",
                expected=f"{len(self.seq_lens)} entries, {sum(self.seq_lens)} tokens",
            )
        return record[self.overhead_bytes :]


def encode_tensor(codec: Codec, stream: Stream, framing: Framing) -> bytes:
    """Encode one stream to its record; the record's length is the size that is counted."""
    return write_record(codec.encode(stream), framing)


def write_record(payload: bytes, framing: Framing) -> bytes:
    """Put the framing before a payload."""
    return framing.header(payload) + payload


def decode_tensor(record: bytes | memoryview, side: SideInfo, codec: Codec, framing: Framing) -> Words:
    """Decode one record.

    Returns
    -------
    numpy.ndarray of uint16, ``[seq_len, kv_heads, head_dim]``
    """
    return codec.decode(framing.unwrap(memoryview(record)), side)


STAGES = ("prefill", "decode", "both")
SCOPES = ("front_n", "layer_range", "layer_ids")
ENTRY_MODES = ("per_meta", "aggregate", "chunked", "chunked_grouped")
_AT_LEAST_ZERO = ("front_n", "layer_start", "min_seq_len", "max_seq_len", "online_chunk_seq", "online_framing_bytes")

ONLY_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "front_n": ("scope", ("front_n",)),
    "layer_start": ("scope", ("layer_range",)),
    "layer_end": ("scope", ("layer_range",)),
    "layer_ids": ("scope", ("layer_ids",)),
    "online_chunk_seq": ("entry_mode", ("chunked", "chunked_grouped")),
    "online_framing_bytes": ("entry_mode", ("chunked", "chunked_grouped")),
    "aggregate_by_stage": ("entry_mode", ("aggregate", "chunked_grouped")),
}
"""Settings that mean something only where another one has one of some values."""


def refuse_idle_settings(given: Iterable[str], settings: LosslessSettings) -> None:
    """Refuse settings that were given and would do nothing beside the others: UsageError naming the first."""
    for name in given:
        other, values = ONLY_WITH.get(name, ("scope", SCOPES))
        value = getattr(settings, other)
        if value not in values:
            raise UsageError(
                f"{_flag(name)} means nothing with {_flag(other)} {value}",
                expected=f"{_flag(other)} {' or '.join(values)}, or {_flag(name)} left out",
            )


@dataclass(frozen=True)
class LosslessSettings:
    """Selection, entry mode and codec of one evaluation; every field is a flag of ``pytest-h2o lossless``.

    Attributes
    ----------
    stage : "prefill", "decode" or "both"
    scope : "front_n", "layer_range" or "layer_ids"
        Layers 0 to `front_n` - 1; layers `layer_start` to `layer_end`, both included, -1 for no bound; or `layer_ids`.
    min_seq_len, max_seq_len : int
        Entries of fewer or more tokens are left out; 0 for no bound.
    strict_fp16 : bool
        Skip fp32 entries instead of rounding them to fp16.
    entry_mode : "per_meta", "aggregate", "chunked" or "chunked_grouped"
        Each entry alone; all entries of a run and layer joined, with a table of their lengths; each entry cut into
        chunks of `online_chunk_seq` tokens (0: not cut) with `online_framing_bytes` of framing each; or joined, then
        cut like that.
    aggregate_by_stage : bool
        Join prefill and decode apart.
    codec_mode : str
        ``adaptive_v22``, ``legacy``, or any registered codec as ``NAME`` or ``NAME:SETTING=VALUE``. The settings below
        are those of the first two.

    Raises
    ------
    UsageError
        A value is none of those that are possible.
    """

    stage: str = "both"
    scope: str = "front_n"
    front_n: int = 2
    layer_start: int = 2
    layer_end: int = -1
    layer_ids: tuple[int, ...] = ()
    zstd_level: int = 3
    strict_fp16: bool = False
    min_seq_len: int = 0
    max_seq_len: int = 0
    entry_mode: str = "per_meta"
    online_chunk_seq: int = 0
    online_framing_bytes: int = 16
    aggregate_by_stage: bool = False
    codec_mode: str = AdaptiveV22.id
    adaptive_block_seq: int = 64
    bitshuffle: bool = False
    k_hi_predictors: tuple[str, ...] = PREDICTORS
    k_lo_predictors: tuple[str, ...] = PREDICTORS
    v_hi_predictors: tuple[str, ...] = PREDICTORS[:3]
    v_lo_predictors: tuple[str, ...] = PREDICTORS[:3]

    def __post_init__(self) -> None:
        for name, choices in (("stage", STAGES), ("scope", SCOPES), ("entry_mode", ENTRY_MODES)):
            if getattr(self, name) not in choices:
                raise _unfit(name, getattr(self, name), "one of " + ", ".join(choices))
        for name in _AT_LEAST_ZERO:
            self._check_number(name, getattr(self, name), 0)
        self._check_number("layer_end", self.layer_end, -1)
        for layer_id in self.layer_ids:
            self._check_number("layer_ids", layer_id, 0)
        if self.scope == "layer_ids" and not self.layer_ids:
            raise _unfit("layer_ids", (), "at least one layer, as the scope is layer_ids")

    def _check_number(self, name: str, value: object, least: int) -> None:
        if type(value) is not int or value < least:
            raise _unfit(name, value, f"a whole number, at least {least}")

    def make_codec(self) -> Codec:
        """The codec that these settings name."""
        for cls in (AdaptiveV22, Legacy):
            if self.codec_mode == cls.id:
                return cls.from_config({f.name: getattr(self, f.name) for f in fields(cls)})
        from pytest_h2o.codecs.registry import parse_codec  # looks up installed distributions, which takes time

        return parse_codec(self.codec_mode)

    def takes(self, layer_id: int | None, stage: str | None, seq_len: int | None) -> bool:
        """Whether an entry is selected; what is not known of it does not speak against it."""
        return (
            (layer_id is None or self._takes_layer(layer_id))
            and (stage is None or self.stage in ("both", stage))
            and (seq_len is None or seq_len >= self.min_seq_len)
            and (seq_len is None or not self.max_seq_len or seq_len <= self.max_seq_len)
        )

    def _takes_layer(self, layer_id: int) -> bool:
        if self.scope == "front_n":
            return 0 <= layer_id < self.front_n
        if self.scope == "layer_range":
            return self.layer_start <= layer_id and (self.layer_end < 0 or layer_id <= self.layer_end)
        return layer_id in self.layer_ids

    def describe(self) -> str:
        """The selection in words, for messages."""
        layers = {
            "front_n": f"layers below {self.front_n}",
            "layer_range": f"layers {self.layer_start} to {'the last' if self.layer_end < 0 else self.layer_end}",
            "layer_ids": f"layers {_listed(self.layer_ids)}",
        }[self.scope]
        parts = [layers, "both stages" if self.stage == "both" else f"stage {self.stage}"]
        if self.min_seq_len:
            parts.append(f"at least {self.min_seq_len} tokens")
        if self.max_seq_len:
            parts.append(f"at most {self.max_seq_len} tokens")
        return ", ".join(parts)


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _unfit(name: str, value: Any, expected: str) -> UsageError:
    return UsageError(f"{_flag(name)} does not fit", came=repr(value), expected=expected)


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
    """Take the entries that the settings ask for."""
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
