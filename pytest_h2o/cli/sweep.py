"""``pytest-h2o sweep``: the points of a preset, or of a grid given by flags, run on a bench into one folder."""

from __future__ import annotations

import argparse
import contextlib
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_h2o.cli.flags import add_number, add_option
from pytest_h2o.errors import H2OError, UsageError
from pytest_h2o.inputs.options import (
    BY_NAME,
    DEFAULT_THREADS,
    EMBEDDED_BENCH,
    EMBEDDED_WORD,
    MAX_DECODE_PAIRS,
    Given,
)

if TYPE_CHECKING:
    from pytest_h2o.bench.config import BaseConfig
    from pytest_h2o.bench.launch import Launcher
    from pytest_h2o.bench.rows import Row
    from pytest_h2o.gate.decode import TimedPair
    from pytest_h2o.gate.noise import Noise
    from pytest_h2o.inputs.presets import Point, Preset
    from pytest_h2o.run.sources import Source


_NO_FLAG = (
    *("description", "targets", "base_config", "prompt_file", "model_layers", "timeout_s", "name", "path"),
    *("bench", "bench_options"),
)
"""Preset keys that mean nothing to a sweep alone, or have a flag of their own here."""


def add_arguments_sweep(parser: argparse.ArgumentParser) -> None:
    from pytest_h2o.bench.embedded import parse_bench
    from pytest_h2o.inputs.presets import Preset

    add_option(parser, "bench", "--llm-bench", type=parse_bench, required=True, metavar="PATH")
    add_option(parser, "base-config", help="the model's config, or base_config: of the preset")
    parser.add_argument("--out-dir", type=Path, required=True, metavar="DIR", help="the run folder, new or empty")
    parser.add_argument(
        "--preset", type=Path, metavar="FILE", help="a preset; the flags below change single keys of it"
    )
    add_option(parser, "backend")
    add_option(parser, "threads", default=DEFAULT_THREADS)
    add_option(parser, "attention-option")
    add_option(parser, "bench-timeout", "--timeout")
    add_option(parser, "no-fold")
    add_option(parser, "dry-run")
    keys = parser.add_argument_group("preset keys (swept ones take several values)")
    for name, field in Preset.model_fields.items():
        if name not in _NO_FLAG:
            flag = "--" + name.replace("_", "-")
            keys.add_argument(flag, dest=f"key_{name}", nargs="+", metavar="VALUE", help=field.description)


def read_preset(args: argparse.Namespace) -> Preset:
    """The preset of the flags: a file with single keys changed, or an ad-hoc grid."""
    from pytest_h2o.inputs.presets import load_preset, preset_from_flags

    given = {
        name.removeprefix("key_"): ",".join(values)
        for name, values in vars(args).items()
        if name.startswith("key_") and values is not None
    }
    if args.preset is None:
        return preset_from_flags(**given)
    preset = load_preset(args.preset)
    return preset.override(*(f"{key}={value}" for key, value in given.items())) if given else preset


def run_sweep(args: argparse.Namespace) -> int:
    from pytest_h2o.inputs.options import OPTIONS, Settings
    from pytest_h2o.inputs.presets import expand_points
    from pytest_h2o.run.sources import Launched, Run
    from pytest_h2o.run.store import SHARED

    preset = read_preset(args)
    if args.out_dir.exists() and not args.out_dir.is_dir():
        raise UsageError("the run folder is a file", where=str(args.out_dir), expected="a folder, new or empty")
    if args.out_dir.exists() and any(args.out_dir.iterdir()):
        raise UsageError(
            "the run folder is not empty; nothing is overwritten",
            where=str(args.out_dir),
            hint="name a folder that is new or empty",
        )
    points = expand_points(preset)
    given = {
        "bench": Given(args.llm_bench, "--llm-bench"),
        "base-config": Given(args.base_config, "--base-config"),
        "backend": Given(args.backend, "--backend"),
        "threads": Given(args.threads, "--threads"),
        "attention-option": Given(args.attention_option, "--attention-option"),
        "bench-timeout": Given(args.timeout, "default"),
        "no-fold": Given(args.no_fold, "--no-fold"),
        "disturbed": Given("keep", "a sweep only marks"),
    }
    settings = Settings({**{option.name: Given(option.default, "default") for option in OPTIONS}, **given})
    rows = Launched(Run(settings, args.out_dir, on_wait=WaitNotice()), preset, points, args.out_dir)
    if args.dry_run:
        rows.write_dry_run()
        print(f"{len(points)} configs, manifest.json and commands.sh in {args.out_dir}; nothing was run")
        return 0
    outcomes = [(point, _run_point(rows, point, len(points))) for point in points]
    for note in rows.notes:
        print(f"note: {note}")
    code = _write(args.out_dir, outcomes)
    shutil.rmtree(args.out_dir / SHARED, ignore_errors=True)
    return code


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


