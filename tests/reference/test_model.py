"""Logits against another implementation, the forward pass against itself, and tokenizers from model files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from synthetic_model import SyntheticShape, write_gguf
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.cache import EvictingCache
from pytest_h2o.reference.gguf import GgufFile, HyperParameters
from pytest_h2o.reference.model import BYTES, Model, read_tokenizer

GOLDEN = json.loads((Path(__file__).parent / "golden_logits.json").read_text("utf-8"))
PREFILL = 30
TEXT = "naïve café: 12 € — \U0001f600\n"


def make_model(path: Path, shape: SyntheticShape, seed: int = 1, **options: object) -> Model:
    return Model(GgufFile(write_gguf(path / "model.gguf", shape, seed=seed, **options)))  # type: ignore[arg-type]


def plain_cache(hyper: HyperParameters, capacity: int) -> EvictingCache:
    """Nothing rounded and nothing evicted."""
    return EvictingCache(hyper, capacity, half=False)


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_logits_equal_those_of_another_implementation(name: str, tmp_path: Path) -> None:
    """The golden is by transformers' LlamaForCausalLM in float32 (tools/write_reference_golden.py)."""
    case = GOLDEN["cases"][name]
    model = make_model(tmp_path, SyntheticShape(**case["shape"]), case["seed"])
    cache = plain_cache(model.hyper, len(case["tokens"]))
    prefilled = model.logits(model.prefill(np.array(case["tokens"][:PREFILL]), cache))
    decoded = [model.decode(token, cache) for token in case["tokens"][PREFILL:]]
    ours = np.concatenate([prefilled, decoded])[:, : len(case["logits"][0])]
    np.testing.assert_allclose(ours, case["logits"], rtol=2e-5, atol=2e-5)


def test_prefill_in_blocks_equals_decoding_one_by_one(tmp_path: Path) -> None:
    """More tokens than a block of queries, so that the causal mask is cut at both ends."""
    model = make_model(tmp_path, SyntheticShape())
    tokens = np.random.RandomState(3).randint(0, 256, 150)
    one_go = model.logits(model.prefill(tokens, plain_cache(model.hyper, 150)))
    cache = plain_cache(model.hyper, 150)
    model.prefill(tokens[:20], cache)
    model.prefill(tokens[20:90], cache)
    decoded = [model.decode(int(token), cache) for token in tokens[90:]]
    np.testing.assert_allclose(one_go[90:], decoded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1"])
def test_quantised_weights_compute_as_their_dequantised_values(kind: str, tmp_path: Path) -> None:
    shape = SyntheticShape(embedding=64, feed_forward=64, heads=4, head_dim=16)
    quantised = GgufFile(write_gguf(tmp_path / "coarse.gguf", shape, kind=gguf.GGMLQuantizationType[kind]))
    values = {name: np.array(quantised.floats(name)) for name in quantised.hyper.tensor_shapes()}
    plain = GgufFile(write_gguf(tmp_path / "plain.gguf", shape, replace=values))
    original = GgufFile(write_gguf(tmp_path / "original.gguf", shape)).floats("blk.0.attn_k.weight")
    error = float(np.abs(values["blk.0.attn_k.weight"] - original).max())
    assert 0 < error < {"F16": 0.001, "Q8_0": 0.01, "Q4_1": 0.1}[kind]
    tokens = np.arange(40)
    logits = [
        Model(file).logits(Model(file).prefill(tokens, plain_cache(file.hyper, 40))) for file in (quantised, plain)
    ]
    np.testing.assert_array_equal(*logits)


def test_a_byte_tokenizer_takes_every_text(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(GgufFile(write_gguf(tmp_path / "model.gguf")))
    tokens = tokenizer.encode(TEXT)
    assert tokens == list(TEXT.encode("utf-8"))
    assert tokenizer.byte_length([256, *tokens]) == len(TEXT.encode("utf-8"))


def byte_alphabet() -> list[str]:
    """The character that stands for each byte in vocabularies of the GPT-2 kind."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(BYTES)]


def byte_pair_model(folder: Path, pattern: str, **metadata: str | float | bool | list[str]) -> Path:
    vocabulary = ["<end>", *byte_alphabet(), "th", "the", "Ġthe", "12"]
    merges = ["t h", "th e", "Ġ the", "1 2"]
    own = {"tokenizer.ggml.pre": pattern, "tokenizer.ggml.merges": merges, **metadata}
    shape = SyntheticShape(layers=1, vocabulary=len(vocabulary))
    return write_gguf(
        folder / "model.gguf", shape, tokenizer="gpt2", tokens=vocabulary, token_types=[3] + [1] * 260, metadata=own
    )


def test_byte_pairs_are_merged_by_rank_and_digits_split(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    tokenizer = read_tokenizer(GgufFile(byte_pair_model(tmp_path, "smollm")))
    assert tokenizer.encode("the the 12") == [258, 259, 1 + 32, 1 + ord("1"), 1 + ord("2")]
    tokens = tokenizer.encode(TEXT)
    assert tokenizer.library.decode(tokens) == TEXT
    assert tokenizer.byte_length([0, *tokens, 0]) == len(TEXT.encode("utf-8"))
    first = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 0}
    joined = read_tokenizer(GgufFile(byte_pair_model(tmp_path, "gpt-2", **first)))
    assert joined.encode("a12") == [0, 1 + ord("a"), 260]


@pytest.mark.parametrize(
    "metadata",
    [
        {"tokenizer.ggml.model": "llama"},
        {"tokenizer.ggml.merges": ["t h", "x"]},
        {"tokenizer.ggml.merges": ["t h", "no where"]},
        {"tokenizer.ggml.tokens": ["a", "a"]},
        {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 261},
    ],
)
def test_a_tokenizer_that_is_not_known_or_is_broken(
    tmp_path: Path, metadata: dict[str, Any], snapshot: SnapshotAssertion
) -> None:
    pytest.importorskip("tokenizers")
    path = byte_pair_model(tmp_path, "smollm", **metadata)
    with pytest.raises(UsageError) as caught:
        read_tokenizer(GgufFile(path))
    # What the library says of the merges is its own.
    assert re.sub("(merges\n  came: )[^\n]*", r"\1...", str(caught.value).replace(str(path), "PATH")) == snapshot
