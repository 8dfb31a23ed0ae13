"""Markdown: text that cannot break it, tables, and the summary of a run (``summary.md``)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pytest_h2o.errors import make_printable
from pytest_h2o.report.changes import SHOWN, TABLE_HEADER, name_earlier, render_counts, table_rows
from pytest_h2o.report.summary import (
    VERDICT_COLUMNS,
    Preset,
    Scope,
    Summary,
    Unmeasured,
    count_rows,
    overall_outcome,
    render_verdict,
    unreadable,
)


def render_summary_md(summary: Summary) -> str:
    """The summary as Markdown, the verdict first."""
    lines = [f"# KV-cache compression gate: {render_verdict(summary.overall_pass)}", ""]
    counts = summary.items
    lines.append(
        f"{counts.passed} items passed, {counts.failed} failed, {counts.skipped} skipped; rule: {summary.rule}."
    )
    lines += render_list("Failed", [f"{f.item}: {f.why}" for f in summary.failed])
    lines += render_list("Inconclusive: no pass", [f"{f.item}: {f.why}" for f in summary.inconclusive])
    lines += render_list("Not complete", summary.incomplete_for)
    lines += render_list("Left out on purpose", [f"{f.item}: {f.why}" for f in summary.left_out_on_purpose])
    lines += render_list("Not measured (not asked for)", summary.not_measured)
    for name, preset in summary.presets.items():
        lines += _preset_md(name, preset)
    if summary.scopes:
        lines += _scopes_md(summary.scopes)
    lines += render_changes_md({**summary.presets, **summary.scopes})
    lines += render_sections_md(summary)
    return "\n".join(lines) + "\n"


def _sharers(preset: Preset) -> dict[str, list[str]]:
    """Run -> the points that share its row."""
    found: dict[str, list[str]] = {}
    for point, run in preset.shared_runs.items():
        found.setdefault(run, []).append(point)
    return found


def _preset_md(name: str, preset: Preset) -> list[str]:
    lines = ["", f"## Preset {name}", "", f"{count_rows(preset)}.", ""]
    if preset.verdicts:
        rows = [[make(verdict) for make in VERDICT_COLUMNS.values()] for verdict in preset.verdicts]
        lines += [*render_table(tuple(VERDICT_COLUMNS), rows), ""]
    lines += [f"- {escape(note)}" for note in preset.notes]
    lines += [f"- share the run of {run}: {', '.join(rows)}" for run, rows in _sharers(preset).items()]
    if preset.original is not None:
        averages = list(preset.original.averages.items())
        lines += ["", *render_table(("figure", "value"), averages)]
        top = [(t["total"], t["whole_cache"], t["decode"], t["lossy"], t["log"]) for t in preset.top or ()]
        header = ("total (product)", "whole cache", "decode tok/s", "lossy", "log")
        lines += ["", "Best rows by total ratio, then decode speed:", "", *render_table(header, top)]
    if preset.original is not None and preset.rules is not None:
        rules = preset.rules
        told = f"Original rule (best of each column): {rules['best-of']}. Joint rule (one row): {rules['joint']}."
        lines += ["", told]
    return lines


def _scopes_md(scopes: Mapping[str, Scope | Unmeasured]) -> list[str]:
    rows = []
    for name, scope in scopes.items():
        outcome = overall_outcome(scope.outcomes)
        if isinstance(scope, Unmeasured):
            rows.append((name, "not measured", "", "", "", "", outcome))
            continue
        if scope.refused:
            rows.append((name, f"none: {unreadable(scope)}", "", "", "", "", outcome))
            continue
        target = "reported" if scope.target is None else f">= {scope.target:.4f}"
        rows.append(
            (
                f"{name} (decides)" if scope.decides else name,
                f"{scope.lossless_ratio:.4f}",
                f"{scope.k_lossless_ratio:.4f} / {scope.v_lossless_ratio:.4f}",
                target,
                f"{scope.selected_entries}" + (f" ({scope.skipped_entries} skipped)" if scope.skipped_entries else ""),
                str(scope.decoded_streams),
                outcome,
            )
        )
    header = ("scope", "lossless ratio", "K / V", "target", "entries", "streams decoded", "outcome")
    return ["", "## KV dumps", "", *render_table(header, rows)]


def render_changes_md(subjects: Mapping[str, Preset | Scope | Unmeasured]) -> list[str]:
    """The changes of all presets and scopes as Markdown; nothing where nothing was to be compared."""
    lines = [f"- {escape(name)}: {escape(s.not_compared)}" for name, s in subjects.items() if s.not_compared]
    rows: list[Sequence[str]] = []
    for name, subject in subjects.items():
        comparison = subject.comparison
        if comparison is None:
            continue
        counts = escape(render_counts(comparison.counts))
        lines.append(f"- {escape(name)} against {escape(name_earlier(comparison))}: {counts}")
        lines += [f"  - {escape(note)}" for note in subject.comparison_notes]
        rows += table_rows(name, comparison.changes[:SHOWN])
        if len(comparison.changes) > SHOWN:
            rows.append((name, "…", f"{len(comparison.changes) - SHOWN} more", "", "", "", ""))
    table = ["", *render_table(TABLE_HEADER, rows)] if rows else []
    return ["", "## Change against an earlier run", "", *lines, *table] if lines else []


def render_sections_md(summary: Summary) -> list[str]:
    """The lines of the sections of a summary in Markdown."""
    lines: list[str] = []
    for section in summary.sections or ():
        lines += ["", f"## {escape(section.title)}"]
        for block in section.blocks:
            if "text" in block:
                lines += ["", escape(block["text"])]
            elif "list" in block:
                lines += ["", *(f"- {escape(entry)}" for entry in block["list"])]
            else:
                lines += ["", f"{escape(block['caption'])}:", "", *render_table(block["header"], block["rows"])]
    return lines


def escape(text: str) -> str:
    """Text that cannot break a table, a list or the page, nor make a link, an image, a heading or a tag.

    What stays as it is can at most set a word in bold. Control characters become visible.
    """
    flat = make_printable(" ".join(text.split()), keep="")
    flat = flat.replace("\\", "\\\\").replace("|", "\\|").replace("`", "\\`")
    flat = re.sub(r"&(?=#?\w+;)", "&amp;", flat).replace("<", "&lt;")
    flat = flat.replace("](", "]\\(")  # [text](link)
    flat = re.sub(
        r"^(?=\[[^\]]*\]:|[#>]|[-+*](?:\s|$)|---|\*\*\*|~~~)", r"\\", flat
    )  # what would start a block, or is [label]: link
    return re.sub(r"^(\d+)(?=[.)](?:\s|$))", r"\1\\", flat)


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(escape(cell) for cell in cells) + " |"

    return [line(header), "|" + " --- |" * len(header), *(line(row) for row in rows)]


def render_list(title: str, entries: Sequence[str]) -> list[str]:
    """A titled list, or nothing where there is no entry."""
    return ["", f"**{title}**", "", *(f"- {escape(entry)}" for entry in entries)] if entries else []
