"""Code of a plugin that leaves, swallows items or changes their outcome: never exit status 0 before the verdict."""

import itertools
import json
from xml.etree import ElementTree

import pytest

from tests.plugin.project import RECORDINGS, Project, check_no_traceback

PRESET, SCOPE = "target_ratio_v3", "front2_grouped_192_8"
SELECT = ("-k", f"{PRESET} and (lossy or decode or mm)", "--h2o-set=h2o_keep_ratios=0.28")
"""No scope is coded for these items, and they need a third of the rows."""
METRIC = """
from pytest_h2o import Metric

def made(row):
    {leave}

def pytest_h2o_metrics(config):
    return [Metric("mm", "m m", unit="s", better="higher", target=1.0, value=made)]
"""
SECTION = """
from pytest_h2o import ReportSection

def made(summary):
    {leave}

def pytest_h2o_report_sections(config):
    return [ReportSection("mine", made)]
"""
ITEM = """
def pytest_runtest_call(item):
    if item.name.startswith("test_decode"):
        {leave}
"""
MM = "\n\ndef test_mm(h2o_sweep, h2o_targets):\n    assert h2o_sweep.best('mm') >= h2o_targets.metric('mm')\n"
LEAVE = {
    "sys.exit": "import sys; sys.exit()",
    "pytest.exit": "import pytest; pytest.exit('x', returncode=0)",
    "os._exit": "import os; os._exit(0)",
    "os.execv": "import os; os.execvp('true', ['true'])",
    "libc": "import ctypes; ctypes.CDLL(None)._exit(0)",
}


def write(project: Project, text: str, name: str = "conftest.py") -> None:
    with (project.path / "gates" / name).open("a") as file:
        file.write(f"\n{text}\n")


QUICK = {"metric": {*LEAVE}, "section": {"sys.exit", "os._exit"}, "item": {"pytest.exit", "libc"}}
SOURCES = {"metric": METRIC, "section": SECTION, "item": ITEM}


@pytest.mark.parametrize(
    ("where", "leave", "workers"),
    [
        pytest.param(*way, marks=() if way[1] in QUICK[way[0]] and not way[2] else pytest.mark.slow)
        for way in itertools.product(SOURCES, LEAVE, [(), ("-n1",)])
    ],
)
def test_no_exit_0_before_the_verdict(where: str, leave: str, workers: tuple[str, ...], project: Project) -> None:
    write(project, SOURCES[where].format(leave=LEAVE[leave]))
    write(project, MM if where == "metric" else "", "test_sweep.py")
    result = project.run(*SELECT, *workers)
    if where == "section" and not leave.startswith("os."):
        assert result.ret == 0  # the items were judged, and what is missing is a section
        check_no_traceback(result)
        assert project.summary()["overall_pass"] == "incomplete"
        assert "the report section 'mine' could not be made" in project.summary()["incomplete_for"][-1]
    else:
        assert result.ret != 0
        assert "\ngate PASS" not in result.stdout.str()


@pytest.mark.parametrize("leave", ["sys.exit", "os._exit", "os.execv", "libc"])
@pytest.mark.parametrize("where", ["conftest.py", "test_sweep.py"])
def test_no_exit_0_while_files_are_loaded(where: str, leave: str, project: Project) -> None:
    write(project, LEAVE[leave], where)
    result = project.run(*SELECT)
    assert result.ret not in (0, 1)
    assert where == "test_sweep.py" or "Traceback" not in result.stdout.str()


HOOK = "def pytest_{}:\n    import os; os._exit(0)\n"


@pytest.mark.parametrize(
    "leaves",
    [
        HOOK.format("terminal_summary(terminalreporter)"),
        HOOK.format("unconfigure(config)"),
        "import atexit, os\natexit.register(lambda: os._exit(0))\n",
    ],
    ids=["summary", "unconfigure", "atexit"],
)
@pytest.mark.parametrize(("target", "ret"), [("9", 3), ("1.1", 0)])
def test_no_exit_0_after_a_verdict_that_is_no_pass(leaves: str, target: str, ret: int, project: Project) -> None:
    write(project, leaves)
    run = project.run_cold if "atexit" in leaves else project.run  # the end of a forked interpreter is another
    assert run(*SELECT, "-o", "h2o_html=no", f"--h2o-lossy-target={target}").ret == ret


