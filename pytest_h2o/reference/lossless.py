"""What the runtime would save by coding the cold tokens of its cache, as the ``kv_lossless_*`` keys ask for it.

Cold are the tokens from `hot_sink_tokens` on that are not among the last `hot_recent_tokens`. In decoding, once a
layer of the scope holds `trigger_min_tokens`, samples of its cold tokens are coded one after the other, none twice, K
and V apart, with the frame ``fp16_gear_predictive_v3``. In probe mode the first sample is 32 tokens (or a block, if
that is less) and layer 0 alone is sampled (for the kept tokens the first layer of the H2O range too); in full mode
every sample is a block and every layer of the scope is sampled. Samples of a layer are at least `update_interval`
tokens apart. A sample is taken as soon as the cold range holds it whole.

Words are copied in the thread that decodes, and coded by `async_threads` others; with 0 of them, at once. Where
`max_queue` samples are not yet coded, decoding waits for the oldest: none is skipped, so that the sizes do not depend
on the speed of the machine. `finish` waits for the rest, within the time of the repeat.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from pytest_h2o.codecs.base import Stream, Tensor
from pytest_h2o.codecs.gear_v3 import GearV3
from pytest_h2o.errors import RoundTripError
from pytest_h2o.reference.cache import LayerCache, Watcher, Words
from pytest_h2o.reference.config import LosslessSettings
from pytest_h2o.reference.policy import Plan

PROBE_TOKENS = 32
MIB = 1 << 20
LOG_MARK = "[H2O-LOSSLESS]"


@dataclass(frozen=True)
class Sample:
    """Some cold tokens of a layer, and what they came to when they were coded.

    `start` counts held tokens; `first_position` and `end_position` (the one after the last) are places in the
    sequence. Samples are equal if they are of the same tokens and the same size.
    """

    layer: int
    start: int
    tokens: int
    first_position: int
    end_position: int
    raw_bytes: int
    coded_bytes: int = 0
    """K and V together."""
    kv_len: int = field(default=0, compare=False)
    coded_bytes_k: int = field(default=0, compare=False)
    comp_us: int = field(default=0, compare=False)
    decomp_us: int = field(default=0, compare=False)

    @property
    def contiguous(self) -> bool:
        """Whether nothing was evicted between its first token and its last."""
        return self.end_position - self.first_position == self.tokens

    @property
    def coded_bytes_v(self) -> int:
        return self.coded_bytes - self.coded_bytes_k

    @property
    def fallbacks(self) -> int:
        """How many of K and V were not smaller coded, and are counted raw."""
        return sum(coded * 2 >= self.raw_bytes for coded in (self.coded_bytes_k, self.coded_bytes_v))

    def render(self) -> str:
        """The line that is logged."""
        return (
            f"{LOG_MARK} layer={self.layer} kv={self.kv_len} start={self.start} tokens={self.tokens} "
            f"raw={self.raw_bytes} comp={self.coded_bytes} comp_k={self.coded_bytes_k} comp_v={self.coded_bytes_v} "
            f"pos={self.first_position} pos_end={self.end_position} ratio={self.raw_bytes / self.coded_bytes:.4f}"
        )


class RuntimeLossless(Watcher):
    """Watches a cache and codes its cold tokens; `log` takes a line for each sample.

    Attributes
    ----------
    samples : list of Sample
        Since the cache was last cleared, in the order in which they were taken; all of them after `finish`.
    queue_peak : int
        Most samples that were waiting or being coded at once.
    wait_us : int
        Microseconds that decoding waited for them.
    """

    def __init__(self, settings: LosslessSettings, log: Callable[[str], None] | None = None) -> None:
        self._settings, self._log = settings, log
        self._codec = GearV3(predictors_k=settings.predictors_k, predictors_v=settings.predictors_v)
        self._coders = ThreadPoolExecutor(settings.async_threads, "h2o-lossless") if settings.async_threads else None
        self._queue: deque[Future[Sample]] = deque()
        self.cleared()

    def cleared(self) -> None:
        while self._queue:  # of a repeat that was broken off
            self._queue.popleft().cancel()
        self.samples: list[Sample] = []
        self.queue_peak = self.wait_us = 0
        self._coded_to: dict[int, int] = {}
        self._decoded_tokens: dict[int, int] = {}
        self._last_sample: dict[int, int] = {}

    def finish(self) -> dict[str, float]:
        """Wait until everything that was taken is coded. The ratio is raw over coded bytes; higher is better.

        Codec time is that of the last sample, the others are sums over the samples of the repeat. A decoded sample is
        one that the strict check asked for: it was never in a cache of decoded blocks.
        """
        while self._queue:
            self._await_oldest()
        samples = self.samples
        if not samples:
            return {}
        raw, coded = sum(sample.raw_bytes for sample in samples), sum(sample.coded_bytes for sample in samples)
        return {
            "h2o_lossless": raw / coded,
            "h2o_codec_us": samples[-1].comp_us,
            "h2o_lossless_raw_mb": raw / MIB,
            "h2o_lossless_comp_mb": coded / MIB,
            "h2o_lossless_comp_us": sum(sample.comp_us for sample in samples),
            "h2o_lossless_decomp_us": sum(sample.decomp_us for sample in samples),
            "h2o_lossless_fallback": sum(sample.fallbacks for sample in samples),
            "h2o_lossless_decode_cache_miss": sum(sample.decomp_us > 0 for sample in samples),
            "h2o_lossless_async_queue_peak": self.queue_peak,
            "h2o_lossless_async_wait_us": self.wait_us,
        }

    def evicted(self, layer: int, plan: Plan) -> None:
        """Tokens that were coded and are kept stay coded: count how many that are."""
        coded_to = self._coded_to.get(layer)
        if coded_to is not None:
            self._coded_to[layer] = sum(max(0, min(length, coded_to - start)) for start, length in plan.runs)

    def decoded(self, layer: int, held: LayerCache) -> None:
        settings = self._settings
        if not settings.samples(layer):
            return
        now = self._decoded_tokens[layer] = self._decoded_tokens.get(layer, 0) + 1
        if held.length < settings.trigger_min_tokens:
            return
        first = layer not in self._last_sample
        if not first and now - self._last_sample[layer] < settings.update_interval:
            return
        start = max(settings.hot_sink_tokens, self._coded_to.get(layer, 0))
        tokens = settings.block_tokens
        if first and settings.runtime_mode == "probe":
            tokens = min(PROBE_TOKENS, tokens)
        if start + tokens > held.length - settings.hot_recent_tokens:
            return
        self._last_sample[layer] = now
        self._coded_to[layer] = start + tokens
        self._take(layer, held, start, tokens)

    def _take(self, layer: int, held: LayerCache, start: int, tokens: int) -> None:
        keys, values = held.words(start, start + tokens)  # copies, since the cache goes on
        first, last = int(held.positions[start]), int(held.positions[start + tokens - 1])
        sample = Sample(layer, start, tokens, first, last + 1, keys.nbytes + values.nbytes, kv_len=held.length)
        if self._coders is None:
            self._add(self._code(sample, keys, values))
            return
        while len(self._queue) >= self._settings.max_queue:
            self._await_oldest()
        self._queue.append(self._coders.submit(self._code, sample, keys, values))
        self.queue_peak = max(self.queue_peak, sum(not job.done() for job in self._queue))

    def _await_oldest(self) -> None:
        started_s = time.perf_counter()
        sample = self._queue.popleft().result()
        self.wait_us += round((time.perf_counter() - started_s) * 1e6)
        self._add(sample)

    def _add(self, sample: Sample) -> None:
        self.samples.append(sample)
        if self._log is not None:
            self._log(sample.render())

    def _code(self, sample: Sample, keys: Words, values: Words) -> Sample:
        sizes, comp_s, decomp_s = [], 0.0, 0.0
        tensors: tuple[tuple[Tensor, Words], ...] = (("k", keys), ("v", values))
        for tensor, words in tensors:
            stream = Stream(words, tensor)
            started_s = time.perf_counter()
            payload = self._codec.encode(stream)
            coded_s = time.perf_counter()
            sizes.append(len(payload))
            comp_s += coded_s - started_s
            if not self._settings.strict_roundtrip_check and self._settings.runtime_mode != "full":
                continue
            decoded = self._codec.decode(payload, stream.side_info())
            decomp_s += time.perf_counter() - coded_s
            if not np.array_equal(decoded, words):
                offset = int(np.flatnonzero((decoded != words).reshape(-1))[0]) * 2
                raise RoundTripError(
                    "a sample of the cache does not decode to itself",
                    where=f"layer {sample.layer}, {tensor.upper()}, position {sample.first_position}, byte {offset}",
                    came=f"{len(payload)} bytes of {self._codec.id}",
                    expected="the words that were coded, bit for bit",
                    hint="report it: the figures of this run are not to be trusted",
                )
        comp_us, decomp_us = round(comp_s * 1e6), round(decomp_s * 1e6)
        size = sum(sizes)
        return replace(sample, coded_bytes=size, coded_bytes_k=sizes[0], comp_us=comp_us, decomp_us=decomp_us)
