"""Write the trained net as GGUF and read it back into torch."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from net import Net, NetConfig
from numpy.typing import NDArray
from tokenizer import merges_of, tokens_of
from tokenizers import Tokenizer

NAME = "austen-5m"
NORMAL, CONTROL = 1, 3


def pair_rows(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of a query or key matrix, ``[heads * head_dim, dim]``, from halves to neighbours.

    In the net dimension i of a head turns with i + head_dim / 2; in GGUF files of this architecture 2 i with 2 i + 1.
    """
    halves = rows.reshape(heads, 2, -1, rows.shape[-1])
    return np.ascontiguousarray(halves.transpose(0, 2, 1, 3)).reshape(rows.shape)


def unpair_rows(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """The inverse of `pair_rows`."""
    pairs = rows.reshape(heads, -1, 2, rows.shape[-1])
    return np.ascontiguousarray(pairs.transpose(0, 2, 1, 3)).reshape(rows.shape)


def write_model(path: Path, net: Net, tokenizer: Tokenizer) -> None:
    """Matrices as Q8_0 (32 weights share a float16 scale), norms as float32; architecture ``llama``, head tied."""
    writer = gguf.GGUFWriter(path, "llama")
    _add_sizes(writer, net.config)
    _add_tokenizer(writer, tokenizer)
    q8 = gguf.GGMLQuantizationType.Q8_0
    for name, parameter in net.named_parameters():
        values = parameter.detach().float().numpy()
        if name.endswith(("attn_q", "attn_k")):
            values = pair_rows(values, net.config.heads if name.endswith("q") else net.config.kv_heads)
        if values.ndim == 1:
            writer.add_tensor(f"{name}.weight", values)
        else:
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, q8), raw_dtype=q8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_sizes(writer: gguf.GGUFWriter, config: NetConfig) -> None:
    writer.add_name(NAME)
    writer.add_description("Small byte-pair model of Jane Austen, the King James Bible, the Jargon File and A. Bierce")
    writer.add_license("Apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.ffn)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    tokens = tokens_of(tokenizer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL] + [NORMAL] * (len(tokens) - 1))
    writer.add_token_merges(merges_of(tokenizer))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(True)


def read_model(path: Path) -> Net:
    """The net with the weights of the file, dequantised to float32."""
    reader = gguf.GGUFReader(path)
    number = {key: field.contents() for key, field in reader.fields.items() if key.startswith("llama.")}
    config = NetConfig(
        vocab=number["llama.vocab_size"],
        dim=number["llama.embedding_length"],
        layers=number["llama.block_count"],
        heads=number["llama.attention.head_count"],
        kv_heads=number["llama.attention.head_count_kv"],
        head_dim=number["llama.attention.key_length"],
        ffn=number["llama.feed_forward_length"],
        context=number["llama.context_length"],
        rope_theta=number["llama.rope.freq_base"],
        norm_eps=number["llama.attention.layer_norm_rms_epsilon"],
    )
    net = Net(config)
    state = {}
    for tensor in reader.tensors:
        name = tensor.name.removesuffix(".weight")
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if name.endswith(("attn_q", "attn_k")):
            values = unpair_rows(values, config.heads if name.endswith("q") else config.kv_heads)
        state[name] = torch.from_numpy(values)
    net.load_state_dict(state)
    return net
