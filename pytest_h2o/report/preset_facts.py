"""One preset in the summary: its verdicts, the original's facts, both rules, and the ratio over the whole cache."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from pytest_h2o.bench.result import PointResult
from pytest_h2o.gate.measured import BUILT_IN, METRICS, Metric, render_interval
from pytest_h2o.gate.rule import Thresholds, decide_best_of, decide_joint
from pytest_h2o.gate.sweep_items import row_facts
from pytest_h2o.gate.totals import split_layers, whole_cache_ratio
from pytest_h2o.options import DEFAULT_TARGETS
from pytest_h2o.points import LLM_BENCH
from pytest_h2o.report.collector import Collector, comparison_facts, subject_kind
from pytest_h2o.report.original import MISSING, collect_original


def summarize_preset(collector: Collector, name: str) -> dict[str, Any]:
    """Everything the reports say of one preset."""
    items = [i for i in collector.sorted_items() if subject_kind(i) == "preset" and i["name"] == name]
    facts = collector.presets.get(name)
    results = collector.results_of(name)
    notes = list(dict.fromkeys(note for item in items if item["kind"] == "sweep" for note in item["notes"]))
    summary: dict[str, Any] = {
        "outcomes": {item["item"]: item["outcome"] for item in items},
        "verdicts": [
            render_comparison(c)
            for metric in dict.fromkeys((*BUILT_IN, *sorted(c["metric"] for i in items for c in i["comparisons"])))
            for item in items
            if item["kind"] == "sweep"
            for c in item["comparisons"]
            if c["metric"] == metric
        ],
        "rows": len(results),
        "points_failed": sum(item["kind"] == "point" and item["outcome"] == "failed" for item in items),
        "launches": len({result.shares_run_with or result.run_id for result in results}),
        "shared_runs": {r.run_id: r.shares_run_with for r in results if r.shares_run_with},
        "warnings": _warnings(results),
        "notes": notes,
        "decode": _decode(collector, name, facts),
        "original": None,
        **comparison_facts(items),
    }
    if facts is None or [result.run_id for result in results] != facts["run_ids"]:
        return summary
    facts = {**facts, **_paired_facts(collector, name)}
    deciding, upper = collector.accepted_scope(decides=True), collector.accepted_scope(decides=False)
    summary = {**summary, **_whole(facts, results, deciding, upper)}
    if facts["paired"]:
        joint = next((v["outcome"] for v in summary["verdicts"] if v["metric"] == "joint_margin"), None)
        summary["rules"]["joint"] = "NOT TIMED" if joint is None else joint.upper()
    return summary


def _paired_facts(collector: Collector, name: str) -> dict[str, Any]:
    """The baseline of a preset's pairs, for the facts that want one number."""
    if name not in collector.comparisons:
        return {}
    from pytest_h2o.gate.baseline import paired_baseline
    from pytest_h2o.gate.paired import PairedComparison

    baseline = paired_baseline(PairedComparison.from_json(collector.comparisons[name]))
    if baseline is None:
        return {}
    return {"baseline_tok_per_s": baseline.tok_per_s, "baseline_origin": baseline.origin}


