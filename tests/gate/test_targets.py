"""Which target holds, and where it was said."""

import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

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
    Comparison,
    Interval,
    Measured,
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
from tests.told import error_text

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
    given = (({"line": line, "ini": ini}, 0.75), ({"ini": ini}, 0.75), ({"ini": ini}, None), ({}, None), ({}, 0.0))
    chosen = [choose_target(given_targets(settings_of(**texts)), metric, own, "a preset") for texts, own in given]
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


def test_metrics_of_plugins_have_the_target_of_the_preset_or_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = replace(RowMetric("first_token_s", "first token", target=2.0), added=True)
    monkeypatch.setitem(METRICS, "first_token_s", metric)
    asked = preset_targets(settings_of(), preset(**{"targets.metrics.first_token_s": 1.5}), None)
    assert asked.metric("first_token_s") == Target("first_token_s", 1.5, PRESET)
    silent = preset_targets(settings_of(), preset(), None)
    assert silent.metric("first_token_s") == Target("first_token_s", 2.0, "the plugin that adds it")
    assert "first_token_s" not in silent.asked
    assert scope_targets(settings_of(), scope()).metric("first_token_s").value is None


def test_what_nothing_here_measures_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_unmeasured(preset(), takes_prompt=False)
    with pytest.raises(UsageError, match=r"(?s)no metric is called 'nope'\n  where: targets.metrics of adhoc"):
        refuse_unmeasured(preset(**{"targets.metrics.nope": 1}), takes_prompt=True)
    with pytest.raises(UsageError, match=r"(?s)two targets were given for lossy ratio\n.*came: lossy and h2o_lossy"):
        refuse_unmeasured(preset(**{"targets.lossy": 3.1, "targets.h2o_lossy": 3.2}), takes_prompt=True)
    prompted = preset(prompt_file=__file__)
    refuse_unmeasured(prompted, takes_prompt=True)
    with pytest.raises(UsageError, match=r"(?s)the bench takes no prompt\n  where: prompt_file of adhoc"):
        refuse_unmeasured(prompted, takes_prompt=False)
    adapter = SimpleNamespace(check_options=lambda options: f"{options}")
    monkeypatch.setattr("pytest_h2o.gate.values.get_adapter", lambda name, where: adapter)
    with pytest.raises(UsageError, match=r"(?s)^mine cannot be run with these.* of adhoc\n  came: {'depth': 1}$"):
        refuse_unmeasured(preset(bench="mine", **{"bench_options.depth": 1}), takes_prompt=True)


def test_a_target_has_a_range_a_unit_and_a_place_in_the_journal(snapshot: SnapshotAssertion) -> None:
    ranges = target_ranges()
    assert ranges["lossy"] == ranges["h2o_lossy"] == Range("a ratio", least=1.0)
    keys = ("lossy", "lossless", "decode_drop", "quality", "h2o_keep", "similarity", "prefill_tok_per_s")
    assert {key: ranges[key].text for key in keys} == snapshot
    assert Range(most=2).text == "a number of at most 2"
    assert not ranges.keys() & {"joint_margin", "k_lossless_ratio", "encode_s"}
    assert set(target_schemas()) == {METRICS[find_metric(key, "", preset_metrics()).name].key for key in ranges}
    assert target_schemas()["h2o_keep"] == snapshot
    units = [METRICS[name].target_unit for name in ("h2o_lossy", "decode_drop", "prefill_tok_per_s")]
    assert units == ["ratio", "fraction of the baseline speed", "tok/s"]
    kept = {"lossy": 3.1, "decode_drop": None, "gone": 1.0}
    assert asked_of_json(kept, {"h2o_keep": 0.4, "demo_similarity": 0.5}) == {"h2o_lossy": 3.1, "h2o_keep": 0.4}


