"""Where there are no gates the plugin says nothing, writes nothing and can be switched off, as its page can be."""

import json
import re
from pathlib import Path

import pytest

from pytest_h2o.gate.metrics import GATE_OPTIONS
from tests.plugin.project import Project, check_no_traceback


@pytest.fixture
def without_gates(project: Project) -> Project:
    """A project of somebody else's: no gates, and no word of the plugin in its ini file."""
    (project.path / "pytest.ini").write_text("[pytest]\n")
    (project.path / "test_other.py").write_text("def test_other(tmp_path):\n    assert tmp_path.exists()\n")
    return project


def check_nothing_written(project: Project) -> None:
    names = {path.name for path in project.path.iterdir()} - {"tmp", "gates", "__pycache__"}
    assert names == {"pytest.ini", "test_other.py"}


@pytest.mark.parametrize("options", [[], ["-n2"]], ids=["plain", "n2"])
def test_a_run_without_gates_shows_and_writes_nothing(options: list[str], without_gates: Project) -> None:
    result = without_gates.run("-v", *options, what="test_other.py")
    assert result.ret == 0
    assert result.parseoutcomes() == {"passed": 1}
    spoken = [
        line for line in result.outlines if "h2o" in line.lower() and not line.startswith(("plugins: ", "metadata: "))
    ]
    assert spoken == []
    check_nothing_written(without_gates)


def test_nothing_deprecated_is_used(without_gates: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """While options are read pytest shows no warning; in a test of pytester it would."""
    monkeypatch.setenv("PYTHONWARNINGS", "error::DeprecationWarning:pytest_h2o.plugin.hooks")
    assert without_gates.run_cold("-q", what="test_other.py").ret == 0


LEFT_OUT = "pydantic", "yaml", "numpy", "jinja2", "pytest_h2o.run", "pytest_h2o.report", "pytest_h2o.bench"


TELL_LOADED = f"""
import atexit, os, pathlib, sys
@atexit.register
def tell():
    pathlib.Path(f"loaded-{{os.getpid()}}").write_text(str({set(LEFT_OUT)} & set(sys.modules)))
"""


@pytest.mark.parametrize("options", [[], ["-n2"]], ids=["plain", "n2"])
def test_no_process_of_a_run_without_gates_loads_anything_of_the_gate(
    options: list[str], without_gates: Project
) -> None:
    (without_gates.path / "conftest.py").write_text(TELL_LOADED)
    left_out = [word for name in ("hypothesispytest", "syrupy") for word in ("-p", f"no:{name}")]
    assert without_gates.run_cold("-q", *left_out, *options, what="test_other.py").ret == 0
    loaded = [path.read_text() for path in without_gates.path.glob("loaded-*")]
    assert loaded == ["set()"] * (3 if options else 1)


TELL_REWRITTEN = """
import sys
ours = [module for name, module in sys.modules.items() if name.startswith("pytest_h2o.plugin.")]
assert {type(module.__loader__).__name__ for module in ours} == {"SourceFileLoader"}
"""


def test_its_modules_are_not_sent_through_the_rewriting_of_asserts(without_gates: Project) -> None:
    """Which pytest does with those of an installed distribution, as `early` does here: it takes twice as long."""
    (without_gates.path / "early.py").write_text("import pytest\npytest.register_assert_rewrite('pytest_h2o')\n")
    (without_gates.path / "conftest.py").write_text(TELL_REWRITTEN)
    assert without_gates.run_cold("-q", "-p", "early", what="test_other.py").ret == 0


def test_help_has_one_group_with_every_option(without_gates: Project) -> None:
    lines = without_gates.run("--help", what="test_other.py").outlines
    title = "KV-cache compression gate (pytest-h2o):"
    assert lines.count(title) == 1
    start = lines.index(title) + 1
    group = lines[start : lines.index("", start)]
    flags = [line.split()[0].split("=")[0] for line in group if line.startswith("  --")]
    assert flags == [option.flag for option in GATE_OPTIONS]
    assert {option.key for option in GATE_OPTIONS} <= set(re.findall(r"(\w+) \(", " ".join(lines)))


def test_switched_off_it_is_not_there(without_gates: Project) -> None:
    result = without_gates.run("-p", "no:h2o", "-v", what="test_other.py", page=True)
    assert result.ret == 0
    assert result.parseoutcomes() == {"passed": 1}
    assert "h2o-" not in "\n".join(line for line in result.outlines if line.startswith("plugins: "))
    assert without_gates.run("-p", "no:h2o", "--h2o-threads=1", what="test_other.py", page=True).ret == 4


def test_switched_off_gates_do_not_pass(project: Project) -> None:
    """A gate that is asked for and not there is an error, never silence."""
    project.write_ini()
    result = project.run("-p", "no:h2o")
    check_no_traceback(result)
    assert result.ret == 1
    assert "passed" not in result.parseoutcomes()
    result.stdout.fnmatch_lines(["*fixture 'h2o_sweep' not found*"])


def test_gates_and_other_tests_run_side_by_side(project: Project) -> None:
    (project.path / "test_other.py").write_text("def test_other():\n    pass\n")
    result = project.run("test_other.py", "-k", "other or target_ratio_v3 and run_0001")
    assert result.parseoutcomes()["passed"] == 2
    (record,) = [json.loads(line) for line in (Path(project.run_dir()) / "journal.jsonl").read_text().splitlines()]
    assert record["item"].endswith("test_bench[target_ratio_v3-run_0001_p512_g128_k0.28_b8_lr3.0]")


def test_the_page_can_be_left_out(project: Project) -> None:
    """By the ini file, which `Project.run` sets, and by the option over it."""
    assert project.run("-k", "run_0003").ret == 0
    names = {path.name for path in project.run_dir().iterdir()}
    assert "report.html" not in names
    assert {"summary.md", "summary.json", "run.json", "journal.jsonl"} <= names
    assert project.run("-k", "run_0003", "--h2o-html=yes").ret == 0
    assert [(run / "report.html").exists() for run in project.runs()].count(True) == 1


def test_nothing_of_it_is_loaded_before_the_end(project: Project) -> None:
    (project.path / "gates" / "conftest.py").write_text(
        "import sys\ndef pytest_runtest_teardown():\n    assert 'jinja2' not in sys.modules\n"
    )
    assert project.run_cold("-k", "run_0003").ret == 0
    assert (project.run_dir() / "report.html").exists()
