"""Launches of a bench that replays recordings, and every way in which it can fail."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench import launch
from pytest_h2o.bench.adapter import LlmBench
from pytest_h2o.bench.command import BenchSettings, RunFiles, repeat_command
from pytest_h2o.bench.launch import Launcher, Relauncher, Relaunches, write_dry_run
from pytest_h2o.bench.output import OutputSummary
from pytest_h2o.bench.recorded import read_recording
from pytest_h2o.bench.rows import load_row, read_table
from pytest_h2o.errors import BenchError, StoreError, TableError, error_from_json, error_to_json
from pytest_h2o.files import plain
from tests.told import error_text

from .samples import COMMAND, FAKE_BENCH, SWEEP, recorded_points

POINTS = recorded_points()
POINT = POINTS[0]
Make = Callable[..., Launcher]
Launched = Callable[[], list[str]]


def check_fails(launcher: Launcher, kind: type[BenchError] = BenchError) -> BenchError:
    """A failure that carries its launch."""
    with pytest.raises(kind) as caught:
        launcher.launch_point(POINT)
    error = caught.value
    assert type(error) is kind
    assert error.argv[:2] == (sys.executable, str(FAKE_BENCH))
    assert error.elapsed_s is not None
    assert str(error_from_json(json.loads(json.dumps(error_to_json(error))))) == str(error)
    return error


def test_a_sound_launch(make_launcher: Make, tmp_path: Path, count_launches: Launched) -> None:
    result = make_launcher(command=COMMAND).launch_point(POINT)
    sweep = tmp_path / "sweep"
    (expected,) = read_table(SWEEP / "logs" / f"{POINT.run_id}.log", log_file=f"logs/{POINT.run_id}.log", repeat=3)
    assert result.cells == expected.cells
    assert (result.run_id, result.returncode, result.notes, result.shares_run_with) == (POINT.run_id, 0, (), None)
    assert result.output == OutputSummary(
        {"Drop stale per-layer pending plan": 917, "Clamp invalid meta remove": 3}, 2566, None
    )
    assert sorted(str(path.relative_to(sweep)) for path in sweep.rglob("*") if path.is_file()) == [
        f"configs/{POINT.run_id}.json",
        f"logs/{POINT.run_id}.json",
        f"logs/{POINT.run_id}.log",
        f"logs/{POINT.run_id}.stdout.txt",
    ]
    recorded = json.loads((SWEEP / "configs" / f"{POINT.run_id}.json").read_text())
    written = json.loads((sweep / "configs" / f"{POINT.run_id}.json").read_text())
    assert written == {**recorded, "base_dir": written["base_dir"]}
    assert count_launches() == [POINT.run_id]
    assert load_row(json.loads(json.dumps(plain(result)))) == result
    command = f"{shlex.join(COMMAND)} -m {sweep}/configs/{POINT.run_id}.json -a cpu -t 2 -p 512 -n 128 -rep 3 -kv true"
    assert repeat_command(result.argv) == f"{command} -qatten 0"
    files = f"-fp {sweep}/logs/{POINT.run_id}.log -j {sweep}/logs/{POINT.run_id}.json"
    assert shlex.join(result.argv) == f"{command} -qatten 0 {files}"


@pytest.mark.parametrize("value", [{}, {"cells": 1}, {"cells": {"threads": "x"}, "log_file": "x.log"}])
def test_a_result_of_another_shape_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(StoreError, match="a result of a launch has another shape"):
        load_row(value)


def test_baseline(make_launcher: Make) -> None:
    result = make_launcher().launch_baseline(POINT)
    assert result.run_id == "baseline_h2o_off"
    assert result.decode_tok_per_s.mean == 56.02
    assert result.output == OutputSummary({"Clamp invalid meta remove": 3}, 640, None)


def test_an_older_binary_is_launched_without_json(
    make_launcher: Make, tmp_path: Path, count_launches: Launched
) -> None:
    launcher = make_launcher("no_json")
    first, second = recorded_points()[:2]
    result = launcher.launch_point(first)
    assert "-j" not in result.argv
    assert result.cells == make_row(first.run_id).cells
    assert launcher.json_support.rejected
    assert not (tmp_path / "sweep" / "logs" / f"{first.run_id}.json").exists()
    assert launcher.launch_point(second).cells == make_row(second.run_id).cells
    assert count_launches() == [first.run_id, second.run_id]


def make_row(run_id: str) -> object:
    (row,) = read_table(SWEEP / "logs" / f"{run_id}.log", log_file=f"logs/{run_id}.log", repeat=3)
    return row


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("crash", {}),
        ("exit3", {}),
        ("hang", {"timeout_s": 1.0}),
        ("hang_ignoring_term", {"timeout_s": 1.0, "grace_s": 0.2}),
        ("truncated", {}),
        ("no_h2o", {}),
        ("wrong_backend", {}),
        ("ok", {"backend": "opencl"}),  # the bench silently takes CPU
        ("idle", {"attention_option": 1}),
    ],
)
def test_a_launch_that_gives_no_sound_row(
    make_launcher: Make, mode: str, settings: dict[str, Any], tmp_path: Path, snapshot: SnapshotAssertion
) -> None:
    is_table = mode in ("truncated", "no_h2o", "wrong_backend", "ok", "idle")
    error = check_fails(make_launcher(mode, **settings), TableError if is_table else BenchError)
    text = f"{error}\nreturncode {error.returncode}, {error.signal_name}, {error.output_tail.splitlines()[-1]}"
    text = text.replace(str(tmp_path), "TMP").replace(shlex.join(COMMAND), "llm_bench")
    assert re.sub(r"after [\d.]+ s", "after N s", text) == snapshot


@pytest.mark.parametrize("name", ["configs/{}.json", "logs/{}.log", "logs/{}.stdout.txt", "logs/{}.json"])
def test_nothing_is_overwritten(make_launcher: Make, tmp_path: Path, name: str, snapshot: SnapshotAssertion) -> None:
    path = tmp_path / "sweep" / name.format(POINT.run_id)
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    assert error_text(BenchError, make_launcher().launch_point, POINT).replace(str(path), "PATH") == snapshot
    assert [file.read_text() for file in (tmp_path / "sweep").rglob("*") if file.is_file()] == ["precious"]


def test_folders_with_blanks_are_named_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    home = tmp_path / "my project, new"
    home.mkdir()
    files = RunFiles(home / "runs", POINT.run_id)
    monkeypatch.chdir(home)
    assert BenchSettings.for_program(Path("b")).command == (str(home / "b"),)
    argv = LlmBench().argv(BenchSettings(("b",)), files, POINT, {})
    assert [argv[argv.index(flag) + 1] for flag in ("-m", "-fp", "-j")] == [
        f"./runs/configs/{POINT.run_id}.json", f"./runs/logs/{POINT.run_id}.log", f"./runs/logs/{POINT.run_id}.json",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BenchError) as caught:
        LlmBench().argv(BenchSettings(("b",)), files, POINT, {})
    assert str(caught.value).replace(str(files.config), "PATH") == snapshot


def test_what_was_broken_off_is_moved_aside_and_launched_again(make_launcher: Make, tmp_path: Path) -> None:
    """Twice here: what it left is kept twice, and is no part of the recording."""
    files = RunFiles(tmp_path / "sweep", POINT.run_id)
    files.config.parent.mkdir(parents=True)
    files.marker.parent.mkdir()
    for number in (1, 2):
        files.marker.touch()
        files.config.write_text(str(number))
        files.stdout.write_text("hanging\n")
        if number == 1:
            assert files.move_broken_off() == f"{POINT.run_id}.broken-off-1"
    result = make_launcher().launch_point(POINT)
    assert result.cells == make_row(POINT.run_id).cells
    assert result.notes == (
        f"launched again: an earlier launch was broken off or failed; what it left is {POINT.run_id}.broken-off-2.*",
    )
    aside = [RunFiles(files.directory, f"{POINT.run_id}.broken-off-{n}") for n in (1, 2)]
    assert [(each.config.read_text(), each.stdout.read_text()) for each in aside] == [(n, "hanging\n") for n in "12"]
    assert not files.marker.exists()
    assert files.move_broken_off() is None
    recording = read_recording(tmp_path / "sweep", [POINT])
    assert (list(recording.results), recording.baselines) == ([POINT.run_id], [])


def test_a_failed_launch_is_not_one_that_was_broken_off(make_launcher: Make) -> None:
    launcher = make_launcher("exit3")
    check_fails(launcher)
    with pytest.raises(BenchError, match="has been run into this folder before"):
        launcher.launch_point(POINT)


REASON = "others used 1.5 of 2 cores"


def disturb(monkeypatch: pytest.MonkeyPatch, *disturbed: bool) -> None:
    """Say of each launch whether it was disturbed; of those after these, that it was as the last of them."""
    answers = list(disturbed)

    def find(*_: object, cores: int) -> str | None:
        return REASON if (answers.pop(0) if len(answers) > 1 else answers[0]) else None

    monkeypatch.setattr(launch, "find_disturbance", find)


def test_a_disturbed_launch_is_made_again_and_its_files_stay(
    make_launcher: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturb(monkeypatch, True, False)
    result = Relauncher(make_launcher()).launch_point(POINTS[0])
    run_id = POINTS[0].run_id
    assert (result.run_id, result.disturbance, result.log_path.name) == (run_id, None, f"{run_id}.log")
    assert result.notes == (f"measured again: {REASON}; what that launch left is {run_id}.disturbed-1.*",)
    logs = {path.name for path in (tmp_path / "sweep" / "logs").glob("*.log")}
    assert logs == {f"{run_id}.log", f"{run_id}.disturbed-1.log"}
    recording = read_recording(tmp_path / "sweep", [POINTS[0]])
    assert recording.get(run_id).cells == result.cells
    assert recording.baselines == []


def test_a_machine_that_is_never_quiet_ends_all_the_same(
    make_launcher: Make, count_launches: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturb(monkeypatch, True)
    relauncher = Relauncher(make_launcher(), Relaunches(4))
    results = [relauncher.launch_point(point) for point in POINTS[:3]]
    assert [len(result.notes) for result in results] == [2, 0, 0]
    assert all(result.disturbance == REASON for result in results)
    assert len(count_launches()) == 3 + 2


def test_dry_run_writes_all_and_runs_nothing(
    make_launcher: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count_launches: Launched
) -> None:
    """Its commands make their folder wherever they are started."""
    launcher, dry, elsewhere = make_launcher(), tmp_path / "dry", tmp_path / "elsewhere"
    monkeypatch.chdir(tmp_path)
    commands = write_dry_run(POINTS, launcher.base, launcher.settings, Path("dry"))
    files = {str(path.relative_to(dry)) for path in dry.rglob("*") if path.is_file()}
    assert files == {"commands.sh", "manifest.json", *(f"configs/{point.run_id}.json" for point in POINTS)}
    entries = json.loads((dry / "manifest.json").read_text())
    assert [(entry["run_id"], entry["return_code"]) for entry in entries] == [(point.run_id, None) for point in POINTS]
    assert len(commands) == 27
    assert count_launches() == []
    with pytest.raises(BenchError, match="has been run into this folder before"):
        write_dry_run(POINTS, launcher.base, launcher.settings, dry)
    script = (dry / "commands.sh").read_text().splitlines()
    assert script[2] == "export MNN_KV_DUMP_DIR=off"
    assert script[4:] == list(commands)
    (dry / "commands.sh").write_text("\n".join(script[:5]))
    elsewhere.mkdir()
    subprocess.run(["sh", str(dry / "commands.sh")], cwd=elsewhere, check=True, stdout=subprocess.DEVNULL)
    assert count_launches() == [POINTS[0].run_id]
    assert list(elsewhere.iterdir()) == []
    assert read_table(dry / "logs" / f"{POINTS[0].run_id}.log")


@pytest.mark.parametrize(
    ("script", "what"),
    [
        (f"{sys.executable} {FAKE_BENCH} $*\nexit $?", "the bench ended with exit code 139 (SIGSEGV)"),
        ("exit 0", "the bench ended with exit code 0 and wrote no table (-fp FILE)"),
        (None, "the bench cannot be started"),
    ],
)
def test_a_program_around_a_bench_or_that_is_none(
    make_launcher: Make, tmp_path: Path, script: str | None, what: str
) -> None:
    program = tmp_path / "wrapper"
    if script is not None:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    with pytest.raises(BenchError) as caught:
        make_launcher("crash", command=(str(program),)).launch_point(POINT)
    assert caught.value.what == what
    asks = f"{POINT.run_id}.stdout.txt: is this program llm_bench?"
    assert (asks in (caught.value.hint or "")) == (script == "exit 0")
