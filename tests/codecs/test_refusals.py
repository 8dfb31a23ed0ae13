"""What is refused before anything is written or made of it, each with what came."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from pytest_h2o.codecs import adaptive_v22
from pytest_h2o.codecs import rowref as row_segments
from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Words, check_settings
from pytest_h2o.codecs.gear_v3 import GearV3
from pytest_h2o.codecs.planes import read_plane
from pytest_h2o.codecs.registry import parse_codec, register, unregister
from pytest_h2o.codecs.rowref import _read_sources, read_turned_header
from pytest_h2o.codecs.wire import KNOWN_THETAS, ByteReader, decode_rope
from pytest_h2o.errors import CodecError

STREAM = Stream(np.arange(64, dtype=np.uint16).reshape(4, 2, 8), "k")


@dataclass(frozen=True)
class Labelled(Codec):
    """Words as they are; its settings are of every kind."""

    id = "labelled_for_test"
    out_of_band = ("shape",)

    label: str = ""
    weight: float = 0.0
    pair: tuple[int, str] = (0, "")
    other: list[int] | None = None

    def encode(self, stream: Stream) -> bytes:
        return stream.words.tobytes()

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        return np.frombuffer(payload, np.uint16).reshape(side.shape)


@pytest.fixture(autouse=True)
def labelled() -> Iterator[None]:
    register(Labelled)
    yield
    unregister(Labelled.id)


def far_rope(theta: float) -> bytes:
    """A rotation whose theta is written out."""
    return bytes([1 + 2 * len(KNOWN_THETAS)]) + struct.pack("<d", theta)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a compressed plane of nothing": (
        lambda: read_plane(ByteReader(b"\0"), 0, True),
        "a compressed plane of no bytes",
    ),
    "theta below 1": (lambda: decode_rope(ByteReader(far_rope(0.5))), "theta is out of range"),
    "theta no number": (lambda: decode_rope(ByteReader(far_rope(float("nan")))), "theta is out of range"),
    "an odd head": (
        lambda: read_turned_header(ByteReader(far_rope(3.0)), SideInfo("k", (1, 1, 7))),
        "a head that cannot be turned",
    ),
    "a tuple of another length": (
        lambda: check_settings(Labelled, "labelled_for_test", {"pair": (1, "a", "b")}),
        "setting 'pair' of codec labelled_for_test has the wrong type",
    ),
    "a tuple of other types": (
        lambda: check_settings(Labelled, "labelled_for_test", {"pair": ("a", 1)}),
        "setting 'pair' of codec labelled_for_test has the wrong type",
    ),
    "a word for a number": (lambda: parse_codec("zstd:level=much"), "setting 'level' of codec zstd has the wrong type"),
    "a word for a switch": (
        lambda: parse_codec("adaptive_v22:bitshuffle=maybe"),
        "setting 'bitshuffle' of codec adaptive_v22 has the wrong type",
    ),
    "more words than 32 bits count": (
        lambda: GearV3().encode(Stream(np.broadcast_to(np.uint16(1), (1 << 20, 64, 64)), "k")),
        "a stream is too long for gear_v3",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused(case: str) -> None:
    act, said = REFUSED[case]
    with pytest.raises(CodecError) as caught:
        act()
    assert said in str(caught.value)


def test_a_plane_that_its_header_cannot_count_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive_v22, "_U32_MAX", 8)
    with pytest.raises(CodecError, match="the stream is too large"):
        adaptive_v22.AdaptiveV22().encode(STREAM)


def test_a_type_that_is_not_known_is_left_to_the_codec() -> None:
    check_settings(Labelled, "labelled_for_test", {"pair": (1, "a"), "other": [1]})


def test_annotations_that_cannot_be_read_check_nothing() -> None:
    class Far(Labelled):
        place: NoSuchType = 0  # type: ignore[name-defined]  # noqa: F821

    check_settings(Far, "far", {"label": 3})


def test_rows_without_any_reference_are_their_own_sources() -> None:
    row_class = np.full(3, row_segments._UNREFERENCED, np.uint8)
    reader = ByteReader(b"rest")
    assert _read_sources(reader, row_class).tolist() == [0, 1, 2]
    assert reader.left == 4
