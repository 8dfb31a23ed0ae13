"""The README's tables name what there is: every option and every command, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_h2o.cli.main import COMMANDS
from pytest_h2o.gate.metrics import GATE_OPTIONS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_every_option_is_in_the_table_in_its_order() -> None:
    assert re.findall(r"^\| `(--h2o-[a-z-]+)", README, re.MULTILINE) == [option.flag for option in GATE_OPTIONS]


def test_every_command_is_in_the_table() -> None:
    assert set(re.findall(r"^\| `pytest-h2o ([a-z]+)`", README, re.MULTILINE)) == set(COMMANDS)
