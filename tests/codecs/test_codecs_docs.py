"""What docs/codecs.md says is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_h2o.codecs.registry import BUILT_IN, codec_class

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "codecs.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_example_is_shown_as_it_is() -> None:
    assert (ROOT / "docs" / "examples" / "my_codec.py").read_text("utf-8") in BLOCKS


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_codec_is_described(name: str) -> None:
    (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |")]
    worst = codec_class(name).max_overhead_bytes
    assert row.endswith("| not promised |" if worst is None else f"| {worst} bytes |")


def test_the_table_is_the_one_that_was_measured() -> None:
    lines = (ROOT / "benchmarks" / "results" / "codecs" / "fp16.md").read_text("utf-8").splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("| codec |"))
    assert "\n".join(lines[first : lines.index("", first)]) in TEXT
