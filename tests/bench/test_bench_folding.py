"""Which points are one run to the engine."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h2o.bench.rows import DETERMINISTIC_COLUMNS, Row, read_table
from pytest_h2o.bench.sweep import ColumnDifference, FoldCheck, compare_rows, fold_points
from pytest_h2o.files import load, plain
from pytest_h2o.inputs.presets import Point

from .samples import SWEEP, recorded_points

POINTS = recorded_points()


def indices(points: tuple[Point, ...]) -> list[list[int]]:
    return [[point.index for point in group.members] for group in fold_points(points)]


def read_row(point: Point) -> Row:
    (row,) = read_table(SWEEP / "logs" / f"{point.run_id}.log")
    return row


def test_adaptive_mode_does_not_read_the_keep_ratio() -> None:
    assert indices(POINTS) == [[n, n + 9, n + 18] for n in range(1, 10)]


def test_the_recording_bears_it_out() -> None:
    for group in fold_points(POINTS):
        rows = [read_row(point) for point in group.members]
        assert [compare_rows(rows[0], row) for row in rows] == [(), (), ()]
    assert (
        len({tuple(read_row(group.leader).cells[c] for c in DETERMINISTIC_COLUMNS) for group in fold_points(POINTS)})
        == 9
    )


def test_static_mode_does_not_read_the_lossy_target() -> None:
    static = tuple(replace(point, h2o_target_mode="static") for point in POINTS)
    assert indices(static) == [[n, n + 1, n + 2] for n in range(1, 28, 3)]


def test_an_unknown_mode_folds_nothing() -> None:
    other = tuple(replace(point, h2o_target_mode="other") for point in POINTS)
    assert indices(other) == [[n] for n in range(1, 28)]


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt_len": 513}, {"gen_len": 1}, {"repeat": 1}, {"block_tokens": 4}, {"sink_tokens": 0},
        {"recent_tokens": 0}, {"ema_alpha": 0.5}, {"update_interval": 1}, {"trigger_min_tokens": 1},
        {"h2o_layer_start": 0}, {"h2o_layer_end": 5}, {"h2o_log_stats": True}, {"h2o_target_lossy_ratio": 3.1},
        {"h2o_target_mode": "static"},
        {"lossless": {**POINTS[0].lossless, "kv_lossless_front_n": 3}},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_whatever_else_differs_is_another_run(changes: dict[str, object]) -> None:
    other = replace(POINTS[9], **changes)  # type: ignore[arg-type]
    assert indices((POINTS[0], POINTS[9])) == [[1, 10]]
    assert indices((POINTS[0], other)) == [[1], [10]]


def test_the_order_of_lossless_keys_does_not_matter() -> None:
    turned = replace(POINTS[9], lossless=dict(reversed(POINTS[9].lossless.items())))
    assert indices((POINTS[0], turned)) == [[1, 10]]


@given(st.permutations(POINTS), st.integers(0, 27))
def test_every_point_is_in_one_group(points: list[Point], count: int) -> None:
    groups = fold_points(points[:count])
    assert sorted(point.index for group in groups for point in group.members) == sorted(p.index for p in points[:count])
    assert [group.leader.index for group in groups] == sorted(
        (group.leader.index for group in groups), key=[point.index for point in points].index
    )


def test_differences_name_column_and_cells() -> None:
    one, other = read_row(POINTS[0]), read_row(POINTS[1])
    assert compare_rows(one, other)[0] == ColumnDifference("h2o_keep", "0.3377 ± 0.0030", "0.3152 ± 0.0009")
    cells = {name: cell for name, cell in one.cells.items() if name != "h2o_lossless"}
    bare = Row.from_cells(cells, log_file="x")
    assert compare_rows(one, bare) == (ColumnDifference("h2o_lossless", "1.365 ± 0.021", None),)


def test_a_check_survives_json() -> None:
    check = FoldCheck("adaptive", "p", "a", "b", (ColumnDifference("h2o_keep", "1", None),), "why")
    assert load(FoldCheck, json.loads(json.dumps(plain(check))), "a check") == check
    assert not check.folds
    assert FoldCheck("adaptive", "p", "a", "b").folds
