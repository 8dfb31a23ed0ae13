"""How K was rotated, as commands take it: ``--rope-theta`` and ``--rope-pairing``, or the model's own config."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_h2o.errors import UsageError

if TYPE_CHECKING:
    from pytest_h2o.codecs.base import Rope


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
    """The rotation that the flags give, else the one in the model's config, else None.

    Raises
    ------
    UsageError
        The theta is impossible, a pairing stands alone, or the config cannot be read.
    """
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
