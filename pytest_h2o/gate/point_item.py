"""What a gate file sees of one point of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_h2o.gate.item import GateItem, Targets

if TYPE_CHECKING:
    from pytest_h2o.bench.result import PointResult
    from pytest_h2o.bench.row import BenchRow
    from pytest_h2o.gate.figures import Figures
    from pytest_h2o.points import SweepPoint
    from pytest_h2o.presets import Preset


class PointItem(GateItem):
    """One point of a sweep: is its row sound?"""

    kind = "point"

    def __init__(self, session: Figures, preset: Preset, point: SweepPoint, targets: Targets) -> None:
        super().__init__(session, preset.name, targets)
        self.preset = preset
        self.point = point

    @property
    def result(self) -> PointResult:
        """The run of this point. BenchError if it failed or its row is not sound."""
        self.asked = True
        result = self.session.result(self.preset, self.point)
        if result.shares_run_with:
            self.note(f"shares the run of {result.shares_run_with}")
        if result.disturbance:
            self.note(f"its launch was disturbed: {result.disturbance}")
        self._note_all(result.notes)
        return result

    @property
    def row(self) -> BenchRow:
        """The sound row of this point."""
        return self.result.row

    def record(self, nodeid: str, outcome: str, reason: str | None) -> dict[str, Any]:
        return {**super().record(nodeid, outcome, reason), "run_id": self.point.run_id}

    def write_dry_run(self) -> str:
        return f"{super().write_dry_run()}; {self.session.write_dry_run(self.preset)}"
