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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_h2o.codecs.base import Stream, Tensor
from pytest_h2o.codecs.gear_v3 import GearV3
from pytest_h2o.errors import UsageError
from pytest_h2o.reference.cache import Stage, Watcher
from pytest_h2o.reference.gguf import Floats
from pytest_h2o.reference.lossless import LOG_MARK, Sample

if TYPE_CHECKING:
    from pytest_h2o.lossless.index import DumpEntry, Piece

STAGES = ("prefill", "decode", "both")


@dataclass
class DumpWriter(Watcher):
    """Writes what a cache takes in until it is cleared: every later repeat takes in the same.

    With `half` as fp16, rounded from float32 to nearest even; else as float32. `max_tokens` 0 means all.
    """

    root: Path
    run_id: str
    stage: str
    max_tokens: int
    half: bool
    _begun: bool = field(default=False, init=False)
    _ended: bool = field(default=False, init=False)

    def cleared(self) -> None:
        self._ended = self._begun

    def written(self, layer: int, keys: Floats, values: Floats, first_position: int, stage: Stage) -> None:
        self._begun = True
        tokens = len(keys)
        if self.max_tokens:
            tokens = min(tokens, self.max_tokens - first_position)
        if self._ended or tokens < 1 or self.stage not in (stage, "both"):
            return
        folder = self.root / self.run_id / f"layer_{layer}"
        end = first_position + tokens
        span = f"t{first_position}_{end}"
        meta = {
            "layer_id": layer,
            "seq_start": first_position,
            "seq_len": tokens,
            "seq_end_exclusive": end,
            "kv_heads": keys.shape[1],
            "head_dim": keys.shape[2],
            "bytes_per_elem": 2 if self.half else 4,
            "dtype": "fp16" if self.half else "fp32",
            "add": len(keys),
            "tensor_seq_len": len(keys),
            "quant_key": False,
            "quant_value": False,
            "flash_attention": False,
            "stage": stage,
            "run_id": self.run_id,
            "k_file": f"k_{span}.bin",
            "v_file": f"v_{span}.bin",
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, tensor in (("k", keys), ("v", values)):
                words = tensor[:tokens].astype("<f2" if self.half else "<f4")
                (folder / f"{name}_{span}.bin").write_bytes(words.tobytes())
            (folder / f"meta_{span}.json").write_text(json.dumps(meta, indent=2) + "\n", "utf-8")
        except OSError as error:
            raise UsageError(
                "the dump of the KV cache cannot be written",
                where=str(folder),
                came=error.strerror,
                hint="set MNN_KV_DUMP_DIR to a folder that can be written, or to off",
            ) from error


def read_dump_settings(environment: Mapping[str, str], *, half: bool) -> DumpWriter | None:
    """The writer that the environment asks for; None if it asks for no dump."""
    root = environment.get("MNN_KV_DUMP_DIR", "")
    if root in ("", "off"):
        return None
    run_id = environment.get("MNN_KV_DUMP_RUN_ID") or "run"
    stage = environment.get("MNN_KV_DUMP_STAGE") or "both"
    bound = environment.get("MNN_KV_DUMP_MAX_TOKENS") or "0"
    there, is_number = Path(root) / run_id, bound.isascii() and bound.isdigit()
    one_folder = run_id not in (".", "..") and "/" not in run_id and os.sep not in run_id
    for sound, name, came, expected, hint in (
        (one_folder, "RUN_ID", run_id, "the name of one folder", "leave out slashes"),
        (stage in STAGES, "STAGE", stage, ", ".join(STAGES), "set it to one of these or unset it"),
        (is_number, "MAX_TOKENS", bound, "a number of tokens, 0 for all", "set it to a whole number"),
        (not there.exists(), "RUN_ID", run_id, "a run that is not there yet", f"remove {there}"),
    ):
        if not sound:
            where, what = f"environment, MNN_KV_DUMP_{name}", "the dump of the KV cache cannot be made"
            raise UsageError(what, where=where, came=came, expected=expected, hint=hint)
    return DumpWriter(Path(root), run_id, stage, int(bound), half)


CONFIG_KEYS: Mapping[str, object] = {
    "kv_h2o_log_stats": True,
    "kv_lossless_enable": True,
    "kv_lossless_codec": "gear_delta",
    "kv_lossless_scope": "front_n",
    "kv_lossless_runtime_enable": True,
    "kv_lossless_strict_roundtrip_check": True,
}
"""What the config of a run must say for it to tell of its samples."""

_PAIR = re.compile(r"(\w+)=(-?\d+)(?=\s|$)")
_COMP = ("comp", "compressed", "comp_bytes", "eff_comp")
"""Names under which benches print the coded bytes of a sample."""


@dataclass(frozen=True)
class Offline:
    """The bytes that the tokens of a sample come to when they are coded as the dumps have them, K and V together."""

    as_half: int
    """Words of fp16, as scopes count them; rounded where the dumps are fp32."""
    as_wide: int | None
    """Words of fp32; None where the dumps are fp16."""


@dataclass(frozen=True)
class Comparison:
    """A sample and its tokens in the dumps; None if the dumps lack some of them."""

    sample: Sample
    offline: Offline | None
    is_wide: bool = False
    """The runtime coded words of 4 bytes (fp32)."""

    @property
    def alike_bytes(self) -> int | None:
        """The same words coded offline; None if the dumps do not have them."""
        if self.offline is None:
            return None
        return self.offline.as_wide if self.is_wide else self.offline.as_half


@dataclass(frozen=True)
class Consistency:
    """What a comparison found."""

    compared: tuple[Comparison, ...]
    """Each distinct sample once: a run prints the same ones in every repeat."""
    not_comparable: tuple[Sample, ...]
    """Samples that an eviction had torn apart: no dump holds them side by side."""

    @property
    def alike(self) -> tuple[tuple[int, int], ...]:
        """Bytes of the runtime and of the same words coded offline, of each sample that has both."""
        pairs = ((each.sample.coded_bytes, each.alike_bytes) for each in self.compared)
        return tuple((runtime, offline) for runtime, offline in pairs if offline is not None)

    @property
    def consistent(self) -> bool:
        """Whether there was something to compare and all of it was equal."""
        return bool(self.compared) and all(each.sample.coded_bytes == each.alike_bytes for each in self.compared)

    @property
    def runtime_bytes(self) -> int:
        return sum(each.sample.coded_bytes for each in self.compared)

    @property
    def offline_bytes(self) -> int | None:
        """None if the words of some samples are missing in the dumps."""
        return sum(offline for _, offline in self.alike) if len(self.alike) == len(self.compared) else None

    def render(self) -> str:
        """What was compared, in lines: the totals, then each sample that is not equal."""
        torn = f"; {len(self.not_comparable)} torn apart by eviction, left out" if self.not_comparable else ""
        if not self.compared:
            return f"no sample to compare{torn}: the run must log them ({', '.join(CONFIG_KEYS)})"
        total = self.offline_bytes
        offline = "tokens are missing in the dumps" if total is None else f"{total:,} bytes"
        lines = [f"{len(self.compared)} samples: runtime {self.runtime_bytes:,} bytes, offline {offline}{torn}"]
        if any(each.is_wide for each in self.compared):
            lines.append(self._render_wide())
        for each in self.compared:
            sample, size = each.sample, each.alike_bytes
            if size != sample.coded_bytes:
                where = f"layer {sample.layer}, positions {sample.first_position} to {sample.end_position}"
                missing = "not in the dumps" if each.offline is None else "not in the dumps as fp32"
                came = missing if size is None else f"offline {size:,} bytes"
                lines.append(f"{where}: runtime {sample.coded_bytes:,} bytes, {came}")
        return "\n".join(lines)

    def _render_wide(self) -> str:
        """Why the runtime's ratio of fp32 words is none of fp16 bytes."""
        known = [(each.sample, each.offline.as_half) for each in self.compared if each.is_wide and each.offline]
        raw, coded = sum(s.raw_bytes for s, _ in known), sum(s.coded_bytes for s, _ in known)
        said = "the runtime coded words of fp32, and scopes count fp16: the two ratios are not of one thing"
        if not known:
            return said
        half = sum(size for _, size in known)
        return (
            f"{said}; of the same tokens {raw:,} bytes came to {coded:,} ({raw / coded:.4f}), and as fp16 {raw // 2:,} "
            f"come to {half:,} ({raw / 2 / half:.4f})"
        )


def parse_samples(output: str, *, first_evicted: int | None = None) -> tuple[Sample, ...]:
    """The samples that the output of a run tells of, in its order, each distinct one once.

    A line that lacks the layer, the start, the number of tokens or either size is passed over: it is some other
    message of the engine, or one that was cut. Where it does not say the positions, they are those of a cache from
    which nothing was evicted; from the layer `first_evicted` on they are then not known, and the sample counts as torn.
    """
    found: dict[Sample, None] = {}
    for line in output.splitlines():
        _, mark, rest = line.partition(LOG_MARK)
        numbers = {key: int(value) for key, value in _PAIR.findall(rest)}
        coded = next((numbers[name] for name in _COMP if name in numbers), None)
        if not mark or coded is None or not {"layer", "start", "tokens", "raw"} <= numbers.keys():
            continue
        first = numbers.get("pos", numbers["start"])
        end = numbers.get("pos_end", first + numbers["tokens"])
        if "pos" not in numbers and first_evicted is not None and numbers["layer"] >= first_evicted:
            first = end = -1
        sample = Sample(numbers["layer"], numbers["start"], numbers["tokens"], first, end, numbers["raw"], coded)
        found[sample] = None
    return tuple(found)


def compare_run(output: str, dump_dir: Path, *, run_id: str, config: Mapping[str, object]) -> Consistency:
    """Compare what a run printed with what it dumped: the tokens of each sample, coded as the dumps have them."""
    from pytest_h2o.lossless.index import index_dump  # a launch that is timed does without

    names = {key: config.get(f"kv_lossless_{key}") for key in ("predictors_k", "predictors_v")}
    codec = GearV3(**{key: name for key, name in names.items() if isinstance(name, str)})
    by_layer: dict[int, list[DumpEntry]] = {}
    for entry in index_dump(dump_dir / run_id).entries:
        by_layer.setdefault(entry.layer_id, []).append(entry)
    first_evicted = config.get("kv_h2o_layer_start")
    samples = parse_samples(output, first_evicted=first_evicted if isinstance(first_evicted, int) else None)
    whole = [sample for sample in samples if sample.contiguous]
    torn = tuple(sample for sample in samples if not sample.contiguous)
    return Consistency(tuple(_compare(sample, by_layer.get(sample.layer, []), codec) for sample in whole), torn)


def _compare(sample: Sample, entries: Sequence[DumpEntry], codec: GearV3) -> Comparison:
    from pytest_h2o.lossless.index import read_pieces, read_wide_pieces

    pieces = _pieces_of(sample, entries)
    if not pieces:
        return Comparison(sample, None)
    tensors: tuple[Tensor, ...] = ("k", "v")
    half = sum(len(codec.encode(Stream(read_pieces(pieces, tensor), tensor))) for tensor in tensors)
    wide = None
    if all(piece.entry.bytes_per_elem == 4 for piece in pieces):
        wide = sum(codec.count_wide(read_wide_pieces(pieces, tensor), tensor) for tensor in tensors)
    is_wide = sample.raw_bytes == 2 * 4 * sample.tokens * pieces[0].entry.row_elements
    return Comparison(sample, Offline(half, wide), is_wide)


def _pieces_of(sample: Sample, entries: Sequence[DumpEntry]) -> list[Piece]:
    """The rows of a sample's tokens; none unless every one of them stands in exactly one entry."""
    from pytest_h2o.lossless.index import Piece

    pieces = []
    expected = sample.first_position
    for entry in sorted(entries, key=lambda entry: entry.seq_start):
        first = max(entry.seq_start, sample.first_position)
        end = min(entry.seq_start + entry.seq_len, sample.end_position)
        if first >= end:
            continue
        if first != expected:
            return []
        pieces.append(Piece(entry, first - entry.seq_start, end - first))
        expected = end
    return pieces if expected == sample.end_position else []
