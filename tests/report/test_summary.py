"""The run in one value, as JSON, as Markdown and on the terminal: the verdict first, and nothing that breaks a page."""

import errno
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.files import load
from pytest_h2o.report.artifacts import RunRecords, read_run
from pytest_h2o.report.build import build_summary
from pytest_h2o.report.changes import escape, render_summary_md
from pytest_h2o.report.summary import (
    LaunchRange,
    Preset,
    Reason,
    Section,
    Summary,
    Verdict,
    WorstRow,
    count_rows,
    headline,
    key_figures,
    matrix,
    next_steps,
    range_rows,
)
from pytest_h2o.report.terminal import render_terminal
from pytest_h2o.run.journal import Collector
from tests.report.conftest import GateRun

PRESET = "target_ratio_v3"


@pytest.fixture(scope="module")
def passed(recorded_gate: tuple[pytest.RunResult, Path]) -> Summary:
    return read_run(recorded_gate[1]).summary


def test_it_is_read_back_as_it_was_written(passed: Summary, old_run: Path, gate_run: GateRun) -> None:
    assert load(Summary, json.dumps(passed.to_json(), allow_nan=False), "the summary") == passed
    for folder in (old_run, gate_run.run_dir):
        written = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        assert load(Summary, written, "the summary").to_json() == written


