"""Run pytest in a process that is forked from one in which the slow libraries are loaded already.

A gate process spends most of its time on importing numpy, pydantic and matplotlib. A fork of a process that has them
costs a tenth of that; nothing of pytest or of this package is loaded before the fork.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path

from _pytest.config import default_plugins

PACKAGE = Path(__file__).parents[2] / "pytest_h2o"
ROOMS = ("inputs", "codecs", "bench", "lossless", "gate", "run", "report")
LIBRARIES = ["pytest", "numpy", "pydantic", "yaml", "zstandard", "filelock", "jinja2", "matplotlib.figure"]
LIBRARIES += ["matplotlib.backends.backend_svg", *(f"_pytest.{name}" for name in default_plugins)]
OURS = [f"pytest_h2o.{room}.{path.stem}" for room in ROOMS for path in sorted((PACKAGE / room).glob("[a-z]*.py"))]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([*LIBRARIES, *OURS])


def _start_server() -> None:
    """Start the process that forks if it does not run; its socket lies in /tmp, since the path of one is short."""
    chosen = tempfile.tempdir
    tempfile.tempdir = "/tmp"
    try:
        forkserver.ensure_running()
    finally:
        tempfile.tempdir = chosen


def _become_pytest(arguments: Sequence[str], cwd: str, env: Mapping[str, str], output: str) -> None:
    """In the forked process: take the environment, folder and output of a new one, and be pytest."""
    import pytest

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None
    with Path(output).open("wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["pytest", *arguments]
    del sys.modules["pytest_h2o"]  # pytest warns of packages of plugins that were loaded before it
    sys.exit(pytest.console_main())


def run_pytest(arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout_s: float) -> tuple[int, str]:
    """Exit code and output of one run; one that hangs is killed and fails the test that waits."""
    _start_server()
    with tempfile.NamedTemporaryFile(suffix=".txt") as output:
        child = _context.Process(target=_become_pytest, args=(arguments, str(cwd), dict(env), output.name))
        child.start()
        child.join(timeout_s)
        if child.exitcode is None:
            child.kill()
            child.join()
            raise TimeoutError(Path(output.name).read_text("utf-8", "replace"))
        return child.exitcode, Path(output.name).read_text("utf-8", "replace")
