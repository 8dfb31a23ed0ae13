"""Codecs that are given to the evaluation: what they are told, and what becomes of one that is wrong."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from pytest_h2o.codecs.adaptive_v22 import AdaptiveV22
from pytest_h2o.codecs.base import Codec, Rope, SideInfo, Stream, Words
from pytest_h2o.codecs.legacy import Legacy
from pytest_h2o.errors import CodecError, RoundTripError
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless.evaluate import evaluate_lossless
from tests.lossless.samples import FP32, write_entry

GROUPED = Scope(entry_mode="chunked_grouped", online_chunk_seq=192, online_framing_bytes=8)


@dataclass(frozen=True)
class Broken(Codec):
    """Loses the sign of zero, or shape, or cannot decode, or sees what it is given."""

    fault: str = "sign"
    id: ClassVar[str] = "broken"
    seen: ClassVar[list[Stream]] = []
    lock: ClassVar[threading.Lock] = threading.Lock()

    def encode(self, stream: Stream) -> bytes:
        with self.lock:
            self.seen.append(stream)
        if self.fault == "encode":
            raise IndexError("list index out of range")
        words = stream.words.copy()
        words[words == 0x8000] = 0
        return words.tobytes()

    def encode_many(self, streams: Sequence[Stream]) -> list[bytes]:
        return [] if self.fault == "few" else super().encode_many(streams)

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        words = np.frombuffer(payload, np.uint16).reshape(side.shape).copy()
        if self.fault == "shape":
            return words.reshape(-1, 1, 1)
        if self.fault == "error":
            raise CodecError("no way back", came="5 bytes", expected="more")
        if self.fault == "decode":
            raise IndexError("list index out of range")
        return words


def test_codec_that_loses_a_bit_is_found(tmp_path: Path) -> None:
    words = np.zeros((4, 2, 8), "<u2")
    words[2, 1, 3] = words[3, 0, 0] = 0x8000
    write_entry(tmp_path, data=words.tobytes())
    with pytest.raises(RoundTripError) as caught:
        evaluate_lossless(tmp_path, Scope(), verify=True, codec=Broken(), workers=1)
    assert str(caught.value) == (
        "codec broken gave back other bits\n"
        "  where: run/layer_0/meta_t0_4.json, layer 0, K, tokens 0 to 3, first at word 43 (byte 86): "
        "token 2, head 1, dimension 3\n"
        "  came: 0x0000; 2 of 64 words differ\n  expected: 0x8000\n"
        "  next: the codec is not lossless on this stream; no ratio of it counts"
    )


def test_codec_that_cannot_decode_or_gives_another_shape_is_found(tmp_path: Path) -> None:
    write_entry(tmp_path)
    write_entry(tmp_path, start=4)
    settings = Scope(entry_mode="aggregate")
    with pytest.raises(RoundTripError) as caught:
        evaluate_lossless(tmp_path, settings, verify=True, codec=Broken("error"), workers=1)
    assert str(caught.value) == (
        "codec broken cannot decode what it encoded\n"
        "  where: run/layer_0/meta_t0_4.json to run/layer_0/meta_t4_8.json, layer 0, K, tokens 0 to 7\n"
        "  came: no way back: 5 bytes\n  expected: more\n"
        "  next: the size of such a stream means nothing; mend the codec"
    )
    with pytest.raises(RoundTripError, match="gave back another shape"):
        evaluate_lossless(tmp_path, settings, verify=True, codec=Broken("shape"))


def test_bug_in_a_codec_names_the_codec_and_the_stream(tmp_path: Path) -> None:
    write_entry(tmp_path)
    with pytest.raises(CodecError) as caught:
        evaluate_lossless(tmp_path, Scope(), verify=True, codec=Broken("encode"), workers=1)
    assert str(caught.value) == (
        "codec broken cannot encode a stream\n"
        "  where: run/layer_0/meta_t0_4.json, layer 0, K, tokens 0 to 3\n"
        "  came: IndexError: list index out of range\n"
        "  next: mend the codec: every shape and bit pattern can be encoded"
    )
    with pytest.raises(CodecError, match=r"another number of payloads than streams\n.*layer 0, K.*\n  came: 0\n"):
        evaluate_lossless(tmp_path, Scope(), verify=True, codec=Broken("few"), workers=1)
    with pytest.raises(RoundTripError, match="IndexError: list index out of range"):
        evaluate_lossless(tmp_path, Scope(), verify=True, codec=Broken("decode"))


def test_codec_is_told_positions_and_rotation(tmp_path: Path) -> None:
    for start, tokens in ((0, 1), (10, 5), (15, 2)):
        write_entry(tmp_path, start=start, tokens=tokens)
    Broken.seen.clear()
    settings = Scope(entry_mode="chunked_grouped", online_chunk_seq=3)
    evaluate_lossless(tmp_path, settings, verify=False, codec=Broken(), rope=Rope(1e4), workers=1)
    k = [stream for stream in Broken.seen if stream.tensor == "k"]
    assert [list(stream.positions) for stream in k] == [[0, 10, 11], [12, 13, 14], [15, 16]]
    assert {stream.rope for stream in k} == {Rope(1e4)}
    assert {stream.rope for stream in Broken.seen if stream.tensor == "v"} == {None}


def test_codec_that_is_given_names_itself_in_the_result() -> None:
    given = evaluate_lossless(FP32, GROUPED, verify=True, codec=AdaptiveV22(zstd_level=1, adaptive_block_seq=16))
    assert (given.codec_mode, given.zstd_level, given.adaptive_block_seq) == ("adaptive_v22", 1, 16)
    assert given.codec == "fp16_gear_predictive_zstd"
    legacy = evaluate_lossless(FP32, GROUPED, verify=True, codec=Legacy())
    assert (
        legacy.lossless_ratio == evaluate_lossless(FP32, replace(GROUPED, codec="legacy"), verify=True).lossless_ratio
    )


def test_any_registered_codec_is_taken_by_name() -> None:
    result = evaluate_lossless(FP32, replace(GROUPED, codec="byteplane:level=1"), verify=True)
    assert result.codec == "byteplane"
    assert result.codec_config == {"id": "byteplane", "level": 1}
    assert result.lossless_ratio > 1.3
    with pytest.raises(CodecError, match="there is no codec 'bytplane'"):
        evaluate_lossless(FP32, replace(GROUPED, codec="bytplane"), verify=True)
