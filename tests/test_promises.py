"""docs/promises.md names the test that holds each promise: every one of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = [
    line
    for line in (ROOT / "docs" / "promises.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| promise "))
]


def test_there_are_promises() -> None:
    assert len(LINES) > 15


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[2:60].strip())
def test_each_promise_is_held_by_a_test_that_exists(line: str) -> None:
    held_by = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", line.rsplit("|", 2)[-2])
    assert held_by, line
    for file, name in held_by:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file} has no {name}"
