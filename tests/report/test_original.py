"""Averages, best rows and verdicts where something is missing, which never passes; cli/test_commands has the values."""

import json
from dataclasses import replace
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench.recorded import read_recording
from pytest_h2o.bench.rows import Row
from pytest_h2o.errors import UsageError
from pytest_h2o.report.original import analyze_rows, collect_original, lossless_ratio_of, render_analysis_md
from tests.plugin.project import ROOT, SWEEP
from tests.sweeps import make_asked

EXPECTED = json.loads((ROOT / "fixtures" / "recordings" / "gate.expected.json").read_text(encoding="utf-8"))
ROWS = [result for _, result in sorted(read_recording(SWEEP).results.items())]
UPPER, ONLINE = (
    json.loads((ROOT / "fixtures" / EXPECTED[kind]).read_text(encoding="utf-8")) for kind in ("upper", "online")
)
ASKED = make_asked(lossy=3.0, lossless=1.3, decode_drop=0.05)


def without(rows: list[Row], column: str, *, number: int = 0) -> list[Row]:
    """The rows, one of them without a column."""
    cells = {name: cell for name, cell in rows[number].cells.items() if name != column}
    changed = Row.from_cells(cells, log_file=rows[number].log_file, repeat=3)
    return [*rows[:number], changed, *rows[number + 1 :]]


def analyze(rows: list[Row] = ROWS, thresholds: dict[str, float] = ASKED, **changes: Any) -> dict[str, Any]:
    settings = {
        "baseline_tok_per_s": 56.02,
        "decode_left_out": False,
        "upper": UPPER,
        "online": ONLINE,
        "rule": "joint",
        **changes,
    }
    return analyze_rows(rows, thresholds, **settings)


def test_the_lossless_ratio_is_that_of_the_best_source_there_is() -> None:
    def selected(**sources: Any) -> tuple[str, str]:
        given = {"upper": None, "online": None, **sources}
        facts = collect_original(ROWS, ASKED, baseline_tok_per_s=None, **given).averages
        return facts["Lossless selected source"], facts["Lossless selected value"]

    assert selected(upper=UPPER, online=ONLINE) == ("offline_online_sim", "1.4676")
    assert selected(upper=UPPER) == ("offline_upper_bound", "1.5300")
    assert selected() == ("runtime", "1.3782")
    assert lossless_ratio_of({"weighted_lossless_ratio": 1.25, "lossless_ratio": 1.5}, "x") == 1.25


def test_an_upper_bound_is_shown_and_does_not_decide() -> None:
    gate = collect_original(ROWS, ASKED, baseline_tok_per_s=None, upper=UPPER, online=None).gate
    assert (gate["lossless_selected_value"], gate["lossless_selected_pass"]) == ("1.5300", "true")
    assert (gate["lossless_online_value"], gate["lossless_online_pass"]) == ("missing", "false")
    assert (gate["overall_pass"], gate["quality_status"]) == ("false", "FAIL")
    assert "decode_pass" not in gate, "there is no baseline"


def test_a_missing_column_is_missing_and_not_0() -> None:
    facts = collect_original(without(ROWS, "h2o_lossy"), ASKED, baseline_tok_per_s=None, upper=None, online=ONLINE)
    assert facts.averages["Avg lossy ratio"] == "missing"
    assert facts.averages["Avg total ratio (selected)"] == "missing"
    assert facts.averages["Avg keep ratio"] == EXPECTED["averages"]["Avg keep ratio"]
    nothing = collect_original([], ASKED, baseline_tok_per_s=50.0, upper=None, online=None)
    assert nothing.averages["Lossless selected source"] == "none"
    assert (nothing.gate["lossy_best"], nothing.gate["decode_best"]) == ("missing", "missing")
    assert nothing.gate["overall_pass"] == "false"
    assert nothing.top == []


@pytest.mark.parametrize(
    "result", [{}, {"lossless_ratio": 0}, {"lossless_ratio": float("nan")}, {"weighted_lossless_ratio": "1.4"},
               {"weighted_lossless_ratio": True}, {"weighted_lossless_ratio": -1.0, "lossless_ratio": 1.4}]
)  # fmt: skip
def test_a_lossless_result_without_a_ratio_is_refused(result: dict[str, Any], snapshot: SnapshotAssertion) -> None:
    with pytest.raises(UsageError) as caught:
        lossless_ratio_of(result, "online.json")
    assert str(caught.value) == snapshot


def test_the_rules_differ_where_no_row_has_both(snapshot: SnapshotAssertion) -> None:
    cells = {**ROWS[5].cells, "h2o_lossy": "2.990 ± 0.056"}
    rows = [*ROWS[:5], Row.from_cells(cells, log_file=ROWS[5].log_file, repeat=3), *ROWS[6:]]
    joint, best_of = (
        analyze(rows, baseline_tok_per_s=70.0, rule=rule, decode_over=over)
        for rule, over in (("joint", "best"), ("best-of", None))
    )
    assert joint["overall_pass"] is False
    assert best_of["overall_pass"] is True
    assert joint["joint"] == {"pass": False, "best_row": ROWS[5].log_file, "misses": ["lossy"]}
    assert render_analysis_md(joint) == snapshot


def test_decode_left_out_on_purpose_is_said() -> None:
    analysis = analyze(baseline_tok_per_s=None, decode_left_out=True)
    assert analysis["overall_pass"] is True
    assert analysis["missing"] == []
    assert "- the decode threshold is left out on purpose (--decode-baseline none)\n" in render_analysis_md(analysis)


def test_rows_without_the_columns_fail() -> None:
    rows = [without([row], "h2o_lossy")[0] for row in ROWS]
    analysis = analyze(rows)
    assert analysis["overall_pass"] is False
    assert analysis["joint"]["misses"] == ["lossy"]
    assert analyze([])["overall_pass"] is False
    assert analyze([])["joint"] == {"pass": False, "best_row": None, "misses": []}


def test_a_log_name_cannot_break_the_page() -> None:
    row = replace(ROWS[2], log_file="logs/<script>|x|.log")
    text = render_analysis_md(analyze([row]))
    assert "<script>" not in text
    assert "logs/&lt;script>\\|x\\|.log" in text
