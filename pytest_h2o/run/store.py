"""What the processes of one run share: results in the run folder, each made by whoever asks for it first.

A result is JSON under a key, made under a lock of that key; everyone else waits and reads. The store is in use from the
first question on until the process ends, by KILL even: see `is_in_use`.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pytest_h2o.errors import H2OError, StoreError, error_from_json, error_to_json
from pytest_h2o.files import load, make_folder, plain, write_new_json

T = TypeVar("T")

SHARED = ".results"
"""Folder in an unfinished run for what its processes share: what was measured, by key."""

PROGRESS = f"{SHARED}/progress"
"""Folder for what they are doing right now."""

HEADER = "header"
"""Key of the lines for the head of a run, which a worker leaves for the controller."""

_IN_USE = "in-use.lock"


def name_run() -> str:
    """A name for a run folder: local time, and six random digits so that two gates never share one."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(3).hex()}"


class OnceStore:
    """Results that several processes need and one of them makes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, dict[str, Any]] = {}
        self._is_marked = False

    def use(self) -> None:
        """Hold the mark of use as one of many until this process ends; StoreError if the folder cannot be written."""
        if not self._is_marked:
            try:
                make_folder(self._folder)
                descriptor = os.open(self._folder / _IN_USE, os.O_WRONLY | os.O_CREAT, 0o666)
                weakref.finalize(self, os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                self._is_marked = True
            except OSError as error:
                raise StoreError(
                    "the run folder cannot be written",
                    where=str(self._folder),
                    came=error.strerror or str(error),
                    expected="a folder that can be written, with room on its disk",
                ) from error

    def once(self, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The object of `key`, computed if nobody has; an exception of `compute` is not stored."""
        if key in self._seen:
            return self._seen[key]
        from filelock import FileLock

        path = self._folder / f"{key}.json"
        self.use()
        try:
            make_folder(path.parent)
            with FileLock(f"{path}.lock"):
                # Through JSON for everyone, so that the first to ask sees what the others see.
                if not path.exists():
                    write_new_json(path, compute())
                result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise StoreError("a shared result cannot be kept or read", where=str(path), came=str(error)) from error
        self._seen[key] = result
        return result

    def keep(self, key: str, kind: type[T], make: Callable[[], T]) -> T:
        """What `make` gave whoever asked first; an error of ours is kept too, and raised for everyone who asks."""

        def attempt() -> dict[str, Any]:
            try:
                return {"value": plain(make())}
            except H2OError as error:
                return {"error": error_to_json(error)}

        return self._value(self.once(key, attempt), key, kind)

    def kept(self, key: str, kind: type[T]) -> T | None:
        """What `keep` has of a key; None if nobody has made it yet, or it is an error."""
        path = self._folder / f"{key}.json"
        if key not in self._seen and not path.exists():
            return None

        def vanished() -> dict[str, Any]:
            raise StoreError("a shared result has vanished", where=str(path))

        found = self.once(key, vanished)
        return None if "error" in found else self._value(found, key, kind)

    def _value(self, kept: dict[str, Any], key: str, kind: type[T]) -> T:
        if "error" in kept:
            raise error_from_json(kept["error"])
        where = str(self._folder / f"{key}.json")
        return load(kind, kept.get("value"), "a shared result", where=where, hint="start a new run folder")


def is_in_use(folder: Path) -> bool:
    """Whether a process that lives has asked the store in a folder for anything; OSError if that cannot be told."""
    try:
        with (folder / _IN_USE).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
