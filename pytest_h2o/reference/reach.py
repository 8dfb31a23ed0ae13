"""The best lossy ratio that a sweep point can come to, before anything is run. Pure.

An upper bound: of every cache length at which a plan can be made, the ratio of a plan that keeps all its tokens in one
run. Whole blocks and the protected tokens bound it as `policy.plan_keep` says.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pytest_h2o.reference.policy import RUN_BYTES, count_kept

if TYPE_CHECKING:
    from pytest_h2o.points import SweepPoint


class _Policy(NamedTuple):
    """What a plan depends on beside the length of the cache."""

    trigger_min_tokens: int
    block_tokens: int
    sink_tokens: int
    recent_tokens: int
    ratio: float


def best_lossy(points: Iterable[SweepPoint], *, token_bytes: int, context: int) -> float:
    """The largest lossy ratio that any of `points` can come to; 1 where none evicts anything.

    Points that differ in their lengths alone are looked at together, so that a large sweep costs no more than its
    policies do.

    Parameters
    ----------
    points : iterable of SweepPoint
    token_bytes : int
        Bytes of K and V of one token in one layer.
    context : int
        Most tokens that the model can hold; no cache is longer.
    """
    longest: dict[_Policy, int] = {}
    for point in points:
        policy = _policy_of(point)
        longest[policy] = max(longest.get(policy, 0), min(context, point.prompt_len + point.gen_len))
    return max((_best_of_policy(policy, last, token_bytes) for policy, last in longest.items()), default=1.0)


def _policy_of(point: SweepPoint) -> _Policy:
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
