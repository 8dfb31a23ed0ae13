"""What is kept of runs: one line a run in the history, baselines by name, and what a run is compared with.

One form wherever a record is kept: ``{"schema": 1, "sha256": …, "record": {…}}``, on one line in the history, indented
in a baseline and in ``figures.json`` of a run folder. The checksum is SHA-256 over the record as JSON with sorted keys,
no blanks and ASCII only, so that a digit that was changed by hand or by a failing disk is told, and a reordered or
indented file is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pytest_h2o.errors import OptedOut, StoreError, UsageError, did_you_mean
from pytest_h2o.files import check_regular, load, open_regular, plain, write_new_json
from pytest_h2o.gate.compare import (
    FEWEST_RUNS,
    Allowances,
    MetricFacts,
    Rolling,
    SubjectRecord,
    differing_parts,
    metric_facts,
    parse_allowances,
    refuse_other_model,
    roll,
)
from pytest_h2o.inputs.options import Settings
from pytest_h2o.run.store import OnceStore

SCHEMA = 1
MAX_RECORD_BYTES = 64 * 1024 * 1024
"""A longer file or line is damage: the record of a sweep of 10,000 points has about 5 MB."""

FIGURES_NAME = "figures.json"
"""The record of a run in its own folder."""

HISTORY_NAME = "history.jsonl"
LOCK_TIMEOUT_S = 60.0
LAST = "last"
"""The name that stands for the newest run in the history; no baseline can have it."""
ROLLING = "rolling:"
"""With a number behind it: exact figures against `LAST`, timings against so many runs of the history."""
MOST_RUNS = 100

_LARGEST = 1e300
_SHOWN_DAMAGE = 3
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


# -- records ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunRecord:
    """Everything that is kept of one run; times are local with their offset, ISO 8601."""

    run: str
    started: str
    ended: str
    overall_pass: bool | str
    rule: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    metrics: Mapping[str, MetricFacts]
    subjects: tuple[SubjectRecord, ...]

    def subject(self, kind: str, name: str) -> SubjectRecord | None:
        return next((s for s in self.subjects if (s.kind, s.name) == (kind, name)), None)


def record_to_json(record: RunRecord) -> dict[str, Any]:
    """The record with its schema and checksum; `read_record` reads it back."""
    value = plain(record)
    return {"schema": SCHEMA, "sha256": _checksum(value), "record": value}


def render_line(record: RunRecord) -> str:
    """The record on one line, its line end included."""
    return json.dumps(record_to_json(record), separators=(",", ":"), allow_nan=False) + "\n"


def _checksum(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def read_record(source: Path | bytes | Mapping[str, Any], where: str = "") -> RunRecord:
    """The record in a file, in a line, or in JSON that was parsed; StoreError if it is none, or was changed since."""
    where = str(source) if isinstance(source, Path) else where
    value = load(dict[str, Any], source, "a record of a run", where=where, most_bytes=MAX_RECORD_BYTES)
    schema = value.get("schema")
    if schema is None:
        raise StoreError(
            "this is no record of a run", where=where, came=f"{value!r:.60}", expected='{"schema": 1, "record": {…}}'
        )
    if schema != SCHEMA or isinstance(schema, bool):
        raise StoreError(
            "a record of a run has another schema than this version reads",
            where=where,
            came=f"schema {schema!r:.60}",
            expected=f"schema {SCHEMA}",
            hint="read it with the version of pytest-h2o that wrote it, or record the run again",
        )
    checksum = _checksum(value.get("record"))
    if value.get("sha256") != checksum:
        raise StoreError(
            "a record of a run was changed after it was written",
            where=where,
            came=f"SHA-256 {value.get('sha256')!r:.80}",
            expected=checksum,
            hint="take the file from a backup or from version control, or record the run again",
        )
    record = load(RunRecord, value.get("record"), "a record of a run", where=where)
    for number, subject in enumerate(record.subjects):
        for row, figures in subject.figures.items():
            for metric, figure in figures.items():
                if abs(figure) > _LARGEST:
                    raise StoreError(
                        "a record of a run has another shape than this version reads",
                        where=f"{where}: subjects[{number}].figures.{row}.{metric}",
                        came=f"{figure!r:.60}",
                        expected=f"a number of at most {_LARGEST:g}",
                    )
    return record


# -- the history --------------------------------------------------------------------------------------------------


class Damage(NamedTuple):
    """A line that holds no record: file and line, and what is wrong with it, on one line."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def append_record(path: Path, record: RunRecord) -> None:
    """Add one record to a history, down to the disk; folder and file are made where they are missing."""
    from filelock import FileLock, Timeout

    line = render_line(record).encode("utf-8")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            check_regular(path)
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_TIMEOUT_S), path.open("ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line  # what was torn off stays a line of its own
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except Timeout as error:
        raise StoreError(
            "another process has held the history for too long",
            where=error.lock_file,
            came=f"no lock within {LOCK_TIMEOUT_S:g} s",
            hint="end the process that holds it",
        ) from None
    except OSError as error:
        raise StoreError(
            "the history cannot be written",
            where=str(path),
            came=error.strerror or str(error),
            expected="a file that can be written, with room on its disk",
        ) from error


def read_history(path: Path) -> Iterator[RunRecord | Damage]:
    """Read a history, oldest first, one line at a time; nothing if there is no file."""
    try:
        with open_regular(path) as file:
            number = 0
            while line := file.readline(MAX_RECORD_BYTES):
                number += 1
                where = f"{path}:{number}"
                if not line.endswith(b"\n") and len(line) == MAX_RECORD_BYTES:
                    yield Damage(where, f"a line of more than {MAX_RECORD_BYTES:,} bytes")
                    while (rest := file.readline(MAX_RECORD_BYTES)) and not rest.endswith(b"\n"):
                        pass
                elif line.strip():
                    yield _read_line(line, where)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError("the history cannot be read", where=str(path), came=error.strerror or str(error)) from error


def _read_line(line: bytes, where: str) -> RunRecord | Damage:
    try:
        return read_record(line, where)
    except StoreError as error:
        if not line.endswith(b"\n"):
            return Damage(where, "a torn last line: whoever wrote it was stopped; left out")
        inner = (error.where or "").removeprefix(where).lstrip(": ")
        place = f" ({inner})" if inner and not inner[0].isdigit() else ""  # a column says nothing in a line so long
        return Damage(where, f"{error.what}{place}: {error.came}; left out")


# -- baselines ----------------------------------------------------------------------------------------------------


def check_baseline_name(name: str, origin: str) -> None:
    """UsageError unless a file may be called so."""
    if name == LAST:
        raise UsageError(
            f"{origin}: no baseline can be called last",
            came=name,
            expected="another name",
            hint="last always means the newest run in the history",
        )
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{origin} takes the name of a baseline, not a path",
            came=repr(name),
            expected="a letter or digit, then letters, digits, dots, underscores or dashes, at most 80 in all",
        )


