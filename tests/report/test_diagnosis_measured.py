"""The whole text of failures that come of what was measured: pairs, an earlier run, a decoder, a time limit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pytest_h2o.codecs.adaptive_v22 import AdaptiveV22
from pytest_h2o.codecs.base import SideInfo, Words
from pytest_h2o.gate.decode import PairedComparison, TimedLaunch, TimedPair
from pytest_h2o.run.history import save_baseline
from tests.plugin.project import Project
from tests.records import make_record
from tests.report.gate_items import fix_places, load_gate_file, make_session, scope_item, tell_failure
from tests.report.test_diagnosis import (
    DECIDING,
    check_golden,
    tell_point,
    tell_scope,
    tell_sweep,
)

TIMED = "run_0006_p512_g128_k0.28_b16_lr3.4"
regression_gates = load_gate_file("test_regression")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def keep_pairs(
    project: Project,
    drops: Sequence[float],
    stopped: str = "the verdict is clear after 7 pairs",
    excluded: str | None = None,
) -> None:
    """Pairs of the timed row beside the recordings, as a run folder has them: 60 tok/s with H2O off."""
    pairs = tuple(
        TimedPair(
            "AB" if number % 2 else "BA",
            TimedLaunch(f"pair_{number:02d}_baseline", 60.0 + number / 10, 2.0),
            TimedLaunch(f"pair_{number:02d}_candidate", (60.0 + number / 10) * (1 - drop), 2.0),
            excluded,
        )
        for number, drop in enumerate(drops, start=1)
    )
    made = PairedComparison(
        candidate=TIMED,
        baseline="H2O off in the same bench",
        seed=1,
        planned_pairs=20,
        pairs=pairs,
        measured_again=("pair_02_baseline: others used 1.9 of 2 cores (up to 0.7 are taken for quiet)",),
        stopped=stopped,
        elapsed_s=4.0 * len(pairs),
    )
    folder = project.copy_recordings() / "decode"
    folder.mkdir()
    (folder / "pairs.json").write_text(json.dumps(made.to_json()))


# -- pairs of launches ---------------------------------------------------------------------------------------------


def test_pairs_that_are_slower(project: Project) -> None:
    keep_pairs(project, [0.12, 0.11, 0.13, 0.10, 0.14, 0.12, 0.11])
    session = make_session(project.path, logs="recordings")
    check_golden("paired_decode", fix_places(tell_sweep(session, "decode"), PROJECT=project.path))
    check_golden("paired_joint", fix_places(tell_sweep(session, "joint"), PROJECT=project.path))


def test_pairs_that_cannot_tell_where_that_fails(project: Project) -> None:
    keep_pairs(project, [0.01, 0.09, 0.02, 0.08, 0.0, 0.1, 0.05, 0.04], "a clear verdict is out of reach")
    session = make_session(project.path, logs="recordings", inconclusive="fail")
    check_golden("paired_inconclusive", fix_places(tell_sweep(session, "decode"), PROJECT=project.path))


def test_pairs_that_cannot_be_compared(project: Project) -> None:
    why = "the sides decoded unlike contexts: kv_len 2566 and 640"
    keep_pairs(project, [0.01, 0.02], "not one pair can be compared", excluded=why)
    session = make_session(project.path, logs="recordings", inconclusive="fail")
    check_golden("paired_not_comparable", fix_places(tell_sweep(session, "decode"), PROJECT=project.path))


# -- an earlier run ------------------------------------------------------------------------------------------------


def test_a_figure_that_is_worse_than_in_a_baseline(project: Project) -> None:
    measured = scope_item(make_session(project.path), DECIDING, compared=True).now()
    better = {**measured.figures["all"], "lossless_ratio": 1.5, "compressed_bytes": 2_600_000.0}
    subject = replace(measured, figures={**measured.figures, "all": better, "layer 9": {"lossless_ratio": 1.2}})
    save_baseline(project.path / "h2o-runs", "main", make_record("20260101-000000-aaaaaa", subject))
    item = scope_item(make_session(project.path, compare="main"), DECIDING, compared=True)
    told = tell_failure(item, "test_no_regression", lambda: regression_gates.test_no_regression(item))
    check_golden("regression", fix_places(told, PROJECT=project.path))


# -- a codec, a time limit -----------------------------------------------------------------------------------------


def test_a_stream_that_comes_back_with_other_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(self: AdaptiveV22, payload: bytes | memoryview, side: SideInfo) -> Words:
        words = np.full(side.shape, 0x3C00, np.uint16)
        words[-1, -1, -1] = 0xBC00
        return words

    monkeypatch.setattr(AdaptiveV22, "decode", decode)
    monkeypatch.setattr("pytest_h2o.lossless.executors.usable_cores", lambda: 1)  # else either stream may be the first
    told = fix_places(tell_scope(make_session(tmp_path), "roundtrip"))
    check_golden("roundtrip", told)


def test_a_bench_that_does_not_end(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.make_bench(run_="hang")
    for name, value in project.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tempfile.tempdir", str(project.path))  # a machine lock of our own
    options = {"bench": "llm_bench", "base_config": "model.json", "threads": "2", "bench_timeout": "4"}
    session = make_session(project.path, **options)
    check_golden("bench_timeout", fix_places(tell_point(session, 1), PROJECT=project.path))
