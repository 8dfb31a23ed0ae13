"""The page of a real run: what stands on it, whole and offline."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h2o.report.page import Links, find_front, links_of, quote_path
from tests.report.conftest import GateRun
from tests.report.html_checks import Document, check_page


@pytest.fixture(scope="module")
def document(gate_run: GateRun) -> Document:
    return check_page((gate_run.run_dir / "report.html").read_text(encoding="utf-8"))


def test_the_verdict_stands_first_and_failures_follow(document: Document) -> None:
    headings = [heading.text for heading in document.all("h1", "h2")]
    assert headings == [
        "KV-cache compression gate: FAIL",
        "Failures (2)",
        "Verdicts",
        "Left out on purpose",
        "Not measured",
        "Preset target_ratio_v3",
        "KV dump scope all_layers_grouped_192_8",
        "KV dump scope front2_chunked_128_16",
        "KV dump scope front2_grouped_192_8",
        "KV dump scope front2_upper",
        "Items (40)",
        "Provenance",
    ]
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
    named = {"summary.md", "summary.json", "journal.jsonl", "run.json", "target_ratio_v3/h2o_metrics.csv"}
    assert named <= set(links)


def rows_of(document: Document, caption: str) -> list[list[str]]:
    (table,) = (t for t in document.all("table") if t.text.lstrip().startswith(caption))
    rows: list[list[str]] = []
    for element in document.elements:
        inside = element.parent is not None and element.parent.tag == "tr"
        if inside and element.tag in ("td", "th") and element.attributes.get("scope") != "col":
            parent = element.parent.parent  # type: ignore[union-attr]
            while parent is not None and parent is not table:
                parent = parent.parent
            if parent is table:
                if element.tag == "th":
                    rows.append([])
                rows[-1].append(element.text.strip())
    return rows


def test_the_figures_are_those_of_the_artifacts(document: Document, gate_run: GateRun) -> None:
    rows = {row[0].split(" ")[0]: row for row in rows_of(document, "Rows of target_ratio_v3")}
    assert len(rows) == 27
    best = rows["run_0003_p512_g128_k0.28_b8_lr3.4"]
    assert best[1:8] == [
        "3.380 ± 0.019",
        "64.34 ± 7.24",
        "4.9604",
        "3.1098",
        "0.2958",
        "block\u00a0quantisation",
        "lossy",
    ]
    fronts = [row[0] for row in rows.values() if row[0].endswith("Pareto")]
    assert fronts == [
        "run_0003_p512_g128_k0.28_b8_lr3.4 · Pareto",
        "run_0006_p512_g128_k0.28_b16_lr3.4 · Pareto",
    ]
    assert rows["run_0001_p512_g128_k0.28_b8_lr3.0"][8] == "920"
    assert best[8] == "not kept"
    layers = rows_of(document, "Lossless ratio of front2_grouped_192_8 by layer")
    assert layers[0] == ["layer 0", "1.3331", "1.8911", "1.0296", "3.7716", "4.5066", "3.2454"]
    modes = rows_of(document, "Blocks of front2_grouped_192_8")
    assert modes[1] == ["K lo", "60", "21", "0", "0", "3"]
    settings_rows = {row[0]: row[1:] for row in rows_of(document, "Settings")}
    assert settings_rows["lossy-target"] == ["3.5", "--h2o-lossy-target"]
    digests = rows_of(document, "SHA-256")
    assert digests[0][1] == next(iter(gate_run.read("run.json")["digests"].values()))


def test_every_chart_has_its_table_and_its_words(document: Document) -> None:
    titles = [title.text for title in document.all("title")[1:]]
    assert len(titles) == 2 + 4 * 3
    assert titles[0] == "total ratio (lossy × lossless) against decode speed, target_ratio_v3"
    descriptions = [desc.text for desc in document.all("desc")]
    front = "run 3: 4.960 at 64.3 tok/s; run 6: 4.928 at 66.8 tok/s"
    assert descriptions[0] == f"27 runs. On the Pareto front: {front}."
    assert len(document.all("figure")) == 9
    assert len(document.all("table")) > 9


def test_the_page_is_small_and_needs_nothing_else(gate_run: GateRun) -> None:
    text = (gate_run.run_dir / "report.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 400_000
    assert "<script" not in text
    assert "@import" not in text
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= {f"#{name}" for name in re.findall(r'id="([^"]*)"', text)}
    assert set(re.findall(r'https?://[^\s"<]*', text)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


@settings(deadline=None, max_examples=200)
@given(st.lists(st.one_of(st.none(), st.tuples(*[st.integers(-4, 4).map(float)] * 2)), max_size=12))
def test_the_front_is_what_nothing_dominates(points: list[tuple[float, float] | None]) -> None:
    def is_dominated(point: tuple[float, float]) -> bool:
        return any(o is not None and o != point and o[0] >= point[0] and o[1] >= point[1] for o in points)

    assert find_front(points) == [point is not None and not is_dominated(point) for point in points]


def test_the_front_leaves_out_what_is_no_number() -> None:
    assert find_front([(float("nan"), 1.0), (1.0, float("inf")), (1.0, 1.0)]) == [False, False, True]


@pytest.mark.parametrize(
    ("path", "href"),
    [
        ("javascript:alert(1)", "javascript%3Aalert%281%29"),
        ('a"b<c>&\n.log', "a%22b%3Cc%3E%26%0A.log"),
        ("p/ä ö#?.log", "p/%C3%A4%20%C3%B6%23%3F.log"),
        ("\udcff.log", "%FF.log"),
    ],
)
def test_links_cannot_be_taken_for_anything_else(path: str, href: str) -> None:
    assert quote_path(path) == href


def test_links_lead_only_to_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.log").write_text("")
    inside, outside = links_of(tmp_path / "run"), links_of(tmp_path / "run", tmp_path / "pages" / "x.html")
    assert [link.href for link in inside.to("log", "a.log")] == ["a.log"]
    assert [link.href for link in outside.to("log", "a.log")] == ["../run/a.log"]
    assert inside.to("log", "b.log") == inside.to("log", "a\0b") == inside.to("log", "x" * 5000) == ()
    run = [(link.text, link.href) for link in Links(lambda name: name.endswith((".log", ".txt"))).to_run("p q", "r")]
    assert run == [("log", "p%20q/logs/r.log"), ("output", "p%20q/logs/r.stdout.txt")]
