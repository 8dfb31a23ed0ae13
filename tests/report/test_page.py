"""The page of a run: what stands on it, whole and offline; parts that need their data; links; limits."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.gate.decode import Pair, PairedComparison, TimedLaunch
from pytest_h2o.report import page
from pytest_h2o.report.artifacts import RunRecords, read_run
from pytest_h2o.report.page import Links, find_front, history_chart, pairs_chart, quote_path, render_run, view_preset
from pytest_h2o.report.summary import Change, Comparison, Decode, HistoryBaseline, HistoryFigure, HistoryRun
from tests.recorded.record import page_words
from tests.report.conftest import GateRun
from tests.report.html_checks import Document, check_page

PRESET = "target_ratio_v3"
TIMED = "run_0006_p512_g128_k0.28_b16_lr3.4"


@pytest.fixture(scope="module")
def document(gate_run: GateRun) -> Document:
    return check_page((gate_run.run_dir / "report.html").read_text(encoding="utf-8"))


def render(records: RunRecords, **changes: Any) -> Document:
    return check_page(render_run(replace(records.summary, **changes), records.collector, records.run))


def with_preset(records: RunRecords, **changes: Any) -> Document:
    preset = replace(records.summary.presets[PRESET], **changes)
    return render(records, presets={PRESET: preset})


def headings(document: Document) -> list[str]:
    return [heading.text for heading in document.all("h2", "h3")]


def test_the_verdict_stands_first_and_failures_follow(document: Document, snapshot: SnapshotAssertion) -> None:
    assert [heading.text for heading in document.all("h1", "h2")] == snapshot
    diagnosis = document.all("pre")[1].text
    assert diagnosis.startswith("target_ratio_v3: lossy ratio\ntarget     >= 3.500 (--h2o-lossy-target)\n")
    assert "bound      block quantisation: keep 0.2958" in diagnosis
    assert "repeat     pytest 'gates/test_sweep.py::test_lossy[target_ratio_v3]' --h2o-lossy-target=3.5" in diagnosis


def test_every_row_links_to_its_files(document: Document, gate_run: GateRun) -> None:
    links = [unquote(a.attributes["href"]) for a in document.all("a") if not a.attributes["href"].startswith("#")]
    assert all((gate_run.run_dir / link).is_file() for link in links)
    logs = [link for link in links if re.fullmatch(r"target_ratio_v3/logs/run_\d{4}_.*\.log", link)]
    configs = [link for link in links if link.startswith("target_ratio_v3/configs/run_")]
    assert (len(logs), len(configs)) == (27, 27)
    assert "target_ratio_v3/logs/run_0001_p512_g128_k0.28_b8_lr3.0.stdout.txt" in links
    assert {"summary.md", "summary.json", "journal.jsonl", "run.json", f"{PRESET}/h2o_metrics.csv"} <= set(links)
    assert document.rows("SHA-256")[0][1] == next(iter(gate_run.read("run.json")["digests"].values()))


def test_every_chart_has_its_table_and_its_words(document: Document) -> None:
    titles = [title.text for title in document.all("title")[1:]]
    assert len(titles) == 1 + 4 * 3
    assert not {"Paired decode launches", "Quality against keep ratio", "History"} & set(headings(document))
    assert titles[0] == "total ratio (lossy × lossless) against decode speed, target_ratio_v3"
    front = "run 3: 4.960 at 64.3 tok/s; run 6: 4.928 at 66.8 tok/s"
    assert document.all("desc")[0].text == f"27 runs. On the Pareto front: {front}."
    assert len(document.all("figure")) == 9
    assert len(document.all("table")) > 9


def test_the_page_is_small_and_needs_nothing_else(gate_run: GateRun) -> None:
    text = (gate_run.run_dir / "report.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 400_000
    assert "<script" not in text
    assert "@import" not in text
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= {f"#{name}" for name in re.findall(r'id="([^"]*)"', text)}
    elsewhere = {"http://www.w3.org/2000/svg"}
    assert set(re.findall(r'https?://[^\s"<]*', text)) == elsewhere


def test_a_run_of_an_older_version_has_every_figure_that_its_own_page_had(old_run: Path, no_charts: None) -> None:
    """With pairs of launches, a comparison and quality."""
    records = read_run(old_run)
    made = render_run(records.summary, records.collector, records.run)
    before = (old_run / "report.html").read_text(encoding="utf-8")
    now, then = (page_words(re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)).split() for text in (made, before))
    assert {word for word in then if re.search(r"\d", word)} - set(now) == set()
    assert {"Paired decode launches", "Quality against keep ratio"} <= set(headings(check_page(made)))


def test_paired_launches_are_shown_pair_by_pair(records: RunRecords, no_charts: None) -> None:
    sides = [(60.0, 57.0, None), (60.0, 63.0, None), (60.0, 30.0, "unlike contexts")]
    pairs = [
        Pair("AB", TimedLaunch(f"{n}_a", before, 1.0), TimedLaunch(f"{n}_b", after, 1.0), why)
        for n, (before, after, why) in enumerate(sides, 1)
    ]
    decode = Decode("inconclusive", drop=0.03, low=-0.02, target=0.05, pairs=2, needed_pairs=60, stopped="20 pairs")
    made = PairedComparison("run", "H2O off", 1, 20, tuple(pairs), (), "20 pairs", 6.0)
    records.collector.comparisons = {PRESET: made}
    document = with_preset(records, decode=replace(decode, excluded=["pair 3: unlike contexts"]))
    facts = [entry.text for entry in document.all("li")]
    assert "outcome: inconclusive; slow-down 3.00%, interval -2.00% to unbounded, target at most 5.00%" in facts
    assert {"pairs that a clear verdict would need, about: 60", "excluded: pair 3: unlike contexts"} <= set(facts)
    rows = document.rows("Pairs of target_ratio_v3")
    assert rows[0] == ["1", "baseline", "60.00", "57.00", "5.00%", "", ""]
    assert rows[2][4:6] == ["50.00%", "unlike contexts"]
    chart = pairs_chart(decode, "pairs", pairs)
    assert [(s.name, [(dot.x, round(dot.y, 6)) for dot in s.dots]) for s in chart.series] == [
        ("pair", [(1, 5.0), (2, -5.0)]),
        ("excluded", [(3, 50.0)]),
    ]


@pytest.mark.parametrize(
    ("outcome", "timed"), [("pass", "nothing"), ("fail", "decode"), ("inconclusive", "decode not told")]
)
def test_only_a_row_that_was_timed_is_said_to_miss_nothing(
    outcome: str, timed: str, records: RunRecords, no_charts: None
) -> None:
    collector = records.collector
    timed_row = next(p for p in collector.points_in_order(PRESET) if p.manifest["run_id"] == TIMED)
    facts = collector.presets[PRESET]
    targets = {**facts.targets, "lossy": 3.0}
    collector.presets[PRESET] = replace(facts, paired=True, decode_left_out=False, targets=targets)
    for decode, told in ((Decode(outcome, candidate=TIMED), timed), (None, "not timed")):
        view = view_preset(collector, PRESET, replace(records.summary.presets[PRESET], decode=decode))
        assert view.missed_by(next(row for row in view.rows if row.number == timed_row.index)) == told
        others = {view.missed_by(row) for row in view.rows if row.number != timed_row.index}
        assert others == {"lossy", "not timed"}


def test_a_column_of_which_nothing_is_known_gives_its_reason(
    records: RunRecords, no_charts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(with_preset(records).rows(f"Rows of {PRESET}")[0]) == 10
    monkeypatch.setattr(records.collector, "accepted_scope", lambda **_: None)
    document = with_preset(records)
    assert "missing" not in {cell for row in document.rows(f"Rows of {PRESET}") for cell in row}
    assert "No total: no scope that decides has a lossless ratio that counts." in {p.text for p in document.all("p")}


def test_an_inconclusive_run_is_not_said_to_have_failed_in_nothing(records: RunRecords, no_charts: None) -> None:
    document = render(records, overall_pass="inconclusive")
    assert not [p.text for p in document.all("p") if "Nothing failed" in p.text]


def test_quality_is_shown_where_a_bench_measured_it(records: RunRecords, no_charts: None) -> None:
    for number, point in enumerate(records.collector.points_in_order(PRESET)[:3]):
        cells = {**point.result.cells, "quality_ppl_rise": f"{0.01 * number}"}
        records.collector.points[PRESET][point.result.run_id] = replace(
            point, result=replace(point.result, cells=cells)
        )
    facts = records.collector.presets[PRESET]
    records.collector.presets[PRESET] = replace(facts, targets={**facts.targets, "quality": 0.01})
    document = render(records)
    assert "Quality against keep ratio" in headings(document)
    rows = document.rows("Quality of every run")
    assert [row[0][:8] for row in rows] == ["run_0001", "run_0002", "run_0003"]
    assert rows[2][2] == "2.00%"
    missed = {row[0][:8]: row[7] for row in document.rows("Rows of target_ratio_v3")}
    assert missed["run_0003"] == "lossy, quality"
    chart = view_preset(records.collector, PRESET, records.summary.presets[PRESET]).quality_chart("quality")
    assert [rule.name for rule in chart.rules] == ["no rise", "target 1 %"]


def test_changes_against_an_earlier_run_are_shown(records: RunRecords, no_charts: None) -> None:
    worse = Change("r", "h2o_lossy", 3.4, 3.38, -0.588, None, "worse")
    new = Change("r", "raw_bytes", None, 12345, None, None, "new")
    comparison = Comparison("main", "20260101-000000-abcdef", "t", {"worse": 1, "equal": 80}, [worse, new], [worse])
    document = with_preset(records, comparison=comparison, comparison_notes=["timings are not compared"])
    told = [entry.text for entry in document.all("li")]
    assert "target_ratio_v3 against main (run 20260101-000000-abcdef): 1 worse, 80 equal" in told
    assert "timings are not compared" in told
    assert document.rows("Figures against an earlier run") == [
        [PRESET, "worse", "h2o_lossy", "r", "3.4", "3.38", "-0.59 %"],
        [PRESET, "new", "raw_bytes", "r", "missing", "12,345", ""],
    ]
    assert headings(document)[0] == "Against an earlier run", "what changed stands first"
    document = with_preset(records, not_compared="no earlier run")
    assert "target_ratio_v3 not compared: no earlier run" in [entry.text for entry in document.all("li")]


def test_history_is_shown_with_baseline_band_and_failed_runs(records: RunRecords, no_charts: None) -> None:
    runs = [HistoryRun(f"r{n}", f"e{n}", 3.0 + n / 10, n != 2) for n in (1, 2, 3)]
    baseline, band = HistoryBaseline("baseline main", 3.0), "allowed against baseline main: 2 %"
    figure = HistoryFigure("preset p", "h2o_lossy", "lossy ratio", "", baseline, 2.94, 3.0, band, runs)
    document = render(records, history=[replace(figure, runs=[]), figure])
    assert "History" in headings(document)
    assert document.all("figcaption")[-1].text.startswith(
        "Lossy ratio of preset p in this run and in those before it, the best row of each. "
        "Baseline: 3 (baseline main). Band: 2.94 to 3 (allowed against baseline main: 2 %)."
    )
    assert document.rows("lossy ratio of preset p in earlier runs")[1] == ["r2", "e2", "3.2", "failed"]
    chart = history_chart(figure, "history")
    assert [(s.name, [dot.y for dot in s.dots]) for s in chart.series] == [
        ("", [3.1, 3.2, 3.3]),
        ("held", [3.1, 3.3]),
        ("failed", [3.2]),
    ]
    assert [(rule.name, rule.value) for rule in chart.rules] == [("baseline", 3.0)]
    assert [(band.low, band.high) for band in chart.bands] == [(2.94, 3.0)]
    assert "History" not in headings(render(records, history=[replace(figure, runs=[])]))


def test_a_page_has_so_many_charts_and_rows_at_most(records: RunRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_CHARTS", 2)
    monkeypatch.setattr(page, "MAX_ROWS", 10)
    document = render(records)
    assert len(document.all("svg")) == 2
    assert "Not drawn: this page has more than 2 charts." in document.all("main")[0].text
    assert "17 more rows are in target_ratio_v3/h2o_metrics.csv" in document.all("main")[0].text


def test_a_run_without_figures_has_a_page(tmp_path: Path, gate_run: GateRun) -> None:
    head = gate_run.journal[0]
    head["data"] = {}
    (tmp_path / "journal.jsonl").write_text(json.dumps(head) + "\n")
    document = render(read_run(tmp_path))
    assert document.all("h1")[0].text == "KV-cache compression gate: UNFINISHED"
    assert "Not complete" in headings(document)
    assert document.all("svg") == []


@given(st.lists(st.one_of(st.none(), st.tuples(*[st.integers(-4, 4).map(float)] * 2)), max_size=12))
def test_the_front_is_what_nothing_dominates(points: list[tuple[float, float] | None]) -> None:
    def is_dominated(point: tuple[float, float]) -> bool:
        return any(o is not None and o != point and o[0] >= point[0] and o[1] >= point[1] for o in points)

    assert find_front(points) == [point is not None and not is_dominated(point) for point in points]
    assert find_front([(float("nan"), 1.0), (1.0, float("inf")), (1.0, 1.0)]) == [False, False, True]


def test_links_cannot_be_taken_for_anything_else() -> None:
    names = {
        "javascript:alert(1)": "javascript%3Aalert%281%29",
        'a"b<c>&\n.log': "a%22b%3Cc%3E%26%0A.log",
        "p/ä ö#?.log": "p/%C3%A4%20%C3%B6%23%3F.log",
        "\udcff.log": "%FF.log",
    }
    assert {name: quote_path(name) for name in names} == names


def test_links_lead_only_to_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.log").write_text("")
    inside, outside = Links(tmp_path / "run"), Links(tmp_path / "run", tmp_path / "pages" / "x.html")
    assert inside.to("log", "a.log") == [("log", "a.log")]
    assert outside.to("log", "a.log") == [("log", "../run/a.log")]
    assert inside.to("log", "b.log") == inside.to("log", "a\0b") == inside.to("log", "x" * 5000) == []
    (tmp_path / "run" / "p q" / "logs").mkdir(parents=True)
    for name in ("r.log", "r.stdout.txt"):
        (tmp_path / "run" / "p q" / "logs" / name).write_text("")
    assert inside.to_run("p q", "r") == [("log", "p%20q/logs/r.log"), ("output", "p%20q/logs/r.stdout.txt")]
