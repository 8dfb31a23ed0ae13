"""What a command writes, checked before its work: nothing is overwritten unasked, and never what is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pytest_h2o.errors import StoreError, UsageError
from pytest_h2o.store import refuse_existing


def check_outputs(*outputs: Path, inputs: Iterable[Path | None] = (), overwrite: bool) -> None:
    """Refuse outputs that cannot all be written, before anything is.

    Parameters
    ----------
    outputs : Path
        The files that the command is going to write.
    inputs : iterable of Path or None
        The files that it reads; None for one that was not given.
    overwrite : bool
        Whether ``--overwrite`` was given. It never covers an input.

    Raises
    ------
    UsageError
        An output is also an input, or two outputs are one file.
    StoreError
        An output is there and `overwrite` is false.
    """
    read = [path for path in inputs if path is not None]
    for number, path in enumerate(outputs):
        if any(_is_same(path, other) for other in read):
            raise UsageError(
                "an output is a file that is read, which would be lost",
                where=str(path),
                hint="choose another output; --overwrite does not cover inputs",
            )
        if any(_is_same(path, other) for other in outputs[:number]):
            raise UsageError("two outputs are the same file", where=str(path), hint="name another file for one of them")
    try:
        refuse_existing(*outputs, overwrite=overwrite)
    except StoreError as error:
        error.hint = "--overwrite replaces it; or choose another output"
        raise


def _is_same(path: Path, other: Path) -> bool:
    if path.resolve() == other.resolve():
        return True
    return path.exists() and other.exists() and path.samefile(other)
