"""What all gate items share: a name, targets, the comparisons that were made, notes, and the record for the journal."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pytest_h2o.bench.llm_bench import get_adapter
from pytest_h2o.bench.machine import describe_machine
from pytest_h2o.errors import BenchError, H2OError, NotMeasured, OptedOut
from pytest_h2o.gate.compare import (
    FigureChange,
    SubjectComparison,
    SubjectRecord,
    change_to_json,
    compare_subjects,
    headlines,
    preset_figures,
    scope_figures,
    scope_fingerprint,
)
from pytest_h2o.gate.decode import explain
from pytest_h2o.gate.metrics import ROW_METRICS, metric_facts, row_cell
from pytest_h2o.gate.rule import (
    BestOfVerdict,
    JointVerdict,
    RowFacts,
    RowMargins,
    Thresholds,
    add_decode_margin,
    best_of_margins,
    best_row,
    choose_timed_row,
    decide_best_of,
    decide_joint,
    decode_drop,
    drop_interval,
    eligible_rows,
    joint_interval,
)
from pytest_h2o.gate.targets import Targets, preset_targets, scope_targets
from pytest_h2o.gate.values import METRICS, Comparison, Interval, Measured
from pytest_h2o.inputs.options import DEFAULT_TARGETS
from pytest_h2o.run.history import Earlier
from pytest_h2o.run.launching import Baseline

if TYPE_CHECKING:
    from pytest_h2o.bench.rows import Row
    from pytest_h2o.gate.decode import DecodeVerdict, PairedComparison
    from pytest_h2o.inputs.presets import Point, Preset
    from pytest_h2o.inputs.scopes import Scope
    from pytest_h2o.lossless.result import LosslessResult
    from pytest_h2o.run.session import GateSession, Subject


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
        self.asked = False
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
            "data": self.session.take_new_data(),
        }

    def refuse_idle(self) -> None:
        """A gate test that ended well without asking for a single figure has shown nothing: NotMeasured."""
        if not self.asked:
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


def _interval_json(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else {"low": interval.low, "high": interval.high, "basis": interval.basis}


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    measured, target = comparison.measured, comparison.target
    # Whoever reads the record later may not have the plugin.
    added = {"added_metric": asdict(METRICS[measured.metric])} if measured.metric in ROW_METRICS else {}
    return {
        "metric": measured.metric,
        "unit": METRICS[measured.metric].unit,
        "value": _plain(measured.value),
        "std": _plain(measured.std),
        "source": measured.source,
        "relation": comparison.relation,
        "target": target.value,
        "target_origin": target.origin,
        "margin": _plain(comparison.margin),
        "outcome": comparison.outcome,
        "interval": _interval_json(measured.interval),
        **added,
    }


QUALITY_COLUMN = "quality_ppl_rise"
"""Rise in perplexity under eviction over the full cache, a fraction: the column that a quality target is for."""


class QualityVerdict:
    """What a sweep item says of quality.

    A bench that prints no `QUALITY_COLUMN` cannot tell. Where somebody set a target that is a failure; where only the
    default asks, quality is left out of the joint rule, and its item is skipped: both say so.
    """

    def __init__(self, item: SweepItem) -> None:
        self._item = item

    def asked(self) -> Thresholds:
        """The thresholds of the preset, that of quality left out where no row tells it and nobody set a target."""
        asked = self._item.targets.thresholds
        if asked.quality is None or self._is_wanted or self._is_measured():
            return asked
        return replace(asked, quality=None)

    def rise(self) -> Measured:
        """The rise of the row that decides; lower is better.

        Under the joint rule it is the least of the rows that meet the lossy target (of all rows, with a note, where
        none does); under the rule best-of the least of all.
        """
        item, target = self._item, self._item.targets.quality
        if not self._is_measured():
            missing = f"quality is not measured: the rows of {item.name} have no column {QUALITY_COLUMN}"
            if not self._is_wanted:
                raise OptedOut(f"{missing}, and no target asks for it")
            raise NotMeasured(
                missing,
                expected=f"that column, for a target of {target!r} ({target.origin})",
                hint="the reference bench prints it; of another bench --h2o-demo PATH compares generated text",
            )
        facts, lossy = item.facts(), Thresholds(item.targets.lossy.value, None, None)
        eligible = eligible_rows(facts, lossy, rule=item.session.rule)
        least = item.best(QUALITY_COLUMN, eligible)
        if not eligible:
            item.note("no row meets the lossy target; the rise is the least of all rows")
        return item.measured(QUALITY_COLUMN, least.value, least.source)

    def similarity(self) -> Measured:
        """How alike the texts are that llm_demo says with H2O off and on, mean over the prompts; higher is better.

        They are those of the row that evicts most among those that meet the lossy target; among all where none does.
        """
        item = self._item
        facts, lossy = item.facts(), Thresholds(item.targets.lossy.value, None, None)
        row = best_row(eligible_rows(facts, lossy, rule=item.session.rule) or facts, "lossy")
        if row is None:
            raise NotMeasured(f"no row of {item.name} has a lossy ratio", where=item.name)
        point = next(point for point in item.session.points(item.preset) if point.run_id == row.run_id)
        comparison = item.session.texts.compare(item.preset, point)
        for pair in comparison.pairs:
            item.note(pair.render())
        return item.measured("demo_similarity", comparison.similarity, row.run_id)

    @property
    def _is_wanted(self) -> bool:
        """Whether somebody set a target."""
        return self._item.targets.quality.origin != "default"

    def _is_measured(self) -> bool:
        return any(fact.quality_ppl_rise is not None for fact in self._item.facts())


_LAUNCH_FACTS = ("argv", "returncode", "signal_name", "elapsed_s", "output_tail")


def row_facts(result: Row) -> RowFacts:
    """The deciding figures of a run."""
    lossy, decode = result.get("h2o_lossy"), result.decode_tok_per_s
    rise = result.get(QUALITY_COLUMN)
    return RowFacts(
        run_id=result.run_id,
        lossy=lossy.mean if lossy else None,
        decode_tok_per_s=decode.mean if decode else None,
        quality_ppl_rise=rise.mean if rise else None,
    )


class SweepItem(GateItem):
    """All rows of one preset."""

    kind = "sweep"

    def __init__(self, session: GateSession, preset: Preset, targets: Targets) -> None:
        super().__init__(session, preset.name, targets)
        self.preset = preset

    def write_dry_run(self) -> str:
        return f"{super().write_dry_run()}; {self.session.write_dry_run(self.preset)}"

    @property
    def results(self) -> tuple[Row, ...]:
        """The runs of all points, in their order."""
        self.asked = True
        results: list[Row] = []
        failed: list[tuple[str, H2OError]] = []
        for point in self.session.points(self.preset):
            try:
                results.append(self.session.result(self.preset, point))
            except H2OError as error:
                failed.append((point.run_id, error))
        if failed:
            raise self._rows_error(failed, len(failed) + len(results))
        self._note_all(self.session.notes(self.preset))
        return tuple(results)

    def _rows_error(self, failed: Sequence[tuple[str, H2OError]], total: int) -> H2OError:
        """What it means to the whole preset that some points have no sound row."""
        run_id, first = failed[0]
        if isinstance(first, NotMeasured):
            return first
        if len(failed) == 1:
            self.note(f"{self.name} needs a sound row of each of its {total} points, and {run_id} has none")
            return first
        what = first.what if run_id in first.what else f"{run_id}: {first.what}"
        launch = {name: getattr(first, name) for name in _LAUNCH_FACTS} if isinstance(first, BenchError) else {}
        return BenchError(
            f"{len(failed)} of {total} rows of {self.name} are missing or not sound",
            where=", ".join(name for name, _ in failed[:6]) + (", …" if len(failed) > 6 else ""),
            came=what + (f" ({first.came})" if first.came else ""),
            expected="a sound row of every point",
            hint="the test_bench items of this preset show each one",
            **launch,
        )

    def facts(self) -> tuple[RowFacts, ...]:
        return tuple(row_facts(result) for result in self.results)

    def best(self, column: str, among: Sequence[RowFacts] = ()) -> Measured:
        """The best value of one column over all rows, or over those of `among` if there are any.

        Every row must have the column all the same.
        """
        if column not in METRICS:
            raise NotMeasured(
                f"no metric is called {column!r}", expected=", ".join(METRICS), hint="see the table of metrics"
            )
        found = []
        for result in self.results:
            cell = row_cell(result, column)
            if cell is None or not math.isfinite(cell.mean):
                raise NotMeasured(
                    f"the column {column} of {self.name} is missing or not a number",
                    where=f"{result.run_id}: {result.log_path}",
                    hint="an older or other binary prints other columns; a missing column never counts as 0",
                )
            found.append((cell, result.run_id))
        pick = max if METRICS[column].higher_is_better else min
        wanted = {row.run_id for row in among or self.facts()}
        cell, run_id = pick((pair for pair in found if pair[1] in wanted), key=lambda pair: pair[0].mean)
        return self.measured(column, cell.mean, run_id, cell.std)

    def baseline(self) -> Baseline | None:
        """The decode speed with H2O off; None if there is none. OptedOut if it was left out on purpose."""
        return self.session.decode.baseline(self.preset, self.results)

    def _needed_baseline(self) -> Baseline:
        found, off = self.baseline(), get_adapter(self.preset.bench).uncompressed
        if found is None:
            raise NotMeasured(
                f"no baseline: nothing says how fast {self.name} decodes with {off}",
                came="; ".join(self.session.decode.unfit_baselines(self.preset, self.results)) or None,
                expected=f"a row with {off} and the same prompt, gen, model, backend and threads; or a number",
                hint="give --h2o-decode-baseline TOK_PER_S, or decode_baseline under targets: in the preset; "
                "--h2o-decode-baseline none leaves the decode threshold out on purpose",
            )
        return found

    def decode_drop(self) -> Measured:
        """Fraction of decode speed lost against the baseline, of the row that decides.

        Paired, that is the row of `pytest_h2o.gate.timed_row`; the value carries the interval of its pairs, and the
        interval decides: pass, fail or inconclusive.

        Against a number or a recorded row it is, under the joint rule, the fastest of the rows that meet the targets
        beside it (of all rows, with a note, where none does); under the rule best-of the fastest of all.
        """
        if self.session.decode.is_paired(self.preset):
            return self._paired().drop()
        baseline = self._needed_baseline()
        eligible = eligible_rows(self.facts(), self.asked_thresholds(), rule=self.session.rule)
        fastest = self.best("decode_tok_per_s", eligible)
        if not eligible:
            self.note("no row meets the targets beside that of decode; the slow-down is that of the fastest row")
        self._note_all(baseline.notes)
        disturbance = next(result.disturbance for result in self.results if result.run_id == fastest.source)
        if disturbance:
            self.note(f"the launch of {fastest.source} was disturbed, so its speed is doubtful: {disturbance}")
        return self.measured("decode_drop", decode_drop(baseline.tok_per_s, fastest.value), fastest.source)

    def asked_thresholds(self) -> Thresholds:
        """What is asked of the rows; quality left out, with a note, where no row tells it and nobody set a target."""
        return self._quality().asked()

    def quality_rise(self) -> Measured:
        """Rise in perplexity under eviction, a fraction of the full cache's; see `gate.quality.QualityVerdict.rise`."""
        return self._quality().rise()

    def runtime_difference(self) -> Measured:
        """Bytes by which the bench's own lossless sizes differ from those of its dumps, same tokens and codec.

        One launch of the first point, with its statistics and its dump switched on. 0 is held on the embedded bench;
        of another build it is reported: its statistics come from its own code.
        """
        self.asked = True
        point = self.session.points(self.preset)[0]
        difference, text = self.session.consistency.compare(self.preset, point)
        self.note(text)
        return self.measured("runtime_difference", difference, f"{point.run_id}, launched again with its dump")

    @property
    def compares_text(self) -> bool:
        """Whether there is an llm_demo, whose text tells of quality where the bench prints no perplexity."""
        return self.session.texts.are_compared

    def text_similarity(self) -> Measured:
        """How alike what llm_demo says with H2O off and on is, 0 to 1; see `gate.quality.QualityVerdict.similarity`."""
        return self._quality().similarity()

    def _quality(self) -> QualityVerdict:
        return QualityVerdict(self)

    def _paired(self) -> PairedDecode:

        return PairedDecode(self)

    def record(self, nodeid: str, outcome: str, reason: str | None) -> dict[str, Any]:
        if self.comparisons:
            self.remember()
        return super().record(nodeid, outcome, reason)

    def remember(self) -> None:
        """Hand what the summary needs of this preset to the controller; every row must have been asked for before."""
        self.session.remember_preset(self.preset, self._summary_facts())

    def _summary_facts(self) -> dict[str, Any]:
        """What the summary needs to hold all rows of this preset against both rules again."""
        baseline, left_out = None, False
        try:
            baseline = self.baseline()
        except OptedOut:
            left_out = True
        except H2OError:
            pass  # test_decode and test_joint fail with it; to the summary it is no baseline
        return {
            "run_ids": [result.run_id for result in self.results],
            "path": str(self.preset.path) if self.preset.path else None,
            "bench": self.preset.bench,
            "model_layers": self.session.model_layers(self.preset),
            "h2o_layer_start": self.preset.h2o_layer_start,
            "h2o_layer_end": self.preset.h2o_layer_end,
            "targets": asdict(self.asked_thresholds()),
            "metric_targets": {name: t.value for name, t in self.targets.metrics.items() if t.value is not None},
            "decode_left_out": left_out,
            "paired": self.session.decode.is_paired(self.preset),
            "baseline_tok_per_s": baseline.tok_per_s if baseline else None,
            "baseline_origin": baseline.origin if baseline else None,
            "baseline_files": [str(path) for path in baseline.files] if baseline else [],
            "fingerprint": self.session.fingerprint(self.preset, self.results),
        }

    def known_margins(self) -> tuple[RowMargins, ...]:
        """Every row against the lossy and the decode target, as far as they can be held without measuring more."""
        asked, baseline = replace(self.asked_thresholds(), lossless=None), None
        if self.session.decode.is_paired(self.preset):
            return self._paired().margins(replace(asked, decode_drop=None)).rows
        with contextlib.suppress(H2OError):
            baseline = self.baseline()
        speed = None if baseline is None else baseline.tok_per_s
        thresholds = replace(asked, decode_drop=None if speed is None else asked.decode_drop)
        return decide_joint(self.facts(), thresholds, baseline_tok_per_s=speed, lossless=None).rows

    def joint(self) -> JointVerdict:
        """Every row against every target (lossy, decode, lossless of the deciding scope).

        Paired, a decode margin is there for the timed row alone, once it was timed.
        """
        if self.session.decode.is_paired(self.preset):
            return self._paired().joint()
        thresholds, baseline, lossless = self._limits()
        return decide_joint(self.facts(), thresholds, baseline_tok_per_s=baseline, lossless=lossless)

    def best_of(self) -> BestOfVerdict:
        """The original rule on the same rows."""
        thresholds, baseline, lossless = self._limits()
        return decide_best_of(self.facts(), thresholds, baseline_tok_per_s=baseline, lossless=lossless)

    def _limits(self) -> tuple[Thresholds, float | None, float | None]:
        """Thresholds, decode baseline and lossless ratio, without those left out on purpose."""
        thresholds = self.asked_thresholds()
        baseline: float | None = None
        try:
            baseline = self._needed_baseline().tok_per_s
        except OptedOut:
            thresholds = replace(thresholds, decode_drop=None)
            self.note("the decode threshold is left out (decode baseline: none)")
        lossless: float | None = None
        if thresholds.lossless is not None:
            try:
                lossless = self.session.dumps.deciding_ratio()
            except H2OError:
                self.note("the joint rule needs the lossless ratio of the scope that decides")
                raise
        return thresholds, baseline, lossless

    def joint_margin(self) -> Measured:
        """The best row's smallest margin over all targets; at least 0 where one row meets them all.

        Under the rule best-of it is that of the best of each column, whichever rows they are of.
        """
        if self.asked_thresholds() != self.targets.thresholds:
            self.note("quality is left out: the bench does not measure it, and no target asks for it")
        if self.session.decode.is_paired(self.preset):
            return self._paired().joint_margin()
        if self.session.rule == "best-of":
            thresholds, baseline, lossless = self._limits()
            margins = best_of_margins(self.facts(), thresholds, baseline_tok_per_s=baseline, lossless=lossless)
            return self.measured("joint_margin", margins.smallest, margins.run_id)
        joint, best_of = self.joint(), self.best_of()
        if best_of.passed and not joint.passed and best_of.lossy_best and best_of.decode_best:
            self.note(
                f"the rules differ: best-of would pass, with the lossy ratio of {best_of.lossy_best.run_id} and the "
                f"decode speed of {best_of.decode_best.run_id}, but no single row meets every target"
            )
        if joint.best is None:
            raise NotMeasured(f"{self.name} has no row")
        if not joint.passed:
            self.note(
                f"no row meets every target; the nearest, {joint.best.run_id}, misses {' and '.join(joint.best.missed)}"
            )
        return self.measured("joint_margin", joint.best.smallest, joint.best.run_id)


