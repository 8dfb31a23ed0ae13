"""A comparison of codecs as a chart: online ratio against decode speed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_h2o.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KINDS = (("codec", "codecs", "#0b5fa5", "o"), ("peer", "peers", "#a5540b", "s"))
_FONT_POINTS = 9


def check_chart() -> None:
    """Raise `UsageError` if no chart can be drawn here."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "the chart needs matplotlib, which is not installed",
            came=str(error),
            hint="pip install matplotlib, or leave --out-svg out",
        ) from error


def render_svg(summary: Mapping[str, Any]) -> str:
    """Chart of online ratio (all layers) against decode speed; equal summaries give equal text.

    Raises
    ------
    UsageError
        matplotlib is not installed.
    """
    check_chart()
    import matplotlib
    from matplotlib.figure import Figure

    title = f"Codecs on {summary['dump']}"
    settings: dict[Any, Any] = {"svg.hashsalt": "pytest-h2o", "svg.fonttype": "none", "font.size": _FONT_POINTS}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(7.2, 4.6))
        axes = figure.add_axes((0.1, 0.12, 0.86, 0.8))
        for kind, label, colour, marker in _KINDS:
            points = [_point(c) for c in summary["contenders"] if c["kind"] == kind]
            speeds, ratios = [speed for speed, _ in points], [ratio for _, ratio in points]
            if points:
                axes.scatter(speeds, ratios, c=colour, marker=marker, label=label)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("decode, MB of raw fp16 a processor second (median, log scale; right is better)")
        axes.set_ylabel("online ratio, all layers (up is better)")
        axes.grid(visible=True, which="both", alpha=0.25)
        axes.margins(x=0.15, y=0.12)
        _label_points(axes, summary["contenders"])
        axes.legend(loc="upper right", bbox_to_anchor=(1.0, 1.08), ncols=2, frameon=False)
        axes.set_title(title, loc="left", parse_math=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    return text.getvalue()


def _point(contender: Mapping[str, Any]) -> tuple[float, float]:
    return contender["decode_mb_per_s"]["median"], contender["online"]["all"]["kv"]


def _label_points(axes: Axes, contenders: Sequence[Mapping[str, Any]]) -> None:
    """Name each point, in the first place around it where the name covers no other name or point."""
    axes.autoscale_view()
    points = [tuple(axes.transData.transform(_point(c)) * 72 / axes.figure.dpi) for c in contenders]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    for contender, (x, y) in zip(contenders, points, strict=True):
        width, height = 0.6 * _FONT_POINTS * len(contender["name"]), float(_FONT_POINTS)
        places = [(dx, dy) for lift in (4, 14, 24) for dx in (6, -6 - width) for dy in (lift, -lift - height)]
        boxes = [(x + dx, y + dy, x + dx + width, y + dy + height) for dx, dy in places]
        free = [i for i, box in enumerate(boxes) if not any(_overlap(box, other) for other in taken)]
        chosen = free[0] if free else 0
        taken.append(boxes[chosen])
        line = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.5", "shrinkA": 0, "shrinkB": 3}
        label = axes.annotate(
            contender["name"], _point(contender), xytext=places[chosen], textcoords="offset points", arrowprops=line
        )
        label.set_parse_math(False)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
