"""Settings of a launch from options and presets, and which folder is whose recording."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import pytest

from pytest_h2o.bench.command import BenchSettings
from pytest_h2o.bench.config import read_base_config
from pytest_h2o.bench.sweep import FoldCheck
from pytest_h2o.cli.sweep import WaitNotice
from pytest_h2o.errors import H2OError
from pytest_h2o.inputs.options import Given, Settings
from pytest_h2o.inputs.presets import load_presets
from pytest_h2o.run.launching import bench_settings
from pytest_h2o.run.progress import ProgressWriter, read_board
from pytest_h2o.run.sources import LaunchedRows, RecordedRows, _describe_fold, find_recordings
from pytest_h2o.run.store import OnceStore
from tests.plugin.project import RECORDINGS, ROOT, SWEEP

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


def test_a_half_recorded_preset_is_a_recording_that_fails(tmp_path: Path) -> None:
    """Beside a whole recording, too: it is not left out as not recorded."""
    shutil.copytree(SWEEP, tmp_path / "target_ratio_v3")
    (tmp_path / "target_speed_v3" / "configs").mkdir(parents=True)
    found = find_recordings(tmp_path, list(PRESETS.values()), [V3])
    assert found == {name: tmp_path / name for name in ("target_ratio_v3", "target_speed_v3")}
    from pytest_h2o.inputs.presets import expand_points

    points = expand_points(PRESETS["target_speed_v3"])
    with pytest.raises(H2OError, match="is not in the recording"):
        RecordedRows(found["target_speed_v3"], points).result(points[0])


def test_a_preset_without_a_folder_is_not_recorded() -> None:
    assert find_recordings(RECORDINGS, list(PRESETS.values()), [V3]).keys() == {"target_ratio_v3"}


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
    base = read_base_config(ROOT / "fixtures" / "recordings" / "base_config.json")
    bench = BenchSettings.for_program(sys.executable)
    told: list[float] = []
    progress = ProgressWriter(tmp_path / "progress", on_wait=told.append)
    rows = LaunchedRows(
        (), base=base, bench=bench, folder=tmp_path, store=OnceStore(tmp_path), fold=True, progress=progress
    )
    assert rows._launcher.on_wait is not None
    with progress.step("preset", "run_0001", unit="run", total=3):
        rows._launcher.on_wait(2.0)
        (activity,) = read_board(tmp_path / "progress").activities
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
