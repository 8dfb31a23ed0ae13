"""`--h2o-html`: on by default, off on request, and nothing of it loaded before the end."""

from __future__ import annotations

from tests.plugin.project import Project


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
