"""Encoder-side search: which few earlier rows, and with what weights, make up a row; and how wide its errors are.

Nothing here takes part in decoding: every choice is written into the payload, and any choice decodes.
"""

from __future__ import annotations

import numpy as np

from pytest_h2o.codecs.density.logistic import Doubles, Integers, cumulated, slopes_of
from pytest_h2o.codecs.density.row_model import MAX_REFERENCES, VarianceModel

FARTHEST_BACK = 255
_REFERENCE_BITS = 14.0
"""What a reference costs, back distance and weight: it must gain more."""
_WEIGHT_LIMIT = 32
_WIDE_CHANNELS = 96
_WORTH_BITS = 1.0


def find_sources(values: Doubles, last_source: int) -> list[tuple[int, ...]]:
    """Choose up to `MAX_REFERENCES` earlier rows for each of ``[rows, channels]``, all before `last_source`.

    Orthogonal matching pursuit (Pati et al. 1993) for all rows at once: each round adds the row that the remainder
    looks most like, and solves for all weights again. The channels are weighed by what a first, single reference
    leaves of them.
    """
    centred = values - values.mean(axis=0)
    centred *= 1 / np.sqrt((centred * centred).mean(axis=0) + 1e-30)
    best = _pursue(centred, last_source, 1)
    found = np.array([chosen[0] if chosen else -1 for chosen in best])
    rest = np.where(found[:, None] >= 0, centred - centred[found], centred)
    centred *= 1 / np.sqrt((rest * rest).mean(axis=0) + 1e-6)
    return _pursue(centred, last_source, MAX_REFERENCES)


def _pursue(rows: Doubles, last_source: int, most: int) -> list[tuple[int, ...]]:
    count, channels = rows.shape
    at = np.arange(count)
    products = rows @ rows.T
    energy = np.maximum(products.diagonal(), 1e-30)
    distance = at[:, None] - at[None, :]
    allowed = (distance > 0) & (distance <= FARTHEST_BACK) & (at[None, :] < last_source)
    left = energy.copy()
    remainder = products.copy()
    chosen = np.zeros((count, 0), np.int64)
    taken = np.zeros(count, np.int64)
    for _ in range(most):
        score = np.where(allowed, remainder * remainder / energy[None, :], -1.0)
        nearest = score.argmax(axis=1)
        usable = score[at, nearest] > 0
        chosen = np.concatenate([chosen, nearest[:, None]], axis=1)
        gram = products[chosen[:, :, None], chosen[:, None, :]]
        # A little on the diagonal: exact repeats among the sources would make it singular.
        gram = gram + np.eye(chosen.shape[1]) * 1e-9 * energy[chosen][:, None, :]
        target = products[at[:, None], chosen]
        weights = np.linalg.solve(gram, target[:, :, None])[:, :, 0]
        now_left = np.maximum(energy - (weights * target).sum(axis=1), 1e-9 * energy)
        gain = 0.5 * channels * np.log2(left / now_left)
        better = usable & (gain > _REFERENCE_BITS) & (taken == chosen.shape[1] - 1)
        taken += better
        left = np.where(better, now_left, left)
        remainder = products - np.einsum("rk,rkj->rj", weights, products[chosen])
        allowed[at, nearest] = False
    return [tuple(row[:n]) for row, n in zip(chosen.tolist(), taken.tolist(), strict=True)]


def fit_weights(target: Doubles, sources: Doubles, variance: Doubles) -> tuple[int, ...]:
    """Give the weights, in sixteenths, that make ``[sources, channels]`` come nearest to `target`."""
    weighed = sources / variance
    gram = weighed @ sources.T
    gram[np.diag_indices(len(gram))] *= 1 + 1e-9
    gram[np.diag_indices(len(gram))] += 1e-30
    solved = np.linalg.solve(gram, weighed @ target)
    return tuple(int(weight) for weight in np.clip(np.rint(solved * 16), -_WEIGHT_LIMIT, _WEIGHT_LIMIT))


def choose_scale(
    patterns: Integers, error: Doubles, expected: Doubles, model: VarianceModel, rounding: Doubles | None
) -> int:
    """Choose the row's scale by the coded size of its patterns, on every other channel of wide rows."""
    ratio = float((error * error / model.variance).mean())
    guess = 127 + int(np.floor(2 * np.log2(min(max(ratio, 2.0**-60), 2.0**60))))
    channels = slice(None, None, 2 if len(patterns) >= _WIDE_CHANNELS else 1)
    boundaries = np.stack([patterns[channels], patterns[channels] + 1])[:, None, :]
    costs: dict[int, float] = {}

    def evaluate(scales: list[int]) -> None:
        variance = np.stack([model.expect(scale, rounding)[channels] for scale in scales])
        low, high = cumulated(boundaries, expected[channels], slopes_of(variance))
        bits = -np.log2((high - low).astype(np.float64)).sum(axis=1)
        costs.update(zip(scales, bits.tolist(), strict=True))

    # Where the rounding of the sources rules, the scale hardly matters, and a much smaller one is as good.
    evaluate([guess - 6, guess - 1, guess, guess + 1])
    while True:
        best = min(costs, key=lambda scale: costs[scale])
        unknown = [scale for scale in (best - 1, best + 1) if scale not in costs and 0 <= scale <= 255]
        reached = costs[best]
        if unknown:
            evaluate(unknown)
        if min(costs.values()) > reached - _WORTH_BITS:
            return best


def is_instructive(error: Doubles, rounding: Doubles | None) -> bool:
    """Whether a row's errors are more than the rounding of its sources."""
    if rounding is None:
        return bool(np.any(error))
    return bool(np.median(error * error) > 4 * np.median(rounding))
