"""Measured values and targets: numbers that know their unit, spread and origin, and that keep every comparison.

A gate file compares a `Measured` with a `Target` by ``>=`` or ``<=``. The comparison gives a plain bool, and
leaves a `Comparison` behind, from which the failure text, the journal and the summary are made. So a gate file
that a user edits is reported as well as the shipped one.

Which target holds: the command line before the preset or scope, those before the ini file, that before the default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

from pytest_h2o.bench.adapter import get_adapter
from pytest_h2o.bench.command import coding_mode, is_embedded
from pytest_h2o.bench.rows import DECODED_COLUMN, QUALITY, SETTING_COLUMNS, Measurement, Row
from pytest_h2o.errors import H2OError, NotMeasured, TableError, UsageError, blaming
from pytest_h2o.gate.metrics import (
    BUILT_IN,
    CODING,
    LOSSLESS,
    METRICS,
    TARGET_OPTIONS,
    Metric,
    find_metric,
    find_target,
    joint_metrics,
    preset_metrics,
)
from pytest_h2o.inputs.checking import LLM_BENCH
from pytest_h2o.inputs.options import Given, Range, Settings

if TYPE_CHECKING:
    from pytest_h2o.inputs.presets import Preset
    from pytest_h2o.inputs.scope import Scope

Outcome = Literal["pass", "fail", "reported", "inconclusive"]
CellOf = Callable[[Row, str], Measurement | None]
"""How a figure is taken of a row: `row_cell` where it decides, `told_cell` where it is kept."""


@dataclass(frozen=True)
class Target:
    """What is asked of one metric; `value` None means: reported, never gates."""

    metric: str
    value: float | None
    origin: str
    """Where it was said: an option, an ini key, a preset or scope file, or ``default``."""

    def __repr__(self) -> str:
        return "no target" if self.value is None else METRICS[self.metric].render_target(self.value)


@dataclass(frozen=True)
class Comparison:
    """One comparison that a gate file made."""

    measured: Measured
    relation: Literal[">=", "<="]
    target: Target
    outcome: Outcome

    @property
    def margin(self) -> float | None:
        """Distance to the target, positive when it is held, in the metric's own unit; None without a target."""
        if self.target.value is None:
            return None
        gap = self.measured.value - self.target.value
        return gap if self.relation == ">=" else -gap

    @property
    def relative_margin(self) -> float | None:
        """`margin` as a fraction of the target; None without a target or with one of 0."""
        margin = self.margin
        return None if margin is None or not self.target.value else margin / abs(self.target.value)


@dataclass(frozen=True)
class Interval:
    """Where a measured value lies, with confidence, and what that says of its target.

    Attributes
    ----------
    low, high : float or None
        Bounds in the metric's unit; None: not bounded.
    outcome : str
        The verdict on the target `decided_for`: ``pass``, ``fail`` or ``inconclusive``.
    decided_for : float
        The target that the verdict was made for. Another one is held against the bounds.
    basis : str
        What it rests on, in a few words.
    inconclusive_fails : bool
        Whether an inconclusive comparison is false, as a failed one is.
    """

    low: float | None
    high: float | None
    outcome: Outcome
    decided_for: float
    basis: str
    inconclusive_fails: bool = False

    def judge(self, relation: Literal[">=", "<="], target: float) -> Outcome:
        if target == self.decided_for:
            return self.outcome
        above = self.low is not None and self.low > target
        below = self.high is not None and self.high < target
        if not (above or below):
            return "inconclusive"
        return "pass" if above == (relation == ">=") else "fail"


