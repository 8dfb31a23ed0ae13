"""The measurement behind ``pytest-h2o codecs bench``: every codec and peer on every stream, each decode compared.

Sizes are counted to the byte, on chunks coded alone (online) and on streams coded whole (aggregate). Time is processor
time on the chunks, over rounds in which the contenders take turns.
"""

from __future__ import annotations

import importlib
import io
import itertools
import json
import os
import platform
import statistics
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import pytest_h2o
from pytest_h2o.codecs.base import Codec, Rope, SideInfo, Stream, Tensor, Words, read_config
from pytest_h2o.codecs.planes import from_bytes, to_bytes
from pytest_h2o.codecs.registry import render_codec
from pytest_h2o.errors import CodecError, DumpError, H2OError, UsageError
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless.apart import keep_apart, processor_s
from pytest_h2o.lossless.index import (
    DumpEntry,
    Health,
    Piece,
    examine,
    find_faults,
    index_dump,
    prompt_lengths,
    read_pieces,
)
from pytest_h2o.lossless.measure import check_payload, difference, is_same
from pytest_h2o.lossless.result import PROMPT_CLASS_NAMES, prompt_class

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Encode = Callable[[Stream], bytes]
Decode = Callable[[bytes, SideInfo], Words]
Given = tuple[Stream, Words]
"""What a contender gets, and the words that its decoder is held against."""


@dataclass(frozen=True)
class Contender:
    """Something that encodes a stream and decodes it again; `version` is of a peer's library."""

    name: str
    kind: Literal["codec", "peer"]
    settings: str
    version: str
    encode: Encode
    decode: Decode
    decode_many: Callable[[Sequence[bytes], Sequence[SideInfo]], list[Words]] | None = None
    codec: Codec | None = None

    def decode_all(self, payloads: Sequence[bytes], sides: Sequence[SideInfo]) -> list[Words]:
        """Decode several payloads, in the fastest way there is."""
        if self.decode_many is not None:
            return self.decode_many(payloads, sides)
        return [self.decode(payload, side) for payload, side in zip(payloads, sides, strict=True)]


def contend(codec: Codec) -> Contender:
    """`codec` as a contender, under the word that names it on a command line."""
    settings = ", ".join(f"{key}={value}" for key, value in read_config(codec).items() if key != "id")
    return Contender(render_codec(codec), "codec", settings, "", codec.encode, codec.decode, codec.decode_many, codec)


def load_peer(name: str) -> Contender:
    """The peer `name`, its library imported."""
    if name not in PEERS:
        raise UsageError(f"there is no peer {name!r}", expected=", ".join(PEERS))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside libraries that are only compared here
            settings, encode, decode = PEERS[name]()
    except ImportError as error:
        raise UsageError(
            f"the peer {name!r} is not installed", came=str(error), hint="pip install 'pytest-h2o[peers]'"
        ) from error
    return Contender(name, "peer", settings, metadata.version(name), encode, decode)


def _blosc2() -> tuple[str, Encode, Decode]:
    blosc2 = importlib.import_module("blosc2")
    options = {"typesize": 2, "clevel": 5, "codec": blosc2.Codec.ZSTD, "filters": [blosc2.Filter.SHUFFLE]}
    return (
        "shuffle, zstd, level 5",
        lambda stream: blosc2.compress2(to_bytes(stream.words), **options, nthreads=1),
        lambda payload, side: from_bytes(blosc2.decompress2(payload, nthreads=1), side.shape),
    )


def _pcodec() -> tuple[str, Encode, Decode]:
    standalone = importlib.import_module("pcodec.standalone")
    config = importlib.import_module("pcodec").ChunkConfig(compression_level=8)

    def encode(stream: Stream) -> bytes:
        words = np.ascontiguousarray(stream.words).reshape(-1)
        payload: bytes = standalone.simple_compress(words.view(np.float16) if stream.dtype == "fp16" else words, config)
        return payload

    def decode(payload: bytes, side: SideInfo) -> Words:
        if side.words == 0:
            return np.empty(side.shape, np.uint16)
        words: Words = standalone.simple_decompress(payload).view(np.uint16).reshape(side.shape)
        return words

    return "float16, or uint16 for bf16; level 8", encode, decode


