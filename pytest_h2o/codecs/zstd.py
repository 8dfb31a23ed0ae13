"""Plain zstd on the fp16 words: the measure that every other codec is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Words
from pytest_h2o.codecs.planes import check_level, compress, decompress, from_bytes, to_bytes


@dataclass(frozen=True)
class Zstd(Codec):
    """One zstd frame of the raw words.

    Payload: a zstd frame of the words, little-endian, C order ``[seq_len, kv_heads, head_dim]``.

    Parameters
    ----------
    level : int
        zstd level, 1 to 22.
    """

    id: ClassVar[str] = "zstd"
    out_of_band: ClassVar[tuple[str, ...]] = ("shape",)

    level: int = 3

    def __post_init__(self) -> None:
        check_level(self.id, self.level)

    def encode(self, stream: Stream) -> bytes:
        return compress(to_bytes(stream.words), self.level)

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        return from_bytes(decompress(payload, side.raw_bytes), side.shape)
