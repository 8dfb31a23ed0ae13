"""``pytest-h2o compare``, ``history`` and ``report``, ``init`` and ``schema``: what only reads and writes files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Literal

from pytest_h2o.cli.main import add_number, add_option
from pytest_h2o.errors import StoreError, UsageError, one_line


def add_arguments_compare(parser: argparse.ArgumentParser) -> None:
    what = "run folder, name of a baseline, last, or a run of the history (part of its name is enough)"
    parser.add_argument("then", metavar="RUN_A", help=f"the earlier run: {what}")
    parser.add_argument("now", metavar="RUN_B", help="the later run, named alike")
    several = "let a metric be worse by this much; may be given several times"
    add_option(parser, "compare-fail", action="append", default=[], help=several)
    parser.add_argument("--all", action="store_true", help="show equal figures and timings too")
    add_option(parser, "out-dir", help="history and baselines")


def run_compare(args: argparse.Namespace) -> int:
    from collections import Counter

    from pytest_h2o.gate.compare import parse_allowances
    from pytest_h2o.report.changes import compare_records, render_comparison, render_counts
    from pytest_h2o.run.history import resolve_record

    allowances = parse_allowances(args.compare_fail, "--compare-fail")
    title, then = resolve_record(args.then, args.out_dir)
    later, now = resolve_record(args.now, args.out_dir)
    found = compare_records(then, now, allowances, title)
    if all(isinstance(comparison, str) or set(comparison.counts) <= {"new"} for comparison in found.values()):
        raise UsageError(
            "the two runs have no figure of a preset or scope in common",
            came=f"{title}: {', '.join(s.title for s in then.subjects)}; "
            f"{later}: {', '.join(s.title for s in now.subjects)}",
            expected="two runs of the same gates",
        )
    for word, place, record in (("then", title, then), ("now", later, now)):
        print(one_line(f"{word} run {record.run} of {place}, ended {record.ended}", limit=1000))
    print()
    print("\n".join(render_comparison(found, everything=args.all)))
    compared = [comparison for comparison in found.values() if not isinstance(comparison, str)]
    counts: Counter[str] = sum((Counter(comparison.counts) for comparison in compared), Counter())
    missing = list(found.values()).count("missing")
    worse = missing > 0 or any(comparison.regressions for comparison in compared)
    tail = f", {missing} presets or scopes missing" if missing else ""
    print(f"{'WORSE' if worse else 'not worse'}: {render_counts(counts)}{tail}")
    return 1 if worse else 0


def add_arguments_history(parser: argparse.ArgumentParser) -> None:
    add_number(parser, "--last", 1, default=20, metavar="N", help="the newest N runs (default: 20)")
    parser.add_argument(
        "--metric", metavar="NAME", help="the figure to show (default: h2o_lossy of presets, lossless_ratio of scopes)"
    )
    add_option(parser, "out-dir", help="where it is kept")


def run_history(args: argparse.Namespace) -> int:
    from collections import deque

    from pytest_h2o.gate.compare import check_metric
    from pytest_h2o.report.changes import HISTORY_HEADER, history_rows, render_columns
    from pytest_h2o.run.history import HISTORY_NAME, Damage, RunRecord, read_history

    path = args.out_dir / HISTORY_NAME
    if not path.is_file():
        raise UsageError(
            "there is no history",
            where=str(path),
            expected="a folder in which a gate has run to its end",
            hint="--out-dir names the folder of the gate (its h2o-out-dir; default: h2o-runs)",
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


def add_arguments_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="folder of a run")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="the page, the summary beside it as .md (default: report.html and summary.md of RUN_DIR)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there and differ")


def run_report(args: argparse.Namespace) -> int:
    """Write both reports; files that are there with the same bytes stay."""
    from pytest_h2o.report.artifacts import guard, read_run
    from pytest_h2o.report.changes import render_summary_md
    from pytest_h2o.report.page import PAGE_NAME, render_run

    run_dir: Path = args.run_dir
    records = read_run(run_dir)
    if not records.is_finished and args.out is None:
        raise UsageError(
            "this run did not end, or has not ended yet",
            where=str(run_dir),
            came="no run.json",
            expected="--out FILE: reports in its folder would stand in the way of the run's own",
        )
    page = run_dir / PAGE_NAME if args.out is None else args.out
    summary = run_dir / "summary.md" if args.out is None else args.out.with_suffix(".md")
    if page == summary:
        raise UsageError("the page and the summary would be one file", came=f"--out {args.out}", expected="FILE.html")
    text = guard(run_dir, lambda: render_summary_md(records.summary))
    if not records.is_finished:
        text = f"**This run did not end, or has not ended yet: this is what its journal has.**\n\n{text}"
    html = guard(run_dir, lambda: render_run(records.summary, records.collector, records.run, args.out))
    _write({summary: text, page: html}, overwrite=args.overwrite)
    if not records.is_finished:
        torn = f" ({records.torn})" if records.torn else ""
        print(f"unfinished: no run.json; {len(records.collector.items)} items are in its journal{torn}")
    return 0


def _write(contents: dict[Path, str], *, overwrite: bool) -> None:
    """Write both or none: StoreError if a file with another content is there; one with the same content stays."""
    from pytest_h2o.files import write_new_text

    same = {path for path, content in contents.items() if _is_same(path, content)}
    for path in contents:
        if path.exists() and not overwrite and path not in same:
            raise StoreError(
                "a file that exists would be overwritten",
                where=str(path),
                came="another content: other data, or another version of pytest-h2o or jinja2",
                hint="choose another output with --out, or give --overwrite",
            )
    for path, content in contents.items():
        if path in same:
            print(f"{path} is the same already")
        else:
            write_new_text(path, content, overwrite=True)
            print(f"wrote {path}")


def _is_same(path: Path, content: str) -> bool:
    from pytest_h2o.files import read_regular

    data = content.encode("utf-8", "surrogatepass")
    try:
        return read_regular(path, len(data)) == data
    except OSError:
        return False


def add_arguments_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default=".", help="the repository (default: here); gates/ is made in it")


def starter_folder() -> Path:
    """The gates that ship with the package; in a source checkout, those beside it."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "starter", package.parent / "gates"):
        if (folder / "test_sweep.py").is_file():
            return folder
    raise StoreError("this installation has no starter gates", where=str(package), hint="install pytest-h2o again")


