"""Does a recorded run have the configuration of its point: its config and its manifest entry, compared.

A recording may lack its manifest, its configs, or fields of either. What is there must agree with the point; what is
not there is said, so that nobody takes an unverified row for a verified one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_h2o.bench.config import point_keys
from pytest_h2o.bench.folding import INERT_FIELDS
from pytest_h2o.points import SweepPoint

_KEY_OF_FIELD: Mapping[str, str] = {
    "keep_ratio": "kv_h2o_target_keep_ratio",
    "h2o_layer_start": "kv_h2o_layer_start",
    "h2o_layer_end": "kv_h2o_layer_end",
    "h2o_target_mode": "kv_h2o_target_mode",
    "h2o_target_lossy_ratio": "kv_h2o_target_lossy_ratio",
    **{
        name: f"kv_h2o_{name}"
        for name in (
            "block_tokens",
            "sink_tokens",
            "recent_tokens",
            "ema_alpha",
            "update_interval",
            "trigger_min_tokens",
        )
    },
}
"""Field of a manifest -> the config key that says the same; lossless keys have one name in both."""

_IN_THE_ROW = ("run_id", "prompt_len", "gen_len")
"""Fields that the row or its name itself shows."""


def read_recorded_config(path: Path | None) -> Mapping[str, Any] | None:
    """Read the config of a recorded run; None if there is none that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path is not None else None
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def config_differences(config: Mapping[str, Any], point: SweepPoint, *, shared: bool) -> list[str]:
    """Name the H2O and lossless keys in which a config is another configuration than a point; keys it lacks are none.

    Parameters
    ----------
    config : mapping
        What the run read.
    point : SweepPoint
        What it should have run.
    shared : bool
        The config is that of the run which the point shares: the key that its target mode does not read may differ.
    """
    passed_over = _KEY_OF_FIELD.get(INERT_FIELDS.get(point.h2o_target_mode, "")) if shared else None
    return [
        f"{key} {config[key]!r}, not {value!r}"
        for key, value in point_keys(point).items()
        if key in config and key != passed_over and config[key] != value
    ]


def unverified_note(config: Mapping[str, Any] | None, listed: Collection[str], point: SweepPoint) -> str | None:
    """Say which settings of a point neither the config nor the manifest entry of its run has; None if all are there.

    Parameters
    ----------
    config : mapping or None
        What the run read, where that is there.
    listed : collection of str
        Fields of its manifest entry; empty without one.
    point : SweepPoint
        What it should have run.
    """
    missing = [
        name
        for name in point.manifest_fields()
        if name not in _IN_THE_ROW and name not in listed and _KEY_OF_FIELD.get(name, name) not in (config or {})
    ]
    if not missing:
        return None
    return f"configuration not verified: {_describe_files(config, listed)} {_join(missing)}"


def _describe_files(config: Mapping[str, Any] | None, listed: Collection[str]) -> str:
    if config is None:
        return "no config that can be read, and the manifest does not say" if listed else "neither config nor manifest:"
    return "neither its config nor its manifest entry says" if listed else "no manifest, and its config does not say"


def _join(names: Sequence[str], most: int = 4) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
