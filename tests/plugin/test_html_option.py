"""`--h2o-html`: on by default, off on request, and nothing of it loaded before the end."""

from __future__ import annotations

import time

from tests.plugin.conftest import Project
from tests.plugin.project import finish


def test_the_page_can_be_left_out(project: Project) -> None:
    assert project.run("-k", "run_0003", "--h2o-html=no").ret == 0
    names = {path.name for path in project.run_dir().iterdir()}
    assert "report.html" not in names
    assert {"summary.md", "summary.json", "run.json", "journal.jsonl"} <= names


def test_the_ini_file_can_say_so_too(project: Project) -> None:
    ini = project.path / "pytest.ini"
    ini.write_text(ini.read_text() + "h2o_html = no\n")
    assert project.run("-k", "run_0003").ret == 0
    assert not (project.run_dir() / "report.html").exists()
    assert project.run("-k", "run_0003", "--h2o-html=yes").ret == 0
    assert [(run / "report.html").exists() for run in project.runs()].count(True) == 1


def test_another_word_is_bad_usage(project: Project) -> None:
    result = project.run("--h2o-html=maybe")
    assert result.ret == 4
    result.stdout.fnmatch_lines(["ERROR: --h2o-html does not know 'maybe'", "  expected: yes or no"])


def test_nothing_of_it_is_loaded_before_the_end(project: Project) -> None:
    (project.path / "gates" / "conftest.py").write_text(
        "import sys\ndef pytest_runtest_teardown():\n    assert not {'matplotlib', 'jinja2'} & set(sys.modules)\n"
    )
    child = project.start("-k", "run_0003")
    assert finish(child, time.monotonic()).ret == 0
    assert (project.run_dir() / "report.html").exists()
