from __future__ import annotations

import math

import pytest

from pytest_h2o.errors import UsageError
from pytest_h2o.gate.values import Comparison, Interval, Measured, Target


def test_a_comparison_is_kept_with_its_outcome_and_margin() -> None:
    seen: list[Comparison] = []
    measured = Measured("h2o_lossy", 2.961, "run_0001", 0.026, on_compare=seen.append)
    assert not measured >= Target("h2o_lossy", 3.0, "default")
    assert measured >= Target("h2o_lossy", 2.9, "default")
    assert [c.outcome for c in seen] == ["fail", "pass"]
    assert seen[0].margin == pytest.approx(-0.039)
    assert seen[0].relative_margin == pytest.approx(-0.013)
    assert repr(measured) == "2.961 ± 0.026"


def test_at_most_has_the_opposite_margin() -> None:
    seen: list[Comparison] = []
    drop = Measured("decode_drop", 0.07, "run_0001", on_compare=seen.append)
    assert not drop <= 0.05
    assert seen[0].margin == pytest.approx(-0.02)
    assert repr(drop) == "7.00%"
    assert repr(seen[0].target) == "5.00%"


def test_without_a_target_it_is_reported_and_never_gates() -> None:
    seen: list[Comparison] = []
    assert Measured("lossless_ratio", 1.1, "all_layers", on_compare=seen.append) >= Target(
        "lossless_ratio", None, "scope"
    )
    assert seen[0].outcome == "reported"
    assert seen[0].margin is None
    assert repr(seen[0].target) == "no target"


def test_nan_fails_every_comparison() -> None:
    assert not Measured("h2o_lossy", math.nan, "run_0001") >= 1.0
    assert not Measured("decode_drop", math.nan, "run_0001") <= 1.0


def test_a_comparison_that_says_nothing_is_refused() -> None:
    lossy = Measured("h2o_lossy", 3.0, "run_0001")
    with pytest.raises(UsageError, match="a lossy ratio is neither true nor false"):
        bool(lossy)
    with pytest.raises(UsageError, match="compared with the target of another metric"):
        lossy >= Target("decode_drop", 0.05, "default")  # noqa: B015


def test_an_interval_is_shown_with_what_it_rests_on() -> None:
    shown = [
        repr(Measured("decode_drop", value, "row", interval=Interval(low, high, "inconclusive", 0.05, "2 pairs")))
        for value, low, high in ((0.03, -0.02, 0.08), (0.03, None, 0.08), (math.nan, None, None))
    ]
    assert shown == [
        "3.00% (interval -2.00% to 8.00%, 2 pairs)",
        "3.00% (interval unbounded to 8.00%, 2 pairs)",
        "no value (no interval, 2 pairs)",
    ]
