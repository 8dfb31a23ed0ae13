"""The report page as a value, from the summary, the collected results and the run's own record. Pure."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pytest_h2o.bench.command import RunFiles, repeat_command
from pytest_h2o.errors import make_printable
from pytest_h2o.gate.rule import RowMargins, Thresholds, find_bound, row_margins, split_layers, whole_cache_ratio
from pytest_h2o.inputs.options import EMBEDDED_BENCH
from pytest_h2o.report.charts import (
    DARK,
    LIGHT,
    Band,
    Chart,
    ChartsMissing,
    Dot,
    Rule,
    Series,
    ShareChart,
    XYChart,
    is_drawable,
    render_chart,
    render_variables,
)
from pytest_h2o.report.document import (
    Block,
    Bullets,
    Cell,
    Figure,
    Link,
    Page,
    Pre,
    Section,
    Table,
    Text,
    Tone,
    section_pages,
)
from pytest_h2o.report.summary import count_rows, overall_outcome, render_verdict
from pytest_h2o.run.items import row_facts
from pytest_h2o.run.journal import Collector

if TYPE_CHECKING:
    from pytest_h2o.bench.rows import Measurement, Row


@dataclass(frozen=True)
class Links:
    """Where the files of a run folder are, seen from a page.

    Attributes
    ----------
    exists : callable
        Whether a file of the run folder, named relative to it with ``/``, is there: no link leads nowhere.
    prefix : str
        The run folder, relative to the folder of the page; empty if the page lies in it.
    """

    exists: Callable[[str], bool]
    prefix: str = ""

    def to(self, text: str, name: str, *, is_there: bool = False) -> tuple[Link, ...]:
        """A link to one file of the run folder, or none if it is not there; `is_there`: it will be."""
        if not (is_there or self.exists(name)):
            return ()
        return (Link(text, quote_path(f"{self.prefix}/{name}" if self.prefix else name)),)

    def to_run(self, folder: str, run_id: str) -> tuple[Link, ...]:
        """Links to the files of one run of the bench, in the folder of its sweep."""
        files = RunFiles(Path(folder), run_id)
        named = (("config", files.config), ("log", files.log), ("output", files.stdout), ("JSON", files.json))
        return tuple(link for text, path in named for link in self.to(text, path.as_posix()))


def quote_path(path: str) -> str:
    """A relative path as the text of a link; nothing in it can be taken for a scheme, a query or markup."""
    return quote(os.fsencode(path.replace(os.sep, "/")), safe="/.-_~")


def links_of(run_dir: Path, page: Path | None = None) -> Links:
    """Links to a run folder from a page at `page`, or from one that lies in it."""
    folder = run_dir if page is None else page.parent
    prefix = os.path.relpath(run_dir.absolute(), folder.absolute())

    def exists(name: str) -> bool:
        try:
            return (run_dir / name).is_file()
        except (OSError, ValueError):  # a name too long or with a zero byte is that of no file
            return False

    return Links(exists, "" if prefix == "." else prefix)


MAX_ROWS = 400
"""Rows of a preset that a page shows; the CSV beside it has all."""


@dataclass(frozen=True)
class Limits:
    """What the rows of a preset are held against; None where it is not known or left out.

    Attributes
    ----------
    lossless : float or None
        Lossless ratio of the deciding scope, raw over coded bytes.
    baseline_tok_per_s : float or None
        Decode speed with H2O off.
    """

    thresholds: Thresholds
    lossless: float | None
    baseline_tok_per_s: float | None

    @property
    def least_decode_tok_per_s(self) -> float | None:
        """The decode speed at which the allowed drop is reached."""
        drop = self.thresholds.decode_drop
        return None if drop is None or self.baseline_tok_per_s is None else self.baseline_tok_per_s * (1 - drop)


@dataclass(frozen=True)
class ReportRow:
    """One row.

    Attributes
    ----------
    number : int
        Its place in the sweep, from 1.
    total : float or None
        Lossy ratio times the lossless ratio of the deciding scope; None if either is not known.
    whole_cache : float or None
        Ratio over the cache of all layers; None where the number of layers is not known.
    on_front : bool
        No other row has both a higher lossy ratio and a higher decode speed, or one higher and the other equal.
    """

    number: int
    result: Row
    lossy: Measurement | None
    decode: Measurement | None
    total: float | None
    whole_cache: float | None
    margins: RowMargins | None
    on_front: bool = False

    @property
    def is_launch(self) -> bool:
        """Whether the row is of a run of its own, and not one that it shares."""
        return self.result.shares_run_with is None


def limits_of(facts: Mapping[str, Any] | None, lossless: float | None) -> Limits:
    """The limits of a preset, from what the run kept of it; all None if nothing was."""
    if facts is None:
        return Limits(Thresholds(None, None, None), lossless, None)
    targets = facts["targets"]
    # Paired launches give the slow-down of one row; other rows are not held against the decode target.
    is_free = facts["decode_left_out"] or facts.get("paired")
    drop = None if is_free else targets["decode_drop"]
    return Limits(replace(Thresholds(**targets), decode_drop=drop), lossless, facts["baseline_tok_per_s"])


def build_rows(
    results: Sequence[Row],
    numbers: Sequence[int],
    facts: Mapping[str, Any] | None,
    limits: Limits,
    coded_layers: Sequence[int],
) -> tuple[ReportRow, ...]:
    """Every row with what is said of it."""
    layers = None
    if facts is not None and facts["model_layers"] is not None:
        layers = split_layers(facts["model_layers"], facts["h2o_layer_start"], facts["h2o_layer_end"], coded_layers)
    rows = []
    for number, result in zip(numbers, results, strict=True):
        lossy, decode = result.get("h2o_lossy"), result.decode_tok_per_s
        is_usable = lossy is not None and math.isfinite(lossy.mean) and lossy.mean > 0
        known = lossy.mean if lossy is not None and is_usable else None
        margins = None
        if facts is not None:
            margins = row_margins(
                row_facts(result),
                limits.thresholds,
                baseline_tok_per_s=limits.baseline_tok_per_s,
                lossless=limits.lossless,
            )
        rows.append(
            ReportRow(
                number,
                result,
                lossy,
                decode,
                total=None if known is None or limits.lossless is None else known * limits.lossless,
                whole_cache=None
                if layers is None or known is None
                else whole_cache_ratio(layers, known, limits.lossless),
                margins=margins,
            )
        )
    front = find_front([(row.lossy.mean, row.decode.mean) if row.lossy and row.decode else None for row in rows])
    return tuple(replace(row, on_front=on_front) for row, on_front in zip(rows, front, strict=True))


def find_front(points: Sequence[tuple[float, float] | None]) -> list[bool]:
    """Which points no other point dominates (at least as high in both, higher in one); None is never on the front."""
    usable = [p for p in points if p is not None and all(map(math.isfinite, p))]
    tops: dict[float, float] = {}
    for x, y in usable:
        tops[x] = max(y, tops.get(x, -math.inf))
    best: dict[float, float] = {}
    highest = -math.inf
    for x in sorted(tops, reverse=True):
        if tops[x] > highest:
            best[x] = highest = tops[x]
    return [p is not None and best.get(p[0]) == p[1] for p in points]


def show(value: float | None, digits: int, missing: str = "missing") -> str:
    """A number with so many digits after the point."""
    return missing if value is None else f"{value:.{digits}f}"


def show_spread(value: Measurement | None, digits: int) -> str:
    """``mean ± std``; without the spread where it is not known."""
    if value is None:
        return "missing"
    return show(value.mean, digits) + ("" if value.std is None else f" ± {value.std:.{digits}f}")


def rows_table(name: str, rows: Sequence[ReportRow], links: Links) -> Table:
    """The rows with links to their files, and their commands."""
    header = (
        *("run", "lossy ratio", "decode tok/s", "total", "whole cache", "keep", "bound", "misses"),
        *("warnings", "files"),
    )
    left_out = None
    if len(rows) > MAX_ROWS:
        left_out = f"{len(rows) - MAX_ROWS} more rows are in {name}/h2o_metrics.csv"
    return Table(
        caption=f"Rows of {name}; total is lossy × lossless ratio of the deciding scope, ± is one standard deviation",
        header=header,
        rows=tuple(_row_cells(name, row, links) for row in rows[:MAX_ROWS]),
        numeric=frozenset({1, 2, 3, 4, 5, 8}),
        left_out=left_out,
    )


def _row_cells(name: str, row: ReportRow, links: Links) -> tuple[Cell, ...]:
    result = row.result
    shared = "" if result.shares_run_with is None else f" (row of {result.shares_run_with})"
    files = links.to_run(name, result.shares_run_with or result.run_id)
    missed = row.margins.missed if row.margins is not None else ()
    command = repeat_command(result.argv) if result.argv else None
    return (
        Cell(f"{result.run_id}{shared}{' · Pareto' if row.on_front else ''}"),
        Cell(show_spread(row.lossy, 3)),
        Cell(show_spread(row.decode, 2)),
        Cell(show(row.total, 4, "")),
        Cell(show(row.whole_cache, 4, "")),
        Cell(show(_mean(result, "h2o_keep"), 4)),
        Cell(_bound(result)),
        Cell(", ".join(missed) or ("nothing" if row.margins is not None else ""), "bad" if missed else ""),
        Cell("not kept" if result.output is None else f"{sum(result.output.warnings.values()):,}"),
        Cell("" if files or command else "none kept", "quiet", files, command),
    )


def _mean(result: Row, column: str) -> float | None:
    cell = result.get(column)
    return cell.mean if cell else None


def _bound(result: Row) -> str:
    columns = ("h2o_floor_keep", "h2o_target_keep_effective", "h2o_quantized_keep")
    bound = find_bound(*(_mean(result, column) for column in columns))
    return "unknown" if bound is None else bound.kind.replace(" ", "\u00a0")  # on one line, or every row has two


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]


def _percent(value: object) -> str:
    number = _number(value)
    return "unbounded" if number is None else f"{number:.2%}"


def decode_section(
    name: str, section_id: str, preset: Mapping[str, Any], comparison: Mapping[str, Any] | None, links: Links
) -> Section | None:
    """The verdict of the pairs, each pair as a point, and each as a row."""
    verdict = preset.get("decode")
    if not verdict:
        return None
    blocks: list[Block] = [Bullets(tuple(_facts_page_decode(verdict)))]
    pairs = list(comparison.get("pairs", ())) if comparison else []
    if pairs:
        table = _pairs_table(name, pairs, links)
        charts = [_pairs_chart(f"{section_id}-pairs{end}", verdict, pairs, *size) for end, *size in _SIZES]
        caption = (
            "Each point is one pair of launches, one after the other: how much slower the candidate decoded than its "
            "baseline. The band is the interval of the slow-down that all pairs together leave."
        )
        blocks.append(Figure(caption, (charts[0],), table, (charts[1],)))
    return Section(f"{section_id}-decode", "Paired decode launches", tuple(blocks))


_SIZES = (("", 720, 300), ("-narrow", 360, 280))


def _facts_page_decode(verdict: Mapping[str, Any]) -> list[str]:
    drop, low, high, target = (_percent(verdict.get(key)) for key in ("drop", "low", "high", "target"))
    outcome = verdict.get("outcome", "missing")
    facts = [f"outcome: {outcome}; slow-down {drop}, interval {low} to {high}, target at most {target}"]
    for key, title in (
        ("pairs", "pairs compared"),
        ("candidate", "candidate"),
        ("baseline", "baseline"),
        ("needed_pairs", "pairs that a clear verdict would need, about"),
        ("stopped", "ended because"),
        ("note", "note"),
        ("method", "method"),
    ):
        if verdict.get(key) not in (None, ""):
            facts.append(f"{title}: {verdict[key]}")
    facts += [f"excluded: {text}" for text in verdict.get("excluded") or ()]
    facts += [f"measured again: {text}" for text in verdict.get("measured_again") or ()]
    return facts


def _speed(pair: Mapping[str, Any], side: str) -> float | None:
    return _number((pair.get(side) or {}).get("decode_tok_per_s"))


def _drop(pair: Mapping[str, Any]) -> float | None:
    """Fraction of speed that the candidate of a pair lost; None where a speed is missing."""
    before, after = _speed(pair, "baseline"), _speed(pair, "candidate")
    return None if not before or after is None else 1.0 - after / before


def _pairs_chart(
    chart_id: str, verdict: Mapping[str, Any], pairs: list[Mapping[str, Any]], width: int, height: int
) -> XYChart:
    compared: list[Dot] = []
    excluded: list[Dot] = []
    for number, pair in enumerate(pairs, 1):
        drop = _drop(pair)
        if drop is not None:
            (excluded if pair.get("excluded") else compared).append(Dot(number, 100 * drop))
    step = 1 + len(pairs) // 12
    low, high = _number(verdict.get("low")), _number(verdict.get("high"))
    bands = () if low is None or high is None else (Band("interval", "c1", 100 * low, 100 * high),)
    rules = [Rule("no change", "quiet", 0.0, "y")]
    for key, title, ink in (("target", "target", "bad"), ("drop", "estimate", "c1")):
        value = _number(verdict.get(key))
        if value is not None:
            rules.append(Rule(f"{title} {100 * value:.1f} %", ink, 100 * value, "y"))  # type: ignore[arg-type]
    return XYChart(
        chart_id,
        "Slow-down of each pair",
        f"{len(compared)} pairs compared, {len(excluded)} excluded; {_facts_page_decode(verdict)[0]}.",
        "pair, in launch order",
        "slow-down, %",
        (
            Series("pair", "c1", tuple(compared)),
            Series("excluded", "quiet", tuple(excluded), marker="x"),
        ),
        tuple(rules),
        bands,
        ticks=tuple((float(number), str(number)) for number in range(1, len(pairs) + 1, step)),
        width=width,
        height=height,
    )


def _disturbed(baseline: str, candidate: str) -> list[str]:
    """What disturbed the launches of a pair, and which."""
    if baseline == candidate:
        return [f"both disturbed: {baseline}"] if baseline else []
    sides = (("baseline", baseline), ("candidate", candidate))
    return [f"{side} disturbed: {text}" for side, text in sides if text]


def _pairs_table(name: str, pairs: list[Mapping[str, Any]], links: Links) -> Table:
    rows = []
    for number, pair in enumerate(pairs, 1):
        sides = [pair.get(side) or {} for side in ("baseline", "candidate")]
        speeds = ["missing" if (v := _number(s.get("decode_tok_per_s"))) is None else f"{v:.2f}" for s in sides]
        drop = _drop(pair)
        remarks = [str(pair["excluded"])] if pair.get("excluded") else []
        remarks += _disturbed(*(str(side.get("disturbance") or "") for side in sides))
        files = tuple(
            link
            for side in sides
            for link in links.to(str(side.get("run_id")), f"{name}/decode/logs/{side.get('run_id')}.log")
        )
        first = {"AB": "baseline", "BA": "candidate"}.get(str(pair.get("order")), "")
        cells = (f"{number}", first, *speeds, "" if drop is None else f"{drop:.2%}", "; ".join(remarks))
        rows.append((*map(Cell, cells), Cell("", links=files)))
    header = ("pair", "first", "baseline tok/s", "candidate tok/s", "slow-down", "remarks", "logs")
    return Table(f"Pairs of {name}", header, tuple(rows), frozenset({2, 3, 4}))


COLUMNS = (
    ("quality_ppl_full", "perplexity, full cache", ".4g"),
    ("quality_ppl_evicted", "perplexity, evicted", ".4g"),
    ("quality_ppl_rise", "rise", ".2%"),
    ("quality_top1_agreement", "same first token", ".2%"),
    ("quality_greedy_prefix", "common greedy prefix, tokens", ".4g"),
    ("quality_greedy_equal", "equal greedy tokens", ".2%"),
)
"""Columns of a row that say what eviction costs the model: name, title, format."""


def _value(row: Row, column: str) -> float | None:
    cell = row.get(column)
    return cell.mean if cell is not None and is_drawable(cell.mean) else None


def quality_section(section_id: str, rows: Sequence[ReportRow], target: float | None = None) -> Section | None:
    """The rise in perplexity over the keep ratio, and every quality column of every run; None if no row has any.

    `target` is the largest rise that the preset allows, a fraction.
    """
    measured = [row for row in rows if row.is_launch and any(_value(row.result, c) is not None for c, *_ in COLUMNS)]
    if not measured:
        return None
    shown = [column for column in COLUMNS if any(_value(row.result, column[0]) is not None for row in measured)]
    cells = []
    dots = []
    for row in measured:
        bench_row = row.result
        keep, rise = _value(bench_row, "h2o_keep"), _value(bench_row, "quality_ppl_rise")
        if keep is not None and rise is not None:
            dots.append(Dot(keep, 100 * rise, label=f"{row.number}"))
        values = [(_value(bench_row, name), form) for name, _, form in shown]
        texts = ["missing" if value is None else format(value, form) for value, form in values]
        cells.append((Cell(row.result.run_id), Cell("missing" if keep is None else f"{keep:.4f}"), *map(Cell, texts)))
    header = ("run", "keep", *(title for _, title, _ in shown))
    table = Table("Quality of every run", header, tuple(cells), frozenset(range(1, len(header))))
    title = f"{section_id}-quality"
    if not dots:
        return Section(title, "Quality against keep ratio", (table,))
    limit = () if target is None else (Rule(f"target {100 * target:g} %", "c2", 100 * target, "y"),)
    chart = XYChart(
        f"{title}-chart",
        "Rise in perplexity against keep ratio",
        "; ".join(f"run {dot.label}: {dot.y:.2f} % at keep {dot.x:.4f}" for dot in dots) + ".",
        "keep ratio (share of tokens kept)",
        "rise in perplexity, %",
        (Series("", "c1", tuple(dots)),),
        (Rule("no rise", "quiet", 0.0, "y"), *limit),
        width=400,
        height=280,
    )
    caption = "Perplexity on held-out text with eviction, over that with the whole cache, less 1. Lower is better."
    return Section(title, "Quality against keep ratio", (Figure(caption, (chart,), table),))


_TONES: Mapping[str, Tone] = {"worse": "bad", "changed": "bad", "missing": "bad", "better": "good", "allowed": "warn"}


def _show(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.6g}" if isinstance(value, float) else f"{value:,}"
    return "missing" if value is None else str(value)


def change_blocks(name: str, subject: Mapping[str, Any]) -> list[Block]:
    """The comparison of a preset or scope with an earlier run: counts, notes, and the figures that changed."""
    notes = [str(note) for note in subject.get("comparison_notes") or ()]
    if subject.get("not_compared"):
        notes.insert(0, f"not compared: {subject['not_compared']}")
    comparison = subject.get("comparison")
    if not comparison:
        return [Bullets(tuple(notes))] if notes else []
    counts = ", ".join(f"{count} {state}" for state, count in (comparison.get("counts") or {}).items())
    notes.insert(0, f"against {comparison.get('asked')} (run {comparison.get('run')}): {counts or 'no figure'}")
    changes = list({repr(c): c for key in ("changes", "headlines") for c in comparison.get(key) or ()}.values())
    blocks: list[Block] = [Bullets(tuple(notes))]
    if changes:
        header = ("figure", "row", "then", "now", "change", "verdict")
        rows = tuple(_change_cells(change) for change in changes)
        blocks.append(Table(f"Figures of {name} against an earlier run", header, rows, frozenset({2, 3, 4})))
    return blocks


def _change_cells(change: Mapping[str, Any]) -> tuple[Cell, ...]:
    percent, state = change.get("percent"), str(change.get("state", ""))
    return (
        Cell(str(change.get("metric"))),
        Cell(str(change.get("row"))),
        Cell(_show(change.get("then"))),
        Cell(_show(change.get("now"))),
        Cell(f"{percent:+.2f} %" if isinstance(percent, int | float) and math.isfinite(percent) else ""),
        Cell(state, _TONES.get(state, "")),
    )


def history_section(summary: Mapping[str, Any]) -> Section | None:
    """Figures over earlier runs, each with the band of its baseline, as `collect_history` gives them.

    Read with care for what is not there: a run of another version may lack a field, and what is missing is left out.
    """
    blocks: list[Block] = []
    for number, figure in enumerate(summary.get("history") or (), 1):
        runs = [run for run in figure.get("runs") or () if isinstance(run.get("value"), int | float)]
        if runs:
            blocks.append(_history_figure(f"history-{number}", figure, runs))
    return Section("history", "History", tuple(blocks)) if blocks else None


def _history_figure(chart_id: str, figure: Mapping[str, Any], runs: list[Mapping[str, Any]]) -> Figure:
    title, unit = str(figure.get("title")), str(figure.get("unit") or "")
    name = f"{title} of {figure.get('subject', 'this run')}"
    best = ", the best row of each" if str(figure.get("subject")).startswith("preset ") else ""
    words = ["held" if run.get("held", True) else "failed" for run in runs]
    cells = tuple(
        (Cell(str(run.get("run"))), Cell(str(run.get("ended", ""))), Cell(_show(run["value"])), Cell(word))
        for run, word in zip(runs, words, strict=True)
    )
    header = ("run", "ended", f"value, {unit}" if unit else "value", "items")
    table = Table(f"{name} in earlier runs and this one{best}", header, cells, frozenset({2}))
    dots = [(Dot(place, run["value"]), word) for place, (run, word) in enumerate(zip(runs, words, strict=True), 1)]
    series = (
        Series("", "quiet", tuple(dot for dot, _ in dots), marker="", line="solid"),
        Series("held", "c1", tuple(dot for dot, word in dots if word == "held")),
        Series("failed", "bad", tuple(dot for dot, word in dots if word != "held"), marker="x"),
    )
    low, high, baseline = figure.get("low"), figure.get("high"), figure.get("baseline") or {}
    bands: tuple[Band, ...] = ()
    rules: tuple[Rule, ...] = ()
    if low is not None and high is not None and is_drawable(low, high):
        bands = (Band("band", "c3", low, high),)
    if isinstance(baseline.get("value"), int | float) and is_drawable(baseline["value"]):
        rules = (Rule("baseline", "c3", baseline["value"], "y"),)
    chart = XYChart(
        chart_id,
        f"{name} over {len(runs)} runs",
        f"from {_show(runs[0]['value'])} to {_show(runs[-1]['value'])}.",
        "run, oldest first; this one last",
        f"{title}{f', {unit}' if unit else ''}",
        series,
        rules,
        bands,
        ticks=tuple((float(place), str(place)) for place in range(1, len(runs) + 1, 1 + len(runs) // 12)),
        width=400,
        height=260,
    )
    told = [f"{name[:1].upper()}{name[1:]} in this run and in those before it{best}."]
    if baseline:
        told.append(f"Baseline: {_show(baseline.get('value'))} ({baseline.get('name')}).")
    if bands:
        told.append(f"Band: {_show(low)} to {_show(high)} ({figure.get('band')}).")
    return Figure(" ".join(told), (chart,), table)


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
    """Everything the page says of one preset."""
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


MAX_FINDINGS = 40
_PLANES = (("both planes", "ink", "o"), ("hi plane", "c1", "^"), ("lo plane", "c2", "v"))
_STREAMS = (("K hi", "k_hi"), ("K lo", "k_lo"), ("V hi", "v_hi"), ("V lo", "v_lo"))


def scope_section(
    name: str, scope: Mapping[str, Any], result: Mapping[str, Any] | None, section_id: str, links: Links
) -> Section:
    """Everything the page says of one scope."""
    title = f"KV dump scope {name}"
    if result is None:
        reasons = tuple(str(reason) for reason in scope.get("reasons", ()))
        blocks: list[Block] = [Text("Not measured.", "bad")]
        return Section(section_id, title, (*blocks, Bullets(reasons)) if reasons else tuple(blocks))
    refused = [Text("No ratio counts: entries could not be read, and that was not allowed.", "bad")]
    facts = [*_facts_page_scopes(scope, result), *links.to("result as JSON", f"offline_lossless_{name}.json")]
    facts += links.to("as Markdown", f"offline_lossless_{name}.md")
    parts = [
        _layers_section(name, section_id, result),
        _modes_section(name, section_id, result),
        _findings_section(section_id, result),
    ]
    blocks = [
        *(refused if scope.get("refused") else ()),
        _ratio_table(name, result),
        Bullets(tuple(facts)),
        *change_blocks(name, scope),
    ]
    return Section(section_id, title, tuple(blocks), tuple(part for part in parts if part is not None))


def _facts_page_scopes(scope: Mapping[str, Any], result: Mapping[str, Any]) -> list[str | Link]:
    target = "none: reported only" if scope["target"] is None else f">= {scope['target']:g}"
    facts: list[str | Link] = [f"target {target}{'; this scope decides' if scope['decides'] else ''}"]
    chunks = ""
    if result["online_chunks"]:
        chunks = f" in chunks of {result['online_chunk_seq']} tokens, {result['online_framing_bytes']} bytes of framing"
    layers = ", ".join(map(str, result["selected_layers"]))
    facts.append(f"codec {result['codec_mode']}, {result['entry_mode']}{chunks}")
    facts.append(f"{result['selected_entries']:,} entries of {result['selected_dumps']} dumps, layers {layers}")
    facts.append(f"{result['verified_streams']:,} of {result['encoded_streams']:,} streams decoded bit for bit")
    if result.get("dump_dir"):
        facts.append(f"read from {result['dump_dir']}")
    if result["skipped_entries"]:
        reasons = ", ".join(f"{count} {why}" for why, count in result["skip_reasons"].items())
        facts.append(f"{result['skipped_entries']} entries could not be read: {reasons}")
    return facts


def _ratio_table(name: str, result: Mapping[str, Any]) -> Table:
    rows = []
    for title, kind in (("K and V", ""), ("K", "k_"), ("V", "v_")):
        raw, coded = result[f"{kind}raw_bytes"], result[f"{kind}compressed_bytes"]
        ratio = show(result[f"{kind}lossless_ratio"], 4)
        rows.append((Cell(title), Cell(ratio), Cell(f"{raw:,}"), Cell(f"{coded:,}")))
    header = ("tensors", "lossless ratio", "raw bytes", "coded bytes")
    return Table(f"Sizes of {name}: raw fp16 bytes over coded bytes", header, tuple(rows), frozenset({1, 2, 3}))


def _ratios(layer: Mapping[str, Any], tensor: str) -> tuple[float | None, float | None, float | None]:
    """Ratio of both planes together (framing counted), of the high plane and of the low plane; a plane is half."""
    raw = layer[f"{tensor}_raw_bytes"]
    planes = [layer.get(f"{tensor}_{plane}_bytes") for plane in ("hi", "lo")]
    both = layer[f"{tensor}_compressed_bytes"]
    return (raw / both if both else None, *(raw / 2 / coded if coded else None for coded in planes))  # type: ignore[return-value]


def _layers_section(name: str, section_id: str, result: Mapping[str, Any]) -> Section | None:
    layers: Sequence[Mapping[str, Any]] = result.get("by_layer") or ()
    if not layers:
        return None
    rows = []
    for layer in layers:
        cells = [show(ratio, 4, "not told") for tensor in ("k", "v") for ratio in _ratios(layer, tensor)]
        rows.append((Cell(f"layer {layer['layer_id']}"), *map(Cell, cells)))
    header = ("layer", "K", "K hi plane", "K lo plane", "V", "V hi plane", "V lo plane")
    table = Table(f"Lossless ratio of {name} by layer", header, tuple(rows), frozenset(range(1, 7)))
    charts = tuple(_layer_chart(f"{section_id}-layers-{tensor}", tensor, layers) for tensor in ("k", "v"))
    caption = (
        "Raw over coded bytes, higher is better; 1 is no gain. The hi plane holds sign, exponent and the upper two "
        "bits of the mantissa of each fp16 value, the lo plane the other eight."
    )
    return Section(f"{section_id}-layers", "Ratio by layer", (Figure(caption, charts, table),))


def _layer_chart(chart_id: str, tensor: str, layers: Sequence[Mapping[str, Any]]) -> XYChart:
    ratios = [_ratios(layer, tensor) for layer in layers]
    series = []
    for place, (title, ink, marker) in enumerate(_PLANES):
        dots = tuple(Dot(x, y) for x, values in enumerate(ratios) if (y := values[place]) is not None)
        series.append(Series(title, ink, dots, marker, "solid"))  # type: ignore[arg-type]
    every = max(1, -(-len(layers) // 12))
    ticks = tuple((x, str(layer["layer_id"])) for x, layer in enumerate(layers) if x % every == 0)
    name = tensor.upper()
    said = "; ".join(
        f"layer {layer['layer_id']}: {show(values[0], 3)}" for layer, values in zip(layers[:40], ratios, strict=False)
    )
    return XYChart(
        chart_id,
        f"{name}: lossless ratio by layer",
        f"Both planes together, {said}.",
        "layer",
        f"lossless ratio of {name}",
        tuple(series),
        (Rule("", "quiet", 1.0, "y"),),
        ticks=ticks,
        y_from_zero=True,
    )


def _modes_section(name: str, section_id: str, result: Mapping[str, Any]) -> Section | None:
    streams = [(title, result.get(f"{key}_mode_counts") or {}) for title, key in _STREAMS]
    kinds = tuple(dict.fromkeys(str(kind) for _, counts in streams for kind in counts))
    if not any(count for _, counts in streams for count in counts.values()):
        return None
    counted = tuple(tuple(int(counts.get(kind, 0)) for kind in kinds) for _, counts in streams)
    rows = tuple(
        (Cell(title), *(Cell(f"{count:,}") for count in counts))
        for (title, _), counts in zip(streams, counted, strict=True)
    )
    header = ("stream", *kinds)
    table = Table(f"Blocks of {name} by the mode chosen for them", header, rows, frozenset(range(1, len(header))))
    said = "; ".join(
        f"{title}: {', '.join(f'{count} {kind}' for kind, count in zip(kinds, counts, strict=True) if count) or 'none'}"
        for (title, _), counts in zip(streams, counted, strict=True)
    )
    chart = ShareChart(
        f"{section_id}-modes-chart",
        "Modes chosen by stream",
        f"{said}.",
        tuple(title for title, _ in streams),
        kinds,
        counted,
        width=400,
    )
    caption = "For each block of a stream the codec takes the mode that codes it smallest."
    return Section(f"{section_id}-modes", "Modes chosen", (Figure(caption, (chart,), table),))


def _findings_section(section_id: str, result: Mapping[str, Any]) -> Section | None:
    """Entries that could not be read, and overlaps and gaps of those that could."""
    blocks: list[Block] = []
    skipped = result.get("skipped") or ()
    if skipped:
        rows = tuple(
            (Cell(str(s.get("path"))), Cell(str(s.get("reason"))), Cell(str(s.get("detail")))) for s in skipped
        )
        more = f"{len(rows) - MAX_FINDINGS} more are in the JSON" if len(rows) > MAX_FINDINGS else None
        header = ("entry", "reason", "detail")
        blocks.append(Table("Entries that could not be read", header, rows[:MAX_FINDINGS], left_out=more))
    findings = result.get("findings") or ()
    if findings:
        cells = tuple(
            (
                Cell(f"{found.get('kind')}"),
                Cell(str(found.get("run_id"))),
                Cell(str(found.get("layer_id"))),
                Cell(str(found.get("first"))),
                Cell(str(found.get("tokens"))),
            )
            for found in findings[:MAX_FINDINGS]
        )
        more = f"{len(findings) - MAX_FINDINGS} more are in the JSON" if len(findings) > MAX_FINDINGS else None
        header5 = ("kind", "dump", "layer", "first token", "tokens")
        caption = "Overlaps and gaps between entries; dumps of a runtime that tunes itself at start have some"
        blocks.append(Table(caption, header5, cells, frozenset({2, 3, 4}), more))
    title = "Entries left out, overlaps and gaps"
    return Section(f"{section_id}-findings", title, tuple(blocks), folded=not skipped) if blocks else None


MAX_ITEMS = 2000
_EMBEDDED = "/".join(EMBEDDED_BENCH.parts[-3:])
MAX_FAILURES = 100
_FILES = ("summary.md", "summary.json", "journal.jsonl", "figures.json", "run.json")
_WRITTEN_WITH_THE_PAGE = ("summary.md", "run.json")
"""Files of a finished run that may come after its page, so that the page cannot look for them."""

_VERDICTS: Mapping[str, tuple[Tone, str]] = {
    "PASS": ("good", "The gate held: every threshold that was asked for is met, and nothing that it needs is missing."),
    "FAIL": ("bad", "The gate did not hold."),
    "INCONCLUSIVE": (
        "warn",
        "Nothing failed, but the launches could not tell whether decoding is slower than allowed.",
    ),
    "INCOMPLETE": (
        "warn",
        "Nothing failed, but something that a whole verdict needs was not measured or not asked for.",
    ),
    "UNFINISHED": ("warn", "This run did not end, or has not ended yet: what is here is what its journal has."),
}


def build_page(summary: Mapping[str, Any], collector: Collector, run: Mapping[str, Any], links: Links) -> Page:
    """The page of a run."""
    verdict = render_verdict(summary["overall_pass"])
    if "ended" not in run and verdict != "FAIL":
        verdict = "UNFINISHED"
    tone, lead = _VERDICTS.get(verdict, ("warn", ""))
    notes = [_VERDICTS["UNFINISHED"][1]] if "ended" not in run and verdict == "FAIL" else []
    if summary.get("exit_status") and not summary["items"]["failed"]:
        notes.append(f"pytest ended with exit status {summary['exit_status']}: something failed that left no record.")
    sections = [
        _failures(collector),
        _overview(summary),
        *_lists(summary),
        *(
            preset_section(collector, name, preset, f"preset-{number}", links)
            for number, (name, preset) in enumerate(summary["presets"].items(), 1)
        ),
        *(
            scope_section(name, scope, collector.scopes.get(name, {}).get("result"), f"scope-{number}", links)
            for number, (name, scope) in enumerate(summary["scopes"].items(), 1)
        ),
        history_section(summary),
        *section_pages(summary),
        _items(collector),
        _provenance(run, links),
    ]
    return Page(
        title=f"KV-cache compression gate: {verdict}",
        verdict=verdict,
        tone=tone,
        lead=(lead, *notes),
        facts=tuple(_facts(summary, run)),
        sections=tuple(section for section in sections if section is not None),
    )


def _facts(summary: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    counts = summary["items"]
    yield "items", f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped"
    yield "rule", str(summary["rule"])
    for key, title in (("run", "run"), ("started", "started"), ("ended", "ended")):
        if run.get(key) is not None:
            yield title, str(run[key])
    settings = run.get("settings", {})
    for name in ("bench", "logs"):
        value = settings.get(name, {}).get("value")
        if value is not None:
            yield ("bench" if name == "bench" else "recorded logs"), _name_bench(str(value))


def _name_bench(path: str) -> str:
    """The bench in words if it is the one that comes with the plugin, wherever that was installed; else its path."""
    return "the embedded reference bench" if path.endswith(_EMBEDDED) else path


def _failures(collector: Collector) -> Section | None:
    from pytest_h2o.report.summary import why_failed

    failed = [item for item in collector.sorted_items() if item["outcome"] == "failed"]
    if not failed:
        return None
    parts = []
    for number, item in enumerate(failed[:MAX_FAILURES], 1):
        blocks: list[Block] = [Text(why_failed(item), "bad")]
        if item.get("diagnosis"):
            blocks.append(Pre(str(item["diagnosis"])))
        parts.append(Section(f"failure-{number}", item["item"], tuple(blocks)))
    more = len(failed) - MAX_FAILURES
    said = (Text(f"{more} more failed items are in the table of items."),) if more > 0 else ()
    return Section("failures", f"Failures ({len(failed)})", said, tuple(parts))


def _lists(summary: Mapping[str, Any]) -> Iterator[Section | None]:
    """What kept the verdict from being a whole one."""
    yield _why_section("inconclusive", "Inconclusive: no pass", summary.get("inconclusive") or ())
    if summary["incomplete_for"]:
        yield Section("incomplete", "Not complete", (Bullets(tuple(summary["incomplete_for"])),))
    yield _why_section("left-out", "Left out on purpose", summary["left_out_on_purpose"])
    if summary["not_measured"]:
        text = (
            "Presets that nobody asked for by name, and that have no recording or whose target is out of the bench's "
            "reach; -k NAME asks for one, and tells which:"
        )
        yield Section("not-measured", "Not measured", (Text(text), Bullets(tuple(summary["not_measured"]))))


def _why_section(section_id: str, title: str, entries: Sequence[Mapping[str, Any]]) -> Section | None:
    if not entries:
        return None
    rows = tuple((Cell(str(entry["item"])), Cell(str(entry["why"]))) for entry in entries[:MAX_ITEMS])
    return Section(section_id, title, (Table(title, ("item", "why"), rows),))


def _overview(summary: Mapping[str, Any]) -> Section | None:
    """One line a threshold of a preset and one a scope."""
    rows = [
        _overview_row(name, verdict_cells(verdict))
        for name, preset in summary["presets"].items()
        for verdict in preset["verdicts"]
    ]
    rows += [_overview_row(name, _scope_cells(scope)) for name, scope in summary["scopes"].items()]
    if not rows:
        return None
    header = ("preset or scope", "outcome", *(title for title in VERDICT_HEADER if title != "outcome"))
    table = Table("Every threshold of this run", header, tuple(rows), frozenset({5}))
    return Section("verdicts", "Verdicts", (table,))


def _overview_row(name: str, cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
    """The cells of a verdict after its preset or scope, the outcome first: names are long, and phones narrow."""
    threshold, outcome, *rest = cells
    return (Cell(name), outcome, threshold, *rest)


def _scope_cells(scope: Mapping[str, Any]) -> tuple[Cell, ...]:
    """The ratio of a scope as cells, as `VERDICT_HEADER` names them."""
    outcome = overall_outcome(scope["outcomes"])
    if outcome == "passed":
        outcome = "reported" if scope["measured"] and scope["target"] is None else "pass"
    values = ["not measured", "", ""]
    if scope["measured"] and scope.get("refused"):
        values[0] = "refused"
    elif scope["measured"]:
        target = "reported only" if scope["target"] is None else f">= {scope['target']:.4f}"
        margin = "" if scope["target"] is None else f"{scope['lossless_ratio'] - scope['target']:.4f}"
        values = [f"{scope['lossless_ratio']:.4f}", target, margin]
    source = "decides" if scope.get("decides") else ""
    return (Cell("lossless ratio"), Cell(outcome, OUTCOME_TONES[outcome]), *map(Cell, (*values, source)))


def _items(collector: Collector) -> Section | None:
    items = collector.sorted_items()
    if not items:
        return None
    rows = tuple(
        (Cell(item["item"]), Cell(item["outcome"], OUTCOME_TONES.get(item["outcome"], "")), Cell(item["reason"] or ""))
        for item in items[:MAX_ITEMS]
    )
    more = f"{len(items) - MAX_ITEMS} more are in journal.jsonl" if len(items) > MAX_ITEMS else None
    table = Table("Every item of the gate", ("item", "outcome", "reason"), rows, left_out=more)
    return Section("items", f"Items ({len(items)})", (table,), folded=True)


def _provenance(run: Mapping[str, Any], links: Links) -> Section:
    """Settings with where each was said, digests, versions, machine, files."""
    files = tuple(
        link
        for name in _FILES
        for link in links.to(name, name, is_there="ended" in run and name in _WRITTEN_WITH_THE_PAGE)
    )
    blocks: list[Block] = [Bullets(files)] if files else []
    settings = run.get("settings", {})
    if settings:
        rows = tuple((Cell(name), Cell(_text(s["value"])), Cell(str(s["origin"]))) for name, s in settings.items())
        blocks.append(Table("Settings, and where each was said", ("setting", "value", "said by"), rows))
    for key, caption, header in (
        ("digests", "SHA-256 of what the run was made of", ("file", "digest")),
        ("machine", "Machine", ("part", "what it says")),
        ("packages", "Versions", ("package", "version")),
    ):
        if run.get(key):
            pairs = tuple((Cell(str(name)), Cell(_text(value))) for name, value in run[key].items())
            blocks.append(Table(caption, header, pairs))
    return Section("provenance", "Provenance", tuple(blocks))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


TEMPLATE = "report.html.j2"
PAGE_NAME = "report.html"
MAX_CHARTS = 60
"""Charts of one page, about 40 ms each; figures beyond it have their tables alone."""


def render_run(
    summary: Mapping[str, Any], collector: Collector, run: Mapping[str, Any], page_path: Path | None = None
) -> str:
    """The page of a run, from what its folder has."""
    as_kept = json.loads(json.dumps(summary)), json.loads(json.dumps(run))  # so that a page made later is the same
    return render_html(build_page(as_kept[0], collector, as_kept[1], links_of(collector.run_dir, page_path)))


def _printable(value: object) -> object:
    """Text of other people without what a browser or editor would act on; markup of the template stays as it is."""
    return make_printable(value) if type(value) is str else value


def render_html(page: Page) -> str:
    """The page; equal pages give equal text, with the same versions of jinja2 and matplotlib.

    Where matplotlib is missing the page says so and has its tables alone.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    charts: dict[str, Markup] = {}
    missing = None
    try:
        for chart in _charts_of(page.sections)[:MAX_CHARTS]:
            charts[chart.id] = Markup(render_chart(chart))
    except ChartsMissing as error:
        charts, missing = {}, str(error)
    environment = Environment(
        loader=PackageLoader("pytest_h2o.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template(TEMPLATE)
    return template.render(
        page=page,
        charts=charts,
        charts_missing=missing,
        max_charts=MAX_CHARTS,
        light=Markup(render_variables(LIGHT)),
        dark=Markup(render_variables(DARK)),
    )


def _charts_of(sections: tuple[Section, ...]) -> list[Chart]:
    """Every chart of a page, each once."""
    found: list[Chart] = []
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Figure):
                found += [*block.charts, *block.narrow]
        found += _charts_of(section.parts)
    return found
