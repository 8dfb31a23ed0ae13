"""Options: one table, one precedence, errors that name who said what."""

import json
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

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
    with pytest.raises(UsageError, match="ini key h2o_no_fold takes yes or no"):
        resolve(ini={"h2o_no_fold": "maybe"})
    # A bench on the command line stands over logs in the ini file, and the other way round.
    settings = resolve({"h2o_bench": "b"}, {"h2o_logs": "rec"})
    assert (settings["logs"], settings.origin("logs")) == (None, "left out for --h2o-bench")
    settings = resolve({"h2o_logs": "rec"}, {"h2o_bench": "b"})
    assert (settings["bench"], settings["logs"]) == (None, CALLED_IN / "rec")


def test_paths_are_relative_to_where_they_were_written() -> None:
    assert resolve({"h2o_bench": "build/llm_bench"})["bench"] == CALLED_IN / "build/llm_bench"
    assert resolve(ini={"h2o_logs": "rec/../rec"})["logs"] == INI_IN / "rec"
    assert resolve({"h2o_presets": ["a.yaml", "/b"]})["presets"] == (CALLED_IN / "a.yaml", Path("/b"))
    assert resolve()["out-dir"] == CALLED_IN / "h2o-runs"


def test_a_word_before_a_path_of_presets_stays_before_it(tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()

    def presets(*given: str) -> list[str]:
        return [str(path) for path in resolve({"h2o_presets": list(given)})["presets"]]

    assert presets("v3=kit", "v5=/srv/kit", "v6=../kit") == ["v3=/called/in/kit", "v5=/srv/kit", "v6=/called/kit"]
    assert presets(f"{tmp_path}/a=b", "=kit", "v3=", "a b=c") == [
        f"{tmp_path}/a=b", "/called/in/=kit", "/called/in/v3=", "/called/in/a b=c",
    ]  # fmt: skip
    again = resolve({"h2o_presets": ["v3=kit"]})
    assert again.command_line() == ["--h2o-presets=v3=/called/in/kit"]


def test_threads_are_those_of_the_bench_that_runs() -> None:
    assert (resolve()["threads"], resolve({"h2o_bench": "reference"})["threads"]) == (EMBEDDED_THREADS,) * 2
    other = resolve({"h2o_bench": "b"})
    assert (other["threads"], other.origin("threads")) == (DEFAULT_THREADS, "default")
    assert resolve({"h2o_logs": "rec"})["threads"] == DEFAULT_THREADS
    assert resolve(ini={"h2o_threads": "3"})["threads"] == resolve({"h2o_threads": "3"})["threads"] == 3


REFUSED = (
    *({"threads": "two"}, {"threads": "0"}, {"bench_timeout": "0"}, {"rule": "any"}, {"inconclusive": "pass"}),
    *({"lossy_target": text} for text in ("nan", "inf", "0.9")),
    *({"lossless_target": "-1"}, {"lossless_target": "0"}),
    *({"decode_drop_target": "5"}, {"decode_drop_target": "-1.1"}, {"quality_target": "-1"}, {"executor": "gpu"}),
    *({"decode_baseline": "fast"}, {"decode_baseline": "0"}, {"decode_baseline": "nan"}),
    *({"decode_budget": text} for text in ("many", "0", "4", "1,60s", "201", "20,20", "20,infs", "-5s")),
    *({"bench": "b", "logs": "rec"}, {"baseline_bench": "b"}, {"base_config": "c"}, {"demo": "d"}),
    *({"logs": "rec", "threads": "2"}, {"baseline_bench": "b", "bench": "c", "decode_baseline": "50"}),
)


def test_what_cannot_be_meant_is_refused(snapshot: SnapshotAssertion) -> None:
    told = {}
    for line in REFUSED:
        with pytest.raises(UsageError) as caught:
            resolve({f"h2o_{name}": value for name, value in line.items()})
        told[", ".join(f"{name} {value}" for name, value in line.items())] = str(caught.value)
    assert told == snapshot


@pytest.mark.parametrize(
    ("text", "budget"),
    [("20", (20, None)), ("60s", (None, 60.0)), ("20,60s", (20, 60.0)), ("1.5s, 200", (200, 1.5))],
)
def test_a_budget_is_pairs_or_seconds_or_both(text: str, budget: tuple[int | None, float | None]) -> None:
    assert parse_budget(text, "--h2o-decode-budget") == budget


def test_the_command_line_that_repeats_a_run_has_what_was_given_there_and_saves_nothing(
    snapshot: SnapshotAssertion,
) -> None:
    line = {"h2o_bench": "b", "h2o_no_fold": True, "h2o_set": ["repeat=1", "gens=8"], "h2o_compare": "last"}
    settings = resolve({**line, "h2o_save": "main", "h2o_overwrite": True}, {"h2o_lossy_target": "2.5"})
    assert settings.command_line() == snapshot
    value = json.loads(json.dumps(resolve({"h2o_bench": "b", "h2o_presets": ["x"]}).to_json()))
    assert value["bench"] == {"value": "/called/in/b", "origin": "--h2o-bench"}
    assert value["presets"]["value"] == ["/called/in/x"]
