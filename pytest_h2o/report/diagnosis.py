"""What a failing item says: target, measured, margin, nearest rows, what bounds them, warnings, files, how to repeat.

Pure: an item and its error in, text out.
"""

from __future__ import annotations

import json
import math
import shlex
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_h2o.bench.adapter import get_adapter
from pytest_h2o.bench.command import repeat_command
from pytest_h2o.errors import BenchError, H2OError, make_printable
from pytest_h2o.gate.metrics import DROP, JOINT, LOSSLESS, LOSSY, METRICS, TARGET_OPTIONS
from pytest_h2o.gate.rule import Margins, row_bound
from pytest_h2o.gate.values import Comparison, Measured, Target, row_cell
from pytest_h2o.inputs.checking import LLM_BENCH
from pytest_h2o.report.build import count_warnings
from pytest_h2o.report.changes import explain_changes, read_comparison
from pytest_h2o.run.items import ComparisonItem, GateItem, LosslessItem, PointItem, SweepItem

if TYPE_CHECKING:
    from pytest_h2o.bench.rows import Row


NEAREST = 5
"""Rows shown beside the one that was measured."""

BEST_OF_EACH = "best of each column"
"""What the rule best-of names as the source of its margin."""

WIDTH = 100
"""Columns of a note; paths and commands stand on one line, however long."""


def explain_comparison(left: Measured, op: str, right: object) -> list[str] | None:
    """The lines that pytest shows for a failing comparison of a measured value; None for other operators."""
    if op not in (">=", "<=") or not isinstance(right, Target | float | int):
        return None
    target = right if isinstance(right, Target) else Target(left.metric, float(right), "gate file")
    relation: Literal[">=", "<="] = ">=" if op == ">=" else "<="
    comparison = Comparison(left, relation, target, left.judge(relation, target))
    if left.metric == JOINT and target.value == 0 and -math.inf < left.value < 0 and left.interval is None:
        gap = METRICS[JOINT].render_gap(-left.value)
        head = f"no row meets every target; the nearest misses by {gap}"
        if left.source == BEST_OF_EACH:
            head = f"the best of each column together do not meet every target; they miss by {gap}"
        return [head, f"target from {target.origin}; measured on {left.source}"]
    title = METRICS[left.metric].title
    return [
        f"{title} {_measured_text(comparison)} {op} {target!r}",
        f"{_margin_text(comparison)}; target from {target.origin}; measured on {left.source}",
    ]


def render_diagnosis(item: GateItem, nodeid: str, error: H2OError | None) -> str:
    """The whole diagnosis of a failed item, plain text for 80 columns or more."""
    blocks: list[tuple[str, Callable[[], list[str]]]] = [("verdict", lambda: _verdict_lines(item))]
    if isinstance(error, BenchError):
        blocks.append(("ended", lambda: _bench_lines(error)))
    if isinstance(item, SweepItem) and error is None:
        blocks.append(("rows", lambda: _row_lines(item)))
    if isinstance(item, ComparisonItem):
        blocks.append(("changes", lambda: explain_changes(read_comparison(item.to_json()))))
    if isinstance(item, LosslessItem):
        blocks.append(("scope", lambda: _scope_lines(item, error)))
    if isinstance(item, PointItem | SweepItem) and error is not None:
        blocks.append(("folder", lambda: [f"folder     {item.source.folder}"] if item.source.folder else []))
    blocks.append(("note", lambda: [line for note in item.notes for line in _wrap("note       ", note)]))
    blocks.append(("repeat", lambda: _repeat_lines(item, nodeid)))
    lines: list[str] = []
    for label, block in blocks:
        try:
            lines += block()
        except H2OError as missing:
            # What cannot be measured cannot be shown; the failure itself stands above, and must not be lost for it.
            lines += _wrap(f"{label:<11}", f"not shown: {missing.what}")
    return "\n".join(lines)


def _wrap(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )


# -- what was compared ---------------------------------------------------------------------------------------------


def _measured_text(comparison: Comparison) -> str:
    measured = comparison.measured
    if measured.interval is not None:
        return repr(measured)
    return METRICS[measured.metric].render_measured(measured.value, measured.std, comparison.target.value)


