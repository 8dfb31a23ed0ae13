"""What docs/codecs.md says is so, and its example is a codec like any other."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from battery import (
    check_config,
    check_payload_damage,
    check_repr,
    check_round_trip,
    check_threads,
)
from sample_streams import SMALL, cut, real_streams, worst_words

from pytest_h2o.cli.main import main
from pytest_h2o.codecs.base import Codec, Stream
from pytest_h2o.codecs.registry import BUILT_IN, codec_class, codec_names, get_codec, unregister

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "codecs.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_codec_is_described(name: str) -> None:
    (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |")]
    worst = codec_class(name).max_overhead_bytes
    assert row.endswith("| not promised |" if worst is None else f"| {worst} bytes |")


def test_the_table_is_the_one_that_was_measured() -> None:
    lines = (ROOT / "benchmarks" / "results" / "codecs" / "fp16.md").read_text("utf-8").splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("| codec |"))
    assert "\n".join(lines[first : lines.index("", first)]) in TEXT


EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "my_codec.py"


@pytest.fixture(scope="module")
def codec() -> Iterator[Codec]:
    spec = importlib.util.spec_from_file_location("my_codec", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "my_codec", module)
        spec.loader.exec_module(module)
        yield get_codec("my_codec")
    unregister("my_codec")


def test_the_example_is_registered(codec: Codec) -> None:
    assert EXAMPLE.read_text("utf-8") in BLOCKS
    assert "my_codec" in codec_names()
    check_config(codec)
    check_repr(codec)


def test_the_example_passes_the_battery(codec: Codec) -> None:
    for stream in real_streams():
        check_round_trip(codec, stream)
    for words in worst_words().values():
        check_round_trip(codec, Stream(words, "k"))
    check_threads(codec, real_streams()[:2])
    sample = cut(real_streams()[0], 0, 8)
    check_payload_damage(codec, sample, codec.encode(sample), samples=60)


def test_the_example_can_be_measured(codec: Codec, capsys: pytest.CaptureFixture[str]) -> None:
    layer = str(SMALL / "code" / "layer_1")
    assert main(["codecs", "bench", layer, "--rounds", "1", "--peers", "--codecs", codec.id]) == 0
    assert "| my_codec |" in capsys.readouterr().out
