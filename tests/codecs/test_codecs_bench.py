"""``pytest-h2o codecs``: what is counted, what is verified, what a fault does, and how it is written down."""

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_streams import DUMP, ROPE, SMALL
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.cli import codecs_bench as bench
from pytest_h2o.cli.codecs_bench import BenchSettings, Contender, DumpStream, Result, StreamSizes, measure, streams
from pytest_h2o.cli.main import main
from pytest_h2o.codecs import registry
from pytest_h2o.codecs.base import SideInfo, Stream, Words
from pytest_h2o.codecs.registry import get_codec
from pytest_h2o.errors import CodecError, DumpError, RoundTripError, UsageError

ORACLE = DUMP.parents[1] / "oracle" / "fp16"
SETTINGS = BenchSettings(chunk_tokens=4, framing_bytes=8, rounds=3)


def dump(seq_len: int = 10) -> list[DumpStream]:
    words = np.arange(seq_len * 6, dtype=np.uint16).reshape(seq_len, 2, 3)
    positions = np.arange(seq_len)
    return [
        DumpStream("a", layer, 5, Stream(words + layer, tensor, positions), 200)
        for layer in (0, 7)
        for tensor in ("k", "v")
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


def summary_of(*contenders: Contender, dumped: list[DumpStream] | None = None, **facts: Any) -> dict[str, Any]:
    results = measure(dump() if dumped is None else dumped, contenders, SETTINGS)
    known = {"dump": "a dump", "missing": {"other": "not installed"}, "one_thread": True, "load_1min": 0.25}
    return bench.summarize(results, SETTINGS, **{**known, **facts})


def test_every_byte_is_counted() -> None:
    (result,) = measure(dump(), [copier()], SETTINGS)
    raw_bytes = 10 * 2 * 3 * 2
    alone = [raw_bytes // 2 + 3 * (1 + 8)] * 2
    sizes = (raw_bytes + 3 * (1 + 8), raw_bytes + 1 + 4 + 4 * 5)
    expected = StreamSizes("a", 0, "k", raw_bytes, *sizes, "up to 512 tokens", alone)
    assert result.sizes[0] == expected
    assert [(s.layer, s.tensor) for s in result.sizes] == [(0, "k"), (0, "v"), (7, "k"), (7, "v")]
    assert result.verified_chunks == 4 * ((3 + 1) + 3 * 3), "sizes: 3 chunks and the whole; then 3 rounds of 3 chunks"


def test_bytes_are_those_of_the_original_scripts() -> None:
    """Their recorded sizes of the front layers, online and as upper bound."""
    settings = BenchSettings(chunk_tokens=192, framing_bytes=8, rounds=1)
    front = (dumped for dumped in streams(DUMP) if dumped.layer < 2)
    (result,) = measure(front, [bench.contend(get_codec("adaptive_v22"))], settings)
    for name, kind in (
        ("online_grouped_192_8_front2", "online_bytes"),
        ("aggregate_nostage_front2", "aggregate_bytes"),
    ):
        oracle = json.loads((ORACLE / f"{name}.json").read_text())
        for tensors, prefix in (("kv", ""), ("k", "k_"), ("v", "v_")):
            sizes = [getattr(s, kind) for s in result.sizes if s.tensor in tensors]
            assert sum(sizes) == oracle[f"{prefix}compressed_bytes"]


def test_rounds_are_interleaved_and_the_order_is_turned() -> None:
    order: list[str] = []

    def watched(name: str) -> Contender:
        def encode(stream: Stream) -> bytes:
            order.append(name)
            return copier().encode(stream)

        return copier(name, encode=encode)

    measure(dump()[:2], [watched("x"), watched("y")], BenchSettings(chunk_tokens=100, rounds=2))
    sizes = "xxxxyyyy"  # the chunk, the stream whole, and two heads of the chunk
    assert "".join(order) == sizes + "xy" + "yx" + sizes + "yx" + "xy"


def test_slow_contenders_get_fewer_rounds() -> None:
    settings = BenchSettings(rounds=7, slow_rounds=2)
    for elapsed_s, rounds in ((0.2, 7), (0.9, 7), (1.1, 2)):
        result = Result(copier())
        bench._set_rounds(result, settings, 10.0, elapsed_s)
        assert (len(result.encode_s), len(result.decode_s)) == (rounds, rounds)
    summary = summary_of(copier("a"), copier("b"))
    summary["contenders"][0]["encode_mb_per_s"]["rounds"] = [1.0, 2.0]
    assert "\nFewer rounds, because they are slow: a 2.\n" in bench.render_markdown(summary)


def _in_place(stream: Stream) -> bytes:
    np.bitwise_and(stream.words, 0xF000, out=stream.words)
    return stream.words.tobytes()


def _fails(stream: Stream) -> bytes:
    raise ZeroDivisionError("of its own")


FAULTS: dict[str, dict[str, Any]] = {
    "a bit": {"decode": wrong_bit},
    "a shape": {"decode": lambda payload, side: np.zeros((1, 2, 3), np.uint16)},
    "an error": {"encode": _fails},
    "no bytes": {"encode": lambda stream: stream.words.copy()},
    "in place": {"encode": _in_place},
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_a_codec_stops_everything_and_one_of_a_peer_leaves_it_out(
    name: str, snapshot: SnapshotAssertion
) -> None:
    changes = FAULTS[name]
    with pytest.raises(CodecError if "encode" in changes else RoundTripError) as caught:
        measure(dump(), [copier(**changes)], SETTINGS)
    assert str(caught.value) == snapshot
    summary = summary_of(copier(), copier("bad", kind="peer", **changes))
    assert [c["name"] for c in summary["contenders"]] == ["copy"]
    assert summary["missing"]["other"] == "not installed"
    assert summary["missing"]["bad"].startswith("run a, layer 0, K: ")
    assert f"- bad: {summary['missing']['bad']}" in bench.render_markdown(summary)


@pytest.mark.parametrize("name", ["chunk_tokens", "framing_bytes", "front_layers", "rounds", "slow_rounds"])
def test_settings_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name.replace('_', ' ')} is too small"):
        BenchSettings(**{name: -1})


def test_summary_splits_by_front_layer_run_and_tensor() -> None:
    summary = summary_of(copier())
    (contender,) = summary["contenders"]
    assert set(contender["online"]) == {"front", "all", "layers", "runs", "prompt_lengths", "heads"}
    assert contender["online"]["prompt_lengths"] == {"up to 512 tokens": contender["online"]["all"]}
    assert contender["online"]["heads"] == {head: dict.fromkeys(("kv", "k", "v"), 60 / 87) for head in "01"}
    assert set(contender["online"]["layers"]) == {"0", "7"}
    assert set(contender["online"]["runs"]) == {"a"}
    for ratios in (contender["online"]["front"], contender["online"]["all"], contender["online"]["layers"]["7"]):
        assert ratios == dict.fromkeys(("kv", "k", "v"), 120 / 147)
    assert contender["aggregate"]["all"]["kv"] == 120 / 145
    assert len(contender["encode_mb_per_s"]["rounds"]) == SETTINGS.rounds
    assert json.loads(bench.render_json(summary)) == summary


def _markdown(summary: dict[str, Any]) -> str:
    """With times and the machine left out."""
    for contender in summary["contenders"]:
        contender["encode_mb_per_s"]["median"], contender["decode_mb_per_s"]["median"] = 1234.5, 1.2345
    summary["environment"] |= {"system": "OS", "machine": "CPU", "cpus": 2, "python": "3", "versions": {"numpy": "2"}}
    return bench.render_markdown(summary)


def test_markdown_is_what_it_is(snapshot: SnapshotAssertion) -> None:
    assert _markdown(summary_of(copier("a|b", kind="peer", version="1.2", settings="plain"))) == snapshot
    facts = {"missing": {}, "one_thread": False, "load_1min": None}
    assert _markdown(summary_of(copier(), dumped=dump()[2:], **facts)) == snapshot(name="no front layers")


def test_a_dump_without_prompts_is_not_split_by_their_length() -> None:
    text = bench.render_markdown(summary_of(copier(), dumped=[replace(one, prompt_tokens=None) for one in dump()]))
    assert "By KV head" in text
    assert "By length" not in text


def test_the_chart_names_everything() -> None:
    pytest.importorskip("matplotlib")
    summary = summary_of(copier("one"), copier("two $x$ <&>", kind="peer"))
    text = bench.render_svg(summary)
    assert text == bench.render_svg(summary)
    texts = "".join(ElementTree.fromstring(text).itertext())
    for name in ("one", "two $x$ <&>", "codecs", "peers", "Codecs on a dump"):
        assert name in texts


@pytest.mark.parametrize("name", bench.PEERS)
def test_peers_give_their_input_back(name: str) -> None:
    pytest.importorskip({"lz4": "lz4.block"}.get(name, name))
    real = [next(iter(streams(SMALL)))]
    (result,) = measure(real, [bench.load_peer(name)], replace(SETTINGS, chunk_tokens=192, rounds=1))
    assert result.failure is None
    assert 0.99 < result.sizes[0].raw_bytes / result.sizes[0].online_bytes < 2
    assert result.verified_chunks == 3 + 1 + 3


def test_a_peer_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "blosc2", None)
    with pytest.raises(UsageError) as caught:
        bench.load_peer("blosc2")
    assert caught.value.what == "the peer 'blosc2' is not installed"
    assert caught.value.hint == "pip install 'pytest-h2o[peers]'"


def test_a_codec_is_a_contender_under_its_word() -> None:
    contender = bench.contend(get_codec("zstd", level=19))
    assert (contender.name, contender.kind, contender.settings) == ("zstd:level=19", "codec", "level=19")


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SMALL, tmp_path / "dump")) / "code" / "layer_1"


