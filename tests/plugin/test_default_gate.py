"""The main job on the recordings and dumps: the same verdict and artifacts in every way of running pytest."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.conftest import MODES, ROOT, Project
from tests.plugin.project import check_no_traceback

EXPECTED = ROOT / "fixtures" / "recordings"


def stable(value: Any) -> Any:
    """A JSON value without what differs from run to run: times, worker counts, the run's own place."""
    if isinstance(value, dict):
        moving = ("encode_s", "decode_s", "elapsed_s", "duration_s", "started", "ended", "run", "workers", "sha256")
        return {k: stable(v) for k, v in value.items() if k not in moving}
    return [stable(v) for v in value] if isinstance(value, list) else value


def read_artifacts(folder: Path, project: Path) -> dict[str, Any]:
    """Every artifact of a run folder by name; lines of the journal sorted, since workers end in any order."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        text = path.read_text(encoding="utf-8").replace(str(project), "PROJECT")
        if name == "journal.jsonl":
            records = [json.loads(line) for line in text.splitlines()]
            # Which process hands over the shared data depends on who came first, and so does which record is the first.
            moving = ("data", "settings")
            found[name] = sorted(json.dumps({k: v for k, v in stable(r).items() if k not in moving}) for r in records)
        elif name == "run.json":
            found[name] = {k: v for k, v in stable(json.loads(text)).items() if k != "settings"}
        elif name == "report.html":
            # The run's own name and its two times are all that may differ.
            text = text.replace(folder.name, "RUN")
            found[name] = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", "MOMENT", text)
        else:
            found[name] = stable(json.loads(text)) if path.suffix == ".json" else text
            if name.startswith("offline_lossless") and path.suffix == ".md":
                found[name] = [line for line in text.splitlines() if " s" not in line]
    return found


@pytest.fixture(scope="module")
def artifacts_seen() -> dict[str, dict[str, Any]]:
    return {}


@pytest.mark.parametrize("mode", MODES)
def test_the_gate_holds_on_the_recordings(mode: str, project: Project, artifacts_seen: dict[str, Any]) -> None:
    result = project.run(*MODES[mode])
    assert result.ret == 0
    assert result.parseoutcomes()["passed"] == 38
    result.stdout.fnmatch_lines(
        [
            "h2o: recorded logs in * (ini key h2o_logs); nothing is run",
            "h2o: model smol_mnn, 144.60 MiB",
            "h2o: machine * cores (where the logs were recorded is not known)",
            "preset or scope           lossy  lossless   decode   verdict   margin",
            "target_ratio_v3           3.380         -  -19.17%      PASS  +12.67%",
            "all_layers_grouped_192_8      -    1.2711        -  reported        -",
            "front2_chunked_128_16         -    1.3652        -  reported        -",
            "front2_grouped_192_8          -    1.4676        -      PASS  +12.89%",
            "front2_upper                  -    1.5300        -  reported        -",
            "target_ratio_v3:",
            "    27 rows of 27 runs",
            "    note: decode speeds are not comparable: warnings of",
            "      run_0001_p512_g128_k0.28_b8_lr3.0 show a kv_len of 2566, *",
            "    warnings of the binary: 917 x Drop stale per-layer pending plan",
            "front2_grouped_192_8:",
            "    its ratio decides",
            "not measured, not asked for: smoke, target_ratio, target_speed, target_speed_v3",
            "gate PASS (rule joint); artifacts in *",
        ]
    )
    summary = project.summary()
    assert summary["overall_pass"] is True
    assert summary["items"] == {"passed": 38, "failed": 0, "skipped": 2}  # neither quality nor a dump was recorded
    artifacts = read_artifacts(project.run_dir(), project.path)
    first = artifacts_seen.setdefault("first", artifacts)
    assert sorted(artifacts) == sorted(first)
    for name, content in artifacts.items():
        assert content == first[name], name


def test_artifacts_are_the_originals_value_by_value(project: Project) -> None:
    assert project.run().ret == 0
    folder = project.run_dir()
    ours, theirs = folder / "target_ratio_v3" / "h2o_metrics.csv", EXPECTED / "h2o_metrics.expected.csv"
    with ours.open(newline="") as file, theirs.open(newline="") as expected:
        assert list(csv.DictReader(file)) == list(csv.DictReader(expected))
    original = json.loads((EXPECTED / "gate.expected.json").read_text())
    preset = project.summary()["presets"]["target_ratio_v3"]
    assert preset["original"]["averages"] == original["averages"]
    assert preset["original"]["top"] == original["top5"]
    assert preset["original"]["gate"] == original["gates"][0]["expected"]
    assert preset["top"][0]["whole_cache"] == "3.1098"
    manifest = json.loads((folder / "target_ratio_v3" / "manifest.json").read_text())
    assert manifest == json.loads((EXPECTED / "smollm2-135m" / "target_ratio_v3" / "manifest.json").read_text())
    for entry in manifest:
        assert (folder / "target_ratio_v3" / entry["log"]).is_file()
        assert (folder / "target_ratio_v3" / entry["config"]).is_file()
    oracle = json.loads((ROOT / "fixtures" / "oracle" / "fp16" / "online_grouped_192_8_front2.json").read_text())
    lossless = json.loads((folder / "offline_lossless_front2_grouped_192_8.json").read_text())
    assert {key: lossless[key] for key in oracle} == oracle


def test_a_run_folder_can_be_gated_on_again(project: Project) -> None:
    assert project.run().ret == 0
    first = project.run_dir()
    project.run("--h2o-logs", str(first)).stdout.fnmatch_lines(["gate PASS*"])
    (second,) = (run for run in project.runs() if run != first)
    for name in ("h2o_metrics.csv", "manifest.json"):
        assert (second / "target_ratio_v3" / name).read_text() == (first / "target_ratio_v3" / name).read_text()


def test_run_json_is_last_and_nothing_else_is_left(project: Project) -> None:
    assert project.run().ret == 0
    folder = project.run_dir()
    run = json.loads((folder / "run.json").read_text())
    assert run["overall_pass"] is True
    assert run["settings"]["rule"] == {"value": "joint", "origin": "default"}
    assert len(run["digests"]) == 1
    assert all(path.stat().st_mtime_ns <= (folder / "run.json").stat().st_mtime_ns for path in folder.rglob("*"))
    assert not [path for path in folder.rglob("*") if path.name.startswith(".") or path.suffix in (".lock", ".tmp")]


@pytest.mark.parametrize(
    ("words", "collected"),
    [
        ("b8", 9),
        ("grouped", 4),
        ("target_ratio_v3 and not bench", 5),
        ("lossy", 1),
        ("run_0003", 1),
        ("front2_upper", 2),
    ],
)
def test_words_select_presets_points_and_scopes(words: str, collected: int, project: Project) -> None:
    result = project.run("-k", words, "--collect-only", "-q")
    assert sum("::" in line for line in result.outlines) == collected


def test_part_of_the_gate_is_incomplete_and_not_a_pass(project: Project) -> None:
    result = project.run("-k", "run_0003")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["incomplete: preset target_ratio_v3 was not held against the lossy target", "gate INCOMPLETE*"]
    )
    assert project.summary()["overall_pass"] == "incomplete"


def test_a_preset_without_a_recording_fails_when_it_is_asked_for(project: Project) -> None:
    result = project.run("-k", "target_speed_v3 and lossy")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*test_lossy[[]target_speed_v3[]]*",
            "not measured: target_speed_v3",
            "  where: no recording of it in *",
            "  next: --h2o-bench PATH --h2o-base-config FILE runs it; --h2o-logs DIR reads logs of it",
        ]
    )


def test_a_project_without_an_upper_bound_has_no_such_item(project: Project) -> None:
    """pytest makes an item of an empty list, which would be about no scope at all."""
    scopes = project.path / "gates" / "scopes.yaml"
    text = scopes.read_text(encoding="utf-8")
    start, end = text.index("  front2_upper:"), text.index("  front2_chunked_128_16:")
    scopes.write_text(text[:start] + text[end:], encoding="utf-8")
    result = project.run("-k", "front2_grouped or upper_bound")
    check_no_traceback(result)
    assert result.ret == 0
    assert result.parseoutcomes()["passed"] == 2
    assert "skipped" not in result.parseoutcomes()
