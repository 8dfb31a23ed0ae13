"""Two versions of pytest-h2o side by side in one run: what each costs to start, idle, collect, code and judge.

    python benchmarks/house.py --old PYTHON CHECKOUT --new PYTHON CHECKOUT [--rounds 11] [--tasks NAME ...] \
        [--out benchmarks/results/house/house.json]

Each version is an interpreter in which it is installed, and its checkout, whose gates and fixtures it runs. A round
runs every task as a whole process of the old version and of the new one, one after the other, in alternating order,
after one round that is not counted. Wall time is from start to end; processor time and peak memory are those of the
process and of those that it waited for (`os.wait4`). Printed as a Markdown table are medians with their range, and the
median of the ratios round by round (new over old: below 1 is better). The JSON has every measurement.

`default gate` takes minutes a round and is run only by name. Both versions must count the same bytes of the same dump.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DUMP = ROOT / "fixtures" / "dumps" / "fp16.zip"
CLOCKS = {"wall_s": ("wall s", 3), "cpu_s": ("processor s", 3), "peak_mb": ("peak MB", 1)}
COUNTED = ("raw_bytes", "k_compressed_bytes", "v_compressed_bytes")
FIND_PLUGIN = "from importlib.metadata import entry_points as e; print(e(group='pytest11', name='h2o')['h2o'].value)"
CHUNKED = "--overwrite --scope layer_range --layer-start 0 --layer-end -1 --entry-mode chunked_grouped"
LAUNCH = "-t 1 -kv true -p 512 -n 64 -rep 3"
TRIVIAL = "-m pytest -q -p no:cacheprovider test_trivial.py"
BARE_RUN = "-m pytest -q -p no:cacheprovider -p no:h2o --collect-only test_bare.py"
BARE = """import pytest

@pytest.mark.parametrize("number", range(127))
def test_number(number):
    assert number >= 0
"""
RECORDED = "--h2o-logs fixtures/recordings/smollm2-135m --h2o-set model_layers=30"


@dataclass(frozen=True)
class Version:
    """An installation and its checkout; `work` is a folder of its own, `dump` one that both versions read."""

    name: str
    python: str
    checkout: Path
    work: Path
    dump: Path

    def own_dump(self) -> Path:
        """The fp16 dump as this version ships it: a folder or an archive."""
        folder = self.checkout / "fixtures" / "dumps" / "fp16"
        return folder if folder.is_dir() else folder.with_suffix(".zip")


@cache
def find_plugin(python: str) -> str:
    """The module that pytest imports for the plugin."""
    return subprocess.run([python, "-c", FIND_PLUGIN], check=True, capture_output=True, text=True).stdout.strip()


Task = Callable[[Version], tuple[Path, list[str]]]
"""The folder in which a version runs a task, and its command."""


def in_work(*words: str) -> Task:
    return lambda version: (version.work, [version.python, *words])


def lossless(dump: Callable[[Version], Path]) -> Task:
    def command(version: Version) -> tuple[Path, list[str]]:
        flags = [*CHUNKED.split(), "--dump-dir", str(dump(version)), "--out-json", str(version.work / "lossless.json")]
        return version.work, [version.python, "-m", "pytest_h2o", "lossless", *flags]

    return command


def gate(*words: str) -> Task:
    def command(version: Version) -> tuple[Path, list[str]]:
        out = tempfile.mkdtemp(dir=version.work)
        flags = ["-q", "-p", "no:cacheprovider", f"--h2o-out-dir={out}"]
        return version.checkout, [version.python, "-m", "pytest", "gates", *flags, *words]

    return command


def launch(version: Version) -> tuple[Path, list[str]]:
    """One launch of the embedded bench."""
    config = version.checkout / "fixtures" / "models" / "embedded" / "config.json"
    flags = [*LAUNCH.split(), "-m", str(config), "-fp", str(version.work / "table.md")]
    return version.work, [version.python, "-m", "pytest_h2o.reference", *flags]


def start_plugin(version: Version) -> tuple[Path, list[str]]:
    return version.work, [version.python, "-c", f"import {find_plugin(version.python)}"]


TASKS: dict[str, Task] = {
    "import the plugin": start_plugin,
    "pytest, one trivial test": in_work(*TRIVIAL.split()),
    "the same without the plugin": in_work(*TRIVIAL.split(), "-p", "no:h2o"),
    "pytest-h2o --help": in_work("-m", "pytest_h2o", "--help"),
    "lossless --help": in_work("-m", "pytest_h2o", "lossless", "--help"),
    "collect the default gates": gate("--collect-only"),
    "collect as many bare items": in_work(*BARE_RUN.split()),
    "lossless, the dump as shipped": lossless(Version.own_dump),
    "lossless, the dump as a folder": lossless(lambda version: version.dump),
    "gate on recorded logs": gate(*RECORDED.split()),
    "the same without its page": gate(*RECORDED.split(), "--h2o-html=no"),
    "a launch of the embedded bench": launch,
    "default gate": gate(),
}
BY_NAME_ONLY = ("default gate",)


def run_once(folder: Path, command: list[str], metas: Path) -> dict[str, float]:
    """Wall and processor seconds and peak memory of one process."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")}
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=output, env={**kept, "PYTEST_H2O_CACHE_DIR": str(metas)}
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            text = output.read().decode(errors="replace")[-2000:]
            raise SystemExit(f"ended with {process.returncode}: {' '.join(command)}\n{text}")
    return {"wall_s": wall_s, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}


