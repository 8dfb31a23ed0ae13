"""Parts of the page that appear only when their data is there: pairs, quality, changes, history; and limits."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_h2o.report import page as html
from pytest_h2o.report import page as page_rows
from pytest_h2o.report.artifacts import RunRecords, read_run
from pytest_h2o.report.page import Links, change_blocks, decode_section, history_section, render_run
from tests.report.conftest import GateRun
from tests.report.html_checks import Document, check_page

NO_LINKS = Links(lambda name: False)
PRESET = "target_ratio_v3"


@pytest.fixture
def records(gate_run: GateRun) -> RunRecords:
    return read_run(gate_run.run_dir)


def render(records: RunRecords, **changes: Any) -> Document:
    summary = {**json.loads(json.dumps(records.summary)), **changes}
    return check_page(render_run(summary, records.collector, records.run))


def headings(document: Document) -> list[str]:
    return [heading.text for heading in document.all("h2", "h3")]


def test_without_their_data_they_are_not_there(records: RunRecords) -> None:
    names = headings(render(records))
    for name in ("Paired decode launches", "Quality against keep ratio", "History"):
        assert name not in names


def pair(number: int, before: float, after: float, **more: Any) -> dict[str, Any]:
    def side(name: str, speed: float) -> dict[str, Any]:
        return {"run_id": f"pair_{number}_{name}", "decode_tok_per_s": speed, "elapsed_s": 1.0, "disturbance": None}

    pairs = {"order": "AB", "baseline": side("a", before), "candidate": side("b", after), "excluded": None}
    return {**pairs, **more}


DECODE = {
    "outcome": "inconclusive",
    "drop": 0.03,
    "low": -0.02,
    "high": None,
    "target": 0.05,
    "pairs": 2,
    "needed_pairs": 60,
    "excluded": ["pair 3: unlike contexts"],
    "stopped": "20 pairs spent",
    "note": None,
}


def test_paired_launches_are_shown_pair_by_pair(records: RunRecords) -> None:
    pairs = [pair(1, 60.0, 57.0), pair(2, 60.0, 63.0), pair(3, 60.0, 30.0, excluded="unlike contexts")]
    section = decode_section(PRESET, "p", {"decode": DECODE}, {"pairs": pairs}, NO_LINKS)
    assert section is not None
    bullets, figure = section.blocks
    assert bullets.kind == "bullets"
    assert bullets.entries[0] == (  # type: ignore[union-attr]
        "outcome: inconclusive; slow-down 3.00%, interval -2.00% to unbounded, target at most 5.00%"
    )
    assert "pairs that a clear verdict would need, about: 60" in bullets.entries  # type: ignore[union-attr]
    rows = [[cell.text for cell in row] for row in figure.table.rows]  # type: ignore[union-attr]
    assert rows[0] == ["1", "baseline", "60.00", "57.00", "5.00%", "", ""]
    assert rows[2][4:6] == ["50.00%", "unlike contexts"]
    chart = figure.charts[0]  # type: ignore[union-attr]
    assert [(dot.x, round(dot.y, 6)) for dot in chart.series[0].dots] == [(1, 5.0), (2, -5.0)]
    assert [(dot.x, round(dot.y, 6)) for dot in chart.series[1].dots] == [(3, 50.0)]
    records.collector.comparisons = {PRESET: {"pairs": pairs}}  # type: ignore[attr-defined]
    presets = json.loads(json.dumps(records.summary["presets"]))
    presets[PRESET]["decode"] = DECODE
    assert "Paired decode launches" in headings(render(records, presets=presets))


@pytest.mark.parametrize("damaged", [{}, {"order": None}, {"baseline": None}, {"baseline": {"decode_tok_per_s": "x"}}])
def test_pairs_that_lack_something_are_shown_without_it(damaged: dict[str, Any]) -> None:
    section = decode_section(PRESET, "p", {"decode": {"outcome": "pass"}}, {"pairs": [damaged]}, NO_LINKS)
    assert section is not None
    assert section.blocks[0].entries == (  # type: ignore[union-attr]
        "outcome: pass; slow-down unbounded, interval unbounded to unbounded, target at most unbounded",
    )
    assert "missing" in [cell.text for cell in section.blocks[1].table.rows[0]]  # type: ignore[union-attr]


def test_quality_is_shown_where_a_bench_measured_it(records: RunRecords) -> None:
    for number, point in enumerate(records.collector.points_in_order(PRESET)[:3]):
        point["result"]["cells"]["quality_ppl_rise"] = f"{0.01 * number}"
    records.collector.presets[PRESET]["targets"]["quality"] = 0.01
    document = render(records)
    assert "Quality against keep ratio" in headings(document)
    (table,) = (t for t in document.all("table") if "Quality of every run" in t.text)
    assert "run_0003_p512_g128_k0.28_b8_lr3.4" in table.text
    assert "2.00%" in table.text
    assert "run_0004" not in table.text
    (chart,) = (svg for svg in document.all("svg") if "Rise in perplexity against keep ratio" in svg.text)
    assert "target 1 %" in chart.text


COMPARISON = {
    "asked": "main",
    "run": "20260101-000000-abcdef",
    "ended": "t",
    "counts": {"worse": 1, "equal": 80},
    "changes": [
        {"row": "r", "metric": "h2o_lossy", "then": 3.4, "now": 3.38, "percent": -0.588, "state": "worse"},
        {"row": "r", "metric": "raw_bytes", "then": None, "now": 12345, "percent": None, "state": "new"},
    ],
}


def test_changes_against_an_earlier_run_are_shown() -> None:
    bullets, table = change_blocks("p", {"comparison": COMPARISON, "comparison_notes": ["timings are not compared"]})
    assert bullets.entries == (  # type: ignore[union-attr]
        "against main (run 20260101-000000-abcdef): 1 worse, 80 equal",
        "timings are not compared",
    )
    rows = [[cell.text for cell in row] for row in table.rows]  # type: ignore[union-attr]
    assert rows == [
        ["h2o_lossy", "r", "3.4", "3.38", "-0.59 %", "worse"],
        ["raw_bytes", "r", "missing", "12,345", "", "new"],
    ]
    (told,) = change_blocks("p", {"comparison": None, "not_compared": "no earlier run"})
    assert told.entries == ("not compared: no earlier run",)  # type: ignore[union-attr]
    assert change_blocks("p", {}) == []


def test_history_is_shown_with_the_band_of_its_baseline(records: RunRecords) -> None:
    runs = [{"run": f"r{number}", "value": 1.46 + number / 1000} for number in range(5)]
    figure = {"title": "lossless ratio", "unit": "", "low": 1.45, "high": 1.47, "runs": runs}
    assert "History" in headings(render(records, history=[figure, {"title": "empty", "runs": []}]))
    assert history_section({"history": [{"title": "t", "runs": [{"run": "r", "value": None}]}]}) is None
    assert history_section({}) is None


def test_without_matplotlib_the_page_has_its_tables(records: RunRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    really_import = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ImportError("No module named 'matplotlib'")
        return really_import(name, *args, **kwargs)

    with_charts = render(records)
    monkeypatch.setattr(builtins, "__import__", refuse)
    without = render(records)
    assert without.all("svg") == []
    assert len(without.all("table")) == len(with_charts.all("table"))
    assert len(without.all("figcaption")) == len(with_charts.all("figcaption"))
    said = "No charts: matplotlib cannot be loaded: No module named 'matplotlib'. Their tables are here."
    assert said in without.all("main")[0].text


def test_a_page_has_so_many_charts_and_rows_at_most(records: RunRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "MAX_CHARTS", 4)
    monkeypatch.setattr(page_rows, "MAX_ROWS", 10)
    document = render(records)
    assert len(document.all("svg")) == 4
    assert "Not drawn: this page has more than 4 charts." in document.all("main")[0].text
    assert "17 more rows are in target_ratio_v3/h2o_metrics.csv" in document.all("main")[0].text


def test_a_run_without_figures_has_a_page(tmp_path: Path, gate_run: GateRun) -> None:
    head = json.loads((gate_run.run_dir / "journal.jsonl").read_text().splitlines()[0])
    head["data"] = {}
    (tmp_path / "journal.jsonl").write_text(json.dumps(head) + "\n")
    document = render(read_run(tmp_path))
    assert document.all("h1")[0].text == "KV-cache compression gate: UNFINISHED"
    assert "Not complete" in [heading.text for heading in document.all("h2")]
    assert document.all("svg") == []


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/home/me/lib/python/site-packages/pytest_h2o/reference/__main__.py", "the embedded reference bench"),
        ("/home/me/build/llm_bench", "/home/me/build/llm_bench"),
    ],
)
def test_the_bench_is_named(path: str, told: str, records: RunRecords) -> None:
    settings = {**records.run["settings"], "bench": {"value": path, "origin": "default"}}
    page = check_page(render_run(records.summary, records.collector, {**records.run, "settings": settings}))
    assert told in [fact.text for fact in page.all("dd")]
