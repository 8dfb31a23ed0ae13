"""One gate run as one process sees it: presets, scopes and where their figures come from.

Everything is loaded when it is first needed and kept. What several processes need (a launched point, an evaluated scope)
goes through the run folder's `OnceStore`, so that it is made once whichever worker asks first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_h2o.options import Settings
from pytest_h2o.store import OnceStore

if TYPE_CHECKING:

    from pytest_h2o.bench.launch import PointResult
    from pytest_h2o.lossless import LosslessResult
    from pytest_h2o.points import SweepPoint
    from pytest_h2o.presets import Preset
    from pytest_h2o.scopes import Scope

Key = str | tuple[str, int]
"""What parametrizes an item: a preset or scope name, or a preset name and a point's place in it."""


class RowSource(Protocol):
    """Where the rows of a preset come from: recorded logs, or a bench that is run."""

    notes: tuple[str, ...]

    def result(self, point: SweepPoint) -> PointResult:
        """The sound result of one point; an H2OError that says why there is none."""
        ...


class GateSession:
    """Presets, scopes and their figures for one process of one run."""

    def __init__(self, settings: Settings, *, run_dir: Path, asked_for: tuple[str, ...] = ()) -> None:
        self.settings = settings
        self.run_dir = run_dir
        self.store = OnceStore(run_dir / "results")
        self._asked_for = tuple(word.lower() for word in asked_for)
        self._presets: dict[str, Preset] = {}
        self._scopes: dict[str, Scope] = {}
        self._loaded: set[tuple[str, Path]] = set()
        self._points: dict[str, tuple[SweepPoint, ...]] = {}
        self._sources: dict[str, RowSource] = {}
        self._evaluated: dict[str, LosslessResult] = {}
        self._left_out: set[str] = set()
        self._needed: dict[str, set[int] | None] = {}
        self._new: dict[str, Any] = {}

    @property
    def rule(self) -> str:
        rule: str = self.settings["rule"]
        return rule

    # -- collection ---------------------------------------------------------------------------------------------

    def parameters(self, fixture: str, gate_dir: Path) -> list[tuple[Key, str]]:
        """Key and id of every item of one fixture, for the gate file in `gate_dir`."""
        if fixture == "h2o_sweep":
            return [(preset.name, preset.name) for preset in self._load_presets(gate_dir)]
        if fixture == "h2o_point":
            return [
                ((preset.name, place), f"{preset.name}-{point.run_id}")
                for preset in self._load_presets(gate_dir)
                for place, point in enumerate(self.points(preset))
            ]
        scopes = self._load_scopes(gate_dir)
        if fixture == "h2o_lossless":
            scopes = [scope for scope in scopes if scope.entry_mode != "aggregate"]
        elif fixture == "h2o_upper_bound":
            scopes = [scope for scope in scopes if scope.entry_mode == "aggregate"]
        return [(scope.name, scope.name) for scope in scopes]
