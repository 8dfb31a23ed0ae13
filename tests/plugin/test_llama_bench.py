"""Another bench by a plugin: llama-bench, its cache types as presets, from recorded output and launched."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from tests.plugin.project import ROOT, Project, refusal, verdict

EXAMPLES = ROOT / "docs" / "examples"
RECORDING = ROOT / "fixtures" / "recordings" / "llama-bench" / "cache-types.json"

FAKE_LLAMA_BENCH = """#!{python} -IS
# Prints what is recorded of the cache types and lengths that it is asked for, and noise on standard error.
import json, os, sys

asked = dict(zip(sys.argv[1::2], sys.argv[2::2]))
print("ggml_vulkan: Found 1 Vulkan devices:", file=sys.stderr, flush=True)
if not os.path.isfile(asked["-m"]):
    sys.exit("error: failed to load model '" + asked["-m"] + "'")
found = [
    dict(test, n_threads=int(asked["-t"]))
    for test in json.load(open({recording!r}))
    if (test["type_k"], test["type_v"]) == (asked["-ctk"], asked["-ctv"])
    and (test["n_prompt"] == int(asked["-p"]) or test["n_gen"] == int(asked["-n"]))
]
assert (asked["-fa"], asked["-o"]) == ("1", "json")
print(json.dumps(found, indent=2))
"""


class LlamaProject(Project):
    """Gates of KV-cache types; `recording` holds the tests that are gated on, for a test to change."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        shutil.rmtree(path / "gates")
        shutil.copy(EXAMPLES / "llama_bench.py", path)
        shutil.copytree(EXAMPLES / "llama_gates", path / "gates", ignore=shutil.ignore_patterns("__pycache__"))
        self.recording = path / "recorded" / "bench.json"
        self.recording.parent.mkdir()
        self.write(json.loads(RECORDING.read_text()))
        self.write_ini(h2o_logs="recorded")

    def write(self, tests: list[dict[str, Any]]) -> None:
        self.recording.write_text(json.dumps(tests, indent=2))

    def read(self) -> list[dict[str, Any]]:
        return json.loads(self.recording.read_text())

    def make_llama_bench(self) -> tuple[str, ...]:
        """A stand-in for the binary that prints the recording; the options for it."""
        bench = self.path / "llama-bench"
        bench.write_text(FAKE_LLAMA_BENCH.format(python=sys.executable, recording=str(self.recording)))
        bench.chmod(0o755)
        (self.path / "model.gguf").write_bytes(b"GGUF")
        (self.path / "model.json").write_text('{"model": "model.gguf"}')
        self.write_ini(h2o_threads="2")
        return ("--h2o-bench=llama-bench", "--h2o-base-config=model.json")


LLAMA_BENCH = ("--h2o-bench=llama-bench", "--h2o-base-config=model.json")
Change = Callable[[LlamaProject], object]


@pytest.fixture
def llama(tmp_path: Path) -> LlamaProject:
    return LlamaProject(tmp_path)


def test_cache_types_are_gated(llama: LlamaProject, snapshot: SnapshotAssertion) -> None:
    result = llama.run()
    assert result.ret == 0, "\n".join(result.outlines)
    summary = llama.summary()
    assert summary["overall_pass"] is True
    presets = summary["presets"]
    assert {name: [v["measured"] for v in preset["verdicts"]] for name, preset in presets.items()} == snapshot
    assert presets["kv_q4_0"]["baseline"] == snapshot(name="baseline")
    figures = json.loads((llama.run_dir() / "figures.json").read_text())["record"]["subjects"]
    (row,) = next(s for s in figures if s["name"] == "kv_q4_0")["figures"].values()
    assert (row["h2o_lossy"], row["decode_tok_per_s"]) == (32 / 9, 114.972522)
    # The run folder is a recording.
    llama.recording.unlink()
    result = llama.run(f"--h2o-logs={llama.run_dir()}")
    assert result.ret == 0, "\n".join(result.outlines)
    assert llama.summary(llama.runs()[-1])["overall_pass"] is True


def changed(type_k: str = "q4_0", **fields: Any) -> Change:
    """The generation test of a type with other fields."""

    def change(llama: LlamaProject) -> None:
        llama.write([{**t, **fields} if t["type_k"] == type_k and t["n_gen"] else t for t in llama.read()])

    return change


def another_v(llama: LlamaProject) -> None:
    llama.write([dict(test, type_v="f16") if test["type_k"] == "q4_0" else test for test in llama.read()])


def no_f16(llama: LlamaProject) -> None:
    llama.write([test for test in llama.read() if test["type_k"] != "f16"])


