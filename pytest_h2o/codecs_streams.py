"""Streams of a KV dump for the comparison of codecs: whole sequences, K and V of each run and layer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pytest_h2o.codecs.base import Rope, Stream, Tensor, Words
from pytest_h2o.errors import DumpError


@dataclass(frozen=True)
class DumpStream:
    """All tokens of one run and layer, K or V.

    Attributes
    ----------
    run_id : str
    layer : int
    entries : int
        Number of dump entries that were joined.
    stream : Stream
    """

    run_id: str
    layer: int
    entries: int
    stream: Stream


@dataclass(frozen=True)
class _Entry:
    path: Path
    run_id: str
    layer: int
    seq_start: int
    shape: tuple[int, int, int]
    dtype: str
    files: dict[Tensor, Path]


def streams(dump_dir: Path, rope: Rope | None = None) -> Iterator[DumpStream]:
    """Yield K, then V of each run and layer of a dump; one stream is in memory at a time.

    Parameters
    ----------
    dump_dir : Path
        Root of a dump: any depth of folders with ``meta_*.json`` and the data files that they name.
    rope : Rope, optional
        Rotation that K streams are said to have.

    Raises
    ------
    DumpError
        There is no entry, or one cannot be read; nothing is passed over.
    """
    entries = [_read_entry(path) for path in sorted(dump_dir.rglob("meta_*.json"), key=lambda path: path.parts)]
    if not entries:
        raise DumpError("no dump entry was found", where=str(dump_dir), expected="meta_*.json in it or below")
    groups: dict[tuple[str, int, int, int], list[_Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.run_id, entry.layer, *entry.shape[1:]), []).append(entry)
    for key in sorted(groups):
        group = sorted(groups[key], key=lambda entry: entry.seq_start)
        positions = np.concatenate([np.arange(e.seq_start, e.seq_start + e.shape[0], dtype=np.int64) for e in group])
        tensor: Tensor
        for tensor in ("k", "v"):
            words = np.concatenate([_read_words(entry, tensor) for entry in group])
            stream = Stream(words, tensor, positions, rope if tensor == "k" else None)
            yield DumpStream(key[0], key[1], len(group), stream)


def _read_entry(path: Path) -> _Entry:
    try:
        meta: dict[str, Any] = json.loads(path.read_text("utf-8"))
        shape = (int(meta["seq_len"]), int(meta["kv_heads"]), int(meta["head_dim"]))
        files: dict[Tensor, Path] = {"k": path.parent / meta["k_file"], "v": path.parent / meta["v_file"]}
        dtype = {2: "<f2", 4: "<f4"}[meta["bytes_per_elem"]]
        entry = _Entry(path, str(meta["run_id"]), int(meta["layer_id"]), int(meta["seq_start"]), shape, dtype, files)
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise DumpError(
            "a dump entry cannot be read", where=str(path), came=f"{type(error).__name__}: {error}"
        ) from error
    if min(shape) <= 0 or any(file.parent != path.parent for file in files.values()):
        raise DumpError(
            "a dump entry is not sound",
            where=str(path),
            came=f"shape {shape}, files {meta['k_file']}, {meta['v_file']}",
        )
    return entry


def _read_words(entry: _Entry, tensor: Tensor) -> Words:
    file = entry.files[tensor]
    try:
        values = np.fromfile(file, dtype=entry.dtype)
    except OSError as error:
        raise DumpError("a data file of a dump cannot be read", where=str(file), came=str(error)) from error
    if values.nbytes != file.stat().st_size or values.size != np.prod(entry.shape):
        raise DumpError(
            "a data file of a dump has another size than its entry says",
            where=str(file),
            came=f"{file.stat().st_size} bytes",
            expected=f"{int(np.prod(entry.shape)) * values.itemsize} bytes for {list(entry.shape)}",
        )
    with np.errstate(over="ignore"):
        words: Words = values.astype(np.float16, copy=False).view(np.uint16).reshape(entry.shape)
    return words
