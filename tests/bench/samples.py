"""Recorded input that the tests of the bench share."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pytest_h2o.inputs.presets import Point

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
RECORDINGS = FIXTURES / "recordings"
SWEEP = RECORDINGS / "smollm2-135m" / "target_ratio_v3"
OTHER = RECORDINGS / "other"
FAKE_BENCH = Path(__file__).resolve().parents[1] / "fake_llm_bench.py"
COMMAND = (sys.executable, str(FAKE_BENCH))


def recorded_points() -> tuple[Point, ...]:
    """The 27 points of the recorded sweep, from its own manifest."""
    entries = json.loads((SWEEP / "manifest.json").read_text(encoding="utf-8"))
    return tuple(_point(index, entry) for index, entry in enumerate(entries, 1))


def _point(index: int, entry: dict[str, object]) -> Point:
    own = {key: value for key, value in entry.items() if key not in {"config", "log", "return_code"}}
    lossless = {key: own.pop(key) for key in list(own) if key.startswith("kv_lossless_")}
    return Point(preset="target_ratio_v3", index=index, repeat=3, h2o_log_stats=False, lossless=lossless, **own)  # type: ignore[arg-type]
