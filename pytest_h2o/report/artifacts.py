"""The files of a run folder: written by the controller at the end, ``run.json`` last; read again; their schemas."""

from __future__ import annotations

import contextlib
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import TypeAdapter

from pytest_h2o.bench.command import (
    RunFiles,
    again_folder,
    digest_program,
    embedded_base_config,
    is_embedded,
    model_files,
    program_files,
    read_base_config,
)
from pytest_h2o.bench.rows import Row
from pytest_h2o.errors import H2OError, StoreError, UsageError
from pytest_h2o.files import (
    digest_file,
    load,
    plain,
    read_regular,
    synced_together,
    write_new_bytes,
    write_new_json,
    write_new_text,
)
from pytest_h2o.gate.metrics import METRICS, TARGET_OPTIONS
from pytest_h2o.inputs.options import Given, Settings
from pytest_h2o.lossless.result import render_markdown
from pytest_h2o.report.build import build_sections, build_summary
from pytest_h2o.report.changes import collect_history, render_summary_md
from pytest_h2o.report.summary import HistoryFigure, Reason, Recorded, Summary
from pytest_h2o.run.history import RunRecord
from pytest_h2o.run.journal import (
    JOURNAL_VERSION,
    RUN_VERSION,
    SUMMARY_VERSION,
    Collector,
    PresetFacts,
    build_record,
    keep_record,
)
from pytest_h2o.run.store import JOURNAL_NAME, SHARED

_PACKAGES = (
    *("pytest-h2o", "pytest", "pytest-xdist", "numpy", "zstandard"),
    *("pydantic", "PyYAML", "filelock", "jinja2"),
)


def write_artifacts(collector: Collector, *, started: float, ended: float, exit_status: int) -> Summary:
    """Write every artifact of the run; give back the summary."""
    with synced_together():
        summary, run = _write_all_but_the_last(collector, started, ended, exit_status)
    write_new_json(collector.run_dir / "run.json", run)
    # Shared between workers, and what the run could go on from; all of it is in the journal.
    shutil.rmtree(collector.run_dir / SHARED, ignore_errors=True)
    return summary


def _write_all_but_the_last(
    collector: Collector, started: float, ended: float, exit_status: int
) -> tuple[Summary, dict[str, Any]]:
    """Write what a run leaves besides ``run.json``; give back the summary, and what is to stand in that."""
    names = sorted({*collector.points, *collector.failed})
    uncopied = [Reason(name, why) for name in names for why in _write_preset(collector, name)]
    for name, facts in sorted(collector.scopes.items()):
        write_new_json(collector.run_dir / f"offline_lossless_{name}.json", facts.result.to_json())
        write_new_text(collector.run_dir / f"offline_lossless_{name}.md", render_markdown(facts.result))
    summary = build_summary(collector, exit_status=exit_status)
    if uncopied:
        summary = replace(summary, failed=[*summary.failed, *uncopied], overall_pass=False)
    packages = {name: _version(name) for name in _PACKAGES}
    times = {"started": _moment(started), "ended": _moment(ended)}
    record = build_record(collector, **times, overall_pass=summary.overall_pass, versions=packages)
    history, untold = _history(record, collector)
    told = keep_record(record, collector, finished=exit_status in (0, 1))
    kept = Recorded(**{**told, "notes": [*told["notes"], *untold]})
    lost = ["the figures of this run could not be kept"] if kept.trouble is not None else []
    summary = _incomplete_for(replace(summary, history=history, recorded=kept), lost)
    sections, troubles = build_sections(collector.sections, summary)
    summary = _incomplete_for(replace(summary, sections=sections), troubles)
    write_new_text(collector.run_dir / "summary.md", render_summary_md(summary))
    write_new_json(collector.run_dir / "summary.json", summary.to_json())
    run = {
        "version": RUN_VERSION,
        "run": collector.run_dir.name,
        **times,
        "exit_status": exit_status,
        "overall_pass": summary.overall_pass,
        "settings": collector.settings.to_json(),
        "digests": _digests(collector),
        "machine": {"platform": platform.platform(), "python": sys.version.split()[0], "cpu": platform.machine()},
        "packages": packages,
    }
    if collector.settings["html"] == "yes":
        from pytest_h2o.report.page import PAGE_NAME, render_run

        write_new_text(collector.run_dir / PAGE_NAME, render_run(summary, collector, run))
    return summary, run


