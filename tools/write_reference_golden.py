"""Write the logits that another implementation gives for small random models: tests/reference/golden_logits.json.

Needs torch and transformers, which nothing else here does. Run it from the root of the repository::

    python tools/write_reference_golden.py tests/reference/golden_logits.json [MODEL.gguf]

With a GGUF file as well it prints how far our logits of that real model are from the other implementation's, on the
same dequantised weights.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "reference")]

from synthetic_model import SyntheticShape, make_weights  # noqa: E402

CASES = {
    "tied": (SyntheticShape(), 7),
    "untied": (SyntheticShape(layers=3, embedding=48, heads=6, kv_heads=3, rope_theta=100000.0, tied=False), 11),
    "head size of its own": (SyntheticShape(layers=2, heads=2, kv_heads=1, head_dim=24), 13),
}
TOKENS = 40


def other_logits(shape: Any, weights: dict[str, Any], tokens: list[int]) -> Any:
    """Logits ``[tokens, vocabulary]`` by transformers in float32."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.embedding,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.context,
        rms_norm_eps=shape.norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=shape.tied,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    left = model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=False)
    if left.unexpected_keys or [key for key in left.missing_keys if key != "lm_head.weight"]:
        raise SystemExit(f"weights do not fit: {left}")
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy()


def write_golden(path: Path) -> None:
    """Write all cases; of each row of logits the first 16, to keep the file small."""
    cases = {}
    for name, (shape, seed) in CASES.items():
        tokens = np.random.RandomState(seed + 1).randint(0, shape.vocabulary, TOKENS).tolist()
        logits = other_logits(shape, dict(make_weights(shape, seed)), tokens)
        cases[name] = {
            "shape": asdict(shape),
            "seed": seed,
            "tokens": tokens,
            "logits": [[float(f"{value:.7g}") for value in row[:16]] for row in logits],
        }
    made_by = {name: version(name) for name in ("torch", "transformers")}
    path.write_text(json.dumps({"made_by": made_by, "cases": cases}) + "\n", "utf-8")


def compare_real(path: Path) -> None:
    """Print the largest difference of logits on a real model."""
    from pytest_h2o.reference.cache import EvictingCache
    from pytest_h2o.reference.gguf import GgufFile
    from pytest_h2o.reference.model import Model, read_tokenizer

    file = GgufFile(path)
    tokens = read_tokenizer(file).encode((ROOT / "fixtures/prompts/prose.txt").read_text("utf-8"))[:256]
    model = Model(file)
    cache = EvictingCache(file.hyper, len(tokens), half=False)
    ours = model.logits(model.prefill(np.array(tokens[:200]), cache))
    ours = np.concatenate([ours, [model.decode(token, cache) for token in tokens[200:]]])
    theirs = other_logits(real_shape(file), original_weights(file), tokens)
    print(f"{len(tokens)} tokens, the last {len(tokens) - 200} decoded one by one")
    print(f"largest difference {np.abs(ours - theirs).max():.3g}, largest logit {np.abs(theirs).max():.3g}")
    print(f"root mean square {np.sqrt(np.mean((ours - theirs) ** 2)):.3g} of {np.sqrt(np.mean(theirs**2)):.3g}")
    print(f"equal best tokens {np.mean(ours.argmax(-1) == theirs.argmax(-1)):.4f}")


def real_shape(file: Any) -> SyntheticShape:
    """The hyper-parameters of a file as a shape."""
    return SyntheticShape(**asdict(file.hyper), tied=file.tied_head)


def original_weights(file: Any) -> dict[str, Any]:
    """Dequantised weights of a file under their original names and in their original row order."""
    from synthetic_model import GGUF_NAMES

    weights = {
        "model.embed_tokens.weight": file.floats("token_embd.weight"),
        "model.norm.weight": file.floats("output_norm.weight").copy(),
    }
    for layer in range(file.hyper.layers):
        for original, short in GGUF_NAMES.items():
            value = file.floats(f"blk.{layer}.{short}.weight")
            heads = {"attn_q": file.hyper.heads, "attn_k": file.hyper.kv_heads}.get(short)
            if heads:
                value = value.reshape(heads, -1, 2, value.shape[-1]).swapaxes(1, 2).reshape(value.shape)
            weights[f"model.layers.{layer}.{original}.weight"] = np.array(value)
    return weights


if __name__ == "__main__":
    write_golden(Path(sys.argv[1]))
    if len(sys.argv) > 2:
        compare_real(Path(sys.argv[2]))
