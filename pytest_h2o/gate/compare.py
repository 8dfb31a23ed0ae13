"""One run against another: which figures are worse, and which of those are too much worse. Pure.

Exact figures (ratios, sizes, counts, quality) are the same to the last digit in two runs of the same thing, so any
worsening of one fails, unless it is allowed. Timings are compared only where all that they were measured with is known
and equal, and even then they fail only where an allowance asks for it: noise makes any two of them differ. The spread
between several earlier runs says how much (`roll`). Quality is a sum over many floats: the libraries of linear algebra
add them in an order that suits the processor. Where that may be another, a quality figure is held only against an
allowance.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_h2o.bench.command import ADDED_KEYS
from pytest_h2o.bench.rows import FEWER_COLUMN, H2O_COLUMNS
from pytest_h2o.errors import H2OError, StoreError, UsageError, did_you_mean
from pytest_h2o.gate.metrics import CODING, HEADLINES, METRICS, Better, recorded_metrics, render_figure
from pytest_h2o.gate.values import row_cell
from pytest_h2o.inputs.checking import LLM_BENCH

if TYPE_CHECKING:
    from pytest_h2o.bench.rows import Row
    from pytest_h2o.inputs.presets import Preset
    from pytest_h2o.lossless.result import LosslessResult


def _lengths_of(row: str) -> str:
    """What the name of a row of a preset begins with, see `row_key`: ``p512_g128``."""
    found = re.match(r"p\d+_g\d+(?=[_-])", row)
    return found[0] if found else ""


SubjectKind = Literal["preset", "scope"]
_LATER = frozenset(CODING) - frozenset(H2O_COLUMNS)
"""What only later binaries tell of lossless coding at run time."""


@dataclass(frozen=True)
class MetricFacts:
    """What a record of a run keeps of a metric, for versions that know it no more or not yet."""

    unit: str
    better: Better
    exact: bool


def metric_facts() -> dict[str, MetricFacts]:
    """The table as it is kept with every record."""
    return {name: MetricFacts(m.unit, m.better, m.exact) for name, m in recorded_metrics().items()}


@dataclass(frozen=True)
class SubjectRecord:
    """The figures of one preset or scope.

    Attributes
    ----------
    held : bool
        No item of it failed in that run.
    fingerprint : mapping of str to str or None
        What it was measured with, part by part: machine, binary, model, preset, threads, codec. None: not known.
    figures : mapping of str to mapping
        Row -> metric -> value. A figure that was not measured is not there.
    inexact : tuple of str
        Metrics that two runs of the same thing do not give alike here: those of asynchronous coding.
    launches : mapping of str to mapping
        Row -> metric -> smallest and largest value, of rows that were launched several times.
    """

    kind: SubjectKind
    name: str
    held: bool
    fingerprint: Mapping[str, str | None]
    figures: Mapping[str, Mapping[str, int | float]]
    inexact: tuple[str, ...] = ()
    launches: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def workloads(self) -> tuple[str, ...]:
        """Those that its rows are of, where there are several; else one without a name that takes all rows."""
        found = dict.fromkeys(map(_lengths_of, self.figures))
        return tuple(found) if len(found) > 1 and self.kind == "preset" else ("",)

    def values_of(self, metric: str, workload: str = "") -> list[int | float]:
        """What the rows of a workload, or all, have of a metric."""
        rows = (row for name, row in self.figures.items() if workload in ("", _lengths_of(name)))
        return [row[metric] for row in rows if metric in row]

    @property
    def codes(self) -> bool:
        """Whether it has what only lossless coding at run time gives."""
        return any(not _LATER.isdisjoint(row) for row in self.figures.values())


State = Literal["equal", "better", "allowed", "worse", "changed", "missing", "new", "within", "timed", "not comparable"]
"""``changed``: a figure that says what was measured is another. ``missing``: measured then, and not now.
``within``: a timing that differs by no more than earlier runs do. ``timed``: a comparable timing that nothing holds."""

QUIET: frozenset[State] = frozenset({"equal", "within", "timed", "not comparable"})
"""What tables of changes leave out."""

_EPSILON = 1e-9
"""Percent: what the arithmetic of floats may add to a worsening that is just allowed."""

_ARITHMETIC = ("machine", "threads", "backend")
"""Parts of a fingerprint that the last digits of a rounded figure depend on, beside the binary that is judged."""

FAILING: frozenset[State] = frozenset({"worse", "changed", "missing"})


class Allowances(NamedTuple):
    """Allowed worsening in percent by metric; what is not named may not worsen at all."""

    percent: Mapping[str, float]
    origin: str = "--h2o-compare-fail"

    def find(self, metric: str) -> tuple[str, float] | None:
        """The allowance that holds for a metric: its own, else that of what it is a part of; and whose it is."""
        name: str | None = metric
        while name:
            if name in self.percent:
                return name, self.percent[name]
            name = METRICS[name].part_of if name in METRICS else None
        return None


def _is_rounded(metric: str) -> bool:
    """Whether the last digits of a metric depend on the processor; false of one that this version does not know."""
    return metric in METRICS and METRICS[metric].rounded


def check_metric(name: str, origin: str) -> None:
    """Check that a metric is recorded; UsageError with the nearest names if none is called so."""
    recorded = recorded_metrics()
    if name not in recorded:
        raise UsageError(
            f"{origin} names no metric that is recorded",
            came=repr(name),
            expected=", ".join(recorded),
            hint=did_you_mean(name, recorded, most=3, cutoff=0.5),
        )


def parse_allowances(texts: Iterable[str], origin: str = "--h2o-compare-fail") -> Allowances:
    """Read ``METRIC:PERCENT`` settings."""
    percent: dict[str, float] = {}
    for text in texts:
        metric, colon, number = (part.strip() for part in text.partition(":"))
        check_metric(metric, origin)
        try:
            value = float(number.removesuffix("%")) if colon else math.nan
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise UsageError(
                f"{origin} takes METRIC:PERCENT",
                came=repr(text),
                expected=f"a percentage of at least 0, for example {metric}:0.5",
            )
        if metric in percent:
            raise UsageError(f"{origin} was given twice for one metric", came=repr(text), expected="once a metric")
        percent[metric] = value
    return Allowances(percent, origin)


@dataclass(frozen=True)
class FigureChange:
    """One figure then and now; None where it was not measured."""

    row: str
    metric: str
    then: float | None
    now: float | None
    state: State
    allowed_percent: float | None = None

    @property
    def percent(self) -> float | None:
        """Change in percent of the figure then, with its sign; None where that cannot be said."""
        if self.then is None or self.now is None or not self.then:
            return None
        return (self.now - self.then) / abs(self.then) * 100

    def __repr__(self) -> str:
        change = "" if self.percent is None else f" ({self.percent:+.2f} %)"
        then, now = render_figure(self.metric, self.then), render_figure(self.metric, self.now)
        return f"{self.metric} of {self.row}: {then} -> {now}{change}"


class SubjectComparison(NamedTuple):
    """A preset or scope of one run against the same one of an earlier run.

    Attributes
    ----------
    changes : tuple of FigureChange
        Every figure of both, those that fail first.
    differing : tuple of str
        Parts of the fingerprint that differ or are not known, each with both values: why timings are not compared.
    rolling : Rolling, optional
        The earlier runs that timings were to be held against, where they were several.
    """

    changes: tuple[FigureChange, ...]
    differing: tuple[str, ...]
    rolling: Rolling | None = None

    @property
    def regressions(self) -> tuple[FigureChange, ...]:
        """What makes the comparison fail: figures that are worse, changed or missing."""
        return tuple(change for change in self.changes if change.state in FAILING)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was not compared, and why."""
        asked = f" ({', '.join(self.unmet)} should have been)" if self.unmet else ""
        timings: tuple[str, ...] = (
            (f"timings are not compared{asked}; {'; '.join(self.differing)}",) if self.differing else ()
        )
        if self.rolling is not None and not self.differing:
            timings = (self.rolling.rule,)
            if self.unmet:
                timings += (f"{', '.join(self.unmet)} not compared: not every one of these runs has it in every row",)
        names = dict.fromkeys(c.metric for c in self.changes if c.state == "not comparable" and _is_rounded(c.metric))
        if not names:
            return timings
        return (
            *timings,
            f"{', '.join(names)} changed, and another machine gives other last digits: judged only where "
            f"--h2o-compare-fail {next(iter(names))}:PERCENT says by how much",
        )

    @property
    def unmet(self) -> tuple[str, ...]:
        """Timings that were asked to be held against the earlier run and cannot be."""
        left_out = (c for c in self.changes if c.state == "not comparable")
        rolls = self.rolling is not None
        return tuple(
            dict.fromkeys(
                c.metric for c in left_out if c.allowed_percent is not None or (rolls and _is_timing(c.metric))
            )
        )

    @property
    def counts(self) -> dict[str, int]:
        """Number of figures in each state that occurs."""
        return dict(Counter(change.state for change in self.changes))

    def to_json(self) -> dict[str, Any]:
        """Built-in types only; figures that are equal, and timings that nothing was asked of, are only counted."""
        shown = [c for c in self.changes if c.state not in QUIET]
        return {
            "counts": self.counts,
            "changes": [change_to_json(change) for change in shown],
            "differing": list(self.differing),
            "unmet": list(self.unmet),
        }


