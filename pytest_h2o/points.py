"""The points of a sweep: one launch of the bench each, in a fixed order and with fixed ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_h2o.presets import Preset

LLM_BENCH = "llm_bench"
"""The bench that the swept H2O keys are for; others are named by their adapters."""

MAX_POINTS = 100_000
"""The largest grid of one preset. A preset above it is refused when it is checked, before any point is made."""

_MANIFEST_FIELDS = (
    "run_id",
    "prompt_len",
    "gen_len",
    "keep_ratio",
    "block_tokens",
    "sink_tokens",
    "recent_tokens",
    "ema_alpha",
    "update_interval",
    "trigger_min_tokens",
    "h2o_layer_start",
    "h2o_layer_end",
    "h2o_target_mode",
    "h2o_target_lossy_ratio",
)


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
    lossless: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The ``kv_lossless_*`` keys with their values, in the order of the manifest."""
    bench: str = LLM_BENCH
    """Name of the adapter of its bench."""
    bench_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Settings of a bench other than llm_bench, as the preset has them; what H2O is told then means nothing."""
    compressed: bool = True
    """False: the same run with nothing compressed, which is a baseline."""

    def manifest_fields(self) -> dict[str, Any]:
        """What ``manifest.json`` of a run folder says of this point, keys in the order of the original scripts.

        Files and outcome (``config``, ``log``, ``return_code``) come after these and are not known here. Of a bench
        other than llm_bench: the run id, the lengths, the bench and its own settings.
        """
        if self.bench != LLM_BENCH:
            named = {name: getattr(self, name) for name in ("run_id", "prompt_len", "gen_len", "bench")}
            return named | dict(self.bench_options)
        return {name: getattr(self, name) for name in _MANIFEST_FIELDS} | dict(self.lossless)


def expand_points(preset: Preset) -> tuple[SweepPoint, ...]:
    """Give every point of the grid of `preset`, in the order of the original scripts.

    The first dimension varies slowest: prompts, gens, keep ratio, block, sink, recent, EMA alpha, update
    interval, trigger, target lossy ratio. The run id is ``run_{index:04d}_p{prompt}_g{gen}_k{keep}_b{block}_lr{lossy}``
    with floats as Python prints them (``k1.0``, ``lr3.0``); of a bench other than llm_bench it ends with the lengths.

    All points of a preset share one mapping of ``kv_lossless_*`` values; it is not to be changed.
    """
    lossless = preset.lossless_settings()
    grid = product(
        preset.prompts,
        preset.gens,
        preset.h2o_keep_ratios,
        preset.h2o_block_tokens,
        preset.h2o_sink_tokens,
        preset.h2o_recent_tokens,
        preset.h2o_ema_alphas,
        preset.h2o_update_intervals,
        preset.h2o_trigger_min_tokens,
        preset.h2o_target_lossy_ratios,
    )
    same = (preset.h2o_target_mode, preset.h2o_layer_start, preset.h2o_layer_end, preset.h2o_log_stats, lossless)
    name, repeat, own = preset.name, preset.repeat, preset.bench == LLM_BENCH
    return tuple(
        SweepPoint(
            name,
            index,
            f"run_{index:04d}_p{v[0]}_g{v[1]}" + (f"_k{v[2]}_b{v[3]}_lr{v[9]}" if own else ""),
            repeat,
            *v,
            *same,
            bench=preset.bench,
            bench_options=preset.bench_options,
        )
        for index, v in enumerate(grid, start=1)
    )
