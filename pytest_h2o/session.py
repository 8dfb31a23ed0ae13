"""One gate run as one process sees it: presets, scopes and where their figures come from.

Everything is loaded when it is first needed and kept. What several processes need (a launched point, an evaluated
scope) goes through the run folder's `OnceStore`, so that it is made once whichever worker asks first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_h2o.comparisons import Comparer
from pytest_h2o.consistency_figures import ConsistencyFigures
from pytest_h2o.decode_figures import DecodeFigures
from pytest_h2o.errors import BenchError, StoreError
from pytest_h2o.gate.comparison_item import ComparisonItem
from pytest_h2o.gate.point_item import PointItem
from pytest_h2o.gate.scope_item import LosslessItem
from pytest_h2o.gate.sweep_items import SweepItem
from pytest_h2o.gate.targets import preset_targets, refuse_unmeasured, scope_targets
from pytest_h2o.gate_files import GateFiles
from pytest_h2o.launch_settings import bench_settings, check_bench, choose_base_config, other_build
from pytest_h2o.options import Settings
from pytest_h2o.points import LLM_BENCH
from pytest_h2o.preset_fit import PresetFit
from pytest_h2o.progress import ProgressWriter
from pytest_h2o.report.new_data import NewData
from pytest_h2o.row_sources import LaunchedRows, NoRows, RecordedRows, RowSource
from pytest_h2o.run_head import describe_run, plan_launches
from pytest_h2o.scope_figures import ScopeFigures
from pytest_h2o.selection import SCOPE_FIXTURES, preset_of, scope_of
from pytest_h2o.store import HEADER, PROGRESS, SHARED, OnceStore
from pytest_h2o.text_figures import TextFigures

if TYPE_CHECKING:
    from pytest_h2o.bench.config import BaseConfig
    from pytest_h2o.bench.result import PointResult
    from pytest_h2o.gate.item import GateItem
    from pytest_h2o.points import SweepPoint
    from pytest_h2o.presets import Preset

Key = str | tuple[str, int]
"""What parametrizes an item: a preset or scope name, or a preset name and a point's place in it.

