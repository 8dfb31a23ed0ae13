"""The rule that decides: the original one (best of each) and ours (one row meets every target). Pure.

Original rule (`decide_best_of`): the best lossy ratio of any row, the best decode speed of any row and the
lossless ratio each against its target. The rows may differ, so it can pass where no configuration does.
Joint rule (`decide_joint`): at least one single row meets every target at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pytest_h2o.bench.llm_bench import ESTIMATE_SLACK
from pytest_h2o.gate.decode import DecodeVerdict
from pytest_h2o.gate.values import Interval, Outcome


@dataclass(frozen=True)
class Thresholds:
    """What is asked; None leaves a threshold out, on purpose and visibly.

    `lossy` and `lossless` are ratios (raw over kept or encoded bytes, higher is better); `decode_drop` is the
    largest allowed fraction of decode speed lost against the baseline, `quality` the largest allowed rise of
    perplexity under eviction, a fraction of the full cache's.
    """

    lossy: float | None
    lossless: float | None
    decode_drop: float | None
    quality: float | None = None


@dataclass(frozen=True)
class RowFacts:
    """The deciding figures of one row; None where the column is missing."""

    run_id: str
    lossy: float | None
    decode_tok_per_s: float | None
    quality_ppl_rise: float | None = None


@dataclass(frozen=True)
class RowMargins:
    """How one row stands to every threshold: relative margins, negative = missed, None = left out.

    A value that is missing or not finite counts as missed by everything (minus infinity).
    """

    run_id: str
    lossy: float | None
    decode: float | None
    lossless: float | None
    quality: float | None = None

    @property
    def smallest(self) -> float:
        return self.rank[0]

    @property
    def rank(self) -> tuple[float, ...]:
        """The margins from the smallest: rows are better in this order, the next margin deciding between equal ones."""
        return tuple(sorted(margin for _, margin in self._named if margin is not None)) or (-math.inf,)

    @property
    def missed(self) -> tuple[str, ...]:
        return tuple(name for name, margin in self._named if margin is not None and not margin >= 0)

    @property
    def _named(self) -> tuple[tuple[str, float | None], ...]:
        names = ("lossy", "decode", "lossless", "quality")
        return tuple((name, getattr(self, name)) for name in names)


def decode_drop(baseline_tok_per_s: float, tok_per_s: float) -> float:
    """Fraction of decode speed lost against the baseline; negative when faster."""
    if not (baseline_tok_per_s > 0 and math.isfinite(baseline_tok_per_s)):
        raise ValueError(f"decode baseline must be a positive number of tok/s, not {baseline_tok_per_s!r}")
    return (baseline_tok_per_s - tok_per_s) / baseline_tok_per_s


def _ratio_margin(value: float | None, target: float | None) -> float | None:
    if target is None:
        return None
    # The difference first: its sign is exact, a rounded quotient's is not.
    return -math.inf if value is None or not math.isfinite(value) else (value - target) / target


def row_margins(
    row: RowFacts, thresholds: Thresholds, *, baseline_tok_per_s: float | None, lossless: float | None
) -> RowMargins:
    """Hold one row against every threshold.

    The margin of the decode threshold is the allowed drop minus the drop: a fraction of the baseline speed; that of
    quality is the allowed rise minus the rise: a fraction of the full cache's perplexity.
    """
    decode: float | None = None
    if thresholds.decode_drop is not None:
        if baseline_tok_per_s is None or row.decode_tok_per_s is None or not math.isfinite(row.decode_tok_per_s):
            decode = -math.inf
        else:
            decode = thresholds.decode_drop - decode_drop(baseline_tok_per_s, row.decode_tok_per_s)
    return RowMargins(
        run_id=row.run_id,
        lossy=_ratio_margin(row.lossy, thresholds.lossy),
        decode=decode,
        lossless=_ratio_margin(lossless, thresholds.lossless),
        quality=_rise_margin(row.quality_ppl_rise, thresholds.quality),
    )


def _rise_margin(rise: float | None, target: float | None) -> float | None:
    if target is None:
        return None
    return -math.inf if rise is None or not math.isfinite(rise) else target - rise


@dataclass(frozen=True)
class JointVerdict:
    """The joint rule's answer: the row of the best rank (largest smallest margin), and every row's margins."""

    best: RowMargins | None
    rows: tuple[RowMargins, ...]

    @property
    def passed(self) -> bool:
        return self.best is not None and self.best.smallest >= 0


def decide_joint(
    rows: Sequence[RowFacts],
    thresholds: Thresholds,
    *,
    baseline_tok_per_s: float | None,
    lossless: float | None,
) -> JointVerdict:
    """At least one row must meet every threshold that is not left out; without rows nothing passes."""
    margins = tuple(
        row_margins(row, thresholds, baseline_tok_per_s=baseline_tok_per_s, lossless=lossless) for row in rows
    )
    best = max(margins, key=lambda m: m.rank, default=None)
    return JointVerdict(best, margins)


@dataclass(frozen=True)
class BestOfVerdict:
    """The original rule's answer; a flag is None where its threshold was left out."""

    lossy_best: RowFacts | None
    decode_best: RowFacts | None
    decode_drop: float | None
    lossy_pass: bool | None
    decode_pass: bool | None
    lossless_pass: bool | None
    quality_pass: bool | None = None

    @property
    def passed(self) -> bool:
        all_flags = (self.lossy_pass, self.decode_pass, self.lossless_pass, self.quality_pass)
        flags = [flag for flag in all_flags if flag is not None]
        return bool(flags) and all(flags)