@pytest.mark.parametrize(
    ("bench", "keys", "of_scope", "expected"),
    [
        (None, {"targets.lossy": 3.1}, None, ("h2o_lossy", 3.1, PRESET)),
        (None, {"targets.decode_drop": 0.02}, None, ("decode_drop", 0.02, PRESET)),
        (None, {"targets.quality": 0.2}, None, ("quality_ppl_rise", 0.2, PRESET)),
        (None, {"targets.similarity": 0.4}, None, ("demo_similarity", 0.4, PRESET)),
        # By its key or its name, beside the fixed keys or under `metrics`.
        (None, {"targets.h2o_lossy": 3.2}, None, ("h2o_lossy", 3.2, PRESET)),
        (None, {"targets.h2o_keep": 0.4}, None, ("h2o_keep", 0.4, PRESET)),
        (None, {"targets.metrics.h2o_keep": 0.4}, None, ("h2o_keep", 0.4, PRESET)),
        # A lossless target: its own, that of the deciding scope, and of a bench without dumps only its own.
        (None, {"targets.lossless": 1.1}, 1.4, ("lossless_ratio", 1.1, PRESET)),
        (None, {}, 1.4, ("lossless_ratio", 1.4, "target of scope front")),
        (None, {"bench": "llama_bench"}, 1.4, ("lossless_ratio", None, "the dumps are none of llama_bench")),
        (None, {"bench": "llama_bench", "targets.lossless": 1.1}, None, ("lossless_ratio", 1.1, PRESET)),
        ("reference", {}, None, ("runtime_difference", 0, "the embedded bench")),
        ("llm_bench", {}, None, ("runtime_difference", None, "another bench")),
    ],
)
def test_a_preset_has_its_own_targets_or_those_of_what_is_beside_it(
    bench: str | None, keys: dict[str, Any], of_scope: float | None, expected: tuple[str, float | None, str]
) -> None:
    settings = settings_of(line={"h2o_bench": bench} if bench else {})
    deciding = None if of_scope is None else scope(decides=True, target=of_scope)
    targets = preset_targets(settings, preset(**keys), deciding)
    assert targets.metric(expected[0]) == Target(*expected)
    if expected[0] == "h2o_keep":
        assert targets.asked["h2o_keep"] == targets.h2o_keep.value == 0.4  # it is asked of one row


def test_a_scope_is_asked_for_its_ratio_alone_and_options_speak_of_the_one_that_decides() -> None:
    settings = settings_of(line={"h2o_lossless_target": "1.5"})
    of_scope = "target of scope front"
    for given, asked, value, origin in (
        (settings, scope(decides=True, target=1.4), 1.5, "--h2o-lossless-target"),
        (settings_of(), scope(decides=True), 1.3, "default"),
        (settings, scope(target=1.4), 1.4, of_scope),
        (settings, scope(), None, of_scope),
    ):
        targets = scope_targets(given, asked)
        assert targets.lossless == Target("lossless_ratio", value, origin)
        others = {name: target for name, target in targets.by_metric.items() if name != "lossless_ratio"}
        assert others == {name: Target(name, None, "not for a scope") for name in METRICS if name != "lossless_ratio"}


LOSSY, DROP = "h2o_lossy", "decode_drop"


@pytest.mark.parametrize(
    ("metric", "value", "target", "outcome", "margin"),
    [
        (LOSSY, 3.0, 3.0, "pass", 0.0),
        (LOSSY, math.nextafter(3.0, 0), 3.0, "fail", 0.0),
        (LOSSY, 2.961, 3.0, "fail", -0.039),
        (LOSSY, math.nan, 3.0, "fail", math.nan),
        (LOSSY, 1.1, None, "reported", None),
        (DROP, 0.05, 0.05, "pass", 0.0),
        (DROP, math.nextafter(0.05, 1), 0.05, "fail", 0.0),
        (DROP, 0.07, 0.05, "fail", -0.02),
        (DROP, -0.5, 0.05, "pass", 0.55),
        (DROP, math.nan, 0.05, "fail", math.nan),
    ],
)
def test_a_target_is_met_by_its_own_value_and_by_nothing_worse(
    metric: str, value: float, target: float | None, outcome: str, margin: float | None
) -> None:
    seen: list[Comparison] = []
    measured, asked = Measured(metric, value, "row", on_compare=seen.append), Target(metric, target, "here")
    assert (measured >= asked if metric == LOSSY else measured <= asked) is (outcome != "fail")
    (kept,) = seen
    assert (kept.relation, kept.outcome, kept.target) == (">=" if metric == LOSSY else "<=", outcome, asked)
    assert kept.margin == (None if margin is None else pytest.approx(margin, abs=1e-12, nan_ok=True))


