"""The first and the last lines of a run on the terminal: a table, the verdict, where the artifacts are. Pure."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_h2o.bench.printable import make_printable
from pytest_h2o.options import Settings
from pytest_h2o.report.changes import render_lines
from pytest_h2o.report.collector import Collector
from pytest_h2o.report.github import tell_github
from pytest_h2o.report.result_table import SHOWN_METRICS, WIDTH, render_result_table
from pytest_h2o.report.summary import count_rows, render_verdict

NOTES_SHOWN = 6
"""Notes of a preset on the terminal; all of them are in summary.md."""


def render_terminal(summary: Mapping[str, Any], run_dir: Path) -> list[str]:
    """Plain lines, for 80 columns and a CI log: the table, what there is to say beside it, the verdict, the folder."""
    presets, scopes = summary["presets"], summary["scopes"]
    lines = render_result_table(presets, scopes)
    for name, subject in (*presets.items(), *scopes.items()):
        lines += _beside(name, subject, _preset_lines(subject) if name in presets else _scope_lines(subject))
    decoded = sum(scope["decoded_streams"] for scope in scopes.values() if scope["measured"])
    lines += [f"{decoded:,} streams decoded bit for bit"] if decoded else []
    lines += _wrapped([f"left out on purpose: {left['why']}" for left in _unique(summary["left_out_on_purpose"])])
    if summary["not_measured"]:
        lines += _wrapped([f"not measured, not asked for: {', '.join(summary['not_measured'])}"])
    lines += _wrapped([f"no pass: {found['why']}" for found in _unique(summary["inconclusive"])])
    if summary["exit_status"] and not summary["items"]["failed"]:
        lines.append(f"pytest ended with exit status {summary['exit_status']}: something failed that left no record")
    if summary["incomplete_for"] and summary["overall_pass"] is not False:
        lines += _wrapped([f"incomplete: {text}" for text in summary["incomplete_for"]])
    lines += _recorded(summary.get("recorded"))
    lines += [f"gate {render_verdict(summary['overall_pass'])} (rule {summary['rule']}); artifacts in {run_dir}"]
    return [make_printable(line) for line in lines]


def _beside(name: str, subject: Mapping[str, Any], lines: list[str]) -> list[str]:
    """What the table cannot say of a preset or scope, below its name."""
    missed = [v for v in subject.get("verdicts", ()) if v["outcome"] in ("fail", "inconclusive")]
    others = [v for v in subject.get("verdicts", ()) if v["metric"] not in SHOWN_METRICS and v not in missed]
    lines = [*map(_threshold, missed + others), *lines, *_comparison(subject)]
    return [f"{name}:", *_wrapped(lines, "    ")] if lines else []


def _preset_lines(preset: Mapping[str, Any]) -> list[str]:
    notes = [f"note: {note}" for note in preset["notes"]]
    more = len(notes) - NOTES_SHOWN
    if more > 0:
        notes = [*notes[:NOTES_SHOWN], f"note: {more} more notes are in summary.md"]
    warnings = [f"warnings of the binary: {count:,} x {kind}" for kind, count in preset["warnings"].items()]
    return [count_rows(preset), *notes, *warnings]


def _scope_lines(scope: Mapping[str, Any]) -> list[str]:
    if not scope["measured"]:
        return ["not measured"]
    if scope["refused"]:
        total = scope["selected_entries"] + scope["skipped_entries"]
        return [f"no ratio: {scope['skipped_entries']} of {total} entries cannot be read"]
    return ["its ratio decides"] if scope["decides"] else []


def _wrapped(lines: list[str], indent: str = "") -> list[str]:
    """Every line cut at blanks to fit the terminal, what goes on being indented; paths stay whole."""
    found = []
    for line in lines:
        own = indent + " " * (len(line) - len(line.lstrip()))
        found += textwrap.wrap(
            line.strip(),
            WIDTH,
            initial_indent=own,
            subsequent_indent=own + "  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return found


def render_closing(summary: Mapping[str, Any], collector: Collector, root: Path) -> list[str]:
    """The last lines of a run that came to its end, and what GitHub Actions is told."""
    told = tell_github(os.environ, summary, collector.items, root)
    return [*render_terminal(summary, collector.run_dir), *told]


def render_broken_off(run_dir: Path) -> list[str]:
    """The last lines of a run that was broken off."""
    return [
        "gate UNFINISHED: the run was broken off, so nothing is said of the gate",
        make_printable(f"what was measured until then is in {run_dir / 'journal.jsonl'}"),
        make_printable(f"to go on with it: the same command with --h2o-resume={run_dir}"),
    ]


def _comparison(subject: Mapping[str, Any]) -> list[str]:
    """How a preset or scope changed against an earlier run."""
    lines = render_lines(subject["comparison"]) if subject["comparison"] else []
    return lines + [f"note: {note}" for note in subject["comparison_notes"]]


def _recorded(recorded: Mapping[str, Any] | None) -> list[str]:
    """Where the figures of this run are kept for later ones; nothing before they are."""
    if recorded is None:
        return []
    lines = [f"figures saved as baseline {recorded['baseline']}"] if recorded["baseline"] else []
    lines += recorded["notes"]
    if recorded["trouble"] is not None:
        lines += [f"ERROR {line}" for line in recorded["trouble"].splitlines()]
    return lines


def _unique(entries: list[dict[str, str]]) -> list[dict[str, str]]:
    return list({entry["why"]: entry for entry in entries}.values())


def _threshold(verdict: Mapping[str, Any]) -> str:
    text = f"{verdict['title']} {verdict['measured']} (target {verdict['relation']} {verdict['target']})"
    word = {"inconclusive": " INCONCLUSIVE", "fail": " MISSED"}.get(verdict["outcome"], "")
    return f"{text}{word}"


def render_header(
    settings: Settings, run_dir: Path, bench: str, models: Sequence[str], machine: str, left_out: Mapping[str, str]
) -> list[str]:
    """Lines for the head of a run: what is run or read, of what model and where, the rule, and what is left out."""
    lines = [f"h2o: {bench}", *(f"h2o: model {model}" for model in models), f"h2o: machine {machine}"]
    lines.append(f"h2o: rule {settings['rule']}, artifacts in {run_dir}")
    for why in dict.fromkeys(left_out.values()):
        names = ", ".join(name for name in sorted(left_out) if left_out[name] == why)
        lines.append(f"h2o: not measured and left out: {names} ({why}; -k NAME asks for one)")
    return [make_printable(line) for line in lines]
