"""Where the figures of a preset come from: a bench that is launched, logs that were recorded, or nowhere.

A source is the whole answer for one preset: its rows, the pairs of its decode verdict, texts, the bench's own lossless
sizes, and what there is to say beside them. What is measured is made once for all processes of the run.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_h2o.bench.adapter import ESTIMATE_SLACK, check_decoded, get_adapter
from pytest_h2o.bench.command import (
    ADDED_KEYS,
    RunFiles,
    again_folder,
    coding_mode,
    digest_model,
    digest_program,
    embedded_base_config,
    is_asynchronous,
    is_embedded,
)
from pytest_h2o.bench.machine import Place, describe_machine
from pytest_h2o.bench.output import first_cause
from pytest_h2o.bench.rows import Row, read_rows
from pytest_h2o.errors import (
    BenchError,
    DumpError,
    H2OError,
    NotMeasured,
    OptedOut,
    StoreError,
    UsageError,
    one_line,
)
from pytest_h2o.files import check_regular, digest_file, load, plain, write_new_json
from pytest_h2o.gate.compare import preset_fingerprint
from pytest_h2o.gate.decode import PAIRS_NAME, PairedComparison, decode_folder, pairs_key
from pytest_h2o.gate.demo import DemoComparison, DemoPair, plan_prompts
from pytest_h2o.gate.metrics import DROP, METRICS, inexact_metrics
from pytest_h2o.gate.rule import why_untimed
from pytest_h2o.gate.values import check_launches, preset_targets
from pytest_h2o.inputs.checking import LLM_BENCH
from pytest_h2o.inputs.options import MAX_DECODE_PAIRS, Given, Settings, parse_baseline, parse_launcher
from pytest_h2o.inputs.presets import configuration
from pytest_h2o.run.history import read_request, rolling_runs
from pytest_h2o.run.journal import NewData
from pytest_h2o.run.pairs import (
    OTHER_BUILD,
    Baseline,
    Held,
    PairRunner,
    calibration_path,
    choose_baseline,
    compare_pairs,
    decode_budget,
    describe_unfit,
    flag_target,
    hold_against_logs,
    paired_baseline,
    pick_recorded,
    unlike_contexts,
)
from pytest_h2o.run.store import PROGRESS, SHARED, OnceStore, Plan, ProgressWriter

if TYPE_CHECKING:
    from pytest_h2o.bench.command import BaseConfig, BenchSettings
    from pytest_h2o.bench.demo import Demo
    from pytest_h2o.bench.launch import Launcher
    from pytest_h2o.bench.recorded import Recording
    from pytest_h2o.bench.sweep import FoldCheck, RepeatCheck
    from pytest_h2o.gate.decode import Order
    from pytest_h2o.inputs.presets import Point, Preset
    from pytest_h2o.reference.gguf import HyperParameters
    from pytest_h2o.reference.policy import Reach


class Run:
    """What all parts of one run share in this process."""

    def __init__(self, settings: Settings, folder: Path, on_wait: Callable[[float], None] | None = None) -> None:
        self.settings = settings
        self.folder = folder
        self.store = OnceStore(folder / SHARED)
        self.progress = ProgressWriter(folder / PROGRESS, on_wait)
        self.new = NewData()


def check_bench(bench: Path, origin: str, program: str = "llm_bench", place: Place | None = None) -> Path:
    """A program of the engine, if there is such a file; UsageError that says what is there instead."""
    named, came, hint = "the bench" if program == "llm_bench" else program, None, None
    if bench.is_file():
        if os.access(bench, os.X_OK) or is_embedded(bench):
            return bench
        what, hint = f"{named} cannot be run: its permissions do not allow it", f"chmod +x {bench}"
    elif place is not None:
        place.digest_program(bench)
        return bench
    else:
        what, came = f"{named} is not there", "no such folder"
        if bench.parent.is_dir():
            came = "that folder has " + (", ".join(sorted(p.name for p in bench.parent.iterdir())[:8]) or "nothing")
    raise UsageError(what, where=f"{origin} {bench}", came=came, expected=f"the {program} binary", hint=hint)


def bench_settings(settings: Settings, preset: Preset, option: str = "bench") -> BenchSettings:
    """How the options launch the bench for a preset, or the one that `option` names; UsageError if it cannot be.

    The time limit of a run: the command line's, else the preset's, else the ini file's, else the default.
    """
    from pytest_h2o.bench.command import BenchSettings

    given, place = settings.given["bench-timeout"], choose_place(settings, preset)
    made = BenchSettings.for_program(
        check_bench(settings[option], settings.origin(option), place=place),
        sha256=None if place is None else place.digest_program(settings[option]),
        backend=settings["backend"],
        threads=settings["threads"],
        attention_option=settings["attention-option"],
        timeout_s=given.value if given.on_command_line else preset.timeout_s or given.value,
    )
    if preset.bench == LLM_BENCH and made.backend.lower() != "cpu":
        from pytest_h2o.bench.launch import check_backend

        check_backend(made, settings.origin("backend"), place)
    return made


def asked_launches(settings: Settings, preset: Preset) -> int | None:
    """How often each point is launched: as the command line says, else the preset, else the ini file; None: nobody."""
    given = settings.given["launches"]
    asked: int | None = given.value if given.on_command_line else preset.launches or given.value
    return asked


@cache
def _place(launcher: str) -> Place:
    return Place(launcher)


def choose_place(settings: Settings, preset: Preset) -> Place | None:
    """The machine that a preset is launched on: as the command line says, else the preset, else the ini file.

    None where that is this one, or nothing is launched.
    """
    given = settings.given["launcher"]
    if preset.launcher is not None and not given.on_command_line:
        given = Given(preset.launcher, f"launcher of preset {preset.name}")
    if given.value is None or settings["bench"] is None:
        return None
    parse_launcher(given.value, given.origin)
    refused = {
        "bench": is_embedded(settings["bench"]) and "the embedded bench runs here alone",
        "dry-run": settings["dry-run"] and "a dry run writes the commands of this machine",
    }
    for option, why in refused.items():
        if why:
            raise UsageError(
                f"{why}, and a launcher is given",
                came=f"{given.origin} {given.value}",
                expected="--h2o-bench PATH, a program here or there" if option == "bench" else "one of the two",
                hint="leave one of them out",
            )
    return _place(given.value)


def choose_base_config(settings: Settings, preset: Preset) -> BaseConfig:
    """The model's config of a preset: the command line's, else the preset's, else the ini file's.

    For the embedded bench the last choice is the embedded model, and it takes the preset's `prompt_file`.
    """
    from pytest_h2o.bench.command import read_base_config, with_layer_nums

    given, embedded = settings.given["base-config"], is_embedded(settings["bench"])
    own = (preset.base_config, f"base_config of preset {preset.name}")
    choices = [(given.value, given.origin), own] if given.on_command_line else [own, (given.value, given.origin)]
    if embedded:
        choices.append((embedded_base_config(), "the embedded model"))
    for path, source in choices:
        if path is not None:
            base = read_base_config(path, source)
            if preset.bench == LLM_BENCH and not embedded:
                return with_layer_nums(base, preset.model_layers, f"preset {preset.name}")
            if embedded and preset.prompt_file is not None:
                return replace(base, values={**base.values, "prompt_file": str(preset.prompt_file)})
            return base
    raise UsageError(
        "a bench was given, and no base config: the bench needs the model's config.json",
        where=f"preset {preset.name}",
        expected="--h2o-base-config FILE, or base_config: in the preset",
        hint="name the config.json of the model: --h2o-base-config path/to/model/config.json",
    )


def demo_prompts(settings: Settings, preset: Preset) -> dict[str, Path]:
    """The prompts for llm_demo by name: of the options, else of the preset, else those that are shipped."""
    from pytest_h2o.bench.demo import find_prompts

    prompts = find_prompts(settings["demo-prompts"] or (), preset.prompt_file)
    if (pairs := len(prompts) * settings["demo-rounds"]) > MAX_DECODE_PAIRS:
        most = MAX_DECODE_PAIRS // len(prompts)
        raise UsageError(
            "more pairs of llm_demo than a verdict can have",
            came=f"{len(prompts)} prompts, {settings['demo-rounds']} rounds: {pairs}",
            expected=f"at most {MAX_DECODE_PAIRS}",
            hint=f"--h2o-demo-rounds {most}" if most else "name fewer prompts",
        )
    return prompts


@cache
def _read_shape(model: Path) -> HyperParameters:
    """The shape of a model, read once a process: its file holds a vocabulary of thousands of words before it."""
    from pytest_h2o.reference.gguf import GgufFile

    return GgufFile(model).hyper


_TUNING_TOKENS = 64
"""What a tuning pass at start-up of the engine may leave in the cache; 7 tokens were seen."""


def points_out_of_reach(settings: Settings, preset: Preset, points: Sequence[Point]) -> dict[str, Reach]:
    """Run id -> the most that it comes to, of the points that cannot meet their lossy target by arithmetic.

    They are whole configurations, out of reach at every length of theirs. The embedded bench starts each repeat with an
    empty cache, and its model tells the rest; an engine may keep its cache over the repeats of a launch. A model that
    cannot be read is no reason: the bench itself says what is wrong with it when it is launched.
    """
    from pytest_h2o.reference.policy import lossy_reach

    target = preset_targets(settings, preset, None).lossy.value
    if target is None or preset.bench != LLM_BENCH or not all(point.compressed for point in points):
        return {}
    if is_embedded(settings["bench"]):
        try:
            base = choose_base_config(settings, preset)
            hyper = _read_shape(base.base_dir / str(base.values.get("llm_model", "llm.mnn")))
        except H2OError:
            return {}
        slack, token_bytes = 1.0, 2 * 2 * hyper.kv_heads * hyper.head_dim
        reaches = lossy_reach(
            points, lambda point: min(hyper.context, point.prompt_len + point.gen_len), token_bytes=token_bytes
        )
    else:
        slack = ESTIMATE_SLACK
        reaches = lossy_reach(
            points, lambda point: (point.repeat + 1) * (point.prompt_len + point.gen_len) + _TUNING_TOKENS
        )
    far = {p.run_id: reach for p, reach in zip(points, reaches, strict=True) if reach.lossy * slack < target}
    if not 0 < len(far) < len(points):
        return far
    tuned = {point.run_id: configuration(point.manifest_fields()) for point in points}
    near = {text for run_id, text in tuned.items() if run_id not in far}
    return {run_id: reach for run_id, reach in far.items() if tuned[run_id] not in near}


def why_out_of_reach(settings: Settings, preset: Preset, points: Sequence[Point]) -> str | None:
    """Why no point of a preset can meet its lossy target on its model; None if one can, or nothing is asked."""
    far = points_out_of_reach(settings, preset, points)
    if not far or len(far) < len(points):
        return None
    best = max(reach.lossy for reach in far.values())
    return f"out of reach: whole blocks and protected tokens leave a lossy ratio of at most {best:.3f}"


class Source(ABC):
    """The figures of one preset, and what its decode speed is held against; where nothing is launched."""

    folder: Path | None = None
    """Folder of configs and logs."""
    base_config: BaseConfig | None = None
    place: Place | None = None
    """The machine that is launched on, if it is not this one."""

    def __init__(self, run: Run, preset: Preset) -> None:
        self.run = run
        self.preset = preset
        self._sound: dict[str, Row] = {}
        """By run id, what was checked: every item of a preset asks for all of its rows."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say of all rows."""
        return ()

    def result(self, point: Point) -> Row:
        """The sound result of one point; an H2OError that says why there is none."""
        if point.run_id in self._sound:
            return self._sound[point.run_id]
        try:
            result = check_launches(self._result(point))
            check_decoded(result)
        except BenchError as error:
            if error.argv and error.returncode is not None:
                fields = self.manifest_fields(point)
                self.run.new.add_failed(point, fields, error.returncode, self.shared_run(point))
            raise
        self.run.new.add_point(point, self.manifest_fields(point), result)
        self._sound[point.run_id] = result
        return result

    def note_not_launched(self, point: Point, why: str) -> None:
        """List a point in the manifest that is not launched on purpose."""
        self.run.new.add_failed(point, self.manifest_fields(point) | {"not_launched": why}, None, None)

    def manifest_fields(self, point: Point) -> dict[str, Any]:
        """What the manifest says of a point, with what was added to the config of the model, and where it runs."""
        there = {} if self.place is None else {"launcher": str(self.place), "machine": self.place.machine}
        return point.manifest_fields() | dict({} if self.base_config is None else self.base_config.added) | there

    def first_cause(self, result: Row) -> str | None:
        """What made the engine throw state away in a sound run, where that can be told."""
        from pytest_h2o.bench.recorded import advise_run

        if result.output is None or self.preset.bench != LLM_BENCH:
            return None
        return first_cause(result.output, lambda: advise_run(result.config_path, None, self.preset.model_layers))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the head of the run says of the model's config."""
        return ()

    @abstractmethod
    def _result(self, point: Point) -> Row: ...

    def shared_run(self, point: Point) -> str | None:
        """Run id of the launch that a point shares; None if it has its own, or nothing is launched."""
        return None

    def command(self, point: Point) -> str | None:
        """The command line that launches a point; None where nothing is launched."""
        return None

    @abstractmethod
    def write_dry_run(self) -> str:
        """Write what would be run, and say where."""

    def plan(self, *, timed: bool, said: bool) -> list[Plan]:
        """How many launches the rows take, as far as is known before the first, and the decode verdict if it is asked.

        Of that it is at most so many.
        """
        return []

    @property
    def model_layers(self) -> int | None:
        """Number of layers of the model, where it is known."""
        if self.preset.model_layers is not None or self.base_config is None:
            return self.preset.model_layers
        from pytest_h2o.bench.command import layer_count

        return layer_count(self.base_config)

    @property
    def _lossless(self) -> dict[str, Any]:
        """The ``kv_lossless_*`` keys that runs get: those of the preset, and where it is silent the model's."""
        base = {} if self.base_config is None else self.base_config.values
        return {**{k: v for k, v in base.items() if k.startswith("kv_lossless_")}, **self.preset.lossless_settings()}

    @property
    def coding(self) -> str | None:
        """The mode of lossless coding at run time; None where nothing is coded."""
        return coding_mode(self._lossless)

    @property
    def inexact(self) -> tuple[str, ...]:
        """Metrics that are not exact here, because coding is asynchronous."""
        return inexact_metrics(asynchronous=is_asynchronous(self._lossless))

    @property
    def model(self) -> str | None:
        """Which model it is, in words, where that is known."""
        if self.base_config is None:
            return None
        return f"{one_line(self.base_config.base_dir.name)} (base config {self.base_config.path})"

    def fingerprint(self, results: Sequence[Row]) -> dict[str, str | None]:
        """What the figures were measured with, part by part. Where recorded logs are read, the machine is not known."""
        bench, base, place = self.run.settings["bench"], self.base_config, self.place
        digest_of = digest_program if place is None else place.digest_program
        model_of = digest_model if place is None else place.digest_model
        return preset_fingerprint(
            self.preset,
            results,
            machine=None if bench is None else describe_machine() if place is None else place.machine,
            binary=None if bench is None else digest_of(bench)[:16],
            base_config=None if base is None else digest_file(base.path)[:16],
            model={} if base is None else model_of(base) | {key: str(base.added[key]) for key in base.added},
        )

    # -- decode speed ------------------------------------------------------------------------------------------------

    @property
    def workloads(self) -> tuple[str, ...]:
        """The workloads that targets are asked of; one without a name where nothing tells several apart."""
        return self.preset.workloads(self.run.settings["rule"]) or ("",)

    @property
    def is_paired(self) -> bool:
        """Whether the decode verdict rests on pairs of launches, and not on `baseline`."""
        chosen = choose_baseline(self.run.settings, self.preset).value
        return chosen == "paired" or (chosen is None and any(map(self.has_pairs, self.workloads)))

    def has_pairs(self, workload: str = "") -> bool:
        """Whether pairs of launches are kept, even if they cannot be read: then the items that need them say so."""
        return self.known_pairs(workload) is not None

    def baseline(self, results: Sequence[Row], workload: str = "") -> Baseline | None:
        """Decode speed with H2O off, None if nothing says it. OptedOut if it is left out on purpose."""
        chosen = choose_baseline(self.run.settings, self.preset)
        if chosen.value == "none":
            raise OptedOut(f"the decode threshold is left out: decode baseline none ({chosen.origin})")
        if self.is_paired:
            return paired_baseline(self.known_pairs(workload))
        if (why := why_untimed(results, [DROP])) is not None:
            raise NotMeasured(
                why,
                expected="rows launched with all repeats, or pairs of launches",
                hint="--h2o-set sweep_repeat=N, N being repeat of the preset, launches each row with all",
            )
        if chosen.value is not None:
            speed = parse_baseline(str(chosen.value), chosen.origin)
            return Baseline(speed, chosen.origin, unlike_contexts(results))
        return self._recorded_baseline(results)

    def _recorded_baseline(self, results: Sequence[Row]) -> Baseline | None:
        return None

    def unfit_baselines(self, results: Sequence[Row]) -> list[str]:
        """What lies beside the runs and gave no baseline, and why: a line each."""
        return []

    def pairs(self, point: Point, target: float, workload: str = "") -> PairedComparison:
        """The pairs of a point against its baseline, launched if they have not been; an H2OError if there are none."""
        comparison = self._pairs(point, target, workload)
        self.run.new.add_comparison(pairs_key(self.preset.name, workload), comparison)
        return comparison

    def held(self, row: Row | None) -> Held:
        """What the launches of pairs that time a row are held to."""
        targets = preset_targets(self.run.settings, self.preset, None).of_every_row
        return Held(row, targets, is_asynchronous(self._lossless))

    def flag_target(self, target: float | None) -> tuple[str, ...]:
        """Say that a target of the pairs is finer than a calibration of this machine allows."""
        return ()

    def known_pairs(self, workload: str = "") -> PairedComparison | None:
        """The pairs, if they were launched or recorded already."""
        return None

    def _pairs(self, point: Point, target: float, workload: str) -> PairedComparison:
        raise NotMeasured(f"not measured: {point.preset}", expected="a bench to run, or recorded pairs")

    # -- text, and the runtime's own sizes -----------------------------------------------------------------------------

    def demo(self, point: Point, total: float | None, bucket: float | None) -> DemoComparison:
        """What llm_demo says and measures with H2O off and on, for one point; an H2OError if a launch is not sound.

        `total` and `bucket` are the targets of the slow-down: more is launched until all verdicts on them are clear.
        """
        raise NotMeasured("no llm_demo is given", expected="--h2o-demo PATH")

    def sizes(self, point: Point) -> tuple[int, str]:
        """Bytes by which the bench's own lossless sizes differ from those of its dump, without sign, and in words.

        OptedOut, NotMeasured where they cannot be compared.
        """
        if self.run.settings["bench"] is None:
            raise OptedOut("the runtime's own lossless sizes are not checked: recorded logs hold no dumps")
        raise OptedOut(f"{self.preset.name} codes nothing at runtime, so there are no sizes to check")


