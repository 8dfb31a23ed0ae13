"""What only the controller does: progress while items run, a journal after each, artifacts and last lines at the end.

Like the hooks it imports nothing but the standard library and pytest until a gate item is there.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from pytest_h2o.errors import H2OError
from pytest_h2o.plugin.config import added_sections, register_extensions, run_dir_of, settings_of

if TYPE_CHECKING:
    from pytest_h2o.plugin.progress import ProgressDisplay
    from pytest_h2o.report.terminal import Closing
    from pytest_h2o.run.journal import Collector


PROPERTY = "h2o"
"""Name of the user property in which an item's record travels from a worker to the controller, as JSON text."""

REFUSED = "h2o_refused"
"""Attribute of a collection report whose text is a usage error that a worker met."""


class Controller:
    """The plugin of the process that the user started, with or without workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._started = time.time()
        self._trouble: str | None = None
        self._closing: Closing | None = None
        self._kept: Collector | None = None
        self._display: ProgressDisplay | None = None

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

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the record of an item, as soon as there is one."""
        self._clear_progress()
        texts = [value for name, value in report.user_properties if name == PROPERTY]
        if self._trouble is None and texts:
            try:
                self._collector().add(str(texts[-1]), duration_s=report.duration)
            except H2OError as error:
                self._trouble = str(error)
                running: Any = self._config.pluginmanager.get_plugin("session")
                running.shouldfail = f"h2o: {error.what}"

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

    pytest_keyboard_interrupt = _end_progress

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the artifacts; if that fails the run fails, whatever the items said. A run broken off has none."""
        self._end_progress()
        if self._kept is None:
            return
        from pytest_h2o.report.terminal import close_run

        self._closing = close_run(self._kept, self._config.rootpath, self._started, int(exitstatus), self._trouble)
        if self._closing.exit_status != exitstatus:
            session.exitstatus = self._closing.exit_status

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._closing is not None:
            terminalreporter.section(self._closing.title)
            for line in self._closing.lines:
                terminalreporter.write_line(line)
