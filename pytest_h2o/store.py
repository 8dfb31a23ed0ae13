"""The run folder: what is written, how, and by whom.

Every file is written beside its target, flushed to disk and renamed, so that a reader sees all of it or nothing;
a target that exists is never replaced unless the caller says so. ``run.json`` is written last: a folder without it is
an unfinished run.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_h2o.errors import StoreError


def write_new_bytes(path: Path, data: bytes, *, overwrite: bool = False) -> None:
    """Write a whole file atomically.

    Raises
    ------
    StoreError
        The target exists and `overwrite` is false, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=f".{path.name[:60]}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise StoreError(f"cannot write {path.name}", where=str(path.parent), came=str(error)) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).chmod(0o666 & ~_umask())
        if overwrite:
            Path(beside).replace(path)
        else:
            os.link(beside, path)  # unlike a rename, a link never replaces what is there
    except FileExistsError as error:
        raise StoreError(
            f"{path.name} is there already; nothing is overwritten",
            where=str(path),
            hint="choose another output, or remove the file yourself",
        ) from error
    except OSError as error:
        raise StoreError(f"cannot write {path.name}", where=str(path), came=str(error)) from error
    finally:
        Path(beside).unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_new_text(path: Path, text: str, *, overwrite: bool = False) -> None:
    """Write UTF-8 text atomically; see `write_new_bytes`."""
    write_new_bytes(path, text.encode("utf-8"), overwrite=overwrite)


def render_json(value: object) -> str:
    """The JSON text of every artifact: indented by one, UTF-8, no NaN."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_new_json(path: Path, value: object, *, overwrite: bool = False) -> None:
    """Write a value of built-in types as JSON atomically; see `write_new_bytes`."""
    write_new_text(path, render_json(value), overwrite=overwrite)


def name_run() -> str:
    """A name for a run folder: local time, and six random digits so that two gates never share one."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def append_line(path: Path, record: object) -> None:
    """Append one JSON line and flush it to disk: what was measured survives a kill.

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError("cannot write the journal", where=str(path), came=str(error)) from error


class OnceStore:
    """Results that several processes need and one of them makes.

    A result is a JSON object under a key. Whoever asks first computes it, under a lock of that key; everyone else
    waits and reads. Failures of `compute` are not stored: store them as results if they are to be kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, dict[str, Any]] = {}

    def once(self, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Give the result of `key`, computing it if nobody has."""
        if key in self._seen:
            return self._seen[key]
        from filelock import FileLock

        path = self._folder / f"{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if path.exists():
                result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            else:
                # Through JSON for everyone, so that the first to ask sees what the others see.
                text = render_json(compute())
                write_new_text(path, text)
                result = json.loads(text)
        self._seen[key] = result
        return result


def keep_error(compute: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Make an error of ours a result too, so that what failed is not tried again by everyone who needs it."""

    def computed() -> dict[str, Any]:
        try:
            return {"value": compute()}
        except H2OError as error:
            return {"error": error_to_json(error)}

    return computed


def kept_value(kept: dict[str, Any]) -> dict[str, Any]:
    """The value of a result that `keep_error` made; its error is raised again."""
    if "error" in kept:
        raise error_from_json(kept["error"])
    value: dict[str, Any] = kept["value"]
    return value
