"""Every metric that a run is recorded with: unit, direction, exact or timed, and what it is a part of."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

from pytest_h2o.bench.rows import Measurement
from pytest_h2o.errors import NotMeasured, UsageError
from pytest_h2o.gate.values import METRICS, Metric

if TYPE_CHECKING:
    from pytest_h2o.bench.rows import Row


@dataclass(frozen=True)
class FigureMetric:
    """One kind of recorded figure.

    Attributes
    ----------
    name : str
        As ``--h2o-compare-fail NAME:PERCENT`` names it. What is called like a column of the bench is that column.
    better : {"higher", "lower", "same"}
        ``same``: says what was measured; another value means that other data was measured.
    exact : bool
        False for timings.
    part_of : str or None
        The metric whose allowed worsening holds for this one too, unless this one has its own.
    fmt : str
        Number format.
    rounded : bool
        A sum over many floats, whose last digits another processor gives otherwise: exact on one machine alone.
    """

    name: str
    title: str
    unit: str
    better: Better
    exact: bool = True
    part_of: str | None = None
    fmt: str = ".4f"
    rounded: bool = False

    def render(self, value: float) -> str:
        text = format(value, self.fmt)
        return f"{text} {self.unit}" if self.unit else text


_BYTES, _COUNT = ",.0f", ",.0f"

FIGURE_METRICS: dict[str, FigureMetric] = {
    metric.name: metric
    for metric in (
        # rows of the bench
        FigureMetric("h2o_lossy", "lossy ratio", "", "higher", fmt=".3f"),
        FigureMetric("h2o_keep", "keep ratio", "", "lower", part_of="h2o_lossy"),
        FigureMetric("h2o_target_keep_effective", "target keep ratio", "", "lower", part_of="h2o_lossy"),
        FigureMetric("h2o_floor_keep", "floor of the keep ratio", "", "lower", part_of="h2o_lossy"),
        FigureMetric("h2o_quantized_keep", "keep ratio in whole blocks", "", "lower", part_of="h2o_lossy"),
        FigureMetric("h2o_lossless", "runtime lossless ratio", "", "higher", fmt=".3f"),
        FigureMetric("h2o_lossless_raw_mb", "runtime lossless, raw", "MB", "same", fmt=".2f"),
        FigureMetric(
            "h2o_lossless_comp_mb", "runtime lossless, coded", "MB", "lower", part_of="h2o_lossless", fmt=".2f"
        ),
        FigureMetric("h2o_lossless_fallback", "runtime lossless fallbacks", "", "lower", fmt=".2f"),
        # quality of the model under eviction
        FigureMetric("quality_ppl_full", "perplexity, full cache", "", "lower", rounded=True),
        FigureMetric("quality_ppl_evicted", "perplexity under eviction", "", "lower", rounded=True),
        FigureMetric("quality_ppl_rise", "rise in perplexity", "", "lower", rounded=True),
        FigureMetric(
            "quality_bits_per_byte_full",
            "bits a byte, full cache",
            "",
            "lower",
            part_of="quality_ppl_full",
            rounded=True,
        ),
        FigureMetric(
            "quality_bits_per_byte_evicted",
            "bits a byte under eviction",
            "",
            "lower",
            part_of="quality_ppl_evicted",
            rounded=True,
        ),
        FigureMetric("quality_top1_agreement", "agreement of the likeliest token", "", "higher", rounded=True),
        FigureMetric("quality_greedy_prefix", "common greedy prefix", "tokens", "higher", fmt=".1f", rounded=True),
        FigureMetric("quality_greedy_equal", "equal greedy tokens", "", "higher", rounded=True),
        FigureMetric("quality_cache_ratio", "cache ratio of the quality run", "", "higher", fmt=".3f"),
        FigureMetric("quality_tokens", "tokens of the quality run", "", "same", fmt=_COUNT),
        FigureMetric("quality_evictions", "evictions of the quality run", "", "same", fmt=_COUNT),
        # scopes of a dump
        FigureMetric("lossless_ratio", "lossless ratio", "", "higher"),
        FigureMetric("k_lossless_ratio", "lossless ratio of K", "", "higher", part_of="lossless_ratio"),
        FigureMetric("v_lossless_ratio", "lossless ratio of V", "", "higher", part_of="lossless_ratio"),
        FigureMetric("compressed_bytes", "coded size", "bytes", "lower", part_of="lossless_ratio", fmt=_BYTES),
        FigureMetric("k_compressed_bytes", "coded size of K", "bytes", "lower", part_of="k_lossless_ratio", fmt=_BYTES),
        FigureMetric("v_compressed_bytes", "coded size of V", "bytes", "lower", part_of="v_lossless_ratio", fmt=_BYTES),
        FigureMetric("raw_bytes", "raw size", "bytes", "same", fmt=_BYTES),
        FigureMetric("k_raw_bytes", "raw size of K", "bytes", "same", fmt=_BYTES),
        FigureMetric("v_raw_bytes", "raw size of V", "bytes", "same", fmt=_BYTES),
        FigureMetric("selected_entries", "entries of the dump", "", "same", fmt=_COUNT),
        FigureMetric("skipped_entries", "entries that could not be read", "", "lower", fmt=_COUNT),
        FigureMetric("undecoded_streams", "streams not decoded", "", "lower", fmt=_COUNT),
        # timings
        FigureMetric("prefill_tok_per_s", "prefill speed", "tok/s", "higher", exact=False, fmt=".2f"),
        FigureMetric("decode_tok_per_s", "decode speed", "tok/s", "higher", exact=False, fmt=".2f"),
        FigureMetric("h2o_evict_us", "time of eviction", "us", "lower", exact=False, fmt=".2f"),
        FigureMetric("h2o_codec_us", "time of the codec", "us", "lower", exact=False, fmt=".2f"),
        FigureMetric("h2o_lossless_comp_us", "time of encoding", "us", "lower", exact=False, fmt=".2f"),
        FigureMetric("h2o_lossless_decomp_us", "time of decoding", "us", "lower", exact=False, fmt=".2f"),
        FigureMetric("encode_s", "time of encoding", "s", "lower", exact=False, fmt=".3f"),
        FigureMetric("decode_s", "time of decoding", "s", "lower", exact=False, fmt=".3f"),
    )
}
"""In the order in which reports show them: what matters most first."""

HEADLINES: Mapping[str, tuple[str, ...]] = {
    "preset": ("h2o_lossy", "decode_tok_per_s"),
    "scope": ("lossless_ratio",),
}
"""What one line about a preset or scope shows: the best over its rows."""


def metric_facts() -> dict[str, MetricFacts]:
    """The table as it is kept with every record."""
    return {name: MetricFacts(m.unit, m.better, m.exact) for name, m in FIGURE_METRICS.items()}


def is_rounded(metric: str) -> bool:
    """Whether the last digits of a metric depend on the processor; false of one that this version does not know."""
    known = FIGURE_METRICS.get(metric)
    return known is not None and known.rounded


def render_figure(metric: str, value: float | None) -> str:
    """A figure with its unit; one of a metric that this version does not know as plain as it is; ``missing``."""
    if value is None:
        return "missing"
    known = FIGURE_METRICS.get(metric)
    return known.render(value) if known else f"{value:g}"


@dataclass(frozen=True)
class RowMetric:
    """A metric of the rows of a sweep.

    Attributes
    ----------
    name : str
        ``h2o_sweep.best(name)`` and ``targets: metrics: {name: …}`` use it; letters, digits and ``_``.
    title : str
        In reports.
    unit : str
        Empty for a plain number.
    higher_is_better : bool
        Whether gate files hold it by ``>=`` or by ``<=``, and which row is the best.
    target : float or None
        Where no preset says another; None: reported only.
    value : callable, optional
        Makes it of a `Row`: a number, a `Measurement`, or None where the row lacks what it needs. Left out, it is
        the column of this name.
    decimals : int
        In reports.
    exact : bool
        Whether two runs of the same thing give it alike to the last digit, as ratios, and not as timings.
    """

    name: str
    title: str
    unit: str = ""
    higher_is_better: bool = True
    target: float | None = None
    value: Callable[[Row], Measurement | float | None] | None = None
    decimals: int = 3
    exact: bool = False


ROW_METRICS: dict[str, RowMetric] = {}
"""Those that were added in this process, by name."""

_OWN = frozenset({*METRICS, *FIGURE_METRICS})


def register_metric(metric: RowMetric) -> None:
    """Add a metric; one of its name that a plugin added before is replaced."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", metric.name) is None:
        raise UsageError(
            "the name of a metric cannot be used", came=repr(metric.name), expected="letters, digits and _"
        )
    if metric.name in _OWN:
        raise UsageError("a metric has the name of a built-in one", came=metric.name, expected="another name")
    ROW_METRICS[metric.name] = metric
    METRICS[metric.name] = Metric(metric.name, metric.title, metric.unit, metric.higher_is_better, metric.decimals)
    better: Better = "higher" if metric.higher_is_better else "lower"
    FIGURE_METRICS[metric.name] = FigureMetric(
        metric.name, metric.title, metric.unit, better, metric.exact, fmt=f".{metric.decimals}f"
    )


