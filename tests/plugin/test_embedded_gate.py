"""Where nobody names a bench, the embedded one runs: real launches of a real, small model."""

import json
import shutil
from struct import pack

import pytest

from tests.plugin.project import ROOT, Project, check_no_traceback

QUICK = """
prompts: 96
gens: 24
repeat: 1
h2o_target_mode: adaptive
h2o_target_lossy_ratios: [3.4]
h2o_block_tokens: 4
h2o_sink_tokens: 4
h2o_recent_tokens: 8
h2o_trigger_min_tokens: 64
targets: {quality: 5}
"""
LITTLE = """
prompts: 512
gens: 16
repeat: 1
h2o_target_mode: static
h2o_keep_ratios: [0.05]
h2o_block_tokens: 4
h2o_sink_tokens: 4
h2o_recent_tokens: 8
h2o_trigger_min_tokens: 32
h2o_layer_start: 0
"""
"""One token in twenty, in every layer, and again as soon as it has grown."""
STORED = f"""{QUICK}
kv_lossless_enable: true
kv_lossless_codec: gear_delta
kv_lossless_runtime_enable: true
kv_lossless_runtime_mode: store
kv_lossless_scope: front_n_and_h2o_kept
kv_lossless_hot_recent_tokens: 8
kv_lossless_store_grouped_step_tokens: 32
"""
HELD = "{quality: 5, h2o_lossless_decode_cache_hit: 6, h2o_lossless_fallback: 0, h2o_lossless_queue_peak: 8}"
FEW = ("--h2o-bench=reference", "--h2o-base-config=model.json", "--h2o-decode-budget=20,0.01s", "--h2o-disturbed=keep")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("embedded"))
    project.write_ini(h2o_threads="1")
    for path in (project.path / "gates" / "presets").glob("*.yaml"):
        if path.stem not in ("target_speed", "target_ratio_v3"):
            path.unlink()
    project.preset("quick").write_text(QUICK)
    project.preset("little").write_text(LITTLE)
    project.preset("stored").write_text(STORED.replace("{quality: 5}", HELD))
    project.preset("uncached").write_text(STORED.replace("{quality: 5}", HELD) + "kv_lossless_decode_cache_blocks: 0\n")
    project.preset("fallback").write_text(
        STORED.replace("{quality: 5}", HELD) + "kv_lossless_store_bootstrap_tokens: 1\n"
    )
    model = {
        "llm_model": str(ROOT / "fixtures" / "models" / "austen-5m.gguf"),
        "quality_text_file": str(ROOT / "fixtures" / "text" / "heldout.txt"),
        "quality_prompt_tokens": 512,
        "quality_tokens": 128,
        "quality_greedy_tokens": 8,
    }
    (project.path / "model.json").write_text(json.dumps(model))
    (project.path / "plain.json").write_text(json.dumps({"llm_model": model["llm_model"]}))
    return project


@pytest.fixture(scope="module")
def measured(embedded: Project) -> pytest.RunResult:
    """One run of both presets."""
    return embedded.run("-k", "quick or little and (lossy or quality)", *FEW)


def test_it_is_the_default_and_leaves_out_what_is_out_of_reach(embedded: Project) -> None:
    result = embedded.run("--collect-only", "-q")
    assert result.ret == 0
    text = "\n".join(result.outlines)
    assert "test_lossy[quick]" in text
    assert "test_lossy[target_speed]" not in text
    assert "target_speed (out of reach: whole blocks and protected tokens leave a lossy ratio of at most 2.8" in text
    assert "test_lossy[target_speed]" in "\n".join(embedded.run("--collect-only", "-q", "-k", "target_speed").outlines)


def test_a_whole_verdict_on_it(embedded: Project, measured: pytest.RunResult) -> None:
    """Eviction, perplexity and a pair are all measured; one pair is no verdict on decode."""
    assert measured.parseoutcomes()["passed"] == 6, measured.stdout.str()
    preset = embedded.summary()["presets"]["quick"]
    verdicts = {v["title"]: v["outcome"] for v in preset["verdicts"]}
    assert verdicts["lossy ratio"] == verdicts["rise in perplexity"] == "pass"
    assert preset["decode"]["launches"] == 2
    assert verdicts["decode slow-down"] == "inconclusive"
    folder = embedded.run_dir() / "quick"
    pair = json.loads(next((folder / "decode" / "configs").glob("*candidate.json")).read_text())
    point = json.loads(next((folder / "configs").glob("run_0001*.json")).read_text())
    assert point.items() - pair.items() == {(key, value) for key, value in point.items() if key.startswith("quality_")}
    digests = json.loads((embedded.run_dir() / "run.json").read_text())["digests"]
    assert any(name.endswith("reference/__main__.py") for name in digests)


def test_quality_bites(embedded: Project, measured: pytest.RunResult) -> None:
    """Keeping one token in twenty meets a lossy target of 3 easily, and the model is worse by more than allowed."""
    assert list(embedded.failed()) == ["test_quality[little]"]
    assert measured.parseoutcomes()["failed"] == 1
    verdicts = {v["title"]: v["outcome"] for v in embedded.summary()["presets"]["little"]["verdicts"]}
    assert (verdicts["lossy ratio"], verdicts["rise in perplexity"]) == ("pass", "fail")


def test_store_mode_from_the_cache_to_the_verdict(embedded: Project) -> None:
    """What happens in the cache is what fails: blocks not found decoded, and ones that coding did not shrink."""
    for folder in embedded.runs():
        shutil.rmtree(folder)
    words = ("-k", "(stored or uncached or fallback) and (health or bench)", "--h2o-decode-baseline=none")
    result = embedded.run(*FEW, "--h2o-base-config=plain.json", *words)  # quality is not looked at
    assert result.parseoutcomes()["passed"] == 4, result.stdout.str()
    assert set(embedded.failed()) == {"test_health[uncached]", "test_health[fallback]"}
    assert "hits of the decode cache" in embedded.failed()["test_health[uncached]"]
    assert "runtime lossless fallbacks" in embedded.failed()["test_health[fallback]"]


@pytest.mark.parametrize("name", ["deep.gguf", "a\0b"])
def test_a_hostile_model_is_left_to_its_items(name: str, project: Project) -> None:
    """Arrays nested without end, and a NUL in the name: collection, which reads the model, goes on."""
    arrays = pack("<Q", 1) + b"a" + pack("<I", 9) + pack("<IQ", 9, 1) * 20_000
    (project.path / "deep.gguf").write_bytes(b"GGUF" + pack("<IQQ", 3, 0, 1) + arrays)
    (project.path / "model.json").write_text(json.dumps({"llm_model": name}))
    result = project.run("--collect-only", "-q", *FEW, "-o", "h2o_logs=")
    assert "test_lossy[embedded]" in "\n".join(result.outlines)
    assert result.ret == 0
    check_no_traceback(result)
