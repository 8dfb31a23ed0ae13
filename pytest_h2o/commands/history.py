"""``pytest-h2o history``: the runs that were recorded, and how a figure went."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--last", type=int, default=20, metavar="N", help="the newest N runs (default: 20)")
    parser.add_argument(
        "--metric", metavar="NAME", help="the figure to show (default: h2o_lossy of presets, lossless_ratio of scopes)"
    )
    parser.add_argument("--out-dir", type=Path, default=Path("h2o-runs"), metavar="DIR", help="where it is kept")


def run(args: argparse.Namespace) -> int:
    from collections import deque

    from pytest_h2o.errors import UsageError
    from pytest_h2o.gate.compare import check_metric
    from pytest_h2o.history.lines import HISTORY_NAME, Damage, read_history
    from pytest_h2o.history.record import RunRecord
    from pytest_h2o.report.history_table import HISTORY_HEADER, history_rows, render_columns

    if args.last < 1:
        raise UsageError("--last is out of range", came=str(args.last), expected="at least 1 run")
    path = args.out_dir / HISTORY_NAME
    if not path.is_file():
        raise UsageError(
            "there is no history",
            where=str(path),
            expected="a folder in which a gate has run to its end",
            hint="--out-dir names the folder that --h2o-out-dir named",
        )
    records: deque[RunRecord] = deque(maxlen=args.last)
    for record in read_history(path):
        if isinstance(record, Damage):
            print(f"damaged: {record}", file=sys.stderr)
        else:
            records.append(record)
    if args.metric is not None and not any(args.metric in record.metrics for record in records):
        check_metric(args.metric, "--metric")  # metrics that plugins add are known from the records alone
    rows = history_rows(records, args.metric)
    if not rows:
        asked = f" with {args.metric}" if args.metric else ""
        print(f"no run{asked} in {path}")
        return 0
    print("\n".join(render_columns(HISTORY_HEADER, rows)))
    return 0
