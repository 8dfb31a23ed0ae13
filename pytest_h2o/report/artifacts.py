"""The files of a run folder, written by the controller at the end; ``run.json`` last."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pytest_h2o.bench.command import RunFiles
from pytest_h2o.bench.result import PointResult
from pytest_h2o.embedded import digest_program, embedded_base_config, is_embedded
from pytest_h2o.errors import H2OError, StoreError
from pytest_h2o.history.record import RunRecord
from pytest_h2o.report.collector import Collector
from pytest_h2o.report.history_figures import collect_history
from pytest_h2o.report.run_record import build_record, keep_record
from pytest_h2o.report.sections import build_sections
from pytest_h2o.report.summary import build_summary, render_summary_md
from pytest_h2o.store import SHARED, digest_file, write_new_bytes, write_new_json, write_new_text

RUN_VERSION = 1
_PACKAGES = (
    "pytest-h2o",
    "pytest",
    "pytest-xdist",
    "numpy",
    "zstandard",
    "pydantic",
    "PyYAML",
    "filelock",
    "jinja2",
    "matplotlib",
)


def write_artifacts(collector: Collector, *, started: float, ended: float, exit_status: int) -> dict[str, Any]:
    """Write every artifact of the run; give back the summary.

    Raises
    ------
    StoreError
        A file is there already or cannot be written.
    """
    for name in sorted({*collector.points, *collector.failed}):
        _write_preset(collector, name)
    for name, facts in sorted(collector.scopes.items()):
        _write_scope(collector.run_dir, name, facts["result"])
    summary = build_summary(collector, exit_status=exit_status)
    packages = {name: _version(name) for name in _PACKAGES}
    record = build_record(
        collector,
        started=_moment(started),
        ended=_moment(ended),
        overall_pass=summary["overall_pass"],
        versions=packages,
    )
    summary["history"], untold = _history(record, collector)
    summary["recorded"] = keep_record(record, collector, finished=exit_status in (0, 1))
    summary["recorded"]["notes"] += untold
    if summary["recorded"]["trouble"] is not None:
        summary["incomplete_for"].append("the figures of this run could not be kept")
        summary["overall_pass"] = summary["overall_pass"] and "incomplete"
    summary["sections"], troubles = build_sections(collector.sections, summary)
    if troubles:
        summary["incomplete_for"] += troubles
        summary["overall_pass"] = summary["overall_pass"] and "incomplete"
    write_new_text(collector.run_dir / "summary.md", render_summary_md(summary))
    write_new_json(collector.run_dir / "summary.json", summary)
    run = {
        "version": RUN_VERSION,
        "run": collector.run_dir.name,
        "started": _moment(started),
        "ended": _moment(ended),
        "exit_status": exit_status,
        "overall_pass": summary["overall_pass"],
        "settings": collector.settings.to_json(),
        "digests": _digests(collector),
        "machine": {"platform": platform.platform(), "python": sys.version.split()[0], "cpu": platform.machine()},
        "packages": packages,
    }
    if collector.settings["html"] == "yes":
        from pytest_h2o.report.html import PAGE_NAME, render_run

        write_new_text(collector.run_dir / PAGE_NAME, render_run(summary, collector, run))
    write_new_json(collector.run_dir / "run.json", run)
    # Shared between workers, and what the run could go on from; all of it is in the journal.
    shutil.rmtree(collector.run_dir / SHARED, ignore_errors=True)
    return summary


def _history(record: RunRecord | None, collector: Collector) -> tuple[list[dict[str, Any]], list[str]]:
    """The figures of earlier runs beside those of this one, and why they are not shown if they cannot be read."""
    try:
        return collect_history(record, collector.run_dir.parent, collector.settings), []
    except H2OError as error:
        return [], [f"earlier runs are not shown: {error.what} ({error.where})"]


def _moment(seconds: float) -> str:
    """Local time with its offset, ISO 8601."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _write_preset(collector: Collector, name: str) -> None:
    """Manifest and CSV of a preset, and copies of the logs if they were recorded elsewhere."""
    from pytest_h2o.bench.manifest import MANIFEST_NAME, write_manifest
    from pytest_h2o.bench.metrics_csv import write_metrics_csv
    from pytest_h2o.gate.paired import DECODE_FOLDER, PAIRS_NAME

    folder = collector.run_dir / name
    results = collector.results_of(name)
    for result in results:
        _keep_run(result, RunFiles(folder, result.shares_run_with or result.run_id))
    for place, path in enumerate(map(Path, collector.presets.get(name, {}).get("baseline_files", ()))):
        is_config = place > 0 and path.suffix == ".json"  # the log comes first, and may be JSON too
        _keep(path, folder / ("configs" if is_config else "logs") / path.name)
    if name in collector.comparisons:
        write_new_json(folder / DECODE_FOLDER / PAIRS_NAME, collector.comparisons[name])
    write_manifest(folder / MANIFEST_NAME, collector.manifest_entries(name))
    if results:
        write_metrics_csv(folder / "h2o_metrics.csv", [result.row for result in results])


def _keep_run(result: PointResult, files: RunFiles) -> None:
    """Copy the files of a recorded run to where the manifest of this run folder names them."""
    _keep(result.log_path, files.log)
    for source, target in ((result.config_path, files.config), (result.stdout_path, files.stdout)):
        if source is not None:
            _keep(source, target)
    # Beside bare logs a name like this is as likely a config.
    if result.log_path.parent.name == "logs" and result.log_path.with_suffix(".json").is_file():
        _keep(result.log_path.with_suffix(".json"), files.json)


def _keep(source: Path, target: Path) -> None:
    """Copy a recorded file into the run folder, whole or not at all, unless it is there."""
    if target.exists():
        return
    try:
        data = source.read_bytes()
    except OSError as error:
        raise StoreError(
            "cannot copy a recorded file into the run folder", where=str(source), came=error.strerror or str(error)
        ) from error
    write_new_bytes(target, data)


def _write_scope(run_dir: Path, name: str, result: Mapping[str, Any]) -> None:
    from pytest_h2o.lossless import LosslessResult
    from pytest_h2o.lossless.markdown import render_markdown

    write_new_json(run_dir / f"offline_lossless_{name}.json", result)
    write_new_text(run_dir / f"offline_lossless_{name}.md", render_markdown(LosslessResult.from_json(result, name)))


def _digests(collector: Collector) -> dict[str, str]:
    """SHA-256 of what the run was made of: bench, base config, presets."""
    bench, base = collector.settings["bench"], collector.settings["base-config"]
    paths = [path for path in (base, embedded_base_config() if is_embedded(bench) else None) if path is not None]
    paths += [Path(facts["path"]) for facts in collector.presets.values() if facts["path"]]
    programs = {} if bench is None else {str(bench): digest_program(bench)}
    return {**programs, **{str(path): digest_file(path) for path in paths}}
