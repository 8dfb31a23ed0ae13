"""Which presets can pass here at all, known before anything is run, and which are left out because they cannot."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_h2o.embedded import is_embedded
from pytest_h2o.gate.targets import preset_targets
from pytest_h2o.options import Settings
from pytest_h2o.points import LLM_BENCH
from pytest_h2o.row_sources import find_recordings

if TYPE_CHECKING:
    from pytest_h2o.bench.config import BaseConfig
    from pytest_h2o.points import SweepPoint
    from pytest_h2o.presets import Preset


class PresetFit:
    """What speaks against the presets of one run, whatever is run or read.

    On the embedded bench: a preset for another bench, or a lossy target out of reach. With recorded logs: presets that
    they lack.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        presets: Mapping[str, Preset],
        points: Callable[[Preset], tuple[SweepPoint, ...]],
        base: Callable[[Preset], BaseConfig],
        asked_for: tuple[str, ...],
    ) -> None:
        self.left_out: dict[str, str] = {}
        """Presets with selected items that are not run: name -> why."""
        self._settings = settings
        self._presets = presets
        self._points = points
        self._base = base
        self._asked_for = asked_for
        self._selected: frozenset[str] = frozenset()
        self._unreachable: dict[str, str | None] = {}
        self._recorded: dict[str, Path] | None = None

    def leave_out(self, selected: Collection[str]) -> Mapping[str, str]:
        """Learn which presets have selected items, and tell which of them are not run unless named: name -> why.

        Where that would be all, none is left out: then their items fail and say so.

        Raises
        ------
        UsageError
            The recorded logs are not there.
        """
        self._selected = frozenset(selected)
        unfit = {name: why for name in sorted(selected) if (why := self._why_unfit(self._presets[name]))}
        if len(unfit) < len(selected):
            self.left_out = {name: why for name, why in unfit.items() if not self._is_asked_for(name)}
        return self.left_out

    @property
    def on_embedded(self) -> bool:
        """Whether the bench is the one that comes with the plugin."""
        return is_embedded(self._settings["bench"])

    def why_of_another_bench(self, preset: Preset) -> str | None:
        """Why the embedded bench cannot run a preset; None if it can, or another bench is run."""
        if not self.on_embedded or preset.bench == LLM_BENCH:
            return None
        return f"the embedded bench is no {preset.bench}"

    def why_out_of_reach(self, preset: Preset) -> str | None:
        """Why no row of a preset can meet its lossy target on the embedded bench; None if one can, or elsewhere."""
        if not self.on_embedded or self.why_of_another_bench(preset):
            return None
        if preset.name not in self._unreachable:
            from pytest_h2o.embedded_reach import why_out_of_reach

            lossy = preset_targets(self._settings, preset, None).lossy
            self._unreachable[preset.name] = why_out_of_reach(self._base(preset), self._points(preset), lossy)
        return self._unreachable[preset.name]

    def recordings(self) -> Mapping[str, Path]:
        """Presets that the recorded logs hold, and where."""
        if self._recorded is None:
            presets = list(self._presets.values())
            selected = [preset for preset in presets if preset.name in self._selected]
            self._recorded = find_recordings(self._settings["logs"], presets, selected)
        return self._recorded

    def _why_unfit(self, preset: Preset) -> str | None:
        if self.on_embedded:
            return self.why_of_another_bench(preset) or self.why_out_of_reach(preset)
        if self._settings["logs"] is not None and preset.name not in self.recordings():
            return "no recording"
        return None

    def _is_asked_for(self, name: str) -> bool:
        lowered = name.lower()
        return self._settings.given["presets"].on_command_line or any(
            word in lowered or word.startswith(f"{lowered}-") for word in self._asked_for
        )
