"""The points of a preset -> rows: each run made once, whoever asks for it, and shared where the runtime cannot tell.

Results and failures alike go through `once`, which remembers them by key across processes. No row depends on which
process asks first: every process that knows the same points comes to the same groups and leaders, and whether the
runtime can tell folded points apart is found out once, for all. The runs of a sweep are listed in its manifest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pytest_h2o.bench.command import RunFiles, again_folder, is_asynchronous
from pytest_h2o.bench.rows import CODED_COLUMNS, DETERMINISTIC_COLUMNS, Row, load_row
from pytest_h2o.errors import (
    H2OError,
    StoreError,
    UsageError,
    can_name_file,
    error_from_json,
    error_to_json,
    make_printable,
    near_names,
)
from pytest_h2o.files import digest_file, load, plain
from pytest_h2o.inputs.presets import Point, plain_setting

INERT_FIELDS = {"adaptive": "keep_ratio", "static": "h2o_target_lossy_ratio"}
"""Target mode -> the field of a point that the engine does not read in it."""

_NAMING_FIELDS = frozenset({"preset", "index", "run_id"})


class ColumnDifference(NamedTuple):
    """A column that should be equal in two runs and is not; None stands for a missing cell."""

    column: str
    leader: str | None
    probe: str | None


@dataclass(frozen=True)
class FoldCheck:
    """What came of running one folded point after all; with differences or a problem nothing of its mode is folded."""

    target_mode: str
    """What was checked: a mode, among the points of a preset."""
    preset: str
    leader: str
    """Run ids of the two runs that were compared; empty if no run of the mode gave a row."""
    probe: str
    differences: tuple[ColumnDifference, ...] = ()
    """Deterministic columns that differ."""
    problem: str | None = None
    """Why the two could not be compared."""

    @property
    def folds(self) -> bool:
        """Whether points of this mode may share runs."""
        return not self.differences and self.problem is None


@dataclass(frozen=True)
class RepeatCheck:
    """Whether rows of which exact columns alone are judged may be launched with fewer repeats than the preset asks for.

    They may not where the repeats of one launch differ, nor where a launch with fewer gives other columns than one with
    all.
    """

    asked: int
    fewer: int
    full: tuple[str, ...] = ()
    """Run ids that were launched with all repeats; the last of them gave a row to compare with."""
    twin: str = ""
    """Run id of the launch with fewer that it was compared with."""
    differences: tuple[ColumnDifference, ...] = ()
    problem: str | None = "no row to compare with"

    @property
    def holds(self) -> bool:
        return not self.differences and self.problem is None


Group = tuple[Point, ...]
"""Points that should be one run, that of the first of them, their leader."""


def fold_points(points: Sequence[Point]) -> tuple[Group, ...]:
    """Group points that differ only in what their target mode does not read."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(fold_key(point), []).append(point)
    return tuple(map(tuple, groups.values()))


def fold_key(point: Point) -> str:
    """Text that is equal for points which the runtime cannot tell apart, and for no others."""
    ignored = _NAMING_FIELDS | {INERT_FIELDS.get(point.h2o_target_mode)}
    values = {field.name: getattr(point, field.name) for field in fields(point) if field.name not in ignored}
    mappings = {name: dict(values[name]) for name in ("lossless", "bench_options", "allow_signs")}
    return json.dumps({**values, **mappings}, sort_keys=True)


def compare_rows(leader: Row, probe: Row, *, asynchronous: bool = False) -> tuple[ColumnDifference, ...]:
    """Name the deterministic columns in which two rows differ, as printed; a cell that one lacks differs."""
    return tuple(
        ColumnDifference(column, leader.cells.get(column), probe.cells.get(column))
        for column in DETERMINISTIC_COLUMNS
        if leader.cells.get(column) != probe.cells.get(column) and not (asynchronous and column in CODED_COLUMNS)
    )


def _unlike_repeats(row: Row, *, asynchronous: bool) -> tuple[ColumnDifference, ...]:
    """The deterministic columns in which the repeats of one launch differ."""
    cells = {column: row.get(column) for column in DETERMINISTIC_COLUMNS}
    return tuple(
        ColumnDifference(column, row.cells[column], None)
        for column, cell in cells.items()
        if cell is not None and cell.std != 0 and not (asynchronous and column in CODED_COLUMNS)
    )


