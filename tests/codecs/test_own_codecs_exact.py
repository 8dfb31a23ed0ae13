"""What one machine encodes, another decodes: numpy's fast paths and BLAS have no say in the words."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_streams import all_chunks

from pytest_h2o.codecs.base import Codec
from pytest_h2o.codecs.expbias import ExpBias
from pytest_h2o.codecs.rowref import RowRef
from pytest_h2o.codecs.rowref_max import RowRefMax

CODECS: tuple[Codec, ...] = (ExpBias(), RowRef(), RowRefMax())

_DECODE = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    cases = pickle.load(file)
with open(sys.argv[2], "wb") as file:
    pickle.dump([codec.decode(payload, side).tobytes() for codec, payload, side in cases], file)
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_decoding_without_the_fast_paths_of_numpy(tmp_path: Path, threads: str) -> None:
    streams = [chunk.stream for chunk in all_chunks()[::30]]
    cases = [(codec, codec.encode(stream), stream.side_info()) for codec in CODECS for stream in streams]
    (tmp_path / "cases").write_bytes(pickle.dumps(cases))
    core: Any = np._core if hasattr(np, "_core") else np.core  # its name before numpy 2
    dispatched = " ".join(core._multiarray_umath.__cpu_dispatch__)
    environment = {
        **os.environ,
        "NPY_DISABLE_CPU_FEATURES": dispatched,
        "OPENBLAS_NUM_THREADS": threads,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-W", "ignore", "-c", _DECODE, str(tmp_path / "cases"), str(tmp_path / "words")]
    subprocess.run(command, env=environment, check=True, timeout=120)
    decoded = pickle.loads((tmp_path / "words").read_bytes())
    assert decoded == [stream.words.tobytes() for _ in CODECS for stream in streams]


def test_codecs_may_be_used_from_several_threads() -> None:
    streams = [chunk.stream for chunk in all_chunks()[::12]]
    for codec in CODECS[:2]:
        alone = [codec.encode(stream) for stream in streams]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(codec.encode, streams * 3)) == alone * 3
            sides = [stream.side_info() for stream in streams]
            decoded = list(pool.map(codec.decode, alone * 3, sides * 3))
        assert all(np.array_equal(words, stream.words) for words, stream in zip(decoded, streams * 3, strict=True))
