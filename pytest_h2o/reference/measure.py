"""A repeat: prefill and decode, timed, on a cache that is cleared before."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_h2o.reference.cache import EvictingCache
from pytest_h2o.reference.model import Model, Tokens
from pytest_h2o.reference.table import H2O_COLUMNS, Series


@dataclass(frozen=True)
class Repeat:
    """One prefill and the decoding after it."""

    prefill_s: float
    decode_s: float
    tokens: tuple[int, ...]
    """What was generated, best token each time."""
    figures: Mapping[str, float]
    """Every column of `H2O_COLUMNS`."""


def run_repeat(model: Model, cache: EvictingCache, prompt: Tokens, gen_len: int) -> Repeat:
    """Clear the cache, run the prompt, then decode `gen_len` tokens, each the best after the one before."""
    cache.clear()
    started_s = time.perf_counter()
    token = int(np.argmax(model.logits(model.prefill(prompt, cache)[-1])))
    prefilled_s = time.perf_counter()
    tokens = []
    for _ in range(gen_len):
        token_in, token = token, int(np.argmax(model.decode(token, cache)))
        tokens.append(token_in)
    cache.finish()
    decoded_s = time.perf_counter()
    idle = {name: column.idle for name, column in H2O_COLUMNS.items()}
    return Repeat(prefilled_s - started_s, decoded_s - prefilled_s, tuple(tokens), {**idle, **cache.figures})


def h2o_series(repeats: Sequence[Repeat]) -> dict[str, Series]:
    """Every H2O column over the repeats."""
    return {name: Series(tuple(float(repeat.figures[name]) for repeat in repeats)) for name in H2O_COLUMNS}
