"""The bench as a command: results, exit codes, and nothing half written."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_runs import ROOT, SMALL_H2O, SMALL_LOSSLESS, measure, run, without_floor, write_config
from synthetic_model import write_gguf

from pytest_h2o.bench.rows import parse_json, parse_table
from pytest_h2o.reference.bench import GIB, H2O_COLUMNS, Case, Row, Run, Series, render_json, render_table
from pytest_h2o.reference.cache import EvictingCache
from pytest_h2o.reference.config import USAGE, lossless_settings, policy_settings, read_config
from pytest_h2o.reference.gguf import GgufFile
from pytest_h2o.reference.lossless import RuntimeLossless
from pytest_h2o.reference.model import Model, generate

OTHER = ROOT / "fixtures/recordings/other"
RECORDED = json.loads((OTHER / "multi.json").read_text("utf-8"))
COUNTED = [name for name in H2O_COLUMNS if not name.endswith(("_us", "_queue_peak"))]
"""Columns that do not depend on time."""


def launch(*argv: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The bench in a process of its own."""
    command = [sys.executable, "-m", "pytest_h2o.reference", *map(str, argv)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)


def test_a_launch_appends_its_table_and_writes_its_json(tmp_path: Path) -> None:
    """In a process of its own and in this one: the columns that are counted are equal."""
    config = write_config(tmp_path, **SMALL_H2O, **SMALL_LOSSLESS)
    log, result = tmp_path / "out.log", tmp_path / "out.json"
    argv = ["-m", config, "-p", 60, "-n", 20, "-rep", 2, "-kv", "true", "-fp", log, "-j", result]
    done = launch(*argv, "-t", 1)
    assert (done.returncode, without_floor(done.stdout), done.stderr) == (0, "", "")
    assert done.stdout.count("[H2O] floor-keep dominates target: kv=") == 1
    assert run(*argv) == (0, "", "")
    lines = log.read_text("utf-8").splitlines()
    assert lines[:2] == lines[3:5] == (OTHER / "multi.log").read_text("utf-8").splitlines()[:2]
    header, first, second = ([cell.strip() for cell in lines[row].split("|")] for row in (0, 2, 5))
    counted = [place for place, name in enumerate(header) if name in COUNTED]
    assert len(counted) == len(COUNTED)
    assert [first[place] for place in counted] == [second[place] for place in counted]
    row = json.loads(result.read_text("utf-8"))["results"][0]
    assert (row["prompt_len"], row["generate_len"]) == (60, 20)
    assert row["decode_tps"] > 0
    assert 1 / 3 <= row["h2o_keep_ratio"] < 0.4
    assert row["h2o_keep_ratio_std"] == 0.0
    assert 2 < row["h2o_lossy_ratio"] < 3
    assert row["h2o_lossless_raw_mb"] == pytest.approx(4 * 16 * 64 / 2**20)
    assert row["h2o_lossless_decode_cache_miss"] == 4  # the strict check decodes each


def test_without_h2o_nothing_is_claimed(tmp_path: Path) -> None:
    done = run("-m", write_config(tmp_path), "-p", "8,12", "-n", 4, "-rep", 1, "-kv", "true")
    rows = [[cell.strip() for cell in row.split("|")] for row in done.out.splitlines()[2:]]
    assert [row[6] for row in rows] == ["prompt=8<br>decode=4", "prompt=12<br>decode=4"]
    for row in rows:
        assert row[8:14] == ["1.0000 ± 0.0000", "1.000 ± 0.000", "1.000 ± 0.000", *["1.0000 ± 0.0000"] * 3]


LOOSE = {**SMALL_LOSSLESS, "kv_lossless_strict_roundtrip_check": False}
STORE = {
    "kv_lossless_runtime_mode": "store",
    "kv_lossless_scope": "front_n_and_h2o_kept",
    "kv_lossless_store_bootstrap_tokens": 8,
    "kv_lossless_store_grouped_step_tokens": 8,
}


