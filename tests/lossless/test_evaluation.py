"""The evaluation against the original script's results, to the byte, and its promises."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.codecs.base import Rope
from pytest_h2o.errors import DumpError, StoreError, UsageError
from pytest_h2o.inputs.keys import FLAT_KEYS, fold_codec
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless.evaluate import evaluate_lossless, make_codec
from pytest_h2o.lossless.result import Finding, LosslessResult
from tests.lossless.samples import FIXTURES, FP16, FP32, counted, write_entry

ORACLES = sorted(FIXTURES.glob("oracle/*/*.json"))
GROUPED = Scope(entry_mode="chunked_grouped", online_chunk_seq=192, online_framing_bytes=8)


def read_oracle(path: Path) -> tuple[dict[str, Any], Scope]:
    """A recorded result, and the settings that its fields tell; two flags of one recording are in none of them."""
    values = json.loads(path.read_text(encoding="utf-8"))
    names = {key.name for key in fields(Scope)} - {"codec"} | {"codec_mode", *FLAT_KEYS["adaptive_v22"]}
    told = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key in names}
    if path.stem == "minmax_seq_front2":
        told |= {"min_seq_len": 2, "max_seq_len": 500}
    return values, Scope(**fold_codec(told))


def test_there_are_recorded_results() -> None:
    assert len(ORACLES) == 29


@pytest.mark.parametrize("path", ORACLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_recorded_field_is_equal_and_every_stream_comes_back(path: Path) -> None:
    oracle, settings = read_oracle(path)
    result = evaluate_lossless(FIXTURES / "dumps" / f"{path.parent.name}.zip", settings, verify=True)
    values = result.to_json()
    assert list(values)[: len(oracle)] == list(oracle)
    assert {key: values[key] for key in oracle} == oracle
    assert [list(values[key]) for key in oracle if key.endswith("_counts")] == [
        list(oracle[key]) for key in oracle if key.endswith("_counts")
    ]
    assert result.verified_streams == result.encoded_streams > 0
    check_sums(result)


def check_sums(result: LosslessResult) -> None:
    """What is told twice is equal, and the bytes by layer and plane add up."""
    for tensor in ("k", "v"):
        raw, compressed = getattr(result, f"{tensor}_raw_bytes"), getattr(result, f"{tensor}_compressed_bytes")
        assert sum(getattr(layer, f"{tensor}_raw_bytes") for layer in result.by_layer) == raw
        assert sum(getattr(layer, f"{tensor}_compressed_bytes") for layer in result.by_layer) == compressed
        planes = sum(getattr(layer, f"{tensor}_{plane}_bytes") for layer in result.by_layer for plane in ("hi", "lo"))
        assert planes + getattr(result, f"{tensor}_chunk_meta_bytes") == compressed
    assert tuple(layer.layer_id for layer in result.by_layer) == result.selected_layers


def test_defaults_are_those_of_the_recordings() -> None:
    scope = read_oracle(FIXTURES / "oracle" / "fp16" / "per_meta_front2.json")[1]
    assert replace(scope, codec="adaptive_v22") == Scope()
    assert make_codec(scope.codec) == make_codec("adaptive_v22")


def test_sizes_do_not_depend_on_the_number_of_workers() -> None:
    settings = replace(GROUPED, scope="layer_range", layer_start=0)
    results = [evaluate_lossless(FP16, settings, verify=True, workers=n) for n in (1, 2, 5)]
    plain = [json.dumps(counted(result)) for result in results]
    assert plain[0] == plain[1] == plain[2]


@pytest.mark.parametrize("mode", ["per_meta", "chunked_grouped"])
def test_archive_gives_what_its_folder_gives(fp32_folder: Path, mode: str) -> None:
    settings = Scope(entry_mode=mode, online_chunk_seq=100)
    both = [counted(evaluate_lossless(root, settings, verify=True)) for root in (FP32, fp32_folder)]
    assert {**both[0], "dump_dir": str(fp32_folder)} == both[1]


def test_result_goes_through_json_and_back() -> None:
    result = evaluate_lossless(FP32, GROUPED, verify=True, rope=Rope(1e5))
    text = json.dumps(result.to_json(), allow_nan=False)
    assert LosslessResult.from_json(json.loads(text)) == result
    assert result.rope == {"theta": 1e5, "pairing": "half"}
    assert result.versions["libzstd"] == "1.5.7"


def test_files_of_the_original_script_are_read() -> None:
    oracle, _ = read_oracle(ORACLES[0])
    result = LosslessResult.from_json(oracle)
    assert result.lossless_ratio == oracle["lossless_ratio"]
    assert result.verified_streams == 0
    assert result.elapsed_s is None


def test_other_files_are_refused(snapshot: SnapshotAssertion) -> None:
    oracle, told = read_oracle(ORACLES[0])[0], {}
    changes: dict[str, Any] = {
        "schema_version": 2,
        "raw_bytes": True,
        "by_layer": [{"layer": 0}],
        "skip_reasons": {"x": "1"},
        "layer_ids": "0,1",
    }
    spoiled: dict[str, Any] = {name: {**oracle, name: value} for name, value in changes.items()}
    for name, value in {**spoiled, "a list": [], "bare": {k: v for k, v in oracle.items() if k != "raw_bytes"}}.items():
        with pytest.raises(StoreError) as caught:
            LosslessResult.from_json(value, "x.json")
        told[name] = str(caught.value)
    assert told == snapshot


def test_entries_that_cannot_be_read_are_listed_and_the_rest_is_counted(tmp_path: Path) -> None:
    write_entry(tmp_path, start=0)
    write_entry(tmp_path, start=4).with_name("k_t4_8.bin").write_bytes(b"short")
    write_entry(tmp_path, start=8).with_name("v_t8_12.bin").unlink()
    write_entry(tmp_path, start=12).write_text("{")
    write_entry(tmp_path, start=16, layer_id=7, bytes_per_elem=3)  # not selected
    seen: list[tuple[int, int]] = []
    result = evaluate_lossless(tmp_path, GROUPED, verify=True, progress=lambda *done: seen.append(done))
    assert result.selected_entries == 1
    assert result.raw_bytes == 4 * 2 * 8 * 2 * 2
    assert result.skip_reasons == {"binary_read_error": 1, "meta_parse_error": 1, "missing_k_or_v_binary": 1}
    assert result.skipped_entries == 3
    assert [entry.path for entry in result.skipped] == [
        f"run/layer_0/meta_t{span}.json" for span in ("12_16", "4_8", "8_12")
    ]
    assert result.scanned_entries == 5
    assert seen[-1] == (256, 256)


@pytest.mark.parametrize(
    "changes",
    [
        {"seq_len": -1},
        {"seq_len": 0},
        {"seq_len": 1},
        {"layer_id": -1},
        {"layer_id": 10**30},
        {"seq_start": -3, "seq_len": 1},
    ],
)
def test_a_number_that_is_the_fault_takes_no_entry_out_of_the_selection(tmp_path: Path, changes: Any) -> None:
    write_entry(tmp_path, start=0)
    write_entry(tmp_path, start=4, **changes)
    scope = Scope(scope="layer_ids", layer_ids=(0,), min_seq_len=2)
    assert evaluate_lossless(tmp_path, scope, verify=False).skipped_entries == 1


def test_strict_fp16_skips_fp32(tmp_path: Path) -> None:
    write_entry(tmp_path, start=0)
    write_entry(tmp_path, run_id="wide", bytes_per_elem=4, dtype="fp32", data=bytes(256))
    loose = evaluate_lossless(tmp_path, GROUPED, verify=True)
    assert (loose.converted_fp32_entries, loose.skipped_entries) == (1, 0)
    strict = evaluate_lossless(tmp_path, replace(GROUPED, strict_fp16=True), verify=True)
    assert (strict.converted_fp32_entries, strict.skip_reasons) == (0, {"skip_fp32_strict": 1})
    assert strict.raw_bytes == loose.raw_bytes // 2


def test_a_selection_of_nothing_says_what_there_is(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    write_entry(tmp_path, layer_id=9, seq_len=0)
    nothing = Scope(scope="layer_ids", layer_ids=(3, 4), stage="decode", min_seq_len=2, max_seq_len=9)
    told = []
    for root, scope in ((FP32, nothing), (FP32, replace(GROUPED, strict_fp16=True)), (tmp_path, GROUPED)):
        with pytest.raises(DumpError) as caught:
            evaluate_lossless(root, scope, verify=False)
        told.append(str(caught.value).replace(str(root), "ROOT"))
    assert "\n".join(told) == snapshot


def test_overlap_of_the_evaluated_layers_is_told() -> None:
    layer_0 = evaluate_lossless(FP32, Scope(front_n=1), verify=False)
    assert layer_0.findings == (Finding("overlap", "code", 0, tokens=7, first=0),)
    layer_1 = evaluate_lossless(FP32, Scope(scope="layer_ids", layer_ids=(1,)), verify=False)
    assert layer_1.findings == ()


def test_counting_alone_verifies_nothing_and_says_so() -> None:
    result = evaluate_lossless(FP32, GROUPED, verify=False)
    assert result.encoded_streams == 12
    assert result.verified_streams == 0
    assert result.decode_s is None
    assert result.compressed_bytes == evaluate_lossless(FP32, GROUPED, verify=True).compressed_bytes


def test_impossible_settings_are_refused(snapshot: SnapshotAssertion) -> None:
    wrong: list[dict[str, Any]] = [
        {"stage": "all"},
        {"front_n": 0},
        {"online_chunk_seq": 1.5},
        {"layer_end": -2},
        {"layer_ids": (True,)},
        {"scope": "layer_ids"},
    ]
    told = []
    for one in wrong:
        with pytest.raises(UsageError) as caught:
            Scope(**one)
        told.append(str(caught.value))
    assert "\n".join(told) == snapshot


def test_number_of_workers_is_checked() -> None:
    with pytest.raises(UsageError, match="--workers does not fit"):
        evaluate_lossless(FP32, GROUPED, verify=True, workers=0)


def test_data_that_shrinks_while_it_is_read_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_h2o.lossless import evaluate

    data = write_entry(tmp_path, tokens=2000).with_name("k_t0_2000.bin")
    really_select = evaluate.select

    def shrink(*args: Any) -> Any:
        data.write_bytes(data.read_bytes()[:1000].ljust(1500, b"\0"))
        return really_select(*args)

    monkeypatch.setattr(evaluate, "select", shrink)
    with pytest.raises(DumpError, match="no selected entry of the dump can be read"):
        evaluate_lossless(tmp_path, GROUPED, verify=True)
