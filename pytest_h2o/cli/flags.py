"""What several commands share: flags out of the options table, numbers in a range, outputs that overwrite nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pytest_h2o.errors import StoreError, UsageError
from pytest_h2o.files import refuse_existing
from pytest_h2o.gate.metrics import GATE_OPTIONS
from pytest_h2o.inputs.options import limit

_TYPES: dict[str, type] = {"int": int, "float": float, "path": Path}


def add_option(parser: argparse.ArgumentParser, name: str, flag: str = "", **changed: Any) -> None:
    """Give a command an option of the gate as ``--NAME`` or `flag`: kind, default, check and help are the table's."""
    option, flag = next(o for o in GATE_OPTIONS if o.name == name), flag or f"--{name}"
    keywords: dict[str, Any] = {"help": option.help}
    if option.kind == "flag":
        keywords["action"] = "store_true"
    else:
        keywords |= {"default": option.default, "metavar": option.metavar, "choices": option.choices or None}
        keywords["type"] = checked(_TYPES.get(option.kind, str), option.check, flag)
    parser.add_argument(flag, **keywords | changed)


def add_number(parser: argparse.ArgumentParser, flag: str, low: int, high: int | None = None, **keywords: Any) -> None:
    """Give a command a flag for a whole number in a range."""
    expected = f"at least {low}" if high is None else f"{low} to {high:,}"
    check = limit(lambda number: low <= number and (high is None or number <= high), expected)
    parser.add_argument(flag, type=checked(int, check, flag), **keywords)


def checked(kind: type, check: Callable[[Any, str], object] | None, flag: str) -> Callable[[str], Any]:
    """A converter for argparse that also checks what it made."""

    def convert(text: str) -> Any:
        value = kind(text)
        if check is not None:
            check(value, flag)
        return value

    convert.__name__ = kind.__name__  # argparse says: invalid int value
    return convert


def check_outputs(*outputs: Path, inputs: Iterable[Path | None] = (), overwrite: bool) -> None:
    """Refuse outputs that cannot all be written, before anything is."""
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
    return path.resolve() == other.resolve() or (path.exists() and other.exists() and path.samefile(other))