Launch = Callable[[Point], Row]
Once = Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]
"""``once(key, make)`` returns what `make` returned the first time that any process asked for `key`. The value is plain
JSON. `make` may call `once` with other keys; it never asks for its own."""


class Sweep:
    """The runs of one preset.

    `points` are all that will be asked for, the same in every process: folding looks at these alone, and not `fold`
    runs each of them. `launch` raises H2OError if a point gives no sound row. `binary` tells this bench from another,
    by a digest say: folding is checked once for each binary, preset and target mode. `fewer` are repeats that rows may
    be launched with where a check shows that their deterministic columns stay the same.
    """

    def __init__(
        self,
        points: Sequence[Point],
        launch: Launch,
        once: Once,
        *,
        binary: str,
        fold: bool = True,
        fewer: int | None = None,
    ) -> None:
        self._launch = launch
        self._once = once
        self._binary = binary
        self.points = tuple(points)
        self._groups = fold_points(points) if fold else tuple((point,) for point in points)
        self._modes = tuple(dict.fromkeys(group[0].h2o_target_mode for group in self._groups if len(group) > 1))
        self._group_of = {point.run_id: group for group in self._groups for point in group}
        spared = (len(self._groups) + len(self._modes) - 1) * (points[0].repeat - fewer) if points and fewer else 0
        self._fewer = fewer if fewer and spared > (0 if self._modes else fewer + 1) else None
        if len(self._group_of) != len(self.points):
            raise UsageError("a sweep has two points with one run id", expected="each run id once")

    @property
    def runs(self) -> int:
        """Launches of all points, if those that should be one run can be: one a group, and one to check."""
        return len(self._groups) + (len(self._modes) or self._fewer is not None)

    def result(self, point: Point) -> Row:
        """Return the row of a point, running what has not been run.

        A point that shares the run of another gets a copy of that row, which names the run.
        """
        leader = self._leader(point)
        result = self._run(leader)
        return result if leader is point else replace(result, run_id=point.run_id, shares_run_with=leader.run_id)

    @property
    def tries_fewer(self) -> bool:
        """Whether rows are launched with fewer repeats if those are as good."""
        return self._fewer is not None

    def shared_run(self, point: Point) -> str | None:
        """Return the run id of the run that a point shares; None if it has a run of its own."""
        leader = self._leader(point)
        return None if leader is point else leader.run_id

    def fold_checks(self) -> tuple[FoldCheck, ...]:
        """Return the check of every target mode that has something to fold, making those that were not made."""
        return tuple(self._fold_check(mode) for mode in self._modes)

    def repeat_check(self) -> RepeatCheck | None:
        """Return the check of fewer repeats, making it if it was not made; None where all are launched with all."""
        if self._fewer is None:
            return None
        key = f"repeat/{self._binary}/{self.points[0].preset}"
        return load(RepeatCheck, self._once(key, lambda: plain(self._check_repeat())), "the check of fewer repeats")

    def _check_repeat(self) -> RepeatCheck:
        """Hold a launch with fewer repeats, of a point that should be the same run, against one with all."""
        check = RepeatCheck(self.points[0].repeat, self._fewer or 0)
        for leader, *others in self._groups:
            check = replace(check, full=(*check.full, leader.run_id))
            try:
                row = self._outcome(leader)
            except H2OError:
                # Its own points report this failure.
                continue
            if unlike := _unlike_repeats(row, asynchronous=is_asynchronous(leader.lossless)):
                return replace(check, differences=unlike, problem=None)
            again = replace(leader, run_id=f"{leader.run_id}.repeat-{check.fewer}")
            twin = replace(others[0] if others else again, repeat=check.fewer)
            check = replace(check, twin=twin.run_id)
            try:
                apart = compare_rows(row, self._outcome(twin), asynchronous=is_asynchronous(leader.lossless))
                return replace(check, differences=apart, problem=None)
            except H2OError as error:
                return replace(check, problem=f"{twin.run_id} failed: {error.what}")
        return check

    def _leader(self, point: Point) -> Point:
        """The point whose run answers for a point."""
        group = self._group_of.get(point.run_id, ())
        if point not in group:
            raise UsageError(
                f"{point.run_id} is no point of this sweep",
                came=f"the preset {point.preset}",
                expected=f"one of {len(self.points)} points, from {self.points[0].run_id}" if self.points else None,
            )
        if group[0].run_id == point.run_id:
            return point
        check = self._fold_check(point.h2o_target_mode)
        # The probe has a row of its own: it was run.
        return group[0] if check.folds and check.probe != point.run_id else point

    def _fold_check(self, mode: str) -> FoldCheck:
        # Of each preset its own: else the probe would be a run of whichever preset asks first.
        key = f"fold/{self._binary}/{self.points[0].preset}/{mode}"
        return load(FoldCheck, self._once(key, lambda: plain(self._check_fold(mode))), "the check of a fold")

    def _check_fold(self, mode: str) -> FoldCheck:
        """Run one folded point after all and compare it with the run that it would share."""
        for group in self._groups:
            if len(group) == 1 or group[0].h2o_target_mode != mode:
                continue
            leader, probe = group[:2]
            try:
                row = self._run(leader)
            except H2OError:
                # Its own points report this failure; the next group may have a row to compare with.
                continue
            check = FoldCheck(mode, probe.preset, leader.run_id, probe.run_id)
            try:
                aside = is_asynchronous(probe.lossless)
                return replace(check, differences=compare_rows(row, self._run(probe), asynchronous=aside))
            except H2OError as error:
                return replace(check, problem=f"{probe.run_id} failed: {error.what}")
        # No run of the mode gave a row: the points fail as their leaders do, and there is nothing to tell apart.
        return FoldCheck(mode, self.points[0].preset, "", "")

    def _run(self, point: Point) -> Row:
        """The row of a point's own run, with fewer repeats where those are as good."""
        check = self.repeat_check()
        if check is None or not check.holds or point.run_id in check.full:
            return self._outcome(point)
        return self._outcome(replace(point, repeat=check.fewer)).with_fewer_repeats(check.asked)

    def _outcome(self, point: Point) -> Row:
        """The row of one launch, made by whoever asks first."""
        few = f"@{point.repeat}" if point.repeat == self._fewer else ""
        outcome = self._once(f"run/{self._binary}/{point.preset}/{point.run_id}{few}", lambda: self._make_run(point))
        if "error" in outcome:
            raise error_from_json(outcome["error"])
        return load_row(outcome["result"])

    def _make_run(self, point: Point) -> dict[str, Any]:
        try:
            row = self._launch(point)
            return {"result": plain(row), "files": digest_launches(row)}
        except H2OError as error:
            return {"error": error_to_json(error)}


