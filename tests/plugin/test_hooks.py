"""What plugins add by hooks: metrics with their targets, sections of the reports."""

import json

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.cli.main import main
from tests.plugin.project import Project, add_plugin, check_no_traceback, verdict
from tests.report.html_checks import check_page

GATE = '''

def test_first_token(h2o_sweep, h2o_targets):
    """The prompt is read soon enough."""
    assert h2o_sweep.best("first_token_s") <= h2o_targets.metric("first_token_s")
'''
SELECT = ("-k", "target_ratio_v3 and (first_token or lossy)", "--h2o-lossy-target=2.9")


METRIC = "from my_metric import pytest_h2o_metrics"
SECTION = "from my_section import pytest_h2o_report_sections"


def test_a_metric_is_gated_and_kept(project: Project, snapshot: SnapshotAssertion) -> None:
    """By workers too."""
    add_plugin(project, METRIC, gate=GATE)
    result = project.run(*SELECT, "-n2")
    assert result.ret == 0, result.outlines
    lossy, own = project.summary()["presets"]["target_ratio_v3"]["verdicts"]
    assert lossy["metric"] == "h2o_lossy"
    assert own == snapshot(name="verdict")
    record = json.loads((project.run_dir() / "figures.json").read_text())["record"]
    (subject,) = record["subjects"]
    assert min(row["first_token_s"] for row in subject["figures"].values()) == pytest.approx(1.357, abs=5e-4)
    assert record["metrics"]["first_token_s"] == {"unit": "s", "better": "lower", "exact": False}
    row = "| time to the first token | 1.357 s | &lt;= 2.000 s | 0.643 s |"
    assert row in (project.run_dir() / "summary.md").read_text()


def test_a_missed_metric_is_diagnosed(
    project: Project, capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion
) -> None:
    add_plugin(project, METRIC, gate=GATE)
    result = project.run(*SELECT, "--h2o-set=targets.metrics.first_token_s=1.35", page=True)
    assert verdict(project, result, "test_first_token[target_ratio_v3]") == snapshot
    # Rendered where nobody knows the plugin: the same to the last byte.
    reports = [project.run_dir() / name for name in ("report.html", "summary.md")]
    written = [path.read_bytes() for path in reports]
    for path in reports:
        path.unlink()
    assert main(["report", str(project.run_dir())]) == 0
    capsys.readouterr()
    assert [path.read_bytes() for path in reports] == written


def test_a_worse_metric_may_be_allowed_by_name(project: Project) -> None:
    """And a target that no item holds leaves the verdict incomplete."""
    add_plugin(project, METRIC)
    assert project.run("-k", "target_ratio_v3 and lossy", "--h2o-save=main").ret == 0
    missing = "preset target_ratio_v3 was not held against the target of first_token_s"
    assert missing in project.summary()["incomplete_for"]
    asked = ("-k", "target_ratio_v3 and regression", "--h2o-compare=main", "--h2o-compare-fail=first_token_s:5")
    assert project.run(*asked).ret == 0
    unknown = project.run(*asked[:-1], "--h2o-compare-fail=first_token:5")
    assert unknown.ret == 4
    assert "did you mean first_token_s" in "\n".join(unknown.errlines + unknown.outlines)


def test_a_target_of_what_cannot_be_made_fails_and_the_run_is_kept(project: Project) -> None:
    metric = "Metric('mm', 'm m', 'higher', target=1.0, value=lambda row: [2])"
    add_plugin(project, "from pytest_h2o import Metric", f"def pytest_h2o_metrics(config): return [{metric}]")
    result = project.run("-k", "target_ratio_v3 and (joint or lossy)", "--h2o-lossy-target=2.9", page=True)
    assert result.ret == 1, result.outlines
    check_no_traceback(result)
    why = "the metric mm cannot be made of a row"
    preset = project.summary()["presets"]["target_ratio_v3"]
    assert f"m m is missing in 27 of 27 rows: {why} (TypeError: [2] is no number)" in preset["notes"]
    assert preset["rules"]["joint"] == "FAIL"
    subjects = json.loads((project.run_dir() / "figures.json").read_text())["record"]["subjects"]
    (subject,) = (one for one in subjects if one["kind"] == "preset")
    assert not any("mm" in row for row in subject["figures"].values())
    assert any("h2o_lossy" in row for row in subject["figures"].values())


def test_a_file_that_is_gone_at_the_end_fails_the_run_and_the_rest_is_kept(project: Project) -> None:
    """As when a bench removes its own config."""
    (config,) = (project.copy_recordings() / "configs").glob("run_0003_*.json")
    add_plugin(
        project,
        "import pytest",
        "@pytest.hookimpl(tryfirst=True)",
        f"def pytest_sessionfinish(): pathlib.Path({str(config)!r}).unlink()",
    )
    result = project.run("-k", "target_ratio_v3 and lossy", "--h2o-lossy-target=2.9")
    assert result.ret == 1, result.outlines
    check_no_traceback(result)
    summary = project.summary()
    why = f"a recorded file cannot be copied into the run folder: {config}: No such file or directory"
    assert summary["failed"] == [{"item": "target_ratio_v3", "why": why}]
    assert summary["overall_pass"] is False
    assert (project.run_dir() / "run.json").exists()
    assert len(list((project.run_dir() / "target_ratio_v3" / "configs").iterdir())) == 26


HOSTILE = "<script>pwned()</script> | ![x](y)"


def test_a_section_stands_in_both_reports(project: Project, snapshot: SnapshotAssertion) -> None:
    add_plugin(
        project,
        SECTION + " as deciding",
        "from pytest_h2o.report.sections import ReportSection, SectionTable",
        f"EVIL = {HOSTILE!r}",
        "def pytest_h2o_report_sections(config):",
        "    table = SectionTable(EVIL, [EVIL], [[EVIL]])",
        "    return [*deciding(config), ReportSection(EVIL, lambda summary: [EVIL, [EVIL, 'second'], table])]",
    )
    assert project.run(*SELECT, page=True).ret == 0
    text = (project.run_dir() / "report.html").read_text()
    document = check_page(text)
    assert "<script" not in text
    assert [h.text for h in document.all("h2")][-4:-2] == ["Deciding rows", HOSTILE]
    assert project.summary()["sections"] == snapshot
    markdown = (project.run_dir() / "summary.md").read_text()
    assert "| target_ratio_v3 | lossy ratio | run_0003_p512_g128_k0.28_b8_lr3.4 |" in markdown
    assert "<script" not in markdown
    assert "![x](" not in markdown


def test_a_section_that_cannot_be_made_is_told_and_is_no_pass(project: Project) -> None:
    add_plugin(
        project,
        "from pytest_h2o.report.sections import ReportSection",
        "def pytest_h2o_report_sections(config):",
        "    return [ReportSection('mine', lambda summary: [summary['nothing']])]",
    )
    result = project.run("-k", "target_ratio_v3 or grouped", "--h2o-decode-baseline=none", page=True)
    why = "the report section 'mine' could not be made: KeyError: 'nothing'"
    assert f"\nincomplete: {why}\n" in verdict(project, result)
