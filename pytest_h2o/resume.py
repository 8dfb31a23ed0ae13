"""The run folder of a gate: a new one, or that of a run that was broken off and goes on.

A run that goes on asks every item again and measures only what is missing: what was measured stands in the folder's
`OnceStore`. So it ends as if it had never been broken off, whatever was cut short: what is derived from measurements is
made again, failures that were remembered are forgotten, and the journal so far is kept under another name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from pytest_h2o.errors import StoreError, UsageError
from pytest_h2o.options import Given, Settings
from pytest_h2o.report.collector import JOURNAL_NAME
from pytest_h2o.store import SHARED, is_in_use, name_run

_DERIVED = (
    "*/manifest.json",
    "*/h2o_metrics.csv",
    "*/decode/pairs.json",
    "offline_lossless_*.json",
    "offline_lossless_*.md",
    "figures.json",
    "summary.json",
    "summary.md",
    "report.html",
)
"""Artifacts that a run makes at its end, from what it has measured."""


def choose_run(settings: Settings) -> str:
    """The name of the run folder below ``out-dir``: a new one, or that of the run to go on with, made ready.

    Raises
    ------
    UsageError
        There is no such run, it is finished, or it is still going on.
    StoreError
        Its folder cannot be written.
    """
    resume = settings.given["resume"]
    if resume.value is None:
        return name_run()
    if settings["dry-run"]:
        raise UsageError(f"{resume.origin} and --h2o-dry-run exclude each other: a dry run measures nothing")
    run_dir: Path = resume.value
    _check(run_dir, resume)
    try:
        make_ready(run_dir)
    except OSError as error:
        raise StoreError(
            "the folder of a run cannot be made ready to go on",
            where=str(error.filename or run_dir),
            came=error.strerror or str(error),
            expected="a folder that can be written",
        ) from error
    return run_dir.name


def _check(run_dir: Path, resume: Given) -> None:
    """Refuse what cannot be gone on with."""
    where = f"{resume.origin} {run_dir}"
    if (run_dir / "run.json").exists():
        raise UsageError(
            "the run in this folder came to its end: there is nothing to go on with",
            where=where,
            hint=f"start a new run without {resume.origin}, or look at this one: pytest-h2o report {run_dir}",
        )
    if not (run_dir / SHARED).is_dir():
        came = "no such folder"
        if run_dir.is_dir():
            came = "a folder that has " + (", ".join(sorted(p.name for p in run_dir.iterdir())[:8]) or "nothing")
        raise UsageError(
            "this is no folder of a run that was broken off",
            where=where,
            came=came,
            expected=f"a folder with {SHARED}/, as a run of the gate has one until it ends",
        )
    if is_in_use(run_dir / SHARED):
        raise UsageError("the run in this folder is still going on", where=where, hint="wait for its end, or end it")


def make_ready(run_dir: Path) -> None:
    """Take away what a run that was broken off leaves besides its measurements; OSError if the folder is read-only."""
    _set_aside(run_dir / JOURNAL_NAME)
    derived = (path for pattern in _DERIVED for path in run_dir.glob(pattern))
    for path in [*derived, *run_dir.rglob(".*.tmp"), *_failures(run_dir / SHARED)]:
        path.unlink(missing_ok=True)
    _set_demos_aside(run_dir)
    # Whether rows can share a run is found out anew, from the rows that there are: a probe may have failed.
    shutil.rmtree(run_dir / SHARED / "fold", ignore_errors=True)


def _set_demos_aside(run_dir: Path) -> None:
    """Keep what llm_demo said for a comparison that was cut short under another name: it is made anew as a whole."""
    for folder in run_dir.glob("*/demo"):
        if not (run_dir / SHARED / "demo" / f"{folder.parent.name}.json").exists():
            number = 1
            while (target := folder.with_name(f"{folder.name}.broken-off-{number}")).exists():
                number += 1
            folder.rename(target)


def _set_aside(journal: Path) -> None:
    """Keep the journal of the part before under a name of its own."""
    if journal.exists():
        number = 1
        while (target := journal.with_name(f"{journal.stem}.{number}{journal.suffix}")).exists():
            number += 1
        journal.rename(target)


def _failures(results: Path) -> Iterator[Path]:
    """Results that remember a failure: what failed is measured again."""
    for path in results.rglob("*.json"):
        try:
            if "error" in json.loads(path.read_text(encoding="utf-8")):
                yield path
        except ValueError:
            yield path  # not one of ours, or damaged: made again
