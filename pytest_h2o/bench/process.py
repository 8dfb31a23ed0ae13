"""One child process, safely: its own process group, a time limit, output streamed to a file, nothing left behind.

The child leads a new session, and with it a process group, so that whatever it starts can be ended with it. Three
things end the group: the time limit (TERM, then KILL), an exception here (KILL), and the death of this very
process, even by KILL (see `guard`). A process that leaves the group (``setsid``) is out of reach.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pytest_h2o.errors import BenchError, make_printable
from pytest_h2o.files import open_regular

_GUARD = """
import os, signal, sys, time

group, mark = 0, sys.argv[1].encode()
while lines := os.read(0, 64).split():
    group = int(lines[-1])
end = time.monotonic() + 1
while group < 0 and time.monotonic() < end:
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if mark in file.read().split(b"\\0"):
                    group = os.getpgid(int(name))
        except OSError:
            pass
    time.sleep(0.01)
if group > 0:
    os.killpg(group, signal.SIGKILL)
"""
"""Reads the group to guard as a line, 0 once there is none; at the end of the pipe it kills what it then guards.

Below 0: it is being started. Then the guard looks for it by its environment, where processes show theirs (Linux).
"""

_BEING_STARTED = -1


@contextlib.contextmanager
def guard_process(command: tuple[str, ...]) -> Iterator[tuple[Callable[[int], None], dict[str, str]]]:
    """Start the guard, and end it with the block: a group that is still named then is killed.

    What is yielded names the process group to guard, 0 for none; with it goes what the environment of a process must
    hold that is guarded while it is being started. Our death closes the pipe, whatever the cause.
    """
    mark = {"PYTEST_H2O_GUARD": os.urandom(8).hex()}
    read_end, write_end = os.pipe()
    try:
        # -I -S: nothing of the user's environment takes part, and it starts in about 10 ms.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD, "=".join(*mark.items())],
            stdin=read_end,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        os.close(write_end)
        what, came = "the guard process beside the bench cannot be started", error.strerror or str(error)
        hint = "look at the limits on processes and memory (ulimit -a)"
        raise BenchError(what, argv=command, where=sys.executable, came=came, hint=hint) from error
    finally:
        os.close(read_end)

    def watch(group: int) -> None:
        # A guard that somebody killed cannot be told anything, and the run itself does not need it.
        with contextlib.suppress(BrokenPipeError):
            os.write(write_end, b"%d\n" % group)

    try:
        yield watch, mark
    finally:
        os.close(write_end)
        process.wait()


class ChildResult(NamedTuple):
    """How a child process ended."""

    argv: tuple[str, ...]
    returncode: int
    """Exit status; minus the signal's number if a signal ended it."""
    signal_name: str | None
    timed_out: bool
    """It was still running at its time limit and was ended for that."""
    elapsed_s: float
    stdout_path: Path
    """Everything that it printed, standard output and standard error together."""

    def facts(self) -> dict[str, Any]:
        """What a `BenchError` says of a launch: its command, its end and its last lines."""
        names = ("argv", "returncode", "signal_name", "elapsed_s")
        return {name: getattr(self, name) for name in names} | {"output_tail": read_tail(self.stdout_path)}


NO_DUMP: Mapping[str, str] = {"MNN_KV_DUMP_DIR": "off"}
"""A build that can dump its cache does so unasked, into the working directory; a timed launch must not."""


def run_child(
    argv: Sequence[str],
    *,
    stdout_path: Path,
    timeout_s: float,
    grace_s: float = 5.0,
    rows_path: Path | None = None,
    environment: Mapping[str, str | Path] | None = None,
    folder: Path | None = None,
    held: bool = False,
) -> ChildResult:
    """Run a command to its end and leave no process of its group behind; in a folder of its own if one is named.

    `held`: its standard input ends when it has ended, or when we die; else it is empty.

    What it prints goes to `stdout_path`; to `rows_path`, where there is one, what it prints on standard output. Its
    environment is ours, with `environment` over `NO_DUMP` over it.
    """
    command = tuple(argv)
    with contextlib.ExitStack() as stack:
        output, rows = stack.enter_context(_open_new(stdout_path)), None
        try:
            rows = None if rows_path is None else stack.enter_context(_open_new(rows_path))
            watch, mark = stack.enter_context(guard_process(command))
            stdin = subprocess.PIPE if held else subprocess.DEVNULL
            env = {**os.environ, **NO_DUMP, **(environment or {}), **mark}
            watch(_BEING_STARTED)
            try:
                child = _start(command, output, output if rows is None else rows, env, folder, stdin)
            except BenchError:
                watch(0)
                raise
        except BenchError:
            # Nothing was started: an empty file here would only stand in the way of the next attempt.
            stdout_path.unlink(missing_ok=True)
            if rows_path is not None and rows is not None:
                rows_path.unlink(missing_ok=True)
            raise
        started = time.monotonic()
        try:
            watch(child.pid)
            timed_out = not _wait(child, started + timeout_s)
            if timed_out:
                _signal_group(child.pid, signal.SIGTERM)
                _wait(child, time.monotonic() + grace_s)
        finally:
            elapsed_s = time.monotonic() - started
            _end_group(child)
            watch(0)
            if child.stdin is not None:
                child.stdin.close()
    returncode = child.returncode
    return ChildResult(command, returncode, signal_name(returncode), timed_out, elapsed_s, stdout_path)


