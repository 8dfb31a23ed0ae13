"""Charts as SVG, written here: points over two axes, and bars of shares. Equal data gives equal text.

A plotting library takes longer to load and to draw than the whole rest of a gate on recordings.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Literal, NamedTuple

from pytest_h2o.errors import make_printable, one_line

Ink = Literal["ink", "quiet", "c1", "c2", "c3", "c4", "c5", "good", "bad"]
"""Names of the palette."""

LARGEST = 1e12
"""Numbers beyond it stay out of a chart: no axis can show them beside others. Tables have them."""


def is_drawable(*values: float | None) -> bool:
    """Whether all values are finite numbers that an axis can show; None counts as drawable."""
    return all(value is None or (math.isfinite(value) and abs(value) <= LARGEST) for value in values)


class Dot(NamedTuple):
    """A point, with a standard deviation in either direction (None: not known) and a short label."""

    x: float
    y: float
    x_std: float | None = None
    y_std: float | None = None
    label: str = ""


class Series(NamedTuple):
    """Points that share a look: a marker (empty: none), filled or as an outline."""

    name: str
    ink: Ink
    dots: tuple[Dot, ...]
    marker: Literal["o", "x", "^", "v", ""] = "o"
    line: Literal["none", "solid"] = "none"
    filled: bool = True


class Rule(NamedTuple):
    """A straight line across the chart at one value, with its name."""

    name: str
    ink: Ink
    value: float
    axis: Literal["x", "y"]


class Band(NamedTuple):
    """A range of y values, with its name."""

    name: str
    ink: Ink
    low: float
    high: float


class XYChart(NamedTuple):
    """Points over two axes.

    Attributes
    ----------
    id : str
        Letters, digits and hyphens, once a page.
    title, description : str
        What it is, and what it shows, for those who do not see it.
    ticks : tuple of (float, str)
        Places and names on the x axis; empty: numbers.
    width, height : int
        In pixels, before it is scaled to the page.
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


class ShareChart(NamedTuple):
    """Horizontal bars from the top down, each cut into shares: for every bar one count for each of the kinds."""

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
        dot._replace(x_std=spread(dot.x_std), y_std=spread(dot.y_std)) for dot in dots if is_drawable(dot.x, dot.y)
    )


PALETTE: Mapping[str, tuple[str, str]] = {
    "ground": ("#ffffff", "#0f1318"),
    "raised": ("#f4f6f8", "#191f26"),
    "ink": ("#1b1f24", "#e6ebf1"),
    "quiet": ("#57606b", "#9ba6b2"),
    "line": ("#cfd5dc", "#343c46"),
    "link": ("#0a58a0", "#74b6ff"),
    "good": ("#1a7035", "#52c878"),
    "bad": ("#bd1f2b", "#ff8078"),
    "warn": ("#875800", "#e5b64a"),
    "c1": ("#0b5fa5", "#6db3fc"),
    "c2": ("#b3480d", "#f18f45"),
    "c3": ("#24785a", "#5ad2a8"),
    "c4": ("#7a3fb1", "#c39bff"),
    "c5": ("#766000", "#dfc44c"),
}
"""On a light ground and on a dark one. A chart is drawn in the light ones; the page tells them apart by value."""

LIGHT, DARK = ({name: colours[ground] for name, colours in PALETTE.items()} for ground in (0, 1))


def render_variables(palette: Mapping[str, str]) -> str:
    """The palette as CSS custom properties."""
    return "".join(f"--{name}:{value};" for name, value in palette.items())


FONT_PX = 10.5
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 10.0, 10.0, 40.0
_LEGEND_ROW, _SWATCH = 16.0, 34.0
_CHAR_PX = 0.56 * FONT_PX
_TICK_PX = {"x": 60.0, "y": 36.0}
"""At least so far are two numbers of an axis apart."""

_MARKERS: Mapping[str, str] = {
    "o": "m-2.75 0a2.75 2.75 0 1 0 5.5 0a2.75 2.75 0 1 0-5.5 0z",
    "^": "m0-2.75l2.75 5.5h-5.5z",
    "v": "m0 2.75l-2.75-5.5h5.5z",
    "x": "m-2.75-2.75l5.5 5.5m0-5.5l-5.5 5.5",
}
_SHARE_INKS: tuple[Ink, ...] = ("c1", "c2", "c3", "c4", "c5", "quiet")


