"""A whole preset: folded launches, their proof, failures that are kept, several processes."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench.launch import Launcher
from pytest_h2o.bench.recorded import read_recording
from pytest_h2o.bench.rows import DETERMINISTIC_COLUMNS, Row, read_table
from pytest_h2o.bench.sweep import ColumnDifference, FoldCheck, Sweep, compare_rows, fold_points, manifest_entry
from pytest_h2o.errors import BenchError, H2OError, UsageError
from pytest_h2o.files import write_new_json
from pytest_h2o.inputs.presets import Point

from .samples import SWEEP, recorded_points

POINTS = recorded_points()
Make = Callable[..., Launcher]


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


def outcomes_of(sweep: Sweep, points: Sequence[Point] | None = None) -> dict[str, Row | H2OError]:
    """Run id -> row, or the error that it ended in, for every point, in the order in which they are asked for."""
    found: dict[str, Row | H2OError] = {}
    for point in points or sweep.points:
        try:
            found[point.run_id] = sweep.result(point)
        except H2OError as error:
            found[point.run_id] = error
    return found


def verdict_cells(results: dict[str, Any]) -> dict[str, list[str]]:
    return {run_id: [result.cells[c] for c in DETERMINISTIC_COLUMNS] for run_id, result in results.items()}


def test_the_preset_costs_ten_launches_instead_of_27() -> None:
    replay, alone = Replay(), Replay()
    sweep, unfolded = make_sweep(replay), make_sweep(alone, fold=False)
    folded = outcomes_of(sweep)
    assert (len(replay.launched), sweep.runs) == (10, 10)
    recorded = verdict_cells(dict(read_recording(SWEEP, POINTS).results))
    assert verdict_cells(folded) == verdict_cells(outcomes_of(unfolded)) == recorded
    assert (alone.launched, unfolded.fold_checks()) == (list(range(1, 28)), ())
    shared = [run_id for run_id, result in folded.items() if isinstance(result, Row) and result.shares_run_with]
    assert len(shared) == 17
    assert sweep.fold_checks() == (FoldCheck("adaptive", "target_ratio_v3", POINTS[0].run_id, POINTS[9].run_id),)
    assert len(replay.launched) == 10


def test_only_what_is_asked_for_is_run() -> None:
    """Points that were deselected take no part."""
    replay = Replay()
    sweep = make_sweep(replay)
    for asked, launched in ((4, [5]), (13, [5, 1, 10]), (13, [5, 1, 10]), (0, [5, 1, 10])):
        sweep.result(POINTS[asked])
        assert replay.launched == launched
    few = Replay()
    outcomes_of(make_sweep(few, (POINTS[13], POINTS[22], POINTS[3])))
    assert few.launched == [14, 23, 4]


@pytest.mark.parametrize(
    "replay", [Replay(changed={10: {"h2o_keep": "0.3000 ± 0.0000"}}), Replay(failing={10})], ids=["differs", "fails"]
)
def test_nothing_is_folded_if_the_probe_differs_or_fails(replay: Replay, snapshot: SnapshotAssertion) -> None:
    sweep = make_sweep(replay)
    outcomes = outcomes_of(sweep)
    assert sorted(replay.launched) == list(range(1, 28))
    assert not any(isinstance(outcome, Row) and outcome.shares_run_with for outcome in outcomes.values())
    failed = [run_id for run_id, outcome in outcomes.items() if isinstance(outcome, BenchError)]
    assert failed == [POINTS[number - 1].run_id for number in replay.failing]
    assert sweep.fold_checks() == snapshot


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
    points = (POINTS[0], POINTS[9], POINTS[18])
    sweep = Sweep(points, make_launcher().launch_point, Memory().once, binary="fake")
    outcomes = outcomes_of(sweep)
    entries = [manifest_entry(p.manifest_fields(), 0, shares_run_with=sweep.shared_run(p)) for p in points]
    write_new_json(tmp_path / "sweep" / "manifest.json", entries)
    recording = read_recording(tmp_path / "sweep", points)
    assert (recording.failures, recording.unused) == ({}, {})
    told = [(row.cells, row.output, row.shares_run_with) for row in outcomes.values() if isinstance(row, Row)]
    assert [(row.cells, row.output, row.shares_run_with) for row in recording.results.values()] == told
    assert [shared for *_, shared in told] == [None, None, POINTS[0].run_id]


def test_whoever_asks_first_every_process_comes_to_the_same() -> None:
    """Each process has a sweep of its own and asks in an order of its own; what is kept is all that they share."""
    memory, replay = Memory(), Replay(failing={3})
    told: list[dict[str, str | None]] = []
    for seed in range(3):
        points = random.Random(seed).sample(POINTS, len(POINTS))
        outcomes = outcomes_of(Sweep(POINTS, replay, memory.once, binary="b"), points[: 9 * (seed + 1)])
        told.append({i: str(row) if isinstance(row, H2OError) else row.shares_run_with for i, row in outcomes.items()})
    assert sorted(replay.launched) == list(range(1, 11))
    assert [told[2][run_id] for run_id in told[0]] == list(told[0].values())
    assert [told[2][run_id] for run_id in told[1]] == list(told[1].values())
    assert [run_id for run_id, value in told[2].items() if value == "run 3 crashed"] != []


def indices(points: tuple[Point, ...]) -> list[list[int]]:
    return [[point.index for point in group] for group in fold_points(points)]


def read_row(point: Point) -> Row:
    (row,) = read_table(SWEEP / "logs" / f"{point.run_id}.log")
    return row


@pytest.mark.parametrize(
    ("mode", "groups"),
    [
        ("adaptive", [[n, n + 9, n + 18] for n in range(1, 10)]),  # does not read the keep ratio
        ("static", [[n, n + 1, n + 2] for n in range(1, 28, 3)]),  # does not read the lossy target
        ("other", [[n] for n in range(1, 28)]),
    ],
)
def test_a_mode_folds_what_it_does_not_read(mode: str, groups: list[list[int]]) -> None:
    assert indices(tuple(replace(point, h2o_target_mode=mode) for point in POINTS)) == groups


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt_len": 513}, {"gen_len": 1}, {"repeat": 1}, {"block_tokens": 4}, {"sink_tokens": 0},
        {"recent_tokens": 0}, {"ema_alpha": 0.5}, {"update_interval": 1}, {"trigger_min_tokens": 1},
        {"h2o_layer_start": 0}, {"h2o_layer_end": 5}, {"h2o_log_stats": True}, {"h2o_target_lossy_ratio": 3.1},
        {"h2o_target_mode": "static"},
        {"lossless": {**POINTS[0].lossless, "kv_lossless_front_n": 3}},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_whatever_else_differs_is_another_run(changes: dict[str, object]) -> None:
    """The order of the lossless keys does not matter."""
    turned = replace(POINTS[9], lossless=dict(reversed(POINTS[9].lossless.items())))
    assert indices((POINTS[0], turned)) == [[1, 10]]
    assert indices((POINTS[0], replace(turned, **changes))) == [[1], [10]]  # type: ignore[arg-type]


def test_differences_name_column_and_cells() -> None:
    one, other = read_row(POINTS[0]), read_row(POINTS[1])
    assert compare_rows(one, other)[0] == ColumnDifference("h2o_keep", "0.3377 ± 0.0030", "0.3152 ± 0.0009")
    cells = {name: cell for name, cell in one.cells.items() if name != "h2o_lossless"}
    bare = Row.from_cells(cells, log_file="x")
    assert compare_rows(one, bare) == (ColumnDifference("h2o_lossless", "1.365 ± 0.021", None),)


@pytest.mark.parametrize(
    ("replay", "launched"),
    [
        (Replay(changed={10: {"speed(tok/s)": "1 ± 0<br>1 ± 0", "h2o_evict_us": "9 ± 9"}}), [*range(1, 11)]),
        (Replay(failing=set(range(1, 28))), [*range(1, 10)]),
    ],
    ids=["timings may differ", "all fail"],
)
def test_a_group_is_launched_once(replay: Replay, launched: list[int]) -> None:
    outcomes = outcomes_of(make_sweep(replay))
    assert sorted(replay.launched) == launched
    assert all(isinstance(outcome, BenchError) for outcome in outcomes.values()) == bool(replay.failing)


@given(st.permutations(POINTS), st.integers(0, 27))
def test_every_point_is_in_one_group(points: list[Point], count: int) -> None:
    groups = fold_points(points[:count])
    assert sorted(point.index for group in groups for point in group) == sorted(p.index for p in points[:count])
    firsts = [group[0].index for group in groups]
    assert firsts == sorted(firsts, key=[point.index for point in points].index)
