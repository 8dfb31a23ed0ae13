"""Launches of the bench on synthetic models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from synthetic_model import SyntheticShape, write_gguf

ROOT = Path(__file__).parents[2]

SMALL_H2O = {
    "kv_h2o_enable": True,
    "kv_h2o_layer_start": 1,
    "kv_h2o_block_tokens": 4,
    "kv_h2o_sink_tokens": 4,
    "kv_h2o_recent_tokens": 12,
    "kv_h2o_update_interval": 4,
    "kv_h2o_trigger_min_tokens": 32,
}
SMALL_LOSSLESS = {
    "kv_lossless_enable": True,
    "kv_lossless_codec": "gear_delta",
    "kv_lossless_runtime_enable": True,
    "kv_lossless_runtime_mode": "full",
    "kv_lossless_front_n": 1,
    "kv_lossless_block_tokens": 16,
    "kv_lossless_hot_recent_tokens": 12,
    "kv_lossless_hot_sink_tokens": 4,
    "kv_lossless_strict_roundtrip_check": True,
}


def write_config(folder: Path, shape: SyntheticShape | None = None, **values: Any) -> Path:
    """A model and its config in `folder`."""
    write_gguf(folder / "tiny.gguf", shape)
    path = folder / "config.json"
    path.write_text(json.dumps({"llm_model": "tiny.gguf", **values}), "utf-8")
    return path


def launch(
    *argv: str | Path,
    environment: dict[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 120,
) -> subprocess.CompletedProcess[str]:
    """The bench in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "pytest_h2o.reference", *map(str, argv)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=cwd,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
    )
