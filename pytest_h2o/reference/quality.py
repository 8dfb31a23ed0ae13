"""What eviction costs the model: does it still predict text it has not seen, and does it still say the same.

On a piece of held-out text the first `prompt_tokens` are prefilled and the next `tokens` are predicted one after the
other, each fed in whatever was predicted (teacher forcing), while the cache evicts as it would in decoding. The same
tokens are predicted with nothing evicted. Perplexity is 2 ** (bits a token); its rise is evicted over full, less 1.

Then the model generates freely after the prompt, best token each time, with and without eviction: how long both texts
are equal, and at how many places they are. One changed token changes all that follow, so these two say less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.cache import EvictingCache
from pytest_h2o.reference.config import Clock, PolicySettings
from pytest_h2o.reference.gguf import Floats
from pytest_h2o.reference.measure import run_repeat
from pytest_h2o.reference.model import Model, Tokenizer, Tokens

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


@dataclass(frozen=True)
class Quality:
    """What was found; bits are to base 2, lower is better. Means are over the windows, the others are sums."""

    tokens: int
    """Predicted."""
    text_bytes: int
    """Of the text that they stand for."""
    bits_full: float
    bits_evicted: float
    top1_agreement: float
    """Share of predicted places where both caches rank the same token first, mean."""
    greedy_prefix: float
    """Tokens that free generation has in common before the first difference, mean; nan without any."""
    greedy_equal: float
    """Share of places at which the generated tokens are equal, mean; nan without any."""
    cache_ratio: float
    """Bytes of the whole cache over the bytes held at the end, all layers, mean; higher is better."""
    evictions: int
    """Plans that evicted something. At 0 nothing was put to the test."""

    @property
    def ppl_full(self) -> float:
        return float(2.0 ** (self.bits_full / self.tokens))

    @property
    def ppl_evicted(self) -> float:
        return float(2.0 ** (self.bits_evicted / self.tokens))

    @property
    def ppl_rise(self) -> float:
        """0.02 means that perplexity under eviction is 2 % higher; below 0 it is better than with all tokens."""
        return self.ppl_evicted / self.ppl_full - 1.0

    def columns(self) -> dict[str, float]:
        """The figures as columns of a row, to six significant digits; those that were not measured are left out."""
        columns = {
            "quality_ppl_full": self.ppl_full,
            "quality_ppl_evicted": self.ppl_evicted,
            "quality_ppl_rise": self.ppl_rise,
            "quality_bits_per_byte_full": self.bits_full / self.text_bytes,
            "quality_bits_per_byte_evicted": self.bits_evicted / self.text_bytes,
            "quality_top1_agreement": self.top1_agreement,
            "quality_greedy_prefix": self.greedy_prefix,
            "quality_greedy_equal": self.greedy_equal,
            "quality_cache_ratio": self.cache_ratio,
            "quality_tokens": self.tokens,
            "quality_evictions": self.evictions,
        }
        return {name: float(f"{value:.6g}") for name, value in columns.items() if not math.isnan(value)}


def measure_quality(model: Model, tokenizer: Tokenizer, text: Sequence[int], settings: QualitySettings) -> Quality:
    """Measure on windows that follow each other from the start of a text."""
    check_quality(len(text), model.hyper.context, settings)
    length = settings.prompt_tokens + max(settings.tokens, settings.greedy_tokens)
    full = EvictingCache(model.hyper, length, half=settings.half)
    evicting = EvictingCache(model.hyper, length, half=settings.half, policy=settings.policy, clock=settings.clock)
    parts = []
    for window in range(settings.windows):
        start = window * settings.window_tokens
        tokens = np.array(text[start : start + settings.window_tokens], dtype=np.int64)
        parts.append(_measure_window(model, tokenizer, tokens, settings, full, evicting))
    found: dict[str, list[Any]] = {item.name: [getattr(part, item.name) for part in parts] for item in fields(Quality)}
    sums = ("tokens", "text_bytes", "bits_full", "bits_evicted", "evictions")
    merged: dict[str, Any] = {name: sum(each) if name in sums else np.mean(each) for name, each in found.items()}
    return Quality(**merged)


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
    longest = settings.prompt_tokens + max(settings.tokens, settings.greedy_tokens)
    if longest > context:
        raise UsageError(
            "the quality measurement is longer than the model's context",
            came=f"{longest} tokens",
            expected=f"at most {context}",
            hint="ask for fewer quality_prompt_tokens, quality_tokens or quality_greedy_tokens",
        )


def _measure_window(
    model: Model,
    tokenizer: Tokenizer,
    tokens: Tokens,
    settings: QualitySettings,
    full: EvictingCache,
    evicting: EvictingCache,
) -> Quality:
    prompt, targets = tokens[: settings.prompt_tokens], tokens[settings.prompt_tokens :]
    bits_full, best_full = predict_full(model, tokens, len(targets), full)
    evicting.clear()
    logits = model.logits(model.prefill(prompt, evicting)[-1])
    bits_evicted, best_evicted = predict_decoded(model, logits, targets, evicting)
    cache_ratio, evictions = evicting.full_bytes / evicting.held_bytes, evicting.evictions
    prefix = equal = math.nan
    if settings.greedy_tokens:
        said_full = run_repeat(model, full, prompt, settings.greedy_tokens).tokens
        said_evicted = run_repeat(model, evicting, prompt, settings.greedy_tokens).tokens
        prefix, equal = compare_tokens(said_full, said_evicted)
    return Quality(
        tokens=len(targets),
        text_bytes=tokenizer.byte_length(targets.tolist()),
        bits_full=bits_full,
        bits_evicted=bits_evicted,
        top1_agreement=float(np.mean(best_full == best_evicted)),
        greedy_prefix=prefix,
        greedy_equal=equal,
        cache_ratio=cache_ratio,
        evictions=evictions,
    )


def compare_tokens(first: Sequence[int], second: Sequence[int]) -> tuple[float, float]:
    """Length of the common prefix in tokens, and share of equal places, of two texts of equal length."""
    equal = np.array(first) == np.array(second)
    prefix = int(np.argmin(equal)) if not equal.all() else len(equal)
    return float(prefix), float(equal.mean())


def token_bits(logits: Floats, targets: Tokens) -> NDArray[np.float64]:
    """Bits that each target costs, ``[tokens]``: minus log2 of its probability by logits ``[tokens, vocabulary]``."""
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
