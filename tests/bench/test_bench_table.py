"""Tables of the bench in every shape, and every way in which a log can be damaged."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h2o.bench.rows import (
    DETERMINISTIC_COLUMNS,
    H2O_COLUMNS,
    Measurement,
    Row,
    parse_measurement,
    parse_table,
    read_table,
    require_h2o,
)
from pytest_h2o.errors import TableError

from .checks import check_error, check_rows_or_error
from .samples import OTHER, SWEEP

RUN_1 = SWEEP / "logs" / "run_0001_p512_g128_k0.28_b8_lr3.0.log"
HEADER = "| model | threads | h2o_keep |\n| ----- | ------: | -------: |\n"


def parse(text: str, repeat: int | None = None) -> tuple[Row, ...]:
    return parse_table(text, log_file="x.log", repeat=repeat)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("12.34 ± 0.56", Measurement(12.34, 0.56)),
        ("1e-05 ± 2E+1", Measurement(1e-05, 20.0)),
        ("12.34", Measurement(12.34, None)),
        ("3.00 ± -nan", Measurement(3.0, None)),
        ("3.00 ± nan", Measurement(3.0, None)),
        ("3.00 ± -nan(ind)", Measurement(3.0, None)),
        ("inf ± 1.0", Measurement(math.inf, 1.0)),
        ("-.5 ± 1.", Measurement(-0.5, 1.0)),
        ("", None),
        ("Low", None),
        ("1.0 ±", None),
        ("1.0 ± x", None),
        ("1,5", None),
        ("1_0", None),
        ("٣", None),
        ("0x10", None),
    ],
)
def test_parse_measurement(cell: str, expected: Measurement | None) -> None:
    assert parse_measurement(cell) == expected


def test_mean_that_is_not_a_number_stays_one() -> None:
    value = parse_measurement("-nan ± 0.00")
    assert value is not None
    assert math.isnan(value.mean)


def test_spread_is_not_known_at_one_repeat() -> None:
    (once,) = read_table(OTHER / "baseline_h2o_off.log", repeat=1)
    assert once.decode_tok_per_s == Measurement(56.02, None)
    assert once.get("h2o_keep") == Measurement(1.0, None)


def test_columns_come_by_name_and_others_are_kept() -> None:
    text = (
        "| loadingTime(s) | h2o_new | speed(tok/s) | threads |\n| - | - | :-: | -: |\n"
        "| 1.25 ± 0.03 | yes | 1e2 ± 1<br>5.5 ± -nan | 4 |\n"
    )
    (row,) = parse(text)
    assert row.get("loadingTime(s)") == Measurement(1.25, 0.03)
    assert (row.cells["h2o_new"], row.get("h2o_new"), row.threads) == ("yes", None, 4)
    assert (row.prefill_tok_per_s, row.decode_tok_per_s) == (Measurement(100.0, 1.0), Measurement(5.5, None))
    assert (row.model, row.backend, row.prompt_len, row.gen_len) == (None, None, None, None)


def test_other_text_around_the_table_is_passed_over() -> None:
    text = "The device supports: fp16:0\n" + HEADER + "Drop stale plan: layer=3.\n| m | 2 | 0.5 |\n\ndone\n"
    assert [row.get("h2o_keep") for row in parse(text)] == [Measurement(0.5, None)]


def test_tables_with_other_columns_may_follow() -> None:
    text = HEADER + "| m | 2 | 0.5 |\n| test | t/s |\n| - | - |\n| pp16+tg8 | 9.0 ± 1.0 |\n"
    first, second = parse(text)
    assert first.get("h2o_keep") == Measurement(0.5, None)
    assert (second.prompt_len, second.gen_len) == (16, 8)
    assert (second.prefill_tok_per_s, second.decode_tok_per_s) == (None, None)


def test_windows_line_ends_and_a_missing_last_one() -> None:
    assert len(parse((HEADER + "| m | 2 | 0.5 |").replace("\n", "\r\n"))) == 1


def test_blank_cells_are_missing() -> None:
    (row,) = parse(HEADER + "| m |  |  |\n")
    assert (row.threads, row.get("h2o_keep")) == (None, None)
    check_error(
        lambda: require_h2o(row, ["h2o_keep"]),
        "this bench has no H2O columns",
        "  where: x.log",
        "  came: no h2o_keep among model, threads, h2o_keep",
        "  expected: h2o_keep",
        "  next: build llm_bench from the branch of the engine that has H2O",
    )


def test_one_missing_column_is_named() -> None:
    (row,) = read_table(RUN_1, log_file="x.log")
    cells = {column: cell for column, cell in row.cells.items() if column != "h2o_lossy"}
    with pytest.raises(TableError) as caught:
        require_h2o(Row.from_cells(cells, log_file="x.log"))
    assert caught.value.what == "H2O columns are missing: h2o_lossy"
    assert (caught.value.came or "").startswith("no h2o_lossy among model, ")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            HEADER + "| m | 2 | 0.5 |\n| m | 2 |\n",
            ["the last row was cut", "  where: x.log:4", "  came: 2 of 3 cells, the line ends in '| m | 2 |'",
             "  expected: a whole row",
             "  next: the bench was ended, or the disk was full, while it wrote; run this point again"],
        ),
        (
            HEADER + "| m | 2 | 0.",
            ["the last row was cut", "  where: x.log:3", "  came: 3 of 3 cells, the line ends in '| m | 2 | 0.'",
             "  expected: a whole row",
             "  next: the bench was ended, or the disk was full, while it wrote; run this point again"],
        ),
        (
            HEADER + "| m | 2 |\n| m | 2 | 0.5 |\n",
            ["a row does not fit its header", "  where: x.log:3", "  came: 2 cells",
             "  expected: 3 cells, as in the header"],
        ),
        (
            HEADER + "| m | 2 | 0.5 | 7 |\n",
            ["a row does not fit its header", "  where: x.log:3", "  came: 4 cells",
             "  expected: 3 cells, as in the header"],
        ),
        (
            HEADER + " m | 2 | 0.5 |\n| m | 2 | 0.5 |\n",
            ["a line in a table is damaged", "  where: x.log:3", "  came: 'm | 2 | 0.5 |'",
             "  expected: a row that starts with |"],
        ),
        (
            HEADER + "| m | two | 0.5 |\n",
            ["the cell of threads cannot be read", "  where: x.log:3", "  came: 'two'", "  expected: a whole number"],
        ),
        (
            HEADER + "| m | 2 | much |\n",
            ["the cell of h2o_keep cannot be read", "  where: x.log:3", "  came: 'much'",
             "  expected: a number, or mean ± standard deviation"],
        ),
        (
            HEADER,
            ["a table has no row", "  where: x.log:1", "  came: a header alone", "  expected: a row",
             "  next: the bench ended before its first result"],
        ),
        (
            HEADER + HEADER + "| m | 2 | 0.5 |\n",
            ["a table has no row", "  where: x.log:1", "  came: a header alone", "  expected: a row",
             "  next: the bench ended before its first result"],
        ),
        (
            "| m | 2 | 0.5 |\n" + HEADER,
            ["a row stands before any header", "  where: x.log:1", "  came: '| m | 2 | 0.5 |'",
             "  expected: a header line first"],
        ),
        (
            "| model | modelS",
            ["the table was cut in its header", "  where: x.log:1", "  came: '| model | modelS'",
             "  expected: a header line and its rules"],
        ),
        (
            "| model | threads |\n| ---- |\n",
            ["a table's header is damaged", "  where: x.log:2", "  came: 2 names over 1 rules",
             "  expected: as many of both"],
        ),
        (
            "| model | model |\n| - | - |\n| a | b |\n",
            ["a table's header is damaged", "  where: x.log:1", "  came: the column 'model' more than once or unnamed"],
        ),
        (
            "Segmentation fault\x1b[0m\n",
            ["the log has no table", "  where: x.log", "  came: 'Segmentation fault\\\\x1b[0m'",
             "  expected: a header line of the bench (| model | modelSize | …) and a line of dashes under it"],
        ),
        (
            "| llm_demo |\n| - |\n| prompt=512 |\n",
            ["the cell of llm_demo cannot be read", "  where: x.log:3", "  came: 'prompt=512'",
             "  expected: prompt=512<br>decode=128"],
        ),
        (
            "| test |\n| - |\n| qq7 |\n",
            ["the cell of test cannot be read", "  where: x.log:3", "  came: 'qq7'",
             "  expected: pp512, tg128 or pp512+tg128"],
        ),
        (
            "| speed(tok/s) |\n| - |\n| 3.0 ± 1.0 |\n",
            ["the cell of speed(tok/s) cannot be read", "  where: x.log:3", "  came: '3.0 ± 1.0'",
             "  expected: prefill ± std<br>decode ± std"],
        ),
        (
            "| test | t/s |\n| - | - |\n| pp1 | fast |\n",
            ["the cell of t/s cannot be read", "  where: x.log:3", "  came: 'fast'", "  expected: mean ± std"],
        ),
    ],
)  # fmt: skip
def test_damage_names_file_and_line(text: str, lines: list[str]) -> None:
    check_error(lambda: parse(text), *lines)


def test_every_truncation_of_a_log_is_noticed() -> None:
    text = RUN_1.read_text(encoding="utf-8")
    for end in range(len(text) - 1):
        with pytest.raises(TableError):
            parse(text[:end])


def test_log_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_bytes(b"| a |\xff")
    check_error(
        lambda: read_table(tmp_path / "x.log", log_file="x.log"),
        "a log is not text",
        "  where: x.log",
        "  came: a byte that is not UTF-8 at offset 5",
        "  expected: the file that the bench wrote (-fp)",
    )
    check_error(
        lambda: read_table(tmp_path / "y.log", log_file="y.log"),
        "a log cannot be read",
        "  where: y.log",
        "  came: No such file or directory",
    )


@given(st.text(alphabet=st.sampled_from("|-: \n\rm±.0123456789enaif<br>=/()\x00é"), max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_rows_or_an_error(text: str) -> None:
    check_rows_or_error(lambda: parse(text), "x.log")


numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
cell_texts = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="|\n\r"), max_size=8).map(str.strip)


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, list[dict[str, str]]]:
    columns = draw(st.lists(st.sampled_from([*H2O_COLUMNS, "model", "power", "x y"]), min_size=1, unique=True))
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        row = {}
        for column in columns:
            mean, std = draw(numbers), draw(numbers)
            row[column] = f"{mean!r} ± {std:.3f}" if column.startswith("h2o") else draw(cell_texts)
        rows.append(row)
    lines = ["| " + " | ".join(columns) + " |", "|" + " ---: |" * len(columns)]
    lines += ["| " + " | ".join(row[column] for column in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n", rows


@given(tables(), st.sampled_from([None, 1, 3]))
@settings(max_examples=150, deadline=None)
def test_what_was_printed_is_read(table: tuple[str, list[dict[str, str]]], repeat: int | None) -> None:
    text, expected = table
    rows = parse(text, repeat)
    assert [row.cells for row in rows] == expected
    for row, cells in zip(rows, expected, strict=True):
        for column in DETERMINISTIC_COLUMNS:
            value = row.get(column)
            if column in cells:
                mean, std = (float(part) for part in cells[column].split(" ± "))
                assert value == Measurement(mean, None if repeat == 1 else std)
            else:
                assert value is None


def test_a_log_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    """A hole in a file: nothing of its size is on the disk, and nothing of it must come into memory."""
    path = tmp_path / "run_0001.log"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(TableError) as caught:
        read_table(path)
    assert caught.value.what == "a log is too large for one of the bench"
