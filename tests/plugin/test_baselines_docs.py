"""The table in docs/baselines.md is that of the metrics."""

from __future__ import annotations

import re

from pytest_h2o.gate.metrics import recorded_metrics
from tests.plugin.project import ROOT

TEXT = (ROOT / "docs" / "baselines.md").read_text("utf-8")


def test_the_table_has_every_metric() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .*? \| (higher|lower|same) \| (?:`(\w+)`)? *\|$", TEXT, re.MULTILINE)
    assert rows == [(metric.name, metric.better, metric.part_of) for metric in recorded_metrics().values()]
