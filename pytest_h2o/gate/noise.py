"""How noisy a bench is on a machine, and the smallest drop that can be told from none there. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pytest_h2o.errors import StoreError, UsageError
from pytest_h2o.files import load
from pytest_h2o.gate.decode import DEFAULT_CONFIDENCE, Pair, log_ratios
from pytest_h2o.gate.sequential import CHANCE_WANTED_Z, SPREAD_FROM_PAIRS, look_at, make_plan, walsh_averages


@dataclass(frozen=True)
class Noise:
    """What a bench against itself showed.

    Attributes
    ----------
    launch_spread : float
        Standard deviation of the logarithm of decode speed over all launches: about the relative spread of a launch.
    pair_spread : float
        Robust standard deviation of the log ratio of a pair; what slows both sides is no part of it.
    drop : float
        Estimated drop of the bench against itself: 0 but for noise, and for a bias of going first or second.
    pairs : int
        Pairs that were compared.
    """

    launch_spread: float
    pair_spread: float
    drop: float
    pairs: int
    version: Literal[1] = 1

    def floor(self, pairs: int) -> float | None:
        """The smallest drop that `pairs` pairs tell from none with a chance of 80 %, a fraction; None if none can.

        A target below it is too fine for this noise: a build without any slow-down would often end inconclusive.
        """
        z = max(make_plan(pairs, DEFAULT_CONFIDENCE).final_z)
        if not math.isfinite(z):
            return None
        return -math.expm1(-(z + CHANCE_WANTED_Z) * self.pair_spread / math.sqrt(pairs))

    @classmethod
    def from_json(cls, value: object, where: str = "") -> Noise:
        """Read what `files.plain` made of one, or the file (Path) that holds it; further keys are left aside."""
        what, hint = "a calibration", "calibrate again: pytest-h2o calibrate"
        made = load(cls, value, what, where=where, hint=hint)
        if made.launch_spread < 0 or made.pair_spread < 0:
            raise StoreError(f"{what} has a spread below 0", where=where or None, came=repr(made), hint=hint)
        return made


def measure_noise(pairs: Sequence[Pair]) -> Noise:
    """The noise of pairs whose two sides are the same build."""
    values = log_ratios(pairs)
    if len(values) < SPREAD_FROM_PAIRS:
        raise UsageError(
            "too few pairs could be compared to know the noise",
            came=f"{len(values)} of {len(pairs)} pairs",
            expected=f"at least {SPREAD_FROM_PAIRS}",
            hint="raise --pairs",
        )
    look = look_at(walsh_averages(values), len(values), make_plan(len(values), DEFAULT_CONFIDENCE))
    speeds = [side.decode_tok_per_s for pair in pairs for side in (pair.baseline, pair.candidate)]
    return Noise(
        launch_spread=float(np.log(speeds).std(ddof=1)),
        pair_spread=float(look.spread),
        drop=-math.expm1(-float(look.centre)),
        pairs=len(values),
    )
