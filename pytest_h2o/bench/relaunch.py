"""Rows whose speed decides: a launch that others disturbed is made again, a bounded number of times."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pytest_h2o.bench.command import RunFiles
from pytest_h2o.bench.launch import Launcher
from pytest_h2o.bench.paired import RELAUNCHES, SAME_LAUNCH
from pytest_h2o.bench.result import PointResult
from pytest_h2o.points import SweepPoint


@dataclass
class Relauncher:
    """Launches the points of a sweep.

    Attributes
    ----------
    launcher : Launcher
    relaunches : int
        Disturbed launches that may still be made again; above it the machine is not quiet, and they are only marked.
    """

    launcher: Launcher
    relaunches: int = RELAUNCHES

    def launch_point(self, point: SweepPoint) -> PointResult:
        """The row of a point; what a disturbed launch left keeps other names, and a note. Errors as in a launch."""
        result = self.launcher.launch_point(point)
        notes: tuple[str, ...] = ()
        for _ in range(SAME_LAUNCH):
            if result.disturbance is None or self.relaunches <= 0:
                break
            self.relaunches -= 1
            moved = RunFiles(self.launcher.directory, point.run_id).move_aside("disturbed")
            notes += (f"measured again: {result.disturbance}; what that launch left is {moved}.*",)
            result = self.launcher.launch_point(point)
        return replace(result, notes=(*notes, *result.notes))
