"""Long work on processes: the same bytes as in one, whatever happens to them, and none outlives its parent."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil
import pytest

from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Words
from pytest_h2o.codecs.zstd import Byteplane
from pytest_h2o.errors import CodecError, DumpError, ExecutorError
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless import executors as executor
from pytest_h2o.lossless.apart import Turn, Worker, answer_with, run_on_processes
from pytest_h2o.lossless.evaluate import evaluate_lossless
from pytest_h2o.lossless.index import Health, index_dump
from pytest_h2o.lossless.measure import Measured, Measurement, Task, plan_groups, plan_tasks
from tests.lossless.samples import FP16, SMALL, counted, write_entry
from tests.plugin.broken_off import check_gone, lives, wait_until

SETTINGS = Scope(
    scope="layer_range", layer_start=0, entry_mode="chunked_grouped", online_chunk_seq=192, online_framing_bytes=8
)
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
    given = [[task] for task in tasks_of(root)]
    return [one for measured in run_on_processes(Measurement(codec, True).opened, given, workers) for one in measured]


def work_on(work: Callable[[int], object], numbers: Iterable[int], workers: int = 2) -> Iterator[Any]:
    return run_on_processes(lambda: nullcontext(work), numbers, workers)


def elsewhere(work: Callable[[int], object]) -> Callable[[int], object]:
    """`work` where another process than this one does it; this one takes its time."""
    here = os.getpid()
    return lambda number: time.sleep(0.01) if os.getpid() == here else work(number)


@pytest.fixture(autouse=True)
def tasks_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_h2o.lossless.measure._TASK_BYTES", 1 << 15)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """On how many processes work went."""
    ways: list[int] = []

    def noted(opened: Any, batches: Iterable[list[Task]], workers: int) -> Iterator[list[Measured]]:
        ways.append(workers)
        return run_on_processes(opened, batches, workers)

    monkeypatch.setattr(executor, "run_on_processes", noted)
    return ways


@pytest.mark.parametrize("root", [SMALL, FP16], ids=["folder", "archive"])
def test_the_result_is_that_of_one_process(root: Path, used: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "LONG_WORK_BYTES", 1)
    settings = replace(SETTINGS, codec="rowref")
    one, two = (evaluate_lossless(root, settings, verify=True, workers=workers) for workers in (1, 2))
    assert used == [1, 2]
    assert counted(one) == counted(two)
    assert (two.workers, two.verified_streams) == (2, two.encoded_streams)


def test_faults_are_those_that_one_process_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in range(3):
        write_entry(tmp_path, layer_id=layer, tokens=20, data=bytes(640) if layer == 1 else None)
    copied = tmp_path / "run" / "layer_0" / "k_t0_20.bin"
    copied.with_name("v_t0_20.bin").write_bytes(copied.read_bytes())
    one = evaluate_lossless(tmp_path, SETTINGS, verify=False, workers=1)
    pids = tmp_path / "pids"
    pids.mkdir()

    def noted(health: Health, layer: int, tensor: str) -> Iterator[tuple[str, str]]:
        (pids / str(os.getpid())).touch()
        wait_until(lambda: len(list(pids.iterdir())) == 2, "no other process takes part")
        return really(health, layer, tensor)

    really = Health.faults
    monkeypatch.setattr(Health, "faults", noted)
    monkeypatch.setattr("pytest_h2o.lossless.index._MANY_WORDS", 1)
    assert evaluate_lossless(tmp_path, SETTINGS, verify=False, workers=2).faults == one.faults
    assert [fault.kind for fault in one.faults] == ["zero", "zero", "alike"]


def test_short_work_is_done_here(used: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    raw_bytes = sum(task.raw_bytes for task in tasks_of())
    for most, ways in ((raw_bytes, [2]), (raw_bytes + 1, [1])):
        monkeypatch.setattr(executor, "LONG_WORK_BYTES", most)
        used.clear()
        evaluate_lossless(SMALL, SETTINGS, verify=False, workers=2)
        assert used == ways


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_every_batch_is_done_once(workers: int) -> None:
    assert sorted(work_on(lambda number: number**2, range(500), workers)) == [n**2 for n in range(500)]
    assert list(work_on(lambda number: number, (), workers)) == []


def test_no_two_processes_take_the_same() -> None:
    """As they would within some ten thousand, if nothing held them apart."""

    def take(_: int, answers: int) -> None:
        answer_with(answers, lambda: list(itertools.islice(turn.share(itertools.count()), 40_000)))

    with ExitStack() as started:
        turn = started.enter_context(Turn())
        taken = [started.enter_context(Worker(take, turn)) for _ in range(4)]
        numbers = {number for one in taken for number in one.answer()}
    assert (len(numbers), max(numbers)) == (160_000, 159_999)


@pytest.mark.parametrize("times", [0, 2], ids=["lost", "doubled"])
def test_a_batch_that_is_not_measured_once_is_an_error(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(opened: Any, batches: Iterable[list[Task]], workers: int) -> Iterator[list[Measured]]:
        first, *others = run_on_processes(opened, batches, workers)
        return iter([first] * times + others)

    monkeypatch.setattr(executor, "LONG_WORK_BYTES", 1)
    monkeypatch.setattr(executor, "run_on_processes", wrong)
    with pytest.raises(ExecutorError, match="not every stream was measured once"):
        evaluate_lossless(SMALL, SETTINGS, verify=False, workers=2)


@pytest.mark.skipif(sys.platform != "linux", reason="pipes elsewhere have the room that they have")
def test_this_process_has_its_share_and_holds_no_other_up(tmp_path: Path) -> None:
    """Their answers, more than a pipe has room for by itself, wait until it is done with its own batch."""
    here, begun = os.getpid(), tmp_path / "begun"

    def work(number: int) -> tuple[int, bytes]:
        if os.getpid() == here:
            begun.touch()
            time.sleep(2)
        wait_until(begun.exists, "this process took none")
        return os.getpid(), bytes(40_000)

    done = [pid for pid, _ in work_on(work, range(20))]
    assert len(done) == 20
    assert done.count(here) <= 1


def test_the_first_error_ends_the_work(tmp_path: Path) -> None:
    def work(number: int) -> None:
        if number == 3:
            raise KeyError("three")
        time.sleep(0.01)
        (tmp_path / str(number)).touch()

    with pytest.raises(KeyError, match="three"):
        list(work_on(work, range(1000)))
    assert len(list(tmp_path.iterdir())) < 500

    def plan() -> Iterator[int]:
        yield 1
        raise ValueError("no more plan")

    with pytest.raises(ValueError, match="no more plan"):
        list(work_on(lambda number: number, plan()))


def test_what_a_codec_prints_does_no_harm(capfd: pytest.CaptureFixture[str]) -> None:
    assert sum(measured.tally.verified for measured in measure(Odd("prints"))) > 0
    told = capfd.readouterr()
    assert "a codec says something" in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("wrong", "codec odd gave back other bits\n  where: *, first at word 0 (byte 0)*"),
        ("dies", "codec odd cannot encode a stream\n  where: *\n  came: its process ended: signal SIGKILL\n*"),
    ],
)
def test_an_error_over_there_is_an_error_here(how: str, told: str) -> None:
    pytest.importorskip("tblib.pickling_support").install()  # as distributed does: causes travel with errors
    with pytest.raises(CodecError) as caught:
        measure(Odd(how))
    pytest.LineMatcher([" / ".join(str(caught.value).splitlines())]).fnmatch_lines([told.replace("\n", " / ")])


@pytest.mark.parametrize(
    ("leave", "told"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "came: signal SIGKILL"),
        (lambda: os._exit(3), "came: exit status 3"),
        (lambda: os._exit(0), "came: exit status 0"),
    ],
)
def test_a_process_that_ends_before_its_work_is_an_error(leave: Callable[[], None], told: str) -> None:
    with pytest.raises(ExecutorError, match="ended before its work") as caught:
        list(work_on(elsewhere(lambda number: leave()), itertools.count()))
    assert told in str(caught.value)


def test_a_file_that_is_gone_is_the_error_of_the_dump(tmp_path: Path) -> None:
    meta = write_entry(tmp_path, tokens=64)
    write_entry(tmp_path, start=64, tokens=64)
    results = run_on_processes(Measurement(Byteplane(), True).opened, [[task] for task in tasks_of(tmp_path)], 2)
    meta.with_name("k_t0_64.bin").unlink()
    with pytest.raises(DumpError):
        list(results)


def test_a_reader_that_stops_early_ends_the_processes() -> None:
    others = family(os.getpid())  # the process that forks gates for other tests
    results = work_on(lambda number: number, itertools.count())  # nor is the plan held whole
    next(results)
    assert len(family(os.getpid())) == len(others) + 1
    results.close()  # type: ignore[attr-defined]
    assert family(os.getpid()) == others


def test_an_interrupt_does_not_wait_for_the_streams_in_hand() -> None:
    """Each would take 20 s."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what runs in the background of a shell
    begun, others = time.monotonic(), family(os.getpid())
    interrupt = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        measure(Odd("sleeps"))
    assert time.monotonic() - begun < 15
    wait_until(lambda: family(os.getpid()) == others, "what was interrupted goes on")


