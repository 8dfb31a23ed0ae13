"""Bytes that were written once decode for ever, and on any machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goldens import GOLDENS, check_goldens, digest, read_cases

from pytest_h2o.codecs.registry import BUILT_IN
from pytest_h2o.errors import CodecError

ROOT = Path(__file__).parents[2]

DECODE_ALL = """
import importlib, json, sys
try:
    core = importlib.import_module("numpy._core._multiarray_umath")
except ImportError:
    core = importlib.import_module("numpy.core._multiarray_umath")
sys.path.insert(0, sys.argv[1])
from goldens import decode_goldens, digest
from pytest_h2o.codecs.registry import BUILT_IN
print(json.dumps({
    "enabled": [name for name in core.__cpu_dispatch__ if core.__cpu_features__.get(name)],
    "digests": {
        f"{codec}/{name}": digest(words) for codec in BUILT_IN for name, words in decode_goldens(codec).items()
    },
}))
"""
"""Decodes every golden in a process of its own, and says which features numpy could choose there."""


def decode_all(**environment: str) -> dict[str, dict[str, str]]:
    run = subprocess.run(
        [sys.executable, "-c", DECODE_ALL, str(Path(__file__).parent)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    result: dict[str, dict[str, str]] = json.loads(run.stdout)
    return result


@pytest.mark.parametrize("codec_id", BUILT_IN)
def test_goldens_decode(codec_id: str) -> None:
    assert check_goldens(codec_id) >= len(read_cases())


def test_goldens_decode_alike_on_a_lesser_machine() -> None:
    """Other code paths in numpy and one BLAS thread: the features that numpy can do without are taken away."""
    core: Any = np._core if hasattr(np, "_core") else np.core  # its name before numpy 2
    dispatched = " ".join(core._multiarray_umath.__cpu_dispatch__)
    there = decode_all(NPY_DISABLE_CPU_FEATURES=dispatched, OPENBLAS_NUM_THREADS="1")
    assert there["enabled"] == []
    expected = {case.name: case.sha256 for case in read_cases().values()}
    assert len(there["digests"]) >= len(expected) * len(BUILT_IN)
    for name, sha256 in there["digests"].items():
        assert sha256 == expected[Path(name).name.partition("--")[0]], name


@pytest.mark.parametrize(("codec_id", "mode"), [("rowref", 32), ("rowref_max", 64)])
@pytest.mark.parametrize("case", ["rows_k", "rows_v"])
def test_goldens_are_of_the_codecs_own_mode(codec_id: str, mode: int, case: str) -> None:
    """A fallback's golden would say nothing of the codec."""
    assert (GOLDENS / codec_id / f"{case}.bin").read_bytes()[0] == mode


def test_no_codec_with_goldens_is_gone() -> None:
    """Whoever has bytes of a codec must be able to decode them."""
    assert {folder.name for folder in GOLDENS.iterdir() if folder.is_dir()} == {"words", *BUILT_IN}


def test_the_words_are_those_of_the_index() -> None:
    cases = read_cases()
    assert {"k", "v", "odd", "unknown", "empty"} <= set(cases)
    for case in cases.values():
        assert digest(case.stream.words) == case.sha256


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDENS, tmp_path / "goldens"))


def test_a_missing_golden_fails(copy: Path) -> None:
    (copy / "zstd" / "v.bin").unlink()
    with pytest.raises(AssertionError, match=r"no golden of zstd for \['v'\]: run tools/write_goldens.py zstd"):
        check_goldens("zstd", copy)
    assert not (copy / "zstd" / "v.bin").exists(), "a check writes nothing"


def test_a_golden_of_other_words_fails(copy: Path) -> None:
    words = copy / "words" / "k.bin"
    words.write_bytes(words.read_bytes()[:-1] + b"\x00")
    with pytest.raises(AssertionError, match="decodes to other words"):
        check_goldens("zstd", copy)


def test_a_damaged_golden_fails(copy: Path) -> None:
    golden = copy / "zstd" / "k.bin"
    golden.write_bytes(golden.read_bytes()[:-5])
    with pytest.raises(CodecError, match="a zstd frame"):
        check_goldens("zstd", copy)


def test_the_tool_writes_what_is_missing_and_nothing_else(copy: Path) -> None:
    (copy / "zstd" / "v.bin").unlink()
    (copy / "zstd" / "k.bin").write_bytes(b"as it was")
    tool = [sys.executable, str(ROOT / "tools" / "write_goldens.py"), "zstd", "--root", str(copy)]
    run = subprocess.run(tool, capture_output=True, text=True, check=True)
    done = {Path(line.split()[1]).stem: line.split()[0] for line in run.stdout.splitlines()}
    assert done == {name: "written" if name == "v" else "kept" for name in read_cases()}
    assert (copy / "zstd" / "k.bin").read_bytes() == b"as it was"
    assert (copy / "zstd" / "v.bin").exists()
