"""Charts as SVG, by matplotlib. Equal data gives equal text, with the same version of matplotlib.

matplotlib takes half a second to load, so it is imported when the first chart is drawn.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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


LIGHT: Mapping[str, str] = {
    "ground": "#ffffff",
    "raised": "#f4f6f8",
    "ink": "#1b1f24",
    "quiet": "#57606b",
    "line": "#cfd5dc",
    "link": "#0a58a0",
    "good": "#1a7035",
    "bad": "#bd1f2b",
    "warn": "#875800",
    "c1": "#0b5fa5",
    "c2": "#b3480d",
    "c3": "#24785a",
    "c4": "#7a3fb1",
    "c5": "#766000",
}
"""Each colour once: a chart is drawn in these, and the page tells them apart by value."""

DARK: Mapping[str, str] = {
    "ground": "#0f1318",
    "raised": "#191f26",
    "ink": "#e6ebf1",
    "quiet": "#9ba6b2",
    "line": "#343c46",
    "link": "#74b6ff",
    "good": "#52c878",
    "bad": "#ff8078",
    "warn": "#e5b64a",
    "c1": "#6db3fc",
    "c2": "#f18f45",
    "c3": "#5ad2a8",
    "c4": "#c39bff",
    "c5": "#dfc44c",
}


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
    _drop(root, "metadata")
    _drop(root, "style")  # it would hold for the whole page
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


def _drop(root: ElementTree.Element, tag: str) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{{{_SVG}}}{tag}":
                parent.remove(child)


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


def _axes(figure: Figure, chart: Chart, legend_px: float, left: float = _LEFT) -> Axes:
    width, height = float(chart.width), float(chart.height)
    top = _TOP + legend_px
    return figure.add_axes(
        (left / width, _BOTTOM / height, (width - left - _RIGHT) / width, (height - top - _BOTTOM) / height)
    )


def _legend_columns(names: list[str], width: float) -> int:
    """As many columns as fit, all as wide as the longest name."""
    widest = max((len(name) for name in names), default=1) * _CHAR_PX + _LEGEND_ENTRY
    return max(1, min(len(names), int(width / widest)))


def _legend_px(names: list[str], width: float) -> float:
    return math.ceil(len(names) / _legend_columns(names, width)) * _LEGEND_ROW if names else 0.0


def _add_legend(axes: Axes, names: list[str], width: float) -> None:
    if names:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),
            ncols=_legend_columns(names, width),
            borderaxespad=0.2,
            columnspacing=1.2,
            handletextpad=0.5,
            labelcolor=LIGHT["ink"],
        )


def _draw_xy(figure: Figure, chart: XYChart) -> None:
    series = [(one, drawable_dots(one.dots)) for one in chart.series]
    series = [(one, dots) for one, dots in series if dots]
    entries = [one.name for one, _ in series if one.name]
    entries += [rule.name for rule in chart.rules if rule.name] + [band.name for band in chart.bands if band.name]
    axes = _axes(figure, chart, _legend_px(entries, chart.width - _LEFT))
    for band in chart.bands:
        axes.axhspan(band.low, band.high, color=LIGHT[band.ink], alpha=0.15, linewidth=0, label=band.name or None)
    for one, dots in series:
        _draw_series(axes, one, dots)
    for rule in chart.rules:
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
    _add_legend(axes, entries, chart.width - _LEFT)
    _add_labels(axes, [dot for _, dots in series for dot in dots if dot.label])


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
    line = {"none": "none", "solid": "-", "dashed": (0, (4, 3))}[series.line]
    xs, ys = [dot.x for dot in dots], [dot.y for dot in dots]
    for place, key in (("x_std", "xerr"), ("y_std", "yerr")):
        known = [dot for dot in dots if getattr(dot, place)]
        if known:
            spread: dict[str, Any] = {key: [getattr(dot, place) for dot in known]}
            where = [dot.x for dot in known], [dot.y for dot in known]
            axes.errorbar(*where, **spread, fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.45)
    axes.plot(
        xs,
        ys,
        marker=series.marker or "none",
        markersize=5.5,
        markerfacecolor=colour if series.filled else "none",
        markeredgecolor=colour,
        linestyle=line,
        linewidth=1.3,
        color=colour,
        label=series.name or None,
    )


def _draw_shares(figure: Figure, chart: ShareChart) -> None:
    shown = [k for k, _ in enumerate(chart.kinds) if any(counts[k] for counts in chart.counts)]
    names = [one_line(chart.kinds[k], limit=32) for k in shown]
    axes = _axes(figure, chart, _legend_px(names, chart.width - _LEFT))
    totals = [sum(counts) for counts in chart.counts]
    places = list(range(len(chart.bars)))
    starts = [0.0] * len(places)
    for order, k in enumerate(shown):
        shares = [
            100.0 * counts[k] / total if total else 0.0 for counts, total in zip(chart.counts, totals, strict=True)
        ]
        colour = LIGHT[_SHARE_INKS[order % len(_SHARE_INKS)]]
        axes.barh(places, shares, left=starts, height=0.62, color=colour, label=names[order], edgecolor="none")
        starts = [start + share for start, share in zip(starts, shares, strict=True)]
    axes.set_yticks(places, [one_line(bar, limit=8) for bar in chart.bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("share of blocks, %")
    _add_legend(axes, names, chart.width - _LEFT)
