"""From a dump and a scope to a result."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from time import perf_counter
from typing import Any

import numpy as np
import zstandard

from pytest_h2o import __version__
from pytest_h2o.codecs.adaptive_v22 import AdaptiveV22, Legacy
from pytest_h2o.codecs.base import Codec, Rope, read_config
from pytest_h2o.codecs.planes import PREDICTORS
from pytest_h2o.errors import CodecError, DumpError, ExecutorError
from pytest_h2o.inputs.keys import CHUNKED, FLAT_KEYS, STREAM_KEYS
from pytest_h2o.inputs.options import CODEC_TIMEOUT_S, CORES
from pytest_h2o.inputs.scope import Scope
from pytest_h2o.lossless.executors import Executor, open_executor
from pytest_h2o.lossless.index import (
    DumpEntry,
    DumpIndex,
    find_faults,
    find_overlaps_and_gaps,
    index_dump,
    prompt_lengths,
)
from pytest_h2o.lossless.measure import Measurement, Tally, plan_groups, plan_tasks, select
from pytest_h2o.lossless.result import (
    SCHEMA_VERSION,
    HeadBytes,
    LayerBytes,
    LosslessResult,
    RunBytes,
    SkippedEntry,
    by_prompt_length,
)

Progress = Callable[[int, int], None]
_ORIGINAL_NAME = "fp16_gear_predictive_zstd"
"""What the original evaluation script calls its codec, in both modes."""


def evaluate_lossless(
    root: str | os.PathLike[str],
    scope: Scope,
    *,
    verify: bool,
    codec: Codec | None = None,
    rope: Rope | None = None,
    workers: int | None = None,
    executor: str = CORES,
    index: DumpIndex | None = None,
    on_entries: Callable[[int], None] | None = None,
    progress: Progress | None = None,
    limit_s: float = CODEC_TIMEOUT_S,
) -> LosslessResult:
    """Encode the streams of a scope, of the dump at `root`, count the bytes, and decode them again.

    Entries that cannot be read are listed in the result; the caller decides what they mean. Sizes do not depend on
    the number of workers. Memory is bounded by the index and a few streams, not by the dump; in mode ``aggregate`` a
    stream is all of a run and layer. A `codec` stands in the place of the scope's, an `index` is what was found at
    `root` before. A codec of a plugin has `limit_s` seconds for a call.
    """
    started = perf_counter()
    codec = make_codec(scope.codec) if codec is None else codec
    measurement = Measurement(codec, verify, rope, limit_s=limit_s)
    with open_executor(executor, workers) as opened:
        workers = opened.workers
        forked = workers if executor == CORES else 1
        try:
            index = index or index_dump(root, sized=False, workers=forked, on_entries=on_entries)
            counted = _evaluate(index, scope, measurement, opened, progress, forked)
        except DumpError:  # a file has another size, or cannot be read: look again at all of them, and tell each
            index = index_dump(root, on_entries=on_entries)
            counted = _evaluate(index, scope, measurement, opened, progress, forked)
    return LosslessResult(
        schema_version=SCHEMA_VERSION,
        dump_dir=index.root,
        **{key.name: getattr(scope, key.name) for key in STREAM_KEYS},
        **_describe_codec(codec),
        **counted,
        rope=None if rope is None else asdict(rope),
        workers=workers,
        elapsed_s=perf_counter() - started,
        versions={
            "pytest_h2o": __version__,
            "python": ".".join(map(str, sys.version_info[:3])),
            "numpy": np.__version__,
            "zstandard": zstandard.__version__,
            "libzstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
        },
    )


def make_codec(codec: str | Mapping[str, Any]) -> Codec:
    """The codec of a scope: of a text, ``NAME:SETTING=VALUE``, or of a mapping of its id and settings."""
    if codec == AdaptiveV22.id:
        return AdaptiveV22()
    from pytest_h2o.codecs.registry import codec_from_config, parse_codec  # knows of distributions, which takes time

    return parse_codec(codec) if isinstance(codec, str) else codec_from_config(codec)


def _describe_codec(codec: Codec) -> dict[str, Any]:
    """Name and settings; those of the original script's own codecs by the names that it has for them, too."""
    described: dict[str, Any] = {"codec_config": read_config(codec)}
    if isinstance(codec, AdaptiveV22 | Legacy):
        own = {name: getattr(codec, name, getattr(AdaptiveV22, name)) for name in FLAT_KEYS[AdaptiveV22.id]}
        return {**described, "codec": _ORIGINAL_NAME, "codec_mode": codec.id, **own}
    from pytest_h2o.codecs.registry import render_codec

    return {**described, "codec": codec.id, "codec_mode": render_codec(codec)}


