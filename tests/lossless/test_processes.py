"""Long work on processes: the same bytes as on threads, whatever happens to them, and none outlives its parent."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Words
from pytest_h2o.codecs.zstd import Byteplane
from pytest_h2o.errors import DumpError, ExecutorError, RoundTripError
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless import executors as executor
from pytest_h2o.lossless.evaluate import evaluate_lossless
from pytest_h2o.lossless.executors import pack, run_on_processes, serve
from pytest_h2o.lossless.index import index_dump
from pytest_h2o.lossless.measure import Measured, Measurement, Task, plan_groups, plan_tasks
from tests.lossless.samples import FP16, SMALL, write_entry

SETTINGS = Scope(
    scope="layer_range",
    layer_start=0,
    entry_mode="chunked_grouped",
    online_chunk_seq=192,
    online_framing_bytes=8,
)
TIMES = {"elapsed_s", "encode_s", "decode_s", "workers"}
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Odd(Codec):
    """Raw words, and what `how` says."""

    id: ClassVar[str] = "odd"
    how: str = ""

    def encode(self, stream: Stream) -> bytes:
        match self.how:
            case "prints":
                print("a codec says something")
            case "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            case "leaves":
                os._exit(3)
            case "exits":
                sys.exit(0)
            case "unprintable":
                raise KeyError(stream)
            case "sleeps":
                time.sleep(20)
        return stream.words.astype("<u2").tobytes()

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        words = np.frombuffer(payload, "<u2").astype(np.uint16).reshape(side.shape)
        return words ^ np.uint16(1) if self.how == "wrong" else words


def tasks_of(root: Path = SMALL, settings: Scope = SETTINGS) -> list[Task]:
    return list(plan_tasks(plan_groups(index_dump(root).entries, settings), settings))


def measure(codec: Codec, *, workers: int = 2, root: Path = SMALL) -> list[Measured]:
    tasks = tasks_of(root)
    return list(run_on_processes(pack(Measurement(codec, True), tasks[0]), tasks, workers))


@pytest.fixture(autouse=True)
def tasks_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_h2o.lossless.measure._TASK_BYTES", 1 << 15)


@pytest.fixture
def all_work_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "LONG_WORK_BYTES", 1)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which way the work went."""
    from pytest_h2o.lossless import executors as processes

    ways: list[str] = []

    def on_processes(*args: object) -> Iterator[Measured]:
        ways.append("processes")
        return run_on_processes(*args)  # type: ignore[arg-type]

    def on_threads(*args: object, **keywords: object) -> Iterator[Measured]:
        if not keywords:  # those are of the threads that each wait for a process
            ways.append("threads")
        return spread(*args, **keywords)  # type: ignore[arg-type, type-var]

    spread = executor.spread
    monkeypatch.setattr(processes, "run_on_processes", on_processes)
    monkeypatch.setattr(executor, "spread", on_threads)
    return ways


@pytest.mark.usefixtures("all_work_is_long")
def test_the_result_is_that_of_one_thread(used: list[str]) -> None:
    settings = replace(SETTINGS, codec="rowref")
    one = evaluate_lossless(SMALL, settings, verify=True, workers=1)
    two = evaluate_lossless(SMALL, settings, verify=True, workers=2)
    assert used == ["threads", "processes"]
    alike = [{k: v for k, v in result.to_json().items() if k not in TIMES} for result in (one, two)]
    assert alike[0] == alike[1]
    assert (two.workers, two.verified_streams) == (2, two.encoded_streams)


