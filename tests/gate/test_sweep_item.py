"""What a sweep item says of rows that miss a target, lack a column or were disturbed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_h2o.bench.demo import DemoLaunch, compare_texts
from pytest_h2o.bench.rows import Row
from pytest_h2o.errors import NotMeasured, OptedOut, UsageError
from pytest_h2o.files import plain
from pytest_h2o.gate.demo import DemoComparison, DemoPair
from pytest_h2o.gate.metrics import METRICS, Metric, RowMetric
from pytest_h2o.gate.values import Target, Targets
from pytest_h2o.run.pairs import Baseline
from tests.sweeps import make_row, make_sweep


def test_the_slow_down_is_that_of_the_mean_over_the_rows_that_meet_the_other_targets() -> None:
    rows = make_row("loose", 66.0, h2o_lossy="2.0"), make_row("slow", 54.0), make_row("fast", 57.0)
    sweep = make_sweep(*rows)
    drop = sweep.decode_drop()
    assert (drop.source, drop.value) == ("the mean of 2 rows", pytest.approx(0.075))
    assert not sweep.notes
    none_meets = make_sweep(*rows, targets={"lossy": 4.0})
    assert none_meets.decode_drop().value == pytest.approx(1 - 59 / 60)
    assert none_meets.notes == ["no row meets the targets beside that of decode; the slow-down is that of all rows"]
    best_of = make_sweep(*rows, rule="best-of").decode_drop()
    assert (best_of.source, best_of.value, best_of.interval) == ("loose", pytest.approx(-0.1), None)


@pytest.mark.parametrize(
    ("speeds", "outcome"),
    [
        ((60.0, 61.0, 59.0, 60.0), "pass"),
        ((40.0, 41.0, 39.0, 40.0), "fail"),
        ((66.0, 45.0, 58.0, 52.0), "inconclusive"),
        ((58.0,), "inconclusive"),
        ((62.0, 48.0, 47.0, 49.0, 48.0, 47.0, 49.0), "fail"),
    ],
)
@pytest.mark.parametrize("fails", [False, True])
def test_rows_against_a_number_have_three_outcomes(speeds: tuple[float, ...], outcome: str, fails: bool) -> None:
    """Of the last one the fastest row alone would pass."""
    rows = [replace(make_row(f"r{n}", speed), repeat=3) for n, speed in enumerate(speeds)]
    sweep = make_sweep(*rows, settings={"inconclusive": "fail" if fails else "warn"})
    held = {"pass": True, "fail": False, "inconclusive": not fails}[outcome]
    assert (sweep.decode_drop() <= sweep.targets.decode_drop) is held
    assert (sweep.joint_margin() >= 0) is held
    assert [comparison.outcome for comparison in sweep.comparisons] == [outcome] * 2
    assert any("no row meets every target" in note for note in sweep.notes) == (outcome == "fail")


@pytest.mark.parametrize("rule", ["joint", "best-of"])
@pytest.mark.parametrize(("speed", "outcome"), [(62.0, "inconclusive"), (40.0, "fail")])
def test_nothing_passes_on_a_baseline_that_decoded_a_longer_context(rule: str, speed: float, outcome: str) -> None:
    rows = [make_row(f"r{n}", speed + n / 10) for n in range(4)]
    longer = Baseline(60.0, "a row", understates=True)
    sweep = make_sweep(*rows, rule=rule, baseline=lambda *_: longer)
    sweep.decode_drop().holds(sweep.targets.decode_drop)
    sweep.decode_drop().holds(0.5)
    sweep.joint_margin().holds(0.0)
    assert [comparison.outcome for comparison in sweep.comparisons] == [outcome, "inconclusive", outcome]


def test_rows_that_share_a_launch_are_one() -> None:
    shared = replace(make_row("b", 54.0), shares_run_with="a")
    sweep = make_sweep(make_row("a", 54.0), shared, make_row("c", 60.0))
    drop = sweep.decode_drop()
    assert (drop.source, drop.value) == ("the mean of 2 rows", pytest.approx(0.05))
    assert [row.by_metric["decode_drop"] for row in sweep.joint().rows] == [pytest.approx(0.0)] * 3


@pytest.mark.parametrize("lossy", ["2.0", "3.1"])
def test_a_row_without_a_decode_speed_is_missing_data_even_where_it_does_not_decide(lossy: str) -> None:
    sweep = make_sweep(make_row("whole"), make_row("silent", None, h2o_lossy=lossy))
    with pytest.raises(NotMeasured, match="the column decode_tok_per_s of adhoc is missing or not a number"):
        sweep.decode_drop()


def test_a_disturbed_launch_that_decides_is_told() -> None:
    quiet, disturbed = make_row("quiet", 50.0), make_row("loud", 60.0, "others used 2.0 of 2 cores")
    sweep = make_sweep(quiet, disturbed)
    sweep.decode_drop()
    why = "others used 2.0 of 2 cores"
    assert sweep.notes == [f"disturbed and counted all the same: 1 of 2 rows, first loud: {why}"]
    fastest = make_sweep(quiet, disturbed, rule="best-of")
    fastest.decode_drop()
    assert fastest.notes == [f"the launch of loud was disturbed, so its speed is doubtful: {why}"]
    other = make_sweep(make_row("quiet", 70.0), disturbed, rule="best-of")
    other.decode_drop()
    assert other.notes == []


@pytest.mark.parametrize("rule", ["joint", "best-of"])
def test_of_launches_that_should_be_alike_the_worst_decides(rule: str) -> None:
    """Whichever launch it is; the speed is that of the first, for chance has a part in it."""
    cells = [make_row("a", speed, h2o_lossy=lossy).cells for speed, lossy in ((60.0, "3.2"), (20.0, "2.5"))]
    for first, again in (cells, cells[::-1]):
        row = replace(make_row("a"), cells=first, again=(first, again))
        sweep = make_sweep(row, rule=rule, baseline=lambda *_: Baseline(20.0, "a number"))
        lossy = sweep.best("h2o_lossy")
        assert (lossy.value, lossy.holds(sweep.targets.lossy)) == (2.5, False)
        assert lossy.source == ("a, launch 3" if first is cells[0] else "a")
        assert sweep.joint_margin().value == pytest.approx(-1 / 6)
        assert sweep.best("decode_tok_per_s").value == row.decode_tok_per_s.mean  # type: ignore[union-attr]


def rises(*, evicting: str) -> tuple[Row, ...]:
    return (
        make_row("keeps", h2o_lossy="1.2", quality_ppl_rise="0.01"),
        make_row("evicts", h2o_lossy="3.2", quality_ppl_rise=evicting),
        make_row("evicts_worse", h2o_lossy="3.4", quality_ppl_rise="0.5"),
    )


def test_the_rise_is_the_least_of_the_rows_that_evict_enough() -> None:
    sweep = make_sweep(*rises(evicting="0.2"), targets={"quality": 0.1})
    rise = sweep.quality_rise()
    assert (rise.source, rise.value, rise <= sweep.targets.quality) == ("evicts", 0.2, False)
    assert sweep.notes == []


def test_where_no_row_evicts_enough_the_rise_is_the_least_of_all_and_says_so() -> None:
    sweep = make_sweep(*rises(evicting="0.2"), targets={"quality": 0.1, "lossy": 5.0})
    assert sweep.quality_rise().source == "keeps"
    assert sweep.notes == ["no row meets the lossy target; the rise is the least of all rows"]


@pytest.mark.parametrize("rise", ["", "nan"])
def test_a_row_without_its_rise_is_missing_data_even_where_it_does_not_decide(rise: str) -> None:
    whole = make_row("whole", quality_ppl_rise="0.01")
    sweep = make_sweep(whole, make_row("keeps", h2o_lossy="1.2", quality_ppl_rise=rise), targets={"quality": 0.1})
    with pytest.raises(NotMeasured, match="the column quality_ppl_rise of adhoc is missing or not a number"):
        sweep.quality_rise()


def test_texts_are_not_compared_where_no_row_says_what_it_evicts() -> None:
    sweep = make_sweep(make_row("r", h2o_lossy=""))
    with pytest.raises(NotMeasured, match="no row of adhoc has a lossy ratio"):
        sweep.text_similarity()


def test_the_consistency_of_the_first_point_is_measured_and_told() -> None:
    asked: list[str] = []

    def sizes(point: Any) -> tuple[int, str]:
        asked.append(point.run_id)
        return 3, "1003 bytes by the bench, 1000 by its dump"

    sweep = make_sweep(make_row("first"), make_row("second"), sizes=sizes)
    difference = sweep.runtime_difference()
    assert asked == ["first"]
    assert (difference.value, difference.source) == (3, "first, launched again with its dump")
    assert not difference <= 0
    assert sweep.notes == ["1003 bytes by the bench, 1000 by its dump"]
    sweep.refuse_idle()


def test_a_baseline_that_cannot_be_told_is_none_in_the_summary() -> None:
    def refuse(results: object, workload: str) -> None:
        raise NotMeasured("the recorded pairs cannot be read")

    sweep: Any = make_sweep(make_row("r"))
    sweep.remember()
    sweep.source.baseline = refuse
    sweep.remember()
    kept = [facts for _, facts in sweep.session.run.new.kept]
    assert [facts.baseline_tok_per_s for facts in kept] == [60.0, None]
    assert [facts.decode_left_out for facts in kept] == [False, False]


def test_without_a_row_the_joint_rule_is_no_pass() -> None:
    with pytest.raises(NotMeasured, match="adhoc has no row"):
        make_sweep().joint_margin()


def test_the_best_value_of_a_column_has_its_spread_and_row() -> None:
    sweep = make_sweep(make_row("a", h2o_lossy="3.2 ± 0.02"), make_row("b", h2o_lossy="3.1 ± 0.01"))
    assert sweep.has_measured is False
    assert sweep.comparisons == []
    best = sweep.best("h2o_lossy")
    assert (best.metric, best.value, best.std, best.source) == ("h2o_lossy", 3.2, 0.02, "a")
    assert best >= sweep.targets.lossy
    assert [comparison.outcome for comparison in sweep.comparisons] == ["pass"]
    drop = sweep.decode_drop()
    assert (drop.metric, drop.value) == ("decode_drop", 0.0)


ONE_ROW = "one row: the interval of its slow-down rests on its repeats, and says nothing of other launches"
ONE_EACH = make_row("evicts", 50.0, h2o_lossy="3.6"), make_row("fast", 60.0, h2o_lossy="2.7")


def test_one_row_must_meet_every_target() -> None:
    sweep = make_sweep(*ONE_EACH, targets={"lossless": 1.4 / 1.1})
    margin = sweep.joint_margin()
    assert (margin.metric, margin.source, margin.value) == ("joint_margin", "evicts", pytest.approx(0.05 - 1 / 6))
    assert not margin >= 0
    assert sweep.notes == [
        ONE_ROW,
        "the rules differ: best-of would pass, with the lossy ratio of evicts and the decode speed of fast, but no "
        "single row meets every target, decode being that of the mean over rows",
        "no row meets every target; the nearest, evicts, misses decode",
    ]
    rows = {row.run_id: tuple(row.by_metric.values()) for row in sweep.joint().rows}
    assert rows == {
        "evicts": (pytest.approx(0.2), pytest.approx(0.05 - 1 / 6), pytest.approx(0.1)),
        "fast": (pytest.approx(-0.1), pytest.approx(0.05 - 1 / 6), pytest.approx(0.1)),
    }
    assert sweep.best_of().passed


def test_under_best_of_the_best_of_each_column_is_held() -> None:
    margin = make_sweep(*ONE_EACH, rule="best-of").joint_margin()
    assert (margin.source, margin.value) == ("best of each column", pytest.approx(0.05))
    poor = make_sweep(*ONE_EACH, rule="best-of", targets={"lossless": 1.5}).joint_margin()
    assert (poor.metric, poor.value, poor >= 0) == ("joint_margin", pytest.approx(1.4 / 1.5 - 1), False)
    held = make_sweep(make_row("both"))
    assert held.joint_margin() >= 0
    assert held.notes == [ONE_ROW]


@pytest.mark.parametrize("targets", [{"lossless": 1.5}, {"lossy": 3.7}, {"decode_drop": -0.01}])
def test_a_rule_that_nobody_passes_differs_in_nothing(targets: dict[str, float]) -> None:
    sweep = make_sweep(*ONE_EACH, targets=targets)
    assert not sweep.best_of().passed
    assert not sweep.joint_margin() >= 0
    assert not any("the rules differ" in note for note in sweep.notes)


def test_a_lossless_ratio_that_nobody_asks_for_is_not_measured() -> None:
    def refuse() -> float:
        raise NotMeasured("no dump")

    assert make_sweep(make_row("r"), deciding_ratio=refuse).joint_margin() >= 0
    asking = make_sweep(make_row("r"), deciding_ratio=refuse, targets={"lossless": 1.3})
    with pytest.raises(NotMeasured, match="no dump"):
        asking.joint_margin()
    assert asking.notes == ["the joint rule needs the lossless ratio of the scope that decides"]


def test_a_decode_threshold_that_was_left_out_holds_nobody_back() -> None:
    def leave_out(results: object, workload: str) -> None:
        raise OptedOut("none")

    sweep: Any = make_sweep(make_row("slow", 1.0))
    assert not sweep.joint_margin() >= 0
    sweep.source.baseline = leave_out
    margin = sweep.joint_margin()
    assert (margin.value, margin >= 0) == (pytest.approx(0.1 / 3), True)
    assert "the decode threshold is left out (decode baseline: none)" in sweep.notes


def test_where_decode_was_left_out_the_rules_may_differ_without_a_word_of_speed() -> None:
    rows = (
        make_row("evicts", h2o_lossy="3.6", quality_ppl_rise="0.5"),
        make_row("keeps", h2o_lossy="2.7", quality_ppl_rise="0.01"),
    )
    sweep: Any = make_sweep(*rows, targets={"quality": 0.1, "decode_drop": None})
    assert sweep.best_of().passed
    assert not sweep.joint_margin() >= 0
    assert not any("the rules differ" in note for note in sweep.notes)


def test_a_baseline_that_cannot_be_told_is_left_out_of_what_is_known() -> None:
    def fail(results: object, workload: str) -> None:
        raise NotMeasured("no log")

    sweep: Any = make_sweep(make_row("r"))
    sweep.source.baseline = fail
    (row,) = sweep.joint(known_only=True).rows
    assert "decode_drop" not in row.by_metric
    with pytest.raises(NotMeasured, match="no log"):
        sweep.joint()


def test_what_the_summary_is_told_of_a_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep: Any = make_sweep(make_row("r"), fingerprint=lambda found: {"preset": "adhoc", "rows": str(len(found))})
    metrics = {"mine": Target("mine", 2.0, "preset"), "told": Target("told", None, "the plugin that adds it")}
    for name in metrics:
        monkeypatch.setitem(METRICS, name, RowMetric(name, name))
    sweep.targets = Targets({**sweep.targets.by_metric, **metrics})
    sweep.preset = sweep.preset.model_copy(update={"path": Path("a.yaml")})
    sweep.remember()
    ((preset, facts),) = sweep.session.run.new.kept
    assert preset == sweep.name
    assert plain(facts) == {
        "run_ids": ["r"],
        "path": "a.yaml",
        "bench": "llm_bench",
        "model_layers": 30,
        "h2o_layer_start": sweep.preset.h2o_layer_start,
        "h2o_layer_end": sweep.preset.h2o_layer_end,
        "targets": {"lossy": 3.0, "lossless": None, "decode_drop": 0.05, "quality": None},
        "metric_targets": {"mine": 2.0},
        "decode_left_out": False,
        "paired": False,
        "baseline_tok_per_s": 60.0,
        "baseline_origin": "a number",
        "baseline_files": ["off.log"],
        "workloads": [],
        "baselines": {},
        "fingerprint": {"preset": "adhoc", "rows": "1"},
        "coding": None,
        "inexact": [],
    }


@pytest.mark.parametrize(
    ("origin", "rise", "asked"),
    [("default", None, None), ("default", "0.005", 0.01), ("preset", None, 0.01), ("preset", "0.005", 0.01)],
)
def test_quality_is_asked_where_somebody_asks_or_a_row_tells_it(
    origin: str, rise: str | None, asked: float | None
) -> None:
    cells = {} if rise is None else {"quality_ppl_rise": rise}
    sweep = make_sweep(make_row("r", **cells), targets={"quality": 0.01})
    own = Target("quality_ppl_rise", 0.01, origin)
    sweep.targets = Targets({**sweep.targets.by_metric, own.metric: own})
    assert sweep.asked.get(own.metric) == asked


def said(point: Any, off: str = "a b", on: str = "a c", **told: float) -> DemoComparison:
    """What llm_demo measured on one prompt, a launch a side."""
    launch = DemoLaunch("off", 512, 96, 2.0, 50.0)
    pair = DemoPair("p", "AB", launch, replace(launch, name="on", told=told or None), compare_texts("p", off, on))
    return DemoComparison(point.run_id, 384, 1, 1, (pair,))


@pytest.mark.parametrize("lossy", [3.0, 9.0])
def test_texts_are_those_of_the_row_that_evicts_most(lossy: float) -> None:
    asked: list[tuple[str, float | None, float | None]] = []

    def demo(point: Any, *targets: float | None) -> DemoComparison:
        asked.append((point.run_id, *targets))  # type: ignore[arg-type]
        return said(point)

    rows = make_row("less", h2o_lossy="3.1"), make_row("most", h2o_lossy="3.4"), make_row("none", h2o_lossy="1.0")
    sweep = make_sweep(*rows, targets={"lossy": lossy, "demo_drop": 0.08}, demo=demo)
    similarity = sweep.text_similarity()
    assert (similarity.metric, similarity.value, similarity.source) == ("demo_similarity", 0.5, "most")
    assert asked == [("most", 0.08, None)]
    assert sweep.notes == [compare_texts("p", "a b", "a c").render()]
    assert sweep.prompt_buckets == (512,)
    assert sweep.demo_drop().source == "most"
    assert sweep.demo_drop(512).source == "prompts of about 512 tokens"


@pytest.mark.parametrize(
    ("target", "note"),
    [(None, ", and no target asks for more: targets: {similarity: 0.3} does"), (0.0, "")],
)
def test_a_similarity_of_nothing_is_told_in_words(target: float | None, note: str) -> None:
    asked = {} if target is None else {"similarity": target}
    sweep = make_sweep(make_row("r"), targets=asked, demo=lambda point, *_: said(point, "a b", "x y"))
    assert sweep.text_similarity().value == 0
    assert sweep.notes[-1] == f"the texts have hardly a word in common{note}"


def test_launches_of_llm_demo_are_held_to_what_every_row_must_hold() -> None:
    asked = {"h2o_lossless_fallback": 0.0}

    def missed(**told: float) -> list[Any]:
        sweep = make_sweep(make_row("r"), targets=asked, demo=lambda point, *_: said(point, **told))
        missed = sweep.demo_missed
        assert sweep.notes == ([] if told else [UNTOLD])
        return missed

    assert missed(h2o_lossless_fallback=0) == missed() == []
    (worst,) = missed(h2o_lossless_fallback=2)
    assert (worst.value, worst.source) == (2, "on")
    with pytest.raises(NotMeasured, match="the column h2o_lossless_fallback of adhoc is missing"):
        missed(h2o_lossy=3)


UNTOLD = "llm_demo tells nothing of what every row must hold: an older build, or no prompt is long enough"


def test_a_metric_that_the_item_has_no_target_for_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_sweep(make_row("r"))
    monkeypatch.setitem(METRICS, "mine", RowMetric("mine", "my metric"))
    assert sweep.targets.metric("mine") == Target("mine", None, "not for a scope")
    with pytest.raises(UsageError, match=r"no metric is called 'other'\n  where: h2o_targets.metric"):
        sweep.targets.metric("other")
    with pytest.raises(AttributeError, match="no target is called 'losy'"):
        _ = sweep.targets.losy


def test_of_a_metric_that_every_row_must_hold_the_worst_row_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "heat", Metric("heat", "heat", "lower", over="every row", target=3.0))
    sweep = make_sweep(make_row("cool", heat="1.0"), make_row("hot", heat="4.0 ± 0.5"), make_row("mild", heat="2.0"))
    worst = sweep.worst("heat")
    assert (worst.value, worst.std, worst.source) == (4.0, 0.5, "hot")
    assert worst <= 4.0
    assert not worst <= 3.9
    assert sweep.worst("h2o_lossy").source == "cool"
    with pytest.raises(UsageError, match=r"(?s)every row must hold it.*expected: h2o_sweep.worst\('heat'\)"):
        sweep.best("heat")
    with pytest.raises(NotMeasured, match="the column heat of adhoc is missing or not a number"):
        make_sweep(make_row("cool", heat="1.0"), make_row("silent")).worst("heat")
