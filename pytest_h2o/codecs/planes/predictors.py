"""Byte predictors: reversible maps of a block of one byte plane, so that zstd finds it smaller.

A plane is the high or the low byte of every fp16 word, uint8 ``[rows, kv_heads, head_dim]``; a block is a run of
its rows, predicted by itself. All arithmetic is modulo 256, so every map has an exact inverse.

======================== =====================================================================
``raw``                  the bytes as they are
``delta_seq``            row t minus row t-1; the first row of a block is kept
``xor_seq``              row t xor row t-1; the first row of a block is kept
``pair_delta``           on the last axis, each odd element minus the even one before it
``pair_delta_delta_seq`` ``pair_delta``, then ``delta_seq``
======================== =====================================================================

With an odd head_dim the last element of a head has no partner and is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.planes.byte_planes import Plane

FlatBytes = NDArray[np.uint8]

PREDICTORS = ("raw", "delta_seq", "xor_seq", "pair_delta", "pair_delta_delta_seq")
"""Every predictor; its place here is its mode byte in an encoded stream, so the order never changes."""

_SAME_ON_ONE_ROW = {"delta_seq": "raw", "xor_seq": "raw", "pair_delta_delta_seq": "pair_delta"}


def distinct_on_one_row(names: Sequence[str]) -> list[int]:
    """Places in `names` of predictors that differ on a block of one row, the first of equals.

    A single row has no row before it: there ``delta_seq`` and ``xor_seq`` are ``raw``. Leaving the later of two
    equal candidates out never changes which one is chosen, because the first wins a tie.
    """
    first: dict[str, int] = {}
    for place, name in enumerate(names):
        first.setdefault(_SAME_ON_ONE_ROW.get(name, name), place)
    return list(first.values())


def predict(plane: Plane, names: Sequence[str], starts: slice | NDArray[np.intp]) -> list[Plane]:
    """Apply each predictor to a whole plane at once, block by block.

    Parameters
    ----------
    plane : numpy.ndarray of uint8, ``[rows, kv_heads, head_dim]``, C order
        ``raw`` gives this very array back, so it must not be written to afterwards.
    names : sequence of str
        Out of `PREDICTORS`.
    starts : slice or numpy.ndarray of int
        The first row of each block.

    Returns
    -------
    list of numpy.ndarray of uint8, ``[rows, kv_heads, head_dim]``, C order
        In the order of `names`.
    """
    paired = _on_pairs(plane, np.subtract) if any(name.startswith("pair_delta") for name in names) else plane
    made: dict[str, Callable[[], Plane]] = {
        "raw": lambda: plane,
        "delta_seq": lambda: _delta_rows(plane, starts),
        "xor_seq": lambda: _xor_rows(plane, starts),
        "pair_delta": lambda: paired,
        "pair_delta_delta_seq": lambda: _delta_rows(paired, starts),
    }
    return [made[name]() for name in names]


def restore(blocks: Plane, name: str) -> Plane:
    """Undo one predictor on blocks of equal length.

    Parameters
    ----------
    blocks : numpy.ndarray of uint8, ``[blocks, rows, kv_heads, head_dim]``, C order
        Left as it is.
    name : str
        Out of `PREDICTORS`.

    Returns
    -------
    numpy.ndarray of uint8, ``[blocks, rows, kv_heads, head_dim]``
        `blocks` itself for ``raw``.
    """
    if name == "raw":
        return blocks
    if name == "xor_seq":
        undone: Plane = np.bitwise_xor.accumulate(blocks, axis=1)
        return undone
    paired: Plane = blocks if name == "pair_delta" else np.add.accumulate(blocks, axis=1, dtype=np.uint8)
    return _on_pairs(paired, np.add) if name.startswith("pair_delta") else paired


def bitshuffle(data: FlatBytes) -> FlatBytes:
    """Turn n bytes, seen as bits ``[n, 8]`` (least significant first), into the bits ``[8, n]``, packed again alike.

    Parameters
    ----------
    data : numpy.ndarray of uint8, ``[n]``

    Returns
    -------
    numpy.ndarray of uint8, ``[n]``
    """
    if data.size % 8 == 0:
        return np.concatenate([np.packbits(data & np.uint8(1 << bit), bitorder="little") for bit in range(8)])
    bits = np.unpackbits(data, bitorder="little").reshape(-1, 8)
    return np.packbits(bits.T.ravel(), bitorder="little")


def bitunshuffle(blocks: FlatBytes) -> FlatBytes:
    """Undo `bitshuffle` on blocks of equal length, uint8 ``[blocks, n]``."""
    bits = np.unpackbits(blocks, axis=1, bitorder="little").reshape(len(blocks), 8, -1)
    out: FlatBytes = bits[:, 0].copy()
    for bit in range(1, 8):
        out |= bits[:, bit] << np.uint8(bit)
    return out


def _delta_rows(plane: Plane, starts: slice | NDArray[np.intp]) -> Plane:
    out = np.empty_like(plane)
    np.subtract(plane[1:], plane[:-1], out=out[1:])  # over all blocks at once; their first rows are put right below
    out[starts] = plane[starts]
    return out


def _xor_rows(plane: Plane, starts: slice | NDArray[np.intp]) -> Plane:
    out = np.empty_like(plane)
    np.bitwise_xor(plane[1:], plane[:-1], out=out[1:])
    out[starts] = plane[starts]
    return out


def _on_pairs(plane: Plane, operation: np.ufunc) -> Plane:
    """Apply `operation` to every odd element of the last axis and the even one before it."""
    if plane.shape[-1] % 2 == 0:
        pairs = plane.view("<u2")  # the even element is the low byte, so that one shift serves all pairs
        moved: Plane = operation(pairs, pairs << 8).view(np.uint8)
        return moved
    out: Plane = plane.copy()
    odd = out[..., 1::2]
    operation(odd, plane[..., 0 : plane.shape[-1] - 1 : 2], out=odd)
    return out
