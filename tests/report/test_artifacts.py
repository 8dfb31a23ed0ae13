"""Copies of recorded files in a run folder: whole or not at all, and nothing overwritten."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_h2o.errors import StoreError
from pytest_h2o.report.artifacts import _keep


def test_a_copy_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "a.log", tmp_path / "run" / "a.log"
    source.write_bytes(b"row")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left on device"):
            _keep(source, target)
    assert list(target.parent.iterdir()) == []
    _keep(source, target)
    assert target.read_bytes() == b"row"
    source.write_bytes(b"other")
    _keep(source, target)
    assert target.read_bytes() == b"row"


def test_a_recorded_file_that_has_gone_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        _keep(tmp_path / "gone.log", tmp_path / "run" / "gone.log")
    assert str(caught.value) == (
        "cannot copy a recorded file into the run folder\n"
        f"  where: {tmp_path}/gone.log\n  came: No such file or directory"
    )
