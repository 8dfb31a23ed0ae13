"""Real prompts said with H2O off and on: pairs of launches by prompt and by length, and what they say. Pure.

The drop in decode speed is judged as that of the sweep (`pytest_h2o.gate.decode`), on all pairs together and on those
of each bucket of prompt length. A pair whose sides decoded unlike numbers of tokens is excluded: the model ended its
text earlier on one side, and speeds over other contexts cannot be compared.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pytest_h2o.bench.demo import DemoLaunch, TextPair
from pytest_h2o.bench.rows import COLUMN_DECIMALS, Row
from pytest_h2o.errors import BenchError
from pytest_h2o.gate.decode import DecodeVerdict, Order, Pair, TimedLaunch, judge, plan_order
from pytest_h2o.gate.metrics import METRICS
from pytest_h2o.gate.sequential import LOOKS_AT_ALL

BUCKETS = (128, 512, 2048, 8192, 32_768, 131_072)
"""Lengths of prompts, in tokens; a prompt is of the nearest one, by ratio."""


def bucket_of(prompt_tokens: int) -> int:
    return min(BUCKETS, key=lambda length: abs(math.log(prompt_tokens / length)))


@dataclass(frozen=True)
class DemoPair:
    """Two launches on one prompt, H2O off and on."""

    prompt: str
    order: Order
    off: DemoLaunch
    on: DemoLaunch
    text: TextPair | None = None

    def check(self, trigger_tokens: int) -> None:
        """BenchError where H2O did something with H2O off, or nothing on a prompt that reaches its trigger."""
        if self.off.evicted_tokens or (self.off.told or {}).get("h2o_lossy", 1.0) != 1.0:
            raise BenchError(
                "H2O was on in the launch that was to have it off",
                where=self.off.name,
                came=f"{self.off.evicted_tokens} tokens evicted, {self.off.told}",
                expected="no token evicted",
                hint="the build may not read kv_h2o_enable of its config",
            )
        if self.off.prompt_tokens != self.on.prompt_tokens:
            raise BenchError(
                f"the prompt {self.prompt} is another with H2O on than with it off",
                where=self.on.name,
                came=f"{self.on.prompt_tokens:,} tokens with H2O on, {self.off.prompt_tokens:,} with it off",
                expected="as many: one text and one tokenizer",
                hint="neither speeds nor texts can be compared; look at what both launches printed",
            )
        if self.on.evicted_tokens == 0 and self.on.prompt_tokens >= trigger_tokens:
            raise BenchError(
                f"H2O did nothing on the prompt {self.prompt}",
                where=self.on.name,
                came=f"no token evicted of {self.on.prompt_tokens:,} and {self.on.decode_tokens:,} decoded",
                expected=f"evictions: the prompt reaches the trigger of {trigger_tokens:,} tokens",
                hint="look at the kv_h2o_* keys of its config; where sink and recent tokens alone meet the target "
                "nothing is evicted",
            )

    @property
    def timed(self) -> Pair:
        """As the decode verdict takes it."""
        off, on = (
            TimedLaunch(side.name, side.decode_tok_per_s, side.elapsed_s, side.disturbance)
            for side in (self.off, self.on)
        )
        unlike = self.off.decode_tokens != self.on.decode_tokens
        counts = f"{self.off.decode_tokens} tokens decoded with H2O off, {self.on.decode_tokens} with H2O on"
        return Pair(self.order, off, on, f"{self.prompt}: {counts}" if unlike else None)


@dataclass(frozen=True)
class DemoComparison:
    """All pairs on the prompts of one row, in launch order.

    Attributes
    ----------
    candidate : str
        Run id of the row whose configuration it is.
    trigger_tokens : int
        Shortest cache that is evicted from, tokens.
    seed : int
        Of the order of launches.
    rounds : int
        Pairs of each prompt that were planned; the error of the verdicts is spread over them.
    """

    candidate: str
    trigger_tokens: int
    seed: int
    rounds: int
    pairs: tuple[DemoPair, ...]
    version: Literal[1] = 1

    @cached_property
    def prompts(self) -> dict[str, int]:
        """Prompts and their bucket, shortest first."""
        tokens = {pair.prompt: pair.on.prompt_tokens for pair in self.pairs}
        return {prompt: bucket_of(tokens[prompt]) for prompt in sorted(tokens, key=lambda prompt: tokens[prompt])}

    @property
    def texts(self) -> tuple[TextPair, ...]:
        """What was said of each prompt the first time, shortest prompt first; a greedy sampler says it again."""
        first = {pair.prompt: pair.text for pair in reversed(self.pairs)}
        return tuple(text for prompt in self.prompts if (text := first[prompt]) is not None)

    @property
    def buckets(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self.prompts.values()))

    def judge(self, target: float, of: int | str | None = None) -> DecodeVerdict:
        """The verdict on all pairs, those of a bucket or those of a prompt, for a largest allowed drop, a fraction."""
        prompts = [prompt for prompt, length in self.prompts.items() if of in (None, length, prompt)]
        pairs = [pair.timed for pair in self.pairs if pair.prompt in prompts]
        return judge(pairs, target, planned_pairs=self.rounds * len(prompts), rule=LOOKS_AT_ALL)

    def is_clear(self, total: float | None, bucket: float | None) -> bool:
        """Whether more rounds would change no verdict on these targets; False where there are none."""
        verdicts = [] if total is None else [self.judge(total)]
        verdicts += [] if bucket is None else [self.judge(bucket, length) for length in self.buckets]
        return bool(verdicts) and all(verdict.outcome != "inconclusive" for verdict in verdicts)

    @property
    def similarity(self) -> float:
        """Mean over the prompts, 0 to 1; higher is better."""
        return sum(pair.similarity for pair in self.texts) / len(self.texts)

    def rows(self) -> Iterator[Row]:
        """What H2O did in each launch with it on that reaches the trigger, by the columns of llm_bench."""
        for launch in (pair.on for pair in self.pairs):
            if launch.told is not None and launch.prompt_tokens >= self.trigger_tokens:
                cells = {name: f"{launch.told[name]:.6f}" for name in COLUMN_DECIMALS if name in launch.told}
                yield Row(cells, launch.name, run_id=launch.name)

    def describe(self, bucket: int, target: float) -> Iterator[str]:
        """A line on a bucket, and where it has several prompts one on each of them."""
        tokens = {pair.prompt: pair.on.prompt_tokens for pair in self.pairs if self.prompts[pair.prompt] == bucket}
        said = {prompt: f"{prompt} ({count:,} tokens)" for prompt, count in tokens.items()}
        several = f"{len(said)} prompts" if len(said) > 1 else next(iter(said.values()))
        yield self._describe(f"about {bucket:,} tokens, {several}", list(said), self.judge(target, bucket))
        for prompt in self.prompts if len(said) > 1 else ():
            if prompt in said:
                yield self._describe(said[prompt], [prompt], self.judge(target, prompt))

    def _describe(self, named: str, prompts: Sequence[str], verdict: DecodeVerdict) -> str:
        pairs = [pair for pair in self.pairs if pair.prompt in prompts]

        def median(of: Callable[[DemoLaunch], float]) -> str:
            sides = [pair.off for pair in pairs], [pair.on for pair in pairs]
            return " and ".join(f"{statistics.median(map(of, side)):.2f}" for side in sides)

        parts = [
            _describe_drop(verdict),
            f"decode {median(lambda side: side.decode_tok_per_s)} tok/s with H2O off and on",
            f"prefill {median(lambda side: side.prefill_s)} s",
            self._describe_evictions([pair.on for pair in pairs]),
        ]
        long = [pair.on.told for pair in pairs if pair.on.told and pair.on.prompt_tokens >= self.trigger_tokens]
        for word, name, decimals, unit in _SHOWN if long else ():
            values = [told[name] for told in long if name in told]
            if values:
                worst = min(values) if METRICS[name].higher_is_better else max(values)
                parts.append(f"{word} {worst:,.{decimals}f}{unit}")
        return f"{named}: {', '.join(parts)}"

    def _describe_evictions(self, launches: Sequence[DemoLaunch]) -> str:
        told = {launch.evicted_tokens for launch in launches}
        if None in told:
            return "evictions not told by this build"
        evicted = sorted(tokens for tokens in told if tokens)
        if not evicted:
            return f"below the trigger of {self.trigger_tokens:,} tokens, so nothing is evicted"
        return f"{' to '.join(f'{tokens:,}' for tokens in dict.fromkeys((evicted[0], evicted[-1])))} tokens evicted"

    @property
    def disturbed(self) -> str | None:
        """How many launches others disturbed, and the first of them; None where nothing is known to have."""
        launches = [side for pair in self.pairs for side in (pair.off, pair.on)]
        found = [launch for launch in launches if launch.disturbance is not None]
        if not found:
            return None
        return f"{len(found)} of {len(launches)} launches were disturbed, first {found[0].name}: {found[0].disturbance}"


_SHOWN = (
    ("lossy ratio", "h2o_lossy", 3, ""),
    ("lossless ratio", "h2o_lossless", 3, ""),
    ("restore", "h2o_lossless_decomp_us", 0, " us"),
    ("fallbacks", "h2o_lossless_fallback", 0, ""),
    ("cache hits", "h2o_lossless_decode_cache_hit", 0, ""),
    ("cache misses", "h2o_lossless_decode_cache_miss", 0, ""),
)
"""Columns that a line on prompts shows, each the worst of its launches: a word, the column, decimals and unit."""


def _describe_drop(verdict: DecodeVerdict) -> str:
    if verdict.drop is None:
        return "no pair could be compared"
    metric, basis = METRICS["demo_bucket_drop"], f"{verdict.pairs} pair{'s' * (verdict.pairs != 1)}"
    interval = metric.render_interval(verdict.low, verdict.high, basis)
    return f"decode slow-down {metric.render(verdict.drop)} {interval}"


def plan_prompts(prompts: Sequence[str], rounds: int, seed: int) -> Iterator[list[tuple[str, Order]]]:
    """For each round the prompts in a shuffled order, and which side of each is launched first.

    Of two rounds each side of a prompt goes first in one, see `pytest_h2o.gate.decode.plan_order`.
    """
    rng = random.Random(seed)
    orders = {prompt: plan_order(rounds, seed + number) for number, prompt in enumerate(prompts)}
    for number in range(rounds):
        yield [(prompt, orders[prompt][number]) for prompt in sorted(prompts, key=lambda _: rng.random())]
