"""The same evaluation as a plain script: what `lossless_command.py` measures the command against.

    python benchmarks/straightforward_lossless.py DUMP_DIR OUT_JSON [--chunk 192] [--framing 8] [--layers 2]

Mode chunked_grouped with adaptive_v22, written the way one writes it first: one thread, every meta parsed and every
file read one by one, predictors in int16, sizes only. It counts the same bytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

PREDICTORS = {
    "k": ["raw", "delta_seq", "xor_seq", "pair_delta", "pair_delta_delta_seq"],
    "v": ["raw", "delta_seq", "xor_seq"],
}
BLOCK = 64

Plane = NDArray[np.uint8]


def predict(block: Plane, name: str) -> Plane:
    if name == "raw":
        return block
    if name == "pair_delta_delta_seq":
        return predict(predict(block, "pair_delta"), "delta_seq")
    wide = block.astype(np.int16)
    out = wide.copy()
    if name == "delta_seq":
        out[1:] = wide[1:] - wide[:-1]
    elif name == "xor_seq":
        out[1:] = wide[1:] ^ wide[:-1]
    elif name == "pair_delta":
        out[..., 1::2] = wide[..., 1::2] - wide[..., 0::2]
    return (out & 0xFF).astype(np.uint8)


def plane_size(plane: Plane, names: list[str], compressor: zstandard.ZstdCompressor) -> int:
    chosen = []
    for start in range(0, len(plane), BLOCK):
        best = None
        for name in names:
            data = predict(plane[start : start + BLOCK], name).tobytes()
            size = len(compressor.compress(data))
            if best is None or size < best[0]:
                best = size, data
        chosen.append(best[1])
    return len(compressor.compress(b"".join(chosen))) + len(chosen) + 8


def read_tensor(path: Path, meta: dict[str, Any]) -> NDArray[np.uint16]:
    shape = meta["seq_len"], meta["kv_heads"], meta["head_dim"]
    if meta["bytes_per_elem"] == 4:
        return np.fromfile(path, "<f4").reshape(shape).astype(np.float16).view(np.uint16)
    return np.fromfile(path, "<u2").reshape(shape)


def evaluate(root: Path, chunk: int, framing: int, layers: int) -> dict[str, Any]:
    groups: dict[tuple[Any, ...], list[tuple[int, dict[str, Any], Path]]] = {}
    for path in sorted(root.rglob("meta_*.json")):
        meta = json.loads(path.read_text(encoding="utf-8"))
        if not 0 <= meta["layer_id"] < layers:
            continue
        for name in ("k_file", "v_file"):
            if not (path.parent / meta[name]).is_file():
                raise SystemExit(f"{path}: {meta[name]} is missing")
        key = meta.get("run_id"), meta["layer_id"], meta["kv_heads"], meta["head_dim"]
        groups.setdefault(key, []).append((meta["seq_start"], meta, path))
    compressor = zstandard.ZstdCompressor(level=3)
    raw = {"k": 0, "v": 0}
    coded = {"k": 0, "v": 0}
    for group in groups.values():
        group.sort(key=lambda item: item[0])
        for tensor, names in PREDICTORS.items():
            words = np.concatenate([read_tensor(path.parent / m[f"{tensor}_file"], m) for _, m, path in group])
            raw[tensor] += words.nbytes
            for start in range(0, len(words), chunk):
                part = words[start : start + chunk]
                hi, lo = (part >> 8).astype(np.uint8), (part & 0xFF).astype(np.uint8)
                coded[tensor] += plane_size(hi, names, compressor) + plane_size(lo, names, compressor) + framing
    return {
        "k_compressed_bytes": coded["k"],
        "v_compressed_bytes": coded["v"],
        "raw_bytes": raw["k"] + raw["v"],
        "lossless_ratio": (raw["k"] + raw["v"]) / (coded["k"] + coded["v"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dump_dir", type=Path)
    parser.add_argument("out_json", type=Path)
    parser.add_argument("--chunk", type=int, default=192)
    parser.add_argument("--framing", type=int, default=8)
    parser.add_argument("--layers", type=int, default=2, help="layers 0 to N-1")
    args = parser.parse_args()
    result = evaluate(args.dump_dir, args.chunk, args.framing, args.layers)
    args.out_json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
