"""Metrics that plugins add: which names they may have, and what is read of a row."""

import math
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from random import random
from typing import Any

import numpy as np
import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench.rows import Measurement, Row
from pytest_h2o.errors import NotMeasured, TableError, UsageError
from pytest_h2o.gate.compare import MetricFacts, metric_facts, preset_figures
from pytest_h2o.gate.metrics import (
    METRICS,
    Metric,
    RowMetric,
    added_from_json,
    added_to_json,
    find_metric,
    preset_metrics,
    register_metric,
)
from pytest_h2o.gate.rule import check_speed, row_facts, why_untimed
from pytest_h2o.gate.values import (
    check_cells,
    check_launches,
    describe_expansion,
    is_measured,
    launch_ranges,
    row_cell,
    told_cell,
    unmade,
)
from pytest_h2o.inputs.options import Range
from tests.sweeps import make_row
from tests.told import error_text

ROW = make_row("run_0001", 60.0, first_token_s="1.25 ± 0.05")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = dict(METRICS)
    yield
    METRICS.clear()
    METRICS.update(before)


@pytest.mark.parametrize(("higher_is_better", "better"), [(True, "higher"), (False, "lower")])
@pytest.mark.parametrize("exact", [True, False])
def test_a_metric_of_a_plugin_is_one_like_ours(higher_is_better: bool, better: str, exact: bool) -> None:
    register_metric(RowMetric("Mine_2", "my metric", "ms", higher_is_better, decimals=1, exact=exact))
    mine = find_metric("Mine_2", "here")
    assert (mine.name, mine.title, mine.unit, mine.better, mine.exact) == ("Mine_2", "my metric", "ms", better, exact)
    assert (mine.added, mine.joint, mine.render(2.25), mine.render_figure(2.25)) == (True, False, "2.2 ms", "2.2 ms")
    assert metric_facts()["Mine_2"] == MetricFacts("ms", better, exact)  # type: ignore[arg-type]
    register_metric(Metric("Mine_2", "two", "lower"))
    assert (METRICS["Mine_2"].title, METRICS["Mine_2"].joint) == ("two", True)


def test_a_record_tells_a_metric_to_who_has_not_the_plugin() -> None:
    metric = Metric("mine", "my share", "lower", "", ".1%")
    assert vars(added_from_json(added_to_json(metric))) == vars(metric)
    of_0_1 = {"name": "mine", "title": "m", "unit": "s", "higher_is_better": False, "decimals": 1, "style": "number"}
    assert added_from_json(of_0_1).render(0.25) == "0.2 s"
    assert added_from_json(of_0_1).better == "lower"


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("quality_ppl_rise", "-5", "a fraction of at least -0.5"),
        ("quality_ppl_rise", "-0.501", "a fraction of at least -0.5"),
        ("h2o_lossy", "0", "a ratio above 0"),
        ("h2o_keep", "1.0001", "a ratio above 0 and at most 1"),
        ("h2o_keep", "0", "a ratio above 0 and at most 1"),
        ("h2o_floor_keep", "-0.1", "a ratio from 0 to 1"),
        ("h2o_lossless", "-1.2", "a ratio above 0"),
        ("h2o_lossless_fallback", "-1", "a number of at least 0"),
        ("h2o_evict_us", "-0.01", "a number of at least 0"),
        ("quality_tokens", "-1", "a number from 0 to 1e+09"),
        ("quality_top1_agreement", "1.5", "a ratio from 0 to 1"),
        ("speed(tok/s)", "300.0 ± 1.0<br>-4.0 ± 1.0", "a number from 0 to 1e+09"),
        ("h2o_lossy", "3.2 ± -5", "a spread of 0 to 5.667"),
        ("h2o_lossy", "3.2 ± inf", "a spread of 0 to 5.667"),
        ("h2o_lossy", "3.2 ± 5.7", "a spread of 0 to 5.667"),
        ("quality_ppl_rise", "0.1 ± inf", "a spread of 0 to 1.074"),
        ("quality_ppl_rise", "0.005 ± 5", "a spread of 0 to 0.906"),
        ("quality_ppl_full", "1e+30", "a perplexity from 1 to 1e+07"),
        ("quality_bits_per_byte_full", "0", "a number above 0"),
        ("quality_cache_ratio", "1e+09", "a ratio above 0 and at most 1e+06"),
        ("quality_ppl_full", "0.5", "a perplexity from 1 to 1e+07"),
        ("quality_ppl_evicted", "0.99", "a perplexity of at least 1"),
        ("h2o_keep", "0.9000 ± 0.9000", "a spread of 0 to 0.3901"),
        ("h2o_lossless_fallback", "0.33 ± 0.70", "a spread of 0 to 0.5968"),
        ("speed(tok/s)", "300.0 ± 1.0<br>40.0 ± -1.0", "a spread of 0 to 70.68"),
    ],
)
def test_a_value_that_cannot_be_is_damage(column: str, cell: str, expected: str) -> None:
    row = make_row("run_0001", **{column: cell})
    metric = "decode_tok_per_s" if column == "speed(tok/s)" else column
    with pytest.raises(TableError) as caught:
        check_cells(row)
    error = caught.value
    assert (error.what, error.expected) == (f"a row has an impossible {METRICS[metric].title}", expected)
    assert error.where == f"{metric} of run_0001: run_0001.log"
    assert cell.split("<br>")[-1].split(" ")[0].startswith(str(error.came).split(" ")[0])
    with pytest.raises(TableError):
        row_cell(row, metric)
    if column in preset_metrics():
        assert column not in next(iter(preset_figures([({"run_id": "run_0001"}, row)]).values()))


