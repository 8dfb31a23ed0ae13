"""The points of a sweep: one launch of the bench each, in a fixed order and with fixed ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SweepPoint:
    """One configuration of a sweep: every swept dimension at one value.

    Field names are those of the sweep manifest; `index` counts from 1 in product order. Token counts are in
    tokens, ratios are fractions (keep ratio) or raw over kept (lossy ratio).
    """

    preset: str
    index: int
    run_id: str
    repeat: int
    prompt_len: int
    gen_len: int
    keep_ratio: float
    block_tokens: int
    sink_tokens: int
    recent_tokens: int
    ema_alpha: float
    update_interval: int
    trigger_min_tokens: int
    h2o_target_lossy_ratio: float
    h2o_target_mode: str
    h2o_layer_start: int
    h2o_layer_end: int
    h2o_log_stats: bool
    lossless: Mapping[str, Any] = field(default_factory=dict)
    """The ``kv_lossless_*`` keys with their values, in the order of the manifest."""
