"""The whole text of a failure, of each kind: what is missed, missing, crashed, slower, or worse than it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.codecs.adaptive_v22 import AdaptiveV22
from pytest_h2o.codecs.base import SideInfo, Words
from pytest_h2o.errors import NotMeasured
from pytest_h2o.gate.rule import decide_best_of
from pytest_h2o.gate.values import Measured, Target
from pytest_h2o.report.diagnosis import explain_comparison
from pytest_h2o.run.session import GateSession
from tests.plugin.project import ROOT, Project, drop_column, log_of, replace_in
from tests.report.gate_items import (
    check_comparison,
    fix_places,
    load_gate_file,
    make_comparison,
    make_session,
    preset_item,
    scope_item,
    tell_failure,
)
from tests.sweeps import record_pairs

PRESET = "target_ratio_v3"
DECIDING = "front2_grouped_192_8"

sweep_gates, dump_gates = load_gate_file("test_sweep"), load_gate_file("test_dumps")


def tell_sweep(session: GateSession, kind: str) -> str:
    """What test_lossy, test_decode or test_joint of the preset says."""
    item = preset_item(session, PRESET)
    arguments = (item,) if kind == "joint" else (item, item.targets)
    return tell_failure(item, f"test_{kind}", lambda: getattr(sweep_gates, f"test_{kind}")(*arguments))


def tell_point(session: GateSession, number: int) -> str:
    item = preset_item(session, PRESET, number - 1)
    return tell_failure(item, "test_bench", lambda: sweep_gates.test_bench(item))


def tell_scope(session: GateSession, kind: str, scope: str = DECIDING) -> str:
    item = scope_item(session, scope)
    arguments = (item,) if kind == "roundtrip" else (item, item.targets)
    return tell_failure(item, f"test_{kind}", lambda: getattr(dump_gates, f"test_{kind}")(*arguments))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


# -- a target that is missed ---------------------------------------------------------------------------------------


def test_lossy(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    session = make_session(tmp_path, lossy_target="3.5")
    told = fix_places(tell_sweep(session, "lossy"))
    assert told == snapshot(name="lossy")
    # From the first row to the last warning: what does not depend on where the clone lies.
    shown = told[told.index("target     >=") : told.index("log        ")]
    assert shown in (ROOT / "README.md").read_text(encoding="utf-8")


def test_decode(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    session = make_session(tmp_path, decode_baseline="71", decode_drop_target="0.025")
    assert fix_places(tell_sweep(session, "decode")) == snapshot(name="decode")


def test_a_comparison_of_a_gate_file_of_the_users(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    item = preset_item(make_session(tmp_path), PRESET)

    def gate() -> None:
        assert item.best("h2o_keep") <= 0.29

    assert fix_places(tell_failure(item, "test_own", gate)) == snapshot(name="own_gate")


def test_joint(project: Project, snapshot: SnapshotAssertion) -> None:
    """No row is fast enough and evicts enough: the best-of rule would pass."""
    replace_in(log_of(project.copy_recordings(), 6), "3.358 ± 0.056", "2.990 ± 0.056")
    session = make_session(project.path, logs="recordings", decode_baseline="70")
    assert fix_places(tell_sweep(session, "joint"), PROJECT=project.path) == snapshot(name="joint")


def test_joint_where_the_lossless_ratio_is_what_is_missed(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    session = make_session(tmp_path, lossless_target="1.4676", decode_baseline="none")
    assert fix_places(tell_sweep(session, "joint")) == snapshot(name="joint_lossless")


def test_lossless(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    session = make_session(tmp_path, lossless_target="1.5")
    assert fix_places(tell_scope(session, "lossless")) == snapshot(name="lossless")


# -- what is missing -----------------------------------------------------------------------------------------------


def test_no_baseline(project: Project, snapshot: SnapshotAssertion) -> None:
    log = project.copy_recordings() / "logs" / "baseline_h2o_off.log"
    replace_in(log, "|     2 |", "|     4 |")
    session = make_session(project.path, logs="recordings")
    assert fix_places(tell_sweep(session, "decode"), PROJECT=project.path) == snapshot(name="no_baseline")


def test_missing_column(project: Project, snapshot: SnapshotAssertion) -> None:
    drop_column(log_of(project.copy_recordings(), 5), "h2o_lossy")
    session = make_session(project.path, logs="recordings")
    assert fix_places(tell_point(session, 5), PROJECT=project.path) == snapshot(name="missing_column")
    assert fix_places(tell_sweep(session, "lossy"), PROJECT=project.path) == snapshot(name="missing_column_sweep")


def test_not_measured(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    session = make_session(tmp_path)
    item = preset_item(session, "target_speed_v3")
    told = tell_failure(item, "test_lossy", lambda: sweep_gates.test_lossy(item, item.targets))
    assert fix_places(told) == snapshot(name="not_measured")


def test_unreadable_dump(project: Project, snapshot: SnapshotAssertion) -> None:
    short = project.copy_dump() / "code" / "layer_0" / "k_t0_463.bin"
    short.write_bytes(short.read_bytes()[:-1])
    session = make_session(project.path, project.path / "gates")
    assert fix_places(tell_scope(session, "roundtrip"), PROJECT=project.path) == snapshot(name="unreadable_dump")


# -- a bench that fails --------------------------------------------------------------------------------------------


@pytest.fixture
def crashing(project: Project, monkeypatch: pytest.MonkeyPatch) -> GateSession:
    project.make_bench(run_="crash")
    for name, value in project.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tempfile.tempdir", str(project.path))  # a machine lock of our own
    return make_session(project.path, bench="llm_bench", base_config="model.json", threads="2", no_fold="yes")


def test_bench_crash(crashing: GateSession, project: Project, snapshot: SnapshotAssertion) -> None:
    assert fix_places(tell_point(crashing, 1), PROJECT=project.path) == snapshot(name="bench_crash")


@pytest.mark.slow
def test_bench_crash_of_a_whole_preset(crashing: GateSession, project: Project, snapshot: SnapshotAssertion) -> None:
    assert fix_places(tell_sweep(crashing, "lossy"), PROJECT=project.path) == snapshot(name="bench_crash_sweep")


TIMED = "run_0006_p512_g128_k0.28_b16_lr3.4"
regression_gates = load_gate_file("test_regression")


def keep_pairs(
    project: Project,
    drops: Sequence[float],
    stopped: str = "the verdict is clear after 7 pairs",
    kv_len: int | None = None,
) -> None:
    """Pairs of the timed row beside the recordings, as a run folder has them: 60 tok/s with H2O off."""
    folder = project.copy_recordings() / "decode"
    again = ("pair_02_baseline: others used 1.9 of 2 cores (up to 0.7 are taken for quiet)",)
    record_pairs(folder, TIMED, drops, stopped=stopped, measured_again=again, kv_len=kv_len)


# -- pairs of launches ---------------------------------------------------------------------------------------------


def test_pairs_that_are_slower(project: Project, snapshot: SnapshotAssertion) -> None:
    keep_pairs(project, [0.12, 0.11, 0.13, 0.10, 0.14, 0.12, 0.11])
    session = make_session(project.path, logs="recordings")
    assert fix_places(tell_sweep(session, "decode"), PROJECT=project.path) == snapshot(name="paired_decode")
    assert fix_places(tell_sweep(session, "joint"), PROJECT=project.path) == snapshot(name="paired_joint")


def test_pairs_that_cannot_tell_where_that_fails(project: Project, snapshot: SnapshotAssertion) -> None:
    keep_pairs(project, [0.01, 0.09, 0.02, 0.08, 0.0, 0.1, 0.05, 0.04], "a clear verdict is out of reach")
    session = make_session(project.path, logs="recordings", inconclusive="fail")
    assert fix_places(tell_sweep(session, "decode"), PROJECT=project.path) == snapshot(name="paired_inconclusive")


def test_pairs_that_cannot_be_compared(project: Project, snapshot: SnapshotAssertion) -> None:
    keep_pairs(project, [0.01, 0.02], "not one pair can be compared", kv_len=2566)
    session = make_session(project.path, logs="recordings", inconclusive="fail")
    assert fix_places(tell_sweep(session, "decode"), PROJECT=project.path) == snapshot(name="paired_not_comparable")


# -- an earlier run ------------------------------------------------------------------------------------------------


def test_a_figure_that_is_worse_than_in_a_baseline(project: Project, snapshot: SnapshotAssertion) -> None:
    item = make_comparison(project.path)
    told = tell_failure(item, "test_no_regression", lambda: regression_gates.test_no_regression(item))
    assert fix_places(told, PROJECT=project.path) == snapshot(name="regression")


# -- a codec, a time limit -----------------------------------------------------------------------------------------


def test_a_stream_that_comes_back_with_other_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    def decode(self: AdaptiveV22, payload: bytes | memoryview, side: SideInfo) -> Words:
        words = np.full(side.shape, 0x3C00, np.uint16)
        words[-1, -1, -1] = 0xBC00
        return words

    monkeypatch.setattr(AdaptiveV22, "decode", decode)
    monkeypatch.setattr("pytest_h2o.lossless.executors.usable_cores", lambda: 1)  # else either stream may be the first
    told = fix_places(tell_scope(make_session(tmp_path), "roundtrip"))
    assert told == snapshot(name="roundtrip")


def test_a_bench_that_does_not_end(
    project: Project, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    project.make_bench(run_="hang")
    for name, value in project.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tempfile.tempdir", str(project.path))  # a machine lock of our own
    options = {"bench": "llm_bench", "base_config": "model.json", "threads": "2", "bench_timeout": "4"}
    session = make_session(project.path, **options)
    assert fix_places(tell_point(session, 1), PROJECT=project.path) == snapshot(name="bench_timeout")


# -- a diagnosis never stands in the way -----------------------------------------------------------------------------


def broken_dump(project: Project) -> dict[str, str]:
    return {"dump_dir": "nowhere"}


def broken_baseline(project: Project) -> dict[str, str]:
    (project.copy_recordings() / "logs" / "baseline_h2o_off.log").unlink()
    return {"logs": "recordings"}


@pytest.mark.parametrize("damage", [broken_dump, broken_baseline])
def test_a_missed_target_is_told_where_other_figures_are_missing(
    damage: Callable[[Project], dict[str, str]], project: Project
) -> None:
    """What only the joint rule needs is not asked for, and a diagnosis that lacks it is still one."""
    session = make_session(project.path, lossy_target="3.5", **damage(project))
    told = tell_sweep(session, "lossy")
    assert "not shown" not in told
    assert "measured   3.380 ± 0.019 on run_0003" in told
    assert "     3.380     64.34  lossy            run_0003" in told
    assert "\nrepeat     pytest 'gates/test_sweep.py::test_lossy[target_ratio_v3]' --h2o-" in told


def test_a_part_that_cannot_be_shown_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_rows(*_: object) -> list[str]:
        raise NotMeasured("no baseline: nothing says how fast decode is")

    monkeypatch.setattr("pytest_h2o.report.diagnosis._row_lines", no_rows)
    told = tell_sweep(make_session(tmp_path, lossy_target="3.5"), "lossy")
    assert "\nrows       not shown: no baseline: nothing says how fast decode is\n" in told
    assert "\nrepeat     pytest " in told


# -- comparisons ---------------------------------------------------------------------------------------------------


def test_a_comparison_shows_as_many_digits_as_tell_the_two_apart() -> None:
    check_comparison(
        Measured("lossless_ratio", 1.467564578551945, "scope"),
        ">=",
        Target("lossless_ratio", 1.4676, "default"),
        "lossless ratio 1.46756 >= 1.4676",
        "missed by 0.00004 (0.002% of the target); target from default; measured on scope",
    )
    check_comparison(
        Measured("joint_margin", -3e-7, "run"),
        ">=",
        0.0,
        "no row meets every target; the nearest misses by 0.00003%",
        "target from gate file; measured on run",
    )
    check_comparison(
        Measured("decode_drop", 0.05001, "run"),
        "<=",
        Target("decode_drop", 0.05, "default"),
        "decode slow-down 5.001% <= 5.00%",
        "missed by 0.001% of the baseline speed; target from default; measured on run",
    )


def test_a_joint_margin_is_told_in_words_only_where_a_target_is_missed() -> None:
    best = Measured("joint_margin", -0.0343, decide_best_of([], {}).margins.run_id)
    check_comparison(
        best,
        ">=",
        0.0,
        "the best of each column together do not meet every target; they miss by 3.43%",
        "target from gate file; measured on best of each column",
    )
    lines = explain_comparison(Measured("joint_margin", 0.01, "run"), ">=", 0.05)
    assert lines is not None
    assert lines[0] == "joint margin +1.00% >= +5.00%"


def test_a_target_is_shown_as_it_was_given() -> None:
    assert repr(Target("h2o_lossy", 3.38125, "default")) == "3.38125"
    assert repr(Target("decode_drop", 0.0123, "default")) == "1.23%"
    assert repr(Target("decode_drop", 0.01234, "default")) == "1.234%"
    assert repr(Target("decode_tok_per_s", 56.0, "default")) == "56.00 tok/s"


def test_a_value_that_is_no_number_is_said_to_be_missed() -> None:
    check_comparison(
        Measured("h2o_lossy", float("nan"), "run"),
        ">=",
        3.0,
        "lossy ratio nan >= 3.000",
        "a value is missing or not a number, so the target is missed; target from gate file; measured on run",
    )


@pytest.mark.parametrize(("op", "right"), [("==", 3.0), (">", 3.0), (">=", "3")])
def test_other_comparisons_are_left_to_pytest(op: str, right: object) -> None:
    assert explain_comparison(Measured("h2o_lossy", 2.0, "run"), op, right) is None
