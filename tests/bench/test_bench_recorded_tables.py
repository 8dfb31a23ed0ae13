"""Every recorded log of the bench, with its values."""

from __future__ import annotations

import csv

import pytest

from pytest_h2o.bench.rows import (
    COLUMN_DECIMALS,
    H2O_COLUMNS,
    Measurement,
    parse_json,
    read_table,
    require_h2o,
)

from .checks import check_error
from .samples import OTHER, RECORDINGS, SWEEP, recorded_points

RUN_1 = SWEEP / "logs" / "run_0001_p512_g128_k0.28_b8_lr3.0.log"


def test_first_run_of_the_sweep() -> None:
    (row,) = read_table(RUN_1, log_file="logs/run_0001.log", repeat=3)
    assert (row.model, row.backend, row.threads, row.log_file) == ("smol_mnn", "CPU", 2, "logs/run_0001.log")
    assert (row.prompt_len, row.gen_len) == (512, 128)
    assert row.prefill_tok_per_s == Measurement(333.20, 19.41)
    assert row.decode_tok_per_s == Measurement(62.08, 11.44)
    assert row.get("h2o_lossy") == Measurement(2.961, 0.026)
    assert row.get("h2o_lossless_fallback") == Measurement(0.0, 0.0)
    assert row.cells["h2o_keep"] == "0.3377 ± 0.0030"
    assert row.cells["modelSize"] == "144.60 MiB"
    assert list(row.cells)[:8] == [
        "model", "modelSize", "backend", "threads", "precision", "llm_demo", "speed(tok/s)", "h2o_keep",
    ]  # fmt: skip
    assert list(row.cells)[7:] == list(COLUMN_DECIMALS)
    require_h2o(row)


@pytest.mark.parametrize("point", recorded_points(), ids=lambda point: point.run_id)
def test_every_log_of_the_sweep(point) -> None:  # type: ignore[no-untyped-def]
    with (RECORDINGS / "h2o_metrics.expected.csv").open(encoding="utf-8", newline="") as file:
        expected = list(csv.DictReader(file))[point.index - 1]
    (row,) = read_table(SWEEP / "logs" / f"{point.run_id}.log", log_file=f"logs/{point.run_id}.log")
    assert {**row.cells, "log_file": row.log_file} == expected
    assert (row.prompt_len, row.gen_len, row.threads) == (512, 128, 2)


@pytest.mark.parametrize(
    ("name", "rows", "decode", "prefill"),
    [
        ("appended.log", 2, (78.36, 72.10), (171.53, 257.23)),
        ("baseline_h2o_off.log", 1, (56.02,), (276.89,)),
        ("baseline_h2o_off_after.log", 1, (52.39,), (251.82,)),
        ("multi.log", 2, (73.46, 56.78), (270.39, 212.54)),
    ],
)
def test_other_logs(name: str, rows: int, decode: tuple[float, ...], prefill: tuple[float, ...]) -> None:
    found = read_table(OTHER / name)
    assert len(found) == rows
    assert tuple(row.decode_tok_per_s.mean for row in found if row.decode_tok_per_s) == decode
    assert tuple(row.prefill_tok_per_s.mean for row in found if row.prefill_tok_per_s) == prefill
    assert all(row.get("h2o_keep") == Measurement(1.0, 0.0) for row in found)


def test_log_without_cache_use_has_one_speed_a_row() -> None:
    prefill, decode = read_table(OTHER / "kv_false.log")
    assert (prefill.prompt_len, prefill.gen_len) == (128, None)
    assert (prefill.prefill_tok_per_s, prefill.decode_tok_per_s) == (Measurement(253.22, 2.23), None)
    assert (decode.prompt_len, decode.gen_len) == (None, 32)
    assert (decode.prefill_tok_per_s, decode.decode_tok_per_s) == (None, Measurement(86.52, 4.73))
    assert decode.get("h2o_lossy") is None
    check_error(
        lambda: require_h2o(decode),
        "this bench has no H2O columns",
        f"  where: {OTHER / 'kv_false.log'}",
        f"  came: no {', '.join(H2O_COLUMNS)} among model, modelSize, backend, threads, precision, test, t/s",
        f"  expected: {', '.join(H2O_COLUMNS)}",
        "  next: build llm_bench from the branch of the engine that has H2O",
    )


def test_empty_log() -> None:
    check_error(
        lambda: read_table(OTHER / "missing_model.log"),
        "the log is empty",
        f"  where: {OTHER / 'missing_model.log'}",
        "  expected: a table of the bench",
        "  next: the bench ended before it printed its table: its standard output says why",
    )


def test_every_recorded_log_was_parsed() -> None:
    assert {path.name for path in OTHER.glob("*.log")} == {
        "appended.log", "baseline_h2o_off.log", "baseline_h2o_off_after.log", "kv_false.log", "missing_model.log",
        "multi.log",
    }  # fmt: skip
    assert len(list((SWEEP / "logs").glob("*.log"))) == 28


def test_json_gives_the_rows_of_the_table() -> None:
    of_json = parse_json((OTHER / "multi.json").read_text(encoding="utf-8"), log_file="multi", repeat=2)
    of_table = read_table(OTHER / "multi.log", log_file="multi", repeat=2)
    assert [list(row.cells.items()) for row in of_json] == [list(row.cells.items()) for row in of_table]
    assert of_json == of_table
    assert len(of_json) == 2


def test_json_cells_have_the_decimals_of_the_table() -> None:
    logs = [*(SWEEP / "logs").glob("*.log"), OTHER / "appended.log", OTHER / "multi.log"]
    rows = [row for log in logs for row in read_table(log)]
    seen = {(column, decimals(row.cells[column])) for row in rows for column in COLUMN_DECIMALS}
    assert seen == {(column, (count, count)) for column, count in COLUMN_DECIMALS.items()}
    assert {decimals(part) for row in rows for part in row.cells["speed(tok/s)"].split("<br>")} == {(2, 2)}


def decimals(cell: str) -> tuple[int, ...]:
    return tuple(len(number.partition(".")[2]) for number in cell.split(" ± "))
