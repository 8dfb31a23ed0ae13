"""Codecs of third parties: what decodes has never met what encoded, and no word that it is judged by."""

import os
import pickle
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest

from pytest_h2o.cli.codecs_bench import BenchSettings, contend, measure, streams
from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Words
from pytest_h2o.codecs.registry import BUILT_IN, get_codec
from pytest_h2o.codecs.zstd import Zstd
from pytest_h2o.errors import CodecError, H2OError, RoundTripError
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless import apart
from pytest_h2o.lossless.apart import is_ours, keep_apart
from pytest_h2o.lossless.dask import pack
from pytest_h2o.lossless.evaluate import evaluate_lossless
from pytest_h2o.lossless.measure import Measurement
from tests.lossless.samples import SMALL, counted
from tests.lossless.test_processes import SETTINGS, Odd, family, tasks_of

WHOLE = Scope(scope="layer_range", layer_start=0, entry_mode="aggregate")


@pytest.fixture(autouse=True)
def all_work_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_h2o.lossless.executors.LONG_WORK_BYTES", 1)


class Table(dict[bytes, bytes]):
    """What an encoder notes and a decoder looks up."""

    def __deepcopy__(self, memo: object) -> "Table":
        return self


@dataclass(frozen=True)
class Keeper(Codec):
    """Its payload is a key into what `how` says the encoder has kept in its process."""

    id: ClassVar[str] = "keeper"
    how: str = "class"
    of_field: Any = field(default_factory=Table)
    of_class: ClassVar[Table] = Table()

    @property
    def kept(self) -> Table:
        return {"class": self.of_class, "field": self.of_field, "module": _in_module()}[self.how]

    def encode(self, stream: Stream) -> bytes:
        key = len(self.kept).to_bytes(4, "little")
        self.kept[key] = stream.words.tobytes()
        return key

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        return np.frombuffer(self.kept[bytes(payload)], np.uint16).reshape(side.shape)


@cache
def _in_module() -> Table:
    return Table()


@dataclass(frozen=True)
class Leaning(Keeper):
    """A stream is coded as a difference from the one before it, here and there."""

    id: ClassVar[str] = "leaning"

    def encode(self, stream: Stream) -> bytes:
        before, self.kept[b""] = self.kept.get(b"", b""), stream.words.tobytes()
        return bytes([bool(before)]) + stream.words.tobytes()

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        if payload[0] != (b"" in self.kept):
            raise CodecError("nothing was decoded before")
        self.kept[b""] = bytes(payload)
        return np.frombuffer(payload[1:], np.uint16).reshape(side.shape)


@pytest.mark.parametrize(
    ("codec", "workers"),
    [(Keeper(), 1), (Keeper(), 2), (Keeper("field"), 1), (Keeper("module"), 1), (Leaning(), 1)],
    ids=str,
)
@pytest.mark.parametrize("scope", [SETTINGS, WHOLE], ids=["chunks", "aggregate"])
def test_what_an_encoder_keeps_does_not_decode(codec: Codec, scope: Scope, workers: int) -> None:
    for _ in range(2):  # not in a second evaluation of the same words either
        with pytest.raises(RoundTripError, match=f"codec {codec.id} cannot decode what it encoded"):
            evaluate_lossless(SMALL, scope, verify=True, codec=codec, workers=workers)


def test_nor_does_it_on_a_worker_of_a_scheduler() -> None:
    parcels = [pack(Measurement(Keeper(), True), task) for task in tasks_of()[:2]]
    for parcel in parcels:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pytest_h2o.lossless.dask.codec_from_config", lambda config: Keeper())
            with pytest.raises(RoundTripError, match="cannot decode what it encoded"):
                pickle.loads(pickle.dumps(replace(parcel, codec={"id": "keeper"}))).measure()


def test_nor_does_it_in_the_comparison_of_codecs() -> None:
    with pytest.raises(H2OError, match="codec keeper"):
        measure(streams(SMALL), [contend(get_codec("zstd")), contend(Keeper())], BenchSettings(rounds=1))


