"""Streams coded by a real scheduler and two worker processes on this machine: the same bytes, whoever dies."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_h2o.cli.main import main
from pytest_h2o.errors import ExecutorError, UsageError
from pytest_h2o.inputs.options import dask_address
from pytest_h2o.lossless import dask as dask_executor
from pytest_h2o.lossless import executors as executor
from pytest_h2o.lossless.evaluate import evaluate_lossless
from tests.lossless.samples import FP16, FP32, SMALL, TIMES, counted
from tests.lossless.test_processes import SETTINGS as WORKED_ON

pytest.importorskip("distributed")

SETTINGS = replace(WORKED_ON, codec="byteplane")
ROOT = Path(__file__).parents[2]


class Cluster:
    """A scheduler and its workers, each a process; ports are whatever is free."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.processes: list[subprocess.Popen[str]] = []
        where = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.scheduler = self._start("scheduler", *where)
        self.address = self._find(self.scheduler, r"Scheduler at:\s+tcp://(\S+)")
        self.workers: list[subprocess.Popen[str]] = []

    @property
    def name(self) -> str:
        return f"dask://{self.address}"

    def add_worker(self, **environment: str) -> subprocess.Popen[str]:
        options = ("--nthreads", "1", "--no-nanny", "--host", "127.0.0.1", "--no-dashboard", "--memory-limit", "0")
        worker = self._start("worker", f"tcp://{self.address}", *options, **environment)
        self._find(worker, r"(Registered to)")
        self.workers.append(worker)
        return worker

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait(30)

    def _start(self, kind: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        log = self._folder / f"{len(self.processes)}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + kind, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=self._folder,
                env={**os.environ, **environment},
            )
        process.log = log  # type: ignore[attr-defined]
        self.processes.append(process)
        return process

    def _find(self, process: subprocess.Popen[str], pattern: str) -> str:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            text = process.log.read_text()  # type: ignore[attr-defined]
            if match := re.search(pattern, text):
                return match[1]
            assert process.poll() is None, text
            time.sleep(0.05)
        raise AssertionError(f"no {pattern} in {text}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("dask"))
    try:
        made.add_worker()
        made.add_worker()
        yield made
    finally:
        made.stop()


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """For tests that kill parts of it."""
    folder = tmp_path / "dask"
    folder.mkdir()
    made = Cluster(folder)
    yield made
    made.stop()


@pytest.mark.parametrize(
    ("root", "changes"),
    [
        (FP16, {"codec": "adaptive_v22"}),
        (FP32, {"entry_mode": "aggregate", "online_chunk_seq": 0, "codec": "gear_v3"}),
        (SMALL, {"entry_mode": "per_meta", "online_chunk_seq": 0, "codec": "rowref"}),
    ],
    ids=["chunked_grouped", "aggregate_fp32", "per_meta"],
)
def test_results_are_those_of_this_machine(cluster: Cluster, root: Path, changes: dict[str, Any]) -> None:
    settings = replace(SETTINGS, **changes)
    here = evaluate_lossless(root, settings, verify=True)
    there = evaluate_lossless(root, settings, verify=True, executor=cluster.name)
    assert counted(there) == counted(here)
    assert there.verified_streams == there.encoded_streams > 0
    assert there.workers == 2


def test_the_command_takes_it(cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "result.json"
    flags = ["--dump-dir", str(SMALL), "--out-json", str(out), "--codec-mode", "byteplane"]
    assert main(["lossless", *flags, "--executor", cluster.name]) == 0
    there = json.loads(out.read_text())
    assert main(["lossless", *flags, "--overwrite"]) == 0
    here = json.loads(out.read_text())
    assert {name: here[name] for name in here if name not in TIMES} == {n: there[n] for n in there if n not in TIMES}
    assert main(["lossless", *flags, "--overwrite", "--executor", cluster.name, "--workers", "2"]) == 2
    assert "--workers means nothing with an executor elsewhere" in capsys.readouterr().err


def run_gate(out_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The gate's item of the deciding scope."""
    item = "gates/test_dumps.py::test_lossless[front2_grouped_192_8]"
    command = [sys.executable, "-m", "pytest", item, "-p", "no:cacheprovider", f"--h2o-out-dir={out_dir}", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.slow
def test_the_gate_takes_it(cluster: Cluster, tmp_path: Path) -> None:
    for number, options in enumerate(([], [f"--h2o-executor={cluster.name}"])):
        done = run_gate(tmp_path / str(number), *options)
        assert done.returncode == 0, done.stdout + done.stderr
    here, there = (
        json.loads(next(tmp_path.glob(f"{number}/*/offline_lossless_front2_grouped_192_8.json")).read_text())
        for number in (0, 1)
    )
    assert {name: here[name] for name in here if name not in TIMES} == {n: there[n] for n in there if n not in TIMES}
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("1/*/run.json"))
    assert record["settings"]["executor"] == {"value": cluster.name, "origin": "--h2o-executor"}


@pytest.mark.slow
def test_few_tasks_are_on_their_way(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are; the words of others are not even read."""
    seen = []
    has_room = dask_executor.DaskExecutor._has_room

    def watch(self: Any, pending: dict[Any, int], task: Any) -> bool:
        seen.append((len(pending), sum(pending.values())))
        return has_room(self, pending, task)

    monkeypatch.setattr(dask_executor.DaskExecutor, "_has_room", watch)
    monkeypatch.setattr("pytest_h2o.lossless.measure._TASK_BYTES", 1 << 17)
    result = evaluate_lossless(FP16, SETTINGS, verify=True, executor=cluster.name)
    assert max(count for count, _ in seen) == 4
    monkeypatch.setattr(dask_executor, "_MOST_BYTES", 3 << 17)
    seen.clear()
    again = evaluate_lossless(FP16, SETTINGS, verify=True, executor=cluster.name)
    assert counted(again) == counted(result)
    assert max(raw for _, raw in seen) <= 3 << 17


def during(act: Callable[[], object]) -> tuple[Callable[[int, int], None], threading.Event]:
    """A progress callback that acts once, when about a third is done."""
    acted = threading.Event()

    def progress(done: int, to_do: int) -> None:
        if not acted.is_set() and done * 3 > to_do:
            act()
            acted.set()

    return progress, acted


@pytest.mark.slow
def test_a_worker_killed_half_way_changes_nothing(own_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_h2o.lossless.measure._TASK_BYTES", 1 << 17)
    here = evaluate_lossless(FP16, SETTINGS, verify=True)
    own_cluster.add_worker()
    victim = own_cluster.add_worker()
    progress, acted = during(lambda: victim.send_signal(signal.SIGKILL))
    there = evaluate_lossless(FP16, SETTINGS, verify=True, executor=own_cluster.name, progress=progress)
    assert acted.is_set()
    assert victim.wait(10) == -signal.SIGKILL
    assert counted(there) == counted(here)


@pytest.mark.slow
def test_the_scheduler_killed_half_way_is_one_error(own_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_h2o.lossless.measure._TASK_BYTES", 1 << 14)
    own_cluster.add_worker()
    progress, acted = during(lambda: own_cluster.scheduler.send_signal(signal.SIGKILL))
    started = time.monotonic()
    with pytest.raises(ExecutorError, match="the dask scheduler is gone"):
        evaluate_lossless(FP16, SETTINGS, verify=True, executor=own_cluster.name, progress=progress)
    assert acted.is_set()
    assert time.monotonic() - started < 60


def test_no_scheduler_is_one_error_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "_CONNECT_S", 1.0)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        started = time.monotonic()
        with pytest.raises(ExecutorError) as caught:
            evaluate_lossless(SMALL, SETTINGS, verify=True, executor=f"dask://127.0.0.1:{port}")
    assert time.monotonic() - started < 20
    assert caught.value.what == "the dask scheduler cannot be reached"
    assert caught.value.where == f"dask://127.0.0.1:{port}"


@pytest.mark.slow
def test_a_scheduler_without_workers_is_one_error(own_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "_WITHOUT_WORKERS_S", 1.0)
    with pytest.raises(ExecutorError, match="the dask scheduler has no workers"):
        evaluate_lossless(SMALL, SETTINGS, verify=True, executor=own_cluster.name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "what", "came"),
    [
        ("import zstandard\nzstandard.ZSTD_VERSION = (1, 4, 0)\n", "a worker codes with other", "libzstd 1.4.0"),
        ("import sys\nsys.modules['pytest_h2o'] = None\n", "a worker cannot do the work", "pytest_h2o"),
    ],
    ids=["version", "package"],
)
def test_a_worker_with_another_version_is_one_error(
    own_cluster: Cluster, tmp_path: Path, start: str, what: str, came: str
) -> None:
    """Or one without this package."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(start, encoding="utf-8")
    own_cluster.add_worker(PYTHONPATH=str(site))
    with pytest.raises(ExecutorError) as caught:
        evaluate_lossless(SMALL, SETTINGS, verify=True, executor=own_cluster.name)
    assert caught.value.what.startswith(what)
    assert came in str(caught.value.came)


def test_a_codec_that_the_workers_lack_is_one_error(cluster: Cluster) -> None:
    from dataclasses import dataclass
    from typing import ClassVar

    from pytest_h2o.codecs.registry import register, unregister
    from pytest_h2o.codecs.zstd import Zstd

    @dataclass(frozen=True)
    class OnlyHere(Zstd):
        id: ClassVar[str] = "only_here"

    register(OnlyHere)
    try:
        with pytest.raises(ExecutorError) as caught:
            evaluate_lossless(SMALL, SETTINGS, verify=True, codec=OnlyHere(), executor=cluster.name)
    finally:
        unregister("only_here")
    assert caught.value.what == "a worker cannot make the codec only_here"
    assert caught.value.came == "there is no codec 'only_here'"


@pytest.mark.parametrize("name", ["dask", "dask://", "dask://host", "dask://host:0", "dask://host:65536", "tcp://h:1"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="--executor does not know this executor"):
        executor.open_executor(name)


def test_names() -> None:
    assert dask_address("cores", "--executor") is None
    assert dask_address("dask://host.example:8786", "--executor") == "host.example:8786"
    assert dask_address("dask://[::1]:8786", "--executor") == "[::1]:8786"
