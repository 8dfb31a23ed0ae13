"""The controller's view of a run: one record an item, kept in the journal at once, made into artifacts at the end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_h2o.options import Settings
from pytest_h2o.report.shipping import receive_files
from pytest_h2o.store import SHARED, OnceStore, append_line

if TYPE_CHECKING:
    from pytest_h2o.bench.result import PointResult
    from pytest_h2o.report.sections import ReportSection

JOURNAL_VERSION = 1
JOURNAL_NAME = "journal.jsonl"


def is_refused(scope: Mapping[str, Any]) -> bool:
    """Whether a scope's ratio counts for nothing, because entries could not be read and that was not allowed."""
    return bool(scope["result"]["skipped_entries"]) and not scope["allow_skips"]


def subject_kind(item: Mapping[str, Any]) -> str:
    """Whether an item's record is about a ``preset`` or a ``scope``."""
    return str(item.get("subject") or ("scope" if item["kind"] == "scope" else "preset"))


def comparison_facts(items: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What the summary says of the comparison of one preset or scope; `not_compared` is why there is none."""
    for item in items:
        if item["kind"] == "comparison":
            return {
                "comparison": item["comparison"],
                "comparison_notes": item["notes"],
                "not_compared": None if item["comparison"] else item["reason"],
            }
    return {"comparison": None, "comparison_notes": [], "not_compared": None}


class Collector:
    """Gathers the records of all items, from this process or from workers.

    A run of a point or an evaluation of a scope comes once from each process that read it; equal ones are merged by
    name, the first to arrive standing.
    """

    def __init__(self, run_dir: Path, settings: Settings, sections: Sequence[ReportSection] = ()) -> None:
        self.run_dir = run_dir
        self.settings = settings
        self._store = OnceStore(run_dir / SHARED)
        self.sections = sections
        """What plugins add to the reports."""
        self.items: dict[str, dict[str, Any]] = {}
        self.points: dict[str, dict[str, dict[str, Any]]] = {}
        """Preset name -> run id -> result."""
        self.failed: dict[str, dict[str, dict[str, Any]]] = {}
        """Preset name -> run id -> what is known of a launch that gave no sound row."""
        self.scopes: dict[str, dict[str, Any]] = {}
        """Scope name -> lossless result."""
        self.presets: dict[str, dict[str, Any]] = {}
        """Preset name -> what the summary needs of it (layers, targets, baseline)."""
        self.comparisons: dict[str, dict[str, Any]] = {}
        """Preset name -> pairs of its decode verdict."""
        self.left_out: set[str] = set()
        """Presets that nothing could measure and nobody asked for."""

    def add(self, text: str, *, duration_s: float) -> None:
        """Take one item's record and write it to the journal before anything else happens."""
        record: dict[str, Any] = json.loads(text)
        record["duration_s"] = round(duration_s, 4)
        files = record.pop("files", {})
        receive_files({name: text for name, text in files.items() if not self._is_superseded(name)}, self.run_dir)
        self._store.use()  # until the artifacts are written nobody else goes on with this run
        # The first record says what the run was asked: nothing else of an unfinished one does.
        asked = {} if self.items else {"settings": self.settings.to_json()}
        append_line(self.run_dir / JOURNAL_NAME, {"version": JOURNAL_VERSION, **record, **asked})
        self.take(record)

    def _is_superseded(self, name: str) -> bool:
        """Whether a file belongs to pairs that another machine launched too: the first to arrive stand."""
        return any(name.startswith(f"{preset}/decode/") for preset in self.comparisons)

    def take(self, record: dict[str, Any]) -> None:
        """Take one item's record, new or from a journal."""
        record.pop("settings", None)
        data = record.pop("data")
        for point in data.get("points", []):
            self.points.setdefault(point["preset"], {}).setdefault(point["result"]["run_id"], point)
        for point in data.get("failed", []):
            self.failed.setdefault(point["preset"], {}).setdefault(point["manifest"]["run_id"], point)
        for name, result in data.get("scopes", {}).items():
            self.scopes.setdefault(name, result)
        for name, facts in data.get("presets", {}).items():
            self.presets.setdefault(name, facts)
        for name, comparison in data.get("comparisons", {}).items():
            self.comparisons.setdefault(name, comparison)
        self.left_out.update(data.get("left_out", ()))
        self.items[record["item"]] = record

    def accepted_scope(self, *, decides: bool) -> dict[str, Any] | None:
        """The result of the scope that decides, or of the first upper bound (entry mode aggregate); no refused one."""
        for _, scope in sorted(self.scopes.items()):
            fits = scope["decides"] if decides else scope["result"]["entry_mode"] == "aggregate"
            if fits and not is_refused(scope):
                result: dict[str, Any] = scope["result"]
                return result
        return None

    def results_of(self, preset: str) -> list[PointResult]:
        """The results of a preset that arrived, in the order of its points."""
        from pytest_h2o.bench.result import PointResult

        return [PointResult.from_json(point["result"]) for point in self.points_in_order(preset)]

    def points_in_order(self, preset: str) -> list[dict[str, Any]]:
        """The points of a preset that arrived, in their order: manifest fields and result of each."""
        return sorted(self.points.get(preset, {}).values(), key=lambda point: int(point["index"]))

    def manifest_entries(self, preset: str) -> list[dict[str, Any]]:
        """Every launched or read run of a preset, sound or not, in the order of its points."""
        from pytest_h2o.bench.manifest import complete_entry

        entries: dict[int, dict[str, Any]] = {}
        for point in self.points.get(preset, {}).values():
            result = point["result"]
            entry = complete_entry(point["manifest"], result["shares_run_with"], result["returncode"])
            if entry["return_code"] is None:
                del entry["return_code"]  # null would say that it was never run
            entries[int(point["index"])] = entry
        for point in self.failed.get(preset, {}).values():
            entry = complete_entry(point["manifest"], point["shares_run_with"], point["return_code"])
            entries[int(point["index"])] = entry
        return [entries[index] for index in sorted(entries)]

    def sorted_items(self) -> list[dict[str, Any]]:
        """Records in an order that does not depend on which worker was faster."""
        return [self.items[key] for key in sorted(self.items)]
