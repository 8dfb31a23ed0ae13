"""Nothing changes silently: what the gates say of recordings and of the embedded bench equals what was recorded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import record  # noqa: E402

WAYS = {"plain": (), "n0": ("-n0",), "n2": ("-n", "2"), "no-xdist": ("-p", "no:xdist")}


def golden(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("way", list(WAYS))
def test_the_gate_on_recordings_says_the_same(way: str, tmp_path: Path) -> None:
    texts = record.recorded_goldens(record.gate(tmp_path / "out", *record.RECORDED, *WAYS[way]))
    assert sorted(texts) == sorted(
        p.name for p in HERE.iterdir() if p.suffix in (".json", ".md", ".txt") and p.name != "embedded.json"
    )
    for name, text in texts.items():
        assert text == golden(name), name


def test_the_embedded_bench_measures_the_same(tmp_path: Path) -> None:
    texts = record.embedded_goldens(record.gate(tmp_path / "out", *record.EMBEDDED))
    assert texts["embedded.json"] == golden("embedded.json")
