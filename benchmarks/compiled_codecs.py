"""How fast rowref_max is with and without its compiled loops, beside other codecs, in one run.

    python benchmarks/compiled_codecs.py [--rounds 7] [--every 6]

Every so many-th chunk of 192 tokens of fixtures/dumps/fp16.zip; the sides take turns, each round over all chunks;
processor time of one thread, medians with their range in 10**6 raw bytes a second. Every decode is compared, and the
bytes of both sides of rowref_max must be equal.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np

from pytest_h2o.cli.codecs_bench import streams
from pytest_h2o.codecs import rowref_max
from pytest_h2o.codecs.base import Rope, Stream
from pytest_h2o.codecs.registry import get_codec

DUMP = Path(__file__).parents[1] / "fixtures" / "dumps" / "fp16.zip"
SIDES = ("zstd", "adaptive_v22", "rowref", "rowref_max", "rowref_max without numba")


def chunks(every: int) -> list[Stream]:
    found = []
    for dumped in streams(DUMP, Rope(1e5)):
        stream = dumped.stream
        for start in range(0, len(stream.words) - 191, 192):
            span = slice(start, start + 192)
            positions = None if stream.positions is None else stream.positions[span]
            found.append(replace(stream, words=stream.words[span], positions=positions))
    return found[::every]


@contextmanager
def side(name: str) -> Iterator[str]:
    """The id of the codec of a side; for one of them the compiled loops are taken away meanwhile."""
    compiled = rowref_max.compiled
    if name.endswith("without numba"):
        rowref_max.compiled = lambda: None
    try:
        yield name.partition(" ")[0]
    finally:
        rowref_max.compiled = compiled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--every", type=int, default=6)
    args = parser.parse_args()
    given = chunks(args.every)
    mb = sum(stream.raw_bytes for stream in given) / 1e6
    speeds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in SIDES}
    payloads: dict[str, list[bytes]] = {}
    for number in range(args.rounds + 1):  # the first is not counted: tables, contexts and compiled code are made
        for name in SIDES:
            with side(name) as codec_id:
                codec = get_codec(codec_id)
                began = time.process_time()
                payloads[name] = [codec.encode(stream) for stream in given]
                middle = time.process_time()
                decoded = [codec.decode(p, s.side_info()) for p, s in zip(payloads[name], given, strict=True)]
                ended = time.process_time()
            assert all(np.array_equal(words, stream.words) for words, stream in zip(decoded, given, strict=True))
            if number:
                speeds[name][0].append(mb / (middle - began))
                speeds[name][1].append(mb / (ended - middle))
    assert payloads["rowref_max"] == payloads["rowref_max without numba"]
    print(f"{len(given)} chunks, {mb:.2f} MB, {args.rounds} rounds, load {os.getloadavg()[0]:.1f}")
    print("| codec | encode MB/s | decode MB/s |\n| --- | ---: | ---: |")
    for name, ways in speeds.items():
        cells = (f"{statistics.median(way):.3g} ({min(way):.3g}-{max(way):.3g})" for way in ways)
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
