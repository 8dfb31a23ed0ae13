"""Presets and scopes of a run: read once a folder, with what ``--h2o-set`` changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_h2o.errors import PresetError
from pytest_h2o.options import Settings

if TYPE_CHECKING:
    from pytest_h2o.presets import Preset
    from pytest_h2o.scopes import Scope


class GateFiles:
    """The presets and scopes of all folders of gate files that were asked for, by name."""

    def __init__(self, settings: Settings) -> None:
        self.presets: dict[str, Preset] = {}
        self.scopes: dict[str, Scope] = {}
        self._settings = settings
        self._in_folder: dict[tuple[str, Path], list[str]] = {}

    def load_presets(self, gate_dir: Path) -> list[Preset]:
        """The presets beside a gate file, or those that the options name; PresetError with every fault."""
        from pytest_h2o.presets import load_presets

        places = self._settings["presets"] or (gate_dir / "presets",)
        if ("presets", gate_dir) not in self._in_folder:
            presets = load_presets(places)
            mine, _ = self._assignments()
            for preset in presets:
                other = self.presets.setdefault(preset.name, preset.override(*mine) if mine else preset)
                if other.path != preset.path:
                    raise PresetError(f"two presets are called {preset.name}", where=f"{other.path} and {preset.path}")
            self._in_folder["presets", gate_dir] = sorted(preset.name for preset in presets)
            if self._settings["scopes"] is not None or (gate_dir / "scopes.yaml").is_file():
                self.load_scopes(gate_dir)  # one of them decides the lossless ratio of these presets
        return [self.presets[name] for name in self._in_folder["presets", gate_dir]]

    def load_scopes(self, gate_dir: Path) -> list[Scope]:
        """The scopes beside a gate file, or those that the options name; PresetError with every fault."""
        from pytest_h2o.scopes import load_scopes

        if ("scopes", gate_dir) not in self._in_folder:
            scopes = load_scopes(self._settings["scopes"] or gate_dir / "scopes.yaml")
            _, mine = self._assignments()
            for scope in scopes:
                other = self.scopes.setdefault(scope.name, scope.override(*mine) if mine else scope)
                if other.path != scope.path:
                    raise PresetError(f"two scopes are called {scope.name}", where=f"{other.path} and {scope.path}")
            deciding = [scope for scope in self.scopes.values() if scope.decides]
            if len(deciding) != 1:
                where = " and ".join(f"{scope.name} in {scope.path}" for scope in deciding)
                came = f"{len(deciding)} with decides: true"
                raise PresetError("exactly one scope of a run decides", where=where or None, came=came)
            self._in_folder["scopes", gate_dir] = [scope.name for scope in scopes]
        return [self.scopes[name] for name in self._in_folder["scopes", gate_dir]]

    def _assignments(self) -> tuple[list[str], list[str]]:
        """What ``--h2o-set`` says to presets, and what to scopes."""
        from pytest_h2o.presets import Preset
        from pytest_h2o.schema.assignments import refuse_unknown_settings, share_assignments
        from pytest_h2o.scopes import Scope

        given = self._settings["set"] or ()
        refuse_unknown_settings(given, self._settings.origin("set"), (Preset, Scope))
        presets, scopes = share_assignments(given, (Preset, Scope))
        return presets, scopes
