"""``pytest-h2o calibrate``: a bench against itself, to know this machine's noise before a verdict rests on it.

Both sides run with H2O off: that needs no preset, and holds for every preset of the model. A bench with H2O on is as
noisy or noisier, so the floor that comes of it is the best that can be hoped for.
"""

from __future__ import annotations

import argparse
import secrets
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_h2o.errors import UsageError

if TYPE_CHECKING:
    from pytest_h2o.bench.config import BaseConfig
    from pytest_h2o.bench.launch import Launcher
    from pytest_h2o.gate.noise import Noise
    from pytest_h2o.gate.paired import TimedPair
    from pytest_h2o.points import SweepPoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from pytest_h2o.embedded import parse_bench
    from pytest_h2o.options import BY_NAME, DEFAULT_THREADS, EMBEDDED_BENCH, EMBEDDED_WORD

    parser.add_argument(
        "--llm-bench",
        type=parse_bench,
        default=EMBEDDED_BENCH,
        metavar="PATH",
        help=f"{BY_NAME['bench'].help} (default: {EMBEDDED_WORD})",
    )
    parser.add_argument(
        "--base-config",
        type=Path,
        metavar="FILE",
        help=f"{BY_NAME['base-config'].help} (default with {EMBEDDED_WORD}: the embedded model)",
    )
    parser.add_argument("--pairs", type=int, default=20, help="pairs of launches, at least 6 (default: 20)")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of prompt (default: 512)")
    parser.add_argument("--gen", type=int, default=128, help="tokens to generate (default: 128)")
    parser.add_argument("--repeat", type=int, default=3, help="measured repeats a launch (default: 3)")
    parser.add_argument("--backend", default="cpu", help=BY_NAME["backend"].help)
    parser.add_argument("--threads", type=int, default=DEFAULT_THREADS, help=BY_NAME["threads"].help)
    parser.add_argument("--timeout", type=float, default=1800.0, metavar="S", help=BY_NAME["bench-timeout"].help)
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file (default: the user's cache)")


def run(args: argparse.Namespace) -> int:
    from pytest_h2o.bench.command import BenchSettings
    from pytest_h2o.bench.config import without_quality
    from pytest_h2o.bench.disturbance import describe_sources, read_machine
    from pytest_h2o.bench.launch import JsonSupport, Launcher
    from pytest_h2o.calibrations import calibration_path
    from pytest_h2o.decode_options import MAX_DECODE_PAIRS
    from pytest_h2o.gate.drop_estimate import SPREAD_FROM_PAIRS
    from pytest_h2o.gate.noise import measure_noise
    from pytest_h2o.launch_settings import check_bench
    from pytest_h2o.store import refuse_existing, write_new_json

    for name, low, high in (
        ("pairs", SPREAD_FROM_PAIRS, MAX_DECODE_PAIRS),
        ("prompt", 1, 2**31),
        ("gen", 1, 2**31),
        ("repeat", 1, 1000),
        ("threads", 1, 4096),
    ):
        if not low <= getattr(args, name) <= high:
            raise UsageError(f"--{name} is out of range", came=str(getattr(args, name)), expected=f"{low} to {high:,}")
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
    from pytest_h2o.embedded import embedded_base_config, is_embedded

    if args.base_config is not None:
        return read_base_config(args.base_config, "--base-config")
    if is_embedded(args.llm_bench):
        return read_base_config(embedded_base_config(), "the embedded model")
    raise UsageError(
        "a bench was given, and no base config: the bench needs the model's config.json",
        where=f"--llm-bench {args.llm_bench}",
        expected="--base-config FILE beside it",
    )


def _point(args: argparse.Namespace) -> SweepPoint:
    from pytest_h2o.points import expand_points
    from pytest_h2o.presets import preset_from_flags

    keys = {"prompts": str(args.prompt), "gens": str(args.gen), "repeat": str(args.repeat)}
    (point,) = expand_points(preset_from_flags(**keys))
    return point


def _launch(launcher: Launcher, point: SweepPoint, count: int) -> tuple[list[TimedPair], list[str], int]:
    from pytest_h2o.bench.paired import PairRunner, launch_pairs

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

    from pytest_h2o.embedded import digest_program
    from pytest_h2o.store import digest_file

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
