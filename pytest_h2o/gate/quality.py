"""Does the model still work after eviction: by the rise in perplexity, or by what llm_demo says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_h2o.errors import NotMeasured, OptedOut
from pytest_h2o.gate.rule import Thresholds, best_row
from pytest_h2o.gate.timed_row import eligible_rows

if TYPE_CHECKING:
    from pytest_h2o.gate.measured import Measured
    from pytest_h2o.gate.sweep_items import SweepItem

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

        Raises
        ------
        OptedOut
            The bench does not measure it, and no target asks for it.
        NotMeasured
            The bench does not measure it although a target asks for it; or a row lacks it.
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

        Raises
        ------
        NotMeasured
            There is no llm_demo.
        BenchError
            llm_demo gave no text.
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