def _margin_text(comparison: Comparison) -> str:
    metric = METRICS[comparison.measured.metric]
    margin, relative = comparison.margin, comparison.relative_margin
    if margin is None:
        return "no target: reported only"
    if comparison.outcome == "inconclusive":
        interval = comparison.measured.interval
        bounded = interval is not None and (interval.low is not None or interval.high is not None)
        return "inconclusive: the interval holds the target" if bounded else "inconclusive: there is no interval"
    if not math.isfinite(margin):
        return "a value is missing or not a number, so the target is missed"
    side = "held with a margin of" if margin >= 0 else "missed by"
    of = f" of {metric.share}" if metric.made_of else ""
    if not metric.made_of and relative is not None and metric.higher_is_better:
        of = f" ({METRICS[JOINT].render_gap(abs(relative))} of the target)"
    return f"{side} {metric.render_gap(abs(margin))}{of}"


def _verdict_lines(item: GateItem) -> list[str]:
    lines: list[str] = []
    for comparison in item.comparisons:
        if isinstance(item, SweepItem) and comparison.measured.metric == JOINT:
            lines += _joint_lines(item)
            continue
        measured = comparison.measured
        lines.append(f"{item.title if isinstance(item, SweepItem) else item.name}: {METRICS[measured.metric].title}")
        lines.append(f"target     {comparison.relation} {comparison.target!r} ({comparison.target.origin})")
        lines.append(f"measured   {_measured_text(comparison)} on {measured.source}")
        if isinstance(item, SweepItem) and METRICS[measured.metric].made_of:
            lines += _speed_lines(item, measured.source)
        lines.append(f"margin     {_margin_text(comparison)}")
    if lines:
        return lines
    if isinstance(item, ComparisonItem):
        title = f"{item.subject_kind} {item.name}"
        return [f"{title}: {'not compared' if item.to_json() is None else 'worse than an earlier run'}"]
    name = f"{item.name}, {item.point.run_id}" if isinstance(item, PointItem) else item.name
    return [f"{name}: not measured, so not passed"]


def _speed_lines(item: SweepItem, run_id: str) -> list[str]:
    """The two speeds behind a slow-down; of pairs the median of each side."""
    item = item.part_of(run_id)
    metric, known = METRICS[METRICS[DROP].made_of], item.known_pairs()
    if item.is_paired:
        if known is None:
            return []
        before, after = known.median_tok_per_s("baseline"), known.median_tok_per_s("candidate")
        if before is None or after is None:
            return []
        return [
            f"decode     {metric.render(after)}, the median of its launches",
            f"baseline   {metric.render(before)}, the median of its launches: {known.baseline}",
        ]
    lines = []
    cell = next((r.decode_tok_per_s for r in item.results if r.run_id == run_id), None)
    baseline, on = item.baseline(), " with H2O on" if item.preset.bench == LLM_BENCH else ""
    if item.session.rule == "joint" and baseline is not None:
        verdict = item.rows_verdict(baseline.tok_per_s)
        mean = metric.render(baseline.tok_per_s * (1 - (verdict.drop or 0.0)))
        lines.append(f"decode     {mean}{on}, the mean of {verdict.basis}")
    elif cell is not None:
        lines.append(f"decode     {metric.render_measured(cell.mean, cell.std)}{on}")
    if baseline is not None:
        off = get_adapter(item.preset.bench).uncompressed
        lines.append(f"baseline   {metric.render(baseline.tok_per_s)} with {off} ({baseline.origin})")
    return lines


def _joint_lines(item: SweepItem) -> list[str]:
    """Every target of the joint rule, and how far the nearest row is from each."""
    item = item.whole
    verdict, best = item.joint(), item.joint().best
    head = f"{'one' if verdict.passed else 'no'} {item.one} meets every target"
    head += " at every workload" if len(item.parts) > 1 else ""
    texts = list(_joint_targets(item, best))
    lines = [f"{item.name}: {head}", *(f"{'' if n else 'targets':<10} {text}" for n, text in enumerate(texts))]
    if best is None:
        return lines
    lines.append(f"nearest    {best.run_id}")
    if len(item.parts) > 1:
        lines.append(f"           the {item.one} of this row, at the workload where it has the least to spare")
    for name, margin in best.by_metric.items():
        metric, held = METRICS[name], "held" if margin >= 0 else "missed"
        lines.append(f"           {metric.short} {held} by {METRICS[JOINT].render_gap(abs(margin))} of {metric.share}")
    return lines + (_speed_lines(item, best.run_id) if DROP in best.by_metric else [])


