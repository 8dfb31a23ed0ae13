"""Runs that all tests of the reports share: a failing one over two workers, as on GitHub, and one that 0.1 wrote."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_h2o.report.artifacts import RunRecords, read_run

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class GateRun:
    """A run as it ended: do not write into its folder, use a copy."""

    project: Path
    run_dir: Path
    stdout: str
    step_summary: Path
    junit: Path

    def read(self, name: str) -> Any:
        return json.loads((self.run_dir / name).read_text(encoding="utf-8"))

    @property
    def journal(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run_dir / "journal.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def gate_run(tmp_path_factory: pytest.TempPathFactory) -> GateRun:
    project = tmp_path_factory.mktemp("report-run")
    shutil.copytree(ROOT / "gates", project / "gates", ignore=shutil.ignore_patterns("__pycache__"))
    scopes = project / "gates" / "scopes.yaml"
    scopes.write_text(scopes.read_text().replace("../fixtures", str(ROOT / "fixtures")))
    logs = ROOT / "fixtures" / "recordings" / "smollm2-135m"
    (project / "pytest.ini").write_text(f"[pytest]\nh2o_logs = {logs}\nh2o_set = model_layers=30\n")
    environ = {
        **os.environ,
        "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": str(project),
        "GITHUB_STEP_SUMMARY": str(project / "step.md"),
    }
    command = [sys.executable, "-m", "pytest", "gates", "-n2", "-p", "no:cacheprovider"]
    command += ["--h2o-lossy-target=3.5", "--junitxml=junit.xml"]
    done = subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    (run_dir,) = (path for path in (project / "h2o-runs").iterdir() if path.is_dir())
    return GateRun(project, run_dir, done.stdout, project / "step.md", project / "junit.xml")


@pytest.fixture(scope="session")
def old_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 0.1, with pairs of launches, a comparison and a history: do not write into it."""
    folder = tmp_path_factory.mktemp("old-run")
    with zipfile.ZipFile(ROOT / "fixtures" / "run-of-0.1.zip") as archive:
        archive.extractall(folder)
    (run_dir,) = folder.glob("2*")
    return run_dir


@pytest.fixture
def run_copy(gate_run: GateRun, tmp_path: Path) -> Path:
    """The run folder, for a test to damage."""
    return Path(shutil.copytree(gate_run.run_dir, tmp_path / "run"))


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts take most of the time of a page: an empty one stands for each."""
    empty = '<svg role="img" aria-labelledby=""></svg>'
    monkeypatch.setattr("pytest_h2o.report.page.render_chart", lambda chart: empty)


@pytest.fixture
def records(gate_run: GateRun) -> RunRecords:
    return read_run(gate_run.run_dir)
