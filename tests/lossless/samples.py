"""Small dumps for tests: written like the real ones, then spoiled one way at a time."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from pytest_h2o.lossless.index import DumpEntry, Piece, Tensor, Words, index_dump, read_pieces
from pytest_h2o.lossless.result import LosslessResult, SkippedEntry

FIXTURES = Path(__file__).parents[2] / "fixtures"
FP16 = FIXTURES / "dumps" / "fp16.zip"
SMALL = FIXTURES / "dumps" / "small"
FP32 = FIXTURES / "dumps" / "fp32.zip"
TIMES = {"elapsed_s", "encode_s", "decode_s", "workers"}
"""Fields of a result that differ from run to run."""


def counted(result: LosslessResult) -> dict[str, Any]:
    """What a result says, but for its times."""
    return {name: value for name, value in result.to_json().items() if name not in TIMES}


def write_entry(root: Path, *, start: int = 0, tokens: int = 4, data: Any = None, **changes: Any) -> Path:
    """One entry of K and V, [tokens, 2, 8] fp16, seeded by its place; gives its meta file.

    `changes` replace fields of the meta; a value of ... (Ellipsis) takes the field out.
    """
    layer, run = changes.get("layer_id", 0), changes.get("run_id", "run")
    folder = root / str(run) / f"layer_{layer}"
    folder.mkdir(parents=True, exist_ok=True)
    span = f"t{start}_{start + tokens}"
    meta = {
        "layer_id": 0,
        "seq_start": start,
        "seq_len": tokens,
        "seq_end_exclusive": start + tokens,
        "kv_heads": 2,
        "head_dim": 8,
        "bytes_per_elem": 2,
        "dtype": "fp16",
        "stage": "prefill" if tokens > 1 else "decode",
        "run_id": "run",
        "k_file": f"k_{span}.bin",
        "v_file": f"v_{span}.bin",
        **changes,
    }
    for place, tensor in enumerate("kv"):
        seed = [start, tokens, place, *(str(layer).encode() if layer else b"")]
        words = np.random.default_rng(seed).integers(0, 1 << 16, (tokens, 2, 8), dtype=np.uint16)
        words &= 0xBFFF  # finite
        (folder / f"{tensor}_{span}.bin").write_bytes(words.astype("<u2").tobytes() if data is None else data)
    path = folder / f"meta_{span}.json"
    path.write_text(json.dumps({key: value for key, value in meta.items() if value is not ...}), encoding="utf-8")
    return path


def make_zip(root: Path, archive: Path) -> Path:
    """A .zip of everything below `root`."""
    return Path(shutil.make_archive(str(archive.with_suffix("")), "zip", root))


def the_skipped(root: Path) -> SkippedEntry:
    """The one entry that could not be read, beside one that could."""
    write_entry(root, start=100, run_id="sound")
    index = index_dump(root)
    assert [entry.run_id for entry in index.entries] == ["sound"]
    assert index.scanned_entries == 2
    (skipped,) = index.skipped
    return skipped


def read_words(entry: DumpEntry, tensor: Tensor) -> Words:
    """K or V of one whole entry."""
    return read_pieces([Piece(entry, 0, entry.seq_len)], tensor)
