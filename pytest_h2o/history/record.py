"""The record of a run: every figure with its unit, direction and place, what it was measured with, and a checksum.

One form for all places where a record is kept: a JSON object ``{"schema": 1, "sha256": …, "record": {…}}``, on one
line in the history, indented in a baseline and in ``figures.json`` of a run folder. The checksum is SHA-256 over the
record as JSON with sorted keys, no blanks and ASCII only, so that a digit that was changed by hand or by a failing disk
is told, and a reordered or indented file is not.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from pytest_h2o.errors import StoreError

SCHEMA = 1

Better = Literal["higher", "lower", "same"]
SubjectKind = Literal["preset", "scope"]

_LARGEST = 1e300


@dataclass(frozen=True)
class MetricFacts:
    """What a reader must know of a metric to compare two figures of it.

    Attributes
    ----------
    unit : str
        Empty for a ratio or a count.
    better : {"higher", "lower", "same"}
        Which way is better; ``same`` for what only says what was measured: any change of it is one too many.
    exact : bool
        True if two runs of the same binary and input give the same figure to the last digit; false for timings.
    """

    unit: str
    better: Better
    exact: bool


@dataclass(frozen=True)
class SubjectRecord:
    """The figures of one preset or scope.

    Attributes
    ----------
    held : bool
        No item of it failed in that run.
    fingerprint : mapping of str to str or None
        What it was measured with, part by part: machine, binary, model, preset, threads, codec. None: not known.
    figures : mapping of str to mapping
        Row -> metric -> value. A figure that was not measured is not there.
    """

    kind: SubjectKind
    name: str
    held: bool
    fingerprint: Mapping[str, str | None]
    figures: Mapping[str, Mapping[str, int | float]]

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name}"


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
    """Read a record.

    Parameters
    ----------
    data : bytes
        One line of the history, or a whole file.
    where : str
        File, or file and line, for messages.

    Raises
    ------
    StoreError
        It is no JSON, of another schema, changed since it was written, or of another shape.
    """
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


def is_figure(value: object) -> bool:
    """Whether a value can stand in a record: a number, finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
