"""Small Llama-style models with random weights, written as GGUF: what the tests run instead of a real model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class SyntheticShape:
    """The shape of a synthetic model; the defaults run in a moment."""

    layers: int = 4
    embedding: int = 32
    feed_forward: int = 48
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 8
    vocabulary: int = 260
    context: int = 512
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-5
    tied: bool = True


def make_weights(shape: SyntheticShape, seed: int) -> Weights:
    """Random weights by their original names, rows first, dimension i of a head turning with i + head_dim / 2."""
    random = np.random.RandomState(seed)  # its streams are frozen for ever, unlike those of a Generator

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        values = random.standard_normal((rows, columns)) * (1.5 / columns**0.5)
        return values.astype(np.float32)

    def norm() -> NDArray[np.float32]:
        return (1.0 + 0.2 * random.standard_normal(shape.embedding)).astype(np.float32)

    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    weights = {"model.embed_tokens.weight": matrix(shape.vocabulary, shape.embedding), "model.norm.weight": norm()}
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        weights[prefix + "input_layernorm.weight"] = norm()
        weights[prefix + "self_attn.q_proj.weight"] = matrix(query, shape.embedding)
        weights[prefix + "self_attn.k_proj.weight"] = matrix(key, shape.embedding)
        weights[prefix + "self_attn.v_proj.weight"] = matrix(key, shape.embedding)
        weights[prefix + "self_attn.o_proj.weight"] = matrix(shape.embedding, query)
        weights[prefix + "post_attention_layernorm.weight"] = norm()
        weights[prefix + "mlp.gate_proj.weight"] = matrix(shape.feed_forward, shape.embedding)
        weights[prefix + "mlp.up_proj.weight"] = matrix(shape.feed_forward, shape.embedding)
        weights[prefix + "mlp.down_proj.weight"] = matrix(shape.embedding, shape.feed_forward)
    if not shape.tied:
        weights["lm_head.weight"] = matrix(shape.vocabulary, shape.embedding)
    return weights


GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_tensors(shape: SyntheticShape, weights: Weights) -> dict[str, NDArray[np.float32]]:
    """Weights by their GGUF names, rotated pairs of Q and K side by side as llama.cpp writes them."""
    tensors = {}
    for name, value in weights.items():
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            short = GGUF_NAMES[rest.removesuffix(".weight")]
            heads = {"attn_q": shape.heads, "attn_k": shape.kv_heads}.get(short)
            if heads:
                value = value.reshape(heads, 2, -1, value.shape[-1]).swapaxes(1, 2).reshape(value.shape)
            tensors[f"blk.{layer}.{short}.weight"] = value
        else:
            other = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
            tensors[other.get(name, "output.weight")] = value
    return tensors


def write_gguf(
    path: Path,
    shape: SyntheticShape | None = None,
    *,
    seed: int = 1,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    architecture: str = "llama",
    tokenizer: str = "byte",
    drop: tuple[str, ...] = (),
    replace: Mapping[str, NDArray[np.float32]] | None = None,
    metadata: Mapping[str, float | str | bool | list[str]] | None = None,
    tokens: list[str] | None = None,
    token_types: list[int] | None = None,
) -> Path:
    """Write a synthetic model with a byte tokenizer; `drop`, `replace` and `metadata` make a broken one."""
    shape = shape or SyntheticShape()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.embedding)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    values: dict[str, float | str | bool | list[str] | list[int]] = {
        "tokenizer.ggml.model": tokenizer,
        "tokenizer.ggml.tokens": tokens
        or [*(f"<0x{byte:02X}>" for byte in range(256)), "<bos>", "<eos>", "<pad>", "<unk>"],
        "tokenizer.ggml.token_type": token_types or [6] * 256 + [3] * 4,
        **(metadata or {}),
    }
    add = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, list: writer.add_array}
    for key, value in values.items():
        add.get(type(value), writer.add_float32)(key, value)  # type: ignore[operator]
    tensors = gguf_tensors(shape, make_weights(shape, seed)) | dict(replace or {})
    for name, value in tensors.items():
        if name in drop:
            continue
        if value.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, value)
        else:
            writer.add_tensor(name, gguf.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
