"""Workers of pytest-xdist in another folder, behind a socket on loopback, that cannot reach the run folder."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_h2o.errors import StoreError, UsageError
from pytest_h2o.gate.metrics import GATE_OPTIONS
from pytest_h2o.inputs.options import resolve_settings
from pytest_h2o.plugin.config import tell_worker
from pytest_h2o.plugin.workers import _pack, hear_controller
from pytest_h2o.run.journal import MAX_OUTPUT_BYTES, receive_files
from tests.plugin.broken_off import PRESET, check_same, files_of, small_project, wait_until
from tests.plugin.project import Project, check_no_traceback, failure_of


class Server:
    """A socket server of execnet in a folder of its own, as one stands on another machine."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        own = {"TMPDIR": str(folder / "tmp"), "HOME": str(folder)}
        (folder / "tmp").mkdir()
        self.folder = folder
        with (folder / "server.txt").open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "execnet.script.socketserver", self.address],
                cwd=folder,
                env={**os.environ, **env, **own},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(lambda: "Entering Accept loop" in (folder / "server.txt").read_text(), "the server never came up")


@pytest.fixture
def away(tmp_path: Path) -> Iterator[tuple[Project, tuple[str, ...], Server]]:
    (tmp_path / "here").mkdir()
    project, options = small_project(tmp_path / "here")
    server = Server(tmp_path / "there", {**project.env, "PYTHONUNBUFFERED": "1"})
    yield project, options, server
    server.process.kill()
    server.process.wait()


def run_away(project: Project, server: Server, *options: str) -> pytest.RunResult:
    """Run the gates on the server: the project is sent there, below the folder of the server."""
    where = ("-p", "xdist", "--dist=load", f"--tx=socket={server.address}//chdir={server.folder}/sent")
    sent = [f"--rsyncdir={project.path}"]
    return project.run(*options, *where, *sent, what=str(project.path / "gates"))


def test_a_gate_that_runs_away_leaves_the_same_artifacts(
    away: tuple[Project, tuple[str, ...], Server], unbroken: tuple[Project, pytest.RunResult]
) -> None:
    """Options with relative paths (bench, base config) included; and the run folder is the controller's alone."""
    project, options, server = away
    result = run_away(project, server, *options)
    check_no_traceback(result)
    assert result.ret == unbroken[1].ret
    result.assert_outcomes(passed=6, failed=2, skipped=2, warnings=2)  # xdist's own: rsync is deprecated
    check_same(project.run_dir(), unbroken[0].run_dir())
    assert str(server.folder) not in failure_of(result, f"test_decode[{PRESET}]")
    # Every launch was made there: its config lay in a folder of the worker, none in the run folder.
    launched = (project.path / "launches.txt").read_text().splitlines()
    assert {Path(line).is_relative_to(server.folder / "tmp") for line in launched} == {True}
    for name, path in files_of(project.run_dir()).items():
        if "/" not in name or path.suffix == ".csv" or path.name == "manifest.json":
            assert f"{server.folder}/tmp" not in path.read_text(), path


def test_another_bench_there_is_refused(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "llm_bench").write_text(name)
        (tmp_path / name / "model.json").write_text("{}")
    given = {"h2o_bench": "llm_bench", "h2o_base_config": "model.json"}
    here = tmp_path / "here"
    settings = resolve_settings(
        GATE_OPTIONS, command_line=given.get, ini=lambda key: None, invocation_dir=here, ini_dir=here
    )
    told = json.loads(json.dumps(tell_worker(settings, here / "h2o-runs" / "run", here, away=True)))
    with pytest.raises(UsageError) as caught:
        hear_controller(told, tmp_path / "there")
    assert str(caught.value).startswith("--h2o-bench is another file for this worker than for the controller\n")
    assert f"where: {tmp_path}/there/llm_bench on " in str(caught.value)
    (tmp_path / "there" / "llm_bench").write_text("here")
    heard = hear_controller(told, tmp_path / "there")
    assert heard.settings["bench"] == tmp_path / "there" / "llm_bench"
    assert heard.settings["base-config"] == tmp_path / "there" / "model.json"
    assert heard.shipping is not None
    assert not heard.run_dir.is_relative_to(here)
    # A worker that shares the run folder takes everything as it is.
    near = hear_controller({**told, "away": False}, tmp_path / "there")
    assert (near.run_dir, near.settings["bench"]) == (here / "h2o-runs" / "run", here / "llm_bench")
    assert near.shipping is None


def test_a_comparison_needs_the_history(away: tuple[Project, tuple[str, ...], Server]) -> None:
    project, options, server = away
    result = run_away(project, server, *options, "--h2o-compare=last")
    text = "\n".join(result.outlines)
    assert "--h2o-compare needs the history and the baselines, which a remote worker cannot read" in text
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert project.launches() == []


def test_long_output_travels_as_its_end(tmp_path: Path) -> None:
    path = tmp_path / "run_0001.stdout.txt"
    path.write_bytes(b"a" * 1000 + b"b" * MAX_OUTPUT_BYTES)
    receive_files({"p/logs/run_0001.stdout.txt": _pack(path)}, tmp_path / "run")
    text = (tmp_path / "run" / "p" / "logs" / "run_0001.stdout.txt").read_bytes()
    assert text == b"[the first 1000 bytes stayed on the machine of the worker]\n" + b"b" * MAX_OUTPUT_BYTES


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out", ""])
def test_nothing_is_written_outside_the_run_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(StoreError, match="would lie outside the run folder"):
        receive_files({name: _pack(tmp_path / "x")}, tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]


@pytest.mark.parametrize("text", ["~~~~~~", "00000", "é"])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(StoreError, match="damaged"):
        receive_files({"p/a.log": text}, tmp_path)
    (tmp_path / "x").write_bytes(os.urandom(3000))
    with pytest.raises(StoreError, match="its end is missing"):
        receive_files({"p/a.log": _pack(tmp_path / "x")[:-50]}, tmp_path)
    assert not (tmp_path / "p").exists()


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("first")
    (tmp_path / "x").write_text("second")
    receive_files({"a.log": _pack(tmp_path / "x")}, tmp_path)
    assert (tmp_path / "a.log").read_text() == "first"
