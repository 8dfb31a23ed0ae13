"""Which target holds, and where it was said."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_h2o.errors import UsageError
from pytest_h2o.gate.metrics import (
    CODING,
    GATE_OPTIONS,
    METRICS,
    RowMetric,
    asked_of_json,
    find_metric,
    preset_metrics,
    target_schemas,
)
from pytest_h2o.gate.values import (
    Target,
    choose_target,
    given_targets,
    preset_targets,
    refuse_unmeasured,
    scope_targets,
    target_ranges,
)
from pytest_h2o.inputs.options import Range, Settings, resolve_settings
from pytest_h2o.inputs.presets import Preset, preset_from_flags
from pytest_h2o.inputs.scope import Scope

KINDS = {
    "lossy": "h2o_lossy",
    "lossless": "lossless_ratio",
    "decode_drop": "decode_drop",
    "quality": "quality_ppl_rise",
}
PRESET = "targets of preset adhoc"


def settings_of(*, line: dict[str, str] | None = None, ini: dict[str, str] | None = None) -> Settings:
    here = Path.cwd()
    return resolve_settings(
        GATE_OPTIONS, command_line=(line or {}).get, ini=(ini or {}).get, invocation_dir=here, ini_dir=here
    )


def scope(name: str = "front", **keys: Any) -> Scope:
    return Scope(name=name, root=Path("dump"), **keys)


def preset(**keys: Any) -> Preset:
    return preset_from_flags().override(*(f"{name}={value}" for name, value in keys.items()))


@pytest.mark.parametrize("kind", KINDS)
def test_command_line_stands_over_the_file_and_that_over_ini_and_that_over_the_default(kind: str) -> None:
    key, flag = f"h2o_{kind}_target", f"--h2o-{kind.replace('_', '-')}-target"
    metric = METRICS[KINDS[kind]]
    least = 1.0 if kind == "lossy" else 0.0
    line, ini = {key: str(least + 0.25)}, {key: str(least + 0.5)}
    chosen = [
        choose_target(settings_of(line=line, ini=ini), metric, 0.75, "a preset"),
        choose_target(settings_of(ini=ini), metric, 0.75, "a preset"),
        choose_target(settings_of(ini=ini), metric, None, "a preset"),
        choose_target(settings_of(), metric, None, "a preset"),
        choose_target(settings_of(), metric, 0.0, "a preset"),
    ]
    assert chosen == [
        Target(metric.name, least + 0.25, flag),
        Target(metric.name, 0.75, "a preset"),
        Target(metric.name, least + 0.5, f"ini key {key}"),
        Target(metric.name, metric.target, "default"),
        Target(metric.name, 0.0, "a preset"),
    ]


def test_any_metric_gets_its_target_by_name_on_the_command_line_and_in_the_ini_file() -> None:
    """Beside the preset as an option of its own would; each says its origin."""
    ini: Any = {"h2o_target": ["h2o_lossless_queue_peak=8", "h2o_keep=0.5"]}
    line: Any = {"h2o_target": ["h2o_keep=0.4", "lossy=3.5"]}
    settings = settings_of(line=line, ini=ini)
    assert settings.command_line() == ["--h2o-target=h2o_keep=0.4", "--h2o-target=lossy=3.5"]
    coding = {"kv_lossless_enable": "true", "kv_lossless_runtime_enable": "true"}
    own = {"targets.h2o_keep": 0.3, "targets.h2o_lossless_queue_peak": 9, "targets.lossy": 3.1}
    targets = preset_targets(settings, preset(**coding, **own), None)
    assert targets.h2o_keep == Target("h2o_keep", 0.4, "--h2o-target")
    assert targets.lossy == Target("h2o_lossy", 3.5, "--h2o-target")
    assert targets.of_every_row == [Target("h2o_lossless_queue_peak", 9, PRESET)]
    targets = preset_targets(settings, preset(**coding), None)
    assert targets.of_every_row == [Target("h2o_lossless_queue_peak", 8.0, "ini key h2o_target")]
    off = preset_targets(settings, preset(), None)
    assert off.h2o_lossless_queue_peak == Target("h2o_lossless_queue_peak", None, "nothing is coded at run time")
    over: Any = {"h2o_target": ["lossy=3.5"]}
    own_option = settings_of(line={"h2o_lossy_target": "3.2"}, ini=over)
    assert preset_targets(own_option, preset(), None).lossy == Target("h2o_lossy", 3.2, "--h2o-lossy-target")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"h2o_target": ["h2o_keep"]}, "--h2o-target takes NAME=VALUE, VALUE a number\n  came: 'h2o_keep'"),
        ({"h2o_target": ["h2o_keep=low"]}, "--h2o-target takes NAME=VALUE, VALUE a number"),
        ({"h2o_target": ["h2o_kep=0.4"]}, "no metric is called 'h2o_kep'\n  where: --h2o-target"),
        ({"h2o_target": ["h2o_keep=1.5"]}, "--h2o-target is out of range\n  came: h2o_keep=1.5"),
        (
            {"h2o_target": ["lossy=3.5"], "h2o_lossy_target": "3.1"},
            "two targets were given for lossy ratio\n  came: --h2o-lossy-target 3.1 and --h2o-target lossy=3.5",
        ),
        ({"h2o_target": ["lossy=3.5", "h2o_lossy=3.4"]}, "two targets were given for lossy ratio"),
    ],
)
def test_a_target_by_name_that_cannot_be_meant_is_refused(line: Any, told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told)):
        given_targets(settings_of(line=line))


def test_the_defaults_are_those_of_the_joint_rule() -> None:
    targets = preset_targets(settings_of(), preset(), None)
    asked = {"h2o_lossy": 3.0, "decode_drop": 0.05, "lossless_ratio": 1.3, "quality_ppl_rise": 0.01}
    # In this order a row names what it misses, and the diagnosis its margins; a journal may have another.
    kept = {"quality": 0.01, "lossless": 1.3, "decode_drop": 0.05, "lossy": 3.0}
    assert list(targets.asked.items()) == list(asked_of_json(kept, {}).items()) == list(asked.items())
    assert {targets.lossy.origin, targets.lossless.origin, targets.decode_drop.origin} == {"default"}
    assert targets.similarity == Target("demo_similarity", None, "no target")
    assert "lossy=3.000" in repr(targets)
    assert "no target" not in repr(targets)


def test_any_metric_of_a_row_can_have_a_target_and_is_then_asked_of_one_row() -> None:
    """By its key or its name, beside the fixed keys or under `metrics`."""
    for key in ("targets.h2o_keep", "targets.metrics.h2o_keep"):
        targets = preset_targets(settings_of(), preset(**{key: 0.4}), None)
        assert targets.metric("h2o_keep") == targets.h2o_keep == Target("h2o_keep", 0.4, PRESET)
        assert targets.asked["h2o_keep"] == 0.4
    named = preset_targets(settings_of(), preset(**{"targets.h2o_lossy": 3.2}), None)
    assert named.lossy == Target("h2o_lossy", 3.2, PRESET)


@pytest.mark.parametrize("name", CODING)
def test_what_is_coded_at_run_time_is_asked_only_where_something_is(name: str) -> None:
    keys: dict[str, Any] = {"kv_lossless_enable": True, "kv_lossless_runtime_enable": True}
    assert preset_targets(settings_of(), preset(), None).metric(name) == Target(
        name, None, "nothing is coded at run time"
    )
    default = METRICS[name].target
    origin = "no target" if default is None else "default"
    assert preset_targets(settings_of(), preset(**keys), None).metric(name) == Target(name, default, origin)
    for key in (METRICS[name].key, name):
        refuse_unmeasured(preset(**keys, **{f"targets.{key}": 1.5}), takes_prompt=True)
        with pytest.raises(UsageError, match="and codes nothing there") as caught:
            refuse_unmeasured(preset(**{f"targets.{key}": 1.5}), takes_prompt=True)
        assert caught.value.came == name


def test_a_preset_says_its_own_targets() -> None:
    own = {"lossy": 3.1, "lossless": 1.1, "decode_drop": 0.02, "quality": 0.2, "similarity": 0.4}
    targets = preset_targets(
        settings_of(), preset(**{f"targets.{k}": v for k, v in own.items()}), scope(decides=True, target=1.4)
    )
    assert (targets.lossy, targets.lossless) == (
        Target("h2o_lossy", 3.1, PRESET),
        Target("lossless_ratio", 1.1, PRESET),
    )
    assert targets.decode_drop == Target("decode_drop", 0.02, PRESET)
    assert targets.quality == Target("quality_ppl_rise", 0.2, PRESET)
    assert targets.similarity == Target("demo_similarity", 0.4, PRESET)


def test_a_preset_without_a_lossless_target_takes_that_of_the_deciding_scope() -> None:
    taken = preset_targets(settings_of(), preset(), scope(decides=True, target=1.4)).lossless
    assert taken == Target("lossless_ratio", 1.4, "target of scope front")


def test_a_preset_of_a_bench_without_dumps_is_asked_for_no_lossless_ratio_unless_it_asks() -> None:
    targets = preset_targets(settings_of(), preset(bench="llama_bench"), scope(decides=True, target=1.4))
    assert targets.lossless == Target("lossless_ratio", None, "the dumps are none of llama_bench")
    own = preset_targets(settings_of(), preset(bench="llama_bench", **{"targets.lossless": 1.1}), None)
    assert own.lossless == Target("lossless_ratio", 1.1, PRESET)


def test_consistency_is_held_on_the_embedded_bench_and_reported_of_another() -> None:
    embedded = preset_targets(settings_of(line={"h2o_bench": "reference"}), preset(), None).consistency
    assert embedded == Target("runtime_difference", 0, "the embedded bench")
    other = preset_targets(settings_of(line={"h2o_bench": "llm_bench"}), preset(), None).consistency
    assert other == Target("runtime_difference", None, "another bench")


def test_options_and_defaults_speak_of_the_scope_that_decides_alone() -> None:
    settings = settings_of(line={"h2o_lossless_target": "1.5"})
    assert scope_targets(settings, scope(decides=True, target=1.4)).lossless == Target(
        "lossless_ratio", 1.5, "--h2o-lossless-target"
    )
    assert scope_targets(settings_of(), scope(decides=True)).lossless == Target("lossless_ratio", 1.3, "default")
    origin = "target of scope front"
    assert scope_targets(settings, scope(target=1.4)).lossless == Target("lossless_ratio", 1.4, origin)
    assert scope_targets(settings, scope()).lossless == Target("lossless_ratio", None, origin)


def test_a_scope_is_asked_for_its_ratio_alone() -> None:
    targets = scope_targets(settings_of(), scope(decides=True))
    for name in ("lossy", "decode_drop", "quality", "consistency", "similarity"):
        target = getattr(targets, name)
        assert (target.value, target.origin) == (None, "not for a scope")
    assert [targets.lossy.metric, targets.decode_drop.metric] == ["h2o_lossy", "decode_drop"]
    names = [targets.quality.metric, targets.consistency.metric, targets.similarity.metric]
    assert names == ["quality_ppl_rise", "runtime_difference", "demo_similarity"]


def test_metrics_of_plugins_have_the_target_of_the_preset_or_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = replace(RowMetric("first_token_s", "first token", target=2.0), added=True)
    monkeypatch.setitem(METRICS, "first_token_s", metric)
    asked = preset_targets(settings_of(), preset(**{"targets.metrics.first_token_s": 1.5}), None)
    assert asked.metric("first_token_s") == Target("first_token_s", 1.5, PRESET)
    silent = preset_targets(settings_of(), preset(), None)
    assert silent.metric("first_token_s") == Target("first_token_s", 2.0, "the plugin that adds it")
    assert "first_token_s" not in silent.asked
    assert scope_targets(settings_of(), scope()).metric("first_token_s").value is None


def test_what_nothing_here_measures_is_refused() -> None:
    refuse_unmeasured(preset(), takes_prompt=False)
    with pytest.raises(UsageError, match=r"(?s)no metric is called 'nope'\n  where: targets.metrics of adhoc"):
        refuse_unmeasured(preset(**{"targets.metrics.nope": 1}), takes_prompt=True)
    prompted = preset(prompt_file=__file__)
    refuse_unmeasured(prompted, takes_prompt=True)
    with pytest.raises(UsageError, match=r"(?s)the bench takes no prompt\n  where: prompt_file of adhoc"):
        refuse_unmeasured(prompted, takes_prompt=False)


def test_options_that_a_bench_cannot_be_run_with_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = SimpleNamespace(check_options=lambda options: f"{options}")
    monkeypatch.setattr("pytest_h2o.gate.values.get_adapter", lambda name, where: adapter)
    with pytest.raises(UsageError) as caught:
        refuse_unmeasured(preset(bench="mine", **{"bench_options.depth": 1}), takes_prompt=True)
    assert str(caught.value) == (
        "mine cannot be run with these options\n  where: bench_options of adhoc\n  came: {'depth': 1}"
    )


def test_a_target_has_a_range_a_unit_and_a_place_in_the_journal() -> None:
    ranges = target_ranges()
    assert ranges["lossy"] == ranges["h2o_lossy"] == Range("a ratio", least=1.0)
    texts = {
        "lossy": "a ratio of at least 1",
        "lossless": "a ratio above 0",
        "decode_drop": "a fraction from 0 to below 1, 0.05 for 5 %",
        "quality": "a fraction of at least 0, 0.05 for 5 %",
        "h2o_keep": "a ratio above 0 and at most 1",
        "similarity": "a ratio from 0 to 1",
        "prefill_tok_per_s": "a number of at least 0",
    }
    assert {key: ranges[key].text for key in texts} == texts
    assert Range(most=2).text == "a number of at most 2"
    assert not ranges.keys() & {"joint_margin", "k_lossless_ratio", "encode_s"}
    assert set(target_schemas()) == {METRICS[find_metric(key, "", preset_metrics()).name].key for key in ranges}
    limits = {"exclusiveMinimum": 0.0, "maximum": 1.0}
    assert target_schemas()["h2o_keep"] == {"type": "number", "description": "largest keep ratio", **limits}
    units = [METRICS[name].target_unit for name in ("h2o_lossy", "decode_drop", "prefill_tok_per_s")]
    assert units == ["ratio", "fraction of the baseline speed", "tok/s"]
    kept = {"lossy": 3.1, "decode_drop": None, "gone": 1.0}
    assert asked_of_json(kept, {"h2o_keep": 0.4, "demo_similarity": 0.5}) == {"h2o_lossy": 3.1, "h2o_keep": 0.4}
