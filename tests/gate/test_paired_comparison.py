"""A paired comparison that is kept says the same when it is read again, and its explanation says what it rests on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pytest_h2o.errors import StoreError
from pytest_h2o.files import plain
from pytest_h2o.gate.decode import PairedComparison, explain
from tests.sweeps import make_pairs

SOUND = make_pairs("run_0001", 0.02)
UNLIKE = replace(
    SOUND.pairs[0], excluded="unlike contexts", candidate=replace(SOUND.pairs[0].candidate, disturbance="load")
)


def kept(comparison: PairedComparison) -> PairedComparison:
    return PairedComparison.from_json(json.loads(json.dumps(plain(comparison))))


def test_a_comparison_reads_back_with_its_order_its_disturbances_and_what_was_left_out() -> None:
    comparison = replace(SOUND, pairs=(*SOUND.pairs, UNLIKE), measured_again=("x",), notes=("n",), elapsed_s=3.5)
    assert kept(comparison) == comparison
    assert kept(comparison).judge(0.05) == comparison.judge(0.05)
    assert kept(comparison).judge(0.05).excluded == ("pair 13: unlike contexts",)
    with pytest.raises(StoreError, match=r"(?s)a paired comparison has another shape.*version"):
        PairedComparison.from_json({**plain(comparison), "version": 9})


def test_the_bounds_are_those_of_the_pairs_that_were_planned() -> None:
    """The error is spread over all looks of the plan: the same pairs prove less where more looks were to come."""
    few, many = (replace(SOUND, planned_pairs=planned).judge(0.05) for planned in (12, 40))
    assert (few.planned_pairs, many.planned_pairs) == (12, 40)
    assert few.high is not None
    assert many.high is None or many.high > few.high


def test_what_is_said_of_a_clear_verdict() -> None:
    comparison = replace(SOUND, measured_again=("pair 2 for load",), notes=("one more thing",))
    assert explain(comparison, comparison.judge(0.05)) == [
        "paired with H2O off: 25 launches; the verdict is clear after 12 pairs",
        "disturbed launches: 1 measured again; first pair 2 for load",
        "one more thing",
    ]


def test_what_is_said_of_too_few_pairs_and_of_those_left_out() -> None:
    comparison = replace(make_pairs("r", 0.02, count=2), stopped="no time is left")
    comparison = replace(comparison, pairs=(*comparison.pairs, UNLIKE))
    lines = explain(comparison, comparison.judge(0.05))
    assert lines[0] == "paired with H2O off: 6 launches; no time is left"
    assert lines[1] == "to decide: how many pairs cannot be told from these"
    assert lines[-2:] == [
        "excluded pair 3: unlike contexts",
        f"disturbed launches: 1 of 6 counted all the same; first {UNLIKE.candidate.run_id}: load",
    ]
    busy = replace(comparison, measured_again=("pair 2 for load", "pair 2 for swapping"))
    said = "disturbed launches: 2 measured again, 1 of 6 counted all the same; first pair 2 for load"
    assert explain(busy, busy.judge(0.05))[-1] == said


def test_what_is_said_where_no_pair_can_be_compared() -> None:
    comparison = replace(SOUND, pairs=(UNLIKE, UNLIKE), stopped="more would not help")
    assert not comparison.is_comparable
    lines = explain(comparison, comparison.judge(0.05))
    assert "not comparable: no pair could be compared, so this is no verdict on the decode speed" in lines
    assert not any(line.startswith("to decide") for line in lines)
    assert lines.count("more would not help") <= 1


def test_pairs_without_a_speed_cannot_be_judged() -> None:
    silent = replace(SOUND.pairs[0], baseline=replace(SOUND.pairs[0].baseline, decode_tok_per_s=0.0))
    with pytest.raises(StoreError) as caught:
        kept(replace(SOUND, pairs=(silent,)))
    assert str(caught.value) == (
        "a paired comparison cannot be judged\n  came: the baseline of a decode pair has no speed\n"
        "  next: start a new run folder"
    )


def test_what_is_said_of_pairs_that_contradict_each_other() -> None:
    comparison = replace(SOUND, pairs=(*make_pairs("r", 0.4, 8).pairs, *make_pairs("r", -9.0, 12).pairs))
    verdict = comparison.judge(0.05)
    assert verdict.note is not None
    assert verdict.note in explain(comparison, verdict)
    assert verdict.note not in explain(replace(comparison, stopped=verdict.note), verdict)


@pytest.mark.parametrize(
    ("needed", "said"),
    [(30, "about 30 pairs (--h2o-decode-budget 30"), (300, "about 300 pairs, more than")],
)
def test_what_is_said_of_the_pairs_that_would_decide(needed: int, said: str) -> None:
    comparison = make_pairs("r", 0.02, count=2)
    lines = explain(comparison, replace(comparison.judge(0.05), needed_pairs=needed))
    assert said in lines[1]
