"""The run in one value (`build_summary`), and as Markdown (`render_summary_md`). Pure.

``overall_pass`` is true, false, ``"inconclusive"`` or ``"incomplete"``. Inconclusive: nothing failed, but pairs of
launches could not tell whether decoding is slower than allowed. Incomplete: nothing failed, but something that a
verdict needs was not asked for or not measured. Only true means that the gate held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from pytest_h2o.bench.rows import Row
from pytest_h2o.errors import one_line
from pytest_h2o.gate.rule import Thresholds, decide_best_of, decide_joint, split_layers, whole_cache_ratio
from pytest_h2o.gate.values import BUILT_IN, METRICS, Metric, render_interval
from pytest_h2o.inputs.checking import LLM_BENCH
from pytest_h2o.inputs.options import DEFAULT_TARGETS
from pytest_h2o.report.changes import (
    SHOWN,
    TABLE_HEADER,
    failing_changes,
    name_earlier,
    render_change,
    render_counts,
    table_rows,
)
from pytest_h2o.report.document import escape, render_list, render_sections_md, render_table
from pytest_h2o.report.original import MISSING, collect_original
from pytest_h2o.run.items import row_facts
from pytest_h2o.run.journal import SUMMARY_VERSION, Collector, comparison_facts, is_refused, subject_kind


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
    from pytest_h2o.gate.decode import PairedComparison
    from pytest_h2o.run.launching import paired_baseline

    baseline = paired_baseline(PairedComparison.from_json(collector.comparisons[name]))
    if baseline is None:
        return {}
    return {"baseline_tok_per_s": baseline.tok_per_s, "baseline_origin": baseline.origin}


def _whole(
    facts: Mapping[str, Any],
    results: list[Row],
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
        results,
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
    from pytest_h2o.gate.decode import PairedComparison

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


def _warnings(results: list[Row]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for result in results:
        if result.output is not None and not result.shares_run_with:
            for kind, count in result.output.warnings.items():
                counts[kind] = counts.get(kind, 0) + count
    return counts


def find_uncompared(items: Sequence[Mapping[str, Any]], asked: str | None) -> list[str]:
    """What was to be held against an earlier run and was not, from the records of all items."""
    if asked is None:
        return []
    comparisons = [item for item in items if item["kind"] == "comparison"]
    if not comparisons:
        return [f"nothing was compared with {asked}: no item of test_no_regression ran"]
    reasons: dict[str, list[str]] = {}
    for item in comparisons:
        if item["outcome"] == "skipped":
            reasons.setdefault(str(item["reason"]), []).append(item["name"])
    found = [f"{', '.join(names)} not compared: {reason}" for reason, names in reasons.items()]
    made = [item for item in comparisons if item["comparison"]]
    found += [
        f"{', '.join(item['comparison']['unmet'])} of {item['name']} was to be compared with {asked} and cannot be"
        for item in made
        if item["comparison"]["unmet"]
    ]
    beside = {title for item in made for title in item["comparison"]["beside"]}
    gone = sorted(beside - {f"{item['subject']} {item['name']}" for item in comparisons})
    return found + ([f"baseline {asked} holds figures of {', '.join(gone)}, and this run does not"] if gone else [])


def summarize_failure(comparison: Mapping[str, Any] | None) -> str | None:
    """One line about a comparison that failed; None about any other."""
    failing = failing_changes(comparison)
    if comparison is None or not failing:
        return None
    more = f", and {len(failing) - 1} more figures" if len(failing) > 1 else ""
    first = f"{one_line(failing[0]['row'])}: {render_change(failing[0])}"
    return f"worse than {name_earlier(comparison)}: {first}{more}"


def render_changes_md(subjects: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The changes of all presets and scopes as Markdown; nothing where nothing was to be compared."""
    lines = [f"- {escape(name)}: {escape(s['not_compared'])}" for name, s in subjects.items() if s["not_compared"]]
    rows: list[Sequence[str]] = []
    for name, subject in subjects.items():
        comparison = subject["comparison"]
        if comparison is None:
            continue
        counts = escape(render_counts(comparison["counts"]))
        lines.append(f"- {escape(name)} against {escape(name_earlier(comparison))}: {counts}")
        lines += [f"  - {escape(note)}" for note in subject["comparison_notes"]]
        rows += table_rows(name, comparison["changes"][:SHOWN])
        if len(comparison["changes"]) > SHOWN:
            rows.append((name, "…", f"{len(comparison['changes']) - SHOWN} more", "", "", "", ""))
    table = ["", *render_table(TABLE_HEADER, rows)] if rows else []
    return ["", "## Change against an earlier run", "", *lines, *table] if lines else []


