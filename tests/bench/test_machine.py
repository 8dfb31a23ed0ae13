"""Timed runs are alone on the machine; which launches count as disturbed all the same, and what is read to tell."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from pytest_h2o.bench.machine import (
    MachineState,
    describe_sources,
    find_disturbance,
    heavy_work,
    machine_lock,
    read_machine,
)
from pytest_h2o.errors import StoreError
from tests.plugin.broken_off import wait_until

Hold = Callable[..., threading.Event]
Mode = Literal["read", "write"]

BEFORE = MachineState(clock_s=100.0, busy_s=1000.0, own_s=5.0, swapped_pages=10, throttled=3, mean_mhz=3000.0)
QUIET = MachineState(clock_s=110.0, busy_s=1020.0, own_s=24.9, swapped_pages=10, throttled=3, mean_mhz=3000.0)
"""Ten seconds later: two cores busy, all but a hundredth of it our own."""


@pytest.mark.parametrize(
    ("after", "cores", "found"),
    [
        (QUIET, 2, None),
        (QUIET._replace(busy_s=1022.5), 2, "others used 0.3 of 2 cores (up to 0.2 are taken for quiet)"),
        (QUIET._replace(busy_s=1022.5), 16, None),
        (QUIET._replace(busy_s=1075.0), 16, "others used 5.5 of 16 cores (up to 5.1 are taken for quiet)"),
        (QUIET._replace(swapped_pages=74), 2, None),
        (QUIET._replace(swapped_pages=2010), 2, "2,000 pages were swapped"),
        (QUIET._replace(throttled=5), 2, "the cores were slowed 2 times because they were hot"),
        (QUIET._replace(mean_mhz=2600.0), 2, "the clock fell from 3000 to 2600 MHz"),
        (QUIET._replace(mean_mhz=2800.0), 2, None),
        (QUIET._replace(mean_mhz=4000.0), 2, None),
        (
            QUIET._replace(busy_s=1040.0, swapped_pages=2010),
            2,
            "others used 2.0 of 2 cores (up to 0.2 are taken for quiet); 2,000 pages were swapped",
        ),
        (QUIET._replace(busy_s=None, swapped_pages=None, throttled=None, mean_mhz=None), 2, None),
        (QUIET._replace(clock_s=100.1, busy_s=1040.0), 2, None),
    ],
)
def test_what_counts_as_a_disturbance(after: MachineState, cores: int, found: str | None) -> None:
    assert find_disturbance(BEFORE, after, cores=cores) == found


def write_counters(root: Path) -> None:
    files = {
        "proc/stat": "cpu  100 200 300 9999 50 10 20 30 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n",
        "proc/vmstat": "nr_free_pages 5\npswpin 7\npswpout 8\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "4\n",
        "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "5\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2000000\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "3000000\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_the_counters_are_read(tmp_path: Path) -> None:
    write_counters(tmp_path)
    state = read_machine(tmp_path)
    assert state.busy_s == 660 / os.sysconf("SC_CLK_TCK")
    assert (state.swapped_pages, state.throttled, state.mean_mhz) == (15, 9, 2500.0)
    assert describe_sources(state) == "load by others, swapping, throttling, clock watched"


def test_what_cannot_be_read_is_missing_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    state = read_machine(tmp_path)
    assert (state.busy_s, state.swapped_pages, state.throttled, state.mean_mhz) == (None, None, None, None)
    assert describe_sources(state) == "nothing watched; load by others, swapping, throttling, clock cannot be read here"
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "stat").write_text("cpu  one two\n")
    (tmp_path / "proc" / "vmstat").write_text("pswpin many\n")
    again = read_machine(tmp_path)
    assert again == state._replace(clock_s=again.clock_s, own_s=again.own_s)


def test_without_proc_psutil_is_asked(tmp_path: Path) -> None:
    pytest.importorskip("psutil")
    busy_s = read_machine(tmp_path).busy_s
    assert busy_s > 0


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="there is no /proc here")
def test_the_work_of_a_child_is_our_own() -> None:
    before = read_machine()
    code = "import time; end = time.process_time() + 0.4\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    after = read_machine()
    assert 0.35 <= after.own_s - before.own_s < 3
    assert after.busy_s - before.busy_s >= 0.3


HOLD = (
    "import sys, time; from pathlib import Path; from pytest_h2o.bench.machine import machine_lock\n"
    "with machine_lock(mode=sys.argv[1]): Path(sys.argv[2]).touch(); time.sleep(60)\n"
)


SLICE_S = 0.2


@pytest.fixture(autouse=True)
def waits_are_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_h2o.bench.machine._SLICE_S", SLICE_S)


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Hold the lock in a thread, which is to it as another process: until the event is set, or for so many seconds.

    It has the lock when this returns, or waits for it where it is to wait.
    """
    threads: list[tuple[threading.Thread, threading.Event]] = []

    def start(mode: Mode, marks: list[str], *, release_s: float = 20, waits: bool = False) -> threading.Event:
        inside, waiting, release = threading.Event(), threading.Event(), threading.Event()

        def work() -> None:
            with machine_lock(lambda _: waiting.set(), mode=mode):
                marks.append(f"{mode} in")
                inside.set()
                release.wait(release_s)
                marks.append(f"{mode} out")

        thread = threading.Thread(target=work)
        thread.start()
        threads.append((thread, release))
        assert (waiting if waits else inside).wait(20)
        return release

    yield start
    for _, release in threads:
        release.set()
    for thread, _ in threads:
        thread.join()


