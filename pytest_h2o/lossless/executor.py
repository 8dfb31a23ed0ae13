"""Where the work of an evaluation is done: on the cores of this machine, or by the workers of a dask scheduler.

An executor takes tasks one at a time and yields what each came to, in any order; sizes do not depend on which one it
is. It is named by text: ``cores``, or ``dask://HOST:PORT``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
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


@dataclass(frozen=True)
class LocalCores:
    """Threads of this process."""

    workers: int

    def run(self, measurement: Measurement, tasks: Iterable[Task]) -> Iterator[Measured]:
        return spread(measurement, tasks, self.workers)


def open_executor(name: str = CORES, workers: int | None = None) -> AbstractContextManager[Executor]:
    """The executor of a name; leaving the context closes what it has opened.

    Parameters
    ----------
    name : str
        ``cores`` or ``dask://HOST:PORT``.
    workers : int, optional
        Threads on this machine; the number of cores that this process may use if not given.

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
