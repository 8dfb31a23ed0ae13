"""What a bench measured: a row with its provenance, read from a log, the JSON beside it, or a CSV of rows.

The table is what every version of llm_bench writes (``-fp``); newer ones write the same as JSON (``-j``). Other text
around a table is passed over, a damaged table never is.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, NoReturn

from pytest_h2o.bench.output import OutputSummary
from pytest_h2o.errors import StoreError, TableError, one_line
from pytest_h2o.files import TooLarge, load, read_regular, unique_keys

_PRINTED: Mapping[str, tuple[int, str]] = {
    "h2o_keep": (4, "exact"),
    "h2o_lossy": (3, "exact"),
    "h2o_lossless": (3, "coded"),
    "h2o_target_keep_effective": (4, "exact"),
    "h2o_floor_keep": (4, "exact"),
    "h2o_quantized_keep": (4, "exact"),
    "h2o_evict_us": (2, "timed"),
    "h2o_codec_us": (2, "timed"),
    "h2o_lossless_raw_mb": (2, "coded"),
    "h2o_lossless_comp_mb": (2, "coded"),
    "h2o_lossless_comp_us": (2, "timed"),
    "h2o_lossless_decomp_us": (2, "timed"),
    "h2o_lossless_queue_peak": (2, "later"),
    "h2o_lossless_fallback": (2, "exact"),
    "h2o_lossless_backpressure_skip": (2, "later"),
    "h2o_lossless_async_queue_peak": (2, "later"),
    "h2o_lossless_async_wait_us": (2, "later"),
    "h2o_lossless_decode_cache_hit": (2, "later"),
    "h2o_lossless_decode_cache_miss": (2, "later"),
}
"""Columns of H2O in the order of the table: digits after the point; what they are to two launches of one config."""

COLUMN_DECIMALS: Mapping[str, int] = {column: decimals for column, (decimals, _) in _PRINTED.items()}
"""Digits after the point with which the table prints a column; speeds, sizes and times have two."""

H2O_COLUMNS = tuple(column for column, (_, kind) in _PRINTED.items() if kind != "later")
"""Columns that every binary with H2O prints; the others came with later ones."""

DETERMINISTIC_COLUMNS = tuple(column for column, (_, kind) in _PRINTED.items() if kind in ("exact", "coded"))
"""Columns that two launches with the same config give alike, to the last digit."""

CODED_COLUMNS = tuple(column for column, (_, kind) in _PRINTED.items() if kind == "coded")
"""Those among them that do not where lossless coding is asynchronous."""

DECODED_COLUMN = "decode_tokens"
"""Tokens really decoded: of the JSON or the table of an engine that tells it."""

QUALITY = "quality_"
"""What columns begin with that tell of the model under eviction, in table or JSON."""

FEWER_COLUMN = "sweep_repeat"
"""Of a row that was launched with fewer repeats than its preset asks for: ``1 of 3``. No bench prints it."""

UNVERIFIED = "configuration not verified"
"""Start of the note of a recorded row of which nothing, or not enough, says how it was configured."""

NO_OUTPUT = "output not kept: signs of a broken cache were not looked for"
"""The note of a recorded row without what its run printed."""

_NUMBER = r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan(?:\(\w*\))?|inf(?:inity)?)"
_MEASUREMENT = re.compile(rf"\s*({_NUMBER})(?:\s*±\s*({_NUMBER}))?\s*", re.IGNORECASE | re.ASCII)
_COUNT = re.compile(r"\d{1,9}", re.ASCII)
_LENGTHS = re.compile(r"prompt=(\d{1,18})\s*<br>\s*decode=(\d{1,18})", re.ASCII)
_TEST = re.compile(r"(?=\+?[pt])(?:pp(\d{1,18}))?\+?(?:tg(\d{1,18}))?", re.ASCII)
_FEWER = re.compile(r"(\d{1,9}) of (\d{1,9})", re.ASCII)
_SPEED, _TEST_SPEED = "speed(tok/s)", "t/s"


@dataclass(frozen=True)
class Measurement:
    """A mean over the repeats of one launch, in the unit that the column's name says."""

    mean: float
    """Not finite if the bench printed so."""
    std: float | None
    """Standard deviation over the repeats; None where it is not known."""


