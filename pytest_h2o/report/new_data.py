"""What one process has measured or read and not yet handed to the controller: built-in types only."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from pytest_h2o.history.machine import describe_machine

if TYPE_CHECKING:
    from pytest_h2o.bench.result import PointResult
    from pytest_h2o.gate.item import Targets
    from pytest_h2o.gate.paired import PairedComparison
    from pytest_h2o.lossless import LosslessResult
    from pytest_h2o.points import SweepPoint
    from pytest_h2o.presets import Preset
    from pytest_h2o.scopes import Scope


class NewData:
    """Collects results between two records; each is handed over once a process."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()
        self._points: list[dict[str, Any]] = []
        self._failed: list[dict[str, Any]] = []
        self._scopes: dict[str, dict[str, Any]] = {}
        self._presets: dict[str, dict[str, Any]] = {}
        self._comparisons: dict[str, dict[str, Any]] = {}

    def add_point(self, preset: Preset, point: SweepPoint, result: PointResult) -> None:
        if (preset.name, point.run_id) in self._seen:
            return
        self._seen.add((preset.name, point.run_id))
        self._points.append(
            {
                "preset": preset.name,
                "index": point.index,
                "manifest": point.manifest_fields(),
                "result": result.to_json(),
            }
        )

    def add_failed(self, preset: Preset, point: SweepPoint, return_code: int, shares_run_with: str | None) -> None:
        """A launch that gave no sound row: the manifest lists it with its return code."""
        if (preset.name, point.run_id) in self._seen:
            return
        self._seen.add((preset.name, point.run_id))
        self._failed.append(
            {
                "preset": preset.name,
                "index": point.index,
                "manifest": point.manifest_fields(),
                "return_code": return_code,
                "shares_run_with": shares_run_with,
            }
        )

    def add_scope(self, scope: Scope, targets: Targets, result: LosslessResult, *, allow_skips: bool) -> None:
        self._scopes[scope.name] = {
            "decides": scope.decides,
            "target": targets.lossless.value,
            "allow_skips": allow_skips,
            "result": result.to_json(),
            "machine": describe_machine(),
        }

    def add_preset(self, preset: Preset, facts: dict[str, Any]) -> None:
        self._presets[preset.name] = facts

    def add_comparison(self, preset: Preset, comparison: PairedComparison) -> None:
        if ("decode", preset.name) not in self._seen:
            self._seen.add(("decode", preset.name))
            self._comparisons[preset.name] = comparison.to_json()

    def take(self, left_out: Collection[str]) -> dict[str, Any]:
        """Everything new, and the presets that were left out; then start again."""
        data = {
            "points": self._points,
            "failed": self._failed,
            "scopes": self._scopes,
            "presets": self._presets,
            "comparisons": self._comparisons,
            "left_out": sorted(left_out),
        }
        self._points, self._failed, self._scopes, self._presets, self._comparisons = [], [], {}, {}, {}
        return data
