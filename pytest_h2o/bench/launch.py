"""One launch of the bench: config written, child run alone on the machine, row read and checked."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_h2o.bench.adapter import BenchAdapter, get_adapter
from pytest_h2o.bench.check import only_row
from pytest_h2o.bench.command import BenchSettings, RunFiles, repeat_command
from pytest_h2o.bench.config import BaseConfig
from pytest_h2o.bench.disturbance import find_disturbance, read_machine
from pytest_h2o.bench.log_rows import read_log
from pytest_h2o.bench.machine_lock import machine_lock
from pytest_h2o.bench.output import OutputSummary, count_warnings
from pytest_h2o.bench.process import ChildResult, read_tail, run_child, signal_name
from pytest_h2o.bench.result import PointResult
from pytest_h2o.errors import BenchError, H2OError, TableError
from pytest_h2o.points import SweepPoint
from pytest_h2o.store import write_new_json, write_new_text

BASELINE_RUN_ID = "baseline_h2o_off"

_USAGE_EXIT_CODE = 255
_JSON_REJECTED = re.compile(r"invalid parameter for argument: (?:-j|--json)(?:;|$)")


@dataclass
class JsonSupport:
    """What is known about one binary's ``-j``: older ones refuse it. Share one among the launches of a binary."""

    rejected: bool = False


@dataclass(frozen=True)
class Launcher:
    """Launches the points of one sweep into one folder.

    Attributes
    ----------
    base : BaseConfig
        The model.
    settings : BenchSettings
        The bench and its options.
    directory : Path
        Takes ``configs/`` and ``logs/``; files that exist are never touched.
    json_support : JsonSupport
        Remembered from launch to launch.
    env : mapping, optional
        Environment of the bench; ours if left out.
    on_wait : callable, optional
        Called with the seconds waited for another timed run, about once a second.
    """

    base: BaseConfig
    settings: BenchSettings
    directory: Path
    json_support: JsonSupport
    env: Mapping[str, str] | None = None
    on_wait: Callable[[float], None] | None = None

    def launch_point(self, point: SweepPoint) -> PointResult:
        """Run one point and return its sound row.

        Raises
        ------
        BenchError
            The bench could not be started, did not end well, or its row is not sound; with command, exit code or
            signal, seconds, reason and the end of its output.
        """
        files = RunFiles(self.directory, point.run_id)
        broken_off = files.move_broken_off()
        files.refuse_existing()
        with _marked(files.marker):
            result = self._launch_into(files, point)
        return result if broken_off is None else replace(result, notes=(*result.notes, _describe_broken(broken_off)))

    def launch_baseline(self, point: SweepPoint, run_id: str = BASELINE_RUN_ID) -> PointResult:
        """Run the lengths and repeats of a point with nothing compressed; errors as in `launch_point`."""
        return self.launch_point(replace(point, run_id=run_id, compressed=False))

    def _launch_into(self, files: RunFiles, point: SweepPoint) -> PointResult:
        adapter = get_adapter(point.bench)
        settings = replace(self.settings, with_json=not self.json_support.rejected)
        config = adapter.run_config(self.base, point)
        argv = adapter.argv(settings, files, point, config)
        write_new_json(files.config, config)
        child, disturbance = self._run(argv, files, adapter)
        output = _summarize(child)
        if settings.with_json and _rejects_json(child, output):
            self.json_support.rejected = True
            _remove_refused_launch(files)
            argv = adapter.argv(replace(settings, with_json=False), files, point, config)
            child, disturbance = self._run(argv, files, adapter)
            output = _summarize(child)
        _check_end(child, output, self.settings.timeout_s)
        try:
            read = read_log(adapter, files.log, files.json, log_file=files.log_file, repeat=point.repeat)
            row = only_row(read.rows, files.log_file)
            adapter.check(row, point, settings)
        except TableError as error:
            raise _with_launch(error, child, output) from error
        return PointResult(
            run_id=point.run_id,
            row=row,
            log_path=files.log,
            config_path=files.config,
            stdout_path=files.stdout,
            output=output,
            argv=child.argv,
            returncode=child.returncode,
            elapsed_s=child.elapsed_s,
            notes=read.notes,
            disturbance=disturbance,
        )

    def _run(self, argv: tuple[str, ...], files: RunFiles, adapter: BenchAdapter) -> tuple[ChildResult, str | None]:
        """Run the bench alone on the machine; how it ended, and what disturbed it meanwhile."""
        with machine_lock(self.on_wait):
            before = read_machine()
            child = run_child(
                argv,
                stdout_path=files.stdout,
                timeout_s=self.settings.timeout_s,
                grace_s=self.settings.grace_s,
                env=self.env,
                rows_path=files.log if adapter.rows_on_stdout else None,
            )
            return child, find_disturbance(before, read_machine(), cores=os.cpu_count() or 1)