def change_to_json(change: FigureChange) -> dict[str, Any]:
    return {**asdict(change), "percent": change.percent}


def compare_subjects(
    then: SubjectRecord,
    now: SubjectRecord,
    metrics: Mapping[str, MetricFacts],
    allowances: Allowances,
    *,
    where: str = "the baseline",
    rolling: Rolling | None = None,
    not_launched: Collection[str] = (),
) -> SubjectComparison:
    """Hold the figures of a preset or scope against those of an earlier run; timings, with `rolling`, of several.

    Rows that were `not_launched` on purpose are not missing.
    """
    refuse_other_model(then, now, where)
    differing = differing_parts(then.fingerprint, now.fingerprint)
    if rolling is not None:
        differing = (rolling.shortage, *differing) if rolling.shortage else ()
        then = rolling.put_into(then)
    elsewhere = any(
        then.fingerprint.get(part) is None or then.fingerprint[part] != now.fingerprint.get(part)
        for part in _ARITHMETIC
        if part in then.fingerprint or part in now.fingerprint
    )
    timed = {name: replace(metrics[name], exact=False) for name in {*then.inexact, *now.inexact} & metrics.keys()}
    metrics = {**metrics, **timed}
    changes = []
    for row in dict.fromkeys([*now.figures, *(row for row in then.figures if row not in not_launched)]):
        old, new = then.figures.get(row, {}), now.figures.get(row, {})
        for metric, facts in metrics.items():
            if metric in old or metric in new:
                change = _compare_figure(row, metric, old.get(metric), new.get(metric), facts)
                loose = elsewhere and _is_rounded(metric)
                change = _judge(change, facts, allowances, differs=bool(differing), loose=loose)
                if change.state == "timed" and rolling is not None and _is_timing(metric):
                    change = rolling.judge(change, facts)
                changes.append(change)
    return SubjectComparison(tuple(sorted(changes, key=lambda c: c.state not in FAILING)), differing, rolling)


