"""Model files that are sound, and every way in which one can be wrong: one clear error each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import pytest
from synthetic_model import SyntheticShape, write_gguf
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.gguf import GgufFile


def error_of(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        GgufFile(path)
    return str(caught.value)


def test_hyper_parameters_are_read(tmp_path: Path) -> None:
    shape = SyntheticShape(layers=2, tied=False)
    file = GgufFile(write_gguf(tmp_path / "model.gguf", shape))
    assert (file.hyper.layers, file.hyper.kv_heads, file.hyper.head_dim, file.hyper.context) == (2, 2, 8, 512)
    assert not file.tied_head
    assert file.hyper.vocabulary == 260


def test_truncated_and_damaged_files_give_this_error_alone(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "model.gguf", SyntheticShape(layers=1)).read_bytes()
    path = tmp_path / "cut.gguf"
    for size in [*range(0, 600, 61), *range(600, len(whole), 9999), len(whole) - 1]:
        path.write_bytes(whole[:size])
        message = error_of(path)
        assert message.startswith(("the model is truncated or damaged", "the model is no GGUF file")), (size, message)
    refused = 0
    for place in range(0, 1500, 29):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            GgufFile(path)
        except UsageError:
            refused += 1
    assert refused > 25


def with_version(data: bytes, version: int) -> bytes:
    return data[:4] + pack("<I", version) + data[8:]


def with_type(data: bytes, number: int) -> bytes:
    """The type of the first tensor, which stands behind its name and its two sizes."""
    place = data.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 2 * 8
    return data[:place] + pack("<I", number) + data[place + 4 :]


@pytest.mark.parametrize(
    "change", [partial(with_version, version=4), partial(with_type, number=42), partial(with_version, version=3 << 24)]
)
def test_what_no_fetching_would_mend(
    change: Callable[[bytes], bytes], tmp_path: Path, snapshot: SnapshotAssertion
) -> None:
    """A file that is whole, and of a kind that the package does not read, or would read wrongly."""
    path = write_gguf(tmp_path / "model.gguf", SyntheticShape(layers=1))
    path.write_bytes(change(path.read_bytes()))
    assert error_of(path).replace(str(path), "PATH").replace(version("gguf"), "VERSION") == snapshot


def test_hostile_files_and_names(tmp_path: Path) -> None:
    """An array of arrays, 20,000 deep, and a NUL in the name."""
    path = tmp_path / "deep.gguf"
    path.write_bytes(
        b"GGUF" + pack("<IQQ", 3, 0, 1) + pack("<Q", 1) + b"a" + pack("<I", 9) + pack("<IQ", 9, 1) * 20_000
    )
    assert error_of(path).startswith(f"the metadata of the model is nested too deep\n  where: {path}\n")
    assert "RecursionError" not in error_of(path)
    assert error_of(Path("a\0b")).startswith("the model cannot be read\n  where: a\\x00b\n  came: a name with a NUL\n")


@pytest.mark.parametrize(
    "fault",
    [
        None,
        b"MNN!",
        {"architecture": "qwen2"},
        {"replace": {"blk.1.ffn_down.weight": np.zeros((32, 40), np.float32)}},
        {"drop": ("blk.0.attn_k.weight", "output_norm.weight")},
        {"metadata": {"llama.block_count": 1 << 24}},
        {"replace": {"blk.0.attn_q.bias": np.zeros(32, np.float32)}},
        {"metadata": {"llama.rope.scaling.type": "yarn"}},
        {"metadata": {"llama.expert_count": 8.0}},
        {"metadata": {"llama.rope.dimension_count": 4.0}},
    ],
)
def test_a_model_of_another_kind_is_refused(
    fault: bytes | dict[str, Any] | None, tmp_path: Path, snapshot: SnapshotAssertion
) -> None:
    """Not there, of another format or architecture, with other tensors, or of a kind that would be computed wrongly."""
    path = tmp_path / "llm.mnn"
    if isinstance(fault, bytes):
        path.write_bytes(fault)
    elif fault is not None:
        write_gguf(path, **fault)
    assert error_of(path).replace(str(path), "PATH") == snapshot
