"""The workers of an existing dask scheduler; nothing is started or stopped there.

Every task is sent with its words (see `remote`), by way of the scheduler, which keeps them until the result is here: a
worker that dies loses nothing, its tasks are done again by another one. To the scheduler a task is plain bytes and a
function that travels by value: it needs nothing of this package. Each task is one future and each future is counted
once. How many are on their way is bounded, in number and in bytes, and so is the memory here, in the scheduler and in
the workers.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from pytest_h2o import __version__
from pytest_h2o.codecs.base import Rope, Words, read_config
from pytest_h2o.codecs.registry import codec_from_config
from pytest_h2o.errors import CodecError, ExecutorError, H2OError
from pytest_h2o.lossless.measure import Measured, Measurement, Task, read_words
from pytest_h2o.lossless.roots import DumpRoot

_CODED_BY = ("codecs", "lossless")
"""Folders of this package whose code decides what bytes come out."""


@dataclass(frozen=True)
class Parcel:
    """One task, its entries without their files, with everything that measuring it needs.

    `words` are those of all its streams, uint16 ``[rows, kv_heads, head_dim]``; `codec` is the configuration of the
    codec, which the worker must have by that name; `versions` what the sender codes with, and the worker must too.
    """

    task: Task
    words: Words
    codec: Mapping[str, Any]
    verify: bool
    rope: Rope | None
    versions: Mapping[str, str]

    def measure(self) -> Measured:
        """What a worker does."""
        ours = coding_versions()
        unlike = [name for name, version in self.versions.items() if ours[name] != version]
        if unlike:
            raise ExecutorError(
                "a worker codes with other versions than this process, so that its sizes could be others",
                where=f"worker on {platform.node()}",
                came=", ".join(f"{name} {ours[name]}" for name in unlike),
                expected=", ".join(f"{name} {self.versions[name]}" for name in unlike),
                hint="install the same versions on the workers",
            )
        try:
            codec = codec_from_config(self.codec)
        except CodecError as error:
            raise ExecutorError(
                f"a worker cannot make the codec {self.codec.get('id')}",
                where=f"worker on {platform.node()}",
                came=error.what,
                hint="install the distribution that brings the codec on the workers; one of a conftest stays here",
            ) from error
        with Measurement(codec, self.verify, self.rope).opened() as measurement:
            (measured,) = measurement.measure([(self.task, self.words)])
        return measured


def pack(measurement: Measurement, task: Task) -> Parcel:
    """Read the words of a task, and take its entries off their files."""
    chunks = tuple(
        chunk._replace(
            pieces=tuple(
                piece._replace(entry=piece.entry._replace(k_location="", v_location="", root=DumpRoot()))
                for piece in chunk.pieces
            )
        )
        for chunk in task.chunks
    )
    config = read_config(measurement.codec)
    return Parcel(
        task._replace(chunks=chunks), read_words(task), config, measurement.verify, measurement.rope, coding_versions()
    )


@cache
def coding_versions() -> dict[str, str]:
    """What decides how many bytes come out: this package and its code, and the libraries."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for folder in _CODED_BY:
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return {
        "pytest_h2o": __version__,
        "code": digest.hexdigest()[:12],
        "numpy": np.__version__,
        "libzstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
        "byteorder": sys.byteorder,
    }


_CONNECT_S = 5.0
_WITHOUT_WORKERS_S = 30.0
_LOOK_S = 1.0
_TASKS_A_WORKER = 2
"""One being worked on, one waiting at its side."""

_MOST_BYTES = 1 << 26
"""Of words on their way; a single larger stream goes alone."""


