"""The summary of a run, from the records of all its items. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from pytest_h2o.bench.rows import Row, describe_unverified
from pytest_h2o.errors import one_line
from pytest_h2o.gate.decode import PairedComparison, pairs_key
from pytest_h2o.gate.metrics import (
    BUILT_IN,
    CODING,
    DROP,
    JOINT,
    LOSSLESS,
    METRICS,
    TARGET_OPTIONS,
    Metric,
    added_from_json,
    asked_of_json,
)
from pytest_h2o.gate.rule import decide_best_of, decide_joint, pool_drop, row_facts, why_untimed, worst_row
from pytest_h2o.gate.values import launch_ranges, row_cell, told_cell, unmade
from pytest_h2o.inputs.checking import LLM_BENCH
from pytest_h2o.inputs.options import Settings
from pytest_h2o.inputs.presets import configuration
from pytest_h2o.report.changes import failing_changes, name_earlier, read_comparison, render_change
from pytest_h2o.report.original import MISSING, collect_original, whole_cache_ratios
from pytest_h2o.report.summary import (
    BaselineSpeed,
    Comparison,
    Decode,
    Items,
    LaunchRange,
    Preset,
    Reason,
    Scope,
    Section,
    Summary,
    Unmeasured,
    Verdict,
    WorstRow,
    part_to_spare,
    unreadable,
)
from pytest_h2o.run.journal import (
    Collector,
    PointRecord,
    PresetFacts,
    ReportSection,
    SectionBlock,
    SectionTable,
    subject_kind,
)
from pytest_h2o.run.pairs import paired_baseline


def build_summary(collector: Collector, *, exit_status: int = 0) -> Summary:
    """Everything that the reports say, from the records of all items.

    An `exit_status` of pytest other than 0 is never a pass: an item may have failed without a record, as when its
    worker died. Nor is a comparison that failed in an item that was excused, by an xfail mark for example.
    """
    items = collector.sorted_items()
    presets = {
        key: preset
        for name, own in _by_subject(items, "preset").items()
        for key, preset in _with_workloads(collector, name, own).items()
    }
    scopes = {name: _scope(collector, name, own) for name, own in _by_subject(items, "scope").items()}
    counts = Items(*(sum(item["outcome"] == outcome for item in items) for outcome in ("passed", "failed", "skipped")))
    missing = [*_missing(collector, items), *find_uncompared(items, collector.settings["compare"])]
    failing = {"fail", "inconclusive"} if collector.settings["inconclusive"] == "fail" else {"fail"}
    missed = [c for item in items for c in item["comparisons"] if c["outcome"] in failing]
    missed += [change for item in items for change in failing_changes(read_comparison(item.get("comparison")))]
    inconclusive = [
        Reason(i["item"], _why(i, "inconclusive"))
        for i in items
        if i["outcome"] != "failed" and any(c["outcome"] == "inconclusive" for c in i["comparisons"])
    ]
    overall: bool | str = True
    if counts.failed or missed or exit_status:
        overall = False
    elif inconclusive or missing:
        overall = "inconclusive" if inconclusive else "incomplete"
    skipped = (i for i in items if i["outcome"] == "skipped" and i["kind"] != "comparison")
    allowed = ((name, _allowed_skips(name, scope)) for name, scope in scopes.items())
    return Summary(
        version=1,
        overall_pass=overall,
        exit_status=exit_status,
        rule=collector.settings["rule"],
        items=counts,
        failed=[
            *(Reason(i["item"], why_failed(i)) for i in items if i["outcome"] == "failed"),
            *(Reason(nodeid, why) for nodeid, why in collector.strangers.items()),
        ],
        inconclusive=inconclusive,
        left_out_on_purpose=[
            *(Reason(i["item"], str(i["reason"] or "")) for i in skipped),
            *(Reason(name, why) for name, why in allowed if why is not None),
        ],
        incomplete_for=missing,
        not_measured=sorted(collector.left_out),
        presets=presets,
        scopes=scopes,
    )


def _by_subject(items: Sequence[dict[str, Any]], kind: str) -> dict[str, list[dict[str, Any]]]:
    """The items of every preset or scope, by its name."""
    found: dict[str, list[dict[str, Any]]] = {item["name"]: [] for item in items if subject_kind(item) == kind}
    for item in items:
        if subject_kind(item) == kind:
            found[item["name"]].append(item)
    return dict(sorted(found.items()))


def _with_workloads(collector: Collector, name: str, items: Sequence[dict[str, Any]]) -> dict[str, Preset]:
    """A preset, and each of its workloads that targets were asked of: ``NAME-p512-g128``, as items are called."""
    workloads = dict.fromkeys(item["workload"] for item in items if item.get("workload"))
    points = collector.points_in_order(name)
    asked = [workload for workload in dict.fromkeys(point.workload for point in points) if workload in workloads]
    asked += sorted(workloads.keys() - set(asked))
    found = {name: replace(_preset(collector, name, items), workloads=[f"{name}-{workload}" for workload in asked])}
    for workload in asked:
        own = [item for item in items if _workload_of(collector, item) == workload]
        found[f"{name}-{workload}"] = _preset(collector, name, own, workload)
    return found


def _workload_of(collector: Collector, item: Mapping[str, Any]) -> str | None:
    """The workload of an item about one, or about a point."""
    if item["kind"] == "point":
        found = (kept.get(item["name"], {}).get(item["run_id"]) for kept in (collector.points, collector.failed))
        return next((point.workload for point in found if point is not None), None)
    return item.get("workload")


def _preset(collector: Collector, name: str, items: Sequence[Mapping[str, Any]], workload: str | None = None) -> Preset:
    """What the items say: of a workload, of a preset without any, or of one beside what its workloads say."""
    facts = collector.presets.get(name)
    results = collector.results_of(name, workload)
    sweeps = [item for item in items if item["kind"] == "sweep" and item.get("workload") == workload]
    apart = any(item.get("workload") for item in items) and workload is None
    pairs = collector.comparisons.get(pairs_key(name, workload or ""))
    verdicts = [
        make_verdict(c)
        for metric in dict.fromkeys((*BUILT_IN, *sorted(c["metric"] for i in sweeps for c in i["comparisons"])))
        for item in sweeps
        for c in item["comparisons"]
        if c["metric"] == metric
    ]
    notes = [*describe_unverified(results), *unmade(results), *(note for item in sweeps for note in item["notes"])]
    preset = Preset(
        outcomes={item["item"]: item["outcome"] for item in items},
        verdicts=verdicts,
        rows=len(results),
        points_failed=sum(item["kind"] == "point" and item["outcome"] == "failed" for item in items),
        launches=sum(len(result.launches) for result in results if not result.shares_run_with),
        shared_runs={r.run_id: r.shares_run_with for r in results if r.shares_run_with},
        warnings={} if apart else dict(count_warnings(results)),
        notes=list(dict.fromkeys([*notes, *note_margins(verdicts, collector.settings)])),
        coding=[] if facts is None or facts.coding is None or apart else worst_rows(results),
        launched=[] if apart else widest_ranges(results),
        decode=None if pairs is None or facts is None else _decode(pairs, facts),
        original=None,
        workload=workload,
        **_compared(items),
    )
    if workload is not None:
        speed = pairs.median_tok_per_s("baseline") if pairs else facts and facts.baselines.get(workload)
        return replace(preset, baseline=BaselineSpeed(speed, None)) if speed else preset
    if facts is None or tuple(result.run_id for result in results) != facts.run_ids:
        return preset
    if (baseline := paired_baseline(pairs)) is not None:  # for the facts that want one number
        facts = replace(facts, baseline_tok_per_s=baseline.tok_per_s, baseline_origin=baseline.origin)
    timed = {w: paired_baseline(collector.comparisons.get(pairs_key(name, w))) for w in facts.workloads}
    facts = replace(facts, baselines={**facts.baselines, **{w: b.tok_per_s for w, b in timed.items() if b is not None}})
    return _whole(preset, facts, collector.points_in_order(name), collector)


def note_margins(verdicts: Iterable[Verdict], settings: Settings) -> list[str]:
    """A line for each target that is held with little to spare: less than ``--h2o-margin-note`` of it."""
    given = settings.given.get("margin-note")  # a run of 0.1 knew no such setting
    lines = {}
    for v in verdicts:
        spare = part_to_spare(v) if v.outcome == "pass" and v.metric != JOINT else None
        if given and spare is not None and spare < given.value:
            held = f"{v.title} {v.measured} holds its target {v.relation} {v.target}"
            lines[v.metric, v.target] = f"{held} with {max(0.0, spare):.1%} to spare, less than {given.value:.0%}"
    return list(lines.values())


def worst_rows(rows: Sequence[Row]) -> list[WorstRow]:
    """Of each figure of lossless coding at run time that a row has, the worst row; one that lacks it is worst."""
    found = []
    rows = [launch for row in rows for launch in row.launches]
    facts = [row_facts(row, CODING) for row in rows]
    for name in CODING:
        worst = worst_row(facts, name)
        if worst is None or all(row.values[name] is None for row in facts):
            continue
        metric, row = METRICS[name], next(row for row in rows if row.run_id == worst.run_id)
        cell = row_cell(row, name)
        text = "missing" if cell is None else metric.render_measured(cell.mean, cell.std)
        value, std = (None, None) if cell is None else (cell.mean, cell.std)
        found.append(WorstRow(name, metric.title, text, value, std, row.run_id))
    return found


def widest_ranges(rows: Iterable[Row]) -> list[LaunchRange]:
    """Of each figure the point whose launches are furthest apart in it; nothing where each was launched once."""
    ranges = launch_ranges(rows)
    found = []
    for metric in METRICS.values():
        told = [(of[metric.name], run_id) for run_id, of in ranges.items() if metric.name in of]
        if told:
            (low, high), run_id = max(told, key=lambda one: one[0][1] - one[0][0])
            found.append(LaunchRange(metric.name, metric.title, low, high, run_id))
    return found


def count_warnings(rows: Iterable[Row]) -> Counter[str]:
    """How often the binary warned of what, in all runs of these rows."""
    launched = (row.output for row in rows if row.output is not None and not row.shares_run_with)
    return sum((Counter(output.warnings) for output in launched), Counter())


def _compared(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The comparison of a preset or scope with an earlier run; `not_compared` is why there is none."""
    for item in items:
        if item["kind"] == "comparison":
            return {
                "comparison": read_comparison(item["comparison"]),
                "comparison_notes": item["notes"],
                "not_compared": None if item["comparison"] else item["reason"],
            }
    return {}


