"""Progress on the terminal while items run: plain lines in a log, one rewritten line on a terminal; under xdist too."""

import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest

from tests.plugin.project import QUICK, Project

OFTEN = """
import pytest_h2o.plugin.progress as display

display.FIRST_LINE_S, display.LINE_S, display.REWRITE_S = 0.1, 0.15, 0.1
"""
LINE = re.compile(r"h2o: target_ratio_v3: run \d of 4 \(run_000\d\), \d+ s(; about .* left)?")


@pytest.fixture
def slow(project: Project) -> tuple[str, ...]:
    """Options of a run whose three launches take a third of a second each; progress is shown often."""
    options = (*project.make_bench(), "-k", "target_ratio_v3 and (run_0001 or run_0002 or run_0003)")
    project.env["FAKE_SLEEP_S"] = "0.3"
    (project.path / "conftest.py").write_text(OFTEN, encoding="utf-8")
    return options


@pytest.mark.parametrize(
    "options", [("-n2",), ("-p", "no:xdist", "-s", "-v"), ("-q", "--capture=sys")], ids=["n2", "no-xdist -s", "-q"]
)
def test_a_log_has_plain_lines(options: tuple[str, ...], slow: tuple[str, ...], project: Project) -> None:
    """Whatever is captured: nothing of the output is lost."""
    result = project.run(*slow, *options)
    assert result.ret == 0
    lines = [line for line in result.outlines if line.startswith("h2o: target_ratio_v3")]
    assert len(lines) >= 3, "\n".join(result.outlines)
    shown = [line for line in lines if LINE.fullmatch(line)]
    assert shown, lines
    assert any("left" in line for line in shown), lines
    assert result.parseoutcomes()["passed"] == 3


def read_terminal(command: list[str], project: Project) -> str:
    """Everything that a run writes on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    env = {**os.environ, **project.env, "TERM": "xterm", "COLUMNS": "80", "LINES": "24", "TMPDIR": str(project.path)}
    child = subprocess.Popen(command, cwd=project.path, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text, ends = b"", time.monotonic() + 120
    while time.monotonic() < ends:
        if select.select([ours], [], [], 0.5)[0]:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
            if not piece:
                break
            text += piece
    assert child.wait(timeout=60) == 0, text.decode()
    os.close(ours)
    return text.decode("utf-8", "replace")


def test_a_terminal_has_one_line_that_is_rewritten_and_goes(slow: tuple[str, ...], project: Project) -> None:
    text = read_terminal([sys.executable, "-m", "pytest", "gates", *QUICK, *slow, "-o", "h2o_html=no"], project)
    below = re.findall(r"\n\r\x1b\[2K([^\r\n]*)\r\x1b\[A(?:\x1b\[\d+C)?", text)
    assert any(re.match(r"target_ratio_v3: run \d of 4 \(run_000\d\), \d+ s", line) for line in below), text
    assert all(len(line) < 80 for line in below)
    assert below[-1] == "", "the line is still there at the end"
    assert "h2o: target_ratio_v3: run" not in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert len(re.findall(r"\nh2o: ", plain)) == plain.count("h2o: ") > 2, "the head stands on lines of its own"
    assert "3 passed" in text
