"""Progress is told on its own clock, wherever the work stands."""

from __future__ import annotations

import sys
import time

import pytest

from pytest_h2o.cli import lossless as progress_lines
from pytest_h2o.cli.lossless import ProgressLines


def test_nobody_looks_and_it_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLines(verbose=False) as lines:
        lines.coded(1, 1)
    assert capsys.readouterr().err == ""


def test_a_log_is_never_silent_for_long(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing calls it meanwhile: a slow disk, then one long stream."""
    assert progress_lines.VERBOSE_S <= progress_lines.TERMINAL_S < progress_lines.LOG_S < 60
    monkeypatch.setattr(progress_lines, "LOG_S", 0.05)
    with ProgressLines(verbose=False) as lines:
        lines.entries(2000)
        time.sleep(0.5)
        lines.coded(1_000_000, 3_000_000)
        time.sleep(0.5)
    told = capsys.readouterr().err.splitlines()
    assert any(line.startswith("2,000 entries indexed after ") for line in told)
    assert sum(line.startswith("1 of 3 MB, ") for line in told) > 1


def test_a_terminal_is_told_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert ProgressLines(verbose=False)._every_s == progress_lines.TERMINAL_S
    assert ProgressLines(verbose=True)._every_s == progress_lines.VERBOSE_S


def test_verbose_tells_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLines(verbose=True) as lines:
        lines.coded(5_000_000, 5_000_000)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("5 of 5 MB, ")


def test_a_failure_is_not_told_as_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no"), ProgressLines(verbose=True):
        raise ValueError("no")
    assert capsys.readouterr().err == ""
