"""The page of a run, ``report.html``: what its templates ask of the summary, the results and the run's own record.

The templates in ``templates/`` say what stands where; here are the rows, figures and charts that they show. One file,
no network, no script; equal runs give equal text, with the same versions of jinja2 and matplotlib.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pytest_h2o.bench.command import RunFiles, repeat_command
from pytest_h2o.errors import make_printable
from pytest_h2o.gate.metrics import DROP, LOSSY, asked_of_json
from pytest_h2o.gate.rule import Margins, find_bound, hold_rows, row_facts, split_layers, whole_cache_ratio
from pytest_h2o.inputs.options import EMBEDDED_BENCH
from pytest_h2o.report.build import why_failed
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
from pytest_h2o.report.summary import (
    VERDICT_COLUMNS,
    Comparison,
    Decode,
    HistoryFigure,
    Preset,
    Scope,
    Summary,
    Unmeasured,
    Verdict,
    count_rows,
    overall_outcome,
    render_verdict,
)
from pytest_h2o.run.journal import Collector

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
    "INCONCLUSIVE": "Nothing failed, but the launches could not tell whether decoding is slower than allowed.",
    "INCOMPLETE": "Nothing failed, but something that a whole verdict needs was not measured or not asked for.",
    "UNFINISHED": "This run did not end, or has not ended yet: what is here is what its journal has.",
}


def render_run(summary: Summary, collector: Collector, run: Mapping[str, Any], page_path: Path | None = None) -> str:
    """The page of a run, from what its folder has."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("pytest_h2o.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        extensions=["jinja2.ext.do"],
    )
    verdict = render_verdict(summary.overall_pass)
    if "ended" not in run and verdict != "FAIL":
        verdict = "UNFINISHED"
    drawing = Drawing(MAX_CHARTS)
    links = links_of(collector.run_dir, page_path)
    environment.filters |= {
        **_FILTERS,
        "draw": lambda chart: (svg := drawing.draw(chart)) and Markup(svg),
        "view_preset": partial(view_preset, collector),
    }
    return environment.get_template("report.html.j2").render(
        summary=summary,
        collector=collector,
        run={"settings": {}, **run},
        verdict=verdict,
        meanings=MEANINGS,
        tones=TONES,
        items=collector.sorted_items(),
        thresholds=overview(summary),
        page_columns=PAGE_COLUMNS,
        history=shown_history(summary),
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
    """Draws the charts of one page: `limit` at most, and none where matplotlib is `missing`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.missing: str | None = None
        self._drawn = 0

    def draw(self, chart: Chart) -> str:
        """The chart as an ``<svg>`` element; empty where it is not drawn."""
        if self._drawn == self.limit or self.missing is not None:
            return ""
        try:
            text = render_chart(chart)
        except ChartsMissing as error:
            self.missing = str(error)
            return ""
        self._drawn += 1
        return text


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

    def to(self, text: str, name: str, *, is_there: bool = False) -> list[tuple[str, str]]:
        """Text and address of a link to a file of the run folder; none if it is not there. `is_there`: it will be."""
        if not (is_there or self.exists(name)):
            return []
        return [(text, quote_path(f"{self.prefix}/{name}" if self.prefix else name))]

    def to_run(self, folder: str, run_id: str) -> list[tuple[str, str]]:
        """Links to the files of one run of the bench, in the folder of its sweep."""
        files = RunFiles(Path(folder), run_id)
        named = (("config", files.config), ("log", files.log), ("output", files.stdout), ("JSON", files.json))
        return [link for text, path in named for link in self.to(text, path.as_posix())]


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
    margins: Margins | None
    on_front: bool

    @property
    def is_launch(self) -> bool:
        """Whether the row is of a run of its own, and not one that it shares."""
        return self.result.shares_run_with is None


def build_rows(
    collector: Collector, name: str, asked: Mapping[str, float], lossless: float | None, layers: Sequence[int]
) -> list[ReportRow]:
    """Every row with what is said of it; `layers` are those that the deciding scope coded."""
    facts, results = collector.presets.get(name), collector.results_of(name)
    split = None
    margins: Sequence[Margins | None] = [None] * len(results)
    if facts is not None:
        baseline = facts["baseline_tok_per_s"]
        held = [row_facts(row, asked, baseline_tok_per_s=baseline, lossless=lossless) for row in results]
        margins = hold_rows(held, asked)
        if facts["model_layers"] is not None:
            split = split_layers(facts["model_layers"], facts["h2o_layer_start"], facts["h2o_layer_end"], layers)
    points = [(row.get(LOSSY), row.decode_tok_per_s) for row in results]
    front = find_front([(lossy.mean, decode.mean) if lossy and decode else None for lossy, decode in points])
    numbers = [int(point["index"]) for point in collector.points_in_order(name)]
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


def fixed(value: float | None, digits: int, missing: str = "missing") -> str:
    """A number with so many digits after the point."""
    return missing if value is None else f"{value:.{digits}f}"


def spread(value: Measurement | None, digits: int) -> str:
    """``mean ± std``; without the spread where it is not known."""
    if value is None:
        return "missing"
    return fixed(value.mean, digits) + ("" if value.std is None else f" ± {value.std:.{digits}f}")


def _number(value: object) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _percent(value: object) -> str:
    number = _number(value)
    return "unbounded" if number is None else f"{number:.2%}"


def show(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.6g}" if isinstance(value, float) else f"{value:,}"
    return "missing" if value is None else str(value)


def _ticks(count: int) -> tuple[tuple[float, str], ...]:
    """Names of the places 1 to `count` on an axis, about twelve of them."""
    return tuple((float(place), str(place)) for place in range(1, count + 1, 1 + count // 12))


# -- the run ---------------------------------------------------------------------------------------------------------


PAGE_COLUMNS = ("threshold", "outcome", *(c for c in VERDICT_COLUMNS if c not in ("threshold", "outcome")))
"""The outcome stands early: a phone shows the first columns alone."""


def overview(summary: Summary) -> list[list[str]]:
    """One line a threshold of a preset and one a scope, the header first; nothing where there is none."""
    rows = [[name, *verdict_row(v)] for name, preset in summary.presets.items() for v in preset.verdicts]
    rows += [[name, *scope_row(scope)] for name, scope in summary.scopes.items()]
    lines = [["preset or scope", *PAGE_COLUMNS], *rows] if rows else []
    return [[name, outcome, threshold, *rest] for name, threshold, outcome, *rest in lines]  # names are long


def verdict_row(verdict: Verdict) -> list[str]:
    """The cells of a verdict, as `PAGE_COLUMNS` names them."""
    cells = {column: make(verdict) for column, make in VERDICT_COLUMNS.items()}
    cells["target"] += f" ({verdict.target_origin})"
    return [cells[column] for column in PAGE_COLUMNS]


def scope_row(scope: Scope | Unmeasured) -> list[str]:
    """The ratio of a scope as `verdict_row` tells one."""
    outcome = overall_outcome(scope.outcomes)
    cells = {"threshold": "lossless ratio", "measured": "not measured"}
    if isinstance(scope, Scope):
        target, ratio = scope.target, scope.lossless_ratio
        outcome = "reported" if outcome == "passed" and target is None else outcome
        cells["row"] = "decides" if scope.decides else ""
        cells["measured"] = "refused" if scope.refused else f"{ratio:.4f}"
        if not scope.refused:
            cells["target"] = "reported only" if target is None else f">= {target:.4f}"
            cells["margin"] = "" if target is None else f"{ratio - target:.4f}"
    cells["outcome"] = "pass" if outcome == "passed" else outcome
    return [cells.get(column, "") for column in PAGE_COLUMNS]


def bench_name(path: str) -> str:
    """The bench in words if it is the one that comes with the plugin, wherever that was installed; else its path."""
    return "the embedded reference bench" if path.endswith("/".join(EMBEDDED_BENCH.parts[-3:])) else path


def pick(value: Mapping[str, Any] | object, *names: str) -> list[str]:
    """Fields of an entry as texts."""
    found = (value.get(name) if isinstance(value, Mapping) else getattr(value, name) for name in names)
    return ["" if one is None else str(one) for one in found]


def said(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values as texts."""
    return [(name, v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)) for name, v in facts.items()]


