"""Logs that were recorded before, read as rows. Nothing is run.

Of llm_bench a row does not say how it was configured: its manifest entry, its config and its run id do, and all that
are there must agree with the point. Rows of other benches say it themselves, and are found in whatever file has them.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pytest_h2o.bench.adapter import (
    BenchAdapter,
    check_baseline_row,
    check_config,
    check_row,
    get_adapter,
    is_idle,
    name_bench_of,
    only_row,
)
from pytest_h2o.bench.command import BaseConfig, RunFiles, advise_layer_nums, again_folder, point_keys
from pytest_h2o.bench.output import OutputSummary, check_signs, count_warnings
from pytest_h2o.bench.process import read_tail, signal_name
from pytest_h2o.bench.rows import FEWER_COLUMN, NO_OUTPUT, UNVERIFIED, Row, read_rows, read_table, read_text
from pytest_h2o.bench.sweep import INERT_FIELDS, MANIFEST_NAME, ManifestEntry, fold_key, read_manifest
from pytest_h2o.errors import (
    BenchError,
    H2OError,
    StoreError,
    TableError,
    UsageError,
    can_name_file,
    make_printable,
    one_line,
)
from pytest_h2o.files import (
    IrregularFile,
    TooLarge,
    check_regular,
    is_folder,
    list_files,
    read_regular_text,
    unique_keys,
)
from pytest_h2o.inputs.checking import LLM_BENCH
from pytest_h2o.inputs.presets import Point, Preset, expand_points, plain_setting, point_of

_RUN_ID = re.compile(r"run_\d{4,}_p\d+_g\d+_k\d+(?:\.\d+)?_b\d+_lr\d+(?:\.\d+)?")
_PRINTED = ".stdout.txt"
"""End of the name of what a run printed, beside its log."""
_OTHER_OUTPUTS = (".stderr.txt", ".stdout", ".stderr", ".out", ".err", ".txt")
"""What others call it, or the part of it that came over the other channel."""


@dataclass(frozen=True)
class Recording:
    """What a folder of recorded logs gave."""

    folder: Path
    results: dict[str, Row] = field(default_factory=dict)
    """Run id -> its sound row."""
    failures: dict[str, H2OError] = field(default_factory=dict)
    """Run id -> why that point has no sound row: a missing log, a failed run, a damaged table."""
    baselines: list[Row] = field(default_factory=list)
    """Rows with nothing compressed, under the names of their logs."""
    unused: dict[str, str] = field(default_factory=dict)
    """Log -> why it is neither a point nor a baseline. To be shown where something is missing."""

    def get(self, run_id: str) -> Row:
        """Return the row of a point, or raise why there is none."""
        if run_id in self.results:
            return self.results[run_id]
        failure = self.failures.get(run_id) or _not_recorded(run_id, self.folder)
        raise failure.with_traceback(None)  # which would grow by that of everyone who asks


# -- which folder is whose recording ----------------------------------------------------------------------------------


def find_recordings(folder: Path, presets: Sequence[Preset], selected: Sequence[Preset]) -> dict[str, Path]:
    """Which folder holds the logs of which preset.

    A run folder has one folder a preset. A folder with a manifest of its own is that of each preset whose points it
    lists, or, where that is none, of the one that is selected; one of bare logs is that of the one that is selected.
    Presets of another bench find their rows in whatever file has them.
    """
    if not folder.is_dir():
        came = "a file" if folder.exists() else "no such folder"
        what = "recorded logs are read from a folder" if folder.exists() else "the folder of recorded logs is not there"
        raise UsageError(what, where=str(folder), came=came, expected="a folder with *.log files, or a run folder")
    recorded_logs(folder)
    own = [preset for preset in selected if preset.bench == LLM_BENCH]
    others = {p.name: place for p in presets if p.bench != LLM_BENCH and (place := _place_of_rows(folder, p))}
    if selected and not own:
        return others or {preset.name: folder for preset in selected}  # which then say what is there instead
    if others and not (folder / MANIFEST_NAME).exists() and not list_files(folder, (".log",)).files:
        presets = [preset for preset in own if (folder / preset.name).is_dir()]
    return others | (_find_logs(folder, [p for p in presets if p.bench == LLM_BENCH], own) if presets else {})


def recorded_logs(folder: Path) -> list[Path]:
    """The ``*.log`` files of a folder and of its ``logs/``, each by path; UsageError if either cannot be listed.

    A file that several paths lead to, links say, is there once.
    """
    found = list[Path]()
    for place in (folder, folder / "logs"):
        listing = list_files(place, (".log",), hidden=True)
        if listing.unseen and is_folder(place):
            raise UsageError(
                "a folder of recorded logs cannot be listed",
                where=str(place),
                came=listing.unseen[place],
                expected="a folder that can be listed",
                hint="mend its permissions: its logs would be missing from the result",
            )
        found += listing.files
    return distinct_files(found)


def distinct_files(paths: Iterable[Path]) -> list[Path]:
    """Every file once, in the order of its first path; of links to one of them the file itself."""
    found: dict[object, Path] = {}
    for path in paths:
        try:
            status = path.stat()
        except OSError:  # whoever reads it says why
            found[path] = path
            continue
        key = (status.st_dev, status.st_ino)
        if key not in found or (found[key].is_symlink() and not path.is_symlink()):
            found[key] = path
    return list(found.values())


def _place_of_rows(folder: Path, preset: Preset) -> Path | None:
    """Where the rows of a preset of another bench are: in the folder of its name, or beside those of others."""
    inner, points = recording_folder(folder, preset.name), expand_points(preset)
    return inner if inner != folder or has_rows_of(folder, points) else None


def _find_logs(folder: Path, presets: Sequence[Preset], selected: Sequence[Preset]) -> dict[str, Path]:
    """`find_recordings` of presets for llm_bench."""
    found = {p.name: inner for p in presets if (inner := recording_folder(folder, p.name)) != folder}
    if found:
        return found
    if (folder / MANIFEST_NAME).exists():
        listed = [preset for preset in presets if _is_listed(folder / MANIFEST_NAME, preset)]
        # Of a single preset the rows themselves then say in what their configuration differs.
        return {preset.name: folder for preset in listed or (selected if len(selected) == 1 else ())}
    if not recorded_logs(folder):
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
    entries = {entry.run_id: entry for entry in read_manifest(manifest)}
    points = expand_points(preset)
    return any(p.run_id in entries and not entries[p.run_id].differences(p) for p in points)


def recording_folder(folder: Path, preset: str) -> Path:
    """Return the folder of a preset in a run folder; the folder itself if it has none for the preset.

    A folder of its name is its recording, even where files of it are gone: then its runs fail, and are not left out.
    """
    inner = folder / preset
    # A sweep's own folder has configs/ and logs/: those are no presets.
    is_name = preset not in ("", ".", "..", "configs", "logs") and Path(preset).name == preset
    return inner if is_name and inner.is_dir() else folder


# -- logs of llm_bench -------------------------------------------------------------------------------------------------


BASELINES = "baseline_batch"
"""In a run folder of later scripts: the same runs, by the same run ids, with nothing compressed."""


def read_recording(folder: Path, points: Sequence[Point] | None = None, *, of_baselines: bool = False) -> Recording:
    """Read a folder of logs of llm_bench; `of_baselines`, where nothing says that H2O was on it was off.

    With a ``manifest.json`` the runs are those that it lists, each with its return code. Without one the logs in the
    folder and in its ``logs/`` are matched by the run id in their names. Other logs are baselines if their config, or
    where there is none their row, says that H2O was off.
    """
    if not folder.is_dir():
        what, expected = "there is no folder of recorded logs", "a folder with manifest.json or *.log"
        raise StoreError(what, where=str(folder), expected=expected)
    reader = _Reader(folder, points, of_baselines=of_baselines)
    if (folder / MANIFEST_NAME).exists():
        reader.read_listed(read_manifest(folder / MANIFEST_NAME))
    else:
        reader.read_named()
    reader.read_others()
    if not of_baselines and is_folder(folder / BASELINES):
        reader.take_baselines(folder / BASELINES)
    _part_strangers(reader.found)
    _part_copies(reader.found)
    return reader.found


def _part_copies(found: Recording) -> None:
    """Take out the rows that are one to the last digit, timings too, and share no run: they are one launch copied.

    Only where their configs say that they are not alike: bare logs are told as not verified.
    """
    alike: dict[str, list[str]] = {}
    for run_id, row in found.results.items():
        told = row.config_path is not None and not any(note.startswith(UNVERIFIED) for note in row.notes)
        if told and row.shares_run_with is None:
            alike.setdefault(str(row.cells), []).append(run_id)
    for run_ids in (ids for ids in alike.values() if len(ids) > 1):
        for run_id in run_ids:
            row = found.results.pop(run_id)
            found.failures[run_id] = BenchError(
                f"the row of {run_id} is that of another point to the last digit",
                where=str(row.log_path),
                came=f"a copy, of {', '.join(other for other in run_ids if other != run_id)[:200]}",
                expected="a launch of its own, or shares_run_with the run of a point that is the same to the engine",
                hint="copy the whole folder of the sweep, or record these points again",
            )


def _part_strangers(found: Recording) -> None:
    """Take out the rows that differ from the most in what no sweep varies: of another model, machine or config."""
    facts = {run_id: unswept(row) for run_id, row in found.results.items()}
    for name in dict.fromkeys(name for of_row in facts.values() for name in of_row):
        values = {run_id: of_row.get(name, "none") for run_id, of_row in facts.items() if _has_part(of_row, name)}
        usual = Counter(values.values()).most_common(1)[0][0]
        for run_id in (run_id for run_id, value in values.items() if value != usual):
            row = found.results.pop(run_id, None)
            if row is not None:
                found.failures[run_id] = BenchError(
                    f"{run_id} is no run of this sweep: it has another {name} than the most of its rows",
                    where=str(row.config_path if name.startswith(IN_CONFIG) else row.log_path),
                    came=f"{one_line(values[run_id])}, not {one_line(usual)}",
                    expected="one model, machine and base config for all points of a sweep",
                    hint="record this point again, with what the others were recorded with",
                )


def _has_part(facts: Mapping[str, str], name: str) -> bool:
    """Whether a row has what would say this: of a run whose config was not kept no key says anything."""
    return not name.startswith(IN_CONFIG) or any(known.startswith(IN_CONFIG) for known in facts)


_UNSWEPT = ("model", "modelSize", "backend", "threads", "precision", "mmap")
"""Columns in which all rows of a sweep are alike."""

IN_CONFIG = "config key "


def unswept(row: Row) -> dict[str, str]:
    """What a row says that no sweep varies. The keys of H2O and of lossless coding are held against the point."""
    config = _read_config(row.config_path)
    said = {column: row.cells.get(column, "none") for column in _UNSWEPT}
    values = {name: json.dumps(value) for name, value in (config or {}).items() if not name.startswith("kv_")}
    return said | {f"{IN_CONFIG}{name}": value for name, value in values.items()}


def launch_folders(folder: Path) -> list[Path]:
    """The folders of further launches of the points of a sweep, from number 2 on; StoreError where one is not there."""
    numbers = sorted(int(found[1]) for path in folder.iterdir() if (found := _FURTHER.fullmatch(path.name)))
    for number in range(2, len(numbers) + 2):
        if number not in numbers:
            raise StoreError(
                f"launch {number} of each point is not recorded",
                where=str(folder),
                came=", ".join(again_folder(number) for number in numbers),
                expected=f"{again_folder(2)} and so on, none left out",
                hint="copy the whole folder of the preset",
            )
    return [folder / again_folder(number) for number in numbers]


_FURTHER = re.compile(again_folder("([2-9]|[1-9][0-9]+)"))


def join_launches(row: Row, further: Iterable[Row], folder: Path, *, distinct: bool = True) -> Row:
    """The row with the cells of further launches of its point; TableError where one is a copy, unless not `distinct`.

    Another bench than llm_bench may print so little that two launches look alike.
    """
    own, seen = row.shares_run_with or row.run_id, [row.cells]
    told = {FEWER_COLUMN: row.cells[FEWER_COLUMN]} if row.asked_repeat is not None else {}
    for number, launch in enumerate(further, start=2):
        cells = {**launch.cells, **told}
        if distinct and cells in seen:
            raise TableError(
                f"launch {number} of {own} is launch {seen.index(cells) + 1} to the last digit",
                where=str(folder / again_folder(number)),
                came="a copy",
                expected="a launch of its own",
                hint="copy the whole folder of the preset, or measure it again",
            )
        seen.append(cells)
    return replace(row, again=tuple(seen[1:]))


def read_launch(folder: Path, point: Point) -> Row:
    """The row of one launch, by its run id, in the ``configs/`` and ``logs/`` of a folder; read as that of a point."""
    files = RunFiles(folder, point.run_id)
    run = _Run(point.run_id, files.log, files.log_file, files.config, point)
    if point.bench == LLM_BENCH:
        return run.read(compressed=point.compressed)
    run.check_end()
    adapter = get_adapter(point.bench)
    rows = adapter.parse(read_text(files.log, files.log_file), log_file=files.log_file, repeat=point.repeat)
    return _checked(replace(only_row(rows, files.log_file), log_path=files.log), adapter, point)


@dataclass(frozen=True)
class _Run:
    """Where one run's files are, and what is known of it."""

    run_id: str
    log: Path
    log_file: str
    """The log as its row names it."""
    config: Path | None = None
    point: Point | None = None
    """What it should have run, where that is known."""
    told: Point | None = None
    """What its manifest says that it ran."""
    return_code: int | None = None
    shares_run_with: str | None = None
    listed: Mapping[str, Any] = field(default_factory=dict)
    """Its manifest entry, which agrees with the point; empty without a manifest."""

    def read(self, *, compressed: bool) -> Row:
        """Read its row, with H2O on or off; an `H2OError` if it failed, or no verdict may rest on the row."""
        self.check_end()
        if not compressed and _h2o_switch(self):
            came, expected = "kv_h2o_enable true", "a config with H2O off"
            raise BenchError(
                "a baseline was recorded with H2O on", where=str(self.config), came=came, expected=expected
            )
        known = self.point or self.told
        beside = _files_beside(self.log, self.config, known)
        note = _check_configuration(self, self.point) if compressed and self.point is not None else None
        silent = NO_OUTPUT if compressed and beside["output"] is None else None
        repeat, asked = None if self.point is None else self.point.repeat, None
        match self.listed:
            case {"sweep_repeat": int(fewer), "repeat": int(whole)} if 0 < fewer < whole:
                repeat, asked = fewer, whole
        of_json: Path | None = self.log.with_suffix(".json")
        if self.log.parent.name != "logs" and not _holds_rows(self.log.with_suffix(".json")):
            of_json = None  # beside bare logs a JSON of their name is as likely a config
        row = only_row(read_rows(self.log, of_json, log_file=self.log_file, repeat=repeat), self.log_file)
        row = replace(row if asked is None else row.with_fewer_repeats(asked), **beside)
        (check_row if compressed else check_baseline_row)(row, known)
        if compressed and known is not None:
            _check_blocks(row, known, self.config)
            check_config(row, _read_config(self.config) or known.lossless)
        return replace(
            row,
            run_id=self.run_id,
            log_path=self.log,
            returncode=self.return_code,
            notes=(*row.notes, *filter(None, (note, silent))),
            shares_run_with=self.shares_run_with,
        )

    def check_end(self) -> None:
        """Check what was noted when the run was made."""
        if self.return_code not in (None, 0):
            printed, name = self.log.with_name(f"{self.log.stem}{_PRINTED}"), signal_name(self.return_code or 0)
            output = _read_output(printed)
            end = f"was ended by {name}" if name else f"ended with exit code {self.return_code}"
            raise BenchError(
                f"the recorded run {end}",
                returncode=self.return_code,
                signal_name=name,
                output_tail=read_tail(printed),
                where=self.log_file,
                came=(output.reason if output else None) or "no reason was recorded",
                expected="return code 0 in the manifest",
                hint="run this point again",
            )
        kept = {self.log: ("log", "the table that the bench wrote (-fp)")}
        printed = self.log.with_name(f"{self.log.stem}{_PRINTED}")
        if (named := self.listed.get("output")) is not None:
            kept[printed] = ("output", "what it printed, as the manifest says")
            if PurePosixPath(str(named).replace("\\", "/")).name != printed.name:
                what, expected = "the output of this run is not the one beside its log", printed.name
                raise BenchError(what, where=str(self.log), came=repr(named)[:200], expected=expected)
        for path, (what, expected) in kept.items():
            if not path.is_file():
                hint = "copy the whole folder of the sweep, or run this point again"
                raise BenchError(f"the {what} of this run is missing", where=str(path), expected=expected, hint=hint)


