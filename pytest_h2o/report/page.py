"""The page of a run, ``report.html``: what its templates ask of the summary, the results and the run's own record.

The templates in ``templates/`` say what stands where; here are the rows, figures and charts that they show. One file,
no network, no script; equal runs give equal text, with the same version of jinja2.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from pytest_h2o.bench.command import RunFiles, repeat_command
from pytest_h2o.errors import make_printable
from pytest_h2o.gate.decode import Pair, pairs_folder, pairs_key
from pytest_h2o.gate.metrics import CODING, DROP, LOSSY, METRICS, asked_of_json
from pytest_h2o.gate.rule import Margins, hold_rows, pool_drop, row_bound, row_facts, split_layers, whole_cache_ratio
from pytest_h2o.gate.values import told_cell
from pytest_h2o.inputs.options import EMBEDDED_BENCH
from pytest_h2o.lossless.result import LosslessResult, name_part, parts_of
from pytest_h2o.report.build import why_failed
from pytest_h2o.report.changes import open_templates, takes_worst
from pytest_h2o.report.charts import (
    DARK,
    LIGHT,
    Band,
    Chart,
    Dot,
    Ink,
    Rule,
    Series,
    ShareChart,
    XYChart,
    is_drawable,
    render_chart,
    render_variables,
)
from pytest_h2o.report.summary import (
    Decode,
    HistoryFigure,
    Preset,
    Scope,
    Summary,
    Unmeasured,
    Verdict,
    count_rows,
    counted,
    headline,
    key_figures,
    matrix,
    next_steps,
    overall_outcome,
    own_notes,
    range_rows,
    render_verdict,
    shared_notes,
    value_alone,
)
from pytest_h2o.run.journal import Collector, FailedRecord, PointRecord, PresetFacts

if TYPE_CHECKING:
    from pytest_h2o.bench.rows import Measurement, Row

PAGE_NAME = "report.html"
MAX_CHARTS = 60
"""Charts of one page, about 40 ms each; figures beyond it have their tables alone."""

MAX_ROWS = 400
"""Rows of a preset that a page shows; the CSV beside it has all."""

MAX_ITEMS = 2000
MAX_FAILURES = 100
MAX_FINDINGS = 40

TONES: Mapping[str, str] = {
    **dict.fromkeys(("pass", "passed", "PASS", "better"), "good"),
    **dict.fromkeys(("fail", "failed", "FAIL", "worse", "changed", "missing"), "bad"),
    **dict.fromkeys(("inconclusive", "INCONCLUSIVE", "INCOMPLETE", "UNFINISHED", "allowed"), "warn"),
    **dict.fromkeys(("skipped", "reported"), "quiet"),
}
"""How a word is coloured that says an outcome. Never the only thing that tells: the word says it too."""

MEANINGS: Mapping[str, str] = {
    "PASS": "The gate held: every threshold that was asked for is met, and nothing that it needs is missing.",
    "FAIL": "The gate did not hold.",
    "INCONCLUSIVE": "No pass: nothing is surely missed, but whether decoding is slower than allowed cannot be told.",
    "INCOMPLETE": "Nothing failed, but something that a whole verdict needs was not measured or not asked for.",
    "UNFINISHED": "This run did not end, or has not ended yet: what is here is what its journal has.",
}


def render_run(summary: Summary, collector: Collector, run: Mapping[str, Any], page_path: Path | None = None) -> str:
    """The page of a run, from what its folder has."""
    from markupsafe import Markup

    environment = open_templates(_printable)
    verdict = render_verdict(summary.overall_pass)
    if "ended" not in run and verdict != "FAIL":
        verdict = "UNFINISHED"
    drawing = Drawing(MAX_CHARTS)
    links = Links(collector.run_dir, page_path)
    functions: tuple[Any, ...] = (
        *(pick, bench_name, repeat_command, why_failed, count_rows, counted, value_alone, verdict_row, scope_row),
        *(fixed, spread, show, percent, cell_mean, bound_of, decode_line, disturbances, pairs_chart),
        *(history_chart, takes_worst, range_rows, layer_ratios, layer_chart, lossless_parts, count_modes, modes_chart),
    )
    environment.filters |= {
        **{function.__name__: function for function in functions},
        "json": partial(json.dumps, ensure_ascii=False),
        "grouped": "{:,}".format,
        "draw": lambda chart: Markup(drawing.draw(chart)),
        "view_preset": partial(view_preset, collector),
        "own_notes": partial(own_notes, summary),
    }
    return environment.get_template("report.html.j2").render(
        summary=summary,
        collector=collector,
        run={"settings": {}, **run},
        verdict=verdict,
        meanings=MEANINGS,
        tones=TONES,
        headline=headline(summary),
        steps=next_steps(summary),
        figures=key_figures(summary),
        matrix=matrix(summary),
        shared_notes=shared_notes(summary),
        items=collector.sorted_items(),
        verdict_header=VERDICT_HEADER,
        links=links,
        run_files=[link for name in _FILES for link in links.to(name, name, is_there="ended" in run and name in _LATE)],
        contents=[],
        drawing=drawing,
        max_rows=MAX_ROWS,
        max_items=MAX_ITEMS,
        max_failures=MAX_FAILURES,
        max_findings=MAX_FINDINGS,
        light=Markup(render_variables(LIGHT)),
        dark=Markup(render_variables(DARK)),
    )


def _printable(value: object) -> object:
    """Text of other people without what a browser or editor would act on; markup of the template stays as it is."""
    return make_printable(value) if type(value) is str else value


_FILES = ("summary.md", "summary.json", "journal.jsonl", "figures.json", "run.json")
_LATE = ("summary.md", "run.json")
"""Files of a finished run that may come after its page, so that the page cannot look for them."""


class Drawing:
    """Draws the charts of one page: `limit` at most."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._drawn = 0

    def draw(self, chart: Chart) -> str:
        """The chart as an ``<svg>`` element; empty where it is not drawn."""
        if self._drawn == self.limit:
            return ""
        self._drawn += 1
        return render_chart(chart)


