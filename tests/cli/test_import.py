"""``pytest-h2o import``: what is told by names, config and flags, and each thing that cannot be told."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import save_file
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.cli.main import main
from pytest_h2o.lossless.index import index_dump
from tests.lossless.samples import read_words

ROOT = Path(__file__).parents[2]
DTYPES = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16, "fp32": np.float32}


def tensors(
    shape: tuple[int, ...], layers: int = 2, dtype: str = "fp16", names: str = "layers.{}.{}s"
) -> dict[str, Any]:
    rng = np.random.default_rng(len(shape))
    return {
        names.format(layer, tensor): rng.normal(0, 1, shape).astype(DTYPES[dtype])
        for layer in range(layers)
        for tensor in ("key", "value")
    }


def save(file: Path, given: dict[str, Any]) -> Path:
    file.parent.mkdir(exist_ok=True)
    save_file(given, file)
    return file


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cache_of_transformers_is_read_as_it_is(
    tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tensors((1, 3, 7, 8), dtype=dtype)
    file = save(tmp_path / "prompt.safetensors", given | {"logits": np.ones(4, np.float32)})
    (tmp_path / "config.json").write_text('{"rope_theta": 50000.0, "rope_parameters": "default"}')
    assert main(["import", str(file), str(tmp_path / "dump")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "prompt: layers.N.keys and .values, of transformers; layers 0, 1; "
        f"{dtype}, bhsd [1, 3, 7, 8], 1 other tensors not used\n"
    )
    assert "--rope-theta 50000" in out
    index = index_dump(tmp_path / "dump")
    assert [(e.run_id, e.layer_id, e.seq_len, e.kv_heads, e.head_dim) for e in index.entries] == [
        ("prompt", layer, 7, 3, 8) for layer in (0, 1)
    ]
    for entry in index.entries:
        assert json.loads((tmp_path / "dump" / entry.meta).read_text())["dtype"] == dtype
        value = given[f"layers.{entry.layer_id}.values"][0].transpose(1, 0, 2)
        expected = value.astype(np.float16) if dtype == "fp32" else value
        assert np.array_equal(read_words(entry, "v"), np.ascontiguousarray(expected).view(np.uint16))


@pytest.mark.parametrize(
    ("names", "shape", "flags", "config", "order"),
    [
        ("past_key_values.{}.{}", (1, 2, 5, 4), [], {}, "bhsd"),
        ("model.{1}_cache.{0}", (2, 5, 4), [], {}, "hsd"),
        ("layer_{}/{}", (5, 2, 4), ["--axes", "shd"], {}, "shd"),
        ("layer_{}/{}", (5, 2, 4), [], {"num_key_value_heads": 2, "head_dim": 4}, "shd"),
        ("layer_{}/{}", (1, 2, 5, 4), [], {"num_attention_heads": 2}, "bhsd"),
        ("x{0}y2{1}", (1, 5, 2, 4), ["--axes=bshd", "--key=x{layer}y2key", "--value=x{layer}y2value"], {}, "bshd"),
    ],
)  # fmt: skip
def test_names_and_axes(
    tmp_path: Path, names: str, shape: tuple[int, ...], flags: list[str], config: dict[str, int], order: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = tensors(shape, names=names)
    (tmp_path / "config.json").write_text(json.dumps(config))
    file = save(tmp_path / "mine.safetensors", given)
    assert main(["import", str(file), str(tmp_path / "dump"), "--run-id", "run", *flags]) == 0
    assert f"fp16, {order} {list(shape)}" in capsys.readouterr().out
    entries = index_dump(tmp_path / "dump").entries
    assert {(e.run_id, e.seq_len, e.kv_heads, e.head_dim) for e in entries} == {("run", 5, 2, 4)}
    key = given[names.format(0, "key")]
    key = key[0] if key.ndim == 4 else key
    expected = key if order.endswith("shd") else key.transpose(1, 0, 2)
    assert np.array_equal(read_words(entries[0], "k"), np.ascontiguousarray(expected).view(np.uint16))


def test_batches_padding_and_files(tmp_path: Path) -> None:
    batch = tensors((2, 3, 6, 4)) | {"attention_mask": np.array([[0, 0, 1, 1, 1, 1], [1] * 6])}
    save(tmp_path / "folder" / "a.safetensors", batch)
    save(tmp_path / "folder" / "b.safetensors", tensors((1, 3, 6, 4)))
    assert main(["import", str(tmp_path / "folder"), str(tmp_path / "dump")]) == 0
    lengths = {entry.run_id: entry.seq_len for entry in index_dump(tmp_path / "dump").entries}
    assert lengths == {"a-0": 4, "a-1": 6, "b": 6}
    given = tensors((1, 3, 6, 4), layers=3)
    for layer in range(3):
        part = {name: value for name, value in given.items() if f".{layer}." in name}
        save(tmp_path / "parts" / f"{layer}.safetensors", part)
    assert main(["import", str(tmp_path / "parts"), str(tmp_path / "dump")]) == 0
    assert {(e.run_id, e.layer_id) for e in index_dump(tmp_path / "dump" / "parts").entries} == {
        ("parts", layer) for layer in range(3)
    }


GOOD = tensors((1, 3, 7, 8))


def test_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(tmp_path / "mine.safetensors", GOOD)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert main(["import", str(file), str(tmp_path / "dump")]) == 2
    assert "pip install 'pytest-h2o[import]'" in capsys.readouterr().err


def test_a_cache_recorded_by_the_lines_of_the_page_is_gated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny random model in bf16, without a download: recorded, imported, gated, and given back bit for bit."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    vocabulary = {chr(32 + number): number for number in range(96)} | {"?": 96}
    letters = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    letters.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(tokenizer_object=letters).save_pretrained(tmp_path / "model")
    page = (ROOT / "docs" / "importing.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) == 12, "twelve lines, says the page"
    scope: dict[str, Any] = {}
    exec(code, scope)
    scope["record"](
        str(tmp_path / "model"), "the same words again, the same words again, and others", str(tmp_path / "made")
    )
    assert main(["import", str(tmp_path / "made"), str(tmp_path / "dump")]) == 0
    assert {entry.dtype for entry in index_dump(tmp_path / "dump").entries} == {"bf16"}
    gates = tmp_path / "gates"
    gates.mkdir()
    (gates / "test_dumps.py").write_text((ROOT / "gates" / "test_dumps.py").read_text("utf-8"))
    (gates / "scopes.yaml").write_text(
        f"scopes:\n  mine:\n    root: {tmp_path / 'dump'}\n    codec: rowref\n    target: 1.02\n    decides: true\n"
        "    entry_mode: chunked_grouped\n    online_chunk_seq: 192\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(gates)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"[23] passed", run.stdout), run.stdout


MINE = "mine.safetensors"
BATCH = tensors((2, 3, 7, 8))


FAULTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no k or v": ({MINE: {"logits": np.ones(3)}}, ()),
    "half": ({MINE: {"layers.0.keys": GOOD["layers.0.keys"]}}, ()),
    "two of a kind": ({MINE: tensors((7, 3, 8), 1, names="l{}_{}") | tensors((7, 3, 8), 1, names="m{}_{}")}, ()),
    "integers": ({MINE: GOOD | {"layers.0.keys": np.ones((1, 3, 7, 8), np.int8)}}, ()),
    "unlike": ({MINE: GOOD | {"layers.1.values": np.ones((1, 3, 9, 8), np.float16)}}, ()),
    "no tokens": ({MINE: tensors((1, 3, 0, 8))}, ()),
    "two axes": ({MINE: tensors((7, 24))}, ()),
    "unknown axes": ({MINE: tensors((7, 3, 8), names="l{}_{}")}, ()),
    "other axes": ({MINE: GOOD}, ("--axes", "hsd")),
    "one pattern": ({MINE: GOOD}, ("--key", "layers.{layer}.keys")),
    "no pattern": ({MINE: GOOD}, ("--key", "layers", "--value", "layers")),
    "mask": ({MINE: GOOD | {"attention_mask": np.ones((1, 6), np.int64)}}, ()),
    "no safetensors": ({MINE: b"\x08" * 40}, ()),
    "llama.cpp": ({MINE: b"qsgg\x02\0\0\0" + bytes(40)}, ()),
    "missing": ({}, ()),
    "a folder without any": ({f"{MINE}/other.txt": b""}, ()),
    "there already": ({MINE: GOOD, "dump/mine/meta.json": b""}, ()),
    "one name for two": ({f"{MINE}/{name}.safetensors": GOOD for name in "ab"}, ("--run-id", "one")),
    "outside": ({MINE: GOOD}, ("--run-id", "../../other")),
    "root is a file": ({MINE: GOOD, "dump": b""}, ()),
    "a batch and its name": ({f"{MINE}/a.safetensors": BATCH, f"{MINE}/a-0.SafeTensors": GOOD}, ()),
    "mask of nothing": ({MINE: GOOD | {"attention_mask": np.zeros((1, 7), np.int64)}}, ()),
    "mask of biases": ({MINE: GOOD | {"attention_mask": np.array([[0, 1, -np.inf, 0, 0, 0, 0]], np.float32)}}, ()),
    "deep config": ({MINE: GOOD, "config.json": b"[" * 99_999}, ()),
    "no object": ({MINE: GOOD, "config.json": b"[]"}, ()),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_told_is_said(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion
) -> None:
    files, flags = FAULTS[name]
    for file, given in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(given, bytes):
            (tmp_path / file).write_bytes(given)
        else:
            save(tmp_path / file, given)
    assert main(["import", str(tmp_path / MINE), str(tmp_path / "dump"), *flags]) == 2
    told = capsys.readouterr().err.replace(str(tmp_path), "DIR")
    assert re.sub("(no safetensors file\n.*\n  came: ).*", r"\1...", told) == snapshot  # the words of the library
    assert {path.name for path in (tmp_path / "dump").glob("*/*")} <= {"meta.json"}, "nothing half written"
