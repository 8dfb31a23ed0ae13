"""A cache that only keeps: the simplest that a forward pass can use."""

from __future__ import annotations

import numpy as np

from pytest_h2o.reference.gguf import Floats, HyperParameters


class PlainCache:
    """Keys and values in float32, nothing rounded and nothing evicted."""

    def __init__(self, hyper: HyperParameters, capacity: int) -> None:
        shape = (hyper.layers, hyper.kv_heads, capacity, hyper.head_dim)
        self.keys, self.values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.next_position = 0

    def extend(self, layer: int, keys: Floats, values: Floats, stage: str) -> tuple[Floats, Floats]:
        stop = self.next_position + len(keys)
        self.keys[layer][:, self.next_position : stop] = keys.transpose(1, 0, 2)
        self.values[layer][:, self.next_position : stop] = values.transpose(1, 0, 2)
        return self.keys[layer][:, :stop], self.values[layer][:, :stop]

    def observe(self, layer: int, weights: Floats) -> None:
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)

    def advance(self, tokens: int) -> None:
        self.next_position += tokens
