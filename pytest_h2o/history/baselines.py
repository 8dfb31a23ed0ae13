"""Named baselines: one file each, ``<out-dir>/baselines/NAME.json``, in the form of a record.

A file may be committed, so that every machine compares with the same figures.
"""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path

from pytest_h2o.errors import StoreError, UsageError
from pytest_h2o.history.record import RunRecord, parse_record, record_to_json
from pytest_h2o.store import write_new_json

LAST = "last"
"""The name that stands for the newest run in the history; no baseline can have it."""

MAX_FILE_BYTES = 64 * 1024 * 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def check_baseline_name(name: str, origin: str) -> str:
    """The name, if a file may be called so.

    Raises
    ------
    UsageError
        It has a path in it, or signs that are not allowed, or is ``last``.
    """
    if name == LAST:
        raise UsageError(
            f"{origin}: no baseline can be called last",
            came=name,
            expected="another name",
            hint="last always means the newest run in the history",
        )
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{origin} takes the name of a baseline, not a path",
            came=repr(name),
            expected="a letter or digit, then letters, digits, dots, underscores or dashes, at most 80 in all",
        )
    return name


def baselines_folder(out_dir: Path) -> Path:
    return out_dir / "baselines"


def baseline_path(out_dir: Path, name: str) -> Path:
    """Where a baseline of that name lies; the name must have been checked."""
    return baselines_folder(out_dir) / f"{name}.json"


def list_baselines(out_dir: Path) -> list[str]:
    """Names of the saved baselines, sorted."""
    return sorted(path.stem for path in baselines_folder(out_dir).glob("*.json") if _NAME.fullmatch(path.stem))


def save_baseline(out_dir: Path, name: str, record: RunRecord, *, overwrite: bool = False) -> Path:
    """Write a baseline; StoreError if one of that name is there and `overwrite` is false, or it cannot be written."""
    path = baseline_path(out_dir, name)
    write_new_json(path, record_to_json(record), overwrite=overwrite)
    return path


def read_baseline(out_dir: Path, name: str) -> RunRecord:
    """Read a saved baseline.

    Raises
    ------
    UsageError
        There is none of that name; the message has those that there are.
    StoreError
        It cannot be read, is of another schema, or was changed.
    """
    path = baseline_path(out_dir, name)
    if not path.is_file():
        raise missing_baseline(out_dir, name)
    return read_record_file(path)


def missing_baseline(out_dir: Path, name: str) -> UsageError:
    """The error of a name that no baseline has."""
    names = list_baselines(out_dir)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    return UsageError(
        f"there is no baseline called {name}",
        where=str(baselines_folder(out_dir)),
        came=f"baselines there: {', '.join(names) or 'none'}",
        hint=(f"did you mean {near[0]}? " if near else "") + f"--h2o-save {name} saves a run under that name",
    )


def read_record_file(path: Path) -> RunRecord:
    """Read the record in a baseline, or in ``figures.json`` of a run folder; StoreError if it cannot be."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size  # to ask for the most at once would take that memory
            data = file.read(min(size, MAX_FILE_BYTES) + 1)
    except OSError as error:
        raise StoreError(
            "a record of a run cannot be read", where=str(path), came=error.strerror or str(error)
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise StoreError(
            "a record of a run is too large", where=str(path), expected=f"at most {MAX_FILE_BYTES:,} bytes"
        )
    return parse_record(data, str(path))