@pytest.mark.parametrize(
    ("cells", "rise"),
    [
        ({"quality_ppl_full": "10", "quality_ppl_evicted": "20"}, Measurement(1.0, None)),
        ({"quality_ppl_full": "0", "quality_ppl_evicted": "20"}, None),
        ({"quality_ppl_full": "10"}, None),
        ({"quality_ppl_evicted": "20"}, None),
        ({"quality_ppl_full": "10", "quality_ppl_evicted": "20", "quality_ppl_rise": ""}, None),
    ],
)
def test_a_rise_is_made_of_both_perplexities(cells: dict[str, str], rise: Measurement | None) -> None:
    assert row_cell(make_row("run_0001", **cells), "quality_ppl_rise") == rise


@pytest.mark.parametrize(
    ("ratio", "raw", "coded", "told"),
    [("99999", "0.00", "0.00", None), ("1.000", "0.00", "0.00", 1.0), ("1.3", "0.05", "0.00", 1.3)],
)
def test_a_ratio_of_sizes_that_round_to_0_is_not_told(ratio: str, raw: str, coded: str, told: float | None) -> None:
    row = make_row("run_0001", h2o_lossless=ratio, h2o_lossless_raw_mb=raw, h2o_lossless_comp_mb=coded)
    assert getattr(row_cell(check_cells(row), "h2o_lossless"), "mean", None) == told


@pytest.mark.parametrize(("speed", "is_sound"), [("6000.0", True), ("6001.0", False), ("60000000.0", False)])
def test_a_speed_of_more_than_100_baselines_is_damage(speed: str, is_sound: bool) -> None:
    row = make_row("run_0001", **{"speed(tok/s)": f"300.0 ± 1.0<br>{speed} ± 1.0"})
    if is_sound:
        check_speed(row, 60.0)
        assert row_facts(row, [], baseline_tok_per_s=60.0).values["decode_drop"] == -99
        return
    with pytest.raises(TableError, match="a row has an impossible decode slow-down"):
        check_speed(row, 60.0)
    assert row_facts(row, [], baseline_tok_per_s=60.0).values["decode_drop"] is None, "missing, and so never a pass"


def test_a_value_on_the_edge_of_what_can_be_is_a_value() -> None:
    cells = {
        "quality_ppl_rise": "-0.5",
        "h2o_lossless_fallback": "0.33 ± 0.58",
        "h2o_keep": "1",
        "h2o_floor_keep": "0",
        "h2o_evict_us": "0.00 ± 0.00",
    }
    row = check_cells(make_row("run_0001", **cells))
    assert [row_cell(row, name) for name in cells] == [row.get(name) for name in cells]
    assert row_cell(make_row("run_0001", h2o_lossy="inf"), "h2o_lossy") == Measurement(math.inf, None)


def test_an_unknown_metric_names_its_neighbour_or_the_hook(snapshot: SnapshotAssertion) -> None:
    few = {"first_token_s": METRICS["encode_s"], "other": METRICS["decode_s"]}
    told = []
    for name, among in (("first_token", few), ("zzz", METRICS), ("h2o_losless_fallback", METRICS)):
        told.append(error_text(UsageError, find_metric, name, "a preset", among))
    assert told == snapshot


def test_a_column_is_read_and_decode_speed_is_that_of_the_row() -> None:
    assert row_cell(ROW, "first_token_s") == Measurement(1.25, 0.05)
    assert row_cell(ROW, "decode_tok_per_s") == ROW.decode_tok_per_s == Measurement(60.0, 1.0)
    assert row_cell(ROW, "no_such_column") is None
    register_metric(RowMetric("first_token_s", "its column"))
    assert row_cell(ROW, "first_token_s") == Measurement(1.25, 0.05)