def _incomplete_for(summary: Summary, reasons: list[str]) -> Summary:
    if not reasons:
        return summary
    overall = summary.overall_pass and "incomplete"
    return replace(summary, incomplete_for=[*summary.incomplete_for, *reasons], overall_pass=overall)


def _history(record: RunRecord | None, collector: Collector) -> tuple[list[HistoryFigure], list[str]]:
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


def _write_preset(collector: Collector, name: str) -> list[str]:
    """Manifest and CSV of a preset, and copies of its files that are elsewhere; a line for each that cannot be read."""
    from pytest_h2o.bench.rows import render_metrics_csv
    from pytest_h2o.bench.sweep import MANIFEST_NAME
    from pytest_h2o.gate.decode import PAIRS_NAME, pairs_folder

    folder = collector.run_dir / name
    results, facts = collector.results_of(name), collector.presets.get(name, PresetFacts())
    copies: list[tuple[Path, Path]] = []
    for result in results:
        files = RunFiles(folder, result.shares_run_with or result.run_id)
        copies += _files_of_run(result, files)
        for number in range(2, 2 + len(result.again)):
            source = result.log_path.parents[result.log_path.parent.name == "logs"] / again_folder(number)
            for path in sorted(source.glob(f"*/{files.run_id}.*")):
                copies.append((path, folder / again_folder(number) / path.parent.name / path.name))
    for place, path in enumerate(map(Path, facts.baseline_files)):
        is_config = place > 0 and path.suffix == ".json"  # the log comes first, and may be JSON too
        copies.append((path, folder / ("configs" if is_config else "logs") / path.name))
    uncopied = _keep(dict.fromkeys(copies))
    for key, comparison in collector.comparisons.items():
        if key.partition("/")[0] == name:
            write_new_json(collector.run_dir / pairs_folder(key) / PAIRS_NAME, plain(comparison))
    write_new_json(folder / MANIFEST_NAME, collector.manifest_entries(name))
    if results:
        write_new_text(folder / "h2o_metrics.csv", render_metrics_csv(results))
    return uncopied


def _files_of_run(result: Row, files: RunFiles) -> Iterator[tuple[Path, Path]]:
    """The files of a recorded run, each with where the manifest of this run folder names it."""
    yield result.log_path, files.log
    for source, target in ((result.config_path, files.config), (result.stdout_path, files.stdout)):
        if source is not None:
            yield source, target
    # Beside bare logs a name like this is as likely a config.
    if result.log_path.parent.name == "logs" and result.log_path.with_suffix(".json").is_file():
        yield result.log_path.with_suffix(".json"), files.json


_MAX_BYTES = 1 << 30
"""Of a recorded output or a journal: more than any run writes, and less than memory has."""


def _keep(copies: Iterable[tuple[Path, Path]]) -> list[str]:
    """Copy files, each whole or not at all, unless it is there; a line for each that cannot be read."""
    unread = []
    for source, target in copies:
        if target.exists():
            continue
        try:
            data = read_regular(source, _MAX_BYTES)
        except OSError as error:
            unread.append(f"a recorded file cannot be copied into the run folder: {source}: {error.strerror or error}")
            continue
        write_new_bytes(target, data)
    return unread


def _digests(collector: Collector) -> dict[str, str]:
    """SHA-256 of what the run was made of: bench, libraries, base config, model, presets."""
    bench, base = collector.settings["bench"], collector.settings["base-config"]
    paths = [path for path in (base, embedded_base_config() if is_embedded(bench) else None) if path is not None]
    for config in tuple(paths):
        with contextlib.suppress(UsageError):  # of a config that cannot be read: the items said so
            paths += model_files(read_base_config(config)).values()
    paths += [Path(facts.path) for facts in collector.presets.values() if facts.path]
    is_here = bench is not None and bench.is_file()  # one on another machine is told by the fingerprints
    programs = {str(bench): digest_program(bench)} if is_here else {}
    if is_here and not is_embedded(bench):
        paths += program_files(bench)[1:]
    return {**programs, **{str(path): digest_file(path) for path in paths}}


T = TypeVar("T")


