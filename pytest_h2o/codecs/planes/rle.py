"""The byte run-length code of the runtime's lossless frames.

A control byte c, then: 0 to 127, c + 1 literal bytes; 128 to 255, one byte that is repeated (c & 127) + 4 times.
Runs of 4 to 131 bytes are coded as runs, greedily from the front; what is shorter is literal, and neighbouring
literals share controls of at most 128.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.planes.byte_planes import Plane
from pytest_h2o.errors import CodecError

MIN_RUN, MAX_RUN, MAX_LITERAL = 4, 131, 128

_Index = NDArray[np.int64]


@dataclass(frozen=True)
class RlePlan:
    """The controls that a plane needs, in order: where each starts, how many bytes it covers, if it is a run."""

    start: _Index
    length: _Index
    is_run: NDArray[np.bool_]

    @property
    def encoded_bytes(self) -> int:
        """Length of the code: 2 bytes a run, 1 + its bytes a literal."""
        return int(np.where(self.is_run, 2, 1 + self.length).sum())


def plan_rle(plane: Plane) -> RlePlan:
    """Find the controls of `plane`, flat."""
    run_start, run_length = _split(*_long_runs(plane), MAX_RUN)
    long = run_length >= MIN_RUN
    run_start, run_length = run_start[long], run_length[long]
    gap_start = np.concatenate(([0], run_start + run_length))
    gap_length = np.concatenate((run_start, [plane.size])) - gap_start
    literal_start, literal_length = _split(gap_start, gap_length, MAX_LITERAL)
    start = np.concatenate((run_start, literal_start))
    order = np.argsort(start, kind="stable")
    return RlePlan(
        start=start[order],
        length=np.concatenate((run_length, literal_length))[order],
        is_run=np.repeat([True, False], (run_start.size, literal_start.size))[order],
    )


def least_rle_bytes(plane: Plane) -> int:
    """A bound that `RlePlan.encoded_bytes` of `plane` is never below, at a tenth of the cost of a plan.

    A run of L bytes has L - 3 places where `MIN_RUN` equal bytes start: it covers at most 4 bytes for each of them, and
    its code saves at most 2. What is not covered is literal, 128 bytes to a control.
    """
    same = plane[1:] == plane[:-1]
    starts = int(np.count_nonzero(same[:-2] & same[1:-1] & same[2:]))
    literal_bytes = max(0, plane.size - MIN_RUN * starts)
    return plane.size - 2 * starts - (-literal_bytes // MAX_LITERAL)


def encode_rle(plane: Plane, plan: RlePlan) -> bytes:
    """Code `plane` with its own `plan`."""
    size = np.where(plan.is_run, 2, 1 + plan.length)
    at = np.cumsum(size) - size
    out = np.empty(plan.encoded_bytes, dtype=np.uint8)
    out[at] = np.where(plan.is_run, 128 + plan.length - MIN_RUN, plan.length - 1)
    out[at[plan.is_run] + 1] = plane[plan.start[plan.is_run]]
    start, length = plan.start[~plan.is_run], plan.length[~plan.is_run]
    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    out[np.repeat(at[~plan.is_run] + 1, length) + within] = plane[np.repeat(start, length) + within]
    return out.tobytes()


def decode_rle(code: bytes | memoryview, size: int) -> bytes:
    """The `size` bytes that `code` stands for.

    Raises
    ------
    CodecError
        The code ends within a control, or gives fewer or more bytes; it is left as soon as it gives more.
    """
    code = bytes(code)
    out = bytearray()
    at = 0
    while at < len(code):
        control = code[at]
        if control < 128:
            out += code[at + 1 : at + 2 + control]
            at += 2 + control
        else:
            out += code[at + 1 : at + 2] * (control - 128 + MIN_RUN)
            at += 2
        if len(out) > size or at > len(code):
            break
    if len(out) != size or at != len(code):
        raise CodecError("a run-length code does not fit its plane", where=f"byte {at}", expected=f"{size} bytes")
    return bytes(out)


def _long_runs(plane: Plane) -> tuple[_Index, _Index]:
    """Start and length of each maximal run of one value that has at least `MIN_RUN` bytes."""
    if plane.size < MIN_RUN:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    same = plane[1:] == plane[:-1]
    inside = np.zeros(plane.size - MIN_RUN + 3, dtype=np.int8)
    inside[1:-1] = same[:-2] & same[1:-1] & same[2:]  # a run of MIN_RUN starts here
    edge = np.diff(inside)
    start, end = np.flatnonzero(edge == 1), np.flatnonzero(edge == -1)
    return start, end - start + MIN_RUN - 1


def _split(start: _Index, length: _Index, most: int) -> tuple[_Index, _Index]:
    """Cut each span into pieces of `most`, the last one shorter; empty spans give no piece."""
    pieces = -(-length // most)
    within = (np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * most
    return np.repeat(start, pieces) + within, np.minimum(np.repeat(length, pieces) - within, most)
