"""The last lines of a run on the terminal: the verdict, one line a preset and scope, where the artifacts are. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_h2o.report.summary import render_verdict


def render_terminal(summary: Mapping[str, Any], run_dir: Path) -> list[str]:
    """Plain lines, for 80 columns and a CI log."""
    lines = []
    for name, preset in summary["presets"].items():
        lines += _block(name, [_threshold(v) for v in preset["verdicts"]], preset["outcomes"])
        lines.append(
            f"    {preset['rows']} rows of {preset['launches']} runs" if preset["rows"] else "    not measured"
        )
        lines += [f"    note: {note}" for note in preset["notes"]]
        lines += [f"    warnings of the binary: {count:,} x {kind}" for kind, count in preset["warnings"].items()]
    for name, scope in summary["scopes"].items():
        if scope["measured"]:
            asked = "reported" if scope["target"] is None else f"target {scope['target']:g}"
            decides = ", decides" if scope["decides"] else ""
            figures = [f"lossless {scope['lossless_ratio']:.4f} ({asked}{decides})"]
            figures.append(f"{scope['decoded_streams']} streams decoded bit for bit")
        else:
            figures = ["not measured"]
        lines += _block(name, figures, scope["outcomes"])
    lines += [f"left out on purpose: {left['why']}" for left in _unique(summary["left_out_on_purpose"])]
    if summary["not_measured"]:
        lines.append(f"not measured, not asked for: {', '.join(summary['not_measured'])}")
    lines += [f"no pass: {found['why']}" for found in _unique(summary["inconclusive"])]
    if summary["incomplete_for"] and summary["overall_pass"] is not False:
        lines += [f"incomplete: {text}" for text in summary["incomplete_for"]]
    lines += [f"gate {render_verdict(summary['overall_pass'])} (rule {summary['rule']}); artifacts in {run_dir}"]
    return lines


def _unique(entries: list[dict[str, str]]) -> list[dict[str, str]]:
    return list({entry["why"]: entry for entry in entries}.values())


def _threshold(verdict: Mapping[str, str]) -> str:
    text = f"{verdict['title']} {verdict['measured']} (target {verdict['relation']} {verdict['target']})"
    return f"{text} INCONCLUSIVE" if verdict["outcome"] == "inconclusive" else text


def _block(name: str, figures: list[str], outcomes: Mapping[str, str]) -> list[str]:
    if "failed" in outcomes.values():
        state = "FAIL"
    elif "passed" in outcomes.values():
        state = "pass"
    else:
        state = "skip"
    return [f"{state}  {name}", *(f"    {figure}" for figure in figures)]
