"""The runtime's frame and its run-length code, each against the format taken literally."""

import struct
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from sample_streams import any_stream, real_streams
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.codecs.base import SideInfo, Stream
from pytest_h2o.codecs.gear_v3 import GearV3, decode_rle, encode_rle, least_rle_bytes, plan_rle
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


@given(data=runs | st.binary(max_size=600))
def test_bytes_are_those_of_the_plain_algorithm(data: bytes) -> None:
    plane = np.frombuffer(data, np.uint8)
    plan = plan_rle(plane)
    code = encode_rle(plane, plan)
    assert code == encode_one_by_one(data)
    assert len(code) == plan.encoded_bytes >= least_rle_bytes(plane)
    assert decode_rle(code, len(data)) == data


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


NUMBERS = {"raw": 0, "delta_seq": 1, "xor_seq": 2}


def predict_one_by_one(data: bytes, predictor: str) -> bytes:
    before = b"\0" + data
    if predictor == "delta_seq":
        return bytes((here - last) % 256 for here, last in zip(data, before, strict=False))
    if predictor == "xor_seq":
        return bytes(here ^ last for here, last in zip(data, before, strict=False))
    return data


def encode_plainly(stream: Stream, predictors: list[str]) -> bytes:
    raw = stream.words.transpose(1, 0, 2).tobytes()
    coded = struct.pack("<I", len(raw) // 2)
    for plane in (raw[0::2], raw[1::2]):
        frames = []
        for predictor in predictors:
            residual = predict_one_by_one(plane, predictor)
            for code, payload in enumerate((encode_one_by_one(residual), zstandard.compress(residual, 3))):
                frames.append(struct.pack("<BBII", NUMBERS[predictor], code, len(plane), len(payload)) + payload)
        coded += min(frames, key=len)
    return coded if len(coded) < len(raw) else raw


@given(stream=any_stream())
def test_bytes_are_those_of_the_format(stream: Stream) -> None:
    assert GearV3().encode(stream) == encode_plainly(stream, ["raw", "delta_seq", "xor_seq"])


@pytest.mark.parametrize(
    ("names", "tried"),
    [
        ("delta_seq,raw", ["delta_seq", "raw"]),
        ("pair_delta,xor_seq", ["xor_seq"]),
        (" raw , delta_seq ", ["raw", "delta_seq"]),
        ("pair_delta", ["raw"]),
        ("", ["raw"]),
    ],
)
def test_predictors_are_tried_in_their_order_and_unknown_ones_passed_over(names: str, tried: list[str]) -> None:
    k, v = real_streams()[:2]
    assert GearV3(predictors_k=names).encode(k) == encode_plainly(k, tried)
    assert GearV3(predictors_v=names).encode(v) == encode_plainly(v, tried)


def test_the_first_of_equally_small_codes_is_taken() -> None:
    stream = Stream(np.zeros((64, 2, 8), np.uint16), "k")
    payload = GearV3().encode(stream)
    assert GearV3(predictors_k="xor_seq,raw").modes(GearV3("xor_seq,raw").encode(stream), stream.side_info()) == {
        "hi": {"xor_seq-rle": 1},
        "lo": {"xor_seq-rle": 1},
    }
    assert GearV3().modes(payload, stream.side_info()) == {"hi": {"raw-rle": 1}, "lo": {"raw-rle": 1}}


def test_what_does_not_shrink_is_stored_head_major() -> None:
    words = np.random.default_rng(3).integers(0, 1 << 16, (5, 3, 4), dtype=np.uint16)
    stream = Stream(words, "v")
    payload = GearV3().encode(stream)
    assert payload == words.transpose(1, 0, 2).tobytes()
    assert GearV3().modes(payload, stream.side_info()) == {"hi": {"stored": 1}, "lo": {"stored": 1}}


def test_what_is_exactly_as_long_when_coded_is_stored() -> None:
    """4 + 2 frame headers of 10, 2 bytes for the run, 1 + 27 for the literals: 54, as raw."""
    hi = np.random.default_rng(5).permutation(256)[:27]
    words = (hi << 8 | 7).astype(np.uint16).reshape(27, 1, 1)
    assert GearV3().encode(Stream(words, "k")) == words.tobytes()
    shorter = np.append(words, np.uint16(words[-1])).reshape(28, 1, 1)
    assert len(GearV3().encode(Stream(shorter, "k"))) < shorter.nbytes


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "of another stream": (lambda payload: payload, 10),
    "its header": (lambda payload: payload[:4] + b"\7" + payload[5:], 192),
    "bytes after its frames": (lambda payload: payload + b"\0", 192),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_payload_that_does_not_fit_or_is_damaged_says_so(name: str, snapshot: SnapshotAssertion) -> None:
    change, rows = DAMAGED[name]
    with pytest.raises(CodecError) as caught:
        GearV3().decode(change(GearV3().encode(real_streams()[0])), SideInfo("k", (rows, 3, 64)))
    assert str(caught.value) == snapshot
