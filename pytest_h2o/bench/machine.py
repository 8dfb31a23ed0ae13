"""This machine: the lock that keeps a timed run alone on it, what disturbed one all the same, and what it is called.

Timed runs hold it for writing, heavy codec work for reading: codecs may run beside each other and never beside a timed
run. The system releases the lock if its holder dies, by KILL even. It is the reader-writer lock of filelock, whose
locks SQLite holds on a small file. Who waits for it, for reading or writing, holds the turn, a second lock: those who
come later wait for the turn, so that a writer is not starved by readers.
"""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pytest_h2o.errors import StoreError
from pytest_h2o.files import usable_cores

Wait = Callable[[float], None]
_SLICE_S = 1.0
"""How long one attempt waits before it says so and tries again."""


@contextlib.contextmanager
def machine_lock(on_wait: Wait | None = None, *, mode: Literal["write", "read"] = "write") -> Iterator[None]:
    """Hold the lock of this machine and user for the length of the block, waiting for it as long as it takes.

    It is not reentrant: a block inside a block waits for ever, unless both read.
    """
    import sqlite3

    from filelock import FileLock, ReadWriteLock  # with asyncio: a collection of items needs neither

    folder = _lock_folder()
    refused = (OSError, ValueError, sqlite3.Error)
    path = folder / "machine.db"
    started = time.monotonic()
    try:
        # Not a singleton: two threads of one process exclude each other like two processes.
        lock = ReadWriteLock(path, is_singleton=False)
        turn = FileLock(folder / "turn.lock", thread_local=False)
    except refused as error:
        raise _no_lock(path, str(error)) from error

    def acquire(attempt: Callable[[float], object]) -> None:
        while not _acquired(attempt):
            if on_wait is not None:
                on_wait(time.monotonic() - started)

    try:
        try:
            acquire(turn.acquire)
            acquire(lock.acquire_write if mode == "write" else lock.acquire_read)
        except refused as error:
            raise _no_lock(path, str(error)) from error
        finally:
            turn.release()
        yield
    finally:
        lock.close()


def _acquired(attempt: Callable[[float], object]) -> bool:
    """Whether an attempt of one slice got its lock."""
    from filelock import Timeout

    try:
        attempt(_SLICE_S)
    except Timeout:
        return False
    return True


def heavy_work(on_wait: Wait | None = None) -> contextlib.AbstractContextManager[None]:
    """Hold the lock for reading: for work that loads the machine and is not timed."""
    return machine_lock(on_wait, mode="read")


def _lock_folder() -> Path:
    """Folder in the system's temporary folder that only this user can write."""
    user = os.getuid()
    try:
        path = Path(tempfile.gettempdir()) / f"pytest-h2o-{user}"
    except OSError as error:
        raise _no_lock(None, error.strerror or str(error)) from error
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise _no_lock(path, error.strerror or str(error)) from error
    # The temporary folder is everybody's: somebody else may have made this name first.
    if status.st_uid != user or path.is_symlink():
        raise _no_lock(path, f"a {'link' if path.is_symlink() else 'folder'} of user {status.st_uid}")
    return path


def _no_lock(path: Path | None, came: str) -> StoreError:
    what = "the lock that keeps timed runs apart cannot be made"
    expected = "a folder of your own in the temporary folder"
    hint = "remove what stands there, or point TMPDIR to a folder of your own"
    return StoreError(what, where=None if path is None else str(path), came=came, expected=expected, hint=hint)


OTHERS_SHARE = 0.1
"""Others may use this share of all cores, whatever the bench uses."""

OTHERS_SHARE_OF_IDLE = 0.25
"""... and this share of the cores that the bench left idle: memory bandwidth and clock are shared with them."""

SWAPPED_PAGES = 64
"""More pages than this swapped in or out during a launch are no accident."""

CLOCK_CHANGE = 0.10
"""The mean clock before and after may differ by this share of the higher one."""

SHORTEST_S = 0.2
"""The counters tick every 10 ms: of a shorter launch they say too little about load."""


@dataclass(frozen=True)
class MachineState:
    """Counters of the machine at one moment, since start-up; None where one cannot be read."""

    clock_s: float
    """Monotonic time."""
    busy_s: float | None
    """Processor seconds that all processes of the machine have used, all cores together."""
    own_s: float
    """Processor seconds of this process and of the children that it has reaped."""
    swapped_pages: int | None = None
    throttled: int | None = None
    """How often the cores were slowed because they were hot."""
    mean_mhz: float | None = None
    """Mean present clock of the cores."""


