"""One timed run at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_h2o.bench.machine_lock import machine_lock
from pytest_h2o.errors import StoreError


def test_one_timed_run_at_a_time(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    code = (
        "import sys, time; from pathlib import Path; from pytest_h2o.bench.machine_lock import machine_lock\n"
        "with machine_lock():\n"
        f"    with Path({str(marks)!r}).open('a') as f: f.write('in '); f.flush(); time.sleep(0.15); f.write('out ')\n"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=env) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert marks.read_text() == "in out " * 3


def test_waiting_for_the_lock_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = (
        "import time; from pytest_h2o.bench.machine_lock import machine_lock\n"
        "with machine_lock(): print('held', flush=True); time.sleep(1.6)"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    holder = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    waited: list[float] = []
    started = time.monotonic()
    with machine_lock(waited.append):
        assert time.monotonic() - started > 1
    assert holder.wait() == 0
    holder.stdout.close()
    assert len(waited) == 1
    assert 0.9 < waited[0] < 1.6


def test_the_lock_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"pytest-h2o-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="the lock that keeps timed runs apart cannot be made"), machine_lock():
        pytest.fail("got in")