def test_short_work_stays_on_threads(used: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    raw_bytes = sum(task.raw_bytes for task in tasks_of())
    for most, way in ((raw_bytes, "processes"), (raw_bytes + 1, "threads")):
        monkeypatch.setattr(executor, "LONG_WORK_BYTES", most)
        used.clear()
        evaluate_lossless(SMALL, SETTINGS, verify=False, workers=2)
        assert used == [way]


@pytest.mark.usefixtures("all_work_is_long")
def test_an_archive_stays_on_threads(used: list[str]) -> None:
    result = evaluate_lossless(FP16, SETTINGS, verify=True, workers=2)
    assert used == ["threads"]
    assert result.verified_streams == result.encoded_streams > 0


def test_what_a_codec_prints_does_no_harm(capfd: pytest.CaptureFixture[str]) -> None:
    assert sum(measured.tally.verified for measured in measure(Odd("prints"))) > 0
    told = capfd.readouterr()
    assert "a codec says something" in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    ("how", "error", "told"),
    [
        ("wrong", RoundTripError, "codec odd gave back other bits\n  where: *, first at word 0 (byte 0)*"),
        ("dies", ExecutorError, "a process that codes streams ended before its work\n*\n  came: signal SIGKILL\n*"),
        ("leaves", ExecutorError, "a process that codes streams ended before its work\n*\n  came: exit status 3\n*"),
    ],
)
def test_an_error_over_there_is_an_error_here(how: str, error: type[Exception], told: str) -> None:
    with pytest.raises(error) as caught:
        measure(Odd(how))
    pytest.LineMatcher([" / ".join(str(caught.value).splitlines())]).fnmatch_lines([told.replace("\n", " / ")])


def test_a_file_that_is_gone_is_the_error_of_the_dump(tmp_path: Path) -> None:
    meta = write_entry(tmp_path, tokens=64)
    write_entry(tmp_path, start=64, tokens=64)
    tasks = tasks_of(tmp_path)
    meta.with_name("k_t0_64.bin").unlink()
    with pytest.raises(DumpError):
        list(run_on_processes(pack(Measurement(Byteplane(), True), tasks[0]), tasks, 2))


def test_a_reader_that_stops_early_ends_the_processes() -> None:
    others = _children(os.getpid())  # the process that forks gates for other tests
    tasks = tasks_of()
    results = run_on_processes(pack(Measurement(Byteplane(), True), tasks[0]), tasks, 2)
    next(results)
    assert len(_children(os.getpid())) >= len(others) + 2
    results.close()  # type: ignore[attr-defined]
    assert _children(os.getpid()) == others


def test_an_interrupt_does_not_wait_for_the_streams_in_hand() -> None:
    """Each would take 20 s."""
    begun, others = time.monotonic(), _children(os.getpid())
    interrupt = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        measure(Odd("sleeps"))
    assert time.monotonic() - begun < 15
    assert _children(os.getpid()) == others


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_its_parent(number: signal.Signals, tmp_path: Path) -> None:
    """Not even one in the middle of a stream that takes 20 s."""
    code = f"""
        import sys
        sys.path[:0] = [{str(ROOT)!r}]
        from tests.lossless.test_processes import Odd, measure
        print("begun", flush=True)
        measure(Odd("sleeps"))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        _wait(lambda: len(_children(parent.pid)) == 2)
        children = _children(parent.pid)
        time.sleep(0.5)
        if number == signal.SIGINT:  # as a terminal sends it: to the whole group
            os.killpg(parent.pid, number)
            time.sleep(0.5)
        parent.kill()
        parent.wait(30)
    _wait(lambda: not any(_is_running(child) for child in children))


def test_a_worker_answers_what_it_is_asked() -> None:
    task = tasks_of()[0]
    asked = io.BytesIO(b"".join(map(pickle.dumps, (Measurement(Byteplane(), True), task, task))))
    answers = io.BytesIO()
    serve(asked, answers)
    answers.seek(0)
    assert pickle.load(answers) is None
    first, second = pickle.load(answers), pickle.load(answers)
    assert first.tally.coded_bytes == second.tally.coded_bytes > 0
    assert answers.read() == b""


def test_an_error_that_cannot_travel_is_told_in_words() -> None:
    class Kept(BaseException):
        pass

    def fail(task: Task) -> Measured:
        raise Kept("it holds a socket")

    measurement = Measurement(Byteplane(), True)
    answers = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Measurement, "__call__", lambda self, task: fail(task))
        serve(io.BytesIO(pickle.dumps(measurement) + pickle.dumps(tasks_of()[0])), answers)
    answers.seek(0)
    pickle.load(answers)
    assert repr(pickle.load(answers)) == "RuntimeError('Kept: it holds a socket')"


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (thread / "children").read_text().split() if _is_running(int(child))]
    return found


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not until():
        assert time.monotonic() < end
        time.sleep(0.05)