def _evaluate(
    index: DumpIndex,
    scope: Scope,
    measurement: Measurement,
    executor: Executor,
    progress: Progress | None,
    forked: int,
) -> dict[str, Any]:
    """Everything that was counted, by its name in the result."""
    entries, skipped = select(index, scope)
    groups = plan_groups(entries, scope)
    to_do = sum(entry.seq_len * entry.row_elements * 4 for entry in entries)
    tallies: dict[tuple[int, str], Tally] = {}
    done = 0
    for measured in executor.run(measurement, plan_tasks(groups, scope), to_do):
        tallies.setdefault((measured.layer_id, measured.tensor), Tally()).add(measured.tally)
        done += measured.tally.raw_bytes
        if progress is not None:
            progress(done, to_do)
    if done != to_do:
        raise ExecutorError(
            "not every stream was measured once",
            where=str(index.root),
            came=f"{done:,} raw bytes",
            expected=f"{to_do:,}",
            hint="--workers 1 works in one process; please report it, with the executor that was used",
        )
    for (layer, tensor), tally in tallies.items():
        if not tally.coded_bytes:
            raise CodecError(
                f"codec {measurement.codec.id} wrote nothing at all: there is no ratio",
                where=f"{index.root}, layer {layer}, {tensor.upper()}",
                came=f"0 bytes for {tally.streams} streams",
                expected="bytes that the streams can be decoded from",
            )
    streams = sum(tally.streams for tally in tallies.values())
    return {
        **_counted(index, entries, skipped),
        "faults": find_faults(
            index, scope, entries, skipped, {place: tally.health for place, tally in tallies.items()}, forked
        ),
        **_sizes(measurement.codec, tallies),
        "aggregate_groups": len(groups) if scope.entry_mode in ("aggregate", "chunked_grouped") else 0,
        "online_chunks": streams if scope.entry_mode in CHUNKED else 0,
        "by_layer": tuple(_layer_bytes(layer, tallies) for layer in sorted({layer for layer, _ in tallies})),
        **_parts(index, tallies),
    }


def _counted(index: DumpIndex, entries: Sequence[DumpEntry], skipped: Sequence[SkippedEntry]) -> dict[str, Any]:
    layers = {entry.layer_id for entry in entries}
    return {
        "selected_layers": tuple(sorted(layers)),
        "selected_entries": len(entries),
        "selected_dumps": len({entry.run_id for entry in entries}),
        "scanned_entries": index.scanned_entries,
        "converted_fp32_entries": sum(entry.bytes_per_elem == 4 for entry in entries),
        "bf16_entries": sum(entry.bf16 for entry in entries),
        "skipped_entries": len(skipped),
        "skip_reasons": dict(sorted(Counter(entry.reason for entry in skipped).items())),
        "skipped": tuple(skipped),
        "findings": find_overlaps_and_gaps(entry for entry in index.entries if entry.layer_id in layers),
    }


def _sizes(codec: Codec, tallies: Mapping[tuple[int, str], Tally]) -> dict[str, Any]:
    sizes: dict[str, Any] = {}
    both = Tally()
    for tensor in "kv":
        total = Tally()
        for (_, kind), tally in tallies.items():
            if kind == tensor:
                total.add(tally)
        sizes |= {
            f"{tensor}_raw_bytes": total.raw_bytes,
            f"{tensor}_compressed_bytes": total.coded_bytes,
            f"{tensor}_chunk_meta_bytes": total.framing_bytes,
            f"{tensor}_lossless_ratio": total.raw_bytes / total.coded_bytes,
        }
        for plane in ("hi", "lo"):
            names = getattr(codec, f"{tensor}_{plane}_predictors", PREDICTORS)
            sizes[f"{tensor}_{plane}_mode_counts"] = _ordered(total.mode_counts.get(plane, {}), names)
        both.add(total)
    return {
        **sizes,
        "raw_bytes": both.raw_bytes,
        "compressed_bytes": both.coded_bytes,
        "lossless_ratio": both.raw_bytes / both.coded_bytes,
        "weighted_lossless_ratio": both.raw_bytes / both.coded_bytes,
        "encoded_streams": both.streams,
        "verified_streams": both.verified,
        "encode_s": both.encode_s,
        "decode_s": both.decode_s if both.verified else None,
    }


def _ordered(counts: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    """In one order whichever worker came first: as in `names`, then others alphabetically."""
    known = {name: place for place, name in enumerate(names)}
    return dict(sorted(counts.items(), key=lambda item: (known.get(item[0], len(known)), item[0])))


def _parts(index: DumpIndex, tallies: Mapping[tuple[int, str], Tally]) -> dict[str, Any]:
    """Sizes by run, by prompt length, and by KV head where heads were coded alone."""
    prompts = prompt_lengths(index.entries)
    total = {tensor: Tally() for tensor in "kv"}
    for (_, tensor), tally in tallies.items():
        total[tensor].add(tally)
    k, v = total["k"], total["v"]
    runs = tuple(
        RunBytes(*k.runs[run], *v.runs[run], run, prompts.get(run)) for run in sorted(k.runs, key=lambda run: run or "")
    )
    heads = tuple(HeadBytes(*k.heads[head], *v.heads[head], head) for head in sorted(k.heads))
    return {"by_run": runs, "by_prompt_length": by_prompt_length(runs), "by_head": heads}


def _layer_bytes(layer_id: int, tallies: Mapping[tuple[int, str], Tally]) -> LayerBytes:
    sizes: dict[str, Any] = {}
    for tensor in "kv":
        tally = tallies[layer_id, tensor]
        sizes |= {f"{tensor}_raw_bytes": tally.raw_bytes, f"{tensor}_compressed_bytes": tally.coded_bytes}
        sizes |= {f"{tensor}_{plane}_bytes": tally.plane_bytes.get(plane) for plane in ("hi", "lo")}
    return LayerBytes(layer_id, **sizes)
