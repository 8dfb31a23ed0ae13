"""What it costs to keep a codec apart from what judges it (`pytest_h2o.lossless.apart`), old way and new in one run.

    python benchmarks/codec_apart.py [--sets recorded,tokens,single] [--rounds 7] [--workers 2] [--json FILE]

Sets:

- recorded: the recorded dump, four times over, in chunks of 192 tokens;
- tokens: 50,000 one-token entries, in chunks of 192 tokens;
- single: 5,000 one-token entries, each coded alone: 10,000 streams of 384 bytes.

The dump is indexed before. Each codec is measured twice a round, in turn: coded and decoded in the process that judges,
as a codec of this package is (here), and as one of a third party is, in processes of its own (apart). Printed are
medians of wall and processor seconds, those of other processes included, and of apart over here round by round.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from lossless_command import make_tokens, repeat

from pytest_h2o.codecs.base import Codec
from pytest_h2o.codecs.registry import get_codec
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless import apart, executors
from pytest_h2o.lossless.evaluate import evaluate_lossless
from pytest_h2o.lossless.index import index_dump

CHUNKS = Scope(scope="layer_range", entry_mode="chunked_grouped", online_chunk_seq=192, online_framing_bytes=8)
SETS: dict[str, tuple[Callable[[Path], None], Scope]] = {
    "recorded": (lambda root: repeat(root, None, 4), CHUNKS),
    "tokens": (make_tokens, CHUNKS),
    "single": (lambda root: make_tokens(root, runs=1, tokens=1000), Scope(scope="layer_range", entry_mode="per_meta")),
}
CODECS = ("adaptive_v22", "byteplane", "rowref")


@contextmanager
def judged(way: str) -> Iterator[None]:
    def is_ours(codec: Codec) -> bool:
        return way == "here"

    with mock.patch.object(apart, "is_ours", is_ours), mock.patch.object(executors, "is_ours", is_ours):
        yield


def processor_s() -> float:
    """Of this process and of those that it has ended."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def measure(root: Path, scope: Scope, name: str, rounds: int, workers: int) -> dict[str, list[tuple[float, float]]]:
    codec, index = get_codec(name), index_dump(root)
    found: dict[str, list[tuple[float, float]]] = {"here": [], "apart": []}
    for number in range(rounds + 1):
        for way in random.sample(sorted(found), 2):
            with judged(way):
                began, spent = time.perf_counter(), processor_s()
                evaluate_lossless(root, scope, verify=True, codec=codec, workers=workers, index=index)
            if number:  # the first warms the cache
                found[way].append((time.perf_counter() - began, processor_s() - spent))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--codecs", default=",".join(CODECS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also keep the figures")
    given = parser.parse_args()
    print("| set | codec | here s | apart s | apart / here | here cpu s | apart cpu s | cpu: apart / here |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    kept = []
    for name in given.sets.split(","):
        make, scope = SETS[name]
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder))
            for codec in given.codecs.split(","):
                found = measure(Path(folder), scope, codec, given.rounds, given.workers)
                cells = []
                for here, there in zip(
                    zip(*found["here"], strict=True), zip(*found["apart"], strict=True), strict=True
                ):
                    ratios = sorted(new / old for new, old in zip(there, here, strict=True))
                    medians = f"{statistics.median(here):.3f} | {statistics.median(there):.3f}"
                    cells.append(f"{medians} | {statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})")
                print(f"| {name} | {codec} | {' | '.join(cells)} |", flush=True)
                kept.append({"set": name, "codec": codec, "workers": given.workers, **found})
    if given.json:
        given.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
