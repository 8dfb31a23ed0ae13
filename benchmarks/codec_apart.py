"""What it costs to keep a codec apart from what judges it (`pytest_h2o.lossless.apart`), old way and new in one run.

    python benchmarks/codec_apart.py [--times 4] [--rounds 7] [--workers 1]

The recorded dump, so many times over, every layer in chunks of 192 tokens. Each codec is measured three times a round,
in turn: coded and decoded in this process (old); as a codec of this package is now (ours); and as one of a third party
is, in processes of its own (apart). Printed are medians of wall seconds, and the median of new over old of a round.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from lossless_command import repeat

from pytest_h2o.codecs.base import Codec
from pytest_h2o.codecs.registry import get_codec
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless import apart, executors
from pytest_h2o.lossless.evaluate import evaluate_lossless

SCOPE = Scope(scope="layer_range", entry_mode="chunked_grouped", online_chunk_seq=192, online_framing_bytes=8)
CODECS = ("adaptive_v22", "byteplane", "rowref")


@contextmanager
def judged(as_: str) -> Iterator[None]:
    def is_ours(codec: Codec) -> bool:
        return as_ != "apart"

    with mock.patch.object(apart, "is_ours", is_ours), mock.patch.object(executors, "is_ours", is_ours):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repeat(Path(folder), None, given.times)
        print(f"{'codec':<14}{'way':<7}{'wall s':>8}{'new/old':>9}")
        for name in CODECS:
            codec = get_codec(name)
            found: dict[str, list[float]] = {"old": [], "ours": [], "apart": []}
            for number in range(given.rounds + 1):
                for way in random.sample(sorted(found), 3):
                    with judged(way):
                        began = time.perf_counter()
                        evaluate_lossless(folder, SCOPE, verify=True, codec=codec, workers=given.workers)
                    if number:  # the first warms the cache
                        found[way].append(time.perf_counter() - began)
            for way, took in found.items():
                ratio = statistics.median(new / old for new, old in zip(took, found["old"], strict=True))
                print(f"{name:<14}{way:<7}{statistics.median(took):>8.2f}{ratio:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
