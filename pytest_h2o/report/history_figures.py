"""The figures that matter most of each preset and scope over the runs of the history, with the band of the baseline."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_h2o.errors import StoreError
from pytest_h2o.gate.compare import Allowances, differing_parts, parse_allowances, refuse_other_model
from pytest_h2o.gate.figure_metrics import FIGURE_METRICS, HEADLINES
from pytest_h2o.gate.row_metrics import ROW_METRICS
from pytest_h2o.history.baselines import LAST, baseline_path, read_baseline
from pytest_h2o.history.lines import HISTORY_NAME, read_history
from pytest_h2o.history.record import RunRecord, SubjectRecord
from pytest_h2o.options import Settings
from pytest_h2o.report.history_table import best_figure

MAX_RUNS = 40
"""The newest runs that a figure is shown of, this one among them."""


@dataclass(frozen=True)
class _Run:
    """The best value of one run; `is_alike`: all that it was measured with is known and equal."""

    run: str
    ended: str
    value: float
    held: bool
    is_alike: bool


def collect_history(record: RunRecord | None, out_dir: Path, settings: Settings) -> list[dict[str, Any]]:
    """Every figure with an earlier run in the history, before the run itself is added there.

    Returns
    -------
    list of dict
        `subject`, `metric`, `title` and `unit`; `runs`, oldest first and this one last, each with `run`, `ended`,
        `value` and `held`; `baseline` with its `name` and `value`, or None; `low` and `high`, the band, or None, and
        `band`, what it is. Of an exact figure the band reaches from the value of the baseline to the worst that is
        allowed beside it; of a timing from the lowest to the highest of earlier runs that held and were measured alike.

    Raises
    ------
    StoreError
        The history or the baseline cannot be read.
    """
    if record is None:
        return []
    wanted = [(subject, metric) for subject in record.subjects for metric in (*HEADLINES[subject.kind], *ROW_METRICS)]
    earlier: dict[tuple[str, str], deque[_Run]] = {(s.title, m): deque(maxlen=MAX_RUNS - 1) for s, m in wanted}
    for old in read_history(out_dir / HISTORY_NAME):
        if isinstance(old, RunRecord) and old.run != record.run:  # a run that goes on may stand there already
            for subject, metric in wanted:
                earlier[subject.title, metric] += _runs_of(old, subject, metric)
    named = None
    if settings["compare"] not in (None, LAST) and baseline_path(out_dir, settings["compare"]).is_file():
        named = read_baseline(out_dir, settings["compare"])
    fail = settings.given["compare-fail"]
    allowances = parse_allowances(fail.value or (), fail.origin)
    figures = []
    for subject, metric in wanted:
        before, now = list(earlier[subject.title, metric]), _runs_of(record, subject, metric)
        if before and now:
            baseline = _baseline(before, named, subject, metric, settings["compare"])
            figures.append(_figure(subject, metric, [*before, *now], baseline, allowances))
    return figures


def _runs_of(record: RunRecord, now: SubjectRecord, metric: str) -> list[_Run]:
    """The value of a figure in one run; none if it has no such figure, or of another model."""
    then = record.subject(now.kind, now.name)
    value = None if then is None else best_figure(then, metric, record.metrics)
    if then is None or value is None:
        return []
    try:
        refuse_other_model(then, now, record.run)
    except StoreError:
        return []
    is_alike = not differing_parts(then.fingerprint, now.fingerprint)
    return [_Run(record.run, record.ended, value, then.held, is_alike)]


def _baseline(
    before: Iterable[_Run], named: RunRecord | None, subject: SubjectRecord, metric: str, asked: str | None
) -> dict[str, Any] | None:
    """What this run is held against, if anything."""
    if asked == LAST:
        held = [run for run in before if run.held]
        return {"name": f"run {held[-1].run}", "value": held[-1].value} if held else None
    found = [] if named is None else _runs_of(named, subject, metric)
    return {"name": f"baseline {asked}", "value": found[0].value} if found else None


def _figure(
    subject: SubjectRecord,
    metric: str,
    runs: list[_Run],
    baseline: Mapping[str, Any] | None,
    allowances: Allowances,
) -> dict[str, Any]:
    known = FIGURE_METRICS[metric]
    low, high, band = None, None, None
    allowed = allowances.find(metric)
    alike = [run.value for run in runs[:-1] if run.held and run.is_alike]
    if known.exact and baseline is not None and allowed is not None:
        worst = baseline["value"] * (1 + (-1 if known.better == "higher" else 1) * allowed[1] / 100)
        low, high = sorted((worst, baseline["value"]))
        band = f"allowed against {baseline['name']}: {allowed[1]:g} %"
    elif not known.exact and len(alike) > 1:
        low, high, band = min(alike), max(alike), f"{len(alike)} earlier runs, measured alike"
    return {
        "subject": subject.title,
        "metric": metric,
        "title": known.title,
        "unit": known.unit,
        "baseline": None if baseline is None else dict(baseline),
        "low": low,
        "high": high,
        "band": band,
        "runs": [{"run": r.run, "ended": r.ended, "value": r.value, "held": r.held} for r in runs],
    }
