"""Markdown that any renderer takes: tables and lists, text escaped."""

from __future__ import annotations

from collections.abc import Sequence


def escape(text: str) -> str:
    """Text that cannot break a table, a list or the page: no line breaks, pipes and angle brackets escaped."""
    flat = " ".join(text.split())
    return flat.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(escape(cell) for cell in cells) + " |"

    return [line(header), "|" + " --- |" * len(header), *(line(row) for row in rows)]


def render_list(title: str, entries: Sequence[str]) -> list[str]:
    """A titled list, or nothing where there is no entry."""
    return ["", f"**{title}**", "", *(f"- {escape(entry)}" for entry in entries)] if entries else []