def _joint_targets(item: SweepItem, best: Margins | None) -> Iterator[str]:
    """Every target of the joint rule, and of which there is none."""
    asked = item.targets.asked
    for metric in METRICS.values():
        if (metric.name not in asked and metric.name not in TARGET_OPTIONS) or not metric.joint:
            continue
        target = item.targets.metric(metric.name)
        if metric.name == LOSSLESS and target.value is None:
            yield f"{metric.title} none asked for ({target.origin})"
        elif metric.name == DROP and best is not None and DROP not in best.by_metric:
            yield f"{metric.title}: {'not timed' if item.is_paired else 'left out on purpose'}"
        elif not metric.optional or (best is not None and metric.name in best.by_metric):
            yield f"{metric.title} {metric.relation} {target!r} ({target.origin})"


# -- rows of a sweep -----------------------------------------------------------------------------------------------


def _row_lines(item: SweepItem) -> list[str]:
    failed = next((c for c in item.comparisons if c.outcome in ("fail", "inconclusive")), None)
    if failed is None:
        return []
    metric = failed.measured.metric
    item = item.whole if metric == JOINT else item
    verdict = item.joint(known_only=metric != JOINT)
    margins = {row.run_id: row for row in verdict.rows}
    together = {row.run_id: joined for row, joined in zip(verdict.rows, verdict.together, strict=True)}
    results = {result.run_id: result for result in item.results}
    source = results.get(failed.measured.source.partition(", ")[0])
    lines = []
    misses_lossy = metric == JOINT and source is not None and margins[source.run_id].by_metric.get(LOSSY, 0.0) < 0
    if source is not None and (metric == LOSSY or misses_lossy):
        bound, unknown = row_bound(source), "unknown: a keep column of this row is missing"
        measured = row_cell(source, LOSSY)
        lossy = None if measured is None else measured.mean
        lines.append(f"bound      {unknown if bound is None else bound.render(item.targets.lossy.value, lossy)}")
    lines += _table_lines(item, margins, together, metric)
    lines += [f"warning    {count:,} x {kind}" for kind, count in count_warnings(item.results).most_common(4)]
    if source is not None:
        command = repeat_command(source.argv) if source.argv else None
        files = {"log": source.log_path, "config": source.config_path, "command": command}
        lines += [f"{label:<10} {text}" for label, text in files.items() if text]
    return lines


def _table_lines(
    item: SweepItem, margins: Mapping[str, Margins], together: Mapping[str, Margins], metric: str
) -> list[str]:
    """The nearest rows: the metric that failed, those that one row must meet, and which of those it misses."""
    failed = METRICS[metric]

    def rank(result: Row) -> tuple[float, ...]:
        own = margins[result.run_id]
        if metric == JOINT:
            return tuple(-margin for margin in (own if len(item.parts) == 1 else together[result.run_id]).rank)
        if metric == DROP:
            # Rows that miss the lossy target do not decide on decode while there are others.
            cell = result.decode_tok_per_s
            return (own.by_metric.get(LOSSY, 0.0) < 0, -(cell.mean if cell else 0.0))
        cell = row_cell(result, metric)
        sign = 1.0 if failed.higher_is_better == (failed.over == "every row") else -1.0
        return (math.inf if cell is None else sign * cell.mean,)

    ranked = sorted(item.results, key=rank)[:NEAREST]
    shown = {METRICS[LOSSY]: 8, METRICS[METRICS[DROP].made_of]: 8}
    for m in (METRICS[name] for name in TARGET_OPTIONS if METRICS[name].of == "row"):
        if not m.optional or any(row_cell(result, m.name) for result in ranked):
            shown.setdefault(m, max(7, len(m.head)))
    heads = [m.head for m in shown]
    if failed not in shown and failed.of == "row":
        first = metric if failed.added else failed.head
        shown, heads = {failed: max(12, len(first)), **shown}, [first, *heads]
    head = "".join(f"  {text:>{width}}" for text, width in zip(heads, shown.values(), strict=True))
    lines = ["rows       nearest first", f"{head}  {'misses':<15}  run"]
    for result in ranked:
        cells = ((m, width, row_cell(result, m.name)) for m, width in shown.items())
        figures = "".join(f"  {'missing' if c is None else m.render_bare(c.mean):>{width}}" for m, width, c in cells)
        missed = _missed(margins[result.run_id], item.is_paired)
        lines.append(f"{figures}  {missed:<15}  {result.run_id}")
    if len(item.results) > NEAREST:
        lines.append(f"  … and {len(item.results) - NEAREST} more rows")
    return lines