def _whole(preset: Preset, facts: PresetFacts, points: list[PointRecord], collector: Collector) -> Preset:
    """What can be said only of a preset all of whose rows are there."""
    results = [point.result for point in points]
    deciding, upper = collector.accepted_scope(decides=True), collector.accepted_scope(decides=False)
    targets = asked_of_json(facts.targets, facts.metric_targets)
    asked = {name: t for name, t in targets.items() if not (name == DROP and facts.decode_left_out)}
    is_untimed = why_untimed(results, [DROP]) is not None
    baseline = None if is_untimed else facts.baseline_tok_per_s
    ratio = None if deciding is None else deciding.lossless_ratio
    online, bound = (None if found is None else found.to_json() for found in (deciding, upper))
    original = collect_original(results, targets, baseline_tok_per_s=baseline, upper=bound, online=online)
    rows = [
        row_facts(
            point.result,
            asked,
            baseline_tok_per_s=None if is_untimed else facts.baselines.get(point.workload, baseline),
            lossless=ratio,
            workload=point.workload,
            configuration=configuration(point.manifest) if facts.workloads else "",
            cell_of=told_cell,
        )
        for point in points
    ]
    joint = decide_joint(rows if facts.paired else pool_drop(rows, asked), asked)
    best_of = decide_best_of(rows, {name: t for name, t in asked.items() if not (name == DROP and is_untimed)})
    whole_cache = [MISSING] * len(original.top)
    if facts.model_layers is not None:
        layers = facts.model_layers, facts.h2o_layer_start, facts.h2o_layer_end
        whole_cache = whole_cache_ratios(original, layers, online, ratio)
    rules = {"joint": "PASS" if joint.passed else "FAIL", "best-of": "PASS" if best_of.passed else "FAIL"}
    told = next((v.outcome.upper() for v in preset.verdicts if v.metric == JOINT and v.basis), None)
    if is_untimed and DROP in asked and best_of.passed:
        rules["best-of"] = "NOT TIMED"
    if facts.paired or told is not None:
        rules["joint"] = told or "NOT TIMED"
    own = facts.bench == LLM_BENCH  # the original knew no other bench
    top = [{**row, "whole_cache": whole} for row, whole in zip(original.top, whole_cache, strict=True)]
    return replace(
        preset,
        original=original if own else None,
        top=top if own else [],
        rules=rules,
        baseline=BaselineSpeed(facts.baseline_tok_per_s, facts.baseline_origin),
    )


