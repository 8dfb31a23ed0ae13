from __future__ import annotations

import pytest

from pytest_h2o.gate.rule import Bound, find_bound, row_bound, split_layers, whole_cache_ratio
from tests.sweeps import make_row


@pytest.mark.parametrize(
    ("floor", "target", "quantized", "kind"),
    [
        (0.0574, 0.3336, 0.3377, "block quantisation"),
        (0.40, 0.3336, 0.40, "floor"),
        (0.45, 0.3336, 0.40, "floor"),
        (0.05, 0.3336, 0.3336, "target"),
    ],
)
def test_the_largest_of_the_three_binds(floor: float, target: float, quantized: float, kind: str) -> None:
    bound = find_bound(floor, target, quantized)
    assert bound is not None
    assert bound.kind == kind
    assert bound.keep == max(floor, target, quantized)


@pytest.mark.parametrize(
    "values", [(None, 0.3, 0.3), (0.1, None, 0.3), (0.1, 0.3, None), (0.0, 0.3, 0.3), (0.1, 0.3, 1.5)]
)
def test_a_missing_or_impossible_keep_gives_no_bound(values: tuple[float | None, float | None, float | None]) -> None:
    assert find_bound(*values) is None


def test_the_bound_of_a_row_is_that_of_its_columns() -> None:
    cells = {"h2o_floor_keep": "0.05", "h2o_target_keep_effective": "0.33", "h2o_quantized_keep": "0.34 ± 0.01"}
    assert row_bound(make_row("r", **cells)) == Bound("block quantisation", 0.34)
    assert row_bound(make_row("r")) is None


def test_could_not_pass_leaves_one_percent() -> None:
    bound = find_bound(0.0574, 0.3336, 0.3377)
    assert bound is not None
    assert bound.render(3.5) == (
        "block quantisation: keep 0.3377, so a lossy ratio of about 2.961 at most; this row could not pass"
    )
    # 2.961 x 1.01 = 2.991: under 3.0. A target inside the slack is not called impossible.
    assert not bound.could_pass(3.0)
    assert bound.could_pass(2.99)
    assert bound.render(2.99) == "block quantisation: keep 0.3377, so a lossy ratio of about 2.961 at most"
    assert bound.render(3.5, 2.99) == bound.render(3.5)
    assert bound.render(3.5, 2.992) == (
        "block quantisation: keep 0.3377 in its last step, and the measured lossy ratio of 2.992 is of another one: "
        "the row is not of one step"
    )


def test_the_recorded_best_row_is_three_point_one_over_the_whole_cache() -> None:
    layers = split_layers(30, 2, -1, [0, 1])
    assert whole_cache_ratio(layers, 3.38, 1.467564578551945) == pytest.approx(3.1099, abs=5e-4)
    assert whole_cache_ratio(layers, 3.38, None) == pytest.approx(2.917, abs=5e-4)


def test_a_layer_under_both_counts_as_evicted_only_and_untouched_layers_stay() -> None:
    layers = split_layers(4, 1, 2, [0, 1, 9])
    assert layers.lossy == {1, 2}
    assert layers.lossless == {0}
    assert whole_cache_ratio(layers, 2.0, 2.0) == pytest.approx(4 / (1 + 0.5 + 1))


@pytest.mark.parametrize(
    ("start", "end", "evicted"),
    [
        (0, -1, {0, 1, 2, 3}),
        (2, -1, {2, 3}),
        (0, 0, {0}),
        (1, 2, {1, 2}),
        (1, 3, {1, 2, 3}),
        (1, 9, {1, 2, 3}),
        (2, 1, set()),
    ],
)
def test_the_layers_under_eviction(start: int, end: int, evicted: set[int]) -> None:
    layers = split_layers(4, start, end, [-1, 0, 1, 2, 3, 4])
    assert (layers.total, layers.lossy) == (4, evicted)
    assert layers.lossless == {0, 1, 2, 3} - evicted
