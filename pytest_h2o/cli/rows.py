"""``pytest-h2o parse``, ``analyze`` and ``eval``: recorded logs to rows, and rows held against targets."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_h2o.cli.main import add_number, add_option, check_outputs, checked
from pytest_h2o.errors import H2OError, TableError, UsageError, number_of
from pytest_h2o.files import load, render_json, write_new_json, write_new_text

if TYPE_CHECKING:
    from pytest_h2o.bench.recorded import Log
    from pytest_h2o.bench.rows import Row
    from pytest_h2o.run.pairs import Baseline


def add_arguments_parse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-dir",
        type=Path,
        metavar="DIR",
        help="a sweep's folder (the logs that its manifest lists), or one of bare logs",
    )
    parser.add_argument(
        "--log-files", type=Path, nargs="+", default=[], metavar="LOG", help="these logs, in this order, after those"
    )
    parser.add_argument("--out-csv", type=Path, required=True, metavar="FILE")
    parser.add_argument("--overwrite", action="store_true", help="replace the CSV if it is there")


def find_logs(folder: Path) -> list[Path]:
    """The logs of a folder, sorted by name; of its ``logs/`` if it has none itself."""
    if not folder.is_dir():
        raise UsageError("the log folder is not there", where=str(folder), expected="a folder with *.log files")
    from pytest_h2o.bench.recorded import recorded_logs

    logs = recorded_logs(folder)
    logs = [log for log in logs if log.parent == folder] or logs
    if not logs:
        below = next((place for place in sorted(folder.iterdir()) if place.is_dir() and recorded_logs(place)), None)
        raise UsageError(
            "the log folder holds no *.log file",
            where=str(folder),
            expected="a folder with *.log files, or with logs/",
            hint=f"logs are in a folder below: {below}" if below else "name the folder that the sweep wrote to",
        )
    return logs


def choose_logs(args: argparse.Namespace) -> list[Log]:
    """The logs that ``parse`` reads, each file once: those of a manifest by its names, else every log as it is called.

    Of several paths to a file the first names it.
    """
    from pytest_h2o.bench.recorded import BASELINES, Log, distinct_files, listed_logs
    from pytest_h2o.bench.sweep import MANIFEST_NAME

    folder, logs = args.log_dir, []
    if folder is not None and (folder / MANIFEST_NAME).is_file():
        logs = listed_logs(folder)
        others = set(find_logs(folder)).difference(distinct_files(log.path for log in logs))
        if others:
            print(f"not in {MANIFEST_NAME}, left out: {', '.join(sorted(log.name for log in others))}")
        if (folder / BASELINES).is_dir():
            print(f"{BASELINES}/ is left out, its rows have nothing compressed: parse --log-dir {folder / BASELINES}")
    elif folder is not None:
        logs = [Log(path, str(path), None) for path in find_logs(folder)]
    logs += [Log(path, str(path), None) for path in args.log_files]
    if not logs:
        raise UsageError("no log is named", expected="--log-dir DIR, --log-files LOG…, or both")
    known = {log.path: log for log in reversed(logs)}
    return [known[path] for path in distinct_files(log.path for log in logs)]


def run_parse(args: argparse.Namespace) -> int:
    """Write the rows of all logs; a log without one keeps its place with empty cells, which no gate passes over."""
    from pytest_h2o.bench.rows import Row, read_table, render_metrics_csv

    logs = choose_logs(args)
    check_outputs(args.out_csv, inputs=(log.path for log in logs), overwrite=args.overwrite)
    rows: list[Row] = []
    failed: dict[str, H2OError] = {}
    for log in logs:
        try:
            if log.fault is not None:
                raise log.fault
            rows += (replace(row, log_file=log.name) for row in read_table(log.path))
        except H2OError as error:
            failed[log.name] = error
            rows.append(Row({}, log.name))
    if len(failed) == len(logs):
        raise next(iter(failed.values()))
    write_new_text(args.out_csv, render_metrics_csv(rows), overwrite=args.overwrite)
    print(f"{number_of(len(rows) - len(failed), 'row')} of {number_of(len(logs), 'log')} in {args.out_csv}")
    for name, fault in failed.items():
        print(f"FAILED, its cells are empty: {name}\n{fault}", file=sys.stderr)
    return 1 if failed else 0


def read_result(path: Path | None) -> dict[str, Any] | None:
    """A lossless result file, ours or one of the original script, checked field by field."""
    from pytest_h2o.lossless.result import LosslessResult

    if path is None:
        return None
    values = load(dict[str, Any], path, "a lossless result")
    LosslessResult.from_json(values, str(path))
    return values


def check_result(values: Mapping[str, Any], where: str, *, decides: bool, allow_skips: bool) -> Iterator[str]:
    """What a reader should know of a result, for the notes of the analysis."""
    from pytest_h2o.lossless.result import LosslessResult

    result, name = LosslessResult.from_json(values, where), "online simulation" if decides else "upper bound"
    if decides and result.entry_mode == "aggregate":
        raise UsageError(
            "an upper bound cannot decide",
            where=where,
            came="entry_mode aggregate",
            expected="an online simulation: entry_mode chunked_grouped, chunked or per_meta",
            hint="make one with: pytest-h2o lossless --entry-mode chunked_grouped --online-chunk-seq 192",
        )
    skipped = f"{result.skipped_entries} of {result.skipped_entries + result.selected_entries} entries"
    if result.skipped_entries and not allow_skips:
        first = f": {result.skipped[0].path}: {result.skipped[0].detail}" if result.skipped else ""
        raise UsageError(
            f"{skipped} of the {name} could not be read",
            where=where + first,
            came=", ".join(f"{count} {reason}" for reason, count in result.skip_reasons.items()) or None,
            expected="every selected entry: a ratio over the rest would be one of another dump",
            hint="mend or remove the entries; --allow-skips takes the ratio over the rest on purpose",
        )
    if result.skipped_entries:
        yield f"{name}: {skipped} could not be read and are left out (--allow-skips)"
    if counting := result.counting_faults(allow_skips=allow_skips):
        raise UsageError(
            f"the ratio of the {name} says nothing about a codec, or lacks layers",
            where=where,
            came="; ".join(fault.detail for fault in counting[:3]),
            expected="finite K and V of a real text, of every layer that was asked for",
            hint="make a dump with llm_demo on a real prompt, and name layers that it holds; this command has no flag "
            "that takes such a dump, but pytest-h2o lossless --degenerate allow makes a result that analyze takes",
        )
    if result.faults:
        yield f"{name}: allowed on purpose: {'; '.join(fault.detail for fault in result.faults[:3])}"
    told = f"{result.verified_streams} of {result.encoded_streams} streams were decoded and compared"
    if "encoded_streams" not in values:
        yield f"{name}: the file does not say whether its streams were decoded again"
    elif result.verified_streams >= result.encoded_streams > 0:
        return
    elif decides:
        raise UsageError(
            "a ratio of streams that were not decoded cannot decide",
            where=where,
            came=told,
            expected="every stream decoded, and equal to its input",
            hint="make the file again with: pytest-h2o lossless, without --no-verify",
        )
    else:
        yield f"{name}: not verified, {told}"


_LIMITED = (
    *("h2o_lossless_queue_peak", "h2o_lossless_fallback", "h2o_lossless_backpressure_skip"),
    *("h2o_lossless_decomp_us", "h2o_lossless_async_wait_us"),
)
"""Columns that a ``--max-…`` flag of the scripts limits."""

_CACHE = ("h2o_lossless_decode_cache_hit", "h2o_lossless_decode_cache_miss")
_ACTIVITY: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "--require-runtime-decomp": ("a restore", ("h2o_lossless_decomp_us",)),
    "--require-decode-cache-hit": ("hits of the decode cache", _CACHE[:1]),
    "--require-decode-cache-activity": ("hits or misses of the decode cache", _CACHE),
    "--require-async-queue-activity": ("work in the asynchronous queue", ("h2o_lossless_async_queue_peak",)),
}
"""Flag of the scripts -> what it asks of every row, and the columns whose sum shows it."""

_OF_ALL_MODES = {"h2o_lossless_queue_peak": 8.0, "h2o_lossless_fallback": 0.0}
_MODES: Mapping[str, Mapping[str, float]] = {
    "probe": {**_OF_ALL_MODES, "h2o_lossless_async_wait_us": 20_000.0},
    "full": {**_OF_ALL_MODES, "h2o_lossless_decomp_us": 30_000.0, "h2o_lossless_async_wait_us": 20_000.0},
    "store": {**_OF_ALL_MODES, "h2o_lossless_decomp_us": 70_000.0, "h2o_lossless_async_wait_us": 40_000.0},
}
"""Runtime mode -> what the last scripts limit in it; full and store must have restored something too."""


def limits_of(args: argparse.Namespace) -> dict[str, float]:
    """What the flags of the scripts limit in every row, and the usual limits of the mode."""
    given = {name: getattr(args, name) for name in _LIMITED}
    usual = _MODES.get(args.runtime_mode, {})
    limits = {name: usual.get(name) if value is None else value for name, value in given.items()}
    return {name: value for name, value in limits.items() if value is not None and value >= 0}


def _most(row: Row, columns: Sequence[str]) -> float:
    return max((cell.mean for column in columns if (cell := row.get(column)) is not None), default=0.0)


def missed_activity(args: argparse.Namespace, rows: Sequence[Row]) -> Iterator[str]:
    """What a flag of the scripts asks of every row, and some row does not show."""
    from pytest_h2o.bench.rows import COLUMN_DECIMALS

    asked = {flag: _ACTIVITY[flag] for flag in _ACTIVITY if getattr(args, flag.removeprefix("--").replace("-", "_"))}
    if args.runtime_mode == "store":
        asked["--runtime-mode store"] = _ACTIVITY["--require-runtime-decomp"]
    if args.runtime_mode == "full":  # it may find all that it needs in the decode cache
        asked["--runtime-mode full"] = "a restore or a hit of the decode cache", ("h2o_lossless_decomp_us", _CACHE[0])
    for flag, (what, columns) in asked.items():
        shown = {row.log_file: [_most(launch, columns) for launch in row.launches] for row in rows}
        idle = [name for name, of_launches in shown.items() if min(of_launches) <= 0]
        if idle:
            yield f"{flag}: nothing shows {what} in {', '.join(idle[:3])}{' and more' if len(idle) > 3 else ''}"
    lacking = [column for column in COLUMN_DECIMALS if any(row.get(column) is None for row in rows)]
    if args.strict_runtime_metric_columns and lacking:
        yield f"--strict-runtime-metric-columns: no {', '.join(lacking)} (an older binary)"


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    from pytest_h2o.gate.metrics import METRICS, TARGET_OPTIONS
    from pytest_h2o.inputs.options import limit

    for name, option in TARGET_OPTIONS.items():
        if METRICS[name].joint:
            add_option(parser, option, dest=name)
    parser.add_argument("--decode-baseline", metavar="TOK_S", help="decode tok/s with H2O off, or none to leave it out")
    parser.add_argument(
        "--decode-over",
        "--decode-aggregation",
        choices=("best", "mean", "median"),
        help="the decode speed that is judged: of the best row, or over all rows that meet the other targets, with an "
        "interval (default: mean under the joint rule, best under best-of)",
    )
    add_option(parser, "rule")
    add_option(parser, "allow-skips", help="take ratios although entries could not be read")
    scripts = parser.add_argument_group("limits that every row must hold, as the later scripts call them")
    for name in _LIMITED:
        usual = METRICS[name].title
        flag = f"--max-{name.removeprefix('h2o_').replace('_', '-')}"
        number = checked(float, limit(math.isfinite, "a number"), flag)
        scripts.add_argument(flag, type=number, dest=name, metavar="N", help=f"largest {usual}; below 0: no limit")
    for flag, (what, _) in _ACTIVITY.items():
        scripts.add_argument(flag, action="store_true", help=f"every row shows {what}")
    scripts.add_argument(
        "--strict-runtime-metric-columns", action="store_true", help="every row has the columns of later engines"
    )
    scripts.add_argument(
        "--runtime-mode",
        choices=tuple(_MODES),
        help="the mode that rows ran in: its usual limits hold where no flag says another",
    )
    scripts.add_argument("--decode-baseline-source", default="", metavar="TEXT", help="is told beside the baseline")
    scripts.add_argument("--decode-baseline-samples", type=int, metavar="N", help="is told beside the baseline")
    add_number(parser, "--model-layers", 1, metavar="N", help="layers of the model, for whole-cache ratios")


def read_baseline(args: argparse.Namespace) -> float | None:
    """Baseline in tok/s, if one is given."""
    from pytest_h2o.inputs.options import parse_baseline

    text = args.decode_baseline
    return None if text in (None, "none") else parse_baseline(text, "--decode-baseline")


def judged_rows(rows: Sequence[Row], where: str) -> tuple[list[Row], list[str]]:
    """The rows that a verdict may rest on, and notes; TableError for one that is damaged or contradicts itself."""
    from pytest_h2o.bench.adapter import check_decoded, check_row, is_idle
    from pytest_h2o.gate.values import check_launches

    if failed := [row.log_file for row in rows if not row.cells]:
        came = f"empty cells for {', '.join(failed[:3])}{' and more' if len(failed) > 3 else ''}"
        hint = "parse says why a log has no row; run these points again"
        raise UsageError("points of a sweep have no row", where=where, came=came, expected="a row a point", hint=hint)
    off = [row.log_file for row in rows if is_idle(row)]
    judged = [check_launches(row) for row in rows if not is_idle(row)]
    for row in judged:
        check_row(row, None)
        check_decoded(row)
    if not judged:
        came = f"{len(rows)} rows in which keep, lossy and floor are exactly 1"
        raise UsageError("no row shows H2O at work", where=where, came=came, expected="rows of runs with H2O on")
    shown = ", ".join(off[:3]) + (f" and {len(off) - 3} more" if len(off) > 3 else "")
    return judged, [f"left out, for H2O did nothing in them: {shown}"] if off else []


def asked_of(args: argparse.Namespace, rows: Sequence[Row], notes: list[str]) -> dict[str, float]:
    """Targets by metric; one that no row measures and nobody asked for is left out, with a note."""
    from pytest_h2o.gate.metrics import METRICS, TARGET_OPTIONS
    from pytest_h2o.gate.values import is_measured, row_cell

    asked: dict[str, float] = {}
    limits = limits_of(args)
    for metric in (METRICS[name] for name in (*TARGET_OPTIONS, *limits) if METRICS[name].joint):
        name, given = metric.name, limits.get(metric.name, getattr(args, metric.name))
        target = metric.target if given is None else given
        lacking = [row.log_file for row in rows if metric.of == "row" and row_cell(row, name) is None]
        if given is None and metric.optional and not is_measured(rows, metric):
            notes.append(f"{metric.short} is left out: no row has the column {name}, and no target asks for it")
        elif lacking:
            raise TableError(
                f"a row lacks the column {name}, and a target asks for it",
                where=", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""),
                expected=f"{metric.title} in every row",
                hint="use rows as the bench prints them; a missing column never counts as 0",
            )
        elif target is not None:
            asked[name] = target
    return asked


def analyze(
    args: argparse.Namespace,
    rows: Sequence[Row],
    where: str,
    baseline_tok_per_s: float | None,
    results: Mapping[str, dict[str, Any] | None],
    notes: list[str],
    layers: tuple[int, int] | None,
    *,
    understates: bool = False,
) -> dict[str, Any]:
    """Both rules on the rows; `results` are the online simulation and the upper bound, `layers` are under eviction.

    `understates`: the baseline decoded a longer context.
    """
    from pytest_h2o.report.original import analyze_rows

    judged, told = judged_rows(rows, where)
    notes += told
    if baseline_tok_per_s is not None and (args.decode_baseline_source or args.decode_baseline_samples):
        samples = f", {args.decode_baseline_samples} samples" if args.decode_baseline_samples else ""
        notes.append(f"the baseline is said to be {args.decode_baseline_source or 'measured'}{samples}")
    return analyze_rows(
        judged,
        asked_of(args, judged, notes),
        baseline_tok_per_s=baseline_tok_per_s,
        decode_left_out=args.decode_baseline == "none",
        **results,
        rule=args.rule,
        decode_over=args.decode_over,
        missing=missed_activity(args, judged),
        notes=notes,
        layers=None if args.model_layers is None or layers is None else (args.model_layers, *layers),
        understates=understates,
    )


def add_arguments_analyze(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--csv", type=Path, required=True, metavar="FILE", help="rows, as parse writes them")
    parser.add_argument("--offline-lossless-json", type=Path, metavar="FILE", help="the upper bound")
    parser.add_argument(
        "--offline-lossless-online-json", type=Path, metavar="FILE", help="the online simulation: decides"
    )
    add_target_arguments(parser)
    add_number(parser, "--h2o-layer-start", 0, default=2, metavar="N", help="first layer under eviction")
    add_number(parser, "--h2o-layer-end", -1, default=-1, metavar="N", help="last one; -1: of the model")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.md", help="Markdown; JSON goes beside it")
    parser.add_argument("--overwrite", action="store_true", help="replace the files if they are there")


def run_analyze(args: argparse.Namespace) -> int:
    from pytest_h2o.bench.rows import read_metrics_csv
    from pytest_h2o.report.original import render_analysis_md, render_on_terminal

    if args.out.suffix == ".json":
        raise UsageError("--out names the Markdown file", came=str(args.out), expected="a name that ends in .md")
    out_json = args.out.with_suffix(".json")
    files = {"online": args.offline_lossless_online_json, "upper": args.offline_lossless_json}
    check_outputs(args.out, out_json, inputs=(args.csv, *files.values()), overwrite=args.overwrite)
    baseline, results = read_baseline(args), {name: read_result(path) for name, path in files.items()}
    notes = [] if baseline is None else [f"decode baseline: {baseline:g} tok/s (--decode-baseline)"]
    for name, values in results.items():
        if values is not None:
            notes += check_result(values, str(files[name]), decides=name == "online", allow_skips=args.allow_skips)
    notes.append("whether the decode speeds are comparable is not known: a CSV does not say what the runs printed")
    rows = read_metrics_csv(args.csv)
    analysis = analyze(args, rows, str(args.csv), baseline, results, notes, (args.h2o_layer_start, args.h2o_layer_end))
    text = render_analysis_md(analysis)
    write_new_text(args.out, text, overwrite=args.overwrite)
    write_new_json(out_json, analysis, overwrite=args.overwrite)
    print(render_on_terminal(text), end="")
    return 0 if analysis["overall_pass"] is True else 1


def add_arguments_eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder of a sweep; the results go into it")
    parser.add_argument("dump_dir", type=Path, metavar="DUMP_DIR", help="KV dump, folder or .zip")
    parser.add_argument("--front-n", type=int, default=2, metavar="N", help="first layers, losslessly coded")
    parser.add_argument("--online-chunk-seq", type=int, default=192, metavar="ROWS")
    parser.add_argument("--online-framing-bytes", type=int, default=8, metavar="BYTES")
    parser.add_argument("--adaptive-block-seq", type=int, default=argparse.SUPPRESS, metavar="ROWS")
    parser.add_argument(
        "--online-entry-mode",
        choices=("chunked", "chunked_grouped", "both"),
        default="chunked_grouped",
        help="with both, chunked_grouped decides and chunked is reported",
    )
    parser.add_argument("--codec-mode", default="adaptive_v22", metavar="NAME")
    add_target_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace results of an earlier eval")


def read_rows(run_dir: Path) -> tuple[list[Row], Baseline | None]:
    """Runs of a sweep's folder with all their launches, and the baseline (H2O off) that lies among its logs."""
    from pytest_h2o.bench.recorded import join_launches, launch_folders, read_recording
    from pytest_h2o.run.pairs import pick_recorded
    from pytest_h2o.run.sources import further_launch

    find_logs(run_dir)
    recording, *further = map(read_recording, (run_dir, *launch_folders(run_dir)))
    for error in recording.failures.values():
        raise error

    def again(run_id: str) -> Iterator[Row]:
        return (further_launch(n, run_id, lambda n: further[n - 2].get(run_id)) for n in range(2, len(further) + 2))

    rows = (row for _, row in sorted(recording.results.items()))
    results = [join_launches(row, again(row.shares_run_with or row.run_id), run_dir) for row in rows]
    if not results:
        raise UsageError("the run folder holds no run", where=str(run_dir), expected="logs with run ids, or a manifest")
    return results, pick_recorded(recording.baselines, results)


