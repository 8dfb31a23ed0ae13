"""The run-length code against a byte-by-byte one."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_h2o.codecs.gear_v3 import decode_rle, encode_rle, least_rle_bytes, plan_rle
from pytest_h2o.errors import CodecError

runs = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from((1, 2, 3, 4, 5, 127, 128, 129, 130, 131, 132, 134, 135, 262, 266))),
    max_size=12,
).map(lambda pairs: bytes(value for value, length in pairs for _ in range(length)))


def encode_one_by_one(data: bytes) -> bytes:
    """The format taken literally: greedy, one byte after another."""
    out, literal, at = bytearray(), bytearray(), 0

    def flush() -> None:
        if literal:
            out.append(len(literal) - 1)
            out.extend(literal)
            literal.clear()

    while at < len(data):
        length = 1
        while length < 131 and at + length < len(data) and data[at + length] == data[at]:
            length += 1
        if length >= 4:
            flush()
            out += bytes((128 + length - 4, data[at]))
            at += length
        else:
            literal.append(data[at])
            at += 1
            if len(literal) == 128:
                flush()
    flush()
    return bytes(out)


@settings(max_examples=300, deadline=None)
@given(data=runs | st.binary(max_size=600))
def test_bytes_are_those_of_the_plain_algorithm(data: bytes) -> None:
    plane = np.frombuffer(data, np.uint8)
    plan = plan_rle(plane)
    code = encode_rle(plane, plan)
    assert code == encode_one_by_one(data)
    assert len(code) == plan.encoded_bytes >= least_rle_bytes(plane)
    assert decode_rle(code, len(data)) == data


def test_the_bound_is_the_size_where_there_is_no_run() -> None:
    plane = np.arange(1000).astype(np.uint8)
    assert least_rle_bytes(plane) == plan_rle(plane).encoded_bytes == 1008


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", ""),
        (b"abc", "02616263"),
        (b"aaa", "02616161"),
        (b"aaaa", "8061"),
        (b"a" * 131, "ff61"),
        (b"a" * 134, "ff6102616161"),
        (b"a" * 135, "ff618061"),
        (b"xaaaay", "007880610079"),
    ],
)
def test_known_codes(data: bytes, code: str) -> None:
    plane = np.frombuffer(data, np.uint8)
    assert encode_rle(plane, plan_rle(plane)).hex() == code


@pytest.mark.parametrize("code", ["80", "0261", "8061", "806100", "80618061"])
def test_a_code_that_does_not_fit_is_refused(code: str) -> None:
    with pytest.raises(CodecError, match="a run-length code does not fit its plane"):
        decode_rle(bytes.fromhex(code), 5)


def test_a_code_is_left_when_it_gives_too_much() -> None:
    code = b"\xff\x00" * 100_000
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decode_rle(code, 1000)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