@pytest.mark.parametrize(
    ("values", "shown", "idle"),
    [
        (
            {"kv_lossless_runtime_mode": "probe"},
            "queue_peak decode_cache_hit",
            "async_queue_peak async_wait_us decomp_us",
        ),
        ({}, "queue_peak async_queue_peak decode_cache_hit", "decomp_us decode_cache_miss backpressure_skip"),
        (STORE, "queue_peak async_queue_peak decomp_us decode_cache_hit", "decode_cache_miss backpressure_skip"),
        ({**STORE, "kv_lossless_async_threads": 0}, "queue_peak decomp_us", "async_queue_peak async_wait_us"),
        ({**STORE, "kv_lossless_decode_cache_blocks": 0}, "decomp_us decode_cache_miss", "decode_cache_hit"),
        ({**STORE, "kv_lossless_store_bootstrap_tokens": 1}, "fallback", ""),  # too few to be smaller coded
        ({**STORE, "kv_lossless_store_disable_front": True}, "decomp_us", ""),
        ({"kv_lossless_max_queue": 1, "kv_lossless_front_n": 4}, "backpressure_skip", ""),
    ],
)
def test_every_column_of_lossless_coding_comes_of_something_that_happens(
    values: dict[str, Any], shown: str, idle: str, tmp_path: Path
) -> None:
    config = write_config(tmp_path, **{**SMALL_H2O, **LOOSE, **values})
    row = measure(tmp_path, config, "-p", 60, "-n", 40)
    assert row["h2o_lossless_raw_mb"] > 0 < row["h2o_lossless_comp_us"]
    for names, happened in ((shown, True), (idle, False)):
        for name in names.split():
            assert (row[f"h2o_lossless_{name}"] > 0) == happened, name


def test_store_mode_changes_no_token(tmp_path: Path) -> None:
    """The text goes through every block that was dropped and restored, under eviction."""
    said = []
    for values in ({}, {**LOOSE, **STORE}):
        file = GgufFile(write_gguf(tmp_path / "tiny.gguf"))
        config = read_config(write_config(tmp_path, **{**SMALL_H2O, **values}))
        settings = lossless_settings(config, 4, half=True)
        watchers = [RuntimeLossless(settings)] if settings else []
        cache = EvictingCache(file.hyper, 110, policy=policy_settings(config, 4, 110), watchers=watchers)
        said.append(generate(Model(file), cache, np.arange(60) % 250, 50).tokens)
        assert cache.evictions > 0
        assert cache.figures.get("h2o_lossless_decode_cache_miss", 8) >= 8
    assert said[0] == said[1]
    assert len(set(said[0])) > 5


def test_without_a_cache_prefill_and_decode_are_rows_of_their_own(tmp_path: Path) -> None:
    done = run("-m", write_config(tmp_path), "-p", 8, "-n", 4, "-pg", "6,3", "-rep", 1, "-load", "true")
    lines = [[cell.strip() for cell in line.split("|")] for line in done.out.splitlines()]
    assert lines[0][6:9] == ["test", "t/s", "loadingTime(s)"]
    assert [line[6] for line in lines[2:]] == ["pp8", "tg4", "pp6+tg3"]


def test_the_token_of_the_engine_on_request(tmp_path: Path) -> None:
    """Other prompts, other keys: the coded sizes tell them apart."""
    sizes = []
    for values in ({}, {"prompt_token": 16}, {"prompt_token": 16}):
        config = write_config(tmp_path, **SMALL_H2O, **SMALL_LOSSLESS, **values)
        sizes.append(measure(tmp_path, config, "-p", 60, "-n", 12)["h2o_lossless_comp_mb"])
    assert sizes[1] == sizes[2] < sizes[0]


def test_an_unknown_flag_prints_usage_and_ends_with_255() -> None:
    assert run("--bogus") == (255, f"error: invalid parameter for argument: --bogus\n{USAGE}", "")
    recorded = (OTHER / "bad_arg.stdout.txt").read_text("utf-8")
    assert recorded.startswith("error: invalid parameter for argument: --bogus\nusage: ")
    assert run("-h") == (0, USAGE, "")


