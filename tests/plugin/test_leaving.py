"""Code of a plugin that wants to leave: never exit status 0 before the verdict."""

from __future__ import annotations

import pytest

from tests.plugin.project import Project, check_no_traceback

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
    if item.name.startswith("test_joint"):
        {leave}
"""
LEAVE = {
    "sys.exit": "import sys; sys.exit()",
    "pytest.exit": "import pytest; pytest.exit('x', returncode=0)",
    "os._exit": "import os; os._exit(0)",
    "os.execv": "import os; os.execvp('true', ['true'])",
    "libc": "import ctypes; ctypes.CDLL(None)._exit(0)",
}
SELECT = ("-k", "front2_grouped or target_ratio_v3 and not bench")


@pytest.mark.parametrize("workers", [(), pytest.param(("-n1",), marks=pytest.mark.slow)])
@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize("where", ["metric", "section", "item"])
def test_no_exit_0_before_the_verdict(where: str, leave: str, workers: tuple[str, ...], project: Project) -> None:
    source = {"metric": METRIC, "section": SECTION, "item": ITEM}[where]
    (project.path / "gates" / "conftest.py").write_text(source.format(leave=LEAVE[leave]))
    if where == "metric":
        gates = project.path / "gates" / "test_sweep.py"
        gates.write_text(
            gates.read_text() + "\n\ndef test_mm(h2o_sweep, h2o_targets):\n"
            "    assert h2o_sweep.best('mm') >= h2o_targets.metric('mm')\n"
        )
    result = project.run(*SELECT, *workers)
    if where == "section" and not leave.startswith("os."):
        assert result.ret == 0  # the items were judged, and what is missing is a section
        check_no_traceback(result)
        assert project.summary()["overall_pass"] == "incomplete"
        assert "the report section 'mine' could not be made" in project.summary()["incomplete_for"][-1]
    else:
        assert result.ret != 0
        assert not any(line.startswith("gate PASS") for line in result.outlines)


@pytest.mark.parametrize("leave", ["sys.exit", "os._exit", "os.execv", "libc"])
@pytest.mark.parametrize("where", ["conftest.py", "test_sweep.py"])
def test_no_exit_0_while_files_are_loaded(where: str, leave: str, project: Project) -> None:
    path = project.path / "gates" / where
    path.write_text(f"{path.read_text() if path.exists() else ''}\n{LEAVE[leave]}\n")
    result = project.run(*SELECT)
    assert result.ret not in (0, 1)
    assert not any("Traceback" in line for line in result.outlines if where == "conftest.py")


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
    (project.path / "gates" / "conftest.py").write_text(leaves)
    run = project.run_cold if "atexit" in leaves else project.run  # the end of a forked interpreter is another
    assert run(*SELECT, "-o", "h2o_html=no", f"--h2o-lossy-target={target}").ret == ret


STATUS = "import pytest\nkept = []\ndef pytest_sessionstart(session): kept.append(session)\n"


@pytest.mark.parametrize(
    "sets",
    [
        "def pytest_sessionfinish(session): session.exitstatus = 0\n",
        "def pytest_unconfigure(config): kept[0].exitstatus = 0\n",
        "@pytest.hookimpl(wrapper=True)\ndef pytest_cmdline_main(config):\n    yield\n    return 0\n",
    ],
    ids=["sessionfinish", "unconfigure", "cmdline_main"],
)
def test_a_failed_gate_does_not_end_well_whatever_others_make_of_the_status(sets: str, project: Project) -> None:
    (project.path / "gates" / "conftest.py").write_text(STATUS + sets)
    result = project.run(*SELECT, "--h2o-lossy-target=9")
    assert any(line.startswith("gate FAIL") for line in result.outlines)
    assert result.ret == 1


RECORD = """
import json, pytest
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if "joint" in item.name:
        {}
    return report
"""
EDIT = """report.user_properties = [
            (n, json.dumps({**json.loads(v.partition(" ")[2]), "comparisons": []}) if n == "h2o" else v)
            for n, v in report.user_properties]"""


@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("def pytest_runtestloop(): return True", "kept it from running"),
        ("def pytest_runtest_protocol(item): return 'joint' in item.name or None", "kept it from running"),
        ("def pytest_collection_finish(session): session.items[:] = session.items[:-1]", "kept it from running"),
        (RECORD.replace("{}", "report.user_properties.clear()"), "took its record away"),
        (RECORD.replace("{}", EDIT), "another plugin has changed its record on its way"),
    ],
    ids=["loop", "protocol", "finish", "record gone", "record edited"],
)
def test_an_item_that_was_not_run_or_left_no_record_fails(does: str, why: str, project: Project) -> None:
    (project.path / "gates" / "conftest.py").write_text(does)
    result = project.run(*SELECT)
    check_no_traceback(result)
    assert result.ret == 1
    assert any(line.startswith("gate FAIL") for line in result.outlines)
    assert any("joint" in item and why in told for item, told in project.failed().items())


@pytest.mark.parametrize("ends", ["", "def pytest_runtest_call(item): raise KeyboardInterrupt\n"])
@pytest.mark.parametrize("does", ["raise RecursionError", "raise KeyboardInterrupt", "return 3"])
def test_a_hook_for_sections_that_fails_ends_in_no_traceback(does: str, ends: str, project: Project) -> None:
    (project.path / "gates" / "conftest.py").write_text(f"{ends}def pytest_h2o_report_sections(config): {does}\n")
    result = project.run(*SELECT)
    check_no_traceback(result)
    assert result.ret in (1, 2, 3)
    assert any("pytest_h2o_report_sections" in line or "cannot be kept" in line for line in result.outlines)


TAKEN = "def pytest_{}(session): session.config.pluginmanager.unregister(name='h2o-controller')"


@pytest.mark.parametrize(
    ("when", "ret", "said"),
    [("collection_finish", 3, "took h2o-controller away before"), ("sessionfinish", 1, "gate FAIL ")],
)
def test_without_its_controller_no_gate_ends_well(when: str, ret: int, said: str, project: Project) -> None:
    (project.path / "gates" / "conftest.py").write_text(TAKEN.format(when))
    result = project.run(*SELECT, "--h2o-lossy-target=9", *(("-k", "roundtrip") if ret == 3 else ()))
    assert result.ret == ret
    assert any(said in line for line in result.outlines)


@pytest.mark.parametrize(("target", "verdict"), [("9", "FAIL"), ("1.1", "INCOMPLETE")])
def test_without_a_terminal_the_verdict_is_one_line(target: str, verdict: str, project: Project) -> None:
    result = project.run(*SELECT, "-pno:terminal", f"--h2o-lossy-target={target}")
    (line,) = result.outlines
    assert line.startswith(f"gate {verdict} ")
    assert result.ret == (verdict == "FAIL")


def test_a_run_that_is_broken_off_while_its_sections_are_made_can_go_on(project: Project) -> None:
    (project.path / "gates" / "conftest.py").write_text(SECTION.format(leave="raise KeyboardInterrupt"))
    result = project.run(*SELECT)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "gate UNFINISHED: the run was broken off, so nothing is said of the gate" in result.outlines
    check_no_traceback(result)
