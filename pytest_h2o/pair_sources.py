"""Where the pairs of a preset come from: a run folder of before, a bench that is run, or nowhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_h2o.errors import NotMeasured, StoreError
from pytest_h2o.gate.paired import DECODE_FOLDER, PAIRS_NAME, PairedComparison
from pytest_h2o.store import keep_error, kept_value

if TYPE_CHECKING:
    from pytest_h2o.bench.command import BenchSettings
    from pytest_h2o.bench.launch import Launcher
    from pytest_h2o.bench.result import PointResult
    from pytest_h2o.decode_plan import PairPlan
    from pytest_h2o.points import SweepPoint
    from pytest_h2o.progress import ProgressWriter
    from pytest_h2o.store import OnceStore


class PairSource(Protocol):
    """The paired comparison of one preset."""

    def known(self) -> PairedComparison | None:
        """The pairs, if they were launched or recorded already."""
        ...

    def compare(self, point: SweepPoint, plan: PairPlan) -> PairedComparison:
        """The pairs of a point; an H2OError that says why there are none."""
        ...


class LaunchedPairs:
    """Pairs that are launched, once for all processes of the run."""

    def __init__(
        self, launcher: Launcher, other: BenchSettings | None, store: OnceStore, preset: str, progress: ProgressWriter
    ) -> None:
        self._launcher = launcher
        self._progress = progress
        self._what = decode_step(preset)
        self._other = other
        self._store = store
        self._key = f"decode/{preset}"
        self._comparison: PairedComparison | None = None

    def known(self) -> PairedComparison | None:
        if self._comparison is None:
            kept = self._store.peek(self._key)
            if kept is not None and "error" not in kept:
                self._comparison = PairedComparison.from_json(kept_value(kept))
        return self._comparison

    def compare(self, point: SweepPoint, plan: PairPlan) -> PairedComparison:
        """The pairs of the row that was asked for first; errors of a launch are raised for whoever asks."""
        if self._comparison is None:
            kept = self._store.once(self._key, keep_error(lambda: self._launch(point, plan).to_json()))
            self._comparison = PairedComparison.from_json(kept_value(kept))
        return self._comparison

    def _launch(self, point: SweepPoint, plan: PairPlan) -> PairedComparison:
        from pytest_h2o.bench.adapter import get_adapter
        from pytest_h2o.bench.config import without_quality
        from pytest_h2o.bench.launch import JsonSupport
        from pytest_h2o.bench.paired import PairRunner, compare_pairs
        from pytest_h2o.bench.relaunch import Relaunches

        folder = self._launcher.directory / DECODE_FOLDER
        candidate = replace(self._launcher, directory=folder, base=without_quality(self._launcher.base))

        def launch_with(launcher: Launcher) -> Callable[[str], PointResult]:
            return lambda run_id: launcher.launch_point(replace(point, run_id=run_id))

        if self._other is None:
            what = f"{get_adapter(point.bench).uncompressed} in the same bench"
            baseline: Callable[[str], PointResult] = partial(candidate.launch_baseline, point)
        else:
            what = f"another build, {self._other.command[0]}"
            baseline = launch_with(replace(candidate, settings=self._other, json_support=JsonSupport()))
        show = self._shown(plan.budget.pairs)
        again = Relaunches() if plan.relaunch else Relaunches(0)
        runner = PairRunner(show(baseline), show(launch_with(candidate)), self._keep, again)
        try:
            return compare_pairs(
                runner, plan.budget, plan.target, candidate=point.run_id, baseline=what, notes=plan.notes
            )
        finally:
            self._progress.finish(self._what)

    def _shown(self, pairs: int) -> Callable[[Callable[[str], PointResult]], Callable[[str], PointResult]]:
        """Make a launch of one side, ``pair_04_baseline``, show itself as part of one of at most so many pairs."""

        def wrap(launch: Callable[[str], PointResult]) -> Callable[[str], PointResult]:
            def shown(run_id: str) -> PointResult:
                _, number, side = run_id.split("_", 2)
                with self._progress.step(self._what, side, unit="pair", total=pairs, number=int(number)):
                    return launch(run_id)

            return shown

        return wrap

    def _keep(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """If a process dies among its pairs, whoever goes on has those that are whole."""
        return self._store.once(f"{self._key}/{name}", make)


def decode_step(preset: str) -> str:
    """What the launches of a preset's pairs are called while they run."""
    return f"{preset} decode"


class RecordedPairs:
    """Pairs in the folder of a preset in a run folder of before."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / DECODE_FOLDER / PAIRS_NAME
        self._comparison: PairedComparison | None = None

    def known(self) -> PairedComparison | None:
        if self._comparison is None and self._path.exists():
            self._comparison = read_comparison(self._path)
        return self._comparison

    def compare(self, point: SweepPoint, plan: PairPlan) -> PairedComparison:
        found = self.known()
        if found is None or found.candidate != point.run_id:
            raise NotMeasured(
                "no pairs of launches are recorded of the row that the decode verdict is for",
                where=str(self._path),
                came="no such file" if found is None else f"pairs of {found.candidate}",
                expected=f"pairs of {point.run_id}",
                hint="run the bench, or give a speed: --h2o-decode-baseline TOK_PER_S",
            )
        return found


class NoPairs:
    """A preset that nothing can measure."""

    def known(self) -> PairedComparison | None:
        return None

    def compare(self, point: SweepPoint, plan: PairPlan) -> PairedComparison:
        raise NotMeasured(f"not measured: {point.preset}", expected="a bench to run, or recorded pairs")


def read_comparison(path: Path) -> PairedComparison:
    """Read the pairs of a run folder.

    Raises
    ------
    StoreError
        The file cannot be read, is not JSON, or has another shape.
    """
    try:
        return PairedComparison.from_json(json.loads(path.read_text(encoding="utf-8")))
    except StoreError as error:
        raise StoreError(error.what, where=str(path), came=error.came, expected=error.expected) from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError("recorded pairs cannot be read", where=str(path), came=str(error)) from error
