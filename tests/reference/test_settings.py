"""The config: what is taken, and one clear error for everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_model import SyntheticShape

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.config import BenchConfig, lossless_settings, policy_settings, read_config
from pytest_h2o.reference.gguf import HyperParameters

ROOT = Path(__file__).parents[2]
HYPER = HyperParameters(4, 32, 48, 4, 2, 8, 260, 512, 10000.0, 1e-5)
LOSSLESS_ON = {"kv_lossless_enable": True, "kv_lossless_codec": "gear_delta", "kv_lossless_runtime_enable": True}


def config_of(folder: Path, **values: Any) -> BenchConfig:
    path = folder / "config.json"
    path.write_text(json.dumps(values), "utf-8")
    return read_config(path)


def error_of(folder: Path, **values: Any) -> str:
    with pytest.raises(UsageError) as caught:
        config_of(folder, **values)
    return str(caught.value)


def test_every_recorded_config_is_taken() -> None:
    recorded = sorted((ROOT / "fixtures/recordings/smollm2-135m/target_ratio_v3/configs").glob("*.json"))
    assert len(recorded) == 27
    for path in recorded:
        config = read_config(path)
        given = json.loads(path.read_text("utf-8"))
        assert {key: config.values[key] for key in given if key.startswith("kv_")} == {
            key: value for key, value in given.items() if key.startswith("kv_")
        }


def test_files_are_found_under_base_dir(tmp_path: Path) -> None:
    config = config_of(tmp_path, base_dir="models/", llm_model="a\\b.gguf", prompt_file="p.txt")
    assert config.model_path == tmp_path / "models/a/b.gguf"
    assert config.prompt_file == tmp_path / "models/p.txt"
    assert config_of(tmp_path).model_path == tmp_path / "llm.mnn"


def test_keys_of_later_engines_are_told_of(tmp_path: Path) -> None:
    assert config_of(tmp_path, kv_lossless_store_disable_front=True).notes == (
        "kv_lossless_store_disable_front has no effect in the reference bench",
    )


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    assert error_of(tmp_path, kv_h2o_block_token=8) == (
        "the config has a key that is not known\n"
        f"  where: {tmp_path}/config.json, kv_h2o_block_token\n  next: did you mean kv_h2o_block_tokens?"
    )


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("kv_h2o_block_tokens", 0, "a whole number, 1 or more"),
        ("kv_h2o_block_tokens", 8.0, "a whole number, 1 or more"),
        ("kv_h2o_block_tokens", True, "a whole number, 1 or more"),
        ("kv_h2o_target_keep_ratio", 1.5, "a number from 0.0001 to 1"),
        ("kv_h2o_ema_alpha", float("nan"), "a number from 0 to 1"),
        ("kv_h2o_target_mode", "dynamic", "adaptive, static"),
        ("kv_h2o_enable", 1, "true or false"),
        ("kv_lossless_runtime_mode", "store", "probe, full"),
        ("llm_model", 3, "text"),
        ("prompt_token", -1, "a token id"),
    ],
)
def test_an_impossible_value(tmp_path: Path, key: str, value: Any, expected: str) -> None:
    assert error_of(tmp_path, **{key: value}) == (
        f"the config has an impossible value\n  where: {tmp_path}/config.json, {key}\n"
        f"  came: {json.dumps(value)}\n  expected: {expected}"
    )


def test_two_prompts(tmp_path: Path) -> None:
    assert error_of(tmp_path, prompt_token=16, prompt_file="p.txt").startswith("the config names two prompts")


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1]", "the config is no JSON object"), ("{", "the config is no JSON"), ("[" * 100_000, "the config is no JSON")],
)
def test_a_file_that_is_no_config(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError) as caught:
        read_config(path)
    assert caught.value.what == message
    with pytest.raises(UsageError, match="the config cannot be read"):
        read_config(tmp_path / "missing.json")


def test_the_policy_of_a_config(tmp_path: Path) -> None:
    assert policy_settings(config_of(tmp_path), HYPER, 640) is None
    adaptive = policy_settings(config_of(tmp_path, kv_h2o_enable=True, kv_h2o_target_lossy_ratio=4), HYPER, 640)
    assert adaptive is not None
    assert (adaptive.ratio, adaptive.layer_start, adaptive.layer_end) == (0.25, 2, 3)
    static = config_of(
        tmp_path, kv_h2o_enable=True, kv_h2o_target_mode="static", kv_h2o_target_keep_ratio=0.3, kv_h2o_layer_end=2
    )
    fixed = policy_settings(static, HYPER, 640)
    assert fixed is not None
    assert (fixed.ratio, fixed.covers(2), fixed.covers(3)) == (0.3, True, False)


@pytest.mark.parametrize(("start", "end", "key"), [(4, -1, "start"), (2, 4, "end"), (3, 2, "end")])
def test_a_layer_range_outside_the_model(tmp_path: Path, start: int, end: int, key: str) -> None:
    config = config_of(tmp_path, kv_h2o_enable=True, kv_h2o_layer_start=start, kv_h2o_layer_end=end)
    with pytest.raises(UsageError) as caught:
        policy_settings(config, HYPER, 640)
    assert str(caught.value) == (
        f"the layer range of H2O is outside the model\n  where: {tmp_path}/config.json, kv_h2o_layer_{key}\n"
        f"  came: layers {start} to {end}\n  expected: first and last of layers 0 to 3, or -1 for the last"
    )


def test_more_protected_tokens_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        policy_settings(config_of(tmp_path, kv_h2o_enable=True), HYPER, 200)
    assert str(caught.value) == (
        "sink and recent tokens are more than the sequence has\n"
        f"  where: {tmp_path}/config.json, kv_h2o_recent_tokens\n  came: 32 sink and 256 recent tokens\n"
        "  expected: at most 200: prompt and generation together\n"
        "  next: protect fewer tokens, or ask for a longer prompt"
    )


def test_the_lossless_scope_of_a_config(tmp_path: Path) -> None:
    assert lossless_settings(config_of(tmp_path), HYPER, half=True) is None
    both = config_of(
        tmp_path, kv_h2o_enable=True, kv_lossless_scope="front_n_and_h2o_kept", kv_lossless_front_n=1, **LOSSLESS_ON
    )
    settings = lossless_settings(both, HYPER, half=True)
    assert settings is not None
    assert (settings.front_n, settings.kept_layers) == (1, (2, 3))
    assert [layer for layer in range(4) if settings.samples(layer)] == [0, 2]
    with pytest.raises(UsageError, match="known here for fp16 alone"):
        lossless_settings(both, HYPER, half=False)
    with pytest.raises(UsageError, match="front layers are outside the model"):
        lossless_settings(config_of(tmp_path, kv_lossless_front_n=5, **LOSSLESS_ON), HYPER, half=True)


def test_the_shape_used_here_is_the_synthetic_one() -> None:
    shape = SyntheticShape()
    assert (shape.layers, shape.kv_heads, shape.vocabulary) == (HYPER.layers, HYPER.kv_heads, HYPER.vocabulary)
