"""A project to run pytest in, new for each test, and one whose run nothing disturbed."""

import pytest

from tests.plugin.broken_off import small_project
from tests.plugin.project import Project


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, pytest.RunResult]:
    """A whole run of the small project, which no test may change."""
    project, options = small_project(tmp_path_factory.mktemp("unbroken"))
    result = project.run(*options)
    assert result.ret == 1, result.outlines  # its bench is slowed down
    return project, result