def test_what_a_function_makes_of_a_row() -> None:
    register_metric(RowMetric("twice", "t", value=lambda row: 2 * row.decode_tok_per_s.mean))  # type: ignore[union-attr]
    assert row_cell(ROW, "twice") == Measurement(120.0, None)
    made: dict[str, object] = {"a_number": 3, "nothing": None, "measured": Measurement(2.0, 0.5)}
    for name, value in made.items():
        register_metric(RowMetric(name, "t", value=lambda row, value=value: value))  # type: ignore[misc]
    assert row_cell(ROW, "a_number") == Measurement(3.0, None)
    assert row_cell(ROW, "nothing") is None
    assert row_cell(ROW, "measured") == Measurement(2.0, 0.5)
    for number in (np.float32(0.5), np.int64(1), Fraction(1, 2), Measurement(np.float64(2), np.float32(0.5))):  # type: ignore[arg-type]
        register_metric(RowMetric("number", "t", value=lambda row, value=number: value))  # type: ignore[misc]
        cell = row_cell(ROW, "number")
        assert type(cell.mean) is float


def test_what_a_plugin_cannot_make_of_a_row_is_missing_in_what_is_kept_and_told() -> None:
    register_metric(RowMetric("fails", "my metric", value=lambda row: 1 // (row.run_id != "run_0001")))
    register_metric(RowMetric("works", "its metric", value=lambda row: 1.0))
    rows = [make_row("run_0001"), make_row("run_0002")]
    assert [told_cell(row, "fails") for row in rows] == [None, Measurement(1.0, None)]
    why = "the metric fails cannot be made of a row (ZeroDivisionError: integer division or modulo by zero)"
    assert unmade(rows) == [f"my metric is missing in 1 of 2 rows: {why}"]
    again = replace(rows[0], again=(rows[1].cells,))
    assert "fails" not in launch_ranges([again])["run_0001"]


def test_what_is_said_of_rows_that_grew_or_were_repeated_less(snapshot: SnapshotAssertion) -> None:
    rows = [make_row("run_0001", h2o_lossless="0.950"), make_row("run_0002", h2o_lossless="1.300")]
    assert describe_expansion(rows) == snapshot
    assert describe_expansion(rows[1:]) == []
    fewer = make_row("run_0001").with_fewer_repeats(5)
    assert why_untimed([rows[0], fewer], ["h2o_lossy", "decode_drop"]) == snapshot
    assert why_untimed([fewer], ["h2o_lossy"]) is why_untimed(rows, ["decode_drop"]) is None


@pytest.mark.parametrize("cell", ["nan", "inf ± nan"])
def test_a_column_of_a_plugin_that_is_not_finite_is_named(cell: str) -> None:
    register_metric(Metric("mine", "mine", "higher", target=1.0))
    row = make_row("run_0001", mine=cell)
    with pytest.raises(NotMeasured, match="the metric mine of a row is not a finite number\n  where: run_0001: "):
        row_cell(row, "mine")
    assert told_cell(row, "mine") is None
    for odd in (math.nan, -math.inf, np.float32("nan"), Measurement(math.inf, 1.0)):
        register_metric(Metric("mine", "mine", "higher", value=lambda row, value=odd: value))  # type: ignore[misc]
        with pytest.raises(NotMeasured, match="the metric mine of a row is not a finite number"):
            row_cell(row, "mine")
    register_metric(Metric("mine", "mine", "higher", value=lambda row: Measurement(2.0, math.nan)))
    with pytest.raises(TableError, match="a row has an impossible mine"):
        row_cell(row, "mine")


class Odd:
    """Another number whenever it is asked."""

    def __float__(self) -> float:
        return random()


NO_NUMBERS: list[tuple[Any, str]] = [
    *((odd, "TypeError: ") for odd in (np.bool_(True), bytearray(b"2"), memoryview(b"2"), np.str_("2"), {}, Odd())),
    *((odd, "TypeError: ") for odd in (np.ma.masked, np.array(2.0), Decimal(2), Measurement, b"2")),
    *((Measurement(odd, None), "TypeError: ") for odd in (True, "2", np.bool_(True), Odd())),  # type: ignore[arg-type]
    *((Measurement(2.0, odd), "TypeError: ") for odd in (True, "x")),  # type: ignore[arg-type]
    (10**400, "OverflowError: "),
    ("fast", "TypeError: 'fast' is no number"),
    ("12", "TypeError: '12' is no number"),
    (True, "TypeError: True is no number"),
    ([1.0], "TypeError: "),
    (1j, "TypeError: "),
    (Measurement("x", None), "TypeError: "),  # type: ignore[arg-type]
]


def test_what_a_function_does_to_its_row_changes_no_other_figure() -> None:
    def spoil(row: Row) -> float:
        row.cells["h2o_lossy"] = "99"  # type: ignore[index]
        return 1.0

    register_metric(RowMetric("spoils", "t", value=spoil))
    before = dict(ROW.cells)
    assert row_cell(ROW, "spoils") == Measurement(1.0, None)
    assert dict(ROW.cells) == before


def test_a_function_that_fails_or_gives_no_number_is_no_measurement() -> None:
    def fail(row: Row) -> float:
        raise KeyError("ttft")

    register_metric(RowMetric("fails", "t", value=fail))
    told_by = {"fails": "KeyError: 'ttft'"}
    for number, (value, came) in enumerate(NO_NUMBERS):
        register_metric(RowMetric(f"made{number}", "t", value=lambda row, value=value: value))  # type: ignore[misc]
        told_by[f"made{number}"] = came
    for name, came in told_by.items():
        told = error_text(NotMeasured, row_cell, ROW, name)
        assert told.startswith(f"the metric {name} cannot be made of a row\n  where: run_0001.log\n  came: {came}")
        assert told.endswith("\n  next: mend the function of the metric in its plugin")


@pytest.mark.parametrize("cell", ["", "n/a", "50%", "0,5", "nan", "-inf ± 1"])
@pytest.mark.parametrize("column", ["quality_ppl_rise", "quality_top1_agreement", "decode_tokens", "of_a_plugin"])
def test_a_column_without_a_number_is_missing_data_and_not_a_column_left_out(column: str, cell: str) -> None:
    METRICS["of_a_plugin"] = RowMetric("of_a_plugin", "of a plugin")
    with pytest.raises(TableError, match=f"a row has the column {column} and no number in it") as caught:
        check_cells(make_row("run_0001", **{column: cell}))
    assert caught.value.came == repr(cell)
    assert check_cells(make_row("run_0001"))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, None),
        ({"h2o_lossy": "2.500 ± 0.010"}, None),
        ({"model": "other"}, "a launch of a point has another model than its first"),
        ({"precision": "High"}, "a launch of a point has another precision than its first"),
        ({"backend": None}, "a launch of a point has another backend than its first"),
        ({"quality_ppl_rise": None}, "quality_ppl_rise is missing or not a number in some launches of a point"),
        ({"quality_ppl_rise": "n/a"}, "a row has the column quality_ppl_rise and no number in it"),
        ({"quality_greedy_equal": "1.0"}, "quality_greedy_equal is missing or not a number in some launches of a"),
        ({"not_of_all": "x"}, "not_of_all is missing or not a number in some launches of a point"),
        ({"of_a_plugin": "7"}, "made is missing or not a number in some launches of a point"),
    ],
)
def test_what_one_launch_has_and_another_lacks_is_missing_data(
    changed: dict[str, str | None], told: str | None
) -> None:
    register_metric(RowMetric("made", "made", value=lambda row: None if row.cells["of_a_plugin"] == "7" else 1.0))
    first = make_row("run_0001", quality_ppl_rise="0.001", precision="Low", backend="CPU", of_a_plugin="6")
    cells = {name: cell for name, cell in {**first.cells, **changed}.items() if cell is not None}
    row = replace(first, again=(first.cells, cells))
    if told is None:
        assert check_launches(row) is row
        return
    with pytest.raises(TableError, match=told) as caught:
        check_launches(row)
    assert "run_0001, launch 3: " in f"{caught.value.where}: "