def render_chart(chart: Chart) -> str:
    """Draw a chart as an ``<svg>`` element; a page that has the palette's CSS variables changes its colours."""
    width, height, name = chart.width, chart.height, escape(chart.id)
    drawn = "".join(_draw_shares(chart) if isinstance(chart, ShareChart) else _draw_xy(chart))
    title, description = _plain(chart.title), _plain(chart.description)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-size="{FONT_PX}" role="img" '
        f'stroke-linejoin="round" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{title}</title><desc id="{name}-desc">{description}</desc>{drawn}</svg>'
    )


def _plain(text: str) -> str:
    return escape(make_printable(text))


def _colour(name: str) -> str:
    return f"var(--{name},{LIGHT[name]})"


def _px(*values: float) -> str:
    return " ".join(f"{value:.2f}".rstrip("0").rstrip(".") for value in values)


def _path(outline: str, ink: str, width: float = 1.0, *, filled: bool = False, more: str = "") -> str:
    fill = _colour(ink) if filled else "none"
    return f'<path d="{outline}" style="fill:{fill};stroke:{_colour(ink)};stroke-width:{width:g}{more}"/>'


def _rectangle(x: float, y: float, width: float, height: float, ink: str, opacity: float = 1.0) -> str:
    place = f'x="{_px(x)}" y="{_px(y)}" width="{_px(width)}" height="{_px(height)}"'
    return f'<rect {place} style="fill:{_colour(ink)};fill-opacity:{opacity:g}"/>'


def _text(
    x: float,
    y: float,
    text: str,
    ink: str = "quiet",
    anchor: Literal["start", "middle", "end"] = "start",
    more: str = "",
) -> str:
    place = f'x="{_px(x)}" y="{_px(y)}"{more}'
    return f'<text {place} style="fill:{_colour(ink)};text-anchor:{anchor}">{_plain(text)}</text>'


class _Scale(NamedTuple):
    """Numbers from `low` to `high` on pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, least_px: float) -> list[tuple[float, str]]:
        """Round numbers, at least so many pixels apart, as they are written."""
        least = (self.high - self.low) * least_px / abs(self.end - self.start)
        power = math.floor(math.log10(least))
        step, digits = next(
            (k * 10.0**power, d) for k, d in ((1, 0), (2, 0), (2.5, 1), (5, 0), (10, -1)) if k * 10.0**power >= least
        )
        decimals = max(0, digits - power)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        places = [number * step for number in range(first, last + 1)]
        plain = decimals <= 6 and max(map(abs, places), default=0.0) < 1e7
        return [(x, (f"{x + 0.0:.{decimals}f}" if plain else f"{x:.6g}").replace("-", "−")) for x in places]


def _fit(values: Sequence[float], margin: float, start: float, end: float) -> _Scale:
    """A scale that has room for all values, with a margin on either side."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    largest = max(abs(low), abs(high))
    pad = margin * (high - low) if high - low > 1e-9 * largest else 0.05 * largest or 0.05
    return _Scale(low - pad, high + pad, start, end)


