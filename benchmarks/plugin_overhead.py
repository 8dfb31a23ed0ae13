"""What the installed plugin adds to runs that do not use it: ``pytest --version`` and an empty test run.

    python benchmarks/plugin_overhead.py [--rounds 40]

Whole processes, with the plugin and with ``-p no:h2o`` in alternating order; printed are the medians and the median of
the differences round by round, in milliseconds. ``-p no:h2o`` keeps the plugin from being imported.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def time_run(arguments: list[str], folder: Path, expected: int) -> float:
    """Milliseconds of one pytest process."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    elapsed_ms = (time.perf_counter() - start) * 1000
    if done.returncode != expected:
        raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return elapsed_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        (folder / "test_empty.py").write_text("def test_nothing():\n    assert [] == []\n", encoding="utf-8")
        for title, arguments in (("pytest --version", ["--version"]), ("one trivial test", ["-q", "test_empty.py"])):
            with_plugin: list[float] = []
            without: list[float] = []
            for number in range(rounds + 2):
                pair = [(with_plugin, []), (without, ["-p", "no:h2o"])]
                for times, extra in pair if number % 2 == 0 else reversed(pair):
                    times.append(time_run([*extra, *arguments], folder, 0))
            differences = [a - b for a, b in zip(with_plugin[2:], without[2:], strict=True)]
            print(
                f"{title:18} with {statistics.median(with_plugin[2:]):7.1f} ms, without "
                f"{statistics.median(without[2:]):7.1f} ms, difference {statistics.median(differences):+6.2f} ms "
                f"(median of {rounds})"
            )


if __name__ == "__main__":
    main()
