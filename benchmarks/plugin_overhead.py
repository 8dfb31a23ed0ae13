"""What the installed plugin adds to runs that do not use it: ``pytest --version`` and an empty test run.

    python benchmarks/plugin_overhead.py [--rounds 40]

Whole processes, with the plugin and with ``-p no:h2o`` in alternating order; printed are the medians and the median of
the differences round by round, in milliseconds of processor time (user and system) and of wall clock. ``-p no:h2o``
keeps the plugin from being imported. Compiled bytecode is used, as in an installed package.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def time_run(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Milliseconds of processor time and of wall clock of one pytest process."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    used, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False, env=ENVIRONMENT)
    wall_ms = (time.perf_counter() - start) * 1000
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return (after.ru_utime - used.ru_utime + after.ru_stime - used.ru_stime) * 1000, wall_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        (folder / "test_empty.py").write_text("def test_nothing():\n    assert [] == []\n", encoding="utf-8")
        for title, arguments in (("pytest --version", ["--version"]), ("one trivial test", ["-q", "test_empty.py"])):
            with_plugin: list[tuple[float, float]] = []
            without: list[tuple[float, float]] = []
            for number in range(rounds + 2):
                pair = [(with_plugin, []), (without, ["-p", "no:h2o"])]
                for times, extra in pair if number % 2 == 0 else reversed(pair):
                    times.append(time_run([*extra, *arguments], folder))
            for place, clock in enumerate(("processor", "wall")):
                ours, bare = ([times[place] for times in side[2:]] for side in (with_plugin, without))
                difference = statistics.median(a - b for a, b in zip(ours, bare, strict=True))
                print(
                    f"{title:17} {clock:9} with {statistics.median(ours):7.1f} ms, without "
                    f"{statistics.median(bare):7.1f} ms, difference {difference:+6.2f} ms (median of {rounds})"
                )


if __name__ == "__main__":
    main()