def digest_launches(*rows: Row) -> dict[str, str]:
    """What rows rest on: path -> digest of each file that their launches left, further ones of a point too."""
    digests = {}
    for row in rows:
        home = row.log_path.parent.parent
        for folder in (home, *(home / again_folder(number) for number in range(2, 2 + len(row.again)))):
            paths = (path for path in RunFiles(folder, row.log_path.stem).outputs if path.is_file())
            digests.update({str(path): digest_file(path) for path in paths})
    return digests


# -- the manifest ---------------------------------------------------------------------------------------------------

MANIFEST_NAME = "manifest.json"
UNKNOWN = "unknown"
"""The return code of a run of which nobody has kept it."""

_MAX_MANIFEST_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class ManifestEntry:
    """One run as the manifest of its sweep lists it: with the settings of its point, its files and its return code."""

    run_id: str
    log_file: str
    """Relative to the folder of the manifest, and never outside of it; as is the config. The manifest itself may name
    them from the working directory of that day, or absolutely: there they lie in ``logs/`` and ``configs/`` beside it.
    """
    config_file: str | None
    return_code: int | None
    """None for a run that was listed and never made (null), or whose return code nobody knows."""
    shares_run_with: str | None
    """Run id of the run whose row it shares."""
    values: Mapping[str, Any]
    """The whole entry as it stands."""

    def differences(self, point: Point) -> list[str]:
        """Name the fields in which the entry is another configuration than a point; fields it lacks are passed over."""
        return [
            f"{name} {self.values[name]!r}, not {value!r}"
            for name, value in {**point.manifest_fields(), "repeat": point.repeat}.items()
            if name in self.values and plain_setting(self.values[name]) != value
        ]


def manifest_entry(
    fields: Mapping[str, Any],
    return_code: int | None,
    *,
    shares_run_with: str | None = None,
    keeps_output: bool = False,
) -> dict[str, Any]:
    """The entry of a point by its `manifest_fields`; the files are those of the run that it shares.

    `keeps_output`: what it printed is among them, and whoever reads the run again must find it.
    """
    files = RunFiles(Path(), shares_run_with or str(fields["run_id"]))
    names = {"config": files.config_file, "log": files.log_file}
    names |= {"output": files.output_file} if keeps_output else {}
    shared = {} if shares_run_with is None else {"shares_run_with": shares_run_with}
    return {**fields, **names, "return_code": return_code, **shared}


