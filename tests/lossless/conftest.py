"""The recorded dumps as folders, unpacked once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.lossless.samples import FP16, FP32


@pytest.fixture(scope="session")
def fp16_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _unpack(FP16, tmp_path_factory)


@pytest.fixture(scope="session")
def fp32_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _unpack(FP32, tmp_path_factory)


def _unpack(archive: Path, made: pytest.TempPathFactory) -> Path:
    folder = made.mktemp("dumps") / archive.stem
    shutil.unpack_archive(archive, folder)
    return folder
