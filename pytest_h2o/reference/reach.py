"""The best lossy ratio that a sweep point can come to, before anything is run. Pure.

An upper bound: of every cache length at which a plan can be made, the ratio of a plan that keeps all its tokens in one
run. Whole blocks and the protected tokens bound it as `policy.plan_keep` says.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pytest_h2o.reference.policy import RUN_BYTES, KeepTarget, plan_keep

if TYPE_CHECKING:
    from pytest_h2o.points import SweepPoint


def best_lossy(points: Iterable[SweepPoint], token_bytes: int) -> float:
    """The largest lossy ratio that any of `points` can come to; 1 where none evicts anything.

    Parameters
    ----------
    points : iterable of SweepPoint
    token_bytes : int
        Bytes of K and V of one token in one layer.
    """
    return max((_best_of_point(point, token_bytes) for point in points), default=1.0)


def _best_of_point(point: SweepPoint, token_bytes: int) -> float:
    lengths = range(max(1, point.trigger_min_tokens), point.prompt_len + point.gen_len + 1)
    return max((_ratio(_target(point, kv_len), token_bytes) for kv_len in lengths), default=1.0)


def _target(point: SweepPoint, kv_len: int) -> KeepTarget:
    adaptive = point.h2o_target_mode == "adaptive"
    return plan_keep(
        kv_len,
        block_tokens=point.block_tokens,
        sink_tokens=point.sink_tokens,
        recent_tokens=point.recent_tokens,
        ratio=1.0 / point.h2o_target_lossy_ratio if adaptive else point.keep_ratio,
    )


def _ratio(target: KeepTarget, token_bytes: int) -> float:
    if target.floor_dominated:
        return 1.0  # nothing is evicted
    return target.kv_len * token_bytes / (target.quantized_tokens * token_bytes + RUN_BYTES)
