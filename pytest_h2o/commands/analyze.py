"""``pytest-h2o analyze``: a CSV and lossless results against the targets; Markdown, and JSON beside it."""

from __future__ import annotations

import argparse
from pathlib import Path

from pytest_h2o.commands.outputs import check_outputs
from pytest_h2o.commands.results import check_result, read_result
from pytest_h2o.commands.targets import add_target_arguments, read_baseline, read_model_layers, read_thresholds
from pytest_h2o.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--csv", type=Path, required=True, metavar="FILE", help="rows, as parse writes them")
    parser.add_argument("--offline-lossless-json", type=Path, metavar="FILE", help="the upper bound")
    parser.add_argument(
        "--offline-lossless-online-json", type=Path, metavar="FILE", help="the online simulation: decides"
    )
    add_target_arguments(parser)
    parser.add_argument("--h2o-layer-start", type=int, default=2, metavar="N", help="first layer under eviction")
    parser.add_argument("--h2o-layer-end", type=int, default=-1, metavar="N", help="last one; -1: of the model")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.md", help="Markdown; JSON goes beside it")
    parser.add_argument("--overwrite", action="store_true", help="replace the files if they are there")


def run(args: argparse.Namespace) -> int:
    from pytest_h2o.bench.metrics_csv import read_metrics_csv
    from pytest_h2o.report.analysis import analyze_rows, check_finite, render_analysis_md
    from pytest_h2o.store import write_new_json, write_new_text

    if args.out.suffix == ".json":
        raise UsageError("--out names the Markdown file", came=str(args.out), expected="a name that ends in .md")
    out_json = args.out.with_suffix(".json")
    inputs = (args.csv, args.offline_lossless_json, args.offline_lossless_online_json)
    check_outputs(args.out, out_json, inputs=inputs, overwrite=args.overwrite)
    baseline, left_out = read_baseline(args)
    start, end = args.h2o_layer_start, args.h2o_layer_end
    if start < 0 or end < -1:
        raise UsageError(
            "--h2o-layer-start or --h2o-layer-end is out of range", came=f"{start} to {end}", expected="0 or more, -1"
        )
    thresholds, model_layers = read_thresholds(args), read_model_layers(args)
    upper, online = read_result(args.offline_lossless_json), read_result(args.offline_lossless_online_json)
    notes = [] if baseline is None else [f"decode baseline: {baseline:g} tok/s (--decode-baseline)"]
    for values, path in ((online, args.offline_lossless_online_json), (upper, args.offline_lossless_json)):
        if values is not None:
            notes += check_result(values, str(path), decides=values is online, allow_skips=args.allow_skips)
    notes.append("whether the decode speeds are comparable is not known: a CSV does not say what the runs printed")
    rows = read_metrics_csv(args.csv)
    check_finite(rows, str(args.csv))
    analysis = analyze_rows(
        rows,
        thresholds,
        baseline_tok_per_s=baseline,
        decode_left_out=left_out,
        upper=upper,
        online=online,
        rule=args.rule,
        notes=notes,
        layers=None if model_layers is None else (model_layers, start, end),
    )
    text = render_analysis_md(analysis)
    write_new_text(args.out, text, overwrite=args.overwrite)
    write_new_json(out_json, analysis, overwrite=args.overwrite)
    print(text, end="")
    return 0 if analysis["overall_pass"] else 1