@dataclass(frozen=True)
class Measured:
    """A measured number.

    Attributes
    ----------
    metric : str
        Key of `METRICS`.
    value : float
        In the metric's unit. NaN fails every comparison.
    std : float or None
        Standard deviation over repeats; None where unknown.
    source : str
        The row, run or scope that gave it.
    interval : Interval or None
        Where there is one it decides, and not the value.
    """

    metric: str
    value: float
    source: str
    std: float | None = None
    interval: Interval | None = None
    on_compare: Callable[[Comparison], None] | None = field(default=None, compare=False, repr=False)

    def __bool__(self) -> bool:
        raise UsageError(
            f"a {METRICS[self.metric].title} is neither true nor false",
            came="an assertion on the value alone, which any value would hold",
            expected="a comparison: assert h2o_sweep.best(...) >= h2o_targets.lossy",
        )

    def __ge__(self, target: Target | float) -> bool:
        return self._compare(">=", target)

    def __le__(self, target: Target | float) -> bool:
        return self._compare("<=", target)

    def holds(self, target: Target | float) -> bool:
        """Compare it in the direction of its metric: at least a target where higher is better, else at most."""
        return self._compare(METRICS[self.metric].relation, target)

    def _compare(self, relation: Literal[">=", "<="], target: Target | float) -> bool:
        if not isinstance(target, Target):
            target = Target(self.metric, float(target), "gate file")
        self._check_sense(relation, target)
        outcome = self.judge(relation, target)
        if self.on_compare is not None:
            self.on_compare(Comparison(self, relation, target, outcome))
        fails = outcome == "inconclusive" and self.interval is not None and self.interval.inconclusive_fails
        return outcome != "fail" and not fails

    def judge(self, relation: Literal[">=", "<="], target: Target) -> Outcome:
        """The outcome of a comparison with a target, leaving no `Comparison` behind."""
        if target.value is None:
            return "reported"
        if self.interval is not None:
            return self.interval.judge(relation, target.value)
        holds = self.value >= target.value if relation == ">=" else self.value <= target.value
        return "pass" if holds else "fail"

    def _check_sense(self, relation: str, target: Target) -> None:
        """Refuse a comparison that says nothing: with the target of another metric, or in the wrong direction."""
        metric = METRICS[self.metric]
        if target.metric != self.metric:
            raise UsageError(
                f"a {metric.title} was compared with the target of another metric",
                came=f"the target of {METRICS[target.metric].title}, {target!r}",
                expected=f"the target of {metric.title}, or a number",
            )
        if relation != metric.relation:
            sense = "higher is better: >=" if metric.higher_is_better else "lower is better: <="
            raise UsageError(f"a {metric.title} was compared the wrong way round", came=relation, expected=sense)

    def __repr__(self) -> str:
        metric = METRICS[self.metric]
        if self.interval is not None:
            text = "no value" if math.isnan(self.value) else metric.render(self.value)
            bounds = metric.render_interval(self.interval.low, self.interval.high, self.interval.basis)
            return f"{text} {bounds}"
        return metric.render_measured(self.value, self.std)


def row_cell(row: Row, metric: str) -> Measurement | None:
    """What a row measured of a metric or column; None if it is missing.

    TableError where a metric cannot have such a value or spread; NotMeasured where a plugin cannot make it of the row.
    """
    known = METRICS.get(metric)
    make = None if known is None else known.value
    cell: Measurement | None
    if make is None:
        cell = row.get(metric)
    elif metric in BUILT_IN:
        cell = make(row)
    else:  # what a plugin does to its row is nobody else's business
        cell = _made_of_row(deepcopy(row), metric, make)
    if known is None or cell is None:
        return cell
    if known.added and not math.isfinite(cell.mean):
        raise NotMeasured(
            f"the metric {metric} of a row is not a finite number",
            where=f"{row.run_id or 'a row'}: {row.log_file}",
            came=f"{cell.mean}",
            expected="a finite number, or none where it is not known",
            hint="mend what prints the column, or the function of the metric in its plugin",
        )
    most = _most_spread(row, known, cell.mean)
    is_possible = known.values.holds(cell.mean) or not math.isfinite(cell.mean)  # those are missing
    if is_possible and (cell.std is None or (0 <= cell.std < math.inf and cell.std <= most)):
        return cell
    raise TableError(
        f"a row has an impossible {known.title}",
        where=f"{metric} of {row.run_id or 'a row'}: {row.log_file}",
        came=f"{cell.mean:g}" if cell.std is None else f"{cell.mean:g} ± {cell.std:g}",
        expected=f"a spread of 0 to {most:.4g}" if is_possible else known.values.text,
        hint="the log was damaged or edited, or the bench has an error; run this point again",
    )


def is_measured(rows: Sequence[Row], metric: Metric) -> bool:
    """Whether a row has a metric; one that may be left out also where a row has others of its kind.

    A bench that tells of quality at all measures it: its rise is then missing data.
    """
    kin = {name for name in BUILT_IN if name.startswith(QUALITY)} if metric.optional else set()
    return any(row_cell(row, metric.name) is not None or not kin.isdisjoint(row.cells) for row in rows)


def deciding_launches(row: Row, metric: Metric) -> tuple[Row, ...]:
    """The launches of a point of which the worst decides: one where time and chance have a part, unless each must hold.

    What is exact is alike in all of them, or something is wrong with the engine: a pass does not rest on the best.
    """
    return row.launches if metric.exact or metric.over == "every row" else (row,)