def _decode(pairs: PairedComparison, facts: PresetFacts) -> Decode:
    """The verdict of the pairs of a preset as figures."""
    target = facts.targets[METRICS[DROP].key]
    verdict = pairs.judge(METRICS[DROP].target or 0.0 if target is None else target)
    told = {part.name: getattr(source, part.name) for source in (pairs, verdict) for part in fields(source)}
    told |= {"launches": pairs.launches, "is_comparable": pairs.is_comparable}
    told |= {"excluded": list(verdict.excluded), "measured_again": list(pairs.measured_again)}
    return Decode(**{part.name: told[part.name] for part in fields(Decode)})


def make_verdict(comparison: Mapping[str, Any]) -> Verdict:
    """A comparison of the journal, as figures and as texts: measured with spread or interval, target, margin."""
    metric = METRICS.get(comparison["metric"]) or added_from_json(comparison["added_metric"])
    # What JSON cannot hold as a number is there as text: nan, inf.
    value, target = float(comparison["value"]), comparison["target"]
    std, margin = (None if comparison[key] is None else float(comparison[key]) for key in ("std", "margin"))
    interval = comparison["interval"] or {}
    if not interval:
        measured = metric.render_measured(value, std, target)
    else:
        text = "no value" if math.isnan(value) else metric.render(value)
        measured = f"{text} {metric.render_interval(interval['low'], interval['high'], interval['basis'])}"
    return Verdict(
        metric=metric.name,
        title=metric.title,
        measured=measured,
        relation=comparison["relation"],
        target="none" if target is None else metric.render_target(target),
        target_origin=comparison["target_origin"],
        margin=_margin_text(metric, margin),
        source=comparison["source"],
        outcome=comparison["outcome"],
        unit=comparison["unit"] or metric.unit_word,
        value=comparison["value"],
        std=comparison["std"],
        low=interval.get("low"),
        high=interval.get("high"),
        basis=interval.get("basis"),
        target_value=target,
        margin_value=comparison["margin"],
        relative_margin=None if margin is None else _relative(metric, value, target, margin),
    )


