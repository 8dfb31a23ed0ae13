"""What a gate file sees of a sweep: one of its points, or all rows of a preset.

Nothing is measured before it is asked for: an item that is only collected costs nothing, and a failure to measure
is the failure of the item that asked.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pytest_h2o.bench.adapter import get_adapter
from pytest_h2o.errors import BenchError, H2OError, NotMeasured, OptedOut
from pytest_h2o.gate.item import GateItem, Targets
from pytest_h2o.gate.measured import METRICS, Measured
from pytest_h2o.gate.quality import QUALITY_COLUMN, QualityVerdict
from pytest_h2o.gate.row_metrics import row_cell
from pytest_h2o.gate.rule import (
    BestOfVerdict,
    JointVerdict,
    RowFacts,
    RowMargins,
    Thresholds,
    best_of_margins,
    decide_best_of,
    decide_joint,
    decode_drop,
)
from pytest_h2o.gate.timed_row import eligible_rows

if TYPE_CHECKING:
    from pytest_h2o.bench.result import PointResult
    from pytest_h2o.gate.baseline import Baseline
    from pytest_h2o.gate.figures import Figures
    from pytest_h2o.gate.paired_item import PairedDecode
    from pytest_h2o.presets import Preset

_LAUNCH_FACTS = ("argv", "returncode", "signal_name", "elapsed_s", "output_tail")


def row_facts(result: PointResult) -> RowFacts:
    """The deciding figures of a run."""
    lossy, decode = result.row.get("h2o_lossy"), result.row.decode_tok_per_s
    rise = result.row.get(QUALITY_COLUMN)
    return RowFacts(
        run_id=result.run_id,
        lossy=lossy.mean if lossy else None,
        decode_tok_per_s=decode.mean if decode else None,
        quality_ppl_rise=rise.mean if rise else None,
    )


class SweepItem(GateItem):
    """All rows of one preset."""

    kind = "sweep"

    def __init__(self, session: Figures, preset: Preset, targets: Targets) -> None:
        super().__init__(session, preset.name, targets)
        self.preset = preset

    def write_dry_run(self) -> str:
        return f"{super().write_dry_run()}; {self.session.write_dry_run(self.preset)}"

    @property
    def results(self) -> tuple[PointResult, ...]:
        """The runs of all points, in their order.

        Raises
        ------
        BenchError
            A point failed or its row is not sound: a verdict over the rest would be a verdict on missing data.
        """
        self.asked = True
        results: list[PointResult] = []
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

        Raises
        ------
        NotMeasured
            No row has this column, or a row lacks it.
        """
        if column not in METRICS:
            raise NotMeasured(
                f"no metric is called {column!r}", expected=", ".join(METRICS), hint="see the table of metrics"
            )
        found = []
        for result in self.results:
            cell = row_cell(result.row, column)
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

        Raises
        ------
        NotMeasured
            There is no baseline, or a row has no decode speed; or paired, and no row meets the other targets, so that
            nothing was timed.
        OptedOut
            The baseline was set to ``none``.
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
        from pytest_h2o.gate.paired_item import PairedDecode  # brings numpy, which collecting alone does not need

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
