"""Work spread over processes of this machine, each of which reads the dump itself.

Threads share one interpreter lock. A codec of many short steps (a call of zstd or numpy takes microseconds there) hands
it to and fro at each of them, and two threads then do less than one; processes do not meet. They cost their start, some
0.3 s, so they are for long work: see `executor`.
"""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue
from typing import IO, Any

from pytest_h2o.errors import ExecutorError
from pytest_h2o.lossless.measure import Measured, Measurement
from pytest_h2o.lossless.plan import Task
from pytest_h2o.lossless.spread import spread

_START = "import sys; sys.path[:] = {path!r}; from pytest_h2o.lossless.worker import main; main()"


class CannotTravel(Exception):
    """A codec or a dump is of a kind that another process cannot have."""


def pack(measurement: Measurement, first: Task) -> bytes:
    """What all tasks have in common, as it travels; CannotTravel if that, or the dump of the first task, cannot."""
    try:
        pickle.dumps(first)
        return pickle.dumps(measurement)
    except Exception as error:  # somebody's codec may refuse in any way
        raise CannotTravel(str(error)) from error


def run_on_processes(packed: bytes, tasks: Iterable[Task], workers: int) -> Iterator[Measured]:
    """Measure every task in one of `workers` processes, and yield the results as they come; the first error ends it.

    Parameters
    ----------
    packed : bytes
        What `pack` made of the measurement.
    tasks : iterable of Task
    workers : int

    Raises
    ------
    CannotTravel
        The codec cannot be had in another process. No task was taken yet.
    ExecutorError
        A process died.
    """
    idle: SimpleQueue[_Worker] = SimpleQueue()

    def measure(task: Task) -> Measured:
        worker = idle.get()
        try:
            return worker.measure(task)
        finally:
            idle.put(worker)

    with ExitStack() as opened:
        started = [opened.enter_context(_start()) for _ in range(workers)]
        for worker in started:
            worker.greet(packed)
            idle.put(worker)

        def end_all() -> None:
            for worker in started:
                worker.kill()

        yield from spread(measure, tasks, workers, give_up=end_all)


@contextmanager
def _start() -> Iterator[_Worker]:
    """A process that ends with the context; at once, where it is left by an error."""
    command = [sys.executable, "-c", _START.format(path=sys.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            yield _Worker(child)
        except BaseException:
            child.kill()
            raise


class _Worker:
    """One process, asked one thing at a time."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        self._child = child
        self._asked: IO[bytes] = child.stdin
        self._answers: IO[bytes] = child.stdout

    def greet(self, measurement: bytes) -> None:
        """Hand over what all tasks have in common; CannotTravel if it does not arrive."""
        self._send(measurement)
        trouble = self._receive()
        if trouble is not None:
            raise CannotTravel(trouble)

    def measure(self, task: Task) -> Measured:
        self._send(pickle.dumps(task))
        answer = self._receive()
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, Measured)
        return answer

    def kill(self) -> None:
        """End it in the middle of whatever it does."""
        self._child.kill()

    def _send(self, packed: bytes) -> None:
        try:
            self._asked.write(packed)
            self._asked.flush()
        except BrokenPipeError as error:
            raise self._died() from error

    def _receive(self) -> Any:
        try:
            return pickle.load(self._answers)
        except (EOFError, pickle.UnpicklingError) as error:
            raise self._died() from error

    def _died(self) -> ExecutorError:
        self.kill()
        status = self._child.wait()
        return ExecutorError(
            "a process that codes streams ended before its work",
            where=f"process {self._child.pid}",
            came=f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}",
            hint="has the machine enough memory? --workers 1 codes in one process",
        )
