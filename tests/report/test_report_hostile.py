"""Text from logs, presets and file names does no harm on a page: not to a parser, and not in a browser."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pytest_h2o.cli.main import main
from tests.report.browser import load, measure, needs_chromium
from tests.report.conftest import GateRun
from tests.report.html_checks import check_page

SCRIPT = "<script>window.pwned = true; document.title = 'pwned'</script>"
ATTRIBUTES = '" onmouseover="window.pwned=true" x=\'><img src=x onerror="window.pwned=true">'
CLOSING = "</title></style></pre></table></svg></section></body></html><iframe src='https://example.org/'></iframe>"
CONTROL = "\x1b[31mred\x1b]8;;https://example.org/\x07link\x00\x08\r\u202egnp.exe\u2066\ufeff\x9b2J"
MARKUP = "&amp; &lt; {{ 7 * 7 }} {% x %} | [a](http://evil)\n\n# head"
HOSTILE = f"evil {SCRIPT} {ATTRIBUTES} {CLOSING}\n{CONTROL} {MARKUP} {'w' * 400} $x_1$"
PRESET = """p"re'set<b>&\n#?%00"""
SCOPE = "</td>sc'ope\"\u202e"


def spoil(value: Any) -> Any:
    """The records of a run with hostile text wherever other people's text can stand."""
    if isinstance(value, dict):
        return {_spoil_key(key, value): _spoil_value(key, item) for key, item in value.items()}
    if isinstance(value, list):
        return [spoil(item) for item in value]
    return _rename(value) if isinstance(value, str) else value


def _rename(text: str) -> str:
    return text.replace("target_ratio_v3", PRESET).replace("front2_grouped_192_8", SCOPE)


def _spoil_key(key: str, owner: dict[str, Any]) -> str:
    is_text = key in ("delta_seq", "Drop stale per-layer pending plan") or key.startswith("gates/")
    return _rename(key) + HOSTILE if is_text and owner is not None else _rename(key)


def _spoil_value(key: str, value: Any) -> Any:
    if key in ("reason", "diagnosis", "why", "dump_dir", "origin", "source", "target_origin", "note"):
        return value if value is None else f"{value}{HOSTILE}"
    if key in ("notes", "not_measured", "incomplete_for"):
        return [*value, HOSTILE]
    if key == "argv":
        return ["./llm_bench", HOSTILE]
    if key == "config_path":
        return f"configs/{HOSTILE}.json"
    return spoil(value)


@pytest.fixture(scope="module")
def hostile_page(gate_run: GateRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    run = Path(shutil.copytree(gate_run.run_dir, folder / "run"))
    for name in ("summary.json", "run.json"):
        (run / name).write_text(json.dumps(spoil(gate_run.read(name))), encoding="utf-8")
    lines = [json.dumps(spoil(record)) for record in gate_run.journal]
    (run / "journal.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (run / _rename("target_ratio_v3") / "logs").mkdir(parents=True)
    log = run / PRESET / "logs" / "run_0003_p512_g128_k0.28_b8_lr3.4.log"
    log.write_text("")
    page = folder / "report.html"
    assert main(["report", str(run), "--out", str(page)]) == 0
    return page


def test_the_page_stays_whole(hostile_page: Path) -> None:
    text = hostile_page.read_text(encoding="utf-8")
    document = check_page(text)
    assert not any(char in text for char in "\x00\x08\x07\x1b\r\u202e\u2066\ufeff\x9b")
    assert "<script" not in text.lower()
    shown = document.all("main")[0].text
    for part in (SCRIPT, ATTRIBUTES, CLOSING, MARKUP, "\\x1b[31mred\\x1b]8;;"):
        assert part in shown, part
    assert "Preset p\"re'set<b>&\n#?%00" in [heading.text for heading in document.all("h2")]
    links = [a.attributes["href"] for a in document.all("a")]
    assert "run/p%22re%27set%3Cb%3E%26%0A%23%3F%2500/logs/run_0003_p512_g128_k0.28_b8_lr3.4.log" in links


def test_the_summary_stays_whole_too(hostile_page: Path) -> None:
    text = hostile_page.with_suffix(".md").read_text(encoding="utf-8")
    assert not [part for part in ("<script", "<img", "](") if part in text]
    assert not [line for line in text.splitlines() if line.startswith("# head")]


@needs_chromium
def test_a_browser_runs_and_fetches_nothing(hostile_page: Path, tmp_path: Path) -> None:
    measured = measure(hostile_page, tmp_path / "open", width=390, scheme="light")
    assert measured["pwned"] is False
    assert measured["requests"] == 0
    assert measured["page_width"] <= measured["width"] == 390
    dom = load(hostile_page, tmp_path / "profile")
    assert "<title>KV-cache compression gate: FAIL</title>" in dom
    check_page(dom.removeprefix("<!DOCTYPE html>"))


@needs_chromium
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_it_fits_and_can_be_read(width: int, scheme: Any, gate_run: GateRun, tmp_path: Path) -> None:
    measured = measure(gate_run.run_dir / "report.html", tmp_path / "page", width=width, scheme=scheme)
    assert measured["width"] == width
    assert measured["page_width"] <= width
    assert measured["charts"] == 13
    assert measured["squeezed"] == measured["covered"] == measured["outside"] == []
    assert measured["small"] == 0
    assert measured["background"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 19, 24)"}[scheme]
