"""A preset as a section of the report: verdicts, the trade of ratio against speed, every row, warnings. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_h2o.gate.rule import Thresholds
from pytest_h2o.report.chart_data import Dot, Rule, Series, XYChart
from pytest_h2o.report.collector import Collector
from pytest_h2o.report.document import Block, Bullets, Cell, Figure, Section, Table, Text, Tone
from pytest_h2o.report.links import Links
from pytest_h2o.report.page_changes import change_blocks
from pytest_h2o.report.page_decode import decode_section
from pytest_h2o.report.page_quality import quality_section
from pytest_h2o.report.page_rows import Limits, ReportRow, build_rows, limits_of, rows_table, show
from pytest_h2o.report.summary import count_rows

OUTCOME_TONES: Mapping[str, Tone] = {
    "pass": "good",
    "passed": "good",
    "PASS": "good",
    "fail": "bad",
    "failed": "bad",
    "FAIL": "bad",
    "inconclusive": "warn",
    "INCONCLUSIVE": "warn",
    "skipped": "quiet",
    "reported": "quiet",
}

VERDICT_HEADER = ("threshold", "outcome", "measured", "target", "margin", "row")
"""The outcome stands early: a phone shows the first columns alone."""


def preset_section(
    collector: Collector, name: str, preset: Mapping[str, Any], section_id: str, links: Links
) -> Section:
    """Everything the page says of one preset.

    Parameters
    ----------
    collector : Collector
        Its points and facts.
    name : str
    preset : mapping
        Its part of the summary.
    section_id : str
    links : Links
    """
    deciding = collector.accepted_scope(decides=True)
    facts = collector.presets.get(name)
    limits = limits_of(facts, None if deciding is None else float(deciding["lossless_ratio"]))
    points = collector.points_in_order(name)
    rows = build_rows(
        collector.results_of(name),
        [int(point["index"]) for point in points],
        facts,
        limits,
        [] if deciding is None else deciding["selected_layers"],
    )
    blocks: list[Block] = [*_verdict_blocks(preset), *change_blocks(name, preset)]
    parts = [
        _failed_section(section_id, name, list(collector.failed.get(name, {}).values()), links),
        _trade_section(name, section_id, rows, _drawn_limits(limits, facts, preset), preset, links),
        decode_section(name, section_id, preset, getattr(collector, "comparisons", {}).get(name), links),
        quality_section(section_id, rows, None if facts is None else facts["targets"].get("quality")),
        _warnings_section(section_id, preset),
        _averages_section(section_id, preset),
    ]
    return Section(section_id, f"Preset {name}", tuple(blocks), tuple(part for part in parts if part is not None))


def _drawn_limits(limits: Limits, facts: Mapping[str, Any] | None, preset: Mapping[str, Any]) -> Limits:
    """The limits as lines of a chart: of pairs, the median speed of their baseline, and the target beside it.

    The verdict rests on the pairs; the other rows are not held against these lines, which only show where they lie.
    """
    if facts is None or not facts.get("paired"):
        return limits
    asked = Thresholds(limits.thresholds.lossy, limits.thresholds.lossless, facts["targets"]["decode_drop"])
    return Limits(asked, limits.lossless, (preset.get("baseline") or {}).get("tok_per_s"))


def verdict_cells(verdict: Mapping[str, str]) -> tuple[Cell, ...]:
    """One verdict as cells, as `VERDICT_HEADER` names them."""
    return (
        Cell(verdict["title"]),
        Cell(verdict["outcome"], OUTCOME_TONES.get(verdict["outcome"], "")),
        Cell(verdict["measured"]),
        Cell(f"{verdict['relation']} {verdict['target']} ({verdict['target_origin']})"),
        Cell(verdict["margin"]),
        Cell(verdict["source"]),
    )


def _verdict_blocks(preset: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    if not preset["rows"]:
        blocks.append(Text("Not measured: no row of this preset arrived.", "bad"))
    if preset["verdicts"]:
        cells = tuple(verdict_cells(verdict) for verdict in preset["verdicts"])
        blocks.append(Table("Thresholds of this preset", VERDICT_HEADER, cells, frozenset({4})))
    rules = preset.get("rules")
    if rules:
        text = f"Joint rule (one row meets every target): {rules['joint']}. "
        blocks.append(Text(f"{text}Original rule (best of each column): {rules['best-of']}."))
    if preset["notes"]:
        blocks.append(Bullets(tuple(preset["notes"])))
    return blocks


def _trade_section(
    name: str,
    section_id: str,
    rows: Sequence[ReportRow],
    limits: Limits,
    preset: Mapping[str, Any],
    links: Links,
) -> Section | None:
    if not rows:
        return None
    table = rows_table(name, rows, links)
    runs = count_rows(preset)
    files = [link for text in ("h2o_metrics.csv", "manifest.json") for link in links.to(text, f"{name}/{text}")]
    drawn = [row for row in rows if row.is_launch and row.lossy is not None and row.decode is not None]
    blocks: list[Block] = [Bullets((runs, *files))]
    if drawn:
        wide = _trade_chart(f"{section_id}-trade", name, drawn, limits, 720, 400)
        narrow = _trade_chart(f"{section_id}-trade-narrow", name, drawn, limits, 360, 340)
        caption = (
            "Up and to the right is better. Bars are one standard deviation over the repeats of a run, where it is "
            "known. Numbered rows are the Pareto front of the measured means: no other run is better in one and at "
            "least as good in the other. Decode speeds are noisy, so the front is too."
        )
        blocks.append(Figure(caption, (wide,), table, (narrow,)))
    else:
        blocks.append(table)
    return Section(f"{section_id}-rows", "Ratio against decode speed", tuple(blocks))


def _trade_chart(
    chart_id: str, name: str, rows: Sequence[ReportRow], limits: Limits, width: int, height: int
) -> XYChart:
    scale = limits.lossless if limits.lossless is not None else 1.0

    def dot(row: ReportRow, label: str = "") -> Dot:
        lossy, decode = row.lossy, row.decode
        if lossy is None or decode is None:
            raise ValueError(f"{row.result.run_id} has no figures to draw")
        return Dot(decode.mean, lossy.mean * scale, decode.std, None if lossy.std is None else lossy.std * scale, label)

    front = sorted((row for row in rows if row.on_front), key=lambda row: row.decode.mean if row.decode else 0.0)
    others = [row for row in rows if not row.on_front]
    series = (
        Series("other runs", "quiet", tuple(dot(row) for row in others), filled=False),
        Series("Pareto front", "c1", tuple(dot(row, f"{row.number}") for row in front), line="solid"),
    )
    rules = []
    target = limits.thresholds.lossy
    if target is not None:
        rules.append(Rule(f"lossy target {target:g}", "c2", target * scale, "y"))
    if limits.least_decode_tok_per_s is not None:
        rules.append(
            Rule(f"decode target {limits.least_decode_tok_per_s:.1f}", "c4", limits.least_decode_tok_per_s, "x")
        )
    if limits.baseline_tok_per_s is not None:
        rules.append(Rule(f"baseline {limits.baseline_tok_per_s:.1f}", "c3", limits.baseline_tok_per_s, "x"))
    best = "; ".join(f"run {r.number}: {show(r.total, 3, '?')} at {r.decode.mean:.1f} tok/s" for r in front if r.decode)
    y_label = "lossy ratio" if limits.lossless is None else "total ratio (lossy × lossless)"
    return XYChart(
        chart_id,
        f"{y_label} against decode speed, {name}",
        f"{len(rows)} runs. On the Pareto front: {best or 'none'}.",
        "decode speed, tokens per second",
        y_label,
        series,
        tuple(rules),
        width=width,
        height=height,
    )


def _failed_section(section_id: str, name: str, failed: Sequence[Mapping[str, Any]], links: Links) -> Section | None:
    """Launches that gave no sound row, with what they left behind."""
    if not failed:
        return None
    rows = []
    for point in sorted(failed, key=lambda point: int(point["index"])):
        run_id = str(point["manifest"]["run_id"])
        shared = point["shares_run_with"]
        ended = f"return code {point['return_code']}"
        files = links.to_run(name, shared or run_id)
        rows.append(
            (Cell(run_id), Cell(f"{ended}, run of {shared}" if shared else ended, "bad"), Cell("", links=files))
        )
    table = Table("Points of the sweep whose run gave no sound row", ("run", "ended", "files"), tuple(rows))
    return Section(f"{section_id}-failed", f"Runs without a sound row ({len(rows)})", (table,))


def _warnings_section(section_id: str, preset: Mapping[str, Any]) -> Section | None:
    if not preset["warnings"]:
        return None
    rows = tuple((Cell(kind), Cell(f"{count:,}")) for kind, count in preset["warnings"].items())
    table = Table("Warnings in what the binary printed, by kind", ("kind", "times"), rows, frozenset({1}))
    return Section(f"{section_id}-warnings", "Warnings of the binary", (table,))


def _averages_section(section_id: str, preset: Mapping[str, Any]) -> Section | None:
    if preset["original"] is None:
        return None
    rows = tuple((Cell(title), Cell(value)) for title, value in preset["original"]["averages"].items())
    table = Table("Means over all rows, as the original scripts give them", ("figure", "value"), rows, frozenset({1}))
    return Section(f"{section_id}-averages", "Averages", (table,), folded=True)
