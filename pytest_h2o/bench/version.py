"""What a bench says of its own version, if it says anything."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pytest_h2o.bench.printable import one_line
from pytest_h2o.bench.process import read_tail, run_child
from pytest_h2o.errors import BenchError

ASK_S = 5.0
"""Seconds that the answer may take."""

_VERSION = re.compile(r"\d+\.\d+|\b[0-9a-f]{7,40}\b")


def ask_version(command: Sequence[str]) -> str | None:
    """Run the bench with ``--version`` alone, and give its first line that names a version.

    Returns
    -------
    str or None
        None if it does not know the flag (MNN's ends with exit code 255), says nothing like a version, takes too long
        or cannot be started: a launch will say what is wrong with it.
    """
    with tempfile.TemporaryDirectory(prefix="pytest-h2o-") as folder:
        output = Path(folder, "version.txt")
        try:
            child = run_child([*command, "--version"], stdout_path=output, timeout_s=ASK_S, grace_s=0.5)
        except BenchError:
            return None
        lines = read_tail(output).splitlines() if child.returncode == 0 else []
    return next((one_line(line, limit=60) for line in lines if _VERSION.search(line)), None)
