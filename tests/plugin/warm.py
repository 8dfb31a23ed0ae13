"""Run pytest in a process that is forked from one in which pytest, its plugins and the slow libraries are loaded.

A gate process spends most of its time on importing numpy and pydantic. A fork of a process that has them
costs a tenth of that.
"""

import contextlib
import gc
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from _pytest.config import default_plugins

PACKAGE = Path(__file__).parents[2] / "pytest_h2o"
ROOMS = ("inputs", "codecs", "bench", "lossless", "gate", "run", "report", "plugin")
LIBRARIES = ["pytest", "numpy", "pydantic", "yaml", "zstandard", "filelock", "jinja2"]
LIBRARIES += [f"_pytest.{name}" for name in default_plugins]
LIBRARIES += ["xdist.plugin", "xdist.looponfail", "execnet", "concurrent.futures.thread"]
OURS = [f"pytest_h2o.{room}.{path.stem}" for room in ROOMS for path in sorted((PACKAGE / room).glob("[a-z]*.py"))]
OURS += ["tests.plugin.heat", "tests.quick_bench"]
COVERAGE = "COVERAGE_PROCESS_CONFIG"
"""Set where coverage is measured; then nothing of ours is loaded before it is."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([*LIBRARIES, *([] if COVERAGE in os.environ else OURS)])


def _start_server() -> None:
    """Start the process that forks if it does not run; its socket lies in /tmp, since the path of one is short."""
    chosen = tempfile.tempdir
    tempfile.tempdir = "/tmp"
    try:
        forkserver.ensure_running()
    finally:
        tempfile.tempdir = chosen


class Spare:
    """A process that is forked before pytest begins, and becomes a worker of xdist once one is started.

    Its attributes are those of a `subprocess.Popen` that execnet uses.
    """

    def __init__(self) -> None:
        (reads, asks), (gives, writes) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            for pipe, descriptor in ((reads, 0), (writes, 1)):
                os.dup2(pipe, descriptor)
            os.closerange(3, max(reads, asks, gives, writes) + 1)
            self._work()
        os.close(reads)
        os.close(writes)
        self.stdin, self.stdout = os.fdopen(asks, "wb", 0), os.fdopen(gives, "rb", 0)

    def _work(self) -> None:
        """As ``python -u -c``, with the environment of the moment; nobody asks where the other side has ended."""
        sys.stdin, sys.argv = os.fdopen(0, closefd=False), ["-c"]
        if told := sys.stdin.readline():
            os.environ.clear()
            os.environ.update(json.loads(told))
            exec(eval(sys.stdin.readline()), {"__name__": "__main__"})
        os._exit(0)

    def wait(self) -> int:
        return os.waitpid(self.pid, 0)[1]

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def count_workers(arguments: Sequence[str]) -> int:
    """How many workers of xdist a command line asks for."""
    asked = re.search(r"-n ?(\d)", " ".join(arguments))
    return 0 if asked is None else int(asked[1])


def _keep_workers_warm(count: int) -> None:
    """So many workers of xdist are forked here; those that come later, after a crash, are started as ever."""
    from execnet import gateway_io

    spares, cold = [Spare() for _ in range(count)], gateway_io.Popen2IOMaster.__init__

    def start(self: Any, args: Any, execmodel: Any) -> None:
        if not spares:
            return cold(self, args, execmodel)
        self.popen = spares.pop(0)
        self.popen.stdin.write(json.dumps(dict(os.environ)).encode() + b"\n")
        return gateway_io.Popen2IO.__init__(self, self.popen.stdin, self.popen.stdout, execmodel=execmodel)

    gateway_io.Popen2IOMaster.__init__ = start


def _become(
    program: str, arguments: Sequence[str], cwd: str, env: Mapping[str, str], output: str, workers: int
) -> None:
    """In the forked process: take the environment, folder and output of a new one, and be pytest or our command."""
    gc.freeze()  # pytest collects garbage at its end: not that of the process that was forked
    os.fsync = lambda fd: None  # no machine is switched off here
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None
    sys.dont_write_bytecode = bool(env.get("PYTHONDONTWRITEBYTECODE"))
    with Path(output).open("wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what runs in the background of a shell
    sys.argv = [program, *arguments]
    measured = None
    if COVERAGE in os.environ:  # a process that is forked starts no coverage of itself, and saves none
        import coverage

        measured = coverage.process_startup(force=True)
    if "FAKE_HERE" in env:
        from tests.quick_bench import launch_here

        launch_here(pytest.MonkeyPatch(), only=env["FAKE_HERE"].split(os.pathsep))
    for package in ("pytest_h2o", "xdist"):  # pytest warns of packages of plugins that were loaded before it
        sys.modules.pop(package, None)
    if program == "pytest":
        if workers and measured is None:
            _keep_workers_warm(workers)
        code = pytest.console_main()
    else:
        from pytest_h2o.cli.main import main

        code = main(arguments)
    if measured is not None:
        measured.stop()
        measured.save()
    sys.exit(code)


class Run:
    """A run of pytest in a process of its own; what it writes stands in a file until it is asked for.

    ``FAKE_HERE`` in its environment names programs whose launches run a fake in that very process. `workers` of xdist
    are forked too, where they are not what is looked at.
    """

    def __init__(
        self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], program: str = "pytest", workers: int = 0
    ) -> None:
        self._output = tempfile.NamedTemporaryFile(suffix=".txt")  # noqa: SIM115
        self._started = time.monotonic()
        given = (program, arguments, str(cwd), dict(env), self._output.name, workers)
        self._child = _context.Process(target=_become, args=given)
        _start_server()
        self._child.start()
        self.pid = self._child.pid

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def finish(self, timeout_s: float = 120) -> pytest.RunResult:
        """Wait for its end; a run that hangs is killed and fails the test that waits."""
        self._child.join(timeout_s)
        hangs = self._child.exitcode is None
        if hangs:
            self._child.kill()
            self._child.join()
        output = Path(self._output.name).read_text("utf-8", "replace")
        self._output.close()
        if hangs or self._child.exitcode is None:
            raise TimeoutError(output)
        return pytest.RunResult(self._child.exitcode, output.splitlines(), [], time.monotonic() - self._started)
