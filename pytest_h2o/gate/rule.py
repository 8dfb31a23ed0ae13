"""The rule that decides: the original one (best of each) and ours (one row meets every target). Pure.

Original rule (`decide_best_of`): the best value of each metric over all rows, each against its target. The rows may
differ, so it can pass where no configuration does.
Joint rule (`decide_joint`): at least one single row meets every target at once; where a preset has several workloads,
one and the same configuration does at each of them.

What is asked is a mapping metric -> target; a metric that is not in it is left out, on purpose and visibly. Of a metric
that every row must hold (`Metric.over`) the worst value of all counts for each row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

from pytest_h2o.bench.adapter import ESTIMATE_SLACK
from pytest_h2o.bench.rows import FEWER_COLUMN, Row
from pytest_h2o.errors import TableError
from pytest_h2o.gate.decode import DecodeVerdict, RowSpeed, judge_median, judge_rows
from pytest_h2o.gate.metrics import DROP, LOSSLESS, METRICS, Metric, joint_metrics
from pytest_h2o.gate.values import CellOf, Interval, Outcome, deciding_launches, row_cell

Asked = Mapping[str, float]


class RowFacts(NamedTuple):
    """What a verdict needs of one row: metric -> value, None where it is missing.

    Where there are several workloads it says which one it is of, and which configuration it has in common with rows of
    the others; else it stands for itself.
    """

    run_id: str
    values: Mapping[str, float | None]
    workload: str = ""
    configuration: str = ""
    launch: str = ""
    """Whose launch it is, where rows share one."""


@dataclass(frozen=True)
class Margins:
    """How one row stands to every target, as `Metric.margin` has it: metric -> margin."""

    run_id: str
    by_metric: Mapping[str, float]

    @property
    def smallest(self) -> float:
        return self.rank[0]

    @cached_property
    def rank(self) -> tuple[float, ...]:
        """The margins from the smallest: rows are better in this order, the next margin deciding between equal ones."""
        return tuple(sorted(self.by_metric.values())) or (-math.inf,)

    @property
    def missed(self) -> tuple[str, ...]:
        return tuple(METRICS[name].short for name, margin in self.by_metric.items() if not margin >= 0)


def decode_drop(baseline_tok_per_s: float, tok_per_s: float) -> float:
    """Fraction of decode speed lost against the baseline; negative when faster."""
    if not (baseline_tok_per_s > 0 and math.isfinite(baseline_tok_per_s)):
        raise ValueError(f"decode baseline must be a positive number of tok/s, not {baseline_tok_per_s!r}")
    return (baseline_tok_per_s - tok_per_s) / baseline_tok_per_s


def _is_impossible(drop: float) -> bool:
    return math.isfinite(drop) and not METRICS[DROP].values.holds(drop)


def check_drop(drop: float, where: str, came: str) -> None:
    """TableError where a slow-down cannot be: the candidate is more than 100 times as fast as its baseline."""
    if _is_impossible(drop):
        raise TableError(
            f"a row has an impossible {METRICS[DROP].title}",
            where=where,
            came=came,
            expected=f"{METRICS[DROP].values.text}: at most 100 times the baseline",
            hint="the log was damaged or edited, or the baseline is of another unit; run this point again",
        )


def check_speed(row: Row, baseline_tok_per_s: float | None) -> None:
    """`check_drop` of a row, beside a baseline if there is one."""
    tok_per_s = row.decode_tok_per_s
    if baseline_tok_per_s is not None and tok_per_s is not None:
        where = f"{METRICS[DROP].made_of} of {row.run_id or 'a row'}: {row.log_file}"
        came = f"{tok_per_s.mean:g} tok/s beside a baseline of {baseline_tok_per_s:g}"
        check_drop(decode_drop(baseline_tok_per_s, tok_per_s.mean), where, came)


def why_untimed(rows: Iterable[Row], asked: Iterable[str], inexact: Container[str] = ()) -> str | None:
    """Why rows cannot be held to what is asked: it rests on the timing of launches, and repeats were spared there."""
    fewer = [row for row in rows if row.asked_repeat is not None]
    timed = [METRICS[name].title for name in asked if not METRICS[name].exact or name in inexact]
    if not fewer or not timed:
        return None
    which, repeats = fewer[0].run_id or fewer[0].log_file, fewer[0].cells[FEWER_COLUMN]
    told = f"{which} was launched with {repeats} repeats (sweep_repeat), for its exact columns alone"
    return f"{told}: its {timed[0]} is not judged"


def row_facts(
    row: Row,
    asked: Iterable[str],
    *,
    baseline_tok_per_s: float | None = None,
    lossless: float | None = None,
    workload: str = "",
    configuration: str = "",
    cell_of: CellOf = row_cell,
) -> RowFacts:
    """What a row has of the metrics that are asked for, and its decode speed; a slow-down that cannot be is missing."""
    speed = METRICS[DROP].made_of
    values: dict[str, float | None] = {
        name: _row_value(row, METRICS[name], cell_of) for name in (*asked, speed) if METRICS[name].of == "row"
    }
    tok_per_s = values[speed]
    if baseline_tok_per_s is not None and tok_per_s is not None:
        drop = decode_drop(baseline_tok_per_s, tok_per_s)
        values[DROP] = None if _is_impossible(drop) else drop
    launch = row.shares_run_with or row.run_id
    return RowFacts(row.run_id, {**values, LOSSLESS: lossless}, workload, configuration, launch)


def _row_value(row: Row, metric: Metric, cell_of: CellOf) -> float | None:
    """What a row has of a metric; of several launches the worst, where they are exact or each must hold a target."""
    cells = [cell_of(launch, metric.name) for launch in deciding_launches(row, metric)]
    values = [cell.mean for cell in cells if cell is not None]
    if len(values) < len(cells):
        return None
    return min(values) if metric.higher_is_better else max(values)


def best_row(rows: Sequence[RowFacts], metric: str) -> RowFacts | None:
    """The first row that is best in a metric; rows without a value do not count."""
    pick: Callable[..., RowFacts | None] = max if METRICS[metric].higher_is_better else min
    return pick(_measured(rows, metric), key=lambda row: row.values[metric], default=None)


def worst_row(rows: Sequence[RowFacts], metric: str) -> RowFacts | None:
    """The first row that is worst in a metric: one without a value, if there is one."""
    measured = _measured(rows, metric)
    pick: Callable[..., RowFacts | None] = min if METRICS[metric].higher_is_better else max
    missing = next((row for row in rows if row not in measured), None)
    return missing or pick(measured, key=lambda row: row.values[metric], default=None)


def _measured(rows: Sequence[RowFacts], metric: str) -> list[RowFacts]:
    return [row for row in rows if (value := row.values.get(metric)) is not None and math.isfinite(value)]


def hold_rows(rows: Sequence[RowFacts], asked: Asked) -> tuple[Margins, ...]:
    """Hold every row against every target."""
    every = [name for name in asked if METRICS[name].over == "every row"]
    worst = {name: None if (row := worst_row(rows, name)) is None else row.values.get(name) for name in every}
    return tuple(
        Margins(
            row.run_id,
            {name: METRICS[name].margin(worst.get(name, row.values.get(name)), asked[name]) for name in asked},
        )
        for row in rows
    )


class JointVerdict(NamedTuple):
    """The joint rule's answer: the row of the best rank (largest smallest margin), and every row's margins.

    Of a configuration with a row at each of several workloads the margins are the smallest of its rows, and the row is
    the one with the smallest of all; `together` has those of each row's configuration.
    """

    best: Margins | None
    rows: tuple[Margins, ...]
    together: tuple[Margins, ...] = ()

    @property
    def passed(self) -> bool:
        return self.best is not None and self.best.smallest >= 0


def decide_joint(rows: Sequence[RowFacts], asked: Asked) -> JointVerdict:
    """At least one row must meet every target; without rows, or without targets, nothing passes."""
    margins = hold_rows(rows, asked)
    together = list(margins)
    for places in _by_configuration(rows):
        joined = join_margins([margins[place] for place in places])
        for place in places:
            together[place] = joined
    return JointVerdict(max(together, key=lambda m: m.rank, default=None), margins, tuple(together))


def _by_configuration(rows: Sequence[RowFacts]) -> list[list[int]]:
    """Places of the rows that are of one configuration, each row for itself where there is one workload."""
    places: dict[str | int, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.configuration or place, []).append(place)
    return list(places.values())


def join_margins(rows: Sequence[Margins]) -> Margins:
    """What rows of one configuration hold together: of each target the smallest margin, named by the worst row."""
    worst = min(rows, key=lambda row: row.rank)
    return replace(worst, by_metric={name: min(row.by_metric[name] for row in rows) for name in worst.by_metric})


def choose_configuration(rows: Sequence[RowFacts], asked: Asked, *, rule: str) -> tuple[RowFacts, ...]:
    """The rows, one a workload, of the configuration that is timed; none if no configuration could pass.

    It is the fastest of those whose rows all meet the targets of their own: the one that is least behind the fastest of
    a workload where it is furthest behind.
    """
    eligible = {row.run_id for row in eligible_rows(rows, asked, rule=rule)}
    groups = [[rows[place] for place in places] for places in _by_configuration(rows)]
    groups = [group for group in groups if all(row.run_id in eligible for row in group)]
    fastest: dict[str, float] = {}
    for row in (row for group in groups for row in group):
        fastest[row.workload] = max(fastest.get(row.workload, 0.0), _speed(row))
    share = {id(group): min(_speed(row) / (fastest[row.workload] or 1.0) for row in group) for group in groups}
    return tuple(max(groups, key=lambda group: share[id(group)], default=()))


def _speed(row: RowFacts) -> float:
    speed = row.values.get(METRICS[DROP].made_of)
    return speed if speed is not None and math.isfinite(speed) else 0.0


class BestOfVerdict(NamedTuple):
    """The original rule's answer.

    Attributes
    ----------
    rows : mapping
        Metric -> the row that gave its value; None where no row has it.
    margins : Margins
        Those of a row, which need not exist, with these values.
    """

    rows: Mapping[str, RowFacts | None]
    margins: Margins

    @property
    def passed(self) -> bool:
        return self.margins.smallest >= 0


def decide_best_of(rows: Sequence[RowFacts], asked: Asked) -> BestOfVerdict:
    """Best of each metric against its own target, whichever row gave it.

    Unlike the original, a value that is missing fails its target.
    """
    chosen = {name: (worst_row if METRICS[name].over == "every row" else best_row)(rows, name) for name in asked}
    values = {name: None if row is None else row.values.get(name) for name, row in chosen.items()}
    (margins,) = hold_rows([RowFacts("best of each column", values)], asked)
    return BestOfVerdict(chosen, margins)


def eligible_rows(rows: Sequence[RowFacts], asked: Asked, *, rule: str) -> tuple[RowFacts, ...]:
    """The rows for which a decode speed can matter: under the joint rule those that meet the targets of their own.

    What every row must hold tells no row from another.
    """
    of_some = ((METRICS[name], target) for name, target in asked.items() if METRICS[name].over == "some row")
    own = {metric.name: target for metric, target in of_some if metric.of == "row"}
    if rule != "joint" or not own:
        return tuple(rows)
    return tuple(row for row, margins in zip(rows, hold_rows(rows, own), strict=True) if not margins.missed)


def pool_drop(rows: Sequence[RowFacts], asked: Asked) -> tuple[RowFacts, ...]:
    """The rows, each with the slow-down of the mean over all of its workload that meet the targets of their own.

    Over all of it if none does. So the joint rule holds decode without pairs: the fastest of many noisy rows says
    little. Where a row has no speed they are left as they are, and miss the target.
    """
    pooled: dict[str, float | None] = {}
    for workload in {row.workload for row in rows}:
        among = [row for row in rows if row.workload == workload]
        meeting = eligible_rows(among, asked, rule="joint") or among
        drops = {row.launch or row.run_id: row.values.get(DROP) for row in meeting}
        known = [drop for drop in drops.values() if drop is not None]
        pooled[workload] = math.fsum(known) / len(known) if known and len(known) == len(drops) else None
    return tuple(
        row if (drop := pooled[row.workload]) is None else row._replace(values={**row.values, DROP: drop})
        for row in rows
    )


def judge_speeds(
    rows: Iterable[Row], baseline_tok_per_s: float, target: float, over: Literal["mean", "median"] = "mean"
) -> DecodeVerdict:
    """The decode verdict of the mean or median of rows against a number, each launch once."""
    speeds = {
        row.shares_run_with or row.run_id or str(number): RowSpeed(speed.mean, speed.std, row.repeat)
        for number, row in enumerate(rows)
        if (speed := row.decode_tok_per_s) is not None
    }
    judge = judge_rows if over == "mean" else judge_median
    return judge(tuple(speeds.values()), baseline_tok_per_s, target)


def drop_interval(verdict: DecodeVerdict, *, inconclusive_fails: bool) -> Interval:
    """The interval of the slow-down, and the verdict on its target."""
    return Interval(verdict.low, verdict.high, verdict.outcome, verdict.target, verdict.basis, inconclusive_fails)


def add_margin(margins: Margins, metric: str, verdict: DecodeVerdict) -> Margins:
    """The margins with that of what pairs measured: the allowed drop minus the estimated one.

    Minus infinity where no pair could be compared.
    """
    margin = -math.inf if verdict.drop is None else verdict.target - verdict.drop
    by_metric = {**margins.by_metric, metric: margin}
    return replace(margins, by_metric={m.name: by_metric[m.name] for m in joint_metrics() if m.name in by_metric})


def worst_verdict(verdicts: Sequence[DecodeVerdict]) -> DecodeVerdict:
    """Of the decode verdicts of several workloads the one with the least to spare; one without a value is worst."""
    return min(verdicts, key=lambda verdict: -math.inf if verdict.drop is None else verdict.target - verdict.drop)


def joint_interval(others: Margins, verdicts: Sequence[DecodeVerdict], *, inconclusive_fails: bool) -> Interval | None:
    """The smallest margin of the timed row, with the interval that its slow-down gives it; one verdict a workload.

    `others` are its margins over the other targets. The joint rule holds if those are held and each decode verdict is
    a pass; it is missed if one of those is missed or a verdict is a fail; else it is inconclusive. Where a value is
    missing the margin has no interval, and is missed.
    """
    margins = others.by_metric.values()
    if -math.inf in margins:
        return None
    lows = [None if verdict.high is None else verdict.target - verdict.high for verdict in verdicts]
    highs = [verdict.target - verdict.low for verdict in verdicts if verdict.low is not None]
    low = None if None in lows else min([*margins, *(bound for bound in lows if bound is not None)])
    high = min([*margins, *highs]) if highs else None
    found = {verdict.outcome for verdict in verdicts}
    order: tuple[Outcome, ...] = ("fail", "inconclusive")
    outcome: Outcome = "fail" if others.missed else next((word for word in order if word in found), "pass")
    bases = list(dict.fromkeys(verdict.basis for verdict in verdicts))
    each = f" at each of {len(verdicts)} workloads" if len(verdicts) > len(bases) == 1 else ""
    if len(bases) > 1:
        bases = [verdict.basis for verdict in verdicts]
    return Interval(low, high, outcome, 0.0, ", ".join(bases) + each, inconclusive_fails)


class Bound(NamedTuple):
    """The binding limit of a row.

    Attributes
    ----------
    kind : str
        ``floor`` (sink + recent), ``block quantisation`` or ``target``.
    keep : float
        The keep ratio it leaves, a fraction of the tokens.
    """

    kind: Literal["floor", "block quantisation", "target"]
    keep: float

    @property
    def estimated_lossy(self) -> float:
        """About the largest lossy ratio that this row could reach."""
        return 1.0 / self.keep

    def could_pass(self, lossy_target: float) -> bool:
        return self.estimated_lossy * ESTIMATE_SLACK >= lossy_target

    def render(self, lossy_target: float | None, measured: float | None = None) -> str:
        if measured is not None and measured > self.estimated_lossy * ESTIMATE_SLACK:
            return (
                f"{self.kind}: keep {self.keep:.4f} in its last step, and the measured lossy ratio of {measured:.3f} "
                "is of another one: the row is not of one step"
            )
        text = f"{self.kind}: keep {self.keep:.4f}, so a lossy ratio of about {self.estimated_lossy:.3f} at most"
        if lossy_target is not None and not self.could_pass(lossy_target):
            return f"{text}; this row could not pass"
        return text


def find_bound(floor_keep: float | None, target_keep: float | None, quantized_keep: float | None) -> Bound | None:
    """Say which of the three keep ratios of a row binds; None if one is missing or not a positive number."""
    if floor_keep is None or target_keep is None or quantized_keep is None:
        return None
    if not all(0.0 < keep <= 1.0 for keep in (floor_keep, target_keep, quantized_keep)):
        return None
    if floor_keep >= quantized_keep and floor_keep >= target_keep:
        return Bound("floor", floor_keep)
    if quantized_keep > target_keep:
        return Bound("block quantisation", quantized_keep)
    return Bound("target", target_keep)


def row_bound(row: Row) -> Bound | None:
    """`find_bound` of a row."""
    cells = map(row.get, ("h2o_floor_keep", "h2o_target_keep_effective", "h2o_quantized_keep"))
    return find_bound(*(cell.mean if cell else None for cell in cells))


class CacheLayers(NamedTuple):
    """Which layers of a model go through what.

    Attributes
    ----------
    total : int
        Number of layers of the model.
    lossy : frozenset of int
        Layers under H2O eviction.
    lossless : frozenset of int
        Layers under the lossless codec and not under eviction.
    """

    total: int
    lossy: frozenset[int]
    lossless: frozenset[int]


def split_layers(total: int, h2o_start: int, h2o_end: int, lossless_layers: Sequence[int]) -> CacheLayers:
    """Sort the layers of a model into evicted, losslessly coded and untouched ones."""
    last = total - 1 if h2o_end < 0 else min(h2o_end, total - 1)
    lossy = frozenset(range(h2o_start, last + 1))
    lossless = frozenset(layer for layer in lossless_layers if 0 <= layer < total) - lossy
    return CacheLayers(total, lossy, lossless)


def whole_cache_ratio(layers: CacheLayers, lossy_ratio: float, lossless_ratio: float | None) -> float:
    """Bytes of the full cache over the bytes that are left, each layer at its own ratio; higher is better.

    All layers hold the same number of raw bytes. Without a lossless ratio those layers stay as they are.
    """
    evicted = len(layers.lossy) / lossy_ratio
    coded = len(layers.lossless) / (lossless_ratio or 1.0)
    untouched = layers.total - len(layers.lossy) - len(layers.lossless)
    return layers.total / (evicted + coded + untouched)