def find_disturbance(before: MachineState, after: MachineState, *, cores: int) -> str | None:
    """Say what disturbed a launch between two states, or None.

    Load by others is what the machine was busy with, less our own processor time, as a mean number of cores. Allowed
    are a tenth of all cores and a quarter of what the bench left idle: rules of thumb, small enough for a bench that
    uses all cores, and large enough that a mostly idle machine is not called disturbed. A busy core that clocks up is
    no disturbance; one that clocks down is.
    """
    found = []
    elapsed_s = after.clock_s - before.clock_s
    if before.busy_s is not None and after.busy_s is not None and elapsed_s >= SHORTEST_S:
        own = (after.own_s - before.own_s) / elapsed_s
        others = (after.busy_s - before.busy_s) / elapsed_s - own
        allowed = OTHERS_SHARE * cores + OTHERS_SHARE_OF_IDLE * max(0.0, cores - own)
        if others > allowed:
            found.append(f"others used {others:.1f} of {cores} cores (up to {allowed:.1f} are taken for quiet)")
    pages = _rise(before.swapped_pages, after.swapped_pages)
    if pages > SWAPPED_PAGES:
        found.append(f"{pages:,} pages were swapped")
    slowed = _rise(before.throttled, after.throttled)
    if slowed > 0:
        found.append(f"the cores were slowed {slowed} times because they were hot")
    if before.mean_mhz and after.mean_mhz and not found and 1 - after.mean_mhz / before.mean_mhz > CLOCK_CHANGE:
        found.append(f"the clock fell from {before.mean_mhz:.0f} to {after.mean_mhz:.0f} MHz")
    return "; ".join(found) or None


def _rise(before: int | None, after: int | None) -> int:
    """By how much a counter rose; 0 where it cannot be read."""
    return 0 if before is None or after is None else after - before


def read_machine(root: Path = Path("/")) -> MachineState:
    """Read the counters of this moment; `root` is where ``proc`` and ``sys`` stand."""
    times = os.times()
    throttled, clocks_khz = (
        _of_cores(root, name) for name in ("thermal_throttle/core_throttle_count", "cpufreq/scaling_cur_freq")
    )
    return MachineState(
        clock_s=time.monotonic(),
        busy_s=_busy_s(root),
        own_s=times.user + times.system + times.children_user + times.children_system,
        swapped_pages=_swapped_pages(root),
        throttled=sum(throttled) if throttled else None,
        mean_mhz=sum(clocks_khz) / len(clocks_khz) / 1000 if clocks_khz else None,
    )


def describe_sources(state: MachineState) -> str:
    """Which signs of a disturbance can be seen on this machine, in words."""
    values = (state.busy_s, state.swapped_pages, state.throttled, state.mean_mhz)
    named = dict(zip(("load by others", "swapping", "throttling", "clock"), values, strict=True))
    seen = ", ".join(name for name, value in named.items() if value is not None) or "nothing"
    unseen = ", ".join(name for name, value in named.items() if value is None)
    return f"{seen} watched" + (f"; {unseen} cannot be read here" if unseen else "")


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None


def _busy_s(root: Path) -> float | None:
    stat = _text(root / "proc" / "stat")
    if stat is None:
        return _busy_from_psutil()
    fields = stat.split("\n", 1)[0].split()
    if fields[:1] != ["cpu"] or len(fields) < 9 or not all(field.isdecimal() for field in fields[1:9]):
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
    # Stolen time is the load of another guest on our core: it is others' as well.
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _busy_from_psutil() -> float | None:
    try:
        import psutil
    except ImportError:
        return None
    times = psutil.cpu_times()._asdict()
    return float(sum(value for name, value in times.items() if name not in ("idle", "iowait", "guest", "guest_nice")))


def _swapped_pages(root: Path) -> int | None:
    counters = dict(line.split(" ", 1) for line in (_text(root / "proc" / "vmstat") or "").splitlines() if " " in line)
    try:
        return int(counters["pswpin"]) + int(counters["pswpout"])
    except (KeyError, ValueError):
        return None


def _of_cores(root: Path, name: str) -> list[int]:
    """A number of each core that tells it."""
    texts = [_text(path) or "" for path in (root / "sys" / "devices" / "system" / "cpu").glob(f"cpu[0-9]*/{name}")]
    return [int(text) for text in texts if text.strip().isdecimal()]


@lru_cache(maxsize=1)
def describe_machine() -> str:
    """System, processor and usable cores. No host name: a baseline is committed, and machines of a farm are alike."""
    return f"{platform.system()} {platform.machine()}, {_processor()}, {usable_cores()} cores"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "cpu model"):
                return " ".join(value.split())
    except OSError:
        pass  # no such file outside Linux
    return platform.processor() or "processor not known"