class Links:
    """Where the files of a run folder are, seen from a page at `page`, or from one that lies in the folder."""

    def __init__(self, run_dir: Path, page: Path | None = None) -> None:
        self._run_dir = run_dir
        self._prefix = os.path.relpath(run_dir.absolute(), (run_dir if page is None else page.parent).absolute())

    def to(self, text: str, name: str, *, is_there: bool = False) -> list[tuple[str, str]]:
        """Text and address of a link to a file of the run folder; none if it is not there. `is_there`: it will be."""
        try:
            is_there = is_there or (self._run_dir / name).is_file()
        except (OSError, ValueError):  # a name too long or with a zero byte is that of no file
            is_there = False
        return [(text, quote_path(os.path.normpath(f"{self._prefix}/{name}")))] if is_there else []

    def to_run(self, folder: str, run_id: str) -> list[tuple[str, str]]:
        """Links to the files of one run of the bench, in the folder of its sweep."""
        files = RunFiles(Path(folder), run_id)
        named = (("config", files.config), ("log", files.log), ("output", files.stdout), ("JSON", files.json))
        return [link for text, path in named for link in self.to(text, path.as_posix())]


def quote_path(path: str) -> str:
    """A relative path as the text of a link; nothing in it can be taken for a scheme, a query or markup."""
    return quote(os.fsencode(path.replace(os.sep, "/")), safe="/.-_~")


# -- texts and cells -------------------------------------------------------------------------------------------------


def fixed(value: float | None, digits: int, missing: str = "missing") -> str:
    """A number with so many digits after the point."""
    return missing if value is None else f"{value:.{digits}f}"