@dataclass(frozen=True)
class Row:
    """One row that a bench measured, and where it came from. A `TableError` if a cell that is read here is no number.

    The fields from `model` on are read from the cells.
    """

    cells: Mapping[str, str]
    """Column name -> text as printed, in the order of the table. A column that is not there was not printed."""
    log_file: str
    """Where the row stands, as the caller names it."""
    repeat: int | None = None
    """Measured repeats (``-rep``), where known; the table does not tell."""
    run_id: str = ""
    """The point, or the name of a baseline; empty of a row that is no run of a sweep."""
    log_path: Path = Path()
    config_path: Path | None = None
    stdout_path: Path | None = None
    output: OutputSummary | None = None
    """Its warnings; None if what it printed was not kept. That is not the same as no warnings."""
    argv: tuple[str, ...] = ()
    """The command; empty of a recorded log, of which the next two are not known either."""
    returncode: int | None = None
    elapsed_s: float | None = None
    notes: tuple[str, ...] = ()
    """What a reader of the row should know about how it was read."""
    shares_run_with: str | None = None
    """Run id of the run whose row this point shares, because the runtime cannot tell the two apart."""
    disturbance: str | None = None
    """What disturbed the launch while it was timed; None if nothing is known to have."""
    again: tuple[Mapping[str, str], ...] = ()
    """Cells of further launches of the same point."""
    model: str | None = field(init=False, compare=False)
    backend: str | None = field(init=False, compare=False)
    threads: int | None = field(init=False, compare=False)
    prompt_len: int | None = field(init=False, compare=False)
    gen_len: int | None = field(init=False, compare=False)
    asked_repeat: int | None = field(init=False, compare=False)
    """Repeats that the preset asks for, of a row that was launched with fewer: none of its timings is judged."""
    prefill_tok_per_s: Measurement | None = field(init=False, compare=False)
    decode_tok_per_s: Measurement | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        for column in COLUMN_DECIMALS:
            self._measured(column, "a number, or mean ± standard deviation")
        threads = self._match("threads", _COUNT, "a whole number")
        lengths = self._match("llm_demo", _LENGTHS, "prompt=512<br>decode=128")
        lengths = lengths or self._match("test", _TEST, "pp512, tg128 or pp512+tg128")
        prompt_len, gen_len = map(_int_or_none, lengths.groups() if lengths else (None, None))
        prefill, decode = self._read_speeds(prompt_len, gen_len)
        fewer = self._match(FEWER_COLUMN, _FEWER, "1 of 3")
        vars(self).update(  # the class is frozen
            model=self.cells.get("model"),
            backend=self.cells.get("backend"),
            threads=int(threads[0]) if threads else None,
            prompt_len=prompt_len,
            gen_len=gen_len,
            asked_repeat=int(fewer[2]) if fewer else None,
            prefill_tok_per_s=prefill,
            decode_tok_per_s=decode,
        )

    @property
    def launches(self) -> tuple[Row, ...]:
        """The rows of all launches of the point, this one first."""
        numbered = enumerate(self.again, start=2)
        return (self, *(replace(self, cells=c, again=(), run_id=f"{self.run_id}, launch {n}") for n, c in numbered))

    @classmethod
    def from_cells(cls, cells: Mapping[str, str], *, log_file: str, repeat: int | None = None) -> Row:
        """Make a row of its cells; a `TableError` if one of them cannot be read."""
        return cls(dict(cells), log_file, repeat)

    def with_fewer_repeats(self, asked: int) -> Row:
        """The same row, which says that it was launched with fewer repeats than were asked for."""
        told = {FEWER_COLUMN: f"{self.repeat} of {asked}"}
        return replace(self, cells={**self.cells, **told}, again=tuple({**cells, **told} for cells in self.again))

    @property
    def decoded_tokens(self) -> float | None:
        """Tokens that a repeat really decoded, where row or output tell; the length that was asked for is `gen_len`."""
        told = self.get(DECODED_COLUMN)
        if told is not None and math.isfinite(told.mean):
            return told.mean
        return None if self.output is None else self.output.decoded_tokens

    def get(self, column: str) -> Measurement | None:
        """Return what a column measured; None if the column is missing, blank or no number. Never 0 for missing."""
        return parse_measurement(self.cells.get(column, ""), self.repeat)

    def _measured(self, column: str, expected: str) -> Measurement | None:
        """What a column measured; None if it is missing or blank."""
        value = self.get(column)
        if value is None and self.cells.get(column, "").strip():
            raise self._unreadable(column, expected)
        return value

    def _match(self, column: str, pattern: re.Pattern[str], expected: str) -> re.Match[str] | None:
        """The parts of a cell; None if it is missing or blank."""
        text = self.cells.get(column, "").strip()
        found = pattern.fullmatch(text)
        if text and found is None:
            raise self._unreadable(column, expected)
        return found

    def _read_speeds(
        self, prompt_len: int | None, gen_len: int | None
    ) -> tuple[Measurement | None, Measurement | None]:
        if self.cells.get(_SPEED, "").strip():
            parts = [parse_measurement(part, self.repeat) for part in self.cells[_SPEED].split("<br>")]
            if len(parts) != 2 or None in parts:
                raise self._unreadable(_SPEED, "prefill ± std<br>decode ± std")
            return parts[0], parts[1]
        speed = self._measured(_TEST_SPEED, "mean ± std")
        # A test of both at once gives one speed over both: it is neither of the two.
        return (speed if gen_len is None else None), (speed if prompt_len is None else None)

    def _unreadable(self, column: str, expected: str) -> TableError:
        came = repr(one_line(self.cells[column]))
        return TableError(f"the cell of {column} cannot be read", came=came, expected=expected)


