"""What all gate items share: a name, targets, the comparisons that were made, notes, and the record for the journal."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pytest_h2o.bench.adapter import describe_floor, get_adapter
from pytest_h2o.bench.machine import describe_machine
from pytest_h2o.bench.output import describe_allowed
from pytest_h2o.bench.rows import COLUMN_DECIMALS, Row
from pytest_h2o.errors import BenchError, H2OError, NotMeasured, OptedOut, UsageError
from pytest_h2o.gate.compare import (
    FigureChange,
    SubjectComparison,
    SubjectRecord,
    change_to_json,
    compare_subjects,
    headlines,
    metric_facts,
    preset_figures,
    row_key,
    scope_figures,
    scope_fingerprint,
)
from pytest_h2o.gate.decode import explain
from pytest_h2o.gate.demo import DemoComparison
from pytest_h2o.gate.metrics import (
    DROP,
    JOINT,
    LOSSLESS,
    LOSSY,
    METRICS,
    TARGET_OPTIONS,
    Metric,
    added_to_json,
    find_metric,
)
from pytest_h2o.gate.rule import (
    BestOfVerdict,
    JointVerdict,
    Margins,
    RowFacts,
    add_margin,
    best_row,
    check_drop,
    check_speed,
    choose_configuration,
    decide_best_of,
    decide_joint,
    decode_drop,
    drop_interval,
    eligible_rows,
    join_margins,
    joint_interval,
    judge_speeds,
    pool_drop,
    row_facts,
    why_untimed,
    worst_verdict,
)
from pytest_h2o.gate.values import (
    Comparison,
    Interval,
    Measured,
    Outcome,
    Targets,
    deciding_launches,
    describe_expansion,
    is_measured,
    preset_origin,
    row_cell,
    scope_targets,
    unlike_launches,
)
from pytest_h2o.inputs.presets import configuration
from pytest_h2o.run.history import Earlier, find_earlier
from pytest_h2o.run.journal import PresetFacts
from pytest_h2o.run.pairs import Baseline

if TYPE_CHECKING:
    from pytest_h2o.bench.rows import Measurement
    from pytest_h2o.gate.decode import DecodeVerdict, PairedComparison
    from pytest_h2o.inputs.presets import Point, Preset
    from pytest_h2o.inputs.scope import Scope
    from pytest_h2o.lossless.result import LosslessResult
    from pytest_h2o.run.session import GateSession, Subject
    from pytest_h2o.run.sources import Source


def _mean(cell_of: tuple[Measurement, str]) -> float:
    return cell_of[0].mean


HARDLY_ALIKE = 0.05
"""A similarity of texts below this is told in words: beside a pass 0.000 alone would be overlooked."""


def _plain(value: float | None) -> float | str | None:
    """A float as JSON can hold it."""
    return str(value) if value is not None and not math.isfinite(value) else value


class GateItem:
    """Common to all items: what was compared and what there is to say beside it."""

    kind = ""

    def __init__(self, session: GateSession, name: str, targets: Targets) -> None:
        self.session = session
        self.name = name
        self.targets = targets
        self.comparisons: list[Comparison] = []
        self.notes: list[str] = []
        self.has_measured = False
        """Whether anything was measured or read for this item."""

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _note_all(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.note(text)

    def measured(
        self, metric: str, value: float, source: str, std: float | None = None, interval: Interval | None = None
    ) -> Measured:
        return Measured(metric, value, source, std, interval, on_compare=self.comparisons.append)

    def record(self, nodeid: str, outcome: str, reason: str | None) -> dict[str, Any]:
        """What the journal keeps of this item: built-in types only; `reason` is why it failed or was left out."""
        return {
            "item": nodeid,
            "kind": self.kind,
            "name": self.name,
            "outcome": outcome,
            "reason": reason,
            "comparisons": [_comparison_json(c) for c in self.comparisons],
            "notes": list(self.notes),
            "data": self.session.run.new.take(self.session.left_out, self.session.not_asked),
        }

    def refuse_idle(self) -> None:
        """A gate test that ended well without asking for a single figure has shown nothing: NotMeasured."""
        if not self.has_measured:
            raise NotMeasured(
                f"the test passed without measuring {self.name}",
                expected="an assertion on what its fixture measures",
                hint="see the shipped gate files, or leave the fixture out of a test that is no gate",
            )

    def inconclusive_texts(self) -> list[str]:
        """A line for each comparison that was neither a pass nor a fail."""
        undecided = [c for c in self.comparisons if c.outcome == "inconclusive"]
        return [f"no pass, inconclusive: {c.measured!r}, target {c.target!r}" for c in undecided]

    def write_dry_run(self) -> str:
        """Write what would be run, nothing where nothing is launched, and say so."""
        return "dry run: nothing was run"


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    measured, target = comparison.measured, comparison.target
    metric, interval = METRICS[measured.metric], measured.interval
    # Whoever reads the record later may not have the plugin.
    added = {"added_metric": added_to_json(metric)} if metric.added else {}
    return {
        "metric": measured.metric,
        "unit": metric.unit,
        "value": _plain(measured.value),
        "std": _plain(measured.std),
        "source": measured.source,
        "relation": comparison.relation,
        "target": target.value,
        "target_origin": target.origin,
        "margin": _plain(comparison.margin),
        "outcome": comparison.outcome,
        "interval": interval and {name: getattr(interval, name) for name in ("low", "high", "basis")},
        **added,
    }


def _is_beside_rows(metric: Metric) -> bool:
    """Whether only a verdict has a metric, and no rule asks for it: a preset may, and nothing measure it."""
    return metric.of == "verdict" and not metric.joint and metric.name != JOINT


_LAUNCH_FACTS = ("argv", "returncode", "signal_name", "elapsed_s", "output_tail")


class PresetItem(GateItem):
    """What is about a preset: all of it, or one point."""

    def __init__(self, session: GateSession, preset: Preset, targets: Targets) -> None:
        super().__init__(session, preset.name, targets)
        self.preset = preset

    @property
    def source(self) -> Source:
        return self.session.source(self.preset)

    def write_dry_run(self) -> str:
        return f"{super().write_dry_run()}; {self.session.write_dry_run(self.preset)}"


class SweepItem(PresetItem):
    """All rows of one preset, or of one of its workloads."""

    kind = "sweep"

    def __init__(self, session: GateSession, preset: Preset, targets: Targets, workload: str = "") -> None:
        super().__init__(session, preset, targets)
        self.workload = workload

    @property
    def title(self) -> str:
        """What the rows are of, in words."""
        return f"{self.name} at {self.workload}" if self.workload else self.name

    @cached_property
    def whole(self) -> SweepItem:
        """The item of all rows of the preset."""
        return SweepItem(self.session, self.preset, self.targets) if self.workload else self

    @cached_property
    def parts(self) -> tuple[SweepItem, ...]:
        """An item for each workload that targets are asked of; this one where nothing tells several apart."""
        workloads = () if self.workload else self.preset.workloads(self.session.rule)
        parts = tuple(SweepItem(self.session, self.preset, self.targets, workload) for workload in workloads)
        for part in parts:
            part.notes = self.notes  # what there is to say of a part is said of the whole
        return parts or (self,)

    def part_of(self, run_id: str) -> SweepItem:
        """The part that a row belongs to; of what is no row, such as a mean, this one."""
        parts = (part for part in self.parts if any(point.run_id == run_id for point in part.points))
        return next(parts, self)

    @property
    def points(self) -> tuple[Point, ...]:
        """Its points, without those that are not launched on purpose."""
        left = self.session.not_launched(self.preset)
        points = (point for point in self.session.points(self.preset) if point.run_id not in left)
        return tuple(point for point in points if self.workload in ("", point.workload))

    @property
    def results(self) -> tuple[Row, ...]:
        """The runs of all points, in their order."""
        self.has_measured = True
        self._tell_not_launched()
        found: dict[str, Row] = {}
        errors: dict[str, H2OError] = {}
        run_ids = dict.fromkeys(point.run_id for point in self.points)
        for point in (p for p in self.session.in_order_of_launches(self.preset) if p.run_id in run_ids):
            try:
                found[point.run_id] = self.source.result(point)
            except H2OError as error:
                errors[point.run_id] = error
        results = [found[run_id] for run_id in run_ids if run_id in found]
        failed = [(run_id, errors[run_id]) for run_id in run_ids if run_id in errors]
        self._note_all(describe_allowed(self.preset.allow_signs, (result.output for result in results)))
        self._note_all(filter(None, map(self.source.first_cause, results)))
        if failed:
            raise self._rows_error(failed, len(failed) + len(results))
        self._note_all(self.source.notes)
        self._note_all(unlike_launches(results, self.source.inexact))
        self._note_all(describe_expansion(results))
        return tuple(results)

    def _tell_not_launched(self) -> None:
        """List and note what --h2o-fast leaves out; NotMeasured where that is every point."""
        left = self.session.not_launched(self.preset)
        for run_id, why in left.items():
            self.source.note_not_launched(self._point(run_id), why)
        if (told := self.session.describe_not_launched(self.preset)) is not None:
            self.note(told)
            if not self.points:
                hint = "leave --h2o-fast out to see what its rows come to, or let it aim higher"
                raise NotMeasured(f"no point of {self.title} is launched", came=told, hint=hint)

    def _point(self, run_id: str) -> Point:
        return next(point for point in self.session.points(self.preset) if point.run_id == run_id)

    def _rows_error(self, failed: Sequence[tuple[str, H2OError]], total: int) -> H2OError:
        """What it means to the whole preset that some points have no sound row."""
        run_id, first = failed[0]
        if isinstance(first, NotMeasured):
            return first
        if len(failed) == 1:
            self.note(f"{self.title} needs a sound row of each of its {total} points, and {run_id} has none")
            return first
        what = first.what if run_id in first.what else f"{run_id}: {first.what}"
        launch = {name: getattr(first, name) for name in _LAUNCH_FACTS} if isinstance(first, BenchError) else {}
        return BenchError(
            f"{len(failed)} of {total} rows of {self.title} are missing or not sound",
            where=", ".join(name for name, _ in failed[:6]) + (", …" if len(failed) > 6 else ""),
            came=what + (f" ({first.came})" if first.came else ""),
            expected="a sound row of every point",
            hint="the test_bench items of this preset show each one",
            **launch,
        )

    def facts(
        self,
        asked: Iterable[str] | None = None,
        *,
        baseline_tok_per_s: float | None = None,
        lossless: float | None = None,
    ) -> tuple[RowFacts, ...]:
        """What the rows have of what is asked of them."""
        names = tuple(self.asked if asked is None else asked)
        self._refuse_untimed(name for name in names if METRICS[name].of == "row")
        for row in self.results:
            check_speed(row, baseline_tok_per_s)
        given: dict[str, Any] = {"baseline_tok_per_s": baseline_tok_per_s, "lossless": lossless}
        if len(self.whole.parts) == 1:
            return tuple(row_facts(row, names, **given) for row in self.results)
        return tuple(
            row_facts(row, names, **given, workload=p.workload, configuration=configuration(p.manifest_fields()))
            for row, p in zip(self.results, self.points, strict=True)
        )

    def _refuse_untimed(self, names: Iterable[str], rows: Sequence[Row] = ()) -> None:
        """Refuse to hold rows to timings for which they were launched with too few repeats."""
        if (why := why_untimed(rows or self.results, names, self.source.inexact)) is not None:
            raise NotMeasured(why, expected="rows with all repeats", hint="take sweep_repeat out of the preset")

    def best(self, column: str, among: Sequence[RowFacts] = ()) -> Measured:
        """The best value of one metric over all rows, or over those of `among` if there are any.

        Every row must have it all the same. Of a metric that every row must hold the best says nothing: see `worst`.
        """
        metric = find_metric(column, f"h2o_sweep.best of {self.title}")
        if metric.over == "every row":
            raise UsageError(
                f"a {metric.title} was asked of the best row, and every row must hold it",
                came=f"h2o_sweep.best({column!r})",
                expected=f"h2o_sweep.worst({column!r})",
            )
        return self._extreme(metric, max if metric.higher_is_better else min, among)

    def worst(self, column: str, rows: Sequence[Row] = ()) -> Measured:
        """The worst value of one metric over all launches of all rows, or of those given, and the one that has it."""
        metric = find_metric(column, f"h2o_sweep.worst of {self.title}")
        launches = tuple(launch for row in rows or self.results for launch in row.launches)
        return self._extreme(metric, min if metric.higher_is_better else max, rows=launches)

    def _extreme(
        self, metric: Metric, pick: Callable[..., Any], among: Sequence[RowFacts] = (), rows: Sequence[Row] = ()
    ) -> Measured:
        self._refuse_untimed([metric.name], rows)
        found: dict[str, list[tuple[Measurement, str]]] = {}
        for result in rows or self.results:
            for launch in deciding_launches(result, metric):
                cell = row_cell(launch, metric.name)
                if cell is None or not math.isfinite(cell.mean):
                    raise NotMeasured(
                        f"the column {metric.name} of {self.title} is missing or not a number",
                        where=f"{launch.run_id}: {launch.log_path}",
                        hint="an older or other binary prints other columns; a missing column never counts as 0",
                    )
                found.setdefault(result.run_id, []).append((cell, launch.run_id))
        worst, wanted = min if metric.higher_is_better else max, {row.run_id for row in among} or found.keys()
        of_points = (worst(found[run_id], key=_mean) for run_id in found if run_id in wanted)
        cell, run_id = pick(of_points, key=_mean)
        return self.measured(metric.name, cell.mean, run_id, cell.std)

    @property
    def missed(self) -> list[Measured]:
        """What a row has of each target that every row must hold, where one misses it: that of the worst row.

        All such targets are compared, those that are held too.
        """
        targets = self.targets.of_every_row
        return [worst for target in targets if not (worst := self.worst(target.metric)).holds(target)]

    # -- what is asked of one and the same row ---------------------------------------------------------------------

    @cached_property
    def asked(self) -> dict[str, float]:
        """Targets by metric; one that is optional is left out where no row has it and nobody set a target."""
        return {name: target for name, target in self.targets.asked.items() if self._is_asked(METRICS[name])}

    def _is_asked(self, metric: Metric) -> bool:
        is_default = self.targets.metric(metric.name).origin == "default"
        return not (metric.optional and is_default) or self._is_measured(metric)

    def _is_measured(self, metric: Metric) -> bool:
        return is_measured(self.results, metric)

    def _meeting(self, *metrics: str) -> tuple[RowFacts, ...]:
        """The rows that meet the targets of these metrics; all of them under the rule best-of."""
        asked = {name: target for name, target in self.targets.asked.items() if name in metrics}
        return eligible_rows(self.facts(asked), asked, rule=self.session.rule)

    # -- quality ---------------------------------------------------------------------------------------------------

    def quality_rise(self) -> Measured:
        """Rise in perplexity under eviction of the row that decides, a fraction of the full cache's; lower is better.

        Under the joint rule it is the least of the rows that meet the lossy target (of all rows, with a note, where
        none does); under the rule best-of the least of all. A bench that prints no such column cannot tell: where
        somebody set a target that is a failure, where only the default asks, the item is skipped.
        """
        metric = METRICS["quality_ppl_rise"]
        if not self._is_measured(metric):
            missing = f"quality is not measured: the rows of {self.title} have no column {metric.name}"
            if not self._is_asked(metric):
                raise OptedOut(f"{missing}, and no target asks for it")
            raise NotMeasured(
                missing,
                expected=f"that column, for a target of {self.targets.quality!r} ({self.targets.quality.origin})",
                hint="the reference bench prints it; of another bench --h2o-demo PATH compares generated text",
            )
        eligible = self._meeting(LOSSY)
        if not eligible:
            self.note("no row meets the lossy target; the rise is the least of all rows")
        return self.best(metric.name, eligible)

    @property
    def compares_text(self) -> bool:
        """Whether there is an llm_demo, whose text tells of quality where the bench prints no perplexity."""
        return self.session.settings["demo"] is not None

    def text_similarity(self) -> Measured:
        """How alike the texts are that llm_demo says with H2O off and on, mean over the prompts; higher is better."""
        found = self._demo()
        self._note_all(pair.render() for pair in found.texts)
        if found.similarity < HARDLY_ALIKE:
            asked = self.targets.similarity.value is not None
            unasked = "" if asked else ", and no target asks for more: targets: {similarity: 0.3} does"
            self.note(f"the texts have hardly a word in common{unasked}")
        return self.measured("demo_similarity", found.similarity, found.candidate)

    # -- real prompts ----------------------------------------------------------------------------------------------

    def _demo(self) -> DemoComparison:
        """Pairs of launches of llm_demo, those that are asked for first.

        They are those of the row that evicts most among those that meet the lossy target; among all where none does.
        Real prompts have lengths of their own: the workloads share them.
        """
        if self.workload:
            return self.whole._demo()
        row = best_row(self._meeting(LOSSY) or self.facts((LOSSY,)), LOSSY)
        if row is None:
            raise NotMeasured(f"no row of {self.title} has a lossy ratio", where=self.name)
        total, bucket = self.targets.demo_drop.value, self.targets.demo_bucket_drop.value
        return self.source.demo(self._point(row.run_id), total, bucket)

    @property
    def prompt_buckets(self) -> tuple[int, ...]:
        """Lengths of the prompts that llm_demo says, in tokens, each the nearest of 128, 512, 2,048 and so on."""
        return self._demo().buckets

    def demo_drop(self, bucket: int | None = None) -> Measured:
        """Fraction of decode speed lost on real prompts, all or those of one bucket of length, with its interval."""
        found, name = self._demo(), "demo_drop" if bucket is None else "demo_bucket_drop"
        target = self.targets.metric(name).value or 0.0
        verdict = found.judge(target, bucket)
        self._note_all(f"excluded {text}" for text in verdict.excluded)
        if bucket is None:
            self.note(f"{len(found.pairs)} pairs of llm_demo on {len(found.prompts)} prompts ({found.candidate})")
            self._note_all(filter(None, [found.disturbed]))
        else:
            self._note_all(found.describe(bucket, target))
        value = math.nan if verdict.drop is None else verdict.drop
        check_drop(value, "the rounds of llm_demo", f"a slow-down of {value:.0%}")
        interval = drop_interval(verdict, inconclusive_fails=self._inconclusive_fails)
        if bucket is None:
            return self.measured(name, value, found.candidate, interval=interval)
        interval = replace(interval, basis=f"{interval.basis} of about {bucket:,} tokens")
        return self.measured(name, value, f"prompts of about {bucket:,} tokens", interval=interval)

    @property
    def demo_missed(self) -> list[Measured]:
        """What misses a target that every row must hold, of the launches with H2O on that reach its trigger.

        A build that tells nothing of them is no failure: the rows of the bench are held to the same targets.
        """
        rows = tuple(self._demo().rows())
        asked = [target for target in self.targets.of_every_row if target.metric in COLUMN_DECIMALS]
        if asked and not rows:
            self.note("llm_demo tells nothing of what every row must hold: an older build, or no prompt is long enough")
            return []
        return [worst for target in asked if not (worst := self.worst(target.metric, rows)).holds(target)]

    def runtime_difference(self) -> Measured:
        """Bytes by which the bench's own lossless sizes differ from those of its dumps, same tokens and codec.

        One launch of the first point, with its statistics and its dump switched on. 0 is held on the embedded bench;
        of another build it is reported: its statistics come from its own code.
        """
        self.has_measured = True
        self._tell_not_launched()
        point = self.points[0]
        difference, text = self.source.sizes(point)
        self.note(text)
        return self.measured("runtime_difference", difference, f"{point.run_id}, launched again with its dump")

    # -- decode speed ----------------------------------------------------------------------------------------------

    def baseline(self) -> Baseline | None:
        """The decode speed with H2O off; None if there is none. OptedOut if it was left out on purpose."""
        return self.source.baseline(self.results, self.workload)

    def known_pairs(self) -> PairedComparison | None:
        """The pairs of the decode verdict, if they were launched or recorded already."""
        return self.source.known_pairs(self.workload)

    def _needed_baseline(self) -> Baseline:
        found, off = self.baseline(), get_adapter(self.preset.bench).uncompressed
        if found is None:
            raise NotMeasured(
                f"no baseline: nothing says how fast {self.title} decodes with {off}",
                came="; ".join(self.source.unfit_baselines(self.results)) or None,
                expected=f"a row with {off} and the same prompt, gen, model, backend and threads; or a number",
                hint="give --h2o-decode-baseline TOK_PER_S, or decode_baseline under targets: in the preset; "
                "--h2o-decode-baseline none leaves the decode threshold out on purpose",
            )
        return found

    @property
    def is_paired(self) -> bool:
        """Whether the decode verdict rests on pairs of launches."""
        return self.source.is_paired

    def decode_drop(self) -> Measured:
        """Fraction of decode speed lost against the baseline, of the row that decides.

        Paired, that is the fastest of the rows that meet the targets beside it; the value carries the interval of its
        pairs, which are launched if nobody has, and the interval decides: pass, fail or inconclusive.

        Against a number or a recorded row it is, under the joint rule, the mean over the rows that meet the targets
        beside it (over all, with a note, where none does), with the interval that their spread and that of their
        repeats leaves, which decides as that of pairs does; under the rule best-of the fastest of all.
        """
        if len(self.parts) > 1:
            came, expected = "h2o_preset.decode_drop()", "h2o_sweep.decode_drop(), of one workload"
            raise UsageError(f"{self.name} has several workloads, and each its slow-down", came=came, expected=expected)
        if self.is_paired:
            return self._paired_drop()
        baseline = self._needed_baseline()
        for row in self.results:
            check_speed(row, baseline.tok_per_s)
        eligible = eligible_rows(self.facts(), self.asked, rule=self.session.rule)
        fastest = self.best(METRICS[DROP].made_of, eligible)
        self._note_all(baseline.notes)
        if self.session.rule == "joint":
            if not eligible:
                self.note("no row meets the targets beside that of decode; the slow-down is that of all rows")
            verdict = self.rows_verdict(baseline.tok_per_s)
            interval = drop_interval(verdict, inconclusive_fails=self._inconclusive_fails)
            source = fastest.source if verdict.pairs == 1 else f"the mean of {verdict.basis}"
            return self.measured(DROP, verdict.drop or 0.0, source, interval=interval)
        disturbance = next(result.disturbance for result in self.results if result.run_id == fastest.source)
        if disturbance:
            self.note(f"the launch of {fastest.source} was disturbed, so its speed is doubtful: {disturbance}")
        drop = decode_drop(baseline.tok_per_s, fastest.value)
        doubt = self._understated(drop, "<=", self._drop_target) if baseline.understates else None
        return self.measured(DROP, drop, fastest.source, interval=doubt)

    def _understated(self, value: float, relation: Literal["<=", ">="], target: float) -> Interval:
        """The interval of a figure that rests on a baseline with a longer context: it is no better than it seems."""
        low, high, missed = (value, None, value > target) if relation == "<=" else (None, value, value < target)
        outcome: Outcome = "fail" if missed else "inconclusive"
        return Interval(low, high, outcome, target, "H2O off decoded a longer context", self._inconclusive_fails)

    def rows_verdict(self, baseline_tok_per_s: float) -> DecodeVerdict:
        """The verdict on a number of the rows that meet the targets beside it; of all where none does."""
        wanted = {row.run_id for row in eligible_rows(self.facts(), self.asked, rule=self.session.rule)}
        rows = [row for row in self.results if row.run_id in wanted or not wanted]
        disturbed = [row for row in rows if row.disturbance]
        if disturbed:
            first = f"first {disturbed[0].run_id}: {disturbed[0].disturbance}"
            self.note(f"disturbed and counted all the same: {len(disturbed)} of {len(rows)} rows, {first}")
        verdict = judge_speeds(rows, baseline_tok_per_s, self._drop_target)
        if self._is_understated:
            is_missed = verdict.outcome == "fail"
            verdict = replace(verdict, high=None, outcome="fail" if is_missed else "inconclusive")
        if verdict.pairs == 1 and verdict.low is not None:
            self.note("one row: the interval of its slow-down rests on its repeats, and says nothing of other launches")
        return verdict

    def _paired_drop(self) -> Measured:
        timed = self._timed_row()
        if timed is None:
            own = [METRICS[name] for name in self._own_targets]
            wanted = [(m, self.targets.metric(m.name)) for m in own]
            items = " and ".join(f"test_{metric.short}" for metric in own)
            raise NotMeasured(
                f"nothing was timed: no row of {self.title} meets the targets beside that of decode",
                came="no row whose decode speed could matter",
                expected=" and, on the same row, ".join(
                    f"a {m.title} {m.relation} {t!r} ({t.origin})" for m, t in wanted
                ),
                hint=f"{items} show{'s' * (len(own) == 1)} the rows and what bounds them",
            )
        verdict = self._verdict_of(timed)
        value = math.nan if verdict.drop is None else verdict.drop
        interval = drop_interval(verdict, inconclusive_fails=self._inconclusive_fails)
        return self.measured(DROP, value, timed.run_id, interval=interval)

    @property
    def _inconclusive_fails(self) -> bool:
        return bool(self.session.settings["inconclusive"] == "fail")

    @property
    def _drop_target(self) -> float:
        return self.asked.get(DROP, METRICS[DROP].target or 0.0)

    def _timed_row(self) -> RowFacts | None:
        """The row that is timed, or was; None if none could pass whatever its speed.

        Of several workloads it is the row of the one configuration that could pass at each; the fastest here where
        none could.
        """
        rule = self.session.rule
        eligible = eligible_rows(self.facts(), self.asked, rule=rule)
        known = self.known_pairs()
        fastest = best_row(eligible, METRICS[DROP].made_of) or next(iter(eligible), None)
        chosen = self._chosen_row()
        timed = next(
            (row for row in eligible if known is not None and row.run_id == known.candidate), chosen or fastest
        )
        if timed is not None:
            own = " and the ".join(METRICS[name].short for name in self._own_targets) if rule == "joint" else ""
            several = len(eligible) > 1
            if chosen is not None and timed.run_id == chosen.run_id:
                whose = f"whose rows meet the {own} target " * bool(own)
                of = f"its configuration is the fastest {whose}at every workload"
            else:
                which = f" that meet{'s' * (not several)} the {own} target" * bool(own)
                of = f"in the sweep the {f'fastest of {len(eligible)} rows' if several else 'only row'}{which}"
            spared = "" if why_untimed(self.results, [DROP]) is None else ", by the speeds of fewer repeats"
            self.note(f"timed {timed.run_id}: {of}{spared}")
        return timed

    @property
    def _own_targets(self) -> list[str]:
        """What a row has to meet for its speed to matter."""
        return [name for name in self.asked if METRICS[name].of == "row" and METRICS[name].over == "some row"]

    def _chosen_row(self) -> RowFacts | None:
        """The row here of the configuration that could pass at every workload; None where there is one workload."""
        whole = self.whole
        if len(whole.parts) == 1:
            return None
        try:
            chosen = choose_configuration(whole.facts(), whole.asked, rule=self.session.rule)
        except H2OError:
            return None  # rows of another workload are missing: this one is judged by its own
        return next((row for row in chosen if row.workload == self.workload), None)

    def _verdict_of(self, timed: RowFacts) -> DecodeVerdict:
        """The verdict on the pairs of a row; what there is to say beside it becomes notes."""
        comparison = self.source.pairs(self._point(timed.run_id), self._drop_target, self.workload)
        verdict = comparison.judge(self._drop_target)
        self._note_all(explain(comparison, verdict))
        return verdict

    # -- one and the same row --------------------------------------------------------------------------------------

    def joint(self, *, known_only: bool = False) -> JointVerdict:
        """Every row against every target; with `known_only` against those that need no more measuring.

        Paired, a decode margin is there for the timed row alone, once it was timed.
        """
        verdict = decide_joint(*self._held(known_only=known_only))
        known = [pairs for part in self.parts if self.is_paired and (pairs := part.known_pairs()) is not None]
        drops = {pairs.candidate: pairs.judge(self._drop_target) for pairs in known}
        rows = tuple(add_margin(row, DROP, drops[row.run_id]) if row.run_id in drops else row for row in verdict.rows)
        timed = [row for row in rows if row.run_id in drops]
        best = join_margins(timed) if len(timed) == len(self.parts) else verdict.best
        return JointVerdict(best, rows, verdict.together)

    def best_of(self) -> BestOfVerdict:
        """The original rule on the same rows."""
        return decide_best_of(*self._held(pooled=False))

    def _held(self, *, known_only: bool = False, pooled: bool = True) -> tuple[tuple[RowFacts, ...], dict[str, float]]:
        """The rows and what is asked of them, without what was left out on purpose; paired, without decode.

        `pooled`: under the joint rule each row has the slow-down of the mean, which decides.
        """
        asked = dict(self.asked)
        speeds: list[float | None] = [None for _ in self.parts]
        lossless: float | None = None
        if known_only:
            asked.pop(LOSSLESS, None)
        if not self.is_paired:
            speeds = [part._known_speed() if known_only else part._needed_speed() for part in self.parts]
        if None in speeds:
            asked.pop(DROP, None)
        if LOSSLESS in asked:
            try:
                lossless = self.session.deciding_ratio()
            except H2OError:
                if not self.is_paired:
                    self.note("the joint rule needs the lossless ratio of the scope that decides")
                raise
        held = zip(self.parts, speeds, strict=True)
        parts = (part.facts(asked, baseline_tok_per_s=speed, lossless=lossless) for part, speed in held)
        facts = tuple(itertools.chain.from_iterable(parts))
        pools = pooled and DROP in asked and self.session.rule == "joint"
        return pool_drop(facts, asked) if pools else facts, asked

    def _known_baseline(self) -> Baseline | None:
        """The baseline, if it can be told."""
        with contextlib.suppress(H2OError):
            return self.baseline()
        return None

    def _known_speed(self) -> float | None:
        found = self._known_baseline()
        return None if found is None else found.tok_per_s

    @property
    def _is_understated(self) -> bool:
        """Whether the slow-down is larger than it seems."""
        return any(found.understates for part in self.parts if (found := part._known_baseline()) is not None)

    def _needed_speed(self) -> float | None:
        """The same, needed by a target; None where that was left out on purpose."""
        try:
            return self._needed_baseline().tok_per_s
        except OptedOut as reason:
            self.note(str(reason))
            return None

    def joint_margin(self) -> Measured:
        """The best row's smallest margin over all targets; at least 0 where one row meets them all.

        Under the rule best-of it is that of the best of each column, whichever rows they are of. Paired, it is that of
        the timed row; of the best row, decode left aside, where none could pass.
        """
        if self.workload:
            margin = self.whole.joint_margin()
            self._note_all(self.whole.notes)
            self.has_measured = True
            return replace(margin, on_compare=self.comparisons.append)
        for name in self.targets.asked.keys() - self.asked.keys():
            self.note(f"{METRICS[name].short} is left out: the bench does not measure it, and no target asks for it")
        if self.is_paired:
            return self._paired_joint_margin()
        if self.session.rule == "best-of":
            margins = self.best_of().margins
            doubt = self._understated(margins.smallest, ">=", 0.0) if self._is_understated else None
            return self.measured(JOINT, margins.smallest, margins.run_id, interval=doubt)
        joint, best_of = self.joint(), self.best_of()
        if joint.best is None:
            raise NotMeasured(f"{self.title} has no row")
        interval = self._joint_interval(joint.best)
        is_missed = not joint.passed if interval is None else interval.outcome == "fail"
        if best_of.passed and is_missed:
            sources = {name: row.run_id for name, row in best_of.rows.items() if row is not None}
            if {LOSSY, DROP} <= sources.keys():
                self.note(
                    f"the rules differ: best-of would pass, with the lossy ratio of {sources[LOSSY]} and the "
                    f"decode speed of {sources[DROP]}, but no single {self.one} meets every target, decode being that "
                    "of the mean over rows"
                )
        if is_missed:
            self.note(
                f"no {self.one} meets every target; the nearest, {joint.best.run_id}, misses "
                f"{' and '.join(joint.best.missed)}"
            )
        return self.measured(JOINT, joint.best.smallest, joint.best.run_id, interval=interval)

    def _joint_interval(self, best: Margins) -> Interval | None:
        """That of the smallest margin of a row, where the mean over rows has one; None where decode is left out."""
        if not math.isfinite(best.by_metric.get(DROP, math.nan)):
            return None
        speeds = ((part, part._known_speed()) for part in self.parts)
        verdicts = [part.rows_verdict(speed) for part, speed in speeds if speed is not None]
        others = replace(best, by_metric={name: best.by_metric[name] for name in best.by_metric if name != DROP})
        return joint_interval(others, verdicts, inconclusive_fails=self._inconclusive_fails)

    def _paired_joint_margin(self) -> Measured:
        facts, others = self._held()
        untimed = decide_joint(facts, others)
        if self.session.rule == "joint" and untimed.best is not None and untimed.best.missed:
            missed = " and ".join(untimed.best.missed)
            meant = f"no {self.one} meets the other targets ({missed})"
            self.note(f"{meant}: no decode speed could matter, and none was asked for")
            return self.measured(JOINT, untimed.best.smallest, untimed.best.run_id)
        timed = {part: row for part in self.parts if (row := part._timed_row()) is not None}
        if len(timed) < len(self.parts):
            raise NotMeasured(f"no row of {self.title} can be timed", where=self.name)
        verdicts = [part._verdict_of(row) for part, row in timed.items()]
        if self.session.rule == "best-of":
            margins = decide_best_of(facts, others).margins
        else:
            run_ids = {row.run_id for row in timed.values()}
            margins = join_margins([row for row in untimed.rows if row.run_id in run_ids])
        interval = joint_interval(margins, verdicts, inconclusive_fails=self._inconclusive_fails)
        worst = worst_verdict(verdicts)
        value = math.nan if worst.drop is None else add_margin(margins, DROP, worst).smallest
        return self.measured(JOINT, value, margins.run_id, interval=interval)

    @property
    def one(self) -> str:
        """What has to meet every target."""
        return "row" if len(self.parts) == 1 else "configuration"

    # -- what the journal keeps ------------------------------------------------------------------------------------

    def record(self, nodeid: str, outcome: str, reason: str | None) -> dict[str, Any]:
        if self.comparisons:
            with contextlib.suppress(H2OError) if self.workload else contextlib.nullcontext():
                self.whole.remember()
        told = super().record(nodeid, outcome, reason)
        return {**told, "workload": self.workload} if self.workload else told

    def remember(self) -> None:
        """Hand what the summary needs of this preset to the controller; every row must have been asked for before.

        Those of another workload may not have been, or failed: then the summary says less.
        """
        self.session.run.new.add_preset(self.name, self._summary_facts())

    def _summary_facts(self) -> PresetFacts:
        """What the summary needs to hold all rows of this preset against both rules again."""
        found, left_out = {}, False
        for part in self.parts:
            try:
                found[part.workload] = part.baseline()
            except OptedOut:
                left_out = True
            except H2OError:
                pass  # test_decode and test_joint fail with it; to the summary it is no baseline
        baseline = found.get("")
        given, own = self.targets.by_metric, preset_origin(self.preset)
        others = {
            name: target.value
            for name, target in given.items()
            if (METRICS[name].of == "row" and name not in TARGET_OPTIONS)
            or (target.origin == own and _is_beside_rows(METRICS[name]))
        }
        return PresetFacts(
            run_ids=tuple(result.run_id for result in self.results),
            path=str(self.preset.path) if self.preset.path else None,
            bench=self.preset.bench,
            model_layers=self.source.model_layers,
            h2o_layer_start=self.preset.h2o_layer_start,
            h2o_layer_end=self.preset.h2o_layer_end,
            targets={METRICS[name].key: self.asked.get(name) for name in TARGET_OPTIONS if METRICS[name].joint},
            metric_targets={name: t for name, t in others.items() if t is not None},
            decode_left_out=left_out,
            paired=self.is_paired,
            baseline_tok_per_s=baseline.tok_per_s if baseline else None,
            baseline_origin=baseline.origin if baseline else None,
            baseline_files=tuple(str(path) for one in found.values() if one is not None for path in one.files),
            workloads=tuple(part.workload for part in self.parts if part.workload),
            baselines={workload: one.tok_per_s for workload, one in found.items() if workload and one is not None},
            fingerprint=self.source.fingerprint(self.results),
            coding=self.source.coding,
            inexact=self.source.inexact,
        )


class PointItem(PresetItem):
    """One point of a sweep: is its row sound?"""

    kind = "point"

    def __init__(self, session: GateSession, preset: Preset, point: Point, targets: Targets) -> None:
        super().__init__(session, preset, targets)
        self.point = point

    @property
    def result(self) -> Row:
        """The run of this point. BenchError if it failed or its row is not sound."""
        self.has_measured = True
        if (why := self.session.not_launched(self.preset).get(self.point.run_id)) is not None:
            self.source.note_not_launched(self.point, why)
            raise OptedOut(f"not launched (--h2o-fast): {why}")
        result = self.source.result(self.point)
        if result.shares_run_with:
            self.note(f"shares the run of {result.shares_run_with}")
        if result.disturbance:
            self.note(f"its launch was disturbed: {result.disturbance}")
        self._note_all(filter(None, [self.source.first_cause(result), describe_floor(result)]))
        self._note_all(result.notes)
        return result

    @property
    def row(self) -> Row:
        """The sound row of this point."""
        return self.result

    def record(self, nodeid: str, outcome: str, reason: str | None) -> dict[str, Any]:
        return {**super().record(nodeid, outcome, reason), "run_id": self.point.run_id}


class LosslessItem(GateItem):
    """One dump scope: its streams really encoded, decoded and compared."""

    kind = "scope"

    def __init__(self, session: GateSession, scope: Scope, targets: Targets) -> None:
        super().__init__(session, scope.name, targets)
        self.scope = scope

    @property
    def result(self) -> LosslessResult:
        """The evaluation of this scope. DumpError if it cannot be read, or entries of it cannot."""
        self.has_measured = True
        return self.session.evaluate(self.scope)

    @property
    def ratio(self) -> Measured:
        """Raw fp16 bytes over encoded bytes, all headers counted, K and V together."""
        return self.measured("lossless_ratio", self.result.lossless_ratio, self.name)

    @property
    def streams(self) -> int:
        """Streams that were encoded and counted."""
        return self.result.encoded_streams

    @property
    def decoded_streams(self) -> int:
        """Streams that were decoded from the counted bytes and equal their input bit for bit."""
        return self.result.verified_streams


class ComparisonItem(GateItem):
    """One preset or scope of this run against the same one of an earlier run."""

    kind = "comparison"

    def __init__(self, session: GateSession, subject: SweepItem | LosslessItem) -> None:
        super().__init__(session, subject.name, subject.targets)
        self.subject = subject
        self.earlier: Earlier | None = None
        self._comparison: SubjectComparison | None = None
        self._headlines: list[FigureChange] = []

    @property
    def subject_kind(self) -> str:
        return "preset" if isinstance(self.subject, SweepItem) else "scope"

    def now(self) -> SubjectRecord:
        """The figures of this run, measured if nobody has; an H2OError that says why there are none."""
        if isinstance(self.subject, SweepItem):
            results = self.subject.results
            points = self.subject.points
            rows = [(point.manifest_fields(), result) for point, result in zip(points, results, strict=True)]
            self.subject.remember()
            source = self.subject.source
            figures = preset_figures(rows, codes=source.coding is not None)
            return SubjectRecord("preset", self.name, True, source.fingerprint(results), figures, source.inexact)
        result = self.subject.result
        fingerprint = scope_fingerprint(result, describe_machine())
        return SubjectRecord("scope", self.name, True, fingerprint, scope_figures(result))

    @property
    def comparison(self) -> SubjectComparison:
        """Every figure, then and now."""
        self.has_measured = True
        if self._comparison is None:
            now = self.now()
            self.earlier = find_earlier(self.session.run.store, self.session.request, now)
            self._note_all(self.earlier.notes)
            if not self.earlier.subject.held:
                self.note(f"{self.earlier.title} had itself failed items of {now.title}")
            metrics = {**self.earlier.metrics, **metric_facts()}
            left = self._not_launched()
            self._comparison = compare_subjects(
                self.earlier.subject,
                now,
                metrics,
                self.session.request.allowances,
                where=self.earlier.title,
                rolling=self.earlier.rolling,
                not_launched=left,
            )
            then, rolling = self.earlier.subject, self.earlier.rolling
            then = then if rolling is None else rolling.put_into(then)
            then = replace(then, figures={row: of for row, of in then.figures.items() if row not in left})
            self._headlines = headlines(then, now, metrics, comparable=not self._comparison.differing)
            self._note_all(self._comparison.remarks)
        return self._comparison

    def _not_launched(self) -> frozenset[str]:
        """The rows, by their names in records, that --h2o-fast leaves out."""
        if isinstance(self.subject, LosslessItem):
            return frozenset()
        left = self.session.not_launched(self.subject.preset)
        points = (point for point in self.session.points(self.subject.preset) if point.run_id in left)
        return frozenset(row_key(point.manifest_fields(), point.repeat) for point in points)

    @property
    def regressions(self) -> tuple[FigureChange, ...]:
        """Figures that are worse than allowed, say that other data was measured, or are missing now."""
        return self.comparison.regressions

    def record(self, nodeid: str, outcome: str, reason: str | None) -> dict[str, Any]:
        record = super().record(nodeid, outcome, reason)
        record["subject"] = self.subject_kind
        record["comparison"] = self.to_json()
        return record

    def to_json(self) -> dict[str, Any] | None:
        """What reports say of the comparison; None if there was none."""
        if self._comparison is None or self.earlier is None:
            return None
        return {
            "asked": self.earlier.asked,
            "run": self.earlier.run,
            "ended": self.earlier.ended,
            **self._comparison.to_json(),
            "beside": list(self.earlier.beside),
            "headlines": [change_to_json(change) for change in self._headlines],
        }

    def write_dry_run(self) -> str:
        return self.subject.write_dry_run()


def make_item(session: GateSession, subject: Subject, *, compared: bool = False) -> GateItem:
    """The item that is about a preset, a point of it or a scope; with `compared`, about it and an earlier run."""
    item: SweepItem | LosslessItem
    if subject.kind == "scope":
        scope = session.scopes[subject.name]
        item = LosslessItem(session, scope, scope_targets(session.settings, scope))
    else:
        preset = session.presets[subject.name]
        targets = session.targets(preset)
        if subject.point is not None:
            return PointItem(session, preset, session.points(preset)[subject.point], targets)
        item = SweepItem(session, preset, targets, subject.workload)
    return ComparisonItem(session, item) if compared else item
