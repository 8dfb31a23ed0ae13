"""Where the rows of a preset come from: recorded logs, a bench that is run, or nowhere."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from pytest_h2o.bench.demo import TextComparison, compare_texts
from pytest_h2o.bench.embedded import is_embedded, shipped
from pytest_h2o.bench.llm_bench import get_adapter
from pytest_h2o.errors import DumpError, NotMeasured, OptedOut, UsageError
from pytest_h2o.files import load, plain, unused_folder
from pytest_h2o.gate.targets import preset_targets
from pytest_h2o.inputs.checking import LLM_BENCH
from pytest_h2o.inputs.options import Settings, parse_baseline
from pytest_h2o.run.launching import (
    Baseline,
    bench_settings,
    choose_baseline,
    describe_decode,
    describe_unfit,
    flag_targets,
    paired_baseline,
    pick_recorded,
    plan_pairs,
    unlike_contexts,
)
from pytest_h2o.run.progress import ProgressWriter
from pytest_h2o.run.store import OnceStore, keep_error, kept_value

if TYPE_CHECKING:
    from pytest_h2o.bench.command import BenchSettings
    from pytest_h2o.bench.config import BaseConfig
    from pytest_h2o.bench.launch import Launcher
    from pytest_h2o.bench.recorded import Recording
    from pytest_h2o.bench.rows import Row
    from pytest_h2o.bench.sweep import FoldCheck
    from pytest_h2o.gate.decode import PairedComparison
    from pytest_h2o.inputs.presets import Point, Preset
    from pytest_h2o.reference.dump import Consistency
    from pytest_h2o.run.journal import NewData
    from pytest_h2o.run.pairs import PairSource


class RowSource(Protocol):
    """The rows of one preset."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say of all rows."""
        ...

    @property
    def baselines(self) -> Sequence[Row]:
        """Rows with H2O off that came with them."""
        ...

    @property
    def unused(self) -> Mapping[str, str]:
        """Logs beside them that are neither a point's nor a baseline -> why."""
        ...

    @property
    def folder(self) -> Path | None:
        """Folder of their configs and logs."""
        ...

    @property
    def base_config(self) -> BaseConfig | None:
        """The model's config, where there is one."""
        ...

    @property
    def pairs(self) -> PairSource:
        """The pairs of launches that came with them, or that can be launched."""
        ...

    @property
    def planned_runs(self) -> int:
        """Launches that all rows take, as far as is known before the first; 0 where nothing is launched."""
        ...

    def result(self, point: Point) -> Row:
        """The sound result of one point; an H2OError that says why there is none."""
        ...

    def shared_run(self, point: Point) -> str | None:
        """Run id of the launch that a point shares; None if it has its own, or nothing is launched."""
        ...

    def command(self, point: Point) -> str | None:
        """The command line that launches a point; None where nothing is launched."""
        ...

    def write_dry_run(self) -> str:
        """Write what would be run, and say where."""
        ...


def find_recordings(folder: Path, presets: Sequence[Preset], selected: Sequence[Preset]) -> dict[str, Path]:
    """Which folder holds the logs of which preset.

    A run folder has one folder a preset. A folder with a manifest of its own is that of each preset whose points it
    lists, or, where that is none, of the one that is selected; one of bare logs is that of the one that is selected.
    Presets of another bench find their rows in whatever file has them.
    """
    if not folder.is_dir():
        raise UsageError("the folder of recorded logs is not there", where=str(folder), expected="a folder")
    own = [preset for preset in selected if preset.bench == LLM_BENCH]
    others = {p.name: place for p in presets if p.bench != LLM_BENCH and (place := _place_of_rows(folder, p))}
    if selected and not own:
        return others or {preset.name: folder for preset in selected}  # which then say what is there instead
    if others and not (folder / "manifest.json").exists() and not any(folder.glob("*.log")):
        presets = [preset for preset in own if (folder / preset.name).is_dir()]
    return others | (_find_logs(folder, [p for p in presets if p.bench == LLM_BENCH], own) if presets else {})