class _Frame:
    """The place of a chart between its axes, below a legend in as many columns of one width as fit."""

    def __init__(self, chart: Chart, names: Sequence[str]) -> None:
        room = chart.width - _LEFT
        self._column = max(map(len, names), default=1) * _CHAR_PX + _SWATCH
        self._columns = max(1, min(len(names), int(room / self._column)))
        self._names = names
        self.left, self.right = _LEFT, chart.width - _RIGHT
        self.top = _TOP + math.ceil(len(names) / self._columns) * _LEGEND_ROW
        self.bottom = chart.height - _BOTTOM

    def legend(self, swatches: Sequence[Callable[[float, float], str]]) -> Iterator[str]:
        """Each name beside what `swatches` draw around the middle of its own."""
        for place, (name, swatch) in enumerate(zip(self._names, swatches, strict=True)):
            row, column = divmod(place, self._columns)
            x, y = self.left + column * self._column, _TOP + row * _LEGEND_ROW
            yield swatch(x + 10, y)
            yield _text(x + 24, y + 3.5, name, "ink")

    def axes(
        self, x_label: str, y_label: str, x: Sequence[tuple[float, str]], y: Sequence[tuple[float, str]]
    ) -> Iterator[str]:
        """Both axes with their labels; numbers or names at pixels."""
        yield _path(f"M{_px(self.left, self.top)}V{_px(self.bottom)}H{_px(self.right)}", "line", 0.8)
        yield from (_text(at, self.bottom + 14, name, anchor="middle") for at, name in x)
        yield from (_text(self.left - 6, at + 3.5, name, anchor="end") for at, name in y)
        yield _text((self.left + self.right) / 2, self.bottom + 31, x_label, anchor="middle")
        if y_label:
            middle = (self.top + self.bottom) / 2
            yield _text(12, middle, y_label, anchor="middle", more=f' transform="rotate(-90 12 {_px(middle)})"')

    def grid(self, x: Sequence[tuple[float, str]], y: Sequence[tuple[float, str]]) -> str:
        across = [f"M{_px(self.left, at)}H{_px(self.right)}" for at, _ in y]
        down = [f"M{_px(at, self.top)}V{_px(self.bottom)}" for at, _ in x]
        return _path("".join(across + down), "line", 0.6)


def _draw_xy(chart: XYChart) -> Iterator[str]:
    drawn = [(series, some) for series in chart.series if (some := drawable_dots(series.dots))]
    rules = [rule for rule in chart.rules if is_drawable(rule.value)]
    bands = [band for band in chart.bands if is_drawable(band.low, band.high)]
    entries: list[Series | Rule | Band] = [*(series for series, _ in drawn), *rules, *bands]
    named = [entry for entry in entries if entry.name]
    frame = _Frame(chart, [entry.name for entry in named])
    dots = [dot for _, some in drawn for dot in some]
    xs = [x for dot in dots for x in (dot.x - (dot.x_std or 0), dot.x + (dot.x_std or 0))]
    ys = [y for dot in dots for y in (dot.y - (dot.y_std or 0), dot.y + (dot.y_std or 0))]
    xs += [rule.value for rule in rules if rule.axis == "x"]
    ys += [rule.value for rule in rules if rule.axis == "y"] + [y for band in bands for y in (band.low, band.high)]
    x_scale, y_scale = _fit(xs, 0.06, frame.left, frame.right), _fit(ys, 0.1, frame.bottom, frame.top)
    if chart.y_from_zero:
        y_scale = y_scale._replace(low=min(y_scale.low, 0.0), high=max(y_scale.high, 0.0))
    x_ticks = [(x, one_line(name, limit=16)) for x, name in chart.ticks] or x_scale.ticks(_TICK_PX["x"])
    x_at = [(x_scale.at(x), name) for x, name in x_ticks if x_scale.low <= x <= x_scale.high]
    y_at = [(y_scale.at(y), name) for y, name in y_scale.ticks(_TICK_PX["y"])]
    yield frame.grid([] if chart.ticks else x_at, y_at)
    for band in bands:
        top, bottom = y_scale.at(band.high), y_scale.at(band.low)
        yield _rectangle(frame.left, top, frame.right - frame.left, bottom - top, band.ink, 0.15)
    for rule in rules:
        if rule.axis == "y":
            line = f"M{_px(frame.left, y_scale.at(rule.value))}H{_px(frame.right)}"
        else:
            line = f"M{_px(x_scale.at(rule.value), frame.top)}V{_px(frame.bottom)}"
        yield _path(line, rule.ink, 1.2, more=_DASHED)
    for series, some in drawn:
        yield from _draw_series(series, some, x_scale, y_scale)
    yield from frame.axes(chart.x_label, chart.y_label, x_at, y_at)
    yield from frame.legend([_swatch(entry) for entry in named])
    yield from _labels([(x_scale.at(dot.x), y_scale.at(dot.y), dot.label) for dot in dots if dot.label])


_DASHED = ";stroke-dasharray:5 3"


