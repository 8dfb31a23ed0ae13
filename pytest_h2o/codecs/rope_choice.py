"""Which rotation to undo: the one that is known, or the one that the data shows.

Encoder-side: the choice is written into the payload, any choice decodes, so floating point of any kind will do.
"""

from __future__ import annotations

import numpy as np

from pytest_h2o.codecs.base import Rope, Stream, Words
from pytest_h2o.codecs.position_runs import Positions, is_usable
from pytest_h2o.codecs.rotation import MAX_HEAD_DIM, Floats, build_rotation

_THETAS = (1e4, 1e5, 5e5, 1e6)
_CANDIDATES = (*(Rope(theta, "half") for theta in _THETAS), *(Rope(theta, "interleaved") for theta in _THETAS))
_SAMPLED_ROWS = 96
_CLEAR_GAIN = 1.1


def choose_rope(stream: Stream, words: Words, positions: Positions) -> Rope | None:
    """Give the rotation to code `words`, ``[seq_len, kv_heads, head_dim]``, with, or None.

    None for V, for a head_dim that is odd or too large, and where a value is not finite (infinities cannot be turned).
    Else `stream.rope` if it is known; if not, the candidate under which the mean over positions keeps most energy: keys
    share a constant that a right rotation brings to rest and a wrong one smears out.
    """
    head_dim = words.shape[2]
    if stream.tensor != "k" or head_dim % 2 or head_dim > MAX_HEAD_DIM or (words & 0x7C00 == 0x7C00).any():
        return None
    if stream.rope is not None:
        return stream.rope if is_usable(stream.rope) else None
    step = max(1, len(words) // _SAMPLED_ROWS)
    values = words[::step].view(np.float16).astype(np.float32)
    at = -positions[::step]
    best, best_energy = None, _CLEAR_GAIN * _resting_energy(values)
    for rope in _CANDIDATES:
        energy = _resting_energy(build_rotation(rope, head_dim).rotate(values, at))
        if energy > best_energy:
            best, best_energy = rope, energy
    return best


def _resting_energy(values: Floats) -> float:
    """Energy of the mean row."""
    mean = values.mean(axis=0, dtype=np.float64)
    return float((mean * mean).sum())
