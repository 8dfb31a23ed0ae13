"""The manifest of a sweep: a list of its runs, each with the settings of its point, its files and its return code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pytest_h2o.bench.command import RunFiles
from pytest_h2o.errors import StoreError, can_name_file, make_printable
from pytest_h2o.files import load
from pytest_h2o.inputs.presets import Point

MANIFEST_NAME = "manifest.json"
_MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class ManifestEntry:
    """One run as a manifest lists it.

    Attributes
    ----------
    log_file, config_file : str, str or None
        Its files, relative to the folder of the manifest; never outside of it.
    return_code : int or None
        None for a run that was listed and never made (null), or whose return code nobody knows (left out).
    shares_run_with : str or None
        Run id of the run whose row it shares.
    values : mapping
        The whole entry as it stands.
    """

    run_id: str
    log_file: str
    config_file: str | None
    return_code: int | None
    shares_run_with: str | None
    values: Mapping[str, Any]

    def differences(self, point: Point) -> list[str]:
        """Name the fields in which the entry is another configuration than a point; fields it lacks are passed over."""
        return [
            f"{name} {self.values[name]!r}, not {value!r}"
            for name, value in point.manifest_fields().items()
            if name in self.values and self.values[name] != value
        ]


def manifest_entry(
    fields: Mapping[str, Any], return_code: int | None, *, shares_run_with: str | None = None
) -> dict[str, Any]:
    """The entry of a point by its `manifest_fields`; the files are those of the run that it shares."""
    files = RunFiles(Path(), shares_run_with or str(fields["run_id"]))
    shared = {} if shares_run_with is None else {"shares_run_with": shares_run_with}
    return {
        **fields,
        "config": files.config_file,
        "log": files.log_file,
        "return_code": return_code,
        **shared,
    }


def read_manifest(path: Path) -> tuple[ManifestEntry, ...]:
    """Read a manifest; a `StoreError` that names the entry if it cannot be used."""
    document = load(list[Any], path, "a manifest of a sweep", most_bytes=_MAX_BYTES)
    entries: dict[str, ManifestEntry] = {}
    for number, value in enumerate(document, start=1):
        entry = _read_entry(f"{path}: entry {number}", value)
        if entry.run_id in entries:
            raise _unusable(str(path), f"the run id {entry.run_id} twice", "each run once")
        entries[entry.run_id] = entry
    return tuple(entries.values())


def _read_entry(where: str, value: object) -> ManifestEntry:
    if not isinstance(value, dict):
        raise _unusable(where, type(value).__name__, "an object with run_id, config, log and return_code")
    run_id, return_code, shared = value.get("run_id"), value.get("return_code"), value.get("shares_run_with")
    if not isinstance(run_id, str) or not run_id or run_id != make_printable(run_id, keep=""):
        raise _unusable(where, f"run_id {run_id!r}", "a run id")
    if return_code is not None and (isinstance(return_code, bool) or not isinstance(return_code, int)):
        raise _unusable(where, f"return_code {return_code!r}", "a whole number or null")
    if shared is not None and not isinstance(shared, str):
        raise _unusable(where, f"shares_run_with {shared!r}", "a run id")
    log_file = _inner_path(where, "log", value.get("log"))
    config_file = None if value.get("config") is None else _inner_path(where, "config", value["config"])
    return ManifestEntry(run_id, log_file, config_file, return_code, shared, value)


def _inner_path(where: str, field: str, value: object) -> str:
    """A path that stays below the folder of the manifest; links are looked at when it is opened."""
    if not isinstance(value, str) or not value or not can_name_file(value):
        raise _unusable(where, f"{field} {value!r}", "a path relative to the manifest")
    path = PurePosixPath(value.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        raise _unusable(where, f"{field} {value!r}", "a path inside the folder of the manifest")
    return str(path)


def _unusable(where: str, came: str, expected: str) -> StoreError:
    return StoreError("a manifest of a sweep cannot be used", where=where, came=came, expected=expected)
