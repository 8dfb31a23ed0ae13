"""The KV cache of a model under H2O eviction: what each layer holds, whose turn it is to plan, and what the plan does.

In decoding each attention call of a layer takes its pending plan (tokens move together, the scores of kept blocks
with them), appends the token, and blends the attention of that token into its scores. A plan is made when the clock
stands at least `update_interval` past the last one, and is applied at that layer's next call. Two clocks are known:

``shared``
    That of the engine: it counts the attention calls of all layers, and one layer at a time plans. Where the interval
    and the number of layers fit each other badly the same few layers plan again and again and the others never do:
    the recorded warnings of the engine name layers 15 and 31 five hundred times of nine hundred.
``layer``
    Each layer counts its own calls, so that every layer in the range evicts. A row then claims no more than was done.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.config import Clock, PolicySettings
from pytest_h2o.reference.gguf import Floats, HyperParameters
from pytest_h2o.reference.policy import Plan, Scores, choose_blocks, plan_keep, update_scores

Stage = Literal["prefill", "decode"]
Words = NDArray[np.uint16]


class LayerCache:
    """What one layer holds, `length` tokens, in memory for `capacity` of them that is taken once.

    Keys stand rotated as they were written: their rotation is that of their original position, wherever they move.
    With `half` values are rounded to fp16 when they are written, as a cache of 2 bytes an element would hold them; they
    are computed with as float32 all the same.
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
    def token_bytes(self) -> int:
        """Bytes of K and V of one token, at the width that the cache stands for."""
        kv_heads, _, head_dim = self._keys.shape
        return 2 * kv_heads * head_dim * (2 if self._half else 4)

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

    def drop(self, start: int, stop: int) -> None:
        """Overwrite some held tokens with nan: whatever reads them before they are put back shows it."""
        self._keys[:, start:stop] = self._values[:, start:stop] = np.nan

    def put_back(self, start: int, keys: Words, values: Words) -> None:
        """Write tokens in place that `words` gave, and that were dropped."""
        for held, words in ((self._keys, keys), (self._values, values)):
            held[:, start : start + len(words)] = words.view(np.float16).transpose(1, 0, 2)

    def words(self, start: int, stop: int) -> tuple[Words, Words]:
        """K and V of some held tokens as fp16 bit patterns, uint16 ``[tokens, kv_heads, head_dim]``, copied."""
        keys, values = (
            np.ascontiguousarray(held[:, start:stop].transpose(1, 0, 2)).astype(np.float16).view(np.uint16)
            for held in (self._keys, self._values)
        )
        return keys, values


class Watcher:
    """One that looks on: what a cache tells whoever wants to know. It does nothing by itself."""

    def cleared(self) -> None:
        """The cache was cleared."""

    def needed(self, layer: int, held: LayerCache) -> None:
        """A layer begins to decode a token, and is about to read all that it holds."""

    def written(self, layer: int, keys: Floats, values: Floats, first_position: int, stage: Stage) -> None:
        """New tokens, ``[tokens, kv_heads, head_dim]``, are about to be appended; nothing of them is evicted yet."""

    def evicted(self, layer: int, plan: Plan) -> None:
        """A plan was applied to a layer."""

    def decoded(self, layer: int, held: LayerCache) -> None:
        """A layer has decoded a token."""

    def finish(self) -> Mapping[str, float]:
        """Wait for what is still being done for this repeat; columns of the table with their figures."""
        return {}


