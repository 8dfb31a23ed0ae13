"""Launches that others disturbed are made again, a bounded number of times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pytest_h2o.bench.command import RunFiles
from pytest_h2o.bench.launch import Launcher
from pytest_h2o.bench.result import PointResult
from pytest_h2o.points import SweepPoint

RELAUNCHES = 6
"""What one comparison, or the rows of one preset, may spend on launches that are made again. Above it the machine is
simply not quiet: disturbed launches then count all the same. In a pair both sides meet the same disturbances, and the
interval is the wider for it."""

IN_VAIN = 3
"""What a launch costs that was made again and was disturbed as well: it says that waiting for quiet is in vain."""

SAME_LAUNCH = 2
"""One and the same launch is made again so often at most."""


@dataclass
class Relaunches:
    """Decides whether a launch is made again.

    Attributes
    ----------
    left : int
        What may still be spent; 0 only marks.
    """

    left: int = RELAUNCHES

    def until_quiet(
        self, result: PointResult, again: Callable[[int], PointResult], told: Callable[[PointResult], object]
    ) -> PointResult:
        """Make a disturbed launch again; the last result, disturbed or not.

        Parameters
        ----------
        result : PointResult
            Of the first launch.
        again : callable
            Launches once more; takes which time it is, from 1.
        told : callable
            Called with each result that is not used, before the next launch.
        """
        for number in range(1, SAME_LAUNCH + 1):
            if result.disturbance is None or self.left <= 0:
                break
            told(result)
            result = again(number)
            self.left -= 1 if result.disturbance is None else IN_VAIN
        return result


@dataclass
class Relauncher:
    """Launches the points of a sweep whose own speeds are judged.

    Attributes
    ----------
    launcher : Launcher
    relaunches : Relaunches
        Of all points together.
    """

    launcher: Launcher
    relaunches: Relaunches = field(default_factory=Relaunches)

    def launch_point(self, point: SweepPoint) -> PointResult:
        """The row of a point; what a disturbed launch left keeps other names, and a note. Errors as in a launch."""
        notes: list[str] = []

        def move(result: PointResult) -> None:
            moved = RunFiles(self.launcher.directory, point.run_id).move_aside("disturbed")
            notes.append(f"measured again: {result.disturbance}; what that launch left is {moved}.*")

        first = self.launcher.launch_point(point)
        result = self.relaunches.until_quiet(first, lambda _: self.launcher.launch_point(point), move)
        return replace(result, notes=(*notes, *result.notes))
