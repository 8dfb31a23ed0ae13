"""The target flags that ``analyze`` and ``eval`` share, and what they do with the analysis."""

from __future__ import annotations

import argparse

from pytest_h2o.decode_options import parse_baseline
from pytest_h2o.errors import UsageError
from pytest_h2o.gate.rule import Thresholds
from pytest_h2o.options import DEFAULT_TARGETS


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lossy-target", type=float, default=DEFAULT_TARGETS["lossy"], metavar="RATIO")
    parser.add_argument("--lossless-target", type=float, default=DEFAULT_TARGETS["lossless"], metavar="RATIO")
    parser.add_argument("--decode-baseline", metavar="TOK_S", help="decode tok/s with H2O off, or none to leave it out")
    parser.add_argument("--decode-drop-target", type=float, default=DEFAULT_TARGETS["decode_drop"], metavar="FRACTION")
    parser.add_argument("--rule", choices=("joint", "best-of"), default="joint")
    parser.add_argument("--allow-skips", action="store_true", help="take ratios although entries could not be read")
    parser.add_argument("--model-layers", type=int, metavar="N", help="layers of the model, for whole-cache ratios")


def read_model_layers(args: argparse.Namespace) -> int | None:
    """The number of layers that was given; UsageError for one below 1."""
    count: int | None = args.model_layers
    if count is not None and count < 1:
        raise UsageError("--model-layers is out of range", came=str(count), expected="at least 1")
    return count


def read_thresholds(args: argparse.Namespace) -> Thresholds:
    """The three targets of the flags; UsageError for one that is not a number in its range."""
    for flag, value, low, high in (
        ("--lossy-target", args.lossy_target, 1.0, float("inf")),
        ("--lossless-target", args.lossless_target, 0.0, float("inf")),
        ("--decode-drop-target", args.decode_drop_target, 0.0, 1.0),
    ):
        if not low <= value < high:
            raise UsageError(f"{flag} is out of range", came=str(value), expected=f"from {low:g} to below {high:g}")
    return Thresholds(args.lossy_target, args.lossless_target, args.decode_drop_target)


def read_baseline(args: argparse.Namespace) -> tuple[float | None, bool]:
    """Baseline in tok/s, and whether the decode threshold is left out on purpose."""
    if args.decode_baseline is None:
        return None, False
    if args.decode_baseline == "none":
        return None, True
    return parse_baseline(args.decode_baseline, "--decode-baseline"), False
