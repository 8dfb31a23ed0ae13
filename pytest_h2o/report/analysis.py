"""``analyze`` and ``eval``: rows and lossless results held against the targets, as one value and as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pytest_h2o.gate.rule import RowFacts, Thresholds, decide_best_of, decide_joint
from pytest_h2o.report.markdown import escape, render_table
from pytest_h2o.report.original import OriginalFacts, collect_original, lossless_ratio_of

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
) -> dict[str, Any]:
    """Both rules on the same rows, and the original's facts.

    The verdict is that of `rule` (``joint`` or ``best-of``). A baseline that is missing fails the decode threshold
    unless `decode_left_out`; a missing online result fails the lossless threshold, whatever the upper bound says.
    """
    original = collect_original(rows, thresholds, baseline_tok_per_s=baseline_tok_per_s, upper=upper, online=online)
    asked = Thresholds(thresholds.lossy, thresholds.lossless, None if decode_left_out else thresholds.decode_drop)
    facts = [_facts(row) for row in rows]
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
        "decode_left_out": decode_left_out,
        "joint": {
            "pass": joint.passed,
            "best_row": None if joint.best is None else joint.best.run_id,
            "misses": [] if joint.best is None else list(joint.best.missed),
        },
        "best_of": {"pass": best_of.passed},
        "original": asdict(original),
    }


def _facts(row: BenchRow) -> RowFacts:
    lossy, decode = row.get("h2o_lossy"), row.decode_tok_per_s
    return RowFacts(row.log_file, lossy.mean if lossy else None, decode.mean if decode else None)


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
    lines += ["", "## Gate values", "", *render_table(("value", ""), list(original.gate.items()))]
    lines += ["", "## Averages", "", *render_table(("figure", "value"), list(original.averages.items()))]
    top = [(row["total"], row["decode"], row["lossy"], row["log"]) for row in original.top]
    header = ("total ratio", "decode tok/s", "lossy", "log")
    lines += ["", "## Best rows by total ratio, then decode speed", "", *render_table(header, top)]
    return "\n".join(lines) + "\n"
