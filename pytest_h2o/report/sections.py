"""Sections that plugins add to the reports: made of the summary once, kept in it, and rendered as text everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_h2o.report.document import Block, Bullets, Cell, Section, Table, Text
from pytest_h2o.report.markdown import escape, render_table


@dataclass(frozen=True)
class SectionTable:
    """A table of a section: plain text in its cells, the first column naming the rows."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


SectionBlock = str | Sequence[str] | SectionTable
"""A paragraph, a list of paragraphs, or a table. All of it is text: markup in it is shown, and does nothing."""


@dataclass(frozen=True)
class ReportSection:
    """A section that a plugin adds to ``report.html`` and ``summary.md``.

    Attributes
    ----------
    title : str
        Its heading.
    build : callable
        Takes the summary, as ``summary.json`` has it, and gives the blocks; nothing: the section is left out.
    """

    title: str
    build: Callable[[Mapping[str, Any]], Iterable[SectionBlock]]


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
