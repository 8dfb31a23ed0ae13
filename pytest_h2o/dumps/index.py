"""From a dump root to its entries."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from pytest_h2o.dumps.entry import DumpEntry, DumpIndex, DumpRoot, Finding, SkippedEntry
from pytest_h2o.dumps.folder_root import FolderRoot
from pytest_h2o.dumps.meta import Meta, MetaFault
from pytest_h2o.errors import DumpError

_SHOWN = 6
_TELL_EVERY = 1000
_SMALL_BYTES = 1 << 14
"""Up to here an entry is worth a system call less; a dump of lies costs no memory worth speaking of."""


class _Folder(Protocol):
    @property
    def prefix(self) -> str: ...

    def meta(self, name: str) -> Meta: ...

    def locate(self, name: str, meta: str, *, sized: bool) -> tuple[str, int | None]: ...


class _Source(DumpRoot, Protocol):
    def metas(self) -> Iterator[tuple[_Folder, str]]: ...

    def listing(self) -> list[str]: ...


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

    Returns
    -------
    DumpIndex
        Entries that are sound, and those that are not with their reasons.

    Raises
    ------
    DumpError
        There is no such root or nothing in it; a name or a link leads outside it; two entries describe the same
        tokens of the same run, layer and stage.
    """
    shown = os.fspath(root)
    source = _open_root(shown)
    entries: list[DumpEntry] = []
    skipped: list[SkippedEntry] = []
    for number, (folder, name) in enumerate(source.metas(), 1):
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


def _open_root(root: str) -> _Source:
    path = Path(root)
    if path.is_dir():
        return FolderRoot(root)
    if path.exists():
        from pytest_h2o.dumps.zip_root import ZipRoot  # it brings every decompressor along

        return ZipRoot(root)
    parent = path.absolute().parent
    there = f"no folder {parent} either"
    if parent.is_dir():
        there = _shown_listing(sorted(item.name for item in parent.iterdir()))
    raise DumpError("the dump root does not exist", where=root, came=there, expected="a dump folder, or a .zip of one")


def _entry(folder: _Folder, name: str, root: DumpRoot, sized: bool) -> DumpEntry:
    meta = folder.meta(name)
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
