"""From a dump root to its entries, from entries to words, and whether those say anything about a codec.

Every codec folds zeros or repeated rows a hundredfold, so a runtime that stops writing its cache would pass any target.
Words are looked at once while they are in memory; of each row of a head a hash is kept, to tell rows that repeat.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import combinations, groupby, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.errors import DumpError
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless.result import MISSING_LAYER, DumpFault, Finding, SkippedEntry
from pytest_h2o.lossless.roots import DumpRoot, Folder, FolderRoot, MetaFault, ZipFolder, ZipRoot, parse_meta

Tensor = Literal["k", "v"]
Words = NDArray[np.uint16]

_SHOWN = 6
_TELL_EVERY = 1000
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
    root: DumpRoot
    quantized: bool = False
    bf16: bool = False

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


@dataclass(frozen=True)
class DumpIndex:
    """What the dump at `root` holds, in path order: by path component, as plain strings."""

    root: str
    entries: tuple[DumpEntry, ...]
    skipped: tuple[SkippedEntry, ...]

    @property
    def scanned_entries(self) -> int:
        """Number of meta files that were found."""
        return len(self.entries) + len(self.skipped)


def index_dump(
    root: str | os.PathLike[str], *, sized: bool = True, on_entries: Callable[[int], None] | None = None
) -> DumpIndex:
    """Read and check every meta below a root; data files are looked up and sized, not opened.

    Parameters
    ----------
    root : str or path
        A folder, or a .zip archive of one.
    sized : bool
        Compare the size of every data file with its shape. If not, small files are only compared when they are read:
        half the system calls for a dump of many tiny entries, and an error where a skipped entry would be.
    on_entries : callable, optional
        Called now and then with the number of entries so far.
    """
    shown = os.fspath(root)
    source = _open_root(shown)
    entries: list[DumpEntry] = []
    skipped: list[SkippedEntry] = []
    metas: Iterator[tuple[Folder | ZipFolder, str]] = source.metas()
    for number, (folder, name) in enumerate(metas, 1):
        if on_entries is not None and number % _TELL_EVERY == 0:
            on_entries(number)
        try:
            entries.append(_entry(folder, name, source, sized))
        except MetaFault as fault:
            skipped.append(_skipped(folder.prefix + name, fault))
    if not entries and not skipped:
        raise _no_dump(source, shown)
    _refuse_duplicates(entries, shown)
    return DumpIndex(shown, tuple(entries), tuple(skipped))


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


def _entry(folder: Folder | ZipFolder, name: str, root: DumpRoot, sized: bool) -> DumpEntry:
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
    layer_id, seq_start, seq_len, kv_heads, head_dim, width, stage, run_id, _, _, quantized, bf16 = meta
    path = folder.prefix + name
    k, v = located
    return DumpEntry(
        path, layer_id, seq_start, seq_len, kv_heads, head_dim, width, stage, run_id, k, v, root, quantized, bf16
    )


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


def _refuse_duplicates(entries: Iterable[DumpEntry], root: str) -> None:
    seen: dict[tuple[str | None, int, str, int, int], str] = {}
    for entry in entries:
        key = (entry.run_id, entry.layer_id, entry.stage, entry.seq_start, entry.seq_len)
        first = seen.setdefault(key, entry.meta)
        if first is not entry.meta:
            end = entry.seq_start + entry.seq_len
            raise DumpError(
                "a dump holds the same tokens twice",
                where=f"{root}: {first} and {entry.meta}",
                came=f"run {entry.run_id or 'without id'}, layer {entry.layer_id}, {entry.stage}, "
                f"tokens {entry.seq_start} to {end - 1}",
                expected="each run, layer, stage and range of tokens once",
                hint="give each run a run_id of its own, or take the copy out",
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
    at = 0
    for entry, first, count in pieces:
        end = at + count * row_bytes
        is_end = first + count == entry.seq_len
        entry.root.read_into(entry.location(tensor), first * row_bytes, target[at:end], is_end=is_end)
        at = end


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

_MOST_DEAD = {"flat": 0.05, "subnormal": 0.5, "alike": 0.05}
"""Shares of the tokens of a head; text has none of such rows (docs/presets-and-scopes.md)."""

_MOST_EQUAL, _MOST_EQUAL_TOKENS = 0.01, 0.25
"""Shares of equal pairs of rows of a head, the second for V of layer 0, a function of the token alone: text has 0.0002
and 0.093."""

_FEWEST_WORDS, _FEWEST_BITS = 2048, 9
"""Words of a tensor from which on it is told by its bits or as another's twin; and how many bits differ at most in
numbers of 8 bits that were made 16 again."""

_SKETCH = 64
"""Rows by which twins are told: at least half of them are in both."""

_CHANCE = 6
"""Equal pairs that are none of a pattern, three rows each of the other two: of a few tokens they are a large share."""

_FLAT, _SUBNORMAL = np.uint64(0), np.uint64(1)
"""Codes of rows that are told by themselves; any other code is a hash of the row."""

Codes = NDArray[np.uint64]


@dataclass
class Health:
    """What was seen of the words of one tensor of a layer in a run; adds up in any order.

    `lowest` and `highest` are bit patterns, `largest` is without the sign, `set_once` and `set_always` are the bits
    that any word or each has; `codes` are ``[rows, kv_heads]`` each, by the number of heads; `pairs` are neighbouring
    rows that were compared, `alike` those of them that are equal.
    """

    words: int = 0
    lowest: int = 0xFFFF
    highest: int = 0
    largest: int = 0
    set_once: int = 0
    set_always: int = 0xFFFF
    not_finite: int = 0
    saturated: int = 0
    pairs: int = 0
    alike: int = 0
    dtype: Literal["fp16", "bf16"] = "fp16"
    codes: dict[int, list[Codes]] = field(default_factory=dict)

    def add(self, other: Health) -> None:
        self.lowest = min(self.lowest, other.lowest)
        self.highest = max(self.highest, other.highest)
        self.largest = max(self.largest, other.largest)
        self.set_once |= other.set_once
        self.set_always &= other.set_always
        self.dtype = other.dtype
        for name in ("words", "not_finite", "saturated", "pairs", "alike"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for heads, codes in other.codes.items():
            self.codes.setdefault(heads, []).extend(codes)

    @cached_property
    def sketch(self) -> frozenset[int]:
        """The smallest codes of its rows: of two tensors with the same rows they are the same, in whatever order."""
        told = [np.unique(part[part > _SUBNORMAL])[:_SKETCH] for many in self.codes.values() for part in many]
        return frozenset(np.unique(np.concatenate(told))[:_SKETCH].tolist()) if told else frozenset()

    def faults(self, most_equal: float = _MOST_EQUAL) -> Iterator[tuple[str, str]]:
        """The kind of each fault, and what was seen; `most_equal` is the share of pairs of rows that may be equal."""
        if self.largest == 0:
            yield "zero", f"all {self.words:,} words are 0"
        elif self.lowest == self.highest:
            yield "constant", f"all {self.words:,} words are 0x{self.lowest:04x}"
        elif self.pairs >= _FEWEST_ROWS - 1 and 2 * self.alike > self.pairs:
            seen = f"{self.alike:,} of {self.pairs:,} rows equal the row before"
            yield "repeated", f"{seen}, as if one token were repeated"
        else:
            of_heads = (_faults_of_rows(np.concatenate(codes), most_equal) for codes in self.codes.values())
            bits = (self.set_once ^ self.set_always).bit_count()
            if told := [fault for faults in of_heads for fault in islice(faults, 1)]:
                yield from told
            elif self.words >= _FEWEST_WORDS and bits <= _FEWEST_BITS:
                seen = f"only {bits} of 16 bits differ in {self.words:,} words"
                yield "quantized", f"{seen}, as if they had been numbers of 8 bits"
        if self.not_finite:
            yield "not_finite", f"{self.not_finite:,} of {self.words:,} words are NaN or infinite as {self.dtype}"
        if self.saturated:
            largest = "65504" if self.dtype == "fp16" else "3.39e38"
            yield "saturated", f"{self.saturated:,} of {self.words:,} words are saturated at {largest}"


def _faults_of_rows(codes: Codes, most_equal: float) -> Iterator[tuple[str, str]]:
    """What is wrong with single heads, the worst first; `codes` is ``[rows, kv_heads]``."""
    rows, heads = codes.shape
    if rows < _FEWEST_ROWS:
        return
    for kind, code, seen in (
        ("flat", _FLAT, "hold one value or few, over all their dimensions"),
        ("subnormal", _SUBNORMAL, "are subnormal or 0 in more than half of their words"),
    ):
        counts = np.count_nonzero(codes == code, axis=0)
        if (most := int(counts.max())) > _MOST_DEAD[kind] * rows:
            yield kind, f"{most:,} of {rows:,} rows of KV head {counts.argmax()} {seen}"
    for head in range(heads):
        same = np.count_nonzero(codes[:, :head] == codes[:, head, None], axis=0)
        if head and (most := int(same.max())) > _MOST_DEAD["alike"] * rows:
            yield "alike", f"{most:,} of {rows:,} rows of KV head {head} equal those of head {same.argmax()}"
    for head in range(heads):
        counts = np.unique(codes[:, head], return_counts=True)[1]
        share = float(counts @ (counts - 1)) / (rows * (rows - 1))
        if share > most_equal + _CHANCE / (rows * (rows - 1)):
            few = f"as if the text had {1 / share:.1f} tokens"
            yield "repeated", f"{share:.0%} of all pairs of the {rows:,} rows of KV head {head} are equal, {few}"


def examine(words: NDArray[np.uint16], pieces: Iterable[Piece]) -> dict[str | None, Health]:
    """Look at the words of some pieces, ``[rows, kv_heads, head_dim]``, run by run, so that a dead one is found."""
    seen: dict[str | None, Health] = {}
    first = 0
    for (run, dtype), same in groupby(pieces, key=_kind):
        end = first + sum(piece.rows for piece in same)
        seen.setdefault(run, Health()).add(_examine(words[first:end], dtype))
        first = end
    return seen


def _kind(piece: Piece) -> tuple[str | None, Literal["fp16", "bf16"]]:
    return piece.entry.run_id, piece.entry.dtype


def _examine(words: NDArray[np.uint16], dtype: Literal["fp16", "bf16"]) -> Health:
    highest = int(words.max())
    largest = max(int(words.view(np.int16).max()), highest - _SIGN, 0)
    bits = int(np.bitwise_or.reduce(words, None)), int(np.bitwise_and.reduce(words, None))
    health = Health(words.size, int(words.min()), highest, largest, *bits, pairs=len(words) - 1, dtype=dtype)
    if largest >= (finite := _LARGEST[dtype]):
        magnitudes = words & 0x7FFF
        health.not_finite = int(np.count_nonzero(magnitudes > finite))
        health.saturated = int(np.count_nonzero(magnitudes == finite))
    codes = _codes(words, dtype)
    health.codes[words.shape[1]] = [codes]
    health.alike = int(np.count_nonzero(((codes[1:] == codes[:-1]) & (codes[1:] > _SUBNORMAL)).all(axis=1)))
    return health


def _codes(words: Words, dtype: Literal["fp16", "bf16"]) -> Codes:
    """A number of each row of each head, ``[rows, kv_heads]``: equal rows have equal ones."""
    dim = words.shape[2]
    rows = words.reshape(-1, dim)
    wide = rows.view(np.uint64) if dim % 4 == 0 else rows.astype(np.uint64)
    codes: Codes = wide @ _factors(wide.shape[1])
    probed = np.ascontiguousarray(rows[:, :: max(1, dim // _PROBED)].T)
    said = (probed[2:] == probed[:-2]) | (probed[2:] == probed[1:-1])
    small = probed & 0x7FFF < _SMALLEST[dtype]
    codes[small.sum(axis=0, dtype=np.uint8) > len(probed) // 2] = _SUBNORMAL
    codes[said.sum(axis=0, dtype=np.uint8) > len(probed) // 4] = _FLAT
    return codes.reshape(words.shape[:2])


@cache
def _factors(count: int) -> Codes:
    """Odd numbers without a pattern, by SplitMix64 (Steele et al., 2014): to import numpy.random takes 25 ms."""
    factors: Codes = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, mix in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        factors = (factors ^ (factors >> np.uint64(shift))) * np.uint64(mix)
    factors ^= factors >> np.uint64(31)
    factors |= np.uint64(1)
    return factors


def find_word_faults(words: Words, pieces: Sequence[Piece], layer: int, tensor: Tensor) -> Iterator[tuple[str, str]]:
    """What speaks against a ratio of the words of some pieces of a layer: the kind of each fault, and what was seen."""
    most_equal = _MOST_EQUAL_TOKENS if (layer, tensor) == (0, "v") else _MOST_EQUAL
    for health in examine(words, pieces).values():
        yield from health.faults(most_equal)
    if quantized := [piece.entry.meta for piece in pieces if piece.entry.quantized]:
        yield "quantized", f"quant_key or quant_value in {quantized[0]}: its words are codes, no fp16"


def find_faults(
    index: DumpIndex,
    scope: Scope,
    entries: Sequence[DumpEntry],
    skipped: Iterable[SkippedEntry],
    seen: Mapping[tuple[int, str], Mapping[str | None, Health]],
) -> tuple[DumpFault, ...]:
    """Everything that speaks against taking the ratio of these entries for one of the codec."""
    allowed = scope.degenerate == "allow"
    degenerate = [
        DumpFault(kind, f"run {run or 'without id'}, layer {layer}, {tensor.upper()}: {detail}", allowed)
        for (layer, tensor), runs in sorted(seen.items())
        for run, health in sorted(runs.items(), key=lambda item: item[0] or "")
        for kind, detail in health.faults(_MOST_EQUAL_TOKENS if (layer, tensor) == (0, "v") else _MOST_EQUAL)
    ]
    degenerate += [DumpFault("alike", detail, allowed) for detail in _twins(seen)]
    if quantized := [entry.meta for entry in entries if entry.quantized]:
        detail = f"{len(quantized)} metas say quant_key or quant_value, the first is {quantized[0]}"
        degenerate.insert(0, DumpFault("quantized", f"{detail}: its words are codes, no fp16", allowed))
    missing = [DumpFault(MISSING_LAYER, detail) for detail in _missing_layers(index, scope, entries, skipped)]
    return (*missing, *degenerate)


def _twins(seen: Mapping[tuple[int, str], Mapping[str | None, Health]]) -> Iterator[str]:
    """Tensors of a run that hold the same words: K and V, or those of two layers, which no text gives alike."""
    by_run: dict[str | None, dict[str, frozenset[int]]] = {}
    for (layer, tensor), runs in sorted(seen.items()):
        for run, health in runs.items():
            if health.words >= _FEWEST_WORDS:
                by_run.setdefault(run, {})[f"{tensor.upper()} of layer {layer}"] = health.sketch
    for run, tensors in by_run.items():
        for (one, rows), (other, others) in combinations(tensors.items(), 2):
            if rows and 2 * len(rows & others) >= len(rows):
                yield f"run {run or 'without id'}: {other} has the very words of {one}"


def _missing_layers(
    index: DumpIndex, scope: Scope, entries: Iterable[DumpEntry], skipped: Iterable[SkippedEntry]
) -> Iterator[str]:
    """Layers that the scope names and nothing was taken of, and those that one run has and another has not."""
    held = {entry.layer_id for entry in entries} | {entry.layer_id for entry in skipped}
    named = scope.named_layers()
    count = len(named) - sum(layer in named for layer in held)
    if count > 0:
        missing = islice((layer for layer in named if layer not in held), _SHOWN)
        yield f"the scope names {_layers(missing, count)}, of which the dump holds nothing"
    by_run: dict[tuple[str | None, str], set[int]] = {}
    for entry in index.entries:
        if scope.takes(entry.layer_id, entry.stage, None):
            by_run.setdefault((entry.run_id, ""), set()).add(entry.layer_id)
            if entry.stage == "prefill":  # a tuning pass at start-up decodes in some layers only
                by_run.setdefault((entry.run_id, " in prefill"), set()).add(entry.layer_id)
    stages = {entry.stage for entry in index.entries if scope.takes(entry.layer_id, entry.stage, None)}
    if scope.given.get("stage") == "both" and len(stages) == 1:
        yield f"the scope names both stages, and the dump holds {stages.pop()} alone"
    everywhere = set().union(*by_run.values())
    for (run, stage), layers in by_run.items():
        lost = sorted(everywhere - layers)
        if lost and not (stage and lost == sorted(everywhere - by_run[run, ""])):
            yield f"run {run or 'without id'} has nothing of {_layers(lost[:_SHOWN], len(lost))}{stage}, others have"
    lengths: dict[str | None, dict[int, int]] = {}
    for entry in index.entries:  # decode goes on for as long as it likes, and some layers begin behind a tuning pass
        if entry.stage == "prefill" and scope.takes(entry.layer_id, entry.stage, None):
            of_run = lengths.setdefault(entry.run_id, {})
            of_run[entry.layer_id] = of_run.get(entry.layer_id, 0) + entry.seq_len
    for run, by_layer in lengths.items():
        longest = max(by_layer.values())
        if short := sorted(layer for layer, own in by_layer.items() if own < longest):
            shown = f"{by_layer[short[0]]} tokens in {_layers(short[:_SHOWN], len(short))}, {longest} in others"
            yield f"the prefill of run {run or 'without id'} has {shown}"


def _layers(layers: Iterable[int], count: int) -> str:
    more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
    return f"layer{'s' * (count > 1)} {', '.join(map(str, layers))}{more}"
