"""Dumps of bf16: what their metas say, how they are coded, and which codecs refuse them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pytest_h2o.cli.main import main
from pytest_h2o.codecs.registry import BUILT_IN, get_codec
from pytest_h2o.errors import CodecError
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless.evaluate import evaluate_lossless
from pytest_h2o.lossless.index import index_dump
from pytest_h2o.lossless.result import LosslessResult, render_markdown
from tests.lossless.samples import SMALL, read_words, write_entry


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
