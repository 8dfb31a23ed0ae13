"""``pytest-h2o lossless``: encode, count, decode and compare the streams of a KV dump.

Flags are those of the original evaluation script, and a few more; most are keys of `Scope`, which has their defaults
and checks the values. This module needs nothing but argparse until it runs.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from pytest_h2o.cli.main import check_outputs, path
from pytest_h2o.errors import UsageError
from pytest_h2o.inputs.keys import (
    FLAT_KEYS,
    STREAM_KEYS,
    Degenerate,
    EntryMode,
    LayerChoice,
    Stage,
    flag_of,
    fold_codec,
    foreign_settings,
    idle_keys,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_h2o.codecs.base import Rope
    from pytest_h2o.inputs.scope import Scope
    from pytest_h2o.lossless.result import LosslessResult


def add_rope_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags; `rope_from_args` takes what they parse to."""
    parser.add_argument(
        "--rope-theta", type=float, metavar="X", help="how K was rotated, for codecs that use it (default: they try)"
    )
    parser.add_argument("--rope-pairing", choices=("half", "interleaved"), help="default: half")
    parser.add_argument(
        "--base-config", type=path, metavar="FILE", help="config of the model, whose llm_config may say rope_theta"
    )


def rope_from_args(args: argparse.Namespace) -> Rope | None:
    """The rotation that the flags give, else the one in the model's config, else None."""
    theta = args.rope_theta
    if theta is not None and not (math.isfinite(theta) and theta > 0):
        raise UsageError("--rope-theta is impossible", came=str(theta), expected="a finite number above 0")
    if theta is None and args.base_config is not None:
        from pytest_h2o.bench.command import read_base_config, rope_theta

        theta = rope_theta(read_base_config(args.base_config, "--base-config"))
    if theta is None:
        if args.rope_pairing is not None:
            raise UsageError(
                "--rope-pairing says how K was paired, but nothing says theta",
                came=args.rope_pairing,
                expected="--rope-theta X, or a --base-config whose llm_config has rope_theta",
                hint="leave it out: codecs that use a rotation try the usual ones",
            )
        return None
    from pytest_h2o.codecs.base import Rope

    return Rope(theta, args.rope_pairing or "half")


_METAVARS = {"stage": Stage, "scope": LayerChoice, "entry_mode": EntryMode}
_CODEC_FLAGS: dict[str, dict[str, Any]] = {
    "codec_mode": {"metavar": "NAME", "help": "adaptive_v22, legacy, or another codec as NAME or NAME:SETTING=VALUE"},
    "zstd_level": {"type": int, "metavar": "N", "help": "of these two: 1 to 22"},
    "adaptive_block_seq": {"type": int, "metavar": "N", "help": "tokens for which one predictor is chosen"},
    "bitshuffle": {"action": "store_true", "help": "transpose bits before zstd"},
    **{
        name: {"metavar": "NAMES", "help": "candidates, separated by commas"}
        for name in FLAT_KEYS["adaptive_v22"]
        if name.endswith("predictors")
    },
}


def add_arguments_lossless(parser: argparse.ArgumentParser) -> None:
    """Add the flags; those of a scope leave no trace in the namespace unless they are given."""
    parser.add_argument("--dump-dir", required=True, metavar="DIR", help="dump folder, or a .zip of one")
    parser.add_argument("--out-json", type=path, required=True, metavar="FILE")
    parser.add_argument("--out-md", type=path, metavar="FILE", help="also a summary to read")
    parser.add_argument("--overwrite", action="store_true", help="replace the files if they are there")
    parser.add_argument("--verbose", action="store_true", help="tell every second how far it is, on standard error")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    parser.add_argument("--executor", default="cores", metavar="WHERE", help="cores (default), or dask://HOST:PORT")
    parser.add_argument("--no-verify", action="store_true", help="count without decoding; the result says so")
    add_rope_arguments(parser)
    for key in STREAM_KEYS:
        options: dict[str, Any] = {"metavar": "N", "type": int}
        if key.name in _METAVARS:
            options = {"metavar": f"{{{','.join(get_args(_METAVARS[key.name]))}}}"}
        elif key.name == "layer_ids":
            options = {"metavar": "N", "nargs": "+"}
        elif key.default is False:
            options = {"action": "store_true"}
        _add_flag(parser, key.name, help=key.description, **options)
    _add_flag(parser, "degenerate", choices=get_args(Degenerate), help="allow a dump that says nothing about a codec")
    for name, options in _CODEC_FLAGS.items():
        _add_flag(parser, name, **options)


