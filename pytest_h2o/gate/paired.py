"""A paired comparison as a value: every pair, how it was launched, and the verdict on it. Pure.

It can be kept as JSON and judged again; the verdict is never stored without the pairs that it rests on.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pytest_h2o.decode_options import MAX_DECODE_PAIRS
from pytest_h2o.errors import H2OError, StoreError
from pytest_h2o.gate.decode import Action, Budget, DecodeVerdict, judge, next_action
from pytest_h2o.gate.pairs import Order, Pair

COMPARISON_VERSION = 1
DECODE_FOLDER = "decode"
"""Folder of a preset in the run folder that takes configs, logs and output of its pairs."""
PAIRS_NAME = "pairs.json"
UNLIKE_PAIRS = 2
"""So many pairs, all of them unlike, and no other: what makes them unlike is no accident, and more would not help."""


@dataclass(frozen=True)
class TimedLaunch:
    """One launch of one side.

    Attributes
    ----------
    run_id : str
        Name of its files under ``decode/``.
    decode_tok_per_s : float
        Mean decode speed of its repeats, tokens per second, higher is better.
    elapsed_s : float
        Seconds from launch to end.
    disturbance : str or None
        What disturbed it, if anything is known to have.
    """

    run_id: str
    decode_tok_per_s: float
    elapsed_s: float
    disturbance: str | None = None


@dataclass(frozen=True)
class TimedPair:
    """Both launches of a pair, in which order, and why they cannot be compared if they cannot."""

    order: Order
    baseline: TimedLaunch
    candidate: TimedLaunch
    excluded: str | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds of both launches."""
        return self.baseline.elapsed_s + self.candidate.elapsed_s

    @property
    def pair(self) -> Pair:
        return Pair(self.baseline.decode_tok_per_s, self.candidate.decode_tok_per_s, self.order, self.excluded)


@dataclass(frozen=True)
class PairedComparison:
    """All pairs of one comparison.

    Attributes
    ----------
    candidate : str
        Run id of the row that is judged.
    baseline : str
        What it was paired with, in words.
    seed : int
        Of the order of launches.
    planned_pairs : int
        Pairs that the error was spread over, fixed before the first one.
    pairs : tuple of TimedPair
        In launch order.
    measured_again : tuple of str
        Launches that were disturbed and made again, each with its reason; they take no part.
    stopped : str
        Why no further pair was launched.
    elapsed_s : float
        Seconds of all launches together, those that were made again too.
    notes : tuple of str
        What else a reader should know.
    """

    candidate: str
    baseline: str
    seed: int
    planned_pairs: int
    pairs: tuple[TimedPair, ...] = ()
    measured_again: tuple[str, ...] = ()
    stopped: str = ""
    elapsed_s: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def launches(self) -> int:
        return 2 * len(self.pairs) + len(self.measured_again)

    @property
    def is_comparable(self) -> bool:
        """False where pairs were launched and not one of them could be compared."""
        return not self.pairs or any(pair.excluded is None for pair in self.pairs)

    def judge(self, target: float) -> DecodeVerdict:
        """The verdict of these pairs on a largest allowed drop, a fraction."""
        return judge([timed.pair for timed in self.pairs], target, planned_pairs=self.planned_pairs)

    def baseline_tok_per_s(self) -> float | None:
        """Median decode speed of the baseline's launches in pairs that could be compared; None without one."""
        return _median([pair.baseline for pair in self.pairs if pair.excluded is None])

    def candidate_tok_per_s(self) -> float | None:
        """The same of the candidate's launches."""
        return _median([pair.candidate for pair in self.pairs if pair.excluded is None])

    def to_json(self) -> dict[str, Any]:
        """Built-in types only; `from_json` reads it back."""
        value = asdict(self)
        value["pairs"] = [asdict(pair) for pair in self.pairs]
        for name in ("measured_again", "notes"):
            value[name] = list(value[name])
        return {"version": COMPARISON_VERSION, **value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PairedComparison:
        """Read what `to_json` gave.

        Raises
        ------
        StoreError
            The value has another shape or version, or a pair without a speed.
        """
        try:
            fields = dict(value)
            version = fields.pop("version")
            if version != COMPARISON_VERSION:
                raise ValueError(f"version {version!r}")
            pairs = tuple(_read_pair(pair) for pair in fields.pop("pairs"))
            again, notes = tuple(fields.pop("measured_again")), tuple(fields.pop("notes"))
            made = cls(pairs=pairs, measured_again=again, notes=notes, **fields)
            made.judge(0.0)
        except (KeyError, TypeError, ValueError, AttributeError, H2OError) as error:
            raise StoreError(
                "a paired comparison was kept in another shape than this version reads",
                came=f"{type(error).__name__}: {error}",
                expected=f"version {COMPARISON_VERSION}: pairs with the decode speeds of both sides",
                hint="start a new run folder",
            ) from error
        return made


def _median(launches: Sequence[TimedLaunch]) -> float | None:
    return statistics.median(launch.decode_tok_per_s for launch in launches) if launches else None


def _read_pair(value: Mapping[str, Any]) -> TimedPair:
    pair = TimedPair(
        value["order"], TimedLaunch(**value["baseline"]), TimedLaunch(**value["candidate"]), value["excluded"]
    )
    _ = pair.pair
    return pair


def next_pair(pairs: Sequence[TimedPair], budget: Budget, target: float, *, elapsed_s: float) -> Action:
    """Launch another pair, or stop: as `pytest_h2o.gate.decode.next_action`, and where all pairs so far are unlike."""
    action = next_action([timed.pair for timed in pairs], budget, target, elapsed_s=elapsed_s)
    if action.launch and len(pairs) >= UNLIKE_PAIRS and all(pair.excluded is not None for pair in pairs):
        reason = f"not one of the first {len(pairs)} pairs could be compared, so more would not help"
        return Action(False, reason, action.verdict)
    return action


def explain(comparison: PairedComparison, verdict: DecodeVerdict) -> list[str]:
    """What a reader of the verdict should know beside its interval, a line each."""
    lines = [f"paired with {comparison.baseline}: {comparison.launches} launches; {comparison.stopped}"]
    if not comparison.is_comparable:
        lines.append("not comparable: no pair could be compared, so this is no verdict on the decode speed")
    elif verdict.outcome == "inconclusive" and verdict.note is None and verdict.pairs:
        lines.append(f"to decide: {_need(verdict.needed_pairs)}")
    if verdict.note is not None and verdict.note != comparison.stopped:
        lines.append(verdict.note)
    lines += [f"excluded {text}" for text in verdict.excluded]
    lines += [f"measured again: {text}" for text in comparison.measured_again]
    kept = [launch for pair in comparison.pairs for launch in (pair.baseline, pair.candidate) if launch.disturbance]
    if kept:
        lines.append(
            f"disturbed and counted all the same: {len(kept)} of {2 * len(comparison.pairs)} launches, first "
            f"{kept[0].run_id}: {kept[0].disturbance}"
        )
    return [*lines, *comparison.notes]


def _need(pairs: int | None) -> str:
    if pairs is None:
        return "how many pairs cannot be told from these"
    if pairs > MAX_DECODE_PAIRS:
        return (
            f"about {pairs} pairs, more than the {MAX_DECODE_PAIRS} that a comparison can have: too near to the target "
            "for this noise; make launches quieter (more repeats, a machine of its own)"
        )
    return (
        f"a new comparison planned with about {pairs} pairs (--h2o-decode-budget {pairs}, or "
        "decode_pairs under targets: in the preset)"
    )
