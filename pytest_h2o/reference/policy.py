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

A recorded sweep of the engine comes out to the printed digit: see docs/reference-bench.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.reference.config import PolicySettings

if TYPE_CHECKING:
    from pytest_h2o.inputs.presets import Point

Scores = NDArray[np.float64]
Counts = NDArray[np.int64]
RUN_BYTES = 8
"""What a kept run costs beside its tokens: its start and its length, 4 bytes each."""


class KeepTarget(NamedTuple):
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


class Plan(NamedTuple):
    """Which tokens of one layer stay."""

    target: KeepTarget
    blocks: tuple[int, ...]
    """Kept blocks, ascending."""
    runs: tuple[tuple[int, int], ...]
    """Start and length of each run of kept tokens, ascending, no two touching."""

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


def plan_keep(kv_len: int, policy: PolicySettings) -> KeepTarget:
    """Count what a plan for `kv_len` tokens (at least 1) protects, aims at and keeps."""
    return KeepTarget(kv_len, *(int(count[0]) for count in count_kept(np.array([kv_len]), policy)))


def count_kept(kv_len: Counts, policy: PolicySettings) -> tuple[Counts, Counts, Counts, Counts, Counts]:
    """The fields of `KeepTarget` for each length of `kv_len`, int64 ``[lengths]``, every one at least 1."""
    block = policy.block_tokens
    blocks = -(-kv_len // block)
    sink_blocks = np.minimum(blocks, -(-policy.sink_tokens // block))
    recent_block = np.minimum(blocks, np.maximum(0, kv_len - policy.recent_tokens) // block)
    apart = sink_blocks * block + kv_len - recent_block * block
    protected = np.where(sink_blocks >= recent_block, kv_len, apart)
    aim = np.minimum(kv_len, np.ceil(policy.ratio * kv_len).astype(np.int64))
    target = np.maximum(1, np.maximum(protected, aim))
    filled = -(-(target - protected) // block) * block
    return sink_blocks, recent_block, protected, target, np.minimum(kv_len, protected + filled)


def choose_blocks(target: KeepTarget, scores: Scores, block_tokens: int) -> Plan:
    """Fill a target with the best-scored blocks (scores ``[blocks]``); of two that score alike the earlier one.

    A floor-dominated target keeps everything.
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


class Reach(NamedTuple):
    """The largest lossy ratio that a point can come to, 1 where it evicts nothing, and what bounds it."""

    lossy: float
    aim: float
    """What it would be with blocks of one token and nothing protected."""
    bound: str = ""

    def render(self, target: float) -> str:
        """``at most 2.857 by the ratio that it aims at``, of one that is below `target`."""
        return f"at most {self.lossy:.3f} by {'the ratio that it aims at' if self.aim < target else self.bound}"


_MOST_TOKENS = 1 << 20


def lossy_reach(
    points: Sequence[Point], longest: Callable[[Point], int], *, token_bytes: int | None = None
) -> list[Reach]:
    """What each of `points` can come to while its cache holds at most `longest` tokens.

    `token_bytes` are those of K and V of one token and layer. None: of another engine they are not known, nor whether
    it evicts where the protected tokens alone meet its target (the first ones did): the most that it may come to.

    Points that differ in their lengths alone are looked at together, so that a large sweep costs no more than its
    policies do. In a cache of more than a million tokens a point is taken to reach what it aims at.
    """
    asked = [(_policy_of(point), longest(point)) for point in points]
    most: dict[PolicySettings, int] = {}
    for policy, length in asked:
        most[policy] = max(most.get(policy, 0), min(length, _MOST_TOKENS))
    found = {policy: _best_so_far(policy, last, token_bytes) for policy, last in most.items()}
    reaches = []
    for policy, length in asked:
        ratios, floored = found[policy]
        aim, place = 1.0 / policy.ratio, length - max(1, policy.trigger_min_tokens)
        if length > _MOST_TOKENS:
            reaches.append(Reach(aim, aim))
        elif place < 0:
            reaches.append(Reach(1.0, aim, f"a trigger of {policy.trigger_min_tokens:,} tokens"))
        else:
            lossy = float(ratios[place])
            is_floor = lossy <= 1.0 or bool(floored[np.searchsorted(ratios, lossy)])
            reaches.append(Reach(lossy, aim, "sink and recent tokens" if is_floor else "block quantisation"))
    return reaches


def _policy_of(point: Point) -> PolicySettings:
    adaptive = point.h2o_target_mode == "adaptive"
    return PolicySettings(
        block_tokens=point.block_tokens,
        sink_tokens=point.sink_tokens,
        recent_tokens=point.recent_tokens,
        ratio=1.0 / point.h2o_target_lossy_ratio if adaptive else point.keep_ratio,
        trigger_min_tokens=point.trigger_min_tokens,
    )


def _best_so_far(
    policy: PolicySettings, last: int, token_bytes: int | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """For each length from the trigger to `last`: the largest ratio up to it, and whether its own is of the floor."""
    lengths = np.arange(max(1, policy.trigger_min_tokens), last + 1)
    *_, protected, target, quantized = count_kept(lengths, policy)
    floored = target <= protected
    if token_bytes is None:
        ratios = lengths / quantized
    else:
        ratios = np.where(floored, 1.0, lengths * token_bytes / (quantized * token_bytes + RUN_BYTES))
    return np.maximum.accumulate(np.maximum(1.0, ratios)), floored