def refuse_other_model(then: SubjectRecord, now: SubjectRecord, where: str) -> None:
    """Refuse to compare the figures of two models: StoreError with both."""
    for part in ("model", "weights"):
        old, new = then.fingerprint.get(part), now.fingerprint.get(part)
        if old is None or new is None or old == new:
            continue
        raise StoreError(
            f"{where} is of another model",
            where=now.title,
            came=old if part == "model" else f"{part} {old}",
            expected=new if part == "model" else f"{part} {new}",
            hint="compare with a run of the same model, or save this one under a name of its own: --h2o-save NAME",
        )


def differing_parts(then: Mapping[str, str | None], now: Mapping[str, str | None]) -> tuple[str, ...]:
    """The parts of two fingerprints that are not known to be equal, each with both values."""
    parts = dict.fromkeys([*now, *then])
    unknown = [part for part in parts if then.get(part) is None and now.get(part) is None]
    return (
        *(
            f"{part}: {then.get(part) or 'not known'} then, {now.get(part) or 'not known'} now"
            for part in parts
            if then.get(part) != now.get(part)
        ),
        *([f"not known: {', '.join(unknown)}"] if unknown else []),
    )


def _compare_figure(row: str, metric: str, then: float | None, now: float | None, facts: MetricFacts) -> FigureChange:
    """How a figure changed, before anything is allowed."""
    state: State
    if now is None:
        state = "missing"
    elif then is None:
        state = "new"
    elif now == then:
        state = "equal"
    elif facts.better == "same":
        state = "changed"
    else:
        state = "better" if (now > then) == (facts.better == "higher") else "worse"
    return FigureChange(row, metric, then, now, state)


