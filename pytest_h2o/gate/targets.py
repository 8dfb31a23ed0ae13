"""Which target holds: the command line before the preset or scope, those before the ini file, that before default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_h2o.bench.adapter import get_adapter
from pytest_h2o.bench.command import is_embedded
from pytest_h2o.errors import UsageError
from pytest_h2o.gate.metrics import (
    LOSSLESS,
    METRICS,
    TARGET_OPTIONS,
    Metric,
    find_metric,
    joint_metrics,
    preset_metrics,
)
from pytest_h2o.gate.values import Target
from pytest_h2o.inputs.checking import LLM_BENCH
from pytest_h2o.inputs.options import Range, Settings
from pytest_h2o.inputs.presets import Preset
from pytest_h2o.inputs.scope import Scope


@dataclass(frozen=True)
class Targets:
    """The targets of one preset or scope by metric, each with where it was said.

    A target is an attribute too, as its key under ``targets:`` is called: ``h2o_targets.lossy``.
    """

    by_metric: Mapping[str, Target]

    def __getattr__(self, key: str) -> Target:
        metric = preset_metrics().get(key)
        if metric is None or key == "by_metric":
            raise AttributeError(f"no target is called {key!r}: see the table of metrics")
        return self.metric(metric.name)

    def metric(self, name: str) -> Target:
        """The target of a metric by its name; UsageError if there is no such metric."""
        find_metric(name, "h2o_targets.metric")
        return self.by_metric.get(name) or Target(name, None, "not for a scope")

    @property
    def asked(self) -> dict[str, float]:
        """What one and the same row must meet: targets by metric."""
        given = ((metric.name, self.by_metric.get(metric.name)) for metric in joint_metrics())
        return {name: target.value for name, target in given if target is not None and target.value is not None}


def choose_target(settings: Settings, metric: Metric, own: float | None, own_origin: str) -> Target:
    """The target of a metric, where a preset or scope has one of its `own` or none."""
    option = TARGET_OPTIONS.get(metric.name)
    given = None if option is None else settings.given[option.name]
    if given is not None and given.on_command_line:
        return Target(metric.name, given.value, given.origin)
    if own is not None:
        return Target(metric.name, own, own_origin)
    if given is not None and given.value is not None:
        return Target(metric.name, given.value, given.origin)
    origin = "the plugin that adds it" if metric.added else "no target" if metric.target is None else "default"
    return Target(metric.name, metric.target, origin)


def preset_targets(settings: Settings, preset: Preset, deciding: Scope | None) -> Targets:
    """The targets of a preset; its lossless target is that of the deciding scope unless the preset says another."""
    origin = f"targets of preset {preset.name}"
    targets = {}
    for name, metric in METRICS.items():
        own = preset.targets.of(metric.key, name)
        targets[name] = choose_target(settings, metric, own, origin)
        if metric.of == "scope" and own is None and preset.bench != LLM_BENCH:
            targets[name] = Target(name, None, f"the dumps are none of {preset.bench}")
        elif name == LOSSLESS and own is None and deciding is not None:
            targets[name] = scope_targets(settings, deciding).lossless
        elif metric.key == "consistency" and own is None:
            exact = is_embedded(settings["bench"])
            targets[name] = Target(name, 0 if exact else None, "the embedded bench" if exact else "another bench")
    return Targets(targets)


def scope_targets(settings: Settings, scope: Scope) -> Targets:
    """The targets of a scope. Options, ini and default speak of the one that decides; others have their own or none."""
    targets = {name: Target(name, None, "not for a scope") for name in METRICS}
    origin = f"target of scope {scope.name}"
    targets[LOSSLESS] = Target(LOSSLESS, scope.target, origin)
    if scope.decides:
        targets[LOSSLESS] = choose_target(settings, METRICS[LOSSLESS], scope.target, origin)
    return Targets(targets)


def refuse_unmeasured(preset: Preset, *, takes_prompt: bool) -> None:
    """Refuse keys of a preset that ask for something which nothing here does: silence would be taken for a pass."""
    where = str(preset.path or preset.name)
    if wrong := get_adapter(preset.bench, f"bench of {where}").check_options(preset.bench_options):
        raise UsageError(
            f"{preset.bench} cannot be run with these options", where=f"bench_options of {where}", came=wrong
        )
    for name in preset.targets.metrics:
        find_metric(name, f"targets.metrics of {where}", preset_metrics())
    if not takes_prompt and preset.prompt_file is not None:
        raise UsageError(
            "a preset names a prompt file, and the bench takes no prompt",
            where=f"prompt_file of {preset.path or preset.name}",
            hint="leave the key out; or --h2o-demo PATH says it to llm_demo",
        )


def target_ranges() -> dict[str, Range]:
    """What a preset may ask of each metric, by the keys that name it under ``targets:``."""
    return {key: metric.target_range for key, metric in preset_metrics().items()}
