"""The record of a run: every figure with its unit, direction and place, what it was measured with, and a checksum.

One form for all places where a record is kept: a JSON object ``{"schema": 1, "sha256": …, "record": {…}}``, on one
line in the history, indented in a baseline and in ``figures.json`` of a run folder. The checksum is SHA-256 over the
record as JSON with sorted keys, no blanks and ASCII only, so that a digit that was changed by hand or by a failing disk
is told, and a reordered or indented file is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_h2o.bench.embedded import digest_program
from pytest_h2o.bench.machine import describe_machine
from pytest_h2o.errors import OptedOut, StoreError, UsageError
from pytest_h2o.files import digest_file, write_new_json
from pytest_h2o.gate.compare import Allowances, SubjectRecord, parse_allowances, preset_fingerprint, refuse_other_model
from pytest_h2o.gate.metrics import MetricFacts
from pytest_h2o.inputs.options import Settings
from pytest_h2o.run.store import OnceStore, keep_error, kept_value

if TYPE_CHECKING:
    from pytest_h2o.bench.config import BaseConfig
    from pytest_h2o.bench.rows import Row
    from pytest_h2o.inputs.presets import Preset


SCHEMA = 1
_LARGEST = 1e300


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


def subject_to_json(subject: SubjectRecord) -> dict[str, Any]:
    """Built-in types only."""
    return {
        "kind": subject.kind,
        "name": subject.name,
        "held": subject.held,
        "fingerprint": dict(subject.fingerprint),
        "figures": {row: dict(values) for row, values in subject.figures.items()},
    }


def metrics_to_json(metrics: Mapping[str, MetricFacts]) -> dict[str, Any]:
    return {name: {"unit": m.unit, "better": m.better, "exact": m.exact} for name, m in metrics.items()}


def record_to_json(record: RunRecord) -> dict[str, Any]:
    """The record with its schema and checksum; `record_from_json` reads it back."""
    value = {
        "run": record.run,
        "started": record.started,
        "ended": record.ended,
        "overall_pass": record.overall_pass,
        "rule": record.rule,
        "settings": dict(record.settings),
        "versions": dict(record.versions),
        "metrics": metrics_to_json(record.metrics),
        "subjects": [subject_to_json(subject) for subject in record.subjects],
    }
    return {"schema": SCHEMA, "sha256": _checksum(value), "record": value}


def render_line(record: RunRecord) -> str:
    """The record on one line, its line end included."""
    return json.dumps(record_to_json(record), separators=(",", ":"), allow_nan=False) + "\n"


def _checksum(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def parse_record(data: bytes, where: str) -> RunRecord:
    """Read a record."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        came = "values nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise StoreError("a record of a run cannot be read", where=where, came=came, expected="a JSON object") from None
    return record_from_json(value, where)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number that JSON has")


def record_from_json(value: object, where: str) -> RunRecord:
    """Take back what `record_to_json` gave; StoreError as in `parse_record`."""
    schema = value.get("schema") if isinstance(value, dict) else None
    if not isinstance(value, dict) or schema is None:
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
    inner = value.get("record")
    try:
        checksum = _checksum(inner)
    except (ValueError, TypeError, RecursionError):
        checksum = "none: a value that cannot be"
    if value.get("sha256") != checksum:
        raise StoreError(
            "a record of a run was changed after it was written",
            where=where,
            came=f"SHA-256 {value.get('sha256')!r:.80}",
            expected=checksum,
            hint="take the file from a backup or from version control, or record the run again",
        )
    return _Reader(where).run(inner)


def subject_from_json(value: object, where: str) -> SubjectRecord:
    """Take back what `subject_to_json` gave; StoreError if it has another shape."""
    return _Reader(where).subject(value, "subject")


def metrics_from_json(value: object, where: str) -> dict[str, MetricFacts]:
    """Take back what `metrics_to_json` gave; StoreError if it has another shape."""
    return _Reader(where).metrics(value)


