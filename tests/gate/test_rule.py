"""The rule on small inputs: every threshold has an input that just holds and one, slightly regressed, that fails."""

import math
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.gate.metrics import LOSSY, METRICS, Better, Metric
from pytest_h2o.gate.rule import (
    Bound,
    RowFacts,
    choose_configuration,
    decide_best_of,
    decide_joint,
    decode_drop,
    drop_interval,
    eligible_rows,
    find_bound,
    hold_rows,
    join_margins,
    judge_speeds,
    pool_drop,
    row_bound,
    row_facts,
    split_layers,
    whole_cache_ratio,
    worst_row,
)
from pytest_h2o.gate.values import Interval
from tests.sweeps import make_asked, make_facts, make_row

ASKED = make_asked(lossy=3.0, decode_drop=0.05, lossless=1.3)
BASELINE = 100.0


def facts(run_id: str, lossy: float | None, speed: float | None, lossless: float | None = 1.3) -> RowFacts:
    return make_facts(run_id, lossy, speed, baseline=BASELINE, lossless=lossless)


def decide(rows: list[RowFacts], asked: dict[str, float] = ASKED) -> tuple[bool, bool]:
    return decide_joint(rows, asked).passed, decide_best_of(rows, asked).passed


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(facts("a", math.nextafter(3.0, 0), 95.0), id="lossy"),
        pytest.param(facts("a", 3.0, 94.999999), id="decode"),
        pytest.param(facts("a", 3.0, 95.0, math.nextafter(1.3, 0)), id="lossless"),
        pytest.param(facts("a", None, 95.0), id="no-lossy"),
        pytest.param(facts("a", 3.0, None), id="no-decode"),
        pytest.param(facts("a", 3.0, 95.0, None), id="no-lossless"),
        pytest.param(facts("a", math.nan, 95.0), id="nan-lossy"),
        pytest.param(facts("a", 3.0, math.nan), id="nan-decode"),
        pytest.param(facts("a", 3.0, 95.0, math.nan), id="nan-lossless"),
    ],
)
def test_one_figure_slightly_worse_or_missing_fails_both_rules(row: RowFacts) -> None:
    assert decide([facts("exactly on every target", 3.0, 95.0)]) == (True, True)
    assert decide([row]) == (False, False)


def test_two_rows_that_share_the_targets_pass_best_of_but_not_joint() -> None:
    rows = [facts("lossy", 3.4, 80.0, 1.4), facts("fast", 2.0, 110.0, 1.4)]
    assert decide(rows) == (False, True)
    joint = decide_joint(rows, ASKED)
    assert [m.missed for m in joint.rows] == [("decode",), ("lossy",)]
    assert joint.best.run_id == "lossy"
    assert joint.best.smallest == pytest.approx(0.05 - 0.20)


def test_no_row_and_no_threshold_never_pass() -> None:
    assert decide([]) == (False, False)
    assert decide([facts("a", 9.0, 200.0)], {}) == (False, False)
    assert decide([facts("a", 3.0, None)], make_asked(lossy=3.0, lossless=1.3)) == (True, True)  # decode is left out


