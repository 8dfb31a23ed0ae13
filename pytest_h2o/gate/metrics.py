"""Every metric, declared once: its name, which way is better, how it is shown, and what is asked of it.

A metric is a row of data, ours and those of plugins alike. Options (``--h2o-KEY-target``), keys under ``targets:``, the
rule, margins, verdict tables, recorded figures and comparisons with earlier runs are made from these rows by loops.
Every pytest run loads this module, for the options: it imports the standard library alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pytest_h2o.errors import UsageError, did_you_mean, near_names
from pytest_h2o.inputs.options import ANY_NUMBER, OPTIONS, Option, Range, limit

Better = Literal["higher", "lower", "same"]
_MOST_DECIMALS = 15
"""Beyond these two numbers that differ are taken for rounding of the arithmetic."""


@dataclass(frozen=True, eq=False, repr=False)  # fewer methods to make in every start of pytest
class Metric:
    """One kind of number.

    Attributes
    ----------
    name : str
        A column of the bench, or a figure of ours; ``h2o_sweep.best(name)`` uses it.
    title : str
        In reports.
    better : {"higher", "lower", "same"}
        ``same``: says what was measured; another value means that other data was measured.
    unit : str
        Empty for a ratio, a fraction or a count.
    fmt : str
        Number format; one with ``%`` says that the value is a fraction.
    exact : bool
        Two runs of the same binary and input give it alike to the last digit; False for timings, and for what depends
        on them.
    in_step : bool
        Exact only where lossless coding at run time is synchronous: else its timing decides how much is coded.
    over : {"some row", "every row"}
        Which rows must hold a target. Of ``every row`` the worst one decides, and is named.
    target : float or None
        Threshold where neither option, preset nor ini key says another; None: reported only, unless a preset asks.
    value : callable, optional
        Makes it of a `Row`: a number, a `Measurement`, or None where the row lacks what it needs. Left out, it is
        the column of this name.
    of : {"row", "scope", "verdict"}
        What has it: a row of a sweep, a scope of a dump, or only the verdict of a gate, which is not recorded.
    key : str
        Under ``targets:`` and in the option; the name where it is left out.
    short : str
        In lists of missed targets; the key without ``h2o_`` where it is left out.
    column : str
        Head of its column in the table of the terminal; `short` for what has a target, else none.
    head : str
        Head of its column in tables of rows.
    asks : str
        What a target says, for help and schema.
    values : Range
        What it can be: another value, which is no rounding, is damage and never a pass.
    targets : Range or None
        What may be asked; `values` where it is left out.
    share : str
        What a margin is a fraction of.
    joint : bool
        Whether a target is one of those that one and the same row must meet.
    optional : bool
        Left out of the rule, and said so, where no row has it and nobody set a target. Else what is missing is missed.
    made_of : str
        The column of the row that it is made of, together with something else.
    part_of : str
        The metric whose allowed worsening holds for this one too, unless this one has its own.
    rounded : bool
        A sum over many floats, whose last digits another processor gives otherwise: exact on one machine alone.
    added : bool
        A plugin added it.
    """

    name: str
    title: str
    better: Better
    unit: str = ""
    fmt: str = ".3f"
    exact: bool = True
    in_step: bool = False
    over: Literal["some row", "every row"] = "some row"
    target: float | None = None
    value: Callable[[Any], Any] | None = None
    of: Literal["row", "scope", "verdict"] = "row"
    key: str = ""
    short: str = ""
    column: str = ""
    head: str = ""
    asks: str = ""
    values: Range = ANY_NUMBER
    targets: Range | None = None
    share: str = "the target"
    joint: bool = True
    optional: bool = False
    made_of: str = ""
    part_of: str = ""
    rounded: bool = False
    added: bool = False

    def __post_init__(self) -> None:
        word = "smallest" if self.better == "higher" else "largest"
        key = self.key or self.name
        short = self.short or key.removeprefix("h2o_")
        usual = {"key": key, "short": short, "head": short, "asks": f"{word} {self.title}"}
        usual["column"] = short if self.target is not None and not self.added else ""
        for name, text in usual.items():
            object.__setattr__(self, name, getattr(self, name) or text)

    @property
    def higher_is_better(self) -> bool:
        return self.better == "higher"

    @property
    def relation(self) -> Literal[">=", "<="]:
        """How it is compared with a target."""
        return ">=" if self.better == "higher" else "<="

    @property
    def is_fraction(self) -> bool:
        return self.fmt.endswith("%")

    @property
    def decimals(self) -> int:
        return int(re.sub(r"\D", "", self.fmt))

    @property
    def target_unit(self) -> str:
        """Unit of a target, in words."""
        return f"fraction of {self.share}" if self.is_fraction else self.unit_word

    @property
    def unit_word(self) -> str:
        """The unit, and of what has none what it is."""
        return self.unit or ("fraction" if self.is_fraction else self.target_range.word.partition(" ")[2])

    def margin(self, value: float | None, target: float) -> float:
        """How far a value is from a target, negative if it misses it: a fraction of the target, or of a whole.

        Minus infinity for a value that is missing or not finite.
        """
        if value is None or not math.isfinite(value):
            return -math.inf
        # The difference first: its sign is exact, a rounded quotient's is not.
        gap = value - target if self.higher_is_better else target - value
        return gap if self.is_fraction or not target else gap / abs(target)

    @property
    def target_range(self) -> Range:
        """What a target may be."""
        return self.targets or self.values

    def render(self, value: float, decimals: int | None = None) -> str:
        """The value with its unit, rounded to the metric's decimals or to others."""
        return self._with_unit(self.render_bare(value, decimals))

    def render_bare(self, value: float, decimals: int | None = None) -> str:
        """`render` without the unit."""
        return format(value, self.fmt if decimals is None else re.sub(r"\d+", str(decimals), self.fmt))

    def render_figure(self, value: float) -> str:
        """A recorded figure with its unit: beside a change in percent a fraction stands as a plain number."""
        return self._with_unit(f"{value:.{self.decimals + 2}f}") if self.is_fraction else self.render(value)

    def render_target(self, target: float) -> str:
        """A target as it was given: with more decimals than the metric's where those would round it."""
        return self.render(target, next((d for d in self._decimals() if self._shows(target, d)), _MOST_DECIMALS))

    def render_measured(self, value: float, std: float | None, target: float | None = None) -> str:
        """A value with its spread, and as many decimals as tell it from a target that it differs from."""
        text = self.render_bare(value)
        if target is not None and value != target and math.isfinite(value):
            enough = (d for d in self._decimals() if not self._shows(target, d, of=value))
            text = self.render_bare(value, next(enough, None))
        spread = "" if std is None else f" ± {self.render_bare(std).lstrip('+')}"
        return self._with_unit(text + spread)

    def render_gap(self, gap: float) -> str:
        """A distance of at least 0, with as many decimals as show that it is not 0."""
        decimals = next((d for d in self._decimals() if gap == 0 or self._number(gap, d) > 0), self.decimals)
        return self._with_unit(self.render_bare(gap, decimals).lstrip("+"))

    def render_interval(self, low: float | None, high: float | None, basis: str) -> str:
        """An interval and what it rests on, in brackets; an unknown bound is None, and equal ends are not shown."""
        if low is None and high is None:
            return f"(no interval, {basis})"
        low_text, high_text = ("unbounded" if bound is None else self.render(bound) for bound in (low, high))
        if low_text == high_text:
            return f"({basis})"
        return f"(interval {low_text} to {high_text}, {basis})"

    def _with_unit(self, text: str) -> str:
        return f"{text} {self.unit}" if self.unit else text

    def _decimals(self) -> range:
        return range(self.decimals, _MOST_DECIMALS + 1)

    def _number(self, value: float, decimals: int) -> float:
        """What a reader makes of the rendered value."""
        text = self.render_bare(value, decimals).replace(",", "")
        return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)

    def _shows(self, value: float, decimals: int, *, of: float | None = None) -> bool:
        """Whether a reader takes the value, or another one, for `value` when it is rendered with so many decimals."""
        return math.isclose(self._number(value if of is None else of, decimals), value, rel_tol=1e-12)


