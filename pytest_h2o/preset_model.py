"""What a preset says: the keys of its file, their defaults, types and ranges.

Keys and defaults are those of the original sweep scripts, so that their JSON presets load unchanged; `targets`,
`base_config`, `prompt_file`, `model_layers`, `timeout_s` and `description` are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator, model_validator
from pydantic_core.core_schema import ValidationInfo

from pytest_h2o.points import LLM_BENCH, MAX_POINTS
from pytest_h2o.schema.field_types import (
    Above0,
    AtLeast0,
    BenchOptions,
    Count,
    FilePath,
    Flag,
    Fraction,
    Given,
    LayerEnd,
    LossyRatio,
    NamedNumbers,
    OneLine,
    PairCount,
    PlainName,
    PlainNames,
    Positive,
    SweptCount,
    SweptFraction,
    SweptKeepRatio,
    SweptLossyRatio,
    SweptPositive,
    Trouble,
    fault_error,
)

SWEPT_KEYS = (
    "prompts",
    "gens",
    "h2o_keep_ratios",
    "h2o_block_tokens",
    "h2o_sink_tokens",
    "h2o_recent_tokens",
    "h2o_ema_alphas",
    "h2o_update_intervals",
    "h2o_trigger_min_tokens",
    "h2o_target_lossy_ratios",
)
"""The dimensions of the grid, the first one varying slowest."""

_LOSSLESS_KEYS = (
    "kv_lossless_enable",
    "kv_lossless_scope",
    "kv_lossless_front_n",
    "kv_lossless_codec",
    "kv_lossless_runtime_enable",
    "kv_lossless_block_tokens",
    "kv_lossless_hot_recent_tokens",
    "kv_lossless_hot_sink_tokens",
    "kv_lossless_codec_runtime",
    "kv_lossless_predictors_k",
    "kv_lossless_predictors_v",
    "kv_lossless_async_threads",
    "kv_lossless_max_queue",
    "kv_lossless_decode_cache_blocks",
    "kv_lossless_strict_roundtrip_check",
)
_LOSSLESS_KEYS_IF_NAMED = (
    "kv_lossless_runtime_mode",
    "kv_lossless_kept_sample_layers",
    "kv_lossless_kept_sample_token_interval",
    "kv_lossless_front_sample_token_interval",
    "kv_lossless_store_disable_front",
    "kv_lossless_store_bootstrap_tokens",
    "kv_lossless_store_grouped_step_tokens",
)


def _check_baseline(value: Any) -> Any:
    if isinstance(value, str) and value in ("paired", "none"):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e300:
        return float(value)
    raise fault_error(Trouble("not a decode baseline", _BASELINE_TEXT))


_BASELINE_TEXT = "paired, none, or decode speed in tok/s, a number above 0"
_BASELINE_SCHEMA = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"enum": ["paired", "none"]}]}
Baseline = Annotated[
    float | Literal["paired", "none"], BeforeValidator(_check_baseline), WithJsonSchema(_BASELINE_SCHEMA)
]


class Targets(BaseModel):
    """What a preset asks for; a key that is left out is left to the options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lossy: Annotated[LossyRatio | None, Given] = Field(default=None, description="least raw over kept bytes")
    lossless: Annotated[Above0 | None, Given] = Field(default=None, description="least raw over coded bytes")
    decode_drop: Annotated[Fraction | None, Given] = Field(
        default=None, description="largest fraction of decode speed that may be lost against the baseline"
    )
    decode_baseline: Annotated[Baseline | None, Given] = Field(
        default=None, description="paired (H2O off, measured beside), a speed in tok/s, or none (decode is not judged)"
    )
    decode_pairs: Annotated[PairCount | None, Given] = Field(
        default=None, description="most pairs of launches for the paired decode verdict; alone it sets no time limit"
    )
    decode_time_s: Annotated[Above0 | None, Given] = Field(
        default=None, description="longest time of all launches for the paired decode verdict, seconds"
    )
    quality: Annotated[AtLeast0 | None, Given] = Field(
        default=None, description="largest rise of perplexity under eviction, as a fraction of the full cache's"
    )
    similarity: Annotated[Fraction | None, Given] = Field(
        default=None,
        description="least similarity of what llm_demo says with eviction on and off, 0 to 1",
    )
    metrics: NamedNumbers = Field(
        default={}, validate_default=True, description="targets of metrics that a plugin adds, by name"
    )


