"""Progress is told on its own clock, wherever the work stands."""

import sys
import time

import pytest

from pytest_h2o.cli import lossless as progress_lines
from pytest_h2o.cli.lossless import ProgressLines


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


def test_verbose_tells_the_end_and_a_failure_is_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ProgressLines(verbose=False) as lines:
        lines.coded(1, 1)  # quick: nobody looks
    with ProgressLines(verbose=True) as lines:
        lines.coded(5_000_000, 5_000_000)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("5 of 5 MB, ")
    with pytest.raises(ValueError, match="no"), ProgressLines(verbose=True):
        raise ValueError("no")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    told = [ProgressLines(verbose=verbose)._every_s for verbose in (False, True)]
    assert told == [progress_lines.TERMINAL_S, progress_lines.VERBOSE_S]