def RowMetric(  # noqa: N802 - it was a class, and plugins call it by this name
    name: str,
    title: str,
    unit: str = "",
    higher_is_better: bool = True,
    target: float | None = None,
    value: Callable[[Any], Any] | None = None,
    decimals: int = 3,
    exact: bool = False,
) -> Metric:
    """A metric of rows, as plugins of 0.1 declare it: its target is no part of the joint rule. Use `Metric`."""
    better: Better = "higher" if higher_is_better else "lower"
    return Metric(name, title, better, unit, f".{decimals}f", exact, target=target, value=value, joint=False)


def _ppl_rise(row: Any) -> Any:
    """The column, or of a bench that prints both perplexities alone what they give."""
    full, evicted = row.get("quality_ppl_full"), row.get("quality_ppl_evicted")
    if "quality_ppl_rise" in row.cells or full is None or evicted is None or not full.mean:
        return row.get("quality_ppl_rise")
    return replace(full, mean=evicted.mean / full.mean - 1, std=None)


def _coded_ratio(row: Any) -> Any:
    """The column; a ratio of sizes that both round to 0 is not told, except 1, where nothing was coded."""
    ratio, *sizes = (row.get(f"h2o_lossless{part}") for part in ("", "_raw_mb", "_comp_mb"))
    is_made_of_nothing = all(size is not None and size.mean == 0 for size in sizes)
    return None if is_made_of_nothing and ratio is not None and ratio.mean != 1 else ratio


