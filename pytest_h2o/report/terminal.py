"""The first and the last lines of a run on the terminal, and what GitHub Actions is told: summary and annotations."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pytest_h2o.errors import H2OError, StoreError, make_printable
from pytest_h2o.gate.compare import FAILING
from pytest_h2o.gate.metrics import JOINT, LOSSLESS, METRICS
from pytest_h2o.report.artifacts import write_artifacts
from pytest_h2o.report.changes import render_lines, render_summary_md
from pytest_h2o.report.summary import (
    Preset,
    Reason,
    Recorded,
    Scope,
    Summary,
    Unmeasured,
    Verdict,
    count_rows,
    headline,
    next_steps,
    own_notes,
    render_verdict,
    shared_notes,
    unreadable,
)
from pytest_h2o.run.journal import Collector

WIDTH = 80
NOTHING = "-"
"""Stands where there is no such figure."""

Subject: TypeAlias = Preset | Scope | Unmeasured


def render_result_table(presets: Mapping[str, Preset], scopes: Mapping[str, Scope | Unmeasured]) -> list[str]:
    """Lines of the table; columns in which no row has anything are left out.

    A name that its row has no room for stands on a line of its own; the other rows keep theirs.
    """
    named = [*presets.items(), *scopes.items()]
    cells = [[make(subject) for _, make in COLUMNS] for _, subject in named]
    kept = [place for place in range(len(COLUMNS)) if any(row[place] != NOTHING for row in cells)]
    if not named:
        return []
    rows = [[COLUMNS[place][0] for place in kept], *([row[place] for place in kept] for row in cells)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(kept))]
    names = ["preset or scope", *(name for name, _ in named)]
    figures = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    room = max((len(name) for name in names if len(name) + 2 + len(figures[0]) <= WIDTH), default=0)
    lines = []
    for name, line in zip(names, figures, strict=True):
        lines += [f"{name:<{room}}  {line}"] if len(name) <= room else [name, f"{'':<{room}}  {line}"]
    return [line.rstrip() for line in lines]


def name_verdict(subject: Subject) -> str:
    """``PASS``, ``FAIL``, ``INCONCLUSIVE``; ``reported`` where no target was set; ``skipped`` where nothing ran."""
    outcomes = set(subject.outcomes.values())
    verdicts = [verdict.outcome for verdict in subject.verdicts]
    if "failed" in outcomes:
        return "FAIL"
    if "passed" not in outcomes:
        return "skipped"
    if "inconclusive" in verdicts:
        return "INCONCLUSIVE"
    return "reported" if verdicts and set(verdicts) == {"reported"} else "PASS"


def smallest_margin(subject: Subject) -> float | None:
    """The smallest of its margins, each as a part of its target; None where no target was set, or a value is missing.

    Of a slow-down it is a part of the baseline speed, and a joint margin is the smallest of several by itself.
    """
    return min((v.relative_margin for v in subject.verdicts if v.relative_margin is not None), default=None)


def _column(head: str) -> Callable[[Subject], str]:
    """The verdict of the first metric of a column."""
    names = [metric.name for metric in METRICS.values() if metric.column == head]

    def cell(subject: Subject) -> str:
        found = next((v for name in names for v in subject.verdicts if v.metric == name), None)
        return NOTHING if found is None else render_value(found)

    return cell


def render_value(verdict: Verdict) -> str:
    """The value of a verdict, with its interval where there is one: ``0.9% [-1.4, 3.2]``."""
    metric, value = METRICS[verdict.metric], float(verdict.value)
    if verdict.basis is None:
        return metric.render_bare(value)
    percent = metric.is_fraction
    scale, decimals = (100.0, 1) if percent else (1.0, metric.decimals)
    bounds = ["..." if end is None else f"{end * scale:.{decimals}f}" for end in (verdict.low, verdict.high)]
    text = "no value" if value != value else f"{value * scale:.{decimals}f}" + ("%" if percent else "")
    return text if bounds[0] == bounds[1] != "..." else f"{text} [{', '.join(bounds)}]"


def _lossless(subject: Subject) -> str:
    if isinstance(subject, Scope):
        return "none" if subject.refused else METRICS[LOSSLESS].render_bare(subject.lossless_ratio)
    return _column("lossless")(subject)


def _margin(subject: Subject) -> str:
    margin = smallest_margin(subject)
    return NOTHING if margin is None else METRICS[JOINT].render_bare(margin)


def _change(subject: Subject) -> str:
    """How many figures changed against the earlier run, the worst kind first."""
    comparison = subject.comparison
    if comparison is None:
        return NOTHING
    counts: Mapping[str, int] = comparison.counts
    worse = sum(counts.get(state, 0) for state in FAILING)
    for number, word in ((worse, "worse"), (counts.get("allowed", 0), "allowed"), (counts.get("better", 0), "better")):
        if number:
            return f"{number} {word}"
    return "equal"


_OF_METRICS = dict.fromkeys(("lossy", "lossless", *(m.column for m in METRICS.values() if m.name != JOINT)))

COLUMNS: Sequence[tuple[str, Callable[[Subject], str]]] = (
    *((head, _lossless if head == "lossless" else _column(head)) for head in _OF_METRICS if head),
    ("verdict", name_verdict),
    ("margin", _margin),
    ("change", _change),
)
"""Heads of the columns, and how each is made of the summary of a preset or scope."""


def _shown_metrics(subject: Subject) -> set[str]:
    """Metrics that the table shows of a preset or scope; any other that a gate file compares is told below it."""
    compared = {verdict.metric for verdict in subject.verdicts}
    first = {m.column: m.name for m in reversed(METRICS.values()) if m.column and m.name in compared}
    return set(first.values())


NOTES_SHOWN = 6
"""Notes of a preset on the terminal; all of them are in summary.md."""


def render_terminal(summary: Summary, run_dir: Path) -> list[str]:
    """Plain lines, for 80 columns and a CI log: the table, what there is to say beside it, the verdict, the folder."""
    presets, scopes = summary.presets, summary.scopes
    lines = render_result_table(presets, scopes)
    left_out = {left.why for left in summary.left_out_on_purpose}  # said below
    shared = {note: names for note, names in shared_notes(summary).items() if note not in left_out}
    for name, subject in (*presets.items(), *scopes.items()):
        own = own_notes(summary, name) if name in presets else []
        lines += _beside(name, subject, [note for note in own if note not in shared and note not in left_out])
    lines += _wrapped([f"note of {len(names)} presets ({', '.join(names)}): {note}" for note, names in shared.items()])
    decoded = sum(scope.decoded_streams for scope in scopes.values() if isinstance(scope, Scope))
    lines += [f"{decoded:,} streams decoded bit for bit"] if decoded else []
    told = dict.fromkeys(f"left out on purpose: {left.why}" for left in summary.left_out_on_purpose)
    if summary.not_measured:
        told[f"not measured, not asked for: {', '.join(summary.not_measured)}"] = None
    lines += _wrapped([*told, *dict.fromkeys(f"no pass: {found.why}" for found in summary.inconclusive)])
    if summary.exit_status and not summary.items.failed:
        lines.append(f"pytest ended with exit status {summary.exit_status}: something failed that left no record")
    if summary.incomplete_for and summary.overall_pass is not False:
        lines += _wrapped([f"incomplete: {text}" for text in summary.incomplete_for])
    lines += _recorded(summary.recorded)
    lines += _wrapped([headline(summary), *(f"next: {step}" for step in next_steps(summary))])
    lines += [f"gate {render_verdict(summary.overall_pass)} (rule {summary.rule}); artifacts in {run_dir}"]
    return [make_printable(line) for line in lines]


def _beside(name: str, subject: Subject, notes: Sequence[str]) -> list[str]:
    """What the table cannot say of a preset or scope, below its name."""
    missed = [v for v in subject.verdicts if v.outcome in ("fail", "inconclusive")]
    shown = _shown_metrics(subject)
    others = [v for v in subject.verdicts if v.metric not in shown and v not in missed]
    own = _preset_lines(subject, notes) if isinstance(subject, Preset) else _scope_lines(subject)
    lines = [*map(_threshold, missed + others), *own]
    if subject.comparison:
        lines += render_lines(subject.comparison)
    lines += [f"note: {note}" for note in subject.comparison_notes]
    return [f"{name}:", *_wrapped(lines, "    ")] if lines else []


def _preset_lines(preset: Preset, own: Sequence[str]) -> list[str]:
    notes = [f"note: {note}" for note in own]
    more = len(notes) - NOTES_SHOWN
    if more > 0:
        notes = [*notes[:NOTES_SHOWN], f"note: {more} more notes are in summary.md"]
    warnings = [f"warnings of the binary: {count:,} x {kind}" for kind, count in preset.warnings.items()]
    coded = all(figure.value != 0 for figure in preset.coding if figure.metric == "h2o_lossless_raw_mb")
    worst = ", ".join(f"{figure.title} {figure.measured}" for figure in preset.coding if figure.value != 0)
    coding = [f"lossless coding at run time, the worst row in each: {worst}"] if worst and coded else []
    return [count_rows(preset), *notes, *coding, *warnings]


def _scope_lines(scope: Scope | Unmeasured) -> list[str]:
    if isinstance(scope, Unmeasured):
        return ["not measured"]
    if scope.refused:
        if not scope.skipped_entries:
            return [f"no ratio: {unreadable(scope)}"]
        total = scope.selected_entries + scope.skipped_entries
        return [f"no ratio: {scope.skipped_entries} of {total} entries cannot be read"]
    notes = [f"note: {text}" for text in [*scope.notes, *scope.dump_gaps][:NOTES_SHOWN]]
    return ["its ratio decides"] * scope.decides + notes


def _wrapped(lines: list[str], indent: str = "") -> list[str]:
    """Every line cut at blanks to fit the terminal, what goes on being indented; paths stay whole."""
    found = []
    for line in lines:
        own = indent + " " * (len(line) - len(line.lstrip()))
        found += textwrap.wrap(
            line.strip(),
            WIDTH,
            initial_indent=own,
            subsequent_indent=own + "  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return found


def _recorded(recorded: Recorded | None) -> list[str]:
    """Where the figures of this run are kept for later ones; nothing before they are."""
    if recorded is None:
        return []
    lines = [f"figures saved as baseline {recorded.baseline}"] if recorded.baseline else []
    lines += recorded.notes
    if recorded.trouble is not None:
        lines += [f"ERROR {line}" for line in recorded.trouble.splitlines()]
    return lines


def _threshold(verdict: Verdict) -> str:
    word = {"inconclusive": " INCONCLUSIVE", "fail": " MISSED"}.get(verdict.outcome, "")
    return f"{verdict.title} {verdict.measured} (target {verdict.relation} {verdict.target}){word}"


ENDED_WELL, TESTS_FAILED, INTERRUPTED, INTERNAL_ERROR = range(4)
"""Exit statuses of pytest, as its documentation numbers them."""


class Closing(NamedTuple):
    """The last lines of a run under their title, and the exit status that it must end with."""

    title: str
    lines: list[str]
    exit_status: int

    @property
    def one_line(self) -> str:
        """The verdict, or in its place what went wrong."""
        return next((line for line in self.lines if line.startswith("gate ")), f"{self.title}: {self.lines[-1]}")


def close_run(collector: Collector, root: Path, started: float, exit_status: int, trouble: str | None) -> Closing:
    """Write the artifacts; if that fails the run fails, whatever the items said. A run broken off has none."""
    if trouble is not None:
        return close_unkept(trouble)
    if exit_status == INTERRUPTED:
        journal = collector.run_dir / "journal.jsonl"
        lines = [
            "gate UNFINISHED: the run was broken off, so nothing is said of the gate",
            make_printable(
                f"what was measured until then is in {journal}" if journal.exists() else "no item had ended"
            ),
            make_printable(f"to go on with it: the same command with --h2o-resume={collector.run_dir}"),
        ]
        return Closing("h2o", lines, exit_status)
    try:
        summary = write_artifacts(collector, started=started, ended=time.time(), exit_status=exit_status)
    except H2OError as error:
        return close_unkept(str(error))
    unkept = summary.recorded is not None and summary.recorded.trouble is not None
    if (unkept or summary.overall_pass is False) and exit_status == ENDED_WELL:
        exit_status = TESTS_FAILED  # an excused item does not excuse the gate
    lines = [*render_terminal(summary, collector.run_dir), *tell_github(os.environ, summary, collector.items, root)]
    if exit_status == ENDED_WELL and summary.overall_pass is not True and collector.settings["strict"]:
        exit_status = TESTS_FAILED
        origin = collector.settings.origin("strict")
        lines.append(f"exit code 1: the gate is {render_verdict(summary.overall_pass)}, and {origin} takes PASS alone")
    return Closing("h2o", lines, exit_status)


def close_empty() -> Closing:
    """What is said where a pass was asked for and no item of a gate ran."""
    return Closing("h2o", ["exit code 1: no item of the gate ran, and --h2o-strict takes PASS alone"], TESTS_FAILED)


def close_unkept(trouble: str) -> Closing:
    """What is said where the run could not be kept."""
    return Closing("h2o: what was measured could not be kept", [trouble], INTERNAL_ERROR)


# -- GitHub Actions ----------------------------------------------------------------------------------------------------
#
# An annotation is a line ``::error file=…,line=…,title=…::message`` on standard output. In its message ``%``, carriage
# return and line feed are ``%25``, ``%0D`` and ``%0A``; in a property also ``:`` and ``,``: ``%3A`` and ``%2C``.

STEP_SUMMARY_LIMIT_BYTES = 1024 * 1024
"""GitHub drops the whole summary of a step above this."""

MAX_ANNOTATIONS = 50
"""GitHub shows ten errors a step; more lines than these only fill the log."""


class Place(NamedTuple):
    """Where a failing item is defined, `line` from 1; None where it is not known."""

    file: str | None
    line: int | None


def render_annotations(failed: Sequence[Reason], places: Mapping[str, Place]) -> list[str]:
    """One line a failing item."""
    lines = []
    for entry in failed[:MAX_ANNOTATIONS]:
        place = places.get(entry.item, Place(None, None))
        properties = {"file": place.file, "line": place.line, "title": entry.item}
        listed = ",".join(f"{name}={_escape_property(str(v))}" for name, v in properties.items() if v is not None)
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
    """Name a file as GitHub knows it: relative to the checked-out repository, with ``/``.

    The variable may name a link to it, and a file in it may be one.
    """
    for pair in ((path, workspace), (os.path.realpath(path), os.path.realpath(workspace))) if workspace else ():
        relative = Path(os.path.relpath(*pair))
        if relative.parts[0] != "..":
            return Place(relative.as_posix(), line)
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
