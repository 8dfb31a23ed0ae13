"""Which runs of a manifest may stand in one log: those that the runtime cannot tell apart, and say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_h2o.bench.folding import INERT_FIELDS, fold_key
from pytest_h2o.bench.manifest import MANIFEST_NAME, ManifestEntry
from pytest_h2o.errors import BenchError, H2OError
from pytest_h2o.points import SweepPoint

_NO_SETTING = frozenset({"run_id", "config", "log", "return_code", "shares_run_with"})


def find_sharing_faults(
    entries: Sequence[ManifestEntry], points: Mapping[str, SweepPoint] | None, folder: Path
) -> dict[str, H2OError]:
    """Find the runs whose log is also that of another run without a right to it.

    Parameters
    ----------
    entries : sequence of ManifestEntry
        All of the manifest.
    points : mapping or None
        Run id -> the point that is wanted; None where points are not known. Then the entries themselves are compared.
    folder : Path
        Folder of the manifest.

    Returns
    -------
    dict
        Run id -> what is wrong with its sharing. A run without a fault has a log of its own, or shares that of a run
        which differs from it at most in what their target mode does not read.
    """
    by_id = {entry.run_id: entry for entry in entries}
    logs = {entry.run_id: (folder / entry.log_file).resolve() for entry in entries}
    owners: dict[Path, list[str]] = {}
    for entry in entries:
        if entry.shares_run_with is None:
            owners.setdefault(logs[entry.run_id], []).append(entry.run_id)
    faults: dict[str, H2OError] = {}
    for entry in entries:
        came = None
        if entry.shares_run_with is not None:
            leader = by_id.get(entry.shares_run_with)
            came = _why_not_shared(
                entry, leader, points, same_log=logs.get(entry.shares_run_with) == logs[entry.run_id]
            )
        elif len(owners[logs[entry.run_id]]) > 1:
            others = [run_id for run_id in owners[logs[entry.run_id]] if run_id != entry.run_id]
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            came = f"{entry.log_file}, which is also the log of {others[0]}{more}"
        if came is not None:
            faults[entry.run_id] = _no_own_log(entry.run_id, folder, came)
    return faults


def _why_not_shared(
    entry: ManifestEntry, leader: ManifestEntry | None, points: Mapping[str, SweepPoint] | None, *, same_log: bool
) -> str | None:
    """Why a run cannot share that of another; None if it can."""
    named = f"shares_run_with {entry.shares_run_with}"
    if leader is None:
        return f"{named}, which the manifest does not list"
    if leader.shares_run_with is not None:
        return f"{named}, which has no run of its own"
    if not same_log:
        return f"{named}, and another log than that run has: {entry.log_file}"
    point, other = ((points or {}).get(run_id) for run_id in (entry.run_id, leader.run_id))
    alike = (
        fold_key(point) == fold_key(other)
        if point is not None and other is not None
        else _setting(entry) == _setting(leader)
    )
    return None if alike else f"{named}, which is another configuration for the engine"


def _setting(entry: ManifestEntry) -> dict[str, object]:
    """What an entry says of its configuration, less what its target mode does not read."""
    inert = INERT_FIELDS.get(str(entry.values.get("h2o_target_mode")))
    return {name: value for name, value in entry.values.items() if name not in _NO_SETTING and name != inert}


def _no_own_log(run_id: str, folder: Path, came: str) -> BenchError:
    return BenchError(
        f"{run_id} has no log of its own",
        where=str(folder / MANIFEST_NAME),
        came=came,
        expected="a log a run, or shares_run_with the run of a point that the engine cannot tell from this one",
        hint="copy the whole folder of the sweep, or record the points again",
    )
