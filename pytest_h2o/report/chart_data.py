"""What a chart shows, as values. Drawing is done by `pytest_h2o.report.charts`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Ink = Literal["ink", "quiet", "c1", "c2", "c3", "c4", "c5", "good", "bad"]
"""Names of the palette."""

LARGEST = 1e12
"""Numbers beyond it stay out of a chart: no axis can show them beside others. Tables have them."""


def is_drawable(*values: float | None) -> bool:
    """Whether all values are finite numbers that an axis can show; None counts as drawable."""
    return all(value is None or (math.isfinite(value) and abs(value) <= LARGEST) for value in values)


@dataclass(frozen=True)
class Dot:
    """A point, with a standard deviation in either direction (None: not known) and a short label."""

    x: float
    y: float
    x_std: float | None = None
    y_std: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Series:
    """Points that share a look.

    Attributes
    ----------
    marker : str
        As matplotlib names it; empty: none.
    line : str
        ``none``, ``solid`` or ``dashed`` between the points in their order.
    filled : bool
        False: only the outline of a marker.
    """

    name: str
    ink: Ink
    dots: tuple[Dot, ...]
    marker: str = "o"
    line: Literal["none", "solid", "dashed"] = "none"
    filled: bool = True


@dataclass(frozen=True)
class Rule:
    """A straight line across the chart at one value, with its name."""

    name: str
    ink: Ink
    value: float
    axis: Literal["x", "y"]


@dataclass(frozen=True)
class Band:
    """A range of y values, with its name."""

    name: str
    ink: Ink
    low: float
    high: float


@dataclass(frozen=True)
class XYChart:
    """Points over two axes.

    Attributes
    ----------
    id : str
        Letters, digits and hyphens, once a page.
    title, description : str
        What it is, and what it shows, for those who do not see it.
    width, height : int
        In pixels, before it is scaled to the page.
    ticks : tuple of (float, str)
        Places and names on the x axis; empty: numbers.
    y_from_zero : bool
        Whether the y axis must show 0.
    """

    id: str
    title: str
    description: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    rules: tuple[Rule, ...] = ()
    bands: tuple[Band, ...] = ()
    ticks: tuple[tuple[float, str], ...] = ()
    width: int = 360
    height: int = 270
    y_from_zero: bool = False


@dataclass(frozen=True)
class ShareChart:
    """Horizontal bars, each cut into shares of one kind.

    Attributes
    ----------
    bars : tuple of str
        From the top down.
    kinds : tuple of str
        Names of the shares.
    counts : tuple of tuple of int
        One tuple a bar, one count a kind.
    """

    id: str
    title: str
    description: str
    bars: tuple[str, ...]
    kinds: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    width: int = 360
    height: int = 200


Chart = XYChart | ShareChart


def drawable_dots(dots: Sequence[Dot]) -> tuple[Dot, ...]:
    """The points that an axis can show; a spread that it cannot show is dropped from its point."""

    def spread(std: float | None) -> float | None:
        return std if std is not None and std >= 0 and is_drawable(std) else None

    return tuple(
        Dot(dot.x, dot.y, spread(dot.x_std), spread(dot.y_std), dot.label) for dot in dots if is_drawable(dot.x, dot.y)
    )
