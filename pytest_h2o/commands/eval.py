"""``pytest-h2o eval``: parse, upper bound, online simulation and gate in one go, into the run folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_h2o.commands.outputs import check_outputs
from pytest_h2o.commands.parse import find_logs
from pytest_h2o.commands.progress_lines import ProgressLines
from pytest_h2o.commands.results import check_result
from pytest_h2o.commands.targets import add_target_arguments, read_baseline, read_model_layers, read_thresholds
from pytest_h2o.errors import UsageError

if TYPE_CHECKING:
    from pytest_h2o.bench.result import PointResult
    from pytest_h2o.gate.baseline import Baseline
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


def read_rows(run_dir: Path) -> tuple[list[PointResult], Baseline | None]:
    """Runs of a sweep's folder, and the baseline (H2O off) that lies among its logs.

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
    return results, pick_recorded(recording.baselines, results)


def read_layer_range(results: list[PointResult]) -> tuple[int, int] | None:
    """First and last layer under eviction as the recorded configs say; None if they do not say it, or not one range."""
    ranges: set[tuple[int, int] | None] = set()
    for result in results:
        path = result.config_path
        try:
            config = json.loads(path.read_text(encoding="utf-8")) if path else {}
        except (OSError, ValueError) as error:
            raise UsageError("a recorded config cannot be read", where=str(path), came=str(error)) from error
        start, end = (config.get(f"kv_h2o_layer_{end}") for end in ("start", "end"))
        ranges.add((start, end) if type(start) is int and type(end) is int else None)
    return ranges.pop() if len(ranges) == 1 else None


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
    model_layers = read_model_layers(args)
    common = {"front_n": args.front_n, "codec_mode": args.codec_mode, "adaptive_block_seq": args.adaptive_block_seq}
    online = {"online_chunk_seq": args.online_chunk_seq, "online_framing_bytes": args.online_framing_bytes}
    settings = {"upper_bound": LosslessSettings(**common, entry_mode="aggregate", aggregate_by_stage=True)}
    modes = ("chunked", "chunked_grouped") if args.online_entry_mode == "both" else (args.online_entry_mode,)
    settings |= {mode: LosslessSettings(**common, **online, entry_mode=mode) for mode in modes}
    names = name_outputs(args.run_dir, list(settings), overwrite=args.overwrite)
    check_outputs(*(args.run_dir / name for name in names), inputs=(args.dump_dir,), overwrite=args.overwrite)
    runs, recorded = read_rows(args.run_dir)
    rows = [result.row for result in runs]
    results = {name: _evaluate(args.dump_dir, chosen) for name, chosen in settings.items()}
    notes = _notes(runs, baseline, None if left_out else recorded)
    for name in (modes[-1], "upper_bound"):
        values, decides = results[name].to_json(), name == modes[-1]
        notes += check_result(values, str(args.dump_dir), decides=decides, allow_skips=args.allow_skips)
    evicted = read_layer_range(runs)
    analysis = analyze_rows(
        rows,
        thresholds,
        baseline_tok_per_s=recorded.tok_per_s if recorded and baseline is None and not left_out else baseline,
        decode_left_out=left_out,
        upper=results["upper_bound"].to_json(),
        online=results[modes[-1]].to_json(),
        rule=args.rule,
        notes=notes,
        layers=None if model_layers is None or evicted is None else (model_layers, *evicted),
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
    """One evaluation, every stream decoded and compared."""
    from pytest_h2o.lossless import evaluate_lossless

    with ProgressLines(verbose=False) as lines:
        return evaluate_lossless(dump_dir, settings, verify=True, on_entries=lines.entries, progress=lines.coded)


def _notes(runs: list[PointResult], baseline: float | None, recorded: Baseline | None) -> list[str]:
    """Where the decode baseline comes from, and what speaks against the comparison."""
    from pytest_h2o.gate.baseline import unlike_contexts

    notes = []
    if baseline is not None:
        notes.append(f"decode baseline: {baseline:g} tok/s (--decode-baseline)")
    elif recorded is not None:
        notes.append(f"decode baseline: {recorded.tok_per_s:g} tok/s ({recorded.origin})")
    if baseline is not None or recorded is not None:
        notes += unlike_contexts(runs)
    return notes