def compare(tasks: list[str], versions: list[Version], rounds: int) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Every measurement of each task and version, in the order of the rounds."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {
        task: {version.name: [] for version in versions} for task in tasks
    }
    for number in range(rounds + 1):
        for task in tasks:
            for version in versions if number % 2 else reversed(versions):
                measured = run_once(*TASKS[task](version), metas=version.work / "cache")
                if number:
                    found[task][version.name].append(measured)
            if task.startswith("lossless, "):
                check_counts(versions)
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return found


def check_counts(versions: list[Version]) -> None:
    counts = []
    for version in versions:
        result = json.loads((version.work / "lossless.json").read_text("utf-8"))
        counts.append({key: result[key] for key in COUNTED})
    if counts[0] != counts[1]:
        raise SystemExit(f"the versions count unlike bytes: {counts}")


def render(found: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """The table: a line a task and clock."""
    lines = ["| what | | old | new | new / old |", "| --- | --- | ---: | ---: | ---: |"]
    for task, sides in found.items():
        for key, (clock, decimals) in CLOCKS.items():
            old, new = ([run[key] for run in sides[name]] for name in ("old", "new"))
            ratio = [b / a for a, b in zip(old, new, strict=True)]
            cells = (spread(old, decimals), spread(new, decimals), spread(ratio, 2))
            lines.append(f"| {task} | {clock} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def spread(values: list[float], decimals: int) -> str:
    low, middle, high = (f"{value:.{decimals}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low}-{high})"


def describe(version: Version) -> dict[str, Any]:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=version.checkout, capture_output=True, text=True, check=False
    )
    return {"commit": done.stdout.strip() or None, "plugin": find_plugin(version.python)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("old", "new"):
        parser.add_argument(f"--{name}", nargs=2, required=True, metavar=("PYTHON", "CHECKOUT"))
    parser.add_argument("--rounds", type=int, default=11)
    usual = [name for name in TASKS if name not in BY_NAME_ONLY]
    parser.add_argument("--tasks", nargs="+", default=usual, choices=TASKS, metavar="NAME", help="; ".join(TASKS))
    parser.add_argument("--out", type=Path, metavar="JSON", help="also keep every measurement, and the table as .md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        dump = Path(temporary, "dump")
        with zipfile.ZipFile(DUMP) as archive:
            archive.extractall(dump)
        versions = []
        for name in ("old", "new"):
            python, checkout = getattr(args, name)
            work = Path(temporary, name)
            work.mkdir()
            (work / "pytest.ini").write_text("[pytest]\n", "utf-8")
            (work / "test_bare.py").write_text(BARE, "utf-8")
            (work / "test_trivial.py").write_text("def test_nothing():\n    assert [] == []\n", "utf-8")
            versions.append(Version(name, str(Path(python).absolute()), Path(checkout).resolve(), work, dump))
        about = {version.name: describe(version) for version in versions}
        found = compare(args.tasks, versions, args.rounds)
    table = render(found)
    print(table, end="")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        machine = {"machine": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()}
        record = {**machine, "versions": about, "rounds": args.rounds, "tasks": found}
        args.out.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        args.out.with_suffix(".md").write_text(table, "utf-8")


if __name__ == "__main__":
    main()
