"""Logs that were recorded before, read as results. Nothing is run."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_h2o.bench.adapter import BenchAdapter
from pytest_h2o.bench.config import point_keys
from pytest_h2o.bench.llm_bench import check_baseline_row, check_row, get_adapter, is_idle, name_bench_of, only_row
from pytest_h2o.bench.manifest import MANIFEST_NAME, ManifestEntry, read_manifest
from pytest_h2o.bench.output import OutputSummary, count_warnings
from pytest_h2o.bench.process import read_tail, signal_name
from pytest_h2o.bench.rows import Row, read_rows, read_table, read_text
from pytest_h2o.bench.sweep import INERT_FIELDS, fold_key
from pytest_h2o.errors import BenchError, H2OError, StoreError, TableError, make_printable
from pytest_h2o.inputs.presets import Point

_KEY_OF_FIELD: Mapping[str, str] = {
    "keep_ratio": "kv_h2o_target_keep_ratio",
    "h2o_layer_start": "kv_h2o_layer_start",
    "h2o_layer_end": "kv_h2o_layer_end",
    "h2o_target_mode": "kv_h2o_target_mode",
    "h2o_target_lossy_ratio": "kv_h2o_target_lossy_ratio",
    **{
        name: f"kv_h2o_{name}"
        for name in (
            "block_tokens",
            "sink_tokens",
            "recent_tokens",
            "ema_alpha",
            "update_interval",
            "trigger_min_tokens",
        )
    },
}
"""Field of a manifest -> the config key that says the same; lossless keys have one name in both."""

_IN_THE_ROW = ("run_id", "prompt_len", "gen_len")
"""Fields that the row or its name itself shows."""


def read_recorded_config(path: Path | None) -> Mapping[str, Any] | None:
    """Read the config of a recorded run; None if there is none that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path is not None else None
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def config_differences(config: Mapping[str, Any], point: Point, *, shared: bool) -> list[str]:
    """Name the keys in which a config is another configuration than a point; keys it lacks are none."""
    passed_over = _KEY_OF_FIELD.get(INERT_FIELDS.get(point.h2o_target_mode, "")) if shared else None
    return [
        f"{key} {config[key]!r}, not {value!r}"
        for key, value in point_keys(point).items()
        if key in config and key != passed_over and config[key] != value
    ]


def unverified_note(config: Mapping[str, Any] | None, listed: Collection[str], point: Point) -> str | None:
    """Say which settings of a point neither the config nor the manifest entry of its run has; None if all are there."""
    missing = [
        name
        for name in point.manifest_fields()
        if name not in _IN_THE_ROW and name not in listed and _KEY_OF_FIELD.get(name, name) not in (config or {})
    ]
    if not missing:
        return None
    return f"configuration not verified: {_describe_files(config, listed)} {_join(missing)}"


def _describe_files(config: Mapping[str, Any] | None, listed: Collection[str]) -> str:
    if config is None:
        return "no config that can be read, and the manifest does not say" if listed else "neither config nor manifest:"
    return "neither its config nor its manifest entry says" if listed else "no manifest, and its config does not say"


def _join(names: Sequence[str], most: int = 4) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class RecordedRun:
    """Where one run's files are, and what is known of it.

    Attributes
    ----------
    run_id : str
        The point, or the name of a log.
    log : Path
        Its log; what it printed stands beside it as ``<name>.stdout.txt``.
    log_file : str
        The log as its row names it.
    config : Path or None
        Its config; may be missing.
    point : Point or None
        What it should have run, where that is known.
    return_code : int or None
        None if it is not known.
    shares_run_with : str or None
        Run id of the run whose row it shares.
    listed : collection of str
        Fields of its manifest entry, which agree with the point; empty without a manifest.
    """

    run_id: str
    log: Path
    log_file: str
    config: Path | None = None
    point: Point | None = None
    return_code: int | None = None
    shares_run_with: str | None = None
    listed: Collection[str] = ()

    @property
    def stdout(self) -> Path:
        """What it printed; may be missing."""
        return self.log.with_name(f"{self.log.stem}.stdout.txt")

    @property
    def json(self) -> Path | None:
        """Its results as JSON; beside bare logs such a name is as likely a config, and is not read."""
        return self.log.with_suffix(".json") if self.log.parent.name == "logs" else None


