"""Rows of the bench as its Markdown table and its JSON: same headers and number formats as ``llm_bench``. Pure."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

MIB, GIB = 1 << 20, 1 << 30
PRECISION_NAMES = ("Normal", "High", "Low")


class Column(NamedTuple):
    """A column of H2O: its key in the JSON, its decimals in the table, and its figure where nothing was done."""

    key: str
    decimals: int
    idle: float


H2O_COLUMNS: Mapping[str, Column] = {
    "h2o_keep": Column("h2o_keep_ratio", 4, 1.0),
    "h2o_lossy": Column("h2o_lossy_ratio", 3, 1.0),
    "h2o_lossless": Column("h2o_lossless_ratio", 3, 1.0),
    "h2o_target_keep_effective": Column("h2o_target_keep_effective", 4, 1.0),
    "h2o_floor_keep": Column("h2o_floor_keep", 4, 1.0),
    "h2o_quantized_keep": Column("h2o_quantized_keep", 4, 1.0),
    **{
        name: Column(name, 2, 0.0)
        for name in (
            "h2o_evict_us", "h2o_codec_us", "h2o_lossless_raw_mb", "h2o_lossless_comp_mb", "h2o_lossless_comp_us",
            "h2o_lossless_decomp_us", "h2o_lossless_queue_peak", "h2o_lossless_fallback",
            "h2o_lossless_backpressure_skip", "h2o_lossless_async_queue_peak", "h2o_lossless_async_wait_us",
            "h2o_lossless_decode_cache_hit", "h2o_lossless_decode_cache_miss",
        )
    },
}  # fmt: skip
"""Columns of the table, in its order. Three are never but idle: no sample is skipped, and there is neither a queue of
stored blocks nor a cache of decoded ones."""


@dataclass(frozen=True)
class Series:
    """One figure over the measured repeats."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float:
        """Sample standard deviation; 0 for one value, as the engine prints it though it is not known then."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    def render(self, decimals: int) -> str:
        return f"{self.mean:.{decimals}f} ± {self.std:.{decimals}f}"


@dataclass(frozen=True)
class Row:
    """What was measured of one prompt length and one generation length, in tokens; 0 where that half was not run."""

    prompt_len: int
    gen_len: int
    speeds: tuple[Series, ...]
    """Tokens a second, higher is better: with H2O columns those of prefill and of decode, else one for what was run."""
    h2o: Mapping[str, Series] = field(default_factory=dict)
    """By column; empty with ``-kv false``."""
    extra: Mapping[str, float] = field(default_factory=dict)
    """Columns of this bench alone: figures without a spread, of six significant digits."""


@dataclass(frozen=True)
class Run:
    """What all rows of a launch share. `loading_s` is None unless it is to be shown."""

    model: str
    model_bytes: int
    threads: int
    precision: int
    loading_s: float | None


def render_table(run: Run, rows: Sequence[Row]) -> str:
    """The Markdown table, header lines and the last line break included."""
    headers, rules, _ = zip(*_cells(run, rows[0]), strict=True)
    lines = [headers, rules, *([text for _, _, text in _cells(run, row)] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def render_json(run: Run, rows: Sequence[Row]) -> str:
    """The JSON text, in full precision."""
    head: dict[str, object] = {
        "model": run.model,
        "modelSize": run.model_bytes / GIB,
        "backend": "CPU",
        "threads": run.threads,
        "useMmap": False,
        "precision": run.precision,
        "memory": 2,
        "power": 0,
        "attentionOption": 0,
    }
    results = [_result(run, row) for row in rows]
    return json.dumps({**head, "results": results}, separators=(",", ":"), allow_nan=False)


def _result(run: Run, row: Row) -> dict[str, object]:
    names = {(True, True): "prefill_and_decode", (True, False): "prefill", (False, True): "decode"}
    result: dict[str, object] = {
        "type": names[row.prompt_len > 0, row.gen_len > 0],
        "prompt_len": row.prompt_len,
        "generate_len": row.gen_len,
    }
    keys = (("prefill_tps", "prefill_std"), ("decode_tps", "decode_std")) if row.h2o else (("tps", "std"),)
    for (mean, std), speed in zip(keys, row.speeds, strict=True):
        result[mean], result[std] = speed.mean, speed.std
    for name, series in row.h2o.items():
        key = H2O_COLUMNS[name].key
        result[key], result[f"{key}_std"] = series.mean, series.std
    result.update(row.extra)
    if run.loading_s is not None:
        result["loading_time"], result["loading_time_std"] = run.loading_s, 0.0
    return result


def _cells(run: Run, row: Row) -> list[tuple[str, str, str]]:
    """Header, rule and text of each column, padded as the engine pads them."""
    size = f"{run.model_bytes / GIB:.2f} GiB" if run.model_bytes >= GIB else f"{run.model_bytes / MIB:.2f} MiB"
    cells = [
        _left("model", 30, run.model),
        _right("modelSize", 10, size),
        _left("backend", 10, "CPU"),
        _right("threads", 5, str(run.threads)),  # the engine's header is wider than its cells
        _left("precision", 10, PRECISION_NAMES[run.precision]),
    ]
    if row.h2o:
        cells.append(_left("llm_demo", 10, f"prompt={row.prompt_len}<br>decode={row.gen_len}"))
        cells.append(_left("speed(tok/s)", 12, "<br>".join(speed.render(2) for speed in row.speeds)))
        for name, series in row.h2o.items():
            cells.append(_right(name, max(10, len(name)), series.render(H2O_COLUMNS[name].decimals)))
        cells += [_right(name, len(name), f"{value:.6g}") for name, value in row.extra.items()]
    else:
        parts = [f"pp{row.prompt_len}"] * (row.prompt_len > 0) + [f"tg{row.gen_len}"] * (row.gen_len > 0)
        cells += [_left("test", 13, "+".join(parts)), _right("t/s", 10, row.speeds[0].render(2))]
    if run.loading_s is not None:
        cells.append(_right("loadingTime(s)", 14, Series((run.loading_s,)).render(2)))
    return cells


def _left(name: str, width: int, text: str) -> tuple[str, str, str]:
    return name.ljust(width), "-" * width, text + _missing(text, width)


def _right(name: str, width: int, text: str) -> tuple[str, str, str]:
    return name.rjust(width), "-" * (width - 1) + ":", _missing(text, width) + text


def _missing(text: str, width: int) -> str:
    """Spaces up to a width that is counted in bytes: the engine pads with printf."""
    return " " * (width - len(text.encode("utf-8")))
