"""What docs/codecs.md says is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sample_streams import real_streams

from pytest_h2o.codecs import container
from pytest_h2o.codecs.registry import builtin_names, codec_class, get_codec

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "codecs.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_example_is_shown_as_it_is() -> None:
    assert (ROOT / "docs" / "examples" / "my_codec.py").read_text("utf-8") in BLOCKS


def test_the_lines_about_the_container_run() -> None:
    (source,) = [block for block in BLOCKS if "write_container" in block]
    names = {"codec": get_codec("byteplane"), "stream": real_streams()[0]}
    exec(source, names)
    assert (names["words"] == real_streams()[0].words).all()
    assert f"costs {names['overhead_bytes']} bytes beside its payload with `byteplane`" in re.sub(r"\s+", " ", TEXT)


def test_the_limits_are_those_of_the_container() -> None:
    assert (container.MAX_RAW_BYTES, container.MAX_EXPANSION) == (1 << 30, 65_536)
    assert "at most 1 GiB of words, and at most 65,536 times" in TEXT


@pytest.mark.parametrize("name", builtin_names())
def test_every_codec_is_described(name: str) -> None:
    (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |")]
    worst = codec_class(name).max_overhead_bytes
    assert row.endswith("| not promised |" if worst is None else f"| {worst} bytes |")


def test_the_table_is_the_one_that_was_measured() -> None:
    lines = (ROOT / "benchmarks" / "results" / "codecs" / "fp16.md").read_text("utf-8").splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("| codec |"))
    assert "\n".join(lines[first : lines.index("", first)]) in TEXT
