"""rowref: every row predicted from an earlier row of the stream, rotated to its position.

Tokens repeat, or resemble earlier ones, in every layer; a key differs then by the rotation between the two positions,
a value not at all. The encoder finds the nearest earlier row of each (see `references`), the residual is taken
between bit patterns seen as ordered integers (see `ordered_fp16`), and rows are sorted by how near their reference
is, so that each class of rows has a histogram of its own. Rows without a near reference get a bias a channel
(see `channel_bias`). Chains of references have at most three steps: the decoder works level by level on whole arrays.

Payload: an expbias payload where that is chosen (mode byte below 32); else mode byte 32, shape (three varints), the
rotation and, if there is one, the positions (see `position_runs`), then the segments (see `row_segments`). A rotation
is left out where the stream holds values that are not finite. Segments refer to no other segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Words
from pytest_h2o.codecs.expbias import ExpBias
from pytest_h2o.codecs.row_segments import SEGMENT_ROWS, Segment, decode_segment, encode_segment
from pytest_h2o.codecs.stream_header import MAX_HEADER_BYTES, check_shape, read_header
from pytest_h2o.codecs.turned_header import read_turned_header, write_turned_header
from pytest_h2o.codecs.varint import PayloadReader

_ROWS_MODE = 32
_NEAR = {"k": 0.5, "v": 0.35}
"""A reference is used if its squared distance is under this share of the row's energy."""
_SHORT_ROWS = 48
_POOR_SHARE = 0.9
"""Short streams, and those that stay above this share of raw, are tried without references as well."""


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
        if len(stream.words) <= _SHORT_ROWS or len(payload) > _POOR_SHARE * stream.raw_bytes:
            return min(payload, ExpBias().encode(stream), key=len)
        return payload

    def _encode_rows(self, stream: Stream) -> bytes:
        words = np.ascontiguousarray(stream.words)
        header, rotation, positions = write_turned_header(_ROWS_MODE, stream, words, self.id)
        parts = [header]
        for at in range(0, len(words), SEGMENT_ROWS):
            rows = slice(at, at + SEGMENT_ROWS)
            parts.append(encode_segment(Segment(words[rows], positions[rows], rotation), _NEAR[stream.tensor]))
        return b"".join(parts)

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        reader = PayloadReader(payload, self.id)
        header = read_header(reader, side, self.id)
        if header.mode < _ROWS_MODE:
            return ExpBias().decode(payload, side)
        if header.mode != _ROWS_MODE or header.words == 0:
            raise reader.damaged("unknown mode", came=str(header.mode), expected=f"at most {_ROWS_MODE}")
        rotation, positions = read_turned_header(reader, header)
        words = np.empty(header.shape, np.uint16)
        for at in range(0, header.rows, SEGMENT_ROWS):
            rows = slice(at, at + SEGMENT_ROWS)
            decode_segment(reader, Segment(words[rows], positions[rows], rotation))
        reader.expect_end()
        return words
