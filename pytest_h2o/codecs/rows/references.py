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
from pytest_h2o.codecs.rows.prediction import widen
from pytest_h2o.codecs.rows.rotation import Floats, Rotation

Indices = NDArray[np.int64]

MAX_DEPTH = 2
"""Steps of a chain of references: rows of one depth are decoded together, so every step is a pass."""
_STEP = 4
"""Every third channel or pair is looked at: more find hardly better references."""
_DETOUR = 1.15
"""A reference one step up the chain is taken if it is farther away by this factor at most."""
_ONE_THREAD_PRODUCTS = 1 << 18
"""OpenBLAS hands products of more than this many multiplications to several threads, which costs more than it gains."""


@dataclass(frozen=True)
class References:
    """Found references.

    Attributes
    ----------
    source : int64 ``[rows]``
        Row that each row is predicted from, an earlier one; itself where none is near.
    distance : float32 ``[rows]``
        Squared distance to it over the row's own energy; infinite where there is none.
    """

    source: Indices
    distance: Floats


def row_features(words: Words, rotation: Rotation | None, positions: Indices) -> Floats:
    """Give a third of the channels of ``[rows, heads, head_dim]``, comparable across positions, ``[rows, features]``.

    Under a rotation these are every third pair, turned back to the first position and freed of their mean, because
    keys share a large constant that says nothing of the token.
    """
    rows = len(words)
    if rotation is None:
        features = widen(words.reshape(rows, -1)[:, ::_STEP])
    else:
        first, second = rotation.first_and_second(_STEP)
        x, y = widen(words[..., first]), widen(words[..., second])
        cosine, sine = rotation.cos_sin(positions - positions[0])
        cos, sin = cosine[:, None, first], sine[:, None, second]
        turned = np.empty((2, *x.shape), np.float32)
        np.multiply(x, cos, out=turned[0])
        turned[0] += y * sin
        np.multiply(y, cos, out=turned[1])
        turned[1] -= x * sin
        features = turned.reshape(2, rows, -1).transpose(1, 0, 2).reshape(rows, -1)
        features -= np.add.reduce(features, axis=0) * np.float32(1 / rows)
    # One scale a channel, so that no channel rules the distance; 1e-12 keeps constant channels finite.
    scale = np.einsum("rc,rc->c", features, features)
    scale *= np.float32(1 / rows)
    scale += np.float32(1e-12)
    features *= 1 / np.sqrt(scale)
    return features


def find_references(features: Floats, near: float) -> References:
    """Find the nearest earlier row of each, by squared distance under `near` times the row's energy.

    Chains are shortened where a reference of the reference is about as near, then cut at `MAX_DEPTH` steps: 2.
    """
    at = np.arange(len(features))
    energy = np.einsum("rc,rc->r", features, features)
    likeness = _likeness(features, energy)
    flat, row_start = likeness.reshape(-1), at * len(at)

    def distance_to(other: Indices) -> Floats:
        distances: Floats = flat.take(row_start + other)  # minus infinity for a row itself: infinitely far
        distances *= -2
        distances += energy
        return distances

    limit = energy * np.float32(near)
    source = likeness.argmax(axis=1)
    distance = distance_to(source)
    source = np.where(distance < limit, source, at)
    # A little of the energy as well: among exact repeats all distances are rounding noise.
    slack = energy * np.float32(1e-6)
    for _ in range(2):
        above = source[source]
        reached = distance_to(above)
        distance *= np.float32(_DETOUR)
        distance += slack
        np.copyto(source, above, where=reached <= distance)
        distance = distance_to(source)
    above = source[source]
    deep = np.flatnonzero(source[above] != above)
    if len(deep):
        allowed = likeness.take(deep, axis=0)
        allowed[:, above != source] = -np.inf
        nearest = allowed.argmax(axis=1)
        source[deep] = nearest
        distance = distance_to(source)
        source[deep] = np.where(distance[deep] < limit[deep], nearest, deep)
    energy += np.float32(1e-30)
    return References(source, distance_to(source) / energy)


def _likeness(features: Floats, energy: Floats) -> Floats:
    """Product of two rows less half the energy of the other, minus infinity for rows that are not earlier.

    The earlier row with the largest is the nearest one: a row's own energy does not change the order.
    """
    rows, count = features.shape
    ours = np.empty((rows, count + 1), np.float32)
    ours[:, :-1], ours[:, -1] = features, 1
    theirs = np.empty((count + 1, rows), np.float32)
    theirs[:-1] = features.T
    np.multiply(energy, np.float32(-0.5), out=theirs[-1])
    likeness = np.empty((rows, rows), np.float32)
    block = max(1, _ONE_THREAD_PRODUCTS // ours.size)
    for start in range(0, rows, block):
        end = start + block
        np.matmul(ours[start:end], theirs, out=likeness[start:end])
    likeness += _not_later(rows)
    return likeness


@lru_cache(maxsize=8)
def _not_later(rows: int) -> Floats:
    """Give 0 for earlier rows, minus infinity for a row itself and later ones ``[row, other]``.

    Kept, because most streams are cut to one length.
    """
    mask = np.where(np.triu(np.ones((rows, rows), np.bool_)), -np.inf, 0).astype(np.float32)
    mask.flags.writeable = False
    return mask
