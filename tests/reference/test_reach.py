"""Which shipped presets can meet a lossy target of 3 on the embedded model, known before anything is run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h2o.points import SweepPoint, expand_points
from pytest_h2o.presets import load_presets
from pytest_h2o.reference.policy import choose_blocks, plan_keep
from pytest_h2o.reference.reach import best_lossy

PRESETS = {preset.name: preset for preset in load_presets([Path(__file__).parents[2] / "gates" / "presets"])}
TOKEN_BYTES = 512


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
    assert (best_lossy(expand_points(PRESETS[name]), TOKEN_BYTES) >= 3.0) == reaches


def test_a_static_keep_ratio_bounds_the_ratio() -> None:
    """Keeping 0.35 of the tokens is 2.857 before whole blocks and the bookkeeping take their part."""
    best = best_lossy(expand_points(PRESETS["target_speed"]), TOKEN_BYTES)
    assert 2.7 < best < 1 / 0.35


def test_nothing_evicts_below_the_trigger() -> None:
    point = replace(expand_points(PRESETS["smoke"])[0], trigger_min_tokens=1000)
    assert best_lossy([point], TOKEN_BYTES) == 1.0
    assert best_lossy([], TOKEN_BYTES) == 1.0


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
    point: SweepPoint = replace(
        expand_points(PRESETS["smoke"])[0],
        block_tokens=block,
        sink_tokens=sink,
        recent_tokens=recent,
        h2o_target_lossy_ratio=lossy,
        prompt_len=200,
        gen_len=60,
        trigger_min_tokens=200,
    )
    best = best_lossy([point], TOKEN_BYTES)
    kv_len = 200 + length
    target = plan_keep(kv_len, block_tokens=block, sink_tokens=sink, recent_tokens=recent, ratio=1 / lossy)
    scores = np.random.default_rng(seed).random(math.ceil(kv_len / block))
    assert target.floor_dominated or choose_blocks(target, scores, block).lossy_ratio(TOKEN_BYTES) <= best
