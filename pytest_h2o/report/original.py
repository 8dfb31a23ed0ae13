"""The facts and verdict of the original scripts, value by value, from the rows and the lossless results.

Kept so that a user who comes from there finds the same numbers. Where the original counted a missing column as 0, this
says ``missing``, and what is missing does not pass. One thing is left as it was: without a baseline these values leave
the decode threshold out and have no decode line. They are shown, and decide nothing: the verdict of the analysis and of
the gate counts a missing baseline as missed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pytest_h2o.errors import UsageError
from pytest_h2o.gate.rule import RowFacts, Thresholds, decide_best_of, decide_joint, split_layers, whole_cache_ratio
from pytest_h2o.report.markdown import escape, render_table
from pytest_h2o.report.summary import Original

if TYPE_CHECKING:
    from pytest_h2o.bench.rows import Row


MISSING = "missing"
TOP_ROWS = 5

AVERAGED: tuple[tuple[str, str, int], ...] = (
    ("Avg target keep effective", "h2o_target_keep_effective", 4),
    ("Avg floor keep (sink+recent)", "h2o_floor_keep", 4),
    ("Avg quantized keep", "h2o_quantized_keep", 4),
    ("Avg evict us", "h2o_evict_us", 2),
    ("Avg codec us", "h2o_codec_us", 2),
    ("Avg lossless raw MB", "h2o_lossless_raw_mb", 4),
    ("Avg lossless comp MB", "h2o_lossless_comp_mb", 4),
    ("Avg lossless comp us", "h2o_lossless_comp_us", 2),
    ("Avg lossless decomp us", "h2o_lossless_decomp_us", 2),
    ("Avg lossless fallback", "h2o_lossless_fallback", 2),
)
"""Title, column and decimals of the plain averages."""


def mean_of(rows: Sequence[Row], column: str) -> float | None:
    """Mean of one column over all rows; None if a row lacks it or there is no row."""
    cells = [row.get(column) for row in rows]
    values = [cell.mean for cell in cells if cell is not None]
    return sum(values) / len(values) if values and len(values) == len(cells) else None


def _text(value: float | None, decimals: int) -> str:
    return MISSING if value is None else f"{value:.{decimals}f}"


def lossless_ratio_of(result: Mapping[str, Any], where: str) -> float:
    """The ratio in a lossless result file: ``weighted_lossless_ratio``, else ``lossless_ratio``."""
    value = result.get("weighted_lossless_ratio", result.get("lossless_ratio"))
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise UsageError(
            "a lossless result has no usable ratio",
            where=where,
            came=f"weighted_lossless_ratio / lossless_ratio = {value!r}",
            expected="a number above 0",
            hint="make the file again with: pytest-h2o lossless --dump-dir DIR --out-json FILE",
        )
    return float(value)


def collect_original(
    rows: Sequence[Row],
    thresholds: Thresholds,
    *,
    baseline_tok_per_s: float | None,
    upper: Mapping[str, Any] | None,
    online: Mapping[str, Any] | None,
) -> Original:
    """Averages, the five best rows and the gate's values."""
    upper_ratio = None if upper is None else lossless_ratio_of(upper, "the upper bound")
    online_ratio = None if online is None else lossless_ratio_of(online, "the online simulation")
    runtime = mean_of(rows, "h2o_lossless")
    sources = (("offline_online_sim", online_ratio), ("offline_upper_bound", upper_ratio), ("runtime", runtime))
    source, selected = next(((name, value) for name, value in sources if value is not None), ("none", None))
    lossy = mean_of(rows, "h2o_lossy")
    averages = {
        "Rows": str(len(rows)),
        "Avg keep ratio": _text(mean_of(rows, "h2o_keep"), 4),
        "Avg lossy ratio": _text(lossy, 4),
        "Avg runtime lossless ratio": _text(runtime, 4),
        "Lossless selected source": source,
        "Lossless selected value": _text(selected, 4),
        "Offline upper-bound lossless": _text(upper_ratio, 4),
        "Offline online-sim lossless": _text(online_ratio, 4),
        "Avg total ratio (selected)": _text(None if lossy is None or selected is None else lossy * selected, 4),
        **{title: _text(mean_of(rows, column), decimals) for title, column, decimals in AVERAGED},
    }
    gate = _gate(rows, thresholds, baseline_tok_per_s, (source, selected), online_ratio)
    for name, result in (("upper", upper), ("online", online)):
        if result is not None:
            gate[f"{name}_selected_entries"] = str(result.get("selected_entries", MISSING))
            gate[f"{name}_selected_layers"] = str(result.get("selected_layers", MISSING))
    return Original(averages, _top(rows, selected), gate)