A comparison has ``preset NAME`` or ``scope NAME``.
"""


class GateSession:
    """Presets, scopes and their figures for one process of one run."""

    def __init__(self, settings: Settings, *, run_dir: Path, asked_for: tuple[str, ...] = ()) -> None:
        self.settings = settings
        self.run_dir = run_dir
        self.store = OnceStore(run_dir / SHARED)
        self.progress = ProgressWriter(run_dir / PROGRESS)
        self.comparer = Comparer(settings, self.store)
        self._files = GateFiles(settings)
        self._points: dict[str, tuple[SweepPoint, ...]] = {}
        self._sources: dict[str, RowSource] = {}
        self._needed: dict[str, set[int] | None] = {}
        self._fit = PresetFit(
            settings, presets=self._files.presets, points=self.points, base=self._base_config, asked_for=asked_for
        )
        self._new = NewData()
        self.decode = DecodeFigures(settings, points=self.points, source=self._source, new=self._new)
        self.texts = TextFigures(settings, run_dir=run_dir, store=self.store, base=self._base_config)
        self.consistency = ConsistencyFigures(settings, run_dir=run_dir, store=self.store, base=self._base_config)
        self.dumps = ScopeFigures(settings, store=self.store, files=self._files, new=self._new, progress=self.progress)

    @property
    def rule(self) -> str:
        return str(self.settings["rule"])

    def parameters(self, fixture: str, gate_dir: Path) -> list[tuple[Key, str]]:
        """Key and id of every item of one fixture, for the gate file in `gate_dir`."""
        if fixture == "h2o_sweep":
            return [(preset.name, preset.name) for preset in self._files.load_presets(gate_dir)]
        if fixture == "h2o_point":
            return [
                ((preset.name, place), f"{preset.name}-{point.run_id}")
                for preset in self._files.load_presets(gate_dir)
                for place, point in enumerate(self.points(preset))
            ]
        if fixture == "h2o_comparison":
            return self.comparer.parameters(self, gate_dir)
        scopes = self._files.load_scopes(gate_dir)
        if fixture == "h2o_lossless":
            scopes = [scope for scope in scopes if scope.entry_mode != "aggregate"]
        elif fixture == "h2o_upper_bound":
            scopes = [scope for scope in scopes if scope.entry_mode == "aggregate"]
        return [(scope.name, scope.name) for scope in scopes]

    def points(self, preset: Preset) -> tuple[SweepPoint, ...]:
        """All points of a preset, in their order."""
        if preset.name not in self._points:
            from pytest_h2o.points import expand_points

            self._points[preset.name] = expand_points(preset)
        return self._points[preset.name]

    def leave_out(self, selected: Collection[str]) -> Mapping[str, str]:
        """Check the presets that have selected items, and tell which of them are not run unless named: name -> why.

        Raises
        ------
        UsageError
            The recorded logs, the bench or the base config of a selected preset is not there.
        """
        for preset in (self._files.presets[name] for name in sorted(selected)):
            refuse_unmeasured(preset, takes_prompt=self._takes_prompt)
            if self.settings["bench"] is not None:
                bench_settings(self.settings, preset)
                self._base_config(preset)
            if self.settings["demo"] is not None:
                check_bench(self.settings["demo"], self.settings.origin("demo"))
        return self._fit.leave_out(selected)

    @property
    def _takes_prompt(self) -> bool:
        """Whether a prompt that a preset names is used, or nothing is run at all."""
        return self._fit.on_embedded or self.settings["bench"] is None or self.settings["demo"] is not None

    def _base_config(self, preset: Preset) -> BaseConfig:
        return choose_base_config(preset, self.settings.given["base-config"], embedded=self._fit.on_embedded)

    def _make_source(self, preset: Preset) -> RowSource:
        settings = self.settings
        if why := self._fit.why_of_another_bench(preset):
            return NoRows(preset, None, why)
        if settings["bench"] is not None:
            return LaunchedRows(
                self.needed_points(preset),
                base=self._base_config(preset),
                bench=bench_settings(settings, preset),
                folder=self.run_dir / preset.name,
                store=self.store,
                fold=not settings["no-fold"],
                progress=self.progress,
                other=other_build(settings, preset),
                again=settings["disturbed"] == "again" and self.decode.rests_on_rows(preset),
            )
        if settings["logs"] is not None:
            # Files of another bench say best themselves what they have in place of a preset.
            elsewhere = None if preset.bench == LLM_BENCH else settings["logs"]
            if folder := self._fit.recordings().get(preset.name, elsewhere):
                return RecordedRows(folder, self.points(preset))
        return NoRows(preset, settings["logs"])

    def note_selected(self, params: Sequence[dict[str, Any]]) -> None:
        """Learn which items will run: only their points are launched, folded among themselves."""
        for param in params:
            name = preset_of(param)
            if name is not None and "h2o_point" not in param:
                self._needed[name] = None
            elif name is not None:
                needed = self._needed.setdefault(name, set())
                if needed is not None:
                    needed.add(param["h2o_point"][1])

    def begin(self, nodeids: Sequence[str], params: Sequence[Mapping[str, Any]]) -> None:
        """Write down what this run is asked, before anything is measured; all its processes must be asked the same.

        Raises
        ------
        UsageError
            The run goes on with one that was asked something else, or its processes differ.
        StoreError
            The run folder cannot be written.
        """
        from pytest_h2o.asked import describe_asked, refuse_changes

        presets = [self._files.presets[name] for name in sorted({preset_of(param) or "" for param in params} - {""})]
        named = {scope_of(param) for param in params} - {None}
        scopes = [s for s in self._files.scopes.values() if s.name in named or (presets and s.decides)]
        launched = self.settings["bench"] is not None
        bases = [(preset, self._base_config(preset).path if launched else None) for preset in presets]
        now = describe_asked(self.settings, nodeids, bases, [(s, self.dumps.root(s)) for s in scopes])
        refuse_changes(self.store.once("asked", lambda: now), now, self.run_dir, self.settings.given["resume"])

    def needed_points(self, preset: Preset) -> tuple[SweepPoint, ...]:
        """The points that selected items ask for: all of them if any item is about the whole preset."""
        places, points = self._needed.get(preset.name), self.points(preset)
        return points if places is None else tuple(points[place] for place in sorted(places))

    def selected_presets(self) -> list[Preset]:
        """The presets that items which will run ask for."""
        return [preset for name, preset in sorted(self._files.presets.items()) if name in self._needed]

    def describe(self) -> list[str]:
        """Lines for the header: what is run or read, on what, the rule, and what figures are held against."""
        sources = {preset.name: self._source(preset) for preset in self.selected_presets()}
        head = describe_run(self.settings, self.run_dir, sources, self._fit.left_out)
        decode = [f"h2o: {text}" for text in self.decode.describe(self.selected_presets())]
        return [*head, *decode, *self.comparer.describe()]

    def announce(self) -> list[str]:
        """The header, and the plan of launches for whoever shows progress: once for all processes of the run."""
        try:
            return list(self.store.once(HEADER, self._announce)["lines"])
        except StoreError:  # that nothing can be kept is told when the first item has something to keep
            return self.describe()

    def _announce(self) -> dict[str, Any]:
        if not self.settings["dry-run"]:
            sources = [(preset, self._source(preset)) for preset in self.selected_presets()]
            self.progress.write_plan(plan_launches(self.settings, sources))
        return {"lines": self.describe()}

    def point_item(self, key: tuple[str, int]) -> PointItem:
        preset = self._files.presets[key[0]]
        targets = preset_targets(self.settings, preset, self.dumps.deciding_scope())
        return PointItem(self, preset, self.points(preset)[key[1]], targets)

    def sweep_item(self, name: str) -> SweepItem:
        preset = self._files.presets[name]
        return SweepItem(self, preset, preset_targets(self.settings, preset, self.dumps.deciding_scope()))

    def lossless_item(self, name: str) -> LosslessItem:
        scope = self._files.scopes[name]
        return LosslessItem(self, scope, scope_targets(self.settings, scope))

    def comparison_item(self, key: str) -> ComparisonItem:
        kind, _, name = key.partition(" ")
        return ComparisonItem(self, self.sweep_item(name) if kind == "preset" else self.lossless_item(name))

    def make_item(self, params: Mapping[str, Any]) -> GateItem:
        """The item that has these parameters, fixture -> key."""
        if "h2o_comparison" in params:
            return self.comparison_item(params["h2o_comparison"])
        if "h2o_point" in params:
            return self.point_item(params["h2o_point"])
        if "h2o_sweep" in params:
            return self.sweep_item(params["h2o_sweep"])
        return self.lossless_item(next(params[name] for name in SCOPE_FIXTURES if name in params))

    def result(self, preset: Preset, point: SweepPoint) -> PointResult:
        source = self._source(preset)
        try:
            result = source.result(point)
        except BenchError as error:
            if error.argv and error.returncode is not None:
                self._new.add_failed(preset, point, error.returncode, source.shared_run(point))
            raise
        self._new.add_point(preset, point, result)
        return result

    def notes(self, preset: Preset) -> tuple[str, ...]:
        unreachable = self._fit.why_out_of_reach(preset)
        return (*self._source(preset).notes, *([] if unreachable is None else [unreachable]))

    def _source(self, preset: Preset) -> RowSource:
        if preset.name not in self._sources:
            self._sources[preset.name] = self._make_source(preset)
        return self._sources[preset.name]

    def model_layers(self, preset: Preset) -> int | None:
        if preset.model_layers is not None:
            return preset.model_layers
        base = self._source(preset).base_config
        if base is None:
            return None
        from pytest_h2o.bench.config import layer_count

        return layer_count(base)

    def rows_folder(self, preset: Preset) -> Path | None:
        return self._source(preset).folder

    def bench_command(self, preset: Preset, point: SweepPoint) -> str | None:
        return self._source(preset).command(point)

    def fingerprint(self, preset: Preset, results: Sequence[PointResult]) -> dict[str, str | None]:
        return self.comparer.fingerprint(preset, results, self._source(preset).base_config)

    def take_new_data(self) -> dict[str, Any]:
        return self._new.take(self._fit.left_out)

    def remember_preset(self, preset: Preset, facts: dict[str, Any]) -> None:
        self._new.add_preset(preset, facts)

    def write_dry_run(self, preset: Preset) -> str:
        source = self._source(preset)
        return str(self.store.once(f"dry-run/{preset.name}", lambda: {"told": source.write_dry_run()})["told"])
