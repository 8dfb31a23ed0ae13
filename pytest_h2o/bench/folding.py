"""Points that the runtime cannot tell apart, and the proof that it cannot. Pure.

In adaptive mode the engine aims at one over the target lossy ratio and never reads the keep ratio; in static mode it
aims at the keep ratio and never reads the target lossy ratio. Points that differ in the dead one alone are one run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from pytest_h2o.bench.row import DETERMINISTIC_COLUMNS, BenchRow
from pytest_h2o.points import SweepPoint

INERT_FIELDS = {"adaptive": "keep_ratio", "static": "h2o_target_lossy_ratio"}
"""Target mode -> the field of a point that the engine does not read in it."""

_NAMING_FIELDS = frozenset({"preset", "index", "run_id"})


@dataclass(frozen=True)
class FoldGroup:
    """Points that should be one run; `leader`, the first of them, is the one that is launched."""

    members: tuple[SweepPoint, ...]

    @property
    def leader(self) -> SweepPoint:
        """The point whose run the others share."""
        return self.members[0]


@dataclass(frozen=True)
class ColumnDifference:
    """A column that should be equal in two runs and is not; None stands for a missing cell."""

    column: str
    leader: str | None
    probe: str | None


@dataclass(frozen=True)
class FoldCheck:
    """What came of running one folded point after all.

    Attributes
    ----------
    target_mode : str
        The mode that was checked.
    preset : str
        Preset whose points were compared.
    leader, probe : str
        Run ids of the two runs that were compared; empty if no run of the mode gave a row.
    differences : tuple of ColumnDifference
        Deterministic columns that differ; with any, nothing is folded.
    problem : str or None
        Why the two could not be compared; with one, nothing is folded.
    """

    target_mode: str
    preset: str
    leader: str
    probe: str
    differences: tuple[ColumnDifference, ...] = ()
    problem: str | None = None

    @property
    def folds(self) -> bool:
        """Whether points of this mode may share runs."""
        return not self.differences and self.problem is None

    def to_json(self) -> dict[str, Any]:
        """Built-in values only; `from_json` reads them back."""
        return {
            "target_mode": self.target_mode,
            "preset": self.preset,
            "leader": self.leader,
            "probe": self.probe,
            "differences": [[d.column, d.leader, d.probe] for d in self.differences],
            "problem": self.problem,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FoldCheck:
        """Read what `to_json` gave."""
        differences = tuple(ColumnDifference(*difference) for difference in value["differences"])
        return cls(
            target_mode=value["target_mode"],
            preset=value["preset"],
            leader=value["leader"],
            probe=value["probe"],
            differences=differences,
            problem=value["problem"],
        )


def fold_points(points: Sequence[SweepPoint]) -> tuple[FoldGroup, ...]:
    """Group points that differ only in what their target mode does not read.

    Returns
    -------
    tuple of FoldGroup
        In the order of their first points; every point is in exactly one. A mode that is not known folds nothing.
    """
    groups: dict[str, list[SweepPoint]] = {}
    for point in points:
        groups.setdefault(fold_key(point), []).append(point)
    return tuple(FoldGroup(tuple(members)) for members in groups.values())


def compare_rows(leader: BenchRow, probe: BenchRow) -> tuple[ColumnDifference, ...]:
    """Name the deterministic columns in which two rows differ, as printed; a cell that one lacks differs."""
    return tuple(
        ColumnDifference(column, leader.cells.get(column), probe.cells.get(column))
        for column in DETERMINISTIC_COLUMNS
        if leader.cells.get(column) != probe.cells.get(column)
    )


def fold_key(point: SweepPoint) -> str:
    """Text that is equal for points which the runtime cannot tell apart, and for no others."""
    ignored = _NAMING_FIELDS | {INERT_FIELDS.get(point.h2o_target_mode)}
    values = {field.name: getattr(point, field.name) for field in fields(point) if field.name not in ignored}
    mappings = {name: dict(values[name]) for name in ("lossless", "bench_options")}
    return json.dumps({**values, **mappings}, sort_keys=True)