def _place_of_rows(folder: Path, preset: Preset) -> Path | None:
    """Where the rows of a preset of another bench are: in the folder of its name, or beside those of others."""
    from pytest_h2o.bench.recorded import has_rows_of, recording_folder
    from pytest_h2o.inputs.presets import expand_points

    inner, points = recording_folder(folder, preset.name), expand_points(preset)
    return inner if inner != folder or has_rows_of(folder, points) else None


def _find_logs(folder: Path, presets: Sequence[Preset], selected: Sequence[Preset]) -> dict[str, Path]:
    """`find_recordings` of presets for llm_bench."""
    from pytest_h2o.bench.recorded import recording_folder

    found = {p.name: inner for p in presets if (inner := recording_folder(folder, p.name)) != folder}
    if found:
        return found
    if (folder / "manifest.json").exists():
        listed = [preset for preset in presets if _is_listed(folder / "manifest.json", preset)]
        # Of a single preset the rows themselves then say in what their configuration differs.
        return {preset.name: folder for preset in listed or (selected if len(selected) == 1 else ())}
    if not any(folder.glob("*.log")) and not any(folder.glob("logs/*.log")):
        raise UsageError(
            "the folder holds no recorded logs of these presets",
            where=str(folder),
            came=", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "an empty folder",
            expected=f"a folder for one of {', '.join(p.name for p in presets)}, a manifest.json, or *.log files",
        )
    if len(selected) != 1:
        raise UsageError(
            "bare logs can be those of one preset only, and several are selected",
            where=str(folder),
            came=", ".join(preset.name for preset in selected),
            hint="name the preset file with --h2o-presets, or its name with -k",
        )
    return {selected[0].name: folder}


def _is_listed(manifest: Path, preset: Preset) -> bool:
    """Whether a manifest lists a point of the preset, in the very configuration."""
    from pytest_h2o.bench.manifest import read_manifest
    from pytest_h2o.inputs.presets import expand_points

    entries = {entry.run_id: entry for entry in read_manifest(manifest)}
    points = expand_points(preset)
    return any(p.run_id in entries and not entries[p.run_id].differences(p) for p in points)


class RecordedRows:
    """Rows of logs that were recorded before; nothing is run, and nothing is folded."""

    base_config: BaseConfig | None = None
    planned_runs = 0

    def __init__(self, folder: Path, points: Sequence[Point]) -> None:
        self.folder: Path | None = folder
        self._folder = folder
        self._points = points
        self._recording: Recording | None = None
        self.pairs: PairSource = _recorded_pairs(folder)

    def _read(self) -> Recording:
        if self._recording is None:
            from pytest_h2o.bench.recorded import read_recording, read_row_files

            read = read_recording if self._points[0].bench == LLM_BENCH else read_row_files
            self._recording = read(self._folder, self._points)
        return self._recording

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    @property
    def baselines(self) -> Sequence[Row]:
        return self._read().baselines

    @property
    def unused(self) -> Mapping[str, str]:
        return self._read().unused

    def result(self, point: Point) -> Row:
        return self._read().get(point.run_id)

    def shared_run(self, point: Point) -> str | None:
        return None

    def command(self, point: Point) -> str | None:
        return None

    def write_dry_run(self) -> str:
        return "recorded logs are read, not run"


