"""Engines that are broken in one way each, exit code 0: the item that must fail does, and its text names the cause."""

import json
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from tests.bench.samples import preset_of

from .cases import BENCH, PRESET
from .project import Project, check_no_traceback, verdict

ONE_POINT = tuple(
    f"--h2o-set={key}"
    for key in ("h2o_keep_ratios=0.28", "h2o_block_tokens=8", "h2o_target_lossy_ratios=3.0", "model_layers=30")
)
CODED = "[H2O-LOSSLESS] layer=0 kv=520 start=16 tokens=96 raw=147456 attempt_comp=60000 eff_comp=60000 mode=1\n"
SIGNS = ("double free", "scatter restore failed")

SICK: dict[str, dict[str, Any]] = {
    # figures that miss a target
    "26 fallbacks": {"fallback": "26.00 ± 0.00", "target": "fallback=0"},
    "60 ms of waiting": {"async_wait_us": "60000.00 ± 100.00", "target": "async_wait_us=40000"},
    "a queue of 300": {"queue_peak": "300.00 ± 12.00", "target": "queue_peak=8"},
    # rows that cannot be
    "restore never seen": {
        "mode": "full",
        **dict.fromkeys(("decomp_us", "decode_cache_hit", "decode_cache_miss"), "0.00 ± 0.00"),
    },
    "lossless on and idle": {"": "1.000 ± 0.000", **dict.fromkeys(("raw_mb", "comp_mb", "comp_us"), "0.00 ± 0.00")},
    "no store mode": dict.fromkeys(("decode_cache_hit", "decode_cache_miss")),
    "store mode ignored": {"decomp_us": "0.00 ± 0.00"},
    "wrong block size": {"mode": "full", "prints": CODED},
    # what is printed
    **{sign: {"prints": f"{sign} layer=3\n"} for sign in SIGNS},
    "no OpenCL": {"prints": "Can't Find type=3 backend, use 0 instead\n"},
}
"""Cells by the end of their column, and what is asked or printed besides."""


def gate(project: Project, mode: str = "store", prints: str = "", target: str = "", **cells: str | None) -> str:
    bench = {f"h2o_lossless_{name}".rstrip("_"): cell for name, cell in cells.items()}
    project.make_bench()
    project.launch_here()
    project.env |= {"FAKE_PRINTS": prints, "FAKE_CELLS": json.dumps(bench)}
    asked = (f"--h2o-target=h2o_lossless_{target}",) if target else ()
    settings = (*ONE_POINT, f"--h2o-set=kv_lossless_runtime_mode={mode}")
    result = project.run(*BENCH, *settings, *asked, "-k", f"{PRESET} and (bench or health)")
    return verdict(project, result, *project.failed())


@pytest.mark.parametrize("name", SICK)
def test_a_broken_engine_fails_the_right_item_and_names_the_cause(
    name: str, project: Project, snapshot: SnapshotAssertion
) -> None:
    told = gate(project, **SICK[name])
    assert told.startswith("exit 1: ")
    assert told == snapshot


@pytest.mark.parametrize("mode", ["probe", "full", "store"])
def test_an_engine_that_is_well_passes(mode: str, project: Project) -> None:
    told = gate(project, mode, CODED.replace("96", "128" if mode != "store" else "256"))
    assert told.startswith("exit 0: {'passed': 1}")


def test_a_sign_fails_the_gate_and_what_is_allowed_is_told(project: Project) -> None:
    printed = project.copy_recordings() / "logs" / "run_0001_p512_g128_k0.28_b8_lr3.0.stdout.txt"
    printed.write_text(printed.read_text() + "[H2O-LOSSLESS] scatter restore failed: layer=1\n")
    only = ("-k", "test_bench or test_lossy")
    failed = project.run(*only)
    assert failed.ret == 1
    assert "first cause: the config of the model has no layer_nums" in failed.stdout.str()

    preset = project.preset()
    preset.write_text(preset.read_text() + "allow_signs: {scatter_restore: 3}\n")
    (first,) = project.runs()
    allowed = project.run(*only)
    assert allowed.parseoutcomes().get("failed") is None
    told = "allow_signs: scatter_restore, at most 3 x scatter restore failed a launch; most that came: 1"
    (folder,) = (run for run in project.runs() if run != first)
    assert told in (folder / "summary.md").read_text()
    assert told in json.loads((folder / "summary.json").read_text())["presets"][PRESET]["notes"]


RECORDED_MODES = ("probe", "store", "store_no_layer_nums", PRESET)


def test_every_mode_of_a_healthy_engine_is_sound(project: Project, engine_recordings: Path) -> None:
    """What a later engine wrote in every mode, each with a preset of its own settings."""
    for name in RECORDED_MODES:
        project.preset(name).write_text(json.dumps(preset_of(engine_recordings / name)))
    project.write_ini(h2o_decode_baseline="none")
    result = project.run(f"--h2o-logs={engine_recordings}", "-k", "test_bench or test_lossy")
    check_no_traceback(result)
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["failed"]) == (2 + 2 + 27 + 3, 3), result.stdout.str()
    assert all("store_no_layer_nums" in item for item in project.failed())