BenchRow = Row
"""The name of 0.1, which plugins import; goes with the next release."""


def _int_or_none(text: str | None) -> int | None:
    return None if text is None else int(text)


def load_row(value: object) -> Row:
    """A row that `plain` made JSON of, in the journal of a run say; StoreError if it has another shape."""
    what, hint = "a result of a launch", "start a new run folder"
    try:
        return load(Row, value, what, hint=hint)
    except TableError as error:
        what = f"{what} has another shape than this version reads"
        raise StoreError(what, came=error.what, hint=hint) from error


@lru_cache(maxsize=8192)  # a cell is read by every check and metric of its row
def parse_measurement(cell: str, repeat: int | None = None) -> Measurement | None:
    """Read ``mean ± std`` or a bare number; None if the text is neither.

    Numbers may have exponents. A spread of nan is not known, and at one repeat no spread is.
    """
    match = _MEASUREMENT.fullmatch(cell)
    if match is None:
        return None
    # Some C libraries print nan(ind) or nan(snan), which float() does not read.
    mean, std = (math.nan if text is None or "nan" in text.lower() else float(text) for text in match.groups())
    return Measurement(mean, None if repeat == 1 or math.isnan(std) else std)


def describe_unverified(rows: Sequence[Row], what: str = "rows") -> list[str]:
    """What recorded rows could not be held against, a line for each kind: their configuration, what they said."""
    kinds = Counter(note for row in rows for note in row.notes if note.startswith((UNVERIFIED, NO_OUTPUT)))
    return [f"{count} of {len(rows)} {what}: {note}" for note, count in kinds.items()]


def require_h2o(row: Row, columns: Sequence[str] = H2O_COLUMNS) -> None:
    """Check that a row has the columns that only a binary with H2O prints."""
    missing = [column for column in columns if not row.cells.get(column, "").strip()]
    if not missing:
        return
    what, hint = "this bench has no H2O columns", "build llm_bench from the branch of the engine that has H2O"
    if len(missing) < len(columns):
        what = f"H2O columns are missing: {', '.join(missing)}"
        hint = "use a log as the bench wrote it, or a binary that prints every column"
    came = one_line(f"no {', '.join(missing)} among {', '.join(row.cells)}", limit=2000)
    raise TableError(what, where=row.log_file, came=came, expected=", ".join(columns), hint=hint)


# -- the table ------------------------------------------------------------------------------------------------------

_RULE_CELL = re.compile(r":?-+:?")
_MAX_LOG_BYTES = 64 * 1024 * 1024


def read_table(path: Path, *, log_file: str | None = None, repeat: int | None = None) -> tuple[Row, ...]:
    """Read the rows of a log; see `parse_table`."""
    name = log_file or str(path)
    return parse_table(read_text(path, name), log_file=name, repeat=repeat)


