"""Logits against another implementation, and the forward pass against itself."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from reference_cache import PlainCache
from synthetic_model import SyntheticShape, write_gguf

from pytest_h2o.reference.gguf import GgufFile
from pytest_h2o.reference.model import Model

GOLDEN = json.loads((Path(__file__).parent / "golden_logits.json").read_text("utf-8"))
PREFILL = 30


def make_model(path: Path, shape: SyntheticShape, seed: int = 1, **options: object) -> Model:
    return Model(GgufFile(write_gguf(path / "model.gguf", shape, seed=seed, **options)))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_logits_equal_those_of_another_implementation(name: str, tmp_path: Path) -> None:
    """The golden is by transformers' LlamaForCausalLM in float32 (tools/write_reference_golden.py)."""
    case = GOLDEN["cases"][name]
    model = make_model(tmp_path, SyntheticShape(**case["shape"]), case["seed"])
    cache = PlainCache(model.hyper, len(case["tokens"]))
    prefilled = model.logits(model.prefill(np.array(case["tokens"][:PREFILL]), cache))
    decoded = [model.decode(token, cache) for token in case["tokens"][PREFILL:]]
    ours = np.concatenate([prefilled, decoded])[:, : len(case["logits"][0])]
    np.testing.assert_allclose(ours, case["logits"], rtol=2e-5, atol=2e-5)


def test_prefill_in_blocks_equals_decoding_one_by_one(tmp_path: Path) -> None:
    """More tokens than a block of queries, so that the causal mask is cut at both ends."""
    model = make_model(tmp_path, SyntheticShape())
    tokens = np.random.RandomState(3).randint(0, 256, 150)
    one_go = model.logits(model.prefill(tokens, PlainCache(model.hyper, 150)))
    cache = PlainCache(model.hyper, 150)
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
        Model(file).logits(Model(file).prefill(tokens, PlainCache(file.hyper, 40))) for file in (quantised, plain)
    ]
    np.testing.assert_array_equal(*logits)