def test_no_handler_of_this_process_runs_in_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def held() -> set[int]:
        return signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def fork() -> int:
        pid = really()
        if not pid and not {signal.SIGINT, signal.SIGTERM} <= held():
            os._exit(9)
        return pid

    really, before = os.fork, held()
    monkeypatch.setattr(os, "fork", fork)
    assert list(work_on(lambda number: held(), range(50))) == [before] * 50
    assert held() == before


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
        parent.stdout.readline()
        # another one that judges, and of each one that encodes and one that waits
        wait_until(lambda: len(family(parent.pid)) == 5, "they do not start")
        members = family(parent.pid)
        time.sleep(0.5)
        if number == signal.SIGINT:  # as a terminal sends it: to the whole group
            os.killpg(parent.pid, number)
            time.sleep(0.5)
        parent.kill()
        parent.wait(30)
    check_gone(members)


def test_an_error_that_cannot_travel_is_told_in_words() -> None:
    class Kept(BaseException):
        pass

    def fail(number: int) -> None:
        raise Kept("it holds a socket")

    with pytest.raises(RuntimeError, match="Kept: it holds a socket"):
        list(work_on(elsewhere(fail), itertools.count()))


def family(pid: int) -> list[int]:
    """Processes that a process has started, and those that they have."""
    return [process.pid for process in psutil.Process(pid).children(recursive=True) if lives(process)]