def _judge(
    change: FigureChange, facts: MetricFacts, allowances: Allowances, *, differs: bool, loose: bool
) -> FigureChange:
    """The same change, with what is allowed, and whether it can be compared at all; `loose`: not to the last digit."""
    state, found = change.state, allowances.find(change.metric)
    if state in ("missing", "new"):
        return change
    if not facts.exact and differs:
        state = "not comparable"
    elif not facts.exact and found is None:
        state = "timed"
    elif loose and found is None and state in ("better", "worse"):
        state = "not comparable"
    elif state in ("worse", "changed") and found is not None:
        state = "allowed" if _worsening(change, facts, found[0]) <= found[1] + _EPSILON else state
    return replace(change, state=state, allowed_percent=None if found is None else found[1])


def _worsening(change: FigureChange, facts: MetricFacts, allowed_by: str) -> float:
    """Percent by which a figure is worse.

    An allowance for a ratio holds for the sizes that it is made of in the ratio's own terms: 1 % less of a ratio is
    1.0101 % more bytes, and both are the same worsening.
    """
    then, now = float(change.then or 0.0), float(change.now or 0.0)
    if facts.better == "lower" and allowed_by != change.metric and METRICS[allowed_by].higher_is_better:
        then, now = now, then
    return abs(now - then) / abs(then) * 100 if then else math.inf


# -- several earlier runs ---------------------------------------------------------------------------------------------

FEWEST_RUNS = 3
"""Two runs do not say how far two runs differ."""

FALSE_ALARM = 0.01
"""Probability that noise alone fails any timing of a preset or scope, shared by all of them (Bonferroni)."""

LEAST_SHARE = 0.01
"""Of the median: by so much a timing may always be worse, for a few equal figures do not say that all will be."""


def _is_timing(metric: str) -> bool:
    """Whether a metric is a time or a speed: what else varies are counts, whose spread is no noise of a clock."""
    return metric in METRICS and not METRICS[metric].exact and METRICS[metric].unit in ("us", "s", "tok/s")


@dataclass(frozen=True)
class Rolling:
    """Timings of several earlier runs that were measured alike.

    Attributes
    ----------
    asked : int
        So many runs, at most.
    runs : tuple of str
        Those there are, oldest first.
    factor : float
        Standard deviations between runs by which a timing may be worse than the median.
    medians, limits : mapping of str to mapping
        Row -> metric -> median, and by how much it may be worse, in its unit; of figures that all runs have.
    """

    asked: int
    runs: tuple[str, ...] = ()
    factor: float = 0.0
    medians: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def shortage(self) -> str:
        """Why nothing can be held against these runs; empty where it can."""
        count = len(self.runs)
        few = f"earlier runs that held and were measured alike: {count}, and a spread takes {FEWEST_RUNS}"
        return few if count < FEWEST_RUNS else ""

    @property
    def rule(self) -> str:
        """What the timings are held against, for a note."""
        count = len(self.runs)
        fewer = "" if count == self.asked else f" ({self.asked} were asked for, no more held and were measured alike)"
        return (
            f"timings are held against the median of the last {count} runs{fewer}, and may be worse by "
            f"{self.factor:.1f} standard deviations between these runs, or by {LEAST_SHARE * 100:g} %: of normal noise "
            f"alone one run in {1 / FALSE_ALARM:.0f} fails"
        )

    def put_into(self, then: SubjectRecord) -> SubjectRecord:
        """An earlier run with the medians in place of its own figures."""
        rows = dict.fromkeys([*then.figures, *self.medians])
        return replace(then, figures={row: {**then.figures.get(row, {}), **self.medians.get(row, {})} for row in rows})

    def judge(self, change: FigureChange, facts: MetricFacts) -> FigureChange:
        """A timing against its median: as it was, better or worse than by noise."""
        limit = self.limits.get(change.row, {}).get(change.metric)
        if limit is None or change.then is None or change.now is None:
            return replace(change, state="not comparable")
        percent = limit / abs(change.then) * 100 if change.then else None
        beyond = abs(change.now - change.then) > limit
        state = _compare_figure(change.row, change.metric, change.then, change.now, facts).state
        return replace(change, state=state if beyond or state == "equal" else "within", allowed_percent=percent)


