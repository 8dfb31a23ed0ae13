"""Which shipped presets can meet a lossy target of 3 on the embedded model, known before anything is run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h2o.inputs.presets import Point, expand_points, load_presets
from pytest_h2o.reference.policy import Counts, KeepCounts, best_lossy, choose_blocks, count_kept, plan_keep

PRESETS = {preset.name: preset for preset in load_presets([Path(__file__).parents[2] / "gates" / "presets"])}
TOKEN_BYTES = 512
CONTEXT = 2048


def best(points: Iterable[Point], context: int = CONTEXT) -> float:
    return best_lossy(points, token_bytes=TOKEN_BYTES, context=context)


@pytest.mark.parametrize(
    ("name", "reaches"),
    [
        ("smoke", True),
        ("target_ratio_v3", True),
        ("target_speed_v3", True),
        ("target_ratio", False),
        ("target_speed", False),
    ],
)
def test_shipped_presets(name: str, reaches: bool) -> None:
    assert (best(expand_points(PRESETS[name])) >= 3.0) == reaches


def test_a_static_keep_ratio_bounds_the_ratio() -> None:
    """Keeping 0.35 of the tokens is 2.857 before whole blocks and the bookkeeping take their part."""
    assert 2.7 < best(expand_points(PRESETS["target_speed"])) < 1 / 0.35


def test_nothing_evicts_below_the_trigger() -> None:
    point = replace(expand_points(PRESETS["smoke"])[0], trigger_min_tokens=1000)
    assert best([point]) == 1.0
    assert best([]) == 1.0


@given(
    block=st.integers(1, 40),
    sink=st.integers(0, 40),
    recent=st.integers(0, 100),
    lossy=st.floats(1.0, 6.0),
    length=st.integers(0, 60),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_no_plan_comes_out_above_it(block: int, sink: int, recent: int, lossy: float, length: int, seed: int) -> None:
    point: Point = replace(
        expand_points(PRESETS["smoke"])[0],
        block_tokens=block,
        sink_tokens=sink,
        recent_tokens=recent,
        h2o_target_lossy_ratio=lossy,
        prompt_len=200,
        gen_len=60,
        trigger_min_tokens=200,
    )
    most = best([point])
    kv_len = 200 + length
    target = plan_keep(kv_len, block_tokens=block, sink_tokens=sink, recent_tokens=recent, ratio=1 / lossy)
    scores = np.random.default_rng(seed).random(math.ceil(kv_len / block))
    assert target.floor_dominated or choose_blocks(target, scores, block).lossy_ratio(TOKEN_BYTES) <= most


def test_no_cache_is_longer_than_the_context() -> None:
    """A prompt of a million million tokens costs nothing, and gives the bound of the longest cache there is."""
    point = expand_points(PRESETS["smoke"])[0]
    endless = replace(point, prompt_len=10**12)
    assert best([endless]) == best([replace(point, prompt_len=CONTEXT)])
    assert best([endless], context=100) == 1.0


def test_points_of_one_policy_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def count(lengths: Counts, **policy: Any) -> KeepCounts:
        looked.append(len(lengths))
        return count_kept(lengths, **policy)

    monkeypatch.setattr("pytest_h2o.reference.policy.count_kept", count)
    point = replace(expand_points(PRESETS["smoke"])[0], trigger_min_tokens=1, prompt_len=512)
    sweep = [replace(point, gen_len=gen_len) for gen_len in range(1, 10_001)]
    assert best(sweep) == max(best([one]) for one in (sweep[0], sweep[700], sweep[-1]))
    assert looked == [CONTEXT, 513, 512 + 701, CONTEXT]


@given(
    block=st.integers(1, 70),
    sink=st.integers(0, 90),
    recent=st.integers(0, 200),
    ratio=st.floats(0.01, 1.0),
    n=st.integers(1, 3000),
)
def test_the_counts_are_those_of_the_rule(block: int, sink: int, recent: int, ratio: float, n: int) -> None:
    """Token by token: which are protected, and how many whole blocks the target still needs."""
    protected_blocks = {token // block for token in range(min(sink, n))}
    protected_blocks |= set(range(max(0, n - recent) // block, math.ceil(n / block)))
    protected = sum(1 for token in range(n) if token // block in protected_blocks)
    target = max(1, protected, math.ceil(ratio * n))
    kept = min(n, protected + math.ceil((target - protected) / block) * block)
    plan = plan_keep(n, block_tokens=block, sink_tokens=sink, recent_tokens=recent, ratio=ratio)
    assert (plan.protected_tokens, plan.target_tokens, plan.quantized_tokens) == (protected, target, kept)
    assert all(isinstance(value, int) for value in asdict(plan).values())
