"""From a dump root to its entries."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from pytest_h2o.errors import DumpError
from pytest_h2o.lossless.meta import MetaFault, parse_meta
from pytest_h2o.lossless.roots import DumpRoot, Folder, FolderRoot, ZipFolder, ZipRoot

Tensor = Literal["k", "v"]

_SHOWN = 6
_TELL_EVERY = 1000
_SMALL_BYTES = 1 << 14
"""Up to here an entry is worth a system call less; a dump of lies costs no memory worth speaking of."""


class DumpEntry(NamedTuple):
    """One entry: K and V of some tokens of one layer, each ``[seq_len, kv_heads, head_dim]``, little-endian, C order.

    A named tuple, not a dataclass: a dump can hold a hundred thousand, and these are made six times faster. `meta` is
    the path of its meta file below the root, with ``/``; `seq_start` the position of the first token; `bytes_per_elem`
    2 for fp16, 4 for fp32; the locations are what `root` needs to find the data files.
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

    def location(self, tensor: Tensor) -> str:
        return self.k_location if tensor == "k" else self.v_location

    @property
    def row_elements(self) -> int:
        """Elements of one token of K or of V."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class SkippedEntry:
    """An entry that cannot be read: its meta file below the root, why, and what exactly.

    Reasons are ``meta_parse_error``, ``meta_invalid_numeric_fields``, ``meta_invalid_text_fields``, ``invalid_shape``,
    ``missing_k_or_v_file`` (the meta names none), ``missing_k_or_v_binary`` (it is not there), ``binary_read_error``
    (size or permission), ``unsupported_bytes_per_elem_N``, ``unsupported_dtype`` or ``skip_fp32_strict``. Layer, length
    and stage are told where they are known, so that a selection can pass over it; None selects it.
    """

    path: str
    reason: str
    detail: str
    layer_id: int | None = None
    seq_len: int | None = None
    stage: str | None = None


@dataclass(frozen=True)
class Finding:
    """Positions of a run and layer that come more than once, or not at all between the first and the last.

    `tokens` is how many there are, `first` the first of them.
    """

    kind: Literal["overlap", "gap"]
    run_id: str | None
    layer_id: int
    tokens: int
    first: int


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
        raise DumpError(
            "no KV dump here",
            where=shown,
            came=_shown_listing(source.listing()),
            expected="meta_*.json files, at any depth",
            hint="packed_meta_*.json files are not read; was the engine run with MNN_KV_DUMP_DIR set to this folder?",
        )
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
    layer_id, seq_start, seq_len, kv_heads, head_dim, width, stage, run_id, _, _ = meta
    path = folder.prefix + name
    k, v = located
    return DumpEntry(path, layer_id, seq_start, seq_len, kv_heads, head_dim, width, stage, run_id, k, v, root)


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
