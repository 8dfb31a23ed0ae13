"""The forward pass of a Llama-style model in float32 numpy.

RMS norm, rotary positions, grouped-query attention, SwiGLU, a head that may be tied to the embedding: Touvron et
al., "LLaMA" (arXiv 2302.13971); Su et al., "RoFormer" (2104.09864); Ainslie et al., "GQA" (2305.13245).

llama.cpp stores the rows of the query and key matrices of this family so that a rotated pair stands side by side
(2 i, 2 i + 1). Here they are put back in the order of the original weights, where dimension i turns with
i + head_dim / 2: so that a dump of this cache has the layout of other runtimes' dumps.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.cache import EvictingCache, Stage
from pytest_h2o.reference.gguf import Floats, GgufFile, HyperParameters

Tokens = NDArray[np.int64]
QUERIES_AT_ONCE = 128
"""Rows of a prefill whose attention is computed together; bounds its memory."""


@dataclass(frozen=True)
class _Layer:
    attention_norm: Floats
    query_key_value: Floats
    """``[(heads + 2 kv_heads) * head_dim, embedding]``: three matrices in one, one call of BLAS."""
    output: Floats
    feed_norm: Floats
    gate_up: Floats
    """``[2 * feed_forward, embedding]``."""
    down: Floats


class Model:
    """A model with all weights in memory as float32, dequantised once."""

    def __init__(self, file: GgufFile) -> None:
        self.hyper, self._path = file.hyper, file.path
        self._embedding = file.floats("token_embd.weight")
        self._head = self._embedding if file.tied_head else file.floats("output.weight")
        self._output_norm = file.floats("output_norm.weight")
        self._layers = [_read_layer(file, index) for index in range(file.hyper.layers)]
        self._frequencies = self.hyper.rope_theta ** (
            -np.arange(0, self.hyper.head_dim, 2, dtype=np.float64) / self.hyper.head_dim
        )

    def prefill(self, tokens: Tokens, cache: EvictingCache) -> Floats:
        """Run a prompt into the cache; normed hidden states, float32 ``[tokens, embedding]``, for `logits`.

        There is at least one token, each below ``hyper.vocabulary``. The cache is empty, or holds all earlier tokens
        of the sequence and none evicted.
        """
        hidden = self._embedding[tokens]
        cos, sin = self._rotation(cache.next_position, len(tokens))
        for index, layer in enumerate(self._layers):
            query, key, value = self._project(_rms_norm(hidden, layer.attention_norm, self.hyper), layer)
            keys, values = self._extend(cache, index, _rotate(key, cos, sin), value, "prefill")
            hidden += self._attend_causal(_rotate(query, cos, sin), keys, values) @ layer.output.T
            hidden += _feed_forward(_rms_norm(hidden, layer.feed_norm, self.hyper), layer)
        cache.advance(len(tokens))
        return _rms_norm(hidden, self._output_norm, self.hyper)

    def decode(self, token: int, cache: EvictingCache) -> Floats:
        """Run one token into the cache; logits of the next one, float32 ``[vocabulary]``."""
        hidden = self._embedding[token].copy()
        cos, sin = self._rotation(cache.next_position, 1)
        hyper = self.hyper
        for index, layer in enumerate(self._layers):
            query, key, value = self._project(_rms_norm(hidden, layer.attention_norm, hyper)[None], layer)
            keys, values = self._extend(cache, index, _rotate(key, cos, sin), value, "decode")
            grouped = _rotate(query, cos, sin).reshape(hyper.kv_heads, -1, hyper.head_dim)
            weights = _softmax(np.matmul(grouped, keys.transpose(0, 2, 1)) * np.float32(hyper.head_dim**-0.5))
            hidden += layer.output @ np.matmul(weights, values).reshape(-1)
            cache.observe(index, weights)
            hidden += _feed_forward(_rms_norm(hidden, layer.feed_norm, hyper)[None], layer)[0]
        cache.advance(1)
        return self.logits(_rms_norm(hidden, self._output_norm, hyper))

    def logits(self, hidden: Floats) -> Floats:
        """Logits of normed hidden states: float32 ``[..., vocabulary]`` of ``[..., embedding]``."""
        return self._head @ hidden if hidden.ndim == 1 else hidden @ self._head.T

    def best(self, logits: Floats) -> int:
        """The best token by logits ``[vocabulary]``, which must be finite."""
        if not np.isfinite(logits).all():
            raise self.fault(f"a logit of {logits[~np.isfinite(logits)][0]}")
        return int(np.argmax(logits))

    def fault(self, came: str) -> UsageError:
        """The error for a model that computes what is no finite number."""
        return UsageError(
            "the model computes numbers that are not finite",
            where=str(self._path),
            came=came,
            expected="finite numbers",
            hint="fetch or convert the model again; keys or values beyond the range of fp16 need -c 1, a cache of fp32",
        )

    def _rotation(self, first: int, count: int) -> tuple[Floats, Floats]:
        """Cosine and sine, ``[count, 1, head_dim / 2]``, of the positions from `first` on."""
        angles = np.arange(first, first + count, dtype=np.float64)[:, None, None] * self._frequencies
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def _project(self, normed: Floats, layer: _Layer) -> tuple[Floats, Floats, Floats]:
        """Queries, keys and values, each ``[tokens, its heads, head_dim]``, not rotated."""
        hyper = self.hyper
        flat = _product(layer.query_key_value, normed)
        heads = flat.reshape(len(normed), hyper.heads + 2 * hyper.kv_heads, hyper.head_dim)
        return (
            heads[:, : hyper.heads],
            heads[:, hyper.heads : hyper.heads + hyper.kv_heads],
            heads[:, hyper.heads + hyper.kv_heads :],
        )

    def _extend(
        self, cache: EvictingCache, layer: int, keys: Floats, values: Floats, stage: Stage
    ) -> tuple[Floats, Floats]:
        """All that a layer holds with new tokens, of which none may be beyond what the cache can hold."""
        held = cache.extend(layer, keys, values, stage)
        for name, new in zip(("key", "value"), held, strict=True):
            written = new[:, -len(keys) :].ravel()
            if not np.isfinite(np.dot(written, written)):  # a sum of squares is finite only if each number is
                wrong = written[~np.isfinite(written)]
                raise self.fault(f"a {name} of {wrong[0] if len(wrong) else np.abs(written).max()} in layer {layer}")
        return held

    def _attend_causal(self, query: Floats, keys: Floats, values: Floats) -> Floats:
        """Attention of new tokens over all held ones, each blind to those after it: ``[tokens, heads * head_dim]``."""
        tokens, (kv_heads, held, head_dim) = len(query), keys.shape
        grouped = query.reshape(tokens, kv_heads, -1, head_dim).transpose(1, 2, 0, 3)
        out = np.empty(grouped.shape, dtype=np.float32)
        for start in range(0, tokens, QUERIES_AT_ONCE):
            stop = min(start + QUERIES_AT_ONCE, tokens)
            seen = held - tokens + stop
            scores = np.matmul(grouped[:, :, start:stop], keys[:, None, :seen].transpose(0, 1, 3, 2))
            scores *= np.float32(head_dim**-0.5)
            later = np.triu(np.ones((stop - start, stop - start), bool), 1)
            scores[..., start - stop :][:, :, later] = -np.inf
            np.matmul(_softmax(scores), values[:, None, :seen], out=out[:, :, start:stop])
        merged: Floats = out.transpose(2, 0, 1, 3).reshape(tokens, -1)
        return merged


@dataclass(frozen=True)
class Generated:
    """One prefill and the decoding after it, timed."""

    prefill_s: float
    decode_s: float
    tokens: tuple[int, ...]
    """What was generated, best token each time."""


def generate(model: Model, cache: EvictingCache, prompt: Tokens, gen_len: int) -> Generated:
    """Clear the cache, run the prompt, then decode `gen_len` tokens, each the best after the one before."""
    cache.clear()
    started_s = time.perf_counter()
    tokens = [model.best(model.logits(model.prefill(prompt, cache)[-1]))]
    prefilled_s = time.perf_counter()
    for _ in range(gen_len):
        tokens.append(model.best(model.decode(tokens[-1], cache)))
    cache.finish()
    return Generated(prefilled_s - started_s, time.perf_counter() - prefilled_s, tuple(tokens[:gen_len]))


def _read_layer(file: GgufFile, index: int) -> _Layer:
    hyper, prefix = file.hyper, f"blk.{index}."
    query = _unpaired(file.floats(prefix + "attn_q.weight"), hyper.heads)
    key = _unpaired(file.floats(prefix + "attn_k.weight"), hyper.kv_heads)
    return _Layer(
        attention_norm=file.floats(prefix + "attn_norm.weight"),
        query_key_value=np.concatenate([query, key, file.floats(prefix + "attn_v.weight")]),
        output=file.floats(prefix + "attn_output.weight"),
        feed_norm=file.floats(prefix + "ffn_norm.weight"),
        gate_up=np.concatenate([file.floats(prefix + "ffn_gate.weight"), file.floats(prefix + "ffn_up.weight")]),
        down=file.floats(prefix + "ffn_down.weight"),
    )


def _unpaired(rows: Floats, heads: int) -> Floats:
    """Rows with rotated pairs side by side, in the order where dimension i turns with i + head_dim / 2."""
    paired = rows.reshape(heads, -1, 2, rows.shape[-1])
    unpaired: Floats = paired.transpose(0, 2, 1, 3).reshape(rows.shape)
    return unpaired


def _rms_norm(hidden: Floats, weight: Floats, hyper: HyperParameters) -> Floats:
    mean_square = np.add.reduce(np.square(hidden), axis=-1, keepdims=True) / np.float32(hyper.embedding)
    scale: Floats = weight / np.sqrt(mean_square + np.float32(hyper.norm_epsilon))
    return hidden * scale


def _rotate(heads: Floats, cos: Floats, sin: Floats) -> Floats:
    """``[tokens, heads, head_dim]`` with dimension i and i + head_dim / 2 turned by the angle of i."""
    half = heads.shape[-1] // 2
    first, second = heads[..., :half], heads[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _softmax(scores: Floats) -> Floats:
    """Over the last axis, in place."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def _feed_forward(normed: Floats, layer: _Layer) -> Floats:
    both = _product(layer.gate_up, normed)
    width = layer.down.shape[-1]
    gate: Floats = both[..., :width]
    with np.errstate(over="ignore"):  # exp(-gate) of a very negative gate: the quotient is 0, as it should be
        activated: Floats = gate / (np.float32(1.0) + np.exp(-gate))
    activated *= both[..., width:]
    return _product(layer.down, activated)


