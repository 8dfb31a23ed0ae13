"""Where pytest-html writes its page, a gate item has its diagnosis, its figures and a link there."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest

from tests.plugin.project import MODES, Project

RUN = "target_ratio_v3 and (lossy or run_0003)"


def extras_of(project: Project, name: str) -> dict[str, dict[str, Any]]:
    """The extras of one item on the page, by name."""
    page = (project.path / "reports" / "page.html").read_text(encoding="utf-8")
    (blob,) = re.findall(r'data-jsonblob="([^"]*)"', page)
    tests = json.loads(html.unescape(blob))["tests"]
    (found,) = (results for nodeid, results in tests.items() if name in nodeid)
    return {extra["name"]: extra for result in found for extra in result["extras"]}


@pytest.mark.parametrize("mode", ["plain", "n2"])
def test_the_page_has_the_diagnosis(mode: str, project: Project) -> None:
    options = ("--html=reports/page.html", "--self-contained-html", "--h2o-lossy-target=3.5")
    assert project.run("-k", RUN, *options, *MODES[mode]).ret == 1
    extras = extras_of(project, "test_lossy")
    assert sorted(extras) == ["diagnosis", "figures", "gate"]
    assert extras["gate"]["content"] == f"../h2o-runs/{project.run_dir().name}/report.html"
    assert (project.path / "reports" / extras["gate"]["content"]).is_file()
    assert sorted(extras_of(project, "test_bench")) == ["gate"]


def test_without_that_page_there_are_none(project: Project) -> None:
    assert project.run("-k", "run_0003", "-p", "no:html").ret == 0