def baseline_path(out_dir: Path, name: str) -> Path:
    """Where a baseline of that name lies; the name must have been checked."""
    return out_dir / "baselines" / f"{name}.json"


def list_baselines(out_dir: Path) -> list[str]:
    """Names of the saved baselines, sorted."""
    return sorted(path.stem for path in (out_dir / "baselines").glob("*.json") if _NAME.fullmatch(path.stem))


def save_baseline(out_dir: Path, name: str, record: RunRecord, *, overwrite: bool = False) -> Path:
    """Write a baseline; StoreError if one of that name is there and `overwrite` is false, or it cannot be written."""
    path = baseline_path(out_dir, name)
    write_new_json(path, record_to_json(record), overwrite=overwrite)
    return path


def read_baseline(out_dir: Path, name: str) -> RunRecord:
    """Read a saved baseline; UsageError that names those that there are if there is none of that name."""
    path = baseline_path(out_dir, name)
    if path.is_file():
        return read_record(path)
    names = list_baselines(out_dir)
    near = did_you_mean(name, names)
    raise UsageError(
        f"there is no baseline called {name}",
        where=str(path.parent),
        came=f"baselines there: {', '.join(names) or 'none'}",
        hint=(f"{near} " if near else "") + f"--h2o-save {name} saves a run under that name",
    )


