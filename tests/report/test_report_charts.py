"""Charts and palette: deterministic, readable on both grounds, and unharmed by any number or text."""

import math
from typing import Any
from xml.etree import ElementTree

import pytest

from pytest_h2o.report.charts import (
    DARK,
    LIGHT,
    Band,
    Dot,
    Rule,
    Series,
    ShareChart,
    XYChart,
    drawable_dots,
    render_chart,
)

TEXT_COLOURS = ("ink", "quiet", "link", "good", "bad", "warn")
MARK_COLOURS = ("ink", "quiet", "c1", "c2", "c3", "c4", "c5", "good", "bad")

HOSTILE = "</svg><script>alert(1)</script>\"' $x^2$ \x00\x1b[31m\u202e\nend"


def xy_chart(*dots: Dot, **changes: Any) -> XYChart:
    values: dict[str, Any] = {
        "id": "one",
        "title": "T",
        "description": "D",
        "x_label": "x",
        "y_label": "y",
        "series": (Series("s", "c1", dots, line="solid"),),
        "rules": (Rule("target", "bad", 2.0, "y"), Rule("", "quiet", 1.0, "x")),
        "bands": (Band("band", "c3", 1.0, 2.0),),
    }
    return XYChart(**{**values, **changes})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308, -1e308, 1e13])
def test_numbers_that_no_axis_shows_are_left_out(value: float) -> None:
    dots = (Dot(1, value), Dot(value, 1), Dot(1, 1, value, value), Dot(2, 2))
    assert [(dot.x, dot.y, dot.x_std) for dot in drawable_dots(dots)] == [(1, 1, None), (2, 2, None)]
    assert "<svg" in render_chart(xy_chart(*dots))


@pytest.mark.parametrize("dots", [(), (Dot(0, 0),), (Dot(1e-300, 1e-300), Dot(1e12, -1e12)), (Dot(1, 1),) * 3])
def test_few_and_far_points_and_shares_of_nothing_are_drawn(dots: tuple[Dot, ...]) -> None:
    shares = ShareChart("s", "T", "D", ("K hi", "K lo"), ("raw",), ((0,), (3,)))
    assert ["<svg" in render_chart(chart) for chart in (xy_chart(*dots, y_from_zero=True), shares)] == [True, True]


def test_text_of_others_does_no_harm() -> None:
    named = xy_chart(Dot(0, 1, label="1"), title=HOSTILE, description=HOSTILE, ticks=((0.0, HOSTILE),))
    shares = ShareChart("s", HOSTILE, HOSTILE, ("K hi",), (HOSTILE, "raw"), ((1, 2),))
    for chart in (named, shares):
        root = ElementTree.fromstring(render_chart(chart))
        assert not [e for e in root.iter() if e.tag.endswith("script")]
        assert "\\x1b[31m\\u202e" in "".join(root.itertext())


def test_labels_do_not_cover_each_other() -> None:
    dots = [Dot(0, 0), Dot(9, 9), *(Dot(5, 5 + n / 1000, label=str(n)) for n in range(4))]
    root = ElementTree.fromstring(render_chart(xy_chart(*dots)))
    texts = [e for e in root.iter("{http://www.w3.org/2000/svg}text") if "--ink" in e.get("style", "")]
    places = [(float(e.get("x", "")), float(e.get("y", ""))) for e in texts if e.text in ("0", "1", "2", "3")]
    assert len(set(places)) == 4, places


def contrast(one: str, other: str) -> float:
    """Contrast of two colours ``#rrggbb``: 1 (none) to 21 (black and white)."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    """Relative luminance of an sRGB colour, 0 to 1."""

    def linear(channel: float) -> float:
        return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_can_be_told_from_their_ground(palette: dict[str, str]) -> None:
    for ground in ("ground", "raised"):
        low = {name: round(contrast(palette[name], palette[ground]), 2) for name in TEXT_COLOURS}
        assert min(low.values()) >= 4.5, (ground, low)
    marks = {name: round(contrast(palette[name], palette["ground"]), 2) for name in MARK_COLOURS}
    assert min(marks.values()) >= 3.0, marks
    assert len(set(LIGHT.values())) == len(LIGHT)  # the page tells the colours of a chart apart by value
