"""The two files that a launch leaves, table and JSON, read as one: same row either way, and they must agree."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_h2o.bench.adapter import BenchAdapter
from pytest_h2o.bench.printable import one_line
from pytest_h2o.bench.result_json import COLUMN_DECIMALS, parse_json
from pytest_h2o.bench.row import BenchRow, Measurement
from pytest_h2o.bench.table import parse_table, read_text
from pytest_h2o.errors import TableError
from pytest_h2o.points import LLM_BENCH

_SHARED_TEXT_COLUMNS = ("model", "modelSize", "backend", "threads", "precision", "mmap", "llm_demo", "test")
_SPEED_COLUMNS = ("speed(tok/s)", "t/s")


@dataclass(frozen=True)
class RowsRead:
    """Rows of one launch, and what is to be said about how they were read."""

    rows: tuple[BenchRow, ...]
    notes: tuple[str, ...] = ()


def read_rows(log_path: Path, json_path: Path | None, *, log_file: str, repeat: int | None = None) -> RowsRead:
    """Read the rows of a log and, where there is one, of the JSON beside it.

    The JSON alone is enough if the log is empty, the table alone if there is no JSON or it cannot be read; either is
    noted. If both can be read they must agree in every column that both have, at the table's precision.

    Parameters
    ----------
    log_path : Path
        What the bench wrote with ``-fp``.
    json_path : Path or None
        What it wrote with ``-j``; may be missing.
    log_file : str
        Name that the rows carry.
    repeat : int, optional
        Measured repeats of the run.

    Raises
    ------
    TableError
        No row can be read, the table is damaged, or the two disagree.
    """
    rows_of_json: tuple[BenchRow, ...] | None = None
    notes: tuple[str, ...] = ()
    if json_path is not None and json_path.exists():
        try:
            json_name = str(json_path)
            rows_of_json = parse_json(read_text(json_path, json_name), log_file=json_name, repeat=repeat)
        except TableError as error:
            notes = (f"its JSON was passed over ({error.came or error.what}); the row is from the table",)
    if rows_of_json is not None and (not log_path.exists() or not read_text(log_path, log_file).strip()):
        note = "the log is empty; the row is from the JSON"
        return RowsRead(tuple(replace(row, log_file=log_file) for row in rows_of_json), (note,))
    rows = parse_table(read_text(log_path, log_file), log_file=log_file, repeat=repeat)
    if rows_of_json is not None:
        _check_agreement(rows, rows_of_json, log_file)
    return RowsRead(rows, notes)


def read_log(
    adapter: BenchAdapter, log_path: Path, json_path: Path | None, *, log_file: str, repeat: int | None = None
) -> RowsRead:
    """Read the rows of a log of any bench; of llm_bench as `read_rows` does. TableError as there."""
    if adapter.name == LLM_BENCH:
        return read_rows(log_path, json_path, log_file=log_file, repeat=repeat)
    return RowsRead(adapter.parse(read_text(log_path, log_file), log_file=log_file, repeat=repeat))


def _check_agreement(rows: tuple[BenchRow, ...], rows_of_json: tuple[BenchRow, ...], log_file: str) -> None:
    """The table's cells are kept: they are the same, and they are what a later reading of the log gives."""
    if len(rows) != len(rows_of_json):
        raise _disagreement(log_file, f"{len(rows)} rows in the table, {len(rows_of_json)} in the JSON")
    for row, other in zip(rows, rows_of_json, strict=True):
        for column in (*_SHARED_TEXT_COLUMNS, *_SPEED_COLUMNS, *COLUMN_DECIMALS):
            if column in row.cells and column in other.cells and not _same_cell(row, other, column):
                came = one_line(f"{column}: {row.cells[column]} in the table, {other.cells[column]} in the JSON")
                raise _disagreement(log_file, came)


def _same_cell(row: BenchRow, other: BenchRow, column: str) -> bool:
    if row.cells[column] == other.cells[column]:
        return True
    # nan prints as nan or -nan, and its sign means nothing; the JSON has no number at all where the table has inf.
    if column in _SPEED_COLUMNS:
        return _same(row.prefill_tok_per_s, other.prefill_tok_per_s) and _same(
            row.decode_tok_per_s, other.decode_tok_per_s
        )
    if column in COLUMN_DECIMALS:
        return _same(row.get(column), other.get(column))
    return False


def _same(one: Measurement | None, other: Measurement | None) -> bool:
    if one is None or other is None:
        return one is other
    return _same_number(one.mean, other.mean) and _same_number(one.std, other.std)


def _same_number(one: float | None, other: float | None) -> bool:
    finite = [value for value in (one, other) if value is not None and math.isfinite(value)]
    return not finite or one == other


def _disagreement(log_file: str, came: str) -> TableError:
    return TableError(
        "table and JSON of one run disagree",
        where=log_file,
        came=came,
        expected="the same rows in both",
        hint="the bench or the disk failed while they were written: run this point again",
    )
