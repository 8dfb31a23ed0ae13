"""Lossless result files that ``analyze`` and ``eval`` hold against the targets: which may decide, and what to say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_h2o.errors import UsageError

if TYPE_CHECKING:
    from pytest_h2o.lossless import LosslessResult


def read_result(path: Path | None) -> Mapping[str, Any] | None:
    """A lossless result file, ours or one of the original script, checked field by field.

    Raises
    ------
    UsageError
        It cannot be read, or is not a JSON object.
    StoreError
        It is of another schema, or lacks a field.
    """
    from pytest_h2o.lossless import LosslessResult

    if path is None:
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError("a lossless result cannot be read", where=str(path), came=str(error)) from error
    if not isinstance(value, dict):
        raise UsageError("a lossless result is not a JSON object", where=str(path), came=type(value).__name__)
    LosslessResult.from_json(value, str(path))
    return value


def check_result(values: Mapping[str, Any], where: str, *, decides: bool, allow_skips: bool) -> list[str]:
    """What a reader should know of a result, for the notes of the analysis.

    Parameters
    ----------
    values : mapping
        The result as `read_result` gave it.
    where : str
        The file or dump, for messages.
    decides : bool
        Whether it stands as the online simulation, whose ratio is held against the target.
    allow_skips : bool
        Whether ``--allow-skips`` was given.

    Raises
    ------
    UsageError
        It was to decide and is an upper bound, or entries were skipped and that is not allowed.
    """
    from pytest_h2o.lossless import LosslessResult

    result = LosslessResult.from_json(values, where)
    if decides and result.entry_mode == "aggregate":
        raise UsageError(
            "an upper bound cannot decide",
            where=where,
            came="entry_mode aggregate",
            expected="an online simulation: entry_mode chunked_grouped, chunked or per_meta",
            hint="make one with: pytest-h2o lossless --entry-mode chunked_grouped --online-chunk-seq 192",
        )
    name = "online simulation" if decides else "upper bound"
    notes = [] if not result.skipped_entries else [_skip_note(result, name, where, allow_skips)]
    return notes + _verify_note(values, result, name)


def _skip_note(result: LosslessResult, name: str, where: str, allow_skips: bool) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in result.skip_reasons.items())
    total = result.skipped_entries + result.selected_entries
    if not allow_skips:
        first = f": {result.skipped[0].path}: {result.skipped[0].detail}" if result.skipped else ""
        raise UsageError(
            f"{result.skipped_entries} of {total} entries of the {name} could not be read",
            where=where + first,
            came=reasons or None,
            expected="every selected entry: a ratio over the rest would be one of another dump",
            hint="mend or remove the entries; --allow-skips takes the ratio over the rest on purpose",
        )
    return f"{name}: {result.skipped_entries} of {total} entries could not be read and are left out (--allow-skips)"


def _verify_note(values: Mapping[str, Any], result: LosslessResult, name: str) -> list[str]:
    if "encoded_streams" not in values:
        return [f"{name}: the file does not say whether its streams were decoded again"]
    if result.verified_streams >= result.encoded_streams > 0:
        return []
    return [f"{name}: not decoded, {result.verified_streams} of {result.encoded_streams} streams were compared"]
