"""Pairs of launches: order, files, what is measured again, what is left out, and when it stops."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_h2o.bench.launch import Relaunches
from pytest_h2o.bench.output import OutputSummary
from pytest_h2o.bench.rows import Row
from pytest_h2o.errors import StoreError, TableError
from pytest_h2o.files import plain
from pytest_h2o.gate.decode import Budget, PairedComparison, explain, plan_order
from pytest_h2o.gate.values import Target
from pytest_h2o.run.pairs import Held, PairRunner, compare_pairs, why_unlike

CELLS = {
    "model": "smollm2",
    "modelSize": "80.00 MiB",
    "backend": "CPU",
    "threads": "2",
    "precision": "Low",
    "llm_demo": "prompt=512<br>decode=128",
    "speed(tok/s)": "300.00 ± 1.00<br>60.00 ± 1.00",
}


def make_result(run_id: str, speed: float, disturbance: str | None = None, **cells: str) -> Row:
    cells = {**CELLS, "speed(tok/s)": f"300.00 ± 1.00<br>{speed:.4f} ± 1.00", **cells}
    return Row(cells, f"{run_id}.log", 3, run_id, elapsed_s=1.0, disturbance=disturbance)


class Side:
    """A side that gives speeds in turn, and remembers what it was asked."""

    def __init__(self, log: list[str], *speeds: float, disturbed: str = r"(?!)", **cells: str) -> None:
        self.log, self.speeds, self.disturbed, self.cells = log, speeds, disturbed, cells

    def __call__(self, run_id: str) -> Row:
        self.log.append(run_id)
        speed = self.speeds[len(self.log) % len(self.speeds)]
        reason = "others used 2.0 of 2 cores" if re.search(self.disturbed, run_id) else None
        return make_result(run_id, speed, reason, **self.cells)


def test_sides_that_decoded_unlike_lengths_are_not_comparable() -> None:
    on, off = make_result("on", 42.0), make_result("off", 60.0)

    def told(row: Row, **output: int) -> Row:
        return replace(row, output=OutputSummary(**output))

    tokens = f"the sides decoded unlike numbers of tokens: baseline {off.gen_len}, candidate 53"
    longer = "warnings of the candidate show a kv_len of 2566, above prompt + gen = 640, so it decoded a longer context"
    for baseline, candidate, why in (
        (off, on, None),
        (off, make_result("on", 42.0, decode_tokens="53.00 ± 0.00"), tokens),
        (off, told(on, decoded_tokens=53), tokens),
        (told(off, decoded_tokens=53), told(on, decoded_tokens=53), None),
        (off, told(on, logged_kv=520), None),
        (
            told(on, logged_kv=520),
            told(on, logged_kv=600),
            "the sides logged unlike lengths of layer 0: baseline 520, candidate 600",
        ),
        (off, told(on, max_kv_len=2566), f"unlike contexts: {longer}"),
        (told(on, max_kv_len=2566), told(on, max_kv_len=2566), None),  # another build has grown its context alike
    ):
        assert why_unlike(baseline, candidate) == why


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ({}, None),
        ({"h2o_evict_us": "9.00 ± 1.00"}, None),
        ({"h2o_lossy": "1.100 ± 0.010"}, "the row that it times(.*\n)*  came: h2o_lossy 1.100 ± 0.010, not 3.200 ± 0"),
        ({"h2o_keep": None}, "came: h2o_keep missing, not 0.3000"),
        ({"h2o_lossless_queue_peak": "26.00"}, "every row must hold: peak(.*\n)*  came: 26.00\n  expected: <= 8.00"),
        ({"h2o_lossless_queue_peak": "nan"}, "h2o_lossless_queue_peak and no number in it"),
        ({"h2o_lossless_queue_peak": None}, "what every row must hold: peak(.*\n)*  came: nothing"),
        ({"decode_tokens": "40.00"}, "fewer tokens were decoded than asked"),
        ({"h2o_evict_us": "-1.00"}, "a row has an impossible"),
    ],
)
def test_launches_of_pairs_are_held_to_what_the_row_is_and_holds(
    cells: dict[str, str | None], told: str | None
) -> None:
    """A verdict on the speed of something else is none: its launches evict as the row does, and are as sound."""
    row = make_result(
        "run_0003", 42.0, h2o_keep="0.3000 ± 0.0010", h2o_lossy="3.200 ± 0.010", h2o_lossless_queue_peak="2.00"
    )
    asked = [Target(name, 8.0, "x") for name in ("h2o_lossless_queue_peak", "h2o_lossless_async_queue_peak")]
    given = {name: cell for name, cell in {**row.cells, **cells}.items() if cell is not None}
    launch = replace(row, cells=given, run_id="pair_01_candidate")
    if told is None:
        assert Held(row, asked).check(launch, candidate=True) is launch
        return
    with pytest.raises(TableError, match=told):
        Held(row, asked).check(launch, candidate=True)
    is_own = "decode_tokens" in cells or "h2o_evict_us" in cells or "nan" in cells.values()
    if not is_own:  # H2O off, or another build, has other figures
        assert Held(row, asked).check(launch, candidate=False) is launch


def compare(
    off: dict[str, Any] | None = None,
    on: dict[str, Any] | None = None,
    budget: Budget = Budget(),  # noqa: B008
    *,
    notes: Sequence[str] = (),
    slower_from: int = 99,
    **more: Any,
) -> tuple[list[str], PairedComparison]:
    """Pairs of a bench that is slowed down from 60 to 42 tok/s, unless the sides say otherwise: launches and what came.

    Launches of pairs `slower_from` on take three times as long.
    """
    log: list[str] = []
    sides = [
        Side(log, *own.pop("speeds", (speed,)), **own)
        for own, speed in ((dict(off or {}), 60.0), (dict(on or {}), 42.0))
    ]

    def launcher(side: Side) -> Callable[[str], Row]:
        def launch(run_id: str) -> Row:
            return replace(side(run_id), elapsed_s=3.0 if int(run_id.split("_")[1]) >= slower_from else 1.0)

        return launch

    runner = PairRunner(*map(launcher, sides), **more)
    return log, compare_pairs(runner, budget, 0.05, candidate="run_0003", baseline="H2O off", notes=notes)


NOISY: tuple[dict[str, Any], ...] = ({"speeds": (60.0, 50.0, 55.0)}, {"speeds": (58.0, 49.0, 57.0)})


def test_pairs_are_launched_in_the_planned_order_until_the_verdict_is_clear() -> None:
    log, found = compare({"speeds": (60.0, 60.5, 59.7)}, {"speeds": (42.0, 42.4, 41.8)})
    verdict = found.judge(0.05)
    assert (verdict.outcome, verdict.pairs) == ("fail", 6)
    assert found.stopped == "the verdict is clear after 6 pairs"
    assert (found.launches, found.elapsed_s) == (12, 12.0)
    sides = {"AB": ("baseline", "candidate"), "BA": ("candidate", "baseline")}
    order = plan_order(6, found.seed)
    assert log == [f"pair_{number:02d}_{side}" for number, first in enumerate(order, 1) for side in sides[first]]
    assert found.median_tok_per_s("baseline") == pytest.approx(60.0, abs=0.6)


def test_a_disturbed_launch_is_made_again_and_said() -> None:
    log, found = compare({"disturbed": "pair_02_baseline$"}, {"disturbed": "pair_01_candidate(_again1)?$"})
    assert found.measured_again == tuple(
        f"{name}: others used 2.0 of 2 cores"
        for name in ("pair_01_candidate", "pair_01_candidate_again1", "pair_02_baseline")
    )
    assert found.launches == len(log) == 15
    assert found.pairs[0].candidate.run_id == "pair_01_candidate_again2"
    assert {side.disturbance for pair in found.pairs for side in (pair.baseline, pair.candidate)} == {None}
    lines = explain(found, found.judge(0.05))
    assert lines[0] == "paired with H2O off: 15 launches; the verdict is clear after 6 pairs"
    assert lines[-1] == "disturbed launches: 3 measured again; first pair_01_candidate: others used 2.0 of 2 cores"


@pytest.mark.parametrize(
    ("disturbed", "more", "again"),
    [
        (".", {}, 2),  # a machine that is never quiet is waited for in vain twice
        (r"(baseline|candidate)$", {}, 6),
        (".", {"relaunches": Relaunches(0)}, 0),
    ],
)
def test_disturbed_launches_are_made_again_a_bounded_number_of_times(
    disturbed: str, more: dict[str, Any], again: int
) -> None:
    log, found = compare({"disturbed": disturbed}, {"disturbed": disturbed}, **more)
    assert (len(found.measured_again), len(log), found.launches) == (again, 12 + again, 12 + again)
    assert found.judge(0.05).outcome == "fail"
    counted = "disturbed launches: 2 measured again, 12 of 12 counted all the same; first pair_01_"
    assert explain(found, found.judge(0.05))[-1].startswith(counted) == (again == 2)


NO_LENGTH = "a row has no prompt or generated length, so nothing tells what context it decoded"


@pytest.mark.parametrize(
    ("off", "on", "reason"),
    [
        ({}, {"backend": "OPENCL"}, "another backend: baseline CPU, candidate OPENCL"),
        ({}, {"llm_demo": ""}, "another prompt length: baseline 512, candidate None"),
        ({"llm_demo": ""}, {"llm_demo": ""}, NO_LENGTH),
    ],
)
def test_sides_that_are_unlike_are_no_comparison_and_never_a_pass(
    off: dict[str, str], on: dict[str, str], reason: str
) -> None:
    log, found = compare(off, on)
    verdict = found.judge(0.05)
    assert len(log) == 4
    assert (verdict.outcome, verdict.pairs, verdict.drop) == ("inconclusive", 0, None)
    assert not found.is_comparable
    assert explain(found, verdict) == [
        "paired with H2O off: 4 launches; not one of the first 2 pairs could be compared, so more would not help",
        "not comparable: no pair could be compared, so this is no verdict on the decode speed",
        f"excluded pair 1: {reason}",
        f"excluded pair 2: {reason}",
    ]


TOO_FEW = "pairs can never give a verdict with 95.0% confidence: plan more"


def test_a_plan_is_fitted_to_the_time_of_the_first_pair_and_says_so() -> None:
    # Which speed a launch gets depends on its turn, so the order of the turns is fixed.
    fixed: dict[str, Any] = {"keep": lambda key, make: {"seed": 3} if key == "order" else make()}
    _, found = compare(*NOISY, Budget(pairs=20, elapsed_s=15.0), **fixed)
    assert (found.planned_pairs, len(found.pairs)) == (7, 7)
    assert found.stopped == "the budget of 7 pairs is spent"
    assert found.notes == (
        "planned 7 of 20 pairs: the first took 2.0 s, and there are 15 s for all (--h2o-decode-budget 20 sets no limit "
        "of time)",
    )
    _, slow = compare(*NOISY, Budget(pairs=20, elapsed_s=15.0), slower_from=3)
    assert (slow.planned_pairs, len(slow.pairs)) == (7, 4)
    assert slow.stopped == "another pair would not fit into the budget of 15 s (16.0 s are spent)"
    log, none = compare(budget=Budget(pairs=3), notes=["little time"])
    assert (log, none.stopped) == ([], f"3 {TOO_FEW}")
    assert explain(none, none.judge(0.05))[1:] == ["little time"]
    log, short = compare(budget=Budget(pairs=20, elapsed_s=5.0))
    assert (len(log), short.judge(0.05).outcome, short.stopped) == (2, "inconclusive", f"2 {TOO_FEW}")


def test_a_comparison_is_kept_and_read_back() -> None:
    _, found = compare({"speeds": (60.0, 60.5), "disturbed": "02_base"}, {"speeds": (42.0, 42.4)}, notes=["a note"])
    value = json.loads(json.dumps(plain(found)))
    assert PairedComparison.from_json(value) == found
    for broken in (
        {**value, "version": 3},
        {**value, "pairs": [{**value["pairs"][0], "baseline": {}}]},
        {**value, "planned_pairs": 1},
        {**value, "planned_pairs": 1, "plan": ""},
        {key: v for key, v in value.items() if key != "seed"},
        {**value, "pairs": [{**p, "baseline": {**p["baseline"], "decode_tok_per_s": None}} for p in value["pairs"]]},
    ):
        with pytest.raises(StoreError, match=r"a paired comparison (has another|cannot be judged)"):
            PairedComparison.from_json(broken)
