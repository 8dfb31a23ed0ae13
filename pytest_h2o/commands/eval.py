"""``pytest-h2o eval``: parse, upper bound, online simulation and gate in one go, into the run folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_h2o.commands.outputs import check_outputs
from pytest_h2o.commands.parse import find_logs
from pytest_h2o.commands.targets import add_target_arguments, read_baseline, read_thresholds
from pytest_h2o.errors import UsageError

if TYPE_CHECKING:
    from pytest_h2o.bench.row import BenchRow
    from pytest_h2o.lossless import LosslessResult, LosslessSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder of a sweep; the results go into it")
    parser.add_argument("dump_dir", type=Path, metavar="DUMP_DIR", help="KV dump, folder or .zip")
    parser.add_argument("--front-n", type=int, default=2, metavar="N", help="first layers, losslessly coded")
    parser.add_argument("--online-chunk-seq", type=int, default=192, metavar="ROWS")
    parser.add_argument("--online-framing-bytes", type=int, default=8, metavar="BYTES")
    parser.add_argument("--adaptive-block-seq", type=int, default=64, metavar="ROWS")
    parser.add_argument(
        "--online-entry-mode",
        choices=("chunked", "chunked_grouped", "both"),
        default="chunked_grouped",
        help="with both, chunked_grouped decides and chunked is reported",
    )
    parser.add_argument("--codec-mode", default="adaptive_v22", metavar="NAME")
    add_target_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace results of an earlier eval")


def read_rows(run_dir: Path) -> tuple[list[BenchRow], float | None]:
    """Rows of a sweep's folder, and the decode speed of a baseline row (H2O off) that lies among its logs.

    Raises
    ------
    H2OError
        A run that the manifest lists has no sound row; or there is no log.
    """
    from pytest_h2o.bench.recorded import read_recording
    from pytest_h2o.gate.baseline import pick_recorded

    find_logs(run_dir)
    recording = read_recording(run_dir)
    for error in recording.failures.values():
        raise error
    results = sorted(recording.results.values(), key=lambda result: result.run_id)
    if not results:
        raise UsageError("the run folder holds no run", where=str(run_dir), expected="logs with run ids, or a manifest")
    baseline = pick_recorded(recording.baselines, results)
    return [result.row for result in results], None if baseline is None else baseline.tok_per_s


def name_outputs(run_dir: Path, evaluations: list[str], *, overwrite: bool) -> list[str]:
    """The files that an eval writes into the run folder; not the CSV of the sweep, which has the same rows."""
    names = ["analysis.md", "analysis.json"]
    names += [f"offline_lossless_{name}{suffix}" for name in evaluations for suffix in (".json", ".md")]
    return names if (run_dir / "h2o_metrics.csv").exists() and not overwrite else ["h2o_metrics.csv", *names]


def run(args: argparse.Namespace) -> int:
    from pytest_h2o.bench.metrics_csv import render_metrics_csv
    from pytest_h2o.lossless import LosslessSettings
    from pytest_h2o.lossless.markdown import render_markdown
    from pytest_h2o.report.analysis import analyze_rows, render_analysis_md
    from pytest_h2o.store import render_json, write_new_text

    thresholds, (baseline, left_out) = read_thresholds(args), read_baseline(args)
    common = {"front_n": args.front_n, "codec_mode": args.codec_mode, "adaptive_block_seq": args.adaptive_block_seq}
    online = {"online_chunk_seq": args.online_chunk_seq, "online_framing_bytes": args.online_framing_bytes}
    settings = {"upper_bound": LosslessSettings(**common, entry_mode="aggregate", aggregate_by_stage=True)}
    modes = ("chunked", "chunked_grouped") if args.online_entry_mode == "both" else (args.online_entry_mode,)
    settings |= {mode: LosslessSettings(**common, **online, entry_mode=mode) for mode in modes}
    names = name_outputs(args.run_dir, list(settings), overwrite=args.overwrite)
    check_outputs(*(args.run_dir / name for name in names), inputs=(args.dump_dir,), overwrite=args.overwrite)
    rows, recorded = read_rows(args.run_dir)
    results = {name: _evaluate(args.dump_dir, chosen) for name, chosen in settings.items()}
    analysis = analyze_rows(
        rows,
        thresholds,
        baseline_tok_per_s=recorded if baseline is None and not left_out else baseline,
        decode_left_out=left_out,
        upper=results["upper_bound"].to_json(),
        online=results[modes[-1]].to_json(),
        rule=args.rule,
    )
    text = render_analysis_md(analysis)
    files = {"h2o_metrics.csv": render_metrics_csv(rows), "analysis.md": text, "analysis.json": render_json(analysis)}
    for name, result in results.items():
        files[f"offline_lossless_{name}.json"] = render_json(result.to_json())
        files[f"offline_lossless_{name}.md"] = render_markdown(result)
    for name in names:
        write_new_text(args.run_dir / name, files[name], overwrite=args.overwrite)
    print(text, end="")
    return 0 if analysis["overall_pass"] else 1


def _evaluate(dump_dir: Path, settings: LosslessSettings) -> LosslessResult:
    """One evaluation, every stream decoded and compared; DumpError if an entry had to be skipped."""
    from pytest_h2o.lossless import evaluate_lossless, refuse_skips

    result = evaluate_lossless(dump_dir, settings, verify=True)
    refuse_skips(result, str(dump_dir))
    return result
