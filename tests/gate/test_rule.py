"""The rule on small inputs: every threshold has an input that just holds and one, slightly regressed, that fails."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h2o.gate.rule import RowFacts, Thresholds, decide_best_of, decide_joint, decode_drop, row_margins

ASKED = Thresholds(lossy=3.0, lossless=1.3, decode_drop=0.05)
BASELINE = 100.0


def decide(rows: list[RowFacts], asked: Thresholds = ASKED, *, lossless: float | None = 1.3) -> tuple[bool, bool]:
    joint = decide_joint(rows, asked, baseline_tok_per_s=BASELINE, lossless=lossless)
    best_of = decide_best_of(rows, asked, baseline_tok_per_s=BASELINE, lossless=lossless)
    return joint.passed, best_of.passed


def test_a_row_exactly_on_every_target_passes() -> None:
    assert decide([RowFacts("a", 3.0, 95.0)]) == (True, True)


@pytest.mark.parametrize(
    ("row", "lossless"),
    [
        (RowFacts("a", math.nextafter(3.0, 0), 95.0), 1.3),
        (RowFacts("a", 3.0, 94.999999), 1.3),
        (RowFacts("a", 3.0, 95.0), math.nextafter(1.3, 0)),
        (RowFacts("a", None, 95.0), 1.3),
        (RowFacts("a", 3.0, None), 1.3),
        (RowFacts("a", 3.0, 95.0), None),
        (RowFacts("a", math.nan, 95.0), 1.3),
        (RowFacts("a", 3.0, math.nan), 1.3),
        (RowFacts("a", 3.0, 95.0), math.nan),
    ],
    ids=[
        "lossy",
        "decode",
        "lossless",
        "no-lossy",
        "no-decode",
        "no-lossless",
        "nan-lossy",
        "nan-decode",
        "nan-lossless",
    ],
)
def test_one_figure_slightly_worse_or_missing_fails_both_rules(row: RowFacts, lossless: float | None) -> None:
    assert decide([row], lossless=lossless) == (False, False)


def test_two_rows_that_share_the_targets_pass_best_of_but_not_joint() -> None:
    rows = [RowFacts("lossy", 3.4, 80.0), RowFacts("fast", 2.0, 110.0)]
    assert decide(rows) == (False, True)
    joint = decide_joint(rows, ASKED, baseline_tok_per_s=BASELINE, lossless=1.4)
    assert [m.missed for m in joint.rows] == [("decode",), ("lossy",)]
    assert joint.best is not None
    assert joint.best.run_id == "lossy"
    assert joint.best.smallest == pytest.approx(0.05 - 0.20)


def test_no_row_and_no_threshold_never_pass() -> None:
    assert decide([]) == (False, False)
    assert decide([RowFacts("a", 9.0, 200.0)], Thresholds(None, None, None)) == (False, False)


def test_a_missing_baseline_fails_and_a_threshold_left_out_does_not() -> None:
    rows = [RowFacts("a", 3.0, 10.0)]
    missing = decide_joint(rows, ASKED, baseline_tok_per_s=None, lossless=1.3)
    assert not missing.passed
    assert missing.rows[0].missed == ("decode",)
    assert not decide_best_of(rows, ASKED, baseline_tok_per_s=None, lossless=1.3).passed
    left_out = Thresholds(3.0, 1.3, None)
    assert decide_joint(rows, left_out, baseline_tok_per_s=None, lossless=1.3).passed
    verdict = decide_best_of(rows, left_out, baseline_tok_per_s=None, lossless=1.3)
    assert verdict.passed
    assert verdict.decode_pass is None


@pytest.mark.parametrize("baseline", [0.0, -1.0, math.nan, math.inf])
def test_a_baseline_that_is_no_speed_is_refused(baseline: float) -> None:
    with pytest.raises(ValueError, match="must be a positive number of tok/s"):
        decode_drop(baseline, 50.0)


def test_the_drop_is_a_fraction_of_the_baseline() -> None:
    assert decode_drop(56.02, 66.76) == pytest.approx(-0.191717, abs=5e-7)
    assert decode_drop(100.0, 66.76) == pytest.approx(0.3324)


ratios = st.floats(0.5, 10.0)
speeds = st.floats(1.0, 200.0)
rows_of = st.lists(st.builds(RowFacts, st.text(max_size=3), ratios, speeds), min_size=1, max_size=6)


@given(rows_of, ratios, ratios, st.floats(0.0, 0.5), ratios)
def test_joint_is_some_row_meeting_all_and_implies_best_of(
    rows: list[RowFacts], lossy: float, lossless_target: float, drop: float, lossless: float
) -> None:
    asked = Thresholds(lossy, lossless_target, drop)
    expected = any(
        row.lossy is not None
        and row.decode_tok_per_s is not None
        and row.lossy >= lossy
        and decode_drop(BASELINE, row.decode_tok_per_s) <= drop
        and lossless >= lossless_target
        for row in rows
    )
    joint, best_of = decide(rows, asked, lossless=lossless)
    assert joint == expected
    assert best_of or not joint


@given(ratios, ratios)
def test_the_sign_of_a_ratio_margin_is_exact(value: float, target: float) -> None:
    asked = Thresholds(target, None, None)
    margin = row_margins(RowFacts("a", value, None), asked, baseline_tok_per_s=None, lossless=None).lossy
    assert margin is not None
    assert (margin >= 0) == (value >= target)
