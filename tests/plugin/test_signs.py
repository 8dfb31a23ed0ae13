"""A sign of a broken cache in a recorded output fails the gate; allowed by the preset it stands in every summary."""

from __future__ import annotations

import json

from .project import Project


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
