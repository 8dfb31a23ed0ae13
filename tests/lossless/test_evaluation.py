"""The evaluation against the original script's results, to the byte, and its promises."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.cli.main import main
from pytest_h2o.codecs.base import Rope, Stream
from pytest_h2o.codecs.registry import BUILT_IN, get_codec
from pytest_h2o.errors import CodecError, DumpError, StoreError, UsageError
from pytest_h2o.inputs.keys import FLAT_KEYS, fold_codec
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless.evaluate import evaluate_lossless, make_codec
from pytest_h2o.lossless.index import index_dump
from pytest_h2o.lossless.result import Finding, LosslessResult, parts_of, render_markdown
from tests.lossless.samples import FIXTURES, FP16, FP32, SMALL, counted, read_words, write_entry
from tests.told import error_text

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
    assert len(ORACLES) == 29
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
        told[name] = error_text(StoreError, LosslessResult.from_json, value, "x.json")
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
        told.append(error_text(DumpError, evaluate_lossless, root, scope, verify=False).replace(str(root), "ROOT"))
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


WRONG: tuple[dict[str, Any], ...] = (
    *({"stage": "all"}, {"front_n": 0}, {"online_chunk_seq": 1.5}, {"layer_end": -2}, {"layer_ids": (True,)}),
    {"scope": "layer_ids"},
)


def test_impossible_settings_are_refused(snapshot: SnapshotAssertion) -> None:
    assert "\n".join(error_text(UsageError, Scope, **one) for one in WRONG) == snapshot
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


FRAMING = 8
SCOPE = Scope(
    scope="layer_range", layer_start=0, entry_mode="chunked_grouped", online_chunk_seq=192,
    online_framing_bytes=FRAMING, measure_heads=True, degenerate="allow",
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of 100, 300 and 3,000 tokens, two entries of one of them, and one without a prefill; head 1 is all zero."""
    root = tmp_path_factory.mktemp("parts")
    for run, tokens in (("a", 100), ("b", 300), ("c", 3000)):
        words = np.random.default_rng(tokens).integers(0x3000, 0x4000, (tokens, 2, 8), dtype=np.uint16)
        words[:, 1] = 0
        for layer in (0, 1):
            write_entry(root, tokens=tokens, run_id=run, layer_id=layer, data=words.tobytes())
            write_entry(root, tokens=1, start=tokens, run_id=run, layer_id=layer)
    for layer in (0, 1):
        write_entry(root, tokens=1, run_id="d", layer_id=layer)
    return root


@pytest.fixture(scope="module")
def result(root: Path) -> LosslessResult:
    return evaluate_lossless(root, SCOPE, verify=True, codec=get_codec("expbias"), workers=2)


def test_by_run(root: Path, result: LosslessResult, snapshot: SnapshotAssertion) -> None:
    assert [(run.run_id, run.prompt_tokens) for run in result.by_run] == snapshot
    for part in ("k_raw_bytes", "k_compressed_bytes", "v_raw_bytes", "v_compressed_bytes"):
        assert sum(getattr(run, part) for run in result.by_run) == getattr(result, part)
    b = result.by_run[1]
    assert b.k_raw_bytes == 2 * 301 * 2 * 8 * 2
    raw, coded = b.k_raw_bytes + b.v_raw_bytes, b.k_compressed_bytes + b.v_compressed_bytes
    ratios = (raw / coded, b.k_raw_bytes / b.k_compressed_bytes, b.v_raw_bytes / b.v_compressed_bytes)
    assert b.ratios() == ratios


def test_by_prompt_length(result: LosslessResult) -> None:
    assert [(part.up_to_tokens, part.runs) for part in result.by_prompt_length] == [(128, 1), (512, 1), (None, 1)]
    assert result.by_prompt_length[1].k_compressed_bytes == result.by_run[1].k_compressed_bytes


def test_by_head(root: Path, result: LosslessResult) -> None:
    """Each head coded alone: what its words come to with the same chunks and framing."""
    codec, counted = get_codec("expbias"), [0, 0]
    runs: dict[tuple[str | None, int], list[np.ndarray]] = {}
    for entry in sorted(index_dump(root).entries, key=lambda entry: entry.seq_start):
        runs.setdefault((entry.run_id, entry.layer_id), []).append(read_words(entry, "k"))
    for parts in runs.values():
        words = np.concatenate(parts)
        for start in range(0, len(words), 192):
            for head in (0, 1):
                chunk = np.ascontiguousarray(words[start : start + 192, head : head + 1])
                counted[head] += len(codec.encode(Stream(chunk, "k"))) + FRAMING
    assert [(head.kv_head, head.k_compressed_bytes) for head in result.by_head] == [(0, counted[0]), (1, counted[1])]
    assert result.by_head[1].ratios()[0] > 3 * result.by_head[0].ratios()[0]
    assert sum(head.k_raw_bytes for head in result.by_head) == result.k_raw_bytes


def test_they_stand_in_json_and_summary(result: LosslessResult) -> None:
    text = render_markdown(result)
    for row in ("`b, 300 tokens`", "`d`", "up to 128 tokens, 1 run", "over 2048 tokens, 1 run", "KV head 1"):
        assert f"| {row} | " in text
    again = LosslessResult.from_json(json.loads(json.dumps(result.to_json())))
    assert parts_of(again) == parts_of(result)