class RunRecords(NamedTuple):
    """What a run folder has; of an unfinished run its journal says all of it."""

    summary: Summary
    collector: Collector
    run: Mapping[str, Any]
    """That of ``run.json``; of an unfinished run its name and settings."""
    is_finished: bool
    torn: str | None = None
    """What was left out of the journal of an unfinished run."""


def read_run(run_dir: Path) -> RunRecords:
    """Read a run folder, finished or not."""
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
    if is_finished:
        run = _read_object(run_dir / "run.json", RUN_VERSION)
    else:
        run = {"run": run_dir.name, "settings": records[0][1].get("settings", {})}
    collector = Collector(run_dir, guard(run_dir, lambda: _read_settings(run.get("settings", {}))))
    for where, record in records:
        guard(where, partial(collector.take, record, where))
    if is_finished:
        path = run_dir / "summary.json"
        summary = load(Summary, _read_object(path, SUMMARY_VERSION), "the summary of a run", where=str(path))
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


_FILE, _HINT = "a file of a run", "take the run folder as it was written; what is damaged cannot be reported"


def _read_object(source: Path | bytes, version: int, where: str = "") -> dict[str, Any]:
    """A JSON object of a version."""
    value = load(dict[str, Any], source, _FILE, where=where, hint=_HINT)
    if value.get("version") != version:
        raise _damaged(
            where or str(source),
            f"version {value.get('version', 'missing')!r}",
            f"a JSON object with version {version}",
        )
    return value


def _read_journal(path: Path, *, may_be_torn: bool) -> tuple[list[tuple[str, dict[str, Any]]], str | None]:
    """Every line of a journal with where it stands, and what was left out of it."""
    try:
        *lines, rest = read_regular(path, _MAX_BYTES).split(b"\n")
    except OSError as error:
        raise _damaged(str(path), error.strerror or str(error)) from error
    if rest and not may_be_torn:
        raise _damaged(f"{path}:{len(lines) + 1}", "a torn last line", "a whole line")
    if not lines:
        raise _damaged(str(path), "an empty journal", "a line for each item that ended")
    places = [f"{path}:{number}" for number in range(1, len(lines) + 1)]
    records = [(where, _read_object(line, JOURNAL_VERSION, where)) for where, line in zip(places, lines, strict=True)]
    return records, f"line {len(lines) + 1} of the journal is torn, and left out" if rest else None


def _damaged(where: str, came: str, expected: str | None = None) -> StoreError:
    return StoreError(f"{_FILE} cannot be read", where=where, came=came, expected=expected, hint=_HINT)


# -- schemas: what every number means ----------------------------------------------------------------------------------


SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class NumberField(NamedTuple):
    """A number of an artifact."""

    path: str
    unit: str
    origin: str
    whole: bool = False


def _fields(text: str) -> tuple[NumberField, ...]:
    rows = (line.split(" | ") for line in text.strip().splitlines())
    return tuple(NumberField(path, unit.rstrip("#"), origin, unit.endswith("#")) for path, unit, origin in rows)


_CHANGES = "\n".join(
    f"comparison.{changes}[].then | unit of the metric, in figures.json | "
    "the earlier run in `run`; of timings with rolling:N a median\n"
    f"comparison.{changes}[].now | unit of the metric, in figures.json | row in `row`\n"
    f"comparison.{changes}[].percent | percent of `then` | then and now\n"
    f"comparison.{changes}[].allowed_percent | percent of `then` | --h2o-compare-fail, or the spread of rolling:N"
    for changes in ("changes", "headlines")
)

_TARGETS = "\n".join(
    f"data.presets.<preset>.targets.{metric.key} | {metric.target_unit} | "
    f"option, {'scope, ' * (metric.of == 'scope')}preset, ini key or default"
    for metric in (METRICS[name] for name in TARGET_OPTIONS if METRICS[name].joint)
)

_PAIR_SIDES = "\n".join(
    f"data.comparisons.<preset>.pairs[].{side}.decode_tok_per_s | tok/s | decode/logs of its run id\n"
    f"data.comparisons.<preset>.pairs[].{side}.elapsed_s | s | its launch"
    for side in ("baseline", "candidate")
)

