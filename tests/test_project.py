"""Files that people and services read: the workflows call tox environments that exist, and the pages are there."""

import configparser
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.default_gate import CASES

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def steps_of(workflow: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_calls_environments_that_tox_has(workflow: Path) -> None:
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    known = {section.removeprefix("testenv:") for section in tox.sections()} | {"py"}
    called = [
        name
        for step in steps_of(workflow)
        for names in re.findall(r"tox -e (\S+)", step.get("run", ""))
        for name in names.split(",")
    ]
    assert called
    assert set(called) <= known


def test_every_supported_python_is_tested_on_linux_and_macos() -> None:
    (workflow,) = WORKFLOWS
    matrix = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13", "3.14"]
    assert matrix["os"] == ["ubuntu-latest", "macos-latest"]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^.* tox -e py$", readme, re.MULTILINE)
    assert line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_citation_has_the_version() -> None:
    import pytest_h2o

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == pytest_h2o.__version__


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_paths_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"\]\(([^)#]+)\)|`((?:pytest_h2o|docs|tests|tools|fixtures|benchmarks)/[\w./-]*)`", text)
    paths = [link or code for link, code in named]
    assert [path for path in paths if not path.startswith("http") and not (ROOT / path).exists()] == []


def test_what_the_walks_name_is_there() -> None:
    """Each step of docs/architecture.md names a file of the package and a definition in it."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    steps = re.findall(r"`([a-z_/0-9]+\.py)::([\w.]+)`", text)
    assert len(steps) > 30
    for file, name in steps:
        source = (ROOT / "pytest_h2o" / file).read_text(encoding="utf-8")
        for part in name.split("."):
            assert re.search(rf"^ *(?:def|class) {part}\b", source, re.MULTILINE), f"{file} has no {part}"


def test_a_walk_takes_fewer_than_twenty_steps() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    walks = text.split("## The walk of ")[1:]
    assert len(walks) == 2
    assert all(len(re.findall(r"^\d+\. ", walk.split("## ")[0], re.MULTILINE)) < 20 for walk in walks)


@pytest.mark.parametrize("form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda p: p.name)
def test_an_issue_form_asks_for_the_doctor(form: Path) -> None:
    fields = {field.get("id"): field for field in yaml.safe_load(form.read_text(encoding="utf-8"))["body"]}
    assert "pytest-h2o doctor" in fields["doctor"]["attributes"]["description"]
    assert fields["doctor"]["validations"] == {"required": True}


def test_the_faults_of_the_default_gate_benchmark_are_of_what_is_there() -> None:
    """It replaces texts of the embedded bench; each must stand there once."""
    changes = [change for case in CASES.values() for change in case.changes]
    assert len(changes) > len(CASES) - 1 == 4
    for module, old, _ in changes:
        assert (ROOT / "pytest_h2o" / "reference" / module).read_text("utf-8").count(old) == 1
