"""One row of the bench: cells as printed, and the measurements in them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_h2o.bench.printable import one_line
from pytest_h2o.errors import TableError

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
class BenchRow:
    """One row of a table of the bench; `BenchRow.from_cells` makes one.

    Attributes
    ----------
    cells : mapping
        Column name -> text as printed, in the order of the table. A column that is not there was not printed.
    log_file : str
        Where the row stands, as the caller names it.
    repeat : int or None
        Measured repeats (``-rep``), where known; the table does not tell.
    model, backend : str or None
        As printed.
    threads, prompt_len, gen_len : int or None
        Threads, and lengths in tokens.
    prefill_tok_per_s, decode_tok_per_s : Measurement or None
        Tokens a second; higher is better.
    """

    cells: Mapping[str, str]
    log_file: str
    repeat: int | None
    model: str | None
    backend: str | None
    threads: int | None
    prompt_len: int | None
    gen_len: int | None
    prefill_tok_per_s: Measurement | None
    decode_tok_per_s: Measurement | None

    def get(self, column: str) -> Measurement | None:
        """Return what a column measured; None if the column is missing, blank or no number. Never 0 for missing."""
        return parse_measurement(self.cells.get(column, ""), self.repeat)

    @classmethod
    def from_cells(cls, cells: Mapping[str, str], *, log_file: str, repeat: int | None = None) -> BenchRow:
        """Make a row of its cells.

        Parameters
        ----------
        cells : mapping
            Column name -> text.
        log_file : str
            Where the row stands.
        repeat : int, optional
            Measured repeats. At 1 the bench prints a spread of 0.00, which means that it is not known.

        Raises
        ------
        TableError
            A cell of a known column has another form than the bench prints; the message names the column.
        """
        for column in TABLE_H2O_COLUMNS:
            if cells.get(column, "").strip() and parse_measurement(cells[column], repeat) is None:
                raise _bad_cell(column, cells[column], "a number, or mean ± standard deviation")
        prompt_len, gen_len = _lengths(cells)
        prefill, decode = _speeds(cells, prompt_len, gen_len, repeat)
        return cls(
            cells=dict(cells),
            log_file=log_file,
            repeat=repeat,
            model=cells.get("model"),
            backend=cells.get("backend"),
            threads=_threads(cells),
            prompt_len=prompt_len,
            gen_len=gen_len,
            prefill_tok_per_s=prefill,
            decode_tok_per_s=decode,
        )


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


def require_h2o(row: BenchRow, columns: Sequence[str] = H2O_COLUMNS) -> None:
    """Check that a row has the columns that only a binary with H2O prints.

    Raises
    ------
    TableError
        Naming the columns that are missing or blank.
    """
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
