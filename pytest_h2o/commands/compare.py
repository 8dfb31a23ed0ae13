"""``pytest-h2o compare``: every figure of one run against those of another."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = "run folder, name of a baseline, last, or a run of the history (part of its name is enough)"
    parser.add_argument("then", metavar="RUN_A", help=f"the earlier run: {what}")
    parser.add_argument("now", metavar="RUN_B", help="the later run, named alike")
    parser.add_argument(
        "--compare-fail",
        action="append",
        default=[],
        metavar="METRIC:PERCENT",
        help="let a metric be worse by this much; may be given several times",
    )
    parser.add_argument("--all", action="store_true", help="show equal figures and timings too")
    parser.add_argument("--out-dir", type=Path, default=Path("h2o-runs"), metavar="DIR", help="history and baselines")


def run(args: argparse.Namespace) -> int:
    from pytest_h2o.bench.printable import one_line
    from pytest_h2o.errors import UsageError
    from pytest_h2o.gate.compare import parse_allowances
    from pytest_h2o.history.resolve import resolve_record
    from pytest_h2o.report.changes import render_counts
    from pytest_h2o.report.history_table import compare_records, render_comparison

    allowances = parse_allowances(args.compare_fail, "--compare-fail")
    title, then = resolve_record(args.then, args.out_dir)
    later, now = resolve_record(args.now, args.out_dir)
    found = compare_records(then, now, allowances, title)
    if all(isinstance(comparison, str) for comparison in found.values()):
        raise UsageError(
            "the two runs have no preset and no scope in common",
            came=f"{title}: {', '.join(s.title for s in then.subjects)}; "
            f"{later}: {', '.join(s.title for s in now.subjects)}",
            expected="two runs of the same gates",
        )
    for word, place, record in (("then", title, then), ("now", later, now)):
        print(one_line(f"{word} run {record.run} of {place}, ended {record.ended}", limit=1000))
    print()
    print("\n".join(render_comparison(found, everything=args.all)))
    counts: dict[str, int] = {}
    for comparison in found.values():
        for state, number in ({} if isinstance(comparison, str) else comparison.counts).items():
            counts[state] = counts.get(state, 0) + number
    worse = any(
        comparison == "missing" if isinstance(comparison, str) else comparison.regressions
        for comparison in found.values()
    )
    missing = sum(comparison == "missing" for comparison in found.values())
    tail = f", {missing} presets or scopes missing" if missing else ""
    print(f"{'WORSE' if worse else 'not worse'}: {render_counts(counts)}{tail}")
    return 1 if worse else 0
