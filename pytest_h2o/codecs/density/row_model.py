"""What is expected of the next row, from the rows before it: the model that encoder and decoder share.

A row is predicted as ``m + sum of w_k * (row_k - m)`` over up to three earlier rows that its `RowPlan` names, with m
the mean of all earlier rows; for keys all of this is done on rows turned back to position 0, and the prediction is
turned to the position of the row. The variance of a channel is a running mean of the squared errors of earlier rows,
each over the scale of its row; the plan gives the scale of this row. Rounding of the referenced rows to fp16 is added:
it rules where a token repeats exactly, and is set by the larger of the two dimensions of a pair.

Everything is single float64 additions, subtractions and multiplications, element by element: the same bits anywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.density.logistic import Doubles
from pytest_h2o.codecs.rows.rotation import Rotation

MAX_REFERENCES = 3
WEIGHT_STEP = 1 / 16


def _half_power_of_two(exponent: int) -> float:
    """``2 ** (exponent / 2)``, written so that no math library has a say in its last bit."""
    return math.ldexp(1.4142135623730951 if exponent % 2 else 1.0, exponent // 2)


_SCALES = tuple(_half_power_of_two(scale - 128) for scale in range(256))
_INVERSE_SCALES = tuple(_half_power_of_two(128 - scale) for scale in range(256))
_SMALLEST, _LARGEST = 2.0**-80, 2.0**60
_PRIOR_ROWS, _WINDOW_ROWS = 4, 64
_MOST_SURPRISE = 8.0


@dataclass(frozen=True)
class RowPlan:
    """What the payload says of one row.

    Attributes
    ----------
    sources : tuple of int
        Earlier rows, at most `MAX_REFERENCES`.
    weights : tuple of int
        Their weights in sixteenths.
    scale : int
        Variance of the row in half powers of two, plus 128: 0 to 255.
    learns : bool
        Whether its errors enter the running variance.
    """

    sources: tuple[int, ...]
    weights: tuple[int, ...]
    scale: int
    learns: bool


class Turner:
    """Turns rows ``[channels]`` or ``[rows, channels]`` between position 0 and their own; does nothing without RoPE."""

    def __init__(self, rotation: Rotation | None, positions: NDArray[np.int64], heads: int) -> None:
        self.rotation = rotation
        if rotation is not None:
            cos, sin = rotation.cos_sin(positions)
            self._cos, self._sin = (np.tile(part.astype(np.float64), (1, heads)) for part in (cos, sin))
            self._partner = _partners(rotation, heads)

    def forth(self, values: Doubles, at: int | slice) -> Doubles:
        """Turn from position 0 to that of row `at`."""
        if self.rotation is None:
            return values
        turned = values * self._cos[at]
        turned += values[..., self._partner] * self._sin[at]
        return turned

    def back(self, values: Doubles, at: int | slice) -> Doubles:
        """Turn from the position of row `at` to 0."""
        if self.rotation is None:
            return values
        turned = values * self._cos[at]
        turned -= values[..., self._partner] * self._sin[at]
        return turned

    def pair_mean(self, values: Doubles) -> Doubles:
        """Give both dimensions of a pair the mean of the two."""
        if self.rotation is None:
            return values
        mean = values + values[..., self._partner]
        mean *= 0.5
        return mean

    def rounding(self, values: Doubles) -> Doubles:
        """Variance of the rounding to fp16 that turned values carry: a twelfth of a squared unit in the last place."""
        magnitude = np.abs(values)
        largest = np.maximum(magnitude, magnitude[..., self._partner])
        np.maximum(largest, 2.0**-14, out=largest)
        power = (largest.view(np.int64) & ~((1 << 52) - 1)).view(np.float64)
        power *= power
        power *= 2.0**-20 / 12
        return power


class VarianceModel:
    """Running variance of the channels, each row's errors taken over the scale of the row."""

    def __init__(self, channels: int) -> None:
        self.variance = np.ones(channels)
        self._rows = _PRIOR_ROWS

    def expect(self, scale: int, rounding: Doubles | None) -> Doubles:
        """Give the variance of the next row's channels."""
        expected: Doubles = self.variance * _SCALES[scale]
        if rounding is not None:
            expected += rounding
        return expected

    def learn(self, squared: Doubles, scale: int, rounding: Doubles | None) -> None:
        """Take in the squared errors of a row."""
        if rounding is not None:
            squared = squared - rounding
        learned = squared * _INVERSE_SCALES[scale]
        np.minimum(learned, self.variance * _MOST_SURPRISE, out=learned)
        np.maximum(learned, _SMALLEST, out=learned)
        learned += self.variance * float(self._rows)
        learned *= 1.0 / (self._rows + 1)
        self.variance = np.minimum(learned, _LARGEST, out=learned)
        self._rows = min(self._rows + 1, _WINDOW_ROWS)


class RowModel:
    """Expectation of row after row of one segment; both sides call `expect` and `learn` for each row in order.

    Parameters
    ----------
    rotation : Rotation or None
    positions : int64 ``[rows]``
    heads, head_dim : int
    """

    def __init__(self, rotation: Rotation | None, positions: NDArray[np.int64], heads: int, head_dim: int) -> None:
        rows, channels = len(positions), heads * head_dim
        self.turner = Turner(rotation, positions, heads)
        self.variance = VarianceModel(channels)
        self.history = np.zeros((rows, channels))
        self.mean = np.zeros(channels)
        self._total = np.zeros(channels)
        self._rounding = None if rotation is None else np.zeros((rows, channels))

    def expect(self, row: int, sources: tuple[int, ...], weights: tuple[int, ...]) -> tuple[Doubles, Doubles | None]:
        """Give the prediction of a row, and the variance it takes over from the rounding of its sources."""
        expected = self.mean
        rounding = None if self._rounding is None else np.zeros(len(expected))
        for source, sixteenths in zip(sources, weights, strict=True):
            weight = sixteenths * WEIGHT_STEP
            step = self.history[source] - self.mean
            step *= weight
            expected = expected + step
            if rounding is not None and self._rounding is not None:
                rounding += self._rounding[source] * (weight * weight)
        return self.turner.forth(expected, row), rounding

    def learn(self, row: int, values: Doubles, expected: Doubles, rounding: Doubles | None, plan: RowPlan) -> None:
        """Take in a row, once it is known."""
        self.history[row] = self.turner.back(values, row)
        if self._rounding is not None:
            self._rounding[row] = self.turner.rounding(values)
        self._total += self.history[row]
        self.mean = self._total * (1.0 / (row + 1))
        if plan.learns:
            error = values - expected
            error *= error
            self.variance.learn(self.turner.pair_mean(error), plan.scale, rounding)


def _partners(rotation: Rotation, heads: int) -> NDArray[np.int64]:
    """Channel that each channel is paired with."""
    dims = np.arange(rotation.head_dim)
    first, second = rotation.first_and_second(1)
    partner = np.empty_like(dims)
    partner[first], partner[second] = dims[second], dims[first]
    return (partner[None, :] + (np.arange(heads) * rotation.head_dim)[:, None]).ravel()
