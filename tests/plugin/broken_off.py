"""Runs that are broken off: what a test kills, what may be left, and what makes two run folders the same."""

import contextlib
import json
import re
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from tests.plugin.project import Project
from tests.plugin.warm import Run

PRESET = "small"
SCOPE = "front2_grouped_192_8"
PAIRS = 8

SMALL = """
repeat: 3
prompts: [512]
gens: [128]
h2o_keep_ratios: [0.28]
h2o_block_tokens: [8]
h2o_sink_tokens: [16]
h2o_recent_tokens: [96]
h2o_trigger_min_tokens: [256]
h2o_target_lossy_ratios: [3.0, 3.2, 3.4]
"""

NOT_OF_THE_RUN = re.compile(r"(broken-off|disturbed)-\d|journal\.\d+\.jsonl")
"""What a run that was broken off leaves besides: it stays, under names of its own."""

CHANGING = {"started", "ended", "run", "sha256", "duration_s", "elapsed_s", "seed", "order", "settings", "disturbance"}
CHANGING |= {"plan"}  # a checksum of the seed, too
CHANGING |= {"resume", "out-dir", "measured_again", "argv"}
"""Fields that differ between two runs of the very same: times, names, chance."""

AWAY = re.compile(r"/[^\s\"']*/there/sent/here")
"""The project as a worker has it that is away: a config names the model as the bench finds it there."""

NOISE = re.compile(r"MB/s|disturbed|taken for quiet|launched again|others used|pairs: one takes|measured again")
"""Lines on how a run went, not on what it measured."""


def small_project(path: Path) -> tuple[Project, tuple[str, ...]]:
    """A project with one small preset and one scope, on a bench that always measures the same; options for it."""
    project = Project(path)
    bench = project.make_bench()
    project.env["FAKE_DECODE"] = "base=60,drop=0.3"
    presets = path / "gates" / "presets"
    original = (presets / "target_ratio_v3.yaml").read_text()
    for preset in presets.iterdir():
        preset.unlink()
    keys = {line.split(":")[0] for line in SMALL.split("\n") if ":" in line}
    rest = [line for line in original.splitlines() if line.split(":")[0] not in keys and not line.startswith("#")]
    (presets / f"{PRESET}.yaml").write_text(SMALL + "\n".join(rest) + "\n")
    options = (*bench, "-k", f"{PRESET} or {SCOPE}", "--h2o-no-fold", "--h2o-html=no", "--h2o-disturbed=keep")
    return project, (*options, f"--h2o-decode-budget={PAIRS}")


def wait_until(condition: Callable[[], bool], what: str, *, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def family_of(child: Run) -> list[psutil.Process]:
    """All processes that a run has started and that live."""
    try:
        return psutil.Process(child.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def lives(one: psutil.Process | int) -> bool:
    """A zombie that nobody reaps runs no more."""
    try:
        process = psutil.Process(one) if isinstance(one, int) else one
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def check_gone(processes: Iterable[psutil.Process | int], *, timeout_s: float = 20) -> None:
    """None of these, or of these ids, survived."""
    deadline = time.monotonic() + timeout_s
    while left := [process for process in processes if lives(process)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def kill(process: psutil.Process, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def check_journal(run_dir: Path) -> None:
    """Every line of every journal is whole, but the last of one that was broken off."""
    for journal in run_dir.glob("journal*.jsonl"):
        *lines, rest = journal.read_bytes().split(b"\n")
        assert not rest or journal.name != "journal.jsonl" or not (run_dir / "run.json").exists()
        for line in lines:
            assert json.loads(line)["version"] == 1


def files_of(run_dir: Path) -> dict[str, Path]:
    paths = (path for path in run_dir.rglob("*") if path.is_file())
    named = {path.relative_to(run_dir).as_posix(): path for path in paths}
    return {name: path for name, path in named.items() if not NOT_OF_THE_RUN.search(name)}


def _changes(name: str) -> bool:
    return name in CHANGING or (name.endswith("_s") and not name.endswith("tok_per_s"))


def _rename(text: str, run_dir: Path) -> str:
    text = AWAY.sub("PROJECT", text)
    for name, mark in ((str(run_dir), "RUN"), (run_dir.name, "RUN"), (str(run_dir.parents[1]), "PROJECT")):
        text = text.replace(name, mark)
    return text


def _quiet(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not NOISE.search(line))


def plain(value: Any, run_dir: Path) -> Any:
    """A JSON value without what differs between two runs of the very same."""
    if isinstance(value, dict):
        return {_rename(name, run_dir): plain(inner, run_dir) for name, inner in value.items() if not _changes(name)}
    if isinstance(value, list):
        return [plain(inner, run_dir) for inner in value if not (isinstance(inner, str) and NOISE.search(inner))]
    return _quiet(_rename(value, run_dir)) if isinstance(value, str) else value


def content_of(path: Path, run_dir: Path) -> Any:
    if path.name == "journal.jsonl":
        records = [plain(json.loads(line), run_dir) for line in path.read_text().splitlines()]
        # Which of two workers handed a figure over first is chance.
        return sorted(({**r, "data": None} for r in records), key=lambda r: str(r["item"]))
    if path.suffix == ".json" and path.parent.name != "logs":
        return plain(json.loads(path.read_text()), run_dir)
    return _quiet(_rename(path.read_text(), run_dir))


def check_same(run_dir: Path, unbroken: Path) -> None:
    """A run that was broken off and went on has left the same artifacts as one that was not."""
    ours, theirs = files_of(run_dir), files_of(unbroken)
    assert sorted(ours) == sorted(theirs)
    for name, path in ours.items():
        mine, other = content_of(path, run_dir), content_of(theirs[name], unbroken)
        assert mine == other, name
