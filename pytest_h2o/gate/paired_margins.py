"""A paired verdict as measured values: the slow-down with its interval, and the joint margin that it gives. Pure."""

from __future__ import annotations

import math
from dataclasses import replace

from pytest_h2o.gate.decode import DecodeVerdict
from pytest_h2o.gate.measured import Interval, Outcome
from pytest_h2o.gate.rule import JointVerdict, RowMargins


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
