"""Range asymmetric numeral systems over many lanes: an entropy coder whose steps are whole-array operations.

Each lane holds a state (Duda, arXiv 1311.2540); a step codes one symbol a lane, given as an interval of 2^24. States
lie in [2^24, 2^40), and move to and from a common stream of 16-bit words in an order that both sides know: lanes in
order within a step. The last symbol coded is the first decoded, so the encoder walks backwards.

What a state starts from comes out at the end of decoding: 24 free bits a lane, which a caller fills with data (the
seeds), or the lanes would cost three bytes each. Final states are stored as their length less 25 (four bits a lane)
and their bits below the leading one, packed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.density.logistic import TOTAL_BITS, Integers
from pytest_h2o.codecs.wire.byte_reader import ByteReader, encode_varint

_LOW = 1 << TOTAL_BITS
_WORD_BITS = 16
_STATE_BITS = TOTAL_BITS + _WORD_BITS


def encode_lanes(begin: Integers, width: Integers, seeds: Integers) -> bytes:
    """Encode intervals ``[steps, lanes]``, each `width` >= 1 from `begin` of 2^24, and seeds ``[lanes]`` < 2^24."""
    state = seeds + _LOW
    words: list[NDArray[np.uint16]] = []
    for step in range(len(begin) - 1, -1, -1):
        span = width[step]
        limit = span << _WORD_BITS
        for _ in range(2):
            full = state >= limit
            if not full.any():
                break
            words.append(state[full].astype(np.uint16))
            state = np.where(full, state >> _WORD_BITS, state)
        quotient, rest = np.divmod(state, span)
        state = (quotient << TOTAL_BITS) + rest + begin[step]
    stream = np.concatenate(words[::-1]) if words else np.zeros(0, np.uint16)
    return _write_states(state) + encode_varint(len(stream)) + stream.astype("<u2").tobytes()


class LaneDecoder:
    """Gives back, step by step, what `encode_lanes` took.

    Parameters
    ----------
    reader : ByteReader
        Stands where the bytes of `encode_lanes` begin, and after them once this is built.
    lanes, steps : int
        As they were encoded: they bound what may be read.

    Raises
    ------
    CodecError
        The bytes are cut.
    """

    def __init__(self, reader: ByteReader, lanes: int, steps: int) -> None:
        self._reader = reader
        self._state = _read_states(reader, lanes)
        count = reader.read_varint("the number of coded words", 2 * lanes * steps)
        self._words = np.frombuffer(reader.take(2 * count), "<u2").astype(np.int64)
        self._at = 0

    def slots(self) -> Integers:
        """Give a number of each lane's interval: the symbol is the one whose interval holds it."""
        return self._state & (_LOW - 1)

    def advance(self, begin: Integers, width: Integers, slots: Integers) -> None:
        """Leave the intervals that hold `slots`.

        Raises
        ------
        CodecError
            The stream of words ends too early.
        """
        state = self._state >> TOTAL_BITS
        state *= width
        state += slots
        state -= begin
        # A lane that needs two words needs them before the others take their one.
        for low in (_LOW >> _WORD_BITS, _LOW):
            hungry = np.flatnonzero(state < low)
            if len(hungry):
                taken = self._words[self._at : self._at + len(hungry)]
                if len(taken) < len(hungry):
                    raise self._reader.damaged("the stream of coded words ends too early")
                self._at += len(hungry)
                state[hungry] = (state[hungry] << _WORD_BITS) + taken
        self._state = state

    def seeds(self) -> Integers:
        """Give the seeds, after the last step.

        Raises
        ------
        CodecError
            Words are left, or a state did not come back to its beginning.
        """
        seeds = self._state - _LOW
        if self._at != len(self._words) or int(seeds.min()) < 0 or int(seeds.max()) >= _LOW:
            raise self._reader.damaged("coded words do not end where they began")
        return seeds


def _write_states(state: Integers) -> bytes:
    length = np.frexp(state.astype(np.float64))[1] - (TOTAL_BITS + 1)
    big_endian = np.ascontiguousarray(state.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 3:])
    bits = np.unpackbits(big_endian, axis=1)
    nibbles = np.unpackbits(length.astype(np.uint8)[:, None], axis=1)[:, 4:]
    return np.packbits(nibbles).tobytes() + np.packbits(bits[_below_leading_one(length)]).tobytes()


def _read_states(reader: ByteReader, lanes: int) -> Integers:
    nibbles = np.frombuffer(reader.take((lanes + 1) // 2), np.uint8)
    length = np.stack([nibbles >> 4, nibbles & 15], axis=1).ravel()[:lanes].astype(np.int64)
    count = int(length.sum()) + TOTAL_BITS * lanes
    packed = np.frombuffer(reader.take((count + 7) // 8), np.uint8)
    bits = np.zeros((lanes, _STATE_BITS), np.uint8)
    bits[_below_leading_one(length)] = np.unpackbits(packed, count=count)
    bytes_of_state = np.zeros((lanes, 8), np.uint8)
    bytes_of_state[:, 3:] = np.packbits(bits, axis=1)
    state: Integers = bytes_of_state.view(">u8")[:, 0].astype(np.int64)
    state += np.int64(1) << (length + TOTAL_BITS)
    return state


def _below_leading_one(length: Integers) -> NDArray[np.bool_]:
    """Mask of the stored bits of each state, most significant first ``[lanes, 40]``."""
    stored: NDArray[np.bool_] = np.arange(_STATE_BITS)[None, :] >= _STATE_BITS - TOTAL_BITS - length[:, None]
    return stored
