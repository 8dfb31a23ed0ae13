"""Varints and runs of positions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pytest_h2o.codecs.wire import ByteReader, decode_positions, encode_positions, encode_varint
from pytest_h2o.errors import CodecError

positions = hnp.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, (1 << 31) - 1)) | st.lists(
    st.tuples(st.integers(0, 50), st.integers(1, 9)), min_size=1, max_size=8
).map(lambda runs: np.array([start + i for start, length in runs for i in range(length)], np.int64))


@given(positions=positions)
def test_positions_come_back(positions: np.ndarray) -> None:
    reader = ByteReader(encode_positions(positions))
    assert np.array_equal(decode_positions(reader, len(positions)), positions)
    assert reader.left == 0


def test_a_run_beyond_64_bits_is_refused() -> None:
    run = encode_varint(1) + encode_varint(2 * ((1 << 63) - 2)) + encode_varint(3)
    with pytest.raises(CodecError) as caught:
        decode_positions(ByteReader(run), 3)
    assert str(caught.value) == (
        "a run of positions does not fit\n  where: byte 12\n  came: 3 from 9223372036854775806, after 0 of 3"
    )


def test_positions_of_a_sequence_are_one_run() -> None:
    assert encode_positions(np.arange(100, 292)) == bytes([1]) + encode_varint(200) + encode_varint(192)
    assert encode_positions(np.array([0, 1, 2, 0, 1])) == bytes([2, 0, 3, 5, 2])


@given(value=st.integers(0, (1 << 64) - 1))
def test_varints_come_back(value: int) -> None:
    encoded = encode_varint(value)
    assert len(encoded) == max(1, -(-value.bit_length() // 7))
    assert ByteReader(encoded).read_varint("it") == value


@pytest.mark.parametrize("encoded", ["", "80", "8000", "ffffffffffffffffff02", "ff" * 11])
def test_a_varint_that_is_none_is_refused(encoded: str) -> None:
    with pytest.raises(CodecError, match="it is"):
        ByteReader(bytes.fromhex(encoded)).read_varint("it")


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_what_is_no_varint_is_not_written(value: int) -> None:
    with pytest.raises(CodecError, match="a number does not fit a varint"):
        encode_varint(value)
