"""What a report page is made of: sections of paragraphs, lists, tables, figures and preformatted text. Values only.

Text is plain text here, wherever it came from; `pytest_h2o.report.html` escapes all of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pytest_h2o.errors import make_printable
from pytest_h2o.report.charts import Chart
from pytest_h2o.run.journal import ReportSection, SectionBlock, SectionTable

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


def escape(text: str) -> str:
    """Text that cannot break a table, a list or the page, nor make a link, an image, a heading or a tag.

    What stays as it is can at most set a word in bold. Control characters become visible.
    """
    flat = make_printable(" ".join(text.split()), keep="")
    flat = flat.replace("\\", "\\\\").replace("|", "\\|").replace("`", "\\`")
    flat = re.sub(r"&(?=#?\w+;)", "&amp;", flat).replace("<", "&lt;")
    flat = flat.replace("](", "]\\(")  # [text](link)
    flat = re.sub(
        r"^(?=\[[^\]]*\]:|[#>]|[-+*](?:\s|$)|---|\*\*\*|~~~)", r"\\", flat
    )  # what would start a block, or is [label]: link
    return re.sub(r"^(\d+)(?=[.)](?:\s|$))", r"\1\\", flat)


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(escape(cell) for cell in cells) + " |"

    return [line(header), "|" + " --- |" * len(header), *(line(row) for row in rows)]


def render_list(title: str, entries: Sequence[str]) -> list[str]:
    """A titled list, or nothing where there is no entry."""
    return ["", f"**{title}**", "", *(f"- {escape(entry)}" for entry in entries)] if entries else []


def build_sections(sections: Iterable[ReportSection], summary: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
    """Make every section: what the summary keeps of them, and which could not be made, and why."""
    kept, troubles = [], []
    for section in sections:
        try:
            # A copy: a section tells of a run, and must not change what is told of it.
            blocks = [_to_json(block) for block in section.build(json.loads(json.dumps(summary)))]
        except Exception as error:  # a plugin's own function: whatever it raises is told, and the run is kept
            why = f"the report section {section.title!r} could not be made: {type(error).__name__}: {error}"
            blocks = [{"text": why}]
            troubles.append(why)
        if blocks:
            kept.append({"title": str(section.title), "blocks": blocks})
    return kept, troubles


def _to_json(block: SectionBlock) -> dict[str, Any]:
    if isinstance(block, str):
        return {"text": block}
    if isinstance(block, SectionTable):
        rows = [[str(cell) for cell in row] for row in block.rows]
        if any(len(row) != len(block.header) for row in rows):
            raise ValueError(
                f"a row of the table {block.caption!r} has not {len(block.header)} cells, as its header has"
            )
        return {"caption": block.caption, "header": [str(cell) for cell in block.header], "rows": rows}
    return {"list": [str(entry) for entry in block]}


def section_pages(summary: Mapping[str, Any]) -> list[Section]:
    """The sections of a summary for the page."""
    return [
        Section(f"added-{number}", section["title"], tuple(map(_page_block, section["blocks"])))
        for number, section in enumerate(summary.get("sections", ()), 1)
    ]


def _page_block(block: Mapping[str, Any]) -> Block:
    if "text" in block:
        return Text(block["text"])
    if "list" in block:
        return Bullets(tuple(block["list"]))
    rows = tuple(tuple(map(Cell, row)) for row in block["rows"])
    return Table(block["caption"], tuple(block["header"]), rows)


def render_sections_md(summary: Mapping[str, Any]) -> list[str]:
    """The lines of the sections of a summary in Markdown."""
    lines: list[str] = []
    for section in summary.get("sections", ()):
        lines += ["", f"## {escape(section['title'])}"]
        for block in section["blocks"]:
            if "text" in block:
                lines += ["", escape(block["text"])]
            elif "list" in block:
                lines += ["", *(f"- {escape(entry)}" for entry in block["list"])]
            else:
                lines += ["", f"{escape(block['caption'])}:", "", *render_table(block["header"], block["rows"])]
    return lines
