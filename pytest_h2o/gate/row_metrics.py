"""Metrics that plugins add: read from a column of a row or made of the whole row, with a target of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from pytest_h2o.bench.row import Measurement
from pytest_h2o.errors import NotMeasured, UsageError
from pytest_h2o.gate.figure_metrics import FIGURE_METRICS, FigureMetric
from pytest_h2o.gate.measured import METRICS, Metric

if TYPE_CHECKING:
    from pytest_h2o.bench.row import BenchRow
    from pytest_h2o.history.record import Better


@dataclass(frozen=True)
class RowMetric:
    """A metric of the rows of a sweep.

    Attributes
    ----------
    name : str
        ``h2o_sweep.best(name)`` and ``targets: metrics: {name: …}`` use it; letters, digits and ``_``.
    title : str
        In reports.
    unit : str
        Empty for a plain number.
    higher_is_better : bool
        Whether gate files hold it by ``>=`` or by ``<=``, and which row is the best.
    target : float or None
        Where no preset says another; None: reported only.
    value : callable, optional
        Makes it of a `BenchRow`: a number, a `Measurement`, or None where the row lacks what it needs. Left out, it is
        the column of this name.
    decimals : int
        In reports.
    exact : bool
        Whether two runs of the same thing give it alike to the last digit, as ratios, and not as timings.
    """

    name: str
    title: str
    unit: str = ""
    higher_is_better: bool = True
    target: float | None = None
    value: Callable[[BenchRow], Measurement | float | None] | None = None
    decimals: int = 3
    exact: bool = False


ROW_METRICS: dict[str, RowMetric] = {}
"""Those that were added in this process, by name."""

_OWN = frozenset({*METRICS, *FIGURE_METRICS})


def register_metric(metric: RowMetric) -> None:
    """Add a metric; one of its name that a plugin added before is replaced.

    Raises
    ------
    UsageError
        Its name cannot be used, or is one of this package.
    """
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", metric.name) is None:
        raise UsageError(
            "the name of a metric cannot be used", came=repr(metric.name), expected="letters, digits and _"
        )
    if metric.name in _OWN:
        raise UsageError("a metric has the name of a built-in one", came=metric.name, expected="another name")
    ROW_METRICS[metric.name] = metric
    METRICS[metric.name] = Metric(metric.name, metric.title, metric.unit, metric.higher_is_better, metric.decimals)
    better: Better = "higher" if metric.higher_is_better else "lower"
    FIGURE_METRICS[metric.name] = FigureMetric(
        metric.name, metric.title, metric.unit, better, metric.exact, fmt=f".{metric.decimals}f"
    )


def require_metric(name: str, where: str) -> RowMetric:
    """Return a metric that a plugin added; UsageError with the near names if there is none."""
    if name not in ROW_METRICS:
        near = get_close_matches(name, ROW_METRICS, n=1)
        raise UsageError(
            "no plugin adds such a metric",
            where=where,
            came=name,
            expected=f"one of {', '.join(ROW_METRICS)}" if ROW_METRICS else None,
            hint=f"did you mean {near[0]}?" if near else "the hook pytest_h2o_metrics adds metrics",
        )
    return ROW_METRICS[name]


def row_cell(row: BenchRow, metric: str) -> Measurement | None:
    """Return what a row measured of a metric or column; None if it is missing.

    Raises
    ------
    NotMeasured
        The function of a metric failed on this row.
    """
    if metric == "decode_tok_per_s":
        return row.decode_tok_per_s
    function = ROW_METRICS[metric].value if metric in ROW_METRICS else None
    if function is None:
        return row.get(metric)
    try:
        value = function(row)
        return value if value is None or isinstance(value, Measurement) else Measurement(float(value), None)
    except Exception as error:  # a plugin's own function: whatever it raises is told, and is no measurement
        raise NotMeasured(
            f"the metric {metric} cannot be made of a row",
            where=row.log_file,
            came=f"{type(error).__name__}: {error}",
            expected="a number, or None where the row lacks what it needs",
            hint="mend the function of the metric in its plugin",
        ) from error
