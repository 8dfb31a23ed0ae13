"""Launches that run the fake bench in this process: nobody need wait for interpreters to start."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_h2o.bench import launch
from pytest_h2o.bench.process import ChildResult
from tests import fake_llm_bench


def launch_here(patch: pytest.MonkeyPatch) -> None:
    """Whatever command is launched from now on, the fake bench gets its flags."""

    def run_here(argv: Sequence[str], *, stdout_path: Path, **_: object) -> ChildResult:
        stdout_path.parent.mkdir(parents=True, exist_ok=True)
        code: object = 0
        with stdout_path.open("x", encoding="utf-8") as output, contextlib.redirect_stdout(output):
            patch.setattr(sys, "argv", ["llm_bench", *argv[argv.index("-m") :]])
            try:
                fake_llm_bench.main()
            except SystemExit as end:
                code = end.code
        assert isinstance(code, int)
        return ChildResult(tuple(argv), code, None, False, 0.01, stdout_path)

    patch.setattr(launch, "run_child", run_here)
