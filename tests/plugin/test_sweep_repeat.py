"""Rows that only exact columns are wanted of are launched with fewer repeats, where a check shows that these stay."""

import json
import shutil
from pathlib import Path

import pytest

from pytest_h2o.bench.rows import COLUMN_DECIMALS, DETERMINISTIC_COLUMNS
from pytest_h2o.cli.main import main
from tests.plugin.project import failure_of, unwrapped
from tests.plugin.test_paired_gate import PRESET, BenchProject

VALUES = dict(zip(DETERMINISTIC_COLUMNS, (0.3152, 3.172, 1.377, 0.313, 0.0489, 0.3152, 1.36, 0.99, 0.0), strict=True))
ALIKE = {name: f"{value:.{COLUMN_DECIMALS[name]}f} ± {0:.{COLUMN_DECIMALS[name]}f}" for name, value in VALUES.items()}
"""Exact columns of a launch whose repeats are all alike."""

SWEEP = ("-k", "small and (lossy or bench)")


@pytest.fixture
def short(tmp_path: Path) -> BenchProject:
    """Six points, of which the engine can tell three apart."""
    project = BenchProject(tmp_path)
    preset = PRESET.replace("h2o_keep_ratios: 0.28", "h2o_keep_ratios: [0.28, 0.3]")
    project.preset("small").write_text(f"{preset}repeat: 3\nsweep_repeat: 1\n")
    project.env |= {"FAKE_CELLS": json.dumps(ALIKE), "FAKE_SAID": str(tmp_path / "said.txt")}
    project.set_decode(base=60, drop=0.0, spread=0.0001, seed=1)
    return project


def commands(project: BenchProject) -> list[str]:
    """The flags of all launches."""
    return (project.path / "said.txt").read_text().splitlines()


def repeats(project: BenchProject) -> list[str]:
    """Number and repeats of each launch of the sweep, in their order."""
    swept = (line.split() for line in commands(project) if "/decode/" not in line)
    return [f"{Path(words[1]).stem[7:8]}:{words[words.index('-rep') + 1]}" for words in swept]


@pytest.mark.parametrize("workers", [(), ("-n2",)])
def test_the_first_has_all_repeats_another_proves_fewer_and_pairs_have_all(
    short: BenchProject, workers: tuple[str, ...]
) -> None:
    result = short.run("-k", "small and not consistency or front2_grouped", *workers)
    assert result.ret == 0
    assert sorted(repeats(short)) == ["1:3", "2:1", "3:1", "4:1"]
    head = "h2o: small: rows get 1 of 3 repeats if a check shows that exact columns stay (sweep_repeat)"
    assert head in unwrapped(result)
    preset = short.summary()["presets"]["small"]
    (note,) = (n for n in preset["notes"] if n.startswith("rows have 1 of 3 repeats, and speeds of no verdict"))
    assert note.endswith(
        ": run_0004_p512_g128_k0.3_b8_lr3.0 has with 1 every deterministic column that "
        "run_0001_p512_g128_k0.28_b8_lr3.0 has with 3"
    )
    pairs = [line for line in commands(short) if "/decode/" in line]
    assert pairs
    assert all("-rep 3" in line for line in pairs)
    entries = json.loads((short.run_dir() / "small" / "manifest.json").read_text())
    fewer = {entry["run_id"][7]: (entry.get("repeat"), entry.get("sweep_repeat")) for entry in entries}
    assert fewer == {n: (None, None) if n == "1" else (3, 1) for n in "123456"}
    assert preset["rules"] == {"joint": "PASS", "best-of": "NOT TIMED"}
    (subject,) = (
        one
        for one in json.loads((short.run_dir() / "figures.json").read_text())["record"]["subjects"]
        if one["name"] == "small"
    )
    assert subject["fingerprint"]["sweep_repeat"] == "1 of 3"  # timings are not compared with those of all repeats


DEPENDS = {**ALIKE, "h2o_keep": "0.3153 ± 0.0000"}
UNLIKE = {**ALIKE, "h2o_keep": "0.3152 ± 0.0001"}


@pytest.mark.parametrize(
    ("cells", "at_1", "launched", "told"),
    [
        (ALIKE, DEPENDS, ["1:3", "2:3", "3:3", "4:1", "4:3"], "gave h2o_keep 0.3152 ± 0.0000 and 0.3153 ± 0.0000"),
        (UNLIKE, UNLIKE, ["1:3", "2:3", "3:3", "4:3"], "has h2o_keep 0.3152 ± 0.0001"),
    ],
)
def test_columns_that_depend_on_the_repeats_get_all(
    short: BenchProject, cells: dict[str, str], at_1: dict[str, str], launched: list[str], told: str
) -> None:
    """Where one launch shows it already, none is made to find it out."""
    short.env |= {"FAKE_CELLS": json.dumps(cells), "FAKE_CELLS_AT_1": json.dumps(at_1)}
    result = short.run(*SWEEP)
    assert result.ret == 0
    assert sorted(repeats(short)) == launched
    said = unwrapped(result)
    assert "all rows have 3 repeats, and none 1 (sweep_repeat): columns depend on them: run_0001" in said
    assert told in said


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("--h2o-decode-baseline=60", "decode is held against the speed of rows (--h2o-decode-baseline)"),
        ("--h2o-target=decode_tok_per_s=1", "a target holds what a launch times: decode speed"),
        ("--h2o-compare=rolling:5", "timings are held against earlier runs"),
        ("--h2o-set=sweep_repeat=3", ""),
    ],
)
def test_where_a_timing_of_rows_is_judged_they_get_all_repeats(short: BenchProject, option: str, why: str) -> None:
    result = short.run("-k", "small and lossy", option)
    assert result.ret == 0
    assert {one[-1] for one in repeats(short)} == {"3"}
    assert (f"h2o: small: sweep_repeat: 1 is not used: {why}" in unwrapped(result)) == bool(why)


def test_rows_of_fewer_repeats_are_no_measurement_of_speed(
    short: BenchProject, capsys: pytest.CaptureFixture[str]
) -> None:
    assert short.run(*SWEEP, "--h2o-set=h2o_keep_ratios=0.28").ret == 0
    assert repeats(short) == ["1:3", "1:1", "2:1", "3:1"]  # nothing to fold: the first is launched again
    kept = short.gate_on_its_run(h2o_set="h2o_keep_ratios=0.28")
    refused = "was launched with 1 of 3 repeats (sweep_repeat), for its exact columns alone: its decode"
    result = short.run("-k", "small and (lossy or decode)", "--h2o-decode-baseline=60")
    assert set(short.failed()) == {"test_decode[small]"}
    assert refused in failure_of(result, "test_decode[small]")
    shutil.rmtree(short.path / "h2o-runs")
    result = short.run("-k", "small and joint", "--h2o-decode-baseline=none", "--h2o-target=decode_tok_per_s=1")
    assert refused in failure_of(result, "test_joint[small]")
    told = short.path / "told.md"
    main(["analyze", "--csv", str(kept / "small/h2o_metrics.csv"), "--decode-baseline", "60", "--out", str(told)])
    assert refused in told.read_text()
    assert "FAIL" in capsys.readouterr().out
