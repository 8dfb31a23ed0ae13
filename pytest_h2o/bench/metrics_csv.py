"""Rows of the bench as CSV: the cells as printed, so that any spreadsheet shows what the logs say."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from pytest_h2o.bench.printable import one_line
from pytest_h2o.bench.row import H2O_COLUMNS, BenchRow
from pytest_h2o.bench.table import read_text
from pytest_h2o.errors import TableError
from pytest_h2o.store import write_new_text

_FIRST_COLUMNS = ("model", "modelSize", "backend", "threads", "llm_demo", "speed(tok/s)", *H2O_COLUMNS)
_LOG_COLUMN = "log_file"


def render_metrics_csv(rows: Iterable[BenchRow]) -> str:
    """Render rows as CSV text with a header line and ``\\r\\n`` line ends (RFC 4180).

    Columns: the common ones in a fixed order, those that any row has, with `log_file` last among them; then all
    others, sorted. A cell that a row does not have stays empty.
    """
    all_rows = list(rows)
    present = {column for row in all_rows for column in row.cells} - {_LOG_COLUMN}
    first = [column for column in _FIRST_COLUMNS if column in present]
    columns = [*first, _LOG_COLUMN, *sorted(present - set(first))]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows({**row.cells, _LOG_COLUMN: row.log_file} for row in all_rows)
    return text.getvalue()


def write_metrics_csv(path: Path, rows: Iterable[BenchRow]) -> None:
    """Write rows to a new CSV file.

    Raises
    ------
    StoreError
        The file exists or cannot be written.
    """
    write_new_text(path, render_metrics_csv(rows))


def read_metrics_csv(path: Path, *, repeat: int | None = None) -> tuple[BenchRow, ...]:
    """Read rows from a CSV file, ours or one with the same columns.

    An empty cell means that the row does not have the column.

    Raises
    ------
    TableError
        The file cannot be read, has no header or no row, a row with another number of cells, or a cell that is not
        what the bench prints in that column; with the file and the line.
    """
    reader = csv.reader(io.StringIO(read_text(path, str(path)), newline=""), strict=True)
    rows: list[BenchRow] = []
    try:
        header = next(reader, [])
        _check_header(header, path)
        for values in reader:
            if values:
                rows.append(_read_row(header, values, f"{path}:{reader.line_num}", path, repeat))
    except csv.Error as error:
        raise TableError("a CSV cannot be read", where=f"{path}:{reader.line_num}", came=str(error)) from None
    if not rows:
        raise TableError("a CSV has no row", where=str(path), expected="a header line and a line for each run")
    return tuple(rows)


def _check_header(header: list[str], path: Path) -> None:
    if not header or len(set(header)) != len(header) or "" in header:
        raise TableError(
            "a CSV has no sound header",
            where=f"{path}:1",
            came=one_line(", ".join(header)) or "an empty line",
            expected="each column's name, once",
        )


def _read_row(header: list[str], values: list[str], where: str, path: Path, repeat: int | None) -> BenchRow:
    if len(values) != len(header):
        came = f"{len(values)} cells"
        raise TableError("a row of a CSV is damaged", where=where, came=came, expected=f"{len(header)} cells")
    cells = {column: value for column, value in zip(header, values, strict=True) if value}
    log_file = cells.pop(_LOG_COLUMN, str(path))
    try:
        return BenchRow.from_cells(cells, log_file=log_file, repeat=repeat)
    except TableError as error:
        raise TableError(error.what, where=where, came=error.came, expected=error.expected) from None
