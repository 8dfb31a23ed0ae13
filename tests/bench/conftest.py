"""What the tests of launching share."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_h2o.bench.command import BenchSettings, read_base_config
from pytest_h2o.bench.launch import JsonSupport, Launcher
from tests.quick_bench import launch_here

from .samples import COMMAND, RECORDINGS, SWEEP

Make = Callable[..., Launcher]


@pytest.fixture(autouse=True)
def _own_machine_lock(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no timed run of another terminal."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("tmp")))


PROCESS_MODES = ("crash", "hang", "hang_ignoring_term", "grandchild")


@pytest.fixture
def make_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make a launcher of the fake bench: a mode, and settings that are not the usual ones.

    It runs here, if it neither dies nor hangs in that mode and no other command is given.
    """

    def make(mode: str = "ok", **changes: object) -> Launcher:
        if mode not in PROCESS_MODES and "command" not in changes:
            launch_here(monkeypatch)
        monkeypatch.setenv("FAKE_RECORDINGS", str(SWEEP))
        monkeypatch.setenv("FAKE_MODE", mode)
        monkeypatch.setenv("FAKE_LAUNCHES", str(tmp_path / "launches.txt"))
        values: dict[str, Any] = {"command": COMMAND, "threads": 2, "timeout_s": 20, **changes}
        base = read_base_config(RECORDINGS / "base_config.json")
        return Launcher(base, BenchSettings(**values), tmp_path / "sweep", JsonSupport())

    return make


@pytest.fixture
def count_launches(tmp_path: Path) -> Callable[[], list[str]]:
    """Names of the configs that were launched, in order."""

    def read() -> list[str]:
        path = tmp_path / "launches.txt"
        return [Path(line).stem for line in path.read_text().splitlines()] if path.exists() else []

    return read
