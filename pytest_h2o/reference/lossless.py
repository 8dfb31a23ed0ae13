"""What the runtime does with the cold tokens of its cache, as the ``kv_lossless_*`` keys ask for it.

Cold are the tokens from `hot_sink_tokens` on that are not among the last `hot_recent_tokens`. In decoding, once a
layer of the scope holds `trigger_min_tokens`, samples of its cold tokens are coded one after the other, none twice, K
and V apart, with the frame ``fp16_gear_predictive_v3``. The first sample of a layer has `first_tokens`, the later ones
`step_tokens`; they are at least `update_interval` tokens apart, and taken as soon as the cold range holds them whole.

``probe``
    Layer 0 alone is sampled (for the kept tokens the first layer of the H2O range too), by the thread that decodes.
    Samples are decoded again; nothing is replaced.
``full``
    Every layer of the scope, by `async_threads` others (0: by the thread that decodes). Samples are decoded again.
``store``
    As full; but what was coded is dropped at the end of the layer's next call, overwritten with nan, and restored at
    the beginning of the one after, when its attention needs it: once a block, as in the engine. Tokens that an eviction
    moved between stay as they are.

What was decoded lies in a cache of `decode_cache_blocks` blocks, found by their coded bytes, the least recently used
one leaving first; as in the engine it outlives a repeat, so that later ones, of the same prompt, find their blocks
there. A hit costs full and probe mode no time; store mode still puts the tokens back. The strict check decodes every
sample and compares it bit for bit, whatever the cache holds.

Where `max_queue` samples are not yet coded a sample is skipped and counted (backpressure): it is tried again an
interval later. Waiting is timed: in store mode for the block that is to be dropped, and at the end of a repeat for all.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from pytest_h2o.codecs.base import SideInfo, Stream
from pytest_h2o.codecs.gear_v3 import GearV3
from pytest_h2o.errors import RoundTripError
from pytest_h2o.reference.cache import LayerCache, Watcher, Words
from pytest_h2o.reference.config import LosslessSettings
from pytest_h2o.reference.policy import Plan

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
    payloads: tuple[bytes, ...] = field(default=(), compare=False, repr=False)
    """Of K and of V."""
    sides: tuple[SideInfo, ...] = field(default=(), compare=False, repr=False)

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
    """

    def __init__(self, settings: LosslessSettings, log: Callable[[str], None] | None = None) -> None:
        self._settings, self._log = settings, log
        self._codec = GearV3(predictors_k=settings.predictors_k, predictors_v=settings.predictors_v)
        self._stores = settings.runtime_mode == "store"
        threads = 0 if settings.runtime_mode == "probe" else settings.async_threads
        self._coders = ThreadPoolExecutor(threads, "h2o-lossless") if threads else None
        self._lock = threading.Lock()
        """Held by the threads that code for the cache of decoded blocks and for the counts."""
        self._blocks: OrderedDict[tuple[bytes, ...], tuple[Words, ...]] = OrderedDict()
        self._queue: deque[Future[Sample]] = deque()
        self.cleared()

    def cleared(self) -> None:
        for job in self._queue:  # of a repeat that was broken off
            if not job.cancel():
                job.exception()
        self._queue.clear()
        self.samples: list[Sample] = []
        self._counts = dict.fromkeys(("peak", "async_peak", "skipped", "hits", "misses", "wait_us", "decomp_us"), 0)
        self._coded_to: dict[int, int] = {}
        self._decoded_tokens: dict[int, int] = {}
        self._last_sample: dict[int, int] = {}
        self._to_drop: dict[int, Future[Sample]] = {}
        """By layer: the block that is dropped at the end of its next call."""
        self._dropped: dict[int, Sample] = {}

    def finish(self) -> dict[str, float]:
        """Wait until everything that was taken is coded. The ratio is raw over coded bytes; higher is better.

        Codec time is that of the last sample, the others are sums over the samples of the repeat.
        """
        while self._queue:
            self._await(self._queue[0])
        samples, counts = self.samples, self._counts
        found: dict[str, float] = {"h2o_lossless_backpressure_skip": counts["skipped"]}
        if not samples:
            return found
        raw, coded = sum(sample.raw_bytes for sample in samples), sum(sample.coded_bytes for sample in samples)
        return found | {
            "h2o_lossless": raw / coded,
            "h2o_codec_us": samples[-1].comp_us,
            "h2o_lossless_raw_mb": raw / MIB,
            "h2o_lossless_comp_mb": coded / MIB,
            "h2o_lossless_comp_us": sum(sample.comp_us for sample in samples),
            "h2o_lossless_decomp_us": counts["decomp_us"],
            "h2o_lossless_queue_peak": counts["peak"],
            "h2o_lossless_fallback": sum(sample.fallbacks for sample in samples),
            "h2o_lossless_async_queue_peak": counts["async_peak"],
            "h2o_lossless_async_wait_us": counts["wait_us"],
            "h2o_lossless_decode_cache_hit": counts["hits"],
            "h2o_lossless_decode_cache_miss": counts["misses"],
        }

    def needed(self, layer: int, held: LayerCache) -> None:
        """Put the dropped tokens of a layer back."""
        sample = self._dropped.pop(layer, None)
        if sample is not None:
            started_s = time.perf_counter()
            held.put_back(sample.start, *self._decode(sample)[0])
            self._count(decomp_us=_microseconds_since(started_s))

    def evicted(self, layer: int, plan: Plan) -> None:
        """Tokens that were coded and are kept stay coded: count how many that are."""
        self._to_drop.pop(layer, None)
        coded_to = self._coded_to.get(layer)
        if coded_to is not None:
            self._coded_to[layer] = sum(max(0, min(length, coded_to - start)) for start, length in plan.runs)

    def decoded(self, layer: int, held: LayerCache) -> None:
        settings = self._settings
        if not settings.samples(layer):
            return
        if layer in self._to_drop:
            self._dropped[layer] = sample = self._await(self._to_drop.pop(layer))
            held.drop(sample.start, sample.start + sample.tokens)
        now = self._decoded_tokens[layer] = self._decoded_tokens.get(layer, 0) + 1
        if held.length < settings.trigger_min_tokens:
            return
        first = layer not in self._last_sample
        if not first and now - self._last_sample[layer] < settings.update_interval:
            return
        start = max(settings.hot_sink_tokens, self._coded_to.get(layer, 0))
        tokens = settings.first_tokens if layer not in self._coded_to else settings.step_tokens
        if start + tokens > held.length - settings.hot_recent_tokens:
            return
        self._last_sample[layer] = now
        if self._take(layer, held, start, tokens):
            self._coded_to[layer] = start + tokens
        else:
            self._counts["skipped"] += 1

    def _take(self, layer: int, held: LayerCache, start: int, tokens: int) -> bool:
        """Have a sample coded; False if the queue is full."""
        waiting = 1 + sum(not job.done() for job in self._queue)
        if waiting > self._settings.max_queue:
            return False
        keys, values = held.words(start, start + tokens)  # copies, since the cache goes on
        first, last = int(held.positions[start]), int(held.positions[start + tokens - 1])
        sample = Sample(layer, start, tokens, first, last + 1, keys.nbytes + values.nbytes, kv_len=held.length)
        self._counts["peak"] = max(self._counts["peak"], waiting)
        job: Future[Sample]
        if self._coders is None:
            job = Future()
            job.set_result(self._code(sample, keys, values))
        else:
            job = self._coders.submit(self._code, sample, keys, values)
            self._counts["async_peak"] = max(self._counts["async_peak"], waiting)
        self._queue.append(job)
        while self._queue and self._queue[0].done():
            self._await(self._queue[0])
        if self._stores:
            self._to_drop[layer] = job
        return True

    def _await(self, job: Future[Sample]) -> Sample:
        """The sample of a job; it and all before it leave the queue."""
        if not job.done():
            started_s = time.perf_counter()
            job.exception()
            self._counts["wait_us"] += _microseconds_since(started_s)
        while job in self._queue:
            sample = self._queue.popleft().result()
            self.samples.append(sample)
            if self._log is not None:
                self._log(sample.render())
        return job.result()

    def _code(self, sample: Sample, *words: Words) -> Sample:
        """Code K and V of a sample; where it stays in place, decode it too."""
        started_s = time.perf_counter()
        streams = (Stream(words[0], "k"), Stream(words[1], "v"))
        payloads = tuple(map(self._codec.encode, streams))
        comp_us, (size_k, size_v) = _microseconds_since(started_s), map(len, payloads)
        sides = tuple(stream.side_info() for stream in streams)
        sample = replace(sample, coded_bytes=size_k + size_v, coded_bytes_k=size_k, comp_us=comp_us)
        sample = replace(sample, payloads=payloads, sides=sides)
        strict = self._settings.strict_roundtrip_check
        if strict or not self._stores:
            started_s = time.perf_counter()
            decoded, is_hit = self._decode(sample, anew=strict)
            self._count(decomp_us=0 if is_hit else _microseconds_since(started_s))
            _compare(sample, decoded, words)
        return sample

    def _decode(self, sample: Sample, *, anew: bool = False) -> tuple[tuple[Words, ...], bool]:
        """K and V of a sample, and whether they were in the cache of decoded blocks: never if they are made `anew`."""
        with self._lock:
            found = None if anew else self._blocks.get(sample.payloads)
            if found is not None:
                self._blocks.move_to_end(sample.payloads)
                self._counts["hits"] += 1
                return found, True
        words = tuple(map(self._codec.decode, sample.payloads, sample.sides))
        with self._lock:
            self._counts["misses"] += 1
            self._blocks[sample.payloads] = words
            while len(self._blocks) > self._settings.decode_cache_blocks:
                self._blocks.popitem(last=False)
        return words, False

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, number in more.items():
                self._counts[name] += number


def _compare(sample: Sample, decoded: Sequence[Words], words: Sequence[Words]) -> None:
    for tensor, one, other, payload in zip("KV", decoded, words, sample.payloads, strict=True):
        if not np.array_equal(one, other):
            offset = int(np.flatnonzero((one != other).reshape(-1))[0]) * 2
            raise RoundTripError(
                "a sample of the cache does not decode to itself",
                where=f"layer {sample.layer}, {tensor}, position {sample.first_position}, byte {offset}",
                came=f"{len(payload)} bytes of {GearV3.id}",
                expected="the words that were coded, bit for bit",
                hint="report it: the figures of this run are not to be trusted",
            )


def _microseconds_since(started_s: float) -> int:
    return round((time.perf_counter() - started_s) * 1e6)
