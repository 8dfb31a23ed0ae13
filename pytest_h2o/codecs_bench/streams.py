"""Streams of a KV dump for the comparison of codecs: whole sequences, K and V of each run and layer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pytest_h2o.codecs.base import Rope, Stream, Tensor
from pytest_h2o.dumps import DumpEntry, index_dump
from pytest_h2o.dumps.read import Piece, read_pieces
from pytest_h2o.errors import DumpError


@dataclass(frozen=True)
class DumpStream:
    """All tokens of one run and layer, K or V.

    Attributes
    ----------
    run_id : str
        Empty where the dump names none.
    layer : int
    entries : int
        Number of dump entries that were joined.
    stream : Stream
    """

    run_id: str
    layer: int
    entries: int
    stream: Stream


def streams(dump_dir: str | os.PathLike[str], rope: Rope | None = None) -> Iterator[DumpStream]:
    """Yield K, then V of each run and layer of a dump; one stream is in memory at a time.

    Entries of a run and layer stand in order of their first position, equal ones in path order, and are joined as
    they are: an overlap is coded twice.

    Parameters
    ----------
    dump_dir : str or path
        Root of a dump, or a .zip archive of one.
    rope : Rope, optional
        Rotation that K streams are said to have.

    Raises
    ------
    DumpError
        There is no dump, or an entry cannot be read; nothing is passed over.
    """
    index = index_dump(dump_dir)
    if index.skipped:
        first = index.skipped[0]
        raise DumpError(
            "a dump has entries that cannot be read",
            where=str(Path(index.root, first.path)),
            came=f"{first.reason}: {first.detail} ({len(index.skipped)} of {index.scanned_entries} entries)",
            hint="remove these entries, or record the dump again",
        )
    groups: dict[tuple[str, int, int, int], list[DumpEntry]] = {}
    for entry in index.entries:
        groups.setdefault((entry.run_id or "", entry.layer_id, entry.kv_heads, entry.head_dim), []).append(entry)
    for run_id, layer, *shape in sorted(groups):
        group = sorted(groups[run_id, layer, shape[0], shape[1]], key=lambda entry: entry.seq_start)
        pieces = [Piece(entry, 0, entry.seq_len) for entry in group]
        positions = np.concatenate([np.arange(e.seq_start, e.seq_start + e.seq_len, dtype=np.int64) for e in group])
        tensor: Tensor
        for tensor in ("k", "v"):
            stream = Stream(read_pieces(pieces, tensor), tensor, positions, rope if tensor == "k" else None)
            yield DumpStream(run_id, layer, len(group), stream)
