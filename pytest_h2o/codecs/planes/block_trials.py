"""A byte plane of many streams cut in blocks: for each block the predictor that zstd finds smallest, a frame a stream.

Streams are taken in batches. All trials of a batch go to zstd in one call, and then the frames of the streams that end
in it: a call for each block would hand the interpreter's lock to and fro between threads thousands of times a second,
and zstd would clear its tables whenever trials and frames take turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pytest_h2o.codecs.planes import predictors
from pytest_h2o.codecs.planes.byte_planes import Plane
from pytest_h2o.codecs.planes.frames import compress_each
from pytest_h2o.codecs.planes.predictors import PREDICTORS

BATCH_BYTES = 1 << 19
"""Of one plane: with what all predictors make of it, this much stays in the cache of one core."""


class Part(NamedTuple):
    """Rows of one stream in a batch: from the first row of a block, `is_end` if the stream ends with them."""

    stream: int
    first: int
    rows: int
    is_end: bool


class _Block(NamedTuple):
    """One block of a part, and the bytes for zstd of every candidate that can differ from the others."""

    part: Part
    modes: Sequence[int]
    options: Sequence[memoryview]


def cut_batches(lengths: Sequence[int], block: int, row_bytes: int) -> Iterator[list[Part]]:
    """Cut streams of so many rows into batches of about `BATCH_BYTES`, parts at the edges of blocks of `block` rows."""
    most = max(1, BATCH_BYTES // max(1, block * row_bytes)) * block
    batch: list[Part] = []
    room = most
    for stream, length in enumerate(lengths):
        first, is_end = 0, False
        while not is_end:
            rows = min(length - first, room)
            is_end = first + rows == length
            batch.append(Part(stream, first, rows, is_end))
            first += rows
            room -= -(-rows // block) * block
            if room <= 0:
                yield batch
                batch, room = [], most
    if batch:
        yield batch


class PlaneCoder:
    """Codes one plane of streams, batch by batch.

    Parameters
    ----------
    streams : int
        How many there are.
    names : sequence of str
        Candidates out of `PREDICTORS`; the first wins a tie.
    block : int
        Rows a block, at least 1; the last of a stream may be shorter.
    level : int
        Of zstd.
    bitshuffle : bool
        Whether the bits of each predicted block are transposed.

    Attributes
    ----------
    modes : list of bytearray
        Of each stream, the place in `PREDICTORS` of each block's predictor.
    frames : list of bytes
        Of each stream, the frame of its predicted blocks, once it has ended.
    """

    def __init__(self, streams: int, names: Sequence[str], block: int, level: int, bitshuffle: bool) -> None:
        self._names, self._block, self._level, self._bitshuffle = names, block, level, bitshuffle
        self._codes = [PREDICTORS.index(name) for name in names]
        self._on_one_row = predictors.distinct_on_one_row(names)
        self._begun: dict[int, bytearray] = {}
        self.modes = [bytearray() for _ in range(streams)]
        self.frames = [b""] * streams

    def take(self, plane: Plane, batch: Sequence[Part]) -> None:
        """Code the parts of a batch, whose rows lie one after the other in `plane` ``[rows, kv_heads, head_dim]``."""
        blocks = self._predict(plane, batch)
        tried = [data for block in blocks if self._is_tried(block) for data in block.options]
        trials = iter(compress_each(tried, self._level))
        pieces: dict[int, list[memoryview]] = {part.stream: [] for part in batch}
        for block in blocks:
            part, best = block.part, 0
            if self._is_tried(block):
                frames = [next(trials) for _ in block.options]
                sizes = [len(frame) for frame in frames]
                best = sizes.index(min(sizes))
                if self._is_whole(part):
                    self.frames[part.stream] = bytes(frames[best])  # the trial of the only block is the stream's frame
            self.modes[part.stream].append(block.modes[best])
            pieces[part.stream].append(block.options[best])
        self._end(batch, pieces)

    def _predict(self, plane: Plane, batch: Sequence[Part]) -> list[_Block]:
        spans, at = [], 0
        for part in batch:
            spans += [
                (part, at + first, min(self._block, part.rows - first)) for first in range(0, part.rows, self._block)
            ]
            at += part.rows
        starts = np.array([first for _, first, _ in spans], np.intp)
        predicted = [one.reshape(-1) for one in predictors.predict(plane, self._names, starts)]
        row_bytes = plane.shape[1] * plane.shape[2]
        blocks = []
        for part, first, rows in spans:
            places = range(len(predicted)) if rows > 1 else self._on_one_row
            span = slice(first * row_bytes, (first + rows) * row_bytes)
            options = [self._shuffled(predicted[place][span]) for place in places]
            blocks.append(_Block(part, [self._codes[place] for place in places], options))
        return blocks

    def _is_whole(self, part: Part) -> bool:
        """Whether a part is a whole stream of one block."""
        return part.is_end and part.first == 0 and part.rows <= self._block

    def _is_tried(self, block: _Block) -> bool:
        return len(block.options) > 1 or self._is_whole(block.part)

    def _shuffled(self, data: predictors.FlatBytes) -> memoryview:
        return predictors.bitshuffle(data).data if self._bitshuffle else data.data

    def _end(self, batch: Sequence[Part], pieces: dict[int, list[memoryview]]) -> None:
        """Make the frames of the streams that end here; keep the bytes of those that go on."""
        ended: list[int] = []
        contents: list[bytes | bytearray | memoryview] = []
        for part in batch:
            if not part.is_end:
                self._begun.setdefault(part.stream, bytearray()).extend(b"".join(pieces[part.stream]))
            elif part.rows == 0 or not self._is_whole(part):
                begun = self._begun.pop(part.stream, None)
                ended.append(part.stream)
                if begun is None:
                    contents.append(b"".join(pieces[part.stream]))
                else:
                    begun.extend(b"".join(pieces[part.stream]))
                    contents.append(begun)
        for stream, frame in zip(ended, compress_each(contents, self._level), strict=True):
            self.frames[stream] = bytes(frame)