def _add_flag(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:
    parser.add_argument(flag_of(name), default=argparse.SUPPRESS, **options)


def refuse_foreign_settings(given: Mapping[str, Any]) -> None:
    """Refuse flags of adaptive_v22 beside a codec that would not hear of them."""
    for key, codec, setting in foreign_settings(given):
        value = "+".join(given[key]) if isinstance(given[key], tuple) else given[key]
        raise UsageError(
            f"{flag_of(key)} means nothing to the codec {codec}",
            came=f"--codec-mode {given['codec_mode']}",
            expected=f"--codec-mode {codec}:{setting}={value}, or {flag_of(key)} left out",
        )


def scope_from_args(args: argparse.Namespace) -> Scope:
    """The scope of the flags that were given, and defaults for the others."""
    from pytest_h2o.inputs.scope import Scope

    names = {*_CODEC_FLAGS, "degenerate", *(key.name for key in STREAM_KEYS)}
    given = {name: value for name, value in vars(args).items() if name in names}
    if "layer_ids" in given:
        given["layer_ids"] = _layer_ids(given["layer_ids"])
    for name in given:
        if name.endswith("predictors"):
            given[name] = tuple(part.strip() for part in given[name].split(",") if part.strip())
    refuse_foreign_settings(given)
    scope = Scope(**fold_codec(given))
    for key, other, values in idle_keys(given, scope):
        raise UsageError(
            f"{flag_of(key)} means nothing with {flag_of(other)} {getattr(scope, other)}",
            expected=f"{flag_of(other)} {' or '.join(values)}, or {flag_of(key)} left out",
        )
    return scope


def run_lossless(args: argparse.Namespace) -> int:
    """Evaluate and write; 1 if entries were skipped or the ratio says little (the files are written), else 0."""
    scope = scope_from_args(args)
    rope = rope_from_args(args)
    outputs = [file for file in (args.out_json, args.out_md) if file is not None]
    check_outputs(*outputs, inputs=(path(args.dump_dir), args.base_config), overwrite=args.overwrite)

    from pytest_h2o.files import write_new_json, write_new_text
    from pytest_h2o.lossless.result import render_line, render_markdown

    result = evaluate(
        args.dump_dir,
        scope,
        verbose=args.verbose,
        verify=not args.no_verify,
        rope=rope,
        workers=args.workers,
        executor=args.executor,
    )
    write_new_json(args.out_json, result.to_json(), overwrite=args.overwrite)
    if args.out_md is not None:
        write_new_text(args.out_md, render_markdown(result), overwrite=args.overwrite)
    print(render_line(result))
    return _report_troubles(result, named="scope" in args or "front_n" in args)


def evaluate(dump_dir: str | Path, scope: Scope, *, verbose: bool = False, **how: Any) -> LosslessResult:
    """One evaluation, told while it runs."""
    gc.disable()  # modules and an index of many entries live to the end: to walk them again and again frees nothing
    try:
        if "numpy" not in sys.modules:  # its BLAS would start a thread a core, in a tenth of the time of a short dump
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from pytest_h2o.lossless.apart import keep_freed_memory
        from pytest_h2o.lossless.evaluate import evaluate_lossless

        keep_freed_memory()
        with ProgressLines(verbose=verbose) as lines:
            return evaluate_lossless(dump_dir, scope, **how, on_entries=lines.entries, progress=lines.coded)
    finally:
        gc.freeze()  # nor to walk them once more
        gc.enable()


def _report_troubles(result: LosslessResult, *, named: bool) -> int:
    """What is wrong with the dump; layers that are missing count where the flags named some."""
    from pytest_h2o.lossless.result import MISSING, MISSING_LAYER

    faults = [fault for fault in result.faults if not fault.allowed and (named or fault.kind != MISSING_LAYER)]
    for fault in faults:
        print(f"the ratio says little: {fault.detail}", file=sys.stderr)
    if any(fault.kind not in MISSING for fault in faults):
        print("  next: make a dump with llm_demo on a real prompt, or give --degenerate allow", file=sys.stderr)
    if not result.skipped:
        return int(bool(faults))
    reasons = ", ".join(f"{count} {reason}" for reason, count in result.skip_reasons.items())
    first = result.skipped[0]
    print(f"{result.skipped_entries} entries were skipped: {reasons}", file=sys.stderr)
    print(f"  first: {first.path}: {first.detail}", file=sys.stderr)
    print("  next: the ratio is one over the rest of the dump; mend the entries or leave them out", file=sys.stderr)
    return 1


def _layer_ids(texts: list[str]) -> tuple[int, ...]:
    parts = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    try:
        return tuple(int(part) for part in parts)
    except ValueError as error:
        raise UsageError("--layer-ids does not fit", came=" ".join(texts), expected="whole numbers: 0,1,2") from error


VERBOSE_S, TERMINAL_S, LOG_S = 1.0, 2.0, 30.0


class ProgressLines:
    """Tells on its own clock, so that one long stream or a slow disk is told too; a context manager.

    Parameters
    ----------
    verbose : bool
        Every second, and at the end; else every two seconds on a terminal, and every half minute elsewhere.
    """

    def __init__(self, *, verbose: bool) -> None:
        import threading

        self._verbose = verbose
        self._every_s = VERBOSE_S if verbose else TERMINAL_S if sys.stderr.isatty() else LOG_S
        self._entries = self._done = self._to_do = 0
        self._told = False
        self._started = self._coding_since = time.monotonic()
        self._ended = threading.Event()
        self._clock = threading.Thread(target=self._run, name="h2o-progress", daemon=True)

    def __enter__(self) -> ProgressLines:
        self._clock.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._ended.set()
        self._clock.join()
        if error is None and (self._verbose or self._told):
            self._tell()

    def entries(self, count: int) -> None:
        """So many entries are indexed."""
        self._entries = count

    def coded(self, done: int, to_do: int) -> None:
        """So many raw bytes are coded, of how many."""
        if not self._to_do:
            self._coding_since = time.monotonic()
        self._done, self._to_do = done, to_do

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            self._tell()

    def _tell(self) -> None:
        self._told = True
        after = f"after {time.monotonic() - self._started:.0f} s"
        if not self._to_do:
            print(f"{self._entries:,} entries indexed {after}", file=sys.stderr, flush=True)
            return
        speed = self._done / max(time.monotonic() - self._coding_since, 1e-6) / 1e6
        told = f"{self._done / 1e6:.0f} of {self._to_do / 1e6:.0f} MB, {speed:.0f} MB/s, {after}"
        print(told, file=sys.stderr, flush=True)
