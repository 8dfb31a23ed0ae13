"""``pytest-h2o parse``: recorded logs to one CSV."""

from __future__ import annotations

import argparse
from pathlib import Path

from pytest_h2o.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--log-dir",
        type=Path,
        metavar="DIR",
        help="a sweep's folder (the logs that its manifest lists), or one of bare logs",
    )
    source.add_argument("--log-files", type=Path, nargs="+", metavar="LOG", help="these logs, in this order")
    parser.add_argument("--out-csv", type=Path, required=True, metavar="FILE")
    parser.add_argument("--overwrite", action="store_true", help="replace the CSV if it is there")


def find_logs(folder: Path) -> list[Path]:
    """The logs of a folder, sorted by name; of its ``logs/`` if it has none itself.

    Raises
    ------
    UsageError
        There is no such folder, or no log in it.
    """
    if not folder.is_dir():
        raise UsageError("the log folder is not there", where=str(folder), expected="a folder with *.log files")
    logs = sorted(folder.glob("*.log")) or sorted((folder / "logs").glob("*.log"))
    if not logs:
        raise UsageError("the log folder holds no *.log file", where=str(folder))
    return logs


def name_logs(folder: Path) -> dict[Path, str]:
    """Logs of a folder and the names that their rows carry: those of its manifest, else every log as it is called."""
    from pytest_h2o.bench.manifest import MANIFEST_NAME, read_manifest

    if not (folder / MANIFEST_NAME).is_file():
        return {log: str(log) for log in find_logs(folder)}
    entries = read_manifest(folder / MANIFEST_NAME)
    listed = {folder / entry.log_file: entry.log_file for entry in entries}
    others = [log.name for log in find_logs(folder) if log not in listed]
    if others:
        print(f"not in {MANIFEST_NAME}, left out: {', '.join(others)}")
    return listed


def run(args: argparse.Namespace) -> int:
    from pytest_h2o.bench.metrics_csv import render_metrics_csv
    from pytest_h2o.bench.table import read_table
    from pytest_h2o.store import write_new_text

    logs = {log: str(log) for log in args.log_files or ()} if args.log_dir is None else name_logs(args.log_dir)
    rows = [row for log, name in logs.items() for row in read_table(log, log_file=name)]
    if not rows:
        raise UsageError("no row in any log", where=", ".join(map(str, list(logs)[:5])), expected="tables of llm_bench")
    write_new_text(args.out_csv, render_metrics_csv(rows), overwrite=args.overwrite)
    print(f"{len(rows)} rows of {len(logs)} logs in {args.out_csv}")
    return 0
