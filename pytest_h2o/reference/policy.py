"""What H2O eviction keeps: pure arithmetic on token counts and scores.

The idea is that of Zhang et al., "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language
Models" (arXiv 2306.14048): a few tokens gather most of the attention, so keep those, the first ones and the recent
ones. The rules here are those of the engine whose bench this one stands in for. It works in blocks of
``block_tokens`` tokens, and a plan is made for one layer at a time:

1. The blocks that hold the first ``sink_tokens`` tokens are protected, and so are those from the block of token
   ``kv_len - recent_tokens`` on. *Floor* is the protected tokens over ``kv_len``.
2. *Target* is ``ceil(ratio * kv_len)`` tokens, at least 1 and at least the protected ones.
3. What the target leaves beyond the protected tokens is filled with whole blocks: *quantised* is the protected tokens
   plus that many blocks, at most ``kv_len``. Best-scored unprotected blocks are taken until it is reached.
4. Where the protected tokens alone meet the target, nothing is evicted: the plan is *floor-dominated*.

Checked against the recorded sweep in ``fixtures/recordings``, whose bench does not clear its cache between repeats:
with ``kv_len`` 1287, 1927 and 2567 at the three measured repeats, mean and deviation of floor, target and quantised
are those of six of its nine distinct rows, to the digit that is printed. The other three have another ``kv_len`` in the
first measured repeat, and no other single change of a length gives them: 935 with blocks of 8 and target 3.0, 919
with blocks of 16 and targets 3.2 and 3.4. These are 1287 less 44 blocks of 8 and less 23 blocks of 16: the last plan of
that repeat was made on a cache that had been evicted before. The warnings of that bench say so too: its layer
cursor drifts over caches of several lengths, and in the first of those rows the last warning before the repeat ends
tells of 934 tokens where the plan was for 1286. So the rule holds for all nine; what differs is whose turn it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pytest_h2o.inputs.presets import Point


Scores = NDArray[np.float64]
Counts = NDArray[np.int64]
Ranking = Literal["h2o", "recent", "random"]
RUN_BYTES = 8
"""What a kept run costs beside its tokens: its start and its length, 4 bytes each."""


@dataclass(frozen=True)
class PolicySettings:
    """The numbers of the policy.

    Attributes
    ----------
    block_tokens : int
        At least 1.
    sink_tokens, recent_tokens : int
        At least 0.
    ratio : float
        Share of the tokens to keep, 0 < ratio <= 1: the keep ratio in static mode, one over the target lossy ratio in
        adaptive mode.
    ema_alpha : float
        Weight of the past in the score, 0 to 1.
    update_interval : int
        Attention calls from a plan to the next one, at least 1.
    trigger_min_tokens : int
        No plan below this length.
    layer_start, layer_end : int
        First and last layer of the range; both are in it.
    """

    block_tokens: int
    sink_tokens: int
    recent_tokens: int
    ratio: float
    ema_alpha: float
    update_interval: int
    trigger_min_tokens: int
    layer_start: int
    layer_end: int

    def covers(self, layer: int) -> bool:
        return self.layer_start <= layer <= self.layer_end


@dataclass(frozen=True)
class KeepTarget:
    """How many of `kv_len` tokens a plan keeps. Ratios are fractions of `kv_len`."""

    kv_len: int
    sink_blocks: int
    """Blocks from 0 that are protected."""
    recent_block: int
    """From this block on all are protected."""
    protected_tokens: int
    target_tokens: int
    quantized_tokens: int

    @property
    def floor_keep(self) -> float:
        return self.protected_tokens / self.kv_len

    @property
    def target_keep(self) -> float:
        return self.target_tokens / self.kv_len

    @property
    def quantized_keep(self) -> float:
        return self.quantized_tokens / self.kv_len

    @property
    def floor_dominated(self) -> bool:
        return self.target_tokens <= self.protected_tokens


@dataclass(frozen=True)
class Plan:
    """Which tokens of one layer stay.

    Attributes
    ----------
    target : KeepTarget
    blocks : tuple of int
        Kept blocks, ascending.
    runs : tuple of (int, int)
        Start and length of each run of kept tokens, ascending, no two touching.
    """

    target: KeepTarget
    blocks: tuple[int, ...]
    runs: tuple[tuple[int, int], ...]

    @property
    def kept_tokens(self) -> int:
        return sum(length for _, length in self.runs)

    @property
    def keep(self) -> float:
        return self.kept_tokens / self.target.kv_len

    def lossy_ratio(self, token_bytes: int) -> float:
        """Raw bytes before over raw bytes after and 8 a kept run; higher is better."""
        after = self.kept_tokens * token_bytes + RUN_BYTES * len(self.runs)
        return self.target.kv_len * token_bytes / after


def plan_keep(kv_len: int, *, block_tokens: int, sink_tokens: int, recent_tokens: int, ratio: float) -> KeepTarget:
    """Count what a plan for `kv_len` tokens (at least 1) protects, aims at and keeps."""
    counts = count_kept(
        np.array([kv_len]),
        block_tokens=block_tokens,
        sink_tokens=sink_tokens,
        recent_tokens=recent_tokens,
        ratio=ratio,
    )
    return KeepTarget(kv_len, *(int(count[0]) for count in counts))


class KeepCounts(NamedTuple):
    """What plans of several lengths protect, aim at and keep: the fields of `KeepTarget`, each int64 ``[lengths]``."""

    sink_blocks: Counts
    recent_block: Counts
    protected_tokens: Counts
    target_tokens: Counts
    quantized_tokens: Counts


def count_kept(kv_len: Counts, *, block_tokens: int, sink_tokens: int, recent_tokens: int, ratio: float) -> KeepCounts:
    """The counts of plans for each length of `kv_len`, int64 ``[lengths]``, every one at least 1."""
    blocks = -(-kv_len // block_tokens)
    sink_blocks = np.minimum(blocks, -(-sink_tokens // block_tokens))
    recent_block = np.minimum(blocks, np.maximum(0, kv_len - recent_tokens) // block_tokens)
    apart = sink_blocks * block_tokens + kv_len - recent_block * block_tokens
    protected = np.where(sink_blocks >= recent_block, kv_len, apart)
    aim = np.minimum(kv_len, np.ceil(ratio * kv_len).astype(np.int64))
    target = np.maximum(1, np.maximum(protected, aim))
    filled = -(-(target - protected) // block_tokens) * block_tokens
    return KeepCounts(sink_blocks, recent_block, protected, target, np.minimum(kv_len, protected + filled))


def choose_blocks(target: KeepTarget, scores: Scores, block_tokens: int) -> Plan:
    """Fill a target with the best-scored blocks; of two that score alike the earlier one.

    Parameters
    ----------
    target : KeepTarget
        Not floor-dominated, or else everything is kept.
    scores : numpy.ndarray of float64, ``[blocks]``
        Higher is kept first.
    block_tokens : int
    """
    if target.floor_dominated:
        return Plan(target, tuple(range(len(scores))), ((0, target.kv_len),))
    keep = np.zeros(len(scores), dtype=bool)
    keep[: target.sink_blocks] = True
    keep[target.recent_block :] = True
    kept = target.protected_tokens
    candidates = np.flatnonzero(~keep)
    for block in candidates[np.argsort(-scores[candidates], kind="stable")]:
        if kept >= target.quantized_tokens:
            break
        keep[block] = True
        kept += min(block_tokens, target.kv_len - int(block) * block_tokens)
    blocks = tuple(np.flatnonzero(keep).tolist())
    return Plan(target, blocks, join_runs(blocks, block_tokens, target.kv_len))


def join_runs(blocks: Sequence[int], block_tokens: int, kv_len: int) -> tuple[tuple[int, int], ...]:
    """Runs of tokens, (start, length), that ascending `blocks` cover."""
    runs: list[tuple[int, int]] = []
    for block in blocks:
        start = block * block_tokens
        length = min(block_tokens, kv_len - start)
        if runs and sum(runs[-1]) == start:
            runs[-1] = (runs[-1][0], runs[-1][1] + length)
        else:
            runs.append((start, length))
    return tuple(runs)


def update_scores(scores: Scores, token_mass: NDArray[np.floating], block_tokens: int, alpha: float) -> Scores:
    """Blend the attention of one decoded token into the scores of a layer's blocks.

    Parameters
    ----------
    scores : numpy.ndarray of float64, ``[blocks before]``
        Cut or extended with zeros to the blocks that there are now.
    token_mass : numpy.ndarray, ``[kv_len]``
        Attention weight of each held token, mean over heads and queries: it adds up to 1.
    block_tokens : int
    alpha : float
        Weight of the old score.
    """
    starts = np.arange(0, len(token_mass), block_tokens)
    updated = np.add.reduceat(token_mass, starts).astype(np.float64) * (1.0 - alpha)
    shared = min(len(updated), len(scores))
    updated[:shared] += alpha * scores[:shared]
    return updated


class _Policy(NamedTuple):
    """What a plan depends on beside the length of the cache."""

    trigger_min_tokens: int
    block_tokens: int
    sink_tokens: int
    recent_tokens: int
    ratio: float


def best_lossy(points: Iterable[Point], *, token_bytes: int, context: int) -> float:
    """The largest lossy ratio that any of `points` can come to; 1 where none evicts anything.

    Points that differ in their lengths alone are looked at together, so that a large sweep costs no more than its
    policies do.
    """
    longest: dict[_Policy, int] = {}
    for point in points:
        policy = _policy_of(point)
        longest[policy] = max(longest.get(policy, 0), min(context, point.prompt_len + point.gen_len))
    return max((_best_of_policy(policy, last, token_bytes) for policy, last in longest.items()), default=1.0)


def _policy_of(point: Point) -> _Policy:
    adaptive = point.h2o_target_mode == "adaptive"
    return _Policy(
        point.trigger_min_tokens,
        point.block_tokens,
        point.sink_tokens,
        point.recent_tokens,
        1.0 / point.h2o_target_lossy_ratio if adaptive else point.keep_ratio,
    )


def _best_of_policy(policy: _Policy, last: int, token_bytes: int) -> float:
    """The largest ratio at any length from the trigger to `last` tokens."""
    lengths = np.arange(max(1, policy.trigger_min_tokens), last + 1)
    counts = count_kept(
        lengths,
        block_tokens=policy.block_tokens,
        sink_tokens=policy.sink_tokens,
        recent_tokens=policy.recent_tokens,
        ratio=policy.ratio,
    )
    evicts = counts.target_tokens > counts.protected_tokens
    ratios = lengths * token_bytes / (counts.quantized_tokens * token_bytes + RUN_BYTES)
    return float(np.max(ratios, initial=1.0, where=evicts))
