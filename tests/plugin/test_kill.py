"""Killed at random moments: the controller, a worker, the bench. The run goes on and ends as if nothing had been.

Fifty moments take minutes: a few are part of every run of the tests, all of them are ``tox -e kill``.
"""

import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.plugin.broken_off import check_gone, check_journal, check_same, family_of, kill, small_project
from tests.plugin.project import Project, check_no_traceback

MOMENTS = 50
USUAL = 3

VICTIMS = ("controller", "controller -n2", "bench", "worker", "terminated", "interrupted")


def words_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended meanwhile
        return []


def hit(project: Project, options: tuple[str, ...], victim: str, after_s: float) -> None:
    """Start a run, or go on with one, and kill; a run whose worker or bench died is then broken off too."""
    workers = ("-n2",) if victim in ("controller -n2", "worker") else ()
    child = project.start(*options, *workers)
    time.sleep(after_s)
    family = family_of(child)
    if victim == "worker":
        for process in [p for p in family if words_of(p)[1:2] == ["-u"]][:1]:
            kill(process)
        time.sleep(0.3)
    if victim == "bench":
        for process in [p for p in family if any("llm_bench" in word for word in words_of(p)[:2])]:
            kill(process)
        time.sleep(0.3)
    family += family_of(child)
    child.send_signal({"terminated": signal.SIGTERM, "interrupted": signal.SIGINT}.get(victim, signal.SIGKILL))
    child.finish()
    check_gone(family)


@pytest.mark.parametrize(
    "moment", [n if n < USUAL else pytest.param(n, marks=pytest.mark.slow) for n in range(MOMENTS)]
)
def test_a_run_that_was_killed_goes_on_and_ends_as_one_that_was_not(
    moment: int, unbroken: tuple[Project, pytest.RunResult], tmp_path: Path
) -> None:
    chance = random.Random(moment)
    victim = VICTIMS[moment % len(VICTIMS)]
    project, options = small_project(tmp_path)
    given, runs = options, list[Path]()
    for _ in range(1 + (moment % 5 == 4)):  # some are killed again while they go on
        hit(project, given, victim, chance.uniform(0.15, 0.95) * unbroken[1].duration)
        runs = project.runs()
        for run_dir in runs:
            check_journal(run_dir)
        if runs and (runs[0] / "run.json").exists():
            break
        if runs and (runs[0] / ".results").is_dir():
            given = (*options, f"--h2o-resume={runs[0]}")
    if not runs or not (runs[0] / "run.json").exists():
        project.launch_here()
        check_no_traceback(project.run(*given))
    elif project.failed() != unbroken[0].failed():
        # It came to its end before it could be broken off, and says what failed of what was killed.
        assert victim in ("worker", "bench")
        assert project.summary()["overall_pass"] is False
        return
    (run_dir,) = project.runs()
    check_journal(run_dir)
    check_same(run_dir, unbroken[0].run_dir())
