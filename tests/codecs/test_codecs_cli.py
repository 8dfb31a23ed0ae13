"""The command: what it lists, writes and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sample_streams import SMALL

from pytest_h2o.cli import codecs as chart
from pytest_h2o.cli import codecs as measure
from pytest_h2o.cli.main import main
from pytest_h2o.codecs import registry
from pytest_h2o.errors import RoundTripError, UsageError

LAYER = str(SMALL / "code" / "layer_1")
QUICK = ["codecs", "bench", LAYER, "--rounds", "1", "--peers"]


def test_the_list_has_every_codec(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["codecs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(registry.codec_names())
    at = lines.index("zstd            One zstd frame of the raw words.")
    assert lines[at + 1] == "                level=3"


def test_a_codec_that_cannot_be_loaded_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "BUILT_IN", {**registry.BUILT_IN, "gone": "pytest_h2o.codecs.gone:Gone"})
    assert main(["codecs"]) == 2
    output = capsys.readouterr()
    assert output.err == (
        "pytest-h2o codecs: codec 'gone' cannot be loaded\n  where: pytest_h2o.codecs.gone\n"
        "  came: No module named 'pytest_h2o.codecs.gone'\n"
    )
    assert "zstd" in output.out
    assert main(QUICK) == 0
    assert "- gone: codec 'gone' cannot be loaded" in capsys.readouterr().out


def test_bench_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out_json, out_md = tmp_path / "out.json", tmp_path / "out.md"
    chosen = ["--codecs", "byteplane", "zstd:level=1", "--chunk", "100", "--framing", "16"]
    assert main([*QUICK, *chosen, "--out-json", str(out_json), "--out-md", str(out_md)]) == 0
    assert out_md.read_text() == capsys.readouterr().out
    summary = json.loads(out_json.read_text())
    assert summary["schema"] == "pytest-h2o/codecs-bench/1"
    assert summary["dump"] == "layer_1"
    assert [c["name"] for c in summary["contenders"]] == ["byteplane", "zstd:level=1"]
    assert summary["settings"] == {
        "chunk_tokens": 100,
        "framing_bytes": 16,
        "front_layers": 2,
        "rounds": 1,
        "slow_rounds": 1,
    }
    assert summary["contenders"][0]["online"]["all"]["kv"] > 1.1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.md"]


def test_a_result_is_not_overwritten_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out_md = tmp_path / "out.md"
    out_md.write_text("kept")
    arguments = [*QUICK, "--codecs", "zstd", "--out-md", str(out_md)]
    assert main(arguments) == 2
    assert capsys.readouterr().err == (
        f"pytest-h2o codecs: a file that exists would be overwritten\n  where: {out_md}\n"
        "  next: --overwrite replaces it; or choose another output\n"
    )
    assert out_md.read_text() == "kept"
    assert main([*arguments, "--overwrite"]) == 0
    assert out_md.read_text().startswith("# Codecs on layer_1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["codecs", "bench", "/nowhere", "--peers"],
            "pytest-h2o codecs: the dump root does not exist\n",
        ),
        ([*QUICK, "--codecs", "zst"], "pytest-h2o codecs: there is no codec 'zst'\n"),
        (
            [*QUICK, "--codecs", "zstd", "zstd:level=3"],
            "pytest-h2o codecs: a codec is asked for twice\n  came: zstd:level=3\n",
        ),
        ([*QUICK, "lz5"], "pytest-h2o codecs: there is no peer 'lz5'\n  expected: blosc2, pcodec, zipnn, lz4\n"),
        ([*QUICK, "--chunk", "0"], "pytest-h2o codecs: chunk tokens is too small\n  came: 0\n  expected: at least 1\n"),
        ([*QUICK, "--rope-theta", "-1"], "pytest-h2o codecs: --rope-theta is impossible\n  came: -1.0\n"),
        ([*QUICK, "--codecs"], None),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], message: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if message is None:
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
    else:
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith(message)


def test_a_chart_without_matplotlib_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(measure, "measure", lambda *_: pytest.fail("measured first"))
    assert main([*QUICK, "--out-svg", str(tmp_path / "chart.svg")]) == 2
    assert capsys.readouterr().err.startswith("pytest-h2o codecs: the chart needs matplotlib, which is not installed\n")
    with pytest.raises(UsageError, match=r"pip install matplotlib, or leave --out-svg out"):
        chart.check_chart()


def test_other_bits_are_a_failure_and_not_bad_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RoundTripError("zstd decoded to other bits")

    monkeypatch.setattr(measure, "measure", fail)
    assert main([*QUICK, "--codecs", "zstd"]) == 1
    assert capsys.readouterr().err == "pytest-h2o codecs: zstd decoded to other bits\n"


def test_libraries_are_held_to_one_thread() -> None:
    """In a process of its own, where numpy is not loaded yet."""
    source = (
        "import os, sys; from pytest_h2o.cli import main; assert 'numpy' not in sys.modules\n"
        f"assert main({[*QUICK, '--codecs', 'zstd']!r}) == 0\n"
        "assert os.environ['OPENBLAS_NUM_THREADS'] == '1'"
    )
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "interleaved rounds, one thread." in run.stdout