class LaunchedRows:
    """Rows of a bench that is run, each point once for all processes of the run."""

    baselines: Sequence[Row] = ()
    unused: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        points: Sequence[Point],
        *,
        base: BaseConfig,
        bench: BenchSettings,
        folder: Path,
        store: OnceStore,
        fold: bool,
        progress: ProgressWriter,
        other: BenchSettings | None = None,
        again: bool = False,
    ) -> None:
        """`again`: a row's own speed decides, so that a launch which others disturbed is made again."""
        from pytest_h2o.bench.launch import JsonSupport, Launcher, Relauncher
        from pytest_h2o.bench.sweep import Sweep

        self.base_config: BaseConfig | None = base
        self.folder: Path | None = folder
        self._base = base
        self._bench = bench
        self._folder = folder
        self._launcher = Launcher(base, bench, folder, JsonSupport(), on_wait=progress.wait, keeps_outcomes=True)
        self.pairs: PairSource = _launched_pairs(self._launcher, other, store, points, progress)
        self._progress = progress
        self._launch_point = Relauncher(self._launcher).launch_point if again else self._launcher.launch_point
        self._sweep = Sweep(points, self._launch, store.once, binary=bench.digest[:16], fold=fold)

    def _launch(self, point: Point) -> Row:
        with self._progress.step(point.preset, short_run_id(point.run_id), unit="run", total=self.planned_runs):
            return self._launch_point(point)

    @property
    def planned_runs(self) -> int:
        return self._sweep.runs

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(_describe_fold(check) for check in self._sweep.fold_checks())

    def result(self, point: Point) -> Row:
        return self._sweep.result(point)

    def shared_run(self, point: Point) -> str | None:
        return self._sweep.shared_run(point)

    def command(self, point: Point) -> str | None:
        from pytest_h2o.bench.command import RunFiles, repeat_command
        from pytest_h2o.bench.llm_bench import get_adapter

        adapter, files = get_adapter(point.bench), RunFiles(self._folder, point.run_id)
        return repeat_command(adapter.argv(self._bench, files, point, adapter.run_config(self._base, point)))

    def write_dry_run(self) -> str:
        from pytest_h2o.bench.launch import write_dry_run

        runs = len(write_dry_run(self._sweep.points, self._base, self._bench, self._folder))
        return f"configs, manifest and commands.sh of {runs} run{'s' * (runs != 1)} are in {self._folder}"


class NoRows:
    """Nothing can measure this preset: every question is answered with what is missing."""

    notes: tuple[str, ...] = ()
    baselines: Sequence[Row] = ()
    unused: Mapping[str, str] = MappingProxyType({})
    folder: Path | None = None
    base_config: BaseConfig | None = None
    planned_runs = 0

    @property
    def pairs(self) -> PairSource:
        from pytest_h2o.run.pairs import NoPairs

        return NoPairs()

    def __init__(self, preset: Preset, logs: Path | None, why: str | None = None) -> None:
        self._preset = preset
        self._logs = logs
        self._why = why or ("neither a bench nor recorded logs" if logs is None else None)

    def result(self, point: Point) -> Row:
        raise NotMeasured(
            f"not measured: {self._preset.name}",
            where=None if self._logs is None else f"no recording of it in {self._logs}",
            came=self._why,
            expected="a bench to run, or recorded logs of this preset",
            hint="--h2o-bench PATH --h2o-base-config FILE runs it; --h2o-logs DIR reads logs of it",
        )

    def shared_run(self, point: Point) -> str | None:
        return None

    def command(self, point: Point) -> str | None:
        return None

    def write_dry_run(self) -> str:
        return "there is no bench to run"


def _recorded_pairs(folder: Path) -> PairSource:
    from pytest_h2o.run.pairs import RecordedPairs

    return RecordedPairs(folder)


def _launched_pairs(
    launcher: Launcher,
    other: BenchSettings | None,
    store: OnceStore,
    points: Sequence[Point],
    progress: ProgressWriter,
) -> PairSource:
    from pytest_h2o.run.pairs import LaunchedPairs

    return LaunchedPairs(launcher, other, store, points[0].preset if points else "", progress)


def short_run_id(run_id: str) -> str:
    """``run_0003`` of ``run_0003_p512_g128_…``: enough to find it by."""
    return run_id.split("_p", 1)[0]


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


FOLDER = "consistency"
"""In the folder of a preset: config, log and output of that launch."""

_RUN_ID = "consistency"
_MAX_OUTPUT_BYTES = 64 * 1024 * 1024


