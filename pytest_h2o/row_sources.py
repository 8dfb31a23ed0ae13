"""Where the rows of a preset come from: recorded logs, a bench that is run, or nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from pytest_h2o.errors import NotMeasured, UsageError
from pytest_h2o.points import LLM_BENCH
from pytest_h2o.progress import ProgressWriter

if TYPE_CHECKING:
    from pytest_h2o.bench.command import BenchSettings
    from pytest_h2o.bench.config import BaseConfig
    from pytest_h2o.bench.folding import FoldCheck
    from pytest_h2o.bench.launch import Launcher
    from pytest_h2o.bench.recorded import Recording
    from pytest_h2o.bench.result import PointResult
    from pytest_h2o.pair_sources import PairSource
    from pytest_h2o.points import SweepPoint
    from pytest_h2o.presets import Preset
    from pytest_h2o.store import OnceStore


class RowSource(Protocol):
    """The rows of one preset."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say of all rows."""
        ...

    @property
    def baselines(self) -> Sequence[PointResult]:
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

    def result(self, point: SweepPoint) -> PointResult:
        """The sound result of one point; an H2OError that says why there is none."""
        ...

    def shared_run(self, point: SweepPoint) -> str | None:
        """Run id of the launch that a point shares; None if it has its own, or nothing is launched."""
        ...

    def command(self, point: SweepPoint) -> str | None:
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

    Raises
    ------
    UsageError
        There is no such folder, it holds no logs, or several presets could be meant.
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
    from pytest_h2o.bench.recorded import recording_folder
    from pytest_h2o.bench.row_files import has_rows_of
    from pytest_h2o.points import expand_points

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
    from pytest_h2o.points import expand_points

    entries = {entry.run_id: entry for entry in read_manifest(manifest)}
    points = expand_points(preset)
    return any(p.run_id in entries and not entries[p.run_id].differences(p) for p in points)


class RecordedRows:
    """Rows of logs that were recorded before; nothing is run, and nothing is folded."""

    base_config: BaseConfig | None = None
    planned_runs = 0

    def __init__(self, folder: Path, points: Sequence[SweepPoint]) -> None:
        self.folder: Path | None = folder
        self._folder = folder
        self._points = points
        self._recording: Recording | None = None
        self.pairs: PairSource = _recorded_pairs(folder)

    def _read(self) -> Recording:
        if self._recording is None:
            from pytest_h2o.bench.recorded import read_recording
            from pytest_h2o.bench.row_files import read_row_files

            read = read_recording if self._points[0].bench == LLM_BENCH else read_row_files
            self._recording = read(self._folder, self._points)
        return self._recording

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    @property
    def baselines(self) -> Sequence[PointResult]:
        return self._read().baselines

    @property
    def unused(self) -> Mapping[str, str]:
        return self._read().unused

    def result(self, point: SweepPoint) -> PointResult:
        return self._read().get(point.run_id)

    def shared_run(self, point: SweepPoint) -> str | None:
        return None

    def command(self, point: SweepPoint) -> str | None:
        return None

    def write_dry_run(self) -> str:
        return "recorded logs are read, not run"


class LaunchedRows:
    """Rows of a bench that is run, each point once for all processes of the run."""

    baselines: Sequence[PointResult] = ()
    unused: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        points: Sequence[SweepPoint],
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
        from pytest_h2o.bench.launch import JsonSupport, Launcher
        from pytest_h2o.bench.relaunch import Relauncher
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

    def _launch(self, point: SweepPoint) -> PointResult:
        with self._progress.step(point.preset, short_run_id(point.run_id), unit="run", total=self.planned_runs):
            return self._launch_point(point)

    @property
    def planned_runs(self) -> int:
        return self._sweep.runs

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(_describe_fold(check) for check in self._sweep.fold_checks())

    def result(self, point: SweepPoint) -> PointResult:
        return self._sweep.result(point)

    def shared_run(self, point: SweepPoint) -> str | None:
        return self._sweep.shared_run(point)

    def command(self, point: SweepPoint) -> str | None:
        from pytest_h2o.bench.adapter import get_adapter
        from pytest_h2o.bench.command import RunFiles, repeat_command

        adapter, files = get_adapter(point.bench), RunFiles(self._folder, point.run_id)
        return repeat_command(adapter.argv(self._bench, files, point, adapter.run_config(self._base, point)))

    def write_dry_run(self) -> str:
        from pytest_h2o.bench.dry_run import write_dry_run

        runs = len(write_dry_run(self._sweep.points, self._base, self._bench, self._folder))
        return f"configs, manifest and commands.sh of {runs} run{'s' * (runs != 1)} are in {self._folder}"


class NoRows:
    """Nothing can measure this preset: every question is answered with what is missing."""

    notes: tuple[str, ...] = ()
    baselines: Sequence[PointResult] = ()
    unused: Mapping[str, str] = MappingProxyType({})
    folder: Path | None = None
    base_config: BaseConfig | None = None
    planned_runs = 0

    @property
    def pairs(self) -> PairSource:
        from pytest_h2o.pair_sources import NoPairs

        return NoPairs()

    def __init__(self, preset: Preset, logs: Path | None, why: str | None = None) -> None:
        self._preset = preset
        self._logs = logs
        self._why = why or ("neither a bench nor recorded logs" if logs is None else None)

    def result(self, point: SweepPoint) -> PointResult:
        raise NotMeasured(
            f"not measured: {self._preset.name}",
            where=None if self._logs is None else f"no recording of it in {self._logs}",
            came=self._why,
            expected="a bench to run, or recorded logs of this preset",
            hint="--h2o-bench PATH --h2o-base-config FILE runs it; --h2o-logs DIR reads logs of it",
        )

    def shared_run(self, point: SweepPoint) -> str | None:
        return None

    def command(self, point: SweepPoint) -> str | None:
        return None

    def write_dry_run(self) -> str:
        return "there is no bench to run"


def _recorded_pairs(folder: Path) -> PairSource:
    from pytest_h2o.pair_sources import RecordedPairs

    return RecordedPairs(folder)


def _launched_pairs(
    launcher: Launcher,
    other: BenchSettings | None,
    store: OnceStore,
    points: Sequence[SweepPoint],
    progress: ProgressWriter,
) -> PairSource:
    from pytest_h2o.pair_sources import LaunchedPairs

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
