"""The recorded dumps as folders, unpacked once."""

import shutil
from pathlib import Path

import pytest

from tests.lossless.samples import FP32


@pytest.fixture(scope="session")
def fp32_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dumps") / "fp32"
    shutil.unpack_archive(FP32, folder)
    return folder
