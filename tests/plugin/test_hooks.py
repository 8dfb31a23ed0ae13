"""What plugins add by hooks: metrics with their targets, sections of the reports."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from pytest_h2o.cli.main import main
from tests.plugin.project import ROOT, Project, check_failed, check_no_traceback, failure_of
from tests.report.html_checks import check_page

EXAMPLES = ROOT / "docs" / "examples"
GATE = '''

def test_first_token(h2o_sweep, h2o_targets):
    """The prompt is read soon enough."""
    assert h2o_sweep.best("first_token_s") <= h2o_targets.metric("first_token_s")
'''
SELECT = ("-k", "target_ratio_v3 and (first_token or lossy)", "--h2o-lossy-target=2.9")


def add(project: Project, *lines: str, gate: str = GATE) -> None:
    """A conftest of these lines beside the gates, able to import the examples, and a gate in the gate file."""
    for name in ("my_metric.py", "my_section.py"):
        shutil.copy(EXAMPLES / name, project.path / "gates")
    conftest = ["import pathlib, sys", "sys.path.insert(0, str(pathlib.Path(__file__).parent))", *lines]
    (project.path / "gates" / "conftest.py").write_text("\n".join(conftest) + "\n")
    file = project.path / "gates" / "test_sweep.py"
    file.write_text(file.read_text() + gate)


METRIC = "from my_metric import pytest_h2o_metrics"
SHOWN = ("metric", "title", "measured", "relation", "target", "target_origin", "margin", "source", "outcome")
IMPORT = "from pytest_h2o.gate.metrics import RowMetric"
SECTION = "from my_section import pytest_h2o_report_sections"


def test_a_metric_is_gated_and_kept(project: Project) -> None:
    """By workers too."""
    add(project, METRIC)
    result = project.run(*SELECT, "-n2")
    assert result.ret == 0, result.outlines
    verdicts = project.summary()["presets"]["target_ratio_v3"]["verdicts"]
    assert [v["metric"] for v in verdicts] == ["h2o_lossy", "first_token_s"]
    assert {key: verdicts[1][key] for key in SHOWN} == {
        "metric": "first_token_s",
        "title": "time to the first token",
        "measured": "1.357 s",
        "relation": "<=",
        "target": "2.000 s",
        "target_origin": "the plugin that adds it",
        "margin": "0.643 s",
        "source": "run_0003_p512_g128_k0.28_b8_lr3.4",
        "outcome": "pass",
    }
    record = json.loads((project.run_dir() / "figures.json").read_text())["record"]
    (subject,) = record["subjects"]
    assert min(row["first_token_s"] for row in subject["figures"].values()) == pytest.approx(1.357, abs=5e-4)
    assert record["metrics"]["first_token_s"] == {"unit": "s", "better": "lower", "exact": False}
    assert (
        "| time to the first token | 1.357 s | &lt;= 2.000 s | 0.643 s |"
        in (project.run_dir() / "summary.md").read_text()
    )


def test_a_missed_metric_is_diagnosed(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    add(project, METRIC)
    result = project.run(*SELECT, "--h2o-set=targets.metrics.first_token_s=1.35", page=True)
    check_failed(project, result, "test_first_token[target_ratio_v3]")
    told = failure_of(result, "test_first_token[target_ratio_v3]")
    assert "assert time to the first token 1.357 s <= 1.350 s\n" in told
    assert (
        "target     <= 1.350 s (targets of preset target_ratio_v3)\n"
        "measured   1.357 s on run_0003_p512_g128_k0.28_b8_lr3.4\n"
        "margin     missed by 0.007 s\n"
        "rows       nearest first\n"
        "  first_token_s     lossy    decode  misses           run\n"
        "          1.357"
    ) in told
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
    add(project, METRIC, gate="")
    assert project.run("-k", "target_ratio_v3 and lossy", "--h2o-save=main").ret == 0
    missing = "preset target_ratio_v3 was not held against the target of first_token_s"
    assert missing in project.summary()["incomplete_for"]
    asked = ("-k", "target_ratio_v3 and regression", "--h2o-compare=main", "--h2o-compare-fail=first_token_s:5")
    assert project.run(*asked).ret == 0
    unknown = project.run(*asked[:-1], "--h2o-compare-fail=first_token:5")
    assert unknown.ret == 4
    assert "did you mean first_token_s" in "\n".join(unknown.errlines + unknown.outlines)


def test_a_metric_without_its_column_fails(project: Project) -> None:
    lines = (
        "def made(row):",
        "    return row.get('no_column').mean",
        "from pytest_h2o.gate.metrics import RowMetric",
    )
    hook = ("def pytest_h2o_metrics(config):", "    return [RowMetric('first_token_s', 'made'{})]")
    add(project, *lines, hook[0], hook[1].format(""))
    told = failure_of(
        project.run(*SELECT, "-k", "first_token and target_ratio_v3"), "test_first_token[target_ratio_v3]"
    )
    assert "the column first_token_s of target_ratio_v3 is missing or not a number\n" in told
    add(project, *lines, hook[0], hook[1].format(", value=made"), gate="")
    told = failure_of(
        project.run(*SELECT, "-k", "first_token and target_ratio_v3"), "test_first_token[target_ratio_v3]"
    )
    assert "the metric first_token_s cannot be made of a row\n" in told
    assert "  came: AttributeError: 'NoneType' object has no attribute 'mean'\n" in told


def test_a_target_of_what_cannot_be_made_fails_and_the_run_is_kept(project: Project) -> None:
    metric = "Metric('mm', 'm m', 'higher', target=1.0, value=lambda row: [2])"
    add(project, "from pytest_h2o import Metric", f"def pytest_h2o_metrics(config): return [{metric}]", gate="")
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
    add(
        project,
        "import pytest",
        "@pytest.hookimpl(tryfirst=True)",
        f"def pytest_sessionfinish(): pathlib.Path({str(config)!r}).unlink()",
        gate="",
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


@pytest.mark.parametrize(
    ("lines", "arguments", "told"),
    [
        (
            [METRIC],
            ["--h2o-set=targets.metrics.first_tokens=1"],
            ["no metric is called", "first_token_s?"],
        ),
        (
            ["def pytest_h2o_metrics(config): return 3"],
            [],
            ["metrics gave something else", "expected: a list"],
        ),
        (["def pytest_h2o_metrics(config): return [3]"], [], ["expected: Metric objects"]),
        (
            ["def pytest_h2o_benches(config): return [dict]"],
            [],
            ["expected: bench adapters, each an object"],
        ),
        (
            [
                IMPORT,
                "def pytest_h2o_metrics(config): return [RowMetric('h2o_keep', 'mine')]",
            ],
            [],
            ["a metric has the name of a built-in one"],
        ),
        (
            [
                IMPORT,
                "def pytest_h2o_metrics(config): return [RowMetric('a b', 'mine')]",
            ],
            [],
            ["the name of a metric cannot be used"],
        ),
    ],
    ids=["unknown", "no-list", "no-metric", "class", "taken", "name"],
)
def test_what_a_hook_may_not_give_is_bad_usage(
    lines: list[str], arguments: list[str], told: list[str], project: Project
) -> None:
    add(project, *lines, gate="")
    result = project.run(*SELECT, *arguments)
    assert result.ret == 4, result.outlines
    for text in told:
        assert text in "\n".join(result.outlines)
    check_no_traceback(result)


@pytest.mark.parametrize("kind", ["codecs", "benches", "metrics"])
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return [3]", "gave something else than it should"),
        ("return 'text'", "gave something else than it should"),
        ("return {1: 2}", "gave something else than it should"),
        ("1 / 0", "failed\n  where: {conftest}:1\n  came: ZeroDivisionError: division by zero"),
        ("raise SystemExit(0)", "failed\n  where: {conftest}:1\n  came: SystemExit: 0"),
        ("yield 1 / 0", "failed\n  where: {conftest}:1\n  came: ZeroDivisionError: division by zero"),
    ],
)
def test_whatever_goes_wrong_in_a_hook_is_bad_usage_with_its_name(
    kind: str, body: str, told: str, project: Project
) -> None:
    conftest = project.path / "gates" / "conftest.py"
    conftest.write_text(f"def pytest_h2o_{kind}(config): {body}\n")
    result = project.run("-k", "front2 and lossless")
    assert result.ret == pytest.ExitCode.USAGE_ERROR, result.outlines
    assert f"an implementation of pytest_h2o_{kind} {told.format(conftest=conftest)}" in "\n".join(result.outlines)
    check_no_traceback(result)


SAID = "The rows that the verdicts rest on. A preset whose verdicts rest on several rows is worth a look."
HOSTILE = "<script>pwned()</script> | ![x](y)"


def test_a_section_stands_in_both_reports(project: Project) -> None:
    add(
        project,
        SECTION + " as deciding",
        "from pytest_h2o.report.sections import ReportSection, SectionTable",
        f"EVIL = {HOSTILE!r}",
        "def pytest_h2o_report_sections(config):",
        "    table = SectionTable(EVIL, [EVIL], [[EVIL]])",
        "    return [*deciding(config), ReportSection(EVIL, lambda summary: [EVIL, [EVIL, 'second'], table])]",
        gate="",
    )
    assert project.run(*SELECT, page=True).ret == 0
    text = (project.run_dir() / "report.html").read_text()
    document = check_page(text)
    assert "<script" not in text
    assert [h.text for h in document.all("h2")][-4:-2] == ["Deciding rows", HOSTILE]
    lossy = ["target_ratio_v3", "lossy ratio", "run_0003_p512_g128_k0.28_b8_lr3.4"]
    assert project.summary()["sections"][0] == {
        "title": "Deciding rows",
        "blocks": [
            {"text": SAID},
            {"caption": "Deciding rows", "header": ["preset", "threshold", "row"], "rows": [lossy]},
        ],
    }
    markdown = (project.run_dir() / "summary.md").read_text()
    assert "| target_ratio_v3 | lossy ratio | run_0003_p512_g128_k0.28_b8_lr3.4 |" in markdown
    assert "<script" not in markdown
    assert "![x](" not in markdown


def test_a_section_that_cannot_be_made_is_told_and_is_no_pass(project: Project) -> None:
    add(
        project,
        "from pytest_h2o.report.sections import ReportSection",
        "def pytest_h2o_report_sections(config):",
        "    return [ReportSection('mine', lambda summary: [summary['nothing']])]",
        gate="",
    )
    assert project.run("-k", "target_ratio_v3 or grouped", "--h2o-decode-baseline=none", page=True).ret == 0
    why = "the report section 'mine' could not be made: KeyError: 'nothing'"
    summary: dict[str, Any] = project.summary()
    assert summary["incomplete_for"][-1] == why
    assert summary["overall_pass"] == "incomplete"
    assert why in (project.run_dir() / "report.html").read_text().replace("&#39;", "'")
