"""The end of a run: the artifacts are written, and what the terminal says last."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from pytest_h2o.errors import H2OError
from pytest_h2o.report.artifacts import write_artifacts
from pytest_h2o.report.collector import Collector
from pytest_h2o.report.terminal import render_broken_off, render_closing

ENDED_WELL, TESTS_FAILED, INTERRUPTED, INTERNAL_ERROR = range(4)
"""Exit statuses of pytest, as its documentation numbers them."""


class Closing(NamedTuple):
    """The last lines of a run under their title, and the exit status that it must end with."""

    title: str
    lines: list[str]
    exit_status: int


def close_run(collector: Collector, root: Path, started: float, exit_status: int, trouble: str | None) -> Closing:
    """Write the artifacts; if that fails the run fails, whatever the items said. A run broken off has none.

    Parameters
    ----------
    collector : Collector
        What the items said.
    root : Path
        Root of the run, which node ids are relative to.
    started : float
        Start of the run in seconds since the epoch.
    exit_status : int
        That of pytest so far.
    trouble : str or None
        What kept a record from being kept; then no artifact is written, since it would not be whole.
    """
    if exit_status == INTERRUPTED:
        lines = render_broken_off(collector.run_dir)
        return Closing("h2o", lines, exit_status) if trouble is None else _not_kept(trouble)
    if trouble is not None:
        return _not_kept(trouble)
    try:
        summary = write_artifacts(collector, started=started, ended=time.time(), exit_status=exit_status)
    except H2OError as error:
        return _not_kept(str(error))
    unkept = summary["recorded"]["trouble"] is not None
    if (unkept or summary["overall_pass"] is False) and exit_status == ENDED_WELL:
        exit_status = TESTS_FAILED  # an excused item does not excuse the gate
    return Closing("h2o", render_closing(summary, collector, root), exit_status)


def _not_kept(trouble: str) -> Closing:
    return Closing("h2o: what was measured could not be kept", [trouble], INTERNAL_ERROR)
