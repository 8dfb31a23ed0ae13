"""A sweep that is only written down."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_h2o.bench.launch import Launcher, write_dry_run
from pytest_h2o.bench.rows import read_table
from pytest_h2o.errors import BenchError

from .samples import recorded_points

POINTS = recorded_points()
Make = Callable[..., Launcher]
Launched = Callable[[], list[str]]


def test_dry_run_writes_all_and_runs_nothing(make_launcher: Make, tmp_path: Path, count_launches: Launched) -> None:
    launcher = make_launcher()
    commands = write_dry_run(POINTS, launcher.base, launcher.settings, tmp_path / "dry")
    files = {str(path.relative_to(tmp_path / "dry")) for path in (tmp_path / "dry").rglob("*") if path.is_file()}
    assert files == {"commands.sh", "manifest.json", *(f"configs/{point.run_id}.json" for point in POINTS)}
    entries = json.loads((tmp_path / "dry" / "manifest.json").read_text())
    assert [(entry["run_id"], entry["return_code"]) for entry in entries] == [(point.run_id, None) for point in POINTS]
    assert len(commands) == 27
    assert count_launches() == []
    with pytest.raises(BenchError, match="has been run into this folder before"):
        write_dry_run(POINTS, launcher.base, launcher.settings, tmp_path / "dry")
    script = (tmp_path / "dry" / "commands.sh").read_text().splitlines()
    assert script[3:] == list(commands)
    subprocess.run(["sh", "-c", "\n".join(script[:4])], check=True, stdout=subprocess.DEVNULL)
    assert count_launches() == [POINTS[0].run_id]
    assert read_table(tmp_path / "dry" / "logs" / f"{POINTS[0].run_id}.log")


def test_commands_make_their_folder_wherever_they_are_started(
    make_launcher: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count_launches: Launched
) -> None:
    launcher = make_launcher()
    monkeypatch.chdir(tmp_path)
    write_dry_run(POINTS[:1], launcher.base, launcher.settings, Path("dry"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(["sh", str(tmp_path / "dry" / "commands.sh")], cwd=elsewhere, check=True, stdout=subprocess.DEVNULL)
    assert list(elsewhere.iterdir()) == []
    assert read_table(tmp_path / "dry" / "logs" / f"{POINTS[0].run_id}.log")
