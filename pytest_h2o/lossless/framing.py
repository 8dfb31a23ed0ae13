"""What stands before the payload of a stream: bytes that are counted, so bytes that are written and checked.

A stream is stored or sent as one record, ``framing + payload``, whose length whoever keeps it knows. `ChunkFraming`
is what an online store needs a chunk; `EntryTable` is what is needed to take a joined stream apart again.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol
from zlib import crc32

from pytest_h2o.codecs.base import Codec, SideInfo, Stream, Words
from pytest_h2o.errors import CodecError

_CHUNK = struct.Struct("<II")


class Framing(Protocol):
    """One kind of framing."""

    @property
    def overhead_bytes(self) -> int:
        """Bytes before a payload."""

    def header(self, payload: bytes) -> bytes:
        """The bytes to write before `payload`."""

    def unwrap(self, record: memoryview) -> memoryview:
        """The payload of a record.

        Raises
        ------
        CodecError
            The framing does not fit the payload, or what is known of the stream.
        """


@dataclass(frozen=True)
class NoFraming:
    """Nothing: the payload is the record."""

    overhead_bytes: int = 0

    def header(self, payload: bytes) -> bytes:
        return b""

    def unwrap(self, record: memoryview) -> memoryview:
        return record


@dataclass(frozen=True)
class ChunkFraming:
    """Length and CRC-32 of the payload, u32 little-endian each, cut or padded with zero bytes to `overhead_bytes`."""

    overhead_bytes: int

    def header(self, payload: bytes | memoryview) -> bytes:
        if len(payload) >= 2**32:
            raise CodecError(
                "a chunk is too long for its framing", came=f"{len(payload)} bytes", expected="under 4 GiB"
            )
        return _CHUNK.pack(len(payload), crc32(payload))[: self.overhead_bytes].ljust(self.overhead_bytes, b"\0")

    def unwrap(self, record: memoryview) -> memoryview:
        payload = record[self.overhead_bytes :]
        written = bytes(record[: self.overhead_bytes])
        if written != (expected := self.header(payload)):
            raise CodecError(
                "a chunk is damaged: its framing does not fit its payload",
                came=written.hex() or "no bytes",
                expected=f"{expected.hex()} (length, CRC-32, zero bytes)",
            )
        return payload


@dataclass(frozen=True)
class EntryTable:
    """Number of joined entries, then the length of each in tokens, u32 little-endian each."""

    seq_lens: tuple[int, ...]

    @property
    def overhead_bytes(self) -> int:
        return 4 + 4 * len(self.seq_lens)

    def header(self, payload: bytes) -> bytes:
        return struct.pack(f"<{1 + len(self.seq_lens)}I", len(self.seq_lens), *self.seq_lens)

    def unwrap(self, record: memoryview) -> memoryview:
        if record[: self.overhead_bytes] != self.header(b""):
            raise CodecError(
                "the table of a joined stream is damaged: it does not fit its entries",
                came=f"{len(record)} bytes",
                expected=f"{len(self.seq_lens)} entries, {sum(self.seq_lens)} tokens",
            )
        return record[self.overhead_bytes :]


def encode_tensor(codec: Codec, stream: Stream, framing: Framing) -> bytes:
    """Encode one stream to its record; the record's length is the size that is counted."""
    return write_record(codec.encode(stream), framing)


def write_record(payload: bytes, framing: Framing) -> bytes:
    """Put the framing before a payload."""
    return framing.header(payload) + payload


def decode_tensor(record: bytes | memoryview, side: SideInfo, codec: Codec, framing: Framing) -> Words:
    """Decode one record.

    Parameters
    ----------
    record : bytes
        What `encode_tensor` gave.
    side : SideInfo
        What the dump's metadata says of the stream.
    codec, framing
        The settings that it was written with.

    Returns
    -------
    numpy.ndarray of uint16, ``[seq_len, kv_heads, head_dim]``

    Raises
    ------
    CodecError
        The record is damaged, or does not fit `side`.
    """
    return codec.decode(framing.unwrap(memoryview(record)), side)