def told_cell(row: Row, metric: str) -> Measurement | None:
    """`row_cell` for what is kept of a run: a figure is missing where it raises, which failed the items that asked."""
    try:
        return row_cell(row, metric)
    except H2OError:
        return None


def unmade(rows: Sequence[Row]) -> list[str]:
    """A line for each metric of a plugin that some of these rows could not give: how many, and why."""
    lines = []
    for metric in (m for m in METRICS.values() if m.added and m.of == "row"):
        errors = []
        for row in rows:
            try:
                row_cell(row, metric.name)
            except H2OError as error:
                errors.append(error)
        if errors:
            what = f"{errors[0].what} ({errors[0].came})"
            lines.append(f"{metric.title} is missing in {len(errors)} of {len(rows)} rows: {what}")
    return lines


_MOST_REPEATS = 100
"""Taken where a row does not say how many it is a mean of."""


def _most_spread(row: Row, metric: Metric, mean: float) -> float:
    """The largest standard deviation of n possible numbers with this mean, rounding of both allowed for.

    Of n - 1 at the lower end and one other it is their distance from that end, times sqrt(n); where there is an upper
    end too, all stand at the two ends at most.
    """
    repeats, (low, high) = row.repeat or _MOST_REPEATS, metric.values.ends
    if not math.isfinite(mean) or low == -math.inf:
        return math.inf
    above, below = max(mean - low, 0.0) + 0.005, max(high - mean, 0.0) + 0.005
    spread = min(above * math.sqrt(repeats), math.sqrt(above * below * repeats / max(repeats - 1, 1)))
    return 1.02 * spread + 0.005


def check_cells(row: Row) -> Row:
    """The row, if each metric that it has a column of is a possible number; a TableError with the first that is none.

    A column that a bench prints says that it measures it: a blank cell, or text in it, is missing data.
    """
    for name, metric in METRICS.items():
        if metric.of != "row":
            continue
        is_column = metric.value is None or name in BUILT_IN
        if is_column:
            _check_number(row, name)
        if name in BUILT_IN:
            row_cell(row, name)
    _check_number(row, DECODED_COLUMN)
    return row


def _check_number(row: Row, column: str) -> None:
    """TableError where a row has a column and no finite number in it."""
    if column in row.cells and ((cell := row.get(column)) is None or not math.isfinite(cell.mean)):
        raise TableError(
            f"a row has the column {column} and no number in it",
            where=f"{column} of {row.run_id or 'a row'}: {row.log_file}",
            came=repr(row.cells[column]),
            expected="a number; a bench that does not measure it leaves the column out",
            hint="the log was damaged or edited, or the bench has an error; run this point again",
        )


def check_launches(row: Row) -> Row:
    """The row, if all launches of its point are sound, ran the same, and measured the same columns; else a TableError.

    A number that one launch has and another lacks, or has as no finite one, is missing data.
    """
    _, *further = map(check_cells, row.launches)
    figures = [name for name, metric in METRICS.items() if metric.of == "row"]
    for launch in further:
        for name in dict.fromkeys([*row.cells, *launch.cells, *figures]):
            if name in SETTING_COLUMNS and launch.cells.get(name) != row.cells.get(name):
                raise _unlike_first(launch, row, name, f"a launch of a point has another {name} than its first")
            if _is_measured(launch, name) != _is_measured(row, name):
                raise _unlike_first(launch, row, name, f"{name} is missing or not a number in some launches of a point")
    return row


def _is_measured(row: Row, name: str) -> bool:
    cell = told_cell(row, name)
    return name in row.cells if cell is None else math.isfinite(cell.mean)


def _unlike_first(launch: Row, first: Row, name: str, what: str) -> TableError:
    return TableError(
        what,
        where=f"{launch.run_id}: {launch.log_file}",
        came=f"{first.cells.get(name, 'nothing')!r}, then {launch.cells.get(name, 'nothing')!r}",
        expected="the same bench, model and columns in every launch",
        hint="a log is of another run or damaged, or the bench has an error; launch this point again",
    )