def spread(value: Measurement | None, digits: int) -> str:
    """``mean ± std``; without the spread where it is not known."""
    if value is None:
        return "missing"
    return fixed(value.mean, digits) + ("" if value.std is None else f" ± {value.std:.{digits}f}")


def percent(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.2%}"


def show(value: float | None) -> str:
    return "missing" if value is None else f"{value:.6g}" if isinstance(value, float) else f"{value:,}"


def pick(entry: Any, *names: str) -> list[str]:
    """Fields of an entry as texts."""
    found = (entry.get(name) if isinstance(entry, Mapping) else getattr(entry, name) for name in names)
    return ["" if value is None else str(value) for value in found]


VERDICT_HEADER = ("threshold", "outcome", "measured", "target", "margin", "row")
"""The outcome stands early: a phone shows the first columns alone."""


def verdict_row(v: Verdict) -> list[str]:
    return [v.title, v.outcome, v.measured, f"{v.relation} {v.target} ({v.target_origin})", v.margin, v.source]


def scope_row(scope: Scope | Unmeasured) -> list[str]:
    """The ratio of a scope as `verdict_row` tells one."""
    outcome = overall_outcome(scope.outcomes)
    measured, target, margin, row = "not measured", "", "", ""
    if isinstance(scope, Scope):
        measured, row = "refused" if scope.refused else f"{scope.lossless_ratio:.4f}", "decides" * scope.decides
        if scope.target is None:
            outcome = "reported" if outcome == "passed" else outcome
            target = "" if scope.refused else "reported only"
        elif not scope.refused:
            target, margin = f">= {scope.target:.4f}", f"{scope.lossless_ratio - scope.target:.4f}"
    return ["lossless ratio", "pass" if outcome == "passed" else outcome, measured, target, margin, row]


def bench_name(path: str) -> str:
    """The bench in words if it is the one that comes with the plugin, wherever that was installed; else its path."""
    return "the embedded reference bench" if path.endswith("/".join(EMBEDDED_BENCH.parts[-3:])) else path


def cell_mean(row: Row, column: str) -> float | None:
    cell = row.get(column)
    return cell.mean if cell else None


def bound_of(row: Row) -> str:
    """What keeps the row from evicting more."""
    bound = row_bound(row)
    return "unknown" if bound is None else bound.kind.replace(" ", "\u00a0")  # on one line, or every row has two


def decode_line(verdict: Decode) -> str:
    """The verdict of the pairs."""
    drop, low, high, target = map(percent, (verdict.drop, verdict.low, verdict.high, verdict.target))
    interval = "" if low == high != percent(None) else f", interval {low} to {high}"
    return f"outcome: {verdict.outcome}; slow-down {drop}{interval}, target at most {target}"


def disturbances(timed: Pair) -> list[str]:
    """What disturbed the launches of a pair, and which."""
    baseline, candidate = timed.baseline.disturbance, timed.candidate.disturbance
    if baseline and baseline == candidate:
        return [f"both disturbed: {baseline}"]
    sides = (("baseline", baseline), ("candidate", candidate))
    return [f"{side} disturbed: {text}" for side, text in sides if text]


# -- rows of a preset ------------------------------------------------------------------------------------------------


class ReportRow(NamedTuple):
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
    margins: Margins | None
    on_front: bool