def deeper_f16(llama: LlamaProject) -> None:
    llama.write([dict(test, n_depth=4096) if test["type_k"] == "f16" else test for test in llama.read()])


def two_rows(llama: LlamaProject) -> None:
    tests = llama.read()
    llama.write([*tests, *(dict(t, avg_ts=119.0) for t in tests if t["type_k"] == "q4_0" and t["n_gen"])])


def no_model(llama: LlamaProject) -> None:
    llama.make_llama_bench()
    (llama.path / "model.gguf").unlink()


def text(change: Callable[[str], str]) -> Change:
    return lambda llama: llama.recording.write_text(change(llama.recording.read_text()))


LOSSY, DECODE = "test_lossy[kv_q4_0]", "test_decode[kv_q4_0]"
ONLY_LOSSY, ONLY_DECODE = ("-k", "kv_q4_0 and test_lossy"), ("-k", "kv_q4_0 and test_decode")
POINT = "run_0001_p512_g128"
FAILURES: dict[str, tuple[Change, tuple[str, ...], tuple[str, ...]]] = {
    "slower": (changed("q8_0", avg_ts=110.0), ("-k", "kv_q8_0"), ("test_decode[kv_q8_0]", "test_joint[kv_q8_0]")),
    "not measured": (another_v, ("-k", "kv_q4_0"), (LOSSY,)),
    "no f16": (no_f16, ONLY_DECODE, (DECODE,)),
    "f16 at another depth": (deeper_f16, ONLY_DECODE, (DECODE,)),
    "measured twice": (two_rows, ONLY_LOSSY, (LOSSY,)),
    "cut": (text(lambda text: text[: len(text) // 2]), ONLY_LOSSY, (LOSSY,)),
    "a negative speed": (changed(avg_ts=-1), ONLY_LOSSY, (LOSSY,)),
    "a speed in words": (changed(avg_ts="x"), ONLY_LOSSY, (LOSSY,)),
    "no such type": (changed(type_v="q3_9"), ONLY_LOSSY, (LOSSY,)),
    "output of llm_bench": (text(lambda text: "| model | h2o_keep |\n| --- | --- |\n"), ONLY_LOSSY, (LOSSY,)),
    "empty": (text(lambda text: ""), ONLY_LOSSY, (LOSSY,)),
    "a launch that fails": (
        no_model,
        (*LLAMA_BENCH, "-k", "test_bench and kv_q8_0"),
        (f"test_bench[kv_q8_0-{POINT}]",),
    ),
    "the embedded bench": (lambda llama: llama.write_ini(), ONLY_LOSSY, (LOSSY,)),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_is_missed_missing_or_damaged_fails(name: str, llama: LlamaProject, snapshot: SnapshotAssertion) -> None:
    change, arguments, told = FAILURES[name]
    change(llama)
    result = llama.run(*arguments)
    assert result.ret == 1
    assert verdict(llama, result, *told) == snapshot


@pytest.mark.parametrize(
    "preset",
    [
        "bench: llama_bench\n",
        "bench: llama-bench\nbench_options: {type_q: q8_0}\n",
        "bench: llama-bench\nbench_options: {type_k: q3_0}\n",
        "bench: llama-bench\nh2o_block_tokens: 8\n",
    ],
    ids=["name", "option", "type", "key"],
)
def test_a_preset_that_the_bench_cannot_run_is_refused(
    preset: str, llama: LlamaProject, snapshot: SnapshotAssertion
) -> None:
    (llama.path / "gates" / "presets" / "kv_q4_0.yaml").write_text(preset)
    assert refusal(llama, llama.run("-k", "kv_q4_0")) == snapshot


def test_it_is_launched_and_paired_with_an_f16_cache(llama: LlamaProject) -> None:
    bench = llama.make_llama_bench()
    result = llama.run(*bench, "-k", "kv_q8_0", "--h2o-decode-budget=8", "--h2o-disturbed=keep")
    assert result.ret == 0, "\n".join(result.outlines)
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


def test_a_dry_run_writes_its_commands(llama: LlamaProject) -> None:
    bench = llama.make_llama_bench()
    result = llama.run(*bench, "-k", "kv_q8_0", "--h2o-dry-run")
    assert result.ret == 0, "\n".join(result.outlines)
    (commands,) = llama.path.glob("h2o-runs/*/kv_q8_0/commands.sh")
    assert " -ctk q8_0 -ctv q8_0 -p 512 -n 128 -r 3 -t 2 -fa 1 -o json > " in commands.read_text()
