"""Which target holds: the command line before the preset or scope, those before the ini file, that before default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_h2o.bench.embedded import is_embedded
from pytest_h2o.bench.llm_bench import get_adapter
from pytest_h2o.errors import UsageError
from pytest_h2o.gate.metrics import ROW_METRICS, RowMetric, require_metric
from pytest_h2o.gate.rule import Thresholds
from pytest_h2o.gate.values import Target
from pytest_h2o.inputs.checking import LLM_BENCH
from pytest_h2o.inputs.options import DEFAULT_TARGETS, Settings

if TYPE_CHECKING:
    from pytest_h2o.inputs.presets import Preset
    from pytest_h2o.inputs.scopes import Scope


_OPTION = {
    "lossy": "lossy-target",
    "lossless": "lossless-target",
    "decode_drop": "decode-drop-target",
    "quality": "quality-target",
}

_METRIC = {
    "lossy": "h2o_lossy",
    "lossless": "lossless_ratio",
    "decode_drop": "decode_drop",
    "quality": "quality_ppl_rise",
}


def choose_target(settings: Settings, kind: str, own: float | None, own_origin: str) -> Target:
    """The target of one kind: ``lossy``, ``lossless``, ``decode_drop`` or ``quality``."""
    given = settings.given[_OPTION[kind]]
    if given.on_command_line:
        return Target(_METRIC[kind], given.value, given.origin)
    if own is not None:
        return Target(_METRIC[kind], own, own_origin)
    if given.value is not None:
        return Target(_METRIC[kind], given.value, given.origin)
    return Target(_METRIC[kind], DEFAULT_TARGETS[kind], "default")


def preset_targets(settings: Settings, preset: Preset, deciding: Scope | None) -> Targets:
    """The targets of a preset; its lossless target is that of the deciding scope unless the preset says another."""
    origin = f"targets of preset {preset.name}"
    own = preset.targets
    lossless = choose_target(settings, "lossless", own.lossless, origin)
    if own.lossless is None and preset.bench != LLM_BENCH:
        lossless = Target("lossless_ratio", None, f"the dumps are none of {preset.bench}")
    elif own.lossless is None and deciding is not None:
        lossless = scope_targets(settings, deciding).lossless
    return Targets(
        lossy=choose_target(settings, "lossy", own.lossy, origin),
        lossless=lossless,
        decode_drop=choose_target(settings, "decode_drop", own.decode_drop, origin),
        quality=choose_target(settings, "quality", own.quality, origin),
        consistency=_consistency_target(settings),
        similarity=Target("demo_similarity", own.similarity, "no target" if own.similarity is None else origin),
        metrics={name: _metric_target(metric, own.metrics.get(name), origin) for name, metric in ROW_METRICS.items()},
    )


def _metric_target(metric: RowMetric, own: float | None, own_origin: str) -> Target:
    if own is None:
        return Target(metric.name, metric.target, "the plugin that adds it")
    return Target(metric.name, own, own_origin)


def _consistency_target(settings: Settings) -> Target:
    if is_embedded(settings["bench"]):
        return Target("runtime_difference", 0, "the embedded bench")
    return Target("runtime_difference", None, "another bench")


def scope_targets(settings: Settings, scope: Scope) -> Targets:
    """The targets of a scope. Options, ini and default speak of the one that decides; others have their own or none."""
    if scope.decides:
        lossless = choose_target(settings, "lossless", scope.target, f"target of scope {scope.name}")
    else:
        lossless = Target("lossless_ratio", scope.target, f"target of scope {scope.name}")
    return Targets(
        lossy=Target("h2o_lossy", None, "not for a scope"),
        lossless=lossless,
        decode_drop=Target("decode_drop", None, "not for a scope"),
        quality=Target("quality_ppl_rise", None, "not for a scope"),
        consistency=Target("runtime_difference", None, "not for a scope"),
        similarity=Target("demo_similarity", None, "not for a scope"),
    )


def refuse_unmeasured(preset: Preset, *, takes_prompt: bool) -> None:
    """Refuse keys of a preset that ask for something which nothing here does: silence would be taken for a pass."""
    where = str(preset.path or preset.name)
    if wrong := get_adapter(preset.bench, f"bench of {where}").check_options(preset.bench_options):
        raise UsageError(
            f"{preset.bench} cannot be run with these options", where=f"bench_options of {where}", came=wrong
        )
    for name in preset.targets.metrics:
        require_metric(name, f"targets.metrics of {where}")
    if not takes_prompt and preset.prompt_file is not None:
        raise UsageError(
            "a preset names a prompt file, and the bench takes no prompt",
            where=f"prompt_file of {preset.path or preset.name}",
            hint="leave the key out; or --h2o-demo PATH says it to llm_demo",
        )


@dataclass(frozen=True)
class Targets:
    """The targets of one preset or scope, each with where it was said."""

    lossy: Target
    lossless: Target
    decode_drop: Target
    quality: Target
    consistency: Target
    similarity: Target
    metrics: Mapping[str, Target] = field(default_factory=dict)
    """Those of metrics that plugins add, by name."""

    def metric(self, name: str) -> Target:
        """The target of a metric that a plugin adds; UsageError if there is no such metric."""
        require_metric(name, "h2o_targets.metric")
        return self.metrics.get(name) or Target(name, None, "not for a scope")

    @property
    def thresholds(self) -> Thresholds:
        return Thresholds(self.lossy.value, self.lossless.value, self.decode_drop.value, self.quality.value)
