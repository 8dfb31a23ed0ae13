"""Codecs that are given to the evaluation: what they are told, and what becomes of one that is wrong."""

import math
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.codecs.adaptive_v22 import AdaptiveV22, Legacy
from pytest_h2o.codecs.base import Codec, Rope, SideInfo, Stream, Words
from pytest_h2o.errors import CodecError, RoundTripError
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless.evaluate import evaluate_lossless
from pytest_h2o.lossless.index import index_dump
from pytest_h2o.lossless.measure import Measurement, plan_groups, plan_tasks
from tests.lossless.samples import FP32, write_entry

GROUPED = Scope(entry_mode="chunked_grouped", online_chunk_seq=192, online_framing_bytes=8)


ENCODED: dict[str, Callable[[Words], Any]] = {
    "text": lambda words: words.tobytes().hex(),
    "None": lambda words: None,
    "array": lambda words: words.copy(),
    "view": lambda words: memoryview(words),
    "nothing": lambda words: b"",
}
DECODED: dict[str, Callable[[Words], Any]] = {
    "list": lambda words: words.tolist(),
    "None decoded": lambda words: None,
    "subclass": lambda words: words.view(AlwaysEqual),
}


class AlwaysEqual(np.ndarray[Any, Any]):
    """What no comparison may be left to."""

    def __eq__(self, other: object) -> Any:
        return np.ones(self.shape, bool)

    def __array_function__(self, *given: Any) -> bool:
        return True


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
        if self.fault in ENCODED:
            return ENCODED[self.fault](stream.words)
        if self.fault == "in place":
            stream.words[:] &= 0xF000
        if self.fault == "in place by force":
            stream.words.base.flags.writeable = True
            forced = stream.words.base[...]
            forced &= 0xF000
            return forced.tobytes()
        words = stream.words.copy()
        words[words == 0x8000] = 0
        return words.tobytes()

    def encode_many(self, streams: Sequence[Stream]) -> list[bytes]:
        if self.fault == "together":
            raise IndexError("list index out of range")
        return [] if self.fault == "few" else super().encode_many(streams)

    def decode_many(self, payloads: Sequence[bytes | memoryview], sides: Sequence[SideInfo]) -> list[Words]:
        if self.fault == "decode together":
            raise IndexError("list index out of range")
        return [] if self.fault == "fewer" else super().decode_many(payloads, sides)

    def modes(self, payload: bytes | memoryview, side: SideInfo) -> dict[str, dict[str, int]]:
        return {"hi": {"x": math.nan if self.fault == "NaN" else 1 // (self.fault != "modes")}}

    def plane_bytes(self, payload: bytes | memoryview, side: SideInfo) -> dict[str, int]:
        return math.inf if self.fault == "planes" else {}  # type: ignore[return-value]

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        if not payload:
            return np.full(side.shape, 7, np.uint16)
        words = np.frombuffer(payload, np.uint16).reshape(side.shape).copy()
        if self.fault in DECODED:
            return DECODED[self.fault](words)
        if self.fault == "shape":
            return words.reshape(-1, 1, 1)
        if self.fault == "error":
            raise CodecError("no way back", came="5 bytes", expected="more")
        if self.fault == "decode":
            raise IndexError("list index out of range")
        return words


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("sign", RoundTripError),
        ("shape", RoundTripError),
        ("error", RoundTripError),
        ("decode", RoundTripError),
        ("fewer", RoundTripError),
        ("encode", CodecError),
        ("few", CodecError),
        ("together", CodecError),
        ("decode together", RoundTripError),
        ("modes", CodecError),
        ("NaN", CodecError),
        ("planes", CodecError),
        ("in place", CodecError),
        ("in place by force", CodecError),
        *((name, CodecError) for name in ENCODED),
        *((name, RoundTripError) for name in DECODED),
    ],
)
def test_a_codec_that_is_wrong_is_named_with_the_stream(
    tmp_path: Path, snapshot: SnapshotAssertion, fault: str, kind: type[Exception]
) -> None:
    words = np.full((4, 2, 8), 7, "<u2")
    if fault != "nothing":
        words[2, 1, 3] = words[3, 0, 0] = 0x8000
    write_entry(tmp_path, data=words.tobytes())
    write_entry(tmp_path, start=4, data=words.tobytes())
    scope = Scope(entry_mode="per_meta" if fault == "nothing" else "aggregate")
    with pytest.raises(kind) as caught:
        evaluate_lossless(tmp_path, scope, verify=True, codec=Broken(fault), workers=1)
    assert str(caught.value).replace(str(tmp_path), "DUMP") == snapshot