def resolve_record(text: str, out_dir: Path) -> tuple[str, RunRecord]:
    """The record that a command line names: a run folder, a file, a baseline, ``last``, or a run of the history."""
    path = Path(text)
    if path.is_dir():
        if not (path / FIGURES_NAME).is_file():
            raise UsageError(
                "the folder holds no figures of a run",
                where=str(path),
                expected="figures.json, as every complete run writes it",
            )
        return f"run folder {path}", read_record(path / FIGURES_NAME)
    if path.is_file():
        return f"file {path}", read_record(path)
    names = list_baselines(out_dir)
    if text in names:
        return f"baseline {text}", read_baseline(out_dir, text)
    runs = [record for record in read_history(out_dir / HISTORY_NAME) if isinstance(record, RunRecord)]
    found = runs[-1:] if text == LAST else [r for r in runs if r.run == text] or [r for r in runs if text in r.run]
    if len({record.run for record in found}) == 1:
        return "the history", found[-1]
    raise UsageError(
        f"{len(found)} runs have {text} in their name" if found else f"nothing is called {text}",
        where=str(out_dir),
        came=f"baselines: {', '.join(names) or 'none'}; newest runs: "
        + (", ".join(record.run for record in (found or runs)[-5:]) or "none"),
        expected="a run folder, the name of a baseline, last, or a run of the history (or a part of its name)",
        hint="pytest-h2o history lists the runs; --out-dir says where they are kept",
    )


# -- what a run is compared with, and saved as --------------------------------------------------------------------


class ComparisonRequest(NamedTuple):
    """The options about earlier runs, checked."""

    out_dir: Path
    compare: str | None
    """Name of a baseline, ``last``, ``rolling:N``, or None: nothing is compared."""
    save: str | None
    """Name under which this run is saved at its end."""
    saves: bool
    """Whether it will be: not where the baseline is there already and is only compared with."""
    overwrite: bool
    allowances: Allowances


def rolling_runs(asked: str | None, origin: str = "--h2o-compare") -> int | None:
    """The number in ``rolling:N``, UsageError for one that cannot be; None for what asks for something else."""
    if asked is None or not asked.startswith(ROLLING):
        return None
    number = asked.removeprefix(ROLLING)
    if not re.fullmatch("[0-9]{1,3}", number) or not FEWEST_RUNS <= int(number) <= MOST_RUNS:
        raise UsageError(
            f"{origin} takes a number of earlier runs behind {ROLLING}",
            came=repr(asked),
            expected=f"a whole number from {FEWEST_RUNS} to {MOST_RUNS}, for example {ROLLING}10",
        )
    return int(number)


def read_request(settings: Settings) -> ComparisonRequest:
    """Check the options about earlier runs before anything is measured."""
    out_dir: Path = settings["out-dir"]
    compare, save, overwrite = settings["compare"], settings["save"], settings["overwrite"]
    fail = settings.given["compare-fail"]
    allowances = parse_allowances(fail.value or (), fail.origin)
    if fail.value and fail.on_command_line and compare is None:
        raise UsageError(
            f"{fail.origin} was given, and nothing to compare with",
            came=", ".join(fail.value),
            expected="--h2o-compare NAME, --h2o-compare last or --h2o-compare rolling:N beside it",
        )
    if save is not None:
        check_baseline_name(save, settings.origin("save"))
    if compare is not None and compare != LAST and rolling_runs(compare, settings.origin("compare")) is None:
        check_baseline_name(compare, settings.origin("compare"))
        if baseline_path(out_dir, compare).is_file() or save != compare:
            read_baseline(out_dir, compare)
    is_free = save is not None and (overwrite or not baseline_path(out_dir, save).exists())
    if save is not None and not is_free and save != compare:
        raise UsageError(
            f"{settings.origin('save')}: there is a baseline called {save} already",
            where=str(baseline_path(out_dir, save)),
            came=f"baselines there: {', '.join(list_baselines(out_dir))}",
            expected="a new name",
            hint="--h2o-overwrite replaces it; --h2o-compare with the same name compares with it and keeps it",
        )
    return ComparisonRequest(out_dir, compare, save, is_free, overwrite, allowances)


def describe_request(request: ComparisonRequest, settings: Settings) -> list[str]:
    """Lines for the header: what is compared with and saved."""
    lines = []
    if request.compare is not None:
        lines.append(f"compared with {request.compare} ({settings.origin('compare')})")
    if request.saves:
        lines.append(f"to be saved as baseline {request.save} ({settings.origin('save')})")
    elif request.save is not None:
        lines.append(f"baseline {request.save} is there already and stays as it is")
    return lines


