"""What a sweep item says of rows that miss a target, lack a column or were disturbed."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench.demo import DemoLaunch, compare_texts
from pytest_h2o.errors import NotMeasured, OptedOut, UsageError
from pytest_h2o.files import plain
from pytest_h2o.gate.decode import DecodeVerdict
from pytest_h2o.gate.demo import DemoComparison, DemoPair
from pytest_h2o.gate.metrics import METRICS, Metric, RowMetric
from pytest_h2o.gate.rule import (
    Margins,
    add_margin,
    eligible_rows,
    joint_interval,
    worst_verdict,
)
from pytest_h2o.gate.values import Target, Targets
from pytest_h2o.run.items import SweepItem
from pytest_h2o.run.pairs import Baseline
from tests.sweeps import make_asked, make_facts, make_pairs, make_row, make_sweep


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


@pytest.mark.parametrize(
    ("lossy", "source", "notes"),
    [(3.0, "evicts", []), (5.0, "keeps", ["no row meets the lossy target; the rise is the least of all rows"])],
)
def test_the_rise_is_the_least_of_the_rows_that_evict_enough(lossy: float, source: str, notes: list[str]) -> None:
    rows = (
        make_row("keeps", h2o_lossy="1.2", quality_ppl_rise="0.01"),
        make_row("evicts", h2o_lossy="3.2", quality_ppl_rise="0.2"),
        make_row("evicts_worse", h2o_lossy="3.4", quality_ppl_rise="0.5"),
    )
    sweep = make_sweep(*rows, targets={"quality": 0.1, "lossy": lossy})
    rise = sweep.quality_rise()
    assert (rise.source, rise <= sweep.targets.quality) == (source, source == "keeps")
    assert sweep.notes == notes


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


def test_a_baseline_that_cannot_be_told_is_none_in_the_summary_and_left_out_of_what_is_known() -> None:
    def refuse(results: object, workload: str) -> None:
        raise NotMeasured("the recorded pairs cannot be read")

    sweep: Any = make_sweep(make_row("r"))
    sweep.remember()
    sweep.source.baseline = refuse
    sweep.remember()
    kept = [facts for _, facts in sweep.session.run.new.kept]
    assert [(facts.baseline_tok_per_s, facts.decode_left_out) for facts in kept] == [(60.0, False), (None, False)]
    (row,) = sweep.joint(known_only=True).rows
    assert "decode_drop" not in row.by_metric
    with pytest.raises(NotMeasured, match="the recorded pairs cannot be read"):
        sweep.joint()


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


def test_one_row_must_meet_every_target(snapshot: SnapshotAssertion) -> None:
    sweep = make_sweep(*ONE_EACH, targets={"lossless": 1.4 / 1.1})
    margin = sweep.joint_margin()
    assert (margin.metric, margin.source, margin.value) == ("joint_margin", "evicts", pytest.approx(0.05 - 1 / 6))
    assert not margin >= 0
    assert sweep.notes == snapshot
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


@pytest.mark.parametrize("rule", ["joint", "best-of"])
@pytest.mark.parametrize("pairs_drop", [None, 0.01])
def test_a_lossless_ratio_that_nobody_asks_for_is_not_measured(rule: str, pairs_drop: float | None) -> None:
    def refuse() -> float:
        raise NotMeasured("no dump")

    assert make_sweep(*TWO_ROWS, pairs_drop=pairs_drop, rule=rule, deciding_ratio=refuse).joint_margin() >= 0
    asks = {"lossless": 1.3}
    asking = make_sweep(*TWO_ROWS, pairs_drop=pairs_drop, rule=rule, deciding_ratio=refuse, targets=asks)
    with pytest.raises(NotMeasured, match="no dump"):
        asking.joint()
    told = "the joint rule needs the lossless ratio of the scope that decides"
    assert asking.notes == ([told] if pairs_drop is None else [])


def test_a_decode_threshold_that_was_left_out_holds_nobody_back() -> None:
    def leave_out(results: object, workload: str) -> None:
        raise OptedOut("none")

    sweep: Any = make_sweep(make_row("slow", 1.0))
    assert not sweep.joint_margin() >= 0
    sweep.source.baseline = leave_out
    margin = sweep.joint_margin()
    assert (margin.value, margin >= 0) == (pytest.approx(0.1 / 3), True)
    assert "none" in sweep.notes


def test_what_the_summary_is_told_of_a_preset(monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion) -> None:
    sweep: Any = make_sweep(make_row("r"), fingerprint=lambda found: {"preset": "adhoc", "rows": str(len(found))})
    metrics = {"mine": Target("mine", 2.0, "preset"), "told": Target("told", None, "the plugin that adds it")}
    for name in metrics:
        monkeypatch.setitem(METRICS, name, RowMetric(name, name))
    sweep.targets = Targets({**sweep.targets.by_metric, **metrics})
    sweep.preset = sweep.preset.model_copy(update={"path": Path("a.yaml")})
    sweep.remember()
    ((preset, facts),) = sweep.session.run.new.kept
    assert preset == sweep.name
    assert plain(facts) == snapshot


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
    of_workload = SweepItem(sweep.session, sweep.preset, sweep.targets, "p512-g128")
    assert of_workload.demo_drop().source == "most"
    assert sweep.demo_drop(512).source == "prompts of about 512 tokens"


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


ROWS = (make_facts("slow", 3.4, 50.0), make_facts("fast", 3.0, 58.0), make_facts("fastest", 2.9, 66.0))


def make_verdict(outcome: str, low: float | None, high: float | None, drop: float | None = 0.03) -> DecodeVerdict:
    return DecodeVerdict(outcome, drop, low, high, 12, 0.05, 0.95, None, 20)  # type: ignore[arg-type]


def test_only_a_row_that_meets_its_own_targets_can_be_timed() -> None:
    def eligible(rule: str = "joint", **asked: float) -> tuple[str, ...]:
        return tuple(row.run_id for row in eligible_rows(ROWS, make_asked(**asked, decode_drop=0.05), rule=rule))

    assert eligible(lossy=3.0) == ("slow", "fast")
    assert eligible(lossy=3.5) == ()
    assert eligible("best-of", lossy=3.5) == eligible() == ("slow", "fast", "fastest")
    assert eligible_rows([make_facts("missing", None, 60.0)], make_asked(lossy=1.0), rule="joint") == ()


@pytest.mark.parametrize(
    ("lossy", "verdict", "expected"),
    [
        (0.13, make_verdict("pass", -0.02, 0.04), (pytest.approx(0.01), pytest.approx(0.07), "pass")),
        (0.02, make_verdict("pass", -0.02, 0.01), (pytest.approx(0.02), pytest.approx(0.02), "pass")),
        (0.13, make_verdict("fail", 0.07, 0.3), (pytest.approx(-0.25), pytest.approx(-0.02), "fail")),
        (0.13, make_verdict("inconclusive", None, 0.3), (pytest.approx(-0.25), None, "inconclusive")),
        (-0.01, make_verdict("pass", -0.02, 0.04), (pytest.approx(-0.01), pytest.approx(-0.01), "fail")),
    ],
)
def test_the_joint_margin_is_as_certain_as_the_slow_down(
    lossy: float, verdict: DecodeVerdict, expected: tuple[Any, ...]
) -> None:
    others = Margins("r", {"h2o_lossy": lossy, "lossless_ratio": 0.2})
    found = joint_interval(others, [verdict], inconclusive_fails=False)
    assert (found.low, found.high, found.outcome) == expected


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([("pass", -0.02, 0.04), ("pass", 0.0, 0.03)], (pytest.approx(0.01), pytest.approx(0.05), "pass")),
        ([("pass", -0.02, 0.04), ("fail", 0.1, 0.2)], (pytest.approx(-0.15), pytest.approx(-0.05), "fail")),
        ([("inconclusive", None, None), ("fail", 0.1, None)], (None, pytest.approx(-0.05), "fail")),
    ],
)
def test_over_several_workloads_the_worst_slow_down_decides(verdicts: list[Any], expected: tuple[Any, ...]) -> None:
    made = [make_verdict(*verdict) for verdict in verdicts]
    found = joint_interval(Margins("r", {"h2o_lossy": 0.13}), made, inconclusive_fails=False)
    assert (found.low, found.high, found.outcome) == expected
    assert found.basis == "12 pairs at each of 2 workloads"
    assert joint_interval(Margins("r", {"h2o_lossy": -math.inf}), made, inconclusive_fails=False) is None
    unlike = joint_interval(Margins("r", {}), [made[0], replace(made[1], pairs=8)], inconclusive_fails=False)
    assert unlike.basis == "12 pairs, 8 pairs"
    drops = [make_verdict("pass", 0.0, 0.1, drop=drop) for drop in (0.01, 0.03, None)]
    assert [worst_verdict(drops[:2]), worst_verdict(drops)] == drops[1:]


def test_the_margin_of_pairs_stands_in_its_place() -> None:
    others = Margins("a", {"h2o_lossy": 0.1, "lossless_ratio": 0.2})
    timed = add_margin(others, "decode_drop", make_verdict("fail", 0.07, 0.3, drop=0.25))
    assert timed.by_metric == {**others.by_metric, "decode_drop": pytest.approx(-0.2)}
    assert list(timed.by_metric) == ["h2o_lossy", "decode_drop", "lossless_ratio"]
    nothing = add_margin(others, "decode_drop", make_verdict("inconclusive", None, None, drop=None))
    assert nothing.smallest == -math.inf


def test_the_fastest_row_that_keeps_quality_is_timed_and_decides() -> None:
    rows = (
        make_row("wrong", 70.0, quality_ppl_rise="0.2"),
        make_row("slow", 50.0, quality_ppl_rise="0.01"),
        make_row("good", 60.0, quality_ppl_rise="0.01"),
    )
    sweep = make_sweep(*rows, pairs_drop=0.01, targets={"quality": 0.1})
    drop = sweep.decode_drop()
    assert (drop.source, drop <= sweep.targets.decode_drop) == ("good", True)
    assert drop.value == pytest.approx(0.01, abs=0.005)
    assert "timed good: in the sweep the fastest of 2 rows that meet the lossy and the quality target" in sweep.notes
    assert sweep.joint_margin() >= 0


@pytest.mark.parametrize(
    ("lossy", "drop", "outcome", "value"),
    [
        (3.5, 0.01, "pass", pytest.approx(0.04, abs=2e-3)),
        (3.5, 0.3, "fail", pytest.approx(-0.25, abs=0.01)),
        (2.9, 0.01, "fail", pytest.approx(-0.0333, abs=1e-3)),
    ],
)
def test_under_best_of_pairs_decide_beside_the_best_of_each_column(
    lossy: float, drop: float, outcome: str, value: object
) -> None:
    rows = (make_row("evicts", 50.0, h2o_lossy=str(lossy)), make_row("fast", 60.0, h2o_lossy="1.0"))
    sweep = make_sweep(*rows, pairs_drop=drop, rule="best-of", targets={"lossless": 1.4 / 1.1})
    margin = sweep.joint_margin()
    assert (margin.source, margin.interval.outcome) == ("best of each column", outcome)
    assert margin.value == value
    assert sweep.notes[0] == "timed fast: in the sweep the fastest of 2 rows"


TWO_ROWS = make_row("evicts", 50.0, h2o_lossy="3.9"), make_row("fast", 60.0, h2o_lossy="3.3")


def test_the_margin_is_that_of_the_timed_row_and_not_of_the_one_that_evicts_most() -> None:
    sweep = make_sweep(*TWO_ROWS, pairs_drop=0.01)
    margin = sweep.joint_margin()
    assert (margin.metric, margin.source) == ("joint_margin", "fast")
    assert margin.value == pytest.approx(0.04, abs=2e-3)
    assert (margin.interval.outcome, margin.interval.decided_for, margin.interval.basis) == ("pass", 0.0, "12 pairs")
    assert sweep.notes[0] == "timed fast: in the sweep the fastest of 2 rows that meet the lossy target"
    assert all(isinstance(note, str) for note in sweep.notes)


@pytest.mark.parametrize(("lossless", "outcome"), [(1.4 / 1.02, "pass"), (1.4 * 1.02, None)])
def test_the_joint_margin_holds_the_lossless_ratio_too(lossless: float, outcome: str | None) -> None:
    sweep = make_sweep(*TWO_ROWS, pairs_drop=0.0, targets={"lossless": lossless})
    margin = sweep.joint_margin()
    assert (margin.interval and margin.interval.outcome) == outcome
    assert margin.value == pytest.approx(1.4 / lossless - 1, abs=1e-6)
    assert (margin >= 0) == (outcome == "pass")


@pytest.mark.parametrize("rule", ["joint", "best-of"])
@pytest.mark.parametrize(("inconclusive", "holds"), [("warn", True), ("fail", False)])
def test_too_few_pairs_are_inconclusive_and_fail_where_that_was_asked(
    rule: str, inconclusive: str, holds: bool
) -> None:
    settings = {"inconclusive": inconclusive}
    sweep = make_sweep(*TWO_ROWS, pairs_drop=0.01, pairs={"count": 2}, rule=rule, settings=settings)
    drop = sweep.decode_drop()
    assert (drop <= sweep.targets.decode_drop) is holds
    assert (sweep.joint_margin() >= 0) is holds
    assert [comparison.outcome for comparison in sweep.comparisons] == ["inconclusive"] * 2
    assert drop.interval.basis == "2 pairs"


@pytest.mark.parametrize(("drop", "held"), [(-0.12, True), (-0.02, False)])
def test_a_target_below_0_asks_for_a_gain(drop: float, held: bool) -> None:
    sweep = make_sweep(*TWO_ROWS, pairs_drop=drop, targets={"decode_drop": -0.05})
    assert (sweep.decode_drop() <= sweep.targets.decode_drop) is held
    assert (sweep.joint_margin() >= 0) is held


@pytest.mark.parametrize("rule", ["joint", "best-of"])
def test_pairs_that_cannot_be_compared_give_no_number(rule: str) -> None:
    pairs = {"count": 1, "excluded": "unlike contexts"}
    settings = {"inconclusive": "fail"}
    sweep = make_sweep(*TWO_ROWS, pairs_drop=0.01, pairs=pairs, rule=rule, settings=settings)
    drop, margin = sweep.decode_drop(), sweep.joint_margin()
    assert math.isnan(drop.value)
    assert math.isnan(margin.value)
    assert not drop <= sweep.targets.decode_drop
    assert not margin >= 0
    assert drop.interval.basis == "0 pairs, 1 excluded"


@pytest.mark.parametrize(("known", "timed"), [("evicts", "evicts"), ("fast", "fast"), ("gone", "fast")])
def test_a_row_that_was_timed_before_stays_the_timed_one_while_it_is_eligible(known: str, timed: str) -> None:
    sweep = make_sweep(*TWO_ROWS, pairs_drop=0.01, known=make_pairs(known, 0.01))
    assert sweep.decode_drop().source == timed
    assert sweep.joint_margin().source == timed


def test_the_margins_of_a_row_that_was_timed_before_are_known() -> None:
    sweep = make_sweep(*TWO_ROWS, pairs_drop=0.01, known=make_pairs("fast", 0.01), targets={"lossless": 1.3})
    untimed, timed = sweep.joint().rows
    assert (untimed.run_id, timed.run_id) == ("evicts", "fast")
    assert "decode_drop" not in untimed.by_metric
    assert timed.by_metric["decode_drop"] == pytest.approx(0.04, abs=2e-3)
    assert [row.by_metric["lossless_ratio"] for row in (untimed, timed)] == [pytest.approx(1.4 / 1.3 - 1)] * 2
    assert not any("lossless_ratio" in row.by_metric for row in sweep.joint(known_only=True).rows)


def test_where_decode_was_left_out_the_rules_may_differ_without_a_word_of_speed() -> None:
    evicts, keeps = (("3.6", "0.5"), ("2.7", "0.01"))
    rows = [make_row(lossy, h2o_lossy=lossy, quality_ppl_rise=rise) for lossy, rise in (evicts, keeps)]
    sweep = make_sweep(*rows, targets={"quality": 0.1, "decode_drop": None})
    assert sweep.best_of().passed
    assert not sweep.joint_margin() >= 0
    assert not any("the rules differ" in note for note in sweep.notes)


@pytest.mark.parametrize(
    ("rise", "targets", "expected", "shown_by"),
    [
        (None, {}, "a lossy ratio >= 3.000 (preset)", "test_lossy shows"),
        ("0.2", {"lossy": None, "quality": 0.1}, "a rise in perplexity <= +10.00% (preset)", "test_quality shows"),
        (
            "0.2",
            {"quality": 0.1},
            "a lossy ratio >= 3.000 (preset) and, on the same row, a rise in perplexity <= +10.00% (preset)",
            "test_lossy and test_quality show",
        ),
    ],
)
def test_what_was_not_timed_says_every_target_that_a_row_must_meet_for_it(
    rise: str | None, targets: dict[str, float | None], expected: str, shown_by: str
) -> None:
    row = make_row("r", h2o_lossy="2.0") if rise is None else make_row("r", quality_ppl_rise=rise)
    with pytest.raises(NotMeasured, match="nothing was timed") as caught:
        make_sweep(row, pairs_drop=0.0, targets=targets).decode_drop()
    assert (caught.value.came, caught.value.expected) == ("no row whose decode speed could matter", expected)
    assert caught.value.hint == f"{shown_by} the rows and what bounds them"


@pytest.mark.parametrize(
    ("on", "target", "value", "note"),
    [
        ("a c", None, 0.5, ""),
        ("x y", None, 0.0, "\n{hardly}, and no target asks for more: targets: {{similarity: 0.3}} does"),
        ("x y", 0.0, 0.0, "\n{hardly}"),
    ],
)
def test_a_similarity_of_nothing_is_told_in_words(on: str, target: float | None, value: float, note: str) -> None:
    asked = {} if target is None else {"similarity": target}
    sweep = make_sweep(make_row("r"), targets=asked, demo=lambda point, *_: said(point, "a b", on))
    assert sweep.text_similarity().value == value
    told = compare_texts("p", "a b", on).render() + note.format(hardly="the texts have hardly a word in common")
    assert sweep.notes == told.split("\n")


@pytest.mark.parametrize(
    ("ask", "cells", "column"),
    [
        ("decode_drop", {"speed": None, "h2o_lossy": "2.0"}, "decode_tok_per_s"),
        ("decode_drop", {"speed": None}, "decode_tok_per_s"),
        ("quality_rise", {"h2o_lossy": "1.2", "quality_ppl_rise": ""}, "quality_ppl_rise"),
        ("quality_rise", {"h2o_lossy": "1.2", "quality_ppl_rise": "nan"}, "quality_ppl_rise"),
    ],
)
def test_what_a_row_lacks_is_missing_data_even_where_it_does_not_decide(
    ask: str, cells: dict[str, Any], column: str
) -> None:
    sweep = make_sweep(make_row("a", quality_ppl_rise="0.01"), make_row("b", **cells), targets={"quality": 0.1})
    with pytest.raises(NotMeasured, match=f"the column {column} of adhoc is missing or not a number"):
        getattr(sweep, ask)()


def test_without_a_row_or_what_it_evicts_nothing_passes() -> None:
    with pytest.raises(NotMeasured, match="adhoc has no row"):
        make_sweep().joint_margin()
    for rule in ("joint", "best-of"):
        with pytest.raises(NotMeasured, match="no row of adhoc can be timed"):
            make_sweep(pairs_drop=0.0, rule=rule).joint_margin()
    with pytest.raises(NotMeasured, match="no row of adhoc has a lossy ratio"):
        make_sweep(make_row("r", h2o_lossy="")).text_similarity()