def roll(
    runs: Mapping[str, SubjectRecord], now: SubjectRecord, metrics: Mapping[str, MetricFacts], asked: int
) -> Rolling:
    """What timings are held against: medians over runs, oldest first, and the limits of prediction for one run more.

    For a normal figure with standard deviation s over n runs, the next one lies within ``t s sqrt(1 + pi / 2n)`` of
    their median: t is Student's with n - 1 degrees of freedom, pi / 2n the variance of a median.
    """
    from pytest_h2o.gate.decode import student_quantile  # with numpy, which few runs need here

    if len(runs) < FEWEST_RUNS:
        return Rolling(asked, tuple(runs))
    varies = {name for name, facts in metrics.items() if not facts.exact}.union(
        now.inexact, *(run.inexact for run in runs.values())
    )
    values: dict[str, dict[str, list[float]]] = {}
    for run in runs.values():
        for row, figures in run.figures.items():
            for metric in varies & figures.keys():
                values.setdefault(row, {}).setdefault(metric, []).append(figures[metric])
    values = {r: {m: v for m, v in of.items() if len(v) == len(runs)} for r, of in values.items()}
    count = sum(_is_timing(metric) for of in values.values() for metric in of)
    degrees, widening = len(runs) - 1, math.sqrt(1 + math.pi / 2 / len(runs))
    factor = student_quantile(1 - FALSE_ALARM / max(count, 1), degrees) * widening
    medians = {row: {m: statistics.median(v) for m, v in of.items()} for row, of in values.items()}
    limits = {
        row: {
            m: max(factor * statistics.stdev(v), LEAST_SHARE * abs(medians[row][m]))
            for m, v in of.items()
            if _is_timing(m)
        }
        for row, of in values.items()
    }
    return Rolling(asked, tuple(runs), factor, medians, limits)


def headlines(
    then: SubjectRecord, now: SubjectRecord, metrics: Mapping[str, MetricFacts], *, comparable: bool
) -> list[FigureChange]:
    """The few figures that one line can show: the best over all rows, then and now; nothing is allowed.

    `comparable` says whether timings are.
    """
    found = []
    for metric, workload in product(HEADLINES[now.kind], now.workloads):
        facts = metrics[metric]
        pick = max if facts.better == "higher" else min
        old, new = (pick(subject.values_of(metric, workload), default=None) for subject in (then, now))
        if old is None and new is None:
            continue
        of = f" of {workload}" if workload else ""
        change = _compare_figure(f"the best row{of}", metric, old, new, facts)
        if not facts.exact and change.state not in ("missing", "new"):
            change = replace(change, state="timed" if comparable else "not comparable")
        found.append(change)
    return found


FigureTable = dict[str, dict[str, int | float]]
"""Row -> metric -> value."""

WHOLE = "all"
"""The row of a scope as a whole; its layers are ``layer 0``, ``layer 1``, …"""

_SCOPE_FIELDS = (
    *("lossless_ratio", "k_lossless_ratio", "v_lossless_ratio"),
    *("compressed_bytes", "k_compressed_bytes", "v_compressed_bytes", "raw_bytes", "k_raw_bytes", "v_raw_bytes"),
    *("selected_entries", "skipped_entries", "encode_s", "decode_s"),
)

_NOT_MEASURED_BY = frozenset(
    {
        "path",
        "targets",
        "base_config",
        "description",
        "default_on",
        "allow_signs",
        "launches",
        "launcher",
        "sweep_repeat",
    }
)