def run_init(args: argparse.Namespace) -> int:
    from pytest_h2o.files import write_new_bytes

    source, target = starter_folder(), Path(args.folder) / "gates"
    names = sorted(
        path.relative_to(source)
        for pattern in ("*.py", "*.yaml", "presets/*.yaml")
        for path in source.glob(pattern)
        if path.is_file()
    )
    there = [name for name in names if (target / name).exists()]
    if there:
        raise StoreError(
            "some of the starter files are there already; nothing was written",
            where=str(target),
            came=", ".join(map(str, there)),
            hint="remove them, or name another folder",
        )
    for name in names:
        write_new_bytes(target / name, (source / name).read_bytes())
    print(f"wrote {len(names)} files to {target}")
    print("next: set root: in gates/scopes.yaml to your KV dump, then")
    print(f"  pytest {target} --h2o-bench ./build/llm_bench --h2o-base-config path/to/config.json")
    return 0


def add_arguments_schema(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=("preset", "scopes", "summary", "journal"), default="preset")


def render_json_schema(kind: Literal["preset", "scopes"]) -> str:
    """The JSON schema (draft 2020-12) of preset or scope files as text, for editors.

    A swept key takes one value or a list. Rules between keys (a layer range that is empty, two scopes that
    decide) are not in it: only loading the file checks those.
    """
    import json

    from pytest_h2o.inputs.checking import schema_of

    if kind == "preset":
        from copy import deepcopy

        from pytest_h2o.gate.metrics import target_schemas
        from pytest_h2o.inputs.presets import PresetKeys

        schema = deepcopy(schema_of(PresetKeys))
        schema["$defs"]["Targets"]["properties"] |= target_schemas()
    else:
        from pytest_h2o.inputs.scopes import ScopeFile

        schema = schema_of(ScopeFile)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


def run_schema(args: argparse.Namespace) -> int:
    if args.kind in ("preset", "scopes"):
        print(render_json_schema(args.kind), end="")
    else:
        import json

        from pytest_h2o.report.artifacts import make_schema

        print(json.dumps(make_schema(args.kind), indent=2))
    return 0