@pytest.mark.parametrize(
    ("message", "values", "argv"),
    [
        ("the config cannot be read", {}, ("-m", "none.json")),
        ("the model cannot be read", {"llm_model": "none.gguf"}, ()),
        ("the prompt and its generation are longer than the model's context", {}, ("-p", 600)),
        ("sink and recent tokens are more than the sequence has", {}, ("-p", 4, "-n", 4)),
        ("the reference bench has no quantised cache", {}, ("-qatten", 1)),
        ("the reference bench runs on the CPU alone", {}, ("-a", "opencl")),
        ("the result cannot be written", {}, ("-j", "none/out.json")),
        ("a text of the config cannot be read", {"prompt_file": "none.txt"}, ()),
        ("a text of the config is no UTF-8", {"prompt_file": "tiny.gguf"}, ()),
        ("a text of the config is empty", {"prompt_file": "empty"}, ()),
        ("the prompt's token is none of the model's", {"prompt_token": 260}, ()),
    ],
)
def test_bad_input_is_one_error_and_nothing_is_written(
    message: str, values: dict[str, Any], argv: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path, **{**SMALL_H2O, **values})
    for name, text in {"out.log": "kept\n", "empty": " \n"}.items():
        Path(name).write_text(text, "utf-8")
    before = sorted(tmp_path.rglob("*"))
    sound = ("-m", "config.json", "-p", 60, "-n", 20, "-rep", 1, "-kv", "true", "-fp", "out.log", "-j", "out.json")
    done = run(*sound, *argv, MNN_KV_DUMP_DIR="dumps")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[0] == f"error: {message}"
    assert Path("out.log").read_text("utf-8") == "kept\n"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("quality", [False, True])