def best_row(rows: Sequence[RowFacts], column: str) -> RowFacts | None:
    """The first row that is best in one field of `RowFacts`; rows without the value do not count."""
    with_value = [row for row in rows if getattr(row, column) is not None and math.isfinite(getattr(row, column))]
    pick = min if column == "quality_ppl_rise" else max
    return pick(with_value, key=lambda row: float(getattr(row, column)), default=None)


def decide_best_of(
    rows: Sequence[RowFacts],
    thresholds: Thresholds,
    *,
    baseline_tok_per_s: float | None,
    lossless: float | None,
) -> BestOfVerdict:
    """Best of each column against its own threshold, whichever row gave it.

    Unlike the original, a value that is missing fails its threshold; a threshold is left out only by None. Quality,
    which the original does not know, is held against its threshold the same way.
    """
    lossy, quality = best_row(rows, "lossy"), best_row(rows, "quality_ppl_rise")
    decode = best_row(rows, "decode_tok_per_s")
    drop = None
    if baseline_tok_per_s is not None and decode is not None and decode.decode_tok_per_s is not None:
        drop = decode_drop(baseline_tok_per_s, decode.decode_tok_per_s)

    def holds(value: float | None, target: float | None) -> bool | None:
        return None if target is None else value is not None and math.isfinite(value) and value >= target

    return BestOfVerdict(
        lossy_best=lossy,
        decode_best=decode,
        decode_drop=drop,
        lossy_pass=holds(lossy.lossy if lossy else None, thresholds.lossy),
        decode_pass=None if thresholds.decode_drop is None else drop is not None and drop <= thresholds.decode_drop,
        lossless_pass=holds(lossless, thresholds.lossless),
        quality_pass=_rise_holds(quality, thresholds.quality),
    )


def _rise_holds(best: RowFacts | None, target: float | None) -> bool | None:
    margin = _rise_margin(best.quality_ppl_rise if best else None, target)
    return None if margin is None else margin >= 0


def best_of_margins(
    rows: Sequence[RowFacts],
    thresholds: Thresholds,
    *,
    baseline_tok_per_s: float | None,
    lossless: float | None,
) -> RowMargins:
    """The margins of the original rule: those of a row, which need not exist, with the best of each column."""
    lossy, decode = best_row(rows, "lossy"), best_row(rows, "decode_tok_per_s")
    quality = best_row(rows, "quality_ppl_rise")
    best = RowFacts(
        run_id="best of each column",
        lossy=lossy.lossy if lossy else None,
        decode_tok_per_s=decode.decode_tok_per_s if decode else None,
        quality_ppl_rise=quality.quality_ppl_rise if quality else None,
    )
    return row_margins(best, thresholds, baseline_tok_per_s=baseline_tok_per_s, lossless=lossless)


def eligible_rows(rows: Sequence[RowFacts], asked: Thresholds, *, rule: str) -> tuple[RowFacts, ...]:
    """The rows for which a decode speed can matter: under the joint rule those that meet the targets of their own."""
    own = Thresholds(asked.lossy, None, None, asked.quality)
    if rule != "joint" or own == Thresholds(None, None, None):
        return tuple(rows)
    return tuple(row for row in rows if not row_margins(row, own, baseline_tok_per_s=None, lossless=None).missed)


def choose_timed_row(eligible: Sequence[RowFacts]) -> RowFacts | None:
    """The row to time: the fastest of the eligible ones as the sweep saw them; None if there is none."""
    return best_row(eligible, "decode_tok_per_s") or (eligible[0] if eligible else None)


def drop_interval(verdict: DecodeVerdict, *, inconclusive_fails: bool) -> Interval:
    """The interval of the slow-down, and the verdict on its target."""
    pairs = "1 pair" if verdict.pairs == 1 else f"{verdict.pairs} pairs"
    left_out = f", {len(verdict.excluded)} excluded" if verdict.excluded else ""
    return Interval(verdict.low, verdict.high, verdict.outcome, verdict.target, pairs + left_out, inconclusive_fails)


