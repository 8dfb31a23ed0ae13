"""``pytest-h2o analyze``: a CSV and lossless results against the targets; Markdown, and JSON beside it."""

from __future__ import annotations

import argparse
from pathlib import Path

from pytest_h2o.commands.outputs import check_outputs
from pytest_h2o.commands.targets import add_target_arguments, read_baseline, read_result, read_thresholds
from pytest_h2o.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--csv", type=Path, required=True, metavar="FILE", help="rows, as parse writes them")
    parser.add_argument("--offline-lossless-json", type=Path, metavar="FILE", help="the upper bound")
    parser.add_argument(
        "--offline-lossless-online-json", type=Path, metavar="FILE", help="the online simulation: decides"
    )
    add_target_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.md", help="Markdown; JSON goes beside it")
    parser.add_argument("--overwrite", action="store_true", help="replace the files if they are there")


def run(args: argparse.Namespace) -> int:
    from pytest_h2o.bench.metrics_csv import read_metrics_csv
    from pytest_h2o.report.analysis import analyze_rows, render_analysis_md
    from pytest_h2o.store import write_new_json, write_new_text

    if args.out.suffix == ".json":
        raise UsageError("--out names the Markdown file", came=str(args.out), expected="a name that ends in .md")
    out_json = args.out.with_suffix(".json")
    inputs = (args.csv, args.offline_lossless_json, args.offline_lossless_online_json)
    check_outputs(args.out, out_json, inputs=inputs, overwrite=args.overwrite)
    baseline, left_out = read_baseline(args)
    analysis = analyze_rows(
        read_metrics_csv(args.csv),
        read_thresholds(args),
        baseline_tok_per_s=baseline,
        decode_left_out=left_out,
        upper=read_result(args.offline_lossless_json),
        online=read_result(args.offline_lossless_online_json),
        rule=args.rule,
    )
    text = render_analysis_md(analysis)
    write_new_text(args.out, text, overwrite=args.overwrite)
    write_new_json(out_json, analysis, overwrite=args.overwrite)
    print(text, end="")
    return 0 if analysis["overall_pass"] else 1
