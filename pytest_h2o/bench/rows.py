"""What a bench measured: a row with its provenance, read from a log, the JSON beside it, or a CSV of rows."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from pytest_h2o.bench.output import OutputSummary
from pytest_h2o.errors import BenchError, StoreError, TableError, one_line
from pytest_h2o.files import write_new_text

H2O_COLUMNS: tuple[str, ...] = (
    "h2o_keep",
    "h2o_lossy",
    "h2o_lossless",
    "h2o_target_keep_effective",
    "h2o_floor_keep",
    "h2o_quantized_keep",
    "h2o_evict_us",
    "h2o_codec_us",
    "h2o_lossless_raw_mb",
    "h2o_lossless_comp_mb",
    "h2o_lossless_comp_us",
    "h2o_lossless_decomp_us",
    "h2o_lossless_fallback",
)
"""Columns that every binary with H2O prints."""

LATER_H2O_COLUMNS: tuple[str, ...] = (
    "h2o_lossless_queue_peak",
    "h2o_lossless_backpressure_skip",
    "h2o_lossless_async_queue_peak",
    "h2o_lossless_async_wait_us",
    "h2o_lossless_decode_cache_hit",
    "h2o_lossless_decode_cache_miss",
)
"""Columns that only later binaries print."""

TABLE_H2O_COLUMNS: tuple[str, ...] = (
    *H2O_COLUMNS[:-1],
    LATER_H2O_COLUMNS[0],
    H2O_COLUMNS[-1],
    *LATER_H2O_COLUMNS[1:],
)
"""All of them in the order of the table."""

DETERMINISTIC_COLUMNS: tuple[str, ...] = (
    "h2o_keep",
    "h2o_lossy",
    "h2o_target_keep_effective",
    "h2o_floor_keep",
    "h2o_quantized_keep",
    "h2o_lossless",
    "h2o_lossless_raw_mb",
    "h2o_lossless_comp_mb",
    "h2o_lossless_fallback",
)
"""Columns that two launches with the same config give alike, to the last digit."""

_NUMBER = r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan(?:\(\w*\))?|inf(?:inity)?)"
_MEASUREMENT = re.compile(rf"\s*({_NUMBER})(?:\s*±\s*({_NUMBER}))?\s*", re.IGNORECASE | re.ASCII)
_LENGTHS = re.compile(r"prompt=(\d{1,18})\s*<br>\s*decode=(\d{1,18})", re.ASCII)
_TEST = re.compile(r"(?:pp(\d{1,18}))?\+?(?:tg(\d{1,18}))?", re.ASCII)
_SPEED, _TEST_SPEED = "speed(tok/s)", "t/s"


@dataclass(frozen=True)
class Measurement:
    """A mean over the repeats of one launch.

    Attributes
    ----------
    mean : float
        In the unit that the column's name says. Not finite if the bench printed so.
    std : float or None
        Standard deviation over the repeats; None where it is not known.
    """

    mean: float
    std: float | None


@dataclass(frozen=True)
class Row:
    """One row that a bench measured, and where it came from. Refused if a cell that is read here cannot be read.

    Attributes
    ----------
    cells : mapping
        Column name -> text as printed, in the order of the table. A column that is not there was not printed.
    log_file : str
        Where the row stands, as the caller names it.
    repeat : int or None
        Measured repeats (``-rep``), where known; the table does not tell.
    run_id : str
        The point, or the name of a baseline; empty of a row that is no run of a sweep.
    log_path : Path
        The log that the row stands in.
    config_path, stdout_path : Path or None
        The config of the run and what it printed; None if a recording does not have them.
    output : OutputSummary or None
        Its warnings; None if what it printed was not kept. That is not the same as no warnings.
    argv : tuple of str
        The command; empty for a recorded log.
    returncode : int or None
        Exit status; None if it is not known.
    elapsed_s : float or None
        Seconds from launch to end; None if they are not known.
    notes : tuple of str
        What a reader of the row should know about how it was read.
    shares_run_with : str or None
        Run id of the run whose row this point shares, because the runtime cannot tell the two apart.
    disturbance : str or None
        What disturbed the launch while it was timed; None if nothing is known to have.
    model, backend : str or None
        Of the cells, as printed.
    threads, prompt_len, gen_len : int or None
        Of the cells: threads, and lengths in tokens.
    prefill_tok_per_s, decode_tok_per_s : Measurement or None
        Of the cells: tokens a second; higher is better.
    """

    cells: Mapping[str, str]
    log_file: str
    repeat: int | None = None
    run_id: str = ""
    log_path: Path = Path()
    config_path: Path | None = None
    stdout_path: Path | None = None
    output: OutputSummary | None = None
    argv: tuple[str, ...] = ()
    returncode: int | None = None
    elapsed_s: float | None = None
    notes: tuple[str, ...] = ()
    shares_run_with: str | None = None
    disturbance: str | None = None
    model: str | None = field(init=False, compare=False)
    backend: str | None = field(init=False, compare=False)
    threads: int | None = field(init=False, compare=False)
    prompt_len: int | None = field(init=False, compare=False)
    gen_len: int | None = field(init=False, compare=False)
    prefill_tok_per_s: Measurement | None = field(init=False, compare=False)
    decode_tok_per_s: Measurement | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        cells = self.cells
        for column in TABLE_H2O_COLUMNS:
            if cells.get(column, "").strip() and self.get(column) is None:
                raise _bad_cell(column, cells[column], "a number, or mean ± standard deviation")
        prompt_len, gen_len = _lengths(cells)
        prefill, decode = _speeds(cells, prompt_len, gen_len, self.repeat)
        read = {
            "model": cells.get("model"),
            "backend": cells.get("backend"),
            "threads": _threads(cells),
            "prompt_len": prompt_len,
            "gen_len": gen_len,
            "prefill_tok_per_s": prefill,
            "decode_tok_per_s": decode,
        }
        for name, value in read.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_cells(cls, cells: Mapping[str, str], *, log_file: str, repeat: int | None = None) -> Row:
        """Make a row of its cells; a `TableError` if one of them cannot be read."""
        return cls(dict(cells), log_file, repeat)

    def get(self, column: str) -> Measurement | None:
        """Return what a column measured; None if the column is missing, blank or no number. Never 0 for missing."""
        return parse_measurement(self.cells.get(column, ""), self.repeat)

    def to_json(self) -> dict[str, Any]:
        """Built-in values only; `from_json` reads them back."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.init}
        paths = {name: os.fspath(value) for name, value in values.items() if isinstance(value, Path)}
        output = None if self.output is None else self.output.to_json()
        return {
            **values,
            **paths,
            "cells": dict(self.cells),
            "argv": list(self.argv),
            "notes": list(self.notes),
            "output": output,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Row:
        """Read what `to_json` gave."""
        try:
            values = {each.name: value[each.name] for each in fields(cls) if each.init}
            for name in ("log_path", "config_path", "stdout_path"):
                values[name] = None if values[name] is None else Path(values[name])
            values |= {name: tuple(values[name]) for name in ("argv", "notes")}
            if values["output"] is not None:
                values["output"] = OutputSummary.from_json(values["output"])
            return cls(**values)
        except (KeyError, TypeError, AttributeError, BenchError) as error:
            raise StoreError(
                "a result of a launch was kept in another shape than this version reads",
                came=f"{type(error).__name__}: {error}",
                hint="start a new run folder",
            ) from error


BenchRow = Row
"""The name that plugins know it by from before; goes with the next release."""


def parse_measurement(cell: str, repeat: int | None = None) -> Measurement | None:
    """Read ``mean ± std`` or a bare number; None if the text is neither.

    Numbers may have exponents. A spread of nan is not known, and at one repeat no spread is.
    """
    match = _MEASUREMENT.fullmatch(cell)
    if match is None:
        return None
    mean = _parse_number(match[1])
    std = None if match[2] is None or repeat == 1 else _parse_number(match[2])
    return Measurement(mean, None if std is None or math.isnan(std) else std)


def require_h2o(row: Row, columns: Sequence[str] = H2O_COLUMNS) -> None:
    """Check that a row has the columns that only a binary with H2O prints."""
    missing = [column for column in columns if not row.cells.get(column, "").strip()]
    if not missing:
        return
    if len(missing) == len(columns):
        what, hint = "this bench has no H2O columns", "build llm_bench from the branch of the engine that has H2O"
    else:
        what = f"H2O columns are missing: {', '.join(missing)}"
        hint = "use a log as the bench wrote it, or a binary that prints every column"
    raise TableError(
        what,
        where=row.log_file,
        came=one_line(f"no {', '.join(missing)} among {', '.join(row.cells)}", limit=2000),
        expected=", ".join(columns),
        hint=hint,
    )


def _parse_number(text: str) -> float:
    # Some C libraries print nan(ind) or nan(snan), which float() does not read.
    return math.nan if "nan" in text.lower() else float(text)


def _lengths(cells: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Prompt and generated length in tokens, from whichever column has them."""
    if cells.get("llm_demo", "").strip():
        match = _LENGTHS.fullmatch(cells["llm_demo"].strip())
        if match is None:
            raise _bad_cell("llm_demo", cells["llm_demo"], "prompt=512<br>decode=128")
        return int(match[1]), int(match[2])
    if cells.get("test", "").strip():
        match = _TEST.fullmatch(cells["test"].strip())
        if match is None or (match[1] is None and match[2] is None):
            raise _bad_cell("test", cells["test"], "pp512, tg128 or pp512+tg128")
        prompt_len, gen_len = match.groups()
        return (None if prompt_len is None else int(prompt_len)), (None if gen_len is None else int(gen_len))
    return None, None


def _speeds(
    cells: Mapping[str, str], prompt_len: int | None, gen_len: int | None, repeat: int | None
) -> tuple[Measurement | None, Measurement | None]:
    """Prefill and decode speed."""
    if cells.get(_SPEED, "").strip():
        parts = [parse_measurement(part, repeat) for part in cells[_SPEED].split("<br>")]
        if len(parts) != 2 or None in parts:
            raise _bad_cell(_SPEED, cells[_SPEED], "prefill ± std<br>decode ± std")
        return parts[0], parts[1]
    if cells.get(_TEST_SPEED, "").strip():
        speed = parse_measurement(cells[_TEST_SPEED], repeat)
        if speed is None:
            raise _bad_cell(_TEST_SPEED, cells[_TEST_SPEED], "mean ± std")
        # A test of both at once gives one speed over both: it is neither of the two.
        return (speed if gen_len is None else None), (speed if prompt_len is None else None)
    return None, None


def _threads(cells: Mapping[str, str]) -> int | None:
    text = cells.get("threads", "").strip()
    if not text:
        return None
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise _bad_cell("threads", text, "a whole number")
    return int(text)


def _bad_cell(column: str, came: str, expected: str) -> TableError:
    return TableError(f"the cell of {column} cannot be read", came=repr(one_line(came)), expected=expected)


_RULE_CELL = re.compile(r":?-+:?")
_MAX_LOG_BYTES = 64 * 1024 * 1024


def read_table(path: Path, *, log_file: str | None = None, repeat: int | None = None) -> tuple[Row, ...]:
    """Read the rows of a log; see `parse_table`."""
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


def parse_table(text: str, *, log_file: str, repeat: int | None = None) -> tuple[Row, ...]:
    """Read every row of every table in a text."""
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

    def read(self) -> tuple[Row, ...]:
        rows: list[Row] = []
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

    def _read_line(self, index: int) -> Row | None:
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
            return Row.from_cells(
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


def parse_json(text: str, *, log_file: str, repeat: int | None = None) -> tuple[Row, ...]:
    """Read every result of the JSON as rows, with the cells that the table would have."""
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


def _parse_result(head: Mapping[str, str], result: object, where: str, log_file: str, repeat: int | None) -> Row:
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
    return Row.from_cells(cells, log_file=log_file, repeat=repeat)


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


_SHARED_TEXT_COLUMNS = ("model", "modelSize", "backend", "threads", "precision", "mmap", "llm_demo", "test")
_SPEED_COLUMNS = ("speed(tok/s)", "t/s")


def read_rows(log_path: Path, json_path: Path | None, *, log_file: str, repeat: int | None = None) -> tuple[Row, ...]:
    """Read the rows of a log and, where there is one, of the JSON beside it.

    The JSON alone is enough if the log is empty, the table alone if there is no JSON or it cannot be read; either is
    noted. If both can be read they must agree in every column that both have, at the table's precision.
    """
    rows_of_json: tuple[Row, ...] | None = None
    notes: tuple[str, ...] = ()
    if json_path is not None and json_path.exists():
        try:
            json_name = str(json_path)
            rows_of_json = parse_json(read_text(json_path, json_name), log_file=json_name, repeat=repeat)
        except TableError as error:
            notes = (f"its JSON was passed over ({error.came or error.what}); the row is from the table",)
    if rows_of_json is not None and (not log_path.exists() or not read_text(log_path, log_file).strip()):
        note = "the log is empty; the row is from the JSON"
        return tuple(replace(row, log_file=log_file, notes=(note,)) for row in rows_of_json)
    rows = parse_table(read_text(log_path, log_file), log_file=log_file, repeat=repeat)
    if rows_of_json is not None:
        _check_agreement(rows, rows_of_json, log_file)
    return tuple(replace(row, notes=notes) for row in rows)


def _check_agreement(rows: tuple[Row, ...], rows_of_json: tuple[Row, ...], log_file: str) -> None:
    """The table's cells are kept: they are the same, and they are what a later reading of the log gives."""
    if len(rows) != len(rows_of_json):
        raise _disagreement(log_file, f"{len(rows)} rows in the table, {len(rows_of_json)} in the JSON")
    for row, other in zip(rows, rows_of_json, strict=True):
        for column in (*_SHARED_TEXT_COLUMNS, *_SPEED_COLUMNS, *COLUMN_DECIMALS):
            if column in row.cells and column in other.cells and not _same_cell(row, other, column):
                came = one_line(f"{column}: {row.cells[column]} in the table, {other.cells[column]} in the JSON")
                raise _disagreement(log_file, came)


def _same_cell(row: Row, other: Row, column: str) -> bool:
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


_FIRST_COLUMNS = ("model", "modelSize", "backend", "threads", "llm_demo", "speed(tok/s)", *H2O_COLUMNS)
_LOG_COLUMN = "log_file"


def render_metrics_csv(rows: Iterable[Row]) -> str:
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


def write_metrics_csv(path: Path, rows: Iterable[Row]) -> None:
    """Write rows to a new CSV file."""
    write_new_text(path, render_metrics_csv(rows))


def read_metrics_csv(path: Path, *, repeat: int | None = None) -> tuple[Row, ...]:
    """Read rows from a CSV file, ours or one with the same columns.

    An empty cell means that the row does not have the column.
    """
    reader = csv.reader(io.StringIO(read_text(path, str(path)), newline=""), strict=True)
    rows: list[Row] = []
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


def _read_row(header: list[str], values: list[str], where: str, path: Path, repeat: int | None) -> Row:
    if len(values) != len(header):
        came = f"{len(values)} cells"
        raise TableError("a row of a CSV is damaged", where=where, came=came, expected=f"{len(header)} cells")
    cells = {column: value for column, value in zip(header, values, strict=True) if value}
    log_file = cells.pop(_LOG_COLUMN, str(path))
    try:
        return Row.from_cells(cells, log_file=log_file, repeat=repeat)
    except TableError as error:
        raise TableError(error.what, where=where, came=error.came, expected=error.expected) from None