def read_recorded_run(run: RecordedRun) -> Row:
    """Read the row of a run with H2O on."""
    _check_recorded(run)
    note = None if run.point is None else _check_configuration(run, run.point)
    result = _read(run)
    check_row(result, run.point)
    return result if note is None else replace(result, notes=(*result.notes, note))


def read_recorded_baseline(run: RecordedRun) -> Row:
    """Read the row of a run with H2O off; errors as in `read_recorded_run`."""
    _check_recorded(run)
    result = _read(run)
    check_baseline_row(result, run.point)
    return result


def read_h2o_switch(config: Path | None) -> bool | None:
    """Read whether a config switches H2O on; None if there is no config that says so."""
    switch = (read_recorded_config(config) or {}).get("kv_h2o_enable")
    return switch if isinstance(switch, bool) else None


def other_configuration(run_id: str, where: Path, differences: Sequence[str]) -> BenchError:
    """The error of a recorded run that is another configuration than its point."""
    return BenchError(
        f"{run_id} was recorded with another configuration",
        where=str(where),
        came="; ".join(differences),
        expected="the configuration of the preset's point with this run id",
        hint="use the preset that the recording was made with, or record it again",
    )


def _check_configuration(run: RecordedRun, point: Point) -> str | None:
    """Compare the config with the point; say what is there to verify the rest, or rather what is not."""
    config = read_recorded_config(run.config)
    differences = config_differences(config or {}, point, shared=run.shares_run_with is not None)
    if differences and run.config is not None:
        raise other_configuration(run.run_id, run.config, differences)
    return unverified_note(config, run.listed, point)


def _check_recorded(run: RecordedRun) -> None:
    """Check what was noted when the run was made."""
    if run.return_code not in (None, 0):
        output = _read_output(run)
        name = signal_name(run.return_code or 0)
        end = f"was ended by {name}" if name else f"ended with exit code {run.return_code}"
        raise BenchError(
            f"the recorded run {end}",
            returncode=run.return_code,
            signal_name=name,
            output_tail=read_tail(run.stdout),
            where=run.log_file,
            came=(output.reason if output else None) or "no reason was recorded",
            expected="return code 0 in the manifest",
            hint="run this point again",
        )
    if not run.log.is_file():
        raise BenchError(
            "the log of this run is missing",
            where=str(run.log),
            expected="the table that the bench wrote (-fp)",
            hint="copy the whole folder of the sweep, or run this point again",
        )


def _read(run: RecordedRun) -> Row:
    repeat = None if run.point is None else run.point.repeat
    rows = read_rows(run.log, run.json, log_file=run.log_file, repeat=repeat)
    return replace(
        only_row(rows, run.log_file),
        run_id=run.run_id,
        log_path=run.log,
        config_path=run.config if run.config is not None and run.config.is_file() else None,
        stdout_path=run.stdout if run.stdout.is_file() else None,
        output=_read_output(run),
        returncode=run.return_code,
        shares_run_with=run.shares_run_with,
    )


def _read_output(run: RecordedRun) -> OutputSummary | None:
    """What the run printed, if that was kept and can be read."""
    if not run.stdout.is_file():
        return None
    try:
        return count_warnings(run.stdout)
    except OSError as error:
        raise BenchError(
            "the recorded output of a run cannot be read", where=str(run.stdout), came=error.strerror or str(error)
        ) from error


_NO_SETTING = frozenset({"run_id", "config", "log", "return_code", "shares_run_with"})


