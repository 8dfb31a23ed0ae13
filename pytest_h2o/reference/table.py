"""Rows of the bench as its Markdown table and its JSON: same headers and number formats as ``llm_bench``. Pure."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MIB, GIB = 1 << 20, 1 << 30
PRECISION_NAMES = ("Normal", "High", "Low")

H2O_COLUMNS: Mapping[str, tuple[str, int]] = {
    "h2o_keep": ("h2o_keep_ratio", 4),
    "h2o_lossy": ("h2o_lossy_ratio", 3),
    "h2o_lossless": ("h2o_lossless_ratio", 3),
    "h2o_target_keep_effective": ("h2o_target_keep_effective", 4),
    "h2o_floor_keep": ("h2o_floor_keep", 4),
    "h2o_quantized_keep": ("h2o_quantized_keep", 4),
    **{
        name: (name, 2)
        for name in (
            "h2o_evict_us", "h2o_codec_us", "h2o_lossless_raw_mb", "h2o_lossless_comp_mb", "h2o_lossless_comp_us",
            "h2o_lossless_decomp_us", "h2o_lossless_queue_peak", "h2o_lossless_fallback",
            "h2o_lossless_backpressure_skip", "h2o_lossless_async_queue_peak", "h2o_lossless_async_wait_us",
            "h2o_lossless_decode_cache_hit", "h2o_lossless_decode_cache_miss",
        )
    },
}  # fmt: skip
"""Column of the table to its key in the JSON and its decimals."""


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
    """What was measured of one prompt length and one generation length.

    Attributes
    ----------
    prompt_len, gen_len : int
        In tokens; 0 where that half was not run.
    speeds : sequence of Series
        Tokens a second: with H2O columns those of prefill and of decode, else one for what was run.
    h2o : mapping of str to Series
        By column; empty with ``-kv false``.
    extra : mapping of str to float
        Columns of this bench alone: figures without a spread, of six significant digits.
    """

    prompt_len: int
    gen_len: int
    speeds: tuple[Series, ...]
    h2o: Mapping[str, Series] = field(default_factory=dict)
    extra: Mapping[str, float] = field(default_factory=dict)


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
    headers = _header_cells(run, rows[0])
    rules = [rule for _, rule in headers]
    widths = [len(rule) for rule in rules]  # not that of the header: the engine's `threads` is wider than its cells
    lines = [_line([name for name, _ in headers]), _line(rules)]
    for row in rows:
        padded = [_pad(text, width, left) for width, (text, left) in zip(widths, _cells(run, row), strict=True)]
        lines.append(_line(padded))
    return "\n".join(lines) + "\n"


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
    for column, (key, _) in H2O_COLUMNS.items():
        if column in row.h2o:
            result[key], result[f"{key}_std"] = row.h2o[column].mean, row.h2o[column].std
    result.update(row.extra)
    if run.loading_s is not None:
        result["loading_time"], result["loading_time_std"] = run.loading_s, 0.0
    return result


def _header_cells(run: Run, row: Row) -> list[tuple[str, str]]:
    """Header and rule of each column, padded as the engine pads them."""
    cells = [_left("model", 30), _right("modelSize", 10), _left("backend", 10), ("threads", "----:")]
    cells.append(_left("precision", 10))
    if row.h2o:
        cells += [("llm_demo  ", "-" * 10), ("speed(tok/s)", "-" * 12)]
        cells += [_right(column, max(10, len(column))) for column in H2O_COLUMNS]
        cells += [_right(column, len(column)) for column in row.extra]
    else:
        cells += [_left("test", 13), _right("t/s", 10)]
    if run.loading_s is not None:
        cells.append(_right("loadingTime(s)", 14))
    return cells


def _cells(run: Run, row: Row) -> list[tuple[str, bool]]:
    """Text of each column, and whether it stands on the left."""
    size = f"{run.model_bytes / GIB:.2f} GiB" if run.model_bytes >= GIB else f"{run.model_bytes / MIB:.2f} MiB"
    cells = [(run.model, True), (size, False), ("CPU", True), (str(run.threads), False)]
    cells.append((PRECISION_NAMES[run.precision], True))
    if row.h2o:
        cells.append((f"prompt={row.prompt_len}<br>decode={row.gen_len}", True))
        cells.append(("<br>".join(speed.render(2) for speed in row.speeds), True))
        cells += [(row.h2o[column].render(decimals), False) for column, (_, decimals) in H2O_COLUMNS.items()]
        cells += [(f"{value:.6g}", False) for value in row.extra.values()]
    else:
        parts = [f"pp{row.prompt_len}"] * (row.prompt_len > 0) + [f"tg{row.gen_len}"] * (row.gen_len > 0)
        cells += [("+".join(parts), True), (row.speeds[0].render(2), False)]
    if run.loading_s is not None:
        cells.append((Series((run.loading_s,)).render(2), False))
    return cells


def _left(name: str, width: int) -> tuple[str, str]:
    return name.ljust(width), "-" * width


def _right(name: str, width: int) -> tuple[str, str]:
    return name.rjust(width), "-" * (width - 1) + ":"


def _pad(text: str, width: int, left: bool) -> str:
    """Pad to a width that is counted in bytes: the engine pads with printf."""
    missing = " " * max(0, width - len(text.encode("utf-8")))
    return text + missing if left else missing + text


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
