"""The whole text of a failure, of each kind: what is missed, missing, crashed, slower, or worse than it was."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

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
from tests.plugin.project import ROOT, Project
from tests.report.gate_items import (
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
TIMED = "run_0006_p512_g128_k0.28_b16_lr3.4"
Change = Callable[[Project], object]
sweep_gates, dump_gates, regression_gates = map(load_gate_file, ("test_sweep", "test_dumps", "test_regression"))


def tell_sweep(session: GateSession, kind: str) -> str:
    """What test_lossy, test_decode or test_joint of the preset says."""
    item = preset_item(session, PRESET)
    arguments = (item,) if kind == "joint" else (item, item.targets)
    return tell_failure(item, f"test_{kind}", lambda: getattr(sweep_gates, f"test_{kind}")(*arguments))


lossy, decode, joint = (partial(tell_sweep, kind=kind) for kind in ("lossy", "decode", "joint"))


def pairs(*drops: float, stopped: str = "the verdict is clear after 7 pairs", kv_len: int | None = None) -> Change:
    """Pairs of the timed row beside the recordings, as a run folder has them: 60 tok/s with H2O off."""
    again = ("pair_02_baseline: others used 1.9 of 2 cores (up to 0.7 are taken for quiet)",)

    def change(project: Project) -> None:
        folder = project.copy_recordings() / "decode"
        record_pairs(folder, TIMED, drops, stopped=stopped, measured_again=again, kv_len=kv_len)

    return change


slower = pairs(0.12, 0.11, 0.13, 0.10, 0.14, 0.12, 0.11)
unclear = pairs(0.01, 0.09, 0.02, 0.08, 0.0, 0.1, 0.05, 0.04, stopped="a clear verdict is out of reach")
unlike = pairs(0.01, 0.02, stopped="not one pair can be compared", kv_len=2566)
RECORDED = {"logs": "recordings"}
FAILURES: dict[str, tuple[Change | None, dict[str, str], Callable[[GateSession], str]]] = {
    "lossy": (None, {"lossy_target": "3.5"}, lossy),
    "joint_lossless": (None, {"lossless_target": "1.4676", "decode_baseline": "none"}, joint),
    "paired_decode": (slower, RECORDED, decode),
    "paired_joint": (slower, RECORDED, joint),
    "paired_inconclusive": (unclear, {**RECORDED, "inconclusive": "fail"}, decode),
    "paired_not_comparable": (unlike, {**RECORDED, "inconclusive": "fail"}, decode),
}


@pytest.mark.parametrize("name", FAILURES)
def test_the_whole_text_of_a_failure(name: str, project: Project, snapshot: SnapshotAssertion) -> None:
    """Others stand in tests/plugin/test_verdicts.py and test_live_bench.py, of whole gates."""
    change, options, tell = FAILURES[name]
    if change is not None:
        change(project)
    session = make_session(project.path, project.path / "gates", **options)
    told = fix_places(tell(session), PROJECT=project.path)
    assert told == snapshot
    if name == "lossy":  # from the first row to the last warning: what does not depend on where the clone lies
        shown = told[told.index("target     >=") : told.index("log        ")]
        assert shown in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_figure_that_is_worse_than_in_a_baseline(project: Project, snapshot: SnapshotAssertion) -> None:
    item = make_comparison(project.path)
    told = tell_failure(item, "test_no_regression", lambda: regression_gates.test_no_regression(item))
    assert fix_places(told, PROJECT=project.path) == snapshot


def test_a_stream_that_comes_back_with_other_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    def decode(self: AdaptiveV22, payload: bytes | memoryview, side: SideInfo) -> Words:
        words = np.full(side.shape, 0x3C00, np.uint16)
        words[-1, -1, -1] = 0xBC00
        return words

    monkeypatch.setattr(AdaptiveV22, "decode", decode)
    monkeypatch.setattr("pytest_h2o.lossless.executors.usable_cores", lambda: 1)  # else either stream may be the first
    item = scope_item(make_session(tmp_path), "front2_grouped_192_8")
    assert fix_places(tell_failure(item, "test_roundtrip", lambda: dump_gates.test_roundtrip(item))) == snapshot


@pytest.mark.parametrize("options", [{"dump_dir": "nowhere"}, {"logs": "recordings"}])
def test_a_missed_target_is_told_where_other_figures_are_missing(options: dict[str, str], project: Project) -> None:
    """What only the joint rule needs is not asked for, and a diagnosis that lacks it is still one."""
    (project.copy_recordings() / "logs" / "baseline_h2o_off.log").unlink()
    told = tell_sweep(make_session(project.path, lossy_target="3.5", **options), "lossy")
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


BEST_OF = decide_best_of([], {}).margins.run_id


@pytest.mark.parametrize(
    ("measured", "op", "right"),
    [
        # as many digits as tell the two apart
        (Measured("lossless_ratio", 1.467564578551945, "scope"), ">=", Target("lossless_ratio", 1.4676, "default")),
        (Measured("joint_margin", -3e-7, "run"), ">=", 0.0),
        (Measured("decode_drop", 0.05001, "run"), "<=", Target("decode_drop", 0.05, "default")),
        # a joint margin is told in words only where a target is missed
        (Measured("joint_margin", -0.0343, BEST_OF), ">=", 0.0),
        (Measured("joint_margin", 0.01, "run"), ">=", 0.05),
        # what is no number is missed; other comparisons are left to pytest
        (Measured("h2o_lossy", float("nan"), "run"), ">=", Target("h2o_lossy", 3.0, "default")),
        (Measured("h2o_lossy", 2.0, "run"), "==", 3.0),
        (Measured("h2o_lossy", 2.0, "run"), ">", 3.0),
        (Measured("h2o_lossy", 2.0, "run"), ">=", "3"),
    ],
    ids=range(9),
)
def test_a_comparison_in_words(measured: Measured, op: str, right: Any, snapshot: SnapshotAssertion) -> None:
    assert explain_comparison(measured, op, right) == snapshot


def test_a_target_is_shown_as_it_was_given() -> None:
    given = {
        "h2o_lossy": (3.38125, "3.38125"),
        "decode_drop": (0.01234, "1.234%"),
        "decode_tok_per_s": (56.0, "56.00 tok/s"),
    }
    assert all(repr(Target(name, value, "default")) == shown for name, (value, shown) in given.items())
