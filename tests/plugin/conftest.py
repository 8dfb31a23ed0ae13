"""A user's project in a temporary folder: the shipped gates, and the recordings or a fake bench to gate on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECORDINGS = ROOT / "fixtures" / "recordings" / "smollm2-135m"
DUMPS = ROOT / "fixtures" / "dumps" / "fp16"

MODES = {"plain": [], "n0": ["-n0"], "n2": ["-n2"], "no-xdist": ["-p", "no:xdist"]}
"""The ways of running pytest that must not make a difference."""


QUICK = ("-p", "no:hypothesispytest")
"""That plugin loads all of hypothesis at the end of every run: half of the time that a short one takes."""


class Project:
    """The gates of a user, runnable by `run`."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path
        shutil.copytree(ROOT / "gates", self.path / "gates", ignore=shutil.ignore_patterns("__pycache__"))
        scopes = self.path / "gates" / "scopes.yaml"
        scopes.write_text(scopes.read_text().replace("../fixtures/dumps/fp16", str(DUMPS)))
        self.write_ini(h2o_logs=str(RECORDINGS), h2o_set="model_layers=30")

    def write_ini(self, **keys: str) -> None:
        lines = [f"{key} = {value}" for key, value in keys.items()]
        (self.path / "pytest.ini").write_text("\n".join(["[pytest]", *lines]) + "\n")

    def copy_recordings(self) -> Path:
        """The recordings as files of this project's own, for a test to damage; the ini file points to them."""
        folder = self.path / "recordings"
        shutil.copytree(RECORDINGS, folder)
        self.write_ini(h2o_logs="recordings")
        return folder / "target_ratio_v3"

    def copy_dump(self) -> Path:
        """The dump as files of this project's own; the scopes point to them."""
        folder = self.path / "dump"
        shutil.copytree(DUMPS, folder)
        scopes = self.path / "gates" / "scopes.yaml"
        scopes.write_text(scopes.read_text().replace(str(DUMPS), "../dump"))
        return folder

    def run(self, *arguments: str) -> pytest.RunResult:
        return self.pytester.runpytest_subprocess("gates", *QUICK, *arguments)

    def run_here(self, *arguments: str) -> pytest.RunResult:
        """Run the gates in this process, which saves a start; the caller has imported what cannot be loaded twice."""
        return self.pytester.runpytest_inprocess("gates", *QUICK, *arguments)

    def runs(self) -> list[Path]:
        folders = (path for path in (self.path / "h2o-runs").glob("*") if path.is_dir() and path.name != "baselines")
        return sorted(folders)

    def run_dir(self) -> Path:
        (folder,) = self.runs()
        return folder

    def summary(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.run_dir() / "summary.json").read_text())
        return value


@pytest.fixture
def project(pytester: pytest.Pytester) -> Project:
    return Project(pytester)


@pytest.fixture
def replace_in() -> Callable[[Path, str, str], None]:
    """Change one text in a file; it must be there exactly once."""

    def replace(path: Path, old: str, new: str) -> None:
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {path}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    return replace
