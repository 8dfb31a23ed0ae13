"""One launch of the bench: config written, child run alone on the machine, row read and checked."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from pytest_h2o.bench.adapter import BenchAdapter, check_config, get_adapter, only_row
from pytest_h2o.bench.command import (
    BaseConfig,
    BenchSettings,
    RunFiles,
    advise_layer_nums,
    again_folder,
    repeat_command,
)
from pytest_h2o.bench.machine import Place, find_disturbance, machine_lock, read_machine
from pytest_h2o.bench.output import OutputSummary, check_signs, count_warnings, first_cause
from pytest_h2o.bench.process import NO_DUMP, ChildResult, read_tail, run_child, signal_name
from pytest_h2o.bench.rows import Row, read_rows, read_text
from pytest_h2o.bench.sweep import MANIFEST_NAME, manifest_entry
from pytest_h2o.errors import BenchError, H2OError, TableError, UsageError, did_you_mean, one_line
from pytest_h2o.files import write_new_json, write_new_text
from pytest_h2o.inputs.checking import LLM_BENCH
from pytest_h2o.inputs.presets import Point

BASELINE_RUN_ID = "baseline_h2o_off"
_USAGE_EXIT_CODE = 255
_JSON_REJECTED = re.compile(r"invalid parameter for argument: (?:-j|--json)(?:;|$)")


@dataclass
class JsonSupport:
    """What is known about one binary's ``-j``: older ones refuse it. Share one among the launches of a binary."""

    rejected: bool = False


@dataclass(frozen=True)
class Launcher:
    """Launches the points of one sweep into one folder."""

    base: BaseConfig
    settings: BenchSettings
    directory: Path
    """Takes ``configs/`` and ``logs/``; files that exist are never touched."""
    json_support: JsonSupport
    environment: Mapping[str, str | Path] = field(default_factory=dict)
    """What is set for the bench besides; see `run_child`. A path is one that it writes to."""
    place: Place | None = None
    """The machine that it is launched on, if it is not this one."""
    on_wait: Callable[[float], None] | None = None
    """Called with the seconds waited for another timed run, about once a second."""
    keeps_outcomes: bool = False
    """Whoever launches keeps each outcome, under a lock of its run: then the files of a run that is launched are those
    of a launch that was broken off or failed before, and are moved aside."""

    def launch_point(self, point: Point) -> Row:
        """Run one point and return its sound row."""
        files = RunFiles(self.directory, point.run_id)
        broken_off = files.move_broken_off(unmarked=self.keeps_outcomes)
        files.refuse_existing()
        with _marked(files.marker):
            result = self._launch_into(files, point)
        if broken_off is None:
            return result
        note = f"launched again: an earlier launch was broken off or failed; what it left is {broken_off}.*"
        return replace(result, notes=(*result.notes, note))

    def launch_again(self, point: Point, number: int) -> Row:
        """Run a point once more, into a folder of its own: its launch of this number, from 2."""
        return replace(self, directory=self.directory / again_folder(number)).launch_point(point)

    def launch_baseline(self, point: Point, run_id: str = BASELINE_RUN_ID) -> Row:
        """Run the lengths and repeats of a point with nothing compressed; errors as in `launch_point`."""
        return self.launch_point(replace(point, run_id=run_id, compressed=False))

    def command(self, point: Point) -> tuple[str, ...]:
        """The command that launches a point, launcher and all."""
        config, there = self._ask_for(point, RunFiles(self.directory, point.run_id))
        argv = get_adapter(point.bench).argv(self.settings, there, point, config)
        return argv if self.place is None else self.place.command(argv)

    def _ask_for(self, point: Point, files: RunFiles) -> tuple[dict[str, Any], RunFiles]:
        """The config of a run, and its files, where it is launched."""
        config = get_adapter(point.bench).run_config(self.base, point)
        if self.place is None:
            return config, files
        return self.place.config(self.base, config), replace(files, directory=self.place.mirror(files.directory))

    def _launch_into(self, files: RunFiles, point: Point) -> Row:
        adapter = get_adapter(point.bench)
        settings = replace(self.settings, with_json=not self.json_support.rejected)
        config, there = self._ask_for(point, files)
        argv = adapter.argv(settings, there, point, config)
        write_new_json(files.config, config)
        child, disturbance, output = self._run(argv, files, adapter)
        is_rejected = child.returncode == _USAGE_EXIT_CODE and _JSON_REJECTED.search(output.reason or "")
        if settings.with_json and is_rejected:
            self.json_support.rejected = True
            _remove_refused_launch(files)
            argv = adapter.argv(replace(settings, with_json=False), there, point, config)
            child, disturbance, output = self._run(argv, files, adapter)
        advise = partial(advise_layer_nums, self.base if adapter.name == LLM_BENCH else None)
        _check_end(child, output, self.settings.timeout_s, first_cause(output, advise))
        check_signs(output, child.stdout_path, point.allow_signs, advise, **child.facts())
        try:
            if not files.log.exists() and not files.json.exists():
                raise TableError(
                    "the bench ended with exit code 0 and wrote no table (-fp FILE)",
                    where=files.log_file,
                    expected="a file with the table of llm_bench",
                    hint=f"look at its output, {child.stdout_path}: is this program llm_bench?",
                )
            if adapter.name == LLM_BENCH:  # it may have written JSON beside its table
                rows = read_rows(files.log, files.json, log_file=files.log_file, repeat=point.repeat)
            else:
                text = read_text(files.log, files.log_file)
                rows = adapter.parse(text, log_file=files.log_file, repeat=point.repeat)
            row = replace(only_row(rows, files.log_file), output=output, stdout_path=files.stdout)
            adapter.check(row, point, settings)
            if adapter.name == LLM_BENCH:
                check_config(row, config)
        except TableError as error:
            vars(error).update(child.facts())
            said = None if output.reason is None else f"the bench said: {output.reason}"
            error.came = "; ".join(part for part in (error.came, said) if part) or None
            raise
        return replace(
            row,
            run_id=point.run_id,
            log_path=files.log,
            config_path=files.config,
            argv=child.argv,
            returncode=child.returncode,
            elapsed_s=child.elapsed_s,
            disturbance=disturbance,
        )

    def _run(
        self, argv: tuple[str, ...], files: RunFiles, adapter: BenchAdapter
    ) -> tuple[ChildResult, str | None, OutputSummary]:
        """Run the bench alone on the machine; how it ended, what disturbed it meanwhile, and what it printed."""
        return run_alone(
            argv,
            self.on_wait,
            place=self.place,
            sends=(files.config,),
            brings=(files.log, files.json),
            stdout_path=files.stdout,
            timeout_s=self.settings.timeout_s,
            grace_s=self.settings.grace_s,
            environment=self.environment,
            rows_path=files.log if adapter.rows_on_stdout else None,
        )


