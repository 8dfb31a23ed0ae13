"""What ``analyze`` and ``eval`` do not let decide, and what they say beside their verdict."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from pytest_h2o.cli.main import main
from tests.cli.test_commands import FIXTURES, ORACLE, RECORDED, analyze, read_csv

ONLINE = json.loads((ORACLE / "online_grouped_192_8_front2.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("changes", "flags", "message"),
    [
        ({"entry_mode": "aggregate"}, [], "an upper bound cannot decide\n"),
        (
            {"skipped_entries": 400, "skip_reasons": {"x": 400}},
            [],
            "400 of 832 entries of the online simulation could ",
        ),
        (None, [], "this is no lossless result that can be read\n"),
        ({}, ["--model-layers=0"], "--model-layers is out of range\n"),
        ({}, ["--h2o-layer-start=-1"], "--h2o-layer-start is out of range\n"),
    ],
)
def test_analyze_refuses_results_that_cannot_decide(
    changes: dict[str, object] | None,
    flags: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    online = tmp_path / "online.json"
    broken = {"lossless_ratio": 5, "skipped_entries": 400}
    online.write_text(json.dumps(broken if changes is None else {**ONLINE, **changes}))
    source = ["--csv", str(FIXTURES / "recordings" / "h2o_metrics.expected.csv"), f"--out={tmp_path / 'a.md'}"]
    command = ["analyze", *source, f"--offline-lossless-online-json={online}", "--decode-baseline=56.02", *flags]
    assert main(command) == 2
    assert capsys.readouterr().err.startswith(f"pytest-h2o analyze: {message}")
    assert not (tmp_path / "a.md").exists()


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({}, "online simulation: the file does not say whether its streams were decoded again"),
        (
            {"encoded_streams": 60, "verified_streams": 0},
            "online simulation: not decoded, 0 of 60 streams were compared",
        ),
        (
            {"skipped_entries": 400},
            "online simulation: 400 of 832 entries could not be read and are left out (--allow-skips)",
        ),
    ],
)
def test_analyze_says_what_a_result_does_not_show(changes: dict[str, object], note: str, tmp_path: Path) -> None:
    online = tmp_path / "online.json"
    online.write_text(json.dumps({**ONLINE, **changes}))
    flags = [f"--offline-lossless-online-json={online}", "--allow-skips", "--decode-baseline=56.02"]
    _, analysis = analyze(tmp_path, *flags, "--model-layers=30")
    assert note in analysis["notes"]  # type: ignore[operator]
    assert "decode baseline: 56.02 tok/s (--decode-baseline)" in analysis["notes"]  # type: ignore[operator]
    assert analysis["whole_cache"][0] == "3.1098"  # type: ignore[index]
    text = (tmp_path / "analysis.md").read_text(encoding="utf-8")
    assert f"- note: {note}\n" in text
    assert "| 4.9604 | 3.1098 |" in text


@pytest.mark.parametrize("column", ["h2o_lossy", "speed(tok/s)"])
def test_analyze_refuses_figures_that_are_no_numbers(
    column: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_csv(FIXTURES / "recordings" / "h2o_metrics.expected.csv")
    rows[3][column] = "inf ± 0.000" if column == "h2o_lossy" else "100.00 ± 1.00<br>inf ± 1.00"
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert main(["analyze", f"--csv={tmp_path / 'rows.csv'}", f"--out={tmp_path / 'a.md'}", "--lossy-target=100"]) == 2
    assert capsys.readouterr().err.startswith(
        "pytest-h2o analyze: a row has a deciding figure that is no finite number\n"
    )


def test_eval_names_its_own_flag_where_entries_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, dump = tmp_path / "run", tmp_path / "dump"
    shutil.copytree(RECORDED, run)
    shutil.unpack_archive(FIXTURES / "dumps" / "fp16.zip", dump)
    short = next(iter(sorted(dump.glob("*/layer_0/k_*.bin"))))
    short.write_bytes(short.read_bytes()[:-1])
    assert main(["eval", str(run), str(dump)]) == 2
    error = capsys.readouterr().err
    assert "1 of 432 entries of the online simulation could not be read\n" in error
    assert "--allow-skips takes the ratio over the rest on purpose" in error
    assert "--h2o-" not in error
    assert main(["eval", str(run), str(dump), "--allow-skips"]) == 0
