"""``pytest-h2o codecs``: list the codecs; ``codecs bench DUMP_DIR``: measure them beside other compressors."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import platform
import statistics
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import pytest_h2o
from pytest_h2o.cli.flags import check_outputs
from pytest_h2o.cli.lossless import add_rope_arguments, rope_from_args
from pytest_h2o.codecs.base import Codec, Rope, SideInfo, Stream, Tensor, Words
from pytest_h2o.codecs.planes import from_bytes, to_bytes
from pytest_h2o.codecs.registry import render_codec
from pytest_h2o.errors import CodecError, DumpError, H2OError, RoundTripError, UsageError
from pytest_h2o.lossless.index import DumpEntry, index_dump
from pytest_h2o.lossless.read import Piece, read_pieces

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def add_arguments_codecs(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``codecs``; `run_codecs` takes what they parse to."""
    commands = parser.add_subparsers(dest="codecs_command", metavar="bench")
    bench = commands.add_parser(
        "bench", help="measure codecs on a KV dump, beside other compressors", allow_abbrev=False
    )
    bench.add_argument("dump_dir", type=Path, help="root of a KV dump")
    bench.add_argument("--codecs", nargs="+", metavar="CODEC", help="NAME or NAME:SETTING=VALUE (default: all)")
    bench.add_argument("--peers", nargs="*", metavar="PEER", help="peers (default: those installed; none: no name)")
    bench.add_argument("--rounds", type=int, default=5, help="timed rounds (default: %(default)s)")
    bench.add_argument("--slow-rounds", type=int, default=1, help="rounds of slow codecs (default: %(default)s)")
    bench.add_argument("--chunk", type=int, default=192, help="tokens of an online chunk (default: %(default)s)")
    bench.add_argument("--framing", type=int, default=8, help="bytes added to each chunk (default: %(default)s)")
    bench.add_argument("--front-n", type=int, default=2, help="layers that count as front (default: %(default)s)")
    add_rope_arguments(bench)
    bench.add_argument("--out-json", type=Path, metavar="FILE")
    bench.add_argument("--out-md", type=Path, metavar="FILE")
    bench.add_argument("--out-svg", type=Path, metavar="FILE", help="chart; needs matplotlib")
    bench.add_argument("--overwrite", action="store_true", help="replace these files if they exist")


def run_codecs(args: argparse.Namespace) -> int:
    """List or measure; 1 if a codec did not give its input back."""
    try:
        return _bench(args) if args.codecs_command == "bench" else _list()
    except RoundTripError as error:
        print(f"pytest-h2o codecs: {error}", file=sys.stderr)
        return 1


def _list() -> int:
    from pytest_h2o.codecs.registry import codec_names, get_codec

    failed = False
    for name in codec_names():
        try:
            codec = get_codec(name)
        except CodecError as error:
            failed = True
            print(f"pytest-h2o codecs: {error}", file=sys.stderr)
            continue
        summary = (type(codec).__doc__ or "").strip().partition("\n")[0]
        settings = ", ".join(f"{key}={value}" for key, value in codec.config().items() if key != "id")
        print(f"{name:<16}{summary}")
        if settings:
            print(f"{'':<16}{settings}")
    return 2 if failed else 0


def _bench(args: argparse.Namespace) -> int:
    one_thread = _hold_to_one_thread()
    from pytest_h2o.files import write_new_text

    settings = BenchSettings(args.chunk, args.framing, args.front_n, args.rounds, args.slow_rounds)
    rope = rope_from_args(args)
    renders = ((args.out_json, render_json), (args.out_md, render_markdown), (args.out_svg, render_svg))
    outputs = [(path, render) for path, render in renders if path is not None]
    inputs = (args.dump_dir, args.base_config)
    check_outputs(*(path for path, _ in outputs), inputs=inputs, overwrite=args.overwrite)
    if args.out_svg is not None:
        check_chart()
    codecs, missing_codecs = _codecs(args.codecs)
    peers, missing_peers = _peers(args.peers)
    load_1min = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    results = measure(streams(args.dump_dir, rope), [*codecs, *peers], settings)
    summary = summarize(
        results,
        settings,
        dump=args.dump_dir.resolve().name,
        missing=missing_codecs | missing_peers,
        one_thread=one_thread,
        load_1min=load_1min,
    )
    print(render_markdown(summary), end="")
    for path, render in outputs:
        write_new_text(path, render(summary), overwrite=args.overwrite)
        print(f"written: {path}", file=sys.stderr)
    return 0


