"""Configs of runs against the recorded ones, and what is done with paths and with bad base configs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench.command import (
    BaseConfig,
    build_run_config,
    layer_count,
    read_base_config,
    rope_theta,
    with_layer_nums,
)
from pytest_h2o.errors import UsageError
from pytest_h2o.inputs.presets import Point

from .samples import RECORDINGS, SWEEP, recorded_points

POINTS = recorded_points()


def write_base(folder: Path, **values: Any) -> BaseConfig:
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return read_base_config(path)


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.run_id)
def test_generated_configs_equal_the_recorded_ones(point: Point) -> None:
    base = read_base_config(RECORDINGS / "base_config.json")
    recorded = json.loads((SWEEP / "configs" / f"{point.run_id}.json").read_text())
    config = build_run_config(base, point)
    assert config["base_dir"] == f"{RECORDINGS.resolve()}/"
    recorded["base_dir"] = config["base_dir"]
    assert list(config.items()) == list(recorded.items())


def test_base_dir_is_absolute_and_ends_in_a_slash(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert build_run_config(write_base(tmp_path, base_dir="model"), POINTS[0])["base_dir"] == f"{tmp_path}/model/"
    assert build_run_config(write_base(tmp_path, base_dir=""), POINTS[0])["base_dir"] == f"{tmp_path}/"
    assert build_run_config(write_base(tmp_path, base_dir="/m/"), POINTS[0])["base_dir"] == "/m/"
    assert build_run_config(write_base(tmp_path, base_dir="/"), POINTS[0])["base_dir"] == "/"


def test_path_fields_are_relative_to_base_dir(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / "abc").write_text("weights")
    model = tmp_path / "model"
    model.mkdir()
    (model / "llm.mnn.weight").symlink_to("../blobs/abc")
    base = write_base(
        tmp_path,
        base_dir="model/",
        llm_model=str(tmp_path / "elsewhere" / "llm.mnn"),
        llm_weight="llm.mnn.weight",
        embedding_file="sub\\embeddings.bin",
        tokenizer_file="",
        context_file=None,
    )
    config = build_run_config(base, POINTS[0])
    assert config["llm_model"] == "../elsewhere/llm.mnn"
    assert config["llm_weight"] == "../blobs/abc"
    assert (Path(config["base_dir"]) / config["llm_weight"]).read_text() == "weights"
    assert config["embedding_file"] == "sub/embeddings.bin"
    assert config["tokenizer_file"] == ""
    assert config["context_file"] is None
    assert config["llm_config"] == "llm_config.json"


def test_a_linked_base_dir_still_finds_its_files(tmp_path: Path) -> None:
    (tmp_path / "store" / "deep").mkdir(parents=True)
    (tmp_path / "store" / "shared.bin").write_text("shared")
    (tmp_path / "model").symlink_to("store/deep")
    config = build_run_config(write_base(tmp_path, base_dir="model", embedding_file="../shared.bin"), POINTS[0])
    assert Path(config["base_dir"] + config["embedding_file"]).read_text() == "shared"


def test_baseline_is_the_same_model_with_nothing_compressed() -> None:
    base = read_base_config(RECORDINGS / "base_config.json")
    config = build_run_config(base, replace(POINTS[0], compressed=False))
    run = build_run_config(base, POINTS[0])
    switched = {"kv_h2o_enable", "kv_lossless_enable", "kv_lossless_runtime_enable"}
    assert {key for key, value in config.items() if value is False} == switched
    assert {key: run[key] for key in config if key not in switched} == {
        key: value for key, value in config.items() if key not in switched
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"llm.mnn": b"\0/layers.0/self_attn/q_proj\0/layers.1/mlp\0/layers.1/norm"}, 2),
        ({"llm.mnn": b"/layers.0/ /layers.1/ /layers.3/"}, None),  # one is missing: it is not certain
        ({"llm.mnn": b"/layers.0/"}, None),
        ({"llm.mnn": b"tail of /layers.1/ /layers.2/"}, None),
        ({"llm.mnn.json": b'"blk.0.attn_q", "blk.1.attn_q", "blk.2.attn_q"', "llm.mnn": b"/layers.0/ /layers.1/"}, 3),
        ({"llm.mnn.json": b"names of another kind", "llm.mnn": b"blocks.0.attn blocks.1.attn"}, 2),
        ({"llm.mnn": b"/layers.0/ /layers.1/", "llm_config.json": b'{"layer_nums": "all"}'}, None),
        ({"llm.mnn": b"/layers.0/ /layers.1/", "llm_config.json": b'{"n_layer": 5}'}, 5),
    ],
)
def test_layer_count_of_what_the_weights_name(tmp_path: Path, files: dict[str, bytes], expected: int | None) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    assert layer_count(write_base(tmp_path)) == expected


@pytest.mark.parametrize(("own", "layers", "added"), [({}, 30, 30), ({}, None, None), ({"layer_nums": 30}, 30, None)])
def test_layer_nums_is_added_where_it_is_missing_and_known(
    tmp_path: Path, own: dict[str, int], layers: int | None, added: int | None
) -> None:
    base = with_layer_nums(write_base(tmp_path, **own), layers, "preset p")
    assert base.added == ({} if added is None else {"layer_nums": added})
    config = build_run_config(base, replace(POINTS[0], compressed=False))
    assert config.get("layer_nums") == (own.get("layer_nums") or added)


@pytest.mark.parametrize(
    "data",
    [
        None,
        b'{"a": 1,\n "b" 2}',
        b"",
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b"[" * 100000,
        b"[1]",
        b'"x"',
        b"null",
        b'{"a": "\xff"}',
        b'{"base_dir": 3}',
        b'{"base_dir": "a\\u0000b"}',
    ],
    ids=lambda data: str(data)[:20],
)
def test_a_base_config_that_cannot_be_used(tmp_path: Path, data: bytes | None, snapshot: SnapshotAssertion) -> None:
    if data is not None:
        (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read_base_config(tmp_path / "config.json", "--h2o-base-config")
    assert str(caught.value).replace(str(tmp_path), "") == snapshot


@pytest.mark.parametrize(
    ("llm_config", "layers", "theta"),
    [
        ({"layer_nums": 30, "rope_theta": 100000}, 30, 1e5),
        ({"num_hidden_layers": 30, "n_layer": 30, "rope_theta": 1e6, "rope_scaling": None}, 30, 1e6),
        ({"num_hidden_layers": 30, "layer_nums": 32, "rope_theta": 1e6, "rope_scaling": {"type": "yarn"}}, None, None),
        ({"layer_nums": True, "rope_theta": True}, None, None),
        ({"layer_nums": 0, "rope_theta": 0}, None, None),
        ({"layer_nums": "30", "rope_theta": "1e5"}, None, None),
        ({"hidden_size": 576}, None, None),
        ([30], None, None),
    ],
)
def test_layer_count_and_rope_theta(
    tmp_path: Path, llm_config: object, layers: int | None, theta: float | None
) -> None:
    (tmp_path / "llm_config.json").write_text(json.dumps(llm_config))
    base = write_base(tmp_path)
    assert (layer_count(base), rope_theta(base)) == (layers, theta)


def test_layer_count_follows_the_base_config(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "other.json").write_text('{"layer_nums": 24}')
    base = write_base(tmp_path, base_dir="m", llm_config="other.json")
    assert layer_count(base) == 24
    base.path.write_bytes(b"\xef\xbb\xbf" + base.path.read_bytes())  # a byte order mark
    assert read_base_config(base.path).values == base.values
    assert layer_count(write_base(tmp_path, base_dir="m", llm_config="")) is None
    assert layer_count(read_base_config(RECORDINGS / "base_config.json")) is None  # the model is not here


def test_keys_of_the_base_config_stay_in_place_and_those_of_the_preset_alone_come_last(tmp_path: Path) -> None:
    base = write_base(tmp_path, kv_h2o_ema_alpha=0.5, zeta=1, kv_lossless_kept_sample_layers=3)
    config = build_run_config(base, POINTS[0])
    assert list(config)[:4] == ["kv_h2o_ema_alpha", "zeta", "kv_lossless_kept_sample_layers", "base_dir"]
    assert (config["kv_h2o_ema_alpha"], config["kv_lossless_kept_sample_layers"]) == (0.9, 3)
    lossless = {"kv_lossless_runtime_mode": "full", "kv_lossless_front_n": 4}
    config = build_run_config(write_base(tmp_path), replace(POINTS[0], lossless=lossless))
    own = {key: value for key, value in config.items() if key.startswith("kv_lossless_")}
    assert (len(own), list(own)[-1]) == (16, "kv_lossless_runtime_mode")
    assert (
        own.items() >= {"kv_lossless_front_n": 4, "kv_lossless_scope": "front_n", "kv_lossless_enable": False}.items()
    )
