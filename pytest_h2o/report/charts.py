"""Charts as SVG, by matplotlib. Equal data gives equal text, with the same version of matplotlib.

matplotlib takes half a second to load, so it is imported when the first chart is drawn.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from pytest_h2o.errors import make_printable, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    """Points that share a look: a marker as matplotlib names it (empty: none), filled or as an outline."""

    name: str
    ink: Ink
    dots: tuple[Dot, ...]
    marker: str = "o"
    line: Literal["none", "solid"] = "none"
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


@dataclass(frozen=True)
class ShareChart:
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
        replace(dot, x_std=spread(dot.x_std), y_std=spread(dot.y_std)) for dot in dots if is_drawable(dot.x, dot.y)
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


_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_NAMES = {colour: name for name, colour in LIGHT.items()}
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_REFERENCE = re.compile(r"url\(#([^)]*)\)")
_FONT = re.compile(r"font(?:-family)?: *([^;]*?)'[^;]*")


def embed_svg(text: str, chart_id: str, title: str, description: str) -> str:
    """One ``<svg>`` element.

    Ids get the chart's id in front, so that several charts share a page. Colours of the light palette become its CSS
    variables, with themselves for where there are none. The font is the page's.
    """
    root = ElementTree.fromstring(text)
    for element in list(root.iter()):
        for child in list(element):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):  # a style would hold for the whole page
                element.remove(child)
    for element in root.iter():
        element.tail = None
        if element.text is not None and not element.text.strip():
            element.text = None
        for name, value in list(element.attrib.items()):
            element.set(name, _change(name, value, chart_id))
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("stroke-linejoin", "round")
    root.set("role", "img")
    root.set("aria-labelledby", f"{chart_id}-title {chart_id}-desc")
    for place, (tag, content) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{chart_id}-{tag}"})
        element.text = content
        root.insert(place, element)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _change(name: str, value: str, chart_id: str) -> str:
    if name == "id":
        return f"{chart_id}-{value}"
    if name == f"{{{_XLINK}}}href" and value.startswith("#"):
        return f"#{chart_id}-{value[1:]}"
    value = _REFERENCE.sub(lambda found: f"url(#{chart_id}-{found[1]})", value)
    if name != "style":
        return value
    value = _FONT.sub(_size, value)
    return _COLOUR.sub(lambda found: f"var(--{_NAMES[found[0]]},{found[0]})" if found[0] in _NAMES else found[0], value)


def _size(found: re.Match[str]) -> str:
    """``font: 10.5px 'DejaVu Sans', …`` as its size alone: the family is the page's."""
    size = re.search(r"[\d.]+px", found[1])
    return f"font-size: {size[0]}" if size else "font-family: inherit"


FONT_PX = 10.5
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 10.0, 10.0, 40.0
_LEGEND_ROW, _LEGEND_ENTRY = 16.0, 34.0
_CHAR_PX = 0.56 * FONT_PX
_SHARE_INKS = ("c1", "c2", "c3", "c4", "c5", "quiet")


class ChartsMissing(Exception):
    """matplotlib is not there, so that no chart can be drawn."""