def test_heads_are_left_out_unless_asked_for(root: Path) -> None:
    scope = Scope(scope="layer_range", layer_start=0, degenerate="allow")
    without = evaluate_lossless(root, scope, verify=False, codec=get_codec("zstd"), workers=1)
    assert without.by_head == ()
    assert not {"by_head", "measure_heads"} & set(without.to_json())
    assert list(parts_of(without)) == ["run and prompt", "prompt length"]


def test_many_runs_are_cut(result: LosslessResult) -> None:
    many = LosslessResult(**{**result.__dict__, "by_run": result.by_run * 6})
    assert "| and 4 more | | | |" in render_markdown(many)


def test_a_codec_that_cannot_code_one_head_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = get_codec("zstd")
    encode = type(codec).encode

    def stubborn(self: object, stream: Stream) -> bytes:
        if stream.words.shape[1] == 1:
            raise ZeroDivisionError("one head")
        return encode(codec, stream)

    monkeypatch.setattr(type(codec), "encode", stubborn)
    with pytest.raises(CodecError, match=r"codec zstd cannot encode a stream\n.*layer 0, K, tokens 0 to"):
        evaluate_lossless(root, SCOPE, verify=False, codec=codec, workers=1)


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small recording, its values rounded to bf16."""
    root = tmp_path_factory.mktemp("bf16")
    for file in SMALL.rglob("*"):
        copy = root / file.relative_to(SMALL)
        if file.is_dir():
            copy.mkdir()
        elif file.suffix == ".bin":
            bits = np.fromfile(file, "<f2").astype(np.float32).view(np.uint32)
            copy.write_bytes((bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype("<u2").tobytes())
        else:
            copy.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "dtype": "bf16"}), "utf-8")
    return root


def evaluate(root: Path, codec: str) -> LosslessResult:
    scope = Scope(scope="layer_range", layer_start=0, entry_mode="chunked_grouped", online_chunk_seq=192)
    return evaluate_lossless(root, scope, verify=True, codec=get_codec(codec), workers=1)


@pytest.mark.parametrize("name", ["bf16", "bfloat16"])
def test_the_meta_says_it(tmp_path: Path, name: str) -> None:
    write_entry(tmp_path, dtype=name)
    (entry,) = index_dump(tmp_path).entries
    assert (entry.dtype, entry.bytes_per_elem) == ("bf16", 2)
    stored = np.fromfile(next(tmp_path.rglob("k_*.bin")), "<u2")
    assert np.array_equal(read_words(entry, "k").reshape(-1), stored), "two bytes are read as they are"


@pytest.mark.parametrize("codec", BUILT_IN)
def test_it_is_coded_or_refused(bf16: Path, codec: str) -> None:
    if "bf16" not in get_codec(codec).dtypes:
        with pytest.raises(CodecError, match=f"codec {codec} does not code bf16"):
            evaluate(bf16, codec)
        return
    result = evaluate(bf16, codec)
    assert result.verified_streams == result.encoded_streams > 0
    assert result.lossless_ratio > evaluate(SMALL, codec).lossless_ratio * 1.1
    assert result.bf16_entries == result.selected_entries == result.to_json()["bf16_entries"]
    assert f"{result.bf16_entries} of them bf16" in render_markdown(result)
    assert LosslessResult.from_json(json.loads(json.dumps(result.to_json()))).bf16_entries == result.bf16_entries


def test_fp16_and_bf16_are_no_one_sequence(tmp_path: Path) -> None:
    write_entry(tmp_path, run_id="a")
    write_entry(tmp_path, run_id="b", dtype="bf16")
    result = evaluate(tmp_path, "expbias")
    assert (result.encoded_streams, result.bf16_entries, result.aggregate_groups) == (4, 1, 2)


@pytest.mark.parametrize(
    ("word", "told"),
    [(0x7F80, "1 of 64 words are NaN or infinite as bf16"), (0x7F7F, "1 of 64 words are saturated at 3.39e38")],
)
def test_words_that_say_nothing_are_told(tmp_path: Path, word: int, told: str) -> None:
    words = np.random.default_rng(1).integers(0x3F00, 0x4000, 64, dtype=np.uint16)
    words[5] = 0x7C00  # infinite as fp16, and a large number here
    meta = write_entry(tmp_path, dtype="bf16", data=(words ^ 0x8000).astype("<u2").tobytes())
    meta.with_name("k_t0_4.bin").write_bytes(words.astype("<u2").tobytes())
    assert evaluate(tmp_path, "zstd").faults == ()
    words[7] = word
    meta.with_name("k_t0_4.bin").write_bytes(words.astype("<u2").tobytes())
    assert [fault.detail.partition(": ")[2] for fault in evaluate(tmp_path, "zstd").faults] == [told]


def test_the_comparison_names_who_refuses(bf16: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    names = ["zstd", "byteplane", "fixedexp", "expbias", "rowref", "adaptive_v22", "legacy", "gear_v3"]
    assert main(["codecs", "bench", str(bf16), "--rounds", "1", "--out-json", str(out), "--codecs", *names]) == 0
    summary = json.loads(out.read_text("utf-8"))
    refused = "codes fp16 only, by its definition; the dump has bf16"
    assert {name: summary["missing"][name] for name in names[5:]} == dict.fromkeys(names[5:], refused)
    assert {*names[:5]} <= {contender["name"] for contender in summary["contenders"]}
    assert f"- gear_v3: {refused}" in capsys.readouterr().out
    assert main(["codecs", "bench", str(bf16), "--rounds", "1", "--codecs", *names[5:]]) == 1
    assert "no codec was measured: each refuses the dump, or is missing" in capsys.readouterr().out