def _product(weight: Floats, rows: Floats) -> Floats:
    """``rows @ weight.T``; a single row as a matrix-vector product, which is what decoding spends its time on."""
    product: Floats = (weight @ rows[0])[None] if len(rows) == 1 else rows @ weight.T
    return product


BYTES = 256
_NORMAL_TOKEN = 1
_SPLITS_DIGITS = {"smollm": True, "gpt-2": False, "default": False}
"""Names in ``tokenizer.ggml.pre`` with the GPT-2 pattern; whether each digit is a piece of its own."""


@dataclass(frozen=True)
class Tokenizer:
    """Text to tokens: a token a byte, or byte-pair encoding as in GPT-2 by the ``tokenizers`` library."""

    first: tuple[int, ...]
    """Tokens to put before every text."""
    lengths: Sequence[int]
    """Bytes of UTF-8 text that each token stands for; special ones stand for none."""
    library: Any = None
    """A ``tokenizers.Tokenizer``; None: a token a byte."""

    def encode(self, text: str) -> list[int]:
        """Tokens of plain text, a leading beginning-of-sequence token where the model asks for one."""
        if self.library is None:
            return [*self.first, *text.encode("utf-8")]
        return [*self.first, *self.library.encode(text, add_special_tokens=False).ids]

    def byte_length(self, tokens: Sequence[int]) -> int:
        """How many bytes of text the tokens stand for."""
        return sum(self.lengths[token] for token in tokens)