def launch_ranges(rows: Iterable[Row]) -> dict[str, dict[str, tuple[float, float]]]:
    """Of each row that was launched several times, smallest and largest of each figure: run id -> metric -> both."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for row in (row for row in rows if row.again):
        for name in (name for name, metric in METRICS.items() if metric.of == "row"):
            cells = [told_cell(launch, name) for launch in row.launches]
            values = [cell.mean for cell in cells if cell is not None and math.isfinite(cell.mean)]
            if len(values) == len(cells):
                found.setdefault(row.run_id, {})[name] = (min(values), max(values))
    return found


def unlike_launches(rows: Sequence[Row], inexact: Container[str]) -> list[str]:
    """A line for each figure that launches of one point should have alike to the last digit, and have not."""
    ranges = launch_ranges(row for row in rows if not row.shares_run_with)
    lines = []
    for metric in (m for m in METRICS.values() if m.exact and m.name not in inexact):
        told = {run_id: figures[metric.name] for run_id, figures in ranges.items() if metric.name in figures}
        apart = {run_id: (low, high) for run_id, (low, high) in told.items() if low < high}
        if apart:
            run_id, (low, high) = next(iter(apart.items()))
            more = f", and {len(apart) - 1} more rows" if apart.keys() - {run_id} else ""
            values = f"from {metric.render(low)} to {metric.render(high)} over the launches of {run_id}{more}"
            lines.append(f"{metric.title} should be the same in every launch, and is not: {values}")
    return lines


def describe_expansion(rows: Sequence[Row]) -> list[str]:
    """A line on rows in which lossless coding at run time made the cache larger: no target need ask for a ratio."""
    metric = METRICS["h2o_lossless"]
    launches = [launch for row in rows for launch in row.launches]
    cells = {launch.run_id: cell.mean for launch in launches if (cell := told_cell(launch, metric.name)) is not None}
    larger = {run_id: ratio for run_id, ratio in cells.items() if ratio < 1}
    if not larger:
        return []
    worst = min(larger, key=lambda run_id: larger[run_id])
    told = f"{metric.title} below 1 in {len(larger)} of {len(cells)} rows, coding makes the cache larger"
    return [f"{told}: {metric.render(larger[worst])} of {worst}"]


def _made_of_row(row: Row, metric: str, make: Callable[[Row], Any]) -> Measurement | None:
    with blaming(
        f"the metric {metric} cannot be made of a row",
        kind=NotMeasured,
        where=row.log_file,
        expected="a number, or None where the row lacks what it needs",
        hint="mend the function of the metric in its plugin",
    ):
        value = make(row)
        if value is None:
            return None
        mean, std = (value.mean, value.std) if isinstance(value, Measurement) else (value, None)
        return Measurement(_number(mean), None if std is None else _number(std))


def _number(value: object) -> float:
    """A number of a plugin; what only can be made one, as text, a bool or an array of one number, is none."""
    if isinstance(value, bool) or not isinstance(value, Real):  # numpy's numbers are Real, its bool is not
        raise TypeError(f"{value!r:.40} is no number")
    return float(value)


@dataclass(frozen=True)
class Targets:
    """The targets of one preset or scope by metric, each with where it was said.

    A target is an attribute too, as its key under ``targets:`` is called: ``h2o_targets.lossy``.
    """

    by_metric: Mapping[str, Target]

    def __repr__(self) -> str:
        asked = (f"{METRICS[name].short or name}={t!r}" for name, t in self.by_metric.items() if t.value is not None)
        return f"Targets({', '.join(asked)})"

    def __getattr__(self, key: str) -> Target:
        metric = preset_metrics().get(key)
        if metric is None or key == "by_metric":
            raise AttributeError(f"no target is called {key!r}: see the table of metrics")
        return self.metric(metric.name)

    def metric(self, name: str) -> Target:
        """The target of a metric by its name; UsageError if there is no such metric."""
        find_metric(name, "h2o_targets.metric")
        return self.by_metric.get(name) or Target(name, None, "not for a scope")

    @property
    def asked(self) -> dict[str, float]:
        """What one and the same row must meet: targets by metric."""
        given = ((metric.name, self.by_metric.get(metric.name)) for metric in joint_metrics())
        return {name: target.value for name, target in given if target is not None and target.value is not None}

    @property
    def of_every_row(self) -> list[Target]:
        """What every row must hold."""
        names = (name for name, metric in METRICS.items() if metric.of == "row" and metric.over == "every row")
        given = (self.by_metric.get(name) for name in names)
        return [target for target in given if target is not None and target.value is not None]


def given_targets(settings: Settings) -> dict[str, Given]:
    """What command line and ini file ask of each metric; UsageError where one of them says a target twice."""
    found = {name: settings.given[option.name] for name, option in TARGET_OPTIONS.items()}
    found = {name: given for name, given in found.items() if given.value is not None}
    for key, named in settings.numbers("target").items():
        metric = find_target(key, named.value, named.origin)
        other = found.get(metric.name)
        if other is not None and other.on_command_line == named.on_command_line:
            raise UsageError(
                f"two targets were given for {metric.title}",
                came=f"{other.origin} {other.value:g} and {named.origin} {key}={named.value:g}",
                expected="one of the two",
            )
        if other is None or named.on_command_line:
            found[metric.name] = named
    return found


def choose_target(asked: Mapping[str, Given], metric: Metric, own: float | None, own_origin: str) -> Target:
    """The target of a metric: of those that the options ask (`given_targets`), or what a preset or scope has itself."""
    given = asked.get(metric.name)
    if given is not None and given.on_command_line:
        return Target(metric.name, given.value, given.origin)
    if own is not None:
        return Target(metric.name, own, own_origin)
    if given is not None:
        return Target(metric.name, given.value, given.origin)
    origin = "the plugin that adds it" if metric.added else "no target" if metric.target is None else "default"
    return Target(metric.name, metric.target, origin)


def preset_origin(preset: Preset) -> str:
    """Where a target was said that a preset has of its own."""
    return f"targets of preset {preset.name}"


def preset_targets(settings: Settings, preset: Preset, deciding: Scope | None) -> Targets:
    """The targets of a preset; its lossless target is that of the deciding scope unless the preset says another."""
    origin, codes = preset_origin(preset), coding_mode(preset.lossless_settings()) is not None
    asked, targets = given_targets(settings), {}
    for name, metric in METRICS.items():
        own = preset.targets.of(metric.key, name)
        targets[name] = choose_target(asked, metric, own, origin)
        if metric.of == "scope" and own is None and preset.bench != LLM_BENCH:
            targets[name] = Target(name, None, f"the dumps are none of {preset.bench}")
        elif name in CODING and not codes:
            targets[name] = Target(name, None, "nothing is coded at run time")
        elif name == LOSSLESS and own is None and deciding is not None:
            targets[name] = scope_targets(settings, deciding).lossless
        elif metric.key == "consistency" and own is None:
            exact = is_embedded(settings["bench"])
            targets[name] = Target(name, 0 if exact else None, "the embedded bench" if exact else "another bench")
    return Targets(targets)


def scope_targets(settings: Settings, scope: Scope) -> Targets:
    """The targets of a scope. Options, ini and default speak of the one that decides; others have their own or none."""
    targets = {name: Target(name, None, "not for a scope") for name in METRICS}
    origin = f"target of scope {scope.name}"
    targets[LOSSLESS] = Target(LOSSLESS, scope.target, origin)
    if scope.decides:
        targets[LOSSLESS] = choose_target(given_targets(settings), METRICS[LOSSLESS], scope.target, origin)
    return Targets(targets)


def refuse_unmeasured(preset: Preset, *, takes_prompt: bool) -> None:
    """Refuse keys of a preset that ask for something which nothing here does: silence would be taken for a pass."""
    where = str(preset.path or preset.name)
    if wrong := get_adapter(preset.bench, f"bench of {where}").check_options(preset.bench_options):
        raise UsageError(
            f"{preset.bench} cannot be run with these options", where=f"bench_options of {where}", came=wrong
        )
    for name in preset.targets.metrics:
        find_metric(name, f"targets.metrics of {where}", preset_metrics())
    for name, metric in METRICS.items():
        if len(asked_as := preset.targets.names_of(metric.key, name)) > 1:
            what, expected = f"two targets were given for {metric.title}", "one of the two"
            raise UsageError(what, where=f"targets of {where}", came=" and ".join(asked_as), expected=expected)
    asked = next((name for name in CODING if preset.targets.of(METRICS[name].key, name) is not None), None)
    if asked is not None and coding_mode(preset.lossless_settings()) is None:
        raise UsageError(
            "a preset has a target for lossless coding at run time, and codes nothing there",
            where=f"targets of {where}",
            came=asked,
            expected="kv_lossless_enable and kv_lossless_runtime_enable true, and a kv_lossless_scope",
            hint="or leave the target out",
        )
    if not takes_prompt and preset.prompt_file is not None:
        raise UsageError(
            "a preset names a prompt file, and the bench takes no prompt",
            where=f"prompt_file of {preset.path or preset.name}",
            hint="leave the key out; or --h2o-demo PATH says it to llm_demo",
        )


def target_ranges() -> dict[str, Range]:
    """What a preset may ask of each metric, by the keys that name it under ``targets:``."""
    return {key: metric.target_range for key, metric in preset_metrics().items()}