def require_metric(name: str, where: str) -> RowMetric:
    """Return a metric that a plugin added; UsageError with the near names if there is none."""
    if name not in ROW_METRICS:
        near = get_close_matches(name, ROW_METRICS, n=1)
        raise UsageError(
            "no plugin adds such a metric",
            where=where,
            came=name,
            expected=f"one of {', '.join(ROW_METRICS)}" if ROW_METRICS else None,
            hint=f"did you mean {near[0]}?" if near else "the hook pytest_h2o_metrics adds metrics",
        )
    return ROW_METRICS[name]


def row_cell(row: Row, metric: str) -> Measurement | None:
    """Return what a row measured of a metric or column; None if it is missing."""
    if metric == "decode_tok_per_s":
        return row.decode_tok_per_s
    function = ROW_METRICS[metric].value if metric in ROW_METRICS else None
    if function is None:
        return row.get(metric)
    try:
        value = function(row)
        return value if value is None or isinstance(value, Measurement) else Measurement(float(value), None)
    except Exception as error:  # a plugin's own function: whatever it raises is told, and is no measurement
        raise NotMeasured(
            f"the metric {metric} cannot be made of a row",
            where=row.log_file,
            came=f"{type(error).__name__}: {error}",
            expected="a number, or None where the row lacks what it needs",
            hint="mend the function of the metric in its plugin",
        ) from error


Better = Literal["higher", "lower", "same"]


@dataclass(frozen=True)
class MetricFacts:
    """What a reader must know of a metric to compare two figures of it.

    Attributes
    ----------
    unit : str
        Empty for a ratio or a count.
    better : {"higher", "lower", "same"}
        Which way is better; ``same`` for what only says what was measured: any change of it is one too many.
    exact : bool
        True if two runs of the same binary and input give the same figure to the last digit; false for timings.
    """

    unit: str
    better: Better
    exact: bool