@contextlib.contextmanager
def _marked(marker: Path) -> Iterator[None]:
    """Mark a launch for its length: the mark stays if the process dies, or is interrupted, before there is an outcome.

    Raises
    ------
    StoreError
        The folder cannot be written.
    """
    write_new_text(marker, "", overwrite=True)
    try:
        yield
    except H2OError:
        marker.unlink(missing_ok=True)
        raise
    marker.unlink(missing_ok=True)


def _describe_broken(run_id: str) -> str:
    return f"launched again: an earlier launch was broken off (its process died); what it left is {run_id}.*"


def _summarize(child: ChildResult) -> OutputSummary:
    try:
        return count_warnings(child.stdout_path)
    except OSError as error:
        raise BenchError(
            "the output of a run has gone",
            argv=child.argv,
            returncode=child.returncode,
            elapsed_s=child.elapsed_s,
            where=str(child.stdout_path),
            came=error.strerror or str(error),
            hint="leave the run folder alone while a run writes to it",
        ) from error


def _rejects_json(child: ChildResult, output: OutputSummary) -> bool:
    """Whether the bench refused ``-j`` before it did anything."""
    return child.returncode == _USAGE_EXIT_CODE and _JSON_REJECTED.search(output.reason or "") is not None


def _remove_refused_launch(files: RunFiles) -> None:
    """Remove what a launch left that ended on its command line: our own files, a moment old, with no result."""
    files.stdout.unlink()
    with contextlib.suppress(FileNotFoundError):
        if files.log.stat().st_size == 0:
            files.log.unlink()


def _check_end(child: ChildResult, output: OutputSummary, timeout_s: float) -> None:
    """Raise unless the bench ended by itself, and well."""
    if child.timed_out:
        what = f"the bench did not end within {timeout_s:g} s"
        raise _launch_error(what, child, output, hint="raise the time limit, or look at the end of its output")
    if child.signal_name is not None:
        hint = "a missing or broken model or config ends like this" if child.signal_name == "SIGSEGV" else None
        raise _launch_error(f"the bench was ended by {child.signal_name}", child, output, hint=hint)
    if child.returncode != 0:
        # A shell script around the bench reports a signal as 128 and its number.
        behind = signal_name(128 - child.returncode) if 128 < child.returncode < 160 else None
        what = f"the bench ended with exit code {child.returncode}" + (f" ({behind})" if behind else "")
        raise _launch_error(what, child, output)


def _launch_error(what: str, child: ChildResult, output: OutputSummary, *, hint: str | None = None) -> BenchError:
    repeat = f"repeat it: {repeat_command(child.argv)}"
    return BenchError(
        what,
        argv=child.argv,
        returncode=child.returncode,
        signal_name=child.signal_name,
        elapsed_s=child.elapsed_s,
        output_tail=read_tail(child.stdout_path),
        where=f"{child.stdout_path}, after {child.elapsed_s:.1f} s",
        came=output.reason or "no reason in its output",
        expected="a run that ends with exit code 0",
        hint=repeat if hint is None else f"{hint}; {repeat}",
    )


def _with_launch(error: TableError, child: ChildResult, output: OutputSummary) -> TableError:
    """The same error with what is known of the launch that gave the row."""
    came = error.came
    if output.reason is not None:
        came = f"{came}; the bench said: {output.reason}" if came else f"the bench said: {output.reason}"
    return TableError(
        error.what,
        argv=child.argv,
        returncode=child.returncode,
        signal_name=child.signal_name,
        elapsed_s=child.elapsed_s,
        output_tail=read_tail(child.stdout_path),
        where=error.where,
        came=came,
        expected=error.expected,
        hint=error.hint,
    )
