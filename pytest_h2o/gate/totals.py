"""Total compression: the original product, and the ratio over the whole cache.

The original total multiplies a lossy ratio of the layers under H2O with a lossless ratio of the front layers, as
if every byte went through both; no byte does. `whole_cache_ratio` takes each layer at its own ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CacheLayers:
    """Which layers of a model go through what.

    Attributes
    ----------
    total : int
        Number of layers of the model.
    lossy : frozenset of int
        Layers under H2O eviction.
    lossless : frozenset of int
        Layers under the lossless codec and not under eviction.
    """

    total: int
    lossy: frozenset[int]
    lossless: frozenset[int]


def split_layers(total: int, h2o_start: int, h2o_end: int, lossless_layers: Sequence[int]) -> CacheLayers:
    """Sort the layers of a model into evicted, losslessly coded and untouched ones.

    Parameters
    ----------
    total : int
        Number of layers of the model.
    h2o_start, h2o_end : int
        First and last layer under eviction; an end of -1 means the last layer.
    lossless_layers : sequence of int
        Layers that the lossless ratio was measured on. One that is also under eviction counts as evicted only.
    """
    last = total - 1 if h2o_end < 0 else min(h2o_end, total - 1)
    lossy = frozenset(range(h2o_start, last + 1))
    lossless = frozenset(layer for layer in lossless_layers if 0 <= layer < total) - lossy
    return CacheLayers(total, lossy, lossless)


def whole_cache_ratio(layers: CacheLayers, lossy_ratio: float, lossless_ratio: float | None) -> float:
    """Bytes of the full cache over the bytes that are left, each layer at its own ratio; higher is better.

    All layers hold the same number of raw bytes. Without a lossless ratio those layers stay as they are.
    """
    evicted = len(layers.lossy) / lossy_ratio
    coded = len(layers.lossless) / (lossless_ratio or 1.0)
    untouched = layers.total - len(layers.lossy) - len(layers.lossless)
    return layers.total / (evicted + coded + untouched)
