"""Can the two sides of a pair be compared: did both decode the same thing in the same way? Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_h2o.bench.result import PointResult

_SAME = (
    ("prompt_len", "prompt length"),
    ("gen_len", "generated length"),
    ("backend", "backend"),
    ("threads", "number of threads"),
    ("model", "model"),
)
CONTEXT_TOLERANCE = 0.01
"""Contexts are alike if they differ by at most this share: the last warning of a run need not name the last token."""


def seen_context(result: PointResult) -> int | None:
    """The longest context that a run decoded, in tokens: prompt + generated length, or more where a warning says so.

    A cache that is not cleared between repeats goes on growing; the engine's warnings then name a ``kv_len`` above
    prompt + generated length. None where the row has no lengths.
    """
    row = result.row
    if row.prompt_len is None or row.gen_len is None:
        return None
    named = result.output.max_kv_len if result.output is not None else None
    return max(row.prompt_len + row.gen_len, named or 0)


def why_unlike(baseline: PointResult, candidate: PointResult) -> str | None:
    """Say why the decode speeds of two runs cannot be compared; None if nothing speaks against it."""
    for name, title in _SAME:
        a, b = getattr(baseline.row, name), getattr(candidate.row, name)
        if a != b:
            return f"another {title}: baseline {a}, candidate {b}"
    a, b = seen_context(baseline), seen_context(candidate)
    if a is None or b is None:
        return "a row has no prompt or generated length, so nothing tells what context it decoded"
    if abs(a - b) <= CONTEXT_TOLERANCE * min(a, b):
        return None
    longer, result = ("baseline", baseline) if a > b else ("candidate", candidate)
    lengths = (result.row.prompt_len or 0) + (result.row.gen_len or 0)
    return (
        f"unlike contexts: warnings of the {longer} show a kv_len of {max(a, b)}, above prompt + gen = {lengths}, "
        f"so it decoded a longer context"
    )
