"""The embedded model is what its card says: file, sizes, tokenizer, and bits a byte on held-out text.

The forward pass and the byte-pair encoding here are written anew, short and slow, so that the file is checked by
code that neither trained it nor serves it.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from functools import cache
from typing import Any

import gguf
import numpy as np
import pytest
import zstandard
from bench_runs import ROOT
from numpy.typing import NDArray

FIXTURES = ROOT / "fixtures"
MODEL = FIXTURES / "models" / "austen-5m.gguf"
CARD = (FIXTURES / "models" / "README.md").read_text()
HELD_OUT = (FIXTURES / "text" / "heldout.txt").read_bytes()
CHECKED_BYTES = 10_000
PIECE = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")
"""GPT-2's pattern on ASCII text."""


def card_value(label: str) -> str:
    """The second cell of the card's table row that starts with ``label``."""
    found = re.search(rf"^\| {re.escape(label)} \| ([^|]+) \|", CARD, re.MULTILINE)
    if found is None:
        raise LookupError(f"the card has no row {label!r}")
    return found[1].strip()


def card_number(label: str) -> float:
    return float(card_value(label).replace(",", ""))


@cache
def read_fields() -> dict[str, Any]:
    return {key: field.contents() for key, field in gguf.GGUFReader(MODEL).fields.items()}


@cache
def read_weights() -> dict[str, NDArray[np.float32]]:
    tensors = gguf.GGUFReader(MODEL).tensors
    return {tensor.name.removesuffix(".weight"): gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in tensors}


def encode(text: str) -> list[int]:
    """Tokens of ASCII text, by merging the pair of lowest rank again and again."""
    fields = read_fields()
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(fields["tokenizer.ggml.merges"])}
    numbers = {token: number for number, token in enumerate(fields["tokenizer.ggml.tokens"])}
    pieces: dict[str, list[int]] = {}
    for piece in set(PIECE.findall(text)):
        parts = list(piece.replace(" ", "Ġ").replace("\n", "Ċ"))
        while (
            best := min(itertools.pairwise(parts), key=lambda pair: ranks.get(pair, math.inf), default=None)
        ) in ranks:
            at = next(i for i in range(len(parts)) if (parts[i], parts[i + 1]) == best)
            parts[at : at + 2] = ["".join(best)]
        pieces[piece] = [numbers[part] for part in parts]
    return [token for piece in PIECE.findall(text) for token in pieces[piece]]