class PresetView(NamedTuple):
    """What the page asks of a preset beside its summary.

    Attributes
    ----------
    failed : list
        Launches that gave no sound row, in the order of the sweep.
    lossless : float or None
        Lossless ratio of the deciding scope, raw over coded bytes.
    asked : mapping
        Targets that stand as lines in a chart, and with them `baseline_tok_per_s`, the decode speed with H2O off. Of
        pairs, whose verdict does not rest on the rows, the lines only show where the rows lie.
    """

    name: str
    rows: list[ReportRow]
    failed: list[FailedRecord]
    pairs: Sequence[Pair]
    pairs_folder: str
    lossless: float | None
    asked: Mapping[str, float]
    baseline_tok_per_s: float | None
    decode: tuple[str, str] | None
    """Of pairs: the row that was timed, and what came of it; empty where none was."""

    def missed_by(self, row: ReportRow) -> str:
        """The targets that a row misses; ``nothing`` only where all of them were held against it."""
        if row.margins is None:
            return "not known"
        missed = list(row.margins.missed)
        if self.decode is None or DROP not in self.asked:
            return ", ".join(missed) or "nothing"
        timed, outcome = self.decode
        if row.result.run_id == timed and outcome == "fail":
            missed.append(METRICS[DROP].short)
        unknown = f"{METRICS[DROP].short} not told" if row.result.run_id == timed else "not timed"
        return ", ".join(missed) or ("nothing" if (row.result.run_id, "pass") == self.decode else unknown)

    @property
    def launched(self) -> list[ReportRow]:
        """The rows of a run of their own, and not one that they share."""
        return [row for row in self.rows if row.result.shares_run_with is None]

    def quality(self) -> list[list[str]]:
        """The quality columns of every run, the header first; nothing if no row has any."""
        return self._columns((("h2o_keep", "keep", ".4f"), *QUALITY))

    def coding(self) -> list[list[str]]:
        """The figures of lossless coding at run time of every run, the header first."""
        metrics = [METRICS[name] for name in CODING]
        return self._columns([(m.name, m.title + f", {m.unit}" * bool(m.unit), m.fmt) for m in metrics], least=0)

    def _columns(self, columns: Sequence[tuple[str, str, str]], least: int = 1) -> list[list[str]]:
        """Columns of every run, name, title and format of each; nothing if no row has any from place `least` on."""
        table = [(row.result.run_id, [_value(row.result, name) for name, *_ in columns]) for row in self.launched]
        table = [(run, values) for run, values in table if any(value is not None for value in values[least:])]
        shown = [n for n in range(len(columns)) if n < least or any(values[n] is not None for _, values in table)]
        lines = [["run", *(columns[n][1] for n in shown)]] if table else []
        for run, values in table:
            cells = ((values[n], columns[n][2]) for n in shown)
            lines.append([run, *("missing" if value is None else format(value, form) for value, form in cells)])
        return lines

    def trade_chart(self, chart_id: str) -> XYChart | None:
        """Total ratio against decode speed; None where no row has both."""
        scale = 1.0 if self.lossless is None else self.lossless
        dots = [
            (row, Dot(row.decode.mean, row.lossy.mean * scale, row.decode.std, row.lossy.std and row.lossy.std * scale))
            for row in self.launched
            if row.lossy is not None and row.decode is not None
        ]
        front = sorted(((row, dot) for row, dot in dots if row.on_front), key=lambda pair: pair[1].x)
        rules = []
        lossy, drop, baseline = self.asked.get(LOSSY), self.asked.get(DROP), self.baseline_tok_per_s
        if lossy is not None:
            told = f"lossy target {lossy:g}"
            if self.lossless is not None:
                told = f"target {lossy * scale:.3g}: lossy {lossy:g} × lossless {scale:.3g}"
            rules.append(Rule(told, "c2", lossy * scale, "y"))
        if baseline is not None and drop is not None:
            rules.append(Rule(f"decode target {baseline * (1 - drop):.1f}", "c4", baseline * (1 - drop), "x"))
        if baseline is not None:
            rules.append(Rule(f"baseline {baseline:.1f}", "c3", baseline, "x"))
        best = "; ".join(f"run {row.number}: {fixed(row.total, 3, '?')} at {dot.x:.1f} tok/s" for row, dot in front)
        y_label = "lossy ratio" if self.lossless is None else "total ratio (lossy × lossless)"
        chart = XYChart(
            chart_id,
            f"{y_label} against decode speed, {self.name}",
            f"{len(dots)} runs. On the Pareto front: {best or 'none'}.",
            "decode speed, tokens per second",
            y_label,
            (
                Series("other runs", "quiet", tuple(dot for row, dot in dots if not row.on_front), filled=False),
                Series("Pareto front", "c1", tuple(d._replace(label=f"{r.number}") for r, d in front), line="solid"),
            ),
            tuple(rules),
            width=440,
            height=340,
        )
        return chart if dots else None

    def quality_chart(self, chart_id: str) -> XYChart | None:
        """The rise in perplexity over the keep ratio; None where no run has both."""
        figures = [(r.number, *(_value(r.result, c) for c in ("h2o_keep", "quality_ppl_rise"))) for r in self.launched]
        dots = [Dot(x, 100 * y, label=f"{number}") for number, x, y in figures if x is not None and y is not None]
        rules = [Rule("no rise", "quiet", 0.0, "y")]
        if (target := self.asked.get("quality_ppl_rise")) is not None:
            rules.append(Rule(f"target {100 * target:g} %", "c2", 100 * target, "y"))
        chart = XYChart(
            chart_id,
            "Rise in perplexity against keep ratio",
            "; ".join(f"run {dot.label}: {dot.y:.2f} % at keep {dot.x:.4f}" for dot in dots) + ".",
            "keep ratio (share of tokens kept)",
            "rise in perplexity, %",
            (Series("", "c1", tuple(dots)),),
            tuple(rules),
            width=400,
            height=280,
        )
        return chart if dots else None