def test_all_bytes_of_a_dump_are_in_its_streams() -> None:
    oracle = json.loads((ORACLE / "all_layers_grouped.json").read_text())
    dumped = list(streams(DUMP, ROPE))
    for tensor in ("k", "v"):
        chosen = [d for d in dumped if d.stream.tensor == tensor]
        assert sum(d.stream.raw_bytes for d in chosen) == oracle[f"{tensor}_raw_bytes"]
        assert sum(d.entries for d in chosen) == oracle["selected_entries"]
        assert all(d.stream.rope == (ROPE if tensor == "k" else None) for d in chosen)
    assert [(d.run_id, d.layer) for d in dumped[::2]] == [
        (run, layer) for run in ("code", "log", "prose") for layer in (0, 1, 2, 15, 29)
    ]


def test_entries_stand_in_order_of_their_positions(layer: Path) -> None:
    (k, _) = streams(layer.parents[1])
    assert k.stream.positions.tolist() == list(range(471))
    for name, start, end in (("k_t0_1", 0, 1), ("k_t6_7", 6, 7), ("k_t7_470", 7, 470), ("k_t470_471", 470, 471)):
        words = np.fromfile(layer / f"{name}.bin", "<u2").reshape(-1, 3, 64)
        assert np.array_equal(k.stream.words[start:end], words)