@pytest.mark.parametrize(
    ("better", "values", "target", "held"),
    [
        ("higher", (3.0, 2.0), 2.0, True),
        ("higher", (3.0, 2.0), 2.5, False),
        ("higher", (3.0, None), 2.0, False),
        ("higher", (3.0, math.nan), 2.0, False),
        ("lower", (2.0, 3.0), 3.0, True),
        ("lower", (2.0, 3.0), 2.5, False),
    ],
)
def test_a_metric_that_every_row_must_hold_is_decided_by_the_worst(
    better: Better, values: tuple[float | None, ...], target: float, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the row that meets the other targets has; a row without a value is the worst."""
    monkeypatch.setitem(METRICS, "mine", Metric("mine", "my metric", better, over="every row"))
    assert decide([], {"mine": target}) == (False, False)
    rows = [facts(f"row {n}", 3.0, 95.0)._replace(values={"mine": value}) for n, value in enumerate(values)]
    assert decide(rows, {"mine": target}) == (held, held)
    assert {row.missed for row in decide_joint(rows, {"mine": target}).rows} == {() if held else ("mine",)}
    worst = worst_row(rows, "mine")
    assert worst.run_id == "row 1"
    assert len(eligible_rows(rows, {"mine": target}, rule="joint")) == 2  # it tells no row from another


def test_the_drop_is_a_fraction_of_a_baseline_that_is_a_speed() -> None:
    assert decode_drop(56.02, 66.76) == pytest.approx(-0.191717, abs=5e-7)
    assert decode_drop(100.0, 66.76) == pytest.approx(0.3324)
    assert decode_drop(0.5, 0.4) == pytest.approx(0.2)
    for baseline in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be a positive number of tok/s"):
            decode_drop(baseline, 50.0)


ratios = st.floats(0.5, 10.0)
speeds = st.floats(1.0, 200.0)


@given(st.lists(st.tuples(ratios, speeds), min_size=1, max_size=6), ratios, ratios, st.floats(0.0, 0.5), ratios)
def test_joint_is_some_row_meeting_all_and_implies_best_of(
    figures: list[tuple[float, float]], lossy: float, lossless_target: float, drop: float, lossless: float
) -> None:
    rows = [facts("a", ratio, speed, lossless) for ratio, speed in figures]
    expected = lossless >= lossless_target and any(
        ratio >= lossy and decode_drop(BASELINE, speed) <= drop for ratio, speed in figures
    )
    joint, best_of = decide(rows, make_asked(lossy=lossy, lossless=lossless_target, decode_drop=drop))
    assert joint == expected
    assert best_of or not joint


@given(ratios, ratios)
def test_the_sign_of_a_ratio_margin_is_exact(value: float, target: float) -> None:
    assert (METRICS["h2o_lossy"].margin(value, target) >= 0) == (value >= target)
    assert (METRICS["h2o_keep"].margin(value, target) >= 0) == (value <= target)


def both(name: str, short: tuple[float, float], long: tuple[float, float]) -> list[RowFacts]:
    """The rows of one configuration at two lengths: lossy ratio and decode speed of each."""
    return [
        RowFacts(f"{name} {workload}", {LOSSY: lossy, "decode_tok_per_s": speed}, workload, name)
        for workload, (lossy, speed) in (("short", short), ("long", long))
    ]


def test_a_configuration_is_as_good_as_its_worst_row() -> None:
    rows = [*both("a", (3.6, 1), (2.9, 1)), *both("b", (3.1, 1), (3.2, 1)), *both("c", (2.0, 1), (9.0, 1))]
    verdict = decide_joint(rows, {LOSSY: 3.0})
    assert (verdict.passed, verdict.best.run_id) == (True, "b short")
    assert [round(row.smallest, 3) for row in verdict.together] == [-0.033, -0.033, 0.033, 0.033, -0.333, -0.333]
    assert [row.missed for row in verdict.rows] == [(), ("lossy",), (), (), ("lossy",), ()]
    assert decide_best_of(rows, {LOSSY: 9.0}).passed
    assert not decide_joint(rows, {LOSSY: 3.15}).passed


def test_rows_of_a_configuration_hold_together_the_smallest_margin_of_each_target() -> None:
    together = join_margins(hold_rows([facts("a", 3.3, 90.0), facts("b", 2.7, 97.0)], ASKED))
    assert together.run_id == "b"
    assert {name: round(margin, 6) for name, margin in together.by_metric.items()} == {
        "h2o_lossy": -0.1,
        "decode_drop": -0.05,
        "lossless_ratio": 0.0,
    }


def test_the_facts_of_a_row_are_those_of_its_worst_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "mine", Metric("mine", "my metric", "lower", over="every row"))
    row = make_row("run_0001", mine="2.0")
    row = replace(row, again=(row.cells, {**row.cells, "mine": "3.0"}))
    found = row_facts(row, ["mine"], workload="p512-g128", configuration="a")
    assert (found.values["mine"], found.workload, found.configuration) == (3.0, "p512-g128", "a")


def test_a_slow_down_is_pooled_over_the_rows_that_meet_the_other_targets_if_each_has_one() -> None:
    rows = [facts("a", 3.4, 90.0), facts("b", 3.4, 100.0), facts("c", 2.0, 50.0)]
    pooled = pool_drop(rows, ASKED)
    assert [row.values["decode_drop"] for row in pooled] == [pytest.approx(0.05)] * 3
    unknown = [*rows, facts("d", 3.4, None)]
    assert pool_drop(unknown, ASKED) == tuple(unknown)


@pytest.mark.parametrize(("over", "drop"), [("mean", 0.16), ("median", 0.1)])
def test_the_speed_of_all_rows_is_their_mean_or_median(over: Literal["mean", "median"], drop: float) -> None:
    rows = [make_row(f"run_{number}", speed) for number, speed in enumerate((90.0, 90.1, 89.9, 90.0, 60.0))]
    verdict = judge_speeds(rows, 100.0, 0.05, over)
    assert verdict.drop == pytest.approx(drop)
    assert (verdict.low or 0) < drop < (verdict.high or 0)
    interval = drop_interval(verdict, inconclusive_fails=False)
    assert interval == Interval(verdict.low, verdict.high, verdict.outcome, 0.05, verdict.basis, False)


def test_the_configuration_that_is_timed_is_behind_the_fastest_by_the_least() -> None:
    rows = [
        *both("unknown", (3.1, math.nan), (3.1, 90)),
        *both("fast at short", (3.1, 1000), (3.1, 50)),
        *both("even", (3.1, 900), (3.1, 90)),
        *both("fast at long", (3.1, 600), (3.1, 100)),
        *both("too big at long", (3.1, 2000), (2.9, 200)),
    ]
    chosen = choose_configuration(rows, {LOSSY: 3.0}, rule="joint")
    assert [row.run_id for row in chosen] == ["even short", "even long"]
    assert choose_configuration(rows, {LOSSY: 4.0}, rule="joint") == ()
    silent = both("a", (3.1, math.nan), (3.1, math.nan))
    assert len(choose_configuration(silent, {LOSSY: 3.0}, rule="joint")) == 2


def test_the_bound_of_a_row_is_that_of_its_columns() -> None:
    cells = {"h2o_floor_keep": "0.05", "h2o_target_keep_effective": "0.33", "h2o_quantized_keep": "0.34 ± 0.01"}
    assert row_bound(make_row("r", **cells)) == Bound("block quantisation", 0.34)
    assert row_bound(make_row("r")) is None


def test_could_not_pass_leaves_one_percent(snapshot: SnapshotAssertion) -> None:
    bound = Bound("block quantisation", 0.3377)
    most = "block quantisation: keep 0.3377, so a lossy ratio of about 2.961 at most"
    assert (bound.render(2.99), bound.render(3.5)) == (most, f"{most}; this row could not pass")
    assert bound.render(3.5, 2.99) == bound.render(3.5)
    assert bound.render(3.5, 2.992) == snapshot
    assert Bound("target", 0.25).could_pass(4.0 * 1.01)
    assert not Bound("target", 0.25).could_pass(math.nextafter(4.0 * 1.01, 5))


def test_margins_are_fractions_of_their_target() -> None:
    """A row that misses a target of 4 by a fifth of it ranks behind one that misses by a tenth."""
    verdict = decide_joint([make_facts("row", 3.2, lossless=1.5)], make_asked(lossy=4.0, lossless=1.25))
    assert verdict.best.by_metric == {LOSSY: pytest.approx(-0.2), "lossless_ratio": pytest.approx(0.2)}
    assert not verdict.passed


def test_best_of_holds_the_best_of_each_column_and_names_its_rows() -> None:
    rows = [make_facts(*row, baseline=60.0, lossless=1.5) for row in (("a", 3.6, 40.0, 0.03), ("b", 2.0, 57.0, 0.01))]
    asked = make_asked(lossy=3.0, decode_drop=0.10, quality=0.02, lossless=1.25)
    verdict = decide_best_of([*rows, make_facts("c", None, lossless=1.5)], asked)
    assert (verdict.passed, verdict.margins.run_id) == (True, "best of each column")
    assert list(verdict.margins.by_metric.values()) == [pytest.approx(margin) for margin in (0.2, 0.05, 0.01, 0.2)]
    assert (verdict.rows[LOSSY], verdict.rows["decode_drop"]) == (rows[0], rows[1])
    assert set(decide_best_of([], asked).margins.by_metric.values()) == {-math.inf}


@pytest.mark.parametrize(
    ("rises", "target", "holds"),
    [
        ((0.03, 0.02), 0.02, True),
        ((0.03, 0.021), 0.02, False),
        ((-0.01, 0.5), 0.0, True),
        ((None, 0.01), 0.02, True),
        ((None, None), 0.02, False),
        ((0.9, 0.9), None, None),
    ],
)
def test_the_best_of_rule_takes_the_smallest_rise_of_perplexity(
    rises: tuple[float | None, ...], target: float | None, holds: bool | None
) -> None:
    rows = [make_facts(f"row {n}", 3.0, rise=rise) for n, rise in enumerate(rises)]
    verdict = decide_best_of(rows, make_asked(lossy=3.0, quality=target))
    assert verdict.passed is (holds is not False)
    assert verdict.margins.missed == (("quality",) if holds is False else ())


def test_the_joint_rule_asks_one_row_for_quality_too() -> None:
    """Each row meets one of the two targets; together they would pass."""
    rows = [make_facts("dense", 3.2, rise=0.05), make_facts("sound", 2.8, rise=0.01)]
    asked = make_asked(lossy=3.0, quality=0.02)
    verdict = decide_joint(rows, asked)
    assert decide(rows, asked) == (False, True)
    margins = [row.by_metric["quality_ppl_rise"] for row in verdict.rows]
    assert margins == [pytest.approx(-0.03), pytest.approx(0.01)]
    assert decide_joint([*rows, make_facts("both", 3.0, rise=0.02)], asked).passed
    assert not decide_joint([make_facts("unknown", 9.0)], asked).passed


@pytest.mark.parametrize(
    ("keeps", "bound"),
    [
        ((0.0574, 0.3336, 0.3377), Bound("block quantisation", 0.3377)),
        ((0.45, 0.3336, 0.40), Bound("floor", 0.45)),
        ((0.3, 0.4, 0.2), Bound("target", 0.4)),
        ((0.4, 0.4, 0.3), Bound("floor", 0.4)),
        ((0.4, 0.3, 0.4), Bound("floor", 0.4)),
        ((0.2, 0.3, 0.3), Bound("target", 0.3)),
        ((1.0, 1.0, 1.0), Bound("floor", 1.0)),
        ((None, 0.3, 0.3), None),
        ((0.1, None, 0.3), None),
        ((0.1, 0.3, None), None),
        ((0.0, 0.3, 0.3), None),
        ((0.1, 0.3, 1.5), None),
    ],
)
def test_the_largest_of_the_three_binds(keeps: tuple[float, float, float], bound: Bound | None) -> None:
    assert find_bound(*keeps) == bound


def test_the_ratio_over_the_whole_cache() -> None:
    layers = split_layers(30, 2, -1, [0, 1])
    assert whole_cache_ratio(layers, 3.38, 1.467564578551945) == pytest.approx(3.1099, abs=5e-4)
    assert whole_cache_ratio(layers, 3.38, None) == pytest.approx(2.917, abs=5e-4)
    # A layer under both counts as evicted only, and untouched layers stay.
    layers = split_layers(4, 1, 2, [0, 1, 9])
    assert whole_cache_ratio(layers, 2.0, 2.0) == pytest.approx(4 / (1 + 0.5 + 1))


@pytest.mark.parametrize(
    ("bounds", "evicted"),
    [
        ((0, -1), {0, 1, 2, 3}),
        ((2, -1), {2, 3}),
        ((0, 0), {0}),
        ((1, 2), {1, 2}),
        ((1, 3), {1, 2, 3}),
        ((1, 9), {1, 2, 3}),
        ((2, 1), set()),
    ],
)
def test_the_layers_under_eviction(bounds: tuple[int, int], evicted: set[int]) -> None:
    layers = split_layers(4, *bounds, [-1, 0, 1, 2, 3, 4])
    assert (layers.total, layers.lossy) == (4, evicted)
    assert layers.lossless == {0, 1, 2, 3} - evicted