def signal_name(returncode: int) -> str | None:
    """Name the signal behind a negative return code; None for a process that exited by itself."""
    if returncode >= 0:
        return None
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


def read_tail(path: Path, max_bytes: int = 4096) -> str:
    """Read the last lines of a file for an error message."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - max_bytes))
            data = file.read(max_bytes)
    except OSError:
        return ""
    if size > max_bytes and b"\n" in data[:-1]:
        data = data[data.index(b"\n") + 1 :]
    return make_printable(data.decode("utf-8", "replace")).strip("\n")


def _open_new(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")
    except FileExistsError:
        hint = "choose another output folder, or move the old file away"
        raise BenchError("the output of a run would overwrite a file", where=str(path), hint=hint) from None
    except OSError as error:
        what, came = "the output of a run cannot be written", error.strerror or str(error)
        raise BenchError(what, where=str(path), came=came, expected="a folder that can be written") from error


_CANNOT_START = {
    errno.ENOENT: ("no such file", "build it, or correct the path"),
    errno.EACCES: ("not a file that may be executed", "give the program itself, and make it executable: chmod +x {}"),
    errno.EPERM: ("not a file that may be executed", "give the program itself, and make it executable: chmod +x {}"),
    errno.ENOEXEC: (
        "not a program for this machine",
        "build it for this machine; a script needs a first line like #!/bin/sh",
    ),
}
"""Error of the system -> why a command could not be started, and what to do."""


def _start(
    command: tuple[str, ...],
    output: BinaryIO,
    rows: BinaryIO,
    env: Mapping[str, str | Path],
    folder: Path | None,
    stdin: int,
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command, stdin=stdin, stdout=rows, stderr=output, env=env, cwd=folder, start_new_session=True
        )
    except (OSError, ValueError) as error:
        program, code = command[0], error.errno if isinstance(error, OSError) else None
        came, hint = _CANNOT_START.get(code or 0, (getattr(error, "strerror", None) or str(error), None))
        if code == errno.ENOENT and Path(program).exists():
            came = "its interpreter or loader is missing"
            hint = "look at its first line (#!) or at `file` and `ldd` of it"
        raise BenchError(
            "the bench cannot be started",
            argv=command,
            where=make_printable(program),
            came=came,
            expected="a program that can be run",
            hint=hint and hint.format(program),
        ) from error


def _wait(child: subprocess.Popen[bytes], deadline: float) -> bool:
    """Wait for the child without reaping it; False if the deadline came first."""
    pause_s = 0.001
    while not _has_exited(child):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        time.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 2, 0.05)
    return True


def _has_exited(child: subprocess.Popen[bytes]) -> bool:
    """Tell whether the child has ended; leaves it a zombie where the system can, so that its id stays its own."""
    if hasattr(os, "waitid"):
        return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return child.poll() is not None


def _signal_group(group: int, number: int) -> bool:
    """Signal a process group; False if nobody is in it any more."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        # macOS says EPERM of a group that has only zombies left.
        return False
    return True


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Kill whoever is left in the group, reap the child, and see the others gone."""
    _signal_group(child.pid, signal.SIGKILL)
    child.wait()
    # Short: killed they are, and where nobody reaps orphans (a container without init) they stay zombies for good.
    deadline = time.monotonic() + 0.2
    while _signal_group(child.pid, 0) and time.monotonic() < deadline:
        time.sleep(0.005)
