"""What eviction costs the model: does it still predict text it has not seen, and does it still say the same.

On a piece of held-out text the first `prompt_tokens` are prefilled and the next `tokens` are predicted one after the
other, each fed in whatever was predicted (teacher forcing), while the cache evicts as it would in decoding. The same
tokens are predicted with nothing evicted. Then the model generates freely after the prompt, best token each time, with
and without eviction. One changed token changes all that follow, so the two figures of that say less. The columns:

``quality_ppl_full``, ``quality_ppl_evicted``, ``quality_ppl_rise``
    Perplexity, 2 ** (bits a token), lower is better, and its rise: evicted over full, less 1. 0.02 is 2 % worse.
``quality_bits_per_byte_full``, ``quality_bits_per_byte_evicted``
    Bits over the bytes of text that the predicted tokens stand for, lower is better.
``quality_top1_agreement``
    Share of predicted places where both caches rank the same token first, mean over the windows.
``quality_greedy_prefix``, ``quality_greedy_equal``
    Tokens that free generation has in common before the first difference, and the share of places at which its tokens
    are equal, means over the windows; only where tokens are generated.
``quality_cache_ratio``
    Bytes of the whole cache over the bytes held at the end, all layers, mean over the windows; higher is better.
``quality_tokens``, ``quality_evictions``
    Tokens predicted, and plans that evicted something. At 0 evictions nothing was put to the test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.cache import EvictingCache
from pytest_h2o.reference.config import Clock, PolicySettings
from pytest_h2o.reference.gguf import Floats
from pytest_h2o.reference.model import Model, Tokenizer, Tokens, generate

_ROWS_AT_ONCE = 64
"""Positions whose logits are held at a time: a vocabulary is large."""


@dataclass(frozen=True)
class QualitySettings:
    """How to measure, all counts in tokens."""

    prompt_tokens: int
    """Prefilled."""
    tokens: int
    """Predicted after them."""
    windows: int
    """How many such pieces of the text."""
    greedy_tokens: int
    """Generated freely."""
    policy: PolicySettings | None
    """None evicts nothing."""
    clock: Clock = "layer"
    half: bool = True
    """A cache of fp16, on both sides of the comparison."""

    @property
    def window_tokens(self) -> int:
        return self.prompt_tokens + self.tokens

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return self.prompt_tokens + max(self.tokens, self.greedy_tokens)


def measure_quality(
    model: Model, tokenizer: Tokenizer, text: Sequence[int], settings: QualitySettings
) -> dict[str, float]:
    """The columns, of six significant digits, from windows that follow each other from the start of a text."""
    check_quality(len(text), model.hyper.context, settings)
    full = EvictingCache(model.hyper, settings.longest, half=settings.half)
    evicting = EvictingCache(
        model.hyper, settings.longest, half=settings.half, policy=settings.policy, clock=settings.clock
    )
    pieces = np.array(text[: settings.windows * settings.window_tokens], dtype=np.int64).reshape(settings.windows, -1)
    windows = [_measure_window(model, tokenizer, tokens, settings, full, evicting) for tokens in pieces]
    found = {name: [window[name] for window in windows] for name in windows[0]}
    bits_full, bits_evicted, text_bytes = (sum(found.pop(name)) for name in ("full", "evicted", "text_bytes"))
    evictions = sum(found.pop("evictions"))
    predicted = settings.windows * settings.tokens
    ppl_full, ppl_evicted = (_perplexity(bits / predicted) for bits in (bits_full, bits_evicted))
    columns = {
        "ppl_full": ppl_full,
        "ppl_evicted": ppl_evicted,
        "ppl_rise": ppl_evicted / ppl_full - 1.0,
        "bits_per_byte_full": bits_full / text_bytes,
        "bits_per_byte_evicted": bits_evicted / text_bytes,
        **{name: float(np.mean(each)) for name, each in found.items()},
        "tokens": predicted,
        "evictions": evictions,
    }
    for name, value in columns.items():
        if not math.isfinite(value):
            raise model.fault(f"{name} of {value} on the held-out text")
    return {f"quality_{name}": float(f"{value:.6g}") for name, value in columns.items()}


def _measure_window(
    model: Model,
    tokenizer: Tokenizer,
    tokens: Tokens,
    settings: QualitySettings,
    full: EvictingCache,
    evicting: EvictingCache,
) -> dict[str, float]:
    """Sums of bits, bytes and evictions, and the columns that are means over the windows."""
    prompt, targets = np.split(tokens, [settings.prompt_tokens])
    bits_full, best_full = predict_full(model, tokens, len(targets), full)
    evicting.clear()
    logits = model.logits(model.prefill(prompt, evicting)[-1])
    bits_evicted, best_evicted = predict_decoded(model, logits, targets, evicting)
    found = {
        "full": bits_full,
        "evicted": bits_evicted,
        "text_bytes": tokenizer.byte_length(targets.tolist()),
        "evictions": evicting.evictions,
        "top1_agreement": float(np.mean(best_full == best_evicted)),
    }
    cache_ratio = evicting.full_bytes / evicting.held_bytes
    if settings.greedy_tokens:
        said = (generate(model, cache, prompt, settings.greedy_tokens).tokens for cache in (full, evicting))
        found["greedy_prefix"], found["greedy_equal"] = compare_tokens(*said)
    return {**found, "cache_ratio": cache_ratio}


def _perplexity(bits: float) -> float:
    """Of so many bits a token."""
    try:
        return float(2.0**bits)
    except OverflowError:
        return math.inf


def check_quality(text_tokens: int, context: int, settings: QualitySettings) -> None:
    """Raise `UsageError` if a text or a context is too short for `settings`."""
    needed = settings.windows * settings.window_tokens
    if text_tokens < needed:
        raise UsageError(
            "the held-out text is too short",
            came=f"{text_tokens} tokens",
            expected=f"{needed}: {settings.windows} windows of {settings.window_tokens}",
            hint="name a longer quality_text_file, or ask for fewer quality_tokens or quality_windows",
        )
    if settings.longest > context:
        raise UsageError(
            "the quality measurement is longer than the model's context",
            came=f"{settings.longest} tokens",
            expected=f"at most {context}",
            hint="ask for fewer quality_prompt_tokens, quality_tokens or quality_greedy_tokens",
        )


def compare_tokens(first: Sequence[int], second: Sequence[int]) -> tuple[float, float]:
    """Length of the common prefix in tokens, and share of equal places, of two texts of equal length."""
    equal = np.array(first) == np.array(second)
    prefix = int(np.argmin(equal)) if not equal.all() else len(equal)
    return float(prefix), float(equal.mean())


def token_bits(logits: Floats, targets: Tokens) -> NDArray[np.float64]:
    """Bits that each target costs, ``[tokens]``: minus log2 of its probability by logits ``[tokens, vocabulary]``.

    Nan or inf where the logits are no finite numbers.
    """
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=-1, keepdims=True)
    totals = np.log(np.exp(exact).sum(axis=-1))
    bits: NDArray[np.float64] = (totals - exact[np.arange(len(targets)), targets]) / math.log(2.0)
    return bits


def predict_full(model: Model, tokens: Tokens, count: int, cache: EvictingCache) -> tuple[float, Tokens]:
    """Bits of the last `count` tokens and the best token at each place, all in one prefill."""
    cache.clear()
    hidden = model.prefill(tokens[:-1], cache)[-count:]
    targets = tokens[-count:]
    bits, best = 0.0, []
    for start in range(0, count, _ROWS_AT_ONCE):
        logits = model.logits(hidden[start : start + _ROWS_AT_ONCE])
        bits += float(token_bits(logits, targets[start : start + _ROWS_AT_ONCE]).sum())
        best.append(logits.argmax(axis=-1))
    return bits, np.concatenate(best)


def predict_decoded(model: Model, logits: Floats, targets: Tokens, cache: EvictingCache) -> tuple[float, Tokens]:
    """The same token by token, on a cache that holds the prompt, whose last token gave `logits`, ``[vocabulary]``."""
    bits, best = 0.0, []
    for place in range(len(targets)):
        if place:
            logits = model.decode(int(targets[place - 1]), cache)
        bits += float(token_bits(logits[None], targets[place : place + 1])[0])
        best.append(int(np.argmax(logits)))
    return bits, np.array(best)
