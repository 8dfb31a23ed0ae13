"""Markdown by templates: whatever a template puts in is made text that cannot break a page."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_h2o.errors import make_printable
from pytest_h2o.report.changes import SHOWN, TABLE_HEADER, name_earlier, render_counts, table_rows
from pytest_h2o.report.summary import Summary, count_rows, overall_outcome, render_verdict, unreadable

if TYPE_CHECKING:
    from jinja2 import Environment


def render_summary_md(summary: Summary) -> str:
    """The summary as Markdown, the verdict first."""
    return render_markdown(
        "summary.md.j2",
        summary=summary,
        subjects={**summary.presets, **summary.scopes},
        verdict=render_verdict(summary.overall_pass),
        change_header=TABLE_HEADER,
        changes_shown=SHOWN,
    )


def render_markdown(template: str, **values: Any) -> str:
    """A template of Markdown filled with values."""
    from markupsafe import Markup

    environment = open_templates(lambda value: value if isinstance(value, Markup) else Markup(escape(str(value))))
    functions = (count_rows, name_earlier, overall_outcome, render_counts, table_rows, unreadable)
    environment.filters |= {function.__name__: function for function in functions}
    environment.filters["word"] = lambda held: "PASS" if held else "FAIL"
    return environment.get_template(template).render(values)


def open_templates(finalize: Callable[[Any], Any]) -> Environment:
    """The templates; `finalize` makes what they put in harmless, and leaves what their macros give as it is."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("pytest_h2o.report"),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        extensions=["jinja2.ext.do"],
    )


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
