"""How many cores there are for us."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from pathlib import Path

from pytest_h2o.errors import StoreError


def usable_cores() -> int:
    """Cores that this process may run on; where that cannot be told, those of the machine."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def unused_folder(parent: Path, name: str) -> Path:
    """The first of NAME, NAME_2, … in a folder that is not there: what a process left that died is not met again."""
    names = (name if number == 1 else f"{name}_{number}" for number in itertools.count(1))
    return next(path for each in names if not (path := parent / each).exists())


def write_new_bytes(path: Path, data: bytes, *, overwrite: bool = False) -> None:
    """Write a file, whole or not at all; missing folders are made."""
    temporary = path.parent / f".{path.name[:100]}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    try:
        make_folder(path.parent)
        _write_synced(temporary, data)
        if overwrite:
            temporary.replace(path)
        else:
            _claim_name(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            "a file cannot be written",
            where=str(path),
            came=error.strerror or str(error),
            expected="a folder that can be written, with room on its disk",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def refuse_existing(*paths: Path, overwrite: bool = False) -> None:
    """Check before any work that nothing would be overwritten; StoreError naming the first file that is there."""
    for path in paths:
        if not overwrite and (path.exists() or path.is_symlink()):
            raise _exists(path)


def _exists(path: Path) -> StoreError:
    return StoreError(
        "a file that exists would be overwritten",
        where=str(path),
        hint="choose another output, or move the old file away",
    )


def _write_synced(path: Path, data: bytes) -> None:
    """Write bytes to a file that must be new, down to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, each with its name down to the disk; OSError if it cannot."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Bring the names in a folder down to the disk; without it a file may be durable and its name not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Some network shares refuse to sync a folder: then they give no more than they give.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _claim_name(temporary: Path, path: Path) -> None:
    """Give a finished file its name; StoreError if the name is taken, by whoever came first."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:
        # No hard links here (FAT, some network shares): take the name with an empty file, then replace our own.
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            raise _exists(path) from None
        temporary.replace(path)


def write_new_text(path: Path, text: str, *, overwrite: bool = False) -> None:
    """Write a text file as UTF-8, line ends as they stand; see `write_new_bytes`."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise StoreError(
            "text that UTF-8 cannot carry was to be written",
            where=str(path).encode("utf-8", "backslashreplace").decode("utf-8"),
            came=f"{text[error.start]!r} at character {error.start}",
            expected="valid Unicode; a file name that is not UTF-8 often brings such characters",
            hint="rename the file or folder that the text names",
        ) from None
    write_new_bytes(path, data, overwrite=overwrite)


def render_json(value: object) -> str:
    """The JSON text of every artifact: indented by one, UTF-8, no NaN."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_new_json(path: Path, value: object, *, overwrite: bool = False) -> None:
    """Write a value of built-in types as JSON; see `write_new_text`."""
    write_new_text(path, render_json(value), overwrite=overwrite)


def append_line(path: Path, record: object) -> None:
    """Append one JSON line and flush it to disk: what was measured survives a kill."""
    line = json.dumps(record, allow_nan=False) + "\n"
    try:
        make_folder(path.parent)
        is_new = not path.exists()
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            _sync_folder(path.parent)
    except OSError as error:
        raise StoreError("the journal cannot be written", where=str(path), came=error.strerror or str(error)) from error


def digest_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; ``unreadable`` if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError:
        return "unreadable"
    return digest.hexdigest()
