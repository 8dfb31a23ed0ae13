"""``analyze`` and ``eval``: rows and lossless results held against the targets, as one value and as Markdown. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pytest_h2o.errors import UsageError
from pytest_h2o.gate.rule import Thresholds, decide_best_of, decide_joint
from pytest_h2o.gate.totals import split_layers, whole_cache_ratio
from pytest_h2o.report.markdown import escape, render_table
from pytest_h2o.report.original import OriginalFacts, collect_original, facts_of_row, lossless_ratio_of

if TYPE_CHECKING:
    from pytest_h2o.bench.row import BenchRow

ANALYSIS_VERSION = 1


def analyze_rows(
    rows: Sequence[BenchRow],
    thresholds: Thresholds,
    *,
    baseline_tok_per_s: float | None,
    decode_left_out: bool,
    upper: Mapping[str, Any] | None,
    online: Mapping[str, Any] | None,
    rule: str,
    notes: Sequence[str] = (),
    layers: tuple[int, int, int] | None = None,
) -> dict[str, Any]:
    """Both rules on the same rows, and the original's facts.

    The verdict is that of `rule` (``joint`` or ``best-of``). A baseline that is missing fails the decode threshold
    unless `decode_left_out`; a missing online result fails the lossless threshold, whatever the upper bound says.

    `notes` are shown as they are. `layers` are the number of layers of the model, and the first and the last one under
    eviction (-1: the last of the model); with them the best rows get a ratio over the whole cache.
    """
    original = collect_original(rows, thresholds, baseline_tok_per_s=baseline_tok_per_s, upper=upper, online=online)
    asked = Thresholds(thresholds.lossy, thresholds.lossless, None if decode_left_out else thresholds.decode_drop)
    facts = [facts_of_row(row) for row in rows]
    lossless = None if online is None else lossless_ratio_of(online, "the online simulation")
    joint = decide_joint(facts, asked, baseline_tok_per_s=baseline_tok_per_s, lossless=lossless)
    best_of = decide_best_of(facts, asked, baseline_tok_per_s=baseline_tok_per_s, lossless=lossless)
    missing = []
    if baseline_tok_per_s is None and not decode_left_out:
        missing.append(
            "no baseline: nothing says how fast decode is with H2O off (--decode-baseline TOK_PER_S, or none)"
        )
    if online is None:
        missing.append("no online simulation: an upper bound never decides (--offline-lossless-online-json FILE)")
    return {
        "version": ANALYSIS_VERSION,
        "overall_pass": (joint if rule == "joint" else best_of).passed,
        "rule": rule,
        "missing": missing,
        "notes": list(notes),
        "decode_left_out": decode_left_out,
        "joint": {
            "pass": joint.passed,
            "best_row": None if joint.best is None else joint.best.run_id,
            "misses": [] if joint.best is None else list(joint.best.missed),
        },
        "best_of": {"pass": best_of.passed},
        "original": asdict(original),
        "whole_cache": None if layers is None else _whole_cache(original, layers, online, lossless),
    }


def check_finite(rows: Sequence[BenchRow], where: str) -> None:
    """Refuse rows whose deciding figures are no numbers: UsageError for the first infinite or undefined one."""
    for row in rows:
        facts = facts_of_row(row)
        for name, value in (("h2o_lossy", facts.lossy), ("decode speed", facts.decode_tok_per_s)):
            if value is not None and not math.isfinite(value):
                raise UsageError(
                    "a row has a deciding figure that is no finite number",
                    where=f"{where}: {row.log_file}: {name}",
                    came=str(value),
                    expected="a finite number, as the bench prints it",
                )


def _whole_cache(
    original: OriginalFacts, layers: tuple[int, int, int], online: Mapping[str, Any] | None, lossless: float | None
) -> list[str]:
    """The ratio over the whole cache of each of the best rows, in their order."""
    split = split_layers(*layers, [] if online is None else online.get("selected_layers", []))
    ratios = [float(row["lossy"]) for row in original.top]
    return [f"{whole_cache_ratio(split, ratio, lossless):.4f}" if ratio > 0 else "missing" for ratio in ratios]


def render_analysis_md(analysis: Mapping[str, Any]) -> str:
    """The analysis as Markdown, the verdict first."""
    original = OriginalFacts(**analysis["original"])
    joint, best_of = analysis["joint"], analysis["best_of"]

    def word(held: bool) -> str:
        return "PASS" if held else "FAIL"

    lines = [f"# Gate: {word(analysis['overall_pass'])} (rule {analysis['rule']})", ""]
    if joint["best_row"] is not None:
        misses = f"misses {', '.join(joint['misses'])}" if joint["misses"] else "meets every target"
        lines.append(f"- joint rule: {word(joint['pass'])}; the best row {escape(joint['best_row'])} {misses}")
    lines.append(f"- original rule (best of each column): {word(best_of['pass'])}")
    if joint["pass"] != best_of["pass"]:
        lines.append("- the two rules differ: the best lossy ratio and the best decode speed are of different rows")
    lines += [f"- missing: {text}" for text in analysis["missing"]]
    if analysis["decode_left_out"]:
        lines.append("- the decode threshold is left out on purpose (--decode-baseline none)")
    lines += [f"- note: {escape(text)}" for text in analysis["notes"]]
    if analysis["whole_cache"] is None:
        lines.append("- note: no ratio over the whole cache: it needs --model-layers and the layers under eviction")
    lines += ["", "## Gate values", "", *render_table(("value", ""), list(original.gate.items()))]
    lines += ["", "## Averages", "", *render_table(("figure", "value"), list(original.averages.items()))]
    whole = analysis["whole_cache"] or ["missing"] * len(original.top)
    pairs = zip(original.top, whole, strict=True)
    top = [(row["total"], ratio, row["decode"], row["lossy"], row["log"]) for row, ratio in pairs]
    header = ("total ratio", "whole cache", "decode tok/s", "lossy", "log")
    lines += ["", "## Best rows by total ratio, then decode speed", "", *render_table(header, top)]
    return "\n".join(lines) + "\n"
