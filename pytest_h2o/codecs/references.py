"""Encoder-side search: which earlier row predicts a row best.

Nothing here takes part in decoding: what is found is written into the payload, and any choice decodes. So this may
use matrix products, means and square roots, whose last bits differ between machines.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Words
from pytest_h2o.codecs.rotation import Floats, Rotation

MAX_DEPTH = 3
_STEP = 3
"""Every third channel or pair is looked at: more find hardly better references."""
_SHORTENINGS = 2
_DETOUR = 1.15
"""A reference one step up the chain is taken if it is farther away by this factor at most."""


@dataclass(frozen=True)
class References:
    """Found references.

    Attributes
    ----------
    source : int64 ``[rows]``
        Row that each row is predicted from, an earlier one; -1 where none is near.
    distance : float32 ``[rows]``
        Squared distance to it over the row's own energy; meaningless where there is none.
    """

    source: NDArray[np.int64]
    distance: Floats


def row_features(words: Words, rotation: Rotation | None, positions: NDArray[np.int64]) -> Floats:
    """Give a third of the channels of ``[rows, heads, head_dim]``, comparable across positions, ``[rows, features]``.

    Under a rotation these are every third pair, turned back to the first position and freed of their mean, because
    keys share a large constant that says nothing of the token. Values that are not finite count as 0.
    """
    rows = len(words)
    if rotation is None:
        sample = words.reshape(rows, -1)[:, ::_STEP].copy()
        sample[sample & 0x7C00 == 0x7C00] = 0
        features = sample.view(np.float16).astype(np.float32)
    else:
        first, second = rotation.first_and_second(_STEP)
        values = words.view(np.float16)
        x, y = (values[..., part].astype(np.float32) for part in (first, second))
        cosine, sine = rotation.cos_sin(positions - positions[0])
        cos, sin = cosine[:, None, first], sine[:, None, second]
        features = np.concatenate([x * cos + y * sin, y * cos - x * sin], axis=-1).reshape(rows, -1)
        features -= features.mean(axis=0)
    # One scale a channel, so that no channel rules the distance; 1e-12 keeps constant channels finite.
    features *= 1 / np.sqrt(np.einsum("rc,rc->c", features, features) / rows + np.float32(1e-12))
    scaled: Floats = features
    return scaled


def find_references(features: Floats, near: float) -> References:
    """Find the nearest earlier row of each, by squared distance under `near` times the row's energy.

    Chains are shortened where a reference of the reference is about as near, then cut at `MAX_DEPTH` steps, since
    rows of one depth are decoded together.
    """
    rows = len(features)
    at = np.arange(rows)
    energy = np.einsum("rc,rc->r", features, features)
    # The nearest row has the largest product less half its energy; a row's own energy does not change the order.
    likeness = features @ features.T
    likeness -= energy * np.float32(0.5)
    likeness += _not_later(rows)

    def distance_to(other: NDArray[np.int64]) -> Floats:
        distances: Floats = energy - 2 * likeness[at, other]
        return distances

    source = likeness.argmax(axis=1)
    distance = distance_to(source)
    limit = energy * np.float32(near)
    source[~(distance < limit)] = -1
    for _ in range(_SHORTENINGS):
        above = np.where(source >= 0, source[source], -1)
        reached = distance_to(above)
        # A little of the energy as well: among exact repeats all distances are rounding noise.
        shorter = (above >= 0) & (reached <= distance * _DETOUR + energy * np.float32(1e-6))
        if not shorter.any():
            break
        source = np.where(shorter, above, source)
        distance = np.where(shorter, np.maximum(reached, distance), distance)
    depth = chain_depth(source, MAX_DEPTH + 1)
    deep = np.flatnonzero(depth > MAX_DEPTH)
    if len(deep):
        allowed = np.where(depth[None, :] < MAX_DEPTH, likeness[deep], -np.inf)
        source[deep] = allowed.argmax(axis=1)
        source[deep] = np.where(distance_to(source)[deep] < limit[deep], source[deep], -1)
    return References(source, np.maximum(distance_to(source), 0) / np.maximum(energy, np.float32(1e-30)))


def chain_depth(source: NDArray[np.int64], at_most: int) -> NDArray[np.int64]:
    """Count the steps of each row to a row without a reference, up to `at_most`."""
    depth = np.zeros(len(source), np.int64)
    current = source
    for _ in range(at_most):
        linked = current >= 0
        if not linked.any():
            break
        depth += linked
        current = np.where(linked, source[current], -1)
    return depth


@lru_cache(maxsize=8)
def _not_later(rows: int) -> Floats:
    """Give 0 for earlier rows, minus infinity for a row itself and later ones ``[row, other]``.

    Kept, because most streams are cut to one length.
    """
    mask = np.where(np.triu(np.ones((rows, rows), np.bool_)), -np.inf, 0).astype(np.float32)
    mask.flags.writeable = False
    return mask
