"""Records: every counted byte is written, and a wrong one is found where the framing has room to tell."""

from __future__ import annotations

import struct
from zlib import crc32

import numpy as np
import pytest

from pytest_h2o.codecs.adaptive_v22 import AdaptiveV22
from pytest_h2o.codecs.base import SideInfo, Stream
from pytest_h2o.codecs.legacy import Legacy
from pytest_h2o.errors import CodecError
from pytest_h2o.lossless.plan import ChunkFraming, EntryTable, NoFraming, decode_tensor, encode_tensor

WORDS = np.random.default_rng(5).integers(0x3C00, 0x3C40, (24, 3, 16), dtype=np.uint16)
STREAM = Stream(WORDS, "k")
SIDE = SideInfo("k", (24, 3, 16))


@pytest.mark.parametrize("codec", [AdaptiveV22(), Legacy()], ids=lambda codec: codec.id)
@pytest.mark.parametrize(
    "framing", [NoFraming(), *map(ChunkFraming, (0, 1, 4, 7, 8, 16)), EntryTable((20, 3, 1))], ids=str
)
def test_record_is_framing_and_payload(codec: AdaptiveV22 | Legacy, framing: NoFraming | ChunkFraming) -> None:
    record = encode_tensor(codec, STREAM, framing)
    assert record[framing.overhead_bytes :] == codec.encode(STREAM)
    assert np.array_equal(decode_tensor(record, SIDE, codec, framing), WORDS)


def test_framing_is_length_checksum_and_zero_bytes() -> None:
    payload = b"payload"
    header = struct.pack("<II", 7, crc32(payload))
    assert ChunkFraming(8).header(payload) == header
    assert ChunkFraming(6).header(payload) == header[:6]
    assert ChunkFraming(16).header(payload) == header + bytes(8)
    assert ChunkFraming(0).header(payload) == b""
    assert EntryTable((5, 6)).header(payload) == struct.pack("<III", 2, 5, 6)
    assert (EntryTable((5, 6)).overhead_bytes, NoFraming().overhead_bytes) == (12, 0)


@pytest.mark.parametrize("overhead", [8, 16])
def test_every_flipped_bit_of_a_framed_chunk_is_refused(overhead: int) -> None:
    framing = ChunkFraming(overhead)
    record = bytearray(encode_tensor(AdaptiveV22(), STREAM, framing))
    for index in range(len(record)):
        for bit in range(8):
            record[index] ^= 1 << bit
            with pytest.raises(CodecError, match="a chunk is damaged"):
                decode_tensor(bytes(record), SIDE, AdaptiveV22(), framing)
            record[index] ^= 1 << bit


@pytest.mark.parametrize("overhead", [8, 16])
def test_every_truncation_of_a_framed_chunk_is_refused(overhead: int) -> None:
    framing = ChunkFraming(overhead)
    record = encode_tensor(AdaptiveV22(), STREAM, framing)
    for damaged in (*(record[:length] for length in range(len(record))), record + b"\0"):
        with pytest.raises(CodecError):
            decode_tensor(damaged, SIDE, AdaptiveV22(), framing)


def test_damaged_chunk_says_what_was_found() -> None:
    with pytest.raises(CodecError) as caught:
        ChunkFraming(4).unwrap(memoryview(b"\5\0\0\0abcd"))
    assert str(caught.value) == (
        "a chunk is damaged: its framing does not fit its payload\n  came: 05000000\n"
        "  expected: 04000000 (length, CRC-32, zero bytes)"
    )


@pytest.mark.parametrize("entries", [(20, 4), (24,), (20, 3, 2)])
def test_table_of_other_entries_is_refused(entries: tuple[int, ...]) -> None:
    record = encode_tensor(Legacy(), STREAM, EntryTable((20, 3, 1)))
    with pytest.raises(CodecError, match="the table of a joined stream is damaged"):
        decode_tensor(record, SIDE, Legacy(), EntryTable(entries))
    with pytest.raises(CodecError, match="the table of a joined stream is damaged"):
        decode_tensor(record[:6], SIDE, Legacy(), EntryTable((20, 3, 1)))