class DaskExecutor:
    """A connection to the scheduler at `address`, ``HOST:PORT``; a context manager.

    ExecutorError where dask is not installed, nothing answers within seconds, or no worker is there in half a minute.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._client: Any = None
        self._opened = ExitStack()
        self.workers = 0

    def __enter__(self) -> DaskExecutor:
        try:
            import distributed
        except ImportError as error:
            raise ExecutorError(
                "an executor on other machines needs dask",
                came=str(error),
                expected="the extra dask",
                hint="pip install 'pytest-h2o[dask]'",
            ) from error
        with ExitStack() as opened:
            opened.enter_context(_quiet())
            try:
                self._client = distributed.Client(f"tcp://{self._address}", timeout=_CONNECT_S, set_as_default=False)
            except (OSError, TimeoutError, ValueError) as error:
                raise self._error(
                    "the dask scheduler cannot be reached",
                    f"{type(error).__name__}: {error}",
                    "is it running there, and is the address right? dask scheduler prints it when it starts",
                    f"a scheduler that answers within {_CONNECT_S:g} s",
                ) from error
            opened.callback(self._client.close, timeout=_CONNECT_S)
            self.workers = self._wait_for_workers()
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def run(self, measurement: Measurement, tasks: Iterable[Task], raw_bytes: int) -> Iterator[Measured]:
        """See `Executor`."""
        measure = _make_sendable()
        todo = iter(tasks)
        pending: dict[Any, int] = {}
        task = next(todo, None)
        try:
            while task is not None or pending:
                while task is not None and self._has_room(pending, task):
                    packed = pickle.dumps(pack(measurement, task))
                    pending[self._client.submit(measure, packed, pure=False)] = task.raw_bytes
                    task = next(todo, None)
                for future in self._wait_for_some(list(pending)):
                    del pending[future]
                    yield self._take(future)
        finally:
            if pending:
                self._client.cancel(list(pending), force=True)

    def _wait_for_some(self, futures: list[Any]) -> set[Any]:
        """Those that are done by now, after a while at most; it is also looked whether anybody is working on them."""
        from distributed import wait

        try:
            with self._client.as_current():
                done: set[Any] = wait(futures, timeout=_LOOK_S, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            self._wait_for_workers()
            return set()
        except Exception as error:
            raise self._explained(error) from error
        return done

    def _has_room(self, pending: dict[Any, int], task: Task) -> bool:
        if not pending:
            return True
        on_their_way = sum(pending.values()) + task.raw_bytes
        return len(pending) < _TASKS_A_WORKER * self.workers and on_their_way <= _MOST_BYTES

    def _take(self, future: Any) -> Measured:
        try:
            measured: Measured = future.result()
        except H2OError:
            raise
        except Exception as error:  # whatever the other side raised, or that there is no other side any more
            raise self._explained(error) from error
        return measured

    def _error(self, what: str, came: str, hint: str, expected: str | None = None) -> ExecutorError:
        return ExecutorError(what, where=f"dask://{self._address}", came=came, expected=expected, hint=hint)

    def _explained(self, error: Exception) -> ExecutorError:
        kind = type(error).__name__
        if kind == "KilledWorker":
            return self._error(
                "a task was given up, because worker after worker died on it",
                str(error).splitlines()[0],
                "have the workers enough memory? their logs say why they ended",
            )
        if "Cancelled" in kind or kind == "CommClosedError":
            return self._gone(f"{kind}: {error}")
        return self._error(
            "a worker cannot do the work",
            f"{kind}: {error}",
            "install it there with the libraries and codecs of this environment",
            "pytest-h2o of the same version on every worker",
        )

    def _gone(self, came: str) -> ExecutorError:
        hint = "nothing was counted that had not come back; start it again and repeat the run"
        return self._error("the dask scheduler is gone", came, hint)

    def _wait_for_workers(self) -> int:
        """Threads of all workers; waits a while for the first."""
        end = time.monotonic() + _WITHOUT_WORKERS_S
        while True:
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
            if self._client.status != "running":
                raise self._gone(f"a connection that is {self._client.status}")
            if workers:
                return sum(int(worker["nthreads"]) for worker in workers.values())
            if time.monotonic() > end:
                raise self._error(
                    "the dask scheduler has no workers",
                    f"none within {_WITHOUT_WORKERS_S:g} s",
                    f"start one: dask worker tcp://{self._address}",
                    "at least one",
                )
            time.sleep(0.2)


def _make_sendable() -> Callable[[bytes], Measured]:
    """What a worker is asked to do; a function inside a function is sent as code, not by the name of its module."""

    def measure(packed: bytes) -> Any:
        import pickle

        return pickle.loads(packed).measure()

    return measure


@contextmanager
def _quiet() -> Iterator[None]:
    """What the library logs of a lost connection is said by our errors, once."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
