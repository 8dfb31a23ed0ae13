"""One gate run as one process sees it: presets, scopes and where their figures come from.

Everything is loaded when it is first needed and kept. What several processes need (a launched point, an evaluated
scope) goes through the run folder's `OnceStore`, so that it is made once whichever worker asks first.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_h2o.bench.embedded import is_embedded
from pytest_h2o.errors import BenchError, H2OError, NotMeasured, PresetError, StoreError
from pytest_h2o.gate.targets import preset_targets, refuse_unmeasured, scope_targets
from pytest_h2o.inputs.checking import LLM_BENCH
from pytest_h2o.inputs.options import Settings
from pytest_h2o.run.history import Comparer
from pytest_h2o.run.journal import NewData
from pytest_h2o.run.launching import (
    bench_settings,
    check_bench,
    choose_base_config,
    choose_baseline,
    decode_budget,
    other_build,
)
from pytest_h2o.run.pairs import decode_step
from pytest_h2o.run.progress import Plan, ProgressWriter
from pytest_h2o.run.sources import (
    ConsistencyFigures,
    DecodeFigures,
    LaunchedRows,
    NoRows,
    RecordedRows,
    RowSource,
    TextFigures,
    find_recordings,
)
from pytest_h2o.run.store import HEADER, PROGRESS, SHARED, OnceStore, keep_error, kept_value

if TYPE_CHECKING:
    from pytest_h2o.bench.config import BaseConfig
    from pytest_h2o.bench.rows import Row
    from pytest_h2o.gate.values import Target
    from pytest_h2o.inputs.presets import Point, Preset
    from pytest_h2o.inputs.scopes import Scope
    from pytest_h2o.lossless.result import LosslessResult


class GateFiles:
    """The presets and scopes of all folders of gate files that were asked for, by name."""

    def __init__(self, settings: Settings) -> None:
        self.presets: dict[str, Preset] = {}
        self.scopes: dict[str, Scope] = {}
        self._settings = settings
        self._in_folder: dict[tuple[str, Path], list[str]] = {}

    def load_presets(self, gate_dir: Path) -> list[Preset]:
        """The presets beside a gate file, or those that the options name; PresetError with every fault."""
        from pytest_h2o.gate.targets import target_ranges
        from pytest_h2o.inputs.presets import load_presets

        places = self._settings["presets"] or (gate_dir / "presets",)
        if ("presets", gate_dir) not in self._in_folder:
            metrics = target_ranges()
            presets = load_presets(places, metrics)
            mine, _ = self._assignments()
            for preset in presets:
                changed = preset.override(*mine, metrics=metrics) if mine else preset
                other = self.presets.setdefault(preset.name, changed)
                if other.path != preset.path:
                    raise PresetError(f"two presets are called {preset.name}", where=f"{other.path} and {preset.path}")
            self._in_folder["presets", gate_dir] = sorted(preset.name for preset in presets)
            if self._settings["scopes"] is not None or (gate_dir / "scopes.yaml").is_file():
                self.load_scopes(gate_dir)  # one of them decides the lossless ratio of these presets
        return [self.presets[name] for name in self._in_folder["presets", gate_dir]]

    def load_scopes(self, gate_dir: Path) -> list[Scope]:
        """The scopes beside a gate file, or those that the options name; PresetError with every fault."""
        from pytest_h2o.inputs.scopes import load_scopes

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
        from pytest_h2o.inputs.checking import refuse_unknown_settings, share_assignments
        from pytest_h2o.inputs.presets import Preset
        from pytest_h2o.inputs.scopes import Scope

        given = self._settings["set"] or ()
        refuse_unknown_settings(given, self._settings.origin("set"), (Preset, Scope))
        presets, scopes = share_assignments(given, (Preset, Scope))
        return presets, scopes


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
        points: Callable[[Preset], tuple[Point, ...]],
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


def names_asked_for(keyword: str, arguments: Iterable[str]) -> tuple[str, ...]:
    """Give the words of a ``-k`` expression that are not negated, and the parameter ids of node ids; in lower case.

    A word behind ``not`` does not ask for anything, nor do those in parentheses behind it.
    """
    words: list[str] = []
    negated, denied_depth = False, 0
    for token in re.findall(r"[()]|[^\s()]+", keyword.lower()):
        if token == "(":
            denied_depth += bool(denied_depth or negated)
        elif token == ")":
            denied_depth -= bool(denied_depth)
        elif token not in ("and", "or", "not") and not negated and not denied_depth:
            words.append(token)
        negated = token == "not"
    ids = (argument.split("::", 1)[1] for argument in arguments if "::" in argument)
    return (*words, *(name.split("[", 1)[1].rstrip("]").lower() for name in ids if "[" in name))


class Subject(NamedTuple):
    """What an item is about, and the parameter of its fixture: a preset, one point of it by its place, or a scope."""

    kind: Literal["preset", "scope"]
    name: str
    point: int | None = None


def subject_of(params: Mapping[str, Any]) -> Subject | None:
    """The subject among the parameters of a gate item.

    None of the item that pytest makes of an empty list: no comparison is asked for, or no scope is such.
    """
    return next((value for value in params.values() if isinstance(value, Subject)), None)


class ScopeFigures:
    """Answers for the dumps: each scope evaluated once, whichever process asks first."""

    def __init__(
        self, settings: Settings, *, store: OnceStore, files: GateFiles, new: NewData, progress: ProgressWriter
    ) -> None:
        self._settings = settings
        self._store = store
        self._files = files
        self._new = new
        self._progress = progress
        self._evaluated: dict[str, LosslessResult] = {}

    def deciding_scope(self) -> Scope | None:
        return next((scope for scope in self._files.scopes.values() if scope.decides), None)

    def deciding_ratio(self) -> float:
        scope = self.deciding_scope()
        if scope is None:
            raise NotMeasured(
                "no scope decides the lossless ratio",
                expected="a scope with decides: true in scopes.yaml beside the gate file",
                hint="name the file with --h2o-scopes FILE",
            )
        return self.evaluate(scope).lossless_ratio

    def evaluate(self, scope: Scope) -> LosslessResult:
        from pytest_h2o.lossless.result import LosslessResult, refuse_skips

        allow_skips = scope.allow_skips or self._settings["allow-skips"]
        if scope.name not in self._evaluated:
            kept = self._store.once(f"scope/{scope.name}", keep_error(lambda: self._encode(scope)))
            self._evaluated[scope.name] = LosslessResult.from_json(kept_value(kept), scope.name)
            targets = scope_targets(self._settings, scope)
            self._new.add_scope(scope, targets, self._evaluated[scope.name], allow_skips=allow_skips)
        result = self._evaluated[scope.name]
        if not allow_skips:
            refuse_skips(result, scope.name)
        return result

    def _encode(self, scope: Scope) -> dict[str, Any]:
        from pytest_h2o.bench.machine import heavy_work
        from pytest_h2o.lossless.evaluate import evaluate_lossless
        from pytest_h2o.lossless.plan import LosslessSettings
        from pytest_h2o.run.launching import find_rope

        settings = LosslessSettings(
            **{field.name: getattr(scope, field.name) for field in dataclasses.fields(LosslessSettings)}
        )
        rope = find_rope(scope, self._settings.given["base-config"])
        root, executor, progress = self.root(scope), self._settings["executor"], self._progress
        with progress.step(scope.name, "coded and decoded"), heavy_work(progress.wait):
            return evaluate_lossless(
                root, settings, verify=True, rope=rope, executor=executor, progress=progress.amount
            ).to_json()

    def root(self, scope: Scope) -> Path:
        root: Path = self._settings["dump-dir"] or scope.root
        return root


class GateSession:
    """Presets, scopes and their figures for one process of one run."""

    def __init__(self, settings: Settings, *, run_dir: Path, asked_for: tuple[str, ...] = ()) -> None:
        self.settings = settings
        self.run_dir = run_dir
        self.store = OnceStore(run_dir / SHARED)
        self.progress = ProgressWriter(run_dir / PROGRESS)
        self.comparer = Comparer(settings, self.store)
        self._files = GateFiles(settings)
        self.presets, self.scopes = self._files.presets, self._files.scopes
        self._points: dict[str, tuple[Point, ...]] = {}
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

    def parameters(self, fixture: str, gate_dir: Path) -> list[tuple[Subject, str]]:
        """Subject and id of every item of one fixture, for the gate file in `gate_dir`."""
        if fixture == "h2o_point":
            return [
                (Subject("preset", preset.name, place), f"{preset.name}-{point.run_id}")
                for preset in self._files.load_presets(gate_dir)
                for place, point in enumerate(self.points(preset))
            ]
        presets: Sequence[Preset] = ()
        scopes: Sequence[Scope] = ()
        if fixture == "h2o_comparison":
            if self.comparer.request.compare is not None:
                if self.settings["presets"] or (gate_dir / "presets").exists():
                    presets = self._files.load_presets(gate_dir)
                if self.settings["scopes"] or (gate_dir / "scopes.yaml").exists():
                    scopes = self._files.load_scopes(gate_dir)
        elif fixture == "h2o_sweep":
            presets = self._files.load_presets(gate_dir)
        else:
            wanted = {"h2o_lossless": (False,), "h2o_upper_bound": (True,)}.get(fixture, (False, True))
            scopes = [s for s in self._files.load_scopes(gate_dir) if (s.entry_mode == "aggregate") in wanted]
        subjects = [*(Subject("preset", p.name) for p in presets), *(Subject("scope", s.name) for s in scopes)]
        return [(subject, subject.name) for subject in subjects]

    def points(self, preset: Preset) -> tuple[Point, ...]:
        """All points of a preset, in their order."""
        if preset.name not in self._points:
            from pytest_h2o.inputs.presets import expand_points

            self._points[preset.name] = expand_points(preset)
        return self._points[preset.name]

    def leave_out(self, selected: Collection[str]) -> Mapping[str, str]:
        """Check the presets that have selected items, and tell which of them are not run unless named: name -> why."""
        for preset in (self.presets[name] for name in sorted(selected)):
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

    def note_selected(self, subjects: Iterable[Subject]) -> None:
        """Learn what items will run: only their points are launched, folded among themselves."""
        for subject in subjects:
            if subject.kind == "preset" and subject.point is None:
                self._needed[subject.name] = None
            elif subject.kind == "preset":
                needed = self._needed.setdefault(subject.name, set())
                if needed is not None and subject.point is not None:
                    needed.add(subject.point)

    def begin(self, nodeids: Sequence[str], subjects: Sequence[Subject]) -> None:
        """Write down what this run is asked, before anything is measured; all its processes must be asked the same."""
        from pytest_h2o.run.resume import describe_asked, refuse_changes

        presets = [self.presets[name] for name in sorted({s.name for s in subjects if s.kind == "preset"})]
        named = {s.name for s in subjects if s.kind == "scope"}
        scopes = [s for s in self.scopes.values() if s.name in named or (presets and s.decides)]
        launched = self.settings["bench"] is not None
        bases = [(preset, self._base_config(preset).path if launched else None) for preset in presets]
        now = describe_asked(self.settings, nodeids, bases, [(s, self.dumps.root(s)) for s in scopes])
        refuse_changes(self.store.once("asked", lambda: now), now, self.run_dir, self.settings.given["resume"])

    def needed_points(self, preset: Preset) -> tuple[Point, ...]:
        """The points that selected items ask for: all of them if any item is about the whole preset."""
        places, points = self._needed.get(preset.name), self.points(preset)
        return points if places is None else tuple(points[place] for place in sorted(places))

    def selected_presets(self) -> list[Preset]:
        """The presets that items which will run ask for."""
        return [preset for name, preset in sorted(self.presets.items()) if name in self._needed]

    def selected_sources(self) -> dict[str, RowSource]:
        """Where the rows of each preset that will be measured come from."""
        return {preset.name: self._source(preset) for preset in self.selected_presets()}

    @property
    def left_out(self) -> Mapping[str, str]:
        """Presets with selected items that are not run because nobody named them -> why."""
        return self._fit.left_out

    def describe_references(self) -> list[str]:
        """Lines for the header: what decode speeds and figures are held against."""
        decode = [f"h2o: {text}" for text in self.decode.describe(self.selected_presets())]
        return [*decode, *self.comparer.describe()]

    def announce(self, describe: Callable[[GateSession], list[str]]) -> list[str]:
        """The header, and the plan of launches for whoever shows progress: once for all processes of the run."""

        def first() -> dict[str, Any]:
            if not self.settings["dry-run"]:
                sources = [(preset, self._source(preset)) for preset in self.selected_presets()]
                self.progress.write_plan(plan_launches(self.settings, sources))
            return {"lines": describe(self)}

        try:
            return list(self.store.once(HEADER, first)["lines"])
        except StoreError:  # that nothing can be kept is told when the first item has something to keep
            return describe(self)

    def result(self, preset: Preset, point: Point) -> Row:
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

    def bench_command(self, preset: Preset, point: Point) -> str | None:
        return self._source(preset).command(point)

    def fingerprint(self, preset: Preset, results: Sequence[Row]) -> dict[str, str | None]:
        return self.comparer.fingerprint(preset, results, self._source(preset).base_config)

    def take_new_data(self) -> dict[str, Any]:
        return self._new.take(self._fit.left_out)

    def remember_preset(self, preset: Preset, facts: dict[str, Any]) -> None:
        self._new.add_preset(preset, facts)

    def write_dry_run(self, preset: Preset) -> str:
        source = self._source(preset)
        return str(self.store.once(f"dry-run/{preset.name}", lambda: {"told": source.write_dry_run()})["told"])


def why_out_of_reach(base: BaseConfig, points: Sequence[Point], lossy: Target) -> str | None:
    """Why no point can meet a lossy target on the model of a base config; None if one can, or nothing is asked.

    A model that cannot be read is no reason: the bench itself says what is wrong with it when it is launched.
    """
    from pytest_h2o.reference.gguf import GgufFile
    from pytest_h2o.reference.policy import best_lossy

    if lossy.value is None:
        return None
    try:
        hyper = GgufFile(base.base_dir / str(base.values.get("llm_model", "llm.mnn"))).hyper
    except H2OError:
        return None
    best = best_lossy(points, token_bytes=2 * 2 * hyper.kv_heads * hyper.head_dim, context=hyper.context)
    if best >= lossy.value:
        return None
    return f"out of reach: whole blocks and protected tokens leave a lossy ratio of at most {best:.3f}"


def plan_launches(settings: Settings, sources: Sequence[tuple[Preset, RowSource]]) -> list[Plan]:
    """How many launches each preset takes, and its decode verdict at most."""
    plan = []
    for preset, source in sources:
        if source.planned_runs:
            plan.append(Plan(preset.name, source.planned_runs))
            if choose_baseline(settings, preset).value == "paired":
                budget = decode_budget(settings, preset)
                plan.append(Plan(decode_step(preset.name), 2 * budget.pairs, budget.elapsed_s))
    return plan
