"""Names to codecs: built-in, of installed distributions, registered; and settings and streams that are refused."""

from __future__ import annotations  # settings of codecs are read from such annotations too

import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.codecs import registry
from pytest_h2o.codecs import rowref as row_segments
from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Words, check_settings
from pytest_h2o.codecs.gear_v3 import GearV3
from pytest_h2o.codecs.planes import read_plane
from pytest_h2o.codecs.registry import parse_codec, render_codec
from pytest_h2o.codecs.rowref import _read_sources, read_turned_header
from pytest_h2o.codecs.wire import KNOWN_THETAS, ByteReader, decode_rope
from pytest_h2o.codecs.zstd import Byteplane, Zstd
from pytest_h2o.errors import CodecError
from tests.told import error_text


@dataclass(frozen=True)
class Mine(Zstd):
    """A codec of a user."""

    id: ClassVar[str] = "mine"

    strict: bool = False
    names: tuple[str, ...] = ("a", "b")
    tolerance: float = 0.5
    kind: Literal["x", "y"] | None = None
    pair: tuple[int, str] = (0, "")
    other: list[int] | None = None


@dataclass(frozen=True)
class Half(Codec):
    """A codec without a decoder."""

    id: ClassVar[str] = "half"

    def encode(self, stream: Stream) -> bytes:
        return b""


@dataclass(frozen=True)
class Nameless(Half):
    """A codec without a name of its own."""

    id: ClassVar[str] = ""

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        return WORDS


class Plain(Zstd):
    """A codec that is no dataclass of its own."""

    id: ClassVar[str] = "plain"


@pytest.fixture
def mine() -> Iterator[type[Mine]]:
    yield registry.register(Mine)
    registry.unregister("mine")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Put a distribution with entry points where importlib finds it."""

    def put(distribution: str, entry_points: str, **modules: str) -> None:
        site = tmp_path / distribution
        info = site / f"{distribution}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[pytest_h2o.codecs]\n{entry_points}\n")
        for name, source in modules.items():
            (site / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(str(site))
        registry._plugins.cache_clear()

    yield put
    monkeypatch.undo()
    registry._plugins.cache_clear()


CODEC_SOURCE = """
from dataclasses import dataclass
from pytest_h2o.codecs.zstd import Zstd

@dataclass(frozen=True)
class Theirs(Zstd):
    id = "theirs"