def build_summary(collector: Collector, *, exit_status: int = 0) -> dict[str, Any]:
    """Everything that the reports say, from the records of all items; built-in types only.

    An `exit_status` of pytest other than 0 is never a pass: an item may have failed without a record, as when its
    worker died. Nor is a comparison that failed in an item that was excused, by an xfail mark for example.
    """
    items = collector.sorted_items()
    presets = {
        name: summarize_preset(collector, name)
        for name in sorted({item["name"] for item in items if subject_kind(item) == "preset"})
    }
    scopes = {
        name: _summarize_scope(collector, name)
        for name in sorted({item["name"] for item in items if subject_kind(item) == "scope"})
    }
    counts = {outcome: sum(item["outcome"] == outcome for item in items) for outcome in ("passed", "failed", "skipped")}
    missing = [*_missing(collector, items), *find_uncompared(items, collector.settings["compare"])]
    failing = {"fail", "inconclusive"} if collector.settings["inconclusive"] == "fail" else {"fail"}
    missed = [c for item in items for c in item["comparisons"] if c["outcome"] in failing]
    missed += [change for item in items for change in failing_changes(item.get("comparison"))]
    inconclusive = [
        {"item": i["item"], "why": _why(i, "inconclusive")}
        for i in items
        if i["outcome"] != "failed" and any(c["outcome"] == "inconclusive" for c in i["comparisons"])
    ]
    overall: bool | str = True
    if counts["failed"] or missed or exit_status:
        overall = False
    elif inconclusive or missing:
        overall = "inconclusive" if inconclusive else "incomplete"
    return {
        "version": SUMMARY_VERSION,
        "overall_pass": overall,
        "exit_status": exit_status,
        "rule": collector.settings["rule"],
        "items": counts,
        "failed": [{"item": i["item"], "why": why_failed(i)} for i in items if i["outcome"] == "failed"],
        "inconclusive": inconclusive,
        "left_out_on_purpose": [
            *(
                {"item": i["item"], "why": i["reason"]}
                for i in items
                if i["outcome"] == "skipped" and i["kind"] != "comparison"
            ),
            *({"item": name, "why": why} for name, scope in scopes.items() if (why := _allowed_skips(name, scope))),
        ],
        "incomplete_for": missing,
        "not_measured": sorted(collector.left_out),
        "presets": presets,
        "scopes": scopes,
    }


def why_failed(item: Mapping[str, Any]) -> str:
    """One line: the comparison that failed, or was inconclusive where that fails, or the error."""
    return summarize_failure(item.get("comparison")) or _why(item, "fail", "inconclusive")


def _why(item: Mapping[str, Any], *outcomes: str) -> str:
    for comparison in item["comparisons"]:
        if comparison["outcome"] in outcomes:
            v = render_comparison(comparison)
            if v["metric"] == "joint_margin" and comparison["interval"] is None:
                return f"no row meets every target; the nearest, {v['source']}, has a joint margin of {v['measured']}"
            target = f"{v['relation']} {v['target']} ({v['target_origin']})"
            word = "inconclusive: " if v["outcome"] == "inconclusive" else ""
            return f"{word}{v['title']} {v['measured']} on {v['source']}, target {target}"
    return str(item["reason"] or "an assertion of the gate file failed")