@pytest.mark.parametrize("fault", ["nan", "huge"])
def test_a_model_that_computes_no_numbers_fails_the_launch(
    fault: str, quality: bool, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Weights that are nan, and keys beyond fp16: no row that leaves out the columns in which it shows."""
    (tmp_path / "text").write_text("what is predicted of a text\n" * 2, "utf-8")
    asked = {
        "quality_text_file": "text" if quality else "",
        "quality_prompt_tokens": 20,
        "quality_tokens": 8,
        "quality_greedy_tokens": 0,
    }
    config, result = write_config(tmp_path, **SMALL_H2O, **asked), tmp_path / "out.json"
    key = np.full((16, 32), np.nan if fault == "nan" else 1e6, np.float32)
    model = write_gguf(tmp_path / "tiny.gguf", replace={"blk.1.attn_k.weight": key})
    argv = ("-m", config, "-p", 12, "-n", 4, "-rep", 1, "-kv", "true", "-j", result)
    done = run(*argv)
    assert (done.code, done.out, result.exists(), list(recwarn)) == (2, "", False, [])
    came = f"a key of {'nan' if fault == 'nan' else '-inf'} in layer 1"
    assert done.err == (
        f"error: the model computes numbers that are not finite\n  where: {model}\n  came: {came}\n"
        "  expected: finite numbers\n  next: fetch or convert the model again; "
        "keys or values beyond the range of fp16 need -c 1, a cache of fp32\n"
    )
    assert run(*argv, "-c", 1).code == (2 if fault == "nan" else 0)


def test_a_config_is_read_before_numpy_is_imported(tmp_path: Path) -> None:
    done = launch("-m", tmp_path / "none.json", "-kv", "true")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: the config cannot be read\n  where: {tmp_path}/none.json\n  came: No such file or directory\n"
        "  next: name the config of a model with -m\n"
    )
    done = launch("-m", tmp_path / "none.json", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 2
    assert "numpy" not in done.stderr


def test_threads_are_set_before_numpy_reads_them(tmp_path: Path) -> None:
    """A package named numpy that only shows the environment stands in the way of the real one."""
    fake = tmp_path / "numpy"
    fake.mkdir()
    shown = "{k: os.environ.get(k) for k in ('OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS', 'OPENBLAS_THREAD_TIMEOUT')}"
    (fake / "__init__.py").write_text(f"import os\nprint({shown})\nraise SystemExit(7)\n", "utf-8")
    config = tmp_path / "c.json"
    config.write_text("{}", "utf-8")
    done = launch("-m", config, "-t", "3", PYTHONPATH=f"{tmp_path}:{ROOT}", OMP_NUM_THREADS="9")
    assert (done.returncode, done.stdout) == (
        7,
        "{'OPENBLAS_NUM_THREADS': '3', 'OMP_NUM_THREADS': '3', 'OPENBLAS_THREAD_TIMEOUT': '4'}\n",
    )


def spread(mean: float, std: float) -> Series:
    """Three values with this mean and sample deviation."""
    return (mean - std, mean, mean + std)


def recorded_run() -> tuple[Run, list[Row]]:
    run = Run(RECORDED["model"], round(RECORDED["modelSize"] * GIB), 2, 2)
    rows = []
    for result in RECORDED["results"]:
        h2o = {name: spread(result[one.key], result[f"{one.key}_std"]) for name, one in H2O_COLUMNS.items()}
        speeds = (
            spread(result["prefill_tps"], result["prefill_std"]),
            spread(result["decode_tps"], result["decode_std"]),
        )
        rows.append(Row(Case(result["prompt_len"], result["generate_len"]), speeds, h2o))
    return run, rows


def test_the_table_is_that_of_the_binary_byte_for_byte() -> None:
    assert render_table(*recorded_run()) == (OTHER / "multi.log").read_text("utf-8")


def test_the_json_is_that_of_the_binary() -> None:
    ours = json.loads(render_json(*recorded_run()))
    assert list(ours) == list(RECORDED)
    for mine, theirs in zip(ours.pop("results"), RECORDED["results"], strict=True):
        assert list(mine) == list(theirs)
        assert mine.pop("type") == theirs["type"]
        assert mine == pytest.approx({key: theirs[key] for key in mine}, rel=1e-12)
    assert ours == {key: RECORDED[key] for key in ours}


def test_without_a_cache_the_table_is_that_of_the_binary() -> None:
    run = recorded_run()[0]
    rows = [Row(Case(128, 0), (spread(253.22, 2.23),)), Row(Case(0, 32), (spread(86.52, 4.73),))]
    assert render_table(run, rows) == (OTHER / "kv_false.log").read_text("utf-8")


def test_columns_of_our_own_and_the_loading_time_stand_at_the_end() -> None:
    run, rows = recorded_run()
    row = replace(rows[0], extra={"quality_ppl_rise": 0.0123456789})
    table = render_table(replace(run, loading_s=0.25), [row]).splitlines()
    assert [cell.strip() for cell in table[0].split("|")][-3:-1] == ["quality_ppl_rise", "loadingTime(s)"]
    assert [cell.strip() for cell in table[2].split("|")][-3:-1] == ["0.0123457", "0.25 ± 0.00"]
    result = json.loads(render_json(run, [row]))["results"][0]
    assert result["quality_ppl_rise"] == 0.0123456789


@pytest.mark.parametrize("loading_s", [None, 0.25])
def test_the_gate_reads_the_same_rows_from_both(loading_s: float | None) -> None:
    run = Run("tiny", 3 * 2**30, 2, 1, loading_s)
    with_h2o = recorded_run()[1]
    without = [
        Row(Case(128, 0), (spread(253.22, 2.23),)),
        Row(Case(0, 32), (spread(86.52, 4.73),)),
        Row(Case(6, 3), (spread(9, 1),)),
    ]
    for rows in (with_h2o, without[:2]):
        from_table = parse_table(render_table(run, rows), log_file="log")
        from_json = parse_json(render_json(run, rows), log_file="log")
        assert [dict(row.cells) for row in from_table] == [dict(row.cells) for row in from_json]
    both = parse_table(render_table(run, without[2:]), log_file="log")
    assert both[0].cells["test"] == parse_json(render_json(run, without[2:]), log_file="log")[0].cells["test"]
