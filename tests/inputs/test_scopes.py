"""Scope files: the shipped scopes against recorded settings, and what is said about a file that breaks its schema."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.cli.runs import render_json_schema
from pytest_h2o.errors import PresetError
from pytest_h2o.inputs.keys import fold_codec
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.inputs.scopes import load_scopes, override
from pytest_h2o.inputs.yaml import read_source
from pytest_h2o.lossless.evaluate import make_codec

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "gates/scopes.yaml"


@pytest.fixture
def shipped() -> dict[str, Scope]:
    return {scope.name: scope for scope in load_scopes(SHIPPED)}


def scopes_of(folder: Path, text: str) -> tuple[Scope, ...]:
    path = folder / "scopes.yaml"
    path.write_text(text)
    return load_scopes(path)


def one_scope(folder: Path, keys: str) -> Scope:
    (scope,) = scopes_of(folder, f"scopes: {{a: {{root: d, decides: true, {keys}}}}}")
    return scope


@pytest.mark.parametrize(
    ("name", "recorded"),
    [
        ("front2_upper", "upper_front2"),
        ("front2_chunked_128_16", "online_chunked_128_16_front2"),
        ("front2_grouped_192_8", "online_grouped_192_8_front2"),
        ("all_layers_grouped_192_8", "all_layers_grouped"),
    ],
)
def test_shipped_scopes_are_the_recorded_settings(shipped: dict[str, Scope], name: str, recorded: str) -> None:
    settings: dict[str, Any] = json.loads((ROOT / f"fixtures/oracle/fp16/{recorded}.json").read_text())
    ours = json.loads(json.dumps(asdict(shipped[name]), default=str))
    shared = ours.keys() & settings.keys() - {"codec"}
    assert {key: ours[key] for key in shared} == {key: settings[key] for key in shared}
    assert len(shared) == 10
    assert make_codec(fold_codec(settings)["codec"]) == make_codec(shipped[name].codec)


def test_shipped_scopes_read_the_fixture_dump_and_one_decides(shipped: dict[str, Scope]) -> None:
    for scope in shipped.values():
        assert scope.root.resolve() == ROOT / "fixtures/dumps/fp16.zip"
        assert scope.path == SHIPPED
    assert list(shipped) == [
        "front2_upper", "front2_chunked_128_16", "front2_grouped_192_8", "all_layers_grouped_192_8"
    ]  # fmt: skip
    assert [scope.name for scope in shipped.values() if scope.decides] == ["front2_grouped_192_8"]
    assert [scope.target for scope in shipped.values()] == [None, None, 1.3, None]


def test_shipped_file_holds_against_the_json_schema() -> None:
    schema = json.loads(render_json_schema("scopes"))
    jsonschema.Draft202012Validator.check_schema(schema)
    data = read_source(SHIPPED).data
    jsonschema.validate(data, schema)
    for key, value in (("frnt_n", 2), ("stage", "all"), ("zstd_level", 0), ("target", None), ("layer_ids", "1")):
        wrong = {"scopes": {"a": {**data["scopes"]["front2_upper"], key: value}}}
        assert not jsonschema.Draft202012Validator(schema).is_valid(wrong)


@pytest.mark.parametrize(
    ("keys", "codec"),
    [
        ("codec: zstd", "zstd"),
        ("codec: zstd:level=19", "zstd:level=19"),
        ("codec_mode: zstd:level=19", "zstd:level=19"),
        ("codec: {id: zstd, level: 19}", {"id": "zstd", "level": 19}),
        ("codec: {id: adaptive_v22, k_hi_predictors: [raw]}", {"id": "adaptive_v22", "k_hi_predictors": ("raw",)}),
        ("zstd_level: 9, v_lo_predictors: [xor_seq, raw]",
         {"id": "adaptive_v22", "zstd_level": 9, "v_lo_predictors": ("xor_seq", "raw")}),
        ("codec_mode: legacy, bitshuffle: true, k_hi_predictors: raw", {"id": "legacy", "bitshuffle": True}),
    ],
)  # fmt: skip
def test_a_codec_is_a_name_or_a_mapping_and_flat_settings_are_still_read(
    tmp_path: Path, keys: str, codec: str | dict[str, Any]
) -> None:
    scope = one_scope(tmp_path, keys)
    assert scope.codec == codec
    make_codec(scope.codec)


def error_text(folder: Path, text: str) -> str:
    with pytest.raises(PresetError) as caught:
        scopes_of(folder, text)
    return str(caught.value).replace(f"{folder}/", "")


MANY = """\
scopes:
  a:
    root: x
    scope: layer_ids
    front_n: 2
    online_chunk_seq: 5
    aggregate_by_stage: true
    decides: true
  b c:
    layer_start: 4
    codec_mode: "a b"
    k_hi_predictors: [raw, delta_sq, raw]
    rope: {thta: 3}
    layer_ids: []
    decides: true
    target: -1
  c: 3
  d: {root: x, scope: layer_range, layer_start: 4, layer_end: 2, min_seq_len: 5, max_seq_len: 4}