def test_an_entry_that_cannot_be_read_is_not_passed_over(layer: Path) -> None:
    file = layer / "v_t7_470.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DumpError) as caught:
        list(streams(layer.parents[1]))
    error = caught.value
    assert error.what == "a dump has entries that cannot be read"
    assert error.where == f"{layer.parents[1]}/code/layer_1/meta_t7_470.json"
    assert error.came.startswith("binary_read_error: ")
    assert error.came.endswith("(1 of 9 entries)")


QUICK = ["codecs", "bench", str(SMALL / "code" / "layer_1"), "--rounds", "1", "--peers"]


def test_the_list_has_every_codec(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["codecs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(registry.codec_names())
    at = lines.index("zstd            One zstd frame of the raw words.")
    assert lines[at + 1] == "                level=3"


def test_a_codec_that_cannot_be_loaded_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion
) -> None:
    few = {"zstd": registry.BUILT_IN["zstd"], "gone": "pytest_h2o.codecs.gone:Gone"}
    monkeypatch.setattr(registry, "BUILT_IN", few)
    assert main(["codecs"]) == 2
    output = capsys.readouterr()
    assert output.err == snapshot
    assert "zstd" in output.out
    assert main(QUICK) == 0
    assert "- gone: codec 'gone' cannot be loaded" in capsys.readouterr().out


def test_bench_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out_json, out_md = tmp_path / "out.json", tmp_path / "out.md"
    chosen = ["--codecs", "byteplane", "zstd:level=1", "--chunk", "100", "--framing", "16"]
    arguments = [*QUICK, *chosen, "--out-json", str(out_json), "--out-md", str(out_md)]
    assert main(arguments) == 0
    assert out_md.read_text() == capsys.readouterr().out
    summary = json.loads(out_json.read_text())
    assert summary["schema"] == "pytest-h2o/codecs-bench/1"
    assert summary["dump"] == "layer_1"
    assert [c["name"] for c in summary["contenders"]] == ["byteplane", "zstd:level=1"]
    numbers = {"chunk_tokens": 100, "framing_bytes": 16, "front_layers": 2, "rounds": 1, "slow_rounds": 1}
    assert summary["settings"] == numbers
    assert summary["contenders"][0]["online"]["all"]["kv"] > 1.1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.md"]
    out_md.write_text("kept")
    assert main(arguments) == 2, "a result is not overwritten unasked"
    assert "next: --overwrite replaces it; or choose another output\n" in capsys.readouterr().err
    assert out_md.read_text() == "kept"
    assert main([*arguments, "--overwrite"]) == 0
    assert out_md.read_text().startswith("# Codecs on layer_1")


REFUSED = (
    ["codecs", "bench", "nowhere", "--peers", "none"],
    [*QUICK, "--codecs", "zst"],
    [*QUICK, "--codecs", "zstd", "zstd:level=3"],
    [*QUICK, "lz5"],
    [*QUICK, "--chunk", "0"],
    [*QUICK, "--rope-theta", "-1"],
)


def test_what_cannot_be_done_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    snapshot: SnapshotAssertion,
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in REFUSED:
        assert main(arguments) == 2
    assert capsys.readouterr().err == snapshot


def test_a_chart_without_matplotlib_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("measured first"))
    assert main([*QUICK, "--out-svg", str(tmp_path / "chart.svg")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pytest-h2o codecs: the chart needs matplotlib, which is not installed\n")
    assert "pip install matplotlib, or leave --out-svg out" in error


def test_other_bits_are_a_failure_and_not_bad_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RoundTripError("zstd decoded to other bits")

    monkeypatch.setattr(bench, "measure", fail)
    assert main([*QUICK, "--codecs", "zstd"]) == 1
    assert capsys.readouterr().err == "pytest-h2o codecs: zstd decoded to other bits\n"


def test_libraries_are_held_to_one_thread() -> None:
    """In a process of its own, where numpy is not loaded yet."""
    source = (
        "import os, sys; from pytest_h2o.cli.main import main; assert 'numpy' not in sys.modules\n"
        f"assert main({[*QUICK, '--codecs', 'zstd']!r}) == 0\n"
        "assert os.environ['OPENBLAS_NUM_THREADS'] == '1'"
    )
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "interleaved rounds, one thread." in run.stdout