def read_text(path: Path, name: str, kind: Literal["log", "CSV"] = "log") -> str:
    """Read a log or JSON of the bench, which is text and never large; TableError if it is not."""
    expected = None
    try:
        return _decode(read_regular(path, _MAX_LOG_BYTES))
    except TooLarge as error:
        what, came = "a log is too large for one of the bench", error.strerror
        expected = f"at most {_MAX_LOG_BYTES} bytes: a table, not the output of a program"
    except UnicodeDecodeError as error:
        what, came = f"a {kind} is not text", f"a byte that is not UTF-8 at offset {error.start}"
        expected = "the file that the bench wrote (-fp)"
    except OSError as error:
        what, came = f"a {kind} cannot be read", error.strerror or str(error)
        expected = "rows as pytest-h2o parse writes them" if kind == "CSV" else "the file that the bench wrote (-fp)"
    raise TableError(what, where=name, came=came, expected=expected)


def _decode(data: bytes) -> str:
    """Text in UTF-8, or in what terminals and editors of Windows make of it: there the sign ± tells which it is."""
    try:
        return data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError:
        for encoding, sign in (("gbk", b"\xa1\xc0"), ("latin-1", b"\xb1")):
            if sign in data and b"\xc2\xb1" not in data:  # that is ± in UTF-8: a damaged text of it
                with contextlib.suppress(UnicodeDecodeError):
                    return data.decode(encoding)
        raise


def parse_table(text: str, *, log_file: str, repeat: int | None = None) -> tuple[Row, ...]:
    """Read every row of every table in a text; a `TableError` with file and line where one is damaged."""
    if not text.strip():
        hint = "the bench ended before it printed its table: its standard output says why"
        raise TableError("the log is empty", where=log_file, expected="a table of the bench", hint=hint)
    # Only "\n" ends a line: str.splitlines would also cut at characters that a model's name may hold.
    lines = [line.rstrip("\r") for line in text.split("\n")]
    while not lines[-1].strip():
        lines.pop()
    rows: list[Row] = []
    header: list[str] = []
    header_at, rows_before, index = 0, 0, 0
    try:
        while index < len(lines):
            line, is_last = lines[index], index == len(lines) - 1
            under = [] if is_last else _split_cells(lines[index + 1])
            is_row = line.lstrip().startswith("|")
            if is_row and under and all(_RULE_CELL.fullmatch(cell) for cell in under):
                if header and len(rows) == rows_before:
                    break
                header, header_at, rows_before = _split_cells(line), index, len(rows)
                if twice := [name for name in header if header.count(name) > 1 or not name]:
                    came = f"the column {twice[0]!r} more than once or unnamed"
                    raise TableError("a table's header is damaged", came=came)
                index += 1
                if len(header) != len(under):
                    came = f"{len(header)} names over {len(under)} rules"
                    raise TableError("a table's header is damaged", came=came, expected="as many of both")
            elif is_row:
                cells = _row_cells(line, header, is_last=is_last)
                rows.append(Row(dict(zip(header, cells, strict=True)), log_file, repeat))
            elif header and line.count("|") >= 2:
                expected = "a row that starts with |"
                raise TableError("a line in a table is damaged", came=repr(one_line(line)), expected=expected)
            index += 1
        if header and len(rows) == rows_before:
            index, hint = header_at, "the bench ended before its first result"
            raise TableError("a table has no row", came="a header alone", expected="a row", hint=hint)
    except TableError as error:
        error.where = f"{log_file}:{index + 1}"
        raise
    if not header:
        expected = "a header line of the bench (| model | modelSize | …) and a line of dashes under it"
        came = repr(one_line(text))
        raise TableError("the log has no table", where=log_file, came=came, expected=expected)
    return tuple(rows)


def _row_cells(line: str, header: Sequence[str], *, is_last: bool) -> list[str]:
    """Cells of a row under a header; a row that was cut, or has more or fewer cells, is refused."""
    if not header:
        came = repr(one_line(line))
        if is_last:
            what, expected = "the table was cut in its header", "a header line and its rules"
        else:
            what, expected = "a row stands before any header", "a header line first"
        raise TableError(what, came=came, expected=expected)
    cells, is_whole = _split_cells(line), line.rstrip().endswith("|")
    if is_last and (not is_whole or len(cells) < len(header)):
        came = f"{len(cells)} of {len(header)} cells, the line ends in {line[-20:]!r}"
        hint = "the bench was ended, or the disk was full, while it wrote; run this point again"
        raise TableError("the last row was cut", came=came, expected="a whole row", hint=hint)
    if not is_whole or len(cells) != len(header):
        expected = f"{len(header)} cells, as in the header"
        raise TableError("a row does not fit its header", came=f"{len(cells)} cells", expected=expected)
    return cells