def _missing(collector: Collector, items: list[dict[str, Any]]) -> list[str]:
    """What a whole verdict needs and no item of this run gave, for every preset and scope that the run touched."""
    missing = []
    presets = sorted({item["name"] for item in items if item["kind"] in ("point", "sweep")})
    for name in presets:
        held = _held_metrics(items, "sweep", name)
        left_out = any("decode threshold is left out" in (i["reason"] or "") for i in items if i["name"] == name)
        for metric, target in (
            ("h2o_lossy", "the lossy target"),
            ("decode_drop", "the decode target"),
            ("joint_margin", f"the {collector.settings['rule']} rule"),
        ):
            if metric not in held and not (metric == "decode_drop" and left_out):
                missing.append(f"preset {name} was not held against {target}")
        for metric in collector.presets.get(name, {}).get("metric_targets", {}):
            if metric not in held:
                missing.append(f"preset {name} was not held against the target of {metric}")
    if not presets:
        missing.append("no preset was held against its targets")
    deciding = {name for name, facts in collector.scopes.items() if facts["decides"]}
    for name in sorted(deciding):
        if "lossless_ratio" not in _held_metrics(items, "scope", name):
            missing.append(f"the deciding scope {name} was not held against its target")
        if not any(i["kind"] == "scope" and i["name"] == name and not i["comparisons"] for i in items):
            missing.append(f"the streams of the deciding scope {name} were not decoded and compared")
    # Presets that ask for no lossless ratio, as those of another bench, need no scope that decides.
    wanted = [collector.presets[name]["targets"]["lossless"] for name in presets if name in collector.presets]
    if not deciding and (not wanted or any(target is not None for target in wanted)):
        missing.append("the deciding scope was not evaluated")
    for name, facts in sorted(collector.scopes.items()):
        asked = facts["target"] is not None and name not in deciding
        if asked and "lossless_ratio" not in _held_metrics(items, "scope", name):
            missing.append(f"scope {name} was not held against its target")
    return missing


def _held_metrics(items: list[dict[str, Any]], kind: str, name: str) -> set[str]:
    """Metrics of a preset or scope that were compared with a target, whatever came of it."""
    return {
        c["metric"]
        for item in items
        if item["kind"] == kind and item["name"] == name
        for c in item["comparisons"]
        if c["outcome"] != "reported"
    }


def _allowed_skips(name: str, scope: Mapping[str, Any]) -> str | None:
    """What a scope's ratio leaves out because skips were allowed."""
    if not scope["measured"] or scope["refused"] or not scope["skipped_entries"]:
        return None
    return f"{name}: {_unreadable(scope)}; its ratio is over the rest (skips were allowed)"


def _unreadable(scope: Mapping[str, Any]) -> str:
    total = scope["selected_entries"] + scope["skipped_entries"]
    reasons = ", ".join(f"{count} {reason}" for reason, count in scope["skip_reasons"].items())
    return f"{scope['skipped_entries']} of {total} entries cannot be read ({reasons})"


def _summarize_scope(collector: Collector, name: str) -> dict[str, Any]:
    facts = collector.scopes.get(name)
    items = [i for i in collector.sorted_items() if subject_kind(i) == "scope" and i["name"] == name]
    outcomes = {item["item"]: item["outcome"] for item in items}
    compared = comparison_facts(items)
    verdicts = [render_comparison(c) for item in items for c in item["comparisons"]]
    if facts is None:
        reasons = [i["reason"] for i in items if i["reason"]]
        return {"outcomes": outcomes, "measured": False, "reasons": reasons, "verdicts": verdicts, **compared}
    result = facts["result"]
    shared = ("lossless_ratio", "k_lossless_ratio", "v_lossless_ratio", "raw_bytes", "compressed_bytes")
    return {
        "outcomes": outcomes,
        "verdicts": verdicts,
        "measured": True,
        "refused": is_refused(facts),
        "decides": facts["decides"],
        "target": facts["target"],
        "codec_mode": result["codec_mode"],
        "entry_mode": result["entry_mode"],
        "selected_entries": result["selected_entries"],
        "selected_layers": result["selected_layers"],
        "skipped_entries": result["skipped_entries"],
        "skip_reasons": result["skip_reasons"],
        "decoded_streams": result["verified_streams"],
        **{key: result[key] for key in shared},
        **compared,
    }


def overall_outcome(outcomes: Mapping[str, str]) -> str:
    """The outcome of a preset or scope: ``failed`` if one item failed, else ``passed`` if one passed."""
    return next((outcome for outcome in ("failed", "passed") if outcome in outcomes.values()), "skipped")


def count_rows(preset: Mapping[str, Any]) -> str:
    """How many rows, of how many runs, and how many are missing."""
    rows, launches, failed = preset["rows"], preset["launches"], preset["points_failed"]
    words = [f"{rows} row{'s' * (rows != 1)} of {launches} run{'s' * (launches != 1)}" if rows else "no row"]
    return ", ".join([*words, f"{failed} point{'s' * (failed != 1)} without a sound row"] if failed else words)


