"""What a sweep item says of rows that miss a target, lack a column or were disturbed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_h2o.bench.result import PointResult
from pytest_h2o.errors import NotMeasured
from tests.sweeps import make_row, make_sweep


def test_the_slow_down_is_that_of_the_fastest_row_that_meets_the_other_targets() -> None:
    rows = make_row("loose", 66.0, h2o_lossy="2.0"), make_row("slow", 54.0), make_row("fast", 57.0)
    sweep = make_sweep(*rows)
    drop = sweep.decode_drop()
    assert (drop.source, drop.value) == ("fast", pytest.approx(0.05))
    assert sweep.notes == []
    none_meets = make_sweep(*rows, targets={"lossy": 4.0})
    assert none_meets.decode_drop().source == "loose"
    assert none_meets.notes == [
        "no row meets the targets beside that of decode; the slow-down is that of the fastest row"
    ]


@pytest.mark.parametrize("lossy", ["2.0", "3.1"])
def test_a_row_without_a_decode_speed_is_missing_data_even_where_it_does_not_decide(lossy: str) -> None:
    sweep = make_sweep(make_row("whole"), make_row("silent", None, h2o_lossy=lossy))
    with pytest.raises(NotMeasured, match="the column decode_tok_per_s of adhoc is missing or not a number"):
        sweep.decode_drop()


def test_a_disturbed_launch_that_decides_is_told() -> None:
    quiet, disturbed = make_row("quiet", 50.0), make_row("loud", 60.0, "others used 2.0 of 2 cores")
    sweep = make_sweep(quiet, disturbed)
    sweep.decode_drop()
    told = "the launch of loud was disturbed, so its speed is doubtful: others used 2.0 of 2 cores"
    assert sweep.notes == [told]
    other = make_sweep(make_row("quiet", 70.0), disturbed)
    other.decode_drop()
    assert other.notes == []


def rises(*, evicting: str) -> tuple[PointResult, ...]:
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

    def compare(preset: object, point: Any) -> tuple[int, str]:
        asked.append(point.run_id)
        return 3, "1003 bytes by the bench, 1000 by its dump"

    sweep = make_sweep(make_row("first"), make_row("second"), consistency=SimpleNamespace(compare=compare))
    difference = sweep.runtime_difference()
    assert asked == ["first"]
    assert (difference.value, difference.source) == (3, "first, launched again with its dump")
    assert not difference <= 0
    assert sweep.notes == ["1003 bytes by the bench, 1000 by its dump"]
    sweep.refuse_idle()


def test_a_baseline_that_cannot_be_told_is_none_in_the_summary() -> None:
    def refuse(preset: object, results: object) -> None:
        raise NotMeasured("the recorded pairs cannot be read")

    kept: list[dict[str, Any]] = []
    sweep = make_sweep(make_row("r"), remember_preset=lambda preset, facts: kept.append(facts))
    sweep.remember()
    sweep.session.decode.baseline = refuse  # type: ignore[method-assign, assignment]
    sweep.remember()
    assert [facts["baseline_tok_per_s"] for facts in kept] == [60.0, None]
    assert [facts["decode_left_out"] for facts in kept] == [False, False]


def test_without_a_row_the_joint_rule_is_no_pass() -> None:
    with pytest.raises(NotMeasured, match="adhoc has no row"):
        make_sweep().joint_margin()
