"""What bounds the keep ratio of a row: the protected floor, block quantisation, or the target itself.

The engine keeps the larger of the protected tokens (sink and recent: the floor) and the target, and fills up to
the target with whole blocks, so that the quantised keep is never below the target. Whichever of the three is
largest binds. ``1 / keep`` is only an estimate of the lossy ratio that was reachable, since a mean of ratios is
not the ratio of means (recorded rows exceed it by up to 0.1 %): so a verdict of "could not pass" leaves 1 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_h2o.bench.check import ESTIMATE_SLACK


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