def read_tokenizer(file: GgufFile) -> Tokenizer:
    """Build the tokenizer of a model."""
    size = file.hyper.vocabulary
    kind = file.metadata("tokenizer.ggml.model", "text")
    first = _first_tokens(file)
    if kind == "byte":
        if size < BYTES:
            what = "the model's vocabulary is too small for a byte tokenizer"
            raise file.fault(what, "tokenizer.ggml.model", f"{size} tokens", "at least 256")
        return Tokenizer(first, [1] * BYTES + [0] * (size - BYTES))
    pattern = file.metadata("tokenizer.ggml.pre", "text", "default")
    if kind != "gpt2" or pattern not in _SPLITS_DIGITS:
        what = "the model has a tokenizer that the reference bench does not know"
        expected = f"byte, or gpt2 with pattern {', '.join(_SPLITS_DIGITS)}"
        raise file.fault(what, "tokenizer.ggml.model", f"{kind}, pattern {pattern}", expected)
    vocabulary = file.metadata("tokenizer.ggml.tokens", "array")
    if len(vocabulary) != size or len(set(vocabulary)) != len(vocabulary):
        came = f"{len(vocabulary)} tokens, {len(set(vocabulary))} of them different"
        what = "the tokens of the model do not fit its embedding"
        raise file.fault(what, "tokenizer.ggml.tokens", came, f"{size} different ones")
    kinds = file.metadata("tokenizer.ggml.token_type", "array", [_NORMAL_TOKEN] * size)
    special = {token for token, kind in enumerate(kinds) if kind != _NORMAL_TOKEN}
    merges = [tuple(str(merge).split(" ")) for merge in file.metadata("tokenizer.ggml.merges", "array")]
    if any(len(merge) != 2 for merge in merges):
        raise file.fault("a merge of the tokenizer is no pair", "tokenizer.ggml.merges", expected="two tokens")
    lengths = [0 if token in special else len(text) for token, text in enumerate(vocabulary)]
    return Tokenizer(first, lengths, _build(file, vocabulary, merges, _SPLITS_DIGITS[pattern]))


