"""What a failing item says: target, measured, margin, nearest rows, what bounds them, warnings, files, how to repeat.

Pure: an item and its error in, text out.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pytest_h2o.bench.command import repeat_command
from pytest_h2o.errors import BenchError, H2OError
from pytest_h2o.gate.bounds import find_bound
from pytest_h2o.gate.item import GateItem
from pytest_h2o.gate.measured import METRICS, Comparison, Measured, Target
from pytest_h2o.gate.rule import RowFacts, RowMargins
from pytest_h2o.gate.scope_item import LosslessItem
from pytest_h2o.gate.sweep_items import PointItem, SweepItem, row_facts

if TYPE_CHECKING:
    from pytest_h2o.bench.result import PointResult

NEAREST = 5
"""Rows shown beside the one that was measured."""


def explain_comparison(left: Measured, op: str, right: object) -> list[str] | None:
    """The lines that pytest shows for a failing comparison of a measured value; None for other operators."""
    if op not in (">=", "<=") or not isinstance(right, Target | float | int):
        return None
    target = right if isinstance(right, Target) else Target(left.metric, float(right), "gate file")
    relation: Literal[">=", "<="] = ">=" if op == ">=" else "<="
    comparison = Comparison(left, relation, target, left.judge(relation, target))
    title = METRICS[left.metric].title
    return [f"{title} {left!r} {op} {target!r}", f"{_margin_text(comparison)}; measured on {left.source}"]


def _margin_text(comparison: Comparison) -> str:
    metric = METRICS[comparison.measured.metric]
    margin, relative = comparison.margin, comparison.relative_margin
    if margin is None:
        return "no target: reported only"
    if comparison.outcome == "inconclusive":
        return f"inconclusive: the interval holds the target; target from {comparison.target.origin}"
    if not math.isfinite(margin):
        return "a value is missing or not a number, so the target is missed"
    side = "held with a margin of" if margin >= 0 else "missed by"
    share = f" ({abs(relative):.2%} of the target)" if relative is not None and metric.higher_is_better else ""
    return f"{side} {metric.render(abs(margin)).lstrip('+')}{share}; target from {comparison.target.origin}"


def render_diagnosis(item: GateItem, nodeid: str, error: H2OError | None) -> str:
    """The whole diagnosis of a failed item, plain text for 80 columns or more."""
    blocks = [_verdict_lines(item)]
    if isinstance(error, BenchError):
        blocks.append(_bench_lines(error))
    if isinstance(item, SweepItem) and error is None:
        blocks.append(_row_lines(item))
    if isinstance(item, LosslessItem) and error is None:
        blocks.append(_scope_lines(item))
    blocks.append([f"note       {note}" for note in item.notes])
    blocks.append(_repeat_lines(item, nodeid))
    return "\n".join(line for block in blocks for line in block)


def _verdict_lines(item: GateItem) -> list[str]:
    lines = []
    for comparison in item.comparisons:
        metric = METRICS[comparison.measured.metric]
        lines.append(f"{item.name}: {metric.title}")
        lines.append(f"target     {comparison.relation} {comparison.target!r} ({comparison.target.origin})")
        lines.append(f"measured   {comparison.measured!r} on {comparison.measured.source}")
        lines.append(f"margin     {_margin_text(comparison).split(';')[0]}")
    return lines or [f"{item.name}: not measured, so not passed"]


def _bench_lines(error: BenchError) -> list[str]:
    lines = []
    if error.argv:
        lines.append(f"command    {repeat_command(error.argv)}")
    ended = error.signal_name or (f"exit code {error.returncode}" if error.returncode is not None else None)
    if ended:
        took = "" if error.elapsed_s is None else f" after {error.elapsed_s:.1f} s"
        lines.append(f"ended      {ended}{took}")
    if error.output_tail.strip():
        lines.append("output     (its last lines)")
        lines += [f"  | {line}" for line in error.output_tail.rstrip().splitlines()[-12:]]
    return lines


def _row_lines(item: SweepItem) -> list[str]:
    failed = next((c for c in item.comparisons if c.outcome in ("fail", "inconclusive")), None)
    if failed is None:
        return []
    results = {result.run_id: result for result in item.results}
    source = results.get(failed.measured.source)
    lines = []
    if source is not None and failed.measured.metric != "decode_drop":
        lines += _bound_lines(source, item)
    lines += _table_lines(item, list(results.values()), failed.measured.metric)
    lines += _warning_lines(list(results.values()))
    if source is not None:
        lines += _file_lines(source)
    return lines


def _bound_lines(result: PointResult, item: SweepItem) -> list[str]:
    def mean(column: str) -> float | None:
        cell = result.row.get(column)
        return cell.mean if cell else None

    bound = find_bound(mean("h2o_floor_keep"), mean("h2o_target_keep_effective"), mean("h2o_quantized_keep"))
    if bound is None:
        return ["bound      unknown: a keep column of this row is missing"]
    return [f"bound      {bound.render(item.targets.lossy.value)}"]


def _table_lines(item: SweepItem, results: Sequence[PointResult], metric: str) -> list[str]:
    facts = [row_facts(result) for result in results]
    margins = {m.run_id: m for m in item.joint().rows} if item.session.rule == "joint" else {}
    paired = item.session.is_paired(item.preset)

    def rank(row: RowFacts) -> float:
        if metric == "h2o_lossy":
            return -(row.lossy or 0.0)
        if metric == "joint_margin":
            return -margins[row.run_id].smallest
        return -(row.decode_tok_per_s or 0.0)

    lines = ["rows       nearest first", f"  {'lossy':>8}  {'decode':>8}  {'misses':<15}  run"]
    for row in sorted(facts, key=rank)[:NEAREST]:
        missed = _missed(margins[row.run_id], paired) if margins else ""
        lossy = "missing" if row.lossy is None else f"{row.lossy:.3f}"
        decode = "missing" if row.decode_tok_per_s is None else f"{row.decode_tok_per_s:.2f}"
        lines.append(f"  {lossy:>8}  {decode:>8}  {missed:<15}  {row.run_id}")
    if len(facts) > NEAREST:
        lines.append(f"  … and {len(facts) - NEAREST} more rows")
    return lines


def _missed(margins: RowMargins, paired: bool) -> str:
    """The targets that a row misses; one that could hold them all and was not timed is called so."""
    return ", ".join(margins.missed) or ("not timed" if paired and margins.decode is None else "-")


def _warning_lines(results: Sequence[PointResult]) -> list[str]:
    counts: Counter[str] = Counter()
    for result in results:
        if result.output is not None and not result.shares_run_with:
            counts.update(result.output.warnings)
    return [f"warning    {count:,} x {kind}" for kind, count in counts.most_common(4)]


def _file_lines(result: PointResult) -> list[str]:
    lines = [f"log        {result.log_path}"]
    if result.config_path:
        lines.append(f"config     {result.config_path}")
    if result.argv:
        lines.append(f"command    {repeat_command(result.argv)}")
    return lines


def _scope_lines(item: LosslessItem) -> list[str]:
    result = item.result
    lines = [
        f"K          {result.k_lossless_ratio:.4f}  ({result.k_raw_bytes:,} -> {result.k_compressed_bytes:,} bytes)",
        f"V          {result.v_lossless_ratio:.4f}  ({result.v_raw_bytes:,} -> {result.v_compressed_bytes:,} bytes)",
        f"dump       {item.session.scope_root(item.scope).resolve()}",
        f"codec      {item.scope.codec_mode}, {item.scope.entry_mode}, {result.selected_entries} entries, "
        f"layers {', '.join(map(str, result.selected_layers))}",
    ]
    skipped = sum(result.skip_reasons.values())
    if skipped:
        lines.append(f"skipped    {skipped}: {', '.join(f'{n} {why}' for why, n in result.skip_reasons.items())}")
    return lines


def _repeat_lines(item: GateItem, nodeid: str) -> list[str]:
    command = ["pytest", nodeid, *item.session.settings.command_line()]
    lines = [f"repeat     {shlex.join(command)}"]
    if isinstance(item, PointItem):
        bench = item.session.bench_command(item.preset, item.point)
        lines += [f"           {bench}"] if bench else []
    return lines
