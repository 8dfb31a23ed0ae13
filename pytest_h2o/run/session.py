"""One gate run as one process sees it: presets, scopes, which items will run, and where their figures come from.

Everything is loaded when it is first needed and kept. What several processes need (a launched point, an evaluated
scope) goes through the run folder's `OnceStore`, so that it is made once whichever worker asks first.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_h2o import __version__
from pytest_h2o.bench.command import digest_program, is_embedded, program_command, program_files
from pytest_h2o.bench.machine import Place, describe_machine, heavy_work
from pytest_h2o.codecs.base import Rope
from pytest_h2o.errors import DumpError, NotMeasured, PresetError, StoreError, UsageError, make_printable
from pytest_h2o.files import list_files
from pytest_h2o.gate.metrics import METRICS
from pytest_h2o.gate.values import given_targets, preset_targets, refuse_unmeasured, scope_targets
from pytest_h2o.inputs.checking import LLM_BENCH
from pytest_h2o.inputs.options import Given, Settings
from pytest_h2o.run.history import describe_request, read_request
from pytest_h2o.run.pairs import describe_decode
from pytest_h2o.run.sources import (
    Launched,
    Missing,
    Recorded,
    Run,
    Source,
    bench_settings,
    check_bench,
    choose_base_config,
    choose_place,
    demo_prompts,
    points_out_of_reach,
    why_out_of_reach,
)
from pytest_h2o.run.store import HEADER, ITEMS, PROGRESS, Plan, read_board

if TYPE_CHECKING:
    from pytest_h2o.gate.values import Targets
    from pytest_h2o.inputs.presets import Point, Preset
    from pytest_h2o.inputs.scope import Scope
    from pytest_h2o.lossless.index import DumpIndex
    from pytest_h2o.lossless.result import LosslessResult
    from pytest_h2o.reference.policy import Reach


def scopes_beside(gate_dir: Path) -> Path:
    """The scope file beside a gate file, ``scopes.yaml`` or with another ending; PresetError if there are several."""
    found = [path for path in list_files(gate_dir).files if path.name.lower() in _SCOPE_FILES]
    if len(found) > 1:
        what, expected = "several scope files beside a gate file", "one of them, or --h2o-scopes FILE"
        raise PresetError(what, where=str(gate_dir), came=", ".join(path.name for path in found), expected=expected)
    return found[0] if found else gate_dir / "scopes.yaml"


_SCOPE_FILES = ("scopes.yaml", "scopes.yml", "scopes.json")


class Subject(NamedTuple):
    """What an item is about, and the parameter of its fixture: a preset, one of its workloads or points, or a scope."""

    kind: Literal["preset", "scope"]
    name: str
    point: int | None = None
    """Its place in the sweep."""
    workload: str = ""


def subject_of(params: Mapping[str, Any]) -> Subject | None:
    """The subject among the parameters of a gate item.

    None of the item that pytest makes of an empty list: no comparison is asked for, or no scope is such.
    """
    return next((value for value in params.values() if isinstance(value, Subject)), None)


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


class GateFiles:
    """The presets and scopes of all folders of gate files that were asked for, by name."""

    def __init__(self, settings: Settings) -> None:
        self.presets: dict[str, Preset] = {}
        self.scopes: dict[str, Scope] = {}
        self._settings = settings
        self._in_folder: dict[tuple[str, Path], list[str]] = {}

    def load_presets(self, gate_dir: Path) -> list[Preset]:
        """The presets beside a gate file, or those that the options name; PresetError with every fault."""
        from pytest_h2o.gate.values import target_ranges
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
            self._refuse_ambiguous()
            self._in_folder["presets", gate_dir] = sorted(preset.name for preset in presets)
            if self._settings["scopes"] is not None or os.path.lexists(scopes_beside(gate_dir)):
                self.load_scopes(gate_dir)  # one of them decides the lossless ratio of these presets
        return [self.presets[name] for name in self._in_folder["presets", gate_dir]]

    def _refuse_ambiguous(self) -> None:
        """A workload and another preset must not have one name: items and reports could not tell them apart."""
        rule = self._settings["rule"]
        parts = {f"{p.name}-{workload}": p for p in self.presets.values() for workload in p.workloads(rule)}
        for name in sorted(parts.keys() & self.presets.keys()):
            came, what = str(self.presets[name].path), f"{name} is a workload of the preset {parts[name].name}"
            raise PresetError(what, where=str(parts[name].path), came=came, expected="another name for that preset")

    def load_scopes(self, gate_dir: Path) -> list[Scope]:
        """The scopes beside a gate file, or those that the options name; PresetError with every fault."""
        from pytest_h2o.inputs.scopes import load_scopes, override

        if ("scopes", gate_dir) not in self._in_folder:
            scopes = load_scopes(self._settings["scopes"] or scopes_beside(gate_dir))
            _, mine = self._assignments()
            for scope in scopes:
                other = self.scopes.setdefault(scope.name, override(scope, *mine) if mine else scope)
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
        from pytest_h2o.inputs.scopes import ScopeKeys

        given = self._settings["set"] or ()
        refuse_unknown_settings(given, self._settings.origin("set"), (Preset, ScopeKeys))
        presets, scopes = share_assignments(given, (Preset, ScopeKeys))
        return presets, scopes


class GateSession:
    """Presets, scopes and their figures for one process of one run."""

    def __init__(self, settings: Settings, *, run_dir: Path, asked_for: tuple[str, ...] = ()) -> None:
        self.settings = settings
        self.run_dir = run_dir
        self.run = Run(settings, run_dir)
        self.request = read_request(settings)
        given_targets(settings)
        self.rule = str(settings["rule"])
        self.left_out: dict[str, str] = {}
        """Presets with selected items that are not run because nobody named them -> why."""
        self.not_asked: list[str] = []
        """A line for each preset and scope of which only some items will run, or none although it has a target."""
        self._files = GateFiles(settings)
        self.presets, self.scopes = self._files.presets, self._files.scopes
        self._asked_for = asked_for
        self._on_embedded = is_embedded(settings["bench"])
        self._selected: frozenset[str] = frozenset()
        self._needed: dict[str, set[int] | None] = {}
        self._needed_scopes: set[str] = set()
        self._timed: Collection[str] = ()
        self._said: Collection[str] = ()
        self._points: dict[str, tuple[Point, ...]] = {}
        self._far: dict[str, Mapping[str, Reach]] = {}
        self._sources: dict[str, Source] = {}
        self._evaluated: dict[str, LosslessResult] = {}
        self._indexed: DumpIndex | None = None

    # -- which items there are, and which will run --------------------

    def parameters(self, fixture: str, gate_dir: Path) -> list[tuple[Subject, str]]:
        """Subject and id of every item of one fixture, for the gate file in `gate_dir`."""
        if fixture == "h2o_point":
            return [
                (Subject("preset", preset.name, point.index - 1), f"{preset.name}-{point.run_id}")
                for preset in self._files.load_presets(gate_dir)
                for point in self.in_order_of_launches(preset)
            ]
        presets: Sequence[Preset] = ()
        scopes: Sequence[Scope] = ()
        if fixture == "h2o_comparison":
            if self.request.compare is not None:
                if self.settings["presets"] or os.path.lexists(gate_dir / "presets"):
                    presets = self._files.load_presets(gate_dir)
                if self.settings["scopes"] or os.path.lexists(scopes_beside(gate_dir)):
                    scopes = self._files.load_scopes(gate_dir)
        elif fixture in ("h2o_sweep", "h2o_health"):
            presets = self._files.load_presets(gate_dir)
            asking = [p for p in presets if fixture == "h2o_sweep" or self.targets(p).of_every_row]
            subjects = [Subject("preset", p.name, workload=w) for p in asking for w in p.workloads(self.rule) or ("",)]
            return [(subject, "-".join(filter(None, (subject.name, subject.workload)))) for subject in subjects]
        elif fixture == "h2o_preset":
            presets = self._files.load_presets(gate_dir)
        elif fixture == "h2o_demo":
            if self.settings["demo"] is not None:
                presets = [preset for preset in self._files.load_presets(gate_dir) if preset.bench == LLM_BENCH]
        else:
            wanted = {"h2o_lossless": (False,), "h2o_upper_bound": (True,)}.get(fixture, (False, True))
            scopes = [s for s in self._files.load_scopes(gate_dir) if (s.entry_mode == "aggregate") in wanted]
        subjects = [*(Subject("preset", p.name) for p in presets), *(Subject("scope", s.name) for s in scopes)]
        return [(subject, subject.name) for subject in subjects]

    def targets(self, preset: Preset) -> Targets:
        """What is asked of a preset."""
        return preset_targets(self.settings, preset, self.deciding_scope())

    def points(self, preset: Preset) -> tuple[Point, ...]:
        """All points of a preset, in their order."""
        if preset.name not in self._points:
            from pytest_h2o.inputs.presets import expand_points

            self._points[preset.name] = expand_points(preset)
        return self._points[preset.name]

    def out_of_reach(self, preset: Preset) -> Mapping[str, Reach]:
        """Run id -> the most that it comes to, of the points that cannot meet their lossy target by arithmetic."""
        if preset.name not in self._far:
            self._far[preset.name] = points_out_of_reach(self.settings, preset, self.points(preset))
        return self._far[preset.name]

    def in_order_of_launches(self, preset: Preset) -> list[Point]:
        """Its points; those that cannot meet their lossy target last, where anything is launched."""
        far = {} if self.settings["bench"] is None else self.out_of_reach(preset)
        return sorted(self.points(preset), key=lambda point: point.run_id in far)

    def not_launched(self, preset: Preset) -> Mapping[str, str]:
        """Run id -> why, of the points that --h2o-fast leaves out.

        It leaves none out where any row may have the best of a column, or where each must hold a target.
        """
        if not self.settings["fast"] or self._why_not_fast(preset):
            return {}
        target = self.targets(preset).lossy
        return {
            run_id: f"cannot reach a lossy ratio of {target!r} ({reach.render(target.value or 0.0)})"
            for run_id, reach in self.out_of_reach(preset).items()
        }

    def _why_not_fast(self, preset: Preset) -> str:
        every = ", ".join(target.metric for target in self.targets(preset).of_every_row)
        return f"every row must hold a target of {every}" if every else "the rule is best-of" * (self.rule == "best-of")

    def describe_not_launched(self, preset: Preset) -> str | None:
        """What --h2o-fast leaves out of a preset, or why it leaves out nothing; None where all is in reach."""
        far = self.out_of_reach(preset) if self.settings["fast"] else {}
        if not far:
            return None
        count, why = f"{len(far)} of {len(self.points(preset))} points", self._why_not_fast(preset)
        if why:
            return f"all points are launched, also the {count} that cannot meet their lossy target: {why}"
        target, best = self.targets(preset).lossy, max(far.values(), key=lambda reach: reach.lossy)
        lossy = f"cannot reach a lossy ratio of {target!r} ({best.render(target.value or 0.0)})"
        return f"{count} are not launched (--h2o-fast): they {lossy}"

    def leave_out(self, selected: Collection[str]) -> Mapping[str, str]:
        """Check the presets that have selected items, and tell which of them are not run unless named: name -> why.

        Where that would be all, none is left out: then their items fail and say so.
        """
        settings = self.settings
        takes_prompt = self._on_embedded or settings["bench"] is None or settings["demo"] is not None
        for preset in (self.presets[name] for name in sorted(selected)):
            refuse_unmeasured(preset, takes_prompt=takes_prompt)
            if settings["bench"] is not None:
                for option in ("bench", "baseline-bench"):
                    if settings[option] is not None:
                        bench_settings(settings, preset, option)
                choose_base_config(settings, preset)
            if settings["demo"] is not None:
                check_bench(settings["demo"], settings.origin("demo"), "llm_demo", choose_place(settings, preset))
                demo_prompts(settings, preset)
        self._refuse_unasked(selected)
        self._selected = frozenset(selected)
        unfit = {name: why for name in sorted(selected) if (why := self._why_unfit(self.presets[name]))}
        if len(unfit) < len(selected):
            self.left_out = {name: why for name, why in unfit.items() if not self._is_asked_for(name)}
        return self.left_out

    def _refuse_unasked(self, selected: Collection[str]) -> None:
        """Refuse a target on the command line that no selected preset can be held to: silence would be a pass."""
        asked = [self.targets(self.presets[name]) for name in selected]
        for name, given in given_targets(self.settings).items():
            held = METRICS[name].of != "row" or any(targets.metric(name).value is not None for targets in asked)
            if given.on_command_line and asked and not held:
                raise UsageError(
                    f"{given.origin} asks for {METRICS[name].title}, and no selected preset measures it",
                    came=f"{name}={given.value:g}, for {', '.join(sorted(selected))}",
                    hint=f"{asked[0].metric(name).origin}: select another preset, or leave the option out",
                )

    def _why_unfit(self, preset: Preset) -> str | None:
        here = "embedded" if self._on_embedded else "own_bench"
        if self.settings["bench"] is not None and preset.default_on not in ("any_bench", here):
            return "run by name"
        if self._on_embedded:
            return self._why_of_another_bench(preset) or why_out_of_reach(self.settings, preset, self.points(preset))
        if self.settings["logs"] is not None and preset.name not in self._recorded:
            return "no recording"
        return None

    def _why_of_another_bench(self, preset: Preset) -> str | None:
        """Why the embedded bench cannot run a preset; None if it can, or another bench is run."""
        return f"the embedded bench is no {preset.bench}" if self._on_embedded and preset.bench != LLM_BENCH else None

    @cached_property
    def _recorded(self) -> Mapping[str, Path]:
        """Presets that the recorded logs hold, and where."""
        from pytest_h2o.bench.recorded import find_recordings

        presets = list(self.presets.values())
        selected = [preset for preset in presets if preset.name in self._selected]
        return find_recordings(self.settings["logs"], presets, selected)

    def _is_asked_for(self, name: str) -> bool:
        lowered = name.lower()
        return self.settings.given["presets"].on_command_line or any(
            word in lowered or word.startswith(f"{lowered}-") for word in self._asked_for
        )

    def note_selected(
        self, subjects: Iterable[Subject], timed: Collection[str] = (), said: Collection[str] = ()
    ) -> None:
        """Learn what items will run: only their points are launched, folded among themselves.

        `timed` are the presets of which an item asks for the decode verdict, `said` those that llm_demo is run for.
        """
        self._timed, self._said = frozenset(timed), frozenset(said)
        for subject in subjects:
            if subject.kind == "preset" and subject.point is None and not subject.workload:
                self._needed[subject.name] = None
            elif subject.kind == "preset":
                needed = self._needed.setdefault(subject.name, set())
                points = self.points(self.presets[subject.name])
                of_it = {place for place, point in enumerate(points) if subject.workload == point.workload}
                if needed is not None:
                    needed |= of_it if subject.point is None else {subject.point}
            else:
                self._needed_scopes.add(subject.name)

    def note_not_asked(self, left: Sequence[tuple[str, Subject]]) -> None:
        """Learn which items of the gate files will not run: the function of each, and what it is about."""
        tests: dict[tuple[str, str], Counter[str]] = {}
        for function, subject in left:
            if self._must_be_whole(subject):
                names = tests.setdefault((subject.kind, subject.name), Counter())
                names[function.rpartition("::")[2]] += 1
        self.not_asked = [
            f"{kind} {name}: not asked: "
            + ", ".join(test if count == 1 else f"{test} ({count} items)" for test, count in sorted(counts.items()))
            for (kind, name), counts in sorted(tests.items())
        ]
        for name in sorted(self._needed):
            if self.not_launched(self.presets[name]):
                self.not_asked.append(f"preset {name}: {self.describe_not_launched(self.presets[name])}")

    def _must_be_whole(self, subject: Subject) -> bool:
        """Whether items of a preset or scope will run; of a scope also whether it has a target. See `report.build`."""
        if subject.kind == "preset":
            return subject.name in self._needed
        scope = self.scopes[subject.name]
        has_target = scope_targets(self.settings, scope).lossless.value is not None
        return subject.name in self._needed_scopes or (has_target and not scope.decides)

    def begin(self, nodeids: Sequence[str], subjects: Sequence[Subject], code: Iterable[Path] = ()) -> None:
        """Write down what this run is asked, before anything is measured; all its processes must be asked the same.

        `code`: gate files, and what else of the user's code has a part in their items.
        """
        from pytest_h2o.run.store import ASKED, describe_asked, refuse_changes

        presets = [self.presets[name] for name in sorted({s.name for s in subjects if s.kind == "preset"})]
        named = {s.name for s in subjects if s.kind == "scope"}
        scopes = [s for s in self.scopes.values() if s.name in named or (presets and s.decides)]
        if scopes and self.settings["dump-dir"] is not None:
            self._check_dump(self.settings.given["dump-dir"])
        launched = self.settings["bench"] is not None
        bases = [
            (
                preset,
                choose_base_config(self.settings, preset) if launched else None,
                choose_place(self.settings, preset),
            )
            for preset in presets
        ]
        now = describe_asked(self.settings, nodeids, bases, [(s, self.root(s)) for s in scopes], code)
        if (self.run_dir / "run.json").exists():
            return  # a worker that took the place of one that died, and came when the run had ended
        refuse_changes(self.run.store.once(ASKED, lambda: now), now, self.run_dir, self.settings.given["resume"])

    def note_items(self, about: Mapping[str, Subject]) -> None:
        """Write down which items will run, by node id: of one whose worker dies, or that is kept from it, it tells."""
        if not (self.run_dir / "run.json").exists():
            self.run.store.once(ITEMS, lambda: {"items": {nodeid: [s.kind, s.name] for nodeid, s in about.items()}})

    @staticmethod
    def _check_dump(given: Given) -> None:
        """Refuse a dump that is none before anything runs: it stands for those of all scopes."""
        from pytest_h2o.lossless.index import check_dump

        try:
            check_dump(given.value)
        except DumpError as error:
            error.where = f"{given.origin} {error.where}"
            raise

    # -- the head of the run --------------------

    def selected_sources(self) -> list[Source]:
        """The source of each preset that items which will run ask for."""
        return [self.source(preset) for name, preset in sorted(self.presets.items()) if name in self._needed]

    def describe(self) -> list[str]:
        """The head of the run: what is run or read, of what model and where, the rule, what it is held against."""
        settings, sources = self.settings, self.selected_sources()
        unknown = settings["bench"] is None and settings["logs"] is not None
        known = " (where the logs were recorded is not known)" if unknown else ""
        places = dict.fromkeys(source.place for source in sources) or {None: None}
        models = dict.fromkeys(f"model {source.model}" for source in sources if source.model)
        machines = [describe_machine() + known if place is None else place.machine for place in places]
        benches = dict.fromkeys(_describe_bench(settings, place) for place in places)
        lines = [*benches, *models, *(f"machine {machine}" for machine in machines)]
        lines.append(f"rule {self.rule}, artifacts in {self.run_dir}")
        for why in dict.fromkeys(self.left_out.values()):
            names = ", ".join(name for name in sorted(self.left_out) if self.left_out[name] == why)
            lines.append(f"not measured and left out: {names} ({why}; -k NAME asks for one)")
        lines = [make_printable(line) for line in lines]
        lines += describe_decode(settings, [source.preset for source in sources])
        flagged: dict[str, list[str]] = {}
        for source in sources:
            target = self.targets(source.preset).decode_drop.value
            fast = filter(None, [self.describe_not_launched(source.preset)])
            for text in (*source.remarks, *source.flag_target(target), *fast):
                flagged.setdefault(text, []).append(source.preset.name)
        lines += [f"{', '.join(names)}: {text}" for text, names in flagged.items()]
        return [f"h2o: {line}" for line in (*lines, *describe_request(self.request, settings))]

    def announce(self) -> list[str]:
        """The head, and the plan of launches for whoever shows progress: once for all processes of the run."""

        def first() -> dict[str, Any]:
            if not self.settings["dry-run"]:
                self.run.progress.write_plan(self._plan())
            return {"lines": self.describe()}

        try:
            lines = list(self.run.store.once(HEADER, first)["lines"])
        except StoreError:  # that nothing can be kept is told when the first item has something to keep
            lines = self.describe()
        if self.settings["resume"] is not None:
            made = sum(map(len, read_board(self.run_dir / PROGRESS).spent_s.values()))
            lines.append(
                f"h2o: goes on with {self.run_dir.name}: {made} steps were made, sound ones are not made again"
            )
        return lines

    def _plan(self) -> list[Plan]:
        named = {source.preset.name: source for source in self.selected_sources()}
        plans = (source.plan(timed=name in self._timed, said=name in self._said) for name, source in named.items())
        return [plan for each in plans for plan in each]

    # -- figures --------------------

    def source(self, preset: Preset) -> Source:
        """Where the figures of a preset come from."""
        if preset.name not in self._sources:
            self._sources[preset.name] = self._make_source(preset)
        return self._sources[preset.name]

    def _make_source(self, preset: Preset) -> Source:
        bench, logs = self.settings["bench"], self.settings["logs"]
        if why := self._why_of_another_bench(preset):
            return Missing(self.run, preset, None, why)
        if bench is not None:
            places, left = self._needed.get(preset.name), self.not_launched(preset)
            points = (point for point in self.in_order_of_launches(preset) if point.run_id not in left)
            needed = tuple(point for point in points if places is None or point.index - 1 in places)
            return Launched(self.run, preset, needed, self.run_dir / preset.name)
        if logs is not None:
            # Files of another bench say best themselves what they have in place of a preset.
            elsewhere = None if preset.bench == LLM_BENCH else logs
            if folder := self._recorded.get(preset.name, elsewhere):
                return Recorded(self.run, preset, self.points(preset), folder)
        return Missing(self.run, preset, logs)

    def write_dry_run(self, preset: Preset) -> str:
        """Write configs and the list of runs of a preset, run nothing, and say where they are."""
        source = self.source(preset)
        return str(self.run.store.once(f"dry-run/{preset.name}", lambda: {"told": source.write_dry_run()})["told"])

    def deciding_scope(self) -> Scope | None:
        return next((scope for scope in self.scopes.values() if scope.decides), None)

    def deciding_ratio(self) -> float:
        """Lossless ratio of the scope that decides. NotMeasured if there is none."""
        scope = self.deciding_scope()
        if scope is None:
            raise NotMeasured(
                "no scope decides the lossless ratio",
                expected="a scope with decides: true in scopes.yaml beside the gate file",
                hint="name the file with --h2o-scopes FILE",
            )
        return self.evaluate(scope).lossless_ratio

    def evaluate(self, scope: Scope) -> LosslessResult:
        """Encode, decode and compare a scope. DumpError if entries cannot be read and skips are not allowed."""
        from pytest_h2o.lossless.result import LosslessResult, refuse

        allow_skips = scope.allow_skips or self.settings["allow-skips"]
        if scope.name not in self._evaluated:
            result = self.run.store.keep(f"scope/{scope.name}", LosslessResult, lambda: self._encode(scope))
            self._evaluated[scope.name] = result
            self.run.new.add_scope(scope, scope_targets(self.settings, scope), result, allow_skips=allow_skips)
        refuse(self._evaluated[scope.name], scope.name, allow_skips=allow_skips)
        return self._evaluated[scope.name]

    def _encode(self, scope: Scope) -> LosslessResult:
        from pytest_h2o.lossless.evaluate import evaluate_lossless
        from pytest_h2o.lossless.index import index_dump

        root, progress = self.root(scope), self.run.progress
        if self._indexed is None or self._indexed.root != str(root):
            try:
                self._indexed = index_dump(root, sized=False)  # most scopes of a file are of one dump
            except DumpError as error:
                if not root.exists():
                    error.hint = "set root: of the scope in scopes.yaml to the dump, or name it: --h2o-dump-dir PATH"
                raise
        with progress.step(scope.name, "coded and decoded"), heavy_work(progress.wait):
            return evaluate_lossless(
                root,
                scope,
                verify=True,
                rope=find_rope(scope, self.settings.given["base-config"]),
                executor=self.settings["executor"],
                index=self._indexed,
                progress=progress.amount,
                limit_s=self.settings["codec-timeout"],
            )

    def root(self, scope: Scope) -> Path:
        """Folder or archive that the scope reads."""
        root: Path = self.settings["dump-dir"] or scope.root
        return root


def _describe_bench(settings: Settings, place: Place | None = None) -> str:
    bench = settings["bench"]
    if bench is not None:
        from pytest_h2o.bench.launch import ask_version

        named, said = bench, "tells no version"
        if is_embedded(bench):
            named, said = "the embedded reference bench", f"version: {__version__}"
        elif (version := ask_version(program_command(bench), place)) is not None:
            said = f"version: {version}"
        loaded = [] if is_embedded(bench) else [path.name for path in program_files(bench)[1:]]
        beside = f" with {', '.join(loaded)}" if loaded else ""
        digest = digest_program(bench) if place is None else place.digest_program(bench)
        return f"bench {named} ({settings.origin('bench')}), sha256 {digest[:16]}{beside}, {said}"
    if settings["logs"] is not None:
        return f"recorded logs in {settings['logs']} ({settings.origin('logs')}); nothing is run"
    return "neither a bench nor recorded logs: sweep items cannot be measured"


def find_rope(scope: Scope, base_config: Given) -> Rope | None:
    """The rotation that the scope names, or the model's own config; None where codecs have to find out."""
    if scope.rope is not None:
        return Rope(scope.rope.theta, scope.rope.pairing)
    if base_config.value is None:
        return None
    from pytest_h2o.bench.command import read_base_config, rope_theta

    theta = rope_theta(read_base_config(base_config.value, base_config.origin))
    return None if theta is None else Rope(theta)
