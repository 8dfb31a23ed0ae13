"""Paired decode launches as a section of the report; nothing where there were none. Pure.

Read with care for what is not there: a run of another version may lack a field, and what is missing is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pytest_h2o.report.chart_data import Band, Dot, Rule, Series, XYChart
from pytest_h2o.report.document import Block, Bullets, Cell, Figure, Section, Table
from pytest_h2o.report.links import Links


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]


def _percent(value: object) -> str:
    number = _number(value)
    return "unbounded" if number is None else f"{number:.2%}"


def decode_section(
    name: str, section_id: str, preset: Mapping[str, Any], comparison: Mapping[str, Any] | None, links: Links
) -> Section | None:
    """The verdict of the pairs, each pair as a point, and each as a row.

    Parameters
    ----------
    name, section_id : str
    preset : mapping
        Its part of the summary; `decode` has the verdict.
    comparison : mapping or None
        Its pairs, as the journal has them.
    links : Links
    """
    verdict = preset.get("decode")
    if not verdict:
        return None
    blocks: list[Block] = [Bullets(tuple(_facts(verdict)))]
    pairs = list(comparison.get("pairs", ())) if comparison else []
    if pairs:
        table = _pairs_table(name, pairs, links)
        charts = [_pairs_chart(f"{section_id}-pairs{end}", verdict, pairs, *size) for end, *size in _SIZES]
        caption = (
            "Each point is one pair of launches, one after the other: how much slower the candidate decoded than its "
            "baseline. The band is the interval of the slow-down that all pairs together leave."
        )
        blocks.append(Figure(caption, (charts[0],), table, (charts[1],)))
    return Section(f"{section_id}-decode", "Paired decode launches", tuple(blocks))


_SIZES = (("", 720, 300), ("-narrow", 360, 280))


def _facts(verdict: Mapping[str, Any]) -> list[str]:
    drop, low, high, target = (_percent(verdict.get(key)) for key in ("drop", "low", "high", "target"))
    outcome = verdict.get("outcome", "missing")
    facts = [f"outcome: {outcome}; slow-down {drop}, interval {low} to {high}, target at most {target}"]
    for key, title in (
        ("pairs", "pairs compared"),
        ("candidate", "candidate"),
        ("baseline", "baseline"),
        ("needed_pairs", "pairs that a clear verdict would need, about"),
        ("stopped", "ended because"),
        ("note", "note"),
        ("method", "method"),
    ):
        if verdict.get(key) not in (None, ""):
            facts.append(f"{title}: {verdict[key]}")
    facts += [f"excluded: {text}" for text in verdict.get("excluded") or ()]
    facts += [f"measured again: {text}" for text in verdict.get("measured_again") or ()]
    return facts


def _speed(pair: Mapping[str, Any], side: str) -> float | None:
    return _number((pair.get(side) or {}).get("decode_tok_per_s"))


def _drop(pair: Mapping[str, Any]) -> float | None:
    """Fraction of speed that the candidate of a pair lost; None where a speed is missing."""
    before, after = _speed(pair, "baseline"), _speed(pair, "candidate")
    return None if not before or after is None else 1.0 - after / before


def _pairs_chart(
    chart_id: str, verdict: Mapping[str, Any], pairs: list[Mapping[str, Any]], width: int, height: int
) -> XYChart:
    compared: list[Dot] = []
    excluded: list[Dot] = []
    for number, pair in enumerate(pairs, 1):
        drop = _drop(pair)
        if drop is not None:
            (excluded if pair.get("excluded") else compared).append(Dot(number, 100 * drop))
    step = 1 + len(pairs) // 12
    low, high = _number(verdict.get("low")), _number(verdict.get("high"))
    bands = () if low is None or high is None else (Band("interval", "c1", 100 * low, 100 * high),)
    rules = [Rule("no change", "quiet", 0.0, "y")]
    for key, title, ink in (("target", "target", "bad"), ("drop", "estimate", "c1")):
        value = _number(verdict.get(key))
        if value is not None:
            rules.append(Rule(f"{title} {100 * value:.1f} %", ink, 100 * value, "y"))  # type: ignore[arg-type]
    return XYChart(
        chart_id,
        "Slow-down of each pair",
        f"{len(compared)} pairs compared, {len(excluded)} excluded; {_facts(verdict)[0]}.",
        "pair, in launch order",
        "slow-down, %",
        (
            Series("pair", "c1", tuple(compared)),
            Series("excluded", "quiet", tuple(excluded), marker="x"),
        ),
        tuple(rules),
        bands,
        ticks=tuple((float(number), str(number)) for number in range(1, len(pairs) + 1, step)),
        width=width,
        height=height,
    )


def _disturbed(baseline: str, candidate: str) -> list[str]:
    """What disturbed the launches of a pair, and which."""
    if baseline == candidate:
        return [f"both disturbed: {baseline}"] if baseline else []
    sides = (("baseline", baseline), ("candidate", candidate))
    return [f"{side} disturbed: {text}" for side, text in sides if text]


def _pairs_table(name: str, pairs: list[Mapping[str, Any]], links: Links) -> Table:
    rows = []
    for number, pair in enumerate(pairs, 1):
        sides = [pair.get(side) or {} for side in ("baseline", "candidate")]
        speeds = ["missing" if (v := _number(s.get("decode_tok_per_s"))) is None else f"{v:.2f}" for s in sides]
        drop = _drop(pair)
        remarks = [str(pair["excluded"])] if pair.get("excluded") else []
        remarks += _disturbed(*(str(side.get("disturbance") or "") for side in sides))
        files = tuple(
            link
            for side in sides
            for link in links.to(str(side.get("run_id")), f"{name}/decode/logs/{side.get('run_id')}.log")
        )
        first = {"AB": "baseline", "BA": "candidate"}.get(str(pair.get("order")), "")
        cells = (f"{number}", first, *speeds, "" if drop is None else f"{drop:.2%}", "; ".join(remarks))
        rows.append((*map(Cell, cells), Cell("", links=files)))
    header = ("pair", "first", "baseline tok/s", "candidate tok/s", "slow-down", "remarks", "logs")
    return Table(f"Pairs of {name}", header, tuple(rows), frozenset({2, 3, 4}))