def _run_point(rows: Source, point: Point, count: int) -> Row | H2OError:
    try:
        result = rows.result(point)
    except H2OError as error:
        print(f"[{point.index}/{count}] {point.run_id}: {error}", flush=True)
        return error
    shared = f" (the run of {result.shares_run_with})" if result.shares_run_with else ""
    print(f"[{point.index}/{count}] {point.run_id}: done{shared}", flush=True)
    return result


def _write(folder: Path, outcomes: list[tuple[Point, Row | H2OError]]) -> int:
    """Write manifest and CSV; exit code 0 if every point gave a sound row, else 2."""
    from pytest_h2o.bench.manifest import MANIFEST_NAME, manifest_entry
    from pytest_h2o.bench.rows import write_metrics_csv
    from pytest_h2o.files import write_new_json

    entries, results, failed = [], [], 0
    for point, outcome in outcomes:
        if isinstance(outcome, H2OError):
            failed += 1
            entries.append(manifest_entry(point.manifest_fields(), getattr(outcome, "returncode", None)))
        else:
            results.append(outcome)
            shared = outcome.shares_run_with
            entries.append(manifest_entry(point.manifest_fields(), outcome.returncode, shares_run_with=shared))
    write_new_json(folder / MANIFEST_NAME, entries)
    if results:
        write_metrics_csv(folder / "h2o_metrics.csv", results)
    print(f"{len(results)} rows in {folder}" + (f"; {failed} points FAILED" if failed else ""))
    return 2 if failed else 0


