"""A sign of a broken cache in a recorded output fails the gate; allowed by the preset it stands in every summary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.samples import preset_of

from .project import Project, check_no_traceback, failure_of


def test_a_sign_fails_the_gate_and_what_is_allowed_is_told(project: Project) -> None:
    printed = project.copy_recordings() / "logs" / "run_0001_p512_g128_k0.28_b8_lr3.0.stdout.txt"
    printed.write_text(printed.read_text() + "[H2O-LOSSLESS] scatter restore failed: layer=1\n")
    only = ("-k", "test_bench or test_lossy")
    failed = project.run(*only)
    assert failed.ret == 1
    assert "first cause: the config of the model has no layer_nums" in failed.stdout.str()

    preset = project.preset()
    preset.write_text(preset.read_text() + "allow_signs: {scatter_restore: 3}\n")
    (first,) = project.runs()
    allowed = project.run(*only)
    assert allowed.parseoutcomes().get("failed") is None
    told = "allow_signs: scatter_restore, at most 3 x scatter restore failed a launch; most that came: 1"
    (folder,) = (run for run in project.runs() if run != first)
    assert told in (folder / "summary.md").read_text()
    assert told in json.loads((folder / "summary.json").read_text())["presets"]["target_ratio_v3"]["notes"]


MODES = ("probe", "store", "store_no_layer_nums", "target_ratio_v3")


@pytest.fixture(scope="module")
def engine_gate(engine_recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, pytest.RunResult]:
    """The gate on what a later engine wrote in every mode, each with a preset of its own settings."""
    project = Project(tmp_path_factory.mktemp("engine_gate"))
    for name in MODES:
        project.preset(name).write_text(json.dumps(preset_of(engine_recordings / name)))
    project.write_ini(h2o_decode_baseline="none")
    only = " or ".join(f"test_{test}" for test in ("bench", "lossy"))
    return project, project.run(f"--h2o-logs={engine_recordings}", "-k", only)


def test_every_mode_of_a_healthy_engine_is_sound(engine_gate: tuple[Project, pytest.RunResult]) -> None:
    project, result = engine_gate
    check_no_traceback(result)
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["failed"]) == (2 + 2 + 27 + 3, 3), result.stdout.str()
    assert all("store_no_layer_nums" in item for item in project.failed())


def test_a_layer_counter_that_drifts_shows_in_the_table_alone(engine_gate: tuple[Project, pytest.RunResult]) -> None:
    """No output of the bench was kept; its lossless ratio of 5.8 and 8.5 looks splendid."""
    _, result = engine_gate
    failure = failure_of(result, "test_bench[store_no_layer_nums-run_0001_p512_g64_k0.3_b8_lr3.0]")
    assert "more blocks of the cache were restored than its layers can have coded" in failure
    assert "came: 162 hits and misses of the decode cache beside h2o_lossless 5.829 ± 1.185" in failure
    assert "expected: at most 128: 32 layers, 64 tokens, one block a layer and 16 tokens" in failure
    assert "next: first cause: the config of the model has no layer_nums" in failure
    assert "265.67 hits and misses" in result.stdout.str()
