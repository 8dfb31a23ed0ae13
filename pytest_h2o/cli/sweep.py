"""``pytest-h2o sweep`` and ``calibrate``: a bench is launched, on a grid or against itself."""

from __future__ import annotations

import argparse
import contextlib
import platform
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pytest_h2o.cli.main import add_number, add_option
from pytest_h2o.errors import H2OError, UsageError, number_of
from pytest_h2o.files import digest_file, plain, refuse_existing, refuse_unwritable, write_new_json, write_new_text
from pytest_h2o.inputs.options import (
    BY_NAME,
    EMBEDDED_BENCH,
    EMBEDDED_WORD,
    MAX_DECODE_PAIRS,
    Given,
    Settings,
    usual_threads,
)

if TYPE_CHECKING:
    from pytest_h2o.bench.command import BaseConfig
    from pytest_h2o.gate.decode import Noise, Pair
    from pytest_h2o.inputs.presets import Preset


_NO_FLAG = (
    *("description", "targets", "base_config", "prompt_file", "timeout_s", "name", "path"),
    *("bench", "bench_options", "allow_signs", "default_on", "sweep_repeat"),
)
"""Preset keys that mean nothing to a sweep alone, or have a flag of their own here."""


_BENCH = "the bench to run, or reference for the embedded one"


def add_arguments_sweep(parser: argparse.ArgumentParser) -> None:
    from pytest_h2o.bench.command import parse_bench
    from pytest_h2o.inputs.presets import Preset

    add_option(parser, "bench", "--llm-bench", type=parse_bench, required=True, metavar="PATH", help=_BENCH)
    add_option(parser, "base-config", help="the model's config, or base_config: of the preset")
    parser.add_argument("--out-dir", type=Path, required=True, metavar="DIR", help="the run folder, new or empty")
    parser.add_argument(
        "--preset", type=Path, metavar="FILE", help="a preset; the flags below change single keys of it"
    )
    add_option(parser, "backend")
    add_option(parser, "threads")
    add_option(parser, "attention-option")
    add_option(parser, "bench-timeout", "--timeout")
    add_option(parser, "no-fold")
    add_option(parser, "dry-run")
    parser.add_argument("--disable-h2o", action="store_true", help="every point with nothing compressed: a baseline")
    parser.add_argument("--disable-lossless", action="store_true", help="no lossless coding, whatever the preset says")
    keys = parser.add_argument_group("preset keys (swept ones take several values)")
    for name, field in Preset.model_fields.items():
        if name not in _NO_FLAG:
            flag = "--" + name.replace("_", "-")
            is_switch = bool in (field.annotation, *get_args(field.annotation))
            several: dict[str, Any] = {"nargs": "?", "const": ["true"], "type": lambda text: [text]}
            takes = several if is_switch else {"nargs": "+"}
            keys.add_argument(flag, dest=f"key_{name}", metavar="VALUE", help=field.description, **takes)


def read_preset(args: argparse.Namespace) -> Preset:
    """The preset of the flags: a file with single keys changed, or an ad-hoc grid."""
    from pytest_h2o.inputs.presets import load_preset, preset_from_flags

    given = {
        name.removeprefix("key_"): ",".join(values)
        for name, values in vars(args).items()
        if name.startswith("key_") and values is not None
    }
    if args.disable_lossless:
        given |= dict.fromkeys(("kv_lossless_enable", "kv_lossless_runtime_enable"), "false")
    if args.preset is None:
        return preset_from_flags(**given)
    preset = load_preset(args.preset)
    return preset.override(*(f"{key}={value}" for key, value in given.items())) if given else preset


