"""What a run is asked: written down before anything is measured, and held against what is asked when it goes on.

What was measured under one bench, config, preset, scope or dump must never be joined with what is measured under
another.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_h2o.bench.embedded import digest_program
from pytest_h2o.bench.machine import describe_machine
from pytest_h2o.errors import OptedOut, StoreError, UsageError
from pytest_h2o.files import digest_file
from pytest_h2o.inputs.options import Given, Settings
from pytest_h2o.run.journal import JOURNAL_NAME
from pytest_h2o.run.store import SHARED, is_in_use, name_run

if TYPE_CHECKING:
    from pytest_h2o.inputs.presets import Preset
    from pytest_h2o.inputs.scope import Scope


_FREE = frozenset({"resume", "out-dir", "save", "overwrite", "html"})
"""Options that may change when a run goes on: they say what is kept of it, not what is measured or asked."""

_PACKAGES = ("pytest-h2o", "numpy", "zstandard")
"""What figures depend on besides."""

_FORM = "2"
"""Changes when what processes share is written in another form than before."""


def describe_asked(
    settings: Settings,
    nodeids: Sequence[str],
    presets: Sequence[tuple[Preset, Path | None]],
    scopes: Sequence[tuple[Scope, Path]],
) -> dict[str, str]:
    """Describe what a run is asked, part by part, contents by their digest."""
    asked = {
        f"--h2o-{name}": json.dumps(given["value"], ensure_ascii=False)
        for name, given in settings.to_json().items()
        if name not in _FREE
    }
    asked["items"] = f"{len(nodeids)} ({_digest(sorted(nodeids))})"
    for name in ("bench", "baseline-bench", "demo"):
        if settings[name] is not None:
            asked[name.replace("-", " ")] = digest_program(settings[name])[:16]
    for preset, base_config in presets:
        asked[f"preset {preset.name}"] = _digest(preset.model_dump(mode="json", exclude={"path"}))
        if base_config is not None:
            asked[f"base config of preset {preset.name}"] = digest_file(base_config)[:16]
    for scope, root in scopes:
        asked[f"scope {scope.name}"] = _digest(repr(replace(scope, path=None)))
        asked[f"dump of scope {scope.name}"] = _digest_listing(root)
    asked |= {f"version of {name}": version(name) for name in _PACKAGES}
    return {**asked, "machine": describe_machine(), "form of shared results": _FORM}


def refuse_changes(then: Mapping[str, str], now: Mapping[str, str], run_dir: Path, resume: Given) -> None:
    """Hold what a process is asked against what its run was asked first; UsageError with each part that differs."""
    parts = sorted({*then, *now}, key=lambda part: (part not in now, part))
    changes = [f"{p}: {then.get(p, 'none')} then, {now.get(p, 'none')} now" for p in parts if then.get(p) != now.get(p)]
    if not changes:
        return
    if resume.value is None:
        raise UsageError(
            "the processes of this run are not asked the same",
            where=str(run_dir),
            came="; ".join(changes),
            expected="one bench, config, preset, scope and dump for all of them, unchanged while the run lasts",
        )
    raise UsageError(
        f"{resume.origin}: what is asked has changed since the run was broken off",
        where=str(run_dir),
        came="; ".join(changes),
        expected="the same bench, config, presets, scopes, dumps, options and items",
        hint="give what the run was given, or leave the option out to start a new run",
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _digest_listing(root: Path) -> str:
    """Names, sizes and times of change of the files of a dump: reading a dump of gigabytes to tell would cost a run."""
    if not root.is_dir():
        return _digest(_facts(root))
    names = [Path(folder, file) for folder, _, files in os.walk(root) for file in files]
    return _digest(sorted([str(path.relative_to(root)), *_facts(path)] for path in names))


def _facts(path: Path) -> list[int | str]:
    try:
        status = path.stat()
    except OSError as error:
        return [error.strerror or str(error)]
    return [status.st_size, status.st_mtime_ns]


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
    """The name of the run folder below ``out-dir``: a new one, or that of the run to go on with, made ready."""
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
    """Results that remember a failure: what failed is measured again; what was left out on purpose is no failure."""
    for path in results.rglob("*.json"):
        try:
            error = json.loads(path.read_text(encoding="utf-8")).get("error")
            if error is not None and error.get("kind") != OptedOut.__name__:
                yield path
        except (ValueError, AttributeError):
            yield path  # not one of ours, or damaged: made again