def add_arguments_calibrate(parser: argparse.ArgumentParser) -> None:
    from pytest_h2o.bench.embedded import parse_bench
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
    add_number(parser, "--threads", 1, 4096, default=DEFAULT_THREADS, help=BY_NAME["threads"].help)
    add_option(parser, "bench-timeout", "--timeout")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file (default: the user's cache)")


def run_calibrate(args: argparse.Namespace) -> int:
    from pytest_h2o.bench.command import BenchSettings
    from pytest_h2o.bench.config import without_quality
    from pytest_h2o.bench.launch import JsonSupport, Launcher
    from pytest_h2o.bench.machine import describe_sources, read_machine
    from pytest_h2o.files import refuse_existing, write_new_json
    from pytest_h2o.gate.noise import measure_noise
    from pytest_h2o.run.launching import calibration_path, check_bench

    bench = BenchSettings.for_program(
        check_bench(args.llm_bench, "--llm-bench"), backend=args.backend, threads=args.threads, timeout_s=args.timeout
    )
    base = _base_config(args)
    if args.out is not None:
        refuse_existing(args.out)
    print(f"{args.pairs} pairs, both sides with H2O off; {describe_sources(read_machine())}", flush=True)
    with tempfile.TemporaryDirectory(prefix="pytest-h2o-calibrate-") as folder:
        launcher = Launcher(without_quality(base), bench, Path(folder), JsonSupport())
        pairs, again, seed = _launch(launcher, _point(args), args.pairs)
    noise = measure_noise(pairs)
    path = args.out or calibration_path(bench, base)
    write_new_json(
        path, {**noise.to_json(), **_provenance(args, base.path, seed, pairs, again)}, overwrite=args.out is None
    )
    print("\n".join([*_lines(noise), *_disturbed(pairs), f"written to {path}"]))
    return 0


def _base_config(args: argparse.Namespace) -> BaseConfig:
    """The model's config; UsageError if none is named and the bench is not the embedded one, or it cannot be read."""
    from pytest_h2o.bench.config import read_base_config
    from pytest_h2o.bench.embedded import embedded_base_config, is_embedded

    if args.base_config is not None:
        return read_base_config(args.base_config, "--base-config")
    if is_embedded(args.llm_bench):
        return read_base_config(embedded_base_config(), "the embedded model")
    raise UsageError(
        "a bench was given, and no base config: the bench needs the model's config.json",
        where=f"--llm-bench {args.llm_bench}",
        expected="--base-config FILE beside it",
    )


def _point(args: argparse.Namespace) -> Point:
    from pytest_h2o.inputs.presets import expand_points, preset_from_flags

    keys = {"prompts": str(args.prompt), "gens": str(args.gen), "repeat": str(args.repeat)}
    (point,) = expand_points(preset_from_flags(**keys))
    return point


def _launch(launcher: Launcher, point: Point, count: int) -> tuple[list[TimedPair], list[str], int]:
    from pytest_h2o.run.pairs import PairRunner, launch_pairs

    seed = secrets.randbelow(2**32)

    def launch(run_id: str) -> Any:
        return launcher.launch_baseline(point, run_id)

    runner = PairRunner(launch, launch)
    pairs = []
    for number, pair in enumerate(launch_pairs(runner, count, seed), start=1):
        pairs.append(pair)
        speeds = f"{pair.baseline.decode_tok_per_s:.2f} and {pair.candidate.decode_tok_per_s:.2f} tok/s"
        print(f"[{number}/{count}] {speeds}" + (f"; left out: {pair.excluded}" if pair.excluded else ""), flush=True)
    return pairs, runner.measured_again, seed


def _provenance(
    args: argparse.Namespace, base: Path, seed: int, pairs: list[TimedPair], again: list[str]
) -> dict[str, Any]:
    import platform
    from dataclasses import asdict

    from pytest_h2o.bench.embedded import digest_program
    from pytest_h2o.files import digest_file

    return {
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": platform.node(),
        "bench": str(args.llm_bench.absolute()),
        "bench_digest": digest_program(args.llm_bench),
        "base_config": str(base.absolute()),
        "base_config_digest": digest_file(base),
        **{name: getattr(args, name) for name in ("backend", "threads", "prompt", "gen", "repeat")},
        "seed": seed,
        "launched": [asdict(pair) for pair in pairs],
        "measured_again": again,
    }


def _lines(noise: Noise) -> list[str]:
    lines = [
        f"a launch spreads by {noise.launch_spread:.2%}, the ratio of a pair by {noise.pair_spread:.2%} "
        f"({noise.pairs} pairs; against itself {noise.drop:+.2%})",
        "smallest drop that is told from none (chance 80 %):",
    ]
    for pairs in (10, 20, 40, 80):
        floor = noise.floor(pairs)
        lines.append(f"  {pairs:>3} pairs  " + ("no verdict is possible" if floor is None else f"{floor:.1%}"))
    return lines


def _disturbed(pairs: list[TimedPair]) -> list[str]:
    """What to say where the noise is that of a busy machine."""
    launches = [side for pair in pairs for side in (pair.baseline, pair.candidate)]
    found = [launch.disturbance for launch in launches if launch.disturbance is not None]
    if not found:
        return []
    return [
        f"{len(found)} of {len(launches)} launches were disturbed (first: {found[0]}): this is the noise of a busy "
        "machine; calibrate again when it is quiet"
    ]