def _split_cells(line: str) -> list[str]:
    """Cells of a line, without the bars at its ends; none if it does not begin with one."""
    text = line.strip()
    if not text.startswith("|"):
        return []
    inner = text[1:-1] if len(text) > 1 and text.endswith("|") else text[1:]
    return [cell.strip() for cell in inner.split("|")]


# -- the JSON -------------------------------------------------------------------------------------------------------

_JSON_KEYS = {
    "h2o_keep": "h2o_keep_ratio",
    "h2o_lossy": "h2o_lossy_ratio",
    "h2o_lossless": "h2o_lossless_ratio",
    "loadingTime(s)": "loading_time",
}
"""Columns that have another name in the JSON."""

_LEVELS = {0: "Normal", 1: "High", 2: "Low"}

# The JSON writer of the bench prints nothing at all for a number that is not finite: `"decode_std":,`.
_MISSING_NUMBER = re.compile(r'(?<!\\)":(?=[,}])')


def parse_json(text: str, *, log_file: str, repeat: int | None = None) -> tuple[Row, ...]:
    """Read every result of the JSON as rows, with the cells that the table would have."""
    what = "the JSON of the bench cannot be read"
    try:
        document = json.loads(_MISSING_NUMBER.sub('":NaN', text), object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        where, expected = f"{log_file}:{error.lineno}:{error.colno}", "what the bench writes with -j"
        hint = "an empty or cut file means that the bench ended while it ran"
        raise TableError(what, where=where, came=error.msg, expected=expected, hint=hint) from None
    except RecursionError:
        raise TableError(what, where=log_file, came="values nested too deeply") from None
    except ValueError as error:
        raise TableError(what, where=log_file, came=str(error)) from None
    if not isinstance(document, dict):
        raise TableError("the JSON is not from the bench", where=log_file, expected="an object with results")
    results = document.get("results")
    if not isinstance(results, list) or not results:
        came = "an empty list" if results == [] else type(results).__name__
        raise TableError("the JSON has no results", where=log_file, came=came, expected="results: [{…}, …]")
    head = _head_cells(document, log_file)
    cells = [_result_cells(result, f"{log_file}: results[{i}]") for i, result in enumerate(results)]
    return tuple(Row({**head, **own}, log_file, repeat) for own in cells)


def _head_cells(document: Mapping[str, Any], where: str) -> dict[str, str]:
    """Cells that all rows share."""
    cells: dict[str, str] = {}
    for column in ("model", "modelSize", "backend", "threads", "precision"):
        value = document.get(column)
        if value is None:
            continue
        if column == "modelSize":
            gib = _number(value, where, column)
            cells[column] = f"{gib * 1024:.2f} MiB" if gib < 1 else f"{gib:.2f} GiB"
        elif column == "threads":
            cells[column] = str(_whole(value, where, column))
        elif column == "precision":
            cells[column] = _LEVELS.get(_whole(value, where, column), "High")
        elif isinstance(value, str):
            # The table pads cells with blanks, so blanks at the ends of a name are lost there.
            cells[column] = value.strip()
        else:
            _refuse(where, column, value, "text")
    if document.get("useMmap") is True:
        cells["mmap"] = "true"
    return cells


def _result_cells(result: object, where: str) -> dict[str, str]:
    """What was run, how fast (with the cache in use one row has both speeds, else one of them), and what H2O did."""
    if not isinstance(result, dict):
        what = "the JSON has a result of another kind"
        raise TableError(what, where=where, came=type(result).__name__, expected="{…}")
    kind = result.get("type")
    if kind not in ("prefill", "decode", "prefill_and_decode"):
        _refuse(where, "type", kind, "prefill, decode or prefill_and_decode")
    prompt = _whole(result.get("prompt_len"), where, "prompt_len") if kind != "decode" else 0
    gen = _whole(result.get("generate_len"), where, "generate_len") if kind != "prefill" else 0
    cells: dict[str, str | None]
    if kind == "prefill_and_decode":
        speeds = [_cell(result, f"{part}_tps", where, 2, std_key=f"{part}_std") for part in ("prefill", "decode")]
        cells = {"llm_demo": f"prompt={prompt}<br>decode={gen}", _SPEED: "<br>".join(filter(None, speeds))}
        if None in speeds:
            cells = {"test": f"pp{prompt}+tg{gen}"}
    else:
        cells = {"test": f"pp{prompt}" if kind == "prefill" else f"tg{gen}"}
        cells[_TEST_SPEED] = _cell(result, "tps", where, 2, std_key="std")
    for column, decimals in (*COLUMN_DECIMALS.items(), ("loadingTime(s)", 2), (DECODED_COLUMN, 2)):
        cells[column] = _cell(result, _JSON_KEYS.get(column, column), where, decimals)
    for column in (key for key in result if key.startswith(QUALITY) and not key.endswith("_std")):
        keys = (key for key in (column, f"{column}_std") if key in result)
        cells[column] = " ± ".join(f"{_number(result[key], where, key):.6g}" for key in keys)
    return {column: cell for column, cell in cells.items() if cell is not None}


def _cell(result: Mapping[str, Any], key: str, where: str, decimals: int, *, std_key: str = "") -> str | None:
    """``mean ± std`` as the table prints it; None if the key is not there."""
    if key not in result:
        return None
    keys = (name for name in (key, std_key or f"{key}_std") if name in result)
    return " ± ".join(f"{_number(result[name], where, name):.{decimals}f}" for name in keys)


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
    what = "the JSON of the bench has another value than it writes"
    raise TableError(what, where=where, came=f"{key}: {value!r:.100}", expected=expected)


# -- both of one launch ---------------------------------------------------------------------------------------------

SETTING_COLUMNS = ("model", "modelSize", "backend", "threads", "precision", "mmap", "llm_demo", "test", "conditions")
"""Columns that say what was run, alike in table and JSON, and in all launches of a point."""


def read_rows(log_path: Path, json_path: Path | None, *, log_file: str, repeat: int | None = None) -> tuple[Row, ...]:
    """Read the rows of a log and, where there is one, of the JSON beside it.

    The table alone is enough if there is no JSON, the JSON alone if the log is empty, which is noted in the rows. Else
    they must agree in every column that both have, at the table's precision; one that cannot be read agrees with none.
    """
    rows_of_json: tuple[Row, ...] | None = None
    if json_path is not None and (json_path.exists() or json_path.is_symlink()):
        name = str(json_path)
        rows_of_json = parse_json(read_text(json_path, name), log_file=name, repeat=repeat)
    if rows_of_json is not None and (not log_path.exists() or not read_text(log_path, log_file).strip()):
        notes = ("the log is empty; the row is from the JSON",)
        return tuple(replace(row, log_file=log_file, notes=notes) for row in rows_of_json)
    rows = read_table(log_path, log_file=log_file, repeat=repeat)
    if rows_of_json is not None and (came := _find_disagreement(rows, rows_of_json)):
        what, expected = "table and JSON of one run disagree", "the same rows in both"
        hint = "the bench or the disk failed while they were written: run this point again"
        raise TableError(what, where=log_file, came=came, expected=expected, hint=hint)
    return tuple(
        replace(row, cells={**_told_by_json(other), **row.cells})
        for row, other in zip_longest(rows, rows_of_json or ())
    )


def _told_by_json(row: Row | None) -> dict[str, str]:
    """Cells that a table may lack."""
    return {} if row is None else {name: cell for name, cell in row.cells.items() if _may_be_of_json_alone(name)}


def _may_be_of_json_alone(column: str) -> bool:
    return column == DECODED_COLUMN or column.startswith(QUALITY)


def _find_disagreement(rows: Sequence[Row], rows_of_json: Sequence[Row]) -> str | None:
    """The first cell in which table and JSON differ; the table's are kept, as a later reading of the log gives them."""
    if len(rows) != len(rows_of_json):
        return f"{len(rows)} rows in the table, {len(rows_of_json)} in the JSON"
    for row, other in zip(rows, rows_of_json, strict=True):
        quality = (column for column in row.cells if column.startswith(QUALITY))
        for column in (*SETTING_COLUMNS, _SPEED, _TEST_SPEED, *COLUMN_DECIMALS, *quality):
            cells = row.cells.get(column), other.cells.get(column)
            if None not in cells and cells[0] != cells[1] and not _are_alike(row, other, column):
                return one_line(f"{column}: {cells[0]} in the table, {cells[1]} in the JSON")
    return None


def _are_alike(row: Row, other: Row, column: str) -> bool:
    """Whether two cells say the same though they are printed otherwise.

    nan prints as nan or -nan, and its sign means nothing; the JSON has no number at all where the table has inf.
    """
    if column.startswith(QUALITY):
        one, two = row.get(column), other.get(column)
        room = 1.001 * sum(last_digit(each.cells[column]) for each in (row, other))
        return one is not None and two is not None and (abs(one.mean - two.mean) <= room or not _any_finite(one, two))
    if column in COLUMN_DECIMALS:
        pairs = [(row.get(column), other.get(column))]
    elif column in (_SPEED, _TEST_SPEED):
        pairs = [(row.prefill_tok_per_s, other.prefill_tok_per_s), (row.decode_tok_per_s, other.decode_tok_per_s)]
    else:
        return False
    return all(
        one is two
        if one is None or two is None
        else all(a == b or not (_is_finite(a) or _is_finite(b)) for a, b in ((one.mean, two.mean), (one.std, two.std)))
        for one, two in pairs
    )


def _any_finite(*cells: Measurement) -> bool:
    return any(math.isfinite(cell.mean) for cell in cells)


def last_digit(cell: str) -> float:
    """Half of the last digit that a cell prints."""
    text = cell.partition("±")[0].strip().lower()
    digits, _, exponent = text.partition("e")
    decimals = len(digits.partition(".")[2])
    return 0.5 * 10.0 ** (int(exponent or 0) - decimals) if digits[-1:].isdecimal() and len(exponent) < 4 else 0.0


def _is_finite(number: float | None) -> bool:
    return number is not None and math.isfinite(number)


# -- rows as CSV ----------------------------------------------------------------------------------------------------

_FIRST_COLUMNS = ("model", "modelSize", "backend", "threads", "llm_demo", _SPEED, *COLUMN_DECIMALS)
_LOG_COLUMN = "log_file"


def render_metrics_csv(rows: Iterable[Row]) -> str:
    """Render rows as CSV text with a header line and ``\\r\\n`` line ends (RFC 4180).

    Columns: the common ones in a fixed order, those that any row has, with `log_file` last among them; then all
    others, sorted. A cell that a row does not have stays empty.
    """
    all_rows = list(rows)
    present = {column for row in all_rows for column in row.cells} - {_LOG_COLUMN}
    first = [column for column in _FIRST_COLUMNS if column in present]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*first, _LOG_COLUMN, *sorted(present - set(first))], restval="")
    writer.writeheader()
    writer.writerows({**row.cells, _LOG_COLUMN: row.log_file} for row in all_rows)
    return text.getvalue()


