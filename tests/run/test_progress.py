"""What the processes of a run tell of their work, and what is made of it: text, and an estimate of what is left."""

import os
import time
from pathlib import Path

import pytest

from pytest_h2o.plugin.progress import estimate_left_s, render_duration, render_progress
from pytest_h2o.run.store import Activity, Board, Plan, ProgressWriter, read_board

SWEEP, PAIRS = Plan("mine", 10), Plan("mine decode", 12, 60.0)


def run(number_done: int, *, since: float = 0.0, waits: bool = False) -> Activity:
    return Activity("mine", f"run_{number_done + 1:04d}", "run", 10, None, since, waits)


def test_a_step_is_shown_while_it_runs_and_counted_when_it_ended(tmp_path: Path) -> None:
    writer = ProgressWriter(tmp_path)
    writer.write_plan([SWEEP, PAIRS])
    with writer.step("mine", "run_0001", unit="run", total=10):
        (activity,) = read_board(tmp_path).activities
        assert (activity.what, activity.label, activity.unit, activity.total) == ("mine", "run_0001", "run", 10)
        assert abs(activity.since - time.time()) < 60
        assert not activity.waits
    with pytest.raises(ValueError, match="a failure"), writer.step("mine", "run_0002", unit="run", total=10):
        raise ValueError("a failure")
    writer.finish("mine decode")
    board = read_board(tmp_path)
    assert board.activities == ()
    assert [what for what, spent in board.spent_s.items() for _ in spent] == ["mine", "mine"]
    assert board.finished == {"mine decode"}
    assert board.plan == (SWEEP, PAIRS)


def test_waiting_is_shown_until_it_ends_and_does_not_count(tmp_path: Path) -> None:
    writer = ProgressWriter(tmp_path)
    with writer.step("mine", "run_0001", unit="run", total=10):
        writer.wait(120.0)
        assert read_board(tmp_path).activities[0].waits
        assert not read_board(tmp_path, now=time.time() + 10).activities[0].waits
    assert read_board(tmp_path).spent_s["mine"][0] < 60


def test_an_amount_becomes_a_share(tmp_path: Path) -> None:
    writer = ProgressWriter(tmp_path)
    writer.amount(1, 2)  # nothing runs: nothing to show
    with writer.step("front2", "coded and decoded"):
        writer._written = 0.0
        writer.amount(30, 120)
        assert read_board(tmp_path).activities[0].share == 0.25


def test_what_cannot_be_read_or_is_of_a_dead_process_is_passed_over(tmp_path: Path) -> None:
    with ProgressWriter(tmp_path).step("mine", "run_0001"):
        (tmp_path / "now-999999999.json").write_text((tmp_path / f"now-{os.getpid()}.json").read_text())
        (tmp_path / "now-nonsense.json").write_text("{}")
        (tmp_path / "done.jsonl").write_text('{"what": "mine", "s": 2.0}\nnonsense\n[1]\n{"what": "mi')
        (tmp_path / "plan.json").write_text("[[1, 2")
        board = read_board(tmp_path)
    assert [activity.label for activity in board.activities] == ["run_0001"]
    assert (board.spent_s, board.plan) == ({"mine": [2.0]}, ())
    assert read_board(tmp_path / "nowhere") == Board()


def test_a_folder_that_cannot_be_written_does_not_stop_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    writer = ProgressWriter(tmp_path / "file" / "progress")
    with writer.step("mine", "run_0001"):
        writer.wait(1.0)
    writer.finish("mine")


EVIL = Activity("a\nb\x1b[31m", "c\nd", "run", 2, None, 100.0)
SCOPE = Activity("front2", "coded and decoded", "", 0, None, 40.0, share=0.25)


@pytest.mark.parametrize(
    ("board", "lines"),
    [
        (Board(), []),
        (Board((run(0, since=88.0),), plan=(SWEEP,)), ["mine: run 1 of 10 (run_0001), 12 s"]),
        (
            Board((run(3, since=88.0),), {"mine": [16.0, 14.0, 15.0]}, plan=(SWEEP,)),
            ["mine: run 4 of 10 (run_0004), 12 s; about 1 min 33 s left"],
        ),
        (
            Board((run(4, waits=True), run(3, since=99.0))),
            ["mine: run 1 of 10 (run_0004), 1 s", "mine (run_0005) waits for a timed run on this machine, 1 min 40 s"],
        ),
        (Board((SCOPE,)), ["front2 (coded and decoded), 25%, 1 min, about 3 min to go"]),
        (Board((EVIL,)), ["a b\\x1b[31m: run 1 of 2 (c d), 0 s"]),
    ],
    ids=["nothing", "first", "with what is left", "works before those that wait", "share", "text of others"],
)
def test_lines_tell_what_runs_and_how_long_is_left(board: Board, lines: list[str]) -> None:
    assert render_progress(board, 100.0) == lines


def test_durations() -> None:
    told = {0.4: "0 s", 59: "59 s", 60: "1 min", 125: "2 min 5 s", 600: "10 min", 3600: "1 h 0 min", 7890: "2 h 11 min"}
    assert {seconds: render_duration(seconds) for seconds in told} == told


AGAIN = {"mine": [2.0] * 10, "mine decode": [2.0] * 9}
PAIR = Activity("mine decode", "baseline", "pair", 6, 2, 100.0)


@pytest.mark.parametrize(
    ("board", "left_s"),
    [
        (Board((run(0),), plan=(SWEEP,)), None),
        (Board((run(0),), {"front2": [3.0]}, plan=(SWEEP,)), None),
        (Board((), {"mine": [10.0] * 10}, plan=(SWEEP, PAIRS)), 60.0),  # 12 launches of 10 s, in a budget of 60 s
        (Board((), {"mine": [2.0] * 10}, plan=(SWEEP, PAIRS)), 24.0),
        (Board((), {"mine": [2.0] * 10}, frozenset({"mine decode"}), (SWEEP, PAIRS)), 0.0),
        # launches that were made again, seven here, do not eat up what is left
        (Board((PAIR,), AGAIN, plan=(SWEEP, Plan("mine decode", 12))), 18.0),
    ],
)
def test_what_is_left(board: Board, left_s: float | None) -> None:
    assert estimate_left_s(board, 100.0) == left_s
