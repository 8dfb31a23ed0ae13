"""What docs/baselines.md says is so: its commands run, its table is that of the metrics."""

from __future__ import annotations

import re
import shlex

import pytest

from pytest_h2o.cli import main
from pytest_h2o.gate.figure_metrics import FIGURE_METRICS
from tests.plugin.project import ROOT, Project

TEXT = (ROOT / "docs" / "baselines.md").read_text("utf-8")
COMMANDS = [line.strip() for line in TEXT.splitlines() if line.startswith("    pytest")]


def test_the_table_has_every_metric() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .*? \| (higher|lower|same) \| (?:`(\w+)`)? *\|$", TEXT, re.MULTILINE)
    assert rows == [(metric.name, metric.better, metric.part_of or "") for metric in FIGURE_METRICS.values()]


def test_the_commands_run(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path)
    gates = [shlex.split(line)[2:] for line in COMMANDS if line.startswith("pytest gates/ ")]
    assert len(gates) == 6
    for number, arguments in enumerate(gates):
        result = project.run("-k", "front2_grouped", *arguments)
        assert result.ret == 0
        assert result.parseoutcomes()["passed"] == (2 if number == 0 else 3)
    commands = [shlex.split(line)[1:] for line in COMMANDS if line.startswith("pytest-h2o ")]
    assert len(gates) + len(commands) == len(COMMANDS)
    for words in commands:
        capsys.readouterr()
        assert main(words) == 0
        assert capsys.readouterr().out