def _codecs(words: list[str] | None) -> tuple[list[Contender], dict[str, str]]:
    """The codecs that were asked for, or all; of all, those that cannot be loaded are named."""
    from pytest_h2o.codecs.registry import codec_names, parse_codec

    found: list[Contender] = []
    missing: dict[str, str] = {}
    for word in codec_names() if words is None else words:
        try:
            contender = contend(parse_codec(word))
        except CodecError as error:
            if words is not None:
                raise
            missing[word] = error.what
            continue
        if any(contender.name == other.name for other in found):
            raise UsageError("a codec is asked for twice", came=word)
        found.append(contender)
    return found, missing


def _peers(names: list[str] | None) -> tuple[list[Contender], dict[str, str]]:
    """The peers that were asked for, or those that are installed; the others are named."""

    found: list[Contender] = []
    missing: dict[str, str] = {}
    for name in peer_names() if names is None else dict.fromkeys(names):
        try:
            found.append(load_peer(name))
        except UsageError as error:
            if names is not None:
                raise
            missing[name] = f"not installed ({error.came})"
    return found, missing


def _hold_to_one_thread() -> bool:
    """Hold libraries below numpy to one thread; True if it was in time, that is, before numpy was loaded."""
    if "numpy" in sys.modules:
        return all(os.environ.get(variable) == "1" for variable in _THREAD_VARIABLES)
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    return True


@dataclass(frozen=True)
class Contender:
    """Something that encodes a stream and decodes it again.

    Attributes
    ----------
    name : str
        Unique in a comparison.
    kind : "codec" or "peer"
    settings : str
        What the reader should know of its configuration.
    version : str
        Of the library, for peers.
    encode, decode : callable
        Stream to bytes; bytes and side information to words.
    decode_many : callable
        Several at once, where the contender has a way; else one by one.
    """

    name: str
    kind: Literal["codec", "peer"]
    settings: str
    version: str
    encode: Callable[[Stream], bytes]
    decode: Callable[[bytes, SideInfo], Words]
    decode_many: Callable[[Sequence[bytes], Sequence[SideInfo]], list[Words]] | None = None

    def decode_all(self, payloads: Sequence[bytes], sides: Sequence[SideInfo]) -> list[Words]:
        """Decode several payloads, in the fastest way there is."""
        if self.decode_many is not None:
            return self.decode_many(payloads, sides)
        return [self.decode(payload, side) for payload, side in zip(payloads, sides, strict=True)]


def contend(codec: Codec) -> Contender:
    """`codec` as a contender, under the word that names it on a command line."""
    settings = ", ".join(f"{key}={value}" for key, value in codec.config().items() if key != "id")
    return Contender(render_codec(codec), "codec", settings, "", codec.encode, codec.decode, codec.decode_many)


def load_peer(name: str) -> Contender:
    """The peer `name`, its library imported."""
    if name not in _PEERS:
        raise UsageError(f"there is no peer {name!r}", expected=", ".join(_PEERS))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside libraries that are only compared here
            return _PEERS[name]()
    except ImportError as error:
        raise UsageError(
            f"the peer {name!r} is not installed", came=str(error), hint="pip install 'pytest-h2o[peers]'"
        ) from error


def peer_names() -> tuple[str, ...]:
    """Names that `load_peer` takes."""
    return tuple(_PEERS)


def _blosc2() -> Contender:
    blosc2 = importlib.import_module("blosc2")

    def encode(stream: Stream) -> bytes:
        encoded: bytes = blosc2.compress2(
            to_bytes(stream.words),
            typesize=2,
            clevel=5,
            codec=blosc2.Codec.ZSTD,
            filters=[blosc2.Filter.SHUFFLE],
            nthreads=1,
        )
        return encoded

    def decode(payload: bytes, side: SideInfo) -> Words:
        return from_bytes(blosc2.decompress2(payload, nthreads=1), side.shape)

    return Contender("blosc2", "peer", "shuffle, zstd, level 5", _version("blosc2"), encode, decode)


def _pcodec() -> Contender:
    pcodec = importlib.import_module("pcodec")
    standalone = importlib.import_module("pcodec.standalone")
    config = pcodec.ChunkConfig(compression_level=8)

    def encode(stream: Stream) -> bytes:
        flat = np.ascontiguousarray(stream.words).reshape(-1)
        encoded: bytes = standalone.simple_compress(flat.view(np.float16), config)
        return encoded

    def decode(payload: bytes, side: SideInfo) -> Words:
        if side.words == 0:
            return np.empty(side.shape, np.uint16)
        words: Words = standalone.simple_decompress(payload).view(np.uint16).reshape(side.shape)
        return words

    return Contender("pcodec", "peer", "float16, level 8", _version("pcodec"), encode, decode)


