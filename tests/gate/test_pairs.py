"""Which recorded row with H2O off the decode speeds may be compared with."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench.output import OutputSummary
from pytest_h2o.bench.recorded import read_recording
from pytest_h2o.bench.rows import Row
from pytest_h2o.run.pairs import (
    CONTEXT_TOLERANCE,
    choose_baseline,
    decode_budget,
    describe_decode,
    describe_unfit,
    pick_recorded,
    seen_context,
    unlike_contexts,
    why_unlike,
)
from tests.inputs.test_options import resolve
from tests.plugin.project import SWEEP
from tests.sweeps import make_row

RECORDING = read_recording(SWEEP)
RESULTS = tuple(RECORDING.results.values())
(OFF,) = RECORDING.baselines


def with_cells(result: Row, **cells: str) -> Row:
    return replace(result, cells={**result.cells, **cells})


@pytest.mark.parametrize(("cell", "text"), [("modelSize", "9.99 GiB"), ("precision", "High"), ("mmap", "true")])
def test_a_baseline_of_another_model_precision_or_mmap_does_not_fit(cell: str, text: str) -> None:
    other = with_cells(OFF, **{cell: text})
    assert other.cells[cell] != OFF.cells.get(cell)
    assert pick_recorded([other], RESULTS) is None
    (line,) = describe_unfit([other], RESULTS)
    asked = RESULTS[0].cells.get(cell)
    assert line == f"{OFF.log_file} has {cell} {text}, not {asked} as {RESULTS[0].run_id} has"


def test_a_baseline_without_a_decode_speed_does_not_fit() -> None:
    silent, other = with_cells(OFF, **{"speed(tok/s)": ""}), with_cells(OFF, precision="High")
    alike = [result for result in RESULTS if result.threads == OFF.threads]
    assert pick_recorded([silent], alike) is None
    assert describe_unfit([silent], alike) == [f"{OFF.log_file} has no decode speed"]
    assert len(describe_unfit([silent, other], alike)) == 2


def test_the_first_run_that_decoded_a_longer_context_is_named() -> None:
    short, long = (replace(RESULTS[n], output=OutputSummary(max_kv_len=kv)) for n, kv in enumerate((640, 641)))
    assert unlike_contexts([short]) == ()
    (note,) = unlike_contexts([short, long])
    assert f"warnings of {long.run_id} show a kv_len of 641, above prompt + gen = 640" in note
    assert note.endswith("the slow-down is overstated, not hidden")


@pytest.mark.parametrize(
    ("on", "off", "told"), [(0, 646, ""), (0, 647, "understated"), (700, 700, ""), (2566, 700, "over")]
)
def test_a_baseline_that_decoded_a_longer_context_understates(on: int, off: int, told: str) -> None:
    results = [replace(result, output=OutputSummary(max_kv_len=on)) for result in RESULTS]
    baseline = pick_recorded([replace(OFF, output=OutputSummary(max_kv_len=off))], results)
    assert baseline.understates is (told == "understated")
    assert [told in note for note in baseline.notes] == [True] * bool(told)


def test_of_several_rows_the_fastest_is_taken_and_says_where_it_is_from() -> None:
    slower = with_cells(OFF, **{"speed(tok/s)": "300.0 ± 1.0<br>40.0 ± 1.0"})
    alone, several = pick_recorded([OFF], RESULTS), pick_recorded([slower, OFF, slower], RESULTS)
    log = OFF.log_file
    assert (alone.tok_per_s, alone.origin) == (56.02, f"recorded row with H2O off, {log}")
    assert (several.tok_per_s, several.origin) == (56.02, f"recorded row with H2O off, {log} (the fastest of 3)")
    equals = pick_recorded([OFF, OFF], RESULTS, "a plain cache")
    assert equals.origin == f"recorded row with a plain cache, {log} (the fastest of 2)"
    assert alone.files == tuple(path for path in (OFF.log_path, OFF.config_path, OFF.stdout_path) if path is not None)
    assert OFF.log_path in alone.files
    assert alone.notes == unlike_contexts(RESULTS) != ()


CELLS = {"model": "qwen", "backend": "CPU", "threads": "4"}


def make(run_id: str = "baseline", *, kv_len: int | None = None, **cells: str) -> Row:
    result = make_row(run_id, **{**CELLS, **cells})
    return result if kv_len is None else replace(result, output=OutputSummary(max_kv_len=kv_len))


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"h2o_keep": "0.3"}, None),
        ({"llm_demo": "prompt=256<br>decode=128"}, "another prompt length: baseline 512, candidate 256"),
        ({"llm_demo": "prompt=512<br>decode=64"}, "another generated length: baseline 128, candidate 64"),
        ({"backend": "OPENCL"}, "another backend: baseline CPU, candidate OPENCL"),
        ({"threads": "2"}, "another number of threads: baseline 4, candidate 2"),
        ({"model": "llama"}, "another model: baseline qwen, candidate llama"),
    ],
)
def test_what_differs_is_said(cells: dict[str, str], said: str | None) -> None:
    assert why_unlike(make(), make("candidate", **cells)) == said


@pytest.mark.parametrize(("kv_len", "context"), [(None, 640), (0, 640), (639, 640), (641, 641), (2567, 2567)])
def test_the_context_is_what_the_row_asks_for_or_more_where_a_warning_says_so(kv_len: int | None, context: int) -> None:
    assert seen_context(make(kv_len=kv_len)) == context


@pytest.mark.parametrize("side", ["baseline", "candidate"])
def test_a_context_may_be_longer_by_the_tolerance_and_by_no_token_more(side: str) -> None:
    most = 606  # one percent of 600, to the token
    assert most == 600 * (1 + CONTEXT_TOLERANCE)
    cells = {"llm_demo": "prompt=500<br>decode=100"}

    def judge(kv_len: int) -> str | None:
        sides = ("baseline", "candidate")
        rows = {name: make(name, kv_len=kv_len if name == side else None, **cells) for name in sides}
        return why_unlike(rows["baseline"], rows["candidate"])

    assert judge(most) is None
    assert judge(most + 1) == (
        f"unlike contexts: warnings of the {side} show a kv_len of {most + 1}, above prompt + gen = 600, so it decoded "
        f"a longer context"
    )


RECORDED = {"h2o_logs": "rec"}


def make_preset(workloads: Sequence[str] = (), **targets: Any) -> Any:
    own = {"decode_baseline": None, "decode_pairs": None, "decode_time_s": None, **targets}
    return SimpleNamespace(name="small", targets=SimpleNamespace(**own), workloads=lambda rule: workloads)


@pytest.mark.parametrize(
    ("line", "ini", "own", "expected"),
    [
        ({"h2o_bench": "b"}, {}, {}, "paired"),
        ({"h2o_logs": "rec"}, {}, {}, None),
        ({}, {}, {}, "paired"),
        ({"h2o_bench": "b"}, {"h2o_decode_baseline": "50"}, {}, "50"),
        ({"h2o_bench": "b"}, {"h2o_decode_baseline": "50"}, {"decode_baseline": "paired"}, "paired"),
        ({"h2o_bench": "b", "h2o_decode_baseline": "none"}, {}, {"decode_baseline": "paired"}, "none"),
        ({"h2o_bench": "b", "h2o_baseline_bench": "c"}, {}, {"decode_baseline": 50.0}, "paired"),
    ],
)
def test_what_decode_speed_is_held_against(line: Any, ini: Any, own: Any, expected: object) -> None:
    assert choose_baseline(resolve(line, ini), make_preset(**own)).value == expected


@pytest.mark.parametrize(
    ("line", "ini", "own", "expected"),
    [
        ({}, {}, {}, (20, 60.0)),
        ({"h2o_bench": "reference"}, {}, {}, (20, 60.0)),
        ({"h2o_bench": "b"}, {}, {}, (20, None)),
        ({}, {"h2o_decode_budget": "30"}, {}, (30, None)),
        ({}, {"h2o_decode_budget": "30"}, {"decode_pairs": 40}, (40, None)),
        ({}, {}, {"decode_time_s": 300.0}, (20, 300.0)),
        ({"h2o_bench": "b", "h2o_decode_budget": "90s"}, {}, {"decode_pairs": 40}, (20, 90.0)),
    ],
)
def test_the_budget_of_a_preset(line: Any, ini: Any, own: Any, expected: tuple[int, float | None]) -> None:
    budget = decode_budget(resolve(line, ini), make_preset(**own))
    assert (budget.pairs, budget.elapsed_s) == expected


@pytest.mark.parametrize(
    "cells", [{"llm_demo": ""}, {"llm_demo": "", "test": "pp512"}, {"llm_demo": "", "test": "tg128"}]
)
def test_rows_that_lack_a_length_tell_no_context_and_are_not_compared(cells: dict[str, str]) -> None:
    whole = make(kv_len=9999)
    row = replace(whole, cells={**whole.cells, "llm_demo": "", **cells})
    assert (seen_context(whole), seen_context(row)) == (9999, None)
    assert why_unlike(row, row) == "a row has no prompt or generated length, so nothing tells what context it decoded"
    assert unlike_contexts([row]) == unlike_contexts([make()]) == ()
    assert unlike_contexts([whole]) != ()


def test_the_header_says_what_decode_is_held_against(snapshot: SnapshotAssertion) -> None:
    many, workloads = [make_preset(), make_preset(decode_pairs=40)], [make_preset(("p96-g16", "p480-g16"))]
    bench = resolve({"h2o_bench": "b"})
    assert [describe_decode(bench, presets) for presets in (many[:1], many, workloads)] == snapshot
    assert [describe_decode(resolve(line), many) for line in (RECORDED, {"h2o_decode_baseline": "56"})] == snapshot
