"""Model files that are sound, and every way in which one can be wrong: one clear error each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from struct import pack

import numpy as np
import pytest
from synthetic_model import SyntheticShape, write_gguf

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.gguf import GgufFile

HINT = "  next: name a GGUF file of a Llama-style model in `llm_model` of the config"


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


def test_another_format_or_architecture(tmp_path: Path) -> None:
    path = tmp_path / "llm.mnn"
    assert error_of(path) == f"the model cannot be read\n  where: {path}\n  came: No such file or directory\n{HINT}"
    path.write_bytes(b"MNN!")
    assert error_of(path) == (
        f"the model is no GGUF file\n  where: {path}\n  came: first bytes b'MNN!'\n  expected: b'GGUF'\n{HINT}"
    )
    path = write_gguf(tmp_path / "model.gguf", architecture="qwen2")
    assert error_of(path) == (
        "the model is of an architecture that the reference bench does not know\n"
        f"  where: {path}, general.architecture\n  came: qwen2\n  expected: llama\n{HINT}"
    )


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


def test_a_shape_that_disagrees(tmp_path: Path) -> None:
    bad = {"blk.1.ffn_down.weight": np.zeros((32, 40), np.float32)}
    path = write_gguf(tmp_path / "model.gguf", replace=bad)
    assert error_of(path) == (
        "the shape of a tensor disagrees with the model's metadata\n"
        f"  where: {path}, blk.1.ffn_down.weight\n  came: [32, 40]\n  expected: [32, 48]\n{HINT}"
    )


def test_missing_and_left_over_tensors(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", drop=("blk.0.attn_k.weight", "output_norm.weight"))
    assert error_of(path) == (
        f"the model lacks tensors\n  where: {path}\n  came: blk.0.attn_k.weight, output_norm.weight: not there\n"
        f"  expected: 38 tensors for 4 layers\n{HINT}"
    )
    path = write_gguf(tmp_path / "layers.gguf", metadata={"llama.block_count": 1 << 24})
    assert "came: 38\n  expected: those of 16777216 layers" in error_of(path)
    path = write_gguf(tmp_path / "bias.gguf", replace={"blk.0.attn_q.bias": np.zeros(32, np.float32)})
    assert "tensors that the reference bench does not compute with" in error_of(path)
    assert "blk.0.attn_q.bias: left over" in error_of(path)


def test_variants_that_would_be_computed_wrongly(tmp_path: Path) -> None:
    for key, value in (
        ("llama.rope.scaling.type", "yarn"),
        ("llama.expert_count", 8.0),
        ("llama.rope.dimension_count", 4.0),
    ):
        path = write_gguf(tmp_path / f"{key}.gguf", metadata={key: value})
        message = error_of(path)
        assert message.startswith("the model is of a kind that the reference bench does not compute")
        assert f"{path}, {key}" in message


def with_version(data: bytes, version: int) -> bytes:
    return data[:4] + pack("<I", version) + data[8:]


def with_type(data: bytes, number: int) -> bytes:
    """The type of the first tensor, which stands behind its name and its two sizes."""
    place = data.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 2 * 8
    return data[:place] + pack("<I", number) + data[place + 4 :]


UNKNOWN = f"  expected: what gguf {version('gguf')} reads\n  next: pip install --upgrade gguf, or convert the model to "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            partial(with_version, version=4),
            "the model has a file version that the installed gguf does not know\n  where: PATH\n"
            f"  came: GGUF version 4\n{UNKNOWN}Q8_0, F16 or F32",
        ),
        (
            partial(with_type, number=42),
            "the model has a tensor type that the installed gguf does not know\n  where: PATH\n"
            f"  came: type 42 of token_embd.weight\n{UNKNOWN}Q8_0, F16 or F32",
        ),
        (
            partial(with_version, version=3 << 24),
            "the model is written in the byte order of another machine\n  where: PATH\n"
            "  expected: a little-endian GGUF file\n  next: gguf-convert-endian MODEL little, on a copy of it",
        ),
    ],
)
def test_what_no_fetching_would_mend(change: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    """A file that is whole, and of a kind that the package does not read, or would read wrongly."""
    path = write_gguf(tmp_path / "model.gguf", SyntheticShape(layers=1))
    path.write_bytes(change(path.read_bytes()))
    assert error_of(path) == message.replace("PATH", str(path))


def test_hostile_files_and_names(tmp_path: Path) -> None:
    """An array of arrays, 20,000 deep, and a NUL in the name."""
    path = tmp_path / "deep.gguf"
    path.write_bytes(
        b"GGUF" + pack("<IQQ", 3, 0, 1) + pack("<Q", 1) + b"a" + pack("<I", 9) + pack("<IQ", 9, 1) * 20_000
    )
    assert error_of(path).startswith(f"the metadata of the model is nested too deep\n  where: {path}\n")
    assert "RecursionError" not in error_of(path)
    assert error_of(Path("a\0b")).startswith("the model cannot be read\n  where: a\\x00b\n  came: a name with a NUL\n")
