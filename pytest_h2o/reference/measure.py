"""Repeats of prefill and decode, timed, on one cache that is cleared between them."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from pytest_h2o.reference.cache import Counters, EvictingCache
from pytest_h2o.reference.lossless import RuntimeLossless
from pytest_h2o.reference.model import Model, Tokens
from pytest_h2o.reference.table import MIB, Series


@dataclass(frozen=True)
class Repeat:
    """One prefill and the decoding after it.

    Attributes
    ----------
    prefill_s, decode_s : float
        Seconds of each half, as the monotonic clock has them.
    tokens : tuple of int
        What was generated, best token each time.
    counters : Counters
    lossless : mapping
        Column to figure of the runtime's lossless coding.
    """

    prefill_s: float
    decode_s: float
    tokens: tuple[int, ...]
    counters: Counters
    lossless: dict[str, float]


def run_repeat(
    model: Model, cache: EvictingCache, prompt: Tokens, gen_len: int, lossless: RuntimeLossless | None = None
) -> Repeat:
    """Clear the cache, run the prompt, then decode `gen_len` tokens, each the best after the one before."""
    cache.clear()
    started_s = time.perf_counter()
    token = int(np.argmax(model.logits(model.prefill(prompt, cache)[-1])))
    prefilled_s = time.perf_counter()
    tokens = []
    for _ in range(gen_len):
        token_in, token = token, int(np.argmax(model.decode(token, cache)))
        tokens.append(token_in)
    if lossless is not None:
        lossless.finish()
    decoded_s = time.perf_counter()
    return Repeat(
        prefill_s=prefilled_s - started_s,
        decode_s=decoded_s - prefilled_s,
        tokens=tuple(tokens),
        counters=cache.counters,
        lossless=lossless_figures(lossless),
    )


def lossless_figures(lossless: RuntimeLossless | None) -> dict[str, float]:
    """Columns of the runtime's lossless coding; where nothing was coded the ratio is 1 and the others are 0.

    Codec time is that of the last sample, the others are sums over the samples of the repeat. A decoded sample is one
    that the strict check asked for: it was never in a cache of decoded blocks.
    """
    samples = lossless.samples if lossless else []
    strict = [sample for sample in samples if sample.decomp_us]
    return {
        "h2o_lossless": lossless.ratio if lossless else 1.0,
        "h2o_codec_us": samples[-1].comp_us if samples else 0,
        "h2o_lossless_raw_mb": sum(sample.raw_bytes for sample in samples) / MIB,
        "h2o_lossless_comp_mb": sum(sample.coded_bytes for sample in samples) / MIB,
        "h2o_lossless_comp_us": sum(sample.comp_us for sample in samples),
        "h2o_lossless_decomp_us": sum(sample.decomp_us for sample in samples),
        "h2o_lossless_fallback": sum(sample.fallbacks for sample in samples),
        "h2o_lossless_decode_cache_miss": len(strict),
        "h2o_lossless_async_queue_peak": lossless.queue_peak if lossless else 0,
        "h2o_lossless_async_wait_us": lossless.wait_us if lossless else 0,
        # No sample is skipped, and there is neither a queue of stored blocks nor a cache of decoded ones.
        "h2o_lossless_queue_peak": 0,
        "h2o_lossless_backpressure_skip": 0,
        "h2o_lossless_decode_cache_hit": 0,
    }


def speeds(repeats: list[Repeat], prompt_len: int, gen_len: int) -> tuple[Series, Series]:
    """Tokens a second of prefill and of decode; higher is better."""
    prefill = Series(tuple(prompt_len / repeat.prefill_s for repeat in repeats))
    return prefill, Series(tuple(gen_len / repeat.decode_s for repeat in repeats))


def h2o_series(repeats: list[Repeat]) -> dict[str, Series]:
    """Every H2O column over the repeats."""
    columns: dict[str, list[float]] = {
        "h2o_keep": [repeat.counters.keep for repeat in repeats],
        "h2o_lossy": [repeat.counters.lossy for repeat in repeats],
        "h2o_target_keep_effective": [repeat.counters.target_keep for repeat in repeats],
        "h2o_floor_keep": [repeat.counters.floor_keep for repeat in repeats],
        "h2o_quantized_keep": [repeat.counters.quantized_keep for repeat in repeats],
        "h2o_evict_us": [repeat.counters.evict_us for repeat in repeats],
    }
    for column in repeats[0].lossless:
        columns[column] = [repeat.lossless[column] for repeat in repeats]
    return {column: Series(tuple(float(value) for value in values)) for column, values in columns.items()}
