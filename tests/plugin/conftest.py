"""A project to run pytest in, new for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.project import MODES, ROOT, Project

__all__ = ["MODES", "ROOT", "Project"]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)