def _missed(margins: Margins, paired: bool) -> str:
    """The targets that a row misses; one that could hold them all and was not timed is called so."""
    return ", ".join(margins.missed) or ("not timed" if paired and DROP not in margins.by_metric else "-")


# -- what there is to say of an error ------------------------------------------------------------------------------


def _bench_lines(error: BenchError) -> list[str]:
    """How a launch ended, and the end of its output unless it ended well."""
    ended = error.signal_name or (f"exit code {error.returncode}" if error.returncode is not None else None)
    if ended is None:
        return []
    took = "" if error.elapsed_s is None else f" after {error.elapsed_s:.1f} s"
    lines = [f"ended      {ended}{took}"]
    if error.returncode != 0 and error.output_tail.strip():
        lines.append("output     (its last lines)")
        lines += [f"  | {line}" for line in error.output_tail.rstrip().splitlines()[-12:]]
    return lines


def _scope_lines(item: LosslessItem, error: H2OError | None) -> list[str]:
    lines = [f"dump       {item.session.root(item.scope).resolve()}"]
    if error is not None:
        return lines
    result = item.result
    return [
        f"K          {result.k_lossless_ratio:.4f}  ({result.k_raw_bytes:,} -> {result.k_compressed_bytes:,} bytes)",
        f"V          {result.v_lossless_ratio:.4f}  ({result.v_raw_bytes:,} -> {result.v_compressed_bytes:,} bytes)",
        *lines,
        f"codec      {result.codec_mode}, {result.entry_mode}, {result.selected_entries} entries, "
        f"layers {', '.join(map(str, result.selected_layers))}",
        *([f"skipped    {', '.join(f'{n} {why}' for why, n in result.skip_reasons.items())}"] * bool(result.skipped)),
    ]


def _repeat_lines(item: GateItem, nodeid: str) -> list[str]:
    command = ["pytest", nodeid, *item.session.settings.command_line()]
    lines = [f"repeat     {shlex.join(command)}"]
    if isinstance(item, PointItem):
        bench = item.source.command(item.point)
        lines += [f"or         {bench}"] if bench else []
    return lines


def main_figures(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of every comparison that the item made; built-in types only.

    For a metric ``M``: ``h2o.M``; ``h2o.M.std``, ``h2o.M.low`` and ``h2o.M.high`` where they are known;
    ``h2o.M.target`` where there is one; ``h2o.M.row`` and ``h2o.M.outcome``. Numbers have full precision.
    """
    figures = []
    for comparison in record["comparisons"]:
        interval = comparison.get("interval") or {}
        values = {
            "": comparison["value"],
            ".std": comparison["std"],
            ".low": interval.get("low"),
            ".high": interval.get("high"),
            ".target": comparison["target"],
            ".row": comparison["source"],
            ".outcome": comparison["outcome"],
        }
        name = f"h2o.{comparison['metric']}"
        figures += [(f"{name}{end}", str(value)) for end, value in values.items() if value is not None]
    return figures


class ItemReport(NamedTuple):
    """The end of one item."""

    text: str | None
    """What stands in place of a traceback, where the failure is an error of ours."""
    diagnosis: str | None
    """Of a failure."""
    record: str
    """For the journal: one JSON object."""
    figures: tuple[tuple[str, str], ...] = ()
    """Properties of its test case."""


def report_item(
    item: GateItem,
    nodeid: str,
    path: str,
    outcome: str,
    error: BaseException | None,
    location: tuple[str, int | None] | None = None,
) -> ItemReport:
    """Describe how an item ended."""
    ours = error if isinstance(error, H2OError) else None
    failed = outcome == "failed"
    shown = path + nodeid[nodeid.find("::") :]
    diagnosis = make_printable(render_diagnosis(item, shown, ours)) if failed else None
    record = item.record(nodeid, outcome, ours.what if ours else getattr(error, "msg", None))
    record["location"] = location
    if diagnosis is not None:
        record["diagnosis"] = f"{ours}\n\n{diagnosis}" if ours else diagnosis
    text = str(ours) if failed and ours else None
    return ItemReport(text, diagnosis, json.dumps(record, allow_nan=False), tuple(main_figures(record)))