QUALITY = (
    ("quality_ppl_full", "perplexity, full cache", ".4g"),
    ("quality_ppl_evicted", "perplexity, evicted", ".4g"),
    ("quality_ppl_rise", "rise", ".2%"),
    ("quality_top1_agreement", "same first token", ".2%"),
    ("quality_greedy_prefix", "common greedy prefix, tokens", ".4g"),
    ("quality_greedy_equal", "equal greedy tokens", ".2%"),
)
"""Columns of a row that say what eviction costs the model: name, title, format."""


def _value(row: Row, column: str) -> float | None:
    value = cell_mean(row, column)
    return value if is_drawable(value) else None


def view_preset(collector: Collector, key: str, preset: Preset) -> PresetView:
    """Of a preset, or of one of its workloads; rows stand with those."""
    workload = preset.workload
    name = key.removesuffix(f"-{workload}") if workload else key
    deciding = collector.accepted_scope(decides=True)
    lossless = None if deciding is None else deciding.lossless_ratio
    facts = collector.presets.get(name) or PresetFacts()
    asked = asked_of_json(facts.targets, facts.metric_targets)
    paired, baseline = facts.paired, facts.baseline_tok_per_s
    # Paired launches give the slow-down of one row; other rows are not held against the decode target.
    held = {key: target for key, target in asked.items() if key != DROP or not (paired or facts.decode_left_out)}
    if paired or workload:
        baseline = None if preset.baseline is None else preset.baseline.tok_per_s
    pairs = pairs_key(name, workload or "")
    timed = collector.comparisons.get(pairs)
    points = [] if facts.workloads and workload is None else collector.points_in_order(name, workload)
    failed = [one for one in collector.failed.get(name, {}).values() if workload in (None, one.workload)]
    return PresetView(
        name,
        build_rows(
            facts,
            points,
            held,
            lossless,
            [] if deciding is None else deciding.selected_layers,
            pools=collector.settings["rule"] == "joint",
        ),
        sorted(failed, key=lambda one: one.index),
        () if timed is None else timed.pairs,
        pairs_folder(pairs),
        lossless,
        asked if paired else held,
        baseline,
        (("", "") if preset.decode is None else (preset.decode.candidate, preset.decode.outcome)) if paired else None,
    )


