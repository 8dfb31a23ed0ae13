"""One run that was recorded before: its log, its output and its return code, read and checked like a fresh launch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_h2o.bench.check import check_baseline_row, check_row, only_row
from pytest_h2o.bench.log_rows import read_rows
from pytest_h2o.bench.output import OutputSummary, count_warnings
from pytest_h2o.bench.process import read_tail, signal_name
from pytest_h2o.bench.recorded_config import config_differences, read_recorded_config, unverified_note
from pytest_h2o.bench.result import PointResult
from pytest_h2o.errors import BenchError
from pytest_h2o.points import SweepPoint


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
    point : SweepPoint or None
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
    point: SweepPoint | None = None
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


def read_recorded_run(run: RecordedRun) -> PointResult:
    """Read the row of a run with H2O on.

    Raises
    ------
    BenchError
        The run failed when it was recorded, its config is not that of the point, its log is missing or damaged, has
        several rows, or its row is not sound.
    """
    _check_recorded(run)
    note = None if run.point is None else _check_configuration(run, run.point)
    result = _read(run)
    check_row(result.row, run.point)
    return result if note is None else replace(result, notes=(*result.notes, note))


def read_recorded_baseline(run: RecordedRun) -> PointResult:
    """Read the row of a run with H2O off; errors as in `read_recorded_run`."""
    _check_recorded(run)
    result = _read(run)
    check_baseline_row(result.row, run.point)
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


def _check_configuration(run: RecordedRun, point: SweepPoint) -> str | None:
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


def _read(run: RecordedRun) -> PointResult:
    repeat = None if run.point is None else run.point.repeat
    read = read_rows(run.log, run.json, log_file=run.log_file, repeat=repeat)
    return PointResult(
        run_id=run.run_id,
        row=only_row(read.rows, run.log_file),
        log_path=run.log,
        config_path=run.config if run.config is not None and run.config.is_file() else None,
        stdout_path=run.stdout if run.stdout.is_file() else None,
        output=_read_output(run),
        returncode=run.return_code,
        notes=read.notes,
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