def read_configs(rows: list[Row]) -> list[dict[str, Any]]:
    """The recorded config of each row; empty where none was kept."""
    return [load(dict[str, Any], row.config_path, "a recorded config") if row.config_path else {} for row in rows]


def describe_launches(rows: list[Row]) -> list[str]:
    """What there is to say of points that were launched several times."""
    from pytest_h2o.bench.command import is_asynchronous
    from pytest_h2o.gate.metrics import inexact_metrics
    from pytest_h2o.gate.values import unlike_launches

    if not rows[0].again:
        return []
    inexact = inexact_metrics(asynchronous=any(map(is_asynchronous, read_configs(rows))))
    decides = "of what is exact, and of what every row must hold, the worst launch of a point decides"
    return [f"each point was launched {len(rows[0].launches)} times: {decides}", *unlike_launches(rows, inexact)]


def read_layer_range(results: list[Row]) -> tuple[int, int] | None:
    """First and last layer under eviction as the recorded configs say; None if they do not say it, or not one range."""
    ranges: set[tuple[int, int] | None] = set()
    for config in read_configs(results):
        start, end = (config.get(f"kv_h2o_layer_{end}") for end in ("start", "end"))
        ranges.add((start, end) if type(start) is int and type(end) is int else None)
    return ranges.pop() if len(ranges) == 1 else None