def _zipnn() -> tuple[str, Encode, Decode]:
    make = importlib.import_module("zipnn").ZipNN
    names = {"fp16": "float16", "bf16": "bfloat16"}
    coders = {dtype: make(input_format="byte", bytearray_dtype=name, threads=1) for dtype, name in names.items()}
    return (
        "float16 or bfloat16",
        lambda stream: bytes(coders[stream.dtype].compress(to_bytes(stream.words))),
        lambda payload, side: from_bytes(coders[side.dtype].decompress(bytearray(payload)), side.shape),
    )


def _lz4() -> tuple[str, Encode, Decode]:
    block = importlib.import_module("lz4.block")
    return (
        "block, default level",
        lambda stream: block.compress(to_bytes(stream.words)),
        lambda payload, side: from_bytes(block.decompress(payload), side.shape),
    )


PEERS: Mapping[str, Callable[[], tuple[str, Encode, Decode]]] = {
    "blosc2": _blosc2, "pcodec": _pcodec, "zipnn": _zipnn, "lz4": _lz4,
}  # fmt: skip
"""Distribution -> what imports it and gives its settings in words, encoder and decoder."""


@dataclass(frozen=True)
class DumpStream:
    """All tokens of one run and layer, K or V, joined of so many entries; `run_id` is empty where there is none.

    `prompt_tokens` is where the prefill of the run ends, None where it has none.
    """

    run_id: str
    layer: int
    entries: int
    stream: Stream
    prompt_tokens: int | None = None

    def __str__(self) -> str:
        return f"run {self.run_id}, layer {self.layer}, {self.stream.tensor.upper()}"


def streams(
    dump_dir: str | os.PathLike[str],
    rope: Rope | None = None,
    tell: Callable[[str], object] = lambda text: None,
    front_layers: int | None = None,
) -> Iterator[DumpStream]:
    """Yield K, then V of each run and layer of a dump; one stream is in memory at a time.

    Entries of a run and layer stand in order of their first position, equal ones in path order, and are joined as
    they are: an overlap is coded twice. `tell` takes, at the end, what speaks against a ratio of such words, or is
    missing: of the `front_layers` where somebody named them, and else where the dump is not one of a single layer.
    """
    index = index_dump(dump_dir)
    if index.skipped:
        first = index.skipped[0]
        raise DumpError(
            "a dump has entries that cannot be read",
            where=str(Path(index.root, first.path)),
            came=f"{first.reason}: {first.detail} ({len(index.skipped)} of {index.scanned_entries} entries)",
            hint="remove these entries, or record the dump again",
        )
    prompts = prompt_lengths(index.entries)
    seen: dict[tuple[int, str], dict[str | None, Health]] = {}
    groups: dict[tuple[str, int, int, int, bool], list[DumpEntry]] = {}
    for entry in index.entries:
        key = (entry.run_id or "", entry.layer_id, entry.kv_heads, entry.head_dim, entry.bf16)
        groups.setdefault(key, []).append(entry)
    for (run_id, layer, *_), group in sorted(groups.items(), key=lambda item: item[0]):
        group.sort(key=lambda entry: entry.seq_start)
        pieces = [Piece(entry, 0, entry.seq_len) for entry in group]
        positions = np.concatenate([np.arange(e.seq_start, e.seq_start + e.seq_len, dtype=np.int64) for e in group])
        tensor: Tensor
        for tensor in ("k", "v"):
            known_rope = rope if tensor == "k" else None
            stream = Stream(read_pieces(pieces, tensor), tensor, positions, known_rope, group[0].dtype)
            dumped = DumpStream(run_id, layer, len(group), stream, prompts.get(group[0].run_id))
            for run, health in examine(stream.words, pieces).items():
                seen.setdefault((layer, tensor), {}).setdefault(run, Health()).add(health)
            yield dumped
    several = len({entry.layer_id for entry in index.entries}) > 1
    front = front_layers or DEFAULT_FRONT if front_layers or several else 0
    scope = Scope(scope="layer_range", layer_start=0)
    for fault in find_faults(index, scope, index.entries, (), seen):
        tell(fault.detail)
    if lost := sorted(set(range(front)) - {layer for layer, _ in seen}):
        tell(f"of the {front} front layers the dump holds nothing of {', '.join(map(str, lost[:3]))}")


