"""The comparison: what is counted, what is verified, what a fault does, and how it is written down."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sample_streams import DUMP

from pytest_h2o.cli.codecs import (
    BenchSettings,
    Contender,
    DumpStream,
    Result,
    StreamSizes,
    _fewer_rounds,
    _set_rounds,
    contend,
    load_peer,
    measure,
    peer_names,
    ratio,
    render_json,
    render_markdown,
    render_svg,
    streams,
    summarize,
)
from pytest_h2o.codecs.base import SideInfo, Stream, Words
from pytest_h2o.codecs.registry import get_codec
from pytest_h2o.errors import CodecError, RoundTripError, UsageError

SETTINGS = BenchSettings(chunk_tokens=4, framing_bytes=8, rounds=3)


def dump(seq_len: int = 10) -> list[DumpStream]:
    words = np.arange(seq_len * 6, dtype=np.uint16).reshape(seq_len, 2, 3)
    positions = np.arange(seq_len)
    return [
        DumpStream("a", layer, 5, Stream(words + layer, tensor, positions)) for layer in (0, 7) for tensor in ("k", "v")
    ]


def copier(name: str = "copy", **changes: Any) -> Contender:
    """Stores the words with one byte before them."""

    def encode(stream: Stream) -> bytes:
        return b"#" + stream.words.tobytes()

    def decode(payload: bytes, side: SideInfo) -> Words:
        return np.frombuffer(payload[1:], np.uint16).reshape(side.shape)

    return replace(Contender(name, "codec", "none", "", encode, decode), **changes)


def wrong_bit(payload: bytes, side: SideInfo) -> Words:
    words = np.frombuffer(payload[1:], np.uint16).reshape(side.shape).copy()
    words.flat[-1] ^= 0x8000
    return words


def summary_of(contenders: Iterable[Contender], settings: BenchSettings = SETTINGS) -> dict[str, Any]:
    results = measure(dump(), list(contenders), settings)
    return summarize(
        results, settings, dump="a dump", missing={"other": "not installed"}, one_thread=True, load_1min=0.25
    )


def test_every_byte_is_counted() -> None:
    (result,) = measure(dump(), [copier()], SETTINGS)
    raw_bytes = 10 * 2 * 3 * 2
    expected = StreamSizes("a", 0, "k", raw_bytes, raw_bytes + 3 * (1 + 8), raw_bytes + 1 + 4 + 4 * 5)
    assert result.sizes[0] == expected
    assert [(s.layer, s.tensor) for s in result.sizes] == [(0, "k"), (0, "v"), (7, "k"), (7, "v")]
    assert ratio(result.sizes, online=True) == 4 * raw_bytes / (4 * (raw_bytes + 27))
    assert ratio(result.sizes, online=False) == raw_bytes / (raw_bytes + 25)
    assert ratio([], online=True) is None


def test_bytes_are_those_of_the_original_scripts() -> None:
    """Their recorded sizes of the front layers, online and as upper bound."""
    settings = BenchSettings(chunk_tokens=192, framing_bytes=8, rounds=1)
    front = (dumped for dumped in streams(DUMP) if dumped.layer < 2)
    (result,) = measure(front, [contend(get_codec("adaptive_v22"))], settings)
    for name, kind in (
        ("online_grouped_192_8_front2", "online_bytes"),
        ("aggregate_nostage_front2", "aggregate_bytes"),
    ):
        oracle = json.loads((DUMP.parents[1] / "oracle" / "fp16" / f"{name}.json").read_text())
        assert sum(getattr(sizes, kind) for sizes in result.sizes) == oracle["compressed_bytes"]
        for tensor in ("k", "v"):
            sizes = [getattr(s, kind) for s in result.sizes if s.tensor == tensor]
            assert sum(sizes) == oracle[f"{tensor}_compressed_bytes"]


def test_every_decode_is_verified() -> None:
    (result,) = measure(dump(), [copier()], SETTINGS)
    assert result.verified_chunks == 4 * ((3 + 1) + 3 * 3), "sizes: 3 chunks and the whole; then 3 rounds of 3 chunks"


def test_chunks_know_their_positions() -> None:
    seen = []

    def encode(stream: Stream) -> bytes:
        assert stream.positions is not None
        seen.append(stream.positions.tolist())
        return copier().encode(stream)

    measure(dump()[:1], [copier(encode=encode)], replace(SETTINGS, rounds=1))
    assert seen[:4] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], list(range(10))]


def test_speed_is_the_median_of_rounds() -> None:
    sizes = [StreamSizes("a", 0, "k", 3_000_000, 1, 1)]
    result = Result(copier(), sizes, encode_s=[0.5, 10.0, 1.0], decode_s=[3.0])
    assert result.mb_per_s(result.encode_s) == 3.0
    assert result.mb_per_s(result.decode_s) == 1.0


def test_rounds_are_interleaved_and_the_order_is_turned() -> None:
    order: list[str] = []

    def watched(name: str) -> Contender:
        def encode(stream: Stream) -> bytes:
            order.append(name)
            return copier().encode(stream)

        return copier(name, encode=encode)

    measure(dump()[:2], [watched("x"), watched("y")], BenchSettings(chunk_tokens=100, rounds=2))
    sizes = "xxyy"  # the chunk, and the stream whole
    assert "".join(order) == sizes + "xy" + "yx" + sizes + "yx" + "xy"


def test_other_bits_from_a_codec_stop_everything() -> None:
    with pytest.raises(RoundTripError) as caught:
        measure(dump(), [copier(decode=wrong_bit)], SETTINGS)
    assert str(caught.value) == (
        "copy decoded to other bits\n"
        "  where: run a, layer 0, K, word 23 of 24 in a chunk of 4 tokens\n"
        "  came: 0x8017 (1 words differ)\n"
        "  expected: 0x0017"
    )


def test_another_shape_from_a_codec_stops_everything() -> None:
    with pytest.raises(RoundTripError) as caught:
        measure(dump(), [copier(decode=lambda payload, side: np.zeros((1, 2, 3), np.uint16))], SETTINGS)
    assert str(caught.value) == (
        "copy decoded to another shape\n  where: run a, layer 0, K\n  came: <u2 [1, 2, 3]\n  expected: uint16 [4, 2, 3]"
    )


def test_an_exception_of_a_codec_is_no_traceback() -> None:
    def encode(stream: Stream) -> bytes:
        raise ZeroDivisionError("of its own")

    with pytest.raises(CodecError) as caught:
        measure(dump(), [copier(encode=encode)], SETTINGS)
    assert str(caught.value) == (
        "codec copy failed\n  where: run a, layer 0, K\n  came: ZeroDivisionError: of its own\n"
        "  expected: bytes, or a CodecError"
    )


def test_a_peer_that_fails_is_named_and_left_out() -> None:
    summary = summary_of([copier(), copier("bad", kind="peer", decode=wrong_bit)])
    assert [c["name"] for c in summary["contenders"]] == ["copy"]
    assert summary["missing"]["other"] == "not installed"
    assert summary["missing"]["bad"].startswith("run a, layer 0, K: RoundTripError: bad decoded to other bits")
    assert "- bad: run a, layer 0, K: RoundTripError: bad decoded to other bits" in render_markdown(summary)


@pytest.mark.parametrize("name", ["chunk_tokens", "framing_bytes", "front_layers", "rounds", "slow_rounds"])
def test_settings_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name.replace('_', ' ')} is too small"):
        BenchSettings(**{name: -1})


def test_summary_splits_by_front_layer_run_and_tensor() -> None:
    summary = summary_of([copier()])
    (contender,) = summary["contenders"]
    assert set(contender["online"]) == {"front", "all", "layers", "runs"}
    assert set(contender["online"]["layers"]) == {"0", "7"}
    assert set(contender["online"]["runs"]) == {"a"}
    for ratios in (contender["online"]["front"], contender["online"]["all"], contender["online"]["layers"]["7"]):
        assert ratios == dict.fromkeys(("kv", "k", "v"), 120 / 147)
    assert contender["aggregate"]["all"]["kv"] == 120 / 145
    assert len(contender["encode_mb_per_s"]["rounds"]) == SETTINGS.rounds
    assert json.loads(render_json(summary)) == summary


def test_a_dump_without_front_layers_has_no_front_ratio() -> None:
    results = measure(dump()[2:], [copier()], SETTINGS)
    summary = summarize(results, SETTINGS, dump="x", missing={}, one_thread=False, load_1min=None)
    assert summary["contenders"][0]["online"]["front"] == {"kv": None, "k": None, "v": None}
    assert "| copy | – | 0.816 | 0.816 | 0.816 | – | 0.828 |" in render_markdown(summary)
    assert "one thread" not in render_markdown(summary)
    assert "load" not in render_markdown(summary)


def test_markdown_is_what_it_is() -> None:
    summary = summary_of([copier("a|b", kind="peer", version="1.2", settings="plain")])
    for contender in summary["contenders"]:
        contender["encode_mb_per_s"]["median"], contender["decode_mb_per_s"]["median"] = 1234.5, 1.2345
    text = render_markdown(summary)
    assert text.startswith(
        "# Codecs on a dump\n\n"
        "0.00 MB of raw fp16 in 4 streams. Ratio is raw bytes / encoded bytes (higher is better).\n"
        "Online: chunks of 4 tokens, each coded alone, 8 bytes of framing a chunk and tensor counted."
        " Aggregate: streams coded whole.\n"
        "Speed: MB (10^6 raw bytes) a processor second on online chunks, those of a stream decoded together; median of"
        " 3 interleaved rounds, one thread."
        " Every decode was compared bit for bit.\n\n"
        "| codec | online, front 2 | online, all | online, K | online, V | aggregate, front 2 | aggregate, all"
        " | encode MB/s | decode MB/s |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| a\\|b | 0.816 | 0.816 | 0.816 | 0.816 | 0.828 | 0.828 | 1234 | 1.23 |\n\n"
        "By layer, online, K / V:\n\n"
        "| codec | layer 0 | layer 7 |\n| --- | ---: | ---: |\n| a\\|b | 0.816 / 0.816 | 0.816 / 0.816 |\n"
    )
    assert " CPUs, load 0.2 before the run, Python " in text
    assert "\nPeers: a|b 1.2 (plain).\n\nNot measured:\n\n- other: not installed\n" in text


def test_the_chart_names_everything() -> None:
    pytest.importorskip("matplotlib")
    summary = summary_of([copier("one"), copier("two $x$ <&>", kind="peer")])
    text = render_svg(summary)
    assert text == render_svg(summary)
    texts = "".join(ElementTree.fromstring(text).itertext())
    for name in ("one", "two $x$ <&>", "codecs", "peers", "Codecs on a dump"):
        assert name in texts


@pytest.mark.parametrize("name", peer_names())
def test_peers_give_their_input_back(name: str) -> None:
    pytest.importorskip({"lz4": "lz4.block"}.get(name, name))
    real = [next(iter(streams(DUMP)))]
    (result,) = measure(real, [load_peer(name)], replace(SETTINGS, chunk_tokens=192, rounds=1))
    assert result.failure is None
    assert 0.99 < (ratio(result.sizes, online=True) or 0) < 2
    assert result.verified_chunks == 3 + 1 + 3


def test_an_unknown_peer_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        load_peer("blosc")
    assert str(caught.value) == "there is no peer 'blosc'\n  expected: blosc2, pcodec, zipnn, lz4"


def test_a_peer_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "blosc2", None)
    with pytest.raises(UsageError) as caught:
        load_peer("blosc2")
    assert caught.value.what == "the peer 'blosc2' is not installed"
    assert caught.value.hint == "pip install 'pytest-h2o[peers]'"


def test_a_codec_is_a_contender_under_its_word() -> None:
    contender = contend(get_codec("zstd", level=19))
    assert (contender.name, contender.kind, contender.settings) == ("zstd:level=19", "codec", "level=19")


def test_slow_contenders_get_fewer_rounds() -> None:
    settings = BenchSettings(rounds=7, slow_rounds=2)
    rounds = {}
    for elapsed_s in (0.2, 0.9, 1.1):
        result = Result(copier())
        _set_rounds(result, settings, 10.0, elapsed_s)
        rounds[elapsed_s] = (len(result.encode_s), len(result.decode_s))
    assert rounds == {0.2: (7, 7), 0.9: (7, 7), 1.1: (2, 2)}
    assert _fewer_rounds([{"name": "a", "encode_mb_per_s": {"rounds": [1.0, 2.0]}}], 7) == [
        "",
        "Fewer rounds, because they are slow: a 2.",
    ]
    assert _fewer_rounds([{"name": "a", "encode_mb_per_s": {"rounds": [1.0, 2.0]}}], 2) == []