def norm(x: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    return (
        x
        / np.sqrt(np.mean(x * x, -1, keepdims=True) + read_fields()["llama.attention.layer_norm_rms_epsilon"])
        * weight
    )


def rotate(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn neighbours 2 i and 2 i + 1 of ``x`` ``[seq, heads, head_dim]`` by position * theta^(-2 i / head_dim)."""
    theta = read_fields()["llama.rope.freq_base"]
    speed = theta ** -(np.arange(0, x.shape[-1], 2) / x.shape[-1])
    turn = np.exp(1j * np.arange(len(x))[:, None, None] * speed)
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
    return np.stack((turned.real, turned.imag), -1).reshape(x.shape).astype(np.float32)


def log_probabilities(tokens: list[int]) -> NDArray[np.float32]:
    """Natural logarithms ``[seq, vocabulary]`` of what follows each of ``tokens``."""
    fields, w = read_fields(), read_weights()
    heads, kv_heads = fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]
    seq, x = len(tokens), w["token_embd"][tokens]
    hidden_future = np.triu(np.full((seq, seq), -np.inf, np.float32), 1)
    for layer in range(fields["llama.block_count"]):
        b = f"blk.{layer}."
        h = norm(x, w[b + "attn_norm"])
        q = rotate((h @ w[b + "attn_q"].T).reshape(seq, heads, -1))
        k = rotate((h @ w[b + "attn_k"].T).reshape(seq, kv_heads, -1)).repeat(heads // kv_heads, 1)
        v = (h @ w[b + "attn_v"].T).reshape(seq, kv_heads, -1).repeat(heads // kv_heads, 1)
        scores = q.transpose(1, 0, 2) @ k.transpose(1, 2, 0) / np.float32(math.sqrt(q.shape[-1])) + hidden_future
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = weights / weights.sum(-1, keepdims=True) @ v.transpose(1, 0, 2)
        x = x + mixed.transpose(1, 0, 2).reshape(seq, -1) @ w[b + "attn_output"].T
        h = norm(x, w[b + "ffn_norm"])
        gate = h @ w[b + "ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w[b + "ffn_up"].T)) @ w[b + "ffn_down"].T
    logits = norm(x, w["output_norm"]) @ w["token_embd"].T
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@cache
def bits_per_byte(text: bytes, window: int) -> float:
    """Windows of ``window`` tokens after the begin mark, moved on by half; the unseen half of each counts."""
    tokens, nats = encode(text.decode("ascii")), 0.0
    for start in range(0, max(1, len(tokens) - window // 2), window // 2):
        piece = tokens[start : start + window]
        counted = window // 2 if start else 0
        chosen = log_probabilities([0, *piece[:-1]])[np.arange(len(piece)), piece]
        nats -= float(chosen[counted:].sum(dtype=np.float64))
    return nats / math.log(2) / len(text)


def test_the_files_are_those_of_the_card() -> None:
    assert MODEL.stat().st_size == card_number("file size, bytes") <= 6_000_000
    assert hashlib.sha256(MODEL.read_bytes()).hexdigest() == card_value("SHA-256 of the file")
    assert len(HELD_OUT) == card_number("held-out text, bytes")
    assert hashlib.sha256(HELD_OUT).hexdigest() == card_value("SHA-256 of the held-out text")


SIZES = {
    "layers": "block_count",
    "channels": "embedding_length",
    "query heads": "attention.head_count",
    "KV heads": "attention.head_count_kv",
    "head size": "attention.key_length",
    "feed-forward channels": "feed_forward_length",
    "context, tokens": "context_length",
    "RoPE theta": "rope.freq_base",
    "vocabulary, tokens": "vocab_size",
}


def test_the_sizes_are_those_of_the_card_and_suit_the_eviction_policy() -> None:
    sizes = {label: read_fields()[f"llama.{key}"] for label, key in SIZES.items()}
    assert sizes == {label: card_number(label) for label in SIZES}
    assert sizes["query heads"] >= 2 * sizes["KV heads"]
    assert sizes["layers"] > 4
    assert sizes["context, tokens"] >= 1024


def test_the_parameters_are_those_of_the_card() -> None:
    tensors = gguf.GGUFReader(MODEL).tensors
    assert sum(tensor.n_elements for tensor in tensors) == card_number("parameters")
    kinds = {tensor.tensor_type.name for tensor in tensors if len(tensor.shape) == 2}
    assert kinds == {card_value("type of matrices")}


def test_every_token_is_a_byte_the_begin_mark_or_a_merge() -> None:
    fields = read_fields()
    tokens, merges = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.merges"]
    assert tokens[fields["tokenizer.ggml.bos_token_id"]] == "<|begin|>"
    assert sorted(tokens[257:]) == sorted(merge.replace(" ", "") for merge in merges)
    assert len(set(tokens)) == len(tokens) == fields["llama.vocab_size"]
    assert all(len(token) == 1 for token in tokens[1:257])


def test_the_held_out_text_encodes_to_as_many_tokens_as_the_card_says() -> None:
    tokens = encode(HELD_OUT.decode("ascii"))
    assert len(tokens) == card_number("held-out text, tokens")
    texts = read_fields()["tokenizer.ggml.tokens"]
    joined = "".join(texts[token] for token in tokens)
    assert joined.replace("Ġ", " ").replace("Ċ", "\n").encode() == HELD_OUT


def test_bits_per_byte_are_those_of_the_card_and_better_than_zstd() -> None:
    text = HELD_OUT[:CHECKED_BYTES]
    bits = bits_per_byte(text, 1024)
    assert bits == pytest.approx(card_number("bits a byte of its first 10,000 bytes, context 1,024"), abs=0.002)
    assert bits < 2.0
    assert bits < 8 * len(zstandard.compress(text, 19)) / len(text)


def test_a_longer_context_is_worth_something() -> None:
    """1.6318 bits with 64 tokens, 1.6188 with 1,024: little, and all that eviction puts at stake."""
    text = HELD_OUT[:CHECKED_BYTES]
    assert bits_per_byte(text, 1024) < bits_per_byte(text, 64) - 0.01