def facts_of_row(row: Row) -> RowFacts:
    """The deciding figures of a row of a file, under the name of its log."""
    lossy, decode = row.get("h2o_lossy"), row.decode_tok_per_s
    return RowFacts(row.log_file, lossy.mean if lossy else None, decode.mean if decode else None)


def _top(rows: Sequence[Row], lossless: float | None) -> list[dict[str, str]]:
    """Rows by (total ratio, decode speed) downwards; the original called this its Pareto top 5."""
    ranked = sorted(
        (row for row in map(facts_of_row, rows) if row.lossy is not None and row.decode_tok_per_s is not None),
        key=lambda row: ((row.lossy or 0.0) * (lossless or 1.0), row.decode_tok_per_s or 0.0),
        reverse=True,
    )
    return [
        {
            "total": _text(None if lossless is None else (row.lossy or 0.0) * lossless, 4),
            "decode": _text(row.decode_tok_per_s, 2),
            "lossy": _text(row.lossy, 4),
            "log": row.run_id,
        }
        for row in ranked[:TOP_ROWS]
    ]


def _gate(
    rows: Sequence[Row],
    thresholds: Thresholds,
    baseline: float | None,
    selected: tuple[str, float | None],
    online: float | None,
) -> dict[str, str]:
    if baseline is None:
        thresholds = Thresholds(thresholds.lossy, thresholds.lossless, None)
    facts = [facts_of_row(row) for row in rows]
    verdict = decide_best_of(facts, thresholds, baseline_tok_per_s=baseline, lossless=online)
    source, value = selected

    def flag(held: bool | None) -> str:
        return "true" if held else "false"

    best = verdict.lossy_best.lossy if verdict.lossy_best else None
    selected_pass = value is not None and thresholds.lossless is not None and value >= thresholds.lossless
    gate = {
        "quality_status": "PASS" if verdict.passed else "FAIL",
        "lossy_target": _text(thresholds.lossy, 4),
        "lossy_best": _text(best, 4),
        "lossy_pass": flag(verdict.lossy_pass),
        "lossless_target": _text(thresholds.lossless, 4),
        "lossless_selected_source": source,
        "lossless_selected_value": _text(value, 4),
        "lossless_selected_pass": flag(selected_pass),
        "lossless_online_value": _text(online, 4),
        "lossless_online_pass": flag(verdict.lossless_pass),
        "overall_pass": flag(verdict.passed),
    }
    if baseline is not None:
        decode = verdict.decode_best.decode_tok_per_s if verdict.decode_best else None
        gate["decode_baseline"] = _text(baseline, 4)
        gate["decode_best"] = _text(decode, 4)
        gate["decode_drop_ratio"] = _text(verdict.decode_drop, 6)
        gate["decode_drop_target"] = _text(thresholds.decode_drop, 6)
        gate["decode_pass"] = flag(verdict.decode_pass)
    return gate


ANALYSIS_VERSION = 1


def analyze_rows(
    rows: Sequence[Row],
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


def check_finite(rows: Sequence[Row], where: str) -> None:
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
    original: Original, layers: tuple[int, int, int], online: Mapping[str, Any] | None, lossless: float | None
) -> list[str]:
    """The ratio over the whole cache of each of the best rows, in their order."""
    split = split_layers(*layers, [] if online is None else online.get("selected_layers", []))
    ratios = [float(row["lossy"]) for row in original.top]
    return [f"{whole_cache_ratio(split, ratio, lossless):.4f}" if ratio > 0 else "missing" for ratio in ratios]


def render_analysis_md(analysis: Mapping[str, Any]) -> str:
    """The analysis as Markdown, the verdict first."""
    original = Original(**analysis["original"])
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
