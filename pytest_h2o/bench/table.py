"""The Markdown table of the bench -> rows. Pure: text in, rows or one error out.

The bench appends: one text may hold several tables, header lines repeated. Columns come by name; which ones there
are varies with the flags and the age of the binary. Other lines (a log may hold what the binary printed besides)
are passed over, but inside a table nothing that looks like a damaged row is.
"""

from __future__ import annotations

import re
from pathlib import Path

from pytest_h2o.bench.printable import one_line
from pytest_h2o.bench.row import BenchRow
from pytest_h2o.errors import TableError

_RULE_CELL = re.compile(r":?-+:?")
_MAX_LOG_BYTES = 64 * 1024 * 1024


def read_table(path: Path, *, log_file: str | None = None, repeat: int | None = None) -> tuple[BenchRow, ...]:
    """Read the rows of a log; see `parse_table`.

    Raises
    ------
    TableError
        The file cannot be read, is no text, or holds no sound table.
    """
    name = str(path) if log_file is None else log_file
    return parse_table(read_text(path, name), log_file=name, repeat=repeat)


def read_text(path: Path, name: str) -> str:
    """Read a log or JSON of the bench, which is UTF-8 and never large; TableError if it is not."""
    try:
        size = path.stat().st_size
        if size > _MAX_LOG_BYTES:
            raise TableError(
                "a log is too large for one of the bench",
                where=name,
                came=f"{size} bytes",
                expected=f"at most {_MAX_LOG_BYTES} bytes: a table, not the output of a program",
            )
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise TableError(
            "a log is not text",
            where=name,
            came=f"a byte that is not UTF-8 at offset {error.start}",
            expected="the file that the bench wrote (-fp)",
        ) from None
    except OSError as error:
        raise TableError("a log cannot be read", where=name, came=error.strerror or str(error)) from error


def parse_table(text: str, *, log_file: str, repeat: int | None = None) -> tuple[BenchRow, ...]:
    """Read every row of every table in a text.

    Parameters
    ----------
    text : str
        What the bench wrote with ``-fp``.
    log_file : str
        Name of the log, for the rows and for messages.
    repeat : int, optional
        Measured repeats of the run, see `Measurement.std`.

    Returns
    -------
    tuple of BenchRow
        At least one, in the order of the text.

    Raises
    ------
    TableError
        No table, a table without rows, a row with another number of cells than its header, a row that was cut, a
        column twice, or a cell that is not what the bench prints there; with the file and the line.
    """
    if not text.strip():
        raise TableError(
            "the log is empty",
            where=log_file,
            expected="a table of the bench",
            hint="the bench ended before it printed its table: its standard output says why",
        )
    reader = _TableReader(text, log_file, repeat)
    return reader.read()


class _TableReader:
    """Walks over the lines of one text; `header` is that of the table that the walk is in."""

    def __init__(self, text: str, log_file: str, repeat: int | None) -> None:
        # Only "\n" ends a line: str.splitlines would also cut at characters that a model's name may hold.
        self.lines = [line.rstrip("\r") for line in text.split("\n")]
        self.log_file = log_file
        self.repeat = repeat
        self.header: list[str] | None = None
        self.last_index = max(index for index, line in enumerate(self.lines) if line.strip())

    def read(self) -> tuple[BenchRow, ...]:
        rows: list[BenchRow] = []
        rows_here = 0
        header_line = 0
        index = 0
        while index < len(self.lines):
            if self._is_header(index):
                self._refuse_empty_table(header_line, rows_here)
                self.header = self._read_header(index)
                header_line, rows_here = index + 1, 0
                index += 2
                continue
            row = self._read_line(index)
            if row is not None:
                rows.append(row)
                rows_here += 1
            index += 1
        if self.header is None:
            raise TableError(
                "the log has no table",
                where=self.log_file,
                came=repr(one_line(" ".join(self.lines))),
                expected="a header line of the bench (| model | modelSize | …) and a line of dashes under it",
            )
        self._refuse_empty_table(header_line, rows_here)
        return tuple(rows)

    def _is_header(self, index: int) -> bool:
        """A line of cells with a line of dashes under it."""
        if index + 1 >= len(self.lines) or not self.lines[index].lstrip().startswith("|"):
            return False
        under = _split_cells(self.lines[index + 1])
        return bool(under) and all(_RULE_CELL.fullmatch(cell) for cell in under)

    def _read_header(self, index: int) -> list[str]:
        header = _split_cells(self.lines[index])
        rule = _split_cells(self.lines[index + 1])
        if len(header) != len(rule):
            raise self._error(
                index + 1,
                "a table's header is damaged",
                f"{len(header)} names over {len(rule)} rules",
                "as many of both",
            )
        if len(set(header)) != len(header) or "" in header:
            twice = next(name for name in header if header.count(name) > 1 or not name)
            raise self._error(
                index, "a table's header is damaged", f"the column {twice!r} more than once or unnamed", None
            )
        return header

    def _read_line(self, index: int) -> BenchRow | None:
        line = self.lines[index]
        if not line.lstrip().startswith("|"):
            if self.header is not None and line.count("|") >= 2:
                raise self._error(
                    index, "a line in a table is damaged", repr(one_line(line)), "a row that starts with |"
                )
            return None
        if self.header is None:
            if index == self.last_index:
                came = repr(one_line(line))
                raise self._error(index, "the table was cut in its header", came, "a header line and its rules")
            raise self._error(index, "a row stands before any header", repr(one_line(line)), "a header line first")
        cells = _split_cells(line)
        if index == self.last_index and (not line.rstrip().endswith("|") or len(cells) < len(self.header)):
            raise self._error(
                index,
                "the last row was cut",
                f"{len(cells)} of {len(self.header)} cells, the line ends in {line[-20:]!r}",
                "a whole row",
                "the bench was ended, or the disk was full, while it wrote; run this point again",
            )
        if len(cells) != len(self.header) or not line.rstrip().endswith("|"):
            raise self._error(
                index,
                "a row does not fit its header",
                f"{len(cells)} cells",
                f"{len(self.header)} cells, as in the header",
            )
        try:
            return BenchRow.from_cells(
                dict(zip(self.header, cells, strict=True)), log_file=self.log_file, repeat=self.repeat
            )
        except TableError as error:
            raise self._error(index, error.what, error.came or "", error.expected) from None

    def _refuse_empty_table(self, header_line: int, rows: int) -> None:
        if self.header is not None and rows == 0:
            raise self._error(
                header_line - 1,
                "a table has no row",
                "a header alone",
                "a row",
                "the bench ended before its first result",
            )

    def _error(self, index: int, what: str, came: str, expected: str | None, hint: str | None = None) -> TableError:
        return TableError(what, where=f"{self.log_file}:{index + 1}", came=came, expected=expected, hint=hint)


def _split_cells(line: str) -> list[str]:
    """Cells of a line, without the bars at its ends."""
    text = line.strip()
    if not text.startswith("|"):
        return []
    inner = text[1:-1] if len(text) > 1 and text.endswith("|") else text[1:]
    return [cell.strip() for cell in inner.split("|")]