@pytest.mark.parametrize("method", ["encode", "modes", "decode"])
@pytest.mark.parametrize("error", [MemoryError("it is full"), CodecError("no such shape")], ids=["memory", "ours"])
def test_what_a_codec_says_itself_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, error: Exception
) -> None:
    def fail(*given: object) -> bytes:
        raise error

    monkeypatch.setattr(Broken, method, fail)
    write_entry(tmp_path)
    with pytest.raises(RoundTripError if method == "decode" else CodecError) as caught:
        evaluate_lossless(tmp_path, Scope(), verify=True, codec=Broken(), workers=1)
    assert str(error) in str(caught.value)
    if isinstance(error, MemoryError):
        assert re.match(r"codec \w+ cannot .*\n  where: run/layer_0/", str(caught.value))
        assert "came: MemoryError: it is full" in str(caught.value)


@pytest.mark.parametrize("error", [GeneratorExit, SystemExit, OSError])
def test_a_codec_that_cannot_tell_its_settings_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(self: Codec) -> dict[str, object]:
        raise error("x")

    monkeypatch.setattr(Broken, "config", fail)
    write_entry(tmp_path)
    with pytest.raises(CodecError, match=r"the codec \w+ failed in config\(\)"):
        evaluate_lossless(tmp_path, Scope(), verify=True, codec=Broken(), workers=1)


def test_codec_is_told_positions_and_rotation(tmp_path: Path) -> None:
    for start, tokens in ((0, 1), (10, 5), (15, 2)):
        write_entry(tmp_path, start=start, tokens=tokens)
    Broken.seen.clear()
    settings = Scope(entry_mode="chunked_grouped", online_chunk_seq=3)
    measurement = Measurement(Broken(), verify=False, rope=Rope(1e4))  # in this process, so that it can be looked at
    for task in plan_tasks(plan_groups(index_dump(tmp_path).entries, settings), settings):
        measurement([task])
    k = [stream for stream in Broken.seen if stream.tensor == "k"]
    assert [list(stream.positions) for stream in k] == [[0, 10, 11], [12, 13, 14], [15, 16]]
    assert {stream.rope for stream in k} == {Rope(1e4)}
    assert {stream.rope for stream in Broken.seen if stream.tensor == "v"} == {None}


def test_codec_that_is_given_names_itself_in_the_result() -> None:
    given = evaluate_lossless(FP32, GROUPED, verify=True, codec=AdaptiveV22(zstd_level=1, adaptive_block_seq=16))
    assert (given.codec_mode, given.zstd_level, given.adaptive_block_seq) == ("adaptive_v22", 1, 16)
    assert given.codec == "fp16_gear_predictive_zstd"
    legacy = evaluate_lossless(FP32, GROUPED, verify=True, codec=Legacy())
    named = evaluate_lossless(FP32, replace(GROUPED, codec="legacy"), verify=True)
    assert legacy.lossless_ratio == named.lossless_ratio


def test_any_registered_codec_is_taken_by_name() -> None:
    result = evaluate_lossless(FP32, replace(GROUPED, codec="byteplane:level=1"), verify=True)
    assert result.codec == "byteplane"
    assert result.codec_config == {"id": "byteplane", "level": 1}
    assert result.lossless_ratio > 1.3
    with pytest.raises(CodecError, match="there is no codec 'bytplane'"):
        evaluate_lossless(FP32, replace(GROUPED, codec="bytplane"), verify=True)
