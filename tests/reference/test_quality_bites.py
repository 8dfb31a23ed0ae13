"""The quality figures tell a model that still works from one that does not, on a real model and held-out text.

Two launches on the embedded model, 2 windows of 256 predicted tokens each. Both rows pass a lossy target of 3.0. The
limit of 1 % is a fifth of all that a long context is worth to this model (see its card); over 8 windows the rise was
0.16 % with the settings of target_ratio_v3 and 1.86 % with a keep ratio of 0.05 in every layer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench_runs import ROOT, measure

LIMIT = 0.01
LOSSY_TARGET = 3.0
V3 = {
    "kv_h2o_target_lossy_ratio": 3.2,
    "kv_h2o_block_tokens": 16,
    "kv_h2o_sink_tokens": 16,
    "kv_h2o_recent_tokens": 64,
    "kv_h2o_trigger_min_tokens": 384,
}
TOO_FEW = {
    "kv_h2o_target_mode": "static",
    "kv_h2o_target_keep_ratio": 0.05,
    "kv_h2o_block_tokens": 4,
    "kv_h2o_sink_tokens": 4,
    "kv_h2o_recent_tokens": 8,
    "kv_h2o_trigger_min_tokens": 32,
    "kv_h2o_layer_start": 0,
}


@pytest.mark.parametrize(("keys", "holds"), [(V3, True), (TOO_FEW, False)])
def test_a_limit_of_one_percent_tells_them_apart(keys: dict[str, Any], holds: bool, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    values = {
        "llm_model": str(ROOT / "fixtures/models/austen-5m.gguf"),
        "kv_h2o_enable": True,
        "quality_text_file": str(ROOT / "fixtures/text/heldout.txt"),
        "quality_windows": 2,
        "quality_greedy_tokens": 8,
        **keys,
    }
    config.write_text(json.dumps(values), "utf-8")
    row = measure(tmp_path, config, "-p", 512, "-n", 24)
    assert row["h2o_lossy_ratio"] >= LOSSY_TARGET
    assert row["quality_evictions"] >= 2 * 4
    assert row["quality_cache_ratio"] > 1.5
    assert (abs(row["quality_ppl_rise"]) < LIMIT) == holds
    assert (row["quality_top1_agreement"] > 0.95) == holds