_ABOVE_0, _AT_LEAST_0 = Range("a ratio", above=0.0), Range(least=0.0)
_SHARE, _PROBABILITY = Range("a ratio", above=0.0, most=1.0), Range("a ratio", least=0.0, most=1.0)
_SPEED = Range(least=0.0, most=1e9)  # beyond any machine for one sequence
_PERCENT = ", 0.05 for 5 %"

_ratio = partial(Metric, better="higher", values=_ABOVE_0)
_keep = partial(Metric, better="lower", fmt=".4f", values=_SHARE, part_of="h2o_lossy")
_size = partial(Metric, better="lower", fmt=".2f", over="every row", values=_AT_LEAST_0)
_timing = partial(Metric, better="lower", unit="us", fmt=".2f", exact=False, values=_AT_LEAST_0)
_speed = partial(Metric, better="higher", unit="tok/s", fmt=".2f", exact=False, values=_SPEED)
_quality = partial(Metric, better="lower", fmt=".4f", values=Range("a perplexity", least=1.0), rounded=True)
_agreement = partial(Metric, better="higher", fmt=".4f", values=_PROBABILITY, rounded=True)
_every = partial(Metric, over="every row", values=_AT_LEAST_0, fmt=".2f", exact=False)
_count = partial(Metric, better="same", fmt=",.0f", values=Range(least=0.0, most=1e9))
_bytes = partial(Metric, unit="bytes", fmt=",.0f", of="scope", values=_AT_LEAST_0)