def _margin_text(metric: Metric, margin: float | None) -> str:
    if margin is None:
        return "none"
    return ("-" if margin < 0 else "") + metric.render_gap(abs(margin)) if math.isfinite(margin) else "not known"


def _relative(metric: Metric, value: float, target: float, margin: float) -> float | None:
    """A margin as a part of the target, None if that is 0; of what is a fraction already it is the margin itself."""
    if not math.isfinite(margin):
        return None
    if metric.is_fraction:
        return value if metric.name == JOINT else margin
    return margin / abs(target) if target else None


def why_failed(item: Mapping[str, Any]) -> str:
    """One line: the comparison that failed, or was inconclusive where that fails, or the error."""
    return _changed(read_comparison(item.get("comparison"))) or _why(item, "fail", "inconclusive")


def _why(item: Mapping[str, Any], *outcomes: str) -> str:
    for outcome in outcomes:
        for comparison in (c for c in item["comparisons"] if c["outcome"] == outcome):
            v = make_verdict(comparison)
            if v.metric == JOINT and v.outcome == "fail" and "pair" not in (v.basis or ""):
                return f"no row meets every target; the nearest, {v.source}, has a joint margin of {v.measured}"
            target = f"{v.relation} {v.target} ({v.target_origin})"
            word = "inconclusive: " if v.outcome == "inconclusive" else ""
            return f"{word}{v.title} {v.measured} on {v.source}, target {target}"
    return str(item["reason"] or "an assertion of the gate file failed")


def _changed(comparison: Comparison | None) -> str | None:
    """One line about a comparison that failed; None about any other."""
    failing = failing_changes(comparison)
    if comparison is None or not failing:
        return None
    more = f", and {len(failing) - 1} more figures" if len(failing) > 1 else ""
    first = f"{one_line(failing[0].row)}: {render_change(failing[0])}"
    return f"worse than {name_earlier(comparison)}: {first}{more}"


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
        f"{item['name']} not compared: {asked} has no figure of it"
        for item in made
        if set(item["comparison"]["counts"]) <= {"new"}
    ]
    found += [
        f"{', '.join(item['comparison']['unmet'])} of {item['name']} was to be compared with {asked} and cannot be"
        for item in made
        if item["comparison"]["unmet"]
    ]
    beside = {title for item in made for title in item["comparison"]["beside"]}
    gone = sorted(beside - {f"{item['subject']} {item['name']}" for item in comparisons})
    return found + ([f"baseline {asked} holds figures of {', '.join(gone)}, and this run does not"] if gone else [])


