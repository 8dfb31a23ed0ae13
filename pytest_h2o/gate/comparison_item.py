"""What a gate file sees of a comparison: the figures of a preset or scope against those of an earlier run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_h2o.gate.compare import FigureChange, SubjectComparison, change_to_json, compare_subjects, headlines
from pytest_h2o.gate.figure_metrics import metric_facts
from pytest_h2o.gate.item import GateItem
from pytest_h2o.gate.run_figures import preset_figures, scope_figures, scope_fingerprint
from pytest_h2o.gate.sweep_items import SweepItem
from pytest_h2o.history.machine import describe_machine
from pytest_h2o.history.record import MetricFacts, SubjectRecord

if TYPE_CHECKING:
    from pytest_h2o.gate.figures import Figures
    from pytest_h2o.gate.scope_item import LosslessItem


@dataclass(frozen=True)
class Earlier:
    """The earlier figures of a preset or scope, and where they come from.

    Attributes
    ----------
    asked : str
        As it was asked for: the name of a baseline, or ``last``.
    run, ended : str
        The run that gave them, and when it ended.
    beside : tuple of str
        Everything that a named baseline holds, as ``preset NAME`` or ``scope NAME``; of the history nothing.
    notes : tuple of str
        What there is to say, for example that lines of the history are damaged.
    """

    asked: str
    run: str
    ended: str
    subject: SubjectRecord
    metrics: Mapping[str, MetricFacts]
    beside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"the last run {self.run}" if self.asked == "last" else f"baseline {self.asked} (run {self.run})"


class ComparisonItem(GateItem):
    """One preset or scope of this run against the same one of an earlier run."""

    kind = "comparison"

    def __init__(self, session: Figures, subject: SweepItem | LosslessItem) -> None:
        super().__init__(session, subject.name, subject.targets)
        self.subject = subject
        self.earlier: Earlier | None = None
        self._comparison: SubjectComparison | None = None
        self._headlines: list[FigureChange] = []

    @property
    def subject_kind(self) -> str:
        return "preset" if isinstance(self.subject, SweepItem) else "scope"

    def now(self) -> SubjectRecord:
        """The figures of this run, measured if nobody has; an H2OError that says why there are none."""
        if isinstance(self.subject, SweepItem):
            preset = self.subject.preset
            results = self.subject.results
            points = self.session.points(preset)
            rows = [(point.manifest_fields(), result) for point, result in zip(points, results, strict=True)]
            self.subject.remember()
            fingerprint = self.session.fingerprint(preset, results)
            return SubjectRecord("preset", self.name, True, fingerprint, preset_figures(rows))
        result = self.subject.result
        fingerprint = scope_fingerprint(result, describe_machine())
        return SubjectRecord("scope", self.name, True, fingerprint, scope_figures(result))

    @property
    def comparison(self) -> SubjectComparison:
        """Every figure, then and now.

        Raises
        ------
        OptedOut
            There is no earlier run yet: nothing to fail, and nothing that passed.
        StoreError
            The earlier figures cannot be read, or are of another model.
        """
        self.asked = True
        if self._comparison is None:
            now = self.now()
            self.earlier = self.session.comparer.find_earlier(now)
            self._note_all(self.earlier.notes)
            if not self.earlier.subject.held:
                self.note(f"{self.earlier.title} had itself failed items of {now.title}")
            metrics = {**self.earlier.metrics, **metric_facts()}
            self._comparison = compare_subjects(
                self.earlier.subject,
                now,
                metrics,
                self.session.comparer.allowances,
                where=self.earlier.title,
            )
            self._headlines = headlines(self.earlier.subject, now, metrics, comparable=not self._comparison.differing)
            self._note_all(self._comparison.remarks)
        return self._comparison

    @property
    def regressions(self) -> tuple[FigureChange, ...]:
        """Figures that are worse than allowed, say that other data was measured, or are missing now."""
        return self.comparison.regressions

    def record(self, nodeid: str, outcome: str, reason: str | None) -> dict[str, Any]:
        record = super().record(nodeid, outcome, reason)
        record["subject"] = self.subject_kind
        record["comparison"] = self.to_json()
        return record

    def to_json(self) -> dict[str, Any] | None:
        """What reports say of the comparison; None if there was none."""
        if self._comparison is None or self.earlier is None:
            return None
        return {
            "asked": self.earlier.asked,
            "run": self.earlier.run,
            "ended": self.earlier.ended,
            **self._comparison.to_json(),
            "beside": list(self.earlier.beside),
            "headlines": [change_to_json(change) for change in self._headlines],
        }

    def write_dry_run(self) -> str:
        return self.subject.write_dry_run()
