"""The last lines of a run on the terminal: the verdict, one line a preset and scope, where the artifacts are. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_h2o.bench.printable import make_printable
from pytest_h2o.embedded import is_embedded
from pytest_h2o.options import Settings
from pytest_h2o.report.changes import render_lines
from pytest_h2o.report.collector import Collector
from pytest_h2o.report.github import tell_github
from pytest_h2o.report.summary import count_rows, overall_outcome, render_verdict


def render_terminal(summary: Mapping[str, Any], run_dir: Path) -> list[str]:
    """Plain lines, for 80 columns and a CI log."""
    lines = []
    for name, preset in summary["presets"].items():
        lines += _block(name, [_threshold(v) for v in preset["verdicts"]], preset["outcomes"])
        lines.append(f"    {count_rows(preset)}")
        lines += _comparison(preset)
        lines += [f"    note: {note}" for note in preset["notes"]]
        lines += [f"    warnings of the binary: {count:,} x {kind}" for kind, count in preset["warnings"].items()]
    for name, scope in summary["scopes"].items():
        if scope["measured"] and scope["refused"]:
            total = scope["selected_entries"] + scope["skipped_entries"]
            figures = [f"no ratio: {scope['skipped_entries']} of {total} entries cannot be read"]
        elif scope["measured"]:
            asked = "reported" if scope["target"] is None else f"target {scope['target']:g}"
            decides = ", decides" if scope["decides"] else ""
            figures = [f"lossless {scope['lossless_ratio']:.4f} ({asked}{decides})"]
            figures.append(f"{scope['decoded_streams']} streams decoded bit for bit")
        else:
            figures = ["not measured"]
        lines += _block(name, figures, scope["outcomes"])
        lines += _comparison(scope)
    lines += [f"left out on purpose: {left['why']}" for left in _unique(summary["left_out_on_purpose"])]
    if summary["not_measured"]:
        lines.append(f"not measured, not asked for: {', '.join(summary['not_measured'])}")
    lines += [f"no pass: {found['why']}" for found in _unique(summary["inconclusive"])]
    if summary["exit_status"] and not summary["items"]["failed"]:
        lines.append(f"pytest ended with exit status {summary['exit_status']}: something failed that left no record")
    if summary["incomplete_for"] and summary["overall_pass"] is not False:
        lines += [f"incomplete: {text}" for text in summary["incomplete_for"]]
    lines += _recorded(summary.get("recorded"))
    lines += [f"gate {render_verdict(summary['overall_pass'])} (rule {summary['rule']}); artifacts in {run_dir}"]
    return [make_printable(line) for line in lines]


def render_closing(summary: Mapping[str, Any], collector: Collector, root: Path) -> list[str]:
    """The last lines of a run that came to its end, and what GitHub Actions is told."""
    told = tell_github(os.environ, summary, collector.items, root)
    return [*render_terminal(summary, collector.run_dir), *told]


def render_broken_off(run_dir: Path) -> list[str]:
    """The last lines of a run that was broken off."""
    return [
        "gate UNFINISHED: the run was broken off, so nothing is said of the gate",
        make_printable(f"what was measured until then is in {run_dir / 'journal.jsonl'}"),
    ]


def _comparison(subject: Mapping[str, Any]) -> list[str]:
    """How a preset or scope changed against an earlier run."""
    lines = [f"    {line}" for line in render_lines(subject["comparison"])] if subject["comparison"] else []
    return lines + [f"    note: {note}" for note in subject["comparison_notes"]]


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


def _threshold(verdict: Mapping[str, str]) -> str:
    text = f"{verdict['title']} {verdict['measured']} (target {verdict['relation']} {verdict['target']})"
    return f"{text} INCONCLUSIVE" if verdict["outcome"] == "inconclusive" else text


def _block(name: str, figures: list[str], outcomes: Mapping[str, str]) -> list[str]:
    state = {"failed": "FAIL", "passed": "pass", "skipped": "skip"}[overall_outcome(outcomes)]
    return [f"{state}  {name}", *(f"    {figure}" for figure in figures)]


def render_header(settings: Settings, run_dir: Path, left_out: Mapping[str, str]) -> list[str]:
    """Lines for the head of a run: what is run or read, the rule, and what is left out."""
    if settings["bench"] is not None:
        named = "the embedded reference bench" if is_embedded(settings["bench"]) else settings["bench"]
        what = f"bench {named} ({settings.origin('bench')})"
    elif settings["logs"] is not None:
        what = f"recorded logs in {settings['logs']} ({settings.origin('logs')}); nothing is run"
    else:
        what = "neither a bench nor recorded logs: sweep items cannot be measured"
    lines = [f"h2o: {what}", f"h2o: rule {settings['rule']}, artifacts in {run_dir}"]
    for why in dict.fromkeys(left_out.values()):
        names = ", ".join(name for name in sorted(left_out) if left_out[name] == why)
        lines.append(f"h2o: not measured and left out: {names} ({why}; -k NAME asks for one)")
    return [make_printable(line) for line in lines]