class ConsistencyFigures:
    """Answers for the difference of the two, launched once for all processes of the run."""

    def __init__(
        self, settings: Settings, *, run_dir: Path, store: OnceStore, base: Callable[[Preset], BaseConfig]
    ) -> None:
        self._settings = settings
        self._run_dir = run_dir
        self._store = store
        self._base = base

    @property
    def is_exact(self) -> bool:
        """Whether the two must agree to the byte: on the bench that comes with the plugin."""
        return is_embedded(self._settings["bench"])

    def compare(self, preset: Preset, point: Point) -> tuple[int, str]:
        """Bytes by which the two differ over all samples, without sign, and what was compared, in words."""
        if self._settings["bench"] is None:
            raise OptedOut("the runtime's own lossless sizes are not checked: recorded logs hold no dumps")
        if preset.bench != LLM_BENCH or not (preset.kv_lossless_enable and preset.kv_lossless_runtime_enable):
            raise OptedOut(f"{preset.name} codes nothing at runtime, so there are no sizes to check")
        kept = self._store.once(f"consistency/{preset.name}", keep_error(lambda: self._launch(preset, point)))
        found = kept_value(kept)
        if "left_out" in found:
            raise OptedOut(f"the runtime's own lossless sizes are not checked: {found['left_out']}")
        return int(found["difference_bytes"]), str(found["text"])

    def _launch(self, preset: Preset, point: Point) -> dict[str, Any]:
        """Launch with a dump that goes again: its thousands of files say nothing that the comparison does not."""
        with tempfile.TemporaryDirectory(prefix="pytest-h2o-dump-") as dump_dir:
            return self._launch_and_dump(preset, point, Path(dump_dir))

    def _launch_and_dump(self, preset: Preset, point: Point, dump_dir: Path) -> dict[str, Any]:
        from pytest_h2o.bench.config import without_quality
        from pytest_h2o.bench.launch import JsonSupport, Launcher
        from pytest_h2o.reference.dump import CONFIG_KEYS, compare_run

        folder = self._run_dir / preset.name / FOLDER
        asked = {
            "MNN_KV_DUMP_DIR": str(dump_dir),
            "MNN_KV_DUMP_RUN_ID": _RUN_ID,
            "MNN_KV_DUMP_STAGE": "both",
            "MNN_KV_DUMP_MAX_TOKENS": str(point.prompt_len + point.gen_len),
        }
        lossless = {**point.lossless, **{k: v for k, v in CONFIG_KEYS.items() if k.startswith("kv_lossless_")}}
        checked = replace(point, run_id=_RUN_ID, repeat=1, h2o_log_stats=True, lossless=lossless)
        base = without_quality(self._base(preset))
        bench, env = bench_settings(self._settings, preset), {**os.environ, **asked}
        launcher = Launcher(base, bench, folder, JsonSupport(), env=env, keeps_outcomes=True)
        result = launcher.launch_point(checked)
        output = _read_output(result.stdout_path)
        config = json.loads((folder / "configs" / f"{_RUN_ID}.json").read_text(encoding="utf-8"))
        try:
            found = compare_run(output, dump_dir, run_id=_RUN_ID, config=config)
        except DumpError as error:
            if not self.is_exact and not any(dump_dir.iterdir()):
                # Only a build made for it writes dumps, and what is reported of others never gates.
                return {"left_out": "this build wrote no dump (one with MNN_KV_DUMP_DIR does)"}
            raise NotMeasured(
                "the bench wrote no dump to hold its own lossless sizes against",
                where=str(folder),
                came=error.what,
                expected="a build with MNN_KV_DUMP_DIR",
            ) from error
        return _describe(found, folder)


def _describe(found: Consistency, folder: Path) -> dict[str, Any]:
    if found.offline_bytes is None or not found.compared:
        raise NotMeasured(
            "the bench's own lossless sizes cannot be held against its dump",
            where=str(folder),
            came=found.render(),
            expected="samples in its output, and their tokens in the dump",
        )
    return {"difference_bytes": abs(found.runtime_bytes - found.offline_bytes), "text": found.render()}


def _read_output(path: Path | None) -> str:
    if path is None:
        return ""
    with path.open("rb") as file:
        return file.read(_MAX_OUTPUT_BYTES).decode("utf-8", "replace")


TEXT_FOLDER = "demo"
"""In the folder of a preset: configs and outputs of llm_demo."""