def _holds_rows(path: Path) -> bool:
    """Whether a JSON is what the bench writes with -j, damaged or not."""
    try:
        return '"results"' in read_regular_text(path)
    except (OSError, ValueError):
        return False


def _files_beside(log: Path, config: Path | None, point: Point | None) -> dict[str, Any]:
    """The fields of a row that say what else a run left, as far as that was kept; BenchError if it tells of damage."""
    printed = log.with_name(f"{log.stem}{_PRINTED}")
    output, allowed = _read_output(printed), {} if point is None else point.allow_signs
    others = (log, *(log.with_name(f"{log.stem}{end}") for end in _OTHER_OUTPUTS))  # a log may hold all of it
    for path, told in ((printed, output), *((path, _read_output(path)) for path in others)):
        if told is not None:
            check_signs(told, path, allowed, lambda: advise_run(config, point))
    return {
        "config_path": config if config is not None and config.is_file() else None,
        "stdout_path": printed if printed.is_file() else None,
        "output": output,
    }


def advise_run(config: Path | None, point: Point | None, layers: int | None = None) -> str | None:
    """What is to be said of ``layer_nums`` in the config of a run of llm_bench, whose model has so many layers."""
    values = _read_config(config)
    if config is None or values is None or (point is not None and point.bench != LLM_BENCH):
        return None
    base_dir = values.get("base_dir", "")
    is_place = isinstance(base_dir, str) and can_name_file(base_dir)
    base = BaseConfig(config, values if is_place else {**values, "base_dir": ""}, "recording")
    return advise_layer_nums(base, layers)


