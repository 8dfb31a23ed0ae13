"""Runs that all tests of the reports share: a failing one over two workers, as on GitHub, and one that 0.1 wrote."""

import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_h2o.report.artifacts import RunRecords, read_run
from tests.plugin.project import ROOT, Project


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
    project = Project(tmp_path_factory.mktemp("report-run"))
    step = project.path / "step.md"
    project.env = {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(project.path), "GITHUB_STEP_SUMMARY": str(step)}
    result = project.run("-n2", "--h2o-lossy-target=3.5", "--junitxml=junit.xml", page=True)
    assert result.ret == 1, result.outlines
    return GateRun(project.path, project.run_dir(), "\n".join(result.outlines), step, project.path / "junit.xml")


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