"""


def test_a_name_and_settings_make_a_codec() -> None:
    assert registry.get_codec("zstd") == Zstd()
    assert registry.get_codec("byteplane", level=1) == Byteplane(level=1)
    assert registry.codec_from_config({"id": "zstd", "level": 19}) == Zstd(level=19)
    assert {"zstd", "byteplane", "gear_v3"} <= set(registry.codec_names())


def test_the_registry_imports_no_codec() -> None:
    """Nor numpy: the names alone cost nothing."""
    source = (
        "import sys; from pytest_h2o.codecs import registry; registry.codec_names()\n"
        "print({'numpy', 'zstandard', 'pytest_h2o.codecs.zstd', 'pytest_h2o.codecs.base'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


@pytest.mark.usefixtures("mine")
def test_settings_of_every_type_go_there_and_back() -> None:
    codec = registry.get_codec("mine", strict=True, names=["c"], tolerance=1, kind="y", level=5)
    assert codec == Mine(level=5, strict=True, names=("c",), tolerance=1, kind="y")
    assert registry.codec_from_config(codec.config()) == codec
    assert parse_codec("mine:strict=true:names=c+d:tolerance=0.25:level=1") == Mine(1, True, ("c", "d"), 0.25)
    assert render_codec(Mine(level=1, names=("c", "d"))) == "mine:level=1:names=c+d"


def test_a_registered_codec_is_one_of_them(mine: type[Mine]) -> None:
    assert registry.codec_names()[-1] == "mine"
    assert registry.get_codec("mine") == mine()
    assert registry.register(Mine) is Mine, "the same class again is no collision"
    registry.unregister("mine")
    with pytest.raises(CodecError, match="there is no codec 'mine'"):
        registry.get_codec("mine")


def check_taken(name: str, owner: str) -> None:
    """No other class is registered under a name that is taken."""

    @dataclass(frozen=True)
    class Other(Byteplane):
        id: ClassVar[str] = name

    with pytest.raises(CodecError) as caught:
        registry.register(Other)
    assert caught.value.what == f"the codec name {name!r} is taken"
    assert caught.value.came == f"the id of {owner}"


def test_a_name_that_is_taken_is_refused(mine: type[Mine]) -> None:
    check_taken("mine", f"{__name__}:Mine")
    check_taken("zstd", "pytest_h2o.codecs.zstd:Zstd")
    assert registry.get_codec("mine") == mine()


def test_a_distribution_adds_a_codec(install: Callable[..., None]) -> None:
    install("theirs", "theirs = theirs_codec:Theirs", theirs_codec=CODEC_SOURCE)
    assert "theirs" in registry.codec_names()
    assert "theirs_codec" not in sys.modules, "naming the codecs loads none"
    assert registry.get_codec("theirs", level=5).config() == {"id": "theirs", "level": 5}
    check_taken("theirs", "theirs_codec:Theirs of distribution theirs")


def test_a_broken_distribution_is_named(install: Callable[..., None], snapshot: SnapshotAssertion) -> None:
    install("broken-dist", "broken = broken_codec:Broken", broken_codec="import not_there_at_all")
    assert "broken" in registry.codec_names()
    assert error_text(CodecError, registry.get_codec, "broken") == snapshot
    assert registry.get_codec("zstd") == Zstd(), "the others stay usable"


def test_an_entry_point_of_another_name_than_its_codec_is_refused(install: Callable[..., None]) -> None:
    install("misnamed", "other = misnamed_codec:Theirs", misnamed_codec=CODEC_SOURCE)
    with pytest.raises(CodecError) as caught:
        registry.get_codec("other")
    assert caught.value.where == "misnamed_codec:Theirs of distribution misnamed"
    assert caught.value.came == "Theirs, with the id 'theirs'"


@pytest.mark.parametrize(
    ("first", "second", "owner"),
    [
        ("one = a:A", "one = b:B", "b:B of distribution second"),
        ("two = a:A", "zstd = b:B", "pytest_h2o.codecs.zstd:Zstd"),
    ],
)
def test_two_distributions_with_one_name_are_refused(
    install: Callable[..., None], first: str, second: str, owner: str
) -> None:
    install("first", first)
    install("second", second)
    with pytest.raises(CodecError) as caught:
        registry.codec_names()
    name = second.partition(" ")[0]
    assert caught.value.what == f"the codec name {name!r} is claimed twice"
    assert caught.value.came == f"the id of {owner}"
    assert registry.get_codec("zstd") == Zstd(), "a built-in one is never replaced"


def test_a_distribution_that_is_found_twice_is_one(install: Callable[..., None], tmp_path: Path) -> None:
    install("twice", "theirs = twice_codec:Theirs", twice_codec=CODEC_SOURCE)
    sys.path.append(str(tmp_path / "twice"))
    try:
        registry._plugins.cache_clear()
        assert registry.codec_names().count("theirs") == 1
    finally:
        sys.path.remove(str(tmp_path / "twice"))


def far_rope(theta: float) -> bytes:
    """A rotation whose theta is written out."""
    return bytes([1 + 2 * len(KNOWN_THETAS)]) + struct.pack("<d", theta)


def refused_settings() -> dict[str, Callable[[], object]]:
    """Settings of `Mine` of a wrong type."""
    wrong: list[tuple[str, object]] = [("level", "3"), ("level", True), ("strict", 1), ("tolerance", False)]
    wrong += [("names", "a"), ("names", [1]), ("kind", "z"), ("pair", [1, "a", "b"]), ("pair", ["a", 1])]
    return {f"{name}={value!r}": lambda n=name, v=value: registry.get_codec("mine", **{n: v}) for name, value in wrong}


WORDS = np.zeros((2, 3, 4), np.uint16)
REFUSED: dict[str, Callable[[], object]] = {
    **refused_settings(),
    "an unknown name": lambda: registry.get_codec("byteplain"),
    "a configuration of nothing": lambda: registry.codec_from_config({}),
    "an id that is no text": lambda: registry.codec_from_config({"id": 3}),
    "an unknown setting": lambda: registry.get_codec("zstd", leval=3),
    "a setting without a value": lambda: parse_codec("zstd:level"),
    "no setting": lambda: parse_codec("zstd:"),
    "a setting twice": lambda: parse_codec("zstd:level=1:level=1"),
    "a word for a number": lambda: parse_codec("zstd:level=much"),
    "a word for a switch": lambda: parse_codec("adaptive_v22:bitshuffle=maybe"),
    "a codec without decode": lambda: registry.register(Half),
    "a class that is no dataclass": lambda: registry.register(Plain),
    "another class": lambda: registry.register(int),  # type: ignore[type-var]
    "the base": lambda: registry.register(Codec),
    "a codec without an id": lambda: registry.register(Nameless),
    "signed words": lambda: Stream(WORDS.view(np.int16), "k"),  # type: ignore[arg-type]
    "floats": lambda: Stream(WORDS.view(np.float16), "k"),  # type: ignore[arg-type]
    "words of the other byte order": lambda: Stream(WORDS.astype(">u2"), "k"),
    "words of two axes": lambda: Stream(WORDS[0], "k"),
    "too many positions": lambda: Stream(WORDS, "k", np.arange(3)),
    "positions of 32 bits": lambda: Stream(WORDS, "k", np.arange(2, dtype=np.int32)),  # type: ignore[arg-type]
    "more words than 32 bits count": lambda: GearV3().encode(
        Stream(np.broadcast_to(np.uint16(1), (1 << 20, 64, 64)), "k")
    ),
    "a compressed plane of nothing": lambda: read_plane(ByteReader(b"\0"), 0, True),
    "theta below 1": lambda: decode_rope(ByteReader(far_rope(0.5))),
    "theta no number": lambda: decode_rope(ByteReader(far_rope(float("nan")))),
    "an odd head": lambda: read_turned_header(ByteReader(far_rope(3.0)), SideInfo("k", (1, 1, 7))),
}


@pytest.mark.usefixtures("mine")
def test_each_of_these_is_refused(snapshot: SnapshotAssertion) -> None:
    said = {}
    for case, act in REFUSED.items():
        said[case] = error_text(CodecError, act).splitlines()
    assert said == snapshot


def test_a_type_that_is_not_known_is_left_to_the_codec() -> None:
    check_settings(Mine, "mine", {"pair": (1, "a"), "other": [1]})

    class Far(Mine):
        place: NoSuchType = 0  # type: ignore[name-defined]  # noqa: F821

    check_settings(Far, "far", {"level": "x"})


def test_rows_without_any_reference_are_their_own_sources() -> None:
    row_class = np.full(3, row_segments._UNREFERENCED, np.uint8)
    reader = ByteReader(b"rest")
    assert _read_sources(reader, row_class).tolist() == [0, 1, 2]
    assert reader.left == 4


def test_a_stream_knows_its_size() -> None:
    stream = Stream(np.zeros((2, 3, 4), np.uint16), "v")
    assert (stream.raw_bytes, stream.side_info().raw_bytes, stream.side_info().words) == (48, 48, 24)