_demo_drop = partial(
    Metric,
    better="lower",
    fmt=".2%",
    exact=False,
    target=0.08,
    of="verdict",
    short="demo",
    values=Range("a fraction", most=1.0),
    targets=Range("a fraction", least=-1.0, below=1.0, note=_PERCENT),
    share="the speed with H2O off",
    joint=False,
)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        # rows of the bench
        _ratio("h2o_lossy", "lossy ratio", target=3.0, key="lossy", targets=Range("a ratio", least=1.0)),
        _keep("h2o_keep", "keep ratio"),
        _keep("h2o_target_keep_effective", "target keep ratio"),
        _keep("h2o_floor_keep", "floor of the keep ratio", values=_PROBABILITY),
        _keep("h2o_quantized_keep", "keep ratio in whole blocks"),
        _ratio("h2o_lossless", "runtime lossless ratio", over="every row", in_step=True, value=_coded_ratio),
        _size("h2o_lossless_raw_mb", "runtime lossless, raw", better="same", unit="MB", in_step=True),
        _size("h2o_lossless_comp_mb", "runtime lossless, coded", unit="MB", in_step=True, part_of="h2o_lossless"),
        _size("h2o_lossless_fallback", "runtime lossless fallbacks"),
        _every("h2o_lossless_queue_peak", "peak of the coding queue", "lower"),
        _every("h2o_lossless_backpressure_skip", "blocks skipped by backpressure", "lower"),
        _every("h2o_lossless_async_queue_peak", "peak of the asynchronous queue", "lower"),
        _every("h2o_lossless_async_wait_us", "wait for asynchronous coding", "lower", "us"),
        _every("h2o_lossless_decode_cache_hit", "hits of the decode cache", "higher"),
        _every("h2o_lossless_decode_cache_miss", "misses of the decode cache", "lower"),
        # decode speed against that with nothing compressed
        Metric(
            "decode_drop",
            "decode slow-down",
            "lower",
            fmt=".2%",
            exact=False,
            target=0.05,
            of="verdict",
            short="decode",
            asks="largest fraction of decode speed that may be lost; below 0: the least that must be gained",
            values=Range("a fraction", least=-99.0, most=1.0),  # 100 times the baseline
            targets=Range("a fraction", least=-1.0, below=1.0, note=_PERCENT),
            share="the baseline speed",
            made_of="decode_tok_per_s",
        ),
        _demo_drop("demo_drop", "decode slow-down on real prompts"),
        _demo_drop("demo_bucket_drop", "decode slow-down on real prompts of one length"),
        # quality of the model under eviction
        _quality("quality_ppl_full", "perplexity, full cache", values=Range("a perplexity", least=1.0, most=1e7)),
        _quality("quality_ppl_evicted", "perplexity under eviction"),
        _quality(
            "quality_ppl_rise",
            "rise in perplexity",
            fmt="+.2%",
            target=0.01,
            value=_ppl_rise,
            key="quality",
            head="rise",
            asks="largest rise of perplexity under eviction, where the bench tells it",
            values=Range("a fraction", least=-0.5),  # less context is not worth a bit a token
            targets=Range("a fraction", least=0.0, note=_PERCENT),
            share="the full cache's perplexity",
            optional=True,
        ),
        _quality(
            "quality_bits_per_byte_full", "bits a byte, full cache", values=Range(above=0.0), part_of="quality_ppl_full"
        ),
        _quality(
            "quality_bits_per_byte_evicted",
            "bits a byte under eviction",
            values=_AT_LEAST_0,
            part_of="quality_ppl_evicted",
        ),
        _agreement("quality_top1_agreement", "agreement of the likeliest token"),
        _agreement("quality_greedy_prefix", "common greedy prefix", unit="tokens", fmt=".1f", values=_AT_LEAST_0),
        _agreement("quality_greedy_equal", "equal greedy tokens"),
        _ratio("quality_cache_ratio", "cache ratio of the quality run", values=Range("a ratio", above=0.0, most=1e6)),
        _count("quality_tokens", "tokens of the quality run"),
        _count("quality_evictions", "evictions of the quality run"),
        Metric(
            "runtime_difference",
            "difference of runtime and dump",
            "lower",
            "bytes",
            ".0f",
            of="verdict",
            key="consistency",
            values=_AT_LEAST_0,
            joint=False,
        ),
        _agreement(
            "demo_similarity",
            "similarity of generated text",
            fmt=".3f",
            of="verdict",
            key="similarity",
            column="quality",
            asks="least similarity of what llm_demo says with eviction on and off, 0 to 1",
            joint=False,
            rounded=False,
        ),
        # scopes of a dump
        _ratio(
            "lossless_ratio",
            "lossless ratio",
            fmt=".4f",
            target=1.3,
            of="scope",
            key="lossless",
            asks="smallest lossless ratio of the deciding scope",
        ),
        _ratio("k_lossless_ratio", "lossless ratio of K", fmt=".4f", of="scope", part_of="lossless_ratio"),
        _ratio("v_lossless_ratio", "lossless ratio of V", fmt=".4f", of="scope", part_of="lossless_ratio"),
        _bytes("compressed_bytes", "coded size", "lower", part_of="lossless_ratio"),
        _bytes("k_compressed_bytes", "coded size of K", "lower", part_of="k_lossless_ratio"),
        _bytes("v_compressed_bytes", "coded size of V", "lower", part_of="v_lossless_ratio"),
        _bytes("raw_bytes", "raw size", "same"),
        _bytes("k_raw_bytes", "raw size of K", "same"),
        _bytes("v_raw_bytes", "raw size of V", "same"),
        _count("selected_entries", "entries of the dump", of="scope"),
        _count("skipped_entries", "entries that could not be read", better="lower", of="scope"),
        _count("undecoded_streams", "streams not decoded", better="lower", of="scope"),
        # timings
        _speed("prefill_tok_per_s", "prefill speed", value=attrgetter("prefill_tok_per_s")),
        _speed(
            "decode_tok_per_s",
            "decode speed",
            value=attrgetter("decode_tok_per_s"),
            column="decode",
            head="decode",
        ),
        _timing("h2o_evict_us", "time of eviction"),
        _timing("h2o_codec_us", "time of the codec"),
        _every("h2o_lossless_comp_us", "time of encoding", "lower", "us"),
        _every("h2o_lossless_decomp_us", "time of decoding", "lower", "us"),
        _timing("encode_s", "time of encoding", unit="s", fmt=".3f", of="scope"),
        _timing("decode_s", "time of decoding", unit="s", fmt=".3f", of="scope"),
        # all of them together
        Metric("joint_margin", "joint margin", "higher", fmt="+.2%", of="verdict", column="margin", joint=False),
    )
}
"""Ours, in the order in which reports show them: what matters most first. Those of plugins come after them."""

