"""``pytest-h2o sweep``: the points of a preset, or of a grid given by flags, run on a bench into one folder."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_h2o.errors import H2OError, UsageError

if TYPE_CHECKING:
    from pytest_h2o.bench.result import PointResult
    from pytest_h2o.points import SweepPoint
    from pytest_h2o.presets import Preset
    from pytest_h2o.row_sources import RowSource

_NO_FLAG = (
    *("description", "targets", "base_config", "prompt_file", "model_layers", "timeout_s", "name", "path"),
    *("bench", "bench_options"),
)
"""Preset keys that mean nothing to a sweep alone, or have a flag of their own here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from pytest_h2o.embedded import parse_bench
    from pytest_h2o.options import BY_NAME, DEFAULT_THREADS
    from pytest_h2o.presets import Preset

    parser.add_argument("--llm-bench", type=parse_bench, required=True, metavar="PATH", help=BY_NAME["bench"].help)
    parser.add_argument(
        "--base-config", type=Path, metavar="FILE", help="the model's config, or base_config: of the preset"
    )
    parser.add_argument("--out-dir", type=Path, required=True, metavar="DIR", help="the run folder, new or empty")
    parser.add_argument(
        "--preset", type=Path, metavar="FILE", help="a preset; the flags below change single keys of it"
    )
    parser.add_argument("--backend", default="cpu", help=BY_NAME["backend"].help)
    parser.add_argument("--threads", type=int, default=DEFAULT_THREADS, help=BY_NAME["threads"].help)
    parser.add_argument("--attention-option", type=int, default=0, help=BY_NAME["attention-option"].help)
    parser.add_argument("--timeout", type=float, default=1800.0, metavar="S", help=BY_NAME["bench-timeout"].help)
    parser.add_argument("--no-fold", action="store_true", help=BY_NAME["no-fold"].help)
    parser.add_argument("--dry-run", action="store_true", help=BY_NAME["dry-run"].help)
    keys = parser.add_argument_group("preset keys (swept ones take several values)")
    for name, field in Preset.model_fields.items():
        if name not in _NO_FLAG:
            flag = "--" + name.replace("_", "-")
            keys.add_argument(flag, dest=f"key_{name}", nargs="+", metavar="VALUE", help=field.description)


def read_preset(args: argparse.Namespace) -> Preset:
    """The preset of the flags: a file with single keys changed, or an ad-hoc grid."""
    from pytest_h2o.presets import load_preset, preset_from_flags

    given = {
        name.removeprefix("key_"): ",".join(values)
        for name, values in vars(args).items()
        if name.startswith("key_") and values is not None
    }
    if args.preset is None:
        return preset_from_flags(**given)
    preset = load_preset(args.preset)
    return preset.override(*(f"{key}={value}" for key, value in given.items())) if given else preset


def _check_ranges(args: argparse.Namespace) -> None:
    """UsageError for a number that no bench can be run with."""
    if args.threads < 1:
        raise UsageError("--threads is out of range", came=str(args.threads), expected="at least 1")
    if not 0 < args.timeout < float("inf"):
        raise UsageError("--timeout is out of range", came=str(args.timeout), expected="seconds above 0")


def run(args: argparse.Namespace) -> int:
    from pytest_h2o.bench.command import BenchSettings
    from pytest_h2o.launch_settings import check_bench, choose_base_config
    from pytest_h2o.options import Given
    from pytest_h2o.points import expand_points
    from pytest_h2o.progress import ProgressWriter
    from pytest_h2o.row_sources import LaunchedRows
    from pytest_h2o.store import OnceStore

    _check_ranges(args)
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
    scratch = args.out_dir / ".results"
    rows = LaunchedRows(
        points,
        base=choose_base_config(preset, Given(args.base_config, "--base-config")),
        bench=BenchSettings.for_program(
            check_bench(args.llm_bench, "--llm-bench"),
            backend=args.backend,
            threads=args.threads,
            attention_option=args.attention_option,
            timeout_s=preset.timeout_s or args.timeout,
        ),
        folder=args.out_dir,
        store=OnceStore(scratch),
        fold=not args.no_fold,
        progress=ProgressWriter(scratch / "progress", on_wait=WaitNotice()),
    )
    if args.dry_run:
        rows.write_dry_run()
        print(f"{len(points)} configs, manifest.json and commands.sh in {args.out_dir}; nothing was run")
        return 0
    outcomes = [(point, _run_point(rows, point, len(points))) for point in points]
    for note in rows.notes:
        print(f"note: {note}")
    code = _write(args.out_dir, outcomes)
    shutil.rmtree(scratch, ignore_errors=True)
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


def _run_point(rows: RowSource, point: SweepPoint, count: int) -> PointResult | H2OError:
    try:
        result = rows.result(point)
    except H2OError as error:
        print(f"[{point.index}/{count}] {point.run_id}: {error}", flush=True)
        return error
    shared = f" (the run of {result.shares_run_with})" if result.shares_run_with else ""
    print(f"[{point.index}/{count}] {point.run_id}: done{shared}", flush=True)
    return result


def _write(folder: Path, outcomes: list[tuple[SweepPoint, PointResult | H2OError]]) -> int:
    """Write manifest and CSV; exit code 0 if every point gave a sound row, else 2."""
    from pytest_h2o.bench.manifest import MANIFEST_NAME, manifest_entry, write_manifest
    from pytest_h2o.bench.metrics_csv import write_metrics_csv

    entries, results, failed = [], [], 0
    for point, outcome in outcomes:
        if isinstance(outcome, H2OError):
            failed += 1
            entries.append(manifest_entry(point, outcome))
        else:
            results.append(outcome)
            entries.append(manifest_entry(point, outcome, shares_run_with=outcome.shares_run_with))
    write_manifest(folder / MANIFEST_NAME, entries)
    if results:
        write_metrics_csv(folder / "h2o_metrics.csv", [result.row for result in results])
    print(f"{len(results)} rows in {folder}" + (f"; {failed} points FAILED" if failed else ""))
    return 2 if failed else 0
