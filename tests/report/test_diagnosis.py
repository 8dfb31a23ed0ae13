"""The whole text of a failure, of each kind. The texts are in goldens/; one that is missing fails its test."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_h2o.errors import NotMeasured
from pytest_h2o.gate.rule import decide_best_of
from pytest_h2o.gate.values import Measured, Target
from pytest_h2o.report.diagnosis import explain_comparison
from pytest_h2o.run.session import GateSession
from tests.plugin.project import Project, drop_column, log_of, replace_in
from tests.report.gate_items import (
    check_comparison,
    fix_places,
    load_gate_file,
    make_session,
    preset_item,
    scope_item,
    tell_failure,
)

PRESET = "target_ratio_v3"
DECIDING = "front2_grouped_192_8"
GOLDENS = Path(__file__).parent / "goldens"

sweep_gates, dump_gates = load_gate_file("test_sweep"), load_gate_file("test_dumps")


def check_golden(name: str, text: str) -> None:
    assert text == (GOLDENS / f"{name}.txt").read_text(encoding="utf-8")


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


def test_lossy(tmp_path: Path) -> None:
    session = make_session(tmp_path, lossy_target="3.5")
    check_golden("lossy", fix_places(tell_sweep(session, "lossy")))


def test_decode(tmp_path: Path) -> None:
    session = make_session(tmp_path, decode_baseline="71", decode_drop_target="0.025")
    check_golden("decode", fix_places(tell_sweep(session, "decode")))


def test_a_comparison_of_a_gate_file_of_the_users(tmp_path: Path) -> None:
    item = preset_item(make_session(tmp_path), PRESET)

    def gate() -> None:
        assert item.best("h2o_keep") <= 0.29

    check_golden("own_gate", fix_places(tell_failure(item, "test_own", gate)))


def test_joint(project: Project) -> None:
    """No row is fast enough and evicts enough: the best-of rule would pass."""
    replace_in(log_of(project.copy_recordings(), 6), "3.358 ± 0.056", "2.990 ± 0.056")
    session = make_session(project.path, logs="recordings", decode_baseline="70")
    check_golden("joint", fix_places(tell_sweep(session, "joint"), PROJECT=project.path))


def test_joint_where_the_lossless_ratio_is_what_is_missed(tmp_path: Path) -> None:
    session = make_session(tmp_path, lossless_target="1.4676", decode_baseline="none")
    check_golden("joint_lossless", fix_places(tell_sweep(session, "joint")))


def test_lossless(tmp_path: Path) -> None:
    session = make_session(tmp_path, lossless_target="1.5")
    check_golden("lossless", fix_places(tell_scope(session, "lossless")))


# -- what is missing -----------------------------------------------------------------------------------------------


def test_no_baseline(project: Project) -> None:
    log = project.copy_recordings() / "logs" / "baseline_h2o_off.log"
    replace_in(log, "|     2 |", "|     4 |")
    session = make_session(project.path, logs="recordings")
    check_golden("no_baseline", fix_places(tell_sweep(session, "decode"), PROJECT=project.path))


def test_missing_column(project: Project) -> None:
    drop_column(log_of(project.copy_recordings(), 5), "h2o_lossy")
    session = make_session(project.path, logs="recordings")
    check_golden("missing_column", fix_places(tell_point(session, 5), PROJECT=project.path))
    check_golden("missing_column_sweep", fix_places(tell_sweep(session, "lossy"), PROJECT=project.path))


def test_not_measured(tmp_path: Path) -> None:
    session = make_session(tmp_path)
    item = preset_item(session, "target_speed_v3")
    told = tell_failure(item, "test_lossy", lambda: sweep_gates.test_lossy(item, item.targets))
    check_golden("not_measured", fix_places(told))


def test_unreadable_dump(project: Project) -> None:
    short = project.copy_dump() / "code" / "layer_0" / "k_t0_463.bin"
    short.write_bytes(short.read_bytes()[:-1])
    session = make_session(project.path, project.path / "gates")
    check_golden("unreadable_dump", fix_places(tell_scope(session, "roundtrip"), PROJECT=project.path))


# -- a bench that fails --------------------------------------------------------------------------------------------


@pytest.fixture
def crashing(project: Project, monkeypatch: pytest.MonkeyPatch) -> GateSession:
    project.make_bench(run_="crash")
    for name, value in project.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tempfile.tempdir", str(project.path))  # a machine lock of our own
    return make_session(project.path, bench="llm_bench", base_config="model.json", threads="2", no_fold="yes")


def test_bench_crash(crashing: GateSession, project: Project) -> None:
    check_golden("bench_crash", fix_places(tell_point(crashing, 1), PROJECT=project.path))


def test_bench_crash_of_a_whole_preset(crashing: GateSession, project: Project) -> None:
    check_golden("bench_crash_sweep", fix_places(tell_sweep(crashing, "lossy"), PROJECT=project.path))


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
    assert "\nrows       not shown: no baseline: nothing says how fast decode is\nrepeat     pytest " in told


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


def test_every_golden_is_used() -> None:
    texts = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_diagnosis*.py")]
    used = re.findall(r'check_golden\("(\w+)"', "".join(texts))
    assert sorted(path.stem for path in GOLDENS.iterdir()) == sorted(used)


def test_the_readme_shows_the_rows_as_they_are_told() -> None:
    """From the first row to the last warning: what does not depend on where the clone lies."""
    golden = (GOLDENS / "lossy.txt").read_text(encoding="utf-8")
    shown = golden[golden.index("target     >=") : golden.index("log        ")]
    assert shown in (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
