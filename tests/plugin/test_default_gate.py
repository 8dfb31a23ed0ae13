"""Which part of the gates runs on the recordings, and what is said of the part that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.project import Project, check_no_traceback


def test_a_run_folder_can_be_gated_on_again(recorded_gate: tuple[pytest.RunResult, Path], project: Project) -> None:
    _, first = recorded_gate
    result = project.run("--h2o-logs", str(first))
    result.stdout.fnmatch_lines(["gate PASS*"])
    for name in ("h2o_metrics.csv", "manifest.json"):
        ours, theirs = (folder / "target_ratio_v3" / name for folder in (project.run_dir(), first))
        assert ours.read_text() == theirs.read_text()


@pytest.mark.parametrize(
    ("words", "collected"),
    [
        ("b8", 9),
        ("target_ratio_v3 and not bench", 5),
        ("front2_upper", 2),
    ],
)
def test_words_select_presets_points_and_scopes(words: str, collected: int, project: Project) -> None:
    """Collecting alone writes nothing."""
    result = project.run("-k", words, "--collect-only", "-q")
    assert sum("::" in line for line in result.outlines) == collected
    assert project.runs() == []


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
