"""What a report page is made of: sections of paragraphs, lists, tables, figures and preformatted text. Values only.

Text is plain text here, wherever it came from; `pytest_h2o.report.html` escapes all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pytest_h2o.report.chart_data import Chart

Tone = Literal["", "good", "bad", "warn", "quiet"]
"""How a text is coloured. Never the only thing that tells: the text says it too."""


@dataclass(frozen=True)
class Link:
    """A link to a file, relative to the folder of the page."""

    text: str
    href: str


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes
    ----------
    links : tuple of Link
        Shown after the text.
    code : str or None
        A command, shown on demand.
    """

    text: str
    tone: Tone = ""
    links: tuple[Link, ...] = ()
    code: str | None = None


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes
    ----------
    numeric : frozenset of int
        Columns that hold numbers.
    left_out : str or None
        What is not shown, and where it is.
    """

    kind: ClassVar[str] = "table"
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: frozenset[int] = frozenset()
    left_out: str | None = None


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Bullets:
    """A list; an entry may be a link."""

    kind: ClassVar[str] = "bullets"
    entries: tuple[str | Link, ...]


@dataclass(frozen=True)
class Pre:
    """Preformatted text, as a terminal shows it."""

    kind: ClassVar[str] = "pre"
    text: str


@dataclass(frozen=True)
class Figure:
    """Charts with one caption, and the table that holds the same numbers.

    Attributes
    ----------
    charts : tuple of Chart
        Side by side where there is room.
    narrow : tuple of Chart
        Shown in place of them on a narrow screen; empty: the same ones.
    """

    kind: ClassVar[str] = "figure"
    caption: str
    charts: tuple[Chart, ...]
    table: Table
    narrow: tuple[Chart, ...] = ()


Block = Text | Bullets | Pre | Table | Figure


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it.

    Attributes
    ----------
    id : str
        Anchor: letters, digits and hyphens, once a page.
    folded : bool
        Shown on demand.
    """

    id: str
    title: str
    blocks: tuple[Block, ...] = ()
    parts: tuple[Section, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes
    ----------
    verdict : str
        ``PASS``, ``FAIL``, ``INCONCLUSIVE``, ``INCOMPLETE`` or ``UNFINISHED``.
    lead : tuple of str
        What the verdict means here, in a few sentences.
    facts : tuple of (str, str)
        Name and value of what a reader looks for first.
    """

    title: str
    verdict: str
    tone: Tone
    lead: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
