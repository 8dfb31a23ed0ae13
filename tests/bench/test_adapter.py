"""Which rows a verdict may rest on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench.adapter import check_baseline_row, check_row, is_idle, only_row
from pytest_h2o.bench.command import BenchSettings
from pytest_h2o.bench.rows import Row, read_table
from pytest_h2o.errors import TableError

from .checks import refusal
from .samples import OTHER, SWEEP, recorded_points

POINT = recorded_points()[0]
SETTINGS = BenchSettings(("llm_bench",), threads=2)
(ROW,) = read_table(SWEEP / "logs" / f"{POINT.run_id}.log", log_file="x.log", repeat=3)
(BASELINE,) = read_table(OTHER / "baseline_h2o_off.log", log_file="b.log", repeat=3)
IDLE = {"h2o_keep": "1.0000 ± 0.0000", "h2o_lossy": "1.000 ± 0.000", "h2o_floor_keep": "1.0000 ± 0.0000"}


def changed(row: Row = ROW, **cells: str | None) -> Row:
    """A row with other cells; None takes a cell away."""
    merged = {**row.cells, **{name.replace("speed", "speed(tok/s)"): cell for name, cell in cells.items()}}
    kept = {name: cell for name, cell in merged.items() if cell is not None}
    return Row.from_cells(kept, log_file=row.log_file, repeat=row.repeat)


def test_recorded_rows_are_sound() -> None:
    for point in recorded_points():
        (row,) = read_table(SWEEP / "logs" / f"{point.run_id}.log")
        check_row(row, point, SETTINGS)
    check_row(ROW, None)
    check_baseline_row(BASELINE, POINT, replace(SETTINGS, backend="CPU"))


@pytest.mark.parametrize(
    ("cells", "what", "came", "expected"),
    [
        ({"llm_demo": "prompt=256<br>decode=128"}, "the row has another prompt length than asked", "256", "512"),
        ({"llm_demo": "prompt=512<br>decode=64"}, "the row has another generated length than asked", "64", "128"),
        ({"llm_demo": None}, "the row has another prompt length than asked", "no such column", "512"),
        ({"threads": "4"}, "the row has another number of threads than asked", "4", "2"),
        ({"threads": None}, "the row has another number of threads than asked", "no such column", "2"),
        ({"backend": None}, "the bench ran on another backend than asked", "no backend column", "CPU"),
        ({"h2o_lossy": "nan ± nan"}, "the row has no sound h2o_lossy", "nan", "a finite number above 0"),
        ({"h2o_lossy": "inf ± 0.0"}, "the row has no sound h2o_lossy", "inf", "a finite number above 0"),
        ({"h2o_lossy": "0.000 ± 0.000"}, "the row has no sound h2o_lossy", "0", "a finite number above 0"),
        ({"h2o_keep": "-0.1 ± 0.0"}, "the row has no sound h2o_keep", "-0.1", "a finite number above 0"),
        *(
            (
                {"h2o_keep": keep, "h2o_lossy": lossy},
                "the row has no sound h2o_keep",
                f"{float(keep):g}",
                "a share of the cache, at least 0.0001",
            )
            for keep, lossy in (("0.00005", "99999"), ("1e-300", "1e300"))
        ),
        ({"h2o_keep": "1.2 ± 0.0"}, "the row has no sound h2o_keep", "1.2", "a share of the cache, at most 1"),
        ({"h2o_floor_keep": "-1"}, "the row has no sound h2o_floor_keep", "-1", "a finite number of at least 0"),
        ({"h2o_lossless": "-nan ± 0"}, "the row has no sound h2o_lossless", "nan", "a finite number above 0"),
        ({"speed": None}, "the row has no sound prefill speed", "nothing", "a measured number"),
        ({"speed": "1 ± 0<br>inf ± nan"}, "the row has no sound decode speed", "inf", "a finite number above 0"),
    ],
)
def test_rows_that_no_verdict_may_rest_on(cells: dict[str, str | None], what: str, came: str, expected: str) -> None:
    with pytest.raises(TableError) as caught:
        check_row(changed(**cells), POINT, SETTINGS)
    error = caught.value
    assert (error.what, error.where, error.came, error.expected) == (what, "x.log", came, expected)


def test_a_floor_of_zero_is_sound() -> None:
    check_row(changed(h2o_floor_keep="0.0000 ± 0.0000"), POINT)


def test_missing_columns_are_named() -> None:
    with pytest.raises(TableError, match="H2O columns are missing: h2o_codec_us"):
        check_row(changed(h2o_codec_us=None), POINT)


def test_idle_rows_say_why(snapshot: SnapshotAssertion) -> None:
    row = changed(**IDLE)
    assert is_idle(row)
    assert not is_idle(ROW)
    assert refusal(lambda: check_row(row, replace(POINT, trigger_min_tokens=641))) == snapshot
    assert refusal(lambda: check_row(row, POINT)) == snapshot


def test_a_row_bound_by_its_floor_is_no_idle_row() -> None:
    check_row(changed(**{**IDLE, "h2o_floor_keep": "0.9000 ± 0.0000"}), POINT)


def test_a_baseline_with_h2o_on_is_none(snapshot: SnapshotAssertion) -> None:
    assert refusal(lambda: check_baseline_row(ROW, POINT)) == snapshot
    with pytest.raises(TableError, match="another generated length"):
        check_baseline_row(changed(BASELINE, llm_demo="prompt=512<br>decode=1"), POINT)


def test_a_baseline_of_a_bench_without_h2o_is_sound() -> None:
    cells = {name: cell for name, cell in BASELINE.cells.items() if not name.startswith("h2o")}
    check_baseline_row(Row.from_cells(cells, log_file="b.log"), POINT)


def test_only_row(snapshot: SnapshotAssertion) -> None:
    assert only_row([ROW], "x.log") is ROW
    assert refusal(lambda: only_row(read_table(OTHER / "appended.log"), "appended.log")) == snapshot


@pytest.mark.parametrize(("keep", "lossy"), [("0.2960 ± 0.0", "30.380 ± 0.0"), ("1.0000 ± 0.0", "3.380 ± 0.0")])
def test_a_row_that_contradicts_itself(keep: str, lossy: str, snapshot: SnapshotAssertion) -> None:
    assert refusal(lambda: check_row(changed(h2o_keep=keep, h2o_lossy=lossy), POINT)) == snapshot


@pytest.mark.parametrize(("keep", "lossy"), [("0.2960", "3.400"), ("0.0010", "1040.000"), ("1.0000", "1.010")])
def test_a_mean_of_ratios_may_be_a_little_above_the_ratio_of_means(keep: str, lossy: str) -> None:
    check_row(changed(h2o_keep=f"{keep} ± 0.0", h2o_lossy=f"{lossy} ± 0.0"), POINT)
