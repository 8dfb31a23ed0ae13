"""The outcome of an item is that of its final report, whoever made it, and it is the last try that counts."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from tests.plugin.project import RECORDINGS, Project, check_no_traceback

PRESET, SCOPE = "target_ratio_v3", "front2_grouped_192_8"
SUBTESTS = """
def test_lossless(h2o_lossless, h2o_targets, subtests):
    for n in range(2):
        with subtests.test(n=n):
            assert h2o_lossless.ratio >= (h2o_targets.lossless if n else 9.0)
"""
CHANGED = """
import pytest

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if item.name == "{item}" and report.when == "{when}":
        report.outcome = "failed"
    return report
"""
DIES = """
import os

def pytest_runtest_call(item):
    if item.name == "test_lossy[target_ratio_v3]":
        os._exit(9)
"""
AGAIN = """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if any(report.failed for report in reports):
        for report in reports:
            report.outcome = "rerun" if report.failed else report.outcome
            item.ihook.pytest_runtest_logreport(report=report)
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
"""
TRIES = """
import itertools

tries = itertools.count()


def test_lossy(h2o_sweep, h2o_targets):
    assert h2o_sweep.best("h2o_lossy") >= (99 if next(tries) == 0 else h2o_targets.lossy)
"""


def check_named(project: Project, result: pytest.RunResult, item: str, why: str, subject: str) -> None:
    """The item is told as failed wherever it can be: summary, annotation, row of the table, history."""
    check_no_traceback(result)
    assert result.ret == 1
    assert {name: text for name, text in project.failed().items() if name.startswith(item)} == {item: why}
    assert item in (project.run_dir() / "summary.md").read_text().replace("\\", "")
    lines = result.outlines
    assert any(line.startswith("::error ") and item.split("[")[0] in line for line in lines)
    assert any(subject in line and "FAIL" in line and "PASS" not in line for line in lines), lines
    for line in (project.path / "h2o-runs" / "history.jsonl").read_text().splitlines():
        assert [one["held"] for one in json.loads(line)["record"]["subjects"] if one["name"] == subject] == [False]


def test_a_failed_subtest_fails_its_item(project: Project) -> None:
    pytest.importorskip("_pytest.subtests")
    project.env["GITHUB_ACTIONS"] = "true"
    (project.path / "gates" / "test_dumps.py").write_text(SUBTESTS)
    result = project.run("-k", f"{SCOPE} and lossless")
    check_named(project, result, f"test_lossless[{SCOPE}]", missed_why(project), SCOPE)
    again = project.run("-k", SCOPE, "--h2o-compare=last", "-rs")
    assert "1 in which items of it failed" in " ".join(again.outlines)


def missed_why(project: Project) -> str:
    """What the comparison of the subtest says, which is more than that a subtest failed."""
    (why,) = project.failed().values()
    assert why.startswith("lossless ratio 1.4676 on front2_grouped_192_8, target >= 9")
    return why


@pytest.mark.parametrize(("when", "workers"), [("call", ()), ("call", ("-n2",)), ("teardown", ())])
def test_an_outcome_that_a_hook_changes_afterwards_is_the_outcome(
    when: str, workers: tuple[str, ...], project: Project
) -> None:
    project.env["GITHUB_ACTIONS"] = "true"
    item = f"test_lossless[{SCOPE}]"
    (project.path / "gates" / "conftest.py").write_text(CHANGED.format(item=item, when=when))
    result = project.run("-k", SCOPE, *workers)
    check_named(project, result, item, "another plugin changed its outcome to failed", SCOPE)


def test_an_item_that_killed_its_worker_is_named(project: Project) -> None:
    project.env["GITHUB_ACTIONS"] = "true"
    (project.path / "gates" / "conftest.py").write_text(DIES)
    result = project.run("-n2", "-k", f"{PRESET} or {SCOPE}", page=True)
    item = f"test_lossy[{PRESET}]"
    why = project.failed()[item]
    assert "crashed while running" in (project.run_dir() / "report.html").read_text()
    assert "crashed while running" in why
    check_named(project, result, item, why, PRESET)


def test_the_figures_of_a_test_case_are_those_of_its_last_try(project: Project) -> None:
    (project.path / "gates" / "conftest.py").write_text(AGAIN)
    (project.path / "gates" / "test_sweep.py").write_text(TRIES)
    result = project.run("-k", f"{PRESET} and lossy", "--junitxml=j.xml", f"--h2o-logs={RECORDINGS}")
    assert result.ret == 0
    *_, case = ElementTree.parse(project.path / "j.xml").getroot().iter("testcase")
    found = [(one.get("name"), one.get("value")) for one in case.iter("property")]
    names = [name for name, _ in found]
    assert len(names) == len(set(names))
    assert dict(found)["h2o.h2o_lossy.outcome"] == "pass"
    assert dict(found)["h2o.h2o_lossy.target"] == "3.0"
    assert project.summary()["items"] == {"passed": 1, "failed": 0, "skipped": 0}


def test_no_traceback_is_made_where_a_text_of_ours_stands_in_its_place(project: Project) -> None:
    (project.copy_recordings() / "manifest.json").write_text("{")
    conftest = project.path / "gates" / "conftest.py"
    conftest.write_text("import pytest\n\npytest.Item._repr_failure_py = lambda *given, **more: 1 / 0\n")
    result = project.run("-k", f"{PRESET} and (lossy or joint)")
    check_no_traceback(result)
    assert set(project.failed().values()) == {f"27 of 27 rows of {PRESET} are missing or not sound"}


def test_what_fails_beside_the_gate_is_named_and_no_run_that_held(project: Project) -> None:
    (project.path / "gates" / "test_own.py").write_text("def test_own():\n    assert 1 == 2\n")
    result = project.run("-k", f"{SCOPE} or own")
    assert result.ret == 1
    assert project.failed() == {"test_own": "assert 1 == 2"}
    (line,) = (project.path / "h2o-runs" / "history.jsonl").read_text().splitlines()
    assert [one["held"] for one in json.loads(line)["record"]["subjects"]] == [False]
