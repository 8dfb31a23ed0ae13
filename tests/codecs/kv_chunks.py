"""The recorded fp16 dumps as the chunks that the online simulation codes, and what adaptive_v22 makes of them.

Grouped by (run, layer, tensor), entries in the order of (seq_start, path), concatenated, cut in chunks of 192 rows.
The reference sizes are computed here, from the description of adaptive_v22 alone, so that these tests lean on no
codec but the one they test; their sum is checked against the recorded result of the original scripts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import zstandard

from pytest_h2o.codecs.base import Codec, Rope, Stream, Tensor

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
CHUNK_ROWS = 192
FRAMING_BYTES = 8
ROPE = Rope(theta=100_000.0)
PROMPTS = ("code", "log", "prose")

Ratio = Callable[[Callable[["Chunk"], bool]], float]


@dataclass(frozen=True)
class Chunk:
    """One coded unit: `CHUNK_ROWS` rows at most of one tensor of one layer of one run."""

    run_id: str
    layer: int
    stream: Stream


@cache
def read_chunks() -> tuple[Chunk, ...]:
    """Read every chunk of the recorded dumps."""
    root = FIXTURES / "dumps" / "fp16"
    groups: dict[tuple[str, int], list[tuple[int, tuple[str, ...], Path, int]]] = {}
    for path in root.rglob("meta_*.json"):
        meta = json.loads(path.read_text())
        key = (meta["run_id"], meta["layer_id"])
        groups.setdefault(key, []).append((meta["seq_start"], path.parts, path, meta["seq_len"]))
    tensors: tuple[Tensor, Tensor] = ("k", "v")
    chunks = []
    for (run_id, layer), entries in sorted(groups.items()):
        entries.sort()
        positions = np.concatenate([np.arange(start, start + rows) for start, _, _, rows in entries])
        for tensor in tensors:
            names = [path.name.replace("meta_", f"{tensor}_").replace(".json", ".bin") for _, _, path, _ in entries]
            words = np.concatenate(
                [
                    np.fromfile(path.with_name(name), "<u2").reshape(rows, 3, 64)
                    for name, (_, _, path, rows) in zip(names, entries, strict=True)
                ]
            )
            chunks += [
                Chunk(run_id, layer, Stream(words[at : at + CHUNK_ROWS], tensor, positions[at : at + CHUNK_ROWS], ROPE))
                for at in range(0, len(words), CHUNK_ROWS)
            ]
    return tuple(chunks)


@cache
def read_reference_sizes() -> tuple[int, ...]:
    """Size of every chunk under adaptive_v22, in the order of `read_chunks`, framing left out."""
    return tuple(_adaptive_v22_bytes(chunk.stream) for chunk in read_chunks())


def measure_ratios(codec: Codec) -> tuple[list[bytes], Ratio]:
    """Encode every chunk; give the payloads, and the ratio (raw over coded, framing counted) of a selection."""
    payloads = [codec.encode(chunk.stream) for chunk in read_chunks()]

    def ratio(select: Callable[[Chunk], bool]) -> float:
        chosen = [(chunk, payload) for chunk, payload in zip(read_chunks(), payloads, strict=True) if select(chunk)]
        raw = sum(chunk.stream.raw_bytes for chunk, _ in chosen)
        return raw / sum(len(payload) + FRAMING_BYTES for _, payload in chosen)

    return payloads, ratio


def _adaptive_v22_bytes(stream: Stream) -> int:
    planes = (stream.words >> 8).astype(np.uint8), stream.words.astype(np.uint8)
    return sum(_plane_bytes(plane, 5 if stream.tensor == "k" else 3) for plane in planes)


def _plane_bytes(plane: np.ndarray, predictors: int) -> int:
    compressor = zstandard.ZstdCompressor(level=3)
    blocks = [plane[at : at + 64] for at in range(0, len(plane), 64)]
    chosen = [
        min(
            (np.ascontiguousarray(transform(block)).tobytes() for transform in _TRANSFORMS[:predictors]),
            key=lambda coded: len(compressor.compress(coded)),
        )
        for block in blocks
    ]
    return len(compressor.compress(b"".join(chosen))) + len(blocks) + 8


def _delta_seq(block: np.ndarray) -> np.ndarray:
    out = block.copy()
    out[1:] -= block[:-1]
    return out


def _xor_seq(block: np.ndarray) -> np.ndarray:
    out = block.copy()
    out[1:] ^= block[:-1]
    return out


def _pair_delta(block: np.ndarray) -> np.ndarray:
    out = block.copy()
    out[..., 1::2] -= block[..., 0:-1:2]
    return out


_TRANSFORMS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda block: block,
    _delta_seq,
    _xor_seq,
    _pair_delta,
    lambda block: _delta_seq(_pair_delta(block)),
)
