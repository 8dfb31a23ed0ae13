"""The comparison gates: with `--h2o-compare NAME`, `last` or `rolling:N`, every preset and scope becomes such an item.

Plain assertions: read them, copy them, change them. Ratios, sizes and quality are the same to the last digit in two
runs of the same thing, so any worsening fails; `--h2o-compare-fail METRIC:PERCENT` allows some. Without an earlier run
the item is skipped, and says so.
"""


def test_no_regression(h2o_comparison):
    """No figure is worse than in the earlier run, and none is missing."""
    assert not h2o_comparison.regressions