def run_alone(
    argv: Sequence[str],
    on_wait: Callable[[float], None] | None,
    *,
    place: Place | None = None,
    sends: Sequence[Path] = (),
    brings: Sequence[Path] = (),
    has_text: bool = False,
    **how: Any,
) -> tuple[ChildResult, str | None, OutputSummary]:
    """Run a program as `run_child` does, alone on the machine; with what disturbed it meanwhile and what it printed.

    On another machine it reads `sends` and writes `brings`. `has_text`: it is llm_demo, whose output holds the text
    that the model wrote.
    """
    if place is None:
        with machine_lock(on_wait):
            before, child, after = read_machine(), run_child(argv, **how), read_machine()
    else:
        child, before, after = place.run_alone(argv, on_wait, sends=sends, brings=brings, **how)
    disturbance = find_disturbance(before, after, cores=os.cpu_count() or 1 if place is None else place.cores)
    try:
        return child, disturbance, count_warnings(child.stdout_path, has_text=has_text)
    except OSError as error:
        what, came = "the output of a run has gone", error.strerror or str(error)
        hint = "leave the run folder alone while a run writes to it"
        raise BenchError(what, where=str(child.stdout_path), came=came, hint=hint, **child.facts()) from error


@contextlib.contextmanager
def _marked(marker: Path) -> Iterator[None]:
    """Mark a launch for its length: the mark stays if the process dies, or is interrupted, before an outcome."""
    write_new_text(marker, "", overwrite=True)
    try:
        yield
    except H2OError:
        marker.unlink(missing_ok=True)
        raise
    marker.unlink(missing_ok=True)


def _remove_refused_launch(files: RunFiles) -> None:
    """Remove what a launch left that ended on its command line: our own files, a moment old, with no result."""
    files.stdout.unlink()
    with contextlib.suppress(FileNotFoundError):
        if files.log.stat().st_size == 0:
            files.log.unlink()


def _check_end(child: ChildResult, output: OutputSummary, timeout_s: float, cause: str | None) -> None:
    """Raise unless the bench ended by itself, and well."""
    hint = ""
    if child.timed_out:
        what = f"the bench did not end within {timeout_s:g} s"
        hint = "raise the time limit, or look at the end of its output; "
    elif child.signal_name is not None:
        what = f"the bench was ended by {child.signal_name}"
        hint = "a missing or broken model or config ends like this; " if child.signal_name == "SIGSEGV" else ""
    elif child.returncode != 0:
        # A shell script around the bench reports a signal as 128 and its number.
        behind = signal_name(128 - child.returncode) if 128 < child.returncode < 160 else None
        what = f"the bench ended with exit code {child.returncode}" + (f" ({behind})" if behind else "")
    else:
        return
    raise BenchError(
        what,
        where=f"{child.stdout_path}, after {child.elapsed_s:.1f} s",
        came=output.reason or "no reason in its output",
        expected="a run that ends with exit code 0",
        hint=f"{f'{cause}; ' if cause else ''}{hint}repeat it: {repeat_command(child.argv)}",
        **child.facts(),
    )


