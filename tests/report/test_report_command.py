"""`pytest-h2o report`: the same bytes again, an unfinished run, and damage told in one clear error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.cli.main import main
from tests.report.html_checks import check_page


def test_reports_made_again_are_the_same_bytes_and_replace_only_what_they_are_asked_to(
    run_copy: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest, snapshot: SnapshotAssertion
) -> None:
    page, summary = run_copy / "report.html", run_copy / "summary.md"
    before = summary.read_bytes()
    assert main(["report", str(run_copy)]) == 0
    assert capsys.readouterr().out == f"{summary} is the same already\n{page} is the same already\n"
    request.getfixturevalue("no_charts")
    page.write_text("mine\n")
    summary.unlink()
    assert main(["report", str(run_copy)]) == 2
    assert capsys.readouterr().err.replace(str(run_copy), "RUN") == snapshot
    assert not summary.exists()
    assert main(["report", str(run_copy), "--overwrite"]) == 0
    assert capsys.readouterr().out == f"wrote {summary}\nwrote {page}\n"
    assert summary.read_bytes() == before
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_elsewhere_the_links_lead_back(run_copy: Path, tmp_path: Path, no_charts: None) -> None:
    page = tmp_path / "pages" / "gate.html"
    assert main(["report", str(run_copy), "--out", str(page)]) == 0
    assert (tmp_path / "pages" / "gate.md").read_bytes() == (run_copy / "summary.md").read_bytes()
    links = [a.attributes["href"] for a in check_page(page.read_text(encoding="utf-8")).all("a")]
    files = [link for link in links if not link.startswith("#")]
    assert files
    assert all(link.startswith("../run/") and (page.parent / link).is_file() for link in files)


def test_an_unfinished_run_says_so(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_charts: None, snapshot: SnapshotAssertion
) -> None:
    for name in ("run.json", "summary.json", "summary.md", "report.html"):
        (run_copy / name).unlink()
    journal = run_copy / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:20]) + lines[20][:100])
    assert main(["report", str(run_copy)]) == 2
    assert capsys.readouterr().err.replace(str(run_copy), "RUN") == snapshot
    page = tmp_path / "now.html"
    assert main(["report", str(run_copy), "--out", str(page)]) == 0
    said = "unfinished: no run.json; 20 items are in its journal (line 21 of the journal is torn, and left out)"
    assert capsys.readouterr().out.splitlines()[-1] == said
    document = check_page(page.read_text(encoding="utf-8"))
    assert document.all("h1")[0].text in ("KV-cache compression gate: UNFINISHED", "KV-cache compression gate: FAIL")
    assert "This run did not end, or has not ended yet" in document.all("header")[0].text
    assert "Items (20)" in [heading.text for heading in document.all("h2")]
    assert page.with_suffix(".md").read_text().startswith("**This run did not end, or has not ended yet")


@pytest.mark.parametrize(
    ("name", "content", "where", "came"),
    [
        ("run.json", b"{", "run.json:1:2", "Expecting property name enclosed in double quotes"),
        ("summary.json", b'{"version": 9}', "summary.json", "version 9"),
        ("journal.jsonl", b'{"version": 1}\nnonsense\n', "journal.jsonl:2:1:1", "Expecting value"),
        ("journal.jsonl", b"\xff\n", "journal.jsonl:1", "'utf-8' codec can't decode byte 0xff in position 0"),
        ("journal.jsonl", b"[" * 100_000 + b"\n", "journal.jsonl:1", "values nested too deep"),
        ("journal.jsonl", b'{"version": 1}\n{"version', "journal.jsonl:2", "a torn last line"),
    ],
)
def test_a_damaged_file_is_named(
    name: str, content: bytes, where: str, came: str, run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_copy / name).write_bytes(content)
    assert main(["report", str(run_copy)]) == 2
    what, place, told = capsys.readouterr().err.splitlines()[:3]
    assert what == "pytest-h2o report: a file of a run cannot be read"
    assert place == f"  where: {run_copy / where}"
    assert told.startswith(f"  came: {came}")


def spoil_rows(records: list[Any]) -> None:
    for record in records:
        for point in record.get("data", {}).get("points", ()):
            point["result"]["cells"] = None


@pytest.mark.parametrize(
    "damage",
    [
        lambda records: records.__setitem__(3, [1]),
        lambda records: records[3].pop("data"),
        lambda records: records[3].update(data={"points": 3}),
        spoil_rows,
        None,
    ],
    ids=["no object", "no data", "other types", "rows without cells", "empty summary"],
)
def test_records_of_another_shape_are_one_error(
    damage: Callable[[list[Any]], object] | None, run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = run_copy / "journal.jsonl"
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    if damage is None:
        (run_copy / "summary.json").write_text('{"version": 1}')
    else:
        damage(records)
    journal.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert main(["report", str(run_copy)]) == 2
    error = capsys.readouterr().err
    assert "another shape" in error
    assert "Traceback" not in error


def test_a_folder_that_is_none_of_a_run_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion
) -> None:
    (tmp_path / "notes.txt").write_text("")
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.replace(str(tmp_path), "HERE") == snapshot
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "came: no such folder" in capsys.readouterr().err
