"""A guard beside a child process: if we die, by KILL even, the child's process group is killed.

A small process waits on a pipe that the system closes with our death. The kernel's own means for this,
``PR_SET_PDEATHSIG``, is not used: setting it needs code between fork and exec, which is not safe beside threads, it
reaches the child but not what the child started, and only Linux has it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_h2o.errors import BenchError

_GUARD = """
import os, signal

group = 0
while True:
    lines = os.read(0, 64).split()
    if not lines:
        break
    group = int(lines[-1])
if group:
    os.killpg(group, signal.SIGKILL)
"""
"""Reads the group to guard as a line, 0 once there is none; at the end of the pipe it kills what it then guards."""


@dataclass(frozen=True)
class Guard:
    """Our end of the pipe to the guard; our death closes it, whatever the cause."""

    pipe: int

    def watch(self, group: int) -> None:
        """Name the process group to guard; 0 for none."""
        # A guard that somebody killed cannot be told anything, and the run itself does not need it.
        with contextlib.suppress(BrokenPipeError):
            os.write(self.pipe, b"%d\n" % group)


@contextlib.contextmanager
def guard_process(command: tuple[str, ...]) -> Iterator[Guard]:
    """Start the guard, and end it with the block: a group that is still named then is killed."""
    read_end, write_end = os.pipe()
    try:
        # -I -S: nothing of the user's environment takes part, and it starts in about 10 ms.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD],
            stdin=read_end,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        os.close(write_end)
        raise BenchError(
            "the guard process beside the bench cannot be started",
            argv=command,
            where=sys.executable,
            came=error.strerror or str(error),
            hint="look at the limits on processes and memory (ulimit -a)",
        ) from error
    finally:
        os.close(read_end)
    try:
        yield Guard(write_end)
    finally:
        os.close(write_end)
        process.wait()
