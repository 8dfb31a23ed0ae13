"""What the tests know of a page without a browser: its elements, in order, with their text."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "link", "input", "hr"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parent: Element | None
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)


class Document(HTMLParser):
    """Parses a page; every element is in `elements`, in document order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {[element.tag for element in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, self._open[-1] if self._open else None)
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.texts.append(data)

    def all(self, *tags: str) -> list[Element]:
        return [element for element in self.elements if element.tag in tags]

    def rows(self, caption: str) -> list[list[str]]:
        """The cells of the one table whose caption begins so, without its header."""
        (table,) = (t for t in self.all("table") if t.text.lstrip().startswith(caption))
        rows = [row for row in self.all("tr") if _is_inside(row, table)]
        cells = [[e.text.strip() for e in self.all("td", "th") if e.parent is row] for row in rows]
        return cells[1:]


KNOWN_TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section", "footer"),
    *("h1", "h2", "h3", "h4", "p", "a", "div", "span", "dl", "dt", "dd", "ul", "li", "pre", "code"),
    *("details", "summary", "figure", "figcaption", "table", "caption", "thead", "tbody", "tr", "th", "td"),
    *("svg", "desc", "g", "path", "text", "use", "defs", "clippath", "rect"),
}


def check_page(text: str) -> Document:
    """A page that is whole, offline, without script, and well made for those who do not see it."""
    document = Document(text)
    assert {element.tag for element in document.elements} <= KNOWN_TAGS
    for element in document.elements:
        for name, value in element.attributes.items():
            assert not name.startswith("on"), f"{name} on <{element.tag}>"
            if name in ("src", "href", "xlink:href", "action"):
                assert not value.lower().lstrip().startswith(("http:", "https:", "//", "javascript:", "data:")), value
    ids = [element.attributes["id"] for element in document.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids)), sorted({name for name in ids if ids.count(name) > 1})
    targets = [a.attributes["href"] for a in document.all("a", "use") if "href" in a.attributes]
    targets += [use.attributes["xlink:href"] for use in document.all("use")]
    assert {target[1:] for target in targets if target.startswith("#")} <= set(ids)
    _check_accessible(document)
    return document


def _check_accessible(document: Document) -> None:
    (page,) = document.all("html")
    assert page.attributes["lang"] == "en"
    names = [meta.attributes.get("name") for meta in document.all("meta")]
    assert "viewport" in names
    levels = [int(heading.tag[1]) for heading in document.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
    ids = {element.attributes.get("id") for element in document.elements}
    for svg in document.all("svg"):
        assert svg.attributes["role"] == "img"
        assert set(svg.attributes["aria-labelledby"].split()) <= ids
    for figure in document.all("figure"):
        inside = [element for element in document.elements if _is_inside(element, figure)]
        assert any(element.tag == "figcaption" and element.text.strip() for element in inside)
    for head in document.all("th"):
        assert head.attributes["scope"] in ("col", "row")
    for table in document.all("table"):
        assert any(e.tag == "caption" and e.text.strip() for e in document.elements if _is_inside(e, table))
    for region in document.elements:
        if "tabindex" in region.attributes and region.tag == "div":
            assert region.attributes["role"] == "region"
            assert region.attributes["aria-label"]


def _is_inside(element: Element, outer: Element) -> bool:
    parent = element.parent
    while parent is not None:
        if parent is outer:
            return True
        parent = parent.parent
    return False
