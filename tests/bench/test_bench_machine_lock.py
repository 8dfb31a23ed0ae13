"""Timed runs are alone on the machine; codecs run beside each other, and never beside a timed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pytest_h2o.bench.machine import heavy_work, machine_lock
from pytest_h2o.errors import StoreError

HOLD = (
    "import sys, time; from pathlib import Path; from pytest_h2o.bench.machine import machine_lock\n"
    "with machine_lock(mode=sys.argv[1]):\n"
    "    with open(sys.argv[2], 'a') as file:\n"
    "        file.write(f'{sys.argv[1]} in '); file.flush(); time.sleep(float(sys.argv[3]))\n"
    "        file.write(f'{sys.argv[1]} out '); file.flush()\n"
)


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def start_holder(tmp_path: Path, mode: str, seconds: float) -> subprocess.Popen[bytes]:
    """A process that takes the lock, writes ``MODE in`` to `marks`, holds it, and writes ``MODE out``."""
    env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", HOLD, mode, str(tmp_path / "marks"), str(seconds)], env=env)


def wait_for_mark(tmp_path: Path, text: str) -> None:
    deadline = time.monotonic() + 20
    while not ((tmp_path / "marks").exists() and text in (tmp_path / "marks").read_text()):
        assert time.monotonic() < deadline, f"no {text!r}"
        time.sleep(0.02)


def test_one_timed_run_at_a_time(tmp_path: Path) -> None:
    processes = [start_holder(tmp_path, "write", 0.15) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "marks").read_text() == "write in write out " * 3


def test_codec_work_runs_beside_codec_work(tmp_path: Path) -> None:
    holder = start_holder(tmp_path, "read", 60)
    wait_for_mark(tmp_path, "read in")
    with heavy_work(), heavy_work():
        assert holder.poll() is None
    holder.kill()
    holder.wait()


@pytest.mark.parametrize(("held", "wanted"), [("read", "write"), ("write", "read")])
def test_a_timed_run_and_codec_work_exclude_each_other(held: str, wanted: str, tmp_path: Path) -> None:
    holder = start_holder(tmp_path, held, 0.5)
    wait_for_mark(tmp_path, f"{held} in")
    with machine_lock(mode=wanted):  # type: ignore[arg-type]
        assert (tmp_path / "marks").read_text() == f"{held} in {held} out "
    assert holder.wait() == 0


def test_a_waiting_timed_run_keeps_new_codec_work_out(tmp_path: Path) -> None:
    reader = start_holder(tmp_path, "read", 2.0)
    wait_for_mark(tmp_path, "read in")
    writer = start_holder(tmp_path, "write", 0.3)
    time.sleep(1.2)  # the writer has started and waits
    with heavy_work():
        assert (tmp_path / "marks").read_text().split() == ["read", "in", "read", "out", "write", "in", "write", "out"]
    assert [reader.wait(), writer.wait()] == [0, 0]


@pytest.mark.parametrize("held", ["read", "write"])
def test_a_holder_that_is_killed_releases_it(held: str, tmp_path: Path) -> None:
    holder = start_holder(tmp_path, held, 60)
    wait_for_mark(tmp_path, f"{held} in")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    started = time.monotonic()
    with machine_lock():
        assert time.monotonic() - started < 5


def test_threads_of_one_process_exclude_each_other() -> None:
    marks: list[str] = []

    def hold() -> None:
        with machine_lock():
            marks.append("in")
            time.sleep(0.1)
            marks.append("out")

    threads = [threading.Thread(target=hold) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert marks == ["in", "out"] * 3


def test_waiting_for_the_lock_is_told(tmp_path: Path) -> None:
    holder = start_holder(tmp_path, "write", 1.6)
    wait_for_mark(tmp_path, "write in")
    waited: list[float] = []
    with machine_lock(waited.append):
        assert (tmp_path / "marks").read_text().endswith("write out ")
    assert holder.wait() == 0
    assert waited
    assert waited[0] > 0.9


def test_the_lock_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / f"pytest-h2o-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="the lock that keeps timed runs apart cannot be made"), machine_lock():
        pytest.fail("got in")


def test_a_lock_file_that_is_none_is_told(tmp_path: Path) -> None:
    folder = tmp_path / f"pytest-h2o-{os.getuid()}"
    folder.mkdir()
    (folder / "machine.db").mkdir()
    with pytest.raises(StoreError, match="the lock that keeps timed runs apart cannot be made"), machine_lock():
        pytest.fail("got in")
