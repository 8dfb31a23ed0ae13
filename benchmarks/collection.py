"""Collection of many presets against a bare parametrized file with as many items, side by side in one run.

    python benchmarks/collection.py [--presets 1000] [--rounds 5]

Each round times ``pytest --collect-only -q`` as a whole process on both, one after the other, in alternating order;
printed are the medians and the median of the ratios round by round. Wall-clock seconds, higher is slower.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
POINTS = 27
OF_A_PRESET = ("lossy", "decode", "joint", "quality", "consistency")
"""What a preset is tested for once, beside test_bench for each point."""

ITEMS_A_PRESET = POINTS + len(OF_A_PRESET)


def make_presets(folder: Path, presets: int) -> Path:
    """A copy of the gates with `presets` presets of 27 points each, and no dump scopes."""
    gates = folder / "ours"
    (gates / "presets").mkdir(parents=True)
    shutil.copy(ROOT / "gates" / "test_sweep.py", gates)
    shutil.copy(ROOT / "gates" / "scopes.yaml", gates)
    text = (ROOT / "gates" / "presets" / "target_ratio_v3.yaml").read_text(encoding="utf-8")
    for number in range(presets):
        (gates / "presets" / f"preset_{number:04d}.yaml").write_text(text, encoding="utf-8")
    return gates


def make_bare(folder: Path, presets: int) -> Path:
    """A bare parametrized test file with as many items in as many functions."""
    bare = folder / "bare"
    bare.mkdir()
    body = [
        "import pytest",
        f"PRESETS = ['preset_%04d' % n for n in range({presets})]",
        "POINTS = [(p, n) for p in PRESETS for n in range(27)]",
        "IDS = ['%s-run_%04d_p512_g128_k0.28_b8_lr3.0' % point for point in POINTS]",
        "@pytest.mark.parametrize('point', POINTS, ids=IDS)",
        "def test_bench(point):\n    assert point",
    ]
    for name in OF_A_PRESET:
        body.append(f"@pytest.mark.parametrize('preset', PRESETS)\ndef test_{name}(preset):\n    assert preset")
    (bare / "test_bare.py").write_text("\n".join(body) + "\n", encoding="utf-8")
    return bare


def time_collection(folder: Path, extra: list[str]) -> tuple[float, int]:
    """Seconds of one collection as a whole process, and the number of items that it found."""
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *extra, str(folder)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    elapsed_s = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"collection failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return elapsed_s, sum("::" in line for line in done.stdout.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        ours, bare = make_presets(Path(temporary), args.presets), make_bare(Path(temporary), args.presets)
        times: dict[str, list[float]] = {"ours": [], "bare": []}
        for number in range(args.rounds):
            order = [("ours", ours, ["--h2o-decode-baseline=none"]), ("bare", bare, ["-p", "no:h2o"])]
            for name, folder, extra in order if number % 2 == 0 else reversed(order):
                elapsed_s, items = time_collection(folder, extra)
                if items != args.presets * ITEMS_A_PRESET:
                    raise SystemExit(f"{name} collected {items} items, not {args.presets * ITEMS_A_PRESET}")
                times[name].append(elapsed_s)
    ratios = [a / b for a, b in zip(times["ours"], times["bare"], strict=True)]
    print(f"{args.presets} presets of {POINTS} points, {args.presets * ITEMS_A_PRESET} items, {args.rounds} rounds")
    for name, values in times.items():
        print(f"{name:5} median {statistics.median(values):6.2f} s  ({min(values):.2f} to {max(values):.2f})")
    print(f"ratio median {statistics.median(ratios):6.2f}    ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