def read_metrics_csv(path: Path, *, repeat: int | None = None) -> tuple[Row, ...]:
    """Read rows from a CSV file, ours or one with the same columns.

    An empty cell is a column that the row lacks, unless the whole column is empty: then the figure is missing.
    """
    reader = csv.reader(io.StringIO(read_text(path, str(path), "CSV"), newline=""), strict=True)
    rows: list[Row] = []
    try:
        header = next(reader, [])
        if not header or len(set(header)) != len(header) or "" in header:
            came = one_line(", ".join(header)) or "an empty line"
            raise TableError("a CSV has no sound header", came=came, expected="each column's name, once")
        for values in filter(None, reader):
            if len(values) != len(header):
                came, expected = f"{len(values)} cells", f"{len(header)} cells"
                raise TableError("a row of a CSV is damaged", came=came, expected=expected)
            cells = {column: value for column, value in zip(header, values, strict=True) if value}
            rows.append(Row(cells, cells.pop(_LOG_COLUMN, str(path)), repeat))
    except csv.Error as error:
        where = f"{path}:{reader.line_num}"
        raise TableError("a CSV cannot be read", where=where, came=str(error)) from None
    except TableError as error:
        error.where = f"{path}:{max(1, reader.line_num)}"
        raise
    if not rows:
        raise TableError("a CSV has no row", where=str(path), expected="a header line and a line for each run")
    blank = {name: "" for name in header if name != _LOG_COLUMN and not any(name in row.cells for row in rows)}
    return tuple(replace(row, cells={**row.cells, **blank}) for row in rows) if blank else tuple(rows)