LOSSY, LOSSLESS, DROP, JOINT = "h2o_lossy", "lossless_ratio", "decode_drop", "joint_margin"
"""Metrics that a verdict treats in a way of their own: for what bounds them, where they come from, what they sum up."""

HEADLINES: Mapping[str, tuple[str, ...]] = {"preset": (LOSSY, METRICS[DROP].made_of), "scope": (LOSSLESS,)}
"""What one line about a preset or scope shows: the best over its rows."""

BUILT_IN = tuple(METRICS)

CODING = tuple(name for name in METRICS if name.startswith("h2o_lossless"))
"""What a bench tells of lossless coding at run time: it says something only where that is on."""


def recorded_metrics() -> dict[str, Metric]:
    """Those that a run is recorded with."""
    return {name: metric for name, metric in METRICS.items() if metric.of != "verdict"}


def preset_metrics() -> dict[str, Metric]:
    """Those that a preset may set a target for, by the keys that name them under ``targets:``."""
    metrics = [m for m in METRICS.values() if m.of == "row" or m.key != m.name or m.target is not None]
    return {**{metric.name: metric for metric in metrics}, **{metric.key: metric for metric in metrics}}


_BOUNDS = {"least": "minimum", "most": "maximum", "above": "exclusiveMinimum", "below": "exclusiveMaximum"}


def target_schemas() -> dict[str, dict[str, Any]]:
    """What a preset may ask of each metric, as JSON schemas by its key."""
    schemas = {}
    for metric in preset_metrics().values():
        limits = metric.target_range._asdict()
        bounds = {word: limits[name] for name, word in _BOUNDS.items() if math.isfinite(limits[name])}
        schemas[metric.key] = {"type": "number", "description": metric.asks, **bounds}
    return schemas


def _target_option(metric: Metric) -> Option:
    """``--h2o-lossy-target`` and ini key ``h2o_lossy_target``."""
    return Option(
        f"{metric.key.removeprefix('h2o_').replace('_', '-')}-target",
        "float",
        f"{metric.asks} (default: {metric.target})",
        metavar="FRACTION" if metric.is_fraction else metric.unit.upper() or "RATIO",
        check=limit(metric.target_range.holds, metric.target_range.text),
    )


TARGET_OPTIONS = {metric.name: _target_option(metric) for metric in METRICS.values() if metric.target is not None}
_AFTER = {"lossy-target": "rule", "lossless-target": "rule"}
GATE_OPTIONS = tuple(
    shown
    for option in OPTIONS
    for shown in (option, *(t for t in TARGET_OPTIONS.values() if _AFTER.get(t.name, "inconclusive") == option.name))
)
"""Every option of the gate, as help and reports show them: a target stands beside what it goes with."""


