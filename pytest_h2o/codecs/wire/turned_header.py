"""The header that `rowref` and `rowref_max` share: mode, shape, rotation, and positions if there is a rotation."""

from __future__ import annotations

import numpy as np

from pytest_h2o.codecs.base import Rope, Stream, Words
from pytest_h2o.codecs.rows.rope_choice import choose_rope
from pytest_h2o.codecs.rows.rotation import MAX_HEAD_DIM
from pytest_h2o.codecs.wire.byte_reader import ByteReader
from pytest_h2o.codecs.wire.position_runs import Positions, decode_positions, encode_positions, usable_positions
from pytest_h2o.codecs.wire.rope_bytes import decode_rope, encode_rope
from pytest_h2o.codecs.wire.stream_header import StreamHeader, write_header


def write_turned_header(mode: int, stream: Stream, words: Words, codec: str) -> tuple[bytes, Rope | None, Positions]:
    """Choose the rotation of a stream with rows; give the header's bytes, the rotation and the positions."""
    positions = usable_positions(stream.positions, len(words))
    rope = choose_rope(stream, words, positions)
    header = write_header(mode, stream, codec) + encode_rope(rope)
    if rope is None:
        return header, None, positions
    return header + encode_positions(positions), rope, positions


def read_turned_header(reader: ByteReader, header: StreamHeader) -> tuple[Rope | None, Positions]:
    """Read what follows the shape; without a rotation the positions are all 0.

    Raises
    ------
    CodecError
        It is cut, or the heads cannot be turned.
    """
    rope = decode_rope(reader)
    if rope is None:
        return None, np.zeros(header.rows, np.int64)
    if header.shape[2] % 2 or header.shape[2] > MAX_HEAD_DIM:
        raise reader.damaged(
            "a head that cannot be turned", came=str(header.shape[2]), expected=f"even, at most {MAX_HEAD_DIM}"
        )
    return rope, decode_positions(reader, header.rows)
