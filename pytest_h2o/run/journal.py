"""The controller's view of a run: one record an item, kept in the journal at once, made into artifacts at the end."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from pytest_h2o.bench.machine import describe_machine
from pytest_h2o.bench.rows import FEWER_COLUMN, Row
from pytest_h2o.errors import H2OError, NotMeasured, StoreError, TableError
from pytest_h2o.files import append_line, load, plain, write_new_bytes, write_new_json
from pytest_h2o.gate.compare import (
    SubjectKind,
    SubjectRecord,
    metric_facts,
    preset_figures,
    row_key,
    scope_figures,
    scope_fingerprint,
)
from pytest_h2o.gate.decode import PairedComparison, pairs_folder
from pytest_h2o.gate.values import launch_ranges
from pytest_h2o.inputs.checking import LLM_BENCH
from pytest_h2o.inputs.options import Settings
from pytest_h2o.inputs.presets import name_workload
from pytest_h2o.lossless.result import LosslessResult
from pytest_h2o.run.history import (
    FIGURES_NAME,
    HISTORY_NAME,
    ComparisonRequest,
    RunRecord,
    append_record,
    baseline_path,
    read_history,
    read_request,
    record_to_json,
    save_baseline,
)
from pytest_h2o.run.store import JOURNAL_NAME, SHARED, OnceStore

if TYPE_CHECKING:
    from pytest_h2o.gate.values import Targets
    from pytest_h2o.inputs.presets import Point
    from pytest_h2o.inputs.scope import Scope


JOURNAL_VERSION = 1


@dataclass(frozen=True)
class PointRecord:
    """A run of one point that was launched or read."""

    preset: str
    index: int
    manifest: Mapping[str, Any]
    result: Row

    @property
    def workload(self) -> str:
        return name_workload(self.manifest["prompt_len"], self.manifest["gen_len"])


@dataclass(frozen=True)
class FailedRecord:
    """A launch that gave no sound row: the manifest lists it with its return code; or a point that was not launched."""

    preset: str
    index: int
    manifest: Mapping[str, Any]
    return_code: int | None
    shares_run_with: str | None

    @property
    def workload(self) -> str:
        return name_workload(self.manifest["prompt_len"], self.manifest["gen_len"])


@dataclass(frozen=True)
class ScopeRecord:
    """The evaluation of a scope."""

    decides: bool
    target: float | None
    allow_skips: bool
    result: LosslessResult
    machine: str

    @property
    def is_refused(self) -> bool:
        """Whether its ratio counts for nothing: it is one over a part of the dump, or of words that say nothing."""
        faults = self.result.counting_faults(allow_skips=self.allow_skips)
        return bool(faults) or (bool(self.result.skipped_entries) and not self.allow_skips)


@dataclass(frozen=True, kw_only=True)
class PresetFacts:
    """What the summary needs to hold all rows of a preset against both rules again."""

    run_ids: tuple[str, ...] = ()
    path: str | None = None
    bench: str = LLM_BENCH
    model_layers: int | None = None
    h2o_layer_start: int = 0
    h2o_layer_end: int = 0
    targets: Mapping[str, float | None] = field(default_factory=dict)
    metric_targets: Mapping[str, float] = field(default_factory=dict)
    decode_left_out: bool = True
    paired: bool = False
    baseline_tok_per_s: float | None = None
    baseline_origin: str | None = None
    baseline_files: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()
    """Those that targets are asked of, where there are several."""
    baselines: Mapping[str, float] = field(default_factory=dict)
    """Of each of them, tok/s."""
    fingerprint: Mapping[str, str | None] = field(default_factory=dict)
    coding: str | None = None
    """The mode of lossless coding at run time; None where nothing is coded."""
    inexact: tuple[str, ...] = ()
    """Metrics that its timing changes."""


@dataclass
class News:
    """What was measured or read since the record before, as the record of an item carries it."""

    points: list[PointRecord] = field(default_factory=list)
    failed: list[FailedRecord] = field(default_factory=list)
    scopes: dict[str, ScopeRecord] = field(default_factory=dict)
    presets: dict[str, PresetFacts] = field(default_factory=dict)
    comparisons: dict[str, PairedComparison] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    not_asked: list[str] = field(default_factory=list)


_WORST = ("failed", "skipped", "passed")


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What the record of every item has, of whatever kind it is."""

    item: str
    kind: Literal["sweep", "point", "scope", "comparison"]
    name: str
    outcome: Literal["passed", "failed", "skipped"]
    reason: str | None
    comparisons: list[dict[str, Any]]
    notes: list[str]
    data: dict[str, Any]


