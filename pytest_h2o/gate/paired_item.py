"""The paired decode verdict of a preset: which row is timed, its slow-down, and the joint margin that follows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_h2o.errors import NotMeasured
from pytest_h2o.gate.paired import explain
from pytest_h2o.gate.paired_margins import add_decode_margin, drop_interval, joint_interval
from pytest_h2o.gate.rule import JointVerdict, RowFacts, Thresholds, best_of_margins, decide_joint
from pytest_h2o.gate.timed_row import choose_timed_row, eligible_rows
from pytest_h2o.options import DEFAULT_TARGETS

if TYPE_CHECKING:
    from pytest_h2o.gate.decode import DecodeVerdict
    from pytest_h2o.gate.measured import Measured
    from pytest_h2o.gate.paired import PairedComparison
    from pytest_h2o.gate.sweep_items import SweepItem


class PairedDecode:
    """What a sweep item says of decode speed where it rests on pairs of launches."""

    def __init__(self, item: SweepItem) -> None:
        self._item = item
        self._session = item.session
        self._thresholds = item.asked_thresholds()

    def drop(self) -> Measured:
        """The slow-down of the timed row with its interval; launches its pairs if nobody has.

        Raises
        ------
        NotMeasured
            No row meets the lossy target, so nothing was timed.
        """
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
