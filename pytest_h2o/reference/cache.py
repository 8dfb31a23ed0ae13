"""The KV cache of one layer: keys, values and the positions at which they were written."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.gguf import Floats, HyperParameters
from pytest_h2o.reference.model import Stage
from pytest_h2o.reference.policy import (
    KeepTarget,
    Plan,
    PolicySettings,
    Ranking,
    Scores,
    choose_blocks,
    plan_keep,
    update_scores,
)

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
        """Write new tokens, ``[tokens, kv_heads, head_dim]``, behind those held."""
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


Clock = Literal["shared", "layer"]


class Watcher:
    """One that looks on: what a cache tells whoever wants to know. It does nothing by itself."""

    def cleared(self) -> None:
        """The cache was cleared."""

    def written(self, layer: int, keys: Floats, values: Floats, first_position: int, stage: Stage) -> None:
        """New tokens, ``[tokens, kv_heads, head_dim]``, are about to be appended; nothing of them is evicted yet."""

    def evicted(self, layer: int, plan: Plan) -> None:
        """A plan was applied to a layer."""

    def decoded(self, layer: int, held: LayerCache) -> None:
        """A layer has decoded a token."""


@dataclass
class Counters:
    """What a repeat reports. Keep ratios are fractions of the tokens, 1 where there was no plan.

    Attributes
    ----------
    keep, lossy : float
        Of the last plan that was not floor-dominated.
    floor_keep, target_keep, quantized_keep : float
        Of the last plan in any layer.
    evict_us : int
        Time that the last plan took, microseconds.
    plans, evictions : int
        Plans made, and plans applied that evicted something.
    """

    keep: float = 1.0
    lossy: float = 1.0
    floor_keep: float = 1.0
    target_keep: float = 1.0
    quantized_keep: float = 1.0
    evict_us: int = 0
    plans: int = 0
    evictions: int = 0


class EvictingCache:
    """A `KVStore` for a model.

    Parameters
    ----------
    hyper : HyperParameters
    capacity : int
        Tokens that a layer has room for.
    half : bool
        Whether K and V are rounded to fp16 as they are written.
    policy : PolicySettings or None
        None keeps everything.
    ranking : str
        What makes a block worth keeping: ``h2o`` its score, ``recent`` its place, ``random`` chance.
    clock : str
        ``shared`` or ``layer``.
    seed : int
        Of the ranking ``random``; the same plans come again after each `clear`.
    watchers : sequence of Watcher
    log : callable, optional
        Takes a line for each plan.
    """

    def __init__(
        self,
        hyper: HyperParameters,
        capacity: int,
        *,
        half: bool = True,
        policy: PolicySettings | None = None,
        ranking: Ranking = "h2o",
        clock: Clock = "shared",
        seed: int = 0,
        watchers: Sequence[Watcher] = (),
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.layers = [LayerCache(hyper.kv_heads, hyper.head_dim, capacity, half=half) for _ in range(hyper.layers)]
        self._policy, self._ranking, self._clock, self._seed = policy, ranking, clock, seed
        self._watchers, self._log = tuple(watchers), log
        self.clear()

    def clear(self) -> None:
        """Forget every token, plan, score and counter."""
        for held in self.layers:
            held.clear()
        self.next_position = 0
        self.counters = Counters()
        self._random = np.random.RandomState(self._seed)
        self._scores: list[Scores] = [np.zeros(0)] * len(self.layers)
        self._restart_clock()
        for watcher in self._watchers:
            watcher.cleared()

    @property
    def held_bytes(self) -> int:
        """Bytes of K and V that all layers hold now."""
        return sum(held.length * held.token_bytes for held in self.layers)

    @property
    def full_bytes(self) -> int:
        """Bytes that they would hold if nothing had been evicted."""
        return sum(self.next_position * held.token_bytes for held in self.layers)

    def extend(self, layer: int, keys: Floats, values: Floats, stage: Stage) -> tuple[Floats, Floats]:
        held = self.layers[layer]
        if stage == "decode":
            self._apply_pending(layer)
            self._calls[layer] += 1
            self._all_calls += 1
        elif layer == 0:
            self._restart_clock()
        for watcher in self._watchers:
            watcher.written(layer, keys, values, self.next_position, stage)
        held.append(keys, values, self.next_position)
        return held.keys, held.values

    def observe(self, layer: int, weights: Floats) -> None:
        policy = self._policy
        if policy is not None and policy.covers(layer):
            mass = weights.sum(axis=(0, 1)) / np.float32(weights.shape[0] * weights.shape[1])
            self._scores[layer] = update_scores(self._scores[layer], mass, policy.block_tokens, policy.ema_alpha)
            if self.layers[layer].length >= policy.trigger_min_tokens and self._is_due(layer, policy):
                self._make_plan(layer, policy)
        for watcher in self._watchers:
            watcher.decoded(layer, self.layers[layer])

    def advance(self, tokens: int) -> None:
        self.next_position += tokens

    def _restart_clock(self) -> None:
        self._all_calls = self._last_plan = 0
        self._calls = [0] * len(self.layers)
        self._last_plans = [0] * len(self.layers)
        self._pending: dict[int, Plan] = {}

    def _is_due(self, layer: int, policy: PolicySettings) -> bool:
        if self._clock == "shared":
            return self._all_calls - self._last_plan >= policy.update_interval
        return self._calls[layer] - self._last_plans[layer] >= policy.update_interval

    def _make_plan(self, layer: int, policy: PolicySettings) -> None:
        started_s = time.perf_counter()
        target = plan_keep(
            self.layers[layer].length,
            block_tokens=policy.block_tokens,
            sink_tokens=policy.sink_tokens,
            recent_tokens=policy.recent_tokens,
            ratio=policy.ratio,
        )
        plan = choose_blocks(target, self._rank(layer), policy.block_tokens)
        elapsed_s = time.perf_counter() - started_s
        self._last_plan = self._all_calls
        self._last_plans[layer] = self._calls[layer]
        if not target.floor_dominated:
            self._pending[layer] = plan
        self._count(layer, target, plan, round(elapsed_s * 1e6))

    def _rank(self, layer: int) -> Scores:
        blocks = len(self._scores[layer])
        if self._ranking == "recent":
            return np.arange(blocks, dtype=np.float64)
        if self._ranking == "random":
            return self._random.random_sample(blocks)
        return self._scores[layer]

    def _count(self, layer: int, target: KeepTarget, plan: Plan, evict_us: int) -> None:
        counters = self.counters
        counters.plans += 1
        counters.evict_us = evict_us
        counters.floor_keep, counters.target_keep = target.floor_keep, target.target_keep
        counters.quantized_keep = target.quantized_keep
        if not target.floor_dominated:
            counters.keep, counters.lossy = plan.keep, plan.lossy_ratio(self.layers[layer].token_bytes)
        if self._log is not None:
            evict = target.kv_len - plan.kept_tokens
            self._log(
                f"[H2O] layer={layer} kv={target.kv_len} keep_ratio={plan.keep:.4f} evict={evict} "
                f"lossy_ratio={plan.lossy_ratio(self.layers[layer].token_bytes):.4f}"
            )

    def _apply_pending(self, layer: int) -> None:
        plan = self._pending.pop(layer, None)
        if plan is None:
            return
        self.layers[layer].keep(plan.runs)
        self._scores[layer] = self._scores[layer][list(plan.blocks)]
        self.counters.evictions += plan.kept_tokens < plan.target.kv_len
        for watcher in self._watchers:
            watcher.evicted(layer, plan)