STATUS = "import pytest\nkept = []\ndef pytest_sessionstart(session): kept.append(session)\n"
TAKEN = "def pytest_{}(session): session.config.pluginmanager.unregister(name='h2o-controller')"
RECORD = """
import json, pytest
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if "decode" in item.name:
        {}
    return report
"""
EDIT = """report.user_properties = [
            (n, json.dumps({**json.loads(v.partition(" ")[2]), "comparisons": []}) if n == "h2o" else v)
            for n, v in report.user_properties]"""
FAIL = "gate FAIL "
SECTIONS = "def pytest_h2o_report_sections(config): "
STOP = "def pytest_runtest_call(item): raise KeyboardInterrupt\n"
KEPT, UNFINISHED = "kept it from running", "gate UNFINISHED: the run was broken off, so nothing is said of the gate"
SWALLOWS = {
    # what others make of the status
    "sessionfinish": ("def pytest_sessionfinish(session): session.exitstatus = 0", 1, FAIL),
    "unconfigure": (f"{STATUS}def pytest_unconfigure(config): kept[0].exitstatus = 0", 1, FAIL),
    "cmdline_main": (
        "import pytest\n@pytest.hookimpl(wrapper=True)\ndef pytest_cmdline_main(config):\n    yield\n    return 0",
        1,
        FAIL,
    ),
    # an item that was not run, or left no record
    "loop": ("def pytest_runtestloop(): return True", 1, KEPT),
    "protocol": ("def pytest_runtest_protocol(item): return 'decode' in item.name or None", 1, KEPT),
    "finish": ("def pytest_collection_finish(session): session.items[:] = session.items[:-1]", 1, KEPT),
    "record gone": (RECORD.replace("{}", "report.user_properties.clear()"), 1, "took its record away"),
    "record edited": (RECORD.replace("{}", EDIT), 1, "another plugin has changed its record on its way"),
    # a hook for sections that fails
    "recursion": (f"{SECTIONS}raise RecursionError", 1, "pytest_h2o_report_sections"),
    "interrupt": (f"{SECTIONS}raise KeyboardInterrupt", 2, "what came of the run cannot be kept"),
    "no list": (f"{SECTIONS}return 3", 1, "pytest_h2o_report_sections"),
    "no list of a run broken off": (f"{STOP}{SECTIONS}return 3", 2, "pytest_h2o_report_sections"),
    "interrupt while one is made": (SECTION.format(leave="raise KeyboardInterrupt"), 2, UNFINISHED),
    # the controller
    "controller": (TAKEN.format("collection_finish"), 3, "took h2o-controller away before"),
    "controller at the end": (TAKEN.format("sessionfinish"), 1, FAIL),
}
"""What a conftest says -> the exit code, and what is told."""


@pytest.mark.parametrize("name", SWALLOWS)
def test_a_gate_that_failed_or_did_not_run_does_not_end_well(name: str, project: Project) -> None:
    text, ret, told = SWALLOWS[name]
    write(project, text)
    target = "9" if told == FAIL else "1.1"
    select = ("-k", f"{SCOPE} and roundtrip") if name == "controller" else SELECT
    result = project.run(*select, f"--h2o-lossy-target={target}")
    check_no_traceback(result)
    reasons = project.failed().values() if (project.run_dir() / "summary.json").exists() else ()
    said = "\n".join([*result.outlines, *reasons])
    assert (result.ret, told in said) == (ret, True), said


@pytest.mark.parametrize(("target", "verdict"), [("9", "FAIL"), ("1.1", "INCOMPLETE")])
def test_without_a_terminal_the_verdict_is_one_line(target: str, verdict: str, project: Project) -> None:
    result = project.run(*SELECT, "-pno:terminal", f"--h2o-lossy-target={target}")
    (line,) = result.outlines
    assert line.startswith(f"gate {verdict} ")
    assert result.ret == (verdict == "FAIL")


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
    if item.name == "test_lossless[front2_grouped_192_8]" and report.when == "{when}":
        report.outcome = "failed"
    return report