_LAYERS_UNTOLD = 32
"""As many layers llm_bench counts where its config has no ``layer_nums``."""


def _check_blocks(row: Row, point: Point, config: Path | None) -> None:
    """Refuse a row with more coded blocks than the layers can have handed over, of a config without ``layer_nums``.

    A layer hands over a block at most every `update_interval` tokens, and every block is restored once: so hits and
    misses of the decode cache count them. A layer counter that drifts makes more of them, out of tokens that are none,
    and the lossless ratio looks splendid. What the bench printed would say so; here the table alone does.
    """
    found = [row.get(f"h2o_lossless_decode_cache_{name}") for name in ("hit", "miss")]
    blocks = sum(value.mean for value in found if value is not None)
    most = _LAYERS_UNTOLD * math.ceil(point.gen_len / point.update_interval)
    if blocks > most and (advice := advise_run(config, point)) is not None:
        raise TableError(
            "more blocks of the cache were restored than its layers can have coded",
            where=row.log_file,
            came=f"{blocks:g} hits and misses of the decode cache beside h2o_lossless {row.cells['h2o_lossless']}",
            expected=f"at most {most}: {_LAYERS_UNTOLD} layers, {point.gen_len} tokens, one block a layer and "
            f"{point.update_interval} tokens",
            hint=f"first cause: {advice}",
        )


