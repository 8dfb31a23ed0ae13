"""Which recorded row with H2O off the decode speeds may be compared with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_h2o.bench.output import OutputSummary
from pytest_h2o.bench.recorded import read_recording
from pytest_h2o.bench.rows import Row
from pytest_h2o.run.pairs import describe_unfit, pick_recorded, unlike_contexts
from tests.plugin.project import SWEEP

RECORDING = read_recording(SWEEP)
RESULTS = tuple(RECORDING.results.values())
(OFF,) = RECORDING.baselines


def with_cells(result: Row, **cells: str) -> Row:
    return replace(result, cells={**result.cells, **cells})


def test_the_recorded_baseline_fits() -> None:
    baseline = pick_recorded([OFF], RESULTS)
    assert baseline is not None
    assert baseline.tok_per_s == 56.02


@pytest.mark.parametrize(("cell", "text"), [("modelSize", "9.99 GiB"), ("precision", "High"), ("mmap", "true")])
def test_a_baseline_of_another_model_precision_or_mmap_does_not_fit(cell: str, text: str) -> None:
    other = with_cells(OFF, **{cell: text})
    assert other.cells[cell] != OFF.cells.get(cell)
    assert pick_recorded([other], RESULTS) is None
    (line,) = describe_unfit([other], RESULTS)
    asked = RESULTS[0].cells.get(cell)
    assert line == f"{OFF.log_file} has {cell} {text}, not {asked} as {RESULTS[0].run_id} has"


def test_a_baseline_without_a_decode_speed_does_not_fit() -> None:
    silent = with_cells(OFF, **{"speed(tok/s)": ""})
    alike = [result for result in RESULTS if result.threads == OFF.threads]
    assert pick_recorded([silent], alike) is None
    assert describe_unfit([silent], alike) == [f"{OFF.log_file} has no decode speed"]


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
    assert baseline is not None
    assert baseline.understates is (told == "understated")
    assert [told in note for note in baseline.notes] == [True] * bool(told)


def test_of_several_rows_the_fastest_is_taken_and_says_where_it_is_from() -> None:
    slower = with_cells(OFF, **{"speed(tok/s)": "300.0 ± 1.0<br>40.0 ± 1.0"})
    alone, several = pick_recorded([OFF], RESULTS), pick_recorded([slower, OFF, slower], RESULTS)
    assert alone is not None
    assert several is not None
    log = OFF.log_file
    assert (alone.tok_per_s, alone.origin) == (56.02, f"recorded row with H2O off, {log}")
    assert (several.tok_per_s, several.origin) == (56.02, f"recorded row with H2O off, {log} (the fastest of 3)")
    equals = pick_recorded([OFF, OFF], RESULTS, "a plain cache")
    assert equals is not None
    assert equals.origin == f"recorded row with a plain cache, {log} (the fastest of 2)"
    assert alone.files == tuple(path for path in (OFF.log_path, OFF.config_path, OFF.stdout_path) if path is not None)
    assert OFF.log_path in alone.files
    assert alone.notes == unlike_contexts(RESULTS) != ()


@pytest.mark.parametrize("only", ["pp512", "tg128"])
def test_a_run_without_output_or_lengths_tells_no_context(only: str) -> None:
    long = replace(RESULTS[0], output=OutputSummary(max_kv_len=9999))
    assert unlike_contexts([replace(long, output=None)]) == ()
    assert unlike_contexts([with_cells(long, llm_demo="", test=only)]) == ()
    assert unlike_contexts([long]) != ()


def test_every_row_that_does_not_fit_is_described() -> None:
    silent = with_cells(OFF, **{"speed(tok/s)": ""})
    other = with_cells(OFF, precision="High")
    alike = [result for result in RESULTS if result.threads == OFF.threads]
    assert len(describe_unfit([silent, other], alike)) == 2