def find_sharing_faults(
    entries: Sequence[ManifestEntry], points: Mapping[str, Point] | None, folder: Path
) -> dict[str, H2OError]:
    """Find the runs whose log is also that of another run without a right to it."""
    by_id = {entry.run_id: entry for entry in entries}
    logs = {entry.run_id: (folder / entry.log_file).resolve() for entry in entries}
    owners: dict[Path, list[str]] = {}
    for entry in entries:
        if entry.shares_run_with is None:
            owners.setdefault(logs[entry.run_id], []).append(entry.run_id)
    faults: dict[str, H2OError] = {}
    for entry in entries:
        came = None
        if entry.shares_run_with is not None:
            leader = by_id.get(entry.shares_run_with)
            came = _why_not_shared(
                entry, leader, points, same_log=logs.get(entry.shares_run_with) == logs[entry.run_id]
            )
        elif len(owners[logs[entry.run_id]]) > 1:
            others = [run_id for run_id in owners[logs[entry.run_id]] if run_id != entry.run_id]
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            came = f"{entry.log_file}, which is also the log of {others[0]}{more}"
        if came is not None:
            faults[entry.run_id] = _no_own_log(entry.run_id, folder, came)
    return faults


def _why_not_shared(
    entry: ManifestEntry, leader: ManifestEntry | None, points: Mapping[str, Point] | None, *, same_log: bool
) -> str | None:
    """Why a run cannot share that of another; None if it can."""
    named = f"shares_run_with {entry.shares_run_with}"
    if leader is None:
        return f"{named}, which the manifest does not list"
    if leader.shares_run_with is not None:
        return f"{named}, which has no run of its own"
    if not same_log:
        return f"{named}, and another log than that run has: {entry.log_file}"
    point, other = ((points or {}).get(run_id) for run_id in (entry.run_id, leader.run_id))
    alike = (
        fold_key(point) == fold_key(other)
        if point is not None and other is not None
        else _setting(entry) == _setting(leader)
    )
    return None if alike else f"{named}, which is another configuration for the engine"


def _setting(entry: ManifestEntry) -> dict[str, object]:
    """What an entry says of its configuration, less what its target mode does not read."""
    inert = INERT_FIELDS.get(str(entry.values.get("h2o_target_mode")))
    return {name: value for name, value in entry.values.items() if name not in _NO_SETTING and name != inert}


def _no_own_log(run_id: str, folder: Path, came: str) -> BenchError:
    return BenchError(
        f"{run_id} has no log of its own",
        where=str(folder / MANIFEST_NAME),
        came=came,
        expected="a log a run, or shares_run_with the run of a point that the engine cannot tell from this one",
        hint="copy the whole folder of the sweep, or record the points again",
    )


