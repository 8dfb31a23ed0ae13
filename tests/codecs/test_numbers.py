"""Varints, zigzag and runs of positions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pytest_h2o.codecs.position_runs import decode_positions, encode_positions
from pytest_h2o.codecs.varint import ByteReader, encode_varint, unzigzag, zigzag
from pytest_h2o.errors import CodecError

positions = hnp.arrays(np.int64, st.integers(0, 40), elements=st.integers(-(1 << 63), (1 << 63) - 1)) | st.lists(
    st.tuples(st.integers(-5, 50), st.integers(1, 9)), max_size=8
).map(lambda runs: np.array([start + i for start, length in runs for i in range(length)], np.int64))


@settings(max_examples=200, deadline=None)
@given(positions=positions)
def test_positions_come_back(positions: np.ndarray) -> None:
    reader = ByteReader(encode_positions(positions))
    assert np.array_equal(decode_positions(reader, len(positions)), positions)
    assert reader.left == 0


def test_positions_of_a_sequence_are_one_run() -> None:
    assert encode_positions(np.arange(100, 292)) == bytes([1]) + encode_varint(200) + encode_varint(192)
    assert encode_positions(np.array([0, 1, 2, 0, 1])) == bytes([2, 0, 3, 5, 2])


@given(value=st.integers(0, (1 << 64) - 1))
def test_varints_come_back(value: int) -> None:
    encoded = encode_varint(value)
    assert len(encoded) == max(1, -(-value.bit_length() // 7))
    assert ByteReader(encoded).read_varint("it") == value


@given(value=st.integers(-(1 << 63), (1 << 63) - 1))
def test_zigzag_comes_back(value: int) -> None:
    assert unzigzag(zigzag(value)) == value
    assert 0 <= zigzag(value) < 1 << 64


@pytest.mark.parametrize("encoded", ["", "80", "8000", "ffffffffffffffffff02", "ff" * 11])
def test_a_varint_that_is_none_is_refused(encoded: str) -> None:
    with pytest.raises(CodecError, match="it is"):
        ByteReader(bytes.fromhex(encoded)).read_varint("it")


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_what_is_no_varint_is_not_written(value: int) -> None:
    with pytest.raises(CodecError, match="a number does not fit a varint"):
        encode_varint(value)