_MOST_OUTPUT_BYTES = 1 << 30


def _read_output(printed: Path) -> OutputSummary | None:
    """What a run printed, if that was kept; BenchError if what is there in its place cannot be read."""
    try:
        if not os.path.lexists(printed):
            return None
        check_regular(printed)
        if (size := printed.stat().st_size) > _MOST_OUTPUT_BYTES:
            raise TooLarge(errno.EFBIG, f"{size:,} bytes, more than {_MOST_OUTPUT_BYTES:,}")
        return count_warnings(printed)
    except OSError as error:
        what, came = "the recorded output of a run cannot be read", error.strerror or str(error)
        raise BenchError(what, where=str(printed), came=came, expected="what the bench printed, as text") from error


class _Reader:
    """Reads the runs of one folder; each run fails for itself."""

    def __init__(self, folder: Path, points: Sequence[Point] | None, *, of_baselines: bool) -> None:
        self.folder = folder
        self.of_baselines = of_baselines
        self.points = None if points is None else {point.run_id: point for point in points}
        self.found = Recording(folder)
        self.logs = sorted(recorded_logs(folder))

    def read_listed(self, entries: Sequence[ManifestEntry]) -> None:
        """Runs of a manifest."""
        faults = _find_sharing_faults(entries, self.points, self.folder)
        listed = {entry.run_id for entry in entries}
        for run_id in self.points or ():
            if run_id not in listed:
                self.found.failures[run_id] = _not_recorded(run_id, self.folder)
        for entry in entries:
            log = self.folder / entry.log_file
            self.logs = [path for path in self.logs if path != log]
            if self.points is not None and entry.run_id not in self.points:
                continue
            point = None if self.points is None else self.points[entry.run_id]
            fault = self.find_fault(entry, point, faults.get(entry.run_id))
            if fault is not None:
                self.found.failures[entry.run_id] = fault
                continue
            config = None if entry.config_file is None else self.folder / entry.config_file
            code, shared = entry.return_code, entry.shares_run_with
            told = None if point is not None or self.of_baselines else point_of(entry.values)
            self._try(_Run(entry.run_id, log, entry.log_file, config, point, told, code, shared, entry.values))

    def find_fault(self, entry: ManifestEntry, point: Point | None, sharing: H2OError | None) -> H2OError | None:
        """Why a listed run cannot be read at all."""
        manifest = self.folder / MANIFEST_NAME
        if point is not None and (differences := entry.differences(point)):
            return _other_configuration(entry.run_id, manifest, differences)
        if sharing is not None:
            return sharing
        if entry.return_code is None and entry.values["return_code"] is None:
            what, why = "is listed in the recording and was never run", entry.values.get("not_launched")
            came = f"not launched (--h2o-fast): {why}" if why else "return_code null, as a dry run writes it"
            expected = "the return code of a run"
            return BenchError(f"{entry.run_id} {what}", where=str(manifest), came=came, expected=expected)
        named = _RUN_ID.search(PurePosixPath(entry.log_file).stem)
        if named is not None and named[0] not in (entry.run_id, entry.shares_run_with):
            return BenchError(
                f"the log of {entry.run_id} has the name of another run",
                where=str(manifest),
                came=entry.log_file,
                expected=f"a log of {entry.run_id}",
                hint="the manifest was edited, or files were renamed: record this point again",
            )
        for name in filter(None, (entry.log_file, entry.config_file)):
            if not (self.folder / name).resolve().is_relative_to(self.folder.resolve()):
                return BenchError(
                    f"a file of {entry.run_id} leads out of the recording",
                    where=str(self.folder / name),
                    came="a link to a file outside",
                    expected="files inside the folder of the manifest",
                    hint="copy the file into the folder",
                )
        return None

    def read_named(self) -> None:
        """Logs without a manifest, by the run id in their names."""
        logs_of_id: dict[str, list[Path]] = {}
        for log in self.logs:
            match = _RUN_ID.search(log.stem)
            if match is not None and not re.match(r"[\w.]", log.stem[match.end() :]):
                logs_of_id.setdefault(match[0], []).append(log)
        named = {log for logs in logs_of_id.values() for log in logs}
        self.logs = [log for log in self.logs if log not in named]
        wanted = dict.fromkeys(sorted(logs_of_id)) if self.points is None else self.points
        strangers = [log for run_id, logs in logs_of_id.items() if run_id not in wanted for log in logs]
        self.found.unused.update({self._name(log): "its run id is none of the preset's" for log in strangers})
        for run_id, point in wanted.items():
            logs = logs_of_id.get(run_id, [])
            if len(logs) == 1:
                config = self.folder / "configs" / f"{run_id}.json"
                if not config.exists() and logs[0].parent.name != "logs":
                    config = logs[0].with_suffix(".json")
                self._try(_Run(run_id, logs[0], self._name(logs[0]), config, point))
            elif logs:
                self.found.failures[run_id] = BenchError(
                    f"{run_id} has several logs, and nothing tells which one is meant",
                    came=", ".join(map(self._name, logs)),
                    expected="one log a run",
                    hint="move the others out of the folder",
                )
            else:
                self.found.failures[run_id] = _not_recorded(run_id, self.folder)

    def read_others(self) -> None:
        """Logs that are no point's: baselines, or not used."""
        for log in self.logs:
            run = _Run(log.stem, log, self._name(log), self.folder / "configs" / f"{log.stem}.json")
            try:
                switch, where = _h2o_switch(run), "config"
                if switch is None:
                    row, where = only_row(read_table(run.log, log_file=run.log_file), run.log_file), "row"
                    switch = not is_idle(row)
                if not switch:
                    self.found.baselines.append(run.read(compressed=False))
                else:
                    self.found.unused[run.log_file] = f"H2O was on in its {where}, and it is no run of the sweep"
            except H2OError as error:
                self.found.unused[run.log_file] = "; ".join(part for part in (error.what, error.came) if part)

    def take_baselines(self, folder: Path) -> None:
        """Rows of a folder in which nothing was compressed; what of it is none of these is not used."""
        found, name = self.found, _name_in(self.folder, folder)
        try:
            inner = read_recording(folder, of_baselines=True)
        except H2OError as error:
            found.unused[name] = error.what
            return
        found.baselines.extend(
            replace(row, run_id=f"{name}/{row.run_id}", log_file=f"{name}/{row.log_file}") for row in inner.baselines
        )
        refused: dict[str, str] = dict.fromkeys(inner.results, "H2O was on")
        refused |= {run: error.what for run, error in inner.failures.items()}
        found.unused.update({f"{name}/{run}": why for run, why in (refused | inner.unused).items()})

    def _try(self, run: _Run) -> None:
        try:
            switch = _h2o_switch(run)
            if switch is False or (switch is None and self.of_baselines):
                self.found.baselines.append(run.read(compressed=False))
                if run.point is not None:
                    failure = _not_recorded(run.run_id, self.folder, "H2O was off in its config")
                    self.found.failures[run.run_id] = failure
            else:
                self.found.results[run.run_id] = run.read(compressed=True)
        except H2OError as error:
            self.found.failures[run.run_id] = error

    def _name(self, log: Path) -> str:
        return _name_in(self.folder, log)


