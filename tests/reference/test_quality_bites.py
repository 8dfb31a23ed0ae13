"""The quality figures tell a model that still works from one that does not, on a real model and held-out text.

Two launches on the embedded model, 4 windows of 256 predicted tokens each. Both rows pass a lossy target of 3.0. The
limit of 1 % is a fifth of all that a long context is worth to this model (see its card); over 8 windows the rise was
0.16 % with the settings of target_ratio_v3 and 1.86 % with a keep ratio of 0.05 in every layer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench_runs import ROOT, launch

LIMIT = 0.01
LOSSY_TARGET = 3.0
V3 = {
    "kv_h2o_target_mode": "adaptive",
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


def measured(folder: Path, keys: dict[str, Any]) -> dict[str, Any]:
    config, result = folder / "config.json", folder / "out.json"
    values = {
        "llm_model": str(ROOT / "fixtures/models/austen-5m.gguf"),
        "kv_h2o_enable": True,
        "quality_text_file": str(ROOT / "fixtures/text/heldout.txt"),
        "quality_windows": 4,
        "quality_greedy_tokens": 32,
        **keys,
    }
    config.write_text(json.dumps(values), "utf-8")
    argv = ("-m", config, "-t", 1, "-p", 512, "-n", 64, "-rep", 1, "-kv", "true", "-fp", folder / "log", "-j", result)
    done = launch(*map(str, argv), timeout_s=900)
    assert (done.returncode, done.stderr) == (0, "")
    row: dict[str, Any] = json.loads(result.read_text("utf-8"))["results"][0]
    return row


def test_the_settings_of_target_ratio_v3_hold(tmp_path: Path) -> None:
    row = measured(tmp_path, V3)
    assert row["h2o_lossy_ratio"] >= LOSSY_TARGET
    assert row["quality_evictions"] >= 4 * 4
    assert row["quality_cache_ratio"] > 1.5
    assert abs(row["quality_ppl_rise"]) < LIMIT
    assert row["quality_top1_agreement"] > 0.95


def test_a_keep_ratio_of_a_twentieth_fails_though_its_lossy_ratio_passes(tmp_path: Path) -> None:
    row = measured(tmp_path, TOO_FEW)
    assert row["h2o_lossy_ratio"] >= LOSSY_TARGET
    assert row["quality_ppl_rise"] > LIMIT
    assert row["quality_top1_agreement"] < 0.95
    assert row["quality_greedy_equal"] < 1.0
