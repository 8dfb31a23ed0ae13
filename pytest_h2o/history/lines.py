"""The history: one JSON line a complete run, only ever appended to.

Two gates may end at the same moment: a writer holds a lock file beside the history (``.history.jsonl.lock``), writes
its line in one go and flushes it to disk. A writer that is killed half-way leaves a torn line at the end; readers
leave it out and say so, and the next writer starts a line of its own. Nothing that stands in the file is ever changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_h2o.errors import StoreError
from pytest_h2o.history.record import RunRecord, parse_record, render_line

HISTORY_NAME = "history.jsonl"
MAX_LINE_BYTES = 64 * 1024 * 1024
"""A longer line is damage: the record of a sweep of 10,000 points has about 5 MB."""

LOCK_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Damage:
    """A line that holds no record.

    Attributes
    ----------
    where : str
        File and line.
    what : str
        What is wrong with it, on one line.
    """

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def append_record(path: Path, record: RunRecord) -> None:
    """Add one record to a history, down to the disk; folder and file are made where they are missing.

    Raises
    ------
    StoreError
        The file cannot be written, or another process held it for a minute.
    """
    from filelock import FileLock, Timeout

    line = render_line(record).encode("utf-8")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_TIMEOUT_S), path.open("ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line  # what was torn off stays a line of its own
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except Timeout as error:
        raise StoreError(
            "another process has held the history for too long",
            where=error.lock_file,
            came=f"no lock within {LOCK_TIMEOUT_S:g} s",
            hint="end the process that holds it",
        ) from None
    except OSError as error:
        raise StoreError(
            "the history cannot be written",
            where=str(path),
            came=error.strerror or str(error),
            expected="a file that can be written, with room on its disk",
        ) from error


def read_history(path: Path) -> Iterator[RunRecord | Damage]:
    """Read a history, oldest first, one line at a time; nothing if there is no file.

    Yields
    ------
    RunRecord or Damage
        Good lines stay usable whatever else stands in the file. Empty lines are passed over.

    Raises
    ------
    StoreError
        The file is there and cannot be read.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                where = f"{path}:{number}"
                if not line.endswith(b"\n") and len(line) == MAX_LINE_BYTES:
                    yield Damage(where, f"a line of more than {MAX_LINE_BYTES:,} bytes")
                    while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                        pass
                elif line.strip():
                    yield _read_line(line, where)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError("the history cannot be read", where=str(path), came=error.strerror or str(error)) from error


def _read_line(line: bytes, where: str) -> RunRecord | Damage:
    try:
        return parse_record(line, where)
    except StoreError as error:
        if not line.endswith(b"\n"):
            return Damage(where, "a torn last line: whoever wrote it was stopped; left out")
        inner = (error.where or "").removeprefix(where).lstrip(": ")
        place = f" ({inner})" if inner else ""
        return Damage(where, f"{error.what}{place}: {error.came}; left out")
