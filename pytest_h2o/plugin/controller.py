"""What only the controller does: progress while items run, a journal after each, artifacts and last lines at the end.

Like the hooks it imports nothing but the standard library and pytest until a gate item is there.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_h2o.errors import StoreError, as_ours, one_line
from pytest_h2o.plugin.config import added_sections, register_extensions, run_dir_of, settings_of

if TYPE_CHECKING:
    from pytest_h2o.plugin.progress import ProgressDisplay
    from pytest_h2o.report.terminal import Closing
    from pytest_h2o.run.journal import Collector


PROPERTY = "h2o"
"""Name of the user property in which an item's record travels from a worker to the controller, as JSON text."""

REFUSED = "h2o_refused"
"""Attribute of a collection report whose text is a usage error that a worker met."""


_mine = 0
_WAYS_OUT = ("_exit", "execv", "execve")
"""Of `os` and of the module that it is made of: what ends a process without a word. All exec functions use these."""

_leaves = {(module, name): getattr(module, name) for module in (os, sys.modules[os.name]) for name in _WAYS_OUT}


def refuse_to_vanish() -> None:
    """From now on ``os._exit(0)``, and another program, in place of this very process are a failure.

    Nobody would hear of the gate.
    """
    global _mine
    _mine = os.getpid()
    for module, name in _leaves:
        setattr(module, name, _refused[name])


def may_vanish() -> None:
    for (module, name), leave in _leaves.items():
        setattr(module, name, leave)


def _refusing(name: str) -> Callable[..., None]:
    leave = _leaves[os, name]

    def refuse(*given: Any, **named: Any) -> None:
        if os.getpid() == _mine and (name != "_exit" or 0 in (*given, *named.values())):
            said = "0" if name == "_exit" else "…"
            told = f"os.{name}({said}) was called before the gate has ended well, so it fails"
            os.write(2, f"\nERROR h2o: {told}\n".encode())
            _leaves[os, "_exit"](int(pytest.ExitCode.INTERNAL_ERROR))
        leave(*given, **named)

    return refuse


_refused = {name: _refusing(name) for name in _WAYS_OUT}


