"""``pytest-h2o codecs``: list the codecs; ``codecs bench DUMP_DIR``: measure them beside other compressors.

What measures is `codecs_bench`, imported when the libraries below numpy are held to one thread.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_h2o.cli.lossless import add_rope_arguments, rope_from_args
from pytest_h2o.cli.main import check_outputs
from pytest_h2o.errors import CodecError, RoundTripError, UsageError

if TYPE_CHECKING:
    from pytest_h2o.cli.codecs_bench import Contender

_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def add_arguments_codecs(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``codecs``; `run_codecs` takes what they parse to."""
    commands = parser.add_subparsers(dest="codecs_command", metavar="bench")
    bench = commands.add_parser(
        "bench", help="measure codecs on a KV dump, beside other compressors", allow_abbrev=False
    )
    bench.add_argument("dump_dir", type=Path, help="root of a KV dump")
    bench.add_argument("--codecs", nargs="+", metavar="CODEC", help="NAME or NAME:SETTING=VALUE (default: all)")
    bench.add_argument(
        "--peers", nargs="*", metavar="PEER", help="peers (default: those installed; --peers none: without them)"
    )
    bench.add_argument("--rounds", type=int, default=5, help="timed rounds (default: %(default)s)")
    bench.add_argument("--slow-rounds", type=int, default=1, help="rounds of slow codecs (default: %(default)s)")
    bench.add_argument("--chunk", type=int, default=192, help="tokens of an online chunk (default: %(default)s)")
    bench.add_argument("--framing", type=int, default=8, help="bytes added to each chunk (default: %(default)s)")
    bench.add_argument("--front-n", type=int, help="layers that count as front (default: 2)")
    add_rope_arguments(bench)
    bench.add_argument("--out-json", type=Path, metavar="FILE")
    bench.add_argument("--out-md", type=Path, metavar="FILE")
    bench.add_argument("--out-svg", type=Path, metavar="FILE", help="chart; needs matplotlib")
    bench.add_argument("--overwrite", action="store_true", help="replace these files if they exist")


def run_codecs(args: argparse.Namespace) -> int:
    """List or measure; 1 if a codec did not give its input back, none was measured, or the dump says little."""
    try:
        return _bench(args) if args.codecs_command == "bench" else _list()
    except RoundTripError as error:
        print(f"pytest-h2o codecs: {error}", file=sys.stderr)
        return 1


def _list() -> int:
    from pytest_h2o.codecs.base import read_config
    from pytest_h2o.codecs.registry import codec_names, get_codec

    failed = False
    for name in codec_names():
        try:
            codec = get_codec(name)
            config = read_config(codec)
        except CodecError as error:
            failed = True
            print(f"pytest-h2o codecs: {error}", file=sys.stderr)
            continue
        summary = (type(codec).__doc__ or "").strip().partition("\n")[0]
        settings = ", ".join(f"{key}={value}" for key, value in config.items() if key != "id")
        print(f"{name:<16}{summary}")
        if settings:
            print(f"{'':<16}{settings}")
    return 2 if failed else 0


def _bench(args: argparse.Namespace) -> int:
    one_thread = _hold_to_one_thread()
    from pytest_h2o.cli import codecs_bench as bench
    from pytest_h2o.files import write_new_text

    front = bench.DEFAULT_FRONT if args.front_n is None else args.front_n
    settings = bench.BenchSettings(args.chunk, args.framing, front, args.rounds, args.slow_rounds)
    rope = rope_from_args(args)
    renders = (
        (args.out_json, bench.render_json), (args.out_md, bench.render_markdown), (args.out_svg, bench.render_svg),
    )  # fmt: skip
    outputs = [(path, render) for path, render in renders if path is not None]
    inputs = (args.dump_dir, args.base_config)
    check_outputs(*(path for path, _ in outputs), inputs=inputs, overwrite=args.overwrite)
    if args.out_svg is not None:
        bench.check_chart()
    codecs, missing_codecs = _codecs(args.codecs)
    peers, missing_peers = _peers(args.peers)
    load_1min = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    faults: list[str] = []
    dump = bench.streams(args.dump_dir, rope, faults.append, args.front_n)
    results = bench.measure(dump, [*codecs, *peers], settings)
    if all(result.failure is not None for result in results if result.contender.kind == "codec"):
        faults.append("no codec was measured: each refuses the dump, or is missing")
    summary = bench.summarize(
        results,
        settings,
        dump=args.dump_dir.resolve().name,
        missing=missing_codecs | missing_peers,
        one_thread=one_thread,
        load_1min=load_1min,
        faults=faults,
    )
    print(bench.render_markdown(summary), end="")
    for path, render in outputs:
        write_new_text(path, render(summary), overwrite=args.overwrite)
        print(f"written: {path}", file=sys.stderr)
    return int(bool(faults))


def _codecs(words: list[str] | None) -> tuple[list[Contender], dict[str, str]]:
    """The codecs that were asked for, or all; of all, those that cannot be loaded are named."""
    from pytest_h2o.cli.codecs_bench import contend
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
    from pytest_h2o.cli.codecs_bench import PEERS, load_peer

    found: list[Contender] = []
    missing: dict[str, str] = {}
    for name in PEERS if names is None else dict.fromkeys([] if names == ["none"] else names):
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
