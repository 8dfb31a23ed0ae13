"""Recorded input that the tests of the bench share."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_h2o.errors import TableError
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


SWEPT = {
    "prompt_len": "prompts",
    "gen_len": "gens",
    "keep_ratio": "h2o_keep_ratios",
    "block_tokens": "h2o_block_tokens",
    "sink_tokens": "h2o_sink_tokens",
    "recent_tokens": "h2o_recent_tokens",
    "ema_alpha": "h2o_ema_alphas",
    "update_interval": "h2o_update_intervals",
    "trigger_min_tokens": "h2o_trigger_min_tokens",
    "h2o_target_lossy_ratio": "h2o_target_lossy_ratios",
}
"""Fields of a manifest that a preset sweeps, and its keys."""


def preset_of(recording: Path) -> dict[str, Any]:
    """The preset of a run folder of the original scripts: what its manifest says, and three repeats."""
    entries = json.loads((recording / "manifest.json").read_text("utf-8"))
    config = next((recording / "configs").iterdir()).read_text("utf-8")
    preset: dict[str, Any] = {"repeat": 3, "h2o_log_stats": json.loads(config)["kv_h2o_log_stats"]}
    for field, value in entries[0].items():
        if field in SWEPT:
            preset[SWEPT[field]] = list(dict.fromkeys(entry[field] for entry in entries))
        elif field.startswith(("kv_lossless_", "h2o_")):
            preset[field] = value
    return preset


def refusal(call: Callable[[], object]) -> str:
    """The whole text of the error of a parser."""
    with pytest.raises(TableError) as caught:
        call()
    return str(caught.value).replace(str(FIXTURES), "FIXTURES")
