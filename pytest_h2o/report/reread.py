"""A run folder read back: the summary, every record and the run's own, so that its reports can be made again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pytest_h2o.errors import StoreError
from pytest_h2o.options import Given, Settings
from pytest_h2o.report.artifacts import RUN_VERSION
from pytest_h2o.report.collector import JOURNAL_NAME, JOURNAL_VERSION, Collector
from pytest_h2o.report.summary import SUMMARY_VERSION, build_summary

T = TypeVar("T")


@dataclass(frozen=True)
class RunRecords:
    """What a run folder has.

    Attributes
    ----------
    summary : mapping
        That of ``summary.json``; of an unfinished run, made from the journal.
    run : mapping
        That of ``run.json``; of an unfinished run, its name and the settings in the first line of the journal.
    is_finished : bool
        Whether the run came to its end and wrote ``run.json``.
    torn : str or None
        What was left out of the journal of an unfinished run.
    """

    summary: Mapping[str, Any]
    collector: Collector
    run: Mapping[str, Any]
    is_finished: bool
    torn: str | None = None


def read_run(run_dir: Path) -> RunRecords:
    """Read a run folder, finished or not.

    Raises
    ------
    StoreError
        It is no run folder, or one of its files is damaged or of another version; naming the file.
    """
    if not (run_dir / JOURNAL_NAME).is_file():
        came = ", ".join(sorted(path.name for path in run_dir.iterdir())[:8]) if run_dir.is_dir() else "no such folder"
        raise StoreError(
            "this is no folder of a run",
            where=str(run_dir),
            came=came or "an empty folder",
            expected=f"a folder with {JOURNAL_NAME}, as pytest writes one below --h2o-out-dir",
        )
    is_finished = (run_dir / "run.json").exists()
    records, torn = _read_journal(run_dir / JOURNAL_NAME, may_be_torn=not is_finished)
    if not records:
        raise _damaged(str(run_dir / JOURNAL_NAME), "an empty journal", "a line for each item that ended")
    if is_finished:
        run = _read_object(run_dir / "run.json", RUN_VERSION)
    else:
        run = {"run": run_dir.name, "settings": records[0][1].get("settings", {})}
    collector = Collector(run_dir, guard(run_dir, lambda: _read_settings(run.get("settings", {}))))
    for where, record in records:
        guard(where, lambda record=record: collector.take(record))  # type: ignore[misc]
    if is_finished:
        summary: Mapping[str, Any] = _read_object(run_dir / "summary.json", SUMMARY_VERSION)
    else:
        summary = guard(run_dir, lambda: build_summary(collector))
    return RunRecords(summary, collector, run, is_finished, torn)


def guard(where: Path | str, make: Callable[[], T]) -> T:
    """Call `make` on what was read from files; StoreError naming `where` if they have another shape than is read."""
    try:
        return make()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise StoreError(
            "the records of a run have another shape than this version reads",
            where=str(where),
            came=f"{type(error).__name__}: {error}",
            hint="a file of the run folder was damaged, or written by another version of pytest-h2o",
        ) from error


def _read_settings(values: Mapping[str, Mapping[str, Any]]) -> Settings:
    return Settings({name: Given(given["value"], str(given["origin"])) for name, given in values.items()})


def _read_object(path: Path, version: int) -> dict[str, Any]:
    """Read a JSON object of a version."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise _damaged(str(path), error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise _damaged(str(path), str(error)) from error
    return _parse_object(str(path), text, version)


def _parse_object(where: str, text: str, version: int) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise _damaged(f"{where}:{error.lineno}:{error.colno}", error.msg) from None
    except (ValueError, RecursionError) as error:
        raise _damaged(where, str(error)) from None
    if not isinstance(value, dict) or value.get("version") != version:
        came = f"version {value.get('version', 'missing')!r}" if isinstance(value, dict) else type(value).__name__
        raise _damaged(where, came, f"a JSON object with version {version}")
    return value


def _read_journal(path: Path, *, may_be_torn: bool) -> tuple[list[tuple[str, dict[str, Any]]], str | None]:
    """Every line of a journal with where it stands, and what was left out of it."""
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except OSError as error:
        raise _damaged(str(path), error.strerror or str(error)) from error
    torn = None
    if rest:
        torn = f"line {len(lines) + 1} of the journal is torn, and left out"
        if not may_be_torn:
            raise _damaged(f"{path}:{len(lines) + 1}", "a torn last line", "a whole line")
    records = []
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _damaged(where, str(error)) from None
        records.append((where, _parse_object(where, text, JOURNAL_VERSION)))
    return records, torn


def _damaged(where: str, came: str, expected: str | None = None) -> StoreError:
    return StoreError(
        "a file of a run cannot be read",
        where=where,
        came=came,
        expected=expected,
        hint="take the run folder as it was written; what is damaged cannot be reported",
    )
