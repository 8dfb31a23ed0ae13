"""Inputs like sound ones, and not quite: flipped, cut, repeated, joined with others, with words of the format in."""

import random
from collections.abc import Sequence

_MOST_EDITS = 5
_NUMBERS = (0, 1, 2, 3, 4, 7, 8, 0x0F, 0x10, 0x3F, 0x40, 0x7F, 0x80, 0xC3, 0xFE, 0xFF)


def mutate(seeds: Sequence[bytes], tokens: Sequence[bytes], source: random.Random, max_bytes: int = 1 << 16) -> bytes:
    """One input made of `seeds`; the same for the same state of `source`."""
    data = bytearray(
        source.choice(seeds) if seeds and source.random() < 0.98 else source.randbytes(source.randrange(80))
    )
    for _ in range(source.randrange(1, _MOST_EDITS + 1)):
        _edit(data, seeds, tokens, source)
    return bytes(data[:max_bytes])


def _edit(data: bytearray, seeds: Sequence[bytes], tokens: Sequence[bytes], source: random.Random) -> None:
    at = source.randrange(len(data) + 1)
    length = min(len(data) - at, source.choice((1, 1, 2, 4, 8, 30, 200)))
    kind = source.randrange(9)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << source.randrange(8)
    elif kind == 1 and at < len(data):
        data[at] = source.choice(_NUMBERS)
    elif kind == 2:
        del data[at : at + length]
    elif kind == 3:
        del data[at:]
    elif kind == 4:
        data[at:at] = data[at : at + length] * source.choice((1, 1, 2, 50))
    elif kind == 5 and tokens:
        data[at : at + source.choice((0, length))] = source.choice(tokens)
    elif kind == 6 and seeds:
        other = source.choice(seeds)
        data[at:] = other[source.randrange(len(other) + 1) :]
    elif kind == 7:
        data[at:at] = source.randbytes(source.choice((1, 2, 4, 8)))
    elif at < len(data):
        data[at : at + length] = source.randbytes(length)
