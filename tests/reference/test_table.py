"""The table and the JSON against what the real binary wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_h2o.bench.rows import parse_json, parse_table
from pytest_h2o.reference.table import GIB, H2O_COLUMNS, Row, Run, Series, render_json, render_table

OTHER = Path(__file__).parents[2] / "fixtures/recordings/other"
RECORDED = json.loads((OTHER / "multi.json").read_text("utf-8"))


def spread(mean: float, std: float) -> Series:
    """Three values with this mean and sample deviation."""
    return Series((mean - std, mean, mean + std))


def recorded_run() -> tuple[Run, list[Row]]:
    run = Run(RECORDED["model"], round(RECORDED["modelSize"] * GIB), 2, 2, None)
    rows = []
    for result in RECORDED["results"]:
        h2o = {name: spread(result[one.key], result[f"{one.key}_std"]) for name, one in H2O_COLUMNS.items()}
        speeds = (
            spread(result["prefill_tps"], result["prefill_std"]),
            spread(result["decode_tps"], result["decode_std"]),
        )
        rows.append(Row(result["prompt_len"], result["generate_len"], speeds, h2o))
    return run, rows


def test_the_table_is_that_of_the_binary_byte_for_byte() -> None:
    assert render_table(*recorded_run()) == (OTHER / "multi.log").read_text("utf-8")


def test_the_json_is_that_of_the_binary() -> None:
    ours = json.loads(render_json(*recorded_run()))
    assert list(ours) == list(RECORDED)
    for mine, theirs in zip(ours.pop("results"), RECORDED["results"], strict=True):
        assert list(mine) == list(theirs)
        assert mine.pop("type") == theirs["type"]
        assert mine == pytest.approx({key: theirs[key] for key in mine}, rel=1e-12)
    assert ours == {key: RECORDED[key] for key in ours}


def test_without_a_cache_the_table_is_that_of_the_binary() -> None:
    run = recorded_run()[0]
    rows = [Row(128, 0, (spread(253.22, 2.23),)), Row(0, 32, (spread(86.52, 4.73),))]
    assert render_table(run, rows) == (OTHER / "kv_false.log").read_text("utf-8")


def test_one_repeat_has_a_deviation_of_zero() -> None:
    assert Series((1.5,)).render(2) == "1.50 ± 0.00"


def test_columns_of_our_own_and_the_loading_time_stand_at_the_end() -> None:
    run, rows = recorded_run()
    row = Row(rows[0].prompt_len, rows[0].gen_len, rows[0].speeds, rows[0].h2o, {"quality_ppl_rise": 0.0123456789})
    table = render_table(Run(run.model, run.model_bytes, 2, 2, 0.25), [row]).splitlines()
    assert [cell.strip() for cell in table[0].split("|")][-3:-1] == ["quality_ppl_rise", "loadingTime(s)"]
    assert [cell.strip() for cell in table[2].split("|")][-3:-1] == ["0.0123457", "0.25 ± 0.00"]
    result = json.loads(render_json(run, [row]))["results"][0]
    assert result["quality_ppl_rise"] == 0.0123456789


@pytest.mark.parametrize("loading_s", [None, 0.25])
def test_the_gate_reads_the_same_rows_from_both(loading_s: float | None) -> None:
    run = Run("tiny", 3 * 2**30, 2, 1, loading_s)
    with_h2o = recorded_run()[1]
    without = [Row(128, 0, (spread(253.22, 2.23),)), Row(0, 32, (spread(86.52, 4.73),)), Row(6, 3, (spread(9, 1),))]
    for rows in (with_h2o, without[:2]):
        from_table = parse_table(render_table(run, rows), log_file="log")
        from_json = parse_json(render_json(run, rows), log_file="log")
        assert [dict(row.cells) for row in from_table] == [dict(row.cells) for row in from_json]
    both = parse_table(render_table(run, without[2:]), log_file="log")
    assert both[0].cells["test"] == parse_json(render_json(run, without[2:]), log_file="log")[0].cells["test"]
