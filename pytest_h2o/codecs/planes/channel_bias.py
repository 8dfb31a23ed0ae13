"""Channel bias: every channel's high bytes shifted so that channels of unlike scale share one histogram.

The high byte of an fp16 word is sign (1 bit), exponent (5) and two mantissa bits: its lower seven bits count
quarters of an octave of the magnitude. For each channel (one head, one dimension) the encoder takes the upper
quartile of those seven bits over the chunk, and the majority sign; ``y = ((hi xor 128 * sign) - bias) mod 256``.
Channels of KV differ in scale by many octaves, so one Huffman table serves the shifted bytes better than the
bytes themselves. Low bytes are not touched. Any table decodes: the quartile is only a good choice.

Table layout: smallest bias (1 byte), bits of a bias offset (1 byte, 0 to 7), then for each channel its sign bit
and its offset from the smallest bias, most significant bit first, packed to whole bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pytest_h2o.codecs.planes.byte_planes import Plane
from pytest_h2o.codecs.wire.byte_reader import ByteReader

_SAMPLED_ROWS = 64
_PLACE_VALUES = [np.array([128, *(1 << bit for bit in reversed(range(bits)))], np.uint8) for bits in range(8)]
"""What the bits of a channel stand for, by the bits of an offset: the sign comes to lie in bit 7, the offset below."""


@dataclass(frozen=True)
class ChannelBias:
    """`bias` 0 to 127 and `sign` 0 or 128 a channel, uint8 ``[channels]``."""

    bias: Plane
    sign: Plane

    def apply(self, hi: Plane) -> Plane:
        """Shift high bytes ``[rows, channels]``."""
        shifted = hi ^ self.sign
        shifted -= self.bias
        return shifted

    def undo(self, shifted: Plane) -> Plane:
        """Inverse of `apply`."""
        hi = shifted + self.bias
        hi ^= self.sign
        return hi


def choose_bias(hi: Plane) -> ChannelBias:
    """Choose bias and sign from high bytes ``[rows, channels]``; at least one row.

    A sample of the rows is enough: the choice moves the size by a per mille.
    """
    # Sixteen bits, because numpy sorts them many times faster than eight.
    sampled = hi[:: max(1, len(hi) // _SAMPLED_ROWS)]
    count = len(sampled)
    negative = np.add.reduce(sampled >> 7, axis=0, dtype=np.uint16)
    sample = (sampled & 0x7F).T.astype(np.uint16)
    sample.sort(axis=1)
    return ChannelBias(bias=sample[:, count * 3 // 4].astype(np.uint8), sign=(negative > count // 2) * np.uint8(128))


def write_bias(table: ChannelBias) -> bytes:
    """Encode a table of at least one channel."""
    low = int(table.bias.min())
    bits = int(table.bias.max() - low).bit_length()
    fields = ((table.sign >> 7 << bits) | (table.bias - low)).astype(np.uint8)
    columns = np.unpackbits(fields[:, None], axis=1)[:, 7 - bits :]
    return bytes([low, bits]) + np.packbits(columns).tobytes()


def read_bias(reader: ByteReader, channels: int) -> ChannelBias:
    """Decode the table of `channels` channels.

    Raises
    ------
    CodecError
        It is cut, or its numbers are out of range.
    """
    low, bits = reader.read_byte(), reader.read_byte()
    if low > 127 or bits > 7:
        raise reader.damaged("a bias table is out of range", came=f"{low}, {bits} bits", expected="0 to 127, 0 to 7")
    width = bits + 1
    packed = np.frombuffer(reader.take((channels * width + 7) // 8), np.uint8)
    fields = np.unpackbits(packed, count=channels * width).reshape(channels, width) @ _PLACE_VALUES[bits]
    return ChannelBias(bias=(fields & 0x7F) + np.uint8(low), sign=fields & np.uint8(0x80))