"""
DIES = """
import os

def pytest_runtest_call(item):
    if item.name == "test_lossy[target_ratio_v3]":
        os._exit(9)
"""
ANOTHER = "another plugin changed its outcome to failed"
OUTCOMES = {
    "a subtest": ("", SUBTESTS, (), "lossless ratio 1.4676 on front2_grouped_192_8, target >= 9"),
    "a hook": (CHANGED.format(when="call"), "", (), ANOTHER),
    "a hook of a worker": (CHANGED.format(when="call"), "", ("-n2",), ANOTHER),
    "a hook at teardown": (CHANGED.format(when="teardown"), "", (), ANOTHER),
    "a worker that died": (DIES, "", ("-n2",), "crashed while running"),
}
"""What the conftest says and the gate file, how it is run, and why the item failed."""


@pytest.mark.parametrize("name", OUTCOMES)
def test_an_item_that_failed_is_told_as_failed_wherever_it_can_be(name: str, project: Project) -> None:
    """Summary, annotation, row of the table, page, history."""
    conftest, gates, workers, why = OUTCOMES[name]
    project.env["GITHUB_ACTIONS"] = "true"
    write(project, conftest)
    if gates:
        pytest.importorskip("_pytest.subtests")
        (project.path / "gates" / "test_dumps.py").write_text(gates)
    subject, item = (PRESET, f"test_lossy[{PRESET}]") if conftest == DIES else (SCOPE, f"test_lossless[{SCOPE}]")
    result = project.run("-k", f"{subject} and not bench", *SELECT[2:], *workers, page=True)
    check_no_traceback(result)
    assert result.ret == 1
    assert why in project.failed()[item]
    for name in ("summary.md", "report.html"):
        assert item in (project.run_dir() / name).read_text().replace("\\", "")
    lines = result.outlines
    assert any(line.startswith("::error ") and item.split("[")[0] in line for line in lines)
    assert any(subject in line and "FAIL" in line and "PASS" not in line for line in lines), lines
    for line in (project.path / "h2o-runs" / "history.jsonl").read_text().splitlines():
        assert [one["held"] for one in json.loads(line)["record"]["subjects"] if one["name"] == subject] == [False]


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


def test_the_figures_of_a_test_case_are_those_of_its_last_try(project: Project) -> None:
    write(project, AGAIN)
    (project.path / "gates" / "test_sweep.py").write_text(TRIES)
    result = project.run("-k", f"{PRESET} and lossy", "--junitxml=j.xml", f"--h2o-logs={RECORDINGS}")
    assert result.ret == 0
    *_, case = ElementTree.parse(project.path / "j.xml").getroot().iter("testcase")
    found = [(one.get("name"), one.get("value")) for one in case.iter("property")]
    assert len(found) == len(dict(found))
    assert dict(found).items() >= {"h2o.h2o_lossy.outcome": "pass", "h2o.h2o_lossy.target": "3.0"}.items()
    assert project.summary()["items"] == {"passed": 1, "failed": 0, "skipped": 0}


def test_no_traceback_is_made_where_a_text_of_ours_stands_in_its_place(project: Project) -> None:
    (project.copy_recordings() / "manifest.json").write_text("{")
    write(project, "import pytest\n\npytest.Item._repr_failure_py = lambda *given, **more: 1 / 0\n")
    result = project.run("-k", f"{PRESET} and (lossy or joint)")
    check_no_traceback(result)
    assert set(project.failed().values()) == {f"27 of 27 rows of {PRESET} are missing or not sound"}


def test_what_fails_beside_the_gate_is_named_and_no_run_that_held(project: Project) -> None:
    write(project, "def test_own():\n    assert 1 == 2\n", "test_own.py")
    result = project.run("-k", f"{SCOPE} or own")
    assert result.ret == 1
    assert project.failed() == {"test_own": "assert 1 == 2"}
    (line,) = (project.path / "h2o-runs" / "history.jsonl").read_text().splitlines()
    assert [one["held"] for one in json.loads(line)["record"]["subjects"]] == [False]
    again = project.run("-k", SCOPE, "--h2o-compare=last", "-rs")
    assert "1 in which items of it failed" in " ".join(again.outlines)
