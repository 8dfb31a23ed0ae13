"""What GitHub Actions is told: the summary of a step, and an annotation for each failing item. Pure text.

An annotation is a line ``::error file=…,line=…,title=…::message`` on standard output. In its message ``%``, carriage
return and line feed are written ``%25``, ``%0D`` and ``%0A``; in a property also ``:`` and ``,``: ``%3A`` and ``%2C``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_h2o.errors import StoreError, make_printable
from pytest_h2o.report.markdown import render_summary_md
from pytest_h2o.report.summary import Reason, Summary

STEP_SUMMARY_LIMIT_BYTES = 1024 * 1024
"""GitHub drops the whole summary of a step above this."""

MAX_ANNOTATIONS = 50
"""GitHub shows ten errors a step; more lines than these only fill the log."""


@dataclass(frozen=True)
class Place:
    """Where a failing item is defined; `line` from 1, None where it is not known."""

    file: str
    line: int | None


def render_annotations(failed: Sequence[Reason], places: Mapping[str, Place]) -> list[str]:
    """One line a failing item."""
    lines = []
    for entry in failed[:MAX_ANNOTATIONS]:
        properties = {"title": entry.item}
        place = places.get(entry.item)
        if place is not None:
            line = {} if place.line is None else {"line": str(place.line)}
            properties = {"file": place.file, **line, **properties}
        listed = ",".join(f"{name}={_escape_property(value)}" for name, value in properties.items())
        lines.append(f"::error {listed}::{_escape_message(entry.why)}")
    if len(failed) > MAX_ANNOTATIONS:
        lines.append(f"::error title=pytest-h2o::{len(failed) - MAX_ANNOTATIONS} more items failed")
    return lines


def _escape_message(text: str) -> str:
    text = make_printable(text, keep="\r\n\t")
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape_message(text).replace(":", "%3A").replace(",", "%2C")


def tell_github(
    environ: Mapping[str, str], summary: Summary, items: Mapping[str, Mapping[str, Any]], root: Path
) -> list[str]:
    """In a step of GitHub Actions, write its summary, and give the lines that are to be printed; else do nothing."""
    lines = []
    if environ.get("GITHUB_ACTIONS") == "true":
        workspace = environ.get("GITHUB_WORKSPACE")
        located = {item: record["location"] for item, record in items.items() if record.get("location")}
        places = {
            item: place_in_workspace(root / file, None if line is None else line + 1, workspace)
            for item, (file, line) in located.items()
        }
        lines = render_annotations(summary.failed, places)
    if environ.get("GITHUB_STEP_SUMMARY"):
        try:
            append_step_summary(Path(environ["GITHUB_STEP_SUMMARY"]), render_summary_md(summary))
        except StoreError as error:  # the gate's verdict stands without it
            lines += str(error).splitlines()
    return lines


def place_in_workspace(path: Path, line: int | None, workspace: str | None) -> Place:
    """Name a file as GitHub knows it: relative to the checked-out repository, with ``/``."""
    if workspace:
        relative = os.path.relpath(path, workspace)
        if not relative.startswith(".."):
            return Place(relative.replace(os.sep, "/"), line)
    return Place(str(path), line)


def cut_step_summary(text: str, room_bytes: int) -> str:
    """The text as far as it fits, at the end of a line, and then that it was cut."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= room_bytes:
        return data.decode("utf-8")
    note = b"\n\n**Cut here: GitHub takes no more than 1 MiB a step. All of it is in summary.md of the run folder.**\n"
    if room_bytes < len(note):
        return ""
    kept = data[: room_bytes - len(note)]
    end = kept.rfind(b"\n")
    return (kept[:end] if end > 0 else b"").decode("utf-8", "ignore") + note.decode("utf-8")


def append_step_summary(path: Path, text: str) -> None:
    """Append to the summary of the step, below its limit."""
    try:
        taken = path.stat().st_size if path.exists() else 0
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(cut_step_summary(text, STEP_SUMMARY_LIMIT_BYTES - 1 - taken))
    except OSError as error:
        raise StoreError(
            "the summary of the step cannot be written",
            where=f"GITHUB_STEP_SUMMARY {path}",
            came=error.strerror or str(error),
        ) from error
