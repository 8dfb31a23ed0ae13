"""How long the `pytest-h2o lossless` command takes to start: whole processes on next to no data.

    python benchmarks/start_up.py [--rounds 15]

In turn: ``--help``; the command on one one-token entry of K and V, decoded and written out; the same on all fp16
recordings (9.9 MB); and, for comparison, an interpreter that imports numpy and zstandard. Wall seconds, medians with
their range.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "dumps" / "fp16.zip"


def copy_one_entry(target: Path) -> None:
    """The first decode entry of the recordings, in a dump of its own."""
    with zipfile.ZipFile(FIXTURES) as dump:
        for name in ("meta_t0_1.json", "k_t0_1.bin", "v_t0_1.bin"):
            dump.extract(f"code/layer_0/{name}", target)


def time_process(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as work:
        one = Path(work, "one")
        copy_one_entry(one)
        lossless = [sys.executable, "-m", "pytest_h2o", "lossless"]
        layers = ["--scope", "layer_range", "--layer-start", "0", "--layer-end", "-1"]
        rest = ["--out-json", str(Path(work, "out.json")), "--overwrite", *layers]
        commands = {
            "lossless --help": [*lossless, "--help"],
            "lossless, one entry": [*lossless, "--dump-dir", str(one), *rest],
            "lossless, the recordings": [*lossless, "--dump-dir", str(FIXTURES), *rest],
            "import numpy, zstandard": [sys.executable, "-c", "import numpy, zstandard"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(rounds + 1):
            for name, command in commands.items():
                elapsed = time_process(command)
                if number:  # the first round fills the file cache
                    seconds[name].append(elapsed)
    for name, values in seconds.items():
        print(f"{name}: {statistics.median(values):.3f} s ({min(values):.3f}-{max(values):.3f})")


if __name__ == "__main__":
    main()
