"""Errors as plain JSON values and back: what one process met, another can raise again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_h2o import errors
from pytest_h2o.errors import BenchError, H2OError, StoreError


def error_to_json(error: H2OError) -> dict[str, Any]:
    """Built-in values that `error_from_json` makes the same error of.

    An error with parts of its own (the faults of a preset) is kept as its whole text.
    """
    record: dict[str, Any] = {
        "kind": type(error).__name__,
        "what": error.what,
        "where": error.where,
        "came": error.came,
        "expected": error.expected,
        "hint": error.hint,
    }
    if isinstance(error, BenchError):
        record.update(
            argv=list(error.argv),
            returncode=error.returncode,
            signal_name=error.signal_name,
            elapsed_s=error.elapsed_s,
            output_tail=error.output_tail,
        )
    return record


def error_from_json(value: Mapping[str, Any]) -> H2OError:
    """Make an error of its record.

    Raises
    ------
    StoreError
        The record has another shape or an unknown kind.
    """
    try:
        fields = dict(value)
        kind = getattr(errors, fields.pop("kind"))
        if not issubclass(kind, H2OError):
            raise TypeError(f"{kind.__name__} is no error of ours")
        made: H2OError = kind(fields.pop("what"), **fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            "an error of a launch was kept in another shape than this version reads",
            came=f"{type(error).__name__}: {error}",
            hint="start a new run folder",
        ) from error
    return made
