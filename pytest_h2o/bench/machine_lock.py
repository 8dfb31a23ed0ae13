"""One timed run at a time on this machine, whichever gate, worker or terminal it was started from."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from pytest_h2o.errors import StoreError


@contextlib.contextmanager
def machine_lock(on_wait: Callable[[float], None] | None = None) -> Iterator[None]:
    """Hold the lock of this machine and user for the length of the block, waiting for it as long as it takes.

    The system releases it if the holder dies. It is not reentrant: a block inside a block waits for ever.

    Parameters
    ----------
    on_wait : callable, optional
        Called with the seconds waited, about once a second while another run holds the lock.

    Raises
    ------
    StoreError
        The lock file cannot be made.
    """
    path = _lock_folder() / "machine.lock"
    lock = FileLock(path, thread_local=False)
    started = time.monotonic()
    while True:
        try:
            lock.acquire(timeout=1.0, poll_interval=0.02)
            break
        except Timeout:
            if on_wait is not None:
                on_wait(time.monotonic() - started)
        except OSError as error:
            raise _no_lock(path, error.strerror or str(error)) from error
    try:
        yield
    finally:
        lock.release()


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
