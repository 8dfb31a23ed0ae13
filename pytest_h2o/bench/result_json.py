"""The JSON of the bench (``-j``) -> the same rows as its table. Pure: text in, rows or one error out.

The JSON has other keys and full precision. Values are rounded to what the table prints and cells are written as the
table writes them, so that a verdict does not depend on which of the two was read, today or when a log is replayed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from pytest_h2o.bench.row import TABLE_H2O_COLUMNS, BenchRow
from pytest_h2o.errors import TableError

COLUMN_DECIMALS: Mapping[str, int] = {
    **dict.fromkeys(TABLE_H2O_COLUMNS, 2),
    "h2o_keep": 4,
    "h2o_lossy": 3,
    "h2o_lossless": 3,
    "h2o_target_keep_effective": 4,
    "h2o_floor_keep": 4,
    "h2o_quantized_keep": 4,
}
"""Digits after the point with which the table prints a column; speeds, sizes and times have two."""

_JSON_KEYS: Mapping[str, str] = {
    "h2o_keep": "h2o_keep_ratio",
    "h2o_lossy": "h2o_lossy_ratio",
    "h2o_lossless": "h2o_lossless_ratio",
}
_LEVELS: Mapping[int, str] = {0: "Normal", 1: "High", 2: "Low"}
# The JSON writer of the bench prints nothing at all for a number that is not finite: `"decode_std":,`.
_MISSING_NUMBER = re.compile(r'(?<!\\)":(?=[,}])')


def parse_json(text: str, *, log_file: str, repeat: int | None = None) -> tuple[BenchRow, ...]:
    """Read every result of the JSON as rows, with the cells that the table would have.

    Parameters
    ----------
    text : str
        What the bench wrote with ``-j``: one object with a list of `results`.
    log_file : str
        Name that the rows carry, and that messages name.
    repeat : int, optional
        Measured repeats of the run, see `Measurement.std`.

    Returns
    -------
    tuple of BenchRow
        At least one, in the order of the results.

    Raises
    ------
    TableError
        Not JSON (with line and column), another shape, no results, or a value of another type than the bench writes.
    """
    document = _parse_document(text, log_file)
    results = document.get("results")
    if not isinstance(results, list) or not results:
        came = "an empty list" if results == [] else f"{type(results).__name__}"
        raise TableError("the JSON has no results", where=log_file, came=came, expected="results: [{…}, …]")
    head = _head_cells(document, log_file)
    return tuple(
        _parse_result(head, result, f"{log_file}: results[{i}]", log_file, repeat) for i, result in enumerate(results)
    )


def _parse_document(text: str, log_file: str) -> dict[str, Any]:
    try:
        document = json.loads(_MISSING_NUMBER.sub('":NaN', text))
    except json.JSONDecodeError as error:
        raise TableError(
            "the JSON of the bench cannot be read",
            where=f"{log_file}:{error.lineno}:{error.colno}",
            came=error.msg,
            expected="what the bench writes with -j",
            hint="an empty or cut file means that the bench ended while it ran",
        ) from None
    except (RecursionError, ValueError) as error:
        came = "values nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise TableError("the JSON of the bench cannot be read", where=log_file, came=came) from None
    if not isinstance(document, dict):
        raise TableError("the JSON is not from the bench", where=log_file, expected="an object with results")
    return document


def _head_cells(document: Mapping[str, Any], log_file: str) -> dict[str, str]:
    """Cells that all rows share."""
    cells: dict[str, str] = {}
    for column in ("model", "modelSize", "backend", "threads", "precision"):
        value = document.get(column)
        if value is None:
            continue
        if column in ("model", "backend"):
            if not isinstance(value, str):
                _refuse(log_file, column, value, "text")
            # The table pads cells with blanks, so blanks at the ends of a name are lost there.
            cells[column] = value.strip()
        elif column == "modelSize":
            cells[column] = _size_cell(_number(value, log_file, column))
        else:
            number = _whole(value, log_file, column)
            cells[column] = _LEVELS.get(number, "High") if column == "precision" else str(number)
    if document.get("useMmap") is True:
        cells["mmap"] = "true"
    return cells


def _parse_result(head: Mapping[str, str], result: object, where: str, log_file: str, repeat: int | None) -> BenchRow:
    if not isinstance(result, dict):
        raise TableError(
            "the JSON has a result of another kind", where=where, came=type(result).__name__, expected="{…}"
        )
    cells = {**head, **_test_cells(result, where)}
    for column, decimals in COLUMN_DECIMALS.items():
        cell = _measurement_cell(result, _JSON_KEYS.get(column, column), where, decimals)
        if cell is not None:
            cells[column] = cell
    loading = _measurement_cell(result, "loading_time", where, 2)
    if loading is not None:
        cells["loadingTime(s)"] = loading
    return BenchRow.from_cells(cells, log_file=log_file, repeat=repeat)


def _test_cells(result: Mapping[str, Any], where: str) -> dict[str, str]:
    """What was run, and how fast: with the cache in use one row has both speeds, else one of them."""
    kind = result.get("type")
    if kind not in ("prefill", "decode", "prefill_and_decode"):
        _refuse(where, "type", kind, "prefill, decode or prefill_and_decode")
    prompt = _whole(result.get("prompt_len"), where, "prompt_len") if kind != "decode" else 0
    gen = _whole(result.get("generate_len"), where, "generate_len") if kind != "prefill" else 0
    if kind == "prefill_and_decode":
        prefill = _measurement_cell(result, "prefill_tps", where, 2, std_key="prefill_std")
        decode = _measurement_cell(result, "decode_tps", where, 2, std_key="decode_std")
        if prefill is None or decode is None:
            return {"test": f"pp{prompt}+tg{gen}"}
        return {"llm_demo": f"prompt={prompt}<br>decode={gen}", "speed(tok/s)": f"{prefill}<br>{decode}"}
    cells = {"test": f"pp{prompt}" if kind == "prefill" else f"tg{gen}"}
    speed = _measurement_cell(result, "tps", where, 2, std_key="std")
    return cells if speed is None else {**cells, "t/s": speed}


def _measurement_cell(
    result: Mapping[str, Any], key: str, where: str, decimals: int, *, std_key: str | None = None
) -> str | None:
    """``mean ± std`` as the table prints it; None if the key is not there."""
    if key not in result:
        return None
    mean = _number(result[key], where, key)
    std_key = f"{key}_std" if std_key is None else std_key
    if std_key not in result:
        return f"{mean:.{decimals}f}"
    return f"{mean:.{decimals}f} ± {_number(result[std_key], where, std_key):.{decimals}f}"


def _size_cell(size_gib: float) -> str:
    return f"{size_gib * 1024:.2f} MiB" if size_gib < 1 else f"{size_gib:.2f} GiB"


def _number(value: object, where: str, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(where, key, value, "a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _whole(value: object, where: str, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**9:
        _refuse(where, key, value, "a whole number")
    return value


def _refuse(where: str, key: str, value: object, expected: str) -> NoReturn:
    raise TableError(
        "the JSON of the bench has another value than it writes",
        where=where,
        came=f"{key}: {value!r:.100}",
        expected=expected,
    )
