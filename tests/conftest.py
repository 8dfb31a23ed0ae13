"""What all of our own tests share."""

import shutil
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import HealthCheck, settings

from tests.plugin.project import Project, run_in_root
from tests.recorded.record import RECORDED

settings.register_profile(  # a busy machine is no failure
    "untimed", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")


FIRST = ("codecs/test_own_codecs", "test_docs", "recorded/", "report/", "plugin/test_launcher")
"""What compiles for the other worker too, and what takes long: at the end nobody is waited for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.removeprefix("tests/").startswith(FIRST))


def pytest_make_parametrize_id(val: object) -> str | None:
    """Snapshots go by ids, and each version of pytest cuts and escapes long texts in its own way."""
    return f"{ascii(val)[:30]}-{crc32(ascii(val).encode()):08x}" if len(ascii(val)) > 60 and type(val) is str else None


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="session")
def recorded_gate(tmp_path_factory: pytest.TempPathFactory) -> tuple[pytest.RunResult, Path]:
    """The gates on the recordings, run once: what was said, and the run folder, which no test may change."""
    return run_in_root(tmp_path_factory.mktemp("recorded") / "out", *RECORDED)


@pytest.fixture(scope="session")
def engine_recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of a later engine, unpacked once: no test may change them. Its README says what is there."""
    folder = tmp_path_factory.mktemp("engine")
    shutil.unpack_archive(Path(__file__).parents[1] / "fixtures" / "recordings" / "engine.zip", folder)
    return folder