class _Reader:
    """Values of JSON, checked to have the shape of a record."""

    def __init__(self, where: str) -> None:
        self._where = where

    def run(self, value: object) -> RunRecord:
        get = self._fields(value, "record")
        subjects = get("subjects", list)
        return RunRecord(
            run=get("run", str),
            started=get("started", str),
            ended=get("ended", str),
            overall_pass=get("overall_pass", bool, str),
            rule=get("rule", str),
            settings=get("settings", dict),
            versions=get("versions", dict),
            metrics=self.metrics(get("metrics", dict)),
            subjects=tuple(self.subject(inner, f"subjects[{i}]") for i, inner in enumerate(subjects)),
        )

    def metrics(self, value: object) -> dict[str, MetricFacts]:
        found = {}
        for name, facts in self._mapping(value, "metrics").items():
            get = self._fields(facts, f"metrics.{name}")
            better = get("better", str)
            if better not in ("higher", "lower", "same"):
                self._refuse(f"metrics.{name}.better", better, "higher, lower or same")
            found[name] = MetricFacts(get("unit", str), better, get("exact", bool))
        return found

    def subject(self, value: object, key: str) -> SubjectRecord:
        get = self._fields(value, key)
        kind = get("kind", str)
        if kind not in ("preset", "scope"):
            self._refuse(f"{key}.kind", kind, "preset or scope")
        fingerprint = get("fingerprint", dict)
        for part, text in fingerprint.items():
            if text is not None and not isinstance(text, str):
                self._refuse(f"{key}.fingerprint.{part}", text, "text or null")
        figures = {}
        for row, values in get("figures", dict).items():
            figures[row] = self._mapping(values, f"{key}.figures.{row}")
            for metric, number in figures[row].items():
                if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= _LARGEST:
                    self._refuse(f"{key}.figures.{row}.{metric}", number, "a finite number")
        return SubjectRecord(kind, get("name", str), get("held", bool), fingerprint, figures)

    def _mapping(self, value: object, key: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._refuse(key, value, "an object")
        return value

    def _fields(self, value: object, key: str) -> Callable[..., Any]:
        """A function that gives a field of an object, of one of the types that are allowed."""
        fields = self._mapping(value, key)

        def get(name: str, *types: type) -> Any:
            if name not in fields:
                self._refuse(f"{key}.{name}", "nothing", " or ".join(t.__name__ for t in types))
            if type(fields[name]) not in types:
                self._refuse(f"{key}.{name}", fields[name], " or ".join(t.__name__ for t in types))
            return fields[name]

        return get

    def _refuse(self, key: str, value: object, expected: str) -> NoReturn:
        came = value if value == "nothing" else f"{value!r:.60}"
        raise StoreError(
            "a record of a run has another shape than this version reads",
            where=f"{self._where}: {key}",
            came=str(came),
            expected=expected,
        )


HISTORY_NAME = "history.jsonl"
MAX_LINE_BYTES = 64 * 1024 * 1024
"""A longer line is damage: the record of a sweep of 10,000 points has about 5 MB."""

LOCK_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Damage:
    """A line that holds no record.

    Attributes
    ----------
    where : str
        File and line.
    what : str
        What is wrong with it, on one line.
    """

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
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                where = f"{path}:{number}"
                if not line.endswith(b"\n") and len(line) == MAX_LINE_BYTES:
                    yield Damage(where, f"a line of more than {MAX_LINE_BYTES:,} bytes")
                    while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                        pass
                elif line.strip():
                    yield _read_line(line, where)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError("the history cannot be read", where=str(path), came=error.strerror or str(error)) from error


def _read_line(line: bytes, where: str) -> RunRecord | Damage:
    try:
        return parse_record(line, where)
    except StoreError as error:
        if not line.endswith(b"\n"):
            return Damage(where, "a torn last line: whoever wrote it was stopped; left out")
        inner = (error.where or "").removeprefix(where).lstrip(": ")
        place = f" ({inner})" if inner else ""
        return Damage(where, f"{error.what}{place}: {error.came}; left out")


LAST = "last"
"""The name that stands for the newest run in the history; no baseline can have it."""

MAX_FILE_BYTES = 64 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def check_baseline_name(name: str, origin: str) -> str:
    """The name, if a file may be called so."""
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
    return name


def baselines_folder(out_dir: Path) -> Path:
    return out_dir / "baselines"


def baseline_path(out_dir: Path, name: str) -> Path:
    """Where a baseline of that name lies; the name must have been checked."""
    return baselines_folder(out_dir) / f"{name}.json"


def list_baselines(out_dir: Path) -> list[str]:
    """Names of the saved baselines, sorted."""
    return sorted(path.stem for path in baselines_folder(out_dir).glob("*.json") if _NAME.fullmatch(path.stem))


def save_baseline(out_dir: Path, name: str, record: RunRecord, *, overwrite: bool = False) -> Path:
    """Write a baseline; StoreError if one of that name is there and `overwrite` is false, or it cannot be written."""
    path = baseline_path(out_dir, name)
    write_new_json(path, record_to_json(record), overwrite=overwrite)
    return path


def read_baseline(out_dir: Path, name: str) -> RunRecord:
    """Read a saved baseline."""
    path = baseline_path(out_dir, name)
    if not path.is_file():
        raise missing_baseline(out_dir, name)
    return read_record_file(path)


def missing_baseline(out_dir: Path, name: str) -> UsageError:
    """The error of a name that no baseline has."""
    names = list_baselines(out_dir)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    return UsageError(
        f"there is no baseline called {name}",
        where=str(baselines_folder(out_dir)),
        came=f"baselines there: {', '.join(names) or 'none'}",
        hint=(f"did you mean {near[0]}? " if near else "") + f"--h2o-save {name} saves a run under that name",
    )


def read_record_file(path: Path) -> RunRecord:
    """Read the record in a baseline, or in ``figures.json`` of a run folder; StoreError if it cannot be."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size  # to ask for the most at once would take that memory
            data = file.read(min(size, MAX_FILE_BYTES) + 1)
    except OSError as error:
        raise StoreError(
            "a record of a run cannot be read", where=str(path), came=error.strerror or str(error)
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise StoreError(
            "a record of a run is too large", where=str(path), expected=f"at most {MAX_FILE_BYTES:,} bytes"
        )
    return parse_record(data, str(path))


FIGURES_NAME = "figures.json"
"""The record of a run in its own folder."""


def resolve_record(text: str, out_dir: Path) -> tuple[str, RunRecord]:
    """The record that a command line names: a run folder, a file, a baseline, ``last``, or a run of the history."""
    path = Path(text)
    if path.is_dir():
        file = path / FIGURES_NAME
        if not file.is_file():
            raise UsageError(
                "the folder holds no figures of a run",
                where=str(path),
                expected="figures.json, as every complete run writes it",
            )
        return f"run folder {path}", read_record_file(file)
    if path.is_file():
        return f"file {path}", read_record_file(path)
    names = list_baselines(out_dir)
    if text in names:
        return f"baseline {text}", read_baseline(out_dir, text)
    runs = list(_good_records(out_dir))
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


def _good_records(out_dir: Path) -> Iterator[RunRecord]:
    return (record for record in read_history(out_dir / HISTORY_NAME) if isinstance(record, RunRecord))


@dataclass(frozen=True)
class ComparisonRequest:
    """The options about earlier runs, checked.

    Attributes
    ----------
    compare : str or None
        Name of a baseline, ``last``, or None: nothing is compared.
    save : str or None
        Name under which this run is saved at its end.
    saves : bool
        Whether it will be: not where the baseline is there already and is only compared with.
    """

    out_dir: Path
    compare: str | None
    save: str | None
    saves: bool
    overwrite: bool
    allowances: Allowances


def check_command_line(settings: Settings) -> None:
    """Check the options about earlier runs if the command line has any; errors as in `read_request`."""
    if any(settings.given[name].on_command_line for name in ("save", "compare", "compare-fail")):
        read_request(settings)


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
            expected="--h2o-compare NAME or --h2o-compare last beside it",
        )
    if save is not None:
        check_baseline_name(save, settings.origin("save"))
    if compare is not None and compare != LAST:
        check_baseline_name(compare, settings.origin("compare"))
        if baseline_path(out_dir, compare).is_file():
            read_baseline(out_dir, compare)
        elif save != compare:
            raise missing_baseline(out_dir, compare)
    return ComparisonRequest(
        out_dir, compare, save, _will_save(out_dir, compare, save, overwrite, settings), overwrite, allowances
    )


def _will_save(out_dir: Path, compare: str | None, save: str | None, overwrite: bool, settings: Settings) -> bool:
    """Whether a baseline is written at the end; UsageError if one would be replaced that nobody said to replace."""
    if save is None:
        return False
    path = baseline_path(out_dir, save)
    if overwrite or not path.exists():
        return True
    if save == compare:
        return False
    raise UsageError(
        f"{settings.origin('save')}: there is a baseline called {save} already",
        where=str(path),
        came=f"baselines there: {', '.join(list_baselines(out_dir))}",
        expected="a new name",
        hint="--h2o-overwrite replaces it; --h2o-compare with the same name compares with it and keeps it",
    )


_SHOWN_DAMAGE = 3


@dataclass(frozen=True)
class Earlier:
    """The earlier figures of a preset or scope, and where they come from.

    Attributes
    ----------
    asked : str
        As it was asked for: the name of a baseline, or ``last``.
    run, ended : str
        The run that gave them, and when it ended.
    beside : tuple of str
        Everything that a named baseline holds, as ``preset NAME`` or ``scope NAME``; of the history nothing.
    notes : tuple of str
        What there is to say, for example that lines of the history are damaged.
    """

    asked: str
    run: str
    ended: str
    subject: SubjectRecord
    metrics: Mapping[str, MetricFacts]
    beside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"the last run {self.run}" if self.asked == "last" else f"baseline {self.asked} (run {self.run})"


class Comparer:
    """Finds the earlier figures that this run is held against, the same ones for every process of the run."""

    def __init__(self, settings: Settings, store: OnceStore) -> None:
        self.request = read_request(settings)
        self._settings = settings
        self._store = store

    def describe(self) -> list[str]:
        """Lines for the header: what is compared with and saved."""
        request, lines = self.request, []
        if request.compare is not None:
            lines.append(f"h2o: compared with {request.compare} ({self._settings.origin('compare')})")
        if request.saves:
            lines.append(f"h2o: to be saved as baseline {request.save} ({self._settings.origin('save')})")
        elif request.save is not None:
            lines.append(f"h2o: baseline {request.save} is there already and stays as it is")
        return lines

    @property
    def allowances(self) -> Allowances:
        """By how much a metric may be worse."""
        return self.request.allowances

    def fingerprint(self, preset: Preset, results: Sequence[Row], base: BaseConfig | None) -> dict[str, str | None]:
        """What the figures of a preset were measured with. Where recorded logs are read, the machine is not known."""
        bench = self._settings["bench"]
        return preset_fingerprint(
            preset,
            results,
            machine=None if bench is None else describe_machine(),
            binary=None if bench is None else digest_program(bench)[:16],
            base_config=None if base is None else digest_file(base.path)[:16],
        )

    def find_earlier(self, now: SubjectRecord) -> Earlier:
        """The earlier figures of a preset or scope."""
        key = f"earlier/{now.kind}-{now.name}"
        kept = kept_value(self._store.once(key, keep_error(lambda: self._find(now))))
        if "absent" in kept:
            raise OptedOut(kept["absent"])
        where = f"{self.request.compare} as it was read for this run"
        return Earlier(
            asked=kept["asked"],
            run=kept["run"],
            ended=kept["ended"],
            subject=subject_from_json(kept["subject"], where),
            metrics=metrics_from_json(kept["metrics"], where),
            beside=tuple(kept["beside"]),
            notes=tuple(kept["notes"]),
        )

    def _find(self, now: SubjectRecord) -> dict[str, Any]:
        if self.request.compare is None:
            return {"absent": "nothing to compare with was asked for (--h2o-compare NAME or last)"}
        if self.request.compare == LAST:
            return self._find_last(now)
        name, out_dir = self.request.compare, self.request.out_dir
        if not baseline_path(out_dir, name).is_file():
            return {"absent": f"no baseline yet: this run is saved as {name}"}
        record = read_baseline(out_dir, name)
        subject = record.subject(now.kind, now.name)
        if subject is None:
            held = ", ".join(s.title for s in record.subjects) or "nothing"
            return {"absent": f"baseline {name} has no figures of it, only of {held}"}
        refuse_other_model(subject, now, f"baseline {name} ({baseline_path(out_dir, name)})")
        return _found(name, record, subject, ())

    def _find_last(self, now: SubjectRecord) -> dict[str, Any]:
        """The newest run in the history that has this preset or scope of the same model, and in which it held."""
        path = self.request.out_dir / HISTORY_NAME
        newest: tuple[RunRecord, SubjectRecord] | None = None
        damage: list[Damage] = []
        passed_over: dict[str, int] = {}
        for record in read_history(path):
            if isinstance(record, Damage):
                damage.append(record)
                continue
            subject = record.subject(now.kind, now.name)
            why = _why_not(subject, now)
            if why:
                passed_over[why] = passed_over.get(why, 0) + 1
            elif subject is not None:
                newest = (record, subject)
        notes = tuple(f"the history is damaged: {line}" for line in damage[:_SHOWN_DAMAGE])
        if len(damage) > _SHOWN_DAMAGE:
            notes += (f"the history is damaged in {len(damage) - _SHOWN_DAMAGE} more lines",)
        if newest is not None:
            return _found(LAST, *newest, notes)
        others = "".join(f", {number} {why}" for why, number in passed_over.items())
        damaged = "".join(f"; {note}" for note in notes)
        return {
            "absent": f"no baseline yet: {path} has no earlier run to compare with{others}{damaged}; "
            "this run is recorded as the last"
        }


def _why_not(subject: SubjectRecord | None, now: SubjectRecord) -> str | None:
    """Why the newest run cannot be this one; None if it can."""
    if subject is None:
        return "without it"
    if not subject.held:
        return "in which items of it failed"
    try:
        refuse_other_model(subject, now, "the last run")
    except StoreError:
        return "of another model"
    return None


def _found(asked: str, record: RunRecord, subject: SubjectRecord, notes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "asked": asked,
        "run": record.run,
        "ended": record.ended,
        "subject": subject_to_json(subject),
        "metrics": metrics_to_json(record.metrics),
        "beside": [] if asked == LAST else [held.title for held in record.subjects],
        "notes": list(notes),
    }
