"""Metrics that plugins add: which names they may have, and what is read of a row."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_h2o.bench.rows import Measurement, Row
from pytest_h2o.errors import NotMeasured, UsageError
from pytest_h2o.gate.metrics import FIGURE_METRICS, ROW_METRICS, RowMetric, register_metric, require_metric, row_cell
from pytest_h2o.gate.values import METRICS
from tests.sweeps import make_row

TABLES = (ROW_METRICS, METRICS, FIGURE_METRICS)
ROW = make_row("run_0001", 60.0, first_token_s="1.25 ± 0.05")


@pytest.fixture(autouse=True)
def _tables_restored() -> Iterator[None]:
    before = [dict(table) for table in TABLES]  # type: ignore[call-overload]
    yield
    for table, entries in zip(TABLES, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.mark.parametrize(("higher_is_better", "better"), [(True, "higher"), (False, "lower")])
@pytest.mark.parametrize("exact", [True, False])
def test_a_metric_stands_in_every_table(higher_is_better: bool, better: str, exact: bool) -> None:
    register_metric(RowMetric("Mine_2", "my metric", "ms", higher_is_better, decimals=1, exact=exact))
    assert require_metric("Mine_2", "here").title == "my metric"
    shown = METRICS["Mine_2"]
    assert (shown.name, shown.title, shown.unit) == ("Mine_2", "my metric", "ms")
    assert (shown.higher_is_better, shown.decimals) == (higher_is_better, 1)
    kept = FIGURE_METRICS["Mine_2"]
    assert (kept.name, kept.title, kept.unit, kept.better, kept.exact) == ("Mine_2", "my metric", "ms", better, exact)
    assert kept.render(2.25) == "2.2 ms"


def test_a_metric_that_a_plugin_added_before_is_replaced() -> None:
    register_metric(RowMetric("mine", "one"))
    register_metric(RowMetric("mine", "two"))
    assert (ROW_METRICS["mine"].title, METRICS["mine"].title, FIGURE_METRICS["mine"].title) == ("two",) * 3


@pytest.mark.parametrize("name", ["", "1st", "a b", "a-b", "a\n", "é"])
def test_a_name_that_no_keyword_can_have_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="the name of a metric cannot be used"):
        register_metric(RowMetric(name, "t"))
    assert name not in ROW_METRICS


@pytest.mark.parametrize("name", ["h2o_lossy", "decode_tok_per_s", "encode_s"])
def test_a_name_of_our_own_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="a metric has the name of a built-in one"):
        register_metric(RowMetric(name, "t"))
    assert name not in ROW_METRICS


def test_an_unknown_metric_names_its_neighbour_or_the_hook() -> None:
    with pytest.raises(UsageError) as caught:
        require_metric("first_token", "a preset")
    assert str(caught.value) == (
        "no plugin adds such a metric\n  where: a preset\n  came: first_token\n"
        "  next: the hook pytest_h2o_metrics adds metrics"
    )
    for name in ("first_token_s", "other"):
        register_metric(RowMetric(name, "t"))
    with pytest.raises(UsageError) as caught:
        require_metric("first_token", "a preset")
    assert str(caught.value) == (
        "no plugin adds such a metric\n  where: a preset\n  came: first_token\n"
        "  expected: one of first_token_s, other\n  next: did you mean first_token_s?"
    )


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


def test_a_function_that_fails_or_gives_no_number_is_no_measurement() -> None:
    def fail(row: Row) -> float:
        raise KeyError("ttft")

    register_metric(RowMetric("fails", "t", value=fail))
    register_metric(RowMetric("words", "t", value=lambda row: "fast"))  # type: ignore[arg-type, return-value]
    for name, came in (("fails", "KeyError: 'ttft'"), ("words", "ValueError: ")):
        with pytest.raises(NotMeasured) as caught:
            row_cell(ROW, name)
        told = str(caught.value)
        assert told.startswith(f"the metric {name} cannot be made of a row\n  where: run_0001.log\n  came: {came}")
        assert told.endswith("\n  next: mend the function of the metric in its plugin")
