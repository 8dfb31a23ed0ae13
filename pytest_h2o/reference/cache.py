"""The KV cache of one layer: keys, values and the positions at which they were written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.gguf_file import Floats

Words = NDArray[np.uint16]


class LayerCache:
    """What one layer holds, in memory that is taken once.

    Keys stand rotated as they were written: their rotation is that of their original position, wherever they move.

    Parameters
    ----------
    kv_heads, head_dim, capacity : int
        `capacity` in tokens.
    half : bool
        Whether values are rounded to fp16 when they are written, as a cache of 2 bytes an element would hold them.
        They are computed with as float32 all the same.

    Attributes
    ----------
    length : int
        Tokens held.
    """

    def __init__(self, kv_heads: int, head_dim: int, capacity: int, *, half: bool) -> None:
        # Zeros, not empty: the pages are touched by the first repeat, which is not measured.
        self._keys = np.zeros((kv_heads, capacity, head_dim), dtype=np.float32)
        self._values = np.zeros_like(self._keys)
        self._positions = np.zeros(capacity, dtype=np.int64)
        self._half = half
        self.length = 0

    @property
    def keys(self) -> Floats:
        """``[kv_heads, length, head_dim]``, a view."""
        return self._keys[:, : self.length]

    @property
    def values(self) -> Floats:
        """``[kv_heads, length, head_dim]``, a view."""
        return self._values[:, : self.length]

    @property
    def positions(self) -> NDArray[np.int64]:
        """``[length]``: where in the sequence each held token stood, ascending; a view."""
        return self._positions[: self.length]

    @property
    def bytes_per_element(self) -> int:
        return 2 if self._half else 4

    @property
    def token_bytes(self) -> int:
        """Bytes of K and V of one token, at the width that the cache stands for."""
        kv_heads, _, head_dim = self._keys.shape
        return 2 * kv_heads * head_dim * self.bytes_per_element

    def append(self, keys: Floats, values: Floats, first_position: int) -> None:
        """Write new tokens, ``[tokens, kv_heads, head_dim]``, behind those held.

        Raises
        ------
        UsageError
            There is no room for them.
        """
        stop, capacity = self.length + len(keys), self._keys.shape[1]
        if stop > capacity:
            raise UsageError("the cache is full", came=f"{stop} tokens", expected=f"at most {capacity}")
        if self._half:
            keys, values = keys.astype(np.float16), values.astype(np.float16)
        self._keys[:, self.length : stop] = keys.transpose(1, 0, 2)
        self._values[:, self.length : stop] = values.transpose(1, 0, 2)
        self._positions[self.length : stop] = np.arange(first_position, first_position + len(keys))
        self.length = stop

    def keep(self, runs: Sequence[tuple[int, int]]) -> None:
        """Evict all tokens that are not in `runs`, (start, length) pairs in ascending order."""
        to = 0
        for start, length in runs:
            if start != to:
                for held in (self._keys, self._values):
                    held[:, to : to + length] = held[:, start : start + length]
                self._positions[to : to + length] = self._positions[start : start + length]
            to += length
        self.length = to

    def clear(self) -> None:
        self.length = 0

    def words(self, start: int, stop: int) -> tuple[Words, Words]:
        """K and V of some held tokens as fp16 bit patterns, uint16 ``[tokens, kv_heads, head_dim]``, copied."""
        keys, values = (
            np.ascontiguousarray(held[:, start:stop].transpose(1, 0, 2)).astype(np.float16).view(np.uint16)
            for held in (self._keys, self._values)
        )
        return keys, values