def _whole(
    facts: Mapping[str, Any],
    results: list[PointResult],
    deciding: Mapping[str, Any] | None,
    upper: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What can be said only of a preset all of whose rows are there."""
    targets = facts["targets"]
    thresholds = Thresholds(**targets)
    if facts["decode_left_out"]:
        thresholds = replace(thresholds, decode_drop=None)
    baseline = facts["baseline_tok_per_s"]
    ratio = None if deciding is None else float(deciding["lossless_ratio"])
    original = collect_original(
        [result.row for result in results],
        replace(Thresholds(**targets), quality=None),
        baseline_tok_per_s=baseline,
        upper=upper,
        online=deciding,
    )
    rows = [row_facts(result) for result in results]
    joint = decide_joint(rows, thresholds, baseline_tok_per_s=baseline, lossless=ratio)
    best_of = decide_best_of(rows, thresholds, baseline_tok_per_s=baseline, lossless=ratio)
    layers = None
    if facts["model_layers"] is not None:
        coded = deciding["selected_layers"] if deciding is not None else []
        layers = split_layers(facts["model_layers"], facts["h2o_layer_start"], facts["h2o_layer_end"], coded)
    top = [
        {
            **row,
            "whole_cache": MISSING
            if layers is None
            else f"{whole_cache_ratio(layers, float(row['lossy']), ratio):.4f}",
        }
        for row in original.top
    ]
    own = facts.get("bench", LLM_BENCH) == LLM_BENCH  # the original knew no other bench
    return {
        "original": {"averages": original.averages, "top": original.top, "gate": original.gate} if own else None,
        "top": top if own else [],
        "rules": {"joint": "PASS" if joint.passed else "FAIL", "best-of": "PASS" if best_of.passed else "FAIL"},
        "baseline": {"tok_per_s": baseline, "origin": facts["baseline_origin"]},
    }


def _decode(collector: Collector, name: str, facts: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The paired verdict of a preset as figures; None where there is none."""
    if name not in collector.comparisons or facts is None:
        return None
    from pytest_h2o.gate.paired import PairedComparison

    comparison = PairedComparison.from_json(collector.comparisons[name])
    target = facts["targets"]["decode_drop"]
    verdict = asdict(comparison.judge(DEFAULT_TARGETS["decode_drop"] if target is None else target))
    shared = ("candidate", "baseline", "seed", "launches", "elapsed_s", "stopped", "is_comparable")
    return {
        **verdict,
        "excluded": list(verdict["excluded"]),
        **{key: getattr(comparison, key) for key in shared},
        "measured_again": list(comparison.measured_again),
    }


def render_comparison(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison of the journal, as figures and as texts: measured with spread or interval, target, margin."""
    metric = METRICS.get(comparison["metric"]) or Metric(**comparison["added_metric"])
    # What JSON cannot hold as a number is there as text: nan, inf.
    value, target = float(comparison["value"]), comparison["target"]
    std, margin = (None if comparison[key] is None else float(comparison[key]) for key in ("std", "margin"))
    interval = comparison["interval"]
    if interval is None:
        measured = metric.render_measured(value, std, target)
    else:
        text = "no value" if math.isnan(value) else metric.render(value)
        measured = f"{text} {render_interval(metric, interval['low'], interval['high'], interval['basis'])}"
    return {
        "metric": metric.name,
        "title": metric.title,
        "measured": measured,
        "relation": comparison["relation"],
        "target": "none" if target is None else metric.render_target(target),
        "target_origin": comparison["target_origin"],
        "margin": "none" if margin is None else ("-" if margin < 0 else "") + metric.render_gap(abs(margin)),
        "source": comparison["source"],
        "outcome": comparison["outcome"],
        "unit": comparison["unit"] or ("fraction" if metric.style != "number" else "ratio"),
        "value": comparison["value"],
        "std": comparison["std"],
        "low": None if interval is None else interval["low"],
        "high": None if interval is None else interval["high"],
        "basis": None if interval is None else interval["basis"],
        "target_value": target,
        "margin_value": comparison["margin"],
        "relative_margin": None if margin is None else _relative(metric, value, target, margin),
    }


def _relative(metric: Metric, value: float, target: float, margin: float) -> float | None:
    """A margin as a part of the target, None if that is 0; of what is a fraction already it is the margin itself."""
    if not math.isfinite(margin):
        return None
    if metric.style != "number":
        return value if metric.name == "joint_margin" else margin
    return margin / abs(target) if target else None


def _warnings(results: list[PointResult]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for result in results:
        if result.output is not None and not result.shares_run_with:
            for kind, count in result.output.warnings.items():
                counts[kind] = counts.get(kind, 0) + count
    return counts