x: 1
"""


WRONG = [
    *("scopes: {}", "scopes: 3", "{}", "scopes: {a: {root: x}}", "scopes: {a: {root: x, decides: false}}"),
    "scopes: {a: {root: x, decides: true, name: b}}",
    "scopes: {a: {root: x, decides: true, codec: zstd, codec_mode: zstd}}",
    "scopes: {a: {root: x, decides: true, codec: {level: 3}}}",
    "scopes: {a: {root: x, decides: true, entry_mode: aggregate}}",
    "scopes: {a: {root: x, decides: true, zstd_level: 23}}",
    # Flat settings beside another codec.
    "scopes: {a: {codec_mode: zstd, zstd_level: 19, root: x, decides: true}}",
    "scopes: {a: {codec: {id: expbias}, bitshuffle: true, root: x, decides: true}}",
    "scopes: {a: {codec: adaptive_v22:zstd_level=9, k_hi_predictors: [raw, xor_seq], root: x, decides: true}}",
]


def test_messages(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    """All faults of a file come at once."""
    assert {text[:40]: error_text(tmp_path, text) for text in (MANY, *WRONG)} == snapshot


def test_override(shipped: dict[str, Scope], snapshot: SnapshotAssertion) -> None:
    scope = shipped["front2_grouped_192_8"]
    changed = override(scope, "online_chunk_seq=64", "target=1.5", "codec_mode=zstd:level=19")
    assert (changed.online_chunk_seq, changed.target, changed.codec) == (64, 1.5, "zstd:level=19")
    assert override(changed, "codec=rowref").codec == "rowref"
    mapped = override(scope, "codec.id=zstd", "codec.level=19")
    assert override(mapped, "codec.level=1").codec == {"id": "zstd", "level": 1}
    flat = override(scope, "k_hi_predictors=raw,xor_seq")
    assert flat.codec == {"id": "adaptive_v22", "k_hi_predictors": ("raw", "xor_seq")}
    assert (changed.name, changed.root, changed.decides) == (scope.name, scope.root, True)
    other_layers = override(scope, "scope=layer_ids", "layer_ids=1,15")
    assert other_layers.layer_ids == (1, 15)
    with pytest.raises(PresetError) as caught:
        override(scope, "layer_ids=1", "entry_mode=chunkd")
    assert str(caught.value) == snapshot
    with pytest.raises(PresetError, match=r"scope.yaml: no such file\n  next: in that folder: scopes.yaml$"):
        load_scopes(SHIPPED.with_name("scope.yaml"))


def test_defaults_and_every_key(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    keys = (
        "stage: decode, scope: layer_ids, layer_ids: 3, min_seq_len: 2, max_seq_len: 9, strict_fp16: true, "
        "allow_skips: true, entry_mode: chunked, online_chunk_seq: 64, online_framing_bytes: 0, "
        "codec: my.codec-2, rope: {theta: 100000}, target: 2, description: Mine"
    )
    scopes = [one_scope(tmp_path, given) for given in ("", keys)]
    assert [repr(scope).replace(str(tmp_path), "") for scope in scopes] == snapshot


def test_an_option_that_names_another_codec_takes_the_flat_settings_of_the_file_away(tmp_path: Path) -> None:
    scope = one_scope(tmp_path, "zstd_level: 9")
    for option, codec in (("codec=zstd", "zstd"), ("codec_mode=legacy", {"id": "legacy", "zstd_level": 9})):
        assert override(scope, option).codec == codec
    with pytest.raises(PresetError, match="means nothing to the codec zstd"):
        override(scope, "codec=zstd", "zstd_level=9")
