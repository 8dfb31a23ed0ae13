"""The lock of this machine: a timed run is alone, whichever gate, worker or terminal started it.

Timed runs hold it for writing, heavy codec work for reading: codecs may run beside each other and never beside a timed
run. A writer that waits keeps new readers out, so that it is not starved by them. The system releases the lock if its
holder dies, by KILL even. It is the reader-writer lock of filelock, whose locks SQLite holds on a small file.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from filelock import ReadWriteLock, Timeout

from pytest_h2o.errors import StoreError

Wait = Callable[[float], None]

_SLICE_S = 1.0
"""How long one attempt waits before it says so and tries again."""


@contextlib.contextmanager
def machine_lock(on_wait: Wait | None = None, *, mode: Literal["write", "read"] = "write") -> Iterator[None]:
    """Hold the lock of this machine and user for the length of the block, waiting for it as long as it takes.

    It is not reentrant: a block inside a block waits for ever, unless both read.

    Parameters
    ----------
    on_wait : callable, optional
        Called with the seconds waited, about once a second while somebody else holds the lock.
    mode : str
        ``write`` for a timed run, ``read`` for heavy work that must not run beside one.

    Raises
    ------
    StoreError
        The lock file cannot be made.
    """
    path = _lock_folder() / "machine.db"
    started = time.monotonic()
    try:
        # Not a singleton: two threads of one process exclude each other like two processes.
        lock = ReadWriteLock(path, is_singleton=False)
    except (OSError, ValueError, sqlite3.Error) as error:
        raise _no_lock(path, str(error)) from error
    try:
        acquire = lock.acquire_write if mode == "write" else lock.acquire_read
        while True:
            try:
                acquire(_SLICE_S)
                break
            except Timeout:
                if on_wait is not None:
                    on_wait(time.monotonic() - started)
            except (OSError, ValueError, sqlite3.Error) as error:
                raise _no_lock(path, str(error)) from error
        yield
    finally:
        lock.close()


def heavy_work(on_wait: Wait | None = None) -> contextlib.AbstractContextManager[None]:
    """Hold the lock for reading: for work that loads the machine and is not timed."""
    return machine_lock(on_wait, mode="read")


def _lock_folder() -> Path:
    """Folder in the system's temporary folder that only this user can write."""
    user = os.getuid()
    path = Path(tempfile.gettempdir()) / f"pytest-h2o-{user}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise _no_lock(path, error.strerror or str(error)) from error
    # The temporary folder is everybody's: somebody else may have made this name first.
    if status.st_uid != user or path.is_symlink():
        raise _no_lock(path, f"a {'link' if path.is_symlink() else 'folder'} of user {status.st_uid}")
    return path


def _no_lock(path: Path, came: str) -> StoreError:
    return StoreError(
        "the lock that keeps timed runs apart cannot be made",
        where=str(path),
        came=came,
        expected="a folder of your own in the temporary folder",
        hint="remove what stands there, or point TMPDIR to a folder of your own",
    )