def _zipnn() -> Contender:
    zipnn = importlib.import_module("zipnn")
    coder = zipnn.ZipNN(input_format="byte", bytearray_dtype="float16", threads=1)

    def encode(stream: Stream) -> bytes:
        return bytes(coder.compress(to_bytes(stream.words)))

    def decode(payload: bytes, side: SideInfo) -> Words:
        return from_bytes(coder.decompress(bytearray(payload)), side.shape)

    return Contender("zipnn", "peer", "float16", _version("zipnn"), encode, decode)


def _lz4() -> Contender:
    block = importlib.import_module("lz4.block")

    def encode(stream: Stream) -> bytes:
        encoded: bytes = block.compress(to_bytes(stream.words))
        return encoded

    def decode(payload: bytes, side: SideInfo) -> Words:
        return from_bytes(block.decompress(payload), side.shape)

    return Contender("lz4", "peer", "block, default level", _version("lz4"), encode, decode)


def _version(distribution: str) -> str:
    return metadata.version(distribution)


_PEERS: dict[str, Callable[[], Contender]] = {"blosc2": _blosc2, "pcodec": _pcodec, "zipnn": _zipnn, "lz4": _lz4}


@dataclass(frozen=True)
class DumpStream:
    """All tokens of one run and layer, K or V.

    Attributes
    ----------
    run_id : str
        Empty where the dump names none.
    layer : int
    entries : int
        Number of dump entries that were joined.
    stream : Stream
    """

    run_id: str
    layer: int
    entries: int
    stream: Stream