def _name_in(folder: Path, path: Path) -> str:
    return make_printable(path.relative_to(folder).as_posix(), keep="")


def _not_recorded(run_id: str, folder: Path, came: str | None = None) -> BenchError:
    expected = "a run of this point in its manifest, or a log with this run id in its name"
    hint = "record the whole preset, or select the points that were recorded with -k"
    return BenchError(f"{run_id} is not in the recording", where=str(folder), came=came, expected=expected, hint=hint)


class Log(NamedTuple):
    """A log of a run folder as its manifest lists it."""

    path: Path
    name: str
    """As the manifest has it, from the working directory of that day say."""
    fault: H2OError | None
    """Why no row of it is one of that run."""


def listed_logs(folder: Path) -> list[Log]:
    """The logs of a manifest, in its order."""
    reader, logs = _Reader(folder, None, of_baselines=False), []
    for entry in read_manifest(folder / MANIFEST_NAME):
        run = _Run(entry.run_id, folder / entry.log_file, entry.log_file, return_code=entry.return_code)
        fault = reader.find_fault(entry, None, None)
        try:
            run.check_end()
        except H2OError as error:
            fault = fault or error
        logs.append(Log(run.log, make_printable(str(entry.values["log"]), keep=""), fault))
    return logs


# -- configuration --------------------------------------------------------------------------------------------------

