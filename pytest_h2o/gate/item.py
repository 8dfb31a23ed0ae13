"""What all gate items share: a name, targets, the comparisons that were made, notes, and the record for the journal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_h2o.errors import NotMeasured
from pytest_h2o.gate.measured import METRICS, Comparison, Interval, Measured, Target
from pytest_h2o.gate.row_metrics import ROW_METRICS, require_metric
from pytest_h2o.gate.rule import Thresholds

if TYPE_CHECKING:
    from pytest_h2o.gate.figures import Figures


@dataclass(frozen=True)
class Targets:
    """The targets of one preset or scope, each with where it was said."""

    lossy: Target
    lossless: Target
    decode_drop: Target
    quality: Target
    consistency: Target
    similarity: Target
    metrics: Mapping[str, Target] = field(default_factory=dict)
    """Those of metrics that plugins add, by name."""

    def metric(self, name: str) -> Target:
        """The target of a metric that a plugin adds; UsageError if there is no such metric."""
        require_metric(name, "h2o_targets.metric")
        return self.metrics.get(name) or Target(name, None, "not for a scope")

    @property
    def thresholds(self) -> Thresholds:
        return Thresholds(self.lossy.value, self.lossless.value, self.decode_drop.value, self.quality.value)


def _plain(value: float | None) -> float | str | None:
    """A float as JSON can hold it."""
    return str(value) if value is not None and not math.isfinite(value) else value


class GateItem:
    """Common to all items: what was compared and what there is to say beside it."""

    kind = ""

    def __init__(self, session: Figures, name: str, targets: Targets) -> None:
        self.session = session
        self.name = name
        self.targets = targets
        self.comparisons: list[Comparison] = []
        self.notes: list[str] = []
        self.asked = False
        """Whether anything was measured or read for this item."""

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _note_all(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.note(text)

    def measured(
        self, metric: str, value: float, source: str, std: float | None = None, interval: Interval | None = None
    ) -> Measured:
        return Measured(metric, value, source, std, interval, on_compare=self.comparisons.append)

    def record(self, nodeid: str, outcome: str, reason: str | None) -> dict[str, Any]:
        """What the journal keeps of this item: built-in types only; `reason` is why it failed or was left out."""
        return {
            "item": nodeid,
            "kind": self.kind,
            "name": self.name,
            "outcome": outcome,
            "reason": reason,
            "comparisons": [_comparison_json(c) for c in self.comparisons],
            "notes": list(self.notes),
            "data": self.session.take_new_data(),
        }

    def refuse_idle(self) -> None:
        """A gate test that ended well without asking for a single figure has shown nothing: NotMeasured."""
        if not self.asked:
            raise NotMeasured(
                f"the test passed without measuring {self.name}",
                expected="an assertion on what its fixture measures",
                hint="see the shipped gate files, or leave the fixture out of a test that is no gate",
            )

    def inconclusive_texts(self) -> list[str]:
        """A line for each comparison that was neither a pass nor a fail."""
        undecided = [c for c in self.comparisons if c.outcome == "inconclusive"]
        return [f"no pass, inconclusive: {c.measured!r}, target {c.target!r}" for c in undecided]

    def write_dry_run(self) -> str:
        """Write what would be run, nothing where nothing is launched, and say so."""
        return "dry run: nothing was run"


def _interval_json(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else {"low": interval.low, "high": interval.high, "basis": interval.basis}


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    measured, target = comparison.measured, comparison.target
    # Whoever reads the record later may not have the plugin.
    added = {"added_metric": asdict(METRICS[measured.metric])} if measured.metric in ROW_METRICS else {}
    return {
        "metric": measured.metric,
        "unit": METRICS[measured.metric].unit,
        "value": _plain(measured.value),
        "std": _plain(measured.std),
        "source": measured.source,
        "relation": comparison.relation,
        "target": target.value,
        "target_origin": target.origin,
        "margin": _plain(comparison.margin),
        "outcome": comparison.outcome,
        "interval": _interval_json(measured.interval),
        **added,
    }
