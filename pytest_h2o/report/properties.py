"""The main figures of an item as properties of its test case, for JUnit XML and whoever else reads user properties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def main_figures(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of every comparison that the item made; built-in types only.

    For a metric ``M``: ``h2o.M``; ``h2o.M.std``, ``h2o.M.low`` and ``h2o.M.high`` where they are known;
    ``h2o.M.target`` where there is one; ``h2o.M.row`` and ``h2o.M.outcome``. Numbers have full precision.
    """
    figures: list[tuple[str, str]] = []
    for comparison in record["comparisons"]:
        name = f"h2o.{comparison['metric']}"
        interval = comparison.get("interval") or {}
        values = (
            ("", comparison["value"]),
            (".std", comparison["std"]),
            (".low", interval.get("low")),
            (".high", interval.get("high")),
            (".target", comparison["target"]),
            (".row", comparison["source"]),
            (".outcome", comparison["outcome"]),
        )
        figures += [(f"{name}{end}", str(value)) for end, value in values if value is not None]
    return figures