DEFAULT_FRONT = 2
SLOW_MB_PER_S = 10.0
"""10**6 raw bytes a processor second, encoded and decoded again."""
_SLOW_S = 0.3
"""Shorter than this no stream tells how fast a codec is."""


@dataclass(frozen=True)
class BenchSettings:
    """How a comparison is made.

    `framing_bytes` is what an online chunk of one tensor is charged with, `front_layers` how many from 0 are "front";
    contenders that come to less than `SLOW_MB_PER_S` on the first stream are timed in `slow_rounds`.
    """

    chunk_tokens: int = 192
    framing_bytes: int = 8
    front_layers: int = DEFAULT_FRONT
    rounds: int = 5
    slow_rounds: int = 1

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name == "framing_bytes" else 1
            if value < least:
                what = f"{name.replace('_', ' ')} is too small"
                raise UsageError(what, came=str(value), expected=f"at least {least}")


@dataclass(frozen=True)
class StreamSizes:
    """Bytes of one stream with one contender."""

    run_id: str
    layer: int
    tensor: Tensor
    raw_bytes: int
    online_bytes: int
    aggregate_bytes: int
    prompt_class: str | None
    head_bytes: list[int]
    """Of each KV head coded alone, in online chunks."""


@dataclass
class Result:
    """What one contender did; filled stream by stream.

    `encode_s` and `decode_s` are processor seconds of each round, all streams together. `failure` says why a peer is
    out of the comparison; a codec is never: its failure is an error. `coder` is what is counted and verified: the
    contender, a codec kept apart.
    """

    contender: Contender
    coder: Contender = field(init=False)
    sizes: list[StreamSizes] = field(default_factory=list)
    encode_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)
    verified_chunks: int = 0
    failure: str | None = None

    def __post_init__(self) -> None:
        self.coder = self.contender

    def mb_per_s(self, rounds_s: Sequence[float]) -> float:
        """Median speed over rounds, in 10**6 raw bytes a second."""
        return sum(s.raw_bytes for s in self.sizes) / 1e6 / statistics.median(rounds_s)


def measure(dump: Iterable[DumpStream], contenders: Sequence[Contender], settings: BenchSettings) -> list[Result]:
    """Measure `contenders` on the streams of a dump, one stream in memory at a time.

    They get a copy of the words that they cannot write to, and are held against the words, which they never have. The
    sizes of a codec of a third party are those that it decodes from in a process of its own; its speed is taken here.
    """
    results = [Result(contender) for contender in contenders]
    with ExitStack() as apart:
        for result in results:
            if result.contender.codec is not None:
                coder = apart.enter_context(keep_apart(result.contender.codec))
                result.coder = replace(result.contender, encode=coder.encode_one, decode=coder.decode_one)
        _measure(dump, results, settings)
    return results


