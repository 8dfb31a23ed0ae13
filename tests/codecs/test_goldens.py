"""Bytes that were written once decode for ever, and on any machine."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goldens import GOLDENS, cases_of, check_goldens, digest, read_cases, read_members

from pytest_h2o.codecs.registry import BUILT_IN, get_codec
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
    return json.loads(run.stdout)


@pytest.mark.parametrize("codec_id", BUILT_IN)
def test_goldens_decode(codec_id: str) -> None:
    assert check_goldens(codec_id) >= len(cases_of(get_codec(codec_id)))


def test_goldens_decode_alike_on_a_lesser_machine() -> None:
    """Other code paths in numpy and one BLAS thread: the features that numpy can do without are taken away."""
    core: Any = np._core if hasattr(np, "_core") else np.core  # its name before numpy 2
    dispatched = " ".join(core._multiarray_umath.__cpu_dispatch__)
    there = decode_all(NPY_DISABLE_CPU_FEATURES=dispatched, OPENBLAS_NUM_THREADS="1")
    assert there["enabled"] == []
    expected = {case.name: case.sha256 for case in read_cases().values()}
    assert len(there["digests"]) >= sum(len(cases_of(get_codec(codec_id))) for codec_id in BUILT_IN)
    for name, sha256 in there["digests"].items():
        assert sha256 == expected[Path(name).name.partition("--")[0]], name


@pytest.mark.parametrize(("codec_id", "mode"), [("rowref", 32), ("rowref_max", 64)])
@pytest.mark.parametrize("case", ["rows_k", "rows_v", "rows_k_bf16", "rows_v_bf16"])
def test_goldens_are_of_the_codecs_own_mode(codec_id: str, mode: int, case: str) -> None:
    """A fallback's golden would say nothing of the codec."""
    assert read_members(GOLDENS, codec_id)[case][0] == mode + (128 if case.endswith("bf16") else 0)


def test_no_codec_with_goldens_is_gone() -> None:
    """Whoever has bytes of a codec must be able to decode them."""
    assert {file.stem for file in GOLDENS.glob("*.zip")} == {"words", *BUILT_IN}


def test_the_words_are_those_of_the_index() -> None:
    cases = read_cases()
    assert {"k", "v", "odd", "unknown", "empty"} <= set(cases)
    for case in cases.values():
        assert digest(case.stream.words) == case.sha256


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDENS, tmp_path / "goldens"))


def change(root: Path, archive: str, name: str, data: bytes | None) -> None:
    """Give a member of an archive other bytes, or take it out."""
    members = read_members(root, archive)
    with zipfile.ZipFile(root / f"{archive}.zip", "w") as file:
        for member, old in members.items():
            if member != name or data is not None:
                file.writestr(f"{member}.bin", data if member == name and data is not None else old)


@pytest.mark.parametrize(
    ("archive", "name", "keep", "told"),
    [
        ("zstd", "v", None, r"no golden of zstd for \['v'\]: run tools/write_goldens.py zstd"),
        ("words", "k", -1, "decodes to other words"),
        ("zstd", "k", -5, "a zstd frame"),
    ],
)
def test_a_golden_that_is_missing_damaged_or_of_other_words_fails(
    copy: Path, archive: str, name: str, keep: int | None, told: str
) -> None:
    data = keep and read_members(copy, archive)[name][:keep]
    change(copy, archive, name, data and data + bytes(archive == "words"))
    with pytest.raises((AssertionError, CodecError), match=told):
        check_goldens("zstd", copy)


def test_the_tool_writes_what_is_missing_and_nothing_else(copy: Path) -> None:
    change(copy, "zstd", "v", None)
    change(copy, "zstd", "k", b"as it was")
    tool = [sys.executable, str(ROOT / "tools" / "write_goldens.py"), "zstd", "--root", str(copy)]
    run = subprocess.run(tool, capture_output=True, text=True, check=True)
    done = {Path(line.split()[1]).stem: line.split()[0] for line in run.stdout.splitlines()}
    assert done == {name: "written" if name == "v" else "kept" for name in read_cases()}
    assert read_members(copy, "zstd")["k"] == b"as it was"
    assert "v" in read_members(copy, "zstd")
