"""Another bench by a plugin: llama-bench, its cache types as presets, from recorded output and launched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.llama_project import LlamaProject
from tests.plugin.project import check_failed, failure_of


@pytest.fixture
def llama(tmp_path: Path) -> LlamaProject:
    return LlamaProject(tmp_path)


def find(tests: list[dict[str, Any]], type_k: str, *, generates: bool) -> dict[str, Any]:
    (test,) = (t for t in tests if t["type_k"] == type_k and (t["n_gen"] > 0) == generates)
    return test


def test_cache_types_are_gated(llama: LlamaProject) -> None:
    result = llama.run()
    assert result.ret == 0, result.outlines
    summary = llama.summary()
    assert summary["overall_pass"] is True
    shown = {name: [v["measured"] for v in preset["verdicts"]] for name, preset in summary["presets"].items()}
    assert shown == {
        "kv_q4_0": ["3.556", "3.29% (interval 2.48% to 4.10%, 1 row)", "+1.59% (interval +0.90% to +1.59%, 1 row)"],
        "kv_q8_0": ["1.882", "2.06% (interval 1.24% to 2.88%, 1 row)", "+1.75% (1 row)"],
    }
    baseline = summary["presets"]["kv_q4_0"]["baseline"]
    assert baseline == {"tok_per_s": 118.881588, "origin": "recorded row with an f16 cache, bench.json"}
    figures = json.loads((llama.run_dir() / "figures.json").read_text())["record"]["subjects"]
    (row,) = next(s for s in figures if s["name"] == "kv_q4_0")["figures"].values()
    assert (row["h2o_lossy"], row["decode_tok_per_s"]) == (32 / 9, 114.972522)
    # The run folder is a recording.
    llama.recording.unlink()
    result = llama.run(f"--h2o-logs={llama.run_dir()}")
    assert result.ret == 0, result.outlines
    assert llama.summary(llama.runs()[-1])["overall_pass"] is True


def test_a_slower_type_fails_and_says_by_how_much(llama: LlamaProject) -> None:
    tests = llama.read()
    find(tests, "q8_0", generates=True)["avg_ts"] = 110.0
    llama.write(tests)
    result = llama.run("-k", "kv_q8_0")
    check_failed(llama, result, "test_decode[kv_q8_0]", "test_joint[kv_q8_0]")
    assert (
        "kv_q8_0: decode slow-down\n"
        "target     <= 5.00% (targets of preset kv_q8_0)\n"
        "measured   7.47% (interval 6.65% to 8.29%, 1 row) on run_0001_p512_g128\n"
        "decode     110.00 tok/s, the mean of 1 row\n"
        "baseline   118.88 tok/s with an f16 cache (recorded row with an f16 cache, bench.json)\n"
        "margin     missed by 2.47% of the baseline speed\n"
    ) in failure_of(result, "test_decode[kv_q8_0]")
    assert "           lossless ratio none asked for (the dumps are none of llama-bench)\n" in failure_of(
        result, "test_joint[kv_q8_0]"
    )


def test_a_type_that_was_not_measured_fails(llama: LlamaProject) -> None:
    llama.write([dict(test, type_v="f16") if test["type_k"] == "q4_0" else test for test in llama.read()])
    result = llama.run("-k", "kv_q4_0")
    items = ("test_bench[kv_q4_0-run_0001_p512_g128]", "test_lossy[kv_q4_0]", "test_decode[kv_q4_0]")
    check_failed(llama, result, *items, "test_joint[kv_q4_0]")
    told = failure_of(result, "test_lossy[kv_q4_0]")
    assert "run_0001_p512_g128 is not in the recording\n" in told
    assert "  came: 3 rows of other configurations\n" in told
    assert "  expected: a row with prompt_len 512, gen_len 128, bench llama-bench, type_k q4_0, type_v q4_0\n" in told


def test_without_an_f16_row_there_is_no_baseline(llama: LlamaProject) -> None:
    llama.write([test for test in llama.read() if test["type_k"] != "f16"])
    result = llama.run("-k", "test_decode and kv_q4_0")
    told = failure_of(result, "test_decode[kv_q4_0]")
    assert "no baseline: nothing says how fast kv_q4_0 decodes with an f16 cache\n" in told
    llama.write([dict(test, n_depth=4096 * (test["type_k"] == "f16")) for test in [*llama.read(), *_f16(llama)]])
    told = failure_of(llama.run("-k", "test_decode and kv_q4_0"), "test_decode[kv_q4_0]")
    assert "conditions n_depth 4096, n_batch 2048" in told


def _f16(llama: LlamaProject) -> list[dict[str, Any]]:
    return [dict(test, type_k="f16", type_v="f16") for test in llama.read() if test["type_k"] == "q8_0"]


def test_two_measurements_of_one_type_are_not_chosen_from(llama: LlamaProject) -> None:
    tests = llama.read()
    llama.write([*tests, dict(find(tests, "q4_0", generates=True), avg_ts=119.0)])
    told = failure_of(llama.run("-k", "test_lossy and kv_q4_0"), "test_lossy[kv_q4_0]")
    assert "run_0001_p512_g128 has several rows, and nothing tells which one is meant\n" in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text[: len(text) // 2], "is damaged: the JSON of llama-bench is damaged"),
        (
            lambda text: text.replace("114.972522", "-1"),
            "a test of llama-bench has no sound speed: avg_ts -1",
        ),
        (lambda text: text.replace("114.972522", '"x"'), "is damaged: a test of llama-bench has no avg_ts: 'x'"),
        (
            lambda text: text.replace('"type_v": "q4_0"', '"type_v": "q3_9"'),
            "a cache type that is not known",
        ),
        (lambda text: "| model | h2o_keep |\n| --- | --- |\n", "came: output of llm_bench"),
        (lambda text: "", "came: no output of this bench"),
    ],
    ids=["cut", "negative", "text", "type", "llm_bench", "empty"],
)
def test_damaged_output_never_passes(change: Any, told: str, llama: LlamaProject) -> None:
    llama.recording.write_text(change(llama.recording.read_text()))
    result = llama.run("-k", "kv_q4_0 and test_lossy")
    check_failed(llama, result, "test_lossy[kv_q4_0]")
    assert told in failure_of(result, "test_lossy[kv_q4_0]")


@pytest.mark.parametrize(
    ("preset", "told"),
    [
        (
            "bench: llama_bench\n",
            ["ERROR: no such bench adapter", "  came: llama_bench", "  next: did you mean llama-bench?"],
        ),
        (
            "bench: llama-bench\nbench_options: {type_q: q8_0}\n",
            ["ERROR: llama-bench cannot be run with these options", "  came: type_q; it has type_k and type_v"],
        ),
        (
            "bench: llama-bench\nbench_options: {type_k: q3_0}\n",
            ["  came: {'type_k': 'q3_0'}; types are f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl"],
        ),
        (
            "bench: llama-bench\nh2o_block_tokens: 8\n",
            [
                "*kv_q4_0.yaml:2:19: h2o_block_tokens: a key of llm_bench",
                "  expected: only settings under bench_options*",
            ],
        ),
    ],
    ids=["name", "option", "type", "key"],
)
def test_a_preset_that_the_bench_cannot_run_is_refused(preset: str, told: list[str], llama: LlamaProject) -> None:
    (llama.path / "gates" / "presets" / "kv_q4_0.yaml").write_text(preset)
    result = llama.run("-k", "kv_q4_0")
    assert result.ret == 4
    result.stdout.fnmatch_lines(told)


def test_it_is_launched_and_paired_with_an_f16_cache(llama: LlamaProject) -> None:
    bench = llama.make_llama_bench()
    result = llama.run(*bench, "-k", "kv_q8_0", "--h2o-decode-budget=8", "--h2o-disturbed=keep")
    assert result.ret == 0, result.outlines
    folder = llama.run_dir() / "kv_q8_0"
    config = json.loads((folder / "configs" / "run_0001_p512_g128.json").read_text())
    model = str(llama.path / "model.gguf")
    assert config == {"model": model, "type_k": "q8_0", "type_v": "q8_0", "n_prompt": 512, "n_gen": 128}
    assert (folder / "logs" / "run_0001_p512_g128.stdout.txt").read_text().startswith("ggml_vulkan: Found 1")
    assert "ggml_vulkan" not in (folder / "logs" / "run_0001_p512_g128.log").read_text()
    decode = llama.summary()["presets"]["kv_q8_0"]["decode"]
    assert decode["baseline"] == "an f16 cache in the same bench"
    assert decode["drop"] == pytest.approx(1 - 116.436423 / 118.881588)
    again = llama.run(f"--h2o-logs={llama.run_dir()}", "-k", "kv_q8_0")
    assert again.ret == 0, again.outlines


def test_a_launch_that_fails_is_told_with_its_reason(llama: LlamaProject) -> None:
    bench = llama.make_llama_bench()
    (llama.path / "model.gguf").unlink()
    result = llama.run(*bench, "-k", "test_bench and kv_q8_0")
    told = failure_of(result, "test_bench[kv_q8_0-run_0001_p512_g128]")
    assert "the bench ended with exit code 1\n" in told
    assert "  came: error: failed to load model '" in told


def test_a_dry_run_writes_its_commands(llama: LlamaProject) -> None:
    bench = llama.make_llama_bench()
    result = llama.run(*bench, "-k", "kv_q8_0", "--h2o-dry-run")
    assert result.ret == 0, result.outlines
    (commands,) = llama.path.glob("h2o-runs/*/kv_q8_0/commands.sh")
    assert " -ctk q8_0 -ctv q8_0 -p 512 -n 128 -r 3 -t 2 -fa 1 -o json > " in commands.read_text()


def test_the_embedded_bench_is_not_taken_for_it(llama: LlamaProject) -> None:
    llama.write_ini()
    result = llama.run("-k", "kv_q8_0 and test_lossy")
    check_failed(llama, result, "test_lossy[kv_q8_0]")
    told = failure_of(result, "test_lossy[kv_q8_0]")
    assert "not measured: kv_q8_0\n  came: the embedded bench is no llama-bench\n" in told
