"""A whole preset: folded launches, their proof, failures that are kept, several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_h2o.bench.launch import Launcher
from pytest_h2o.bench.manifest import manifest_entry
from pytest_h2o.bench.recorded import read_recording
from pytest_h2o.bench.rows import DETERMINISTIC_COLUMNS, Row, read_table
from pytest_h2o.bench.sweep import ColumnDifference, FoldCheck, Sweep
from pytest_h2o.errors import BenchError, H2OError, UsageError
from pytest_h2o.files import write_new_json
from pytest_h2o.inputs.presets import Point

from .samples import SWEEP, recorded_points

POINTS = recorded_points()
Make = Callable[..., Launcher]
Launched = Callable[[], list[str]]


class Memory:
    """A store of one process: keeps JSON text, so that nothing but plain values survives."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.open: list[str] = []

    def once(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        assert key not in self.open, "a value asked for itself"
        if key not in self.values:
            self.open.append(key)
            self.values[key] = json.dumps(make())
            self.open.remove(key)
        return dict(json.loads(self.values[key]))


class Replay:
    """Launches that read the recorded logs; some of them fail, or come out otherwise."""

    def __init__(self, failing: set[int] = frozenset(), changed: dict[int, dict[str, str]] | None = None) -> None:  # type: ignore[assignment]
        self.launched: list[int] = []
        self.failing = failing
        self.changed = changed or {}

    def __call__(self, point: Point) -> Row:
        self.launched.append(point.index)
        if point.index in self.failing:
            raise BenchError(f"run {point.index} crashed", returncode=-11, signal_name="SIGSEGV")
        (row,) = read_table(SWEEP / "logs" / f"{point.run_id}.log", log_file=f"logs/{point.run_id}.log", repeat=3)
        row = replace(row, cells={**row.cells, **self.changed.get(point.index, {})})
        return replace(row, run_id=point.run_id, log_path=Path(row.log_file), returncode=0)


def make_sweep(replay: Replay, points: tuple[Point, ...] = POINTS, fold: bool = True) -> Sweep:
    return Sweep(points, replay, Memory().once, binary="b", fold=fold)


def outcomes_of(sweep: Sweep) -> dict[str, Row | H2OError]:
    """Run id -> row, or the error that it ended in, for every point."""
    found: dict[str, Row | H2OError] = {}
    for point in sweep.points:
        try:
            found[point.run_id] = sweep.result(point)
        except H2OError as error:
            found[point.run_id] = error
    return found


def verdict_cells(results: dict[str, Any]) -> dict[str, list[str]]:
    return {run_id: [result.cells[c] for c in DETERMINISTIC_COLUMNS] for run_id, result in results.items()}


def test_the_preset_costs_ten_launches_instead_of_27(
    make_launcher: Make, count_launches: Launched, tmp_path: Path
) -> None:
    launcher = make_launcher()
    sweep = Sweep(POINTS, launcher.launch_point, Memory().once, binary="fake")
    folded = outcomes_of(sweep)
    assert len(count_launches()) == 10
    launch = replace(launcher, directory=tmp_path / "all").launch_point
    unfolded = outcomes_of(Sweep(POINTS, launch, Memory().once, binary="fake", fold=False))
    assert len(count_launches()) == 10 + 27
    assert verdict_cells(folded) == verdict_cells(unfolded)
    assert verdict_cells(folded) == verdict_cells(dict(read_recording(SWEEP, POINTS).results))
    shared = [run_id for run_id, result in folded.items() if isinstance(result, Row) and result.shares_run_with]
    assert len(shared) == 17
    assert sweep.fold_checks() == (FoldCheck("adaptive", "target_ratio_v3", POINTS[0].run_id, POINTS[9].run_id),)
    assert len(count_launches()) == 37


def test_a_shared_row_names_its_run() -> None:
    sweep = make_sweep(Replay())
    shared, probe = sweep.result(POINTS[18]), sweep.result(POINTS[9])
    assert (shared.run_id, shared.shares_run_with) == (POINTS[18].run_id, POINTS[0].run_id)
    assert shared.cells == sweep.result(POINTS[0]).cells
    assert (sweep.shared_run(POINTS[18]), sweep.shared_run(POINTS[0])) == (POINTS[0].run_id, None)
    assert (probe.shares_run_with, probe.log_file) == (None, f"logs/{POINTS[9].run_id}.log")


def test_only_what_is_asked_for_is_run() -> None:
    replay = Replay()
    sweep = make_sweep(replay)
    sweep.result(POINTS[4])
    assert replay.launched == [5]
    sweep.result(POINTS[13])
    assert replay.launched == [5, 1, 10]
    sweep.result(POINTS[13])
    sweep.result(POINTS[0])
    assert replay.launched == [5, 1, 10]


def test_points_that_were_deselected_take_no_part() -> None:
    replay = Replay()
    outcomes_of(make_sweep(replay, (POINTS[13], POINTS[22], POINTS[3])))
    assert replay.launched == [14, 23, 4]


def test_without_folding_every_point_is_run() -> None:
    replay = Replay()
    sweep = make_sweep(replay, fold=False)
    outcomes_of(sweep)
    assert replay.launched == list(range(1, 28))
    assert sweep.fold_checks() == ()


def test_nothing_is_folded_if_the_probe_differs() -> None:
    replay = Replay(changed={10: {"h2o_keep": "0.3000 ± 0.0000"}})
    sweep = make_sweep(replay)
    results = outcomes_of(sweep)
    assert sorted(replay.launched) == list(range(1, 28))
    assert all(isinstance(result, Row) and result.shares_run_with is None for result in results.values())
    assert sweep.fold_checks() == (
        FoldCheck(
            "adaptive", "target_ratio_v3", POINTS[0].run_id, POINTS[9].run_id,
            (ColumnDifference("h2o_keep", "0.3377 ± 0.0030", "0.3000 ± 0.0000"),),
        ),
    )  # fmt: skip


def test_nothing_is_folded_if_the_bench_itself_differs(make_launcher: Make, count_launches: Launched) -> None:
    sweep = Sweep(POINTS, make_launcher("not_deterministic").launch_point, Memory().once, binary="fake")
    outcomes_of(sweep)
    assert len(count_launches()) == 27
    assert [difference.column for difference in sweep.fold_checks()[0].differences] == ["h2o_keep"]


def test_timings_may_differ() -> None:
    replay = Replay(changed={10: {"speed(tok/s)": "1 ± 0<br>1 ± 0", "h2o_evict_us": "9 ± 9"}})
    outcomes_of(make_sweep(replay))
    assert len(replay.launched) == 10


def test_a_probe_that_fails_folds_nothing() -> None:
    replay = Replay(failing={10})
    sweep = make_sweep(replay)
    outcomes = outcomes_of(sweep)
    assert sorted(replay.launched) == list(range(1, 28))
    assert [run_id for run_id, outcome in outcomes.items() if isinstance(outcome, BenchError)] == [POINTS[9].run_id]
    assert sweep.fold_checks()[0].problem == f"{POINTS[9].run_id} failed: run 10 crashed"


def test_a_failed_leader_fails_its_points_and_another_group_is_checked() -> None:
    replay = Replay(failing={1})
    sweep = make_sweep(replay)
    outcomes = outcomes_of(sweep)
    failed = {run_id: outcome for run_id, outcome in outcomes.items() if isinstance(outcome, BenchError)}
    assert list(failed) == [POINTS[n].run_id for n in (0, 9, 18)]
    assert {(error.what, error.signal_name) for error in failed.values()} == {("run 1 crashed", "SIGSEGV")}
    assert sorted(replay.launched) == [*range(1, 10), 11]
    with pytest.raises(BenchError, match="run 1 crashed"):
        sweep.result(POINTS[18])
    assert len(replay.launched) == 10


def test_a_bench_that_always_fails_is_launched_once_a_group() -> None:
    replay = Replay(failing=set(range(1, 28)))
    outcomes = outcomes_of(make_sweep(replay))
    assert all(isinstance(outcome, BenchError) for outcome in outcomes.values())
    assert sorted(replay.launched) == list(range(1, 10))


@pytest.mark.parametrize("first", ["target_ratio_v3", "other"])
def test_each_preset_has_its_own_check_whoever_asks_first(first: str) -> None:
    replay, memory = Replay(), Memory()
    points = {name: tuple(replace(point, preset=name) for point in POINTS) for name in ("target_ratio_v3", "other")}
    sweeps = {name: Sweep(points[name], replay, memory.once, binary="b") for name in points}
    for name in sorted(points, key=lambda name: name != first):
        outcomes_of(sweeps[name])
        assert len(replay.launched) == (10 if name == first else 20)
    for name, sweep in sweeps.items():
        assert sweep.fold_checks() == (FoldCheck("adaptive", name, POINTS[0].run_id, POINTS[9].run_id),)
        assert sweep.shared_run(points[name][9]) is None
        assert sweep.shared_run(points[name][18]) == POINTS[0].run_id
    outcomes_of(Sweep(POINTS, replay, memory.once, binary="another build"))
    assert len(replay.launched) == 30


def test_errors_that_are_none_of_ours_are_not_kept() -> None:
    def launch(point: Point) -> Row:
        raise KeyboardInterrupt

    memory = Memory()
    sweep = Sweep(POINTS, launch, memory.once, binary="b")
    with pytest.raises(KeyboardInterrupt):
        sweep.result(POINTS[0])
    assert memory.values == {}


def test_a_point_of_another_sweep() -> None:
    sweep = make_sweep(Replay(), POINTS[:3])
    assert sweep.points == POINTS[:3]
    for stranger in (POINTS[5], replace(POINTS[0], sink_tokens=0)):
        with pytest.raises(UsageError, match=f"{stranger.run_id} is no point of this sweep"):
            sweep.result(stranger)
    with pytest.raises(UsageError, match="a sweep has two points with one run id"):
        make_sweep(Replay(), (POINTS[0], POINTS[0]))


def test_a_folded_sweep_is_read_back_from_its_folder(make_launcher: Make, tmp_path: Path) -> None:
    sweep = Sweep(POINTS, make_launcher().launch_point, Memory().once, binary="fake")
    outcomes = outcomes_of(sweep)
    entries = [manifest_entry(p.manifest_fields(), 0, shares_run_with=sweep.shared_run(p)) for p in POINTS]
    write_new_json(tmp_path / "sweep" / "manifest.json", entries)
    recording = read_recording(tmp_path / "sweep", POINTS)
    assert (recording.failures, recording.unused) == ({}, {})
    for run_id, outcome in outcomes.items():
        assert isinstance(outcome, Row)
        again = recording.get(run_id)
        assert (again.cells, again.output, again.shares_run_with) == (
            outcome.cells,
            outcome.output,
            outcome.shares_run_with,
        )


WORKER = """
import json, random, sys
from pathlib import Path
from filelock import FileLock
from pytest_h2o.bench.sweep import Sweep
from tests.bench.samples import recorded_points
from tests.bench.test_bench_sweep import Replay

folder, seed = Path(sys.argv[1]), int(sys.argv[2])

def once(key, make):
    path = folder / key.replace("/", "_")
    with FileLock(str(path) + ".lock"):
        if not path.exists():
            path.write_text(json.dumps(make()))
        return json.loads(path.read_text())

points = list(recorded_points())
replay = Replay(failing={3})
sweep = Sweep(points, replay, once, binary="b")
random.Random(seed).shuffle(points)
shared = {}
for point in points:
    try:
        shared[point.run_id] = sweep.result(point).shares_run_with
    except Exception as error:
        shared[point.run_id] = str(error)
print(json.dumps([replay.launched, shared]))
"""


def test_several_processes_come_to_the_same(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(n)], env=env, stdout=subprocess.PIPE)
        for n in range(3)
    ]
    told = [json.loads(worker.communicate()[0]) for worker in workers]
    assert sorted(index for launched, _ in told for index in launched) == list(range(1, 11))
    assert told[0][1] == told[1][1] == told[2][1]
    assert [run_id for run_id, value in told[0][1].items() if value == "run 3 crashed"] != []
