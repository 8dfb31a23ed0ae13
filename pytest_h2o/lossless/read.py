"""From entries to words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.errors import DumpError
from pytest_h2o.lossless.index import DumpEntry, Tensor

Words = NDArray[np.uint16]
_STORED_WORDS = np.dtype("<u2")
_STORED_FLOATS = np.dtype("<f4")
_MAP_FROM_BYTES = 1 << 20
"""Mapping a file costs more than reading it when it is small."""


class Piece(NamedTuple):
    """Rows of one entry: `rows` tokens from `first` on, counted in the entry."""

    entry: DumpEntry
    first: int
    rows: int


def read_pieces(pieces: Sequence[Piece], tensor: Tensor) -> Words:
    """K or V of rows of several entries, one after the other, as fp16 bit patterns.

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
