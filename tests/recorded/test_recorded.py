"""Nothing changes silently: what the gates say of recordings and of the embedded bench equals what was recorded.

It is the main job of the package too: the gate holds, with the same artifacts in every way of running pytest, and with
the figures of the scripts that it replaces.
"""

import csv
import json
import re
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from tests.plugin.project import MODES, check_no_traceback, run_in_root
from tests.recorded import record

HERE = Path(__file__).parent
FIXTURES = record.ROOT / "fixtures"


def golden(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=[m if m != "n0" else pytest.param(m, marks=pytest.mark.slow) for m in MODES])
def gate(
    request: pytest.FixtureRequest,
    recorded_gate: tuple[pytest.RunResult, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[pytest.RunResult, Path]:
    """The gate on the recordings, run in each way: what it said and its folder."""
    if request.param == "plain":
        return recorded_gate
    return run_in_root(tmp_path_factory.mktemp(request.param) / "out", *record.RECORDED, *MODES[request.param])


def test_the_gate_on_recordings_says_the_same(
    gate: tuple[pytest.RunResult, Path], recorded_gate: tuple[pytest.RunResult, Path]
) -> None:
    result, folder = gate
    check_no_traceback(result)
    assert (result.ret, result.parseoutcomes()["passed"]) == (0, 38)
    texts = record.recorded_goldens(folder)
    assert sorted(texts) == sorted(
        p.name for p in HERE.iterdir() if p.suffix in (".json", ".md", ".txt") and p.name != "embedded.json"
    )
    for name, text in texts.items():
        assert text == golden(name), name
    assert last_lines(result) == last_lines(recorded_gate[0])


def last_lines(result: pytest.RunResult) -> str:
    last = result.stdout.str().rpartition(" h2o ====")[2].partition("\n")[2].partition("\n====")[0].strip()
    return re.sub(r"(artifacts in ).*", r"\1...", last)


def test_what_the_terminal_says(recorded_gate: tuple[pytest.RunResult, Path], snapshot: SnapshotAssertion) -> None:
    told = recorded_gate[0].stdout.str()
    assert "(--h2o-logs); nothing is run\nh2o: model smol_mnn, 144.60 MiB\nh2o: machine " in told
    assert last_lines(recorded_gate[0]) == snapshot


def test_the_artifacts_are_those_of_the_scripts_value_by_value(gate: tuple[pytest.RunResult, Path]) -> None:
    _, folder = gate
    ours, theirs = folder / "target_ratio_v3" / "h2o_metrics.csv", FIXTURES / "recordings" / "h2o_metrics.expected.csv"
    with ours.open(newline="") as file, theirs.open(newline="") as expected:
        assert list(csv.DictReader(file)) == list(csv.DictReader(expected))
    original = json.loads((FIXTURES / "recordings" / "gate.expected.json").read_text())
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["overall_pass"] is True
    assert summary["items"] == {"passed": 38, "failed": 0, "skipped": 2}  # neither quality nor a dump was recorded
    preset = summary["presets"]["target_ratio_v3"]
    assert preset["original"]["averages"] == original["averages"]
    assert preset["original"]["top"] == original["top5"]
    assert preset["original"]["gate"] == original["gates"][0]["expected"]
    assert preset["top"][0]["whole_cache"] == "3.1098"
    manifest = json.loads((folder / "target_ratio_v3" / "manifest.json").read_text())
    recorded = FIXTURES / "recordings" / "smollm2-135m" / "target_ratio_v3" / "manifest.json"
    outputs = [entry.pop("output", None) for entry in manifest]
    assert outputs == [manifest[0]["log"].replace(".log", ".stdout.txt"), *[None] * 26]
    assert manifest == json.loads(recorded.read_text())
    for entry in manifest:
        assert (folder / "target_ratio_v3" / entry["log"]).is_file()
        assert (folder / "target_ratio_v3" / entry["config"]).is_file()
    oracle = json.loads((FIXTURES / "oracle" / "fp16" / "online_grouped_192_8_front2.json").read_text())
    lossless = json.loads((folder / "offline_lossless_front2_grouped_192_8.json").read_text())
    assert {key: lossless[key] for key in oracle} == oracle


def test_run_json_is_last_and_nothing_else_is_left(gate: tuple[pytest.RunResult, Path]) -> None:
    _, folder = gate
    run = json.loads((folder / "run.json").read_text())
    assert run["overall_pass"] is True
    assert run["settings"]["rule"] == {"value": "joint", "origin": "default"}
    assert len(run["digests"]) == 1
    assert all(path.stat().st_mtime_ns <= (folder / "run.json").stat().st_mtime_ns for path in folder.rglob("*"))
    assert not [path for path in folder.rglob("*") if path.name.startswith(".") or path.suffix in (".lock", ".tmp")]


def test_the_embedded_bench_measures_the_same(tmp_path: Path) -> None:
    """Quality nearly so: processors add floats in another order."""
    _, folder = run_in_root(tmp_path / "out", *record.EMBEDDED)
    measured, known = map(json.loads, (record.embedded_goldens(folder)["embedded.json"], golden("embedded.json")))
    assert measured == {
        row: {
            name: pytest.approx(value, rel=0.01) if name.startswith("quality") else value
            for name, value in figures.items()
        }
        for row, figures in known.items()
    }
