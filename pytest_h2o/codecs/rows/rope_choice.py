"""Which rotation to undo: the one that is known, or the one that the data shows.

Encoder-side: the choice is written into the payload, any choice decodes, so floating point of any kind will do.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Rope, Stream, Words
from pytest_h2o.codecs.rows.prediction import widen
from pytest_h2o.codecs.rows.rotation import MAX_HEAD_DIM
from pytest_h2o.codecs.wire.position_runs import Positions
from pytest_h2o.codecs.wire.rope_bytes import is_usable

_THETAS = (1e4, 1e5, 5e5, 1e6)
_PAIRINGS: tuple[Literal["half", "interleaved"], ...] = ("half", "interleaved")
_SAMPLED_ROWS = 40
_PAIR_STEP = 3
_CLEAR_GAIN = 1.1


def choose_rope(stream: Stream, words: Words, positions: Positions) -> Rope | None:
    """Give the rotation to code `words`, ``[seq_len, kv_heads, head_dim]``, with, or None.

    None for V, for a head_dim that is odd or too large, and where a value is not finite (infinities cannot be turned).
    Else `stream.rope` if it is known; if not, the candidate under which the mean over positions keeps most energy: keys
    share a constant that a right rotation brings to rest and a wrong one smears out.
    """
    head_dim = words.shape[2]
    if stream.tensor != "k" or head_dim % 2 or not head_dim or head_dim > MAX_HEAD_DIM:
        return None
    if ((words & 0x7C00) == 0x7C00).any():
        return None
    if stream.rope is not None:
        return stream.rope if is_usable(stream.rope) else None
    step = max(1, len(words) // _SAMPLED_ROWS)
    return _find_rope(words[::step], positions[::step] - positions[0])


def _find_rope(words: Words, positions: Positions) -> Rope | None:
    head_dim = words.shape[2]
    frequencies = _frequencies(head_dim)
    turns = np.multiply.outer(frequencies, positions) * -1j
    np.exp(turns, out=turns)
    values = widen(words)
    best, best_energy = None, 0.0
    for pairing in _PAIRINGS:
        if pairing == "half":
            x, y = values[..., : head_dim // 2 : _PAIR_STEP], values[..., head_dim // 2 :: _PAIR_STEP]
        else:
            x, y = values[..., :: 2 * _PAIR_STEP], values[..., 1 :: 2 * _PAIR_STEP]
        pairs = (x + 1j * y).transpose(2, 0, 1)  # [pairs, rows, heads]
        resting = _energy(pairs.sum(axis=1))
        turned = np.matmul(turns[:, :, None, :], pairs[None])  # [thetas, pairs, 1, heads]
        for theta, sums in zip(_THETAS, turned, strict=True):
            energy = _energy(sums)
            if energy > max(best_energy, _CLEAR_GAIN * resting):
                best, best_energy = Rope(theta, pairing), energy
    return best


@lru_cache(maxsize=16)
def _frequencies(head_dim: int) -> NDArray[np.float64]:
    """Radians a position ``[thetas, pairs]``."""
    exponents = np.arange(0, head_dim // 2, _PAIR_STEP) / (head_dim // 2)
    return np.array(_THETAS)[:, None] ** -exponents


def _energy(sums: NDArray[np.complex128]) -> float:
    return float((sums.real * sums.real + sums.imag * sums.imag).sum())
