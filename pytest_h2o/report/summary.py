"""The run in one value (`build_summary`), and as Markdown (`render_summary_md`). Pure.

``overall_pass`` is true, false, ``"inconclusive"`` or ``"incomplete"``. Inconclusive: nothing failed, but pairs of
launches could not tell whether decoding is slower than allowed. Incomplete: nothing failed, but something that a
verdict needs was not asked for or not measured. Only true means that the gate held.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_h2o.report.change_summary import find_uncompared, render_changes_md, summarize_failure
from pytest_h2o.report.changes import failing_changes
from pytest_h2o.report.collector import Collector, comparison_facts, is_refused, subject_kind
from pytest_h2o.report.markdown import escape, render_list, render_table
from pytest_h2o.report.preset_facts import render_comparison, summarize_preset
from pytest_h2o.report.sections import render_sections_md

SUMMARY_VERSION = 1


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
