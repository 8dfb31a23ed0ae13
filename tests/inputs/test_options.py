"""Options: one table, one precedence, errors that name who said what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_h2o.errors import UsageError
from pytest_h2o.gate.metrics import GATE_OPTIONS
from pytest_h2o.inputs.options import (
    DEFAULT_THREADS,
    EMBEDDED_THREADS,
    Settings,
    parse_budget,
    resolve_settings,
)

CALLED_IN = Path("/called/in")
INI_IN = Path("/ini/in")


def resolve(line: dict[str, Any] | None = None, ini: dict[str, Any] | None = None) -> Settings:
    return resolve_settings(
        GATE_OPTIONS, command_line=(line or {}).get, ini=(ini or {}).get, invocation_dir=CALLED_IN, ini_dir=INI_IN
    )


def test_names_are_unique_and_every_option_has_help() -> None:
    assert len({option.key for option in GATE_OPTIONS}) == len(GATE_OPTIONS)
    assert all(option.help for option in GATE_OPTIONS)
    assert all(option.flag == "--" + option.key.replace("_", "-") for option in GATE_OPTIONS)


def test_command_line_stands_over_ini_and_ini_over_default() -> None:
    assert resolve()["backend"] == "cpu"
    assert resolve(ini={"h2o_backend": "metal"})["backend"] == "metal"
    both = resolve({"h2o_backend": "opencl", "h2o_bench": "b"}, {"h2o_backend": "metal"})
    assert (both["backend"], both.origin("backend")) == ("opencl", "--h2o-backend")
    assert resolve(ini={"h2o_backend": "metal"}).origin("backend") == "ini key h2o_backend"
    assert resolve().origin("backend") == "default"


def test_paths_are_relative_to_where_they_were_written() -> None:
    assert resolve({"h2o_bench": "build/llm_bench"})["bench"] == CALLED_IN / "build/llm_bench"
    assert resolve(ini={"h2o_logs": "rec/../rec"})["logs"] == INI_IN / "rec"
    assert resolve({"h2o_presets": ["a.yaml", "/b"]})["presets"] == (CALLED_IN / "a.yaml", Path("/b"))
    assert resolve()["out-dir"] == CALLED_IN / "h2o-runs"


def test_a_bench_on_the_command_line_stands_over_logs_in_the_ini_file() -> None:
    settings = resolve({"h2o_bench": "b"}, {"h2o_logs": "rec"})
    assert settings["logs"] is None
    assert settings.origin("logs") == "left out for --h2o-bench"
    settings = resolve({"h2o_logs": "rec"}, {"h2o_bench": "b"})
    assert settings["bench"] is None
    assert settings["logs"] == CALLED_IN / "rec"


def test_threads_are_those_of_the_bench_that_runs() -> None:
    assert (resolve()["threads"], resolve({"h2o_bench": "reference"})["threads"]) == (EMBEDDED_THREADS,) * 2
    other = resolve({"h2o_bench": "b"})
    assert (other["threads"], other.origin("threads")) == (DEFAULT_THREADS, "default")
    assert resolve({"h2o_logs": "rec"})["threads"] == DEFAULT_THREADS
    assert resolve(ini={"h2o_threads": "3"})["threads"] == resolve({"h2o_threads": "3"})["threads"] == 3


def test_a_bench_and_logs_said_in_one_place_exclude_each_other() -> None:
    with pytest.raises(UsageError) as caught:
        resolve({"h2o_bench": "b", "h2o_logs": "rec"})
    assert str(caught.value) == (
        "a bench to run and logs to read were both given\n"
        "  came: --h2o-bench /called/in/b and --h2o-logs /called/in/rec\n"
        "  expected: one of the two\n"
        "  next: leave out --h2o-logs to run the bench, or --h2o-bench to gate on the logs"
    )


@pytest.mark.parametrize(
    ("line", "first_line"),
    [
        ({"h2o_threads": "two"}, "--h2o-threads takes a whole number"),
        ({"h2o_threads": "0"}, "--h2o-threads is out of range"),
        ({"h2o_lossy_target": "nan"}, "--h2o-lossy-target takes a number"),
        ({"h2o_lossy_target": "inf"}, "--h2o-lossy-target takes a number"),
        ({"h2o_lossy_target": "0.9"}, "--h2o-lossy-target is out of range"),
        ({"h2o_lossless_target": "-1"}, "--h2o-lossless-target is out of range"),
        ({"h2o_decode_drop_target": "5"}, "--h2o-decode-drop-target is out of range"),
        ({"h2o_decode_drop_target": "-0.1"}, "--h2o-decode-drop-target is out of range"),
        ({"h2o_bench_timeout": "0"}, "--h2o-bench-timeout is out of range"),
        ({"h2o_rule": "any"}, "--h2o-rule does not know 'any'"),
        ({"h2o_decode_baseline": "fast"}, "--h2o-decode-baseline takes paired, a decode speed or none"),
        ({"h2o_decode_baseline": "0"}, "--h2o-decode-baseline takes paired, a decode speed or none"),
        ({"h2o_decode_baseline": "nan"}, "--h2o-decode-baseline takes paired, a decode speed or none"),
        ({"h2o_decode_budget": "many"}, "--h2o-decode-budget takes pairs, seconds or both"),
        ({"h2o_decode_budget": "0"}, "--h2o-decode-budget takes pairs, seconds or both"),
        ({"h2o_decode_budget": "201"}, "--h2o-decode-budget takes pairs, seconds or both"),
        ({"h2o_decode_budget": "20,20"}, "--h2o-decode-budget takes pairs, seconds or both"),
        ({"h2o_decode_budget": "20,infs"}, "--h2o-decode-budget takes pairs, seconds or both"),
        ({"h2o_decode_budget": "-5s"}, "--h2o-decode-budget takes pairs, seconds or both"),
        ({"h2o_inconclusive": "pass"}, "--h2o-inconclusive does not know 'pass'"),
        ({"h2o_baseline_bench": "b"}, "a build to compare with was given, and no bench"),
        (
            {"h2o_baseline_bench": "b", "h2o_bench": "c", "h2o_decode_baseline": "50"},
            "a build to compare with and another decode baseline were both given",
        ),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(line: dict[str, str], first_line: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(line)
    assert str(caught.value).splitlines()[0] == first_line


@pytest.mark.parametrize(
    ("text", "budget"),
    [("20", (20, None)), ("60s", (None, 60.0)), ("20,60s", (20, 60.0)), ("1.5s, 200", (200, 1.5))],
)
def test_a_budget_is_pairs_or_seconds_or_both(text: str, budget: tuple[int | None, float | None]) -> None:
    assert parse_budget(text, "--h2o-decode-budget") == budget


def test_the_ini_file_is_named_when_it_is_at_fault() -> None:
    with pytest.raises(UsageError, match="ini key h2o_no_fold takes yes or no"):
        resolve(ini={"h2o_no_fold": "maybe"})


def test_the_command_line_that_repeats_a_run_has_what_was_given_there() -> None:
    settings = resolve(
        {"h2o_bench": "b", "h2o_no_fold": True, "h2o_set": ["repeat=1", "gens=8"]}, {"h2o_lossy_target": "2.5"}
    )
    assert settings.command_line() == [
        "--h2o-bench=/called/in/b",
        "--h2o-no-fold",
        "--h2o-set=repeat=1",
        "--h2o-set=gens=8",
    ]


def test_the_command_line_that_repeats_a_run_saves_nothing() -> None:
    settings = resolve({"h2o_save": "main", "h2o_overwrite": True, "h2o_compare": "last"})
    assert settings.command_line() == ["--h2o-compare=last"]


def test_settings_as_json_are_built_in_types() -> None:
    import json

    value = json.loads(json.dumps(resolve({"h2o_bench": "b", "h2o_presets": ["x"]}).to_json()))
    assert value["bench"] == {"value": "/called/in/b", "origin": "--h2o-bench"}
    assert value["presets"]["value"] == ["/called/in/x"]