RATIO = Range("a ratio", above=0.0)


def test_a_bench_that_tells_of_quality_at_all_measures_its_rise_and_no_other_metric() -> None:
    rows = [Row({column: "1.5"}, "a.log") for column in ("model", "quality_ppl_rise", "quality_greedy_prefix")]
    measured = {name: [is_measured([row], METRICS[name]) for row in rows] for name in ("quality_ppl_rise", "h2o_lossy")}
    assert measured == {"quality_ppl_rise": [False, True, True], "h2o_lossy": [False, False, False]}


@pytest.mark.parametrize(
    "fields",
    [
        *(
            {"name": name}
            for name in ("", "1st", "a b", "a-b", "a\n", "é", "h2o_lossy", "decode_tok_per_s", "encode_s")
        ),
        *({name: value} for name, value in (("title", 3), ("over", "x"), ("values", 3), ("fmt", "q"), ("value", "f"))),
        *({"key": "lossy"}, {"target": True}, {"target": "3"}, {"target": math.nan}, {"target": -math.inf}),
        *({"target": target, "values": RATIO} for target in (math.nan, math.inf, -math.inf, 0.0)),
    ],
    ids=lambda fields: ascii(fields).replace("\\", "/"),  # mutmut reads escapes of an id twice
)
def test_a_metric_that_cannot_be_is_refused(fields: dict[str, Any], snapshot: SnapshotAssertion) -> None:
    before = dict(METRICS)
    with pytest.raises(UsageError) as caught:
        register_metric(Metric(**{"name": "mine", "title": "mine", "better": "higher", **fields}))
    assert str(caught.value) == snapshot
    assert before == METRICS
