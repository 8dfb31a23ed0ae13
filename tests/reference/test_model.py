"""Logits against another implementation, the forward pass against itself, and tokenizers from model files."""

import json
import re
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from struct import pack
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
from tests.told import error_text

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


def error_of(path: Path) -> str:
    return error_text(UsageError, GgufFile, path)


def test_truncated_and_damaged_files_give_this_error_alone(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "model.gguf", SyntheticShape(layers=1)).read_bytes()
    path = tmp_path / "cut.gguf"
    for size in [*range(0, 600, 61), *range(600, len(whole), 9999), len(whole) - 1]:
        path.write_bytes(whole[:size])
        message = error_of(path)
        assert message.startswith(("the model is truncated or damaged", "the model is no GGUF file")), (size, message)
    refused = 0
    for place in range(0, 1500, 29):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            GgufFile(path)
        except UsageError:
            refused += 1
    assert refused > 25


def with_version(data: bytes, version: int) -> bytes:
    return data[:4] + pack("<I", version) + data[8:]


def with_type(data: bytes, number: int) -> bytes:
    """The type of the first tensor, which stands behind its name and its two sizes."""
    place = data.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 2 * 8
    return data[:place] + pack("<I", number) + data[place + 4 :]


@pytest.mark.parametrize(
    "change", [partial(with_version, version=4), partial(with_type, number=42), partial(with_version, version=3 << 24)]
)
def test_what_no_fetching_would_mend(
    change: Callable[[bytes], bytes], tmp_path: Path, snapshot: SnapshotAssertion
) -> None:
    """A file that is whole, and of a kind that the package does not read, or would read wrongly."""
    path = write_gguf(tmp_path / "model.gguf", SyntheticShape(layers=1))
    path.write_bytes(change(path.read_bytes()))
    assert error_of(path).replace(str(path), "PATH").replace(version("gguf"), "VERSION") == snapshot


def test_hostile_files_and_names(tmp_path: Path) -> None:
    """An array of arrays, 20,000 deep, and a NUL in the name."""
    path = tmp_path / "deep.gguf"
    path.write_bytes(
        b"GGUF" + pack("<IQQ", 3, 0, 1) + pack("<Q", 1) + b"a" + pack("<I", 9) + pack("<IQ", 9, 1) * 20_000
    )
    assert error_of(path).startswith(f"the metadata of the model is nested too deep\n  where: {path}\n")
    assert "RecursionError" not in error_of(path)
    assert error_of(Path("a\0b")).startswith("the model cannot be read\n  where: a\\x00b\n  came: a name with a NUL\n")


@pytest.mark.parametrize(
    "fault",
    [
        None,
        b"MNN!",
        {"architecture": "qwen2"},
        {"replace": {"blk.1.ffn_down.weight": np.zeros((32, 40), np.float32)}},
        {"drop": ("blk.0.attn_k.weight", "output_norm.weight")},
        {"metadata": {"llama.block_count": 1 << 24}},
        {"replace": {"blk.0.attn_q.bias": np.zeros(32, np.float32)}},
        {"metadata": {"llama.rope.scaling.type": "yarn"}},
        {"metadata": {"llama.expert_count": 8.0}},
        {"metadata": {"llama.rope.dimension_count": 4.0}},
    ],
)
def test_a_model_of_another_kind_is_refused(
    fault: bytes | dict[str, Any] | None, tmp_path: Path, snapshot: SnapshotAssertion
) -> None:
    """Not there, of another format or architecture, with other tensors, or of a kind that would be computed wrongly."""
    path = tmp_path / "llm.mnn"
    if isinstance(fault, bytes):
        path.write_bytes(fault)
    elif fault is not None:
        write_gguf(path, **fault)
    assert error_of(path).replace(str(path), "PATH") == snapshot
