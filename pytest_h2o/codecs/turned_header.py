"""The header that `rowref` and `rowref_max` share: mode, shape, rotation, and positions if there is a rotation."""

from __future__ import annotations

import numpy as np

from pytest_h2o.codecs.base import Stream, Words
from pytest_h2o.codecs.position_runs import (
    Positions,
    read_positions,
    read_rope,
    usable_positions,
    write_positions,
    write_rope,
)
from pytest_h2o.codecs.rope_choice import choose_rope
from pytest_h2o.codecs.rotation import MAX_HEAD_DIM, Rotation, build_rotation
from pytest_h2o.codecs.stream_header import StreamHeader, write_header
from pytest_h2o.codecs.varint import PayloadReader


def write_turned_header(
    mode: int, stream: Stream, words: Words, codec: str
) -> tuple[bytes, Rotation | None, Positions]:
    """Choose the rotation of a stream with rows; give the header's bytes, the rotation and the positions."""
    positions = usable_positions(stream.positions, len(words))
    rope = choose_rope(stream, words, positions)
    header = write_header(mode, stream, codec) + write_rope(rope)
    if rope is None:
        return header, None, positions
    return header + write_positions(positions), build_rotation(rope, words.shape[2]), positions


def read_turned_header(reader: PayloadReader, header: StreamHeader) -> tuple[Rotation | None, Positions]:
    """Read what follows the shape; without a rotation the positions are all 0.

    Raises
    ------
    CodecError
        It is cut, or the heads cannot be turned.
    """
    rope = read_rope(reader)
    if rope is None:
        return None, np.zeros(header.rows, np.int64)
    if header.shape[2] % 2 or header.shape[2] > MAX_HEAD_DIM:
        raise reader.damaged(
            "a head that cannot be turned", came=str(header.shape[2]), expected=f"even, at most {MAX_HEAD_DIM}"
        )
    return build_rotation(rope, header.shape[2]), read_positions(reader, header.rows)
