"""The cache under eviction: whose turn it is, what moves, what is counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_runs import HYPER
from synthetic_model import write_gguf

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.cache import EvictingCache, LayerCache, Watcher
from pytest_h2o.reference.config import PolicySettings
from pytest_h2o.reference.gguf import GgufFile
from pytest_h2o.reference.model import Model
from pytest_h2o.reference.policy import Plan

POLICY = PolicySettings(
    block_tokens=4,
    sink_tokens=4,
    recent_tokens=8,
    ratio=0.5,
    ema_alpha=0.9,
    update_interval=6,
    trigger_min_tokens=20,
    layer_start=1,
    layer_end=3,
)


class Plans(Watcher):
    """Keeps what was applied, with the clock that it was applied at."""

    def __init__(self) -> None:
        self.applied: list[tuple[int, Plan]] = []

    def evicted(self, layer: int, plan: Plan) -> None:
        self.applied.append((layer, plan))


def numbered(tokens: int, first: int = 0) -> np.ndarray:
    """K or V whose every number is that of its token."""
    return np.broadcast_to(np.arange(first, first + tokens, dtype=np.float32)[:, None, None], (tokens, 2, 8))


def feed(cache: EvictingCache, prompt: int, decoded: int, favourite: int = 13) -> list[tuple[int, int]]:
    """Run tokens through a cache without a model; at what call a layer planned: (decoded token, layer)."""
    planned = []
    for layer in range(4):
        cache.extend(layer, numbered(prompt), numbered(prompt), "prefill")
    cache.advance(prompt)
    for token in range(decoded):
        for layer in range(4):
            tokens = numbered(1, cache.next_position)
            keys, _ = cache.extend(layer, tokens, tokens, "decode")
            weights = np.full((2, 2, keys.shape[1]), 1e-3, dtype=np.float32)
            weights[:, :, cache.layers[layer].positions == favourite] = 0.5
            before = cache.plans
            cache.observe(layer, weights)
            if cache.plans > before:
                planned.append((token, layer))
        cache.advance(1)
    return planned


def test_runs_move_keys_values_and_positions_together() -> None:
    held = LayerCache(2, 8, 20, half=True)
    held.append(numbered(20), numbered(20) + 100, 0)
    held.keep([(0, 3), (5, 10), (18, 2)])
    wanted = [0, 1, 2, *range(5, 15), 18, 19]
    assert held.positions.tolist() == wanted
    assert held.keys[1, :, 3].tolist() == wanted
    assert held.values[0, :, 0].tolist() == [token + 100 for token in wanted]
    with pytest.raises(UsageError, match="the cache is full"):
        held.append(numbered(6), numbered(6), 20)


@pytest.mark.parametrize(
    ("clock", "prompt", "decoded", "planned"),
    [
        # Six calls on from the last plan of any layer: calls 6, 12, 18 and 24; layer 0 is out of the range.
        ("shared", 60, 6, [(1, 1), (2, 3), (4, 1), (5, 3)]),
        # At call 18 layer 1 is down to 19 tokens: layer 2 plans at call 19, and the next plan is due at call 25.
        ("shared", 30, 6, [(1, 1), (2, 3), (4, 2)]),
        ("layer", 30, 13, [(5, 1), (5, 2), (5, 3), (11, 1), (11, 2), (11, 3)]),
        ("shared", 10, 9, []),  # below the trigger
    ],
)
def test_whose_turn_it_is(clock: Any, prompt: int, decoded: int, planned: list[tuple[int, int]]) -> None:
    """The shared clock counts the calls of all layers; that of a layer lets every layer plan."""
    cache = EvictingCache(HYPER, 80, policy=POLICY, clock=clock)
    assert feed(cache, prompt, decoded) == planned
    assert bool(cache.figures) == bool(planned)


def test_a_plan_is_applied_at_the_next_call_of_its_layer() -> None:
    plans = Plans()
    cache = EvictingCache(HYPER, 60, policy=POLICY, watchers=[plans])
    feed(cache, 30, 2)
    assert [held.length for held in cache.layers] == [32, 32, 32, 32]
    assert plans.applied == []
    cache.clear()
    feed(cache, 30, 3)
    # 32 tokens when it was planned: blocks 0, and 6 and 7 for the 8 recent ones, then one of three for 16 tokens:
    # block 3, where the attention went. One more token has come since.
    assert [held.length for held in cache.layers] == [33, 17, 33, 33]
    assert [(layer, plan.blocks) for layer, plan in plans.applied] == [(1, (0, 3, 6, 7))]
    assert cache.layers[1].positions.tolist() == [0, 1, 2, 3, *range(12, 16), *range(24, 33)]
    assert cache.layers[1].keys[0, :, 0].tolist() == cache.layers[1].positions.tolist()
    assert cache.evictions == 1


def test_what_is_counted() -> None:
    lines: list[str] = []
    cache = EvictingCache(HYPER, 60, policy=POLICY, log=lines.append)
    feed(cache, 30, 2)
    token_bytes = 2 * 2 * 8 * 2
    assert cache.figures.pop("h2o_evict_us") >= 0
    assert cache.figures == {
        "h2o_floor_keep": 12 / 32,
        "h2o_target_keep_effective": 16 / 32,
        "h2o_quantized_keep": 16 / 32,
        "h2o_keep": 0.5,
        "h2o_lossy": 32 * token_bytes / (16 * token_bytes + 8 * 3),
    }
    assert lines == ["[H2O] layer=1 kv=32 keep_ratio=0.5000 evict=16 lossy_ratio=1.9542"]
    assert (cache.full_bytes, cache.held_bytes) == (4 * 32 * token_bytes, 4 * 32 * token_bytes)


def test_a_floor_dominated_plan_leaves_keep_and_lossy_alone() -> None:
    cache = EvictingCache(HYPER, 60, policy=POLICY._replace(ratio=0.1))
    feed(cache, 30, 3)
    assert cache.figures["h2o_floor_keep"] == 13 / 33
    assert not {"h2o_keep", "h2o_lossy"} & cache.figures.keys()
    assert cache.evictions == 0


def test_scores_of_kept_blocks_move_with_them() -> None:
    """The favourite token is kept again and again, though its block changes its place."""
    cache = EvictingCache(HYPER, 100, policy=POLICY, clock="layer")
    feed(cache, 40, 40, favourite=21)
    assert cache.evictions >= 9
    for layer in (1, 2, 3):
        assert 21 in cache.layers[layer].positions


def test_another_ranking_chooses_other_blocks() -> None:
    """A subclass decides what is worth keeping: the most recent blocks."""

    class Recent(EvictingCache):
        def rank(self, layer: int) -> np.ndarray:
            return np.arange(len(self.scores[layer]), dtype=np.float64)

    cache = Recent(HYPER, 100, policy=POLICY, clock="layer")
    feed(cache, 40, 40, favourite=21)
    assert 21 not in cache.layers[1].positions


def test_under_eviction_the_model_sees_the_kept_tokens_at_their_positions(tmp_path: Path) -> None:
    """A cache cut by hand gives the same logits as one that was evicted."""
    model = Model(GgufFile(write_gguf(tmp_path / "model.gguf")))
    cache = EvictingCache(model.hyper, 60, half=False, policy=POLICY, clock="layer")
    by_hand = EvictingCache(model.hyper, 60, half=False)
    for one in (cache, by_hand):
        model.prefill(np.arange(40), one)
    for token in range(6):
        np.testing.assert_array_equal(model.decode(token, cache), model.decode(token, by_hand))
    for layer, plan in cache._pending.items():
        by_hand.layers[layer].keep(plan.runs)
    evicted = model.decode(7, cache)
    np.testing.assert_array_equal(evicted, model.decode(7, by_hand))
    assert cache.evictions == 3
    assert cache.full_bytes / cache.held_bytes > 1.4


def test_a_step_that_the_floor_dominates_is_told_once_and_logged_each_time() -> None:
    """Its row has keep of one step beside floor and plan of another: without this line it contradicts itself."""
    narrow = POLICY._replace(ratio=0.1, recent_tokens=16)
    told: dict[str, list[str]] = {"log": [], "tell": []}
    for name, lines in told.items():
        feed(EvictingCache(HYPER, 100, policy=narrow, **{name: lines.append}), 23, 30)
    (first,) = told["tell"]
    assert first == "[H2O] floor-keep dominates target: kv=25 target=3 floor=21 (sink=4 recent=16 block=4)"
    assert sum("floor-keep" in line for line in told["log"]) > 1
    assert first in told["log"]
