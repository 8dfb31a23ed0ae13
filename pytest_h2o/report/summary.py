"""A run as one value: `Summary`, made of the records of all items; ``summary.json`` is it as JSON.

Page, Markdown, terminal and GitHub show it; the JSON schema is that of the types, every number with its unit and with
where it comes from. ``overall_pass`` is true, false, ``"inconclusive"`` or ``"incomplete"``. Inconclusive: nothing
failed, but pairs of launches could not tell whether decoding is slower than allowed. Incomplete: nothing failed, but
something that a verdict needs was not asked for or not measured. Only true means that the gate held.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field

from pytest_h2o.gate.metrics import CODING, JOINT, METRICS, TARGET_OPTIONS, render_figure


def number(unit: str, origin: str) -> Any:
    """What the schema says of a number."""
    return Field(json_schema_extra={"unit": unit, "from": origin})


_PAIRS, _SHARE, _RESULT = "decode/pairs.json", "fraction of the baseline speed", "offline_lossless_<scope>.json"
_UNIT, _OF_METRIC = "as `unit` says", "unit of the metric, in figures.json"


@dataclass(frozen=True)
class Items:
    passed: Annotated[int, number("items", "the journal")]
    failed: Annotated[int, number("items", "the journal")]
    skipped: Annotated[int, number("items", "the journal")]


@dataclass(frozen=True)
class Reason:
    """An item, and one line that says why it is listed."""

    item: str
    why: str


@dataclass(frozen=True)
class Verdict:
    """A comparison with a target, as texts and as figures; what JSON has no number for stands as text: nan, inf."""

    metric: str
    title: str
    measured: str
    relation: str
    target: str
    target_origin: str
    margin: str
    source: str
    outcome: str
    unit: str
    value: Annotated[
        float | str, number(_UNIT, "row, run or scope in `source`; of a row, its cell in the log of that run id")
    ]
    std: Annotated[float | str | None, number(_UNIT, "over the repeats of that run, as the bench printed it")]
    low: Annotated[float | None, number(_UNIT, "interval of the pairs, as `basis` says")]
    high: Annotated[float | None, number(_UNIT, "interval of the pairs, as `basis` says")]
    basis: str | None
    target_value: Annotated[float | None, number(_UNIT, "`target_origin`")]
    margin_value: Annotated[float | str | None, number(_UNIT, "value and target")]
    relative_margin: Annotated[
        float | None, number("fraction of the target, or of the baseline speed", "value and target")
    ]


@dataclass(frozen=True)
class Change:
    """A figure of this run and of an earlier one; None where it was not measured."""

    row: str
    metric: str
    then: Annotated[
        int | float | None, number(_OF_METRIC, "the earlier run in `run`; of timings with rolling:N a median")
    ]
    now: Annotated[int | float | None, number(_OF_METRIC, "row in `row`")]
    percent: Annotated[float | None, number("percent of `then`", "then and now")]
    allowed_percent: Annotated[
        float | None, number("percent of `then`", "--h2o-compare-fail, or the spread of rolling:N")
    ]
    state: str


@dataclass(frozen=True)
class Comparison:
    """A preset or scope against an earlier run: figures that changed, and the few that matter most."""

    asked: str
    run: str
    ended: str
    counts: dict[str, Annotated[int, number("figures", "this run against the earlier one")]]
    changes: list[Change]
    differing: list[str] = field(default_factory=list)
    unmet: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    headlines: list[Change] = field(default_factory=list)


@dataclass(frozen=True)
class Decode:
    """The verdict of the pairs of launches of a preset."""

    outcome: str
    drop: Annotated[float | None, number(_SHARE, _PAIRS)] = None
    low: Annotated[float | None, number(_SHARE, _PAIRS)] = None
    high: Annotated[float | None, number(_SHARE, _PAIRS)] = None
    pairs: Annotated[int | None, number("pairs", _PAIRS)] = None
    target: Annotated[float | None, number(_SHARE, "targets of the preset")] = None
    confidence: Annotated[float | None, number("probability", "the method")] = None
    needed_pairs: Annotated[int | None, number("pairs", f"an estimate from {_PAIRS}")] = None
    planned_pairs: Annotated[int | None, number("pairs", "--h2o-decode-budget or the preset")] = None
    excluded: list[str] = field(default_factory=list)
    note: str | None = None
    method: str = ""
    candidate: str = ""
    baseline: str = ""
    seed: Annotated[int | None, number("none", "drawn before the first pair")] = None
    launches: Annotated[int | None, number("launches", _PAIRS)] = None
    elapsed_s: Annotated[float | None, number("s", _PAIRS)] = None
    stopped: str = ""
    is_comparable: bool = True
    measured_again: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Original:
    """The figures of the original scripts, as they format them."""

    averages: dict[str, str]
    top: list[dict[str, str]]
    gate: dict[str, str]


@dataclass(frozen=True)
class WorstRow:
    """A figure of lossless coding at run time, of the row that is worst in it; None where a row lacks it."""

    metric: str
    title: str
    measured: str
    value: Annotated[float | None, number(_OF_METRIC, "cell in the log of the run id in `row`")]
    std: Annotated[float | None, number(_OF_METRIC, "over the repeats of that run, as the bench printed it")]
    row: str


@dataclass(frozen=True)
class LaunchRange:
    """Smallest and largest value of a figure over the launches of one point, that where they are furthest apart."""

    metric: str
    title: str
    smallest: Annotated[float, number(_OF_METRIC, "the launches of the run id in `row`")]
    largest: Annotated[float, number(_OF_METRIC, "the launches of the run id in `row`")]
    row: str


@dataclass(frozen=True)
class BaselineSpeed:
    tok_per_s: Annotated[float | None, number("tok/s", "`origin` beside it")]
    origin: str | None


@dataclass(frozen=True)
class Preset:
    """Everything the reports say of a preset; `top`, `rules` and `baseline` only where all of its rows are there."""

    outcomes: dict[str, str]
    verdicts: list[Verdict]
    rows: Annotated[int, number("rows", "the journal, data.points")]
    points_failed: Annotated[int, number("points", "the journal")]
    launches: Annotated[int, number("launches", "the journal, data.points")]
    shared_runs: dict[str, str]
    warnings: dict[str, Annotated[int, number("lines", "logs/<run_id>.stdout.txt of all runs")]]
    notes: list[str]
    decode: Decode | None
    original: Original | None
    comparison: Comparison | None = None
    comparison_notes: list[str] = field(default_factory=list)
    not_compared: str | None = None
    top: list[dict[str, str]] | None = None
    rules: dict[str, str] | None = None
    baseline: BaselineSpeed | None = None
    coding: list[WorstRow] = field(default_factory=list)
    launched: list[LaunchRange] = field(default_factory=list)
    """Where each point was launched several times."""
    workload: str | None = None
    """Of an entry about one of several workloads."""
    workloads: list[str] = field(default_factory=list)
    """Names of the entries about workloads of this preset."""


@dataclass(frozen=True)
class Unmeasured:
    """A scope that was not evaluated, and why."""

    outcomes: dict[str, str]
    measured: Literal[False]
    reasons: list[str]
    verdicts: list[Verdict]
    comparison: Comparison | None = None
    comparison_notes: list[str] = field(default_factory=list)
    not_compared: str | None = None


@dataclass(frozen=True)
class Scope:
    """Everything the reports say of a scope that was evaluated."""

    outcomes: dict[str, str]
    verdicts: list[Verdict]
    measured: Literal[True]
    refused: bool
    decides: bool
    target: Annotated[float | None, number("ratio", "the scope, or --h2o-lossless-target")]
    codec_mode: str
    entry_mode: str
    selected_entries: Annotated[int, number("entries", "the dump")]
    selected_layers: list[Annotated[int, number("number of a layer", "the dump")]]
    skipped_entries: Annotated[int, number("entries", "the dump")]
    skip_reasons: dict[str, Annotated[int, number("entries", "the dump")]]
    decoded_streams: Annotated[int, number("streams", _RESULT)]
    lossless_ratio: Annotated[float, number("ratio", _RESULT)]
    k_lossless_ratio: Annotated[float, number("ratio", _RESULT)]
    v_lossless_ratio: Annotated[float, number("ratio", _RESULT)]
    raw_bytes: Annotated[int, number("bytes", _RESULT)]
    compressed_bytes: Annotated[int, number("bytes", _RESULT)]
    dump_faults: list[str] = field(default_factory=list)
    dump_gaps: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    comparison: Comparison | None = None
    comparison_notes: list[str] = field(default_factory=list)
    not_compared: str | None = None


@dataclass(frozen=True)
class HistoryRun:
    run: str
    ended: str
    value: Annotated[float, number(_UNIT, "figures of the run in `run`, history.jsonl")]
    held: bool


@dataclass(frozen=True)
class HistoryBaseline:
    name: str
    value: Annotated[float, number(_UNIT, "figures of the baseline or run in `name`")]


@dataclass(frozen=True)
class HistoryFigure:
    """The best value of a figure in earlier runs and this one, with what it is held against."""

    subject: str
    metric: str
    title: str
    unit: str
    baseline: HistoryBaseline | None
    low: Annotated[float | None, number(_UNIT, "as `band` says")]
    high: Annotated[float | None, number(_UNIT, "as `band` says")]
    band: str | None
    runs: list[HistoryRun]


@dataclass(frozen=True)
class Recorded:
    """Where the figures of this run are kept for later ones."""

    history: str | None = None
    baseline: str | None = None
    notes: list[str] = field(default_factory=list)
    trouble: str | None = None


@dataclass(frozen=True)
class Section:
    """What a plugin adds: blocks with a ``text``, a ``list``, or a ``caption`` with ``header`` and ``rows``."""

    title: str
    blocks: list[dict[str, Any]]


@dataclass(frozen=True)
class Summary:
    """`history`, `recorded` and `sections` are there once the run came to its end."""

    version: Annotated[Literal[1], number("number of the format", "this version of pytest-h2o")]
    overall_pass: bool | str
    exit_status: Annotated[int, number("exit status", "pytest")]
    rule: str
    items: Items
    failed: list[Reason]
    inconclusive: list[Reason]
    left_out_on_purpose: list[Reason]
    incomplete_for: list[str]
    not_measured: list[str]
    presets: dict[str, Preset]
    scopes: dict[str, Scope | Unmeasured]
    history: list[HistoryFigure] | None = None
    recorded: Recorded | None = None
    sections: list[Section] | None = None

    def to_json(self) -> dict[str, Any]:
        """As ``summary.json`` has it: what a run broken off or in parts has not is left out."""
        value = {name: part for name, part in asdict(self).items() if part is not None}
        for preset in value["presets"].values():
            for name in ("top", "rules", "baseline", "workload"):
                if preset[name] is None:
                    del preset[name]
            for name in ("coding", "launched", "workloads"):
                if not preset[name]:
                    del preset[name]
        for scope in value["scopes"].values():
            for name in ("dump_faults", "dump_gaps", "notes"):
                if not scope.get(name):
                    scope.pop(name, None)
        return value


def overall_outcome(outcomes: Mapping[str, str]) -> str:
    """The outcome of a preset or scope: ``failed`` if one item failed, else ``passed`` if one passed."""
    return next((outcome for outcome in ("failed", "passed") if outcome in outcomes.values()), "skipped")


def count_rows(preset: Preset) -> str:
    """How many rows, of how many runs, and how many are missing."""
    rows, runs, failed = preset.rows, preset.rows - len(preset.shared_runs), preset.points_failed
    words = [f"{rows} row{'s' * (rows != 1)} of {runs} run{'s' * (runs != 1)}" if rows else "no row"]
    words += [f"{preset.launches} launches"] if preset.launches > runs else []
    return ", ".join([*words, f"{failed} point{'s' * (failed != 1)} without a sound row"] if failed else words)


def range_rows(preset: Preset) -> list[list[str]]:
    """Cells of a table, of what differs between launches: title, smallest, largest and row."""
    rows = []
    for found in preset.launched:
        metric = METRICS.get(found.metric)
        if found.smallest < found.largest and (preset.coding or found.metric not in CODING):
            show = partial(render_figure, found.metric) if metric is None else metric.render
            rows.append([found.title, show(found.smallest), show(found.largest), found.row])
    return rows


def counted(counts: Mapping[str, int]) -> str:
    """``2 worse, 80 equal``."""
    return ", ".join(f"{count} {name}" for name, count in counts.items())


FAULTS_SHOWN = 3


def _more(count: int) -> list[str]:
    return [f"{count} more"] if count > 0 else []


def unreadable(scope: Scope) -> str:
    """How many entries cannot be read, and why; what else speaks against the ratio."""
    if not scope.skipped_entries:
        return "; ".join([*scope.dump_faults[:FAULTS_SHOWN], *_more(len(scope.dump_faults) - FAULTS_SHOWN)])
    total = scope.selected_entries + scope.skipped_entries
    return f"{scope.skipped_entries} of {total} entries cannot be read ({counted(scope.skip_reasons)})"


def render_verdict(overall: bool | str) -> str:
    """``PASS``, ``FAIL``, ``INCONCLUSIVE`` or ``INCOMPLETE``."""
    if isinstance(overall, bool):
        return "PASS" if overall else "FAIL"
    return overall.upper()


# -- what is known, in a line ------------------------------------------------------------------------------------------

_SHOWN_STEPS = 3


def _named_verdicts(summary: Summary) -> list[tuple[str, Verdict]]:
    subjects = {**summary.presets, **summary.scopes}
    return [(name, verdict) for name, subject in subjects.items() for verdict in subject.verdicts]


def _asked(verdict: Verdict) -> str:
    return f"asked {verdict.relation} {verdict.target}"


def headline(summary: Summary) -> str:
    """What is known at the end, in one sentence: what was missed, what nobody can tell, or what came nearest."""
    told = [(name, v) for name, v in _named_verdicts(summary) if v.metric != JOINT]
    missed = [(name, v) for name, v in told if v.outcome == "fail"]
    if missed:
        name, v = missed[0]
        more = f", and {len(missed) - 1} more missed" if missed[1:] else ""
        return f"{v.title} of {name} is {v.measured}, {_asked(v)}{more}"
    if summary.failed:
        more = f", and {len(summary.failed) - 1} more failed" if summary.failed[1:] else ""
        return f"{summary.failed[0].item} failed: {summary.failed[0].why}{more}"
    if summary.overall_pass is False:
        return f"pytest ended with exit status {summary.exit_status}: something failed that left no record"
    unsure = [(name, v) for name, v in told if v.outcome == "inconclusive"]
    if unsure:
        name, v = unsure[0]
        more = f"; {len(unsure) - 1} more cannot be told" if unsure[1:] else ""
        return f"whether {v.title} of {name} is {v.relation} {v.target} cannot be told: {v.measured}{more}"
    if summary.incomplete_for:
        more = f", and {len(summary.incomplete_for) - 1} more missing" if summary.incomplete_for[1:] else ""
        return f"nothing failed, but {summary.incomplete_for[0]}{more}"
    held = [(part, name, v) for name, v in told if v.outcome == "pass" and (part := part_to_spare(v)) is not None]
    if not held:
        reported = all(v.outcome == "reported" for _, v in told)
        return "nothing failed, and no target was set" if reported else "every target is met"
    _, name, v = min(held, key=lambda found: found[0])
    return f"every target is met; the nearest is {v.title} of {name}: {v.measured}, {_asked(v)}"


def next_steps(summary: Summary) -> list[str]:
    """What to do now, as the outcome asks for it."""
    if summary.overall_pass is False:
        return ["each failure ends with the command that repeats it"] if summary.failed else []
    steps = []
    for name, preset in summary.presets.items():
        decode = preset.decode
        if decode is not None and decode.outcome == "inconclusive":
            pairs = f"about {decode.needed_pairs} pairs would tell" if decode.needed_pairs else "more pairs may tell"
            steps.append(f"{name}: {pairs}, of {decode.pairs or 0} made: --h2o-decode-budget on an idle machine")
    if summary.incomplete_for:
        fast = ", --h2o-fast" * any("--h2o-fast" in text for text in summary.incomplete_for)
        steps.append(
            f"run without -k, -m{fast} and --deselect, or add what is missing: the gate passes only as a whole"
        )
    if summary.overall_pass is True and not any(p.comparison for p in summary.presets.values()):
        steps.append("keep these figures with --h2o-save NAME, and hold later builds against them with --h2o-compare")
    return steps[:_SHOWN_STEPS]


def key_figures(summary: Summary) -> list[tuple[str, Verdict]]:
    """Of each metric that has a target the verdict with the least to spare, and what it is of: four at most.

    First what is no pass, then what every gate is about: ratios, decode speed and quality.
    """
    worst: dict[str, tuple[str, Verdict]] = {}
    for name, v in _named_verdicts(summary):
        if v.metric == JOINT or v.outcome == "reported":
            continue
        if v.metric not in worst or _spare(v) < _spare(worst[v.metric][1]):
            worst[v.metric] = name, v
    lead = {name for name in TARGET_OPTIONS if METRICS[name].joint}
    return sorted(worst.values(), key=lambda one: (one[1].outcome == "pass", one[1].metric not in lead))[:4]


def part_to_spare(verdict: Verdict) -> float | None:
    """The margin as a part of the target, the one scale of all metrics; None without one, or with a target of 0."""
    margin, target = verdict.margin_value, verdict.target_value
    return margin / abs(target) if target and isinstance(margin, float | int) and math.isfinite(margin) else None


def _spare(verdict: Verdict) -> float:
    if (part := part_to_spare(verdict)) is not None:
        return part
    return math.inf if verdict.target_value == 0 and verdict.outcome == "pass" else -math.inf


def shared_notes(summary: Summary) -> dict[str, list[str]]:
    """Notes that several presets have, counts aside, and which: they are told once. Those of workloads stand there."""
    told: dict[str, list[str]] = {}
    for name, preset in summary.presets.items():
        for note in dict.fromkeys(preset.notes if preset.workload is None else ()):
            if not _COUNTS.search(note):
                told.setdefault(note, []).append(name)
    return {note: names for note, names in told.items() if len(names) > 1}


def own_notes(summary: Summary, name: str) -> list[str]:
    """Notes that stand under a preset or workload: what both have stands under the preset.

    A count, such as that of launches, is of each workload: it stands under those.
    """
    preset = summary.presets[name]
    if preset.workload is None:
        below = {note for of in preset.workloads if of in summary.presets for note in summary.presets[of].notes}
        return [note for note in preset.notes if not (note in below and _COUNTS.search(note))]
    above = {note for p in summary.presets.values() if name in p.workloads for note in p.notes}
    return [note for note in preset.notes if not (note in above and not _COUNTS.search(note))]


_COUNTS = re.compile(r"\b\d[\d,]* (?:of \d|launch|pair|row|run|repeat)")


MARKS = {"pass": "\u2713", "fail": "\u2717", "inconclusive": "?", "reported": "\u00b7"}
"""Of the matrix, beside the value: the colour is never the only thing that tells."""


def matrix(summary: Summary) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Presets and scopes by targets: the heads, and of each subject its name and then a text and outcome a cell."""
    subjects = {**summary.presets, **summary.scopes}
    titles = list(dict.fromkeys(v.title for subject in subjects.values() for v in subject.verdicts))
    rows = []
    for name, subject in subjects.items():
        found = {v.title: v for v in reversed(subject.verdicts)}
        cells = [(_mark(found[title]), found[title].outcome) if title in found else ("", "") for title in titles]
        rows.append([(name, ""), *cells])
    return ["preset or scope", *titles], rows


def _mark(verdict: Verdict) -> str:
    return f"{MARKS.get(verdict.outcome, '')} {value_alone(verdict)}"


def value_alone(verdict: Verdict) -> str:
    """What was measured without its spread or interval."""
    return verdict.measured.partition(" ±")[0].partition(" (")[0]