def render_verdict(overall: bool | str) -> str:
    """``PASS``, ``FAIL``, ``INCONCLUSIVE`` or ``INCOMPLETE``."""
    if isinstance(overall, bool):
        return "PASS" if overall else "FAIL"
    return overall.upper()


def render_summary_md(summary: Mapping[str, Any]) -> str:
    """The summary as Markdown, the verdict first."""
    lines = [f"# KV-cache compression gate: {render_verdict(summary['overall_pass'])}", ""]
    counts = summary["items"]
    lines.append(
        f"{counts['passed']} items passed, {counts['failed']} failed, {counts['skipped']} skipped; "
        f"rule: {summary['rule']}."
    )
    lines += render_list("Failed", [f"{f['item']}: {f['why']}" for f in summary["failed"]])
    lines += render_list("Inconclusive: no pass", [f"{f['item']}: {f['why']}" for f in summary["inconclusive"]])
    lines += render_list("Not complete", summary["incomplete_for"])
    lines += render_list("Left out on purpose", [f"{f['item']}: {f['why']}" for f in summary["left_out_on_purpose"]])
    lines += render_list("Not measured (not asked for)", summary["not_measured"])
    for name, preset in summary["presets"].items():
        lines += _preset_md(name, preset)
    if summary["scopes"]:
        lines += _scopes_md(summary["scopes"])
    lines += render_changes_md({**summary["presets"], **summary["scopes"]})
    lines += render_sections_md(summary)
    return "\n".join(lines) + "\n"


def _sharers(preset: Mapping[str, Any]) -> dict[str, list[str]]:
    """Run -> the points that share its row."""
    found: dict[str, list[str]] = {}
    for point, run in preset["shared_runs"].items():
        found.setdefault(run, []).append(point)
    return found


def _preset_md(name: str, preset: Mapping[str, Any]) -> list[str]:
    lines = ["", f"## Preset {name}", "", f"{count_rows(preset)}.", ""]
    if preset["verdicts"]:
        rows = [
            (v["title"], v["measured"], f"{v['relation']} {v['target']}", v["margin"], v["source"], v["outcome"])
            for v in preset["verdicts"]
        ]
        lines += [*render_table(("threshold", "measured", "target", "margin", "row", "outcome"), rows), ""]
    lines += [f"- {escape(note)}" for note in preset["notes"]]
    lines += [f"- share the run of {run}: {', '.join(rows)}" for run, rows in _sharers(preset).items()]
    if preset["original"] is not None:
        averages = list(preset["original"]["averages"].items())
        lines += ["", *render_table(("figure", "value"), averages)]
        top = [(t["total"], t["whole_cache"], t["decode"], t["lossy"], t["log"]) for t in preset["top"]]
        header = ("total (product)", "whole cache", "decode tok/s", "lossy", "log")
        lines += ["", "Best rows by total ratio, then decode speed:", "", *render_table(header, top)]
        rules = preset["rules"]
        lines += [
            "",
            f"Original rule (best of each column): {rules['best-of']}. Joint rule (one row): {rules['joint']}.",
        ]
    return lines