def _swatch(entry: Series | Rule | Band, opacity: float = 0.15) -> Callable[[float, float], str]:
    """What stands before the name of a series, a rule or a band, around a point."""

    def draw(x: float, y: float) -> str:
        line = f"M{_px(x - 10, y)}H{_px(x + 10)}"
        if isinstance(entry, Band):
            return _rectangle(x - 10, y - 4, 20, 8, entry.ink, opacity)
        if isinstance(entry, Rule):
            return _path(line, entry.ink, 1.2, more=_DASHED)
        joined = _path(line, entry.ink, 1.3) if entry.line == "solid" else ""
        return joined + _marks(entry, [(x, y)])

    return draw


def _marks(series: Series, places: Sequence[tuple[float, float]]) -> str:
    if not series.marker:
        return ""
    outline = "".join(f"M{_px(x, y)}{_MARKERS[series.marker]}" for x, y in places)
    return _path(outline, series.ink, filled=series.filled and series.marker != "x")


def _draw_series(series: Series, dots: Sequence[Dot], x_scale: _Scale, y_scale: _Scale) -> Iterator[str]:
    places = [(x_scale.at(dot.x), y_scale.at(dot.y)) for dot in dots]
    spreads = [
        *(
            f"M{_px(x_scale.at(d.x - d.x_std), y_scale.at(d.y))}H{_px(x_scale.at(d.x + d.x_std))}"
            for d in dots
            if d.x_std
        ),
        *(
            f"M{_px(x_scale.at(d.x), y_scale.at(d.y - d.y_std))}V{_px(y_scale.at(d.y + d.y_std))}"
            for d in dots
            if d.y_std
        ),
    ]
    if spreads:
        yield _path("".join(spreads), series.ink, 0.8, more=";stroke-opacity:0.45")
    if series.line == "solid":
        yield _path("M" + "L".join(_px(x, y) for x, y in places), series.ink, 1.3)
    yield _marks(series, places)


def _labels(points: Sequence[tuple[float, float, str]]) -> Iterator[str]:
    """The label of each point on one of its four sides: the first on which it covers no other label."""
    taken: list[tuple[float, float, float]] = []
    for x, y, label in points:
        width = len(label) * _CHAR_PX
        sides = [(x + left, y + down, width) for down in (-4.0, 4.0 + FONT_PX) for left in (5.0, -5.0 - width)]

        def is_free(side: tuple[float, float, float]) -> bool:
            left, low, wide = side
            return all(left + wide < at or at + w < left or abs(low - base) > FONT_PX for at, base, w in taken)

        side = next(filter(is_free, sides), sides[0])
        taken.append(side)
        yield _text(side[0], side[1], label, "ink")


def _draw_shares(chart: ShareChart) -> Iterator[str]:
    kinds = [
        (one_line(kind, limit=32), counts)
        for kind, *counts in zip(chart.kinds, *chart.counts, strict=True)
        if any(counts)
    ]
    inks = list(itertools.islice(itertools.cycle(_SHARE_INKS), len(kinds)))
    frame = _Frame(chart, [name for name, _ in kinds])
    scale = _Scale(0.0, 100.0, frame.left, frame.right)
    slot = (frame.bottom - frame.top) / max(1, len(chart.bars))
    x_at = [(scale.at(x), name) for x, name in scale.ticks(_TICK_PX["x"])]
    yield frame.grid(x_at, [])
    for place, total in enumerate(map(sum, chart.counts)):
        start = 0.0
        for (_, counts), ink in zip(kinds, inks, strict=True):
            share = 100.0 * counts[place] / total if total else 0.0
            x, y = scale.at(start), frame.top + (place + 0.19) * slot
            yield _rectangle(x, y, scale.at(start + share) - x, 0.62 * slot, ink)
            start += share
    names = [(frame.top + (place + 0.5) * slot, one_line(bar, limit=8)) for place, bar in enumerate(chart.bars)]
    yield from frame.axes("share of blocks, %", "", x_at, names)
    yield from frame.legend(
        [_swatch(Band(name, ink, 0, 0), opacity=1.0) for (name, _), ink in zip(kinds, inks, strict=True)]
    )