class EvictingCache:
    """All layers of a model; without a policy they keep everything.

    Attributes
    ----------
    layers : list of LayerCache
    next_position : int
        Position of the next token in its sequence: how many tokens were seen since the cache was cleared.
    figures : dict
        Columns of the table: keep and lossy ratio of the last plan that was not floor-dominated; floor, target and
        quantised keep of the last plan, and the microseconds that it took. Those that nothing was planned for are
        missing.
    plans, evictions : int
        Plans made, and plans applied that evicted something.
    """

    def __init__(
        self,
        hyper: HyperParameters,
        capacity: int,
        *,
        half: bool = True,
        policy: PolicySettings | None = None,
        clock: Clock = "shared",
        watchers: Sequence[Watcher] = (),
        log: Callable[[str], None] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self._tell = tell
        self.layers = [LayerCache(hyper.kv_heads, hyper.head_dim, capacity, half=half) for _ in range(hyper.layers)]
        self._policy, self._clock, self._watchers, self._log = policy, clock, tuple(watchers), log
        self.clear()

    def clear(self) -> None:
        """Forget every token, plan, score and figure."""
        for held in self.layers:
            held.length = 0
        self.next_position = self.plans = self.evictions = 0
        self.figures: dict[str, float] = {}
        self.scores: list[Scores] = [np.zeros(0)] * len(self.layers)
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
        return self.next_position * sum(held.token_bytes for held in self.layers)

    def extend(self, layer: int, keys: Floats, values: Floats, stage: Stage) -> tuple[Floats, Floats]:
        """Take K and V of new tokens, ``[tokens, kv_heads, head_dim]``; give all that the layer now holds.

        Returns two float32 arrays, ``[kv_heads, kv_len, head_dim]``, the new tokens last.
        """
        held = self.layers[layer]
        if stage == "decode":
            for watcher in self._watchers:
                watcher.needed(layer, held)
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
        """Take the attention weights of one decoded token, ``[kv_heads, heads / kv_heads, kv_len]``."""
        policy = self._policy
        if policy is not None and policy.covers(layer):
            mass = weights.sum(axis=(0, 1)) / np.float32(weights.shape[0] * weights.shape[1])
            self.scores[layer] = update_scores(self.scores[layer], mass, policy.block_tokens, policy.ema_alpha)
            if self.layers[layer].length >= policy.trigger_min_tokens and self._is_due(layer, policy):
                self._make_plan(layer, policy)
        for watcher in self._watchers:
            watcher.decoded(layer, self.layers[layer])

    def advance(self, tokens: int) -> None:
        """All layers have taken `tokens` more tokens."""
        self.next_position += tokens

    def finish(self) -> None:
        """A repeat is over: wait for those who watch, and take their figures."""
        for watcher in self._watchers:
            self.figures.update(watcher.finish())

    def rank(self, layer: int) -> Scores:
        """What makes the blocks of a layer worth keeping, ``[blocks]``: higher is kept first."""
        return self.scores[layer]

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
        held = self.layers[layer]
        started_s = time.perf_counter()
        target = plan_keep(held.length, policy)
        plan = choose_blocks(target, self.rank(layer), policy.block_tokens)
        elapsed_s = time.perf_counter() - started_s
        self._last_plan = self._all_calls
        self._last_plans[layer] = self._calls[layer]
        self.plans += 1
        lossy = plan.lossy_ratio(held.token_bytes)
        self.figures |= {
            "h2o_evict_us": round(elapsed_s * 1e6),
            "h2o_floor_keep": target.floor_keep,
            "h2o_target_keep_effective": target.target_keep,
            "h2o_quantized_keep": target.quantized_keep,
        }
        if not target.floor_dominated:
            self._pending[layer] = plan
            self.figures |= {"h2o_keep": plan.keep, "h2o_lossy": lossy}
        elif tell := self._log or self._tell:
            self._tell = None
            aim = math.ceil(policy.ratio * target.kv_len)
            tell(
                f"[H2O] floor-keep dominates target: kv={target.kv_len} target={aim} "
                f"floor={target.protected_tokens} (sink={policy.sink_tokens} recent={policy.recent_tokens} "
                f"block={policy.block_tokens})"
            )
        if self._log is not None:
            self._log(
                f"[H2O] layer={layer} kv={target.kv_len} keep_ratio={plan.keep:.4f} "
                f"evict={target.kv_len - plan.kept_tokens} lossy_ratio={lossy:.4f}"
            )

    def _apply_pending(self, layer: int) -> None:
        plan = self._pending.pop(layer, None)
        if plan is None:
            return
        self.layers[layer].keep(plan.runs)
        self.scores[layer] = self.scores[layer][list(plan.blocks)]
        self.evictions += plan.kept_tokens < plan.target.kv_len
        for watcher in self._watchers:
            watcher.evicted(layer, plan)