JOURNAL_NUMBERS = _fields(
    f"""
version | number of the format# | this version of pytest-h2o
settings.<option>.value | as the option says | `origin` beside it
location[] | line of the file in the same list, from 0# | pytest
duration_s | s | pytest
comparisons[].value | as `unit` says | row, run or scope in `source`
comparisons[].std | as `unit` says | over the repeats of that run, as the bench printed it
comparisons[].target | as `unit` says | `target_origin`
comparisons[].margin | as `unit` says | value and target
comparisons[].interval.low | as `unit` says | data.comparisons, as `basis` says
comparisons[].interval.high | as `unit` says | data.comparisons, as `basis` says
comparison.counts.<state> | figures# | this run against the earlier one
{_CHANGES}
data.points[].index | place in the sweep, from 1# | the preset
data.points[].manifest.<field> | that of the preset key: tokens, ratio or number | the preset
data.points[].result.repeat | repeats# | the preset
data.points[].result.output.warnings.<kind> | lines# | stdout_path
data.points[].result.output.max_kv_len | tokens# | stdout_path
data.points[].result.output.floor_dominates | lines# | stdout_path
data.points[].result.output.coded_tokens.<tokens> | blocks# | stdout_path
data.points[].result.output.decoded_tokens | tokens# | stdout_path
data.points[].result.output.logged_kv | tokens# | stdout_path
data.points[].result.returncode | exit status# | its launch
data.points[].result.elapsed_s | s | its launch
data.failed[].index | place in the sweep, from 1# | the preset
data.failed[].manifest.<field> | that of the preset key: tokens, ratio or number | the preset
data.failed[].return_code | exit status# | its launch
data.scopes.<scope>.target | ratio | the scope, or --h2o-lossless-target
data.scopes.<scope>.result.<field> | docs/artifacts.md, offline_lossless_<scope>.json | the dump and the scope
data.presets.<preset>.model_layers | layers# | base config, preset or --h2o-set
data.presets.<preset>.h2o_layer_start | number of a layer# | the preset
data.presets.<preset>.h2o_layer_end | number of a layer# | the preset
{_TARGETS}
data.presets.<preset>.baseline_tok_per_s | tok/s | `baseline_origin`
data.presets.<preset>.baselines.<workload> | tok/s | rows or option, as for `baseline_tok_per_s`
data.comparisons.<preset>.version | number of the format# | this version of pytest-h2o
data.comparisons.<preset>.seed | none# | drawn before the first pair
data.comparisons.<preset>.planned_pairs | pairs# | --h2o-decode-budget or the preset
data.comparisons.<preset>.elapsed_s | s | its launches
{_PAIR_SIDES}
"""
)


def make_schema(artifact: str) -> dict[str, Any]:
    """The JSON schema of ``summary`` (the file) or ``journal`` (one line of it), every number with `unit` and `from`.

    It is open: other fields may be there, as a later version adds some.
    """
    if artifact == "summary":
        return {"$schema": SCHEMA_DIALECT, **TypeAdapter(Summary).json_schema()}
    required = ["version", "item", "kind", "name", "outcome", "comparisons", "duration_s"]
    root: dict[str, Any] = {"$schema": SCHEMA_DIALECT, "type": "object", "required": required}
    for field in JOURNAL_NUMBERS:
        node = root
        for step in _steps(field.path):
            node = _child(node, step)
        node.update({"unit": field.unit, "from": field.origin})
        if "<" not in field.path.rpartition(".")[2] and not field.path.startswith("settings."):
            # What is not finite stands as text; and a place is a file and a line.
            text = [] if field.whole and not field.path.endswith("location[]") else ["string"]
            node["type"] = ["integer" if field.whole else "number", *text, "null"]
    root["properties"]["version"]["const"] = 1
    return root


def _steps(path: str) -> Iterator[str]:
    for part in path.split("."):
        yield part.removesuffix("[]")
        if part.endswith("[]"):
            yield "[]"


def _child(node: dict[str, Any], step: str) -> dict[str, Any]:
    if step == "[]":
        node["type"] = ["array", "null"]
        child = node.setdefault("items", {})
    elif step.startswith("<"):
        node["type"] = ["object", "null"]
        child = node.setdefault("additionalProperties", {})
    else:
        node.setdefault("type", ["object", "null"])
        child = node.setdefault("properties", {}).setdefault(step, {})
    found: dict[str, Any] = child
    return found
