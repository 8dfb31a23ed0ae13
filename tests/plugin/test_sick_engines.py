"""Engines that are broken in one way each, exit code 0: the item that must fail does, and its text names the cause."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from .project import Project, check_failed, unwrapped

PRESET = "target_ratio_v3"
ONE_POINT = tuple(
    f"--h2o-set={key}"
    for key in ("h2o_keep_ratios=0.28", "h2o_block_tokens=8", "h2o_target_lossy_ratios=3.0", "model_layers=30")
)
BENCH, HEALTH = f"test_bench[{PRESET}-run_0001_p512_g128_k0.28_b8_lr3.0]", f"test_health[{PRESET}]"
CODED = "[H2O-LOSSLESS] layer=0 kv=520 start=16 tokens=96 raw=147456 attempt_comp=60000 eff_comp=60000 mode=1\n"


class Sick(NamedTuple):
    told: str
    prints: str = ""
    cells: Mapping[str, str | None] = MappingProxyType({})
    mode: str = "store"
    target: str | None = None


SICK = {
    "26 fallbacks": Sick(
        "runtime lossless fallbacks 26.00 ± 0.00",
        cells={"h2o_lossless_fallback": "26.00 ± 0.00"},
        target="h2o_lossless_fallback=0",
    ),
    "restore never seen": Sick(
        "lossless coding in full mode restored nothing",
        cells={
            "h2o_lossless_decomp_us": "0.00 ± 0.00",
            "h2o_lossless_decode_cache_hit": "0.00 ± 0.00",
            "h2o_lossless_decode_cache_miss": "0.00 ± 0.00",
        },
        mode="full",
    ),
    "60 ms of waiting": Sick(
        "60000.00 ± 100.00 us",
        cells={"h2o_lossless_async_wait_us": "60000.00 ± 100.00"},
        target="h2o_lossless_async_wait_us=40000",
    ),
    "a queue of 300": Sick(
        "300.00 ± 12.00",
        cells={"h2o_lossless_queue_peak": "300.00 ± 12.00"},
        target="h2o_lossless_queue_peak=8",
    ),
    "lossless on and idle": Sick(
        "lossless coding is on but did nothing",
        cells={
            "h2o_lossless": "1.000 ± 0.000",
            "h2o_lossless_raw_mb": "0.00 ± 0.00",
            "h2o_lossless_comp_mb": "0.00 ± 0.00",
            "h2o_lossless_comp_us": "0.00 ± 0.00",
        },
    ),
    "no store mode": Sick(
        "an older binary: it has no columns of the lossless runtime mode store",
        cells=dict.fromkeys(("h2o_lossless_decode_cache_hit", "h2o_lossless_decode_cache_miss")),
    ),
    "store mode ignored": Sick(
        "lossless coding in store mode restored nothing",
        cells={"h2o_lossless_decomp_us": "0.00 ± 0.00"},
    ),
    "wrong block size": Sick(
        "blocks were coded in another size than asked, in full mode came: 1 x 96 tokens expected: 128 "
        "(kv_lossless_block_tokens)",
        prints=CODED,
        mode="full",
    ),
    **{
        text: Sick(f"the bench printed signs of a broken cache: no figure of this launch can be trusted "
        f"came: 1 x {text}", prints=f"{text} layer=3\n")
        for text in ("corrupted size", "double free", "Invalid KV realloc", "scatter restore failed")
    },
    "no OpenCL": Sick(
        "the bench printed signs of a missing backend: no figure of this launch can be trusted "
        "came: 1 x Can't Find type=",
        prints="Can't Find type=3 backend, use 0 instead\n",
    ),
}  # fmt: skip


def gate(project: Project, sick: Sick, **env: Any) -> pytest.RunResult:
    bench = project.make_bench()
    project.env |= {"FAKE_PRINTS": sick.prints, "FAKE_CELLS": json.dumps(dict(sick.cells)), **env}
    asked = () if sick.target is None else (f"--h2o-target={sick.target}",)
    mode = f"--h2o-set=kv_lossless_runtime_mode={sick.mode}"
    return project.run(*bench, *ONE_POINT, mode, *asked, "-k", f"{PRESET} and (bench or health)")


@pytest.mark.parametrize("name", SICK)
def test_a_broken_engine_fails_the_right_item_and_names_the_cause(project: Project, name: str) -> None:
    sick = SICK[name]
    result = gate(project, sick)
    check_failed(project, result, BENCH if sick.target is None else HEALTH)
    assert all(part in unwrapped(result) for part in sick.told.split(" came: "))


@pytest.mark.parametrize("mode", ["probe", "full", "store"])
def test_an_engine_that_is_well_passes(project: Project, mode: str) -> None:
    result = gate(project, Sick("", prints=CODED.replace("96", "128" if mode != "store" else "256"), mode=mode))
    assert result.parseoutcomes().get("failed") is None, result.stdout.str()
    assert result.ret == 0
