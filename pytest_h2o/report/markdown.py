"""Markdown that any renderer takes: tables and lists, text escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_h2o.bench.printable import make_printable


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