_TUNED = ("block_tokens", "sink_tokens", "recent_tokens", "ema_alpha", "update_interval", "trigger_min_tokens")
_PLAIN = ("h2o_layer_start", "h2o_layer_end", "h2o_target_mode", "h2o_target_lossy_ratio")
_KEY_OF_FIELD: Mapping[str, str] = {
    "keep_ratio": "kv_h2o_target_keep_ratio",
    **{name: f"kv_{name}" for name in _PLAIN},
    **{name: f"kv_h2o_{name}" for name in _TUNED},
}
"""Field of a manifest -> the config key that says the same; lossless keys have one name in both."""

_IN_THE_ROW = ("run_id", "prompt_len", "gen_len")
"""Fields that the row or its name itself shows."""

_NOT_SAID = {
    (False, True): "neither its config nor its manifest entry says",
    (False, False): "no manifest, and its config does not say",
    (True, True): "no config that can be read, and the manifest does not say",
    (True, False): "neither config nor manifest:",
}
"""Whether the config is missing, whether a manifest lists the run -> how a note begins."""


def _read_config(path: Path | None) -> Mapping[str, Any] | None:
    """The config of a recorded run; None if there is none that can be read, BenchError if it is none to be read."""
    what, expected = "the config of a recorded run cannot be read", "the JSON file that the run was given"
    try:
        text = None if path is None else read_regular_text(path)
        values = None if text is None else json.loads(text, object_pairs_hook=unique_keys)
    except (TooLarge, IrregularFile) as error:
        raise BenchError(what, where=str(path), came=error.strerror, expected=expected) from None
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        return None
    except ValueError as error:
        raise BenchError(what, where=str(path), came=str(error), expected=expected) from None
    return values if isinstance(values, dict) else None


