"""What a run of GitHub Actions is told, and JUnit XML: by the controller alone, escaped, below the limits."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.report.artifacts import RunRecords
from pytest_h2o.report.summary import Reason
from pytest_h2o.report.terminal import (
    STEP_SUMMARY_LIMIT_BYTES,
    Place,
    append_step_summary,
    cut_step_summary,
    place_in_workspace,
    render_annotations,
    tell_github,
)
from tests.report.conftest import GateRun


def test_a_failing_run_says_each_item_once(gate_run: GateRun, snapshot: SnapshotAssertion) -> None:
    """Each with the line of its test, escaped."""
    annotations = [line for line in gate_run.stdout.splitlines() if "::error" in line]
    lines = (gate_run.project / "gates" / "test_sweep.py").read_text().splitlines()
    placed = [re.sub(r"line=(\d+)", lambda found: lines[int(found[1]) - 1], line) for line in annotations]
    assert placed == snapshot


def test_the_summary_of_the_step_is_that_of_the_run(gate_run: GateRun) -> None:
    assert gate_run.step_summary.read_bytes() == (gate_run.run_dir / "summary.md").read_bytes()


def test_junit_has_the_main_figures(gate_run: GateRun, snapshot: SnapshotAssertion) -> None:
    cases = ElementTree.parse(gate_run.junit).getroot().iter("testcase")
    found = {case.get("name"): {p.get("name"): p.get("value") for p in case.iter("property")} for case in cases}
    assert found["test_lossy[target_ratio_v3]"] == snapshot
    assert found["test_lossless[front2_grouped_192_8]"]["h2o.lossless_ratio"] == "1.467564578551945"
    assert found["test_roundtrip[front2_grouped_192_8]"] == {}


def test_annotations_are_escaped() -> None:
    failed = [Reason("a,b:c%\n::error::x", "50 % of\r\n::warning::this\x1b[31m")]
    assert render_annotations(failed, {"a,b:c%\n::error::x": Place("d,e.py", 3)}) == [
        "::error file=d%2Ce.py,line=3,title=a%2Cb%3Ac%25%0A%3A%3Aerror%3A%3Ax::50 %25 of%0D%0A::warning::this\\x1b[31m"
    ]
    assert render_annotations([Reason("x", "y")], {}) == ["::error title=x::y"]


def test_many_failures_are_cut_and_counted() -> None:
    lines = render_annotations([Reason(f"i{n}", "w") for n in range(60)], {})
    assert len(lines) == 51
    assert lines[-1] == "::error title=pytest-h2o::10 more items failed"


def test_files_are_named_from_the_workspace(tmp_path: Path) -> None:
    assert place_in_workspace(tmp_path / "a" / "b.py", 1, str(tmp_path)) == Place("a/b.py", 1)
    assert place_in_workspace(tmp_path / "b.py", None, str(tmp_path / "a")) == Place(str(tmp_path / "b.py"), None)
    assert place_in_workspace(tmp_path / "b.py", 1, None) == Place(str(tmp_path / "b.py"), 1)
    assert place_in_workspace(tmp_path / "..b.py", 1, str(tmp_path)) == Place("..b.py", 1)


def test_a_workspace_may_be_a_link_and_so_may_a_file_in_it(tmp_path: Path) -> None:
    """The step stands in the real folder, the variable names the link; or the other way round."""
    (tmp_path / "real" / "gates").mkdir(parents=True)
    (tmp_path / "shared.py").touch()
    (tmp_path / "real" / "gates" / "linked.py").symlink_to(tmp_path / "shared.py")
    link = tmp_path / "link"
    link.symlink_to("real")
    for root, workspace in ((tmp_path / "real", link), (link, tmp_path / "real")):
        assert place_in_workspace(root / "gates" / "a.py", 1, str(workspace)) == Place("gates/a.py", 1)
    assert place_in_workspace(link / "gates" / "linked.py", 1, str(link)) == Place("gates/linked.py", 1)


NOTE = "**Cut here: GitHub takes no more than 1 MiB a step. All of it is in summary.md of the run folder.**"


def test_a_long_summary_is_cut_at_a_line_and_says_so(tmp_path: Path) -> None:
    text = "".join(f"| line {n} | ä |\n" for n in range(100_000))
    path = tmp_path / "step.md"
    path.write_text("before\n")
    append_step_summary(path, text)
    written = path.read_bytes()
    assert STEP_SUMMARY_LIMIT_BYTES - 100 < len(written) < STEP_SUMMARY_LIMIT_BYTES
    *lines, _, note = written.decode("utf-8").splitlines()
    assert note == NOTE
    assert lines[0] == "before"
    assert lines[-1].endswith("| ä |")
    append_step_summary(path, text)
    assert path.stat().st_size < STEP_SUMMARY_LIMIT_BYTES


@pytest.mark.parametrize("room", [-5, 0, 10, len(NOTE) + 2])
def test_without_room_nothing_is_written(room: int) -> None:
    assert cut_step_summary("x\n" * 200, room) == ""
    assert cut_step_summary("", max(room, 0)) == ""


def test_outside_of_github_nothing_is_done(records: RunRecords, tmp_path: Path) -> None:
    assert tell_github({}, records.summary, {}, tmp_path) == []
    assert tell_github({"GITHUB_ACTIONS": "false"}, records.summary, {}, tmp_path) == []


def test_a_summary_that_cannot_be_written_is_told(records: RunRecords, tmp_path: Path) -> None:
    lines = tell_github({"GITHUB_STEP_SUMMARY": str(tmp_path)}, records.summary, {}, tmp_path)
    assert lines == [
        "the summary of the step cannot be written",
        f"  where: GITHUB_STEP_SUMMARY {tmp_path}",
        "  came: Is a directory",
    ]
