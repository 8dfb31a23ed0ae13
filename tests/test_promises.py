"""Every promise in docs/promises.md names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [
    line
    for line in (ROOT / "docs" / "promises.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| promise"))
]


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_a_promise_names_its_test(row: str) -> None:
    _, promise, held_by, _ = row.split("|")
    assert promise.strip()
    if held_by.strip().startswith("the same"):
        return
    named = re.findall(r"`([^`]+)`", held_by)
    assert named
    file = ""
    for name in named:
        path, _, function = name.partition("::")
        file = path or file
        text = (ROOT / file).read_text(encoding="utf-8")
        assert f"def {function}(" in text if function else "def test_" in text, name


def test_there_are_promises() -> None:
    assert len(ROWS) > 10
