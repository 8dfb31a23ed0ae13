"""Launches that run the fake bench or llm_demo in this process: nobody need wait for interpreters to start."""

import contextlib
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_h2o.bench import launch
from pytest_h2o.bench.process import NO_DUMP, ChildResult
from tests import fake_llm_bench, fake_llm_demo


def launch_here(
    patch: pytest.MonkeyPatch, only: Sequence[str] = (), bench: Callable[[], object] = fake_llm_bench.main
) -> None:
    """Whatever command is launched from now on, a fake gets its words; those of other programs than `only` run."""
    run_child = launch.run_child

    def run_here(
        argv: Sequence[str],
        *,
        stdout_path: Path,
        environment: Mapping[str, str | Path] | None = None,
        folder: Path | None = None,
        **how: Any,
    ) -> ChildResult:
        if only and argv[0] not in only:
            return run_child(argv, stdout_path=stdout_path, environment=environment, folder=folder, **how)
        stdout_path.parent.mkdir(parents=True, exist_ok=True)
        is_bench = "-m" in argv
        with (
            stdout_path.open("x", encoding="utf-8") as output,
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
            pytest.MonkeyPatch.context() as here,
        ):
            here.setattr(sys, "argv", ["fake", *argv[argv.index("-m") if is_bench else 1 :]])
            for name, value in {**NO_DUMP, **(environment or {})}.items():
                here.setenv(name, str(value))
            if folder is not None:
                here.chdir(folder)
            try:
                code = bench() if is_bench else fake_llm_demo.main()
            except SystemExit as end:
                code = end.code
            except Exception:  # as an interpreter of its own would end
                traceback.print_exc(file=output)
                code = 1
        code = code or 0
        return ChildResult(tuple(argv), code, None, False, 0.01, stdout_path)

    patch.setattr(launch, "run_child", run_here)