_RUN_ID = re.compile(r"run_\d{4,}_p\d+_g\d+_k\d+(?:\.\d+)?_b\d+_lr\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Recording:
    """What a folder of recorded logs gave.

    Attributes
    ----------
    folder : Path
        The folder.
    results : mapping
        Run id -> its sound row.
    failures : mapping
        Run id -> why that point has no sound row: a missing log, a failed run, a damaged table.
    baselines : tuple of Row
        Rows with H2O off, under the names of their logs.
    unused : mapping
        Log -> why it is neither a point nor a baseline. To be shown where something is missing.
    """

    folder: Path
    results: Mapping[str, Row]
    failures: Mapping[str, H2OError]
    baselines: tuple[Row, ...]
    unused: Mapping[str, str]

    def get(self, run_id: str) -> Row:
        """Return the row of a point, or raise why there is none."""
        if run_id in self.results:
            return self.results[run_id]
        raise self.failures.get(run_id) or _not_recorded(run_id, self.folder)


def recording_folder(folder: Path, preset: str) -> Path:
    """Return the folder of a preset in a run folder; the folder itself if it has none for the preset.

    A folder of its name is its recording, even where files of it are gone: then its runs fail, and are not left out.
    """
    inner = folder / preset
    # A sweep's own folder has configs/ and logs/: those are no presets.
    is_name = preset not in ("", ".", "..", "configs", "logs") and Path(preset).name == preset
    return inner if is_name and inner.is_dir() else folder


def read_recording(folder: Path, points: Sequence[Point] | None = None) -> Recording:
    """Read a folder of recorded logs.

    With a ``manifest.json`` the runs are those that it lists, each with its return code. Without one the logs in the
    folder and in its ``logs/`` are matched by the run id in their names. Other logs are baselines if their config, or
    where there is none their row, says that H2O was off.
    """
    if not folder.is_dir():
        raise StoreError(
            "there is no folder of recorded logs", where=str(folder), expected="a folder with manifest.json or *.log"
        )
    reader = _Reader(folder, points)
    if (folder / MANIFEST_NAME).exists():
        reader.read_listed(read_manifest(folder / MANIFEST_NAME))
    else:
        reader.read_named()
    reader.read_others()
    return Recording(folder, reader.results, reader.failures, tuple(reader.baselines), reader.unused)


class _Reader:
    """Reads the runs of one folder; each run fails for itself."""

    def __init__(self, folder: Path, points: Sequence[Point] | None) -> None:
        self.folder = folder
        self.points = None if points is None else {point.run_id: point for point in points}
        self.results: dict[str, Row] = {}
        self.failures: dict[str, H2OError] = {}
        self.baselines: list[Row] = []
        self.unused: dict[str, str] = {}
        self._sharing_faults: Mapping[str, H2OError] = {}
        self.logs = sorted(path for where in (folder, folder / "logs") for path in where.glob("*.log"))

    def read_listed(self, entries: Sequence[ManifestEntry]) -> None:
        """Runs of a manifest."""
        listed = {entry.run_id for entry in entries}
        self._sharing_faults = find_sharing_faults(entries, self.points, self.folder)
        for run_id in self.points or ():
            if run_id not in listed:
                self.failures[run_id] = _not_recorded(run_id, self.folder)
        for entry in entries:
            log = self.folder / entry.log_file
            self.logs = [path for path in self.logs if path != log]
            if self.points is None or entry.run_id in self.points:
                self._try_listed(entry)

    def read_named(self) -> None:
        """Logs without a manifest, by the run id in their names."""
        logs_of_id: dict[str, list[Path]] = {}
        for log in self.logs:
            match = _RUN_ID.search(log.stem)
            if match is not None and not re.match(r"[\w.]", log.stem[match.end() :]):
                logs_of_id.setdefault(match[0], []).append(log)
        self.logs = [log for log in self.logs if all(log not in logs for logs in logs_of_id.values())]
        wanted = sorted(logs_of_id) if self.points is None else list(self.points)
        strangers = [log for run_id, logs in logs_of_id.items() if run_id not in wanted for log in logs]
        self.unused.update({self._name(log): "its run id is none of the preset's" for log in strangers})
        for run_id in wanted:
            logs = logs_of_id.get(run_id, [])
            if len(logs) == 1:
                point = None if self.points is None else self.points[run_id]
                config = self._named_config(run_id, logs[0])
                self._try(RecordedRun(run_id, logs[0], self._name(logs[0]), config, point))
            elif logs:
                self.failures[run_id] = _ambiguous(run_id, [self._name(log) for log in logs])
            else:
                self.failures[run_id] = _not_recorded(run_id, self.folder)

    def _named_config(self, run_id: str, log: Path) -> Path:
        """The config of a log without a manifest: in ``configs/``, else beside a bare log."""
        config = self.folder / "configs" / f"{run_id}.json"
        return config if config.exists() or log.parent.name == "logs" else log.with_suffix(".json")

    def read_others(self) -> None:
        """Logs that are no point's: baselines, or not used."""
        for log in self.logs:
            run = RecordedRun(log.stem, log, self._name(log), self.folder / "configs" / f"{log.stem}.json")
            try:
                why_not = self._why_no_baseline(run)
                if why_not is None:
                    self.baselines.append(read_recorded_baseline(run))
            except H2OError as error:
                why_not = "; ".join(part for part in (error.what, error.came) if part)
            if why_not is not None:
                self.unused[run.log_file] = why_not

    def _why_no_baseline(self, run: RecordedRun) -> str | None:
        switch = read_h2o_switch(run.config)
        if switch is True:
            return "H2O was on in its config, and it is no run of the sweep"
        if switch is None and not is_idle(only_row(read_table(run.log, log_file=run.log_file), run.log_file)):
            return "H2O was on in its row, and it is no run of the sweep"
        return None

    def _try_listed(self, entry: ManifestEntry) -> None:
        point = None if self.points is None else self.points[entry.run_id]
        differences = [] if point is None else entry.differences(point)
        if differences:
            self.failures[entry.run_id] = other_configuration(entry.run_id, self.folder / MANIFEST_NAME, differences)
        elif fault := self._sharing_faults.get(entry.run_id):
            self.failures[entry.run_id] = fault
        elif entry.return_code is None and "return_code" in entry.values:
            self.failures[entry.run_id] = _never_run(entry.run_id, self.folder)
        elif outside := self._outside(entry):
            self.failures[entry.run_id] = _leads_out(entry.run_id, outside, self.folder)
        else:
            config = None if entry.config_file is None else self.folder / entry.config_file
            log = self.folder / entry.log_file
            shared = entry.shares_run_with
            run = RecordedRun(entry.run_id, log, entry.log_file, config, point, entry.return_code, shared, entry.values)
            self._try(run)

    def _try(self, run: RecordedRun) -> None:
        try:
            if read_h2o_switch(run.config) is False:
                self.baselines.append(read_recorded_baseline(run))
                if run.point is not None:
                    self.failures[run.run_id] = _not_recorded(run.run_id, self.folder, "H2O was off in its config")
            else:
                self.results[run.run_id] = read_recorded_run(run)
        except H2OError as error:
            self.failures[run.run_id] = error

    def _outside(self, entry: ManifestEntry) -> str | None:
        """The first file of an entry that a link leads out of the folder."""
        root = self.folder.resolve()
        names = [name for name in (entry.log_file, entry.config_file) if name is not None]
        return next((name for name in names if not (self.folder / name).resolve().is_relative_to(root)), None)

    def _name(self, log: Path) -> str:
        return make_printable(log.relative_to(self.folder).as_posix(), keep="")


def _not_recorded(run_id: str, folder: Path, came: str | None = None) -> BenchError:
    return BenchError(
        f"{run_id} is not in the recording",
        where=str(folder),
        came=came,
        expected="a run of this point in its manifest, or a log with this run id in its name",
        hint="record the whole preset, or select the points that were recorded with -k",
    )


def _never_run(run_id: str, folder: Path) -> BenchError:
    return BenchError(
        f"{run_id} is listed in the recording and was never run",
        where=str(folder / MANIFEST_NAME),
        came="return_code null, as a dry run writes it",
        expected="the return code of a run",
    )


def _leads_out(run_id: str, name: str, folder: Path) -> BenchError:
    return BenchError(
        f"a file of {run_id} leads out of the recording",
        where=str(folder / name),
        came="a link to a file outside",
        expected="files inside the folder of the manifest",
        hint="copy the file into the folder",
    )


def _ambiguous(run_id: str, names: Sequence[str]) -> BenchError:
    return BenchError(
        f"{run_id} has several logs, and nothing tells which one is meant",
        came=", ".join(names),
        expected="one log a run",
        hint="move the others out of the folder",
    )


SUFFIXES = (".json", ".jsonl", ".log", ".txt", ".csv")
_PRINTED = ".stdout.txt"


def row_files(folder: Path, adapter: BenchAdapter) -> list[Path]:
    """Files in a folder and in its ``logs/`` that look like output of a bench, by path."""
    paths = sorted(path for where in (folder, folder / "logs") for path in where.glob("*") if _may_hold_rows(path))
    return [path for path in paths if adapter.recognises(_text(path) or "")]


def read_row_files(folder: Path, points: Sequence[Point]) -> Recording:
    """Read the rows of points, all of one bench, from whatever files of the folder have them."""
    adapter = get_adapter(points[0].bench)
    found, unused = _read_all(folder, adapter)
    results: dict[str, Row] = {}
    failures: dict[str, H2OError] = {}
    for point in points:
        try:
            results[point.run_id] = _result(_pick(found, adapter, point, folder, unused), adapter, point)
        except H2OError as error:
            failures[point.run_id] = error
    baselines: dict[str, Row] = {}
    for point in points:
        bare = replace(point, compressed=False)
        for one in (one for one in found if adapter.is_row_of(one, bare)):
            try:
                baselines[str(one.cells)] = _result(one, adapter, replace(bare, run_id=one.log_path.stem))
            except H2OError as error:
                unused[one.log_file] = error.what
    return Recording(folder, results, failures, tuple(baselines.values()), unused)


def has_rows_of(folder: Path, points: Sequence[Point]) -> bool:
    """Whether the folder holds a row of any point, or a file of this bench that is damaged, so that it must be told."""
    adapter = get_adapter(points[0].bench)
    found, unused = _read_all(folder, adapter)
    return bool(unused) or any(adapter.is_row_of(one, point) for one in found for point in points)


def _may_hold_rows(path: Path) -> bool:
    return path.suffix in SUFFIXES and not path.name.endswith(_PRINTED) and path.is_file()


def _text(path: Path) -> str | None:
    try:
        return read_text(path, str(path))
    except TableError:
        return None


def _read_all(folder: Path, adapter: BenchAdapter) -> tuple[list[Row], dict[str, str]]:
    """Every different row, and the files that are damaged -> why."""
    found: dict[str, Row] = {}
    damaged: dict[str, str] = {}
    for path in row_files(folder, adapter):
        name = make_printable(path.relative_to(folder).as_posix(), keep="")
        try:
            for row in adapter.parse(read_text(path, name), log_file=name):
                found.setdefault(str(row.cells), replace(row, log_path=path))
        except H2OError as error:
            damaged[name] = f"{error.what}: {error.came}" if error.came else error.what
    return list(found.values()), damaged


def _pick(found: Sequence[Row], adapter: BenchAdapter, point: Point, folder: Path, damaged: Mapping[str, str]) -> Row:
    """The one row of a point."""
    rows = [one for one in found if adapter.is_row_of(one, point)]
    if len(rows) == 1:
        return rows[0]
    asked = ", ".join(f"{name} {value}" for name, value in point.manifest_fields().items() if name != "run_id")
    if rows:
        raise BenchError(
            f"{point.run_id} has several rows, and nothing tells which one is meant",
            where=str(folder),
            came=", ".join(sorted({one.log_file for one in rows})),
            expected=f"one row with {asked}",
            hint="keep one measurement of a configuration in the folder",
        )
    came = "; ".join(f"{name} is damaged: {why}" for name, why in damaged.items()) or _describe(found, folder)
    what = f"{point.run_id} is not in the recording"
    raise BenchError(what, where=str(folder), came=came, expected=f"a row with {asked}")


def _describe(found: Sequence[Row], folder: Path) -> str:
    """What is there in place of the row that was asked for."""
    if found:
        return f"{len(found)} rows of other configurations"
    benches = {name_bench_of(_text(path) or "") for path in sorted(folder.glob("*")) if _may_hold_rows(path)}
    known = sorted(name for name in benches if name is not None)
    return f"output of {', '.join(known)}" if known else "no output of this bench"


def _result(one: Row, adapter: BenchAdapter, point: Point) -> Row:
    row = replace(one, run_id=point.run_id, repeat=one.repeat or point.repeat)
    adapter.check(row, point)
    printed = one.log_path.with_name(one.log_path.stem + _PRINTED)
    config = one.log_path.parent.parent / "configs" / f"{one.log_path.stem}.json"
    return replace(
        row,
        config_path=config if one.log_path.parent.name == "logs" and config.is_file() else None,
        stdout_path=printed if printed.is_file() else None,
        output=count_warnings(printed) if printed.is_file() else None,
    )
