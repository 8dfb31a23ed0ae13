"""``pytest-h2o doctor``: what an engineer checks before a sweep, in about a minute; a line each, with the next step."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_h2o.cli.main import add_number, add_option
from pytest_h2o.errors import H2OError, UsageError, one_line
from pytest_h2o.inputs.options import BY_NAME, EMBEDDED_BENCH, EMBEDDED_WORD, usual_threads

if TYPE_CHECKING:
    from pytest_h2o.bench.command import BaseConfig, BenchSettings
    from pytest_h2o.bench.launch import Launcher
    from pytest_h2o.bench.rows import Row
    from pytest_h2o.inputs.presets import Point

State = Literal["ok", "warning", "wrong"]

LEAST_ROOM, LITTLE_ROOM = 100 << 20, 1 << 30
"""Bytes: a sweep with its dump may not fit; it fits, and not many of them."""

LOUD = 0.15
"""Spread of decode speed between launches from which on a paired verdict needs more than its usual pairs."""

WATCHED_S = 2.0
LAUNCHES = 3
BUDGET_S = 45.0
"""Seconds of launches after which no other begins; of each examination the first launch is made in any case."""

BACKENDS = ("cpu", "opencl", "metal")


@dataclass(frozen=True)
class Line:
    """What was found of one subject, and what to do about it."""

    state: State
    subject: str
    found: str
    next: str = ""

    def render(self) -> str:
        head = f"{self.state:<8} {self.subject:<12} "
        wrapped = partial(textwrap.wrap, width=100, break_on_hyphens=False, break_long_words=False)
        lines = wrapped(head + one_line(self.found, limit=600), subsequent_indent=" " * len(head))
        if self.next:
            lines += wrapped(f"next: {self.next}", initial_indent=" " * 9, subsequent_indent=" " * 15)
        return "\n".join(lines)


def _of_error(subject: str, error: H2OError, state: State = "wrong", *, of: object = None) -> Line:
    """The line of an error; `of` is the path that was given."""
    found = ": ".join(part for part in (error.what, None if of is None else str(of), error.came) if part)
    return Line(
        state, subject, found, error.hint or f"what is expected: {error.expected or 'a run without this error'}"
    )


def add_arguments_doctor(parser: argparse.ArgumentParser) -> None:
    from pytest_h2o.bench.command import parse_bench

    default = f"default: {EMBEDDED_WORD}, the embedded one"
    help_of_bench = f"the llm_bench binary to examine ({default})"
    add_option(
        parser, "bench", "--llm-bench", type=parse_bench, metavar="PATH", default=EMBEDDED_BENCH, help=help_of_bench
    )
    add_option(parser, "base-config", help="the model's config.json (with the embedded bench: the embedded model)")
    parser.add_argument("--dump-dir", type=Path, metavar="PATH", help="a KV dump to examine, a folder or a .zip")
    add_option(parser, "backend")
    add_number(parser, "--threads", 1, 4096, help=BY_NAME["threads"].help)
    add_option(parser, "bench-timeout", "--timeout", default=120.0)
    add_option(parser, "out-dir", help="where runs will be kept: is there room?")


def run_doctor(args: argparse.Namespace) -> int:
    if args.base_config is None and args.llm_bench != EMBEDDED_BENCH:
        raise UsageError(
            "a bench was given, and no base config: the bench needs the model's config.json",
            where=f"--llm-bench {args.llm_bench}",
            expected="--base-config FILE beside it",
        )
    states: list[State] = []
    for line in _examine(args):
        print(line.render(), flush=True)
        states.append(line.state)
    wrong, warnings = states.count("wrong"), states.count("warning")
    print(f"doctor: {wrong} wrong, {warnings} to be warned of, {states.count('ok')} ok")
    return 1 if wrong else 0


def _examine(args: argparse.Namespace) -> Iterator[Line]:
    yield _versions()
    yield from _room(args.out_dir)
    yield _quiet()
    if args.dump_dir is not None:
        yield from _dump(args.dump_dir)
    yield from _bench(args)


def _versions() -> Line:
    names = ("pytest-h2o", "pytest", "numpy", "zstandard", "pydantic")
    found = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return Line("ok", "versions", f"{found}, Python {platform.python_version()} on {platform.platform()}")


def _room(out_dir: Path) -> Iterator[Line]:
    for subject, folder in (("run folder", out_dir.absolute()), ("scratch", Path(tempfile.gettempdir()))):
        there = next(place for place in (folder, *folder.parents) if place.is_dir())
        free = shutil.disk_usage(there).free
        state: State = "wrong" if free < LEAST_ROOM else "warning" if free < LITTLE_ROOM else "ok"
        found = f"{free / (1 << 30):.1f} GiB free at {there}"
        if not os.access(there, os.W_OK):
            state, found = "wrong", f"{there} cannot be written"
        other = "name another folder with --h2o-out-dir" if subject == "run folder" else "set TMPDIR to another folder"
        yield Line(state, subject, found, "" if state == "ok" else f"free some, or {other}")


def _quiet() -> Line:
    from pytest_h2o.bench.machine import describe_sources, find_disturbance, read_machine

    before = read_machine()
    time.sleep(WATCHED_S)
    after = read_machine()
    found = find_disturbance(before, after, cores=os.cpu_count() or 1)
    if found is None:
        return Line("ok", "machine", f"quiet for {WATCHED_S:g} s; {describe_sources(after)}")
    hint = "time when it is quiet, or --h2o-disturbed keep where it never is"
    return Line("warning", "machine", found, hint)


def _dump(root: Path) -> Iterator[Line]:
    """Index it all, and look at the words of the first two layers."""
    from pytest_h2o.inputs.scope import Scope
    from pytest_h2o.lossless.evaluate import evaluate_lossless
    from pytest_h2o.lossless.index import index_dump

    try:
        index = index_dump(root)
        layers = sorted({entry.layer_id for entry in index.entries})
        scope = Scope(scope="layer_ids", layer_ids=tuple(layers[:2]), codec="zstd:level=1")
        result = evaluate_lossless(root, scope, verify=False, index=index)
    except H2OError as error:
        yield _of_error("dump", error, of=root)
        return
    runs = len({entry.run_id for entry in index.entries})
    found = f"{len(index.entries):,} entries of {runs} runs, layers {', '.join(map(str, layers))}"
    yield Line("ok", "dump", found)
    if index.skipped:
        first = index.skipped[0]
        found = f"{len(index.skipped)} entries cannot be read, first {first.path}: {first.reason}"
        yield Line("wrong", "dump", found, "make the dump again; a scope with unreadable entries fails")
    for fault in result.faults:
        hint = "make a dump with llm_demo on a real prompt"
        yield Line("wrong", "dump", f"says nothing about a codec: {fault.detail}", hint)


# -- the bench --------------------------------------------------------------------------------------------------------


def _bench(args: argparse.Namespace) -> Iterator[Line]:
    from pytest_h2o.bench.command import BenchSettings, is_embedded, without_quality
    from pytest_h2o.bench.launch import JsonSupport, Launcher
    from pytest_h2o.cli.sweep import read_model
    from pytest_h2o.run.sources import check_bench

    program = None
    try:
        program = check_bench(args.llm_bench, "--llm-bench")
    except H2OError as error:
        yield _of_error("bench", error, of=args.llm_bench)
    try:
        base = without_quality(read_model(args))
        embedded = is_embedded(args.llm_bench)
        yield from _model(base, embedded=embedded)
    except H2OError as error:
        yield _of_error("config", error, of=args.base_config)
        return
    if program is None:
        return
    threads = args.threads or usual_threads(args.llm_bench)
    bench = BenchSettings.for_program(program, backend=args.backend, threads=threads, timeout_s=args.timeout)
    with tempfile.TemporaryDirectory(prefix="pytest-h2o-doctor-") as folder:
        quiet = {"MNN_KV_DUMP_DIR": "off"}  # a build that can dump does so unasked
        launcher = Launcher(base, bench, Path(folder), JsonSupport(), environment=quiet)
        patient = _Patient(launcher, embedded=embedded)
        yield from patient.examine()


def _model(base: BaseConfig, *, embedded: bool) -> Iterator[Line]:
    """Are the files there that the config names, and does it say how many layers there are?"""
    from pytest_h2o.bench.command import PATH_FIELDS, advise_layer_nums, layer_count, model_files

    there = model_files(base)
    needed: tuple[str, ...] = ("llm_model",) if embedded else ("llm_model", "llm_weight")
    if package := base.values.get("reference_model_package"):
        needed = ()
    missing = [
        str(base.base_dir / str(base.values.get(name, PATH_FIELDS[name]))) for name in needed if name not in there
    ]
    if missing:
        hint = "correct base_dir or the name in the config: the engine ends in a segmentation fault without it"
        yield Line("wrong", "weights", f"not there: {', '.join(missing)}", hint)
    elif not there.keys() & {"llm_model", "llm_weight"}:
        hint = "the embedded bench reads them there; llm_bench needs llm_model and llm_weight beside the config"
        yield Line("warning", "weights", f"none beside the config: those of the package {package}", hint)
    else:
        sizes = ", ".join(f"{name} {path.stat().st_size / (1 << 20):.1f} MiB" for name, path in there.items())
        yield Line("ok", "weights", sizes)
    advice, layers = advise_layer_nums(base), layer_count(base)
    if advice is None or embedded:
        yield Line("ok", "layer_nums", f"{layers or base.values.get('layer_nums', 'of the model itself')}")
    elif layers is not None:
        yield Line("warning", "layer_nums", f"missing; the model says {layers}, which runs are given", advice)
    else:
        yield Line("wrong", "layer_nums", "missing, and the model does not say how many layers it has", advice)


@dataclass
class _Patient:
    """A bench that is launched a few times, short; lines as it goes."""

    launcher: Launcher
    embedded: bool
    rows: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def examine(self) -> Iterator[Line]:
        point = _point()
        try:
            for number in range(LAUNCHES):
                if number and self._is_late(f"launch {number + 1} of {LAUNCHES} for the noise", share=0.5):
                    continue
                self.rows.append(self.launcher.launch_baseline(point, f"off_{number}"))
        except H2OError as error:
            yield _of_error("bench", error)
            return
        yield self._loads()
        yield self._noise()
        yield from self._modes()
        if not self.embedded:
            yield self._backends()
        if self.left_out:
            found = f"{', '.join(self.left_out)}: a launch takes {self.rows[0].elapsed_s:.0f} s"
            yield Line("warning", "left out", found, "a sweep of one point tells the rest: pytest-h2o sweep")

    def _is_late(self, what: str, share: float = 1.0) -> bool:
        """Whether another launch would go beyond its share of the time; if so it is told as left out."""
        late = time.monotonic() - self.began + (self.rows[0].elapsed_s or 0.0) > BUDGET_S * share
        if late:
            self.left_out.append(what)
        return late

    def _loads(self) -> Line:
        row = self.rows[0]
        said = ", ".join(filter(None, (row.cells.get("model"), row.cells.get("modelSize"), row.cells.get("precision"))))
        found = f"runs: {said}, {row.backend}, {row.threads} threads, a launch of {row.elapsed_s:.1f} s"
        if self.launcher.json_support.rejected:
            return Line("ok", "bench", f"{found}; it takes no -j, so figures are those of its table")
        return Line("ok", "bench", found)

    def _noise(self) -> Line:
        speeds = [row.decode_tok_per_s.mean for row in self.rows if row.decode_tok_per_s is not None]
        if len(speeds) < 2:
            return Line("warning", "noise", "not told by one launch", "`pytest-h2o calibrate` measures it")
        spread = statistics.stdev(speeds) / statistics.fmean(speeds)
        found = f"decode {min(speeds):.1f} to {max(speeds):.1f} tok/s in {len(speeds)} launches, spread {spread:.1%}"
        if spread <= LOUD:
            return Line("ok", "noise", found)
        hint = "`pytest-h2o calibrate` measures what drop can be told; more repeats, or a quieter machine"
        return Line("warning", "noise", found, hint)

    def _modes(self) -> Iterator[Line]:
        """H2O with lossless coding in each mode: which columns are there, which modes does the binary really have?"""
        from pytest_h2o.bench.rows import COLUMN_DECIMALS

        there: list[str] = []
        for mode in ("probe", "full", "store"):
            if mode != "probe" and self._is_late(f"mode {mode}"):
                continue
            try:
                row = self.launcher.launch_point(_point(mode))
            except H2OError as error:
                broken = mode == "probe" or error.__class__.__name__ != "TableError"
                yield _of_error(f"mode {mode}", error, "wrong" if broken else "warning")
                if broken:
                    return
                continue
            there.append(mode)
            if mode != "probe":
                continue
            missing = [name for name in COLUMN_DECIMALS if not row.cells.get(name, "").strip()]
            found = f"{len(COLUMN_DECIMALS) - len(missing)} of {len(COLUMN_DECIMALS)} H2O columns"
            hint = "full and store mode cannot be judged without them: build llm_bench from a later state of the branch"
            if missing:
                yield Line("warning", "columns", f"{found}; not {', '.join(missing)}", hint)
            else:
                yield Line("ok", "columns", found)
        yield Line("ok", "modes", f"sound in {', '.join(there)}")

    def _backends(self) -> Line:
        there = [self.launcher.settings.backend]
        for name in BACKENDS:
            if name in there or self._is_late(f"backend {name}"):
                continue
            settings: BenchSettings = replace(self.launcher.settings, backend=name)
            try:
                replace(self.launcher, settings=settings).launch_baseline(_point(), f"backend_{name}")
            except H2OError:
                continue
            there.append(name)
        lacks = [name for name in BACKENDS if name not in there and f"backend {name}" not in self.left_out]
        return Line("ok", "backends", f"{', '.join(there)}" + (f"; not {', '.join(lacks)}" if lacks else ""))


def _point(mode: str = "probe") -> Point:
    """A short launch that evicts and codes in every mode."""
    from pytest_h2o.inputs.presets import expand_points, preset_from_flags

    keys: dict[str, Any] = {
        "prompts": 256,
        "gens": 40,
        "repeat": 1,
        "h2o_target_lossy_ratios": 2.0,
        "h2o_block_tokens": 8,
        "h2o_sink_tokens": 8,
        "h2o_recent_tokens": 32,
        "h2o_trigger_min_tokens": 128,
        "kv_lossless_enable": True,
        "kv_lossless_codec": "gear_delta",
        "kv_lossless_runtime_enable": True,
        "kv_lossless_runtime_mode": mode,
        "kv_lossless_block_tokens": 32,
        "kv_lossless_hot_recent_tokens": 32,
        "kv_lossless_store_bootstrap_tokens": 32,
        "kv_lossless_store_grouped_step_tokens": 32,
    }
    if mode == "probe":  # an old binary knows no mode, and need not
        keys = {name: value for name, value in keys.items() if "_store_" not in name and not name.endswith("_mode")}
    (point,) = expand_points(preset_from_flags(**keys))
    return replace(point, run_id=f"mode_{mode}")
