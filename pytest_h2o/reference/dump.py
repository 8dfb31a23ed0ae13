"""KV dumps of a run, in the layout of a bench that was built to write them.

``DIR/RUN_ID/layer_{L}/meta_t{a}_{b}.json`` with ``k_t{a}_{b}.bin`` and ``v_t{a}_{b}.bin``: K and V of the tokens from
a up to b, little-endian, C order ``[seq_len, kv_heads, head_dim]``, as they were before any eviction. A prefill is one
entry a layer, a decoded token one entry. The environment asks for them:

``MNN_KV_DUMP_DIR``
    Where; unset, empty or ``off``: no dump.
``MNN_KV_DUMP_RUN_ID``
    Name of the run, ``run`` if unset. A folder of that name must not exist: two runs in one cannot be told apart.
``MNN_KV_DUMP_STAGE``
    ``prefill``, ``decode`` or ``both`` (if unset).
``MNN_KV_DUMP_MAX_TOKENS``
    Tokens at this position and after are left out; 0 (if unset) for no such bound.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.codecs.base import Codec, Stream, Tensor
from pytest_h2o.codecs.gear_v3 import GearV3
from pytest_h2o.errors import UsageError
from pytest_h2o.lossless.index import DumpEntry, DumpIndex, index_dump
from pytest_h2o.lossless.read import Piece, read_pieces
from pytest_h2o.reference.cache import Watcher
from pytest_h2o.reference.gguf import Floats
from pytest_h2o.reference.model import Stage

STAGES = ("prefill", "decode", "both")


@dataclass(frozen=True)
class DumpSettings:
    """Where and what to dump; `max_tokens` 0 means all."""

    root: Path
    run_id: str
    stage: str
    max_tokens: int

    def wants(self, stage: Stage) -> bool:
        return self.stage in (stage, "both")


def read_dump_settings(environment: Mapping[str, str]) -> DumpSettings | None:
    """What the environment asks for; None if it asks for no dump."""
    root = environment.get("MNN_KV_DUMP_DIR", "")
    if root in ("", "off"):
        return None
    run_id = environment.get("MNN_KV_DUMP_RUN_ID") or "run"
    if run_id in (".", "..") or "/" in run_id or os.sep in run_id:
        raise _refused("MNN_KV_DUMP_RUN_ID", run_id, "the name of one folder", "leave out slashes")
    stage = environment.get("MNN_KV_DUMP_STAGE") or "both"
    if stage not in STAGES:
        raise _refused("MNN_KV_DUMP_STAGE", stage, ", ".join(STAGES), "set it to one of these or unset it")
    bound = environment.get("MNN_KV_DUMP_MAX_TOKENS") or "0"
    if not (bound.isascii() and bound.isdigit()):
        raise _refused("MNN_KV_DUMP_MAX_TOKENS", bound, "a number of tokens, 0 for all", "set it to a whole number")
    if (Path(root) / run_id).exists():
        raise _refused("MNN_KV_DUMP_RUN_ID", run_id, "a run that is not there yet", f"remove {Path(root) / run_id}")
    return DumpSettings(Path(root), run_id, stage, int(bound))


def _refused(name: str, came: str, expected: str, hint: str) -> UsageError:
    where = f"environment, {name}"
    return UsageError("the dump of the KV cache cannot be made", where=where, came=came, expected=expected, hint=hint)


class DumpWriter(Watcher):
    """Writes what a cache takes in until it is cleared: every later repeat takes in the same.

    Parameters
    ----------
    settings : DumpSettings
    half : bool
        fp16, rounded from float32 to nearest even; else float32.
    """

    def __init__(self, settings: DumpSettings, *, half: bool) -> None:
        self._settings, self._half = settings, half
        self._begun = self._ended = False

    def cleared(self) -> None:
        self._ended = self._begun

    def written(self, layer: int, keys: Floats, values: Floats, first_position: int, stage: Stage) -> None:
        settings = self._settings
        self._begun = True
        tokens = len(keys)
        if settings.max_tokens:
            tokens = min(tokens, settings.max_tokens - first_position)
        if self._ended or tokens < 1 or not settings.wants(stage):
            return
        folder = settings.root / settings.run_id / f"layer_{layer}"
        span = f"t{first_position}_{first_position + tokens}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, tensor in (("k", keys), ("v", values)):
                (folder / f"{name}_{span}.bin").write_bytes(self._to_bytes(tensor[:tokens]))
            meta = self._meta(layer, first_position, tokens, keys.shape, span, stage)
            (folder / f"meta_{span}.json").write_text(json.dumps(meta, indent=2) + "\n", "utf-8")
        except OSError as error:
            raise UsageError(
                "the dump of the KV cache cannot be written",
                where=str(folder),
                came=error.strerror,
                hint="set MNN_KV_DUMP_DIR to a folder that can be written, or to off",
            ) from error

    def _to_bytes(self, tensor: NDArray[np.float32]) -> bytes:
        return tensor.astype("<f2" if self._half else "<f4").tobytes()

    def _meta(
        self, layer: int, start: int, tokens: int, shape: tuple[int, ...], span: str, stage: Stage
    ) -> dict[str, object]:
        return {
            "layer_id": layer,
            "seq_start": start,
            "seq_len": tokens,
            "seq_end_exclusive": start + tokens,
            "kv_heads": shape[1],
            "head_dim": shape[2],
            "bytes_per_elem": 2 if self._half else 4,
            "dtype": "fp16" if self._half else "fp32",
            "add": shape[0],
            "tensor_seq_len": shape[0],
            "quant_key": False,
            "quant_value": False,
            "flash_attention": False,
            "stage": stage,
            "run_id": self._settings.run_id,
            "k_file": f"k_{span}.bin",
            "v_file": f"v_{span}.bin",
        }


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
    """Compare what a run printed with what it dumped."""
    names = {key: config.get(f"kv_lossless_{key}") for key in ("predictors_k", "predictors_v")}
    codec = GearV3(**{key: name for key, name in names.items() if isinstance(name, str)})
    return compare_with_dumps(parse_samples(output), index_dump(dump_dir / run_id), codec)


def compare_with_dumps(
    samples: Sequence[LoggedSample], dumps: DumpIndex, codec: Codec, run_id: str | None = None
) -> Consistency:
    """Code the tokens of each sample as the dumps have them."""
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