def register_metric(metric: Metric) -> None:
    """Add a metric; one of its name that a plugin added before is replaced. UsageError if it cannot be one."""
    where = f"the hook pytest_h2o_metrics, {metric.title}"
    for name, hint in get_type_hints(Metric).items():
        value, allowed = getattr(metric, name), get_args(hint) if get_origin(hint) is Literal else None
        fits = value in allowed if allowed is not None else hint not in (str, bool, Range) or type(value) is hint
        if not fits:
            expected = " or ".join(map(repr, allowed)) if allowed is not None else hint.__name__
            raise UsageError(
                f"a metric has another {name} than it can", where=where, came=repr(value), expected=expected
            )
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", metric.name) is None:
        came, expected = repr(metric.name), "letters, digits and _"
        raise UsageError("the name of a metric cannot be used", where=where, came=came, expected=expected)
    if re.fullmatch(r"\+?,?\.\d[f%e]", metric.fmt) is None:
        came, expected = repr(metric.fmt), "for example .3f or .1%"
        raise UsageError("the format of a metric cannot be used", where=where, came=came, expected=expected)
    if metric.value is not None and not callable(metric.value):
        came, expected = repr(metric.value), "a function of a row, or None for the column of its name"
        raise UsageError("the value of a metric is no function", where=where, came=came, expected=expected)
    if {metric.name, metric.key} & {name for known in BUILT_IN for name in (known, METRICS[known].key)}:
        what = "a metric has the name of a built-in one"
        raise UsageError(what, where=where, came=f"{metric.name}, key {metric.key}", expected="another name and key")
    if metric.target is not None and (isinstance(metric.target, bool) or not isinstance(metric.target, int | float)):
        raise UsageError("the target of a metric is no number", where=where, came=repr(metric.target))
    if metric.target is not None and not metric.target_range.holds(metric.target):
        what, expected = f"the target of the metric {metric.name} cannot be held", metric.target_range.text
        raise UsageError(what, where=where, came=repr(metric.target), expected=f"{expected}, or None to report it only")
    METRICS[metric.name] = replace(metric, added=True, column="")


_SHOWN = 5


def find_metric(name: str, where: str, among: Mapping[str, Metric] | None = None) -> Metric:
    """The metric of a name; UsageError with the near names if there is none."""
    known = METRICS if among is None else among
    if name not in known:
        shown, hint = list(known), did_you_mean(name, known) or "the hook pytest_h2o_metrics adds metrics"
        if len(shown) > _SHOWN:
            shown = [*(near_names(name, known, _SHOWN, cutoff=0.4) or shown[:_SHOWN]), "…"]
            hint += " (all are in docs/metrics.md)"
        what = f"no metric is called {name!r}"
        raise UsageError(what, where=where, expected=f"one of {', '.join(shown)}", hint=hint)
    return known[name]


def find_target(name: str, value: float, where: str) -> Metric:
    """The metric that a target names by its key or name; UsageError if there is none, or it cannot be held."""
    metric = find_metric(name, where, preset_metrics())
    if not metric.target_range.holds(value):
        raise UsageError(f"{where} is out of range", came=f"{name}={value:g}", expected=metric.target_range.text)
    return metric


def inexact_metrics(*, asynchronous: bool) -> tuple[str, ...]:
    """Metrics that are exact in general, and not where lossless coding is asynchronous."""
    return tuple(
        name for name, metric in recorded_metrics().items() if asynchronous and metric.exact and metric.in_step
    )


def joint_metrics() -> list[Metric]:
    """What one row must meet, in the order in which its margins are told: what may be left out comes last."""
    return sorted((metric for metric in METRICS.values() if metric.joint), key=attrgetter("optional"))


def asked_of_json(targets: Mapping[str, float | None], added: Mapping[str, float]) -> dict[str, float]:
    """What one row of a preset had to meet, from what the journal kept: targets by key, and others by name."""
    given = {metric.name: targets.get(metric.key) for metric in METRICS.values()} | dict(added)
    return {m.name: value for m in joint_metrics() if (value := given.get(m.name)) is not None}


def added_to_json(metric: Metric) -> dict[str, str]:
    """What a reader of a record needs who may not have the plugin that adds the metric."""
    return {name: getattr(metric, name) for name in ("name", "title", "better", "unit", "fmt")}


def added_from_json(fields: Mapping[str, Any]) -> Metric:
    """Take back what `added_to_json` gave, or the shape that 0.1 gave it."""
    if "fmt" in fields:
        return Metric(**fields)
    return RowMetric(**{name: value for name, value in fields.items() if name != "style"})


def render_figure(metric: str, value: float | None) -> str:
    """A figure with its unit; one of a metric that this version does not know as plain as it is; ``missing``."""
    if value is None:
        return "missing"
    return METRICS[metric].render_figure(value) if metric in METRICS else f"{value:g}"