def streams(dump_dir: str | os.PathLike[str], rope: Rope | None = None) -> Iterator[DumpStream]:
    """Yield K, then V of each run and layer of a dump; one stream is in memory at a time.

    Entries of a run and layer stand in order of their first position, equal ones in path order, and are joined as
    they are: an overlap is coded twice.
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
    groups: dict[tuple[str, int, int, int], list[DumpEntry]] = {}
    for entry in index.entries:
        groups.setdefault((entry.run_id or "", entry.layer_id, entry.kv_heads, entry.head_dim), []).append(entry)
    for run_id, layer, *shape in sorted(groups):
        group = sorted(groups[run_id, layer, shape[0], shape[1]], key=lambda entry: entry.seq_start)
        pieces = [Piece(entry, 0, entry.seq_len) for entry in group]
        positions = np.concatenate([np.arange(e.seq_start, e.seq_start + e.seq_len, dtype=np.int64) for e in group])
        tensor: Tensor
        for tensor in ("k", "v"):
            stream = Stream(read_pieces(pieces, tensor), tensor, positions, rope if tensor == "k" else None)
            yield DumpStream(run_id, layer, len(group), stream)


SLOW_MB_PER_S = 10.0
"""10**6 raw bytes a processor second, encoded and decoded again."""

_SLOW_S = 0.3
"""Shorter than this no stream tells how fast a codec is."""


@dataclass(frozen=True)
class BenchSettings:
    """How a comparison is made.

    Attributes
    ----------
    chunk_tokens : int
        Tokens of an online chunk.
    framing_bytes : int
        Bytes that an online chunk of one tensor is charged with.
    front_layers : int
        The layers from 0 that "front" means.
    rounds : int
        Timed rounds.
    slow_rounds : int
        Timed rounds of contenders that come to less than `SLOW_MB_PER_S` on the first stream.
    """

    chunk_tokens: int = 192
    framing_bytes: int = 8
    front_layers: int = 2
    rounds: int = 5
    slow_rounds: int = 1

    def __post_init__(self) -> None:
        for name, least in (
            ("chunk_tokens", 1),
            ("framing_bytes", 0),
            ("front_layers", 1),
            ("rounds", 1),
            ("slow_rounds", 1),
        ):
            if getattr(self, name) < least:
                raise UsageError(
                    f"{name.replace('_', ' ')} is too small",
                    came=str(getattr(self, name)),
                    expected=f"at least {least}",
                )


@dataclass(frozen=True)
class StreamSizes:
    """Bytes of one stream with one contender."""

    run_id: str
    layer: int
    tensor: Tensor
    raw_bytes: int
    online_bytes: int
    aggregate_bytes: int


@dataclass
class Result:
    """What one contender did; filled stream by stream.

    Attributes
    ----------
    sizes : list of StreamSizes
    encode_s, decode_s : list of float
        Processor seconds of each round, all streams together.
    verified_chunks : int
        Decodes that were compared with their input, bit for bit.
    failure : str or None
        Why a peer is out of the comparison. A codec of ours is never: its failure is an error.
    """

    contender: Contender
    sizes: list[StreamSizes] = field(default_factory=list)
    encode_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)
    verified_chunks: int = 0
    failure: str | None = None

    def mb_per_s(self, rounds_s: Sequence[float]) -> float:
        """Median speed over rounds, in 10**6 raw bytes a second."""
        return sum(s.raw_bytes for s in self.sizes) / 1e6 / statistics.median(rounds_s)


def ratio(sizes: Iterable[StreamSizes], *, online: bool) -> float | None:
    """Raw over encoded bytes of the streams together, higher is better; None if there are none."""
    raw_bytes = encoded_bytes = 0
    for stream in sizes:
        raw_bytes += stream.raw_bytes
        encoded_bytes += stream.online_bytes if online else stream.aggregate_bytes
    return raw_bytes / encoded_bytes if encoded_bytes else None


def measure(dump: Iterable[DumpStream], contenders: Sequence[Contender], settings: BenchSettings) -> list[Result]:
    """Measure `contenders` on the streams of a dump, one stream in memory at a time."""
    results = [Result(contender) for contender in contenders]
    for number, dumped in enumerate(dump):
        chunks = _cut(dumped.stream, settings.chunk_tokens)
        for result in results:
            started = process_time()
            _attempt(result, dumped, partial(_add_sizes, result, dumped, chunks, settings))
            if not number:
                _set_rounds(result, settings, 2 * dumped.stream.raw_bytes / 1e6, process_time() - started)
        for round_index in range(settings.rounds):
            shift = (number + round_index) % max(1, len(results))
            for result in results[shift:] + results[:shift]:
                if round_index < len(result.encode_s):
                    _attempt(result, dumped, partial(_add_times, result, dumped, chunks, round_index))
    return results


def _set_rounds(result: Result, settings: BenchSettings, coded_mb: float, elapsed_s: float) -> None:
    """Decide how often a contender is timed, from how long it took for the sizes."""
    slow = elapsed_s > _SLOW_S and coded_mb < SLOW_MB_PER_S * elapsed_s
    rounds = min(settings.rounds, settings.slow_rounds) if slow else settings.rounds
    result.encode_s, result.decode_s = [0.0] * rounds, [0.0] * rounds


def _attempt(result: Result, dumped: DumpStream, step: Callable[[], None]) -> None:
    """Do `step`; whatever goes wrong takes a peer out of the comparison, and is an error for a codec of ours."""
    if result.failure is not None:
        return
    try:
        step()
    except Exception as error:
        if result.contender.kind == "peer":
            result.failure = f"{_name(dumped)}: {type(error).__name__}: {error}"
        elif isinstance(error, H2OError):
            raise
        else:
            raise CodecError(
                f"codec {result.contender.name} failed",
                where=_name(dumped),
                came=f"{type(error).__name__}: {error}",
                expected="bytes, or a CodecError",
            ) from error


def _add_sizes(result: Result, dumped: DumpStream, chunks: Sequence[Stream], settings: BenchSettings) -> None:
    """Code the chunks, and the stream whole, untimed; verify both."""
    contender = result.contender
    payloads = [contender.encode(chunk) for chunk in chunks]
    whole = contender.encode(dumped.stream)
    for stream, payload in zip((*chunks, dumped.stream), (*payloads, whole), strict=True):
        _verify(result, dumped, stream, contender.decode(payload, stream.side_info()))
    result.sizes.append(
        StreamSizes(
            dumped.run_id,
            dumped.layer,
            dumped.stream.tensor,
            dumped.stream.raw_bytes,
            sum(map(len, payloads)) + settings.framing_bytes * len(chunks),
            len(whole) + 4 + 4 * dumped.entries,
        )
    )


def _add_times(result: Result, dumped: DumpStream, chunks: Sequence[Stream], round_index: int) -> None:
    """Code and decode the chunks once, timed; verify after the clock has stopped."""
    contender = result.contender
    sides = [chunk.side_info() for chunk in chunks]
    begin = process_time()
    payloads = [contender.encode(chunk) for chunk in chunks]
    middle = process_time()
    decoded = contender.decode_all(payloads, sides)
    end = process_time()
    result.encode_s[round_index] += middle - begin
    result.decode_s[round_index] += end - middle
    for chunk, words in zip(chunks, decoded, strict=True):
        _verify(result, dumped, chunk, words)


def _verify(result: Result, dumped: DumpStream, stream: Stream, decoded: Words) -> None:
    expected = stream.words
    if decoded.shape != expected.shape or decoded.dtype != np.uint16:
        raise RoundTripError(
            f"{result.contender.name} decoded to another shape",
            where=_name(dumped),
            came=f"{decoded.dtype.str} {list(decoded.shape)}",
            expected=f"uint16 {list(expected.shape)}",
        )
    differs = np.flatnonzero(decoded != expected)
    if differs.size:
        at = int(differs[0])
        raise RoundTripError(
            f"{result.contender.name} decoded to other bits",
            where=f"{_name(dumped)}, word {at} of {expected.size} in a chunk of {len(expected)} tokens",
            came=f"{decoded.flat[at]:#06x} ({differs.size} words differ)",
            expected=f"{expected.flat[at]:#06x}",
        )
    result.verified_chunks += 1


def _cut(stream: Stream, chunk_tokens: int) -> list[Stream]:
    return [
        Stream(
            stream.words[start : start + chunk_tokens],
            stream.tensor,
            None if stream.positions is None else stream.positions[start : start + chunk_tokens],
            stream.rope,
        )
        for start in range(0, len(stream.words), chunk_tokens)
    ]


def _name(dumped: DumpStream) -> str:
    return f"run {dumped.run_id}, layer {dumped.layer}, {dumped.stream.tensor.upper()}"


SCHEMA = "pytest-h2o/codecs-bench/1"


def summarize(
    results: Sequence[Result],
    settings: BenchSettings,
    *,
    dump: str,
    missing: Mapping[str, str],
    one_thread: bool,
    load_1min: float | None,
) -> dict[str, Any]:
    """Everything that was measured, as built-in types."""
    kept = [result for result in results if result.failure is None]
    return {
        "schema": SCHEMA,
        "dump": dump,
        "settings": asdict(settings),
        "units": {
            "ratio": "raw fp16 bytes / encoded bytes, higher is better",
            "speed": "10**6 raw bytes / processor second, median",
        },
        "environment": {
            "machine": platform.machine(),
            "system": platform.system(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "one_thread": one_thread,
            "load_1min": load_1min,
            "versions": {"pytest-h2o": pytest_h2o.__version__}
            | {n: metadata.version(n) for n in ("numpy", "zstandard")},
        },
        "raw_bytes": sum(s.raw_bytes for s in kept[0].sizes) if kept else 0,
        "streams": len(kept[0].sizes) if kept else 0,
        "contenders": [_contender(result, settings) for result in kept],
        "missing": dict(missing) | {r.contender.name: r.failure for r in results if r.failure is not None},
    }


def render_json(summary: Mapping[str, Any]) -> str:
    return json.dumps(summary, indent=2, allow_nan=False) + "\n"


def render_markdown(summary: Mapping[str, Any]) -> str:
    """Tables: all contenders, then each layer."""
    settings, environment = summary["settings"], summary["environment"]
    front = f"front {settings['front_layers']}"
    lines = [
        f"# Codecs on {summary['dump']}",
        "",
        f"{summary['raw_bytes'] / 1e6:.2f} MB of raw fp16 in {summary['streams']} streams. Ratio is raw bytes / encoded"
        " bytes (higher is better).",
        f"Online: chunks of {settings['chunk_tokens']} tokens, each coded alone, {settings['framing_bytes']} bytes of"
        " framing a chunk and tensor counted. Aggregate: streams coded whole.",
        "Speed: MB (10^6 raw bytes) a processor second on online chunks, those of a stream decoded together; median of"
        f" {settings['rounds']} interleaved rounds{', one thread' if environment['one_thread'] else ''}."
        " Every decode was compared bit for bit.",
        "",
        *_table(
            [
                *("codec", f"online, {front}", "online, all", "online, K", "online, V"),
                *(f"aggregate, {front}", "aggregate, all", "encode MB/s", "decode MB/s"),
            ],
            [_overview_row(contender) for contender in summary["contenders"]],
        ),
        *_fewer_rounds(summary["contenders"], settings["rounds"]),
        "",
        "By layer, online, K / V:",
        "",
        *_split_table(summary["contenders"], "layers", "layer"),
        "",
        "By run, online, K / V:",
        "",
        *_split_table(summary["contenders"], "runs", "run"),
    ]
    peers = [c for c in summary["contenders"] if c["kind"] == "peer"]
    if peers:
        lines += ["", "Peers: " + "; ".join(f"{c['name']} {c['version']} ({c['settings']})" for c in peers) + "."]
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


def _fewer_rounds(contenders: Sequence[Mapping[str, Any]], rounds: int) -> list[str]:
    slow = [(c["name"], len(c["encode_mb_per_s"]["rounds"])) for c in contenders]
    told = [f"{name} {count}" for name, count in slow if count < rounds]
    return ["", f"Fewer rounds, because they are slow: {', '.join(told)}."] if told else []


def _contender(result: Result, settings: BenchSettings) -> dict[str, Any]:
    return {
        "name": result.contender.name,
        "kind": result.contender.kind,
        "settings": result.contender.settings,
        "version": result.contender.version,
        "online": _ratios(result, settings, online=True),
        "aggregate": _ratios(result, settings, online=False),
        "encode_mb_per_s": _speed(result, result.encode_s),
        "decode_mb_per_s": _speed(result, result.decode_s),
        "verified_chunks": result.verified_chunks,
        "streams": [asdict(sizes) for sizes in result.sizes],
    }


def _ratios(result: Result, settings: BenchSettings, *, online: bool) -> dict[str, Any]:
    def by_tensor(chosen: Callable[[StreamSizes], bool]) -> dict[str, float | None]:
        wanted = [sizes for sizes in result.sizes if chosen(sizes)]
        return {
            "kv": ratio(wanted, online=online),
            **{tensor: ratio([s for s in wanted if s.tensor == tensor], online=online) for tensor in ("k", "v")},
        }

    layers, runs = (sorted({getattr(s, name) for s in result.sizes}) for name in ("layer", "run_id"))
    return {
        "front": by_tensor(lambda sizes: sizes.layer < settings.front_layers),
        "all": by_tensor(lambda sizes: True),
        "layers": {str(layer): by_tensor(lambda sizes, layer=layer: sizes.layer == layer) for layer in layers},  # type: ignore[misc]
        "runs": {run: by_tensor(lambda sizes, run=run: sizes.run_id == run) for run in runs},  # type: ignore[misc]
    }


def _speed(result: Result, rounds_s: Sequence[float]) -> dict[str, Any]:
    return {
        "median": result.mb_per_s(rounds_s),
        "rounds": [result.mb_per_s([round_s]) for round_s in rounds_s],
    }


def _overview_row(contender: Mapping[str, Any]) -> list[str]:
    online, aggregate = contender["online"], contender["aggregate"]
    ratios = [online["front"]["kv"], online["all"]["kv"], online["all"]["k"], online["all"]["v"]]
    ratios += [aggregate["front"]["kv"], aggregate["all"]["kv"]]
    speeds = [contender[f"{way}_mb_per_s"]["median"] for way in ("encode", "decode")]
    return [contender["name"], *map(_ratio, ratios), *map(_mb_per_s, speeds)]


def _split_table(contenders: Sequence[Mapping[str, Any]], by: str, label: str) -> list[str]:
    """Online ratios K / V of all contenders, a column for each layer or run."""
    columns = list(contenders[0]["online"][by]) if contenders else []
    rows = [
        [
            c["name"],
            *(f"{_ratio(c['online'][by][name]['k'])} / {_ratio(c['online'][by][name]['v'])}" for name in columns),
        ]
        for c in contenders
    ]
    return _table(["codec", *(f"{label} {name}" for name in columns)], rows)


def _mb_per_s(speed: float) -> str:
    return f"{speed:.3g}" if speed < 100 else f"{speed:.0f}"


def _ratio(ratio: float | None) -> str:
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
            speeds, ratios = [speed for speed, _ in points], [ratio for _, ratio in points]
            if points:
                axes.scatter(speeds, ratios, c=colour, marker=marker, label=label)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("decode, MB of raw fp16 a processor second (median, log scale; right is better)")
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
        free = [i for i, box in enumerate(boxes) if not any(_overlap(box, other) for other in taken)]
        chosen = free[0] if free else 0
        taken.append(boxes[chosen])
        line = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.5", "shrinkA": 0, "shrinkB": 3}
        label = axes.annotate(
            contender["name"], _point(contender), xytext=places[chosen], textcoords="offset points", arrowprops=line
        )
        label.set_parse_math(False)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