def test_one_timed_run_at_a_time(hold: Hold) -> None:
    marks: list[str] = []
    first = hold("write", marks)
    for _ in range(2):
        hold("write", marks, release_s=0.05, waits=True)
    first.set()
    with machine_lock():
        pass
    for _ in range(200):
        if len(marks) == 6:
            break
        time.sleep(0.01)
    assert marks == ["write in", "write out"] * 3


def test_codec_work_runs_beside_codec_work(hold: Hold) -> None:
    marks: list[str] = []
    hold("read", marks)
    with heavy_work(), heavy_work():
        assert marks == ["read in"]


@pytest.mark.parametrize(("held", "wanted"), [("read", "write"), ("write", "read")])
def test_a_timed_run_and_codec_work_exclude_each_other(held: Mode, wanted: Mode, hold: Hold) -> None:
    marks: list[str] = []
    hold(held, marks, release_s=0.2)
    with machine_lock(mode=wanted):
        assert marks == [f"{held} in", f"{held} out"]


def test_a_waiting_timed_run_keeps_new_codec_work_out(hold: Hold) -> None:
    marks: list[str] = []
    reads = hold("read", marks)
    hold("write", marks, release_s=0.1, waits=True)
    threading.Timer(0.5, reads.set).start()
    with heavy_work():
        assert marks == ["read in", "read out", "write in", "write out"]


@pytest.mark.parametrize("held", ["read", "write"])
def test_a_process_that_is_killed_releases_it(held: str, tmp_path: Path) -> None:
    env = {**os.environ, "TMPDIR": tempfile.gettempdir(), "PYTHONPATH": os.pathsep.join(sys.path)}
    holder = subprocess.Popen([sys.executable, "-c", HOLD, held, str(tmp_path / "mark")], env=env)
    wait_until((tmp_path / "mark").exists, "the process never got the lock")
    waited: list[float] = []

    def end_holder(waited_s: float) -> None:
        waited.append(waited_s)
        holder.kill()

    with machine_lock(end_holder):
        assert holder.wait() == -signal.SIGKILL
    assert waited[0] > 0.9 * SLICE_S


def test_the_lock_of_somebody_else_or_of_another_kind_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"pytest-h2o-{os.getuid()}"
    folder.symlink_to(tmp_path)
    with pytest.raises(StoreError, match="the lock that keeps timed runs apart cannot be made"), machine_lock():
        pytest.fail("got in")
    folder.unlink()
    (folder / "machine.db").mkdir(parents=True)
    with pytest.raises(StoreError, match="the lock that keeps timed runs apart cannot be made"), machine_lock():
        pytest.fail("got in")


def test_without_any_folder_for_temporary_files_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.gettempdir", refuse)
    with (
        pytest.raises(StoreError, match="the lock that keeps timed runs apart cannot be made") as caught,
        machine_lock(),
    ):
        pass
    assert caught.value.came == "No usable temporary directory found in ['/tmp']"
    assert "point TMPDIR to a folder of your own" in str(caught.value)