def build_rows(
    facts: PresetFacts,
    records: Sequence[PointRecord],
    asked: Mapping[str, float],
    lossless: float | None,
    layers: Sequence[int],
    *,
    pools: bool,
) -> list[ReportRow]:
    """Every row with what is said of it; `layers` are those that the deciding scope coded.

    `pools`: the slow-down that decides is that of the mean over rows.
    """
    results = [record.result for record in records]
    split = None
    margins: Sequence[Margins | None] = [None] * len(results)
    if facts.run_ids:
        speeds = (facts.baselines.get(record.workload, facts.baseline_tok_per_s) for record in records)
        held = [
            row_facts(
                row, asked, baseline_tok_per_s=speed, lossless=lossless, workload=record.workload, cell_of=told_cell
            )
            for row, record, speed in zip(results, records, speeds, strict=True)
        ]
        margins = hold_rows(pool_drop(held, asked) if pools else held, asked)
        if facts.model_layers is not None:
            split = split_layers(facts.model_layers, facts.h2o_layer_start, facts.h2o_layer_end, layers)
    points = [(row.get(LOSSY), row.decode_tok_per_s) for row in results]
    front = find_front([(lossy.mean, decode.mean) if lossy and decode else None for lossy, decode in points])
    numbers = [record.index for record in records]
    rows = []
    for n, (lossy, decode) in enumerate(points):
        known = lossy.mean if lossy is not None and math.isfinite(lossy.mean) and lossy.mean > 0 else None
        total = None if known is None or lossless is None else known * lossless
        whole = None if known is None or split is None else whole_cache_ratio(split, known, lossless)
        rows.append(ReportRow(numbers[n], results[n], lossy, decode, total, whole, margins[n], front[n]))
    return rows


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


# -- charts ----------------------------------------------------------------------------------------------------------


