"""``pytest-h2o lossless``: encode, count, decode and compare the streams of a KV dump.

Flags are those of the original evaluation script, and a few more. What is not given has the default of
`LosslessSettings`, which also checks the values: so this module needs nothing but argparse until it runs.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_h2o.cli.flags import check_outputs
from pytest_h2o.cli.progress import ProgressLines
from pytest_h2o.errors import UsageError

if TYPE_CHECKING:
    from pytest_h2o.codecs.base import Rope
    from pytest_h2o.lossless.plan import LosslessSettings
    from pytest_h2o.lossless.result import LosslessResult


def add_rope_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags; `rope_from_args` takes what they parse to."""
    parser.add_argument(
        "--rope-theta", type=float, metavar="X", help="how K was rotated, for codecs that use it (default: they try)"
    )
    parser.add_argument("--rope-pairing", choices=("half", "interleaved"), help="default: half")
    parser.add_argument(
        "--base-config", type=Path, metavar="FILE", help="config of the model, whose llm_config may say rope_theta"
    )


def rope_from_args(args: argparse.Namespace) -> Rope | None:
    """The rotation that the flags give, else the one in the model's config, else None."""
    from pytest_h2o.codecs.base import Rope

    theta = args.rope_theta
    if theta is not None and not (math.isfinite(theta) and theta > 0):
        raise UsageError("--rope-theta is impossible", came=str(theta), expected="a finite number above 0")
    if theta is None and args.base_config is not None:
        from pytest_h2o.bench.config import read_base_config, rope_theta

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
    return Rope(theta, args.rope_pairing or "half")


_TEXT: dict[str, tuple[str, str]] = {
    "stage": ("{prefill,decode,both}", "entries of which stage"),
    "scope": ("{front_n,layer_range,layer_ids}", "how layers are chosen"),
    "entry_mode": ("{per_meta,aggregate,chunked,chunked_grouped}", "how entries are put together and cut"),
    "codec_mode": ("NAME", "adaptive_v22, legacy, or another codec as NAME or NAME:SETTING=VALUE"),
}

_NUMBERS: dict[str, tuple[str, str]] = {
    "front_n": ("N", "layers 0 to N-1, with --scope front_n"),
    "layer_start": ("N", "first layer, with --scope layer_range"),
    "layer_end": ("N", "last layer, with --scope layer_range; -1: no bound"),
    "min_seq_len": ("N", "leave out entries of fewer tokens; 0: no bound"),
    "max_seq_len": ("N", "leave out entries of more tokens; 0: no bound"),
    "online_chunk_seq": ("N", "tokens a chunk; 0: whole"),
    "online_framing_bytes": ("N", "framing of each chunk of K and of V"),
    "zstd_level": ("N", "1 to 22"),
    "adaptive_block_seq": ("N", "tokens for which one predictor is chosen"),
}

_SWITCHES: dict[str, str] = {
    "strict_fp16": "skip fp32 entries instead of rounding them",
    "aggregate_by_stage": "join prefill and decode entries apart",
    "bitshuffle": "transpose bits before zstd",
}

_PREDICTORS = ("k_hi_predictors", "k_lo_predictors", "v_hi_predictors", "v_lo_predictors")


def add_arguments_lossless(parser: argparse.ArgumentParser) -> None:
    """Add the flags; those of `LosslessSettings` leave no trace in the namespace unless they are given."""
    parser.add_argument("--dump-dir", required=True, metavar="DIR", help="dump folder, or a .zip of one")
    parser.add_argument("--out-json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out-md", type=Path, metavar="FILE", help="also a summary to read")
    parser.add_argument("--overwrite", action="store_true", help="replace the files if they are there")
    parser.add_argument("--verbose", action="store_true", help="tell every second how far it is, on standard error")
    parser.add_argument("--workers", type=int, metavar="N", help="threads or processes (default: one a core)")
    parser.add_argument("--executor", default="cores", metavar="WHERE", help="cores (default), or dask://HOST:PORT")
    parser.add_argument("--no-verify", action="store_true", help="count without decoding; the result says so")
    add_rope_arguments(parser)
    for name, (metavar, text) in {**_TEXT, **_NUMBERS}.items():
        kind = int if name in _NUMBERS else str
        parser.add_argument(_flag(name), type=kind, metavar=metavar, help=text, default=argparse.SUPPRESS)
    for name, text in _SWITCHES.items():
        parser.add_argument(_flag(name), action="store_true", help=text, default=argparse.SUPPRESS)
    parser.add_argument("--layer-ids", nargs="+", metavar="N", help="layers", default=argparse.SUPPRESS)
    for name in _PREDICTORS:
        text = "candidates, separated by commas"
        parser.add_argument(_flag(name), metavar="NAMES", help=text, default=argparse.SUPPRESS)


def settings_from_args(args: argparse.Namespace) -> LosslessSettings:
    """The settings that were given, and defaults for the others."""
    from pytest_h2o.lossless.plan import LosslessSettings, refuse_idle_settings

    given: dict[str, Any] = {
        name: getattr(args, name) for name in (*_TEXT, *_NUMBERS, *_SWITCHES) if hasattr(args, name)
    }
    if hasattr(args, "layer_ids"):
        given["layer_ids"] = _layer_ids(args.layer_ids)
    for name in _PREDICTORS:
        if hasattr(args, name):
            given[name] = tuple(part.strip() for part in getattr(args, name).split(",") if part.strip())
    settings = LosslessSettings(**given)
    refuse_idle_settings(given, settings)
    return settings


def run_lossless(args: argparse.Namespace) -> int:
    """Evaluate and write; 1 if entries were skipped (the files are written), else 0."""
    settings = settings_from_args(args)
    rope = rope_from_args(args)
    outputs = [path for path in (args.out_json, args.out_md) if path is not None]
    check_outputs(*outputs, inputs=(Path(args.dump_dir), args.base_config), overwrite=args.overwrite)

    from pytest_h2o.files import write_new_json, write_new_text
    from pytest_h2o.lossless.evaluate import evaluate_lossless
    from pytest_h2o.lossless.result import render_line, render_markdown

    gc.disable()  # an index of many entries lives to the end: walking it again and again finds nothing to free
    try:
        with ProgressLines(verbose=args.verbose) as lines:
            result = evaluate_lossless(
                args.dump_dir,
                settings,
                verify=not args.no_verify,
                rope=rope,
                workers=args.workers,
                executor=args.executor,
                on_entries=lines.entries,
                progress=lines.coded,
            )
    finally:
        gc.enable()
    write_new_json(args.out_json, result.to_json(), overwrite=args.overwrite)
    if args.out_md is not None:
        write_new_text(args.out_md, render_markdown(result), overwrite=args.overwrite)
    print(render_line(result))
    return _report_skips(result)


def _report_skips(result: LosslessResult) -> int:
    if not result.skipped:
        return 0
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


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
