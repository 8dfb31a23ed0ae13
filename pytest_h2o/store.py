"""Files of a run: written beside their target and renamed, never over something that is there."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path

from pytest_h2o.errors import StoreError


def write_new_text(path: Path, text: str) -> None:
    """Write a new text file, whole or not at all.

    The text goes to a temporary file in the same folder, is flushed to the disk, and gets its name in one step
    that fails if the name is taken: a reader sees no file or the whole file. Missing folders are made.

    Parameters
    ----------
    path : Path
        Where to write; must not exist.
    text : str
        Written as UTF-8, line ends as they stand.

    Raises
    ------
    StoreError
        The file exists, the folder cannot be written, or the text has characters that UTF-8 cannot carry.
    """
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
    temporary = path.parent / f".{path.name[:100]}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_synced(temporary, data)
        _claim_name(temporary, path)
    except OSError as error:
        if isinstance(error, FileExistsError) and os.path.lexists(path):
            raise StoreError(
                "a file that exists would be overwritten",
                where=str(path),
                hint="choose another output folder, or move the old file away",
            ) from None
        raise StoreError(
            "a file cannot be written",
            where=str(path),
            came=error.strerror or str(error),
            expected="a folder that can be written, with room on its disk",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_new_json(path: Path, value: object) -> None:
    """Write a new JSON file as `write_new_text` does: one space of indent, text left as it is, a line end last.

    Raises
    ------
    StoreError
        As `write_new_text`.
    """
    write_new_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _write_synced(path: Path, data: bytes) -> None:
    """Write bytes to a file that must be new, down to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _claim_name(temporary: Path, path: Path) -> None:
    """Give a finished file its name; FileExistsError if the name is taken, by whoever came first."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # No hard links here (FAT, some network shares): take the name with an empty file, then replace our own.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        temporary.replace(path)