def _read_news(record: object, where: str = "") -> News:
    """What the record of an item brings; StoreError if it is none."""
    try:
        what, hint = "a record of the journal", "start a new run folder"
        data = load(_Record, record, what, where=where, hint=hint).data
        return load(News, data, what, where=f"{where}: data" if where else "data", hint=hint)
    except (StoreError, TableError) as error:
        what = "a record of the journal has another shape than this version reads"
        came = error.came if isinstance(error, StoreError) else error.what
        raise StoreError(
            what, where=error.where or where, came=came, expected=error.expected, hint=error.hint
        ) from error


def subject_kind(item: Mapping[str, Any]) -> str:
    """Whether an item's record is about a ``preset`` or a ``scope``."""
    return str(item.get("subject") or ("scope" if item["kind"] == "scope" else "preset"))


class Collector:
    """Gathers the records of all items, from this process or from workers.

    A run of a point or an evaluation of a scope comes once from each process that read it; equal ones are merged by
    name, the first to arrive standing.
    """

    def __init__(self, run_dir: Path, settings: Settings, sections: Sequence[ReportSection] = ()) -> None:
        self.run_dir = run_dir
        self.settings = settings
        self._store = OnceStore(run_dir / SHARED)
        self.sections = sections
        """What plugins add to the reports."""
        self.items: dict[str, dict[str, Any]] = {}
        self.points: dict[str, dict[str, PointRecord]] = {}
        """Preset name -> run id -> its run."""
        self.failed: dict[str, dict[str, FailedRecord]] = {}
        """Preset name -> run id -> its launch that gave no sound row."""
        self.scopes: dict[str, ScopeRecord] = {}
        self.presets: dict[str, PresetFacts] = {}
        self.comparisons: dict[str, PairedComparison] = {}
        """Pairs of decode verdicts by `pairs_key`."""
        self.left_out: set[str] = set()
        """Presets that nothing could measure and nobody asked for."""
        self.not_asked: set[str] = set()
        """A line for each preset or scope of which items were left out of the selection."""
        self.strangers: dict[str, str] = {}
        """Node id -> why, of what failed beside the items of the gate."""

    def make_failed(self, nodeid: str, kind: str, name: str, why: str, location: tuple[str, int | None] | None) -> str:
        """The record of an item that failed and left none, or none after which it failed."""
        fresh: dict[str, Any] = {
            "item": nodeid,
            "kind": "sweep" if kind == "preset" else "scope",
            "name": name,
            "notes": [],
        }
        known = self.items.get(nodeid) or {**fresh, "comparisons": [], "location": location}
        return json.dumps({**known, "outcome": "failed", "reason": why, "data": {}})

    def add(self, text: str, *, duration_s: float, outcome: str | None = None, why: str = "") -> None:
        """Take one item's record and write it to the journal before anything else happens.

        `outcome` is that of its final report: it stands if it is worse than that of the record.
        """
        news = _read_news(text)
        record: dict[str, Any] = json.loads(text)
        if outcome is not None and _WORST.index(outcome) < _WORST.index(record["outcome"]):
            record |= {"outcome": outcome, "reason": why}
        record["duration_s"] = round(duration_s, 4)
        files = record.pop("files", {})
        receive_files({name: text for name, text in files.items() if not self._is_superseded(name)}, self.run_dir)
        self._store.use()  # until the artifacts are written nobody else goes on with this run
        # The first record says what the run was asked: nothing else of an unfinished one does.
        asked = {} if self.items else {"settings": self.settings.to_json()}
        append_line(self.run_dir / JOURNAL_NAME, {"version": JOURNAL_VERSION, **record, **asked})
        self._merge(record, news)

    def _is_superseded(self, name: str) -> bool:
        """Whether a file belongs to pairs that another machine launched too: the first to arrive stand."""
        return any(name.startswith(f"{pairs_folder(key)}/") for key in self.comparisons)

    def take(self, record: dict[str, Any], where: str = "") -> None:
        """Take one item's record from a journal; StoreError if it has another shape."""
        self._merge(record, _read_news(record, where))

    def _merge(self, record: dict[str, Any], news: News) -> None:
        for name in ("settings", "data"):
            record.pop(name, None)
        for point in news.points:
            self.points.setdefault(point.preset, {}).setdefault(point.result.run_id, point)
        for failed in news.failed:
            self.failed.setdefault(failed.preset, {}).setdefault(failed.manifest["run_id"], failed)
        self.scopes = {**news.scopes, **self.scopes}
        self.presets = {**news.presets, **self.presets}
        self.comparisons = {**news.comparisons, **self.comparisons}
        self.left_out.update(news.left_out)
        self.not_asked.update(news.not_asked)
        self.items[record["item"]] = record

    def accepted_scope(self, *, decides: bool) -> LosslessResult | None:
        """The result of the scope that decides, or of the first upper bound (entry mode aggregate); no refused one."""
        for _, scope in sorted(self.scopes.items()):
            if (scope.decides if decides else scope.result.entry_mode == "aggregate") and not scope.is_refused:
                return scope.result
        return None

    def results_of(self, preset: str, workload: str | None = None) -> list[Row]:
        """The results of a preset, or of one of its workloads, that arrived, in the order of its points."""
        return [point.result for point in self.points_in_order(preset, workload)]

    def points_in_order(self, preset: str, workload: str | None = None) -> list[PointRecord]:
        """The points of a preset, or of one of its workloads, that arrived, in their order."""
        points = sorted(self.points.get(preset, {}).values(), key=lambda point: point.index)
        return [point for point in points if workload in (None, point.workload)]

    def manifest_entries(self, preset: str) -> list[dict[str, Any]]:
        """Every launched or read run of a preset, sound or not, in the order of its points."""
        from pytest_h2o.bench.sweep import UNKNOWN, manifest_entry

        entries: dict[int, dict[str, Any]] = {}
        for point in self.points.get(preset, {}).values():
            result = point.result
            shared, has_output = result.shares_run_with, result.stdout_path is not None
            entry = manifest_entry(point.manifest, result.returncode, shares_run_with=shared, keeps_output=has_output)
            if result.asked_repeat is not None:
                entry |= {"repeat": result.asked_repeat, FEWER_COLUMN: result.repeat}
            if entry["return_code"] is None:
                entry["return_code"] = UNKNOWN  # null would say that it was never run
            entries[point.index] = entry
        for failed in self.failed.get(preset, {}).values():
            entry = manifest_entry(failed.manifest, failed.return_code, shares_run_with=failed.shares_run_with)
            entries[failed.index] = entry
        return [entries[index] for index in sorted(entries)]

    def sorted_items(self) -> list[dict[str, Any]]:
        """Records in an order that does not depend on which worker was faster."""
        return [self.items[key] for key in sorted(self.items)]