@dataclass(frozen=True)
class Earlier:
    """The earlier figures of a preset or scope, and where they come from."""

    asked: str
    """As it was asked for: the name of a baseline, ``last`` or ``rolling:N``."""
    run: str
    ended: str
    subject: SubjectRecord
    metrics: Mapping[str, MetricFacts]
    beside: tuple[str, ...] = ()
    """Everything that a named baseline holds, as ``preset NAME`` or ``scope NAME``; of the history nothing."""
    notes: tuple[str, ...] = ()
    rolling: Rolling | None = None
    """The runs that timings are held against, with ``rolling:N``."""

    @property
    def title(self) -> str:
        if self.asked == LAST or self.rolling is not None:
            return f"the last run {self.run}"
        return f"baseline {self.asked} (run {self.run})"


def find_earlier(store: OnceStore, request: ComparisonRequest, now: SubjectRecord) -> Earlier:
    """The earlier figures that a preset or scope is held against, the same ones for every process of the run.

    OptedOut where there are none yet.
    """
    in_history = request.compare == LAST or rolling_runs(request.compare) is not None
    find = _find_last if in_history else _find_in_baseline
    return store.keep(f"earlier/{now.kind}-{now.name}", Earlier, lambda: find(request, now))


def _find_in_baseline(request: ComparisonRequest, now: SubjectRecord) -> Earlier:
    name, out_dir = request.compare, request.out_dir
    if name is None:
        raise OptedOut("nothing to compare with was asked for (--h2o-compare NAME, last or rolling:N)")
    if not baseline_path(out_dir, name).is_file():
        raise OptedOut(f"no baseline yet: this run is saved as {name}")
    record = read_baseline(out_dir, name)
    subject = record.subject(now.kind, now.name)
    held = tuple(subject.title for subject in record.subjects)
    if subject is None:
        raise OptedOut(f"baseline {name} has no figures of it, only of {', '.join(held) or 'nothing'}")
    refuse_other_model(subject, now, f"baseline {name} ({baseline_path(out_dir, name)})")
    return Earlier(name, record.run, record.ended, subject, record.metrics, beside=held)


def _find_last(request: ComparisonRequest, now: SubjectRecord) -> Earlier:
    """The newest run in the history that has this preset or scope of the same model, and in which it held.

    With ``rolling:N`` also the timings of the last N of them that were measured with the same fingerprint.
    """
    asked = rolling_runs(request.compare)
    alike: deque[tuple[str, SubjectRecord]] = deque(maxlen=asked)
    path = request.out_dir / HISTORY_NAME
    newest: Earlier | None = None
    damage: list[Damage] = []
    passed_over: Counter[str] = Counter()
    for record in read_history(path):
        if isinstance(record, Damage):
            damage.append(record)
        elif (subject := record.subject(now.kind, now.name)) is None:
            passed_over["without it"] += 1
        elif not subject.held:
            passed_over["in which items of it failed"] += 1
        elif _is_of_another_model(subject, now):
            passed_over["of another model"] += 1
        else:
            newest = Earlier(request.compare or LAST, record.run, record.ended, subject, record.metrics)
            if asked is not None and not differing_parts(subject.fingerprint, now.fingerprint):
                alike.append((record.run, subject))
    notes = tuple(f"the history is damaged: {line}" for line in damage[:_SHOWN_DAMAGE])
    if len(damage) > _SHOWN_DAMAGE:
        notes += (f"the history is damaged in {len(damage) - _SHOWN_DAMAGE} more lines",)
    if newest is None:
        others = "".join(f", {number} {why}" for why, number in passed_over.items())
        damaged = "".join(f"; {note}" for note in notes)
        raise OptedOut(
            f"no baseline yet: {path} has no earlier run to compare with{others}{damaged}; "
            "this run is recorded as the last"
        )
    rolling = None if asked is None else roll(dict(alike), now, {**newest.metrics, **metric_facts()}, asked)
    return replace(newest, notes=notes, rolling=rolling)


def _is_of_another_model(subject: SubjectRecord, now: SubjectRecord) -> bool:
    try:
        refuse_other_model(subject, now, "the last run")
    except StoreError:
        return True
    return False