def _measure(dump: Iterable[DumpStream], results: list[Result], settings: BenchSettings) -> None:
    for number, dumped in enumerate(dump):
        given = dumped.stream.words.copy()
        given.flags.writeable = False
        whole = replace(dumped.stream, words=given), dumped.stream.words
        chunks = [*_cut(*whole, settings.chunk_tokens)]
        for result in results:
            codec = result.contender.codec
            if codec is not None and dumped.stream.dtype not in codec.dtypes:
                result.failure = (
                    f"codes {' and '.join(codec.dtypes)} only, by its definition; the dump has {dumped.stream.dtype}"
                )
            started = processor_s()
            with _blaming(result, dumped):
                _add_sizes(result, dumped, chunks, whole, settings)
            if number == 0:
                _set_rounds(result, settings, 3 * dumped.stream.raw_bytes / 1e6, processor_s() - started)
        for round_index in range(settings.rounds):
            shift = (number + round_index) % max(1, len(results))
            for result in results[shift:] + results[:shift]:
                if round_index < len(result.encode_s):
                    with _blaming(result, dumped):
                        _add_times(result, dumped, chunks, round_index)


def _set_rounds(result: Result, settings: BenchSettings, coded_mb: float, elapsed_s: float) -> None:
    """Decide how often a contender is timed, from how long it took for the sizes."""
    slow = elapsed_s > _SLOW_S and coded_mb < SLOW_MB_PER_S * elapsed_s
    rounds = min(settings.rounds, settings.slow_rounds) if slow else settings.rounds
    result.encode_s, result.decode_s = [0.0] * rounds, [0.0] * rounds


@contextmanager
def _blaming(result: Result, dumped: DumpStream) -> Iterator[None]:
    """Whatever goes wrong takes a peer out of the comparison, and is an error for a codec of ours."""
    try:
        yield
    except Exception as error:
        if result.contender.kind == "peer":
            result.failure = result.failure or f"{dumped}: {type(error).__name__}: {error}"
        elif isinstance(error, H2OError):
            raise
        else:
            raise CodecError(
                f"codec {result.contender.name} failed",
                where=str(dumped),
                came=f"{type(error).__name__}: {error}",
                expected="bytes, or a CodecError",
            ) from error


def _add_sizes(
    result: Result, dumped: DumpStream, chunks: Sequence[Given], whole: Given, settings: BenchSettings
) -> None:
    """Code the chunks, and the stream whole, untimed; verify both."""
    if result.failure is not None:
        return
    sizes = []
    for stream, words in (*chunks, whole):
        payload = result.coder.encode(stream)
        check_payload(payload, result.contender.name, str(dumped))
        _verify(result, dumped, words, result.coder.decode(payload, stream.side_info()))
        sizes.append(len(payload))
    alone = [0] * whole[1].shape[1]
    for head, (stream, _) in itertools.product(range(len(alone)), chunks):
        one = replace(stream, words=stream.words[:, head : head + 1])
        alone[head] += len(result.coder.encode(one)) + settings.framing_bytes
    result.sizes.append(
        StreamSizes(
            dumped.run_id,
            dumped.layer,
            dumped.stream.tensor,
            dumped.stream.raw_bytes,
            sum(sizes[:-1]) + settings.framing_bytes * len(chunks),
            sizes[-1] + 4 + 4 * dumped.entries,
            None if dumped.prompt_tokens is None else PROMPT_CLASS_NAMES[prompt_class(dumped.prompt_tokens)],
            alone,
        )
    )


def _add_times(result: Result, dumped: DumpStream, chunks: Sequence[Given], round_index: int) -> None:
    """Code and decode the chunks once, timed; verify after the clock has stopped."""
    if result.failure is not None:
        return
    streams = [stream for stream, _ in chunks]
    sides = [stream.side_info() for stream in streams]
    begin = process_time()
    payloads = [result.contender.encode(stream) for stream in streams]
    middle = process_time()
    decoded = result.contender.decode_all(payloads, sides)
    end = process_time()
    result.encode_s[round_index] += middle - begin
    result.decode_s[round_index] += end - middle
    for (_, words), came in zip(chunks, decoded, strict=True):
        _verify(result, dumped, words, came)


def _verify(result: Result, dumped: DumpStream, expected: Words, decoded: object) -> None:
    if not is_same(expected, decoded):
        raise difference(expected, decoded, result.contender.name, str(dumped))
    result.verified_chunks += 1