def run_sweep(args: argparse.Namespace) -> int:
    from pytest_h2o.bench.rows import render_metrics_csv
    from pytest_h2o.bench.sweep import MANIFEST_NAME, manifest_entry
    from pytest_h2o.gate.metrics import GATE_OPTIONS
    from pytest_h2o.inputs.presets import expand_points
    from pytest_h2o.run.sources import Launched, Run
    from pytest_h2o.run.store import SHARED

    preset = read_preset(args)
    _check_unused(args.out_dir)
    points = expand_points(preset)
    if args.disable_h2o:
        if preset.kv_lossless_enable:
            raise UsageError(
                "with H2O off nothing may be compressed: such rows are baselines",
                where="--disable-h2o",
                came="kv_lossless_enable true",
                expected="--disable-lossless beside it",
            )
        points = tuple(replace(point, compressed=False) for point in points)
    flags = ("base-config", "backend", "threads", "attention-option", "no-fold")
    given = {name: Given(getattr(args, name.replace("-", "_")), f"--{name}") for name in flags}
    given["bench"] = Given(args.llm_bench, "--llm-bench")
    if args.threads is None:
        given["threads"] = Given(usual_threads(args.llm_bench), "default")
    given["bench-timeout"] = Given(args.timeout, "default")
    given["disturbed"] = Given("keep", "a sweep only marks")
    settings = Settings({**{option.name: Given(option.default, "default") for option in GATE_OPTIONS}, **given})
    launched = Launched(Run(settings, args.out_dir, on_wait=WaitNotice()), preset, points, args.out_dir)
    if args.dry_run:
        launched.write_dry_run()
        print(f"{number_of(len(points), 'config')}, manifest.json and commands.sh in {args.out_dir}; nothing was run")
        return 0
    rows, entries = [], []
    for count, point in enumerate(points, start=1):
        try:
            row = launched.result(point)
        except H2OError as error:
            outcome, code, shared, printed = str(error), getattr(error, "returncode", None), None, None
        else:
            code, shared, printed = row.returncode, row.shares_run_with, row.stdout_path
            outcome = f"done (the run of {shared})" if shared else "done"
            rows.append(row)
        fields, has_output = launched.manifest_fields(point), printed is not None
        entries.append(manifest_entry(fields, code, shares_run_with=shared, keeps_output=has_output))
        print(f"[{count}/{len(points)}] {point.run_id}: {outcome}", flush=True)
    for note in launched.notes:
        print(f"note: {note}")
    write_new_json(args.out_dir / MANIFEST_NAME, entries)
    if rows:
        write_new_text(args.out_dir / "h2o_metrics.csv", render_metrics_csv(rows))
    failed = len(points) - len(rows)
    print(
        f"{number_of(len(rows), 'row')} in {args.out_dir}"
        + (f"; {number_of(failed, 'point')} FAILED" if failed else "")
    )
    shutil.rmtree(args.out_dir / SHARED, ignore_errors=True)
    return 2 if failed else 0


def _check_unused(folder: Path) -> None:
    """UsageError where a run folder would hold something else beside this run."""
    if folder.exists() and not folder.is_dir():
        raise UsageError("the run folder is a file", where=str(folder), expected="a folder, new or empty")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(
            "the run folder is not empty; nothing is overwritten",
            where=str(folder),
            hint="name a folder that is new or empty",
        )


class WaitNotice:
    """Says once, on the terminal's own stderr, that a run waits: else a gate that waits for another looks hung."""

    def __init__(self, after_s: float = 5.0) -> None:
        self._after_s = after_s
        self._said = False

    def __call__(self, waited_s: float) -> None:
        """Take the seconds waited so far."""
        if self._said or waited_s < self._after_s or sys.__stderr__ is None:
            return
        self._said = True
        line = f"h2o: waiting for another timed run on this machine since {waited_s:.0f} s (one runs at a time)"
        with contextlib.suppress(OSError, ValueError):  # a closed stderr is no reason to stop
            print(line, file=sys.__stderr__, flush=True)


