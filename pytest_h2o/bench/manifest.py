"""The manifest of a sweep: a list of its runs, each with the settings of its point, its files and its return code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pytest_h2o.bench.command import RunFiles
from pytest_h2o.bench.rows import Row
from pytest_h2o.errors import H2OError, StoreError, can_name_file, make_printable
from pytest_h2o.files import write_new_json
from pytest_h2o.inputs.presets import Point

MANIFEST_NAME = "manifest.json"
_MAX_MANIFEST_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class ManifestEntry:
    """One run as a manifest lists it.

    Attributes
    ----------
    run_id : str
        The point.
    log_file : str
        Its log, relative to the folder of the manifest; never outside of it.
    config_file : str or None
        Its config, likewise.
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
        expected = point.manifest_fields()
        return [
            f"{name} {self.values[name]!r}, not {value!r}"
            for name, value in expected.items()
            if name in self.values and self.values[name] != value
        ]


def manifest_entry(
    point: Point, outcome: Row | H2OError | None, *, shares_run_with: str | None = None
) -> dict[str, Any]:
    """Build the entry of a point."""
    return complete_entry(point.manifest_fields(), shares_run_with, getattr(outcome, "returncode", None))


def complete_entry(fields: Mapping[str, Any], shares_run_with: str | None, return_code: int | None) -> dict[str, Any]:
    """Add files and outcome to the configuration fields of a point; the files are those of the run that it shares."""
    files = RunFiles(Path(), shares_run_with or str(fields["run_id"]))
    return {
        **fields,
        "config": files.config_file,
        "log": files.log_file,
        "return_code": return_code,
        **({} if shares_run_with is None else {"shares_run_with": shares_run_with}),
    }


def write_manifest(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write a manifest, which must be new; StoreError if it is not."""
    write_new_json(path, [dict(entry) for entry in entries])


def read_manifest(path: Path) -> tuple[ManifestEntry, ...]:
    """Read a manifest."""
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise _bad(path, f"{path.stat().st_size} bytes", f"at most {_MAX_MANIFEST_BYTES} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _bad(path, error.strerror or str(error), "a file that can be read") from error
    except json.JSONDecodeError as error:
        raise _bad(f"{path}:{error.lineno}:{error.colno}", error.msg, "a JSON list of runs") from None
    except (ValueError, RecursionError) as error:
        raise _bad(path, str(error), "a JSON list of runs in UTF-8") from None
    if not isinstance(document, list):
        raise _bad(path, type(document).__name__, "a JSON list of runs")
    entries = tuple(_read_entry(f"{path}: entry {number}", value) for number, value in enumerate(document, 1))
    seen: set[str] = set()
    for entry in entries:
        if entry.run_id in seen:
            raise _bad(path, f"the run id {entry.run_id} twice", "each run once")
        seen.add(entry.run_id)
    return entries


def _read_entry(where: str, value: object) -> ManifestEntry:
    if not isinstance(value, dict):
        raise _bad(where, type(value).__name__, "an object with run_id, config, log and return_code")
    run_id, return_code, shared = value.get("run_id"), value.get("return_code"), value.get("shares_run_with")
    if not isinstance(run_id, str) or not run_id or run_id != make_printable(run_id, keep=""):
        raise _bad(where, f"run_id {run_id!r}", "a run id")
    if return_code is not None and (isinstance(return_code, bool) or not isinstance(return_code, int)):
        raise _bad(where, f"return_code {return_code!r}", "a whole number or null")
    if shared is not None and not isinstance(shared, str):
        raise _bad(where, f"shares_run_with {shared!r}", "a run id")
    log_file = _inner_path(where, "log", value.get("log"))
    config_file = None if value.get("config") is None else _inner_path(where, "config", value["config"])
    return ManifestEntry(run_id, log_file, config_file, return_code, shared, value)


def _inner_path(where: str, field: str, value: object) -> str:
    """A path that stays below the folder of the manifest; links are looked at when it is opened."""
    if not isinstance(value, str) or not value or not can_name_file(value):
        raise _bad(where, f"{field} {value!r}", "a path relative to the manifest")
    path = PurePosixPath(value.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        raise _bad(where, f"{field} {value!r}", "a path inside the folder of the manifest")
    return str(path)


def _bad(where: Path | str, came: str, expected: str) -> StoreError:
    return StoreError("a manifest of a sweep cannot be used", where=str(where), came=came, expected=expected)
