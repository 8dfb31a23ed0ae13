"""Going on with a run that was broken off: what is measured again, what is refused, what a full or closed disk does."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.plugin.broken_off import (
    PRESET,
    check_gone,
    check_journal,
    check_same,
    family_of,
    files_of,
    small_project,
    wait_until,
)
from tests.plugin.project import Project, check_no_traceback

Rows = tuple[Project, tuple[str, ...]]
"""A project, and options for its three rows alone."""


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return rows_of(tmp_path)


def rows_of(path: Path) -> Rows:
    project, bench = small_project(path)
    return project, (*bench[:2], "-k", "bench", "--h2o-no-fold", "--h2o-html=no")


def break_off(
    project: Project, options: tuple[str, ...], launches: int, number: int = signal.SIGKILL, **modes: str
) -> tuple[Path, pytest.RunResult]:
    """Start a run whose bench hangs in one launch, and end it there; its folder and what it said; no other hangs."""
    project.env["FAKE_MODES"] = json.dumps(modes)
    child = project.start(*options)
    wait_until(lambda: len(project.launches()) >= launches, "the bench was never launched")
    time.sleep(0.1)
    family = family_of(child)
    assert any("llm_bench" in " ".join(process.cmdline()) for process in family)
    child.send_signal(number)
    result = child.finish()
    check_gone(family)
    project.env["FAKE_MODES"] = "{}"
    project.launch_here()
    return project.run_dir(), result


def test_what_was_measured_is_not_measured_again(rows: Rows) -> None:
    project, options = rows
    run_dir, _ = break_off(project, options, 3, run_0003="hang", run_0001="exit3")
    assert not (run_dir / "run.json").exists()
    kept = {name: path.read_bytes() for name, path in files_of(run_dir).items() if "run_0002" in name}
    result = project.run(*options, f"--h2o-resume={run_dir}")
    assert result.ret == 0
    result.assert_outcomes(passed=3)
    assert project.run_dir() == run_dir  # no other folder was made
    # The one that failed and the one that was broken off; the first files of both stay beside.
    assert sorted(run_id[:8] for run_id in project.launches()[3:]) == ["run_0001", "run_0003"]
    logs = {path.name for path in (run_dir / PRESET / "logs").iterdir()}
    assert {name[:8] for name in logs if "broken-off-1" in name} == {"run_0001", "run_0003"}
    assert not {name for name in logs if name.startswith(".")}
    assert {name: (run_dir / name).read_bytes() for name in kept if (run_dir / name).exists()} == {
        name: data for name, data in kept.items() if not name.startswith(".results")
    }
    check_journal(run_dir)
    first, second = ((run_dir / name).read_text().splitlines() for name in ("journal.1.jsonl", "journal.jsonl"))
    assert len(second) == 3
    assert all(json.loads(line)["outcome"] == "passed" for line in second)
    assert {json.loads(line)["run_id"][:8] for line in first} >= {"run_0001"}
    assert not (run_dir / ".results").exists()
    history = (run_dir.parent / "history.jsonl").exists()
    assert not history or len((run_dir.parent / "history.jsonl").read_text().splitlines()) == 1


def test_pairs_that_were_whole_are_kept(tmp_path: Path) -> None:
    project, options = small_project(tmp_path)
    run_dir, _ = break_off(project, options, 3 + 4 + 1, pair_03="hang")
    assert project.launches()[3:7] == [f"pair_0{n}_{side}" for n in (1, 2) for side in sides(run_dir, n)]
    result = project.run(*options, f"--h2o-resume={run_dir}")
    check_no_traceback(result)
    result.stdout.fnmatch_lines([f"h2o: goes on with {run_dir.name}: * steps were made, sound ones are not made again"])
    again = project.launches()[8:]
    assert {run_id[:7] for run_id in again} == {"pair_03", "pair_04", "pair_05", "consist"}  # ency: not yet launched
    pairs = json.loads((run_dir / PRESET / "decode" / "pairs.json").read_text())
    assert [len(pairs["pairs"]), pairs["measured_again"]] == [5, []]


def sides(run_dir: Path, number: int) -> tuple[str, str]:
    """In which order a pair that is kept was launched."""
    (path,) = (run_dir / ".results").glob(f"decode/{PRESET}/pair_{number:02d}.json")
    order = json.loads(path.read_text())["pair"]["order"]
    return ("baseline", "candidate") if order == "AB" else ("candidate", "baseline")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, tuple[str, ...], Path]:
    """A run that was broken off, which nothing of what is refused may change."""
    project, options = rows_of(tmp_path_factory.mktemp("broken"))
    (project.path / "llm.mnn.weight").write_text("weights")
    run_dir, _ = break_off(project, options, 2, run_0002="hang")
    return project, options, run_dir


GATES = "gates/test_sweep.py"
CHANGES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "bench": ("llm_bench", (), "bench: "),
    "config": ("model.json", (), "base config of preset small: "),
    "model": ("llm.mnn.weight", (), "weights of preset small: "),
    "preset": (f"gates/presets/{PRESET}.yaml", (), "preset small: "),
    "gate file": (GATES, (), "gate files: "),
    "option": (GATES, ("--h2o-threads=1",), "--h2o-threads: 2 then, 1 now"),
    "items": (GATES, ("-k", "bench and not run_0001"), "items: 3 ("),
}
"""The file that gets another end, or the options beside; and what is told."""


@pytest.mark.parametrize("change", CHANGES)
def test_another_question_is_refused(broken: tuple[Project, tuple[str, ...], Path], change: str) -> None:
    project, options, run_dir = broken
    name, more, told = CHANGES[change]
    file, launched = project.path / name, len(project.launches())
    before = file.read_text()
    file.write_text(before if more else before.replace("3.2, 3.4]", "3.2, 3.3]") + "\n")
    try:
        result = project.run(*options, *more, f"--h2o-resume={run_dir}")
    finally:
        file.write_text(before)
    check_no_traceback(result)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = "\n".join(result.outlines)
    assert "--h2o-resume: what is asked has changed since the run was broken off" in text
    assert told in text
    assert len(project.launches()) == launched
    assert not (run_dir / "run.json").exists()


def test_a_run_that_is_not_there_or_finished_is_refused(
    broken: tuple[Project, tuple[str, ...], Path], unbroken: tuple[Project, pytest.RunResult]
) -> None:
    project, options, _ = broken
    finished = unbroken[0].run_dir()
    contents = {name: path.read_bytes() for name, path in files_of(finished).items()}
    for folder, told, more in (
        ("nowhere", "this is no folder of a run that was broken off", ()),
        (finished, "the run in this folder came to its end: there is nothing to go on with", ()),
        (broken[2], "--h2o-resume and --h2o-dry-run exclude each other", ("--h2o-dry-run",)),
    ):
        result = project.run(*options, *more, f"--h2o-resume={folder}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert f"ERROR: {told}" in "\n".join(result.outlines)
    assert {name: path.read_bytes() for name, path in files_of(finished).items()} == contents


def test_control_c_keeps_what_was_measured_and_says_how_to_go_on(rows: Rows) -> None:
    """Only then: while it goes on, nobody else takes it up."""
    project, options = rows
    project.env["FAKE_MODES"] = json.dumps({"run_0002": "hang"})
    child = project.start(*options)
    wait_until(lambda: len(project.launches()) >= 2, "the bench was never launched")
    run_dir, family = project.run_dir(), family_of(child)
    refused = project.run(*options, f"--h2o-resume={run_dir}")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: the run in this folder is still going on" in "\n".join(refused.outlines)
    child.send_signal(signal.SIGINT)
    result = child.finish()
    check_gone(family)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        [
            "gate UNFINISHED: the run was broken off, so nothing is said of the gate",
            f"what was measured until then is in {run_dir}/journal.jsonl",
            f"to go on with it: the same command with --h2o-resume={run_dir}",
        ]
    )
    (record,) = [json.loads(line) for line in (run_dir / "journal.jsonl").read_text().splitlines()]
    assert (record["run_id"][:8], record["outcome"]) == ("run_0001", "passed")
    assert record["data"]["points"][0]["result"]["cells"]["h2o_lossy"] == "2.961 ± 0.026"
    assert not {"run.json", "summary.json"} & {path.name for path in run_dir.iterdir()}


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "n2"])
def test_control_c_before_the_first_item_ends_says_how_to_go_on(rows: Rows, workers: tuple[str, ...]) -> None:
    project, options = rows
    project.env["FAKE_MODES"] = json.dumps({"run_0001": "hang", "run_0002": "hang"})
    child = project.start(*options, *workers, workers=2 * len(workers))
    wait_until(lambda: len(project.launches()) >= 1, "the bench was never launched")
    for process in family_of(child):  # as a terminal does: to all but the bench, whose session is its own
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == os.getpgid(child.pid):
                os.kill(process.pid, signal.SIGINT)
    child.send_signal(signal.SIGINT)
    result = child.finish()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        ["gate UNFINISHED: *", "no item had ended", f"to go on with it: *--h2o-resume={project.run_dir()}"]
    )
    project.env["FAKE_MODES"] = "{}"
    assert project.run(*options, f"--h2o-resume={project.run_dir()}").parseoutcomes()["passed"] >= 1


def test_control_c_twice_and_term_leave_no_child(rows: Rows) -> None:
    project, options = rows
    project.env["FAKE_MODES"] = json.dumps({"run_0002": "hang_ignoring_term"})
    for signals in ((signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)):
        launched = len(project.launches())
        child = project.start(*options)
        wait_until(lambda least=launched + 2: len(project.launches()) >= least, "never launched")
        family = family_of(child)
        for number in signals:
            child.send_signal(number)
            time.sleep(0.002)
        child.finish()
        check_gone(family)


def test_a_full_disk_loses_nothing_that_was_measured(rows: Rows) -> None:
    """A file system of its own that has room for a little of the run; then it gets more and the run goes on."""
    project, options = rows[0], (*rows[1], "--h2o-out-dir=disk")
    disk = project.path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        result = project.run(*options)
        check_no_traceback(result)
        assert result.ret != 0
        assert "No space left on device" in "\n".join(result.outlines)
        (run_dir,) = (path for path in disk.iterdir() if path.is_dir())
        assert not (run_dir / "run.json").exists()
        check_journal(run_dir)
        kept = [path.stem[:8] for path in run_dir.glob(".results/run/*/*/*.json")]
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        launched = len(project.launches())
        result = project.run(*options, f"--h2o-resume={run_dir}")
        assert result.ret == 0, result.outlines
        again = sorted(run_id[:8] for run_id in project.launches()[launched:])
        assert again == sorted({"run_0001", "run_0002", "run_0003"} - {*kept})
        assert json.loads((run_dir / "run.json").read_text())["exit_status"] == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_size_limit_is_told_like_a_full_disk(rows: Rows, tmp_path: Path) -> None:
    project, options = rows
    limited = ["sh", "-c", 'ulimit -f 8; trap "" XFSZ; exec "$@"', "sh"]
    env = {**os.environ, **project.env, "TMPDIR": str(tmp_path)}
    command = [*limited, sys.executable, "-m", "pytest", "gates", *options, "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=project.path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    assert "File too large" in done.stdout
    assert not (project.run_dir() / "run.json").exists()


def test_a_folder_that_is_closed_is_told_before_anything_is_launched(rows: Rows) -> None:
    project, options = rows
    closed = project.path / "closed"
    closed.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(closed)]
    if os.getuid() == 0:
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("a read-only file system cannot be mounted here")
    else:
        closed.chmod(0o555)
    try:
        result = project.run(*options, "--h2o-out-dir=closed")
    finally:
        if os.getuid() == 0:
            subprocess.run(["umount", str(closed)], check=True)
    check_no_traceback(result)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: the run folder cannot be written" in "\n".join(result.outlines)
    assert project.launches() == []


def test_killed_while_artifacts_are_written_it_goes_on(
    tmp_path: Path, unbroken: tuple[Project, pytest.RunResult]
) -> None:
    """As if the end had been cut at its worst: every artifact but run.json is there, the history has its line."""
    project, options = small_project(tmp_path)
    project.launch_here()
    stop = "import os\nimport pytest_h2o.report.artifacts as a\nold = a.write_new_json\nif 'STOP' in os.environ:\n"
    stop += "    a.write_new_json = lambda p, v, **k: os._exit(9) if p.name == 'run.json' else old(p, v, **k)\n"
    (project.path / "conftest.py").write_text(stop)
    project.env["STOP"] = "1"
    assert project.run(*options).ret == 9
    run_dir = project.run_dir()
    assert (run_dir / "summary.json").exists()
    assert not (run_dir / "run.json").exists()
    del project.env["STOP"]
    launched = project.launches()
    check_no_traceback(project.run(*options, f"--h2o-resume={run_dir}"))
    assert project.launches() == launched
    check_same(run_dir, unbroken[0].run_dir())
    assert len((run_dir.parent / "history.jsonl").read_text().splitlines()) == 1


def test_workers_do_not_outlive_a_killed_controller(rows: Rows) -> None:
    project, options = rows
    project.env["FAKE_MODES"] = json.dumps({"run_0001": "hang"})
    child = project.start(*options, "-n2")
    wait_until(lambda: len(project.launches()) >= 1, "never launched")
    family: list[psutil.Process] = family_of(child)
    child.send_signal(signal.SIGKILL)
    child.finish()
    check_gone(family, timeout_s=4)  # xdist alone takes 5 s and more
