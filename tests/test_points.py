"""The points of a preset against the manifest that the original scripts recorded."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from pytest_h2o.errors import PresetError
from pytest_h2o.inputs.presets import Point, Preset, expand_points, load_preset, preset_from_flags

ROOT = Path(__file__).parents[1]
MANIFEST = ROOT / "fixtures/recordings/smollm2-135m/target_ratio_v3/manifest.json"


@pytest.fixture
def ratio_v3() -> Preset:
    return load_preset(ROOT / "fixtures/presets/target_ratio_v3.json")


def read_manifest() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(MANIFEST.read_text())
    for entry in entries:
        for outcome in ("config", "log", "return_code"):
            del entry[outcome]
    return entries


def test_points_are_those_of_the_recorded_manifest(ratio_v3: Preset) -> None:
    ours = [point.manifest_fields() for point in expand_points(ratio_v3)]
    recorded = read_manifest()
    assert ours == recorded
    # Types and order of keys too: 3 == 3.0 and dicts compare without order.
    assert json.dumps(ours) == json.dumps(recorded)


def test_point_carries_what_the_manifest_leaves_out(ratio_v3: Preset) -> None:
    points = expand_points(ratio_v3)
    assert [point.index for point in points] == list(range(1, 28))
    assert {(point.preset, point.repeat, point.h2o_log_stats) for point in points} == {("target_ratio_v3", 3, False)}


def test_first_dimension_varies_slowest() -> None:
    preset = preset_from_flags(
        prompts=[1, 2],
        gens=[3, 4],
        h2o_keep_ratios=[0.1, 0.2],
        h2o_block_tokens=[5, 6],
        h2o_sink_tokens=[7, 8],
        h2o_recent_tokens=[9, 10],
        h2o_ema_alphas=[0.3, 0.4],
        h2o_update_intervals=[11, 12],
        h2o_trigger_min_tokens=[13, 14],
        h2o_target_lossy_ratios=[3, 4],
    )
    points = expand_points(preset)
    assert len(points) == 2**10
    swept = [tuple(vars(point).values())[4:14] for point in points]
    assert swept[0] == (1, 3, 0.1, 5, 7, 9, 0.3, 11, 13, 3.0)
    assert swept == sorted(swept), "each dimension ascends, so the order of a product is sorted order"
    assert len(set(swept)) == len(swept)


def test_run_ids_print_floats_as_python_does() -> None:
    preset = preset_from_flags(h2o_keep_ratios=[1, 0.30000000000000004, 0.00001], h2o_target_lossy_ratios=[3])
    assert [point.run_id for point in expand_points(preset)] == [
        "run_0001_p512_g128_k1.0_b64_lr3.0",
        "run_0002_p512_g128_k0.30000000000000004_b64_lr3.0",
        "run_0003_p512_g128_k1e-05_b64_lr3.0",
    ]


def test_keys_of_later_engines_are_in_a_point_only_if_named() -> None:
    usual = expand_points(preset_from_flags())[0].lossless
    assert len(usual) == 15
    named = preset_from_flags(kv_lossless_runtime_mode="store", kv_lossless_store_bootstrap_tokens=0)
    assert dict(expand_points(named)[0].lossless) == {
        **usual,
        "kv_lossless_runtime_mode": "store",
        "kv_lossless_store_bootstrap_tokens": 0,
    }


def test_largest_grid_is_made_and_a_larger_one_is_refused_before_it_is_made() -> None:
    prompts = list(range(1, 1001))
    largest = preset_from_flags(prompts=prompts, gens=list(range(1, 101)))
    assert len(expand_points(largest)) == 100_000
    with pytest.raises(PresetError) as caught:
        preset_from_flags(prompts=prompts, gens=prompts, h2o_recent_tokens=prompts)
    assert str(caught.value) == (
        "1 fault in command line\n"
        "command line: prompts: a grid of 1,000,000,000 points (prompts 1000 x gens 1000 x h2o_recent_tokens 1000)\n"
        "  expected: at most 100,000 points"
    )


def test_point_survives_pickling_and_hashing(ratio_v3: Preset) -> None:
    point = expand_points(ratio_v3)[4]
    copy: Point = pickle.loads(pickle.dumps(point))
    assert copy == point
    assert hash(copy) == hash(point)
