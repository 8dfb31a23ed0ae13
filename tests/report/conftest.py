"""One gate run that all tests of the reports share: a failing one, spread over two workers, as in GitHub Actions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.project import Project

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
def paired_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run with launches, pairs of them, and a comparison with an earlier run: do not write into it."""
    project = Project(tmp_path_factory.mktemp("paired-run"))
    options = (*project.make_bench(), "-k", "target_ratio_v3 or grouped_192_8", "--h2o-disturbed=keep")
    project.env["FAKE_DECODE"] = "base=60,drop=0.01,spread=0.02,seed=1"
    before = project.run(*options, "--h2o-save=main", "-n2")
    assert before.ret == 0, before.outlines
    again = project.run(*options, "--h2o-compare=main")
    assert again.ret == 0, again.outlines
    return project.runs()[-1]


@pytest.fixture
def run_copy(gate_run: GateRun, tmp_path: Path) -> Path:
    """The run folder, for a test to damage."""
    return Path(shutil.copytree(gate_run.run_dir, tmp_path / "run"))
