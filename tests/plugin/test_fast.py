"""Points that cannot meet their lossy target by arithmetic: launched last, or with --h2o-fast not at all."""

import json
import shutil
from pathlib import Path

import pytest

from tests.plugin.project import check_failed, failure_of, unwrapped
from tests.plugin.test_launches import CODING
from tests.plugin.test_paired_gate import BenchProject

SWEPT = ("-k", "small and (lossy or bench or regression)", "--h2o-lossy-target=3.3")
FAR, NEAR = ("run_0001_p512_g128_k0.28_b8_lr3.0", "run_0002_p512_g128_k0.28_b8_lr3.2"), "run_0003"
TOLD = (
    "2 of 3 points are not launched (--h2o-fast): they cannot reach a lossy ratio of 3.300 (at most 3.200 by the ratio "
    "that it aims at)"
)


@pytest.fixture
def project(tmp_path: Path) -> BenchProject:
    made = BenchProject(tmp_path)
    made.set_decode(base=60, drop=0.0, spread=0.0001, seed=1)
    return made


@pytest.mark.parametrize("selected", [SWEPT, ("-k", "small and lossy", SWEPT[2])])
def test_they_are_launched_last(project: BenchProject, selected: tuple[str, ...]) -> None:
    result = project.run(*selected)
    assert result.ret == 0
    assert [name[:8] for name in project.launches()] == ["run_0003", "run_0001", "run_0002"]
    assert "not launched" not in unwrapped(result)


@pytest.mark.parametrize("workers", [(), ("-n2",)])
def test_fast_does_not_launch_them_and_is_no_pass_of_theirs(project: BenchProject, workers: tuple[str, ...]) -> None:
    assert project.run(*SWEPT, "--h2o-save=all", *workers).ret == 0
    shutil.rmtree(next(project.path.glob("h2o-runs/2*")))
    project.launch_list.unlink()
    result = project.run(*SWEPT, "--h2o-fast", "--h2o-compare=all", *workers, page=True)
    assert result.ret == 0
    assert [name[:8] for name in project.launches()] == [NEAR]
    assert {word: result.parseoutcomes()[word] for word in ("passed", "skipped")} == {"passed": 3, "skipped": 2}
    assert f"h2o: small: {TOLD}" in unwrapped(result)
    summary = project.summary()
    assert summary["overall_pass"] == "incomplete"
    assert f"preset small: {TOLD}" in summary["incomplete_for"]
    assert TOLD in summary["presets"]["small"]["notes"]
    assert summary["presets"]["small"]["rows"] == 1
    left = [one["item"].split("[")[1] for one in summary["left_out_on_purpose"] if "not launched" in one["why"]]
    assert left == [f"small-{run_id}]" for run_id in FAR]
    folder = project.run_dir()
    entries = json.loads((folder / "small" / "manifest.json").read_text())
    assert [(entry["run_id"], entry["return_code"]) for entry in entries][:2] == [(run_id, None) for run_id in FAR]
    assert entries[0]["not_launched"] == (
        "cannot reach a lossy ratio of 3.300 (at most 3.000 by the ratio that it aims at)"
    )
    assert "not launched: cannot reach a lossy ratio" in (folder / "report.html").read_text()


def test_what_was_not_launched_is_missing_where_the_recording_is_judged_without_it(project: BenchProject) -> None:
    assert project.run(*SWEPT, "--h2o-fast").ret == 0
    project.gate_on_its_run()
    assert project.run(*SWEPT, "--h2o-fast").ret == 0
    assert project.summary()["overall_pass"] == "incomplete"
    shutil.rmtree(project.path / "h2o-runs")
    result = project.run(*SWEPT)
    check_failed(project, result, "test_lossy[small]", *(f"test_bench[small-{run_id}]" for run_id in FAR))
    assert "not launched (--h2o-fast): cannot reach" in failure_of(result, f"test_bench[small-{FAR[0]}]")


def test_a_preset_without_a_point_in_reach_fails_unlaunched(project: BenchProject) -> None:
    result = project.run("-k", "small", "--h2o-fast", "--h2o-lossy-target=3.5")
    assert project.launches() == []
    asked = ("lossy", "decode", "quality", "consistency", "joint")
    check_failed(project, result, *(f"test_{name}[small]" for name in asked))
    told = failure_of(result, "test_lossy[small]")
    assert "no point of small is launched" in told
    assert "3 of 3 points are not launched (--h2o-fast): they cannot reach a lossy ratio of 3.500" in told


@pytest.mark.parametrize(
    ("added", "options", "why"),
    [
        ("", ["--h2o-rule=best-of"], "the rule is best-of"),
        (f"{CODING}targets: {{h2o_lossless_fallback: 1}}", [], "every row must hold a target of h2o_lossless_fallback"),
        ("", ["--h2o-lossy-target=3.0"], ""),
    ],
)
def test_where_their_rows_could_decide_all_are_launched(
    project: BenchProject, added: str, options: list[str], why: str
) -> None:
    """So they are where none is out of reach, as with a target of 3.0 and rows that aim at just that."""
    preset = project.preset("small")
    preset.write_text(preset.read_text() + added)
    result = project.run(*SWEPT, "--h2o-fast", *options)
    assert result.ret == 0
    assert len(project.launches()) == 3
    told = f"all points are launched, also the 2 of 3 points that cannot meet their lossy target: {why}"
    assert (f"h2o: small: {told}" in unwrapped(result)) == bool(why)
    assert not [text for text in project.summary()["incomplete_for"] if "not launched" in text]


def test_a_configuration_is_launched_at_every_length(project: BenchProject) -> None:
    """At 64 tokens nothing is evicted; the same configuration meets the target at 512."""
    preset = project.preset("small").read_text().replace("prompts: 512", "prompts: [64, 512]")
    project.preset("small").write_text(preset)
    project.env["FAKE_ANY_LENGTH"] = "1"
    project.run("-k", "small and bench", "--h2o-fast", "--h2o-lossy-target=3.3")
    assert sorted(name[4:8] for name in project.launches()) == ["0003", "0006"]