class NewData:
    """What a process has measured or read since its last record; each result is handed over once a process."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, ...]] = set()
        self._news = News()

    def add_point(self, point: Point, fields: Mapping[str, Any], result: Row) -> None:
        """Take the row of a point; `fields` are those of the manifest."""
        if self._is_new(point.preset, point.run_id):
            self._news.points.append(PointRecord(point.preset, point.index, fields, result))

    def add_failed(
        self, point: Point, fields: Mapping[str, Any], return_code: int | None, shares_run_with: str | None
    ) -> None:
        if self._is_new(point.preset, point.run_id):
            self._news.failed.append(FailedRecord(point.preset, point.index, fields, return_code, shares_run_with))

    def add_scope(self, scope: Scope, targets: Targets, result: LosslessResult, *, allow_skips: bool) -> None:
        target = targets.lossless.value
        self._news.scopes[scope.name] = ScopeRecord(scope.decides, target, allow_skips, result, describe_machine())

    def add_preset(self, preset: str, facts: PresetFacts) -> None:
        self._news.presets[preset] = facts

    def add_comparison(self, key: str, comparison: PairedComparison) -> None:
        if self._is_new("decode", key):
            self._news.comparisons[key] = comparison

    def take(self, left_out: Collection[str], not_asked: Sequence[str] = ()) -> dict[str, Any]:
        """Everything new, the presets that were left out, and what was not asked, as JSON; then start again."""
        news, self._news = self._news, News()
        news.left_out, news.not_asked = sorted(left_out), list(not_asked)
        made: dict[str, Any] = plain(news)
        if not not_asked:
            del made["not_asked"]
        return made

    def _is_new(self, *key: str) -> bool:
        is_new = key not in self._seen
        self._seen.add(key)
        return is_new


def build_record(
    collector: Collector, *, started: str, ended: str, overall_pass: bool | str, versions: Mapping[str, str]
) -> RunRecord | None:
    """The record of every preset and scope that was measured as a whole; None where there is none."""
    subjects = [
        *(_preset_record(collector, name) for name in sorted(collector.presets)),
        *(_scope_record(collector, name) for name in sorted(collector.scopes)),
    ]
    whole = tuple(subject for subject in subjects if subject is not None)
    if not whole:
        return None
    if overall_pass is False and all(subject.held for subject in whole):  # something else failed, so no run that held
        whole = tuple(replace(subject, held=False) for subject in whole)
    return RunRecord(
        run=collector.run_dir.name,
        started=started,
        ended=ended,
        overall_pass=overall_pass,
        rule=collector.settings["rule"],
        settings=collector.settings.to_json(),
        versions=dict(versions),
        metrics=metric_facts(),
        subjects=whole,
    )


def _preset_record(collector: Collector, name: str) -> SubjectRecord | None:
    """The figures of a preset; None if a row of it did not arrive."""
    facts, points = collector.presets[name], collector.points_in_order(name)
    if tuple(point.result.run_id for point in points) != facts.run_ids:
        return None
    rows = [(point.manifest, point.result) for point in points]
    figures = preset_figures(rows, codes=facts.coding is not None)
    names = {row.run_id: row_key(manifest, row.asked_repeat or row.repeat) for manifest, row in rows}
    launches = {names[run_id]: ranges for run_id, ranges in launch_ranges(row for _, row in rows).items()}
    held = _held(collector, "preset", name)
    return SubjectRecord("preset", name, held, facts.fingerprint, figures, facts.inexact, launches)


def _scope_record(collector: Collector, name: str) -> SubjectRecord | None:
    """The figures of a scope; None if entries of it could not be read and that was not allowed."""
    scope = collector.scopes[name]
    if scope.is_refused:
        return None
    fingerprint = scope_fingerprint(scope.result, scope.machine)
    return SubjectRecord("scope", name, _held(collector, "scope", name), fingerprint, scope_figures(scope.result))


def _held(collector: Collector, kind: SubjectKind, name: str) -> bool:
    """Whether no item of a preset or scope failed."""
    return not any(
        item["outcome"] == "failed" and item["name"] == name and subject_kind(item) == kind
        for item in collector.items.values()
    )


def keep_record(record: RunRecord | None, collector: Collector, *, finished: bool) -> dict[str, Any]:
    """Write the record into the run folder, add it to the history, and save it as a baseline if that was asked for."""
    kept: dict[str, Any] = {"history": None, "baseline": None, "notes": [], "trouble": None}
    out_dir = collector.run_dir.parent
    try:
        if record is not None:
            write_new_json(collector.run_dir / FIGURES_NAME, record_to_json(record))
        if record is not None and finished:
            if not _is_recorded(collector, out_dir / HISTORY_NAME):
                append_record(out_dir / HISTORY_NAME, record)
            kept["history"] = str(out_dir / HISTORY_NAME)
        if collector.settings["save"] is not None and not collector.settings["dry-run"]:
            _save(record if finished else None, read_request(collector.settings), kept)
    except H2OError as error:
        kept["trouble"] = str(error)
    return kept


def _is_recorded(collector: Collector, history: Path) -> bool:
    """Whether a run that goes on was broken off after its record had been added to the history."""
    if collector.settings["resume"] is None:
        return False
    lines = read_history(history)
    return any(isinstance(line, RunRecord) and line.run == collector.run_dir.name for line in lines)


def _save(record: RunRecord | None, request: ComparisonRequest, kept: dict[str, Any]) -> None:
    name = str(request.save)
    if not request.saves:
        kept["notes"].append(f"baseline {name} was there already and stays as it is (--h2o-overwrite replaces it)")
        return
    if record is None:
        raise NotMeasured(
            f"baseline {name} was not saved: no preset and no scope was measured as a whole",
            hint="run all items of a preset or scope, to the end",
        )
    failed = ", ".join(subject.title for subject in record.subjects if not subject.held)
    if failed and request.compare == name and baseline_path(request.out_dir, name).exists():
        # Replaced now, it would hide from the next run what this one failed for.
        kept["notes"].append(f"baseline {name} stays as it is: {failed} failed in this run")
        return
    save_baseline(request.out_dir, name, record, overwrite=request.overwrite)
    kept["baseline"] = name
    if failed:
        kept["notes"].append(f"baseline {name} holds a run that failed: {failed}")


SUMMARY_VERSION = 1
RUN_VERSION = 1
MAX_OUTPUT_BYTES = 1024 * 1024
"""Of what a bench prints besides its table only the end travels, if it is longer."""

MAX_FILE_BYTES = 64 * MAX_OUTPUT_BYTES


def receive_files(files: Mapping[str, str], run_dir: Path) -> None:
    """Write the files of a record into the run folder; one that is there stays."""
    for name, text in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise StoreError("a worker sent a file that would lie outside the run folder", where=name)
        target = run_dir / path
        if target.exists():
            continue
        unpack = zlib.decompressobj()
        try:
            data = unpack.decompress(base64.b85decode(text), MAX_FILE_BYTES)
        except (ValueError, zlib.error, binascii.Error) as error:
            raise StoreError("a file that a worker sent is damaged", where=name, came=str(error)) from error
        if not unpack.eof:
            raise StoreError("a file that a worker sent is damaged", where=name, came="its end is missing")
        write_new_bytes(target, data)


@dataclass(frozen=True)
class SectionTable:
    """A table of a section: plain text in its cells, the first column naming the rows."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


SectionBlock = str | Sequence[str] | SectionTable
"""A paragraph, a list of paragraphs, or a table. All of it is text: markup in it is shown, and does nothing."""


@dataclass(frozen=True)
class ReportSection:
    """A section that a plugin adds to ``report.html`` and ``summary.md``.

    Attributes
    ----------
    title : str
        Its heading.
    build : callable
        Takes the summary, as ``summary.json`` has it, and gives the blocks; nothing: the section is left out.
    """

    title: str
    build: Callable[[Mapping[str, Any]], Iterable[SectionBlock]]
