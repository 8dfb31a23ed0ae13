"""Launches pairs: baseline and candidate, each alone on the machine, until the verdict is clear or the budget spent.

Thin: the order of launches, the verdict and when to stop are decided in `pytest_h2o.gate`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pytest_h2o.bench.launch import Relaunches
from pytest_h2o.bench.rows import Row
from pytest_h2o.errors import NotMeasured
from pytest_h2o.files import load
from pytest_h2o.gate.decode import (
    Budget,
    PairedComparison,
    TimedLaunch,
    TimedPair,
    next_pair,
    plan_order,
)

_SAME = (
    ("prompt_len", "prompt length"),
    ("gen_len", "generated length"),
    ("backend", "backend"),
    ("threads", "number of threads"),
    ("model", "model"),
)

CONTEXT_TOLERANCE = 0.01
"""Contexts are alike if they differ by at most this share: the last warning of a run need not name the last token."""


def seen_context(result: Row) -> int | None:
    """The longest context that a run decoded, in tokens: prompt + generated length, or more where a warning says so.

    A cache that is not cleared between repeats goes on growing; the engine's warnings then name a ``kv_len`` above
    prompt + generated length. None where the row has no lengths.
    """
    if result.prompt_len is None or result.gen_len is None:
        return None
    named = result.output.max_kv_len if result.output is not None else None
    return max(result.prompt_len + result.gen_len, named or 0)


def why_unlike(baseline: Row, candidate: Row) -> str | None:
    """Say why the decode speeds of two runs cannot be compared; None if nothing speaks against it."""
    for name, title in _SAME:
        a, b = getattr(baseline, name), getattr(candidate, name)
        if a != b:
            return f"another {title}: baseline {a}, candidate {b}"
    a, b = seen_context(baseline), seen_context(candidate)
    if a is None or b is None:
        return "a row has no prompt or generated length, so nothing tells what context it decoded"
    if abs(a - b) <= CONTEXT_TOLERANCE * min(a, b):
        return None
    longer, result = ("baseline", baseline) if a > b else ("candidate", candidate)
    lengths = (result.prompt_len or 0) + (result.gen_len or 0)
    return (
        f"unlike contexts: warnings of the {longer} show a kv_len of {max(a, b)}, above prompt + gen = {lengths}, "
        f"so it decoded a longer context"
    )


Launch = Callable[[str], Row]
"""Launches one side under a run id of its own; raises H2OError if it gives no sound row."""

Keep = Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]
"""``keep(key, make)`` returns what `make` returned when `key` was asked for first, in this run or before it was broken
off; the value is plain JSON."""


@dataclass
class PairRunner:
    """Launches the pairs of one comparison, keeps each as soon as it is whole, and what was measured again."""

    baseline: Launch
    candidate: Launch
    keep: Keep = lambda _, make: make()
    relaunches: Relaunches = field(default_factory=Relaunches)
    elapsed_s: float = 0.0
    measured_again: list[str] = field(default_factory=list)

    def launch_pair(self, number: int, first: str) -> TimedPair:
        """Launch both sides of a pair, `first` (``AB`` or ``BA``) saying which begins; errors as in a launch.

        Of a pair that was launched before the run was broken off nothing is launched again; of half a pair all is: its
        two launches belong side by side.
        """
        name = f"pair_{number:02d}"
        kept = self.keep(name, lambda: self._launch_both(name, first))
        self.elapsed_s += kept["elapsed_s"]
        self.relaunches.left -= kept["relaunches"]
        self.measured_again += kept["measured_again"]
        return load(TimedPair, kept["pair"], "a pair of launches")

    def _launch_both(self, name: str, first: str) -> dict[str, Any]:
        """Launch a pair, with what it cost; beside this runner, so that a pair that is kept counts once."""
        runner = replace(self, elapsed_s=0.0, measured_again=[], relaunches=Relaunches(self.relaunches.left))
        pair = runner._launch_pair(name, first)
        return {
            "pair": asdict(pair),
            "elapsed_s": runner.elapsed_s,
            "relaunches": self.relaunches.left - runner.relaunches.left,
            "measured_again": runner.measured_again,
        }

    def _launch_pair(self, name: str, first: str) -> TimedPair:
        results: dict[str, Row] = {}
        for side in ("baseline", "candidate") if first == "AB" else ("candidate", "baseline"):
            results[side] = self._launch(self.baseline if side == "baseline" else self.candidate, f"{name}_{side}")
        a, b = results["baseline"], results["candidate"]
        return TimedPair("AB" if first == "AB" else "BA", _timed(a), _timed(b), why_unlike(a, b))

    def _launch(self, launch: Launch, run_id: str) -> Row:
        return self.relaunches.until_quiet(
            self._count(launch(run_id)),
            lambda number: self._count(launch(f"{run_id}_again{number}")),
            lambda result: self.measured_again.append(f"{result.run_id}: {result.disturbance}"),
        )

    def _count(self, result: Row) -> Row:
        self.elapsed_s += result.elapsed_s or 0.0
        return result


def _timed(result: Row) -> TimedLaunch:
    speed = result.decode_tok_per_s
    if speed is None:
        raise NotMeasured("a launch of a pair has no decode speed", where=str(result.log_path))
    return TimedLaunch(result.run_id, speed.mean, round(result.elapsed_s or 0.0, 4), result.disturbance)


def compare_pairs(
    runner: PairRunner, budget: Budget, target: float, *, candidate: str, baseline: str, notes: Sequence[str] = ()
) -> PairedComparison:
    """Launch pairs until the verdict on `target` is clear, the budget is spent, or more would not help."""
    seed = runner.keep("order", lambda: {"seed": secrets.randbelow(2**32)})["seed"]
    order = plan_order(budget.pairs + budget.spare_pairs + 1, seed)
    pairs: list[TimedPair] = []
    planned = budget
    while (action := next_pair(pairs, planned, target, elapsed_s=runner.elapsed_s)).launch:
        pairs.append(runner.launch_pair(len(pairs) + 1, order[len(pairs)]))
        if len(pairs) == 1:
            planned = budget.fitted(pairs[0].elapsed_s, runner.elapsed_s)
    return PairedComparison(
        candidate=candidate,
        baseline=baseline,
        seed=seed,
        planned_pairs=planned.pairs,
        pairs=tuple(pairs),
        measured_again=tuple(runner.measured_again),
        stopped=action.reason,
        elapsed_s=round(runner.elapsed_s, 3),
        notes=(*_fitting(budget, planned, pairs), *notes),
    )


def _fitting(asked: Budget, planned: Budget, pairs: Sequence[TimedPair]) -> tuple[str, ...]:
    """What to say where there was no time for as many pairs as were asked for."""
    if planned.pairs == asked.pairs:
        return ()
    return (
        f"planned {planned.pairs} of {asked.pairs} pairs: the first took {pairs[0].elapsed_s:.1f} s, and there are "
        f"{asked.elapsed_s:g} s for all (--h2o-decode-budget {asked.pairs} sets no limit of time)",
    )


def launch_pairs(runner: PairRunner, count: int, seed: int) -> Iterator[TimedPair]:
    """Launch a fixed number of pairs, for calibration: nothing is decided meanwhile."""
    for number, first in enumerate(plan_order(count, seed), start=1):
        yield runner.launch_pair(number, first)