class Controller:
    """The plugin of the process that the user started, with or without workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._started = time.time()
        self._trouble: str | None = None
        self._closing: Closing | None = None
        self._kept: Collector | None = None
        self._display: ProgressDisplay | None = None
        self._has_gate_items = self._is_broken_off = False
        self._failed_subtests: Counter[str] = Counter()
        self._strangers: dict[str, str] = {}
        """Node id -> why, of what failed and is not known as an item of the gate."""

    # -- before the first item -------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """End a run that a worker found to be bad usage as one process alone would: before the terminal counts it."""
        if getattr(report, REFUSED, False):
            raise pytest.UsageError(str(report.longrepr))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self) -> None:
        """Print the head of the run as soon as one worker has left it; where none has gate items nobody does."""
        if self._display is not None:
            return
        from pytest_h2o.run.store import HEADER, SHARED

        try:
            kept = json.loads((run_dir_of(self._config) / SHARED / f"{HEADER}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        reporter = self._reporter()
        if reporter is not None and self._config.get_verbosity() >= 0:
            if reporter.isatty:  # xdist has told how many workers are ready, on a line that it would write over
                reporter.line("")
            for line in kept["lines"]:
                reporter.write_line(line)
        self.show_progress()

    def _reporter(self) -> Any:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    def show_progress(self) -> None:
        """Show what runs, from now on to the end."""
        from pytest_h2o.plugin.progress import ProgressDisplay
        from pytest_h2o.run.store import PROGRESS

        self._has_gate_items = True
        refuse_to_vanish()
        reporter = self._reporter()
        if reporter is not None and self._display is None:
            self._display = ProgressDisplay(reporter, run_dir_of(self._config) / PROGRESS)
            self._display.start()

    # -- while items run -------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def _clear_progress(self) -> None:
        """Take the line of progress off the terminal: pytest is about to write."""
        if self._display is not None:
            self._display.clear()

    pytest_runtest_logstart = pytest_runtest_logfinish = _clear_progress

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, object, object]:
        """Keep the record of an item as soon as there is one, with the outcome that every other hook leaves it."""
        self._clear_progress()
        try:
            return (yield)
        finally:
            if self._trouble is None:
                try:
                    self._keep(report)
                except Exception as error:
                    trouble = as_ours(error, f"what came of {report.nodeid} cannot be kept", kind=StoreError)
                    self._trouble = str(trouble)
                    running: Any = self._config.pluginmanager.get_plugin("session")
                    running.shouldfail = f"h2o: {trouble.what}"

    def _keep(self, report: pytest.TestReport) -> None:
        """Take the record that a report carries; where an item failed without one, its worker having died, make one."""
        texts = [str(value) for name, value in report.user_properties if name == PROPERTY]
        outcome, why = self._final_outcome(report)
        if texts:
            earlier = self._collector().items.get(report.nodeid, {})
            if report.when == "teardown" and earlier.get("outcome") == "failed":
                outcome, why = "failed", str(earlier["reason"])  # whatever came of its teardown
            from pytest_h2o.run.journal import DamagedRecord

            try:
                self._collector().add(texts[-1], duration_s=report.duration, outcome=outcome, why=why)
            except DamagedRecord as error:  # another plugin has changed it on its way
                self._keep_failed(report, error.what + (f": {error.came}" if error.came else ""))
        elif outcome == "failed":
            self._keep_failed(report, why)

    def _keep_failed(self, report: pytest.TestReport, why: str) -> None:
        """Make a record for an item that failed and has none that can be used."""
        subject = self._gate_items().get(report.nodeid)
        if subject is None:
            self._strangers[report.nodeid] = why
        else:
            kept, location = self._collector(), (str(report.location[0]), report.location[1])
            text = kept.make_failed(report.nodeid, *subject, why, location)
            kept.add(text, duration_s=getattr(report, "duration", 0.0))

    def _final_outcome(self, report: pytest.TestReport) -> tuple[str | None, str]:
        """The outcome of an item as its report has it at last, and why; None: that of its record stands."""
        if hasattr(report, "context"):  # the report of a subtest is not that of its item
            self._failed_subtests[report.nodeid] += report.failed
            return None, ""
        if report.outcome not in ("passed", "failed", "skipped"):  # "rerun": another try follows
            self._failed_subtests.pop(report.nodeid, None)
            return None, ""
        subtests = self._failed_subtests[report.nodeid] if report.when == "call" else 0
        if subtests:
            return "failed", f"{subtests} of its subtests failed"
        said = getattr(getattr(report.longrepr, "reprcrash", None), "message", report.longrepr)
        why = one_line(said) if isinstance(said, str) else ""
        return report.outcome, why or f"another plugin changed its outcome to {report.outcome}"

    def _gate_items(self) -> Mapping[str, tuple[str, str]]:
        """Node id of every item of the gate -> kind and name of what it is about; empty where that is not known."""
        from pytest_h2o.run.store import ITEMS, SHARED

        if not self._has_gate_items and self._kept is None:
            return {}
        try:
            found: dict[str, tuple[str, str]] = json.loads(
                (run_dir_of(self._config) / SHARED / f"{ITEMS}.json").read_text(encoding="utf-8")
            )
        except (OSError, ValueError):
            return {}  # workers on another machine keep it there
        return found

    def _collector(self) -> Collector:
        if self._kept is None:
            from pytest_h2o.run.journal import Collector

            config = self._config
            register_extensions(config)  # workers have collected, and what plugins add is not known here yet
            self._kept = Collector(run_dir_of(config), settings_of(config), added_sections(config))
        return self._kept

    # -- at the end ------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def _end_progress(self) -> None:
        if self._display is not None:
            self._display.stop()

    def pytest_keyboard_interrupt(self) -> None:
        """Take note that the run is broken off, by hand or by ``pytest.exit``."""
        self._is_broken_off = True
        self._end_progress()

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the artifacts; if that fails the run fails, whatever the items said. A run broken off has none."""
        self._end_progress()
        status = int(exitstatus)
        if self._is_broken_off and status == pytest.ExitCode.OK and (self._has_gate_items or self._kept is not None):
            status = int(pytest.ExitCode.INTERRUPTED)  # pytest.exit(returncode=0): items are missing
        if self._is_broken_off and self._has_gate_items:
            self._kept = self._collector()  # also where no item has ended: the launches until then are there
        if self._kept is not None:
            from pytest_h2o.report.terminal import INTERRUPTED, close_run, close_unkept

            refuse_to_vanish()
            self._kept.strangers = self._strangers
            try:
                self._closing = close_run(self._kept, self._config.rootpath, self._started, status, self._trouble)
            except (SystemExit, pytest.exit.Exception) as error:  # code of a plugin that wants to end the process
                self._closing = close_unkept(f"a plugin ended the run before its verdict: {error!r}")
            except KeyboardInterrupt:
                self._closing = close_run(self._kept, self._config.rootpath, self._started, INTERRUPTED, self._trouble)
            except Exception as error:
                hint = "this is an error of pytest-h2o or of a plugin: please report it with these lines"
                self._closing = close_unkept(str(as_ours(error, "the artifacts cannot be made", hint=hint)))
            status = self._closing.exit_status
        elif status == pytest.ExitCode.OK and self._config.option.h2o_strict and not self._config.option.collectonly:
            from pytest_h2o.report.terminal import close_empty

            self._closing = close_empty()
            status = self._closing.exit_status
        if not status:
            may_vanish()
        if status != exitstatus:
            session.exitstatus = status

    @property
    def held_status(self) -> int:
        """The exit status of a gate that did not end well; 0 of one that did, or of none."""
        return 0 if self._closing is None else self._closing.exit_status

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._closing is not None:
            terminalreporter.section(self._closing.title)
            for line in self._closing.lines:
                terminalreporter.write_line(_TELLING.sub(partial(_in_colour, terminalreporter), line))


_COLOURS = {"PASS": "green", "FAIL": "red", "MISSED": "red", "ERROR": "red"}
_TELLING = re.compile(r"\b(?:PASS|FAIL|MISSED|ERROR|INCONCLUSIVE|INCOMPLETE|UNFINISHED)\b")


def _in_colour(reporter: Any, word: re.Match[str]) -> str:
    """A word that says an outcome, in colour where pytest has colour."""
    return str(reporter._tw.markup(word[0], bold=True, **{_COLOURS.get(word[0], "yellow"): True}))