def _first_tokens(file: GgufFile) -> tuple[int, ...]:
    if not file.metadata("tokenizer.ggml.add_bos_token", "flag", False):
        return ()
    token = file.metadata("tokenizer.ggml.bos_token_id", "number")
    if token != int(token) or not 0 <= token < file.hyper.vocabulary:
        what, expected = "the first token of a text is none of the model's", f"0 to {file.hyper.vocabulary - 1}"
        raise file.fault(what, "tokenizer.ggml.bos_token_id", str(token), expected)
    return (int(token),)


def _build(file: GgufFile, vocabulary: Sequence[str], merges: Sequence[Any], split_digits: bool) -> Any:
    """The tokenizer of the library, of token texts in the byte alphabet of GPT-2 and pairs in the order of rank."""
    try:
        from tokenizers import Tokenizer as Library
        from tokenizers import decoders, models, pre_tokenizers
    except ImportError as error:
        raise UsageError(
            "the model's tokenizer needs a library that is not installed",
            came=str(error),
            expected="the package tokenizers",
            hint="pip install tokenizers",
        ) from error
    try:
        library = Library(models.BPE({text: token for token, text in enumerate(vocabulary)}, list(merges)))
    except Exception as error:  # the library raises nothing narrower
        what = "the tokenizer of the model contradicts itself"
        raise file.fault(what, "tokenizer.ggml.merges", str(error)) from error
    pieces: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if split_digits else []
    library.pre_tokenizer = pre_tokenizers.Sequence([*pieces, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    library.decoder = decoders.ByteLevel()
    return library