@pytest.mark.parametrize("folder", ["kept", "of_others", "full"])
def test_compiled_templates_change_nothing(
    folder: str, old_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    compiled = tmp_path / f"_jinja2-cache-{os.getuid()}"
    if folder == "of_others":
        compiled.write_bytes(b"")  # no folder can be made
    elif folder == "full":
        monkeypatch.setattr(tempfile, "NamedTemporaryFile", Mock(side_effect=OSError(errno.ENOSPC, "no space left")))
    for _ in range(2):
        assert render_summary_md(read_run(old_run).summary) == (old_run / "summary.md").read_text(encoding="utf-8")
    assert (folder == "kept") == (compiled.is_dir() and bool(list(compiled.iterdir())))


def test_the_last_lines_on_the_terminal(old_run: Path, snapshot: SnapshotAssertion) -> None:
    """Of a run with pairs and a comparison; those of others are looked at in tests/plugin."""
    assert "\n".join(render_terminal(read_run(old_run).summary, Path("runs/0"))) == snapshot


def test_what_is_known_in_a_sentence(passed: Summary, old_run: Path, snapshot: SnapshotAssertion) -> None:
    preset = passed.presets[PRESET]
    lossy, decode = (next(v for v in preset.verdicts if v.metric == name) for name in ("h2o_lossy", "decode_drop"))

    def with_lossy(outcome: str, count: int = 1) -> dict[str, Preset]:
        verdicts = [replace(lossy, outcome=outcome)]
        return {name: replace(preset, verdicts=verdicts) for name in [PRESET, "other"][:count]}

    def alone(*verdicts: Verdict) -> dict[str, Any]:
        return {"presets": {PRESET: replace(preset, verdicts=list(verdicts))}, "scopes": {}}

    changes: dict[str, dict[str, Any]] = {
        "missed": {"presets": with_lossy("fail")},
        "missed twice": {"presets": with_lossy("fail", 2)},
        "not measured": {"failed": [Reason("test_bench[a]", "no log"), Reason("test_bench[b]", "no log")]},
        "pytest failed": {"overall_pass": False, "exit_status": 3},
        "not told": {"overall_pass": "inconclusive", "presets": with_lossy("inconclusive", 2)},
        "incomplete": {"incomplete_for": ["x was not asked", "y"]},
        "no target": {"presets": with_lossy("reported"), "scopes": {}},
        # One scale for ratios and fractions: 0.4 of the target of 0.10 is more than 0.1267 of that of 3.000.
        "nearest": alone(lossy, replace(decode, target_value=0.1, margin_value=0.04, outcome="pass")),
        "none near": alone(replace(lossy, target_value=0.0), replace(lossy, target_value=None)),
    }
    assert {name: headline(replace(passed, **changed)) for name, changed in changes.items()} == snapshot
    assert next_steps(replace(passed, overall_pass=False)) == []
    assert next_steps(replace(passed, overall_pass="incomplete", incomplete_for=["x"]))[0].startswith("run without -k")
    worse = replace(lossy, margin_value=0.03)
    figures = key_figures(replace(passed, presets={**passed.presets, "near": replace(preset, verdicts=[worse])}))
    assert next((name, v.metric) for name, v in figures) == ("near", "h2o_lossy"), "the one with the least to spare"
    heads, rows = matrix(read_run(old_run).summary)
    smoke = dict(zip(heads, rows[0], strict=True))
    assert smoke["decode slow-down"] == ("? -0.06%", "inconclusive")
    assert smoke["lossless ratio"] == ("", "")


def test_a_note_of_several_presets_is_told_once(passed: Summary) -> None:
    preset = replace(passed.presets[PRESET], notes=["the machine was busy"])
    lines = render_terminal(replace(passed, presets={"a": preset, "b": preset}), Path("runs/1"))
    assert [line for line in lines if "busy" in line] == ["note of 2 presets (a, b): the machine was busy"]


def test_a_note_of_a_preset_and_its_workloads_is_told_once_and_a_count_with_each(
    passed: Summary, snapshot: SnapshotAssertion
) -> None:
    preset = replace(passed.presets[PRESET], notes=["the machine was busy", "18 launches"])
    below = {name: replace(preset, workload=name.partition("-")[2]) for name in ("work-p96", "work-p480")}
    presets = {"work": replace(preset, workloads=list(below)), **below}
    summary = replace(passed, presets=presets)
    assert "\n".join(render_terminal(summary, Path("runs/1"))) == snapshot
    text = render_summary_md(summary)
    assert (text.count("the machine was busy"), text.count("18 launches")) == (1, 2)


def test_launches_of_one_point_are_counted_and_only_what_differs_is_shown(passed: Summary) -> None:
    def ranged(metric: str, title: str, largest: float) -> LaunchRange:
        return LaunchRange(metric, title, 0.006, largest, "run_0001")

    launched = [ranged("quality_ppl_rise", "rise", 0.0085), ranged("h2o_keep", "keep ratio", 0.006)]
    launched.append(ranged("h2o_lossless_async_wait_us", "wait", 7.0))
    preset = replace(passed.presets[PRESET], rows=4, launches=8, launched=launched, coding=[])
    assert count_rows(preset) == "4 rows of 4 runs, 8 launches"
    assert range_rows(preset) == [["rise", "+0.60%", "+0.85%", "run_0001"]]
    raw, fallbacks = (
        WorstRow(f"h2o_lossless_{name}", name, text, value, None, "run_0001")
        for name, text, value in (("raw_mb", "2.00 MB", 2.0), ("fallback", "0.00", 0.0))
    )
    for coding, shown in (([raw, fallbacks], ["raw_mb 2.00 MB"]), ([replace(raw, value=0.0), fallbacks], [])):
        coded = replace(preset, coding=coding)
        assert len(range_rows(coded)) == 2
        lines = " ".join(line.strip() for line in render_terminal(replace(passed, presets={"a": coded}), Path("r")))
        assert ("the worst row in each: raw_mb 2.00 MB warnings" in lines) == bool(shown)


def test_records_that_arrive_twice_are_merged(records: RunRecords, gate_run: GateRun, tmp_path: Path) -> None:
    """Workers hand over what each of them has read; the order in which they end makes no difference."""
    other = Collector(tmp_path, records.collector.settings)
    for record in [*reversed(gate_run.journal), *gate_run.journal]:
        other.add(json.dumps(record), duration_s=0.2)
    assert build_summary(other) == build_summary(records.collector)


HOSTILE = {
    "<script>alert(1)</script>": "&lt;script>alert(1)&lt;/script>",
    "[click](http://evil)": "[click]\\(http://evil)",
    "![x](http://evil/x.png)": "![x]\\(http://evil/x.png)",
    "[x]: http://evil": "\\[x]: http://evil",
    "a | b": "a \\| b",
    "a\n\n# heading": "a # heading",
    "# heading": "\\# heading",
    "> quote": "\\> quote",
    "- item": "\\- item",
    "---": "\\---",
    "1. item": "1\\. item",
    "`code`": "\\`code\\`",
    "\\|": "\\\\\\|",
    "&lt;b>": "&amp;lt;b>",
    "\x1b[31mred\x1b[0m": "\\\\x1b[31mred\\\\x1b[0m",
    "\u202eback": "\\\\u202eback",
    "test_lossy[target_ratio_v3]": "test_lossy[target_ratio_v3]",
    "-19.17%": "-19.17%",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_it_is(text: str, passed: Summary) -> None:
    assert escape(text) == HOSTILE[text]
    section = Section(text, [{"text": text}, {"list": [text]}, {"caption": text, "header": [text], "rows": [[text]]}])
    told, shown = render_summary_md(replace(passed, sections=[section])), HOSTILE[text]
    table = f"{shown}:\n\n| {shown} |\n| --- |\n| {shown} |\n"
    assert told.endswith(f"\n\n## {shown}\n\n{shown}\n\n- {shown}\n\n{table}")