def given(settings: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Every setting with its value and where it was said."""
    values = said({name: setting["value"] for name, setting in settings.items()})
    return [(name, value, str(settings[name]["origin"])) for name, value in values]


# -- a preset --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PresetView:
    """What the page asks of a preset beside its summary.

    Attributes
    ----------
    failed : list
        Launches that gave no sound row, in the order of the sweep.
    pairs : list
        Pairs of launches, in their order.
    lossless : float or None
        Lossless ratio of the deciding scope, raw over coded bytes.
    asked : mapping
        Targets that stand as lines in a chart, and with them `baseline_tok_per_s`, the decode speed with H2O off. Of
        pairs, whose verdict does not rest on the rows, the lines only show where the rows lie.
    """

    name: str
    rows: list[ReportRow]
    failed: list[Mapping[str, Any]]
    pairs: list[Mapping[str, Any]]
    lossless: float | None
    asked: Mapping[str, float]
    baseline_tok_per_s: float | None

    def trade_chart(self, chart_id: str) -> XYChart | None:
        """Total ratio against decode speed; None where no row has both."""
        rows = [row for row in self.rows if row.is_launch and row.lossy is not None and row.decode is not None]
        return _trade_chart(chart_id, self, rows) if rows else None

    def quality(self) -> list[list[str]]:
        """The quality columns of every run, the header first; nothing if no row has any."""
        measured = [row for row in self._launched() if any(_value(row.result, c) is not None for c, *_ in COLUMNS)]
        if not measured:
            return []
        shown = [c for c in COLUMNS if any(_value(row.result, c[0]) is not None for row in measured)]
        lines = [["run", "keep", *(title for _, title, _ in shown)]]
        for row in measured:
            values = (
                (_value(row.result, name), form) for name, form in (("h2o_keep", ".4f"), *(c[::2] for c in shown))
            )
            texts = ("missing" if value is None else format(value, form) for value, form in values)
            lines.append([row.result.run_id, *texts])
        return lines

    def _launched(self) -> list[ReportRow]:
        return [row for row in self.rows if row.is_launch]

    def quality_chart(self, chart_id: str) -> XYChart | None:
        """The rise in perplexity over the keep ratio; None where no run has both."""
        dots = []
        for row in self._launched():
            keep, rise = _value(row.result, "h2o_keep"), _value(row.result, "quality_ppl_rise")
            if keep is not None and rise is not None:
                dots.append(Dot(keep, 100 * rise, label=f"{row.number}"))
        if not dots:
            return None
        rules = [Rule("no rise", "quiet", 0.0, "y")]
        if (target := self.asked.get("quality_ppl_rise")) is not None:
            rules.append(Rule(f"target {100 * target:g} %", "c2", 100 * target, "y"))
        return XYChart(
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


def view_preset(collector: Collector, name: str, preset: Preset) -> PresetView:
    deciding = collector.accepted_scope(decides=True)
    lossless = None if deciding is None else float(deciding["lossless_ratio"])
    facts = collector.presets.get(name) or {"targets": {}, "decode_left_out": True, "baseline_tok_per_s": None}
    asked = asked_of_json(facts["targets"], facts.get("metric_targets", {}))
    paired, baseline = facts.get("paired"), facts["baseline_tok_per_s"]
    # Paired launches give the slow-down of one row; other rows are not held against the decode target.
    held = {key: target for key, target in asked.items() if key != DROP or not (paired or facts["decode_left_out"])}
    if paired:
        baseline = None if preset.baseline is None else preset.baseline.tok_per_s
    return PresetView(
        name,
        build_rows(collector, name, held, lossless, [] if deciding is None else deciding["selected_layers"]),
        sorted(collector.failed.get(name, {}).values(), key=lambda point: int(point["index"])),
        list(collector.comparisons.get(name, {}).get("pairs", ())),
        lossless,
        asked if paired else held,
        baseline,
    )


def _trade_chart(chart_id: str, view: PresetView, rows: Sequence[ReportRow]) -> XYChart:
    scale = 1.0 if view.lossless is None else view.lossless

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
    lossy, drop, baseline = view.asked.get(LOSSY), view.asked.get(DROP), view.baseline_tok_per_s
    if lossy is not None:
        rules.append(Rule(f"lossy target {lossy:g}", "c2", lossy * scale, "y"))
    if baseline is not None:
        if drop is not None:
            rules.append(Rule(f"decode target {baseline * (1 - drop):.1f}", "c4", baseline * (1 - drop), "x"))
        rules.append(Rule(f"baseline {baseline:.1f}", "c3", baseline, "x"))
    best = "; ".join(
        f"run {r.number}: {fixed(r.total, 3, '?')} at {r.decode.mean:.1f} tok/s" for r in front if r.decode
    )
    y_label = "lossy ratio" if view.lossless is None else "total ratio (lossy × lossless)"
    return XYChart(
        chart_id,
        f"{y_label} against decode speed, {view.name}",
        f"{len(rows)} runs. On the Pareto front: {best or 'none'}.",
        "decode speed, tokens per second",
        y_label,
        series,
        tuple(rules),
        width=440,
        height=340,
    )


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


def keep_of(row: Row) -> float | None:
    return _mean(row, "h2o_keep")


def _mean(result: Row, column: str) -> float | None:
    cell = result.get(column)
    return cell.mean if cell else None


def bound_of(result: Row) -> str:
    """What keeps the row from evicting more."""
    columns = ("h2o_floor_keep", "h2o_target_keep_effective", "h2o_quantized_keep")
    bound = find_bound(*(_mean(result, column) for column in columns))
    return "unknown" if bound is None else bound.kind.replace(" ", "\u00a0")  # on one line, or every row has two


def decode_facts(verdict: Decode) -> list[str]:
    """The verdict of the pairs in lines."""
    drop, low, high, target = (_percent(value) for value in (verdict.drop, verdict.low, verdict.high, verdict.target))
    facts = [f"outcome: {verdict.outcome}; slow-down {drop}, interval {low} to {high}, target at most {target}"]
    for key, title in (
        ("pairs", "pairs compared"),
        ("candidate", "candidate"),
        ("baseline", "baseline"),
        ("needed_pairs", "pairs that a clear verdict would need, about"),
        ("stopped", "ended because"),
        ("note", "note"),
        ("method", "method"),
    ):
        if getattr(verdict, key) not in (None, ""):
            facts.append(f"{title}: {getattr(verdict, key)}")
    facts += [f"excluded: {text}" for text in verdict.excluded]
    facts += [f"measured again: {text}" for text in verdict.measured_again]
    return facts


def _sides(pair: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [pair.get(side) or {} for side in ("baseline", "candidate")]


def _drop(pair: Mapping[str, Any]) -> float | None:
    """Fraction of speed that the candidate of a pair lost; None where a speed is missing."""
    before, after = (_number(side.get("decode_tok_per_s")) for side in _sides(pair))
    return None if not before or after is None else 1.0 - after / before


def pairs_chart(verdict: Decode, chart_id: str, pairs: Sequence[Mapping[str, Any]]) -> XYChart:
    """Each pair as a point, with the interval and the target."""
    dots = [(Dot(n, 100 * drop), pair) for n, pair in enumerate(pairs, 1) if (drop := _drop(pair)) is not None]
    compared = tuple(dot for dot, pair in dots if not pair.get("excluded"))
    excluded = tuple(dot for dot, pair in dots if pair.get("excluded"))
    low, high = _number(verdict.low), _number(verdict.high)
    rules = [Rule("no change", "quiet", 0.0, "y")]
    if (target := _number(verdict.target)) is not None:
        rules.append(Rule(f"target {100 * target:.1f} %", "bad", 100 * target, "y"))
    if (drop := _number(verdict.drop)) is not None:
        rules.append(Rule(f"estimate {100 * drop:.1f} %", "c1", 100 * drop, "y"))
    return XYChart(
        chart_id,
        "Slow-down of each pair",
        f"{len(compared)} pairs compared, {len(excluded)} excluded; {decode_facts(verdict)[0]}.",
        "pair, in launch order",
        "slow-down, %",
        (Series("pair", "c1", compared), Series("excluded", "quiet", excluded, marker="x")),
        tuple(rules),
        () if low is None or high is None else (Band("interval", "c1", 100 * low, 100 * high),),
        ticks=_ticks(len(pairs)),
        width=440,
        height=280,
    )


def pair_rows(pairs: Sequence[Mapping[str, Any]]) -> list[tuple[list[str], list[str]]]:
    """Cells of each pair of launches, and the run ids of its sides."""
    rows = []
    for number, pair in enumerate(pairs, 1):
        sides, drop = _sides(pair), _drop(pair)
        speeds = ["missing" if (v := _number(s.get("decode_tok_per_s"))) is None else f"{v:.2f}" for s in sides]
        remarks = [str(pair["excluded"])] if pair.get("excluded") else []
        remarks += _disturbed(*(str(side.get("disturbance") or "") for side in sides))
        first = {"AB": "baseline", "BA": "candidate"}.get(str(pair.get("order")), "")
        cells = [f"{number}", first, *speeds, "" if drop is None else f"{drop:.2%}", "; ".join(remarks)]
        rows.append((cells, [str(side.get("run_id")) for side in sides]))
    return rows


def _disturbed(baseline: str, candidate: str) -> list[str]:
    """What disturbed the launches of a pair, and which."""
    if baseline == candidate:
        return [f"both disturbed: {baseline}"] if baseline else []
    sides = (("baseline", baseline), ("candidate", candidate))
    return [f"{side} disturbed: {text}" for side, text in sides if text]


# -- an earlier run --------------------------------------------------------------------------------------------------


def comparison_notes(subject: Preset | Scope | Unmeasured) -> list[str]:
    """What was compared with, how many figures changed, and what else there is to say."""
    notes = [f"not compared: {subject.not_compared}"] if subject.not_compared else []
    if (compared := subject.comparison) is not None:
        counts = ", ".join(f"{count} {state}" for state, count in compared.counts.items())
        notes.insert(0, f"against {compared.asked} (run {compared.run}): {counts or 'no figure'}")
    return notes + subject.comparison_notes


def shown_changes(comparison: Comparison | None) -> list[list[str]]:
    """The figures that changed, and those that matter most: figure, row, then, now, change, verdict."""
    if comparison is None:
        return []
    return [
        [
            change.metric,
            change.row,
            show(change.then),
            show(change.now),
            "" if _number(change.percent) is None else f"{change.percent:+.2f} %",
            change.state,
        ]
        for change in {repr(c): c for c in (*comparison.changes, *comparison.headlines)}.values()
    ]


def shown_history(summary: Summary) -> list[tuple[int, HistoryFigure]]:
    """Figures over earlier runs, with their place among all of them; a figure without a value is left out."""
    figures = (
        (number, replace(figure, runs=[run for run in figure.runs if _number(run.value) is not None]))
        for number, figure in enumerate(summary.history or (), 1)
    )
    return [(number, figure) for number, figure in figures if figure.runs]


def history_name(figure: HistoryFigure) -> str:
    return f"{figure.title} of {figure.subject}"


def history_best(figure: HistoryFigure) -> str:
    return ", the best row of each" if figure.subject.startswith("preset ") else ""


def history_rows(figure: HistoryFigure) -> list[list[str]]:
    return [[run.run, run.ended, show(run.value), "held" if run.held else "failed"] for run in figure.runs]


def history_caption(figure: HistoryFigure) -> str:
    name, baseline = history_name(figure), figure.baseline
    told = [f"{name[:1].upper()}{name[1:]} in this run and in those before it{history_best(figure)}."]
    if baseline:
        told.append(f"Baseline: {show(baseline.value)} ({baseline.name}).")
    if _band(figure):
        told.append(f"Band: {show(figure.low)} to {show(figure.high)} ({figure.band}).")
    return " ".join(told)


def _band(figure: HistoryFigure) -> tuple[Band, ...]:
    low, high = _number(figure.low), _number(figure.high)
    drawable = low is not None and high is not None and is_drawable(low, high)
    return (Band("band", "c3", low, high),) if drawable and low is not None and high is not None else ()


def history_chart(figure: HistoryFigure, chart_id: str) -> XYChart:
    """A figure over runs, with its baseline and band."""
    values = [float(run.value or 0) for run in figure.runs]
    dots = [Dot(place, value) for place, value in enumerate(values, 1)]
    held = [run.held for run in figure.runs]
    baseline = None if figure.baseline is None else _number(figure.baseline.value)
    return XYChart(
        chart_id,
        f"{history_name(figure)} over {len(dots)} runs",
        f"from {show(figure.runs[0].value)} to {show(figure.runs[-1].value)}.",
        "run, oldest first; this one last",
        f"{figure.title}{f', {figure.unit}' if figure.unit else ''}",
        (
            Series("", "quiet", tuple(dots), marker="", line="solid"),
            Series("held", "c1", tuple(dot for dot, is_held in zip(dots, held, strict=True) if is_held)),
            Series("failed", "bad", tuple(dot for dot, is_held in zip(dots, held, strict=True) if not is_held), "x"),
        ),
        () if baseline is None or not is_drawable(baseline) else (Rule("baseline", "c3", baseline, "y"),),
        _band(figure),
        ticks=_ticks(len(dots)),
        width=400,
        height=260,
    )


# -- a scope ---------------------------------------------------------------------------------------------------------


_PLANES = (("both planes", "ink", "o"), ("hi plane", "c1", "^"), ("lo plane", "c2", "v"))
_STREAMS = (("K hi", "k_hi"), ("K lo", "k_lo"), ("V hi", "v_hi"), ("V lo", "v_lo"))


def sizes(result: Mapping[str, Any]) -> list[list[str]]:
    """Ratio, raw bytes and coded bytes of both tensors and of each."""
    return [
        [
            title,
            fixed(result[f"{kind}lossless_ratio"], 4),
            *(f"{result[f'{kind}{size}_bytes']:,}" for size in ("raw", "compressed")),
        ]
        for title, kind in (("K and V", ""), ("K", "k_"), ("V", "v_"))
    ]


def _ratios(layer: Mapping[str, Any], tensor: str) -> list[float | None]:
    """Ratio of both planes together (framing counted), of the high plane and of the low plane; a plane is half."""
    raw, both = layer[f"{tensor}_raw_bytes"], layer[f"{tensor}_compressed_bytes"]
    planes = [layer.get(f"{tensor}_{plane}_bytes") for plane in ("hi", "lo")]
    return [raw / both if both else None, *(raw / 2 / coded if coded else None for coded in planes)]


def layers(by_layer: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [f"layer {layer['layer_id']}", *(fixed(r, 4, "not told") for tensor in "kv" for r in _ratios(layer, tensor))]
        for layer in by_layer
    ]


def layer_chart(by_layer: Sequence[Mapping[str, Any]], chart_id: str, tensor: str) -> XYChart:
    ratios = [_ratios(layer, tensor) for layer in by_layer]
    series = []
    for place, (title, ink, marker) in enumerate(_PLANES):
        dots = tuple(Dot(x, y) for x, values in enumerate(ratios) if (y := values[place]) is not None)
        series.append(Series(title, ink, dots, marker, "solid"))  # type: ignore[arg-type]
    every = max(1, -(-len(by_layer) // 12))
    ticks = tuple((float(x), str(layer["layer_id"])) for x, layer in enumerate(by_layer) if x % every == 0)
    name = tensor.upper()
    numbered = zip(by_layer[:40], ratios, strict=False)
    told = "; ".join(f"layer {layer['layer_id']}: {fixed(values[0], 3)}" for layer, values in numbered)
    return XYChart(
        chart_id,
        f"{name}: lossless ratio by layer",
        f"Both planes together, {told}.",
        "layer",
        f"lossless ratio of {name}",
        tuple(series),
        (Rule("", "quiet", 1.0, "y"),),
        ticks=ticks,
        y_from_zero=True,
    )


def modes(result: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Blocks of each stream by the mode that was chosen for them; empty where the codec has no modes."""
    streams = {title: result.get(f"{key}_mode_counts") or {} for title, key in _STREAMS}
    kinds = list(dict.fromkeys(str(kind) for counts in streams.values() for kind in counts))
    if not any(count for counts in streams.values() for count in counts.values()):
        return {}
    return {title: {kind: int(counts.get(kind, 0)) for kind in kinds} for title, counts in streams.items()}


def mode_rows(streams: Mapping[str, Mapping[str, int]]) -> list[list[str]]:
    """Blocks of each stream by mode, the header first."""
    header = ["stream", *next(iter(streams.values()))]
    return [header, *([title, *(f"{count:,}" for count in counts.values())] for title, counts in streams.items())]


def modes_chart(streams: Mapping[str, Mapping[str, int]], chart_id: str) -> ShareChart:
    told = (
        f"{title}: {', '.join(f'{count} {kind}' for kind, count in counts.items() if count) or 'none'}"
        for title, counts in streams.items()
    )
    return ShareChart(
        chart_id,
        "Modes chosen by stream",
        f"{'; '.join(told)}.",
        tuple(streams),
        tuple(next(iter(streams.values()))),
        tuple(tuple(counts.values()) for counts in streams.values()),
        width=400,
    )


_FILTERS: Mapping[str, Callable[..., Any]] = {
    "fixed": fixed,
    "spread": spread,
    "show": show,
    "grouped": "{:,}".format,
    "grouped_values": lambda counts: [(name, f"{count:,}") for name, count in counts.items()],
    **{
        function.__name__: function
        for function in (
            *(pick, said, given, bench_name, repeat_command, why_failed, count_rows, verdict_row),
            *(bound_of, keep_of, decode_facts, pairs_chart, pair_rows, comparison_notes, shown_changes),
            *(history_name, history_best, history_rows, history_caption, history_chart),
            *(sizes, layers, layer_chart, modes, mode_rows, modes_chart),
        )
    },
}
"""What the templates call, by name."""
