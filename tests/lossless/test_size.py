"""Memory does not grow with the dump: a small version of what benchmarks/size.py runs with 10 GB."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.lossless_command import run_once
from benchmarks.size import lossless

ROOT = Path(__file__).parents[2]
MOST_MB = 150
"""Half of what is promised for 10 GB: two cores here, and room for more of them."""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the peak of a process cannot be told here")
def test_memory_is_bounded_by_a_few_streams(tmp_path: Path) -> None:
    peaks = []
    for raw_bytes in (32_000_000, 256_000_000):
        root = tmp_path / str(raw_bytes)
        make = [sys.executable, str(ROOT / "benchmarks" / "size.py"), "--make", "prompts", str(root), str(raw_bytes)]
        made = int(subprocess.run(make, check=True, capture_output=True, text=True).stdout)
        assert made > 0.7 * raw_bytes
        # In a process whose parent is small: the peak of a process begins with what its parent had.
        code = (
            "import json, sys; sys.path.insert(0, sys.argv[1]); from benchmarks.lossless_command import run_once\n"
            "print(run_once(json.loads(sys.argv[2]))['peak_mb'])"
        )
        command = lossless(root, tmp_path / "out.json", "--workers", "2")
        small = [sys.executable, "-c", code, str(ROOT), json.dumps(command)]
        peaks.append(float(subprocess.run(small, check=True, capture_output=True, text=True).stdout))
    assert max(peaks) < MOST_MB
    assert peaks[1] < peaks[0] + 30


def test_the_benchmark_runs_its_commands_to_their_end(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="failed with status"):
        run_once([sys.executable, "-c", "raise SystemExit(3)"])
