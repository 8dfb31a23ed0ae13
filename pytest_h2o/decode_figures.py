"""The decode figures of a gate session: what speed is held against, and the pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytest_h2o.bench.adapter import get_adapter
from pytest_h2o.decode_options import parse_baseline
from pytest_h2o.decode_plan import choose_baseline, describe_decode, flag_targets, plan_pairs
from pytest_h2o.errors import OptedOut
from pytest_h2o.gate.baseline import Baseline, describe_unfit, paired_baseline, pick_recorded, unlike_contexts
from pytest_h2o.gate.targets import preset_targets
from pytest_h2o.options import Settings

if TYPE_CHECKING:
    from pytest_h2o.bench.result import PointResult
    from pytest_h2o.gate.paired import PairedComparison
    from pytest_h2o.points import SweepPoint
    from pytest_h2o.presets import Preset
    from pytest_h2o.report.new_data import NewData
    from pytest_h2o.row_sources import RowSource


class DecodeFigures:
    """Answers for the decode speed of presets; where their rows come from, the session says."""

    def __init__(
        self,
        settings: Settings,
        *,
        points: Callable[[Preset], tuple[SweepPoint, ...]],
        source: Callable[[Preset], RowSource],
        new: NewData,
    ) -> None:
        self._settings = settings
        self._points = points
        self._source = source
        self._new = new

    def describe(self, presets: Sequence[Preset]) -> list[str]:
        """Lines for the header."""
        wanted = [(preset, preset_targets(self._settings, preset, None).decode_drop.value) for preset in presets]
        return [*describe_decode(self._settings, presets), *flag_targets(self._settings, wanted)]

    def baseline(self, preset: Preset, results: Sequence[PointResult]) -> Baseline | None:
        chosen = choose_baseline(self._settings, preset)
        if chosen.value == "none":
            raise OptedOut(f"the decode threshold is left out: decode baseline none ({chosen.origin})")
        if self.is_paired(preset):
            return paired_baseline(self.known_comparison(preset))
        if chosen.value is not None:
            speed = parse_baseline(str(chosen.value), chosen.origin)
            return Baseline(speed, chosen.origin, unlike_contexts(results))
        return pick_recorded(self._source(preset).baselines, results, get_adapter(preset.bench).uncompressed)

    def unfit_baselines(self, preset: Preset, results: Sequence[PointResult]) -> list[str]:
        source = self._source(preset)
        unused = [f"{log}: {why}" for log, why in source.unused.items()]
        return [*describe_unfit(source.baselines, results), *unused][:4]

    def is_paired(self, preset: Preset) -> bool:
        chosen = choose_baseline(self._settings, preset).value
        return chosen == "paired" or (chosen is None and self._source(preset).pairs.known() is not None)

    def rests_on_rows(self, preset: Preset) -> bool:
        """Whether the speeds of the rows themselves are judged, by a number, where a bench runs."""
        return choose_baseline(self._settings, preset).value not in ("paired", "none")

    def known_comparison(self, preset: Preset) -> PairedComparison | None:
        return self._source(preset).pairs.known()

    def compare(self, preset: Preset, result: PointResult, target: float) -> PairedComparison:
        point = next(point for point in self._points(preset) if point.run_id == result.run_id)
        plan = plan_pairs(self._settings, preset, target)
        comparison = self._source(preset).pairs.compare(point, plan)
        self._new.add_comparison(preset, comparison)
        return comparison
