"""Results of a run as figures with names that a later run finds again. Pure."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_h2o.errors import H2OError
from pytest_h2o.gate.figure_metrics import FIGURE_METRICS
from pytest_h2o.gate.row_metrics import ROW_METRICS, row_cell
from pytest_h2o.history.record import is_figure
from pytest_h2o.points import LLM_BENCH

if TYPE_CHECKING:
    from pytest_h2o.bench.result import PointResult
    from pytest_h2o.lossless import LosslessResult
    from pytest_h2o.presets import Preset

FigureTable = dict[str, dict[str, int | float]]
"""Row -> metric -> value."""

WHOLE = "all"
"""The row of a scope as a whole; its layers are ``layer 0``, ``layer 1``, …"""

_SCOPE_FIELDS = (
    *("lossless_ratio", "k_lossless_ratio", "v_lossless_ratio"),
    *("compressed_bytes", "k_compressed_bytes", "v_compressed_bytes", "raw_bytes", "k_raw_bytes", "v_raw_bytes"),
    *("selected_entries", "skipped_entries", "encode_s", "decode_s"),
)

_NOT_MEASURED_BY = frozenset({"path", "targets", "base_config", "description"})


def row_key(manifest: Mapping[str, Any], repeat: int | None) -> str:
    """The name of a row that stays when others come before it: lengths and ratios, and a digest of the whole point.

    Parameters
    ----------
    manifest : mapping
        Configuration of the point as the manifest has it.
    repeat : int or None
        Measured repeats: rows of unlike repeats are not the same figures, even where they are deterministic.

    Returns
    -------
    str
        For example ``p512_g128_k0.3_b8_lr3.0-1a2b3c4d``: the run id without its number in the sweep.
    """
    config = {name: value for name, value in manifest.items() if name != "run_id"}
    text = json.dumps([config, repeat], sort_keys=True, separators=(",", ":"))
    words = str(manifest["run_id"]).split("_", 2)
    return f"{words[-1]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def preset_figures(rows: Sequence[tuple[Mapping[str, Any], PointResult]]) -> FigureTable:
    """Figures of every row of a preset: its speeds, and each column that the table of metrics knows.

    Parameters
    ----------
    rows : sequence of (mapping, PointResult)
        The manifest fields of each point, and its result.
    """
    figures: FigureTable = {}
    for manifest, result in rows:
        row = result.row
        cells = {name: row.get(name) for name in FIGURE_METRICS}
        for name in ROW_METRICS:
            with contextlib.suppress(H2OError):  # an item that asks for it fails with it; here there is no such figure
                cells[name] = row_cell(row, name)
        cells |= {"prefill_tok_per_s": row.prefill_tok_per_s, "decode_tok_per_s": row.decode_tok_per_s}
        figures[row_key(manifest, row.repeat)] = {
            name: cell.mean for name, cell in cells.items() if cell is not None and is_figure(cell.mean)
        }
    return figures


def scope_figures(result: LosslessResult) -> FigureTable:
    """Figures of a scope as a whole, and the sizes of each layer."""
    whole = {name: getattr(result, name) for name in _SCOPE_FIELDS}
    whole["undecoded_streams"] = result.encoded_streams - result.verified_streams
    figures = {WHOLE: {name: value for name, value in whole.items() if is_figure(value)}}
    for layer in result.by_layer:
        sizes = ("k_compressed_bytes", "v_compressed_bytes", "k_raw_bytes", "v_raw_bytes")
        figures[f"layer {layer.layer_id}"] = {name: getattr(layer, name) for name in sizes}
    return figures


def preset_fingerprint(
    preset: Preset,
    results: Sequence[PointResult],
    *,
    machine: str | None,
    binary: str | None,
    base_config: str | None,
) -> dict[str, str | None]:
    """What the figures of a preset were measured with; None for a part that is not known.

    Parameters
    ----------
    machine : str or None
        Where the bench ran; None for logs that were recorded somewhere.
    binary, base_config : str or None
        Digests of the bench and of the model's config.
    """
    # Left out where they say nothing, so that runs of before they were there can be compared with.
    silent = {"bench", "bench_options"} if preset.bench == LLM_BENCH else set()
    settings = preset.model_dump(mode="json", exclude=set(_NOT_MEASURED_BY) | silent)

    def seen(column: str) -> str | None:
        values = {result.row.cells.get(column, "").strip() for result in results} - {""}
        return ", ".join(sorted(values)) or None

    model = [text for text in (seen("model"), seen("modelSize")) if text]
    return {
        "model": ", ".join(model) or None,
        "base config": base_config,
        "binary": binary,
        "machine": machine,
        "preset": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16],
        "threads": seen("threads"),
        "backend": seen("backend"),
    }


def scope_fingerprint(result: LosslessResult, machine: str | None) -> dict[str, str | None]:
    """What the figures of a scope were measured with."""
    framing = f"{result.online_chunk_seq}/{result.online_framing_bytes}" if result.online_chunks else "whole"
    config = {name: getattr(result, name) for name in ("bitshuffle", "adaptive_block_seq", "zstd_level")}
    config |= {name: getattr(result, f"{name}_predictors") for name in ("k_hi", "k_lo", "v_hi", "v_lo")}
    config |= {"codec_config": dict(result.codec_config), "rope": result.rope and dict(result.rope)}
    text = json.dumps(config, sort_keys=True, default=list)
    return {
        "entry mode": f"{result.entry_mode} {framing}",
        "codec": f"{result.codec_mode} ({hashlib.sha256(text.encode()).hexdigest()[:8]})",
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(result.versions.items())) or None,
        "machine": machine,
    }