@pytest.mark.parametrize("name", BUILT_IN)
def test_ours_decode_from_what_anybody_may_have(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are judged in this process; apart they come to the same."""
    here = evaluate_lossless(SMALL, replace(SETTINGS, codec=name), verify=True, workers=1)
    monkeypatch.setattr("pytest_h2o.lossless.executors.is_ours", lambda codec: False)
    monkeypatch.setattr(apart, "is_ours", lambda codec: False)
    there = evaluate_lossless(SMALL, replace(SETTINGS, codec=name), verify=True, workers=2)
    assert counted(here) == counted(there)
    assert there.encode_s > 0
    assert there.decode_s
    assert there.decode_s > 0


def test_what_only_looks_like_ours_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Mine(Zstd):
        id: ClassVar[str] = "zstd"

    assert is_ours(Zstd())
    assert not is_ours(Mine())
    Mine.__module__, Mine.__name__ = Zstd.__module__, "Zstd"
    assert not is_ours(Mine())
    monkeypatch.setattr(Zstd, "decode", lambda *given: np.zeros(0))
    assert not is_ours(Zstd())


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("dies", "came: its process ended: signal SIGKILL"),
        ("leaves", "came: its process ended: exit status 3"),
        ("exits", "came: SystemExit: 0"),
        ("unprintable", "came: KeyError"),
    ],
)
def test_a_codec_that_ends_its_process_is_named_with_the_stream(how: str, told: str) -> None:
    with pytest.raises(CodecError) as caught:
        evaluate_lossless(SMALL, SETTINGS, verify=True, codec=Odd(how), workers=1)
    assert str(caught.value).startswith("codec odd cannot encode a stream\n  where: ")
    assert told in str(caught.value)


@pytest.mark.parametrize("method", ["encode", "decode"])
@pytest.mark.parametrize("status", [0, 42])
def test_no_exit_status_is_an_answer(monkeypatch: pytest.MonkeyPatch, method: str, status: int) -> None:
    monkeypatch.setattr(Odd, method, lambda *given: os._exit(status))
    with pytest.raises(CodecError) as caught:
        evaluate_lossless(SMALL, SETTINGS, verify=True, codec=Odd(), workers=1)
    what = {"encode": "cannot encode a stream", "decode": "cannot decode what it encoded"}[method]
    assert str(caught.value).startswith(f"codec odd {what}\n  where: ")
    assert f"came: its process ended: exit status {status}\n" in str(caught.value)


@pytest.mark.parametrize("method", ["encode", "decode", "modes"])
def test_a_codec_that_never_answers_is_an_error(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(Odd, method, lambda *given: time.sleep(60), raising=False)
    others = family(os.getpid())
    with pytest.raises(CodecError, match=r"nothing in 0\.5 s") as caught:
        evaluate_lossless(SMALL, SETTINGS, verify=True, codec=Odd(), workers=1, limit_s=0.5)
    assert "--h2o-codec-timeout" in str(caught.value)
    assert family(os.getpid()) == others


def test_processes_end_with_the_evaluation() -> None:
    others, during = set(family(os.getpid())), [0]

    def count(*_: int) -> None:
        during.append(len(set(family(os.getpid())) - others))

    for codec in (Odd(), Odd("wrong")):
        with suppress(RoundTripError):
            evaluate_lossless(SMALL, SETTINGS, verify=True, codec=codec, workers=2, progress=count)
    assert max(during) >= 2  # that code for this process; the other one may have ended
    assert set(family(os.getpid())) == others


def test_the_process_that_decodes_never_met_the_one_that_encodes() -> None:
    with keep_apart(Keeper()) as coder:
        stream = Stream(np.arange(24, dtype=np.uint16).reshape(2, 3, 4), "k")
        payload = bytes(coder.encode_one(stream))
        assert coder.encode_one(stream) != payload  # the encoder stays the same process
        with pytest.raises(Exception, match="x00"):
            coder.decode_one(payload, stream.side_info())
    assert not Keeper.of_class