def _ticks(names: Sequence[object], first: int = 0) -> tuple[tuple[float, str], ...]:
    """Names of places on an axis, counted from `first`; about twelve of them."""
    return tuple((float(place), str(name)) for place, name in list(enumerate(names, first))[:: 1 + len(names) // 12])


def pairs_chart(verdict: Decode, chart_id: str, pairs: Sequence[Pair]) -> XYChart:
    """Each pair as a point, with the interval and the target."""
    dots = [(Dot(n, 100 * timed.drop), timed.excluded) for n, timed in enumerate(pairs, 1)]
    compared, excluded = (tuple(dot for dot, why in dots if bool(why) == left_out) for left_out in (False, True))
    lines: tuple[tuple[str, Ink, float | None], ...] = (
        ("target", "bad", verdict.target),
        ("estimate", "c1", verdict.drop),
    )
    rules = [Rule(f"{name} {100 * y:.1f} %", ink, 100 * y, "y") for name, ink, y in lines if y is not None]
    low, high = verdict.low, verdict.high
    return XYChart(
        chart_id,
        "Slow-down of each pair",
        f"{len(compared)} pairs compared, {len(excluded)} excluded; {decode_line(verdict)}.",
        "pair, in launch order",
        "slow-down, %",
        (Series("pair", "c1", compared), Series("excluded", "quiet", excluded, marker="x")),
        (Rule("no change", "quiet", 0.0, "y"), *rules),
        () if low is None or high is None else (Band("interval", "c1", 100 * low, 100 * high),),
        ticks=_ticks(range(1, len(pairs) + 1), 1),
        width=440,
        height=280,
    )


def history_chart(figure: HistoryFigure, chart_id: str) -> XYChart:
    """A figure over runs, with its baseline and band."""
    dots = [(Dot(place, run.value), run.held) for place, run in enumerate(figure.runs, 1)]
    held, failed = (tuple(dot for dot, is_held in dots if is_held == wanted) for wanted in (True, False))
    band = () if figure.low is None or figure.high is None else (Band("band", "c3", figure.low, figure.high),)
    return XYChart(
        chart_id,
        f"{figure.title} of {figure.subject} over {len(dots)} runs",
        f"from {show(figure.runs[0].value)} to {show(figure.runs[-1].value)}.",
        "run, oldest first; this one last",
        f"{figure.title}{f', {figure.unit}' if figure.unit else ''}",
        (
            Series("", "quiet", tuple(dot for dot, _ in dots), marker="", line="solid"),
            Series("held", "c1", held),
            Series("failed", "bad", failed, "x"),
        ),
        () if figure.baseline is None else (Rule("baseline", "c3", figure.baseline.value, "y"),),
        band,
        ticks=_ticks(range(1, len(dots) + 1), 1),
        width=400,
        height=260,
    )


def layer_ratios(layer: Mapping[str, Any], tensors: str = "kv") -> list[float | None]:
    """Of each tensor: ratio of both planes together (framing counted), of the high and of the low; a plane is half."""
    ratios: list[float | None] = []
    for tensor in tensors:
        raw, both = layer[f"{tensor}_raw_bytes"], layer[f"{tensor}_compressed_bytes"]
        planes = [layer.get(f"{tensor}_{plane}_bytes") for plane in ("hi", "lo")]
        ratios += [raw / both if both else None, *(raw / 2 / coded if coded else None for coded in planes)]
    return ratios


def lossless_parts(result: LosslessResult) -> dict[str, list[tuple[str, ...]]]:
    """Rows of the parts of a dump: what each is, and its ratios."""
    return {
        name: [(name_part(part), *(f"{ratio:.4f}" for ratio in part.ratios())) for part in parts]
        for name, parts in parts_of(result).items()
    }


def layer_chart(by_layer: Sequence[Mapping[str, Any]], chart_id: str, tensor: str) -> XYChart:
    both, high, low = zip(*(layer_ratios(layer, tensor) for layer in by_layer), strict=True)
    name, layers = tensor.upper(), [layer["layer_id"] for layer in by_layer]
    told = "; ".join(f"layer {layer}: {fixed(ratio, 3)}" for layer, ratio in list(zip(layers, both, strict=True))[:40])

    def dots(ratios: Sequence[float | None]) -> tuple[Dot, ...]:
        return tuple(Dot(x, ratio) for x, ratio in enumerate(ratios) if ratio is not None)

    return XYChart(
        chart_id,
        f"{name}: lossless ratio by layer",
        f"Both planes together, {told}.",
        "layer",
        f"lossless ratio of {name}",
        (
            Series("both planes", "ink", dots(both), "o", "solid"),
            Series("hi plane", "c1", dots(high), "^", "solid"),
            Series("lo plane", "c2", dots(low), "v", "solid"),
        ),
        (Rule("", "quiet", 1.0, "y"),),
        ticks=tuple((float(x), str(layer)) for x, layer in list(enumerate(layers))[:: -(-len(layers) // 12)]),
        y_from_zero=True,
    )


def count_modes(result: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Blocks of each stream by the mode that was chosen for them; empty where the codec has no modes."""
    streams = {
        f"{tensor.upper()} {plane}": result.get(f"{tensor}_{plane}_mode_counts") or {}
        for tensor in "kv"
        for plane in ("hi", "lo")
    }
    kinds = list(dict.fromkeys(str(kind) for counts in streams.values() for kind in counts))
    if not any(count for counts in streams.values() for count in counts.values()):
        return {}
    return {title: {kind: int(counts.get(kind, 0)) for kind in kinds} for title, counts in streams.items()}


def modes_chart(streams: Mapping[str, Mapping[str, int]], chart_id: str) -> ShareChart:
    shown = {title: counted({kind: n for kind, n in counts.items() if n}) for title, counts in streams.items()}
    return ShareChart(
        chart_id,
        "Modes chosen by stream",
        "; ".join(f"{title}: {told or 'none'}" for title, told in shown.items()) + ".",
        tuple(streams),
        tuple(next(iter(streams.values()))),
        tuple(tuple(counts.values()) for counts in streams.values()),
        width=400,
    )
