"""Where the work of an evaluation is done: on the cores of this machine, or by the workers of a dask scheduler.

An executor takes tasks one at a time and yields what each came to, in any order; sizes do not depend on which one it
is. It is named by text: ``cores``, or ``dask://HOST:PORT``.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import chain
from queue import SimpleQueue
from typing import Any, BinaryIO, Protocol, TypeVar

from pytest_h2o.errors import ExecutorError, UsageError
from pytest_h2o.files import usable_cores
from pytest_h2o.inputs.options import CORES, dask_address
from pytest_h2o.lossless.apart import is_ours, keep_apart
from pytest_h2o.lossless.measure import Measured, Measurement, Task

_T = TypeVar("_T")
_R = TypeVar("_R")


def spread(
    work: Callable[[_T], _R], tasks: Iterable[_T], workers: int, give_up: Callable[[], None] = lambda: None
) -> Iterator[_R]:
    """Do `work` on every task and yield the results as they come, in any order.

    Tasks are taken from the iterable one at a time, so that a long plan is never held whole. The first error of a
    worker is raised here; then, or when the caller stops early, the others end after their current task. No
    `ThreadPoolExecutor`: with it come five milliseconds of imports, logging among them, for a command of two hundred.
    """
    if workers == 1:
        yield from map(work, tasks)
        return
    todo = iter(tasks)
    turn = threading.Lock()
    stop = threading.Event()
    done: SimpleQueue[tuple[_R | None, BaseException | None, bool]] = SimpleQueue()

    def run() -> None:
        try:
            while not stop.is_set():
                with turn:
                    task = next(todo, None)
                if task is None:
                    break
                done.put((work(task), None, False))
        except BaseException as error:
            done.put((None, error, True))
        else:
            done.put((None, None, True))

    threads = [threading.Thread(target=run, name=f"h2o-codec-{n}") for n in range(workers)]
    for thread in threads:
        thread.start()
    running = workers
    try:
        while running:
            result, error, ended = done.get()
            if error is not None:
                raise error
            if ended:
                running -= 1
            else:
                yield result  # type: ignore[misc]
    finally:
        stop.set()
        if running:
            give_up()
        for thread in threads:
            thread.join()


class Executor(Protocol):
    """Does the work of tasks, `workers` of them at once."""

    @property
    def workers(self) -> int: ...

    def run(self, measurement: Measurement, tasks: Iterable[Task]) -> Iterator[Measured]:
        """Measure every task and yield the results as they come; the first error ends it."""


LONG_WORK_BYTES = 1 << 26
"""From here on the work of all cores outlasts the start of processes by far, whatever the codec."""


@dataclass(frozen=True)
class LocalCores:
    """The cores of this machine: threads for short work, processes for long work.

    Threads start at once and share the index. But they share the interpreter's lock too, so that they serve only codecs
    that are mostly zstd or long loops of numpy (benchmarks/lossless_workers.py; docs/size-and-machines.md has figures).
    Work stays on threads where the dump is an archive, which another process cannot have. A codec of a third party
    codes in processes of its own, which threads ask (see `apart`).
    """

    workers: int

    def run(self, measurement: Measurement, tasks: Iterable[Task]) -> Iterator[Measured]:
        if not is_ours(measurement.codec):
            with keep_apart(
                measurement.codec, self.workers, decodes=measurement.verify, limit_s=measurement.limit_s
            ) as apart:
                yield from spread(replace(measurement, apart=apart), tasks, self.workers)
            return
        todo = iter(tasks)
        first: list[Task] = []
        size = 0
        while size < LONG_WORK_BYTES and (task := next(todo, None)) is not None:
            first.append(task)
            size += task.raw_bytes
        work = chain(first, todo)
        if self.workers > 1 and size >= LONG_WORK_BYTES:
            try:
                yield from run_on_processes(pack(measurement, first[0]), work, self.workers)
                return
            except CannotTravel:  # no task has been taken yet
                pass
        yield from spread(measurement, work, self.workers)


def open_executor(name: str = CORES, workers: int | None = None) -> AbstractContextManager[Executor]:
    """The executor of a name; leaving the context closes what it has opened."""
    address = dask_address(name, "--executor")
    if workers is not None and workers < 1:
        raise UsageError("--workers does not fit", came=str(workers), expected="at least 1")
    if address is None:
        return nullcontext(LocalCores(workers or usable_cores()))
    if workers is not None:
        raise UsageError(
            "--workers means nothing with an executor elsewhere",
            came=f"--workers {workers} and {name}",
            expected="one of the two: the scheduler knows how many workers it has",
        )
    from pytest_h2o.lossless.dask import DaskExecutor  # takes a second, and the extra `dask`

    return DaskExecutor(address)


_START = "import sys; sys.path[:] = {path!r}; from pytest_h2o.lossless.executors import main; main()"


class CannotTravel(Exception):
    """A dump is of a kind that another process cannot have."""


def pack(measurement: Measurement, first: Task) -> bytes:
    """What all tasks have in common, as it travels; CannotTravel if that, or the dump of the first task, cannot."""
    try:
        pickle.dumps(first)
        return pickle.dumps(measurement)
    except Exception as error:  # the lock and the file of an archive
        raise CannotTravel(str(error)) from error


def run_on_processes(packed: bytes, tasks: Iterable[Task], workers: int) -> Iterator[Measured]:
    """Measure every task in one of `workers` processes, and yield the results as they come; the first error ends it.

    The processes are no `ProcessPoolExecutor`: they end with this one however it ends, an interrupt does not wait for
    the streams in hand, and the main module of this process is not run again in them.
    """
    idle: SimpleQueue[_Worker] = SimpleQueue()

    def measure(task: Task) -> Measured:
        worker = idle.get()
        try:
            measured: Measured = worker.ask(pickle.dumps(task))
        finally:
            idle.put(worker)
        return measured

    with ExitStack() as opened:
        started = [opened.enter_context(_Worker()) for _ in range(workers)]
        for worker in started:
            worker.ask(packed)
            idle.put(worker)

        def end_all() -> None:
            for worker in started:
                worker.kill()

        yield from spread(measure, tasks, workers, give_up=end_all)


class _Worker(subprocess.Popen[bytes]):
    """One process, asked one thing at a time; it ends with its context, at once where that is left by an error."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _START.format(path=sys.path)]
        super().__init__(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: Any) -> None:
        if kind is not None:
            self.kill()
        with suppress(BrokenPipeError):  # what is left to be sent to one that has ended
            super().__exit__(kind, error, traceback)

    def ask(self, packed: bytes) -> Any:
        """Send something and take the answer; an error over there is raised here."""
        assert self.stdin
        assert self.stdout
        try:
            self.stdin.write(packed)
            self.stdin.flush()
            answer = pickle.load(self.stdout)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError) as error:
            self.kill()
            status = self.wait()
            raise ExecutorError(
                "a process that codes streams ended before its work",
                where=f"process {self.pid}",
                came=f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}",
                hint="has the machine enough memory? --workers 1 codes in one process",
            ) from error
        if isinstance(answer, BaseException):
            raise answer
        return answer


_LOOK_S = 1.0


def main() -> None:
    """Serve the process that has started this one."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the other process ends this one
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        serve(sys.stdin.buffer, answers)
    except BrokenPipeError:
        os._exit(1)  # nobody is there to be told


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


def serve(asked: BinaryIO, answers: BinaryIO) -> None:
    """Read a `Measurement` and answer None; then answer each task until the input ends."""
    measurement: Measurement = pickle.load(asked)
    _answer(answers, None)
    while True:
        try:
            task = pickle.load(asked)
        except EOFError:
            return
        answer: Measured | BaseException
        try:
            answer = measurement(task)
        except BaseException as error:
            answer = error
        _answer(answers, answer)


def _answer(answers: BinaryIO, answer: Measured | BaseException | None) -> None:
    try:
        packed = pickle.dumps(answer)
    except Exception:  # an error of somebody's codec may hold anything
        packed = pickle.dumps(RuntimeError(f"{type(answer).__name__}: {answer}"))
    answers.write(packed)
    answers.flush()
