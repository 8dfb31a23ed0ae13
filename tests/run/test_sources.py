"""Settings of a launch from options and presets, and which folder is whose recording."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from pytest_h2o.bench.recorded import find_recordings
from pytest_h2o.bench.sweep import FoldCheck
from pytest_h2o.cli.sweep import WaitNotice
from pytest_h2o.errors import H2OError, StoreError, UsageError
from pytest_h2o.inputs.options import Given, Settings
from pytest_h2o.inputs.presets import Preset, expand_points, load_presets
from pytest_h2o.run.sources import Launched, Recorded, Run, _describe_fold, bench_settings
from pytest_h2o.run.store import PROGRESS, read_board
from tests.plugin.project import RECORDINGS, ROOT, SWEEP
from tests.report.gate_items import make_session

PRESETS = {preset.name: preset for preset in load_presets([ROOT / "gates" / "presets"])}
V3 = PRESETS["target_ratio_v3"]


@pytest.mark.parametrize(
    ("origin", "of_preset", "timeout_s"),
    [
        ("--h2o-bench-timeout", 900.0, 60.0),
        ("--h2o-bench-timeout", None, 60.0),
        ("ini h2o_bench_timeout", 900.0, 900.0),
        ("ini h2o_bench_timeout", None, 60.0),
        ("default", 900.0, 900.0),
    ],
)
def test_the_command_line_decides_the_time_limit(origin: str, of_preset: float | None, timeout_s: float) -> None:
    given = {"bench-timeout": Given(60.0, origin), "bench": Given(Path(sys.executable), "--h2o-bench")}
    for name, value in (("backend", "cpu"), ("threads", 2), ("attention-option", 0)):
        given[name] = Given(value, "default")
    preset = V3.model_copy(update={"timeout_s": of_preset})
    assert bench_settings(Settings(given), preset).timeout_s == timeout_s


def find(folder: Path, *selected: Preset) -> dict[str, Path]:
    return find_recordings(folder, list(PRESETS.values()), selected)


def test_a_half_recorded_preset_is_a_recording_that_fails(tmp_path: Path) -> None:
    """Beside a whole recording, too: it is not left out as not recorded."""
    shutil.copytree(SWEEP, tmp_path / "target_ratio_v3")
    (tmp_path / "target_speed_v3" / "configs").mkdir(parents=True)
    found = find(tmp_path, V3)
    assert found == {name: tmp_path / name for name in ("target_ratio_v3", "target_speed_v3")}
    preset = PRESETS["target_speed_v3"]
    points = expand_points(preset)
    run = Run(make_session(tmp_path).settings, tmp_path / "run")
    with pytest.raises(H2OError, match="is not in the recording"):
        Recorded(run, preset, points, found["target_speed_v3"]).result(points[0])


def test_a_folder_of_run_folders_or_of_one_run(tmp_path: Path) -> None:
    assert find(RECORDINGS) == {"target_ratio_v3": SWEEP}
    assert find(SWEEP) == {"target_ratio_v3": SWEEP}
    shutil.copytree(SWEEP / "logs", tmp_path / "logs")
    assert find(tmp_path, V3) == {"target_ratio_v3": tmp_path}
    with pytest.raises(UsageError, match="bare logs can be those of one preset only"):
        find(tmp_path)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").touch()
    with pytest.raises(UsageError) as caught:
        find(tmp_path, V3)
    assert str(caught.value) == (
        "the folder holds no recorded logs of these presets\n"
        f"  where: {tmp_path}\n"
        "  came: readme.txt\n"
        "  expected: a folder for one of smoke, target_ratio, target_ratio_v3, target_speed, target_speed_v3, "
        "a manifest.json, or *.log files"
    )


def test_a_manifest_of_another_setting_is_taken_for_the_one_preset_that_is_selected(tmp_path: Path) -> None:
    """Its rows then say in what they differ; that is more than to say that there is no recording."""
    entries = json.loads((SWEEP / "manifest.json").read_text())
    for entry in entries:
        entry["recent_tokens"] = 96
    (tmp_path / "manifest.json").write_text(json.dumps(entries))
    assert find(tmp_path, V3) == {"target_ratio_v3": tmp_path}
    assert find(tmp_path, V3, PRESETS["smoke"]) == {}


def test_a_sweep_that_waits_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", stderr)
    notice = WaitNotice()
    for waited_s in (1.0, 4.9):
        notice(waited_s)
    assert stderr.getvalue() == ""
    for waited_s in (5.2, 6.2, 60.0):
        notice(waited_s)
    assert stderr.getvalue() == "h2o: waiting for another timed run on this machine since 5 s (one runs at a time)\n"
    stderr.close()
    WaitNotice()(9.0)


def test_a_launch_that_waits_shows_it(tmp_path: Path) -> None:
    base = ROOT / "fixtures" / "recordings" / "base_config.json"
    settings = make_session(tmp_path, bench=sys.executable, base_config=str(base)).settings
    told: list[float] = []
    run = Run(settings, tmp_path / "waits", on_wait=told.append)
    launcher = Launched(run, V3, (), tmp_path)._launcher
    assert launcher.on_wait is not None
    with run.progress.step("preset", "run_0001", unit="run", total=3):
        launcher.on_wait(2.0)
        (activity,) = read_board(tmp_path / "waits" / PROGRESS).activities
    assert (activity.what, activity.label, activity.waits) == ("preset", "run_0001", True)
    assert told == [2.0]


def test_the_note_of_a_fold_names_its_preset() -> None:
    assert _describe_fold(FoldCheck("adaptive", "mine", "run_1", "run_2")) == (
        "rows that differ only in the keep ratio share a run (adaptive mode does not read it): "
        "mine run_2 was run too and has every deterministic column of run_1"
    )
    assert _describe_fold(FoldCheck("static", "mine", "run_1", "run_2", problem="a crash")) == (
        "nothing is folded: mine run_1 and run_2 differ only in the target lossy ratio, which static mode should not "
        "read, and gave a crash"
    )


@pytest.mark.parametrize("kind", ["damaged", "pipe", "device"])
def test_recorded_pairs_that_cannot_be_read_fail_what_needs_them(tmp_path: Path, kind: str) -> None:
    """They are no reason to take another baseline, nor to end the session."""
    points = expand_points(V3)
    path = tmp_path / "decode" / "pairs.json"
    path.parent.mkdir()
    if kind == "damaged":
        path.write_text('{"a": 1')
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    source = Recorded(make_session(tmp_path).run, V3, points, tmp_path)
    assert source.has_pairs()
    assert source.is_paired
    assert source.known_pairs() is None
    with pytest.raises(StoreError, match="recorded pairs cannot be read"):
        source.pairs(points[0], 0.05)
