"""Presets: what a file gives, what the shipped ones say, and how settings of a command line change one."""

import functools
import itertools
import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.cli.runs import render_json_schema
from pytest_h2o.errors import PresetError
from pytest_h2o.inputs.presets import (
    SWEPT_KEYS,
    Preset,
    PresetKeys,
    Targets,
    expand_points,
    load_preset,
    load_presets,
    point_of,
    preset_from_flags,
)
from pytest_h2o.inputs.yaml import read_source
from tests.told import error_text

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "fixtures/recordings/smollm2-135m/target_ratio_v3/manifest.json"
ORIGINALS = sorted((ROOT / "fixtures/presets").glob("*.json"))
SHIPPED = sorted((ROOT / "gates/presets").glob("*.yaml"))


def write_preset(folder: Path, text: str, name: str = "a.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_those_of_the_original_scripts(snapshot: SnapshotAssertion) -> None:
    preset = preset_from_flags()
    assert preset.model_dump() == snapshot
    assert list(preset.lossless_settings()) == [
        key for key, value in preset.model_dump().items() if key.startswith("kv_lossless_") and value is not None
    ]


@pytest.mark.parametrize("path", ORIGINALS, ids=lambda path: path.stem)
def test_original_presets_load_and_the_shipped_ones_have_their_points(path: Path) -> None:
    preset = load_preset(path)
    for key, value in json.loads(path.read_text()).items():
        assert getattr(preset, key) == (tuple(value) if key in SWEPT_KEYS else value)
    assert (preset.name, preset.path) == (path.stem, path)
    shipped = expand_points(load_preset(ROOT / f"gates/presets/{path.stem}.yaml"))
    assert shipped == expand_points(preset)
    assert len(shipped) in (3, 12, 27)


@functools.cache
def preset_schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(render_json_schema("preset"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


@pytest.mark.parametrize("path", [*SHIPPED, *ORIGINALS], ids=lambda path: path.name)
def test_files_hold_against_the_json_schema(path: Path) -> None:
    schema = preset_schema()
    assert set(schema["properties"]) == set(PresetKeys.model_fields) == {*Preset.model_fields} - {"name", "path"}
    jsonschema.Draft202012Validator(schema).validate(read_source(path).data)


@pytest.mark.parametrize(
    "data",
    [
        *({"promts": 512}, {"prompts": []}, {"prompts": "512"}, {"prompts": [8, 8]}, {"h2o_keep_ratios": 0}),
        *({"h2o_target_mode": "fast"}, {"timeout_s": None}, {"name": "x"}),
        *({"targets": {"lossy": 0.5}}, {"targets": {"decode_baseline": "fast"}}),
    ],
    ids=str,
)
def test_json_schema_refuses_what_the_loader_refuses(data: dict[str, Any]) -> None:
    assert not jsonschema.Draft202012Validator(preset_schema()).is_valid(data)


@pytest.mark.parametrize(("name", "ratios", "least"), [("smoke", [3.2, 3.4], 3.0), ("embedded", [8.0], 7.0)])
def test_a_small_preset_meets_its_target_at_every_length(name: str, ratios: list[float], least: float) -> None:
    """The arithmetic in its comments, with every kept block a run of its own (8 bytes of 64 a token)."""
    preset = load_preset(ROOT / f"gates/presets/{name}.yaml")
    (prompt,), (gen,), (block,) = preset.prompts, preset.gens, preset.h2o_block_tokens
    (sink,), (recent,) = preset.h2o_sink_tokens, preset.h2o_recent_tokens
    points = expand_points(preset)
    assert [point.h2o_target_lossy_ratio for point in points] == ratios
    for point in points:
        for kv_len in range(prompt + 1, prompt + gen + 1):
            protected = math.ceil(sink / block) * block + kv_len - (kv_len - recent) // block * block
            wanted = math.ceil(kv_len / point.h2o_target_lossy_ratio)
            blocks = math.ceil((wanted - protected) / block)
            kept = protected + blocks * block
            assert blocks > 0, "else nothing would be evicted"
            assert kv_len * 64 / (kept * 64 + 8 * (2 + blocks)) > least
            assert kept + gen <= preset.h2o_trigger_min_tokens[0] < prompt


def test_our_own_keys(tmp_path: Path) -> None:
    text = """
        description: Größe – kurz
        targets: {lossy: 3, lossless: 1.3, decode_drop: 0.05, decode_baseline: 62, quality: 0.02}
        base_config: ../model/config.json
        prompt_file: /texts/long.txt
        model_layers: 30
        timeout_s: 600
    """
    preset = load_preset(write_preset(tmp_path, text))
    assert preset.description == "Größe – kurz"
    assert preset.targets == Targets(lossy=3.0, lossless=1.3, decode_drop=0.05, decode_baseline=62.0, quality=0.02)
    assert preset.base_config == tmp_path / "../model/config.json"
    assert preset.prompt_file == Path("/texts/long.txt")
    assert (preset.model_layers, preset.timeout_s) == (30, 600.0)
    for word in ("paired", "none"):
        text = f"targets: {{decode_baseline: {word}}}"
        assert load_preset(write_preset(tmp_path, text)).targets.decode_baseline == word


def test_presets_and_points_are_frozen_and_survive_pickling() -> None:
    preset = load_preset(ORIGINALS[0])
    with pytest.raises(ValueError):
        preset.repeat = 1
    for value in (preset, expand_points(preset)[-1]):
        copy = pickle.loads(pickle.dumps(value))
        assert (copy, hash(copy)) == (value, hash(value))
    assert pickle.loads(pickle.dumps(preset)).override("repeat=1") == preset.override("repeat=1")


def test_folders_are_searched_below_and_sorted_by_component(tmp_path: Path) -> None:
    """The ending may be in any case."""
    for name in ("b.yaml", "a/z.json", "a-b/y.yml", ".hidden/x.yaml", "a/.w.yaml", "a/notes.txt", "c.yaml~"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_preset(tmp_path, "{}", name)
    assert [preset.name for preset in load_presets([tmp_path])] == ["z", "y", "b"]
    assert [preset.name for preset in load_presets([tmp_path / "b.yaml", tmp_path / "a", tmp_path])] == ["z", "y", "b"]
    for name in ("d.YAML", "e.Yml", "f.JSON"):
        write_preset(tmp_path, "{}", name)
    assert [preset.name for preset in load_presets([tmp_path])] == ["z", "y", "b", "d", "e", "f"]


def test_linked_folders_are_searched_once(tmp_path: Path) -> None:
    for name in ("elsewhere/a.yaml", "P/real/b.yaml"):
        (tmp_path / name).parent.mkdir(parents=True)
        write_preset(tmp_path, "{}", name)
    for link, target in (("P/a link", "../elsewhere"), ("P/again", "../elsewhere"), ("P/0", "real")):
        (tmp_path / link).symlink_to(target)
    (tmp_path / "elsewhere" / "back").symlink_to("../P")
    presets = load_presets([tmp_path / "P"])
    assert sorted(preset.name for preset in presets) == ["a", "b"]
    assert tmp_path / "P" / "real" / "b.yaml" in [preset.path for preset in presets]


def test_what_cannot_be_seen_of_a_folder_of_presets_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    """Its presets would be silently left out, and a gate would pass without them."""
    monkeypatch.chdir(tmp_path)
    for name in ("P/a.yaml", "P/closed/b.yaml", "closed/c.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        write_preset(tmp_path, "{}", name)
    for link, target in (("loop", ".."), ("self", "self"), ("gone", "../gone")):
        Path("P", link).symlink_to(target)
    listed = os.scandir

    def scandir(path: Path) -> Any:
        if Path(path).name == "closed":  # chmod would not keep root out
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    told = {}
    for place in ("P", "closed"):
        told[place] = error_text(PresetError, load_presets, [place])
    assert told == snapshot


def test_override_is_checked_and_leaves_the_original_alone(tmp_path: Path) -> None:
    preset = load_preset(ROOT / "gates/presets/target_ratio_v3.yaml")
    changed = preset.override(
        "h2o_block_tokens=8,16",
        "gens=[64]",
        "targets.lossy=3.1",
        "targets.decode_baseline=none",
        "description=a, b",
        "kv_lossless_predictors_k=raw,xor_seq",
        "h2o_target_lossy_ratios=3",
        "base_config=model/config.json",
        "gens= 32 ",
    )
    assert (changed.h2o_block_tokens, changed.gens) == ((8, 16), (32,))
    assert changed.targets == Targets(lossy=3.1, decode_baseline="none")
    assert (changed.description, changed.kv_lossless_predictors_k) == ("a, b", "raw,xor_seq")
    assert repr(changed.h2o_target_lossy_ratios) == "(3.0,)"
    assert changed.base_config == Path("model/config.json")
    assert (changed.name, changed.path) == (preset.name, preset.path)
    assert (preset.gens, preset.targets) == ((128,), Targets())
    assert preset.override() == preset
    # Other targets and resolved paths stay; swept lossy ratios replace a single one.
    preset = load_preset(write_preset(tmp_path, "targets: {lossy: 3, quality: 1}\nbase_config: c.json"))
    changed = preset.override("targets.lossy=2")
    assert (changed.targets, changed.base_config) == (Targets(lossy=2.0, quality=1.0), tmp_path / "c.json")
    single = load_preset(ROOT / "gates/presets/target_ratio.yaml")
    assert single.override("h2o_target_lossy_ratio=3.5").h2o_target_lossy_ratios == (3.5,)
    assert single.override("h2o_target_lossy_ratios=3.2,3.4").h2o_target_lossy_ratios == (3.2, 3.4)


def test_flags_may_be_text_or_values() -> None:
    preset = preset_from_flags(
        prompts="512, 1024", gens=[8], h2o_ema_alphas=0.5, repeat="2", h2o_log_stats="true", h2o_target_mode="static",
        h2o_target_lossy_ratio=None, base_config="model/config.json",
    )  # fmt: skip
    assert (preset.name, preset.path) == ("adhoc", None)
    assert (preset.prompts, preset.gens, preset.h2o_ema_alphas) == ((512, 1024), (8,), (0.5,))
    assert (preset.repeat, preset.h2o_log_stats, preset.h2o_target_mode) == (2, True, "static")
    assert preset.base_config == Path("model/config.json")


ratios = st.floats(1, 100)
counts = st.integers(1, 2**31 - 1)
valid_presets = st.fixed_dictionaries(
    {},
    optional={
        "prompts": counts | st.lists(counts, min_size=1, max_size=4, unique=True),
        "h2o_keep_ratios": st.lists(st.floats(0, 1, exclude_min=True), min_size=1, max_size=4, unique=True),
        "h2o_target_lossy_ratio": ratios,
        "h2o_sink_tokens": st.integers(0, 100),
        "h2o_log_stats": st.booleans(),
        "kv_lossless_runtime_mode": st.sampled_from(["probe", "full", "store"]),
        "description": st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=30),
        "targets": st.fixed_dictionaries({}, optional={"lossy": ratios, "decode_baseline": st.just("none") | ratios}),
    },
)


@given(valid_presets)
def test_yaml_and_json_of_a_preset_are_the_same_preset(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("presets")
    as_json = load_preset(write_preset(folder, json.dumps(data), "p.json"))
    as_yaml = load_preset(write_preset(folder, yaml.safe_dump(data, allow_unicode=True), "p.yaml"))
    assert expand_points(as_json) == expand_points(as_yaml) == expand_points(preset_from_flags(**data).model_copy(
        update={"name": "p"}))  # fmt: skip
    assert as_json.description == as_yaml.description == data.get("description")
    assert as_json.targets == as_yaml.targets
    assert as_json.model_fields_set == {*data, "name", "path"}


def test_points_are_those_of_the_recorded_manifest() -> None:
    points = expand_points(load_preset(ROOT / "fixtures/presets/target_ratio_v3.json"))
    recorded = json.loads(MANIFEST.read_text())
    for entry in recorded:
        for outcome in ("config", "log", "return_code"):
            del entry[outcome]
    # Types and order of keys too: 3 == 3.0 and dicts compare without order.
    assert json.dumps([point.manifest_fields() for point in points]) == json.dumps(recorded)
    assert [point.index for point in points] == list(range(1, 28))
    assert {(point.preset, point.repeat, point.h2o_log_stats) for point in points} == {("target_ratio_v3", 3, False)}


def test_first_dimension_varies_slowest() -> None:
    values = [[1, 2], [3, 4], [0.1, 0.2], [5, 6], [7, 8], [9, 10], [0.3, 0.4], [11, 12], [13, 14], [3.0, 4.0]]
    points = expand_points(preset_from_flags(**dict(zip(SWEPT_KEYS, values, strict=True))))
    assert [tuple(vars(point).values())[4:14] for point in points] == list(itertools.product(*values))


def test_a_larger_grid_is_refused_before_it_is_made(snapshot: SnapshotAssertion) -> None:
    prompts = list(range(1, 1001))
    assert preset_from_flags(prompts=prompts, gens=list(range(1, 101))).count_points() == 100_000
    with pytest.raises(PresetError) as caught:
        preset_from_flags(prompts=prompts, gens=prompts, h2o_recent_tokens=prompts)
    assert str(caught.value) == snapshot


def test_folders_with_presets_of_one_name_are_told_apart_by_a_word(tmp_path: Path) -> None:
    for kit in ("v3", "v5"):
        (tmp_path / kit / "inner").mkdir(parents=True)
        write_preset(tmp_path / kit / "inner", '{"gens": 8}', "p.json")
    presets = load_presets([f"v3={tmp_path}/v3", f"v5={tmp_path}/v5", f"v3={tmp_path}/v5"])
    assert [(preset.name, preset.path) for preset in presets] == [
        ("v3-p", tmp_path / "v3/inner/p.json"),
        ("v5-p", tmp_path / "v5/inner/p.json"),
    ]


def test_a_manifest_entry_is_the_point_that_it_describes() -> None:
    entries = json.loads(MANIFEST.read_text(encoding="utf-8"))
    for entry in entries[:3]:
        point = point_of(entry)
        assert point.manifest_fields() == {key: entry[key] for key in point.manifest_fields()}
    first = entries[0]
    for wrong in (
        {"prompt_len": "many"},
        {"prompt_len": [1, 2]},
        {"kv_lossless_front_n": []},
        {"kv_lossless_scope": 3},
    ):
        assert point_of({**first, **wrong}) is None
    assert point_of({key: value for key, value in first.items() if key != "gen_len"}) is None


def test_shipped_presets_are_all_there(snapshot: SnapshotAssertion) -> None:
    assert [preset.name for preset in load_presets([ROOT / "gates/presets"])] == snapshot


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("gens: 8", {"gens": (8,)}),  # one value stands for a list
        ("h2o_keep_ratios: 1\nh2o_ema_alphas: [0, 1]", {"h2o_keep_ratios": (1.0,), "h2o_ema_alphas": (0.0, 1.0)}),
        ("h2o_target_lossy_ratio: 4", {"h2o_target_lossy_ratios": (4.0,)}),  # the default of the swept one
        ("h2o_target_lossy_ratio: 4\nh2o_target_lossy_ratios: [3, 4]", {"h2o_target_lossy_ratios": (3.0, 4.0)}),
    ],
)
def test_values_are_what_is_meant(tmp_path: Path, text: str, values: dict[str, Any]) -> None:
    preset = load_preset(write_preset(tmp_path, text))
    assert repr({key: getattr(preset, key) for key in values}) == repr(values)


def test_run_ids_print_floats_as_python_does(snapshot: SnapshotAssertion) -> None:
    preset = preset_from_flags(h2o_keep_ratios=[1, 0.30000000000000004, 0.00001], h2o_target_lossy_ratios=[3])
    assert [point.run_id for point in expand_points(preset)] == snapshot


def test_keys_of_later_engines_are_in_a_point_only_if_named() -> None:
    """The other name of a scope is the same setting."""
    usual = expand_points(preset_from_flags())[0].lossless
    assert len(usual) == 15
    named = {"kv_lossless_runtime_mode": "store", "kv_lossless_store_bootstrap_tokens": 0}
    (point,) = expand_points(preset_from_flags(**named, kv_lossless_scope="front_n+h2o_kept"))
    assert dict(point.lossless) == {**usual, **named, "kv_lossless_scope": "front_n_and_h2o_kept"}