class PresetKeys(BaseModel):
    """The keys of a preset file. Ten of them, the swept ones, take one value or a list; the rest one value."""

    # pydantic keeps names that begin with model_ for itself, which model_layers does.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    description: Annotated[OneLine | None, Given] = Field(default=None, description="one line for reports")
    prompts: SweptPositive = Field(default=(512,), description="prompt lengths, tokens")
    gens: SweptPositive = Field(default=(128,), description="tokens to generate")
    repeat: Positive = Field(default=3, description="measured repeats a launch; one more is thrown away")
    h2o_keep_ratios: SweptKeepRatio = Field(default=(0.5,), description="fraction kept; read in static mode only")
    h2o_block_tokens: SweptPositive = Field(default=(64,), description="tokens that are kept or evicted together")
    h2o_sink_tokens: SweptCount = Field(default=(32,), description="first tokens, always kept")
    h2o_recent_tokens: SweptCount = Field(default=(256,), description="last tokens, always kept")
    h2o_ema_alphas: SweptFraction = Field(default=(0.9,), description="weight of the past in the attention score")
    h2o_update_intervals: SweptPositive = Field(default=(16,), description="attention-layer calls between two plans")
    h2o_trigger_min_tokens: SweptCount = Field(default=(512,), description="no eviction in a shorter cache")
    h2o_layer_start: Count = Field(default=2, description="first layer with eviction")
    h2o_layer_end: LayerEnd = Field(default=-1, description="last layer with eviction; -1: the last of the model")
    h2o_target_mode: Literal["adaptive", "static"] = Field(
        default="adaptive", description="adaptive aims at the target lossy ratio, static at the keep ratio"
    )
    h2o_target_lossy_ratio: Annotated[LossyRatio | None, Given] = Field(
        default=None, description="one target, for presets without h2o_target_lossy_ratios"
    )
    h2o_target_lossy_ratios: SweptLossyRatio = Field(
        default=(3.0,), validate_default=True, description="raw over kept bytes to aim at; read in adaptive mode only"
    )
    h2o_log_stats: Flag = Field(default=False, description="print one line a plan and layer")

    kv_lossless_enable: Flag = Field(default=False, description="lossless coding of cold tokens in the engine")
    kv_lossless_scope: Literal["none", "front_n", "h2o_kept", "front_n_and_h2o_kept"] = Field(
        default="front_n", description="layers that are coded"
    )
    kv_lossless_front_n: Count = Field(default=2, description="first layers, for the scopes of front_n")
    kv_lossless_codec: Literal["none", "gear_delta"] = "none"
    kv_lossless_runtime_enable: Flag = Field(default=False, description="measure ratios while running")
    kv_lossless_block_tokens: Positive = Field(default=128, description="tokens that are coded together")
    kv_lossless_hot_recent_tokens: Count = Field(default=256, description="last tokens, not coded")
    kv_lossless_hot_sink_tokens: Count = Field(default=16, description="first tokens, not coded")
    kv_lossless_codec_runtime: PlainName = "fp16_gear_predictive_v3"
    kv_lossless_predictors_k: PlainNames = Field(
        default="raw,delta_seq,xor_seq,pair_delta",
        description="names; the engine skips unknown ones",
    )
    kv_lossless_predictors_v: PlainNames = "raw,delta_seq,xor_seq"
    kv_lossless_async_threads: Count = 1
    kv_lossless_max_queue: Count = 256
    kv_lossless_decode_cache_blocks: Count = 64
    kv_lossless_strict_roundtrip_check: Flag = False

    kv_lossless_runtime_mode: Annotated[Literal["probe", "full", "store"] | None, Given] = Field(
        default=None, description="written to the config only if named, as are the keys below"
    )
    kv_lossless_kept_sample_layers: Annotated[Count | None, Given] = None
    kv_lossless_kept_sample_token_interval: Annotated[Count | None, Given] = None
    kv_lossless_front_sample_token_interval: Annotated[Count | None, Given] = None
    kv_lossless_store_disable_front: Annotated[Flag | None, Given] = None
    kv_lossless_store_bootstrap_tokens: Annotated[Count | None, Given] = None
    kv_lossless_store_grouped_step_tokens: Annotated[Count | None, Given] = None

    bench: PlainName = Field(default=LLM_BENCH, description="the bench of this preset, by the name of its adapter")
    bench_options: BenchOptions = Field(
        default={}, validate_default=True, description="settings of a bench other than llm_bench, one value each"
    )
    targets: Targets = Targets()
    base_config: Annotated[FilePath | None, Given] = Field(
        default=None, description="the model's llm_bench config, relative to this file"
    )
    prompt_file: Annotated[FilePath | None, Given] = Field(
        default=None, description="text of the prompt, relative to this file"
    )
    model_layers: Annotated[Positive | None, Given] = Field(
        default=None, description="layers of the model, for the ratio over the whole cache"
    )
    timeout_s: Annotated[Above0 | None, Given] = Field(default=None, description="longest time of one launch, seconds")

    @field_validator("h2o_target_lossy_ratios", mode="before")
    @classmethod
    def _take_single_ratio(cls, value: Any, info: ValidationInfo) -> Any:
        single = info.data.get("h2o_target_lossy_ratio")
        is_default = value is cls.model_fields["h2o_target_lossy_ratios"].default
        return (single,) if is_default and single is not None else value

    @model_validator(mode="after")
    def _check_together(self) -> PresetKeys:
        if troubles := tuple(self._troubles()):
            raise fault_error(*troubles)
        return self

    def _troubles(self) -> Iterator[Trouble]:
        start, end, layers = self.h2o_layer_start, self.h2o_layer_end, self.model_layers
        if -1 < end < start:
            yield Trouble("empty range of layers", f"-1, or at least h2o_layer_start ({start})", ("h2o_layer_end",))
        if layers is not None and start >= layers:
            expected = f"below model_layers ({layers})"
            yield Trouble(f"layer {start} is not in the model", expected, ("h2o_layer_start",))
        if layers is not None and end >= layers:
            yield Trouble(f"layer {end} is not in the model", f"below model_layers ({layers})", ("h2o_layer_end",))
        single = self.h2o_target_lossy_ratio
        if single is not None and single not in self.h2o_target_lossy_ratios:
            expected = "only h2o_target_lossy_ratios, which is what is run where both are given"
            yield Trouble(f"{single} is not among h2o_target_lossy_ratios", expected, ("h2o_target_lossy_ratio",))
        if self.bench == LLM_BENCH and self.bench_options:
            yield Trouble("settings of another bench", f"no bench_options for {LLM_BENCH}", ("bench_options",))
        for key in sorted(self.model_fields_set) if self.bench != LLM_BENCH else ():
            if key.startswith(("h2o_", "kv_lossless_")):
                yield Trouble(f"a key of {LLM_BENCH}", f"only settings under bench_options for {self.bench}", (key,))
        if (count := self.count_points()) > MAX_POINTS:
            sizes = " x ".join(f"{key} {len(getattr(self, key))}" for key in SWEPT_KEYS if len(getattr(self, key)) > 1)
            longest = max(SWEPT_KEYS, key=lambda key: len(getattr(self, key)))
            yield Trouble(f"a grid of {count:,} points ({sizes})", f"at most {MAX_POINTS:,} points", (longest,))

    def count_points(self) -> int:
        """Number of points of the grid."""
        return math.prod(len(getattr(self, key)) for key in SWEPT_KEYS)

    def lossless_settings(self) -> dict[str, Any]:
        """The ``kv_lossless_*`` keys of a run: the usual ones always, those of later engines if named."""
        named = tuple(key for key in _LOSSLESS_KEYS_IF_NAMED if getattr(self, key) is not None)
        return {key: getattr(self, key) for key in _LOSSLESS_KEYS + named}
