"""What Markdown shows, by templates: the summary, comparisons with an earlier run, and figures over many runs.

Whatever a template puts in is made text that cannot break a page.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from pytest_h2o.errors import StoreError, make_printable, one_line
from pytest_h2o.files import load
from pytest_h2o.gate.compare import (
    FAILING,
    FEWEST_RUNS,
    QUIET,
    Allowances,
    FigureChange,
    MetricFacts,
    State,
    SubjectComparison,
    SubjectRecord,
    compare_subjects,
    differing_parts,
    metric_facts,
    parse_allowances,
    refuse_other_model,
)
from pytest_h2o.gate.metrics import CODING, HEADLINES, METRICS, Metric, render_figure
from pytest_h2o.inputs.options import Settings
from pytest_h2o.report.summary import (
    Change,
    Comparison,
    HistoryBaseline,
    HistoryFigure,
    HistoryRun,
    Summary,
    count_rows,
    overall_outcome,
    own_notes,
    range_rows,
    render_verdict,
    unreadable,
)
from pytest_h2o.run.history import (
    HISTORY_NAME,
    LAST,
    RunRecord,
    baseline_path,
    read_baseline,
    read_history,
    rolling_runs,
)

if TYPE_CHECKING:
    from jinja2 import Environment
    from jinja2.bccache import Bucket


def render_summary_md(summary: Summary) -> str:
    """The summary as Markdown, the verdict first."""
    return render_markdown(
        "summary.md.j2",
        {"own_notes": partial(own_notes, summary)},
        summary=summary,
        subjects={**summary.presets, **summary.scopes},
        verdict=render_verdict(summary.overall_pass),
        change_header=TABLE_HEADER,
        changes_shown=SHOWN,
    )


def render_markdown(template: str, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any) -> str:
    """A template of Markdown filled with values."""
    from markupsafe import Markup

    environment = open_templates(lambda value: value if isinstance(value, Markup) else Markup(escape(str(value))))
    functions = (count_rows, name_earlier, overall_outcome, range_rows, render_counts, table_rows, unreadable)
    environment.filters |= {function.__name__: function for function in functions}
    environment.filters |= filters or {}
    environment.filters["word"] = lambda held: held.upper() if isinstance(held, str) else "PASS" if held else "FAIL"
    return environment.get_template(template).render(values)


def open_templates(finalize: Callable[[Any], Any]) -> Environment:
    """The templates; `finalize` makes what they put in harmless, and leaves what their macros give as it is.

    They are compiled once a machine, user and version: that takes a tenth of a short gate.
    """
    import jinja2

    options: dict[str, Any] = {
        "autoescape": True,
        "trim_blocks": True,
        "lstrip_blocks": True,
        "keep_trailing_newline": True,
        "extensions": ["jinja2.ext.do"],
    }

    class Compiled(jinja2.FileSystemBytecodeCache):
        def dump_bytecode(self, bucket: Bucket) -> None:
            with suppress(OSError):  # no room is no reason not to render
                super().dump_bytecode(bucket)

    environment = jinja2.Environment(
        **options, loader=jinja2.PackageLoader("pytest_h2o.report"), finalize=finalize, undefined=jinja2.StrictUndefined
    )
    made_of = crc32(f"{jinja2.__version__} {options} {finalize.__qualname__}".encode())
    with suppress(RuntimeError):  # no folder for temporary files that is this user's alone
        environment.bytecode_cache = Compiled(pattern=f"pytest-h2o-{made_of:08x}-%s")
    return environment


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


WORDS: Mapping[str, str] = {
    "worse": "WORSE",
    "changed": "CHANGED",
    "missing": "MISSING",
    "allowed": "worse, allowed",
    "better": "better",
    "new": "new",
    "equal": "equal",
    "within": "within the spread",
    "timed": "timing",
    "not comparable": "not comparable",
}

SHOWN = 12
"""Changes that a diagnosis or a summary shows of one preset or scope."""


def read_comparison(value: Mapping[str, Any] | None) -> Comparison | None:
    """A comparison as the journal has it."""
    return None if value is None else load(Comparison, value, "a comparison with an earlier run")


def failing_changes(comparison: Comparison | None) -> list[Change]:
    """The changes that make a comparison fail; none without one."""
    return [] if comparison is None else [change for change in comparison.changes if change.state in FAILING]


def name_earlier(comparison: Comparison) -> str:
    """``main`` or ``last``, with the run that it is."""
    return one_line(f"{comparison.asked} (run {comparison.run})")


def _both(change: Change | FigureChange) -> tuple[str, str]:
    """Then and now; a difference that the usual digits do not show in full."""
    then, now = (render_figure(change.metric, value) for value in (change.then, change.now))
    return (repr(change.then), repr(change.now)) if then == now and change.then != change.now else (then, now)


def render_change(change: Change) -> str:
    """``lossless ratio 1.4676 -> 1.4600 (-0.52 %)``."""
    metric = METRICS.get(change.metric)
    then, now = _both(change)
    percent = render_percent(change)
    return f"{metric.title if metric else one_line(change.metric)} {then} -> {now}{f' ({percent})' if percent else ''}"


def render_percent(change: Change | FigureChange) -> str:
    """The change with its sign; empty where it cannot be said in percent."""
    percent = change.percent
    if percent is None:
        return ""
    return f"{percent:+.2f} %" if abs(percent) >= 0.005 or not percent else f"{percent:+.1g} %"


def render_counts(counts: Mapping[str, int]) -> str:
    """``2 worse, 1 missing, 400 equal``: exact figures and judged timings; other timings are left out."""
    shown = [(state, counts[state]) for state in WORDS if state in counts and state not in ("timed", "not comparable")]
    return ", ".join(f"{number} {WORDS[state].lower()}" for state, number in shown) or "nothing to compare"


def render_lines(comparison: Comparison) -> list[str]:
    """The change against the earlier run: how many figures, then the few that matter most if they changed."""
    lines = [f"change against {comparison.asked}: {render_counts(comparison.counts)}"]
    shown = [change for change in comparison.headlines if change.state != "equal"]
    failing = failing_changes(comparison)
    if failing and not any(change.state in FAILING for change in shown):
        shown.insert(0, failing[0])
    remarks = {"not comparable": ", not comparable", "timed": ", a timing"}
    return lines + [f"  {render_change(change)}{remarks.get(change.state, '')}" for change in shown]


def explain_changes(comparison: Comparison | None) -> list[str]:
    """The lines of a diagnosis: what got worse, where, by how much, and how much is allowed; none without one."""
    if comparison is None:
        return []
    failing = failing_changes(comparison)
    lines = [f"compared   with {name_earlier(comparison)}, ended {one_line(comparison.ended)}"]
    lines.append(f"figures    {render_counts(comparison.counts)}")
    for change in failing[:SHOWN]:
        text = "" if change.allowed_percent is None else f", allowed {change.allowed_percent:.4g} %"
        lines.append(f"  {WORDS[change.state]:<8} {one_line(change.row)}: {render_change(change)}{text}")
    if len(failing) > SHOWN:
        lines.append(f"  … and {len(failing) - SHOWN} more")
    if any(change.state == "changed" for change in failing):
        lines.append("changed    figures that say what was measured are others: this is a comparison of unlike things")
    metrics = [change.metric for change in failing if change.state != "missing"]
    if metrics:
        lines.append(f"allow      --h2o-compare-fail={metrics[0]}:PERCENT lets it be worse by that much")
    name, effect = comparison.asked, "its figures are then what later runs are held against"
    accept = "run once without --h2o-compare" if name == LAST else f"run with --h2o-save={name} --h2o-overwrite alone"
    if (asked := rolling_runs(name)) is not None:
        accept = "run without --h2o-compare"
        effect = f"once for figures that are exact, for timings until half of the last {asked} runs have them"
    lines.append(f"accept     {accept}: {effect}")
    return lines


def table_rows(changes: Iterable[Change | FigureChange], subject: str) -> list[Sequence[str]]:
    """Rows as `TABLE_HEADER` names their cells."""
    return [
        (subject, change.row, change.metric, *_both(change), render_percent(change), WORDS[change.state])
        for change in changes
    ]


TABLE_HEADER = ("of", "row", "figure", "then", "now", "change", "verdict")


def render_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a plain table, each column as wide as its widest cell."""
    # Names come from files that somebody else may have written.
    shown = [[one_line(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in shown) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in shown]
    return [line.rstrip() for line in lines]


def compare_records(
    then: RunRecord, now: RunRecord, allowances: Allowances, where: str
) -> dict[str, SubjectComparison | str]:
    """Every preset and scope of two runs: its comparison, or ``missing`` (not in the later one) or ``new``."""
    metrics = {**then.metrics, **now.metrics, **metric_facts()}
    found: dict[str, SubjectComparison | str] = {}
    for subject in now.subjects:
        old = then.subject(subject.kind, subject.name)
        found[subject.title] = (
            "new" if old is None else compare_subjects(old, subject, metrics, allowances, where=where)
        )
    for subject in then.subjects:
        if now.subject(subject.kind, subject.name) is None:
            found[subject.title] = "missing"
    return found


def render_comparison(found: dict[str, SubjectComparison | str], *, everything: bool) -> list[str]:
    """A table of the figures that changed (of all of them, with `everything`), and what there is to say beside it."""
    rows: list[Sequence[str]] = []
    notes: list[str] = []
    for title, comparison in found.items():
        if isinstance(comparison, str):
            later = "was measured then, and not now" if comparison == "missing" else "was not measured then"
            notes.append(f"{title} {later}")
            continue
        changes = comparison.changes
        rows += table_rows((c for c in changes if everything or c.state not in QUIET), title)
        equal = sum(change.state == "equal" for change in changes)
        rest = Counter(change.state for change in changes)
        told = [text.format(rest[state]) for state, text in _UNJUDGED.items() if rest[state]]
        notes.append(", ".join([f"{title}: {equal} of {len(changes)} figures are equal", *told]))
        notes += [f"{title}: {remark}" for remark in comparison.remarks]
    return [*(render_columns(TABLE_HEADER, rows) if rows else []), *(one_line(note, limit=1000) for note in notes)]


_UNJUDGED: dict[State, str] = {
    "timed": "{} are timings, which no allowance holds (--all shows them)",
    "not comparable": "{} are not comparable between these runs",
}


def history_rows(records: Iterable[RunRecord], metric: str | None) -> list[Sequence[str]]:
    """One row a run and preset or scope: when, verdict, the figure, and its change since the run before it."""
    before: dict[str, float] = {}
    rows: list[Sequence[str]] = []
    for record in records:
        none_held = record.overall_pass is False and not any(subject.held for subject in record.subjects)
        for subject in record.subjects:
            name = metric or HEADLINES[subject.kind][0]
            for workload in subject.workloads:
                title, value = title_of(subject, workload), main_figure(subject, name, record.metrics, workload)
                if value is None:
                    continue
                old = before.get(title)
                change = "" if not old else f"{(value - old) / abs(old) * 100:+.2f} %"
                held = "held" if subject.held else "run FAILED" if none_held else "FAILED"
                rows.append((record.run, record.ended, title, held, name, render_figure(name, value), change))
                before[title] = value
    return rows


HISTORY_HEADER = ("run", "ended", "of", "items", "figure", "value", "since then")


def title_of(subject: SubjectRecord, workload: str) -> str:
    """A preset or scope in words, and which of several workloads."""
    return f"{subject.title} at {workload}" if workload else subject.title


def takes_worst(metric: str) -> bool:
    """Whether the worst row says what a preset has of a metric; of what this version does not know it is the best."""
    return metric in METRICS and METRICS[metric].over == "every row"


def main_figure(
    subject: SubjectRecord, metric: str, known: Mapping[str, MetricFacts], workload: str = ""
) -> float | None:
    """The best value of a metric over all rows, or those of a workload; None if no row has it.

    Of a metric that every row must hold it is the worst.

    `known` says which way is better.
    """
    values = subject.values_of(metric, workload)
    is_higher_better = metric in known and known[metric].better == "higher"
    pick: Any = max if is_higher_better != takes_worst(metric) else min
    return None if not values else float(pick(values))


MAX_RUNS = 40
"""The newest runs that a figure is shown of, this one among them."""


def collect_history(record: RunRecord | None, out_dir: Path, settings: Settings) -> list[HistoryFigure]:
    """Every figure with an earlier run in the history, before the run itself is added there."""
    if record is None:
        return []
    added = [metric.name for metric in METRICS.values() if metric.added]
    named_of = [(s, (*HEADLINES[s.kind], *added, *(CODING if s.codes else ()))) for s in record.subjects]
    wanted = [(s, name, workload) for s, names in named_of for name in names for workload in s.workloads]
    earlier: dict[tuple[str, str], deque[_Run]] = {}
    for old in read_history(out_dir / HISTORY_NAME):
        if isinstance(old, RunRecord) and old.run != record.run:  # a run that goes on may stand there already
            for subject, metric, workload in wanted:
                kept = earlier.setdefault((title_of(subject, workload), metric), deque(maxlen=MAX_RUNS - 1))
                kept += _runs_of(old, subject, metric, workload)
    asked, named = settings["compare"], None
    rolls = rolling_runs(asked)
    if asked not in (None, LAST) and rolls is None and baseline_path(out_dir, asked).is_file():
        named = read_baseline(out_dir, asked)
    fail = settings.given["compare-fail"]
    allowances = parse_allowances(fail.value or (), fail.origin)
    figures = []
    for subject, metric, workload in wanted:
        title = title_of(subject, workload)
        before, now = list(earlier.get((title, metric), ())), _runs_of(record, subject, metric, workload)
        held = [run for run, _ in before if run.held]
        alike = [run.value for run, is_alike in before if run.held and is_alike]
        baseline = None
        if rolls is not None and not METRICS[metric].exact:
            if len(alike) >= FEWEST_RUNS:
                baseline = HistoryBaseline(f"median of {len(alike[-rolls:])} runs", statistics.median(alike[-rolls:]))
        elif (asked == LAST or rolls is not None) and held:
            baseline = HistoryBaseline(f"run {held[-1].run}", held[-1].value)
        elif named is not None:
            found = _runs_of(named, subject, metric, workload)
            baseline = HistoryBaseline(f"baseline {asked}", found[0][0].value) if found else None
        values = {run.value for run, _ in before + now}
        if before and now and (metric not in CODING or len(values) > 1):  # twelve charts of a straight line say nothing
            low, high, band = _band(METRICS[metric], baseline, alike, allowances)
            of, unit, runs = METRICS[metric].title, METRICS[metric].unit, [run for run, _ in before + now]
            figures.append(HistoryFigure(title, metric, of, unit, baseline, low, high, band, runs))
    return figures


_Run = tuple[HistoryRun, bool]
"""And whether all that the run was measured with is known and equal."""


def _runs_of(record: RunRecord, now: SubjectRecord, metric: str, workload: str) -> list[_Run]:
    """The value of a figure in one run; none if it has no such figure, or of another model."""
    then = record.subject(now.kind, now.name)
    value = None if then is None else main_figure(then, metric, record.metrics, workload)
    if then is None or value is None:
        return []
    try:
        refuse_other_model(then, now, record.run)
    except StoreError:
        return []
    is_alike = not differing_parts(then.fingerprint, now.fingerprint)
    return [(HistoryRun(record.run, record.ended, value, then.held), is_alike)]


def _band(
    metric: Metric, baseline: HistoryBaseline | None, alike: Sequence[float], allowances: Allowances
) -> tuple[float | None, float | None, str | None]:
    """Between which values a figure is as it was, and why: what is allowed, or what runs measured alike had."""
    allowed = allowances.find(metric.name)
    if metric.exact and baseline is not None and allowed is not None:
        worst = baseline.value * (1 + (-1 if metric.higher_is_better else 1) * allowed[1] / 100)
        low, high = sorted((worst, baseline.value))
        return low, high, f"allowed against {baseline.name}: {allowed[1]:g} %"
    if not metric.exact and len(alike) > 1:
        return min(alike), max(alike), f"{len(alike)} earlier runs, measured alike"
    return None, None, None