def test_a_number_in_a_gate_file_is_a_target() -> None:
    seen: list[Comparison] = []
    assert not Measured(DROP, 0.07, "row", on_compare=seen.append) <= 0.05
    assert Measured(LOSSY, 2.961, "row", on_compare=seen.append) >= 2.5
    assert [comparison.target for comparison in seen] == [
        Target(DROP, 0.05, "gate file"),
        Target(LOSSY, 2.5, "gate file"),
    ]
    assert seen[1].relative_margin == pytest.approx(0.461 / 2.5)


@pytest.mark.parametrize(
    ("low", "high", "relation", "outcome"),
    [
        (0.06, 0.09, "<=", "fail"),
        (0.01, 0.04, "<=", "pass"),
        (0.01, 0.09, "<=", "inconclusive"),
        (0.05, 0.09, "<=", "inconclusive"),
        (0.01, 0.05, "<=", "inconclusive"),
        (None, 0.06, "<=", "inconclusive"),
        (0.06, None, "<=", "fail"),
        (0.06, None, ">=", "pass"),
        (None, 0.04, ">=", "fail"),
        (None, None, ">=", "inconclusive"),
    ],
)
def test_an_interval_decides_only_where_the_target_lies_outside_it(
    low: float | None, high: float | None, relation: str, outcome: str
) -> None:
    """Whatever the value is; what is inconclusive holds, unless it was asked to fail."""
    metric = DROP if relation == "<=" else LOSSY
    usual = Interval(low, high, "inconclusive", 0.5, "pairs")
    for value, fails, interval in ((0.0, False, usual), (math.nan, True, replace(usual, inconclusive_fails=True))):
        seen: list[Comparison] = []
        measured = Measured(metric, value, "row", interval=interval, on_compare=seen.append)
        holds = measured <= 0.05 if relation == "<=" else measured >= 0.05
        assert holds is (outcome == "pass" or (outcome == "inconclusive" and not fails))
        assert [comparison.outcome for comparison in seen] == [outcome]


def test_an_interval_says_of_its_own_target_what_was_decided() -> None:
    for outcome in ("pass", "fail"):
        interval = Interval(0.01, 0.09, outcome, 0.05, "12 pairs")
        assert interval.judge("<=", 0.05) == outcome
        assert interval.judge("<=", 0.06) == "inconclusive"
    assert Measured(DROP, 0.9, "row", interval=interval) <= Target(DROP, None, "preset")


def test_a_comparison_that_says_nothing_is_refused(snapshot: SnapshotAssertion) -> None:
    lossy = Measured(LOSSY, 3.0, "run_0001")
    with pytest.raises(UsageError, match="a lossy ratio is neither true nor false"):
        bool(lossy)
    with pytest.raises(UsageError, match="compared with the target of another metric"):
        _ = lossy >= Target(DROP, 0.05, "default")
    assert error_text(UsageError, lambda: lossy <= 3.0) == snapshot
    assert error_text(UsageError, lambda: Measured(DROP, 0.0, "row") >= 0.05) == snapshot


def test_values_and_targets_are_shown_with_their_spread_or_what_they_rest_on(snapshot: SnapshotAssertion) -> None:
    intervals = [
        Measured(DROP, value, "row", interval=Interval(low, high, "inconclusive", 0.05, "2 pairs"))
        for value, low, high in ((0.03, -0.02, 0.08), (0.03, None, 0.08), (math.nan, None, None))
    ]
    shown: list[object] = [Measured(LOSSY, 2.961, "row", 0.026), Measured(DROP, 0.07, "row"), *intervals]
    assert [repr(value) for value in (*shown, Target(DROP, 0.05, ""), Target(DROP, None, ""))] == snapshot
    metric = METRICS[LOSSY]
    assert metric.render_measured(2.9996, 0.02, 3.0) == "2.9996 ± 0.020"  # apart from a target that it differs from
    assert metric.render_measured(3.0, None, 3.0) == "3.000"
    assert [metric.render_gap(gap) for gap in (0.0, 0.00004)] == ["0.000", "0.00004"]
