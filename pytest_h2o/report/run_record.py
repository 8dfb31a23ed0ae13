"""The record of a finished run, and where it is kept: ``figures.json``, the history, a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_h2o.bench.result import PointResult
from pytest_h2o.errors import H2OError, NotMeasured
from pytest_h2o.gate.comparison_request import ComparisonRequest, read_request
from pytest_h2o.gate.figure_metrics import metric_facts
from pytest_h2o.gate.run_figures import preset_figures, scope_figures, scope_fingerprint
from pytest_h2o.history.baselines import baseline_path, save_baseline
from pytest_h2o.history.lines import HISTORY_NAME, append_record, read_history
from pytest_h2o.history.record import RunRecord, SubjectKind, SubjectRecord, record_to_json
from pytest_h2o.history.resolve import FIGURES_NAME
from pytest_h2o.report.collector import Collector, is_refused, subject_kind
from pytest_h2o.store import write_new_json


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
    facts = collector.presets[name]
    points = collector.points_in_order(name)
    if [point["result"]["run_id"] for point in points] != facts["run_ids"]:
        return None
    rows = [(point["manifest"], PointResult.from_json(point["result"])) for point in points]
    held = _held(collector, "preset", name)
    return SubjectRecord("preset", name, held, facts["fingerprint"], preset_figures(rows))


def _scope_record(collector: Collector, name: str) -> SubjectRecord | None:
    """The figures of a scope; None if entries of it could not be read and that was not allowed."""
    from pytest_h2o.lossless import LosslessResult

    facts = collector.scopes[name]
    if is_refused(facts):
        return None
    result = LosslessResult.from_json(facts["result"], name)
    held = _held(collector, "scope", name)
    return SubjectRecord("scope", name, held, scope_fingerprint(result, facts["machine"]), scope_figures(result))


def _held(collector: Collector, kind: SubjectKind, name: str) -> bool:
    """Whether no item of a preset or scope failed."""
    return not any(
        item["outcome"] == "failed" and item["name"] == name and subject_kind(item) == kind
        for item in collector.items.values()
    )


def keep_record(record: RunRecord | None, collector: Collector, *, finished: bool) -> dict[str, Any]:
    """Write the record into the run folder, add it to the history, and save it as a baseline if that was asked for.

    Parameters
    ----------
    record : RunRecord or None
        None where nothing was measured as a whole.
    finished : bool
        The session came to its end: the record of one that was interrupted stays in its run folder.

    Returns
    -------
    dict
        `history` (file, or None), `baseline` (name, or None), `notes` (why something was not kept) and `trouble`
        (what could not be written, or None).
    """
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