class PairedDecode:
    """What a sweep item says of decode speed where it rests on pairs of launches."""

    def __init__(self, item: SweepItem) -> None:
        self._item = item
        self._session = item.session
        self._thresholds = item.asked_thresholds()

    def drop(self) -> Measured:
        """The slow-down of the timed row with its interval; launches its pairs if nobody has."""
        timed = self._timed_row()
        if timed is None:
            targets, asked = self._item.targets, self._thresholds
            wanted = [f"a lossy ratio >= {targets.lossy!r} ({targets.lossy.origin})"] if asked.lossy is not None else []
            if asked.quality is not None:
                wanted.append(f"a rise in perplexity <= {targets.quality!r} ({targets.quality.origin})")
            items = "test_lossy" if asked.quality is None else "test_lossy and test_quality"
            raise NotMeasured(
                f"nothing was timed: no row of {self._item.name} meets the targets beside that of decode",
                came="no row whose decode speed could matter",
                expected=" and, on the same row, ".join(wanted),
                hint=f"{items} show{'s' * (asked.quality is None)} the rows and what bounds them",
            )
        verdict = self._compare(timed)
        value = math.nan if verdict.drop is None else verdict.drop
        interval = drop_interval(verdict, inconclusive_fails=self._inconclusive_fails)
        return self._item.measured("decode_drop", value, timed.run_id, interval=interval)

    def joint_margin(self) -> Measured:
        """The smallest margin of the timed row; of the best row, decode left aside, where none could pass.

        Under the rule best-of the margins beside that of decode are those of the best of each column.
        """
        others = replace(self._thresholds, decode_drop=None)
        if self._session.rule == "best-of":
            return self._best_of_margin(others)
        item, untimed = self._item, self._untimed(others)
        if untimed.best is not None and untimed.best.missed:
            missed = " and ".join(untimed.best.missed)
            item.note(
                f"no row meets the other targets ({missed}): no decode speed could matter, and none was asked for"
            )
            return item.measured("joint_margin", untimed.best.smallest, untimed.best.run_id)
        timed = self._needed_row()
        verdict = self._compare(timed)
        row = next(row for row in untimed.rows if row.run_id == timed.run_id)
        interval = joint_interval(row, verdict, inconclusive_fails=self._inconclusive_fails)
        with_decode = add_decode_margin(untimed, timed.run_id, verdict).best
        value = math.nan if with_decode is None or verdict.drop is None else with_decode.smallest
        return item.measured("joint_margin", value, timed.run_id, interval=interval)

    def _best_of_margin(self, others: Thresholds) -> Measured:
        lossless = None if others.lossless is None else self._session.dumps.deciding_ratio()
        best = best_of_margins(self._item.facts(), others, baseline_tok_per_s=None, lossless=lossless)
        timed = self._needed_row()
        verdict = self._compare(timed)
        interval = joint_interval(best, verdict, inconclusive_fails=self._inconclusive_fails)
        decode = None if verdict.drop is None else verdict.target - verdict.drop
        value = math.nan if decode is None else replace(best, decode=decode).smallest
        return self._item.measured("joint_margin", value, best.run_id, interval=interval)

    def joint(self) -> JointVerdict:
        """Every row's margins; the decode margin of the timed row alone, once it was timed."""
        return self.margins(replace(self._thresholds, decode_drop=None))

    def margins(self, others: Thresholds) -> JointVerdict:
        """Margins over the other targets that are named, and the decode margin of the row that was timed."""
        untimed = self._untimed(others)
        known = self._session.decode.known_comparison(self._item.preset)
        if known is None:
            return untimed
        return add_decode_margin(untimed, known.candidate, known.judge(self._target))

    def _untimed(self, others: Thresholds) -> JointVerdict:
        lossless = None if others.lossless is None else self._session.dumps.deciding_ratio()
        return decide_joint(self._item.facts(), others, baseline_tok_per_s=None, lossless=lossless)

    @property
    def _inconclusive_fails(self) -> bool:
        return bool(self._session.settings["inconclusive"] == "fail")

    @property
    def _target(self) -> float:
        given = self._thresholds.decode_drop
        return DEFAULT_TARGETS["decode_drop"] if given is None else given

    def _timed_row(self) -> RowFacts | None:
        """The row that is timed, or was; None if none could pass whatever its speed."""
        rule = self._session.rule
        eligible = eligible_rows(self._item.facts(), self._thresholds, rule=rule)
        known = self._session.decode.known_comparison(self._item.preset)
        chosen = choose_timed_row(eligible)
        timed = chosen if known is None else next((row for row in eligible if row.run_id == known.candidate), chosen)
        if timed is not None:
            own = "lossy target" if self._thresholds.quality is None else "lossy and the quality target"
            which = "rows" if rule != "joint" else f"rows that meet the {own}"
            self._item.note(f"timed {timed.run_id}: in the sweep the fastest of {len(eligible)} {which}")
        return timed

    def _needed_row(self) -> RowFacts:
        timed = self._timed_row()
        if timed is None:
            raise NotMeasured(f"no row of {self._item.name} can be timed", where=self._item.name)
        return timed

    def _compare(self, timed: RowFacts) -> DecodeVerdict:
        """The verdict on the pairs of a row; what there is to say beside it becomes notes."""
        result = next(result for result in self._item.results if result.run_id == timed.run_id)
        comparison: PairedComparison = self._session.decode.compare(self._item.preset, result, self._target)
        verdict = comparison.judge(self._target)
        for line in explain(comparison, verdict):
            self._item.note(line)
        return verdict