def further_launch(number: int, run_id: str, launch: Callable[[int], Row]) -> Row:
    """A launch of a point after its first, held to what that is: of it the cells alone are kept."""
    try:
        row = launch(number)
        check_decoded(row)
    except H2OError as error:
        if (folder := again_folder(number)) not in (error.where or ""):
            error.where = f"{folder}/{error.where or run_id}"
        raise
    return row


class Missing(Source):
    """Nothing can measure this preset: every question is answered with what is missing."""

    def __init__(self, run: Run, preset: Preset, logs: Path | None, why: str | None = None) -> None:
        super().__init__(run, preset)
        self._logs = logs
        self._why = why or ("neither a bench nor recorded logs" if logs is None else None)

    def _result(self, point: Point) -> Row:
        raise NotMeasured(
            f"not measured: {self.preset.name}",
            where=None if self._logs is None else f"no recording of it in {self._logs}",
            came=self._why,
            expected="a bench to run, or recorded logs of this preset",
            hint="--h2o-bench PATH --h2o-base-config FILE runs it; --h2o-logs DIR reads logs of it",
        )

    def write_dry_run(self) -> str:
        return "there is no bench to run"


class Recorded(Source):
    """Logs that were recorded before; nothing is run, and nothing is folded."""

    folder: Path

    def __init__(self, run: Run, preset: Preset, points: Sequence[Point], folder: Path) -> None:
        super().__init__(run, preset)
        self.folder = folder
        self._points = points

    @cached_property
    def _recording(self) -> Recording:
        from pytest_h2o.bench.recorded import read_recording, read_row_files

        read = read_recording if self.preset.bench == LLM_BENCH else read_row_files
        return read(self.folder, self._points)

    def _result(self, point: Point) -> Row:
        from pytest_h2o.bench.recorded import join_launches

        row = self._recording.get(point.run_id)
        run_id, numbers = row.shares_run_with or row.run_id, range(2, self._launch_count + 1)
        further = (further_launch(n, run_id, lambda number: self._further(number).get(run_id)) for n in numbers)
        return join_launches(row, further, self.folder, distinct=self.preset.bench == LLM_BENCH)

    def _further(self, number: int) -> Recording:
        """What further launches gave; NotMeasured where there were none."""
        from pytest_h2o.bench.recorded import read_recording, read_row_files

        if number not in self._recorded_again:
            folder = self.folder / again_folder(number)
            if not folder.is_dir():
                raise NotMeasured(
                    f"launch {number} of each point of {self.preset.name} is not recorded",
                    where=str(folder),
                    came="no such folder",
                    expected=f"{self._launch_count} launches of each point",
                    hint="--h2o-launches 1 judges the first alone",
                )
            read = read_recording if self.preset.bench == LLM_BENCH else read_row_files
            self._recorded_again[number] = read(folder, self._points)
        return self._recorded_again[number]

    @cached_property
    def _launch_count(self) -> int:
        """Launches of each point that count: as many as are asked for, and all that there are where nobody says it."""
        from pytest_h2o.bench.recorded import launch_folders

        if (asked := asked_launches(self.run.settings, self.preset)) is not None:
            return asked
        return 1 + len(launch_folders(self.folder))

    @cached_property
    def _recorded_again(self) -> dict[int, Recording]:
        """By the number of the launch, those that were read."""
        return {}

    def manifest_fields(self, point: Point) -> dict[str, Any]:
        return point.manifest_fields() | self._added.get(point.run_id, {})

    @cached_property
    def _added(self) -> dict[str, dict[str, Any]]:
        """Run id -> what the manifest of the recording says that was added to the config of the model."""
        from pytest_h2o.bench.sweep import MANIFEST_NAME, read_manifest

        path = self.folder / MANIFEST_NAME
        listed = read_manifest(path) if path.exists() else ()
        return {e.run_id: {k: e.values[k] for k in ADDED_KEYS if k in e.values} for e in listed}

    @property
    def model(self) -> str | None:
        """What the first of the logs says."""
        for log in sorted([*self.folder.glob("logs/*.log"), *self.folder.glob("*.log")])[:3]:
            try:
                row = read_rows(log, None, log_file=log.name)[0]
            except (H2OError, IndexError):
                continue  # the item of that row says what is wrong with it
            if named := [text for column in ("model", "modelSize") if (text := row.cells.get(column))]:
                return one_line(", ".join(named))
        return None

    def write_dry_run(self) -> str:
        return "recorded logs are read, not run"

    def _recorded_baseline(self, results: Sequence[Row]) -> Baseline | None:
        return pick_recorded(self._recording.baselines, results, get_adapter(self.preset.bench).uncompressed)

    def unfit_baselines(self, results: Sequence[Row]) -> list[str]:
        unused = [f"{log}: {why}" for log, why in self._recording.unused.items()]
        return [*describe_unfit(self._recording.baselines, results), *unused][:4]

    def _pairs_path(self, workload: str) -> Path:
        return self.folder / decode_folder(workload) / PAIRS_NAME

    @cached_property
    def _read_pairs(self) -> dict[str, PairedComparison | None]:
        """By workload, those that were read."""
        return {}

    def _recorded_pairs(self, workload: str) -> PairedComparison | None:
        if workload not in self._read_pairs:
            self._read_pairs[workload] = self._load_pairs(workload)
        return self._read_pairs[workload]

    def _load_pairs(self, workload: str) -> PairedComparison | None:
        path = self._pairs_path(workload)
        try:
            check_regular(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            pass  # what is there instead is said when it is read
        kept = load(dict[str, Any], path, "recorded pairs")
        try:
            found = PairedComparison.from_json(kept)
        except StoreError as error:
            raise StoreError(error.what, where=str(path), came=error.came, expected=error.expected) from error
        if (point := next((p for p in self._points if p.run_id == found.candidate), None)) is not None:
            try:
                row = self._result(point)
            except H2OError:
                row = None  # the items of the rows say why
            return hold_against_logs(found, path.parent, point, self.held(row))
        return found

    def known_pairs(self, workload: str = "") -> PairedComparison | None:
        try:
            return self._recorded_pairs(workload)
        except StoreError:
            return None

    def has_pairs(self, workload: str = "") -> bool:
        try:
            return self._recorded_pairs(workload) is not None
        except StoreError:
            return True

    def _pairs(self, point: Point, target: float, workload: str) -> PairedComparison:
        found = self._recorded_pairs(workload)
        if found is None or found.candidate != point.run_id:
            raise NotMeasured(
                "no pairs of launches are recorded of the row that the decode verdict is for",
                where=str(self._pairs_path(workload)),
                came="no such file" if found is None else f"pairs of {found.candidate}",
                expected=f"pairs of {point.run_id}",
                hint="run the bench, or give a speed: --h2o-decode-baseline TOK_PER_S",
            )
        return found


CONSISTENCY_FOLDER = "consistency"
"""In the folder of a preset: config, log and output of the launch that its own lossless sizes are checked on."""

DEMO_FOLDER, DEMO_NAME = "demo", "demo.json"
"""In the folder of a preset: configs, outputs and metrics of llm_demo; and all pairs in one file."""

_MAX_OUTPUT_BYTES = 64 * 1024 * 1024


class Launched(Source):
    """A bench that is run, each point once for all processes of the run."""

    folder: Path
    base_config: BaseConfig

    def __init__(self, run: Run, preset: Preset, points: Sequence[Point], folder: Path) -> None:
        from pytest_h2o.bench.launch import JsonSupport, Launcher, Relauncher
        from pytest_h2o.bench.sweep import Sweep

        super().__init__(run, preset)
        settings = run.settings
        self.folder, self._points = folder, points
        self._bench = bench_settings(settings, preset)
        self._other = bench_settings(settings, preset, "baseline-bench") if settings["baseline-bench"] else None
        self.base_config, self.place = choose_base_config(settings, preset), choose_place(settings, preset)
        self._launcher = Launcher(
            self.base_config,
            self._bench,
            folder,
            JsonSupport(),
            place=self.place,
            on_wait=run.progress.wait,
            keeps_outcomes=True,
        )
        launch_point = self._launcher.launch_point
        if settings["disturbed"] == "again" and choose_baseline(settings, preset).value not in ("paired", "none"):
            launch_point = Relauncher(self._launcher).launch_point  # a row's own speed decides

        self._launches = asked_launches(settings, preset) or 1

        def launch_again(point: Point, number: int) -> Row:
            return further_launch(number, point.run_id, lambda number: self._launcher.launch_again(point, number))

        def launch(point: Point) -> Row:
            rows = []
            for number in range(1, self._launches + 1):
                total = self._sweep.runs * self._launches
                with run.progress.step(preset.name, short_run_id(point.run_id), unit="run", total=total):
                    rows.append(launch_point(point) if number == 1 else launch_again(point, number))
            return replace(rows[0], again=tuple(row.cells for row in rows[1:]))

        fold, (fewer, self._why_all) = not settings["no-fold"], self._fewer_repeats()
        self._sweep = Sweep(points, launch, run.store.once, binary=self._bench.digest[:16], fold=fold, fewer=fewer)

    def _fewer_repeats(self) -> tuple[int | None, str]:
        """Repeats that do for rows whose timings nothing is held to; and why it is all of them all the same."""
        settings, fewer = self.run.settings, self.preset.sweep_repeat
        if fewer is None or fewer >= self.preset.repeat:
            return None, ""
        baseline, request = choose_baseline(settings, self.preset), read_request(settings)
        if baseline.value not in ("paired", "none"):
            return None, f"decode is held against the speed of rows ({baseline.origin})"
        targets = preset_targets(settings, self.preset, None).by_metric.values()
        asked = [METRICS[target.metric] for target in targets if target.value is not None]
        for metric in (metric for metric in asked if metric.of == "row"):
            if not metric.exact or metric.name in self.inexact:
                return None, f"a target holds what a launch times: {metric.title}"
        held = [name for name in request.allowances.percent if name in METRICS and not METRICS[name].exact]
        if held or rolling_runs(request.compare) is not None:
            return None, "timings are held against earlier runs"
        return fewer, ""

    def _result(self, point: Point) -> Row:
        return self._sweep.result(point)

    @property
    def remarks(self) -> tuple[str, ...]:
        from pytest_h2o.bench.command import advise_layer_nums, describe_script

        fewer, asked = self.preset.sweep_repeat, self.preset.repeat
        repeats = (f"sweep_repeat: {fewer} is not used: {self._why_all}",) if self._why_all else ()
        if self._sweep.tries_fewer:
            repeats = (f"rows get {fewer} of {asked} repeats if a check shows that exact columns stay (sweep_repeat)",)
        if is_embedded(self.run.settings["bench"]):
            return repeats
        programs = {self.run.settings[option] for option in ("bench", "baseline-bench")} - {None}
        scripts = tuple(text for program in sorted(programs) if (text := describe_script(program)) is not None)
        if self.preset.bench != LLM_BENCH:
            return (*scripts, *repeats)
        if self.base_config.added:
            said = ", ".join(f'"{key}": {value}' for key, value in self.base_config.added.items())
            return (*scripts, f"{said} is added to the configs of its runs: the config of the model has none", *repeats)
        return (*scripts, *filter(None, [advise_layer_nums(self.base_config)]), *repeats)

    @property
    def notes(self) -> tuple[str, ...]:
        folds = (_describe_fold(check) for check in self._sweep.fold_checks())
        repeats = self._sweep.repeat_check()
        told = [None if repeats is None else _describe_repeats(repeats), self._out_of_reach]
        return (*folds, *filter(None, told))

    @cached_property
    def _out_of_reach(self) -> str | None:
        settings = self.run.settings
        return why_out_of_reach(settings, self.preset, self._points) if is_embedded(settings["bench"]) else None

    def shared_run(self, point: Point) -> str | None:
        return self._sweep.shared_run(point)

    def command(self, point: Point) -> str | None:
        from pytest_h2o.bench.command import repeat_command

        try:
            return repeat_command(self._launcher.command(point))
        except BenchError:
            if self.place is None:
                raise
            return None  # a machine that is not reached: the item says so

    def write_dry_run(self) -> str:
        from pytest_h2o.bench.launch import write_dry_run

        runs = len(write_dry_run(self._sweep.points, self.base_config, self._bench, self.folder))
        return f"configs, manifest and commands.sh of {runs} run{'s' * (runs != 1)} are in {self.folder}"

    def plan(self, *, timed: bool, said: bool) -> list[Plan]:
        plan, settings = [Plan(self.preset.name, self._sweep.runs * self._launches)], self.run.settings
        if timed and choose_baseline(settings, self.preset).value == "paired":
            budget = decode_budget(settings, self.preset)
            plan += [Plan(f"{self._name_of(w)} decode", 2 * budget.pairs, budget.elapsed_s) for w in self.workloads]
        if said and settings["demo"] is not None:
            prompts = len(demo_prompts(settings, self.preset))
            plan.append(Plan(f"{self.preset.name} demo", 2 * prompts * settings["demo-rounds"]))
        return plan if self._sweep.runs else []

    # -- pairs -------------------------------------------------------------------------------------------------------

    def flag_target(self, target: float | None) -> tuple[str, ...]:
        if choose_baseline(self.run.settings, self.preset).value != "paired" or self.place is not None:
            return ()
        path = calibration_path(self._bench, self.base_config)
        return flag_target(path, decode_budget(self.run.settings, self.preset), target)

    def _name_of(self, workload: str) -> str:
        return f"{self.preset.name} {workload}".rstrip()

    def known_pairs(self, workload: str = "") -> PairedComparison | None:
        return self.run.store.kept(f"decode/{pairs_key(self.preset.name, workload)}", PairedComparison)

    def _pairs(self, point: Point, target: float, workload: str) -> PairedComparison:
        """The pairs of the row that was asked for first; errors of a launch are raised for whoever asks."""
        key = f"decode/{pairs_key(self.preset.name, workload)}"
        return self.run.store.keep(key, PairedComparison, lambda: self._launch_pairs(point, target, workload))

    def _launch_pairs(self, point: Point, target: float, workload: str) -> PairedComparison:
        from pytest_h2o.bench.command import without_quality
        from pytest_h2o.bench.launch import JsonSupport, Relaunches

        settings, what = self.run.settings, f"{self._name_of(workload)} decode"
        budget, key = decode_budget(settings, self.preset), pairs_key(self.preset.name, workload)
        folder, base = self.folder / decode_folder(workload), without_quality(self.base_config)
        candidate, held = replace(self._launcher, directory=folder, base=base), self.held(self.result(point))

        def launch_with(launcher: Launcher) -> Callable[[str], Row]:
            return lambda run_id: launcher.launch_point(replace(point, run_id=run_id))

        def shown(launch: Callable[[str], Row]) -> Callable[[str], Row]:
            def launch_side(run_id: str) -> Row:
                _, number, side = run_id.split("_", 2)  # pair_04_baseline
                with self.run.progress.step(what, side, unit="pair", total=budget.pairs, number=int(number)):
                    return held.check(launch(run_id), candidate=side.startswith("candidate"))

            return launch_side

        if self._other is None:
            against = f"{get_adapter(point.bench).uncompressed} in the same bench"
            baseline: Callable[[str], Row] = partial(candidate.launch_baseline, point)
        else:
            against = f"{OTHER_BUILD}, {self._other.command[0]}"
            baseline = launch_with(replace(candidate, settings=self._other, json_support=JsonSupport()))
        runner = PairRunner(
            shown(baseline),
            shown(launch_with(candidate)),
            # If a process dies among its pairs, whoever goes on has those that are whole.
            lambda name, make: self.run.store.once(f"decode/{key}/{name}", make),
            Relaunches() if settings["disturbed"] == "again" else Relaunches(0),
        )
        try:
            notes = self.flag_target(target)
            return compare_pairs(runner, budget, target, candidate=point.run_id, baseline=against, notes=notes)
        finally:
            self.run.progress.finish(what)

    # -- text, and the runtime's own sizes -----------------------------------------------------------------------------

    def demo(self, point: Point, total: float | None, bucket: float | None) -> DemoComparison:
        if self.run.settings["demo"] is None:
            return super().demo(point, total, bucket)
        key = f"demo/{self.preset.name}"
        return self.run.store.keep(key, DemoComparison, lambda: self._say(point, total, bucket))

    def _say(self, point: Point, total: float | None, bucket: float | None) -> DemoComparison:
        from pytest_h2o.bench.command import advise_layer_nums
        from pytest_h2o.bench.demo import Demo

        settings, store, key = self.run.settings, self.run.store, f"demo/{self.preset.name}"
        rounds, prompts = settings["demo-rounds"], demo_prompts(settings, self.preset)
        demo = Demo(
            settings["demo"],
            self.folder / DEMO_FOLDER,
            point.gen_len,
            self._bench.timeout_s,
            self.run.progress.wait,
            point.allow_signs,
            partial(advise_layer_nums, self.base_config),
            self.place,
        )

        def files_of(pair: DemoPair) -> list[Path]:
            return [*demo.files(pair.off.name), *demo.files(pair.on.name)]

        seed = store.once(f"{key}/order", lambda: {"seed": secrets.randbelow(2**32)})["seed"]
        found = DemoComparison(point.run_id, point.trigger_min_tokens, seed, rounds, ())
        try:
            for number, order in enumerate(plan_prompts(list(prompts), rounds, seed), start=1):
                for prompt, first in order:
                    say = partial(self._say_pair, demo, point, prompts[prompt], first, number)
                    # If a process dies among its pairs, whoever goes on has those that are whole.
                    kept = store.keep(f"{key}/{number}_{prompt}", DemoPair, say, files_of)
                    found = replace(found, pairs=(*found.pairs, kept))
                if found.is_clear(total, bucket):
                    break
        finally:
            self.run.progress.finish(f"{self.preset.name} demo")
        write_new_json(demo.folder / DEMO_NAME, plain(found), overwrite=True)
        return found

    def _say_pair(self, demo: Demo, point: Point, prompt: Path, first: Order, number: int) -> DemoPair:
        """Say a prompt with H2O off and on, `first` telling which begins."""
        from pytest_h2o.bench.command import build_run_config
        from pytest_h2o.bench.demo import compare_texts

        what, rounds, said = f"{self.preset.name} demo", self.run.settings["demo-rounds"], {}
        for side in ("off", "on") if first == "AB" else ("on", "off"):
            config = build_run_config(self.base_config, replace(point, compressed=side == "on"))
            config = config if self.place is None else self.place.config(self.base_config, config)
            with self.run.progress.step(what, f"{prompt.stem} {side}", unit="round", total=rounds, number=number):
                said[side] = demo.say(f"{prompt.stem}_{number}_h2o_{side}", config, prompt)
        texts = compare_texts(prompt.stem, said["off"][1], said["on"][1])
        pair = DemoPair(prompt.stem, first, said["off"][0], said["on"][0], texts)
        pair.check(point.trigger_min_tokens)
        return pair

    def sizes(self, point: Point) -> tuple[int, str]:
        preset = self.preset
        if preset.bench != LLM_BENCH or self.coding is None:
            return super().sizes(point)
        key = f"{CONSISTENCY_FOLDER}/{preset.name}"
        files = RunFiles(self.folder / CONSISTENCY_FOLDER, CONSISTENCY_FOLDER)
        left = (path for path in files.outputs if path.is_file())
        return self.run.store.keep(key, tuple[int, str], lambda: self._check_sizes(point), lambda _: left)

    def _check_sizes(self, point: Point) -> tuple[int, str]:
        """Whether a build dumps at all is asked once: of one that does not, no other preset is launched for it."""
        name = self.preset.name
        made = self.run.store.once(f"dump/{self._bench.digest[:16]}", lambda: self._launch_with_dump(point))
        if made["dumps"] and made["preset"] != name:
            made = self._launch_with_dump(point)
        if made["difference"] is None:
            once = "" if made["preset"] == name else f"; asked once, of preset {made['preset']}"
            raise self._no_sizes(made["what"], made["told"] + once)
        return made["difference"], made["told"]

    def _launch_with_dump(self, point: Point) -> dict[str, Any]:
        """Launch with a dump that goes again: its thousands of files say nothing that the comparison does not."""
        from pytest_h2o.bench.command import without_quality
        from pytest_h2o.bench.sweep import digest_launches
        from pytest_h2o.reference.dump import CONFIG_KEYS, compare_run

        folder, name = self.folder / CONSISTENCY_FOLDER, CONSISTENCY_FOLDER
        lossless = {**point.lossless, **{k: v for k, v in CONFIG_KEYS.items() if k.startswith("kv_lossless_")}}
        checked = replace(point, run_id=name, repeat=1, h2o_log_stats=True, lossless=lossless)
        made: dict[str, Any] = {"preset": self.preset.name, "dumps": True, "difference": None}
        with tempfile.TemporaryDirectory(prefix="pytest-h2o-dump-") as dump_dir:
            asked: dict[str, str | Path] = {
                "MNN_KV_DUMP_DIR": Path(dump_dir),
                "MNN_KV_DUMP_RUN_ID": name,
                "MNN_KV_DUMP_STAGE": "both",
                "MNN_KV_DUMP_MAX_TOKENS": str(point.prompt_len + point.gen_len),
            }
            launcher = replace(
                self._launcher, base=without_quality(self.base_config), directory=folder, environment=asked
            )
            result = launcher.launch_point(checked)
            made["files"] = digest_launches(result)
            config = json.loads((folder / "configs" / f"{name}.json").read_text(encoding="utf-8"))
            try:
                found = compare_run(_read_output(result.stdout_path), Path(dump_dir), run_id=name, config=config)
            except DumpError as error:
                dumps = any(Path(dump_dir).iterdir())
                wrote = "a dump that cannot be read" if dumps else "no dump"
                told = f"this build wrote {wrote} ({error.what}; MNN_KV_DUMP_DIR asked for it)"
                what = "the bench wrote no dump to hold its own lossless sizes against"
                return {**made, "dumps": dumps, "what": what, "told": told}
        if found.alike and (found.offline_bytes is not None or not is_embedded(self.run.settings["bench"])):
            apart = abs(sum(runtime - offline for runtime, offline in found.alike))
            return {**made, "difference": apart, "told": found.render()}
        what = "the bench's own lossless sizes cannot be held against its dump"
        return {**made, "what": what, "told": found.render()}

    def _no_sizes(self, what: str, came: str) -> H2OError:
        """Why there is nothing to compare: a fault of the embedded bench, of another build what it does not write."""
        if not is_embedded(self.run.settings["bench"]):
            return OptedOut(f"the runtime's own lossless sizes are not checked: {came}")
        expected = "samples in its output, and their tokens in the dump (MNN_KV_DUMP_DIR)"
        return NotMeasured(what, where=str(self.folder / CONSISTENCY_FOLDER), came=came, expected=expected)


def _read_output(path: Path | None) -> str:
    if path is None:
        return ""
    with path.open("rb") as file:
        return file.read(_MAX_OUTPUT_BYTES).decode("utf-8", "replace")


def short_run_id(run_id: str) -> str:
    """``run_0003`` of ``run_0003_p512_g128_…``: enough to find it by."""
    return run_id.split("_p", 1)[0]


def _describe_repeats(check: RepeatCheck) -> str:
    """What the check of fewer repeats showed, in one line."""
    leader = check.full[-1] if check.full else "no launch"
    if check.holds:
        return (
            f"rows have {check.fewer} of {check.asked} repeats, and speeds of no verdict (sweep_repeat): {check.twin} "
            f"has with {check.fewer} every deterministic column that {leader} has with {check.asked}"
        )
    unlike = ", ".join(f"{d.column} {d.leader}" + (f" and {d.probe}" if check.twin else "") for d in check.differences)
    seen = check.problem or (f"{leader} and {check.twin} gave {unlike}" if check.twin else f"{leader} has {unlike}")
    return f"all rows have {check.asked} repeats, and none {check.fewer} (sweep_repeat): columns depend on them: {seen}"


def _describe_fold(check: FoldCheck) -> str:
    """What the check of a fold showed, in one line."""
    ignored = "keep ratio" if check.target_mode == "adaptive" else "target lossy ratio"
    if check.folds:
        return (
            f"rows that differ only in the {ignored} share a run ({check.target_mode} mode does not read it): "
            f"{check.preset} {check.probe} was run too and has every deterministic column of {check.leader}"
        )
    seen = check.problem or ", ".join(f"{d.column} {d.leader} and {d.probe}" for d in check.differences)
    return (
        f"nothing is folded: {check.preset} {check.leader} and {check.probe} differ only in the {ignored}, "
        f"which {check.target_mode} mode should not read, and gave {seen or 'no row'}"
    )
