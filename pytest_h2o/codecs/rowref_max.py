"""rowref_max: every word coded under a distribution that earlier rows predict; the smallest, and slow.

As in `rowref`, rows resemble earlier rows of the stream, for keys after the rotation between the positions is removed.
Here up to three earlier rows and the running mean make up a prediction, and the spread of its errors is followed a
channel and told a row. The fp16 words are then coded one by one, exactly as likely as their rounding intervals are
under a logistic distribution of that mean and spread, by a range coder whose lanes are the channels, so that all of it
runs on whole rows in numpy (see `density`).

Payload: a rowref payload where that is smaller (mode byte up to 32); else mode byte 64, shape (three varints), the
rotation and, if there is one, the positions (see `wire`), then the segments of 1,024 rows (see `density`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Words
from pytest_h2o.codecs.density import SEGMENT_ROWS, decode_segment, encode_segment
from pytest_h2o.codecs.rotation import build_rotation
from pytest_h2o.codecs.rowref import RowRef, read_turned_header, write_turned_header
from pytest_h2o.codecs.wire import MAX_HEADER_BYTES, ByteReader, check_shape, read_mode

_DENSITY_MODE = 64
_MAX_CHANNELS = 1 << 14
"""Wider rows are left to `rowref`, so that the working memory of a segment stays small."""


@dataclass(frozen=True)
class RowRefMax(Codec):
    """Row references through RoPE and a range coder; the payload alone decodes."""

    id: ClassVar[str] = "rowref_max"
    max_overhead_bytes: ClassVar[int] = MAX_HEADER_BYTES

    def encode(self, stream: Stream) -> bytes:
        check_shape(stream.words.shape, self.id)
        fallback = RowRef().encode(stream)
        if stream.words.size == 0 or stream.words[0].size > _MAX_CHANNELS:
            return fallback
        words = np.ascontiguousarray(stream.words)
        header, rope, positions = write_turned_header(_DENSITY_MODE, stream, words, self.id)
        rotation = None if rope is None else build_rotation(rope, words.shape[2])
        parts = [header]
        for at in range(0, len(words), SEGMENT_ROWS):
            rows = slice(at, at + SEGMENT_ROWS)
            parts.append(encode_segment(words[rows], positions[rows], rotation))
        return min(b"".join(parts), fallback, key=len)

    def decode(self, payload: bytes | memoryview, side: SideInfo) -> Words:
        reader = ByteReader(payload, self.id)
        mode = read_mode(reader, side, self.id)
        if mode < _DENSITY_MODE:
            return RowRef().decode(payload, side)
        if mode != _DENSITY_MODE or side.words == 0 or side.words // side.shape[0] > _MAX_CHANNELS:
            raise reader.damaged("unknown mode", came=str(mode), expected=f"at most {_DENSITY_MODE}")
        rope, positions = read_turned_header(reader, side)
        rotation = None if rope is None else build_rotation(rope, side.shape[2])
        words = np.empty(side.shape, np.uint16)
        for at in range(0, len(words), SEGMENT_ROWS):
            rows = slice(at, at + SEGMENT_ROWS)
            decode_segment(reader, words[rows], positions[rows], rotation)
        reader.expect_end()
        return words
