"""What the report of pytest-html, where that plugin is installed and asked for, shows beside a gate item. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_h2o.bench.printable import make_printable
from pytest_h2o.report.properties import main_figures

PAGE = "report.html"


def make_extras(record: Mapping[str, Any], run_dir: Path, page_folder: Path) -> list[dict[str, str | None]]:
    """Extras of an item in the form of pytest-html: its diagnosis, its figures, and a link to the page of the run.

    Parameters
    ----------
    record : mapping
        The item as the journal has it.
    run_dir : Path
        Folder of the run, where its page will be.
    page_folder : Path
        Folder of pytest-html's page, which the link starts from.
    """
    found = []
    if record.get("diagnosis"):
        found.append(_text("diagnosis", record["diagnosis"]))
    figures = main_figures(record)
    if figures:
        found.append(_text("figures", "".join(f"{name} = {value}\n" for name, value in figures)))
    link = os.path.relpath(run_dir / PAGE, page_folder).replace(os.sep, "/")
    found.append({"name": "gate", "format_type": "url", "content": link, "mime_type": None, "extension": None})
    return found


def _text(name: str, content: str) -> dict[str, str | None]:
    text = make_printable(content)
    return {"name": name, "format_type": "text", "content": text, "mime_type": "text/plain", "extension": "txt"}
