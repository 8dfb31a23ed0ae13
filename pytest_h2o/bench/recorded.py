"""Logs that were recorded before, read as results. Nothing is run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_h2o.bench.check import is_idle, only_row
from pytest_h2o.bench.manifest import MANIFEST_NAME, ManifestEntry, read_manifest
from pytest_h2o.bench.printable import make_printable
from pytest_h2o.bench.recorded_run import (
    RecordedRun,
    other_configuration,
    read_h2o_switch,
    read_recorded_baseline,
    read_recorded_run,
)
from pytest_h2o.bench.recorded_sharing import find_sharing_faults
from pytest_h2o.bench.result import PointResult
from pytest_h2o.bench.table import read_table
from pytest_h2o.errors import BenchError, H2OError, StoreError
from pytest_h2o.points import SweepPoint

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
    baselines : tuple of PointResult
        Rows with H2O off, under the names of their logs.
    unused : mapping
        Log -> why it is neither a point nor a baseline. To be shown where something is missing.
    """

    folder: Path
    results: Mapping[str, PointResult]
    failures: Mapping[str, H2OError]
    baselines: tuple[PointResult, ...]
    unused: Mapping[str, str]

    def get(self, run_id: str) -> PointResult:
        """Return the row of a point, or raise why there is none.

        Raises
        ------
        H2OError
            The point's failure; a BenchError if the recording does not know the point.
        """
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


def read_recording(folder: Path, points: Sequence[SweepPoint] | None = None) -> Recording:
    """Read a folder of recorded logs.

    With a ``manifest.json`` the runs are those that it lists, each with its return code. Without one the logs in the
    folder and in its ``logs/`` are matched by the run id in their names. Other logs are baselines if their config, or
    where there is none their row, says that H2O was off.

    Parameters
    ----------
    folder : Path
        The folder of a sweep, or one of bare logs.
    points : sequence of SweepPoint, optional
        The points that are wanted: each is then in `results` or in `failures`, and no other is. Left out, all that is
        there is read, and rows are not checked against what was asked.

    Raises
    ------
    StoreError
        The folder is none, or its manifest cannot be used. What concerns one run alone is in `failures`.
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

    def __init__(self, folder: Path, points: Sequence[SweepPoint] | None) -> None:
        self.folder = folder
        self.points = None if points is None else {point.run_id: point for point in points}
        self.results: dict[str, PointResult] = {}
        self.failures: dict[str, H2OError] = {}
        self.baselines: list[PointResult] = []
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