def render_chart(chart: Chart) -> str:
    """Draw a chart as an ``<svg>`` element for a page that has the palette's CSS variables."""
    with _undisturbed():
        try:
            import matplotlib
            from matplotlib.figure import Figure
        except (ImportError, OSError, ValueError, RuntimeError) as error:
            raise ChartsMissing(f"matplotlib cannot be loaded: {error}") from error
        with matplotlib.rc_context():
            matplotlib.rcdefaults()  # not what a user's matplotlibrc says
            matplotlib.rcParams.update(_settings(chart.id))
            figure = Figure(figsize=(chart.width / 72, chart.height / 72), dpi=72)
            if isinstance(chart, ShareChart):
                _draw_shares(figure, chart)
            else:
                _draw_xy(figure, chart)
            text = io.StringIO()
            figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return embed_svg(text.getvalue(), chart.id, make_printable(chart.title), make_printable(chart.description))


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep what does not concern these charts away from matplotlib, and its own affairs away from the reader.

    It draws to text: a backend that the environment names is not needed, and would be an error if it is unknown. It
    warns and logs about its cache, as of a home that cannot be written.
    """
    logger = logging.getLogger("matplotlib")
    level, backend = logger.level, os.environ.pop("MPLBACKEND", None)
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def _settings(chart_id: str) -> dict[Any, Any]:
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), LIGHT["quiet"])
    return {
        **colours,
        "axes.edgecolor": LIGHT["line"],
        "grid.color": LIGHT["line"],
        "grid.linewidth": 0.6,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": FONT_PX,
        "legend.frameon": False,
        "legend.fontsize": FONT_PX,
        "svg.fonttype": "none",
        "svg.hashsalt": chart_id,
        "text.parse_math": False,
    }


@contextlib.contextmanager
def _axes(figure: Figure, chart: Chart, names: list[str]) -> Iterator[Axes]:
    """Axes with a legend of these names above, in as many columns as fit, all as wide as the longest name."""
    width, height, room = float(chart.width), float(chart.height), chart.width - _LEFT
    widest = max((len(name) for name in names), default=1) * _CHAR_PX + _LEGEND_ENTRY
    columns = max(1, min(len(names), int(room / widest)))
    top = _TOP + math.ceil(len(names) / columns) * _LEGEND_ROW
    axes = figure.add_axes(
        (_LEFT / width, _BOTTOM / height, (room - _RIGHT) / width, (height - top - _BOTTOM) / height)
    )
    yield axes
    if names:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),
            ncols=columns,
            borderaxespad=0.2,
            columnspacing=1.2,
            handletextpad=0.5,
            labelcolor=LIGHT["ink"],
        )


def _draw_xy(figure: Figure, chart: XYChart) -> None:
    drawn = [(series, dots) for series in chart.series if (dots := drawable_dots(series.dots))]
    rules = [rule for rule in chart.rules if is_drawable(rule.value)]
    bands = [band for band in chart.bands if is_drawable(band.low, band.high)]
    entries = [*(series.name for series, _ in drawn), *(rule.name for rule in rules), *(band.name for band in bands)]
    names = [name for name in entries if name]
    with _axes(figure, chart, names) as axes:
        for band in bands:
            axes.axhspan(band.low, band.high, color=LIGHT[band.ink], alpha=0.15, linewidth=0, label=band.name or None)
        for series, dots in drawn:
            _draw_series(axes, series, dots)
        for rule in rules:
            draw = axes.axhline if rule.axis == "y" else axes.axvline
            draw(rule.value, color=LIGHT[rule.ink], linestyle=(0, (5, 3)), linewidth=1.2, label=rule.name or None)
        axes.margins(x=0.06, y=0.1)
        if chart.y_from_zero:
            low, high = axes.get_ylim()
            axes.set_ylim(min(low, 0.0), max(high, 0.0))
        if chart.ticks:
            axes.set_xticks([place for place, _ in chart.ticks], [one_line(name, limit=16) for _, name in chart.ticks])
            axes.grid(visible=False, axis="x")
        axes.set_xlabel(chart.x_label)
        axes.set_ylabel(chart.y_label)
    _add_labels(axes, [dot for _, dots in drawn for dot in dots if dot.label])


def _add_labels(axes: Axes, dots: list[Dot]) -> None:
    """The label of each point on one of its four sides: the first on which it covers no other label."""
    taken: list[tuple[float, float, float]] = []
    for dot in dots:
        x, y = axes.transData.transform((dot.x, dot.y))  # in pixels, as a chart has 72 dots an inch
        width = len(dot.label) * _CHAR_PX
        places = [(5.0, 4.0), (5.0, -4.0 - FONT_PX), (-5.0 - width, 4.0), (-5.0 - width, -4.0 - FONT_PX)]

        def is_free(place: tuple[float, float], x: float = x, y: float = y, width: float = width) -> bool:
            left, low = x + place[0], y + place[1]
            return all(
                left + width < other or other + wide < left or abs(low - bottom) > FONT_PX
                for other, bottom, wide in taken
            )

        place = next(filter(is_free, places), places[0])
        taken.append((x + place[0], y + place[1], width))
        axes.annotate(dot.label, (dot.x, dot.y), xytext=place, textcoords="offset points", color=LIGHT["ink"])


def _draw_series(axes: Axes, series: Series, dots: tuple[Dot, ...]) -> None:
    colour = LIGHT[series.ink]
    for std, error in (("x_std", "xerr"), ("y_std", "yerr")):
        known = [(dot.x, dot.y, getattr(dot, std)) for dot in dots if getattr(dot, std)]
        if known:
            xs, ys, spreads = zip(*known, strict=True)
            spread: dict[str, Any] = {error: spreads}
            axes.errorbar(xs, ys, **spread, fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.45)
    axes.plot(
        [dot.x for dot in dots],
        [dot.y for dot in dots],
        marker=series.marker or "none",
        markersize=5.5,
        markerfacecolor=colour if series.filled else "none",
        markeredgecolor=colour,
        linestyle="-" if series.line == "solid" else "none",
        linewidth=1.3,
        color=colour,
        label=series.name or None,
    )


def _draw_shares(figure: Figure, chart: ShareChart) -> None:
    shown = [
        (one_line(kind, limit=32), counts)
        for kind, *counts in zip(chart.kinds, *chart.counts, strict=True)
        if any(counts)
    ]
    places, totals = range(len(chart.bars)), [sum(counts) for counts in chart.counts]
    starts = [0.0] * len(totals)
    with _axes(figure, chart, [name for name, _ in shown]) as axes:
        for (name, counts), ink in zip(shown, itertools.cycle(_SHARE_INKS)):
            shares = [100.0 * count / total if total else 0.0 for count, total in zip(counts, totals, strict=True)]
            axes.barh(places, shares, left=starts, height=0.62, color=LIGHT[ink], label=name, edgecolor="none")
            starts = [start + share for start, share in zip(starts, shares, strict=True)]
        axes.set_yticks(places, [one_line(bar, limit=8) for bar in chart.bars])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("share of blocks, %")
