"""Streams are checked where they are made."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_h2o.codecs.base import Stream
from pytest_h2o.errors import CodecError


@pytest.mark.parametrize(
    ("words", "came"),
    [
        (np.zeros((2, 3, 4), np.int16), "<i2 [2, 3, 4]"),
        (np.zeros((2, 3, 4), np.float16), "<f2 [2, 3, 4]"),
        (np.zeros((2, 3, 4), ">u2"), ">u2 [2, 3, 4]"),
        (np.zeros((2, 3), np.uint16), "<u2 [2, 3]"),
    ],
)
def test_what_is_no_stream_is_refused(words: np.ndarray, came: str) -> None:
    with pytest.raises(CodecError) as caught:
        Stream(words, "k")
    assert str(caught.value) == (
        f"these words are no fp16 stream\n  came: {came}\n"
        "  expected: uint16 in native byte order, [seq_len, kv_heads, head_dim]\n"
        "  next: view fp16 data as uint16: array.view(numpy.uint16)"
    )


@pytest.mark.parametrize(("positions", "came"), [(np.arange(3), "<i8 [3]"), (np.arange(2, dtype=np.int32), "<i4 [2]")])
def test_positions_that_do_not_fit_are_refused(positions: np.ndarray, came: str) -> None:
    with pytest.raises(CodecError) as caught:
        Stream(np.zeros((2, 3, 4), np.uint16), "k", positions)
    assert str(caught.value) == (
        f"positions do not fit their stream\n  came: {came}\n  expected: int64 [2], one a token"
    )


def test_a_stream_knows_its_size() -> None:
    stream = Stream(np.zeros((2, 3, 4), np.uint16), "v")
    assert (stream.raw_bytes, stream.side_info().raw_bytes, stream.side_info().words) == (48, 48, 24)