def row_key(manifest: Mapping[str, Any], repeat: int | None) -> str:
    """The name of a row that stays when others come before it: lengths and ratios, and a digest of the whole point."""
    config = {name: value for name, value in manifest.items() if name not in ("run_id", *ADDED_KEYS)}
    text = json.dumps([config, repeat], sort_keys=True, separators=(",", ":"))
    words = str(manifest["run_id"]).split("_", 2)
    return f"{words[-1]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def preset_figures(rows: Sequence[tuple[Mapping[str, Any], Row]], *, codes: bool = False) -> FigureTable:
    """Figures of every row of a preset: its speeds, and each column that the table of metrics knows.

    `codes`: it codes losslessly at run time; else what only later binaries tell of that is left out.
    """
    figures: FigureTable = {}
    idle = () if codes else _LATER
    for manifest, row in rows:
        found = figures[row_key(manifest, row.asked_repeat or row.repeat)] = {}
        for name in (name for name, metric in METRICS.items() if metric.of == "row" and name not in idle):
            with contextlib.suppress(H2OError):  # an item that asks for it fails with it; here there is no such figure
                cell = row_cell(row, name)
                if cell is not None and is_figure(cell.mean):
                    found[name] = cell.mean
    return figures


def scope_figures(result: LosslessResult) -> FigureTable:
    """Figures of a scope as a whole, and the sizes of each layer."""
    whole = {name: getattr(result, name) for name in _SCOPE_FIELDS}
    whole["undecoded_streams"] = result.encoded_streams - result.verified_streams
    figures = {WHOLE: {name: value for name, value in whole.items() if is_figure(value)}}
    for layer in result.by_layer:
        sizes = ("k_compressed_bytes", "v_compressed_bytes", "k_raw_bytes", "v_raw_bytes")
        figures[f"layer {layer.layer_id}"] = {name: getattr(layer, name) for name in sizes}
    return figures


def preset_fingerprint(
    preset: Preset,
    results: Sequence[Row],
    *,
    machine: str | None,
    binary: str | None,
    base_config: str | None,
    model: Mapping[str, str],
) -> dict[str, str | None]:
    """What the figures of a preset were measured with; None for a part that is not known. `model`: its files."""
    # Left out where they say nothing, so that runs of before they were there can be compared with.
    silent = {"bench", "bench_options"} if preset.bench == LLM_BENCH else set()
    settings = preset.model_dump(mode="json", exclude=set(_NOT_MEASURED_BY) | silent)

    def seen(column: str) -> str | None:
        values = {result.cells.get(column, "").strip() for result in results} - {""}
        return ", ".join(sorted(values)) or None

    names = [text for text in (seen("model"), seen("modelSize")) if text]
    # These are left out where nothing tells them: a run of before they were there is not another for that.
    told = {**model, **{column: seen(column) for column in ("precision", "memory", "mmap", FEWER_COLUMN)}}
    return {
        "model": ", ".join(names) or None,
        "base config": base_config,
        "binary": binary,
        "machine": machine,
        "preset": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16],
        "threads": seen("threads"),
        "backend": seen("backend"),
        **{part: value for part, value in told.items() if value is not None},
    }


_PREDICTORS = ("raw", "delta_seq", "xor_seq", "pair_delta", "pair_delta_delta_seq")
_BESIDE: Mapping[str, Any] = {
    "bitshuffle": False,
    "adaptive_block_seq": 64,
    "zstd_level": 3,
    **dict.fromkeys(("k_hi_predictors", "k_lo_predictors"), _PREDICTORS),
    **dict.fromkeys(("v_hi_predictors", "v_lo_predictors"), _PREDICTORS[:3]),
}
"""adaptive_v22's settings as 0.1 wrote them beside another codec: its baselines are still of the same codec."""


def scope_fingerprint(result: LosslessResult, machine: str | None) -> dict[str, str | None]:
    """What the figures of a scope were measured with."""
    framing = f"{result.online_chunk_seq}/{result.online_framing_bytes}" if result.online_chunks else "whole"
    config = {name: _BESIDE[name] if (own := getattr(result, name)) is None else own for name in _BESIDE}
    config = {name.removesuffix("_predictors"): value for name, value in config.items()}
    config |= {"codec_config": dict(result.codec_config), "rope": result.rope and dict(result.rope)}
    text = json.dumps(config, sort_keys=True, default=list)
    return {
        "entry mode": f"{result.entry_mode} {framing}",
        "codec": f"{result.codec_mode} ({hashlib.sha256(text.encode()).hexdigest()[:8]})",
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(result.versions.items())) or None,
        "machine": machine,
    }


def is_figure(value: object) -> bool:
    """Whether a value can stand in a record: a number, finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
