"""From a dump root to its entries, from entries to words, and whether those say anything about a codec.

Every codec folds zeros or repeated rows a hundredfold, so a runtime that stops writing its cache would pass any target.
Words are looked at once while they are in memory; of each row of a head a hash is kept, to tell rows that repeat, in
another tensor too.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import groupby, islice, pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.errors import DumpError
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless.apart import run_on_processes
from pytest_h2o.lossless.result import MISSING_LAYER, MISSING_TOKENS, DumpFault, Finding, SkippedEntry
from pytest_h2o.lossless.roots import DumpRoot, Folder, FolderRoot, MetaFault, Span, ZipFolder, ZipRoot, parse_meta

Tensor = Literal["k", "v"]
Words = NDArray[np.uint16]

_SHOWN = 6
_TELL_EVERY = 1000
_MANY, _MANY_WORDS = 2000, 1 << 25
"""Metas, and words, from which on other processes are worth their start."""

_SMALL_BYTES = 1 << 14
"""Up to here an entry is worth a system call less; a dump of lies costs no memory worth speaking of."""

_MAP_FROM_BYTES = 1 << 20
"""Mapping a file costs more than reading it when it is small."""

_STORED_WORDS = np.dtype("<u2")
_STORED_FLOATS = np.dtype("<f4")


class DumpEntry(NamedTuple):
    """One entry: K and V of some tokens of one layer, each ``[seq_len, kv_heads, head_dim]``, little-endian, C order.

    A named tuple, not a dataclass: a dump can hold a hundred thousand, and these are made six times faster. `meta` is
    the path of its meta file below the root, with ``/``; `seq_start` the position of the first token; `bytes_per_elem`
    2 for fp16 and bf16, 4 for fp32; the locations are what `root` needs to find the data files; `quantized` tells that
    the meta says `quant_key` or `quant_value`, `bf16` that its two bytes are those.
    """

    meta: str
    layer_id: int
    seq_start: int
    seq_len: int
    kv_heads: int
    head_dim: int
    bytes_per_elem: int
    stage: str
    run_id: str | None
    k_location: str
    v_location: str
    quantized: bool
    bf16: bool
    root: DumpRoot

    def location(self, tensor: Tensor) -> str:
        return self.k_location if tensor == "k" else self.v_location

    @property
    def dtype(self) -> Literal["fp16", "bf16"]:
        """Of the words that are read of it: fp32 becomes fp16."""
        return "bf16" if self.bf16 else "fp16"

    @property
    def row_elements(self) -> int:
        """Elements of one token of K or of V."""
        return self.kv_heads * self.head_dim


class Piece(NamedTuple):
    """Rows of one entry: `rows` tokens from `first` on, counted in the entry."""

    entry: DumpEntry
    first: int
    rows: int


class DumpIndex(NamedTuple):
    """What the dump at `root` holds, in path order: by path component, as plain strings."""

    root: str
    entries: tuple[DumpEntry, ...]
    skipped: tuple[SkippedEntry, ...]

    @property
    def scanned_entries(self) -> int:
        """Number of meta files that were found, or should have been."""
        return len(self.entries) + len(self.skipped)


def index_dump(
    root: str | os.PathLike[str],
    *,
    sized: bool = True,
    workers: int = 1,
    on_entries: Callable[[int], None] | None = None,
) -> DumpIndex:
    """Read and check every meta below a root; data files are looked up and sized, not opened.

    Parameters
    ----------
    root : str or path
        A folder, or a .zip archive of one.
    sized : bool
        Compare the size of every data file with its shape. If not, small files are only compared when they are read:
        half the system calls for a dump of many tiny entries, and an error where a skipped entry would be.
    workers : int
        Processes that read the metas of many folders, this one and others forked from it.
    on_entries : callable, optional
        Called now and then with the number of entries so far.
    """
    shown = os.fspath(root)
    source = _open_root(shown)
    entries: list[DumpEntry] = []
    skipped: list[SkippedEntry] = []
    parts: list[_Part] = []
    count, here = 0, os.getpid()

    def tell(more: int) -> None:
        if on_entries is not None and os.getpid() == here:
            on_entries(count + more)

    with closing(source):
        for part in _read_all(source, sized, workers, tell):
            parts.append(part)
            count += len(part.entries) + len(part.skipped)
            tell(0)
    for part in sorted(parts, key=lambda part: part.number):
        entries += [DumpEntry._make((*fields, source)) for fields in part.entries]
        skipped += part.skipped
    if not entries and not skipped:
        raise _no_dump(source, shown)
    _refuse_contradictions(entries, shown)
    skipped += _orphans(source, set().union(*(part.unclaimed for part in parts)), entries)
    return DumpIndex(shown, tuple(entries), tuple(sorted(skipped, key=lambda one: one.path.split("/"))))


class _Part(NamedTuple):
    """What the metas of a subtree say; `unclaimed` are data files that none of them has named.

    Entries are without their root, and no named tuples yet: these travel between processes in thrice the time.
    """

    number: int
    entries: list[tuple[Any, ...]]
    skipped: list[SkippedEntry]
    unclaimed: set[str]


_TREES = 8
"""Subtrees for a process: those that are done first take more of them."""


def _read_all(source: FolderRoot | ZipRoot, sized: bool, workers: int, tell: Callable[[int], None]) -> Iterator[_Part]:
    """Subtree by subtree, in any order: from `_MANY` metas on those left are read by several processes."""
    subtrees = source.subtrees(_TREES * workers if workers > 1 else 1)

    def read(number: int) -> _Part:
        entries, skipped = [], []
        metas: Iterator[tuple[Folder | ZipFolder, str]] = source.metas(subtrees[number])
        for done, (folder, name) in enumerate(metas):
            if done % _TELL_EVERY == 0:
                tell(done)
            try:
                entries.append(_fields(folder, name, sized))
            except MetaFault as fault:
                skipped.append(_skipped(folder.prefix + name, fault))
        unclaimed, source.unclaimed = source.unclaimed, set()
        return _Part(number, entries, skipped, unclaimed)

    left, count = list(range(len(subtrees))), 0
    while left and (workers == 1 or count < _MANY):
        part = read(left.pop(0))
        count += len(part.entries) + len(part.skipped)
        yield part
    if left:
        yield from run_on_processes(lambda: nullcontext(read), left, min(workers, len(left)))


def find_overlaps_and_gaps(entries: Iterable[DumpEntry]) -> tuple[Finding, ...]:
    """Positions that come more than once or not at all, by run and layer.

    Real dumps have overlaps: a tuning pass at start-up leaves one-token entries at the positions of the prompt.
    """
    by_layer: dict[tuple[str | None, int], list[tuple[int, int]]] = {}
    for entry in entries:
        by_layer.setdefault((entry.run_id, entry.layer_id), []).append((entry.seq_start, entry.seq_len))
    findings: list[Finding] = []
    for (run_id, layer_id), spans in sorted(by_layer.items(), key=lambda item: (item[0][0] or "", item[0][1])):
        spans.sort()
        covered_to, overlap, gap = spans[0][0], [0, 0], [0, 0]
        for start, length in spans:
            kind, tokens, first = overlap, min(covered_to, start + length) - start, start
            if tokens < 0:
                kind, tokens, first = gap, -tokens, covered_to
            if tokens:
                kind[:] = kind[0] + tokens, kind[1] if kind[0] else first
            covered_to = max(covered_to, start + length)
        if overlap[0]:
            findings.append(Finding("overlap", run_id, layer_id, tokens=overlap[0], first=overlap[1]))
        if gap[0]:
            findings.append(Finding("gap", run_id, layer_id, tokens=gap[0], first=gap[1]))
    return tuple(findings)


def prompt_lengths(entries: Iterable[DumpEntry]) -> dict[str | None, int]:
    """Where the prefill of each run ends, in tokens; runs without one are left out."""
    lengths: dict[str | None, int] = {}
    for entry in entries:
        if entry.stage == "prefill":
            lengths[entry.run_id] = max(lengths.get(entry.run_id, 0), entry.seq_start + entry.seq_len)
    return lengths


def check_dump(root: str | os.PathLike[str]) -> None:
    """DumpError if there is no folder or archive, or no meta file in it."""
    shown = os.fspath(root)
    source = _open_root(shown)
    if next(iter(source.metas()), None) is None:
        raise _no_dump(source, shown)


def _no_dump(source: FolderRoot | ZipRoot, root: str) -> DumpError:
    archives = sorted(Path(root).glob("*.zip"))
    named = f"name the archive: {archives[0]}; " if archives else ""
    why = "packed_meta_*.json files are not read; was the engine run with MNN_KV_DUMP_DIR set to this folder?"
    return DumpError(
        "no KV dump here",
        where=root,
        came=_shown_listing(source.listing()),
        expected="meta_*.json files, at any depth",
        hint=f"{named}{why}",
    )


def _open_root(root: str) -> FolderRoot | ZipRoot:
    path = Path(root)
    if path.is_dir():
        return FolderRoot(root)
    if path.exists():
        return ZipRoot(root)
    parent = path.absolute().parent
    there = f"no folder {parent} either"
    if parent.is_dir():
        there = _shown_listing(sorted(item.name for item in parent.iterdir()))
    raise DumpError("the dump root does not exist", where=root, came=there, expected="a dump folder, or a .zip of one")


def _fields(folder: Folder | ZipFolder, name: str, sized: bool) -> tuple[Any, ...]:
    """Of an entry, but for its root."""
    meta = parse_meta(folder.read_meta(name))
    expected = meta.seq_len * meta.kv_heads * meta.head_dim * meta.bytes_per_elem
    located = []
    for file in (meta.k_file, meta.v_file):
        try:
            location, size = folder.locate(file, name, sized=sized or expected > _SMALL_BYTES)
        except MetaFault as fault:
            raise MetaFault(fault.reason, fault.detail, meta._asdict()) from fault
        if size is not None and size != expected:
            shape = f"[{meta.seq_len}, {meta.kv_heads}, {meta.head_dim}] of {meta.bytes_per_elem} bytes"
            detail = f"{file!r} has {size} bytes, expected {expected} ({shape})"
            raise MetaFault("binary_read_error", detail, meta._asdict())
        located.append(location)
    *named, _, _, quantized, bf16 = meta
    return (folder.prefix + name, *named, *located, quantized, bf16)


def _skipped(path: str, fault: MetaFault) -> SkippedEntry:
    layer_id, seq_len, stage = (fault.fields.get(name) for name in ("layer_id", "seq_len", "stage"))
    return SkippedEntry(
        path,
        fault.reason,
        fault.detail,
        layer_id if type(layer_id) is int else None,
        seq_len if type(seq_len) is int else None,
        stage if stage in ("prefill", "decode") else None,
    )


def _refuse_contradictions(entries: Sequence[DumpEntry], root: str) -> None:
    """DumpError where two metas cannot both be of one run of one model."""
    layers: dict[tuple[str | None, int], list[DumpEntry]] = {}
    for entry in entries:
        layers.setdefault((entry.run_id, entry.layer_id), []).append(entry)
    runs: dict[str | None, list[DumpEntry]] = {}
    for (run_id, layer), alike in layers.items():
        if twice := _first_pair(alike, _range):
            raise _twice(*twice, root)
        if len(set(map(_shape, alike))) > 1:
            first = alike[0]
            other = next(entry for entry in alike if _shape(entry) != _shape(first))
            raise _contradiction("entries of one layer are not of one shape", first, other, _unlike(first, other), root)
        spans = sorted((entry for entry in alike if entry.stage == "prefill"), key=lambda entry: entry.seq_start)
        for one, other in pairwise(spans):
            if other.seq_start < one.seq_start + one.seq_len:
                raise _twice(one, other, root)
        entry = alike[0]
        folder = _LAYER.fullmatch(entry.meta.rpartition("/")[0] + "/")
        if folder is not None and int(folder[1]) != layer:
            raise _contradiction("an entry is in the folder of another layer", entry, entry, f"layer_id {layer}", root)
        runs.setdefault(run_id, []).append(entry)
    _refuse_shared_files(entries, root)
    for one, *others in runs.values():
        for other in others:
            same = _shape(one)[2:] == _shape(other)[2:]  # models have layers of more heads, or of wider ones
            if not same or (one.row_elements == other.row_elements and one.kv_heads != other.kv_heads):
                raise _contradiction("layers of one run are not of one shape", one, other, _unlike(one, other), root)


def _refuse_shared_files(entries: Sequence[DumpEntry], root: str) -> None:
    named = Counter([entry.k_location for entry in entries] + [entry.v_location for entry in entries])
    if len(named) < 2 * len(entries):
        location = named.most_common(1)[0][0]
        one, *others = (entry for entry in entries if location in (entry.k_location, entry.v_location))
        other = others[0] if others else one
        raise _contradiction("two tensors of a dump have one data file", one, other, location, root)


def _first_pair(entries: Sequence[DumpEntry], key: Callable[[DumpEntry], object]) -> tuple[DumpEntry, DumpEntry] | None:
    """The first two with one key."""
    if len(set(map(key, entries))) == len(entries):
        return None
    seen: dict[object, DumpEntry] = {}
    return next((other, entry) for entry in entries if (other := seen.setdefault(key(entry), entry)) is not entry)


_range = attrgetter("stage", "seq_start", "seq_len")
_shape = attrgetter("kv_heads", "head_dim", "bytes_per_elem", "bf16")


def _unlike(one: DumpEntry, other: DumpEntry) -> str:
    told = (f"{e.kv_heads} heads of {e.head_dim}, {'fp32' if e.bytes_per_elem == 4 else e.dtype}" for e in (one, other))
    return " and ".join(told)


def _contradiction(what: str, one: DumpEntry, other: DumpEntry, came: str, root: str) -> DumpError:
    metas = one.meta if one is other else f"{one.meta} and {other.meta}"
    hint = "mend the metas, or record the dump again; give each run a run_id of its own"
    return DumpError(what, where=f"{root}: {metas}", came=came, expected="metas as one run of one model has", hint=hint)


def _twice(one: DumpEntry, other: DumpEntry, root: str) -> DumpError:
    first, last = other.seq_start, min(one.seq_start + one.seq_len, other.seq_start + other.seq_len) - 1
    return DumpError(
        "a dump holds the same tokens twice",
        where=f"{root}: {one.meta} and {other.meta}",
        came=f"run {one.run_id or 'without id'}, layer {one.layer_id}, {one.stage}, tokens {first} to {last}",
        expected="each run, layer, stage and range of tokens once",
        hint="give each run a run_id of its own, or take the copy out",
    )


_DATA = re.compile(r"(?:(.*/)|^)[kv]_t(\d{1,18})_(\d{1,18})\.bin")
_LAYER = re.compile(r"(?:.*/)?layer_(\d{1,9})/")


def _orphans(root: FolderRoot | ZipRoot, unclaimed: set[str], entries: Sequence[DumpEntry]) -> Iterator[SkippedEntry]:
    """What data files are of whose meta is gone."""
    if not unclaimed:
        return
    named = {location for entry in entries for location in (entry.k_location, entry.v_location)}
    lost: dict[str, tuple[re.Match[str], str]] = {}
    for path in sorted(unclaimed):
        told = _DATA.fullmatch(path)
        if told is not None and root.location(path) not in named:
            lost.setdefault(f"{told[1] or ''}meta_t{told[2]}_{told[3]}.json", (told, path))
    for meta, (told, path) in lost.items():
        if not root.has_file(meta):
            layer = _LAYER.fullmatch(told[1] or "")
            of_layer = None if layer is None else int(layer[1])
            yield SkippedEntry(
                meta, "missing_meta", f"{path} is there, and no meta", of_layer, int(told[3]) - int(told[2])
            )


def _shown_listing(names: list[str]) -> str:
    if not names:
        return "an empty folder"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return "there are: " + ", ".join(names[:_SHOWN]) + more


def read_pieces(pieces: Sequence[Piece], tensor: Tensor) -> Words:
    """K or V of rows of several entries of one dtype, one after the other, as 16-bit patterns.

    fp32 is rounded to fp16, half to even, as numpy does.

    One large piece of an fp16 file is memory-mapped: the result is then read-only, takes no memory of its own that the
    system could not have back, and the file must not shrink as long as it is in use. Everything else is read once,
    straight into its place in the result: small files, which cost more to map than to read; several pieces, which a
    stream must have one after the other; fp32, which is rounded; and members of an archive.

    Returns
    -------
    numpy.ndarray of uint16, ``[rows, kv_heads, head_dim]``, C order
    """
    heads, dim = pieces[0].entry.kv_heads, pieces[0].entry.head_dim
    mapped = _map_large(pieces, tensor)
    if mapped is not None:
        return mapped
    words = _allocate((sum(piece.rows for piece in pieces), heads, dim), _STORED_WORDS, pieces)
    start = 0
    for width, run in groupby(pieces, key=_width):
        same = list(run)
        stop = start + sum(piece.rows for piece in same)
        if width == 2:
            _fill(words[start:stop], same, tensor)
        else:
            floats = _allocate((stop - start, heads, dim), _STORED_FLOATS, pieces)
            _fill(floats, same, tensor)
            with np.errstate(all="ignore"):  # too large becomes infinite, as fp16 has it
                words[start:stop] = floats.astype("<f2").view(_STORED_WORDS)
        start = stop
    return words.astype(np.uint16, copy=False)


def read_wide_pieces(pieces: Sequence[Piece], tensor: Tensor) -> NDArray[np.float32]:
    """K or V of rows of fp32 entries, one after the other, as they stand: ``[rows, kv_heads, head_dim]``, C order."""
    entry, rows = pieces[0].entry, sum(piece.rows for piece in pieces)
    floats: NDArray[np.float32] = _allocate((rows, entry.kv_heads, entry.head_dim), _STORED_FLOATS, pieces)
    _fill(floats, pieces, tensor)
    return floats


def _map_large(pieces: Sequence[Piece], tensor: Tensor) -> Words | None:
    """A large single piece of an fp16 file as a view of the file; None where that is not what was asked for."""
    entry, first, rows = pieces[0]
    row_bytes = entry.row_elements * 2
    if len(pieces) > 1 or entry.bytes_per_elem != 2 or rows * row_bytes < _MAP_FROM_BYTES:
        return None
    stop = first + rows
    mapped = entry.root.map_file(entry.location(tensor), stop * row_bytes, is_end=stop == entry.seq_len)
    if mapped is None:
        return None
    words = np.frombuffer(mapped, _STORED_WORDS, rows * entry.row_elements, first * row_bytes)
    return words.reshape(rows, entry.kv_heads, entry.head_dim).astype(np.uint16, copy=False)


def _allocate(shape: tuple[int, int, int], dtype: np.dtype[Any], pieces: Sequence[Piece]) -> NDArray[Any]:
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError) as error:  # ValueError: more than an array can address
        raise DumpError(
            "there is not enough memory for one stream of the dump",
            where=f"{pieces[0].entry.meta} and {len(pieces) - 1} more",
            came=f"{list(shape)} of {dtype.itemsize} bytes",
            hint="entry mode chunked or chunked_grouped holds one chunk at a time",
        ) from error


def _width(piece: Piece) -> int:
    return piece.entry.bytes_per_elem


def _fill(rows: NDArray[Any], pieces: Sequence[Piece], tensor: Tensor) -> None:
    """Read the data of each piece straight into its place; `rows` has their dtype and is contiguous."""
    target = memoryview(rows.reshape(-1).view(np.uint8).data)
    row_bytes = rows[:1].nbytes

    def spans() -> Iterator[Span]:
        at = 0
        for entry, first, count in pieces:
            end = at + count * row_bytes
            yield entry.location(tensor), first * row_bytes, target[at:end], first + count == entry.seq_len
            at = end

    pieces[0].entry.root.read(spans())


_LARGEST = {"fp16": 0x7BFF, "bf16": 0x7F7F}
"""65504 and 3.39e38, the largest finite words; infinities and NaN lie above."""

_SMALLEST = {"fp16": 0x0400, "bf16": 0x0080}
"""6.1e-5 and 1.2e-38, the smallest normal words; subnormal ones and zeros lie below."""

_SIGN = 0x8000
_FEWEST_ROWS = 9
"""Tokens from which on heads and rows are told."""

_PROBED = 16
"""Words of a row, evenly spread, that are looked at: a row is flat where a quarter of them equal one of the two before,
which one word in five thousand does in text."""

_MOST_DEAD = {"flat": 0.05, "subnormal": 0.5, "quantized": 0.05}
"""Shares of the tokens of a head; text has none of such rows (docs/presets-and-scopes.md)."""

_MOST_EQUAL, _MOST_EQUAL_TOKENS = 0.01, 0.25
"""Shares of equal pairs of rows of a head, the second for V of layer 0, a function of the token alone: text has 0.0002
and 0.093."""

_MANTISSA = {"fp16": 0x03FF, "bf16": 0x007F}
_FEW_BITS = {"fp16": 6, "bf16": 3}
"""Bits of a mantissa that differ at most in numbers of 8 bits that were made 16: whole ones scaled by a power of two,
and floats; for bf16 the latter alone."""

_COARSE, _SAMPLED = 256, 4096
"""Values that words have at least, of so many that are looked at: text has thousands."""

_FEWEST_SIGNS = 64
"""Words of a token that are never of one sign."""

_BITS = np.array([number.bit_count() for number in range(_MANTISSA["fp16"] + 1)], np.uint8)

_CHANCE = 6
"""Equal pairs that are none of a pattern, three rows each of the other two: of a few tokens they are a large share."""

_TUNED = 7
"""Positions where a tuning pass at start-up writes the same token over and over."""

_MOST_NAMED = 4096
"""Rows that are named as copies at most."""

_FLAT, _SUBNORMAL, _NARROW = np.uint64(0), np.uint64(1), np.uint64(2)
"""Codes of rows that are told by themselves; any other code is a hash of the row."""

Codes = NDArray[np.uint64]
Positions = NDArray[np.int64]


@dataclass
class Health:
    """What was seen of the words of one tensor of a layer in a run; adds up in any order.

    `lowest` and `highest` are bit patterns, `largest` is without the sign; `codes` are ``[rows, kv_heads]`` each, and
    `positions` those of their rows; `pairs` are neighbouring rows that were compared, `alike` those of them that are
    equal; `coarse` are words, of those looked at, of few values, `dead` metas of entries with rows that say nothing in
    any head.
    """

    words: int = 0
    lowest: int = 0xFFFF
    highest: int = 0
    largest: int = 0
    not_finite: int = 0
    saturated: int = 0
    pairs: int = 0
    alike: int = 0
    coarse: int = 0
    dtype: Literal["fp16", "bf16"] = "fp16"
    codes: list[Codes] = field(default_factory=list)
    positions: list[Positions] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)

    def add(self, other: Health) -> None:
        self.lowest = min(self.lowest, other.lowest)
        self.highest = max(self.highest, other.highest)
        self.largest = max(self.largest, other.largest)
        self.dtype = other.dtype
        for name in ("words", "not_finite", "saturated", "pairs", "alike", "coarse", "codes", "positions", "dead"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def faults(self, layer: int, tensor: str) -> Iterator[tuple[str, str]]:
        """The kind of each fault, and what was seen."""
        if self.largest == 0:
            yield "zero", f"all {self.words:,} words are 0"
        elif self.lowest == self.highest:
            yield "constant", f"all {self.words:,} words are 0x{self.lowest:04x}"
        elif self.pairs >= _FEWEST_ROWS - 1 and 2 * self.alike > self.pairs:
            seen = f"{self.alike:,} of {self.pairs:,} rows equal the row before"
            yield "repeated", f"{seen}, as if one token were repeated"
        else:
            codes, positions = np.concatenate(self.codes), np.concatenate(self.positions)
            told = next(_faults_of_rows(codes, positions, layer, tensor), None)
            if told is not None:
                yield told
            elif self.coarse and (layer, tensor) != (0, "v"):  # which a line of one token makes so
                seen = f"{self.coarse:,} words of one entry or more have {_COARSE} values or fewer"
                yield "quantized", f"{seen}, as if they had been numbers of 8 bits"
            elif self.dead:
                count = f"{len(self.dead)} entries have" if len(self.dead) > 1 else "an entry has"
                yield (
                    "flat",
                    f"{count} rows of one value or few, of few bits or of one sign, the first is {min(self.dead)}",
                )
        if self.not_finite:
            yield "not_finite", f"{self.not_finite:,} of {self.words:,} words are NaN or infinite as {self.dtype}"
        if self.saturated:
            largest = "65504" if self.dtype == "fp16" else "3.39e38"
            yield "saturated", f"{self.saturated:,} of {self.words:,} words are saturated at {largest}"


def _faults_of_rows(codes: Codes, positions: Positions, layer: int, tensor: str) -> Iterator[tuple[str, str]]:
    """What is wrong with single heads, the worst first; `codes` is ``[rows, kv_heads]``."""
    rows, heads = codes.shape
    if rows < _FEWEST_ROWS:
        return
    dead = (
        ("flat", _FLAT, "hold one value or few, over all their dimensions"),
        ("subnormal", _SUBNORMAL, "are subnormal or 0 in more than half of their words"),
        ("quantized", _NARROW, "differ in few bits, as if they had been numbers of 8 bits"),
    )
    for kind, code, seen in dead if codes.min() <= _NARROW else ():
        counts = np.count_nonzero(codes == code, axis=0)
        if (most := int(counts.max())) > _MOST_DEAD[kind] * rows:
            yield kind, f"{most:,} of {rows:,} rows of KV head {counts.argmax()} {seen}"
    for head in range(heads):
        told = codes[:, head, None]
        same = np.count_nonzero((codes[:, :head] == told) & (told > _NARROW), axis=0)
        if head and (most := int(same.max())):
            yield "alike", f"{most:,} of {rows:,} rows of KV head {head} equal those of head {same.argmax()}"
    most_equal = _MOST_EQUAL_TOKENS if (layer, tensor) == (0, "v") else _MOST_EQUAL
    ordered = np.sort(codes.T)
    for head in np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1)).tolist():  # in most none equals another
        values, counts = np.unique(ordered[head], return_counts=True)
        share = float(counts @ (counts - 1)) / (rows * (rows - 1))
        if share > most_equal + _CHANCE / (rows * (rows - 1)):
            few = f"as if the text had {1 / share:.1f} tokens"
            yield "repeated", f"{share:.0%} of all pairs of the {rows:,} rows of KV head {head} are equal, {few}"
        again = _repeated(codes[:, head], positions, values[(counts > 1) & (values > _NARROW)]) if layer else ()
        if len(again) > 1:
            yield (
                "repeated",
                f"tokens {again[0]} and {again[1]} have the same row of KV head {head}, as if one was kept",
            )


def _repeated(codes: Codes, positions: Positions, values: Codes) -> Sequence[int]:
    """Positions of one row that comes at several, which none does above layer 0 but for a tuning pass."""
    tuned = set(codes[positions < _TUNED].tolist()) if values.size else ()
    for value in values.tolist():
        if value not in tuned and len(found := set(positions[codes == value].tolist())) > 1:
            return sorted(found)
    return ()


def examine(words: NDArray[np.uint16], pieces: Iterable[Piece]) -> dict[str | None, Health]:
    """Look at the words of some pieces, ``[rows, kv_heads, head_dim]``, run by run, so that a dead one is found."""
    seen: dict[str | None, Health] = {}
    first = 0
    for (run, dtype), group in groupby(pieces, key=_kind):
        same = list(group)
        end = first + sum(piece.rows for piece in same)
        seen.setdefault(run, Health()).add(_examine(words[first:end], same, dtype))
        first = end
    return seen


def positions_of(pieces: Sequence[Piece]) -> Positions:
    """Position of each token of some pieces in its run."""
    starts = np.array([piece.entry.seq_start + piece.first for piece in pieces], np.int64)
    rows = np.array([piece.rows for piece in pieces], np.int64)
    ends = np.cumsum(rows)
    return np.repeat(starts - (ends - rows), rows) + np.arange(ends[-1])


def _kind(piece: Piece) -> tuple[str | None, Literal["fp16", "bf16"]]:
    return piece.entry.run_id, piece.entry.dtype


def _examine(words: NDArray[np.uint16], pieces: Sequence[Piece], dtype: Literal["fp16", "bf16"]) -> Health:
    highest = int(words.max())
    largest = max(int(words.view(np.int16).max()), highest - _SIGN, 0)
    health = Health(words.size, int(words.min()), highest, largest, pairs=len(words) - 1, dtype=dtype)
    if largest >= (finite := _LARGEST[dtype]):
        magnitudes = words & 0x7FFF
        health.not_finite = int(np.count_nonzero(magnitudes > finite))
        health.saturated = int(np.count_nonzero(magnitudes == finite))
    counts = [piece.rows for piece in pieces]
    most = max(counts)
    first = sum(counts[: counts.index(most)])
    longest = words[first : first + most].reshape(-1)  # of an entry, which may have a scale of its own
    sample = longest[:: max(1, longest.size // _SAMPLED)]
    if sample.size >= _SAMPLED // 2 and np.count_nonzero(np.bincount(sample)) <= _COARSE:
        health.coarse = sample.size
    codes, one_sided = _codes(words, dtype)
    health.codes, health.positions = [codes], [positions_of(pieces)]
    health.alike = int(np.count_nonzero(((codes[1:] == codes[:-1]) & (codes[1:] > _NARROW)).all(axis=1)))
    dead = ((codes == _FLAT) | (codes == _NARROW)).all(axis=1)
    if words[0].size >= _FEWEST_SIGNS:
        for row in np.flatnonzero(one_sided.all(axis=1)):
            dead[row] |= np.ptp(words[row] >> 15) == 0
    health.dead = list(_dead(dead, (codes <= _NARROW).all(axis=1), pieces))
    return health


def _dead(rows: NDArray[np.bool_], doubtful: NDArray[np.bool_], pieces: Sequence[Piece]) -> Iterator[str]:
    """Metas of entries with a dead row, and of whole entries in which no row is beyond doubt."""
    first = 0
    for entry, _, count in pieces if doubtful.any() or rows.any() else ():
        span = slice(first, first + count)
        if rows[span].any() or (count == entry.seq_len and doubtful[span].all()):
            yield entry.meta
        first += count


def _codes(words: Words, dtype: Literal["fp16", "bf16"]) -> tuple[Codes, NDArray[np.bool_]]:
    """A number of each row of each head, ``[rows, kv_heads]``, alike for equal rows; and which seem of one sign."""
    dim = words.shape[2]
    rows = words.reshape(-1, dim)
    wide = rows.view(np.uint64) if dim % 4 == 0 else rows.astype(np.uint64)
    codes: Codes = wide @ _factors(wide.shape[1])
    probed = np.ascontiguousarray(rows[:, :: max(1, dim // _PROBED)].T)
    said = (probed[2:] == probed[:-2]) | (probed[2:] == probed[1:-1])
    small = probed & 0x7FFF < _SMALLEST[dtype]
    differ = np.bitwise_or.reduce(probed) ^ np.bitwise_and.reduce(probed)
    codes[_BITS[differ & _MANTISSA[dtype]] <= _FEW_BITS[dtype]] = _NARROW
    codes[small.sum(axis=0, dtype=np.uint8) > len(probed) // 2] = _SUBNORMAL
    codes[said.sum(axis=0, dtype=np.uint8) > len(probed) // 4] = _FLAT
    return codes.reshape(words.shape[:2]), (differ < _SIGN).reshape(words.shape[:2])


@cache
def _factors(count: int) -> Codes:
    """Odd numbers without a pattern, by SplitMix64 (Steele et al., 2014): to import numpy.random takes 25 ms."""
    factors: Codes = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, mix in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        factors = (factors ^ (factors >> np.uint64(shift))) * np.uint64(mix)
    factors ^= factors >> np.uint64(31)
    factors |= np.uint64(1)
    return factors


def find_faults(
    index: DumpIndex,
    scope: Scope,
    entries: Sequence[DumpEntry],
    skipped: Iterable[SkippedEntry],
    seen: Mapping[tuple[int, str], Mapping[str | None, Health]],
    workers: int = 1,
) -> tuple[DumpFault, ...]:
    """Everything that speaks against taking the ratio of these entries for one of the codec.

    Many rows are looked at in several processes.
    """
    allowed = scope.degenerate == "allow"
    degenerate = [DumpFault(kind, detail, allowed) for kind, detail in _look(entries, seen, workers)]
    if quantized := [entry.meta for entry in entries if entry.quantized]:
        detail = f"{len(quantized)} metas say quant_key or quant_value, the first is {quantized[0]}"
        degenerate.insert(0, DumpFault("quantized", f"{detail}: its words are codes, no fp16", allowed))
    missing = [DumpFault(MISSING_LAYER, detail) for detail in _missing_layers(scope, entries, skipped)]
    missing += [DumpFault(MISSING_TOKENS, detail) for detail in _missing_tokens(index, scope)]
    return (*missing, *degenerate)


def _look(
    entries: Sequence[DumpEntry], seen: Mapping[tuple[int, str], Mapping[str | None, Health]], workers: int
) -> Iterator[tuple[str, str]]:
    """The kind of each fault of words and what was seen: by tensor and run, then copies, which take longest to find."""

    def of_run(place: tuple[int, str], run: str | None) -> list[tuple[str, str]]:
        layer, tensor = place
        name = f"run {run or 'without id'}, layer {layer}, {tensor.upper()}"
        return [(kind, f"{name}: {detail}") for kind, detail in seen[place][run].faults(layer, tensor)]

    runs = [(place, run) for place in sorted(seen) for run in sorted(seen[place], key=lambda run: run or "")]
    looks: list[Callable[[], list[tuple[str, str]]]] = [partial(of_run, *one) for one in runs]
    looks.append(lambda: [("alike", detail) for detail in _copies(entries, seen)])

    def look(number: int) -> tuple[int, list[tuple[str, str]]]:
        return number, looks[number]()

    words = sum(health.words for place in seen.values() for health in place.values())
    forked = min(workers, len(looks)) if words >= _MANY_WORDS else 1
    for _, told in sorted(run_on_processes(lambda: nullcontext(look), reversed(range(len(looks))), forked)):
        yield from told


def _copies(entries: Sequence[DumpEntry], seen: Mapping[tuple[int, str], Mapping[str | None, Health]]) -> Iterator[str]:
    """Rows that are in two tensors, K and V or those of two layers, which no text gives alike: as of a copied file.

    A row of many unlike words is in two of them by no chance. Sorted are hashes with the number of their tensor in the
    place of their last bits; what seems alike is compared whole.
    """
    places, bits = sorted(seen), np.uint64(len(seen).bit_length())
    rows = [(n, run, health) for n, place in enumerate(places) for run, health in seen[place].items()]
    keys = [codes[codes > _NARROW] >> bits << bits | np.uint64(n) for n, _, health in rows for codes in health.codes]
    sorted_keys = np.concatenate([*keys, np.empty(0, np.uint64)])
    sorted_keys.sort()
    step = sorted_keys[1:] ^ sorted_keys[:-1]
    step -= np.uint64(1)  # of equal ones, in one tensor, it becomes the largest number
    alike = sorted_keys[1:][step < (np.uint64(1) << bits) - np.uint64(1)] >> bits
    alike = alike[np.flatnonzero(np.diff(alike, prepend=alike[:1] + np.uint64(1)))][:_MOST_NAMED]
    if not alike.size:
        return
    holders: dict[int, dict[int, list[tuple[str | None, int]]]] = {}
    for n, run, health in rows:
        for codes, positions in zip(health.codes, health.positions, strict=True):
            for row, head in np.argwhere(np.isin(codes >> bits, alike) & (codes > _NARROW)).tolist():
                holders.setdefault(int(codes[row, head]), {}).setdefault(n, []).append((run, int(positions[row])))
    pairs: dict[tuple[int, int], list[tuple[str | None, int]]] = {}
    for held in holders.values():
        for other in list(held)[1:]:
            pairs.setdefault((min(held), other), []).extend(held[other])
    for (one, other), copied in sorted(pairs.items()):
        run, first = min(copied, key=lambda row: (row[0] or "", row[1]))
        (layer, tensor), (of_layer, of) = places[other], places[one]
        meta = next(
            e.meta for e in entries if (e.run_id, e.layer_id) == (run, layer) and 0 <= first - e.seq_start < e.seq_len
        )
        what = f"{tensor.upper()} of layer {layer} has the very words of {of.upper()} of layer {of_layer}"
        yield f"run {run or 'without id'}: {what}, {len(copied)} rows from token {first} on, the first in {meta}"


def _missing_layers(scope: Scope, entries: Iterable[DumpEntry], skipped: Iterable[SkippedEntry]) -> Iterator[str]:
    """Layers that the scope names and nothing was taken of."""
    held = {entry.layer_id for entry in entries} | {entry.layer_id for entry in skipped}
    named = scope.named_layers()
    count = len(named) - sum(layer in named for layer in held)
    if count > 0:
        missing = list(islice((layer for layer in named if layer not in held), _SHOWN))
        yield f"the scope names {_layers(missing, count)}, of which the dump holds nothing"


def _missing_tokens(index: DumpIndex, scope: Scope) -> Iterator[str]:
    """What one run or layer has and another has not, and what is in no entry between others."""
    taken = [entry for entry in index.entries if scope.takes(entry.layer_id, entry.stage, None)]
    by_run: dict[str | None, dict[int, _Extent]] = {}
    for entry in taken:
        layers = by_run.setdefault(entry.run_id, {})
        (layers.get(entry.layer_id) or layers.setdefault(entry.layer_id, _Extent())).add(entry)
    extents = [extent for layers in by_run.values() for extent in layers.values()]
    held_stages = {"prefill": any(e.prompt for e in extents), "decode": any(e.decoded for e in extents)}
    asked = {"both": held_stages, "decode": ("decode",)}.get(scope.given.get("stage", ""), ())
    if extents and (lost_stages := [stage for stage in asked if not held_stages[stage]]):
        yield f"the scope names stage {scope.stage}, and the dump holds no {' and no '.join(lost_stages)}"
    everywhere = set().union(*by_run.values())
    decoding = {run for run, layers in by_run.items() if any(extent.decoded for extent in layers.values())}
    furthest = max((extent.end for extent in extents), default=0)
    for run, layers in by_run.items():
        name = f"run {run or 'without id'}"
        if lost := everywhere - set(layers):
            yield f"{name} has nothing of {_layers(sorted(lost))}, others have"
        prompts = {layer: extent.prompt for layer, extent in layers.items()}
        if lost := {layer for layer, tokens in prompts.items() if not tokens}:
            if any(prompts.values()):
                yield f"{name} has nothing of {_layers(sorted(lost))} in prefill, others have"
            elif held_stages["prefill"]:
                yield f"{name} has no prefill, others have"
        longest = max(prompts.values())
        if short := sorted(layer for layer, tokens in prompts.items() if 0 < tokens < longest):
            yield f"the prefill of {name} has {prompts[short[0]]} tokens in {_layers(short)}, {longest} in others"
        gaps = {layer: gap for layer, extent in layers.items() if scope.stage == "both" and (gap := extent.gap())}
        for layer, (first, end) in gaps.items():
            yield f"{name} has a gap in layer {layer}: tokens {first} to {end - 1} are in no entry"
        whole = {layer: extent for layer, extent in layers.items() if layer not in gaps}
        yield from _lost_decode(name, whole, furthest, others_have=bool(decoding - {run}))


@dataclass
class _Extent:
    """What a run has of a layer: the spans of all its entries, tokens of prefill, and decode behind a tuning pass."""

    spans: list[tuple[int, int]] = field(default_factory=list)
    prompt: int = 0
    decoded: int = 0
    end: int = 0

    def add(self, entry: DumpEntry) -> None:
        end = entry.seq_start + entry.seq_len
        self.spans.append((entry.seq_start, end))
        self.end = max(self.end, end)
        if entry.stage == "prefill":
            self.prompt += entry.seq_len
        elif entry.seq_start >= _TUNED:
            self.decoded += entry.seq_len

    def gap(self) -> tuple[int, int] | None:
        """The first tokens that are missing between others, but for a prompt that was not written."""
        covered = 0
        for start, end in sorted(self.spans) if self.prompt else ():
            if start > covered > _TUNED:
                return covered, start
            covered = max(covered, end)
        return None


def _lost_decode(name: str, layers: Mapping[int, _Extent], furthest: int, *, others_have: bool) -> Iterator[str]:
    """Layers with less decode than others of their run, and a run without any among others that have it.

    An engine that was told to write up to some token ends all layers there.
    """
    decoded = {layer: extent.decoded for layer, extent in layers.items()}
    most, ends = max(decoded.values(), default=0), {extent.end for extent in layers.values()}
    full = {layers[layer].end for layer in layers if decoded[layer] == most}
    if short := sorted(layer for layer in layers if decoded[layer] < most and full != {layers[layer].end}):
        yield f"the decode of {name} has {decoded[short[0]]} tokens in {_layers(short)}, {most} in others"
    elif layers and not most and others_have and ends != {furthest}:
        yield f"{name} has no decode, others have"


def _layers(layers: Sequence[int], count: int = 0) -> str:
    count = count or len(layers)
    more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
    return f"layer{'s' * (count > 1)} {', '.join(map(str, layers[:_SHOWN]))}{more}"
