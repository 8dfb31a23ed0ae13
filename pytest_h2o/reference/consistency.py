"""Do a run and its own dumps tell the same sizes?

With ``kv_h2o_log_stats`` a run prints a line for each sample of cold tokens that it coded. The same tokens stand in the
dumps of that run, since dumps are written before eviction: coded offline with the same codec they must come to the same
bytes. Where they do not, the runtime's figure and the offline figure are not about the same thing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_h2o.codecs.base import Codec, Stream, Tensor
from pytest_h2o.dumps import DumpEntry, DumpIndex
from pytest_h2o.dumps.read import Piece, read_pieces

_MARK = "[H2O-LOSSLESS]"
_PAIR = re.compile(r"(\w+)=(-?\d+)(?=\s|$)")
_COMP = ("comp", "compressed", "comp_bytes")
"""Names under which benches print the coded bytes of a sample."""


@dataclass(frozen=True)
class LoggedSample:
    """One line of a run's log.

    Attributes
    ----------
    layer, start, tokens : int
        `start` counts held tokens.
    first_position, end_position : int
        In the sequence; where the log does not say, those of a cache from which nothing was evicted.
    raw_bytes, coded_bytes : int
        K and V together.
    """

    layer: int
    start: int
    tokens: int
    first_position: int
    end_position: int
    raw_bytes: int
    coded_bytes: int

    @property
    def contiguous(self) -> bool:
        """Whether nothing was evicted between its first token and its last."""
        return self.end_position - self.first_position == self.tokens


@dataclass(frozen=True)
class Compared:
    """A sample and the size of the same tokens coded offline; None if the dumps lack some of them."""

    sample: LoggedSample
    offline_bytes: int | None

    @property
    def equal(self) -> bool:
        return self.offline_bytes == self.sample.coded_bytes


@dataclass(frozen=True)
class Consistency:
    """What a comparison found.

    Attributes
    ----------
    compared : tuple of Compared
        Each distinct sample once; a run prints the same ones in every repeat.
    not_comparable : tuple of LoggedSample
        Samples that an eviction had torn apart: no dump holds them side by side.
    """

    compared: tuple[Compared, ...]
    not_comparable: tuple[LoggedSample, ...]

    @property
    def consistent(self) -> bool:
        """Whether there was something to compare and all of it was equal."""
        return bool(self.compared) and all(one.equal for one in self.compared)

    @property
    def runtime_bytes(self) -> int:
        return sum(one.sample.coded_bytes for one in self.compared)

    @property
    def offline_bytes(self) -> int | None:
        """None if some tokens are missing in the dumps."""
        sizes = [one.offline_bytes for one in self.compared]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def parse_samples(output: str) -> tuple[LoggedSample, ...]:
    """The samples that the output of a run tells of, in its order, each distinct one once.

    A line that lacks the layer, the start, the number of tokens or either size is passed over: it is some other
    message of the engine, or one that was cut.
    """
    found: dict[LoggedSample, None] = {}
    for line in output.splitlines():
        _, mark, rest = line.partition(_MARK)
        if not mark:
            continue
        numbers = {key: int(value) for key, value in _PAIR.findall(rest)}
        coded = next((numbers[name] for name in _COMP if name in numbers), None)
        if coded is None or not {"layer", "start", "tokens", "raw"} <= numbers.keys():
            continue
        first = numbers.get("pos", numbers["start"])
        end = numbers.get("pos_end", first + numbers["tokens"])
        sample = LoggedSample(numbers["layer"], numbers["start"], numbers["tokens"], first, end, numbers["raw"], coded)
        found[sample] = None
    return tuple(found)


def compare_with_dumps(
    samples: Sequence[LoggedSample], dumps: DumpIndex, codec: Codec, run_id: str | None = None
) -> Consistency:
    """Code the tokens of each sample as the dumps have them.

    Parameters
    ----------
    samples : sequence of LoggedSample
    dumps : DumpIndex
    codec : Codec
        With the settings that the run had: `GearV3` for the frame of the runtime.
    run_id : str, optional
        Of several runs in the dumps, the one that printed the samples.

    Raises
    ------
    DumpError
        A data file cannot be read.
    """
    by_layer: dict[int, list[DumpEntry]] = {}
    for entry in dumps.entries:
        if run_id is None or entry.run_id == run_id:
            by_layer.setdefault(entry.layer_id, []).append(entry)
    compared = [
        Compared(sample, _offline_bytes(sample, by_layer.get(sample.layer, []), codec))
        for sample in samples
        if sample.contiguous
    ]
    return Consistency(tuple(compared), tuple(sample for sample in samples if not sample.contiguous))


def _offline_bytes(sample: LoggedSample, entries: Sequence[DumpEntry], codec: Codec) -> int | None:
    """Bytes of K and V of a sample's tokens; None unless every one of them stands in exactly one entry."""
    pieces = []
    expected = sample.first_position
    for entry in sorted(entries, key=lambda entry: entry.seq_start):
        first = max(entry.seq_start, sample.first_position)
        end = min(entry.seq_start + entry.seq_len, sample.end_position)
        if first >= end:
            continue
        if first != expected:
            return None
        pieces.append(Piece(entry, first - entry.seq_start, end - first))
        expected = end
    if expected != sample.end_position:
        return None
    tensors: tuple[Tensor, ...] = ("k", "v")
    return sum(len(codec.encode(Stream(read_pieces(pieces, tensor), tensor))) for tensor in tensors)
