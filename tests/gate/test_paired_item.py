"""Which row is timed, and what a paired verdict makes of an item's values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_h2o.errors import NotMeasured
from pytest_h2o.gate.decode import DecodeVerdict
from pytest_h2o.gate.rule import (
    Margins,
    add_margin,
    drop_interval,
    eligible_rows,
    joint_interval,
    worst_verdict,
)
from pytest_h2o.gate.values import Comparison, Interval, Measured, Target
from pytest_h2o.run.pairs import choose_baseline, decode_budget, describe_decode
from tests.inputs.test_options import resolve
from tests.sweeps import make_asked, make_facts, make_pairs, make_row, make_sweep

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


def test_of_rows_without_a_speed_the_first_is_timed() -> None:
    sweep = make_sweep(make_row("a", None), make_row("b", None), pairs_drop=0.01)
    assert sweep.decode_drop().source == "a"


@pytest.mark.parametrize(
    ("low", "high", "other_target", "outcome"),
    [
        (-0.02, 0.04, 0.045, "pass"),
        (-0.02, 0.04, 0.04, "inconclusive"),
        (-0.02, 0.04, 0.0, "inconclusive"),
        (-0.02, 0.04, -0.05, "fail"),
        (None, 0.04, -0.05, "inconclusive"),
        (0.2, None, 0.1, "fail"),
        (None, None, 0.5, "inconclusive"),
    ],
)
def test_an_interval_judges_another_target_by_its_bounds(
    low: float | None, high: float | None, other_target: float, outcome: str
) -> None:
    interval = drop_interval(make_verdict("pass", low, high), inconclusive_fails=False)
    assert interval.judge("<=", 0.05) == "pass"
    assert interval.judge("<=", other_target) == outcome


@pytest.mark.parametrize(("fails", "truth"), [(False, True), (True, False)])
def test_an_inconclusive_comparison_holds_or_not_as_it_was_asked(fails: bool, truth: bool) -> None:
    seen: list[Comparison] = []
    interval = drop_interval(make_verdict("inconclusive", -0.02, 0.09), inconclusive_fails=fails)
    measured = Measured("decode_drop", 0.03, "run_0001", interval=interval, on_compare=seen.append)
    assert (measured <= Target("decode_drop", 0.05, "default")) is truth
    assert seen[0].outcome == "inconclusive"
    assert repr(measured) == "3.00% (interval -2.00% to 9.00%, 12 pairs)"
    assert measured <= Target("decode_drop", None, "preset")
    assert seen[1].outcome == "reported"


def test_a_value_above_the_target_passes_or_fails_by_its_interval_alone() -> None:
    passing = Interval(-0.01, 0.04, "pass", 0.05, "12 pairs")
    assert Measured("decode_drop", float("nan"), "r", interval=passing) <= 0.05
    failing = Interval(0.051, 0.2, "fail", 0.05, "12 pairs")
    assert not Measured("decode_drop", 0.01, "r", interval=failing) <= 0.05


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


def test_what_was_not_timed_says_every_target_that_a_row_must_meet_for_it() -> None:
    sweep = make_sweep(make_row("r", quality_ppl_rise="0.2"), pairs_drop=0.0, targets={"quality": 0.1})
    with pytest.raises(NotMeasured, match="nothing was timed") as caught:
        sweep.decode_drop()
    assert caught.value.expected == (
        "a lossy ratio >= 3.000 (preset) and, on the same row, a rise in perplexity <= +10.00% (preset)"
    )
    assert caught.value.hint == "test_lossy and test_quality show the rows and what bounds them"


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
    assert margin.interval is not None
    assert (margin.source, margin.interval.outcome) == ("best of each column", outcome)
    assert margin.value == value
    assert sweep.notes[0] == "timed fast: in the sweep the fastest of 2 rows"


@pytest.mark.parametrize("rule", ["joint", "best-of"])
def test_without_a_row_nothing_is_timed_and_nothing_passes(rule: str) -> None:
    with pytest.raises(NotMeasured, match="no row of adhoc can be timed"):
        make_sweep(pairs_drop=0.0, rule=rule).joint_margin()


TWO_ROWS = make_row("evicts", 50.0, h2o_lossy="3.9"), make_row("fast", 60.0, h2o_lossy="3.3")


def test_the_margin_is_that_of_the_timed_row_and_not_of_the_one_that_evicts_most() -> None:
    sweep = make_sweep(*TWO_ROWS, pairs_drop=0.01)
    margin = sweep.joint_margin()
    assert (margin.metric, margin.source) == ("joint_margin", "fast")
    assert margin.value == pytest.approx(0.04, abs=2e-3)
    assert margin.interval is not None
    assert (margin.interval.outcome, margin.interval.decided_for, margin.interval.basis) == ("pass", 0.0, "12 pairs")
    assert sweep.notes[0] == "timed fast: in the sweep the fastest of 2 rows that meet the lossy target"
    assert all(isinstance(note, str) for note in sweep.notes)


def test_the_row_that_is_timed_is_the_one_that_is_launched() -> None:
    launched: list[str] = []
    sweep: Any = make_sweep(*TWO_ROWS, pairs_drop=0.01)
    pairs = sweep.source.pairs

    def watch(point: Any, *asked: Any) -> Any:
        launched.append(point.run_id)
        return pairs(point, *asked)

    sweep.source.pairs = watch
    sweep.decode_drop()
    sweep.joint_margin()
    assert launched == ["fast", "fast"]


@pytest.mark.parametrize(("lossless", "outcome"), [(1.4 / 1.02, "pass"), (1.4 * 1.02, None)])
def test_the_joint_margin_holds_the_lossless_ratio_too(lossless: float, outcome: str | None) -> None:
    sweep = make_sweep(*TWO_ROWS, pairs_drop=0.0, targets={"lossless": lossless})
    margin = sweep.joint_margin()
    assert (margin.interval and margin.interval.outcome) == outcome
    assert margin.value == pytest.approx(1.4 / lossless - 1, abs=1e-6)
    assert (margin >= 0) == (outcome == "pass")


def test_a_lossless_ratio_that_nobody_asks_for_is_not_measured() -> None:
    def refuse() -> float:
        raise NotMeasured("no dump")

    for rule in ("joint", "best-of"):
        sweep = make_sweep(*TWO_ROWS, pairs_drop=0.01, rule=rule, deciding_ratio=refuse)
        assert sweep.joint_margin() >= 0
        sweep.joint()
        asking = make_sweep(*TWO_ROWS, pairs_drop=0.01, rule=rule, deciding_ratio=refuse, targets={"lossless": 1.3})
        with pytest.raises(NotMeasured, match="no dump"):
            asking.joint()
        assert asking.notes == []


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
    assert drop.interval is not None
    assert drop.interval.basis == "2 pairs"


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
    assert drop.interval is not None
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


def test_what_was_not_timed_names_only_what_was_asked() -> None:
    with pytest.raises(NotMeasured) as caught:
        make_sweep(make_row("r", h2o_lossy="2.0"), pairs_drop=0.0).decode_drop()
    assert str(caught.value).splitlines()[1:] == [
        "  came: no row whose decode speed could matter",
        "  expected: a lossy ratio >= 3.000 (preset)",
        "  next: test_lossy shows the rows and what bounds them",
    ]
    row = make_row("r", quality_ppl_rise="0.2")
    with pytest.raises(NotMeasured) as caught:
        make_sweep(row, pairs_drop=0.0, targets={"lossy": None, "quality": 0.1}).decode_drop()
    assert caught.value.expected == "a rise in perplexity <= +10.00% (preset)"


def test_a_margin_of_nothing_is_held() -> None:
    """A row that meets a target to the digit has missed nothing."""
    row = Margins("r", {"h2o_lossy": 0.0})
    found = joint_interval(row, [make_verdict("pass", -0.02, 0.04)], inconclusive_fails=True)
    assert (found.outcome, found.low, found.inconclusive_fails) == ("pass", 0.0, True)


def test_a_basis_of_one_pair() -> None:
    verdict = replace(make_verdict("inconclusive", None, None), pairs=1, excluded=("pair 2: unlike",))
    assert drop_interval(verdict, inconclusive_fails=False).basis == "1 pair, 1 excluded"


RECORDED = {"h2o_logs": "rec"}


def make_preset(workloads: Sequence[str] = (), **targets: Any) -> Any:
    own = {"decode_baseline": None, "decode_pairs": None, "decode_time_s": None, **targets}
    return SimpleNamespace(name="small", targets=SimpleNamespace(**own), workloads=lambda rule: workloads)


@pytest.mark.parametrize(
    ("line", "ini", "own", "expected"),
    [
        ({"h2o_bench": "b"}, {}, {}, "paired"),
        ({"h2o_logs": "rec"}, {}, {}, None),
        ({}, {}, {}, "paired"),
        ({"h2o_bench": "b"}, {"h2o_decode_baseline": "50"}, {}, "50"),
        ({"h2o_bench": "b"}, {"h2o_decode_baseline": "50"}, {"decode_baseline": "paired"}, "paired"),
        ({"h2o_bench": "b", "h2o_decode_baseline": "none"}, {}, {"decode_baseline": "paired"}, "none"),
        ({"h2o_bench": "b", "h2o_baseline_bench": "c"}, {}, {"decode_baseline": 50.0}, "paired"),
    ],
)
def test_what_decode_speed_is_held_against(line: Any, ini: Any, own: Any, expected: object) -> None:
    assert choose_baseline(resolve(line, ini), make_preset(**own)).value == expected


@pytest.mark.parametrize(
    ("line", "ini", "own", "expected"),
    [
        ({}, {}, {}, (20, 60.0)),
        ({"h2o_bench": "reference"}, {}, {}, (20, 60.0)),
        ({"h2o_bench": "b"}, {}, {}, (20, None)),
        ({}, {"h2o_decode_budget": "30"}, {}, (30, None)),
        ({}, {"h2o_decode_budget": "30"}, {"decode_pairs": 40}, (40, None)),
        ({}, {}, {"decode_time_s": 300.0}, (20, 300.0)),
        ({"h2o_bench": "b", "h2o_decode_budget": "90s"}, {}, {"decode_pairs": 40}, (20, 90.0)),
    ],
)
def test_the_budget_of_a_preset(line: Any, ini: Any, own: Any, expected: tuple[int, float | None]) -> None:
    budget = decode_budget(resolve(line, ini), make_preset(**own))
    assert (budget.pairs, budget.elapsed_s) == expected


def test_the_header_says_what_decode_is_held_against() -> None:
    many = [make_preset(), make_preset(decode_pairs=40)]
    assert describe_decode(resolve({"h2o_bench": "b"}), many[:1]) == [
        "decode paired with H2O off in the same bench, at most 20 pairs a preset (default where a bench runs)"
    ]
    (several,) = describe_decode(resolve({"h2o_bench": "b"}), [make_preset(("p96-g16", "p480-g16"))])
    assert several.startswith("decode paired with H2O off in the same bench, at most 20 pairs a workload (")
    assert len(describe_decode(resolve({"h2o_bench": "b"}), many)) == 2
    assert describe_decode(resolve(RECORDED), many) == ["decode held against the recorded pairs or row with H2O off"]
    assert describe_decode(resolve({"h2o_decode_baseline": "56"}), many) == [
        "decode held against 56 (--h2o-decode-baseline)"
    ]