def run_eval(args: argparse.Namespace) -> int:
    from pytest_h2o.bench.rows import describe_unverified, render_metrics_csv
    from pytest_h2o.cli.lossless import evaluate, refuse_foreign_settings
    from pytest_h2o.inputs.keys import CHUNKED, fold_codec
    from pytest_h2o.inputs.scope import Scope
    from pytest_h2o.lossless.result import render_markdown
    from pytest_h2o.report.original import render_analysis_md, render_on_terminal
    from pytest_h2o.run.pairs import unlike_contexts

    baseline, origin, beside = read_baseline(args), "--decode-baseline", None
    given = {key: value for key, value in vars(args).items() if key in ("codec_mode", "adaptive_block_seq")}
    refuse_foreign_settings(given)
    common = {"front_n": args.front_n, **fold_codec(given)}
    online = {"online_chunk_seq": args.online_chunk_seq, "online_framing_bytes": args.online_framing_bytes}
    settings = {"upper_bound": Scope(**common, entry_mode="aggregate", aggregate_by_stage=True)}
    both = args.online_entry_mode == "both"
    modes: tuple[Any, ...] = CHUNKED if both else (args.online_entry_mode,)
    settings |= {mode: Scope(**common, **online, entry_mode=mode) for mode in modes}
    names = ["analysis.md", "analysis.json"]
    names += [f"offline_lossless_{name}{suffix}" for name in settings for suffix in (".json", ".md")]
    if args.overwrite or not (args.run_dir / "h2o_metrics.csv").exists():  # that of the sweep has the same rows
        names.insert(0, "h2o_metrics.csv")
    check_outputs(*(args.run_dir / name for name in names), inputs=(args.dump_dir,), overwrite=args.overwrite)
    rows, recorded = read_rows(args.run_dir)
    if args.decode_baseline is None and recorded is not None:
        baseline, origin, beside = recorded.tok_per_s, recorded.origin, recorded
    results = {name: evaluate(args.dump_dir, chosen, verify=True) for name, chosen in settings.items()}
    notes = [] if baseline is None else [f"decode baseline: {baseline:g} tok/s ({origin})"]
    notes += unlike_contexts(rows) if beside is None else beside.notes
    notes += [*describe_unverified(rows), *describe_launches(rows)]
    judged = {"online": results[modes[-1]].to_json(), "upper": results["upper_bound"].to_json()}
    for name, values in judged.items():
        notes += check_result(values, str(args.dump_dir), decides=name == "online", allow_skips=args.allow_skips)
    doubt = beside is not None and beside.understates
    where, layers = str(args.run_dir), read_layer_range(rows)
    analysis = analyze(args, rows, where, baseline, judged, notes, layers, understates=doubt)
    text = render_analysis_md(analysis)
    files = {"h2o_metrics.csv": render_metrics_csv(rows), "analysis.md": text, "analysis.json": render_json(analysis)}
    for name, result in results.items():
        files[f"offline_lossless_{name}.json"] = render_json(result.to_json())
        files[f"offline_lossless_{name}.md"] = render_markdown(result)
    for name in names:
        write_new_text(args.run_dir / name, files[name], overwrite=args.overwrite)
    print(render_on_terminal(text), end="")
    return 0 if analysis["overall_pass"] is True else 1
