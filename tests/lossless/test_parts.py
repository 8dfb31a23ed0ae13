"""Ratios by run, prompt length and KV head: which of them bound the whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pytest_h2o.codecs.base import Stream
from pytest_h2o.codecs.registry import get_codec
from pytest_h2o.errors import CodecError
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless.evaluate import evaluate_lossless
from pytest_h2o.lossless.index import index_dump
from pytest_h2o.lossless.result import LosslessResult, parts_of, render_markdown
from tests.lossless.samples import read_words, write_entry

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


def test_by_run(root: Path, result: LosslessResult) -> None:
    assert [(run.run_id, run.prompt_tokens) for run in result.by_run] == [
        ("a", 100),
        ("b", 300),
        ("c", 3000),
        ("d", None),
    ]
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