def _h2o_switch(run: _Run) -> bool | None:
    """Whether a run had H2O on, as its config says, or its manifest entry; None if neither does."""
    disabled = run.listed.get("disable_h2o")
    ours = disabled is False if isinstance(disabled, bool) else None
    told = ((_read_config(run.config) or {}).get("kv_h2o_enable"), run.listed.get("kv_h2o_enable"), ours)
    said = [switch for switch in told if isinstance(switch, bool)]
    if len(set(said)) > 1:
        raise BenchError(
            f"config and manifest of {run.run_id} contradict each other",
            where=str(run.config),
            came="H2O on in one of them, and off in the other",
            expected="one state of H2O",
            hint="one of them is of another run: record this point again",
        )
    return said[0] if said else None


def _check_configuration(run: _Run, point: Point) -> str | None:
    """Compare the config with the point, and say which settings neither it nor the manifest entry has."""
    read = _read_config(run.config)
    config = read or {}
    inert = _KEY_OF_FIELD.get(INERT_FIELDS.get(point.h2o_target_mode, "")) if run.shares_run_with is not None else None
    differences = [
        f"{key} {config[key]!r}, not {value!r}"
        for key, value in point_keys(point).items()
        if key in config and key != inert and plain_setting(config[key]) != value
    ]
    differences += [
        f"{key} {config[key]!r}, not {run.listed[key]!r}, as the manifest says"
        for key in sorted((config.keys() & run.listed.keys()) - _NO_SETTING)
        if plain_setting(config[key]) != plain_setting(run.listed[key])
    ]
    if differences:
        raise _other_configuration(run.run_id, run.config, differences)
    unsaid = [
        name
        for name in point.manifest_fields()
        if name not in _IN_THE_ROW and _KEY_OF_FIELD.get(name, name) not in config
    ]
    missing = [name for name in unsaid if name not in run.listed]
    if missing or (unsaid and read is not None):
        named = missing or unsaid
        more = f" and {len(named) - 4} more" if len(named) > 4 else ""
        told = (
            _NOT_SAID[read is None, bool(run.listed)] if missing else "the manifest says it, and its config does not:"
        )
        return f"{UNVERIFIED}: {told} {', '.join(named[:4])}{more}"
    if read is None and run.config is not None:
        why = "cannot be read" if run.config.exists() else "is missing"
        return f"{UNVERIFIED}: its config {why}, and the manifest alone says how it ran"
    return None


def _other_configuration(run_id: str, where: Path | None, differences: Sequence[str]) -> BenchError:
    return BenchError(
        f"{run_id} was recorded with another configuration",
        where=str(where),
        came="; ".join(differences),
        expected="the configuration of the preset's point with this run id",
        hint="use the preset that the recording was made with, or record it again",
    )


# -- one log, one run -----------------------------------------------------------------------------------------------

_NO_SETTING = frozenset({"run_id", "config", "log", "output", "return_code", "shares_run_with"})


def _find_sharing_faults(
    entries: Sequence[ManifestEntry], points: Mapping[str, Point] | None, folder: Path
) -> dict[str, H2OError]:
    """Find the runs whose log is also that of another run without a right to it."""
    by_id = {entry.run_id: entry for entry in entries}
    logs = {entry.run_id: (folder / entry.log_file).resolve() for entry in entries}
    owners: dict[Path, list[str]] = {}
    for entry in entries:
        if entry.shares_run_with is None:
            owners.setdefault(logs[entry.run_id], []).append(entry.run_id)
    faults: dict[str, H2OError] = {}
    for entry in entries:
        came = None
        if entry.shares_run_with is not None:
            same_log = logs.get(entry.shares_run_with) == logs[entry.run_id]
            came = _why_not_shared(entry, by_id.get(entry.shares_run_with), points or {}, same_log=same_log)
        elif len(owners[logs[entry.run_id]]) > 1:
            others = [run_id for run_id in owners[logs[entry.run_id]] if run_id != entry.run_id]
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            came = f"{entry.log_file}, which is also the log of {others[0]}{more}"
        if came is not None:
            faults[entry.run_id] = BenchError(
                f"{entry.run_id} has no log of its own",
                where=str(folder / MANIFEST_NAME),
                came=came,
                expected="a log a run, or shares_run_with the run of a point that the engine cannot tell from this one",
                hint="copy the whole folder of the sweep, or record the points again",
            )
    return faults


