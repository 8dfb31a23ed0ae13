"""The facts and verdict of the original scripts, value by value, from the rows and the lossless results.

Kept so that a user who comes from there finds the same numbers. Where the original counted a missing column as 0, this
says ``missing``, and what is missing does not pass. One thing is left as it was: without a baseline these values leave
the decode threshold out and have no decode line. They are shown, and decide nothing: the verdict of the analysis and of
the gate counts a missing baseline as missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pytest_h2o.errors import UsageError
from pytest_h2o.gate.metrics import DROP, LOSSLESS, LOSSY, METRICS, Metric
from pytest_h2o.gate.rule import (
    JointVerdict,
    Margins,
    RowFacts,
    best_row,
    check_speed,
    decide_best_of,
    decide_joint,
    eligible_rows,
    judge_speeds,
    row_facts,
    split_layers,
    whole_cache_ratio,
    why_untimed,
)
from pytest_h2o.report.changes import render_markdown
from pytest_h2o.report.summary import Original

if TYPE_CHECKING:
    from pytest_h2o.bench.rows import Row
    from pytest_h2o.gate.decode import DecodeVerdict


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
    asked: Mapping[str, float],
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
    gate = _gate(rows, asked, baseline_tok_per_s, (source, selected), online_ratio)
    for name, result in (("upper", upper), ("online", online)):
        if result is not None:
            gate[f"{name}_selected_entries"] = str(result.get("selected_entries", MISSING))
            gate[f"{name}_selected_layers"] = str(result.get("selected_layers", MISSING))
    return Original(averages, _top(rows, selected), gate)


def _top(rows: Sequence[Row], lossless: float | None) -> list[dict[str, str]]:
    """Rows by (total ratio, decode speed) downwards; the original called this its Pareto top 5."""
    measured = [
        (lossy.mean, decode.mean, row.log_file)
        for row in rows
        if (lossy := row.get(LOSSY)) is not None and (decode := row.decode_tok_per_s) is not None
    ]
    measured.sort(key=lambda figures: (figures[0] * (lossless or 1.0), figures[1]), reverse=True)
    return [
        {
            "total": _text(None if lossless is None else lossy * lossless, 4),
            "decode": _text(decode, 2),
            "lossy": _text(lossy, 4),
            "log": log,
        }
        for lossy, decode, log in measured[:TOP_ROWS]
    ]


def _gate(
    rows: Sequence[Row],
    asked: Mapping[str, float],
    baseline: float | None,
    selected: tuple[str, float | None],
    online: float | None,
) -> dict[str, str]:
    asked = {name: asked[name] for name in (LOSSY, LOSSLESS, DROP) if name in asked}
    if baseline is None:
        asked.pop(DROP, None)
    speed = METRICS[DROP].made_of
    facts = [row_facts(r, (LOSSY,), baseline_tok_per_s=baseline, lossless=online) for r in rows]
    verdict = decide_best_of(facts, asked)
    source, value = selected

    def best(metric: str) -> float | None:
        row = best_row(facts, metric)
        return None if row is None else row.values[metric]

    def flag(held: bool) -> str:
        return "true" if held else "false"

    def holds(metric: str) -> bool:
        return metric in asked and verdict.margins.by_metric[metric] >= 0

    gate = {
        "quality_status": "PASS" if verdict.passed else "FAIL",
        "lossy_target": _text(asked.get(LOSSY), 4),
        "lossy_best": _text(best(LOSSY), 4),
        "lossy_pass": flag(holds(LOSSY)),
        "lossless_target": _text(asked.get(LOSSLESS), 4),
        "lossless_selected_source": source,
        "lossless_selected_value": _text(value, 4),
        "lossless_selected_pass": flag(value is not None and LOSSLESS in asked and value >= asked[LOSSLESS]),
        "lossless_online_value": _text(online, 4),
        "lossless_online_pass": flag(holds(LOSSLESS)),
        "overall_pass": flag(verdict.passed),
    }
    if baseline is not None:
        gate["decode_baseline"] = _text(baseline, 4)
        gate["decode_best"] = _text(best(speed), 4)
        gate["decode_drop_ratio"] = _text(best(DROP), 6)
        gate["decode_drop_target"] = _text(asked.get(DROP), 6)
        gate["decode_pass"] = flag(holds(DROP))
    return gate


def _ask(metric: Metric, target: float) -> str:
    bound = "at least" if metric.higher_is_better else "at most"
    return f"{metric.title} {bound} {metric.render_target(target)}"


def _judge_over(
    rows: Sequence[Row], facts: Sequence[RowFacts], held: Mapping[str, float], baseline: float, over: str
) -> tuple[DecodeVerdict, str]:
    """The decode verdict of the rows that meet the targets of their own, of all where none does; and how it is told."""
    meeting = eligible_rows(facts, held, rule="joint")
    among = [row for row, fact in zip(rows, facts, strict=True) if fact in meeting or not meeting]
    verdict = judge_speeds(among, baseline, held[DROP], "median" if over == "median" else "mean")
    which = " that meet the other targets" if meeting else ", none of which meets the other targets"
    speed = baseline * (1 - (verdict.drop or 0.0))
    drop = METRICS[DROP].render_interval(verdict.low, verdict.high, verdict.basis)
    told = f"decode speed: {speed:.2f} tok/s, the {over} of {verdict.basis}{which} (--decode-over)"
    return verdict, f"{told}; slow-down {METRICS[DROP].render(verdict.drop or 0.0)} {drop}"


def _with_decode(beside: Margins | None, verdict: DecodeVerdict) -> bool | str:
    """Whether the other targets are held and the decode verdict passes; ``inconclusive`` where that cannot tell."""
    if beside is None or beside.missed:
        return False
    return {"pass": True, "fail": False}.get(verdict.outcome, "inconclusive")


ANALYSIS_VERSION = 1


def analyze_rows(
    rows: Sequence[Row],
    asked: Mapping[str, float],
    *,
    baseline_tok_per_s: float | None,
    decode_left_out: bool,
    upper: Mapping[str, Any] | None,
    online: Mapping[str, Any] | None,
    rule: str,
    decode_over: str | None = None,
    missing: Iterable[str] = (),
    notes: Sequence[str] = (),
    layers: tuple[int, int, int] | None = None,
    understates: bool = False,
) -> dict[str, Any]:
    """Both rules on the same rows, and the original's facts.

    The verdict is that of `rule` (``joint`` or ``best-of``). A baseline that is missing fails the decode threshold
    unless `decode_left_out`; a missing online result fails the lossless threshold, whatever the upper bound says.

    The decode speed is the `decode_over` (mean, median or best) of the rows that meet the other targets; left out, the
    mean under the joint rule and the best under the other. Where its interval holds the target, a pass is inconclusive.
    What is `missing` is no pass; nor is one on a baseline that `understates` the slow-down. `layers`: how many there
    are, the first and the last under eviction (-1: the last); with them the best rows get a ratio over the whole cache.
    """
    for row in rows:
        check_speed(row, baseline_tok_per_s)
    held = {name: target for name, target in asked.items() if not (name == DROP and decode_left_out)}
    untimed = why_untimed(rows, held)
    has_baseline = baseline_tok_per_s is not None
    baseline_tok_per_s = None if untimed else baseline_tok_per_s
    original = collect_original(rows, asked, baseline_tok_per_s=baseline_tok_per_s, upper=upper, online=online)
    lossless = None if online is None else lossless_ratio_of(online, "the online simulation")
    facts = [
        row_facts(row, held, baseline_tok_per_s=baseline_tok_per_s, lossless=lossless)._replace(run_id=row.log_file)
        for row in rows
    ]
    missing = [*missing, *filter(None, [untimed])]
    over = decode_over or ("mean" if rule == "joint" else "best")
    joint, passes, told = _decide(rows, facts, held, baseline_tok_per_s, over, pools_both=decode_over is not None)
    if understates and DROP in held:
        passes = {name: "inconclusive" if passed is True else passed for name, passed in passes.items()}
    return {
        "version": ANALYSIS_VERSION,
        "overall_pass": passes[rule] if not missing else False,
        "rule": rule,
        "missing": [*missing, *_not_given(has_baseline or decode_left_out, online is not None)],
        "notes": [*notes, *told],
        "targets": [_ask(METRICS[name], target) for name, target in held.items()],
        "decode_left_out": decode_left_out,
        "decode_over": over,
        "joint": {
            "pass": passes["joint"],
            "best_row": None if joint.best is None else joint.best.run_id,
            "misses": [] if joint.best is None else list(joint.best.missed),
        },
        "best_of": {"pass": passes["best-of"]},
        "original": asdict(original),
        "whole_cache": None if layers is None else whole_cache_ratios(original, layers, online, lossless),
    }


def _not_given(has_baseline: bool, has_online: bool) -> list[str]:
    baseline = "no baseline: nothing says how fast decode is with H2O off (--decode-baseline TOK_PER_S, or none)"
    online = "no online simulation: an upper bound never decides (--offline-lossless-online-json FILE)"
    return [*([] if has_baseline else [baseline]), *([] if has_online else [online])]


def _decide(
    rows: Sequence[Row],
    facts: Sequence[RowFacts],
    held: Mapping[str, float],
    baseline_tok_per_s: float | None,
    over: str,
    *,
    pools_both: bool,
) -> tuple[JointVerdict, dict[str, bool | str], list[str]]:
    """The joint rule, what either rule says, and notes; one decode speed `over` the rows is for joint, or for both."""
    joint = decide_joint(facts, held)
    passes: dict[str, bool | str] = {"joint": joint.passed, "best-of": decide_best_of(facts, held).passed}
    has_speeds = bool(rows) and all(row.decode_tok_per_s is not None for row in rows)  # else it is missed anyway
    if over == "best" or DROP not in held or baseline_tok_per_s is None or not has_speeds:
        return joint, passes, []
    verdict, told = _judge_over(rows, facts, held, baseline_tok_per_s, over)
    joint, pooled = _decide_pooled(facts, held, verdict)
    return joint, passes | (pooled if pools_both else {"joint": pooled["joint"]}), [told]


def _decide_pooled(
    facts: Sequence[RowFacts], held: Mapping[str, float], verdict: DecodeVerdict
) -> tuple[JointVerdict, dict[str, bool | str]]:
    """The joint rule, and what either rule says, where every row has the decode speed that all rows give together."""
    pooled = [row._replace(values={**row.values, DROP: verdict.drop}) for row in facts]
    others = {name: target for name, target in held.items() if name != DROP}
    beside = decide_joint(pooled, others).best
    return decide_joint(pooled, held), {
        "joint": _with_decode(beside, verdict),
        "best-of": _with_decode(decide_best_of(pooled, others).margins, verdict),
    }


def whole_cache_ratios(
    original: Original, layers: tuple[int, int, int], online: Mapping[str, Any] | None, lossless: float | None
) -> list[str]:
    """The ratio over the whole cache of each of the best rows; `layers` as `analyze_rows` takes them."""
    split = split_layers(*layers, [] if online is None else online.get("selected_layers", []))
    ratios = [float(row["lossy"]) for row in original.top]
    return [f"{whole_cache_ratio(split, ratio, lossless):.4f}" if ratio > 0 else MISSING for ratio in ratios]


def render_analysis_md(analysis: Mapping[str, Any]) -> str:
    """The analysis as Markdown, the verdict first."""
    return render_markdown("analysis.md.j2", analysis=analysis)


def render_on_terminal(text: str) -> str:
    """The Markdown of an analysis with its headline, the verdict, again as the last line."""
    return f"{text}\n{text.partition(chr(10))[0].removeprefix('# ')}\n"