class PointItem(GateItem):
    """One point of a sweep: is its row sound?"""

    kind = "point"

    def __init__(self, session: GateSession, preset: Preset, point: Point, targets: Targets) -> None:
        super().__init__(session, preset.name, targets)
        self.preset = preset
        self.point = point

    @property
    def result(self) -> Row:
        """The run of this point. BenchError if it failed or its row is not sound."""
        self.asked = True
        result = self.session.result(self.preset, self.point)
        if result.shares_run_with:
            self.note(f"shares the run of {result.shares_run_with}")
        if result.disturbance:
            self.note(f"its launch was disturbed: {result.disturbance}")
        self._note_all(result.notes)
        return result

    @property
    def row(self) -> Row:
        """The sound row of this point."""
        return self.result

    def record(self, nodeid: str, outcome: str, reason: str | None) -> dict[str, Any]:
        return {**super().record(nodeid, outcome, reason), "run_id": self.point.run_id}

    def write_dry_run(self) -> str:
        return f"{super().write_dry_run()}; {self.session.write_dry_run(self.preset)}"


class LosslessItem(GateItem):
    """One dump scope: its streams really encoded, decoded and compared."""

    kind = "scope"

    def __init__(self, session: GateSession, scope: Scope, targets: Targets) -> None:
        super().__init__(session, scope.name, targets)
        self.scope = scope

    @property
    def result(self) -> LosslessResult:
        """The evaluation of this scope. DumpError if it cannot be read, or entries of it cannot."""
        self.asked = True
        return self.session.dumps.evaluate(self.scope)

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
            preset = self.subject.preset
            results = self.subject.results
            points = self.session.points(preset)
            rows = [(point.manifest_fields(), result) for point, result in zip(points, results, strict=True)]
            self.subject.remember()
            fingerprint = self.session.fingerprint(preset, results)
            return SubjectRecord("preset", self.name, True, fingerprint, preset_figures(rows))
        result = self.subject.result
        fingerprint = scope_fingerprint(result, describe_machine())
        return SubjectRecord("scope", self.name, True, fingerprint, scope_figures(result))

    @property
    def comparison(self) -> SubjectComparison:
        """Every figure, then and now."""
        self.asked = True
        if self._comparison is None:
            now = self.now()
            self.earlier = self.session.comparer.find_earlier(now)
            self._note_all(self.earlier.notes)
            if not self.earlier.subject.held:
                self.note(f"{self.earlier.title} had itself failed items of {now.title}")
            metrics = {**self.earlier.metrics, **metric_facts()}
            self._comparison = compare_subjects(
                self.earlier.subject,
                now,
                metrics,
                self.session.comparer.allowances,
                where=self.earlier.title,
            )
            self._headlines = headlines(self.earlier.subject, now, metrics, comparable=not self._comparison.differing)
            self._note_all(self._comparison.remarks)
        return self._comparison

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
        targets = preset_targets(session.settings, preset, session.dumps.deciding_scope())
        if subject.point is not None:
            return PointItem(session, preset, session.points(preset)[subject.point], targets)
        item = SweepItem(session, preset, targets)
    return ComparisonItem(session, item) if compared else item