def add_decode_margin(joint: JointVerdict, run_id: str, verdict: DecodeVerdict) -> JointVerdict:
    """The margins of all rows with that of the timed row added; other rows have none, since nothing timed them.

    The margin is the allowed drop minus the estimated one; minus infinity where no pair could be compared.
    """
    decode = -math.inf if verdict.drop is None else verdict.target - verdict.drop
    rows = tuple(replace(row, decode=decode) if row.run_id == run_id else row for row in joint.rows)
    return JointVerdict(next((row for row in rows if row.run_id == run_id), joint.best), rows)


def joint_interval(row: RowMargins, verdict: DecodeVerdict, *, inconclusive_fails: bool) -> Interval:
    """The smallest margin of the timed row, with the interval that its slow-down gives it.

    `row` carries the margins of the other targets. The joint rule holds if those are held and the decode verdict is a
    pass; it is missed if one of those is missed or the verdict is a fail; else it is inconclusive.
    """
    others = [margin for margin in (row.lossy, row.lossless, row.quality) if margin is not None]
    low = None if verdict.high is None else min([*others, verdict.target - verdict.high])
    high = None if verdict.low is None else min([*others, verdict.target - verdict.low])
    outcome: Outcome = "fail" if any(not margin >= 0 for margin in others) else verdict.outcome
    of_drop = drop_interval(verdict, inconclusive_fails=inconclusive_fails)
    return Interval(low, high, outcome, 0.0, of_drop.basis, inconclusive_fails)


@dataclass(frozen=True)
class Bound:
    """The binding limit of a row.

    Attributes
    ----------
    kind : str
        ``floor`` (sink + recent), ``block quantisation`` or ``target``.
    keep : float
        The keep ratio it leaves, a fraction of the tokens.
    """

    kind: Literal["floor", "block quantisation", "target"]
    keep: float

    @property
    def estimated_lossy(self) -> float:
        """About the largest lossy ratio that this row could reach."""
        return 1.0 / self.keep

    def could_pass(self, lossy_target: float) -> bool:
        return self.estimated_lossy * ESTIMATE_SLACK >= lossy_target

    def render(self, lossy_target: float | None) -> str:
        text = f"{self.kind}: keep {self.keep:.4f}, so a lossy ratio of about {self.estimated_lossy:.3f} at most"
        if lossy_target is not None and not self.could_pass(lossy_target):
            return f"{text}; this row could not pass"
        return text


def find_bound(floor_keep: float | None, target_keep: float | None, quantized_keep: float | None) -> Bound | None:
    """Say which of the three keep ratios of a row binds; None if one is missing or not a positive number."""
    if floor_keep is None or target_keep is None or quantized_keep is None:
        return None
    if not all(0.0 < keep <= 1.0 for keep in (floor_keep, target_keep, quantized_keep)):
        return None
    if floor_keep >= quantized_keep and floor_keep >= target_keep:
        return Bound("floor", floor_keep)
    if quantized_keep > target_keep:
        return Bound("block quantisation", quantized_keep)
    return Bound("target", target_keep)


@dataclass(frozen=True)
class CacheLayers:
    """Which layers of a model go through what.

    Attributes
    ----------
    total : int
        Number of layers of the model.
    lossy : frozenset of int
        Layers under H2O eviction.
    lossless : frozenset of int
        Layers under the lossless codec and not under eviction.
    """

    total: int
    lossy: frozenset[int]
    lossless: frozenset[int]


def split_layers(total: int, h2o_start: int, h2o_end: int, lossless_layers: Sequence[int]) -> CacheLayers:
    """Sort the layers of a model into evicted, losslessly coded and untouched ones."""
    last = total - 1 if h2o_end < 0 else min(h2o_end, total - 1)
    lossy = frozenset(range(h2o_start, last + 1))
    lossless = frozenset(layer for layer in lossless_layers if 0 <= layer < total) - lossy
    return CacheLayers(total, lossy, lossless)


def whole_cache_ratio(layers: CacheLayers, lossy_ratio: float, lossless_ratio: float | None) -> float:
    """Bytes of the full cache over the bytes that are left, each layer at its own ratio; higher is better.

    All layers hold the same number of raw bytes. Without a lossless ratio those layers stay as they are.
    """
    evicted = len(layers.lossy) / lossy_ratio
    coded = len(layers.lossless) / (lossless_ratio or 1.0)
    untouched = layers.total - len(layers.lossy) - len(layers.lossless)
    return layers.total / (evicted + coded + untouched)
