"""What only the controller does: progress while items run, a journal after each, artifacts and last lines at the end.

Like the hooks it imports nothing but the standard library and pytest until a gate item is there.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_h2o.errors import StoreError, as_ours, one_line
from pytest_h2o.plugin.config import added_sections, lasting, register_extensions, run_dir_of, settings_of

if TYPE_CHECKING:
    from pytest_h2o.plugin.progress import ProgressDisplay
    from pytest_h2o.report.terminal import Closing
    from pytest_h2o.run.journal import Collector


PROPERTY = "h2o"
"""Name of the user property in which an item's record travels from a worker to the controller: see `seal`."""

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
    _watch_native()
    _mine = os.getpid()
    for module, name in _leaves:
        setattr(module, name, _refused[name])


def may_vanish() -> None:
    global _mine
    _mine = 0
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


_NATIVE = frozenset({"_exit", "_Exit", "exit", "quick_exit"})


def _refuse_native(event: str, given: tuple[Any, ...]) -> None:
    """Let nobody look up the same functions in the C library, past what `os` says of them."""
    if event == "ctypes.dlsym" and os.getpid() == _mine and given[1] in _NATIVE:
        raise PermissionError(f"{given[1]} of the C library would end the process before the gate has ended well")


@cache
def _watch_native() -> None:
    sys.addaudithook(_refuse_native)


def seal(nodeid: str, record: str) -> str:
    """The record of an item with a checksum before it: a hook that changes it on its way, or mixes two up, is told."""
    return f"{zlib.crc32(f'{nodeid} {record}'.encode()):08x} {record}"


class Controller:
    """The plugin of the process that the user started, with or without workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._started = time.time()
        self._trouble: str | None = None
        self._closing: Closing | None = None
        self._kept: Collector | None = None
        self._display: ProgressDisplay | None = None
        self._has_gate_items = self._is_broken_off = self._is_told = False
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
        run_dir = run_dir_of(self._config)
        if self._display is not None or not run_dir.exists():
            return
        from pytest_h2o.run.store import HEADER, SHARED

        try:
            kept = json.loads((run_dir / SHARED / f"{HEADER}.json").read_text(encoding="utf-8"))
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
            record = texts[-1].partition(" ")[2]
            if seal(report.nodeid, record) == texts[-1]:
                self._collector().add(record, duration_s=report.duration, outcome=outcome, why=why)
            else:
                self._keep_failed(report.nodeid, "another plugin has changed its record on its way", report)
        elif outcome == "failed":
            self._keep_failed(report.nodeid, why, report)

    def _keep_failed(self, nodeid: str, why: str, report: pytest.TestReport | None = None) -> None:
        """Make a record for an item that failed and has none that can be used."""
        subject = self._gate_items().get(nodeid)
        if subject is None:
            self._strangers[nodeid] = why
        else:
            kept = self._collector()
            location = None if report is None else (str(report.location[0]), report.location[1])
            text = kept.make_failed(nodeid, *subject, why, location)
            kept.add(text, duration_s=getattr(report, "duration", 0.0))

    def _keep_missing(self) -> None:
        """Fail the items of a run that came to its end which were never run, or whose record somebody took away."""
        kept = {} if self._kept is None else self._kept.items
        for nodeid in set() if self._asks_nothing else self._gate_items().keys() - kept:
            self._keep_failed(nodeid, "another plugin kept it from running, or took its record away")

    @property
    def _asks_nothing(self) -> bool:
        """Whether pytest was told to run no item."""
        return any(getattr(self._config.option, name, False) for name in ("collectonly", "setuponly", "setupplan"))

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
        if not self._has_gate_items and self._kept is None:
            return {}
        from pytest_h2o.run.store import ITEMS, SHARED  # a run without a gate does not pay for it

        try:
            found: dict[str, tuple[str, str]] = json.loads(
                (run_dir_of(self._config) / SHARED / f"{ITEMS}.json").read_text(encoding="utf-8")
            )["items"]
        except (OSError, ValueError, KeyError):
            return {}  # workers on another machine keep it there
        return found

    def _collector(self) -> Collector:
        if self._kept is None:
            with lasting():
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
        try:
            if status == pytest.ExitCode.OK and self._trouble is None:
                self._keep_missing()
            if self._is_broken_off and self._has_gate_items:
                self._kept = self._collector()  # also where no item has ended: the launches until then are there
        except (Exception, KeyboardInterrupt) as error:
            self._trouble = str(as_ours(error, "what came of the run cannot be kept", kind=StoreError))
        if self._kept is None and self._trouble is not None:
            from pytest_h2o.report.terminal import close_unkept

            self._closing = close_unkept(self._trouble)
            status = status or self._closing.exit_status
        elif self._kept is not None:
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
                hint = "mend the line that is named; what was measured is kept, and --h2o-resume goes on with it"
                told = as_ours(error, "the artifacts cannot be made", expected="a report of all items", hint=hint)
                self._closing = close_unkept(str(told))
            status = self._closing.exit_status
        elif status == pytest.ExitCode.OK and self._config.option.h2o_strict and not self._config.option.collectonly:
            from pytest_h2o.report.terminal import close_empty

            self._closing = close_empty()
            status = self._closing.exit_status
        if not status:
            may_vanish()
        if status != exitstatus:
            session.exitstatus = status

    def last_word(self, status: object) -> int:
        """The exit status of a gate that did not end well; 0 of one that did, or of none.

        A verdict that nobody has printed (``-p no:terminal``) is one line on standard error, and so is that there is
        none: somebody has taken this plugin away.
        """
        if self._closing is None and self._has_gate_items and not status and not self._asks_nothing:
            from pytest_h2o.report.terminal import close_unkept

            self._closing = close_unkept("another plugin took h2o-controller away before it gave a verdict")
        if self._closing is None:
            return 0
        if not self._is_told:
            print(self._closing.one_line, file=sys.stderr)
        return self._closing.exit_status

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._closing is not None:
            self._is_told = True
            terminalreporter.section(self._closing.title)
            for line in self._closing.lines:
                terminalreporter.write_line(_TELLING.sub(partial(_in_colour, terminalreporter), line))


_COLOURS = {"PASS": "green", "FAIL": "red", "MISSED": "red", "ERROR": "red"}
_TELLING = re.compile(r"\b(?:PASS|FAIL|MISSED|ERROR|INCONCLUSIVE|INCOMPLETE|UNFINISHED)\b")


def _in_colour(reporter: Any, word: re.Match[str]) -> str:
    """A word that says an outcome, in colour where pytest has colour."""
    return str(reporter._tw.markup(word[0], bold=True, **{_COLOURS.get(word[0], "yellow"): True}))