def read_manifest(path: Path) -> tuple[ManifestEntry, ...]:
    """Read a manifest; a `StoreError` that names the entry if it cannot be used."""
    document = load(list[Any], path, "a manifest of a sweep", most_bytes=_MAX_MANIFEST_BYTES)
    entries: dict[str, ManifestEntry] = {}
    for number, value in enumerate(document, start=1):
        entry = _read_entry(f"{path}: entry {number}", value, path.parent)
        if entry.run_id in entries:
            raise _unusable(str(path), f"the run id {entry.run_id} twice", "each run once")
        entries[entry.run_id] = entry
    return tuple(entries.values())


def _read_entry(where: str, value: object, folder: Path) -> ManifestEntry:
    if not isinstance(value, dict):
        raise _unusable(where, type(value).__name__, "an object with run_id, config, log and return_code")
    _check_keys(where, value)
    run_id, code, shared, *files = map(value.get, ("run_id", "return_code", "shares_run_with", "log", "config"))
    if not isinstance(run_id, str) or not run_id or run_id != make_printable(run_id, keep=""):
        raise _unusable(where, f"run_id {run_id!r}", "a run id")
    for name, is_sound, expected in (
        ("return_code", code in (None, UNKNOWN) or type(code) is int, f"a whole number, null or {UNKNOWN!r}"),
        ("shares_run_with", shared is None or isinstance(shared, str), "a run id"),
    ):
        if not is_sound:
            raise _unusable(where, f"{name} {value.get(name)!r}", expected)
    log_file = _inner_path(where, "log", files[0], folder / "logs")
    config_file = None if files[1] is None else _inner_path(where, "config", files[1], folder / "configs")
    return ManifestEntry(run_id, log_file, config_file, None if code == UNKNOWN else code, shared, value)


_NEEDED = ("run_id", "config", "log", "return_code")
_KNOWN = frozenset((*_NEEDED, "output", "shares_run_with", "repeat", "sweep_repeat", "not_launched"))
_MISSPELT = 0.8
"""How alike a key that no one reads must be to one that is not there."""


def _check_keys(where: str, entry: Mapping[str, Any]) -> None:
    """Refuse an entry without a key that its reader needs, with one of these in another spelling, or in two."""
    plain_names = {other.replace("_", "").strip().lower(): other for other in sorted(entry.keys() - _KNOWN)}
    for name in sorted(_KNOWN, key=lambda name: name not in _NEEDED):
        near = near_names(name.replace("_", ""), plain_names, 1, 1.0 if name in entry else _MISSPELT)
        if near or (name in _NEEDED and name not in entry):
            came = f"no {name}" if not near else f"{plain_names[near[0]]!r:.80}"
            raise _unusable(where, came, f"the key {name}, once")
    if "not_launched" in entry and entry["return_code"] is not None:
        raise _unusable(where, f"not_launched, and return_code {entry['return_code']!r:.80}", "one of the two")
    fewer, whole = entry.get("sweep_repeat"), entry.get("repeat")
    if fewer is not None and not (type(fewer) is type(whole) is int and 0 < fewer < whole):
        raise _unusable(where, f"sweep_repeat {fewer!r:.80} of repeat {whole!r:.80}", "a whole number below repeat")


def _inner_path(where: str, field: str, value: object, usual: Path) -> str:
    """A path below the folder of the manifest, `usual` being where such files lie; links are looked at when opened."""
    path = PurePosixPath(value.replace("\\", "/") if isinstance(value, str) and can_name_file(value) else "")
    if path.name in ("", "..") or ":" in path.name:
        raise _unusable(where, f"{field} {value!r}", "a path of a file")
    is_inner = not path.is_absolute() and ".." not in path.parts and ":" not in path.parts[0]
    return str(path) if is_inner and os.path.isfile(usual.parent / path) else f"{usual.name}/{path.name}"  # noqa: PTH113


def _unusable(where: str, came: str, expected: str) -> StoreError:
    return StoreError("a manifest of a sweep cannot be used", where=where, came=came, expected=expected)
