"""Where the work of an evaluation is done: on the cores of this machine, or by the workers of a dask scheduler.

An executor takes tasks one at a time and yields what each came to, in any order; sizes do not depend on which one it
is. It is named by text: ``cores``, or ``dask://HOST:PORT``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

from pytest_h2o.errors import UsageError
from pytest_h2o.files import usable_cores
from pytest_h2o.inputs.options import CORES, dask_address
from pytest_h2o.lossless.apart import is_ours, run_on_processes
from pytest_h2o.lossless.measure import Measured, Measurement, Task


class Executor(Protocol):
    """Does the work of tasks, `workers` of them at once."""

    @property
    def workers(self) -> int: ...

    def run(self, measurement: Measurement, tasks: Iterable[Task], raw_bytes: int) -> Iterator[Measured]:
        """Measure every task and yield the results as they come; the first error ends it.

        `raw_bytes` is what all of them have.
        """


LONG_WORK_BYTES = 1 << 22
"""From here on several processes are worth their start, some milliseconds each."""

_LEAST_BATCH_BYTES, _MOST_BATCH_BYTES = 1 << 22, 1 << 24
"""Raw bytes that one process decodes: its start is a small part then, and they are not held for long."""


class LocalCores(NamedTuple):
    """The cores of this machine: as many processes, this one and others forked from it; short work is done here.

    A codec of a third party is run by processes of its own in turn (see `apart`).
    """

    workers: int

    def run(self, measurement: Measurement, tasks: Iterable[Task], raw_bytes: int) -> Iterator[Measured]:
        """See `Executor`."""
        workers = self.workers if raw_bytes >= LONG_WORK_BYTES else 1
        most = 0 if is_ours(measurement.codec) else _MOST_BATCH_BYTES
        batches = _batches(tasks, raw_bytes, workers, most)
        for measured in run_on_processes(measurement.opened, batches, workers):
            yield from measured


def _batches(tasks: Iterable[Task], raw_bytes: int, workers: int, most: int) -> Iterator[list[Task]]:
    """Tasks that are decoded together, of about `most` bytes; of fewer towards the end, so that all end together."""
    batch: list[Task] = []
    size = 0
    for task in tasks:
        batch.append(task)
        size += task.raw_bytes
        if size >= min(most, max(_LEAST_BATCH_BYTES, raw_bytes // (2 * workers))):
            yield batch
            raw_bytes -= size
            batch, size = [], 0
    if batch:
        yield batch


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