def _why_not_shared(
    entry: ManifestEntry, leader: ManifestEntry | None, points: Mapping[str, Point], *, same_log: bool
) -> str | None:
    """Why a run cannot share that of another; None if it can."""
    named = f"shares_run_with {entry.shares_run_with}"
    if leader is None:
        return f"{named}, which the manifest does not list"
    if leader.shares_run_with is not None:
        return f"{named}, which has no run of its own"
    if not same_log:
        return f"{named}, and another log than that run has: {entry.log_file}"
    point, other = points.get(entry.run_id), points.get(leader.run_id)
    if point is not None and other is not None:
        alike = fold_key(point) == fold_key(other)
    else:
        alike = _setting(entry) == _setting(leader)
    return None if alike else f"{named}, which is another configuration for the engine"


def _setting(entry: ManifestEntry) -> dict[str, object]:
    """What an entry says of its configuration, less what its target mode does not read."""
    inert = INERT_FIELDS.get(str(entry.values.get("h2o_target_mode")))
    return {name: value for name, value in entry.values.items() if name not in _NO_SETTING and name != inert}


# -- benches whose rows say how they were configured ----------------------------------------------------------------

_SUFFIXES = (".json", ".jsonl", ".log", ".txt", ".csv")


def read_row_files(folder: Path, points: Sequence[Point]) -> Recording:
    """Read the rows of points, all of one bench, from whatever files of the folder and its ``logs/`` have them."""
    adapter = get_adapter(points[0].bench)
    rows, unused = _read_all(folder, adapter)
    found = Recording(folder, unused=unused)
    for point in points:
        try:
            found.results[point.run_id] = _checked(_pick(rows, adapter, point, found), adapter, point)
        except H2OError as error:
            found.failures[point.run_id] = error
    baselines: dict[str, Row] = {}
    for point in points:
        bare = replace(point, compressed=False)
        for row in (row for row in rows if adapter.is_row_of(row, bare)):
            try:
                baselines[str(row.cells)] = _checked(row, adapter, replace(bare, run_id=row.log_path.stem))
            except H2OError as error:
                unused[row.log_file] = error.what
    found.baselines.extend(baselines.values())
    _part_strangers(found)
    return found


def has_rows_of(folder: Path, points: Sequence[Point]) -> bool:
    """Whether the folder holds a row of any point, or a file of this bench that is damaged, so that it must be told."""
    adapter = get_adapter(points[0].bench)
    found, damaged = _read_all(folder, adapter)
    return bool(damaged) or any(adapter.is_row_of(row, point) for row in found for point in points)


def _read_all(folder: Path, adapter: BenchAdapter) -> tuple[list[Row], dict[str, str]]:
    """Every different row, and the files that are damaged -> why."""
    found: dict[str, Row] = {}
    damaged: dict[str, str] = {}
    for path in _output_files(folder, folder / "logs"):
        if not adapter.recognises(_text(path)):
            continue
        name = _name_in(folder, path)
        try:
            for row in adapter.parse(read_text(path, name), log_file=name):
                found.setdefault(str(row.cells), replace(row, log_path=path))
        except H2OError as error:
            damaged[name] = f"{error.what}: {error.came}" if error.came else error.what
    return list(found.values()), damaged


def _output_files(*folders: Path) -> list[Path]:
    """Files that may hold rows, by path."""
    paths = sorted(path for folder in folders for path in list_files(folder, _SUFFIXES, hidden=True).files)
    return [path for path in paths if not path.name.endswith(_PRINTED) and path.is_file()]


def _text(path: Path) -> str:
    try:
        return read_text(path, str(path))
    except TableError:
        return ""


def _pick(rows: Sequence[Row], adapter: BenchAdapter, point: Point, found: Recording) -> Row:
    """The one row of a point."""
    own = [row for row in rows if adapter.is_row_of(row, point)]
    if len(own) == 1:
        return own[0]
    asked = ", ".join(f"{name} {value}" for name, value in point.manifest_fields().items() if name != "run_id")
    if own:
        raise BenchError(
            f"{point.run_id} has several rows, and nothing tells which one is meant",
            where=str(found.folder),
            came=", ".join(sorted({row.log_file for row in own})),
            expected=f"one row with {asked}",
            hint="keep one measurement of a configuration in the folder",
        )
    if found.unused:
        came = "; ".join(f"{name} is damaged: {why}" for name, why in found.unused.items())
    elif rows:
        came = f"{len(rows)} rows of other configurations"
    else:
        benches = {name_bench_of(_text(path)) for path in _output_files(found.folder)}
        known = ", ".join(sorted(name for name in benches if name is not None))
        came = f"output of {known}" if known else "no output of this bench"
    what = f"{point.run_id} is not in the recording"
    raise BenchError(what, where=str(found.folder), came=came, expected=f"a row with {asked}")


def _checked(found: Row, adapter: BenchAdapter, point: Point) -> Row:
    """A row as that of a point, with its other files."""
    row = replace(found, run_id=point.run_id, repeat=found.repeat or point.repeat)
    adapter.check(row, point)
    log = row.log_path
    config = log.parent.parent / "configs" / f"{log.stem}.json" if log.parent.name == "logs" else None
    return replace(row, **_files_beside(log, config, point))
