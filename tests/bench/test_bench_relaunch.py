"""Rows whose speed decides are measured again where others disturbed their launch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_h2o.bench import launch
from pytest_h2o.bench.launch import Launcher, Relauncher, Relaunches
from pytest_h2o.bench.recorded import read_recording

from .samples import recorded_points

POINTS = recorded_points()
REASON = "others used 1.5 of 2 cores"


def disturb(monkeypatch: pytest.MonkeyPatch, *disturbed: bool) -> None:
    """Say of each launch whether it was disturbed; of those after these, that it was as the last of them."""
    answers = list(disturbed)

    def find(*_: object, cores: int) -> str | None:
        return REASON if (answers.pop(0) if len(answers) > 1 else answers[0]) else None

    monkeypatch.setattr(launch, "find_disturbance", find)


def test_a_disturbed_launch_is_made_again_and_its_files_stay(
    make_launcher: Callable[..., Launcher], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert recording.baselines == ()


def test_a_machine_that_is_never_quiet_ends_all_the_same(
    make_launcher: Callable[..., Launcher], count_launches: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    disturb(monkeypatch, True)
    relauncher = Relauncher(make_launcher(), Relaunches(4))
    results = [relauncher.launch_point(point) for point in POINTS[:3]]
    assert [len(result.notes) for result in results] == [2, 0, 0]
    assert all(result.disturbance == REASON for result in results)
    assert len(count_launches()) == 3 + 2


def test_a_quiet_launch_is_made_once(
    make_launcher: Callable[..., Launcher], count_launches: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    disturb(monkeypatch, False)
    assert Relauncher(make_launcher()).launch_point(POINTS[0]).notes == ()
    assert count_launches() == [POINTS[0].run_id]