def _scopes_md(scopes: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, scope in scopes.items():
        outcome = overall_outcome(scope["outcomes"])
        if not scope["measured"]:
            rows.append((name, "not measured", "", "", "", "", outcome))
            continue
        if scope["refused"]:
            rows.append((name, f"none: {_unreadable(scope)}", "", "", "", "", outcome))
            continue
        target = "reported" if scope["target"] is None else f">= {scope['target']:.4f}"
        rows.append(
            (
                f"{name} (decides)" if scope["decides"] else name,
                f"{scope['lossless_ratio']:.4f}",
                f"{scope['k_lossless_ratio']:.4f} / {scope['v_lossless_ratio']:.4f}",
                target,
                f"{scope['selected_entries']}"
                + (f" ({scope['skipped_entries']} skipped)" if scope["skipped_entries"] else ""),
                str(scope["decoded_streams"]),
                outcome,
            )
        )
    header = ("scope", "lossless ratio", "K / V", "target", "entries", "streams decoded", "outcome")
    return ["", "## KV dumps", "", *render_table(header, rows)]


SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class NumberField(NamedTuple):
    """A number of an artifact."""

    path: str
    unit: str
    origin: str
    whole: bool = False


def _fields(text: str) -> tuple[NumberField, ...]:
    rows = (line.split(" | ") for line in text.strip().splitlines())
    return tuple(NumberField(path, unit.rstrip("#"), origin, unit.endswith("#")) for path, unit, origin in rows)


_VERDICT = """
{at}value | as `unit` says | row, run or scope in `source`; of a row, its cell in the log of that run id
{at}std | as `unit` says | over the repeats of that run, as the bench printed it
{at}low | as `unit` says | interval of the pairs, as `basis` says
{at}high | as `unit` says | interval of the pairs, as `basis` says
{at}target_value | as `unit` says | `target_origin`
{at}margin_value | as `unit` says | value and target
{at}relative_margin | fraction of the target, or of the baseline speed | value and target
"""

_COMPARISON = """
{at}counts.<state> | figures# | this run against the earlier one
{at}changes[].then | unit of the metric, in figures.json | the earlier run in `run`
{at}changes[].now | unit of the metric, in figures.json | row in `row`
{at}changes[].percent | percent of `then` | then and now
{at}changes[].allowed_percent | percent of `then` | --h2o-compare-fail
{at}headlines[].then | unit of the metric, in figures.json | the earlier run in `run`
{at}headlines[].now | unit of the metric, in figures.json | row in `row`
{at}headlines[].percent | percent of `then` | then and now
{at}headlines[].allowed_percent | percent of `then` | --h2o-compare-fail
"""

SUMMARY_NUMBERS = _fields(
    """
version | number of the format# | this version of pytest-h2o
exit_status | exit status# | pytest
items.passed | items# | the journal
items.failed | items# | the journal
items.skipped | items# | the journal
presets.<preset>.rows | rows# | the journal, data.points
presets.<preset>.points_failed | points# | the journal
presets.<preset>.launches | launches# | the journal, data.points
presets.<preset>.warnings.<kind> | lines# | logs/<run_id>.stdout.txt of all runs
presets.<preset>.decode.drop | fraction of the baseline speed | decode/pairs.json
presets.<preset>.decode.low | fraction of the baseline speed | decode/pairs.json
presets.<preset>.decode.high | fraction of the baseline speed | decode/pairs.json
presets.<preset>.decode.pairs | pairs# | decode/pairs.json
presets.<preset>.decode.target | fraction of the baseline speed | targets of the preset
presets.<preset>.decode.confidence | probability | the method
presets.<preset>.decode.needed_pairs | pairs# | an estimate from decode/pairs.json
presets.<preset>.decode.planned_pairs | pairs# | --h2o-decode-budget or the preset
presets.<preset>.decode.seed | none# | drawn before the first pair
presets.<preset>.decode.launches | launches# | decode/pairs.json
presets.<preset>.decode.elapsed_s | s | decode/pairs.json
presets.<preset>.baseline.tok_per_s | tok/s | `origin` beside it
scopes.<scope>.target | ratio | the scope, or --h2o-lossless-target
scopes.<scope>.selected_entries | entries# | the dump
history[].runs[].value | as `unit` says | figures of the run in `run`, history.jsonl
history[].baseline.value | as `unit` says | figures of the baseline or run in `name`
history[].low | as `unit` says | as `band` says
history[].high | as `unit` says | as `band` says
scopes.<scope>.selected_layers[] | number of a layer# | the dump
scopes.<scope>.skipped_entries | entries# | the dump
scopes.<scope>.skip_reasons.<reason> | entries# | the dump
scopes.<scope>.decoded_streams | streams# | offline_lossless_<scope>.json
scopes.<scope>.lossless_ratio | ratio | offline_lossless_<scope>.json
scopes.<scope>.k_lossless_ratio | ratio | offline_lossless_<scope>.json
scopes.<scope>.v_lossless_ratio | ratio | offline_lossless_<scope>.json
scopes.<scope>.raw_bytes | bytes# | offline_lossless_<scope>.json
scopes.<scope>.compressed_bytes | bytes# | offline_lossless_<scope>.json
"""
    + "".join(
        part.strip().format(at=f"{of}.{name}") + "\n"
        for of in ("presets.<preset>", "scopes.<scope>")
        for part, name in ((_VERDICT, "verdicts[]."), (_COMPARISON, "comparison."))
    )
)

_PAIR_SIDES = "\n".join(
    f"data.comparisons.<preset>.pairs[].{side}.decode_tok_per_s | tok/s | decode/logs of its run id\n"
    f"data.comparisons.<preset>.pairs[].{side}.elapsed_s | s | its launch"
    for side in ("baseline", "candidate")
)

JOURNAL_NUMBERS = _fields(
    f"""
version | number of the format# | this version of pytest-h2o
settings.<option>.value | as the option says | `origin` beside it
location[] | line of the file in the same list, from 0# | pytest
duration_s | s | pytest
comparisons[].value | as `unit` says | row, run or scope in `source`
comparisons[].std | as `unit` says | over the repeats of that run, as the bench printed it
comparisons[].target | as `unit` says | `target_origin`
comparisons[].margin | as `unit` says | value and target
comparisons[].interval.low | as `unit` says | data.comparisons, as `basis` says
comparisons[].interval.high | as `unit` says | data.comparisons, as `basis` says
{_COMPARISON.strip().format(at="comparison.")}
data.points[].index | place in the sweep, from 1# | the preset
data.points[].manifest.<field> | that of the preset key: tokens, ratio or number | the preset
data.points[].result.repeat | repeats# | the preset
data.points[].result.output.warnings.<kind> | lines# | stdout_path
data.points[].result.output.max_kv_len | tokens# | stdout_path
data.points[].result.returncode | exit status# | its launch
data.points[].result.elapsed_s | s | its launch
data.failed[].index | place in the sweep, from 1# | the preset
data.failed[].manifest.<field> | that of the preset key: tokens, ratio or number | the preset
data.failed[].return_code | exit status# | its launch
data.scopes.<scope>.target | ratio | the scope, or --h2o-lossless-target
data.scopes.<scope>.result.<field> | docs/artifacts.md, offline_lossless_<scope>.json | the dump and the scope
data.presets.<preset>.model_layers | layers# | base config, preset or --h2o-set
data.presets.<preset>.h2o_layer_start | number of a layer# | the preset
data.presets.<preset>.h2o_layer_end | number of a layer# | the preset
data.presets.<preset>.targets.lossy | ratio | option, preset, ini key or default
data.presets.<preset>.targets.lossless | ratio | option, scope, preset, ini key or default
data.presets.<preset>.targets.decode_drop | fraction of the baseline speed | option, preset, ini key or default
data.presets.<preset>.baseline_tok_per_s | tok/s | `baseline_origin`
data.comparisons.<preset>.version | number of the format# | this version of pytest-h2o
data.comparisons.<preset>.seed | none# | drawn before the first pair
data.comparisons.<preset>.planned_pairs | pairs# | --h2o-decode-budget or the preset
data.comparisons.<preset>.elapsed_s | s | its launches
{_PAIR_SIDES}
"""
)

_REQUIRED = {
    "summary": ("version", "overall_pass", "exit_status", "rule", "items", "failed", "presets", "scopes"),
    "journal": ("version", "item", "kind", "name", "outcome", "comparisons", "duration_s"),
}


def make_schema(artifact: str) -> dict[str, Any]:
    """The JSON schema of ``summary`` (the file) or ``journal`` (one line of it), every number with `unit` and `from`.

    It is open: other fields may be there, as a later version adds some.
    """
    numbers = SUMMARY_NUMBERS if artifact == "summary" else JOURNAL_NUMBERS
    root: dict[str, Any] = {"$schema": SCHEMA_DIALECT, "type": "object", "required": list(_REQUIRED[artifact])}
    for field in numbers:
        node = root
        for step in _steps(field.path):
            node = _child(node, step)
        node.update({"unit": field.unit, "from": field.origin})
        if "<" not in field.path.rpartition(".")[2] and not field.path.startswith("settings."):
            # What is not finite stands as text; and a place is a file and a line.
            text = [] if field.whole and not field.path.endswith("location[]") else ["string"]
            node["type"] = ["integer" if field.whole else "number", *text, "null"]
    root["properties"]["version"]["const"] = 1
    return root


def _steps(path: str) -> Iterator[str]:
    for part in path.split("."):
        yield part.removesuffix("[]")
        if part.endswith("[]"):
            yield "[]"


def _child(node: dict[str, Any], step: str) -> dict[str, Any]:
    if step == "[]":
        node["type"] = ["array", "null"]
        child = node.setdefault("items", {})
    elif step.startswith("<"):
        node["type"] = ["object", "null"]
        child = node.setdefault("additionalProperties", {})
    else:
        node.setdefault("type", ["object", "null"])
        child = node.setdefault("properties", {}).setdefault(step, {})
    found: dict[str, Any] = child
    return found
