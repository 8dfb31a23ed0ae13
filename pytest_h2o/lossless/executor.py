"""Where the work of an evaluation is done: on the cores of this machine, or by the workers of a dask scheduler.

An executor takes tasks one at a time and yields what each came to, in any order; sizes do not depend on which one it
is. It is named by text: ``cores``, or ``dask://HOST:PORT``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from pytest_h2o.cores import usable_cores
from pytest_h2o.errors import UsageError
from pytest_h2o.executor_name import CORES, dask_address
from pytest_h2o.lossless.measure import Measured, Measurement
from pytest_h2o.lossless.plan import Task
from pytest_h2o.lossless.spread import spread


class Executor(Protocol):
    """Does the work of tasks."""

    @property
    def workers(self) -> int:
        """How many tasks are worked on at once."""

    def run(self, measurement: Measurement, tasks: Iterable[Task]) -> Iterator[Measured]:
        """Measure every task and yield the results as they come; the first error ends it."""


LONG_WORK_BYTES = 1 << 26
"""From here on the work of all cores outlasts the start of processes by far, whatever the codec."""


@dataclass(frozen=True)
class LocalCores:
    """The cores of this machine: threads for short work, processes for long work.

    Threads start at once and share the index. But they share the interpreter's lock too, so that they serve only codecs
    that are mostly zstd or long loops of numpy (benchmarks/lossless_workers.py; docs/size-and-machines.md has figures).
    Work stays on threads where a codec or dump cannot be had in another process: a codec of a conftest, an archive.
    """

    workers: int

    def run(self, measurement: Measurement, tasks: Iterable[Task]) -> Iterator[Measured]:
        todo = iter(tasks)
        first = list(_take_until(todo, LONG_WORK_BYTES))
        work = chain(first, todo)
        if self.workers == 1 or sum(task.raw_bytes for task in first) < LONG_WORK_BYTES:
            yield from spread(measurement, work, self.workers)
            return
        from pytest_h2o.lossless.processes import CannotTravel, pack, run_on_processes

        try:
            yield from run_on_processes(pack(measurement, first[0]), work, self.workers)
        except CannotTravel:
            yield from spread(measurement, work, self.workers)


def _take_until(tasks: Iterator[Task], most: int) -> Iterator[Task]:
    """Tasks up to the one with which they come to `most` raw bytes."""
    size = 0
    while size < most and (task := next(tasks, None)) is not None:
        size += task.raw_bytes
        yield task


def open_executor(name: str = CORES, workers: int | None = None) -> AbstractContextManager[Executor]:
    """The executor of a name; leaving the context closes what it has opened.

    Parameters
    ----------
    name : str
        ``cores`` or ``dask://HOST:PORT``.
    workers : int, optional
        Tasks at once on this machine; the number of cores that this process may use if not given.

    Raises
    ------
    UsageError
        It is no name of an executor, or the number of workers does not fit it.
    ExecutorError
        The scheduler cannot be reached.
    """
    address = dask_address(name, "--executor")
    if address is None:
        return nullcontext(LocalCores(_count_workers(workers)))
    if workers is not None:
        raise UsageError(
            "--workers means nothing with an executor elsewhere",
            came=f"--workers {workers} and {name}",
            expected="one of the two: the scheduler knows how many workers it has",
        )
    from pytest_h2o.lossless.dask_executor import DaskExecutor  # takes a second, and the extra `dask`

    return DaskExecutor(address)


def _count_workers(workers: int | None) -> int:
    if workers is None:
        return usable_cores()
    if workers < 1:
        raise UsageError("--workers does not fit", came=str(workers), expected="at least 1")
    return workers
