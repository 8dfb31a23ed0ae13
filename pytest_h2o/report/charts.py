"""Charts as SVG, by matplotlib. Equal data gives equal text, with the same version of matplotlib.

matplotlib takes half a second to load, so it is imported when the first chart is drawn.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_h2o.bench.printable import make_printable, one_line
from pytest_h2o.report.chart_data import Chart, Dot, Series, ShareChart, XYChart, drawable_dots
from pytest_h2o.report.palette import LIGHT
from pytest_h2o.report.svg import embed_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT_PX = 10.5
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 10.0, 10.0, 40.0
_LEGEND_ROW, _LEGEND_ENTRY = 16.0, 34.0
_CHAR_PX = 0.56 * FONT_PX
_SHARE_INKS = ("c1", "c2", "c3", "c4", "c5", "quiet")


class ChartsMissing(Exception):
    """matplotlib is not there, so that no chart can be drawn."""


def render_chart(chart: Chart) -> str:
    """Draw a chart as an ``<svg>`` element for a page that has the palette's CSS variables.

    Raises
    ------
    ChartsMissing
        matplotlib is not installed, or cannot be loaded.
    """
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
