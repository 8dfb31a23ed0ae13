"""SVG as matplotlib writes it, made fit to stand inside a page: its own ids, the page's colours and font, a name."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from pytest_h2o.report.palette import LIGHT

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_NAMES = {colour: name for name, colour in LIGHT.items()}
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_REFERENCE = re.compile(r"url\(#([^)]*)\)")
_FONT = re.compile(r"font(?:-family)?: *([^;]*?)'[^;]*")


def embed_svg(text: str, chart_id: str, title: str, description: str) -> str:
    """One ``<svg>`` element.

    Ids get the chart's id in front, so that several charts share a page. Colours of the light palette become its CSS
    variables, with themselves for where there are none. The font is the page's.

    Parameters
    ----------
    text : str
        A whole SVG document of matplotlib's: this project's own, not one to mistrust.
    title, description : str
        Read out in place of the picture.
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