RELAUNCHES = 6
"""What one comparison, or the rows of one preset, may spend on launches that are made again. Above it the machine is
simply not quiet: disturbed launches then count all the same. In a pair both sides meet the same disturbances, and the
interval is the wider for it."""

IN_VAIN = 3
"""What a launch costs that was made again and was disturbed as well: it says that waiting for quiet is in vain."""

SAME_LAUNCH = 2
"""One and the same launch is made again so often at most."""


@dataclass
class Relaunches:
    """Decides whether a launch is made again; `left` is what may still be spent, 0 only marks."""

    left: int = RELAUNCHES

    def until_quiet(self, result: Row, again: Callable[[int], Row], told: Callable[[Row], object]) -> Row:
        """Make a disturbed launch again; the last result, disturbed or not."""
        for number in range(1, SAME_LAUNCH + 1):
            if result.disturbance is None or self.left <= 0:
                break
            told(result)
            result = again(number)
            self.left -= 1 if result.disturbance is None else IN_VAIN
        return result


@dataclass
class Relauncher:
    """Launches the points of a sweep whose own speeds are judged; the relaunches are those of all together."""

    launcher: Launcher
    relaunches: Relaunches = field(default_factory=Relaunches)

    def launch_point(self, point: Point) -> Row:
        """The row of a point; what a disturbed launch left keeps other names, and a note. Errors as in a launch."""
        notes: list[str] = []

        def move(result: Row) -> None:
            moved = RunFiles(self.launcher.directory, point.run_id).move_aside("disturbed")
            notes.append(f"measured again: {result.disturbance}; what that launch left is {moved}.*")

        first = self.launcher.launch_point(point)
        result = self.relaunches.until_quiet(first, lambda _: self.launcher.launch_point(point), move)
        return replace(result, notes=(*notes, *result.notes))


COMMANDS_NAME = "commands.sh"


def write_dry_run(
    points: Sequence[Point], base: BaseConfig, settings: BenchSettings, directory: Path
) -> tuple[str, ...]:
    """Write the configs of all points, a manifest whose return codes are null, and a shell script of the runs."""
    commands, configs = [], []
    for point in points:
        files = RunFiles(directory, point.run_id)
        files.refuse_existing()
        adapter = get_adapter(point.bench)
        configs.append((files.config, adapter.run_config(base, point)))
        command = shlex.join(adapter.argv(settings, files, point, configs[-1][1]))
        commands.append(f"{command} > {shlex.quote(str(files.log))}" if adapter.rows_on_stdout else command)
    for path, config in configs:
        write_new_json(path, config)
    entries = [manifest_entry(point.manifest_fields() | dict(base.added), None) for point in points]
    write_new_json(directory / MANIFEST_NAME, entries)
    off = [f"export {name}={value}" for name, value in NO_DUMP.items()]
    lines = ["#!/bin/sh", "set -e", *off, "mkdir -p " + shlex.quote(str((directory / "logs").absolute())), *commands]
    write_new_text(directory / COMMANDS_NAME, "\n".join(lines) + "\n")
    return tuple(commands)


ASK_S = 5.0
"""Seconds that the answer may take."""

_VERSION = re.compile(r"\d+\.\d+|\b[0-9a-f]{7,40}\b")


def ask_version(command: Sequence[str], place: Place | None = None) -> str | None:
    """Run the bench with ``--version`` alone, and give its first line that names a version."""
    returncode, text = _ask((*command, "--version"), place)
    lines = text.splitlines() if returncode == 0 else []
    return next((one_line(line, limit=60) for line in lines if _VERSION.search(line)), None)


@cache
def ask_backends(command: tuple[str, ...], place: Place | None = None) -> tuple[str, ...]:
    """The backends that the help of a bench lists; empty where it lists none."""
    found = _BACKENDS.search(_ask((*command, "--help"), place)[1])
    return () if found is None else tuple(found[1].split(","))


_BACKENDS = re.compile(r"--backends +<?([\w,]+)")


def check_backend(settings: BenchSettings, origin: str, place: Place | None = None) -> None:
    """Refuse a backend that the bench does not know: it would take the CPU for it, and each launch would fail."""
    known = ask_backends(settings.command, place)
    if known and settings.backend not in known:
        raise UsageError(
            "the bench knows no such backend",
            where=origin,
            came=repr(settings.backend),
            expected=f"{', '.join(known)}, as its --help lists",
            hint=did_you_mean(settings.backend, known),
        )


def _ask(argv: tuple[str, ...], place: Place | None) -> tuple[int | None, str]:
    """How the bench ends that is asked something, and what it says; nothing where it cannot be asked."""
    how: dict[str, Any] = {"timeout_s": ASK_S, "grace_s": 0.5}
    with tempfile.TemporaryDirectory(prefix="pytest-h2o-") as folder:
        output = Path(folder, "answer.txt")
        try:
            if place is None:
                child = run_child(argv, stdout_path=output, **how)
            else:
                child = place.ask(argv, stdout_path=output, **how)
        except BenchError:
            return None, ""
        return child.returncode, read_tail(output)
