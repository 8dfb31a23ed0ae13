"""The plan: against recorded rows of the engine, against its rules in plain words, and its edges."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h2o.reference.policy import choose_blocks, join_runs, plan_keep, update_scores

RECORDING = Path(__file__).parents[2] / "fixtures/recordings/smollm2-135m/target_ratio_v3"
COLUMNS = ("h2o_target_keep_effective", "h2o_floor_keep", "h2o_quantized_keep")
KV_LENS = (1287, 1927, 2567)
OTHER_FIRST_LENGTH = {(8, 3.0): 935, (16, 3.2): 919, (16, 3.4): 919}
"""Block and target lossy ratio of the rows whose first repeat ended its plans on an evicted cache."""


def recorded_rows() -> dict[tuple[int, float], tuple[str, ...]]:
    rows = {}
    for config_file in sorted((RECORDING / "configs").glob("run_000*.json")):
        config = json.loads(config_file.read_text("utf-8"))
        lines = (RECORDING / "logs" / f"{config_file.stem}.log").read_text("utf-8").splitlines()
        cells = [[cell.strip() for cell in line.split("|")] for line in lines]
        row = dict(zip(cells[0], cells[2], strict=True))
        key = (config["kv_h2o_block_tokens"], config["kv_h2o_target_lossy_ratio"])
        rows[key] = tuple(row[column] for column in COLUMNS)
    return rows


def planned_row(kv_lens: tuple[int, ...], block: int, lossy: float) -> tuple[str, ...]:
    plans = [plan_keep(n, block_tokens=block, sink_tokens=16, recent_tokens=64, ratio=1.0 / lossy) for n in kv_lens]
    columns = [[getattr(plan, name) for plan in plans] for name in ("target_keep", "floor_keep", "quantized_keep")]
    return tuple(f"{np.mean(column):.4f} ± {np.std(column, ddof=1):.4f}" for column in columns)


def test_the_recording_has_nine_distinct_rows() -> None:
    assert sorted(recorded_rows()) == [(b, r) for b in (8, 16, 32) for r in (3.0, 3.2, 3.4)]


@pytest.mark.parametrize(("block", "lossy"), [key for key in recorded_rows() if key not in OTHER_FIRST_LENGTH])
def test_six_recorded_rows_to_the_digit(block: int, lossy: float) -> None:
    assert planned_row(KV_LENS, block, lossy) == recorded_rows()[block, lossy]


@pytest.mark.parametrize(("block", "lossy"), OTHER_FIRST_LENGTH)
def test_the_other_three_rows_have_an_evicted_first_repeat(block: int, lossy: float) -> None:
    """Of all lengths at any one repeat, only this one gives the row: 1287 less a whole number of blocks."""
    recorded = recorded_rows()[block, lossy]
    assert planned_row(KV_LENS, block, lossy) != recorded
    fitting = [
        (repeat, kv_len)
        for repeat in range(3)
        for kv_len in range(384, KV_LENS[-1] + 1)
        if planned_row((*KV_LENS[:repeat], kv_len, *KV_LENS[repeat + 1 :]), block, lossy) == recorded
    ]
    assert fitting == [(0, OTHER_FIRST_LENGTH[block, lossy])]
    assert (KV_LENS[0] - fitting[0][1]) % block == 0


def test_the_engines_warnings_tell_of_the_evicted_cache() -> None:
    """The last warning before the first measured repeat ends (its cache had 1287 tokens)."""
    output = (RECORDING / "logs" / "run_0001_p512_g128_k0.28_b8_lr3.0.stdout.txt").read_text("utf-8").splitlines()
    end = output.index("Clamp invalid meta remove: remove=1287 > kv_len=640.")
    assert "pending_remove=1286 kv_len=934" in output[end - 1]


def count_plainly(kv_len: int, block: int, sink: int, recent: int, ratio: float) -> tuple[int, int, int]:
    """The rules token by token."""
    protected = sum(
        (token // block) * block < sink or token // block >= max(0, kv_len - recent) // block for token in range(kv_len)
    )
    target = max(1, protected, min(kv_len, math.ceil(ratio * kv_len)))
    quantized = protected
    while quantized < target:
        quantized += block
    return protected, target, min(kv_len, quantized)


@given(
    st.integers(1, 300), st.integers(1, 70), st.integers(0, 80), st.integers(0, 310), st.floats(0.01, 1.0), st.data()
)
@settings(max_examples=150, deadline=None)
def test_plans_follow_the_rules(
    kv_len: int, block: int, sink: int, recent: int, ratio: float, data: st.DataObject
) -> None:
    target = plan_keep(kv_len, block_tokens=block, sink_tokens=sink, recent_tokens=recent, ratio=ratio)
    counted = (target.protected_tokens, target.target_tokens, target.quantized_tokens)
    assert counted == count_plainly(kv_len, block, sink, recent, ratio)
    scores = np.array(data.draw(st.lists(st.floats(0, 1), min_size=-(-kv_len // block), max_size=-(-kv_len // block))))
    plan = choose_blocks(target, scores, block)
    if target.floor_dominated:
        assert plan.runs == ((0, kv_len),)
        return
    assert plan.kept_tokens >= target.target_tokens
    assert plan.kept_tokens <= target.quantized_tokens or plan.kept_tokens == kv_len
    taken = [b for b in plan.blocks if target.sink_blocks <= b < target.recent_block]
    left = [b for b in range(target.sink_blocks, target.recent_block) if b not in taken]
    assert not taken or not left or min(scores[taken]) >= max(scores[left])
    assert join_runs(plan.blocks, block, kv_len) == plan.runs
    assert all(a + n < b for (a, n), (b, _) in zip(plan.runs, plan.runs[1:], strict=False))


def test_best_blocks_are_kept_and_runs_joined() -> None:
    target = plan_keep(80, block_tokens=8, sink_tokens=4, recent_tokens=10, ratio=0.5)
    assert (target.sink_blocks, target.recent_block, target.protected_tokens) == (1, 8, 24)
    assert (target.target_tokens, target.quantized_tokens) == (40, 40)
    plan = choose_blocks(target, np.array([0, 0.1, 0.2, 0.9, 0.3, 0.3, 0, 0, 0, 0]), 8)
    assert plan.blocks == (0, 3, 4, 8, 9)
    assert plan.runs == ((0, 8), (24, 16), (64, 16))
    assert plan.lossy_ratio(100) == 8000 / (4000 + 24)


def test_a_met_floor_evicts_nothing() -> None:
    target = plan_keep(100, block_tokens=8, sink_tokens=16, recent_tokens=64, ratio=0.3)
    assert target.floor_dominated
    plan = choose_blocks(target, np.zeros(13), 8)
    assert plan.keep == 1.0


def test_scores_blend_and_follow_the_number_of_blocks() -> None:
    mass = np.array([0.1, 0.2, 0.3, 0.2, 0.2], dtype=np.float32)
    grown = update_scores(np.array([1.0, 1.0]), mass, 2, 0.9)
    np.testing.assert_allclose(grown, [0.9 + 0.03, 0.9 + 0.05, 0.02], rtol=1e-6)
    cut = update_scores(np.array([1.0, 1.0, 1.0, 1.0]), mass, 4, 0.5)
    np.testing.assert_allclose(cut, [0.5 + 0.4, 0.5 + 0.1], rtol=1e-6)