def add_arguments_calibrate(parser: argparse.ArgumentParser) -> None:
    from pytest_h2o.bench.command import parse_bench
    from pytest_h2o.gate.sequential import SPREAD_FROM_PAIRS

    bench, model = (f"{BY_NAME[name].help} (default" for name in ("bench", "base-config"))
    default = {"default": EMBEDDED_BENCH, "help": f"{bench}: {EMBEDDED_WORD})"}
    add_option(parser, "bench", "--llm-bench", type=parse_bench, metavar="PATH", **default)
    add_option(parser, "base-config", help=f"{model} with {EMBEDDED_WORD}: the embedded model)")
    for name, what, low, high, usual in (
        ("pairs", f"pairs of launches, at least {SPREAD_FROM_PAIRS}", SPREAD_FROM_PAIRS, MAX_DECODE_PAIRS, 20),
        ("prompt", "tokens of prompt", 1, 2**31, 512),
        ("gen", "tokens to generate", 1, 2**31, 128),
        ("repeat", "measured repeats a launch", 1, 1000, 3),
    ):
        add_number(parser, f"--{name}", low, high, default=usual, help=f"{what} (default: {usual})")
    add_option(parser, "backend")
    add_number(parser, "--threads", 1, 4096, help=BY_NAME["threads"].help)
    add_option(parser, "bench-timeout", "--timeout")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file (default: the user's cache)")


def run_calibrate(args: argparse.Namespace) -> int:
    from pytest_h2o.bench.command import BenchSettings, digest_program, without_quality
    from pytest_h2o.bench.launch import JsonSupport, Launcher
    from pytest_h2o.bench.machine import describe_sources, read_machine
    from pytest_h2o.gate.decode import measure_noise
    from pytest_h2o.inputs.presets import expand_points, preset_from_flags
    from pytest_h2o.run.pairs import PairRunner, calibration_path, launch_pairs
    from pytest_h2o.run.sources import check_bench

    program = check_bench(args.llm_bench, "--llm-bench")
    args.threads = args.threads or usual_threads(args.llm_bench)
    bench = BenchSettings.for_program(program, backend=args.backend, threads=args.threads, timeout_s=args.timeout)
    base = read_model(args)
    if args.out is not None:
        refuse_existing(args.out)
        refuse_unwritable(args.out)
    print(f"{args.pairs} pairs, both sides with H2O off; {describe_sources(read_machine())}", flush=True)
    (point,) = expand_points(preset_from_flags(prompts=args.prompt, gens=args.gen, repeat=args.repeat))
    seed, pairs = secrets.randbelow(2**32), []
    with tempfile.TemporaryDirectory(prefix="pytest-h2o-calibrate-") as folder:
        launcher = Launcher(without_quality(base), bench, Path(folder), JsonSupport())
        launch = partial(launcher.launch_baseline, point)
        runner = PairRunner(launch, launch)
        for pair in launch_pairs(runner, args.pairs, seed):
            pairs.append(pair)
            speeds = f"{pair.baseline.decode_tok_per_s:.2f} and {pair.candidate.decode_tok_per_s:.2f} tok/s"
            left_out = f"; left out: {pair.excluded}" if pair.excluded else ""
            print(f"[{len(pairs)}/{args.pairs}] {speeds}{left_out}", flush=True)
    noise, path = measure_noise(pairs), args.out or calibration_path(bench, base)
    provenance = {
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": platform.node(),
        "bench": str(args.llm_bench.absolute()),
        "bench_digest": digest_program(args.llm_bench),
        "base_config": str(base.path.absolute()),
        "base_config_digest": digest_file(base.path),
        **{name: getattr(args, name) for name in ("backend", "threads", "prompt", "gen", "repeat")},
        "seed": seed,
        "launched": [asdict(pair) for pair in pairs],
        "measured_again": runner.measured_again,
    }
    write_new_json(path, {**plain(noise), **provenance}, overwrite=args.out is None)
    print("\n".join([*_render_noise(noise, pairs), f"written to {path}"]))
    return 0


def read_model(args: argparse.Namespace) -> BaseConfig:
    """The model's config; UsageError if none is named and the bench is not the embedded one, or it cannot be read."""
    from pytest_h2o.bench.command import embedded_base_config, is_embedded, read_base_config

    if args.base_config is not None:
        return read_base_config(args.base_config, "--base-config")
    if is_embedded(args.llm_bench):
        return read_base_config(embedded_base_config(), "the embedded model")
    raise UsageError(
        "a bench was given, and no base config: the bench needs the model's config.json",
        where=f"--llm-bench {args.llm_bench}",
        expected="--base-config FILE beside it",
    )


def _render_noise(noise: Noise, pairs: list[Pair]) -> Iterator[str]:
    yield (
        f"a launch spreads by {noise.launch_spread:.2%}, the ratio of a pair by {noise.pair_spread:.2%} "
        f"({noise.pairs} pairs; against itself {noise.drop:+.2%})"
    )
    yield "smallest drop that is told from none (chance 80 %):"
    for count in (10, 20, 40, 80):
        floor = noise.floor(count)
        yield f"  {count:>3} pairs  " + ("no verdict is possible" if floor is None else f"{floor:.1%}")
    launches = [side for pair in pairs for side in (pair.baseline, pair.candidate)]
    found = [launch.disturbance for launch in launches if launch.disturbance is not None]
    if found:
        yield (
            f"{len(found)} of {len(launches)} launches were disturbed (first: {found[0]}): this is the noise of a busy "
            "machine; calibrate again when it is quiet"
        )
