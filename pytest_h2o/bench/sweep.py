"""The points of a preset -> rows: each run made once, whoever asks for it, and shared where the runtime cannot tell.

Results and failures alike go through `once`, which remembers them by key across processes. No row depends on which
process asks first: every process that knows the same points comes to the same groups and leaders, and whether the
runtime can tell folded points apart is found out once, for all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from pytest_h2o.bench.rows import DETERMINISTIC_COLUMNS, Row, load_row
from pytest_h2o.errors import H2OError, UsageError, error_from_json, error_to_json
from pytest_h2o.files import load, plain
from pytest_h2o.inputs.presets import Point

INERT_FIELDS = {"adaptive": "keep_ratio", "static": "h2o_target_lossy_ratio"}
"""Target mode -> the field of a point that the engine does not read in it."""

_NAMING_FIELDS = frozenset({"preset", "index", "run_id"})


@dataclass(frozen=True)
class FoldGroup:
    """Points that should be one run; `leader`, the first of them, is the one that is launched."""

    members: tuple[Point, ...]

    @property
    def leader(self) -> Point:
        return self.members[0]


class ColumnDifference(NamedTuple):
    """A column that should be equal in two runs and is not; None stands for a missing cell."""

    column: str
    leader: str | None
    probe: str | None


@dataclass(frozen=True)
class FoldCheck:
    """What came of running one folded point after all; with differences or a problem nothing of its mode is folded.

    Attributes
    ----------
    target_mode, preset : str
        What was checked: a mode, among the points of a preset.
    leader, probe : str
        Run ids of the two runs that were compared; empty if no run of the mode gave a row.
    differences : tuple of ColumnDifference
        Deterministic columns that differ.
    problem : str or None
        Why the two could not be compared.
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


def fold_points(points: Sequence[Point]) -> tuple[FoldGroup, ...]:
    """Group points that differ only in what their target mode does not read."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(fold_key(point), []).append(point)
    return tuple(FoldGroup(tuple(members)) for members in groups.values())


def fold_key(point: Point) -> str:
    """Text that is equal for points which the runtime cannot tell apart, and for no others."""
    ignored = _NAMING_FIELDS | {INERT_FIELDS.get(point.h2o_target_mode)}
    values = {field.name: getattr(point, field.name) for field in fields(point) if field.name not in ignored}
    mappings = {name: dict(values[name]) for name in ("lossless", "bench_options")}
    return json.dumps({**values, **mappings}, sort_keys=True)


def compare_rows(leader: Row, probe: Row) -> tuple[ColumnDifference, ...]:
    """Name the deterministic columns in which two rows differ, as printed; a cell that one lacks differs."""
    return tuple(
        ColumnDifference(column, leader.cells.get(column), probe.cells.get(column))
        for column in DETERMINISTIC_COLUMNS
        if leader.cells.get(column) != probe.cells.get(column)
    )


Launch = Callable[[Point], Row]
Once = Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]
"""``once(key, make)`` returns what `make` returned the first time that any process asked for `key`. The value is plain
JSON. `make` may call `once` with other keys; it never asks for its own."""


class Sweep:
    """The runs of one preset.

    `points` are all that will be asked for, the same in every process: folding looks at these alone, and not `fold`
    runs each of them. `launch` raises H2OError if a point gives no sound row. `binary` tells this bench from another,
    by a digest say: folding is checked once for each binary, preset and target mode.
    """

    def __init__(self, points: Sequence[Point], launch: Launch, once: Once, *, binary: str, fold: bool = True) -> None:
        self._launch = launch
        self._once = once
        self._binary = binary
        self.points = tuple(points)
        self._groups = fold_points(points) if fold else tuple(FoldGroup((point,)) for point in points)
        folded = (group.leader.h2o_target_mode for group in self._groups if len(group.members) > 1)
        self._modes = tuple(dict.fromkeys(folded))
        self._group_of = {point.run_id: group for group in self._groups for point in group.members}
        if len(self._group_of) != len(self.points):
            raise UsageError("a sweep has two points with one run id", expected="each run id once")

    @property
    def runs(self) -> int:
        """Launches of all points, if those that should be one run can be: one a group, and one probe a mode."""
        return len(self._groups) + len(self._modes)

    def result(self, point: Point) -> Row:
        """Return the row of a point, running what has not been run.

        A point that shares the run of another gets a copy of that row, which names the run.
        """
        leader = self._leader(point)
        result = self._run(leader)
        if leader.run_id == point.run_id:
            return result
        return replace(result, run_id=point.run_id, shares_run_with=leader.run_id)

    def shared_run(self, point: Point) -> str | None:
        """Return the run id of the run that a point shares; None if it has a run of its own."""
        leader = self._leader(point)
        return None if leader.run_id == point.run_id else leader.run_id

    def fold_checks(self) -> tuple[FoldCheck, ...]:
        """Return the check of every target mode that has something to fold, making those that were not made."""
        return tuple(self._fold_check(mode) for mode in self._modes)

    def _leader(self, point: Point) -> Point:
        """The point whose run answers for a point."""
        group = self._group_of.get(point.run_id)
        if group is None or point not in group.members:
            raise UsageError(
                f"{point.run_id} is no point of this sweep",
                came=f"the preset {point.preset}",
                expected=f"one of {len(self.points)} points, from {self.points[0].run_id}" if self.points else None,
            )
        if len(group.members) == 1 or group.leader.run_id == point.run_id:
            return point
        check = self._fold_check(point.h2o_target_mode)
        # The probe has a row of its own: it was run.
        return group.leader if check.folds and check.probe != point.run_id else point

    def _fold_check(self, mode: str) -> FoldCheck:
        # Of each preset its own: else the probe would be a run of whichever preset asks first.
        key = f"fold/{self._binary}/{self.points[0].preset}/{mode}"
        return load(FoldCheck, self._once(key, lambda: plain(self._check_fold(mode))), "the check of a fold")

    def _check_fold(self, mode: str) -> FoldCheck:
        """Run one folded point after all and compare it with the run that it would share."""
        for group in self._groups:
            if len(group.members) == 1 or group.leader.h2o_target_mode != mode:
                continue
            leader, probe = group.members[:2]
            try:
                row = self._run(leader)
            except H2OError:
                # Its own points report this failure; the next group may have a row to compare with.
                continue
            try:
                differences = compare_rows(row, self._run(probe))
            except H2OError as error:
                problem = f"{probe.run_id} failed: {error.what}"
                return FoldCheck(mode, probe.preset, leader.run_id, probe.run_id, problem=problem)
            return FoldCheck(mode, probe.preset, leader.run_id, probe.run_id, differences)
        # No run of the mode gave a row: the points fail as their leaders do, and there is nothing to tell apart.
        return FoldCheck(mode, self.points[0].preset, "", "")

    def _run(self, point: Point) -> Row:
        """The row of a point's own run, made by whoever asks first."""
        outcome = self._once(f"run/{self._binary}/{point.preset}/{point.run_id}", lambda: self._make_run(point))
        if "error" in outcome:
            raise error_from_json(outcome["error"])
        return load_row(outcome["result"])

    def _make_run(self, point: Point) -> dict[str, Any]:
        try:
            return {"result": plain(self._launch(point))}
        except H2OError as error:
            return {"error": error_to_json(error)}