class TextFigures:
    """Answers for the texts of presets."""

    def __init__(
        self, settings: Settings, *, run_dir: Path, store: OnceStore, base: Callable[[Preset], BaseConfig]
    ) -> None:
        self._settings = settings
        self._run_dir = run_dir
        self._store = store
        self._base = base

    @property
    def are_compared(self) -> bool:
        """Whether there is an llm_demo to say them."""
        return self._settings["demo"] is not None

    def compare(self, preset: Preset, point: Point) -> TextComparison:
        """The texts of one point; BenchError where llm_demo gives none, NotMeasured where there is no llm_demo."""
        if not self.are_compared:
            raise NotMeasured("no llm_demo is given", expected="--h2o-demo PATH")
        kept = self._store.once(f"demo/{preset.name}", keep_error(lambda: plain(self._say(preset, point))))
        return load(TextComparison, kept_value(kept), "a comparison of texts")

    def _say(self, preset: Preset, point: Point) -> TextComparison:
        from pytest_h2o.bench.config import baseline_run_config, build_run_config
        from pytest_h2o.bench.demo import Demo, find_prompts
        from pytest_h2o.bench.machine import heavy_work

        base = self._base(preset)
        folder = unused_folder(self._run_dir / preset.name, TEXT_FOLDER)
        timeout_s = bench_settings(self._settings, preset).timeout_s
        demo = Demo(self._settings["demo"], folder, point.gen_len, timeout_s)
        pairs = []
        with heavy_work():
            for prompt in find_prompts(preset.prompt_file, shipped("prompts")):
                off = demo.say(f"{prompt.stem}_h2o_off", baseline_run_config(base), prompt)
                on = demo.say(f"{prompt.stem}_h2o_on", build_run_config(base, point), prompt)
                pairs.append(compare_texts(prompt.stem, off, on))
        return TextComparison(point.run_id, tuple(pairs))


class DecodeFigures:
    """Answers for the decode speed of presets; where their rows come from, the session says."""

    def __init__(
        self,
        settings: Settings,
        *,
        points: Callable[[Preset], tuple[Point, ...]],
        source: Callable[[Preset], RowSource],
        new: NewData,
    ) -> None:
        self._settings = settings
        self._points = points
        self._source = source
        self._new = new

    def describe(self, presets: Sequence[Preset]) -> list[str]:
        """Lines for the header."""
        wanted = [(preset, preset_targets(self._settings, preset, None).decode_drop.value) for preset in presets]
        return [*describe_decode(self._settings, presets), *flag_targets(self._settings, wanted)]

    def baseline(self, preset: Preset, results: Sequence[Row]) -> Baseline | None:
        chosen = choose_baseline(self._settings, preset)
        if chosen.value == "none":
            raise OptedOut(f"the decode threshold is left out: decode baseline none ({chosen.origin})")
        if self.is_paired(preset):
            return paired_baseline(self.known_comparison(preset))
        if chosen.value is not None:
            speed = parse_baseline(str(chosen.value), chosen.origin)
            return Baseline(speed, chosen.origin, unlike_contexts(results))
        return pick_recorded(self._source(preset).baselines, results, get_adapter(preset.bench).uncompressed)

    def unfit_baselines(self, preset: Preset, results: Sequence[Row]) -> list[str]:
        source = self._source(preset)
        unused = [f"{log}: {why}" for log, why in source.unused.items()]
        return [*describe_unfit(source.baselines, results), *unused][:4]

    def is_paired(self, preset: Preset) -> bool:
        chosen = choose_baseline(self._settings, preset).value
        return chosen == "paired" or (chosen is None and self._source(preset).pairs.known() is not None)

    def rests_on_rows(self, preset: Preset) -> bool:
        """Whether the speeds of the rows themselves are judged, by a number, where a bench runs."""
        return choose_baseline(self._settings, preset).value not in ("paired", "none")

    def known_comparison(self, preset: Preset) -> PairedComparison | None:
        return self._source(preset).pairs.known()

    def compare(self, preset: Preset, result: Row, target: float) -> PairedComparison:
        point = next(point for point in self._points(preset) if point.run_id == result.run_id)
        plan = plan_pairs(self._settings, preset, target)
        comparison = self._source(preset).pairs.compare(point, plan)
        self._new.add_comparison(preset, comparison)
        return comparison