def _missing(collector: Collector, items: list[dict[str, Any]]) -> list[str]:
    """What a whole verdict needs and no item of this run gave, for every preset and scope that the run touched."""
    missing = []
    presets = sorted({item["name"] for item in items if item["kind"] in ("point", "sweep")})
    for name in presets:
        held = _held_metrics(items, "sweep", name)
        left_out = any("decode threshold is left out" in (i["reason"] or "") for i in items if i["name"] == name)
        for metric in (METRICS[target] for target in TARGET_OPTIONS):
            needed = metric.of != "scope" and not metric.optional and not (metric.name == DROP and left_out)
            needed &= metric.joint or collector.settings["demo"] is not None
            if needed and metric.name not in held:
                missing.append(f"preset {name} was not held against the {metric.short} target")
        if JOINT not in held:
            missing.append(f"preset {name} was not held against the {collector.settings['rule']} rule")
        for other in collector.presets[name].metric_targets if name in collector.presets else ():
            if other not in held:
                missing.append(f"preset {name} was not held against the target of {other}")
    if not presets:
        missing.append("no preset was held against its targets")
    deciding = {name for name, facts in collector.scopes.items() if facts.decides}
    for name in sorted(deciding):
        if LOSSLESS not in _held_metrics(items, "scope", name):
            missing.append(f"the deciding scope {name} was not held against its target")
        if not any(i["kind"] == "scope" and i["name"] == name and not i["comparisons"] for i in items):
            result = collector.scopes[name].result
            decoded = f"{result.verified_streams} of {result.encoded_streams} were decoded and compared"
            missing.append(f"no test asked whether the streams of the deciding scope {name} come back: {decoded}")
    # Presets that ask for no lossless ratio, as those of another bench, need no scope that decides.
    key = METRICS[LOSSLESS].key
    wanted = [collector.presets[name].targets[key] for name in presets if name in collector.presets]
    if not deciding and (not wanted or any(target is not None for target in wanted)):
        missing.append("the deciding scope was not evaluated")
    for name, facts in sorted(collector.scopes.items()):
        asked = facts.target is not None and name not in deciding
        if asked and LOSSLESS not in _held_metrics(items, "scope", name):
            missing.append(f"scope {name} was not held against its target")
    return [*missing, *sorted(collector.not_asked)]


def _held_metrics(items: list[dict[str, Any]], kind: str, name: str) -> set[str]:
    """Metrics of a preset or scope that were compared with a target, whatever came of it."""
    return {
        c["metric"]
        for item in items
        if item["kind"] == kind and item["name"] == name
        for c in item["comparisons"]
        if c["outcome"] != "reported"
    }


def _allowed_skips(name: str, scope: Scope | Unmeasured) -> str | None:
    """What a scope's ratio leaves out because skips were allowed."""
    if isinstance(scope, Unmeasured) or scope.refused or not (scope.skipped_entries or scope.dump_faults):
        return None
    if not scope.skipped_entries:
        return f"{name}: {unreadable(scope)}; its ratio says little (degenerate: allow, or skips were allowed)"
    return f"{name}: {unreadable(scope)}; its ratio is over the rest (skips were allowed)"


def _scope(collector: Collector, name: str, items: Sequence[Mapping[str, Any]]) -> Scope | Unmeasured:
    facts = collector.scopes.get(name)
    outcomes = {item["item"]: item["outcome"] for item in items}
    verdicts = [make_verdict(c) for item in items for c in item["comparisons"]]
    if facts is None:
        return Unmeasured(outcomes, False, [i["reason"] for i in items if i["reason"]], verdicts, **_compared(items))
    result = facts.result.to_json()
    return Scope(
        outcomes=outcomes,
        verdicts=verdicts,
        measured=True,
        refused=facts.is_refused,
        decides=facts.decides,
        target=facts.target,
        decoded_streams=result["verified_streams"],
        dump_faults=[fault.detail for fault in facts.result.faults],
        dump_gaps=facts.result.gaps(),
        notes=note_margins(verdicts, collector.settings),
        **{part.name: result[part.name] for part in fields(Scope) if part.name in result},
        **_compared(items),
    )


def build_sections(sections: Iterable[ReportSection], summary: Summary) -> tuple[list[Section], list[str]]:
    """Make every section: what the summary keeps of them, and which could not be made, and why."""
    kept: list[Section] = []
    troubles = []
    for section in sections:
        try:
            blocks = [_to_json(block) for block in section.build(summary.to_json())]
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin's own function: whatever it raises is told, SystemExit too
            why = f"the report section {section.title!r} could not be made: {type(error).__name__}: {error}"
            blocks = [{"text": why}]
            troubles.append(why)
        if blocks:
            kept.append(Section(str(section.title), blocks))
    return kept, troubles


def _to_json(block: SectionBlock) -> dict[str, Any]:
    if isinstance(block, str):
        return {"text": block}
    if isinstance(block, SectionTable):
        rows = [[str(cell) for cell in row] for row in block.rows]
        if any(len(row) != len(block.header) for row in rows):
            raise ValueError(
                f"a row of the table {block.caption!r} has not {len(block.header)} cells, as its header has"
            )
        return {"caption": block.caption, "header": [str(cell) for cell in block.header], "rows": rows}
    return {"list": [str(entry) for entry in block]}
