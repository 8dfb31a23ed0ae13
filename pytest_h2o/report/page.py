"""The report page as a value, from the summary, the collected results and the run's own record. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_h2o.options import EMBEDDED_BENCH
from pytest_h2o.report.collector import Collector
from pytest_h2o.report.document import Block, Bullets, Cell, Page, Pre, Section, Table, Text, Tone
from pytest_h2o.report.links import Links
from pytest_h2o.report.page_changes import history_section
from pytest_h2o.report.page_presets import OUTCOME_TONES, VERDICT_HEADER, preset_section, verdict_cells
from pytest_h2o.report.page_scopes import scope_section
from pytest_h2o.report.sections import section_pages
from pytest_h2o.report.summary import overall_outcome, render_verdict

MAX_ITEMS = 2000
_EMBEDDED = "/".join(EMBEDDED_BENCH.parts[-3:])
MAX_FAILURES = 100
_FILES = ("summary.md", "summary.json", "journal.jsonl", "figures.json", "run.json")
_WRITTEN_WITH_THE_PAGE = ("summary.md", "run.json")
"""Files of a finished run that may come after its page, so that the page cannot look for them."""
_VERDICTS: Mapping[str, tuple[Tone, str]] = {
    "PASS": ("good", "The gate held: every threshold that was asked for is met, and nothing that it needs is missing."),
    "FAIL": ("bad", "The gate did not hold."),
    "INCONCLUSIVE": (
        "warn",
        "Nothing failed, but the launches could not tell whether decoding is slower than allowed.",
    ),
    "INCOMPLETE": (
        "warn",
        "Nothing failed, but something that a whole verdict needs was not measured or not asked for.",
    ),
    "UNFINISHED": ("warn", "This run did not end, or has not ended yet: what is here is what its journal has."),
}


def build_page(summary: Mapping[str, Any], collector: Collector, run: Mapping[str, Any], links: Links) -> Page:
    """The page of a run.

    Parameters
    ----------
    summary : mapping
        As `summary.json` has it.
    collector : Collector
        Every record of the run.
    run : mapping
        As `run.json` has it; without `ended` the run is unfinished, and nothing else is needed.
    links : Links
    """
    verdict = render_verdict(summary["overall_pass"])
    if "ended" not in run and verdict != "FAIL":
        verdict = "UNFINISHED"
    tone, lead = _VERDICTS.get(verdict, ("warn", ""))
    notes = [_VERDICTS["UNFINISHED"][1]] if "ended" not in run and verdict == "FAIL" else []
    if summary.get("exit_status") and not summary["items"]["failed"]:
        notes.append(f"pytest ended with exit status {summary['exit_status']}: something failed that left no record.")
    sections = [
        _failures(collector),
        _overview(summary),
        *_lists(summary),
        *(
            preset_section(collector, name, preset, f"preset-{number}", links)
            for number, (name, preset) in enumerate(summary["presets"].items(), 1)
        ),
        *(
            scope_section(name, scope, collector.scopes.get(name, {}).get("result"), f"scope-{number}", links)
            for number, (name, scope) in enumerate(summary["scopes"].items(), 1)
        ),
        history_section(summary),
        *section_pages(summary),
        _items(collector),
        _provenance(run, links),
    ]
    return Page(
        title=f"KV-cache compression gate: {verdict}",
        verdict=verdict,
        tone=tone,
        lead=(lead, *notes),
        facts=tuple(_facts(summary, run)),
        sections=tuple(section for section in sections if section is not None),
    )


def _facts(summary: Mapping[str, Any], run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    counts = summary["items"]
    yield "items", f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped"
    yield "rule", str(summary["rule"])
    for key, title in (("run", "run"), ("started", "started"), ("ended", "ended")):
        if run.get(key) is not None:
            yield title, str(run[key])
    settings = run.get("settings", {})
    for name in ("bench", "logs"):
        value = settings.get(name, {}).get("value")
        if value is not None:
            yield ("bench" if name == "bench" else "recorded logs"), _name_bench(str(value))


def _name_bench(path: str) -> str:
    """The bench in words if it is the one that comes with the plugin, wherever that was installed; else its path."""
    return "the embedded reference bench" if path.endswith(_EMBEDDED) else path


def _failures(collector: Collector) -> Section | None:
    from pytest_h2o.report.summary import why_failed

    failed = [item for item in collector.sorted_items() if item["outcome"] == "failed"]
    if not failed:
        return None
    parts = []
    for number, item in enumerate(failed[:MAX_FAILURES], 1):
        blocks: list[Block] = [Text(why_failed(item), "bad")]
        if item.get("diagnosis"):
            blocks.append(Pre(str(item["diagnosis"])))
        parts.append(Section(f"failure-{number}", item["item"], tuple(blocks)))
    more = len(failed) - MAX_FAILURES
    said = (Text(f"{more} more failed items are in the table of items."),) if more > 0 else ()
    return Section("failures", f"Failures ({len(failed)})", said, tuple(parts))


def _lists(summary: Mapping[str, Any]) -> Iterator[Section | None]:
    """What kept the verdict from being a whole one."""
    yield _why_section("inconclusive", "Inconclusive: no pass", summary.get("inconclusive") or ())
    if summary["incomplete_for"]:
        yield Section("incomplete", "Not complete", (Bullets(tuple(summary["incomplete_for"])),))
    yield _why_section("left-out", "Left out on purpose", summary["left_out_on_purpose"])
    if summary["not_measured"]:
        text = (
            "Presets that nobody asked for by name, and that have no recording or whose target is out of the bench's "
            "reach; -k NAME asks for one, and tells which:"
        )
        yield Section("not-measured", "Not measured", (Text(text), Bullets(tuple(summary["not_measured"]))))


def _why_section(section_id: str, title: str, entries: Sequence[Mapping[str, Any]]) -> Section | None:
    if not entries:
        return None
    rows = tuple((Cell(str(entry["item"])), Cell(str(entry["why"]))) for entry in entries[:MAX_ITEMS])
    return Section(section_id, title, (Table(title, ("item", "why"), rows),))


def _overview(summary: Mapping[str, Any]) -> Section | None:
    """One line a threshold of a preset and one a scope."""
    rows = [
        _overview_row(name, verdict_cells(verdict))
        for name, preset in summary["presets"].items()
        for verdict in preset["verdicts"]
    ]
    rows += [_overview_row(name, _scope_cells(scope)) for name, scope in summary["scopes"].items()]
    if not rows:
        return None
    header = ("preset or scope", "outcome", *(title for title in VERDICT_HEADER if title != "outcome"))
    table = Table("Every threshold of this run", header, tuple(rows), frozenset({5}))
    return Section("verdicts", "Verdicts", (table,))


def _overview_row(name: str, cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
    """The cells of a verdict after its preset or scope, the outcome first: names are long, and phones narrow."""
    threshold, outcome, *rest = cells
    return (Cell(name), outcome, threshold, *rest)


def _scope_cells(scope: Mapping[str, Any]) -> tuple[Cell, ...]:
    """The ratio of a scope as cells, as `VERDICT_HEADER` names them."""
    outcome = overall_outcome(scope["outcomes"])
    if outcome == "passed":
        outcome = "reported" if scope["measured"] and scope["target"] is None else "pass"
    values = ["not measured", "", ""]
    if scope["measured"] and scope.get("refused"):
        values[0] = "refused"
    elif scope["measured"]:
        target = "reported only" if scope["target"] is None else f">= {scope['target']:.4f}"
        margin = "" if scope["target"] is None else f"{scope['lossless_ratio'] - scope['target']:.4f}"
        values = [f"{scope['lossless_ratio']:.4f}", target, margin]
    source = "decides" if scope.get("decides") else ""
    return (Cell("lossless ratio"), Cell(outcome, OUTCOME_TONES[outcome]), *map(Cell, (*values, source)))


def _items(collector: Collector) -> Section | None:
    items = collector.sorted_items()
    if not items:
        return None
    rows = tuple(
        (Cell(item["item"]), Cell(item["outcome"], OUTCOME_TONES.get(item["outcome"], "")), Cell(item["reason"] or ""))
        for item in items[:MAX_ITEMS]
    )
    more = f"{len(items) - MAX_ITEMS} more are in journal.jsonl" if len(items) > MAX_ITEMS else None
    table = Table("Every item of the gate", ("item", "outcome", "reason"), rows, left_out=more)
    return Section("items", f"Items ({len(items)})", (table,), folded=True)


def _provenance(run: Mapping[str, Any], links: Links) -> Section:
    """Settings with where each was said, digests, versions, machine, files."""
    files = tuple(
        link
        for name in _FILES
        for link in links.to(name, name, is_there="ended" in run and name in _WRITTEN_WITH_THE_PAGE)
    )
    blocks: list[Block] = [Bullets(files)] if files else []
    settings = run.get("settings", {})
    if settings:
        rows = tuple((Cell(name), Cell(_text(s["value"])), Cell(str(s["origin"]))) for name, s in settings.items())
        blocks.append(Table("Settings, and where each was said", ("setting", "value", "said by"), rows))
    for key, caption, header in (
        ("digests", "SHA-256 of what the run was made of", ("file", "digest")),
        ("machine", "Machine", ("part", "what it says")),
        ("packages", "Versions", ("package", "version")),
    ):
        if run.get(key):
            pairs = tuple((Cell(str(name)), Cell(_text(value))) for name, value in run[key].items())
            blocks.append(Table(caption, header, pairs))
    return Section("provenance", "Provenance", tuple(blocks))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
