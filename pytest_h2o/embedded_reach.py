"""Whether a preset can meet its lossy target on the embedded bench at all: known before anything is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_h2o.errors import H2OError

if TYPE_CHECKING:
    from pytest_h2o.bench.config import BaseConfig
    from pytest_h2o.gate.measured import Target
    from pytest_h2o.points import SweepPoint


def why_out_of_reach(base: BaseConfig, points: Sequence[SweepPoint], lossy: Target) -> str | None:
    """Why no point can meet a lossy target on the model of a base config; None if one can, or nothing is asked.

    A model that cannot be read is no reason: the bench itself says what is wrong with it when it is launched.
    """
    from pytest_h2o.reference.gguf_file import GgufFile
    from pytest_h2o.reference.reach import best_lossy

    if lossy.value is None:
        return None
    try:
        hyper = GgufFile(base.base_dir / str(base.values.get("llm_model", "llm.mnn"))).hyper
    except H2OError:
        return None
    best = best_lossy(points, token_bytes=2 * 2 * hyper.kv_heads * hyper.head_dim, context=hyper.context)
    if best >= lossy.value:
        return None
    return f"out of reach: whole blocks and protected tokens leave a lossy ratio of at most {best:.3f}"
