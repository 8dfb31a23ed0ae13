"""Do a run and its own dumps tell the same sizes?

With ``kv_h2o_log_stats`` a run prints a line for each sample of cold tokens that it coded. The same tokens stand in the
dumps of that run, since dumps are written before eviction: coded offline with the same codec they must come to the same
bytes. Where they do not, the runtime's figure and the offline figure are not about the same thing.

The whole of it in one call, for a run whose config had `CONFIG_KEYS` and whose environment asked for dumps::

    found = compare_run(output, Path(dump_dir), run_id="check", config=config)
    assert found.consistent, found.render()
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_h2o.codecs.base import Codec, Stream, Tensor
from pytest_h2o.codecs.gear_v3 import GearV3
from pytest_h2o.dumps import DumpEntry, DumpIndex, index_dump
from pytest_h2o.dumps.read import Piece, read_pieces

CONFIG_KEYS: Mapping[str, object] = {
    "kv_h2o_log_stats": True,
    "kv_lossless_enable": True,
    "kv_lossless_codec": "gear_delta",
    "kv_lossless_scope": "front_n",
    "kv_lossless_runtime_enable": True,
    "kv_lossless_strict_roundtrip_check": True,
}
"""What the config of a run must say for it to tell of its samples."""

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

    def render(self) -> str:
        """What was compared, in lines: the totals, then each sample that is not equal."""
        offline = "tokens are missing in the dumps" if self.offline_bytes is None else f"{self.offline_bytes:,} bytes"
        torn = f"; {len(self.not_comparable)} torn apart by eviction, left out" if self.not_comparable else ""
        lines = [f"{len(self.compared)} samples: runtime {self.runtime_bytes:,} bytes, offline {offline}{torn}"]
        if not self.compared:
            lines = [f"no sample to compare{torn}: the run must log them ({', '.join(CONFIG_KEYS)})"]
        for one in self.compared:
            if not one.equal:
                sample = one.sample
                where = f"layer {sample.layer}, positions {sample.first_position} to {sample.end_position}"
                came = "not in the dumps" if one.offline_bytes is None else f"offline {one.offline_bytes:,} bytes"
                lines.append(f"{where}: runtime {sample.coded_bytes:,} bytes, {came}")
        return "\n".join(lines)


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


def compare_run(output: str, dump_dir: Path, *, run_id: str, config: Mapping[str, object]) -> Consistency:
    """Compare what a run printed with what it dumped.

    Parameters
    ----------
    output : str
        Standard output of the run.
    dump_dir : Path
        Its ``MNN_KV_DUMP_DIR``; the run is the folder `run_id` in it.
    run_id : str
        Its ``MNN_KV_DUMP_RUN_ID``.
    config : mapping
        Its config: the predictors are taken from it, with the engine's defaults.

    Raises
    ------
    DumpError
        There is no dump, it is not sound, or a data file cannot be read.
    """
    names = {key: config.get(f"kv_lossless_{key}") for key in ("predictors_k", "predictors_v")}
    codec = GearV3(**{key: name for key, name in names.items() if isinstance(name, str)})
    return compare_with_dumps(parse_samples(output), index_dump(dump_dir / run_id), codec)


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