def _cut(stream: Stream, words: Words, chunk_tokens: int) -> Iterator[Given]:
    for start in range(0, len(words), chunk_tokens):
        span = slice(start, start + chunk_tokens)
        positions = None if stream.positions is None else stream.positions[span]
        yield replace(stream, words=stream.words[span], positions=positions), words[span]


def summarize(
    results: Sequence[Result],
    settings: BenchSettings,
    *,
    dump: str,
    missing: Mapping[str, str],
    one_thread: bool,
    load_1min: float | None,
    faults: Sequence[str] = (),
) -> dict[str, Any]:
    """Everything that was measured, as built-in types."""
    kept = [result for result in results if result.failure is None]
    return {
        "schema": "pytest-h2o/codecs-bench/1",
        "dump": dump,
        **({"faults": list(faults)} if faults else {}),
        "settings": asdict(settings),
        "units": {
            "ratio": "raw 16-bit words in bytes / encoded bytes, higher is better",
            "speed": "10**6 raw bytes / processor second, median",
        },
        "environment": {
            "machine": platform.machine(),
            "system": platform.system(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "one_thread": one_thread,
            "load_1min": load_1min,
            "versions": {
                "pytest-h2o": pytest_h2o.__version__,
                **{name: metadata.version(name) for name in ("numpy", "zstandard")},
            },
        },
        "raw_bytes": sum(s.raw_bytes for s in kept[0].sizes) if kept else 0,
        "streams": len(kept[0].sizes) if kept else 0,
        "contenders": [_contender(result, settings.front_layers) for result in kept],
        "missing": dict(missing) | {r.contender.name: r.failure for r in results if r.failure is not None},
    }


def _contender(result: Result, front_layers: int) -> dict[str, Any]:
    contender = result.contender
    return {
        **{name: getattr(contender, name) for name in ("name", "kind", "settings", "version")},
        "online": _ratios(result.sizes, front_layers, "online_bytes") | _heads(result.sizes),
        "aggregate": _ratios(result.sizes, front_layers, "aggregate_bytes"),
        **{
            f"{way}_mb_per_s": {
                "median": result.mb_per_s(rounds_s),
                "rounds": [result.mb_per_s([round_s]) for round_s in rounds_s],
            }
            for way, rounds_s in (("encode", result.encode_s), ("decode", result.decode_s))
        },
        "verified_chunks": result.verified_chunks,
        "streams": [asdict(sizes) for sizes in result.sizes],
    }


def _ratios(sizes: Sequence[StreamSizes], front_layers: int, encoded: str) -> dict[str, Any]:
    """Ratios of both tensors, K and V: of the front layers, of all, by layer and by run."""

    def by_tensor(chosen: Iterable[StreamSizes]) -> dict[str, float | None]:
        chosen = list(chosen)
        return {tensors: _ratio([s for s in chosen if s.tensor in tensors], encoded) for tensors in ("kv", "k", "v")}

    return {
        "front": by_tensor(s for s in sizes if s.layer < front_layers),
        "all": by_tensor(sizes),
        "layers": {str(n): by_tensor(s for s in sizes if s.layer == n) for n in sorted({s.layer for s in sizes})},
        "runs": {run: by_tensor(s for s in sizes if s.run_id == run) for run in sorted({s.run_id for s in sizes})},
        "prompt_lengths": {
            name: by_tensor(s for s in sizes if s.prompt_class == name)
            for name in PROMPT_CLASS_NAMES.values()
            if any(s.prompt_class == name for s in sizes)
        },
    }


def _heads(sizes: Sequence[StreamSizes]) -> dict[str, Any]:
    """Ratios of each KV head of all layers, coded alone."""
    found: dict[str, dict[str, float | None]] = {}
    for head in range(max((len(s.head_bytes) for s in sizes), default=0)):
        found[str(head)] = {}
        for tensors in ("kv", "k", "v"):
            chosen = [s for s in sizes if s.tensor in tensors and head < len(s.head_bytes)]
            coded = sum(s.head_bytes[head] for s in chosen)
            found[str(head)][tensors] = sum(s.raw_bytes / len(s.head_bytes) for s in chosen) / coded if coded else None
    return {"heads": found}


def _ratio(sizes: Sequence[StreamSizes], encoded: str) -> float | None:
    """Raw over encoded bytes of the streams together, higher is better; None if there are none."""
    encoded_bytes: int = sum(getattr(s, encoded) for s in sizes)
    return sum(s.raw_bytes for s in sizes) / encoded_bytes if encoded_bytes else None


def render_json(summary: Mapping[str, Any]) -> str:
    return json.dumps(summary, indent=2, allow_nan=False) + "\n"


_SPLITS = (
    ("layer", "layer ", "layers"),
    ("run", "run ", "runs"),
    ("length of the prompt", "", "prompt_lengths"),
    ("KV head, each coded alone", "KV head ", "heads"),
)


def render_markdown(summary: Mapping[str, Any]) -> str:
    """Tables: all contenders, then each layer and each run."""
    settings, environment, contenders = summary["settings"], summary["environment"], summary["contenders"]
    front, rounds = f"front {settings['front_layers']}", settings["rounds"]
    head = ["codec", f"online, {front}", "online, all", "online, K", "online, V"]
    head += [f"aggregate, {front}", "aggregate, all", "encode MB/s", "decode MB/s"]
    lines = [
        f"# Codecs on {summary['dump']}",
        "",
        f"{summary['raw_bytes'] / 1e6:.2f} MB of raw words in {summary['streams']} streams. Ratio is raw bytes /"
        " encoded bytes (higher is better).",
        f"Online: chunks of {settings['chunk_tokens']} tokens, each coded alone, {settings['framing_bytes']} bytes of"
        " framing a chunk and tensor counted. Aggregate: streams coded whole.",
        "Speed: MB (10^6 raw bytes) a processor second on online chunks, those of a stream decoded together; median of"
        f" {rounds} interleaved rounds{', one thread' if environment['one_thread'] else ''}."
        " Every decode was compared bit for bit.",
        "",
        *_table(head, [_overview_row(contender) for contender in contenders]),
    ]
    timed = {c["name"]: len(c["encode_mb_per_s"]["rounds"]) for c in contenders}
    if slow := [f"{name} {count}" for name, count in timed.items() if count < rounds]:
        lines += ["", f"Fewer rounds, because they are slow: {', '.join(slow)}."]
    for by, label, key in _SPLITS:
        if contenders and contenders[0]["online"][key]:
            lines += ["", f"By {by}, online, K / V:", "", *_split_table(contenders, key, label)]
    if told := summary.get("faults"):
        lines += ["", "The ratios say little about codecs:", "", *(f"- {fault}" for fault in told)]
    if peers := [f"{c['name']} {c['version']} ({c['settings']})" for c in contenders if c["kind"] == "peer"]:
        lines += ["", f"Peers: {'; '.join(peers)}."]
    if summary["missing"]:
        lines += ["", "Not measured:", "", *(f"- {name}: {reason}" for name, reason in summary["missing"].items())]
    load = "" if environment["load_1min"] is None else f" load {environment['load_1min']:.1f} before the run,"
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    lines += [
        "",
        f"{environment['system']} {environment['machine']}, {environment['cpus']} CPUs,"
        f"{load} Python {environment['python']}, {versions}.",
    ]
    return "\n".join(lines) + "\n"


def _overview_row(contender: Mapping[str, Any]) -> list[str]:
    online, aggregate = contender["online"], contender["aggregate"]
    ratios = [online["front"]["kv"], *(online["all"][tensors] for tensors in ("kv", "k", "v"))]
    ratios += [aggregate["front"]["kv"], aggregate["all"]["kv"]]
    speeds = [contender[f"{way}_mb_per_s"]["median"] for way in ("encode", "decode")]
    shown = [f"{speed:.3g}" if speed < 100 else f"{speed:.0f}" for speed in speeds]
    return [contender["name"], *map(_shown, ratios), *shown]


def _split_table(contenders: Sequence[Mapping[str, Any]], by: str, label: str) -> list[str]:
    """Online ratios K / V of all contenders, a column for each layer or run."""
    columns = list(contenders[0]["online"][by]) if contenders else []
    rows = []
    for contender in contenders:
        ratios = [contender["online"][by][name] for name in columns]
        rows.append([contender["name"], *(f"{_shown(ratio['k'])} / {_shown(ratio['v'])}" for ratio in ratios)])
    return _table(["codec", *(f"{label}{name}" for name in columns)], rows)


def _shown(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown table, numbers to the right; a pipe in a cell is escaped."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


_KINDS = (("codec", "codecs", "#0b5fa5", "o"), ("peer", "peers", "#a5540b", "s"))
_FONT_POINTS = 9


def check_chart() -> None:
    """Raise `UsageError` if no chart can be drawn here."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "the chart needs matplotlib, which is not installed",
            came=str(error),
            hint="pip install matplotlib, or leave --out-svg out",
        ) from error


def render_svg(summary: Mapping[str, Any]) -> str:
    """Chart of online ratio (all layers) against decode speed; equal summaries give equal text."""
    check_chart()
    import matplotlib
    from matplotlib.figure import Figure

    title = f"Codecs on {summary['dump']}"
    settings: dict[Any, Any] = {"svg.hashsalt": "pytest-h2o", "svg.fonttype": "none", "font.size": _FONT_POINTS}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(7.2, 4.6))
        axes = figure.add_axes((0.1, 0.12, 0.86, 0.8))
        for kind, label, colour, marker in _KINDS:
            points = [_point(c) for c in summary["contenders"] if c["kind"] == kind]
            if points:
                speeds, ratios = zip(*points, strict=True)
                axes.scatter(speeds, ratios, c=colour, marker=marker, label=label)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("decode, MB of raw words a processor second (median, log scale; right is better)")
        axes.set_ylabel("online ratio, all layers (up is better)")
        axes.grid(visible=True, which="both", alpha=0.25)
        axes.margins(x=0.15, y=0.12)
        _label_points(axes, summary["contenders"])
        axes.legend(loc="upper right", bbox_to_anchor=(1.0, 1.08), ncols=2, frameon=False)
        axes.set_title(title, loc="left", parse_math=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    return text.getvalue()


def _point(contender: Mapping[str, Any]) -> tuple[float, float]:
    return contender["decode_mb_per_s"]["median"], contender["online"]["all"]["kv"]


def _label_points(axes: Axes, contenders: Sequence[Mapping[str, Any]]) -> None:
    """Name each point, in the first place around it where the name covers no other name or point."""
    axes.autoscale_view()
    points = [tuple(axes.transData.transform(_point(c)) * 72 / axes.figure.dpi) for c in contenders]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    for contender, (x, y) in zip(contenders, points, strict=True):
        width, height = 0.6 * _FONT_POINTS * len(contender["name"]), float(_FONT_POINTS)
        places = [(dx, dy) for lift in (4, 14, 24) for dx in (6, -6 - width) for dy in (lift, -lift - height)]
        boxes = [(x + dx, y + dy, x + dx + width, y + dy + height) for dx, dy in places]
        chosen = next((i for i, box in enumerate(boxes) if not any(_overlap(box, other) for other in taken)), 0)
        taken.append(boxes[chosen])
        line = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.5", "shrinkA": 0, "shrinkB": 3}
        label = axes.annotate(
            contender["name"], _point(contender), xytext=places[chosen], textcoords="offset points", arrowprops=line
        )
        label.set_parse_math(False)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
