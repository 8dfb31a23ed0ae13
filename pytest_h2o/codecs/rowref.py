"""rowref: every row predicted from an earlier row of the stream, rotated to its position.

Tokens repeat, or resemble earlier ones, in every layer; a key differs then by the rotation between the two positions,
a value not at all. The encoder finds the nearest earlier row of each (see `rows.references`), the residual is taken
between bit patterns (see `rows.prediction`), and rows are sorted by how near their reference is, so that each class of
rows has a histogram of its own. Rows without a near reference get a bias a channel (see `planes.channel_bias`). Chains
of references have at most two steps: the decoder works level by level on whole arrays.

Payload: an expbias payload where that is chosen (mode byte below 32); else mode byte 32, shape (three varints), the
rotation and, if there is one, the positions (see `wire.turned_header`), then the segments (see `rows.row_segments`).
A rotation is left out where the stream holds values that are not finite. Segments refer to no other segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pytest_h2o.codecs.base import Codec, Rope, SideInfo, Stream, Words
from pytest_h2o.codecs.expbias import ExpBias
from pytest_h2o.codecs.rows.rotation import Turner, build_turner
from pytest_h2o.codecs.rows.row_segments import SEGMENT_ROWS, Resolver, encode_segment
from pytest_h2o.codecs.wire.byte_reader import ByteReader
from pytest_h2o.codecs.wire.position_runs import Positions
from pytest_h2o.codecs.wire.stream_header import MAX_HEADER_BYTES, check_shape, read_header
from pytest_h2o.codecs.wire.turned_header import read_turned_header, write_turned_header

_ROWS_MODE = 32
_NEAR = {"k": 0.5, "v": 0.35}
"""A reference is used if its squared distance is under this share of the row's energy."""
_SHORT_ROWS = 48
_POOR_SHARE, _RICH_SHARE = 0.9, 0.25
"""Short streams, and those that come to less or more than these shares of raw, are tried without references as well:
noise has none, and where whole rows repeat zstd finds them."""


@dataclass(frozen=True)
class RowRef(Codec):
    """Row references through RoPE, zstd level 3; the payload alone decodes."""

    id: ClassVar[str] = "rowref"
    max_overhead_bytes: ClassVar[int] = MAX_HEADER_BYTES
    """No payload is longer than the raw words by more than this."""

    def encode(self, stream: Stream) -> bytes:
        check_shape(stream.words.shape, self.id)
        if stream.words.shape[0] < 2 or stream.words.size == 0:
            return ExpBias().encode(stream)
        payload = self._encode_rows(stream)
        share = len(payload) / stream.raw_bytes
        if len(stream.words) <= _SHORT_ROWS or not _RICH_SHARE < share < _POOR_SHARE:
            return min(payload, ExpBias().encode(stream), key=len)
        return payload

    def _encode_rows(self, stream: Stream) -> bytes:
        words = np.ascontiguousarray(stream.words)
        header, rope, positions = write_turned_header(_ROWS_MODE, stream, words, self.id)
        turner = _turner(rope, words.shape)
        parts = [header]
        for at in range(0, len(words), SEGMENT_ROWS):
            rows = slice(at, at + SEGMENT_ROWS)
            parts.append(encode_segment(words[rows], positions[rows], turner, _NEAR[stream.tensor]))
        return b"".join(parts)

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        return self.decode_many([payload], [side])[0]

    def decode_many(self, payloads: Sequence[bytes | memoryview], sides: Sequence[SideInfo]) -> list[Words]:
        """Streams of one width and rotation are resolved together; their words are parts of one array."""
        found: dict[int, Words] = {}
        batches: dict[tuple[Rope | None, int, int], list[_Opened]] = {}
        for index, (payload, side) in enumerate(zip(payloads, sides, strict=True)):
            reader = ByteReader(payload, self.id)
            header = read_header(reader, side, self.id)
            if header.mode < _ROWS_MODE:
                found[index] = ExpBias().decode(payload, side)
                continue
            if header.mode != _ROWS_MODE or header.words == 0:
                raise reader.damaged("unknown mode", came=str(header.mode), expected=f"at most {_ROWS_MODE}")
            rope, positions = read_turned_header(reader, header)
            batches.setdefault((rope, *header.shape[1:]), []).append(_Opened(index, reader, header.rows, positions))
        for (rope, heads, head_dim), batch in batches.items():
            words = np.empty((sum(opened.rows for opened in batch), heads, head_dim), np.uint16)
            resolver = Resolver(words.reshape(len(words), -1), _turner(rope, words.shape))
            start = 0
            for opened in batch:
                opened.read_into(resolver, start)
                found[opened.index] = words[start : start + opened.rows]
                start += opened.rows
            resolver.resolve()
        return [found[index] for index in range(len(payloads))]


@dataclass(frozen=True)
class _Opened:
    """A payload whose header has been read."""

    index: int
    reader: ByteReader
    rows: int
    positions: Positions

    def read_into(self, resolver: Resolver, start: int) -> None:
        """Read all segments into the rows from `start` on."""
        for at in range(0, self.rows, SEGMENT_ROWS):
            resolver.read_segment(self.reader, start + at, self.positions[at : at + SEGMENT_ROWS])
        self.reader.expect_end()


def _turner(rope: Rope | None, shape: tuple[int, ...]) -> Turner | None:
    return None if rope is None else build_turner(rope, shape[1], shape[2])
