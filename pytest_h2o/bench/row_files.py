"""Recorded output of a bench other than llm_bench: files of rows, and the points that the rows are of.

The rows themselves say of which configuration they are, so neither names nor manifests matter: one file may hold the
rows of several presets, and a run folder of before, where each point has a copy of its log, is read in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_h2o.bench.adapter import BenchAdapter, get_adapter, name_bench_of
from pytest_h2o.bench.output import count_warnings
from pytest_h2o.bench.printable import make_printable
from pytest_h2o.bench.recorded import Recording
from pytest_h2o.bench.result import PointResult
from pytest_h2o.bench.row import BenchRow
from pytest_h2o.bench.table import read_text
from pytest_h2o.errors import BenchError, H2OError, TableError
from pytest_h2o.points import SweepPoint

SUFFIXES = (".json", ".jsonl", ".log", ".txt", ".csv")
_PRINTED = ".stdout.txt"


@dataclass(frozen=True)
class _Found:
    """A row and the file it stands in."""

    row: BenchRow
    path: Path


def row_files(folder: Path, adapter: BenchAdapter) -> list[Path]:
    """Files in a folder and in its ``logs/`` that look like output of a bench, by path."""
    paths = sorted(path for where in (folder, folder / "logs") for path in where.glob("*") if _may_hold_rows(path))
    return [path for path in paths if adapter.recognises(_text(path) or "")]


def read_row_files(folder: Path, points: Sequence[SweepPoint]) -> Recording:
    """Read the rows of points, all of one bench, from whatever files of the folder have them.

    Parameters
    ----------
    folder : Path
        Files, or a ``logs/`` folder of them.
    points : sequence of SweepPoint
        Each is then in `results` or in `failures` of what is returned. Rows with nothing compressed are `baselines`.
    """
    adapter = get_adapter(points[0].bench)
    found, unused = _read_all(folder, adapter)
    results: dict[str, PointResult] = {}
    failures: dict[str, H2OError] = {}
    for point in points:
        try:
            results[point.run_id] = _result(_pick(found, adapter, point, folder, unused), adapter, point)
        except H2OError as error:
            failures[point.run_id] = error
    baselines: dict[str, PointResult] = {}
    for point in points:
        bare = replace(point, compressed=False)
        for one in (one for one in found if adapter.is_row_of(one.row, bare)):
            try:
                baselines[str(one.row.cells)] = _result(one, adapter, replace(bare, run_id=one.path.stem))
            except H2OError as error:
                unused[one.row.log_file] = error.what
    return Recording(folder, results, failures, tuple(baselines.values()), unused)


def has_rows_of(folder: Path, points: Sequence[SweepPoint]) -> bool:
    """Whether the folder holds a row of any point, or a file of this bench that is damaged, so that it must be told."""
    adapter = get_adapter(points[0].bench)
    found, unused = _read_all(folder, adapter)
    return bool(unused) or any(adapter.is_row_of(one.row, point) for one in found for point in points)


def _may_hold_rows(path: Path) -> bool:
    return path.suffix in SUFFIXES and not path.name.endswith(_PRINTED) and path.is_file()


def _text(path: Path) -> str | None:
    try:
        return read_text(path, str(path))
    except TableError:
        return None


def _read_all(folder: Path, adapter: BenchAdapter) -> tuple[list[_Found], dict[str, str]]:
    """Every different row, and the files that are damaged -> why."""
    found: dict[str, _Found] = {}
    damaged: dict[str, str] = {}
    for path in row_files(folder, adapter):
        name = make_printable(path.relative_to(folder).as_posix(), keep="")
        try:
            for row in adapter.parse(read_text(path, name), log_file=name):
                found.setdefault(str(row.cells), _Found(row, path))
        except H2OError as error:
            damaged[name] = f"{error.what}: {error.came}" if error.came else error.what
    return list(found.values()), damaged


def _pick(
    found: Sequence[_Found], adapter: BenchAdapter, point: SweepPoint, folder: Path, damaged: Mapping[str, str]
) -> _Found:
    """The one row of a point."""
    rows = [one for one in found if adapter.is_row_of(one.row, point)]
    if len(rows) == 1:
        return rows[0]
    asked = ", ".join(f"{name} {value}" for name, value in point.manifest_fields().items() if name != "run_id")
    if rows:
        raise BenchError(
            f"{point.run_id} has several rows, and nothing tells which one is meant",
            where=str(folder),
            came=", ".join(sorted({one.row.log_file for one in rows})),
            expected=f"one row with {asked}",
            hint="keep one measurement of a configuration in the folder",
        )
    came = "; ".join(f"{name} is damaged: {why}" for name, why in damaged.items()) or _describe(found, folder)
    what = f"{point.run_id} is not in the recording"
    raise BenchError(what, where=str(folder), came=came, expected=f"a row with {asked}")


def _describe(found: Sequence[_Found], folder: Path) -> str:
    """What is there in place of the row that was asked for."""
    if found:
        return f"{len(found)} rows of other configurations"
    benches = {name_bench_of(_text(path) or "") for path in sorted(folder.glob("*")) if _may_hold_rows(path)}
    known = sorted(name for name in benches if name is not None)
    return f"output of {', '.join(known)}" if known else "no output of this bench"


def _result(one: _Found, adapter: BenchAdapter, point: SweepPoint) -> PointResult:
    row = replace(one.row, repeat=one.row.repeat or point.repeat)
    adapter.check(row, point)
    printed = one.path.with_name(one.path.stem + _PRINTED)
    config = one.path.parent.parent / "configs" / f"{one.path.stem}.json"
    return PointResult(
        run_id=point.run_id,
        row=row,
        log_path=one.path,
        config_path=config if one.path.parent.name == "logs" and config.is_file() else None,
        stdout_path=printed if printed.is_file() else None,
        output=count_warnings(printed) if printed.is_file() else None,
    )
