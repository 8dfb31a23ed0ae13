"""Colours of the report, light and dark, and how well they can be told from their ground.

Contrast is that of the Web Content Accessibility Guidelines 2.2: (L1 + 0.05) / (L2 + 0.05), L the relative luminance
of sRGB. Text needs 4.5 or more, lines and markers that carry meaning need 3 or more.
"""

from __future__ import annotations

from collections.abc import Mapping

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

TEXT_COLOURS = ("ink", "quiet", "link", "good", "bad", "warn")
MARK_COLOURS = ("ink", "quiet", "c1", "c2", "c3", "c4", "c5", "good", "bad")


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


def render_variables(palette: Mapping[str, str]) -> str:
    """The palette as CSS custom properties."""
    return "".join(f"--{name}:{value};" for name, value in palette.items())
