"""``report``: the reports of a run made again from what its folder has."""

from __future__ import annotations

import argparse
from pathlib import Path

from pytest_h2o.errors import StoreError, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="folder of a run")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="the page, the summary beside it as .md (default: report.html and summary.md of RUN_DIR)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there and differ")


def run(args: argparse.Namespace) -> int:
    """Write both reports; files that are there with the same bytes stay."""
    from pytest_h2o.report.html import PAGE_NAME, render_run
    from pytest_h2o.report.reread import guard, read_run
    from pytest_h2o.report.summary import render_summary_md

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
    _refuse_other({summary: text, page: html}, overwrite=args.overwrite)
    for path, content in ((summary, text), (page, html)):
        _write(path, content)
    if not records.is_finished:
        torn = f" ({records.torn})" if records.torn else ""
        print(f"unfinished: no run.json; {len(records.collector.items)} items are in its journal{torn}")
    return 0


def _is_same(path: Path, content: str) -> bool:
    try:
        return path.read_bytes() == content.encode("utf-8", "surrogatepass")
    except OSError:
        return False


def _refuse_other(contents: dict[Path, str], *, overwrite: bool) -> None:
    """StoreError if a file with other content would be replaced."""
    for path, content in contents.items():
        if path.exists() and not overwrite and not _is_same(path, content):
            raise StoreError(
                "a file that exists would be overwritten",
                where=str(path),
                came="another content: other data, or another version of pytest-h2o, jinja2 or matplotlib",
                hint="choose another output with --out, or give --overwrite",
            )


def _write(path: Path, content: str) -> None:
    from pytest_h2o.store import write_new_text

    if _is_same(path, content):
        print(f"{path} is the same already")
        return
    write_new_text(path, content, overwrite=True)
    print(f"wrote {path}")
