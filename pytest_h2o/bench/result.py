"""What one point gave: a sound row with its provenance, or an error; both as plain JSON values and back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_h2o.bench.output import OutputSummary
from pytest_h2o.bench.row import BenchRow
from pytest_h2o.errors import BenchError, StoreError


@dataclass(frozen=True)
class PointResult:
    """The sound row of one run, and where it came from.

    Attributes
    ----------
    run_id : str
        The point, or the name of a baseline.
    row : BenchRow
        Its row.
    log_path : Path
        The log that the row stands in.
    config_path, stdout_path : Path or None
        The config of the run and what it printed; None if a recording does not have them.
    output : OutputSummary or None
        Its warnings; None if what it printed was not kept. That is not the same as no warnings.
    argv : tuple of str
        The command; empty for a recorded log.
    returncode : int or None
        Exit status; None if it is not known.
    elapsed_s : float or None
        Seconds from launch to end; None if they are not known.
    notes : tuple of str
        What a reader of the row should know about how it was read.
    shares_run_with : str or None
        Run id of the run whose row this point shares, because the runtime cannot tell the two apart.
    disturbance : str or None
        What disturbed the launch while it was timed; None if nothing is known to have.
    """

    run_id: str
    row: BenchRow
    log_path: Path
    config_path: Path | None = None
    stdout_path: Path | None = None
    output: OutputSummary | None = None
    argv: tuple[str, ...] = ()
    returncode: int | None = None
    elapsed_s: float | None = None
    notes: tuple[str, ...] = ()
    shares_run_with: str | None = None
    disturbance: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Built-in values only; `from_json` reads them back."""
        return {
            "run_id": self.run_id,
            "cells": dict(self.row.cells),
            "log_file": self.row.log_file,
            "repeat": self.row.repeat,
            "log_path": os.fspath(self.log_path),
            "config_path": _path_text(self.config_path),
            "stdout_path": _path_text(self.stdout_path),
            "output": None if self.output is None else self.output.to_json(),
            "argv": list(self.argv),
            "returncode": self.returncode,
            "elapsed_s": self.elapsed_s,
            "notes": list(self.notes),
            "shares_run_with": self.shares_run_with,
            "disturbance": self.disturbance,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PointResult:
        """Read what `to_json` gave.

        Raises
        ------
        StoreError
            The value has another shape.
        """
        try:
            return cls(
                run_id=value["run_id"],
                row=BenchRow.from_cells(value["cells"], log_file=value["log_file"], repeat=value["repeat"]),
                log_path=Path(value["log_path"]),
                config_path=_path(value["config_path"]),
                stdout_path=_path(value["stdout_path"]),
                output=None if value["output"] is None else OutputSummary.from_json(value["output"]),
                argv=tuple(value["argv"]),
                returncode=value["returncode"],
                elapsed_s=value["elapsed_s"],
                notes=tuple(value["notes"]),
                shares_run_with=value["shares_run_with"],
                disturbance=value["disturbance"],
            )
        except (KeyError, TypeError, AttributeError, BenchError) as error:
            raise _bad_record("a result", error) from error


def _path_text(path: Path | None) -> str | None:
    return None if path is None else os.fspath(path)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _bad_record(name: str, error: Exception) -> StoreError:
    return StoreError(
        f"{name} of a launch was kept in another shape than this version reads",
        came=f"{type(error).__name__}: {error}",
        hint="start a new run folder",
    )
