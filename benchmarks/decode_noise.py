"""Noise of decode speed, drawn for thousands of comparisons at once: invented, and drawn from the recordings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]

RECORDINGS = Path(__file__).resolve().parent.parent / "fixtures" / "recordings"
EMBEDDED_PAIRS = Path(__file__).resolve().parent / "results" / "decode" / "embedded-pairs.json"
"""``tok_per_s``: decode speed with H2O off and on, ``[pairs, 2]``."""
REPEATS_OF_RECORDED_ROWS = 3
SMOOTHING = 0.01
"""Added to a resampled launch (standard deviation of the log), so that ten values do not make ties."""


@dataclass(frozen=True)
class Noise:
    """Noise of one launch, as the natural logarithm of the factor on its speed, for either side."""

    name: str
    baseline: Draw
    candidate: Draw

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, Floats]:
        return self.baseline(rng, shape), self.candidate(rng, shape)


def lognormal(spread: float) -> Draw:
    return lambda rng, shape: rng.normal(0.0, spread, shape)


def with_outliers(draw: Draw, share: float = 0.1) -> Draw:
    """One launch in ten is 30 to 35 % slower for a reason of its own."""

    def drawn(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
        slower = np.log1p(-rng.uniform(0.30, 0.35, shape))
        return draw(rng, shape) + np.where(rng.random(shape) < share, slower, 0.0)

    return drawn


def recorded_launches(side: str) -> Draw:
    """Launches of decode_pairs.json, resampled around their median."""
    speeds = np.log(json.loads((RECORDINGS / "decode_pairs.json").read_text(encoding="utf-8"))[side])
    centred = speeds - np.median(speeds)
    return lambda rng, shape: rng.choice(centred, shape) + rng.normal(0.0, SMOOTHING, shape)


def recorded_within_run() -> Draw:
    """The mean of three repeats, at the relative deviation of a row drawn from the recorded sweep."""
    spreads = np.array([std / mean for mean, std in recorded_rows()])

    def drawn(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
        repeats = rng.normal(0.0, 1.0, (*shape, REPEATS_OF_RECORDED_ROWS)).mean(axis=-1)
        factor: Floats = np.log(np.maximum(1.0 + rng.choice(spreads, shape) * repeats, 0.05))
        return factor

    return drawn


def recorded_rows(logs: Iterable[str] | None = None) -> list[tuple[float, float]]:
    """Decode tok/s, mean and deviation inside a run, of every row of these logs, or of the recorded sweep."""
    if logs is None:
        folder = RECORDINGS / "smollm2-135m" / "target_ratio_v3" / "logs"
        logs = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.log"))]
    rows = []
    for log in logs:
        match = re.search(r"<br>([\d.]+) ± ([\d.]+) \|", log)
        if match is None:
            raise ValueError("a log has no decode speed")
        rows.append((float(match[1]), float(match[2])))
    return rows


def _alike(name: str, draw: Draw) -> Noise:
    return Noise(name, draw, draw)


def moving_machine(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """12 % a launch on a machine that drifts 1 % a pair; the second launch of a pair is 5 % slower; balanced order."""
    count, pairs = shape
    first = rng.random((count, (pairs + 1) // 2)) < 0.5
    baseline_first = np.stack([first, ~first], axis=-1).reshape(count, -1)[:, :pairs]
    place = np.where(baseline_first, 1.0, -1.0)
    drift = -0.01 * np.arange(pairs)
    second = np.log(0.95) - 0.005
    noise = rng.normal(0.0, 0.12, (2, *shape))
    return noise[0] + drift + np.where(place < 0, second, 0.0), noise[1] + drift + np.where(place > 0, second, 0.0)


@dataclass(frozen=True)
class MovingMachine(Noise):
    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, Floats]:
        return moving_machine(rng, shape)


@dataclass(frozen=True)
class LaunchedPairs(Noise):
    """Pairs of launches as the embedded bench gave them, resampled whole, each side around its mean."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, Floats]:
        speeds = np.log(json.loads(EMBEDDED_PAIRS.read_text(encoding="utf-8"))["tok_per_s"])
        drawn = rng.choice(speeds - speeds.mean(axis=0), shape) + rng.normal(0.0, SMOOTHING, (*shape, 2))
        return drawn[..., 0], drawn[..., 1]


LAUNCH_SPREAD = _alike("lognormal 12 %", lognormal(0.12))

NOISES = (
    _alike("lognormal 5 %", lognormal(0.05)),
    _alike("lognormal 10 %", lognormal(0.10)),
    LAUNCH_SPREAD,
    _alike("lognormal 20 %", lognormal(0.20)),
    _alike("lognormal 5 %, 10 % outliers", with_outliers(lognormal(0.05))),
    _alike("lognormal 12 %, 10 % outliers", with_outliers(lognormal(0.12))),
    _alike("recorded launches, H2O off", recorded_launches("h2o_off")),
    _alike("recorded launches, H2O on", recorded_launches("h2o_on")),
    Noise("recorded launches, off against on", recorded_launches("h2o_off"), recorded_launches("h2o_on")),
    _alike("recorded within a run, 3 repeats", recorded_within_run()),
    MovingMachine("lognormal 12 %, drift and order effect", lognormal(0.12), lognormal(0.12)),
)
EMBEDDED = LaunchedPairs("pairs of the embedded bench", lognormal(0.0), lognormal(0.0))
