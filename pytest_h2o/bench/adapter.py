"""What a bench is to the gate: how a point is launched on it, how its output becomes rows, which of them are sound.

llm_bench of MNN is one: its rows stand in a table, and in newer ones in a JSON file beside it. Plugins add others by
the hook ``pytest_h2o_benches``, and a preset names its own: ``bench: NAME``, with ``bench_options:`` for settings that
only this bench knows.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pytest_h2o.bench.command import (
    LOSSLESS_DEFAULTS,
    BaseConfig,
    BenchSettings,
    RunFiles,
    build_run_config,
    coding_mode,
    plain_path,
)
from pytest_h2o.bench.rows import COLUMN_DECIMALS, Measurement, Row, last_digit, parse_table, require_h2o
from pytest_h2o.errors import TableError, UsageError, blaming, did_you_mean, one_line
from pytest_h2o.inputs.checking import LLM_BENCH
from pytest_h2o.inputs.presets import Point


class BenchAdapter(Protocol):
    """A kind of bench. An adapter keeps nothing between calls, and may be used in several processes."""

    @property
    def name(self) -> str:
        """How presets name it: letters, digits, ``_``, ``.`` and ``-``."""
        ...

    @property
    def uncompressed(self) -> str:
        """What a baseline of it is called, such as ``H2O off``: the same run with nothing compressed."""
        ...

    @property
    def rows_on_stdout(self) -> bool:
        """Whether it prints its rows on standard output; False: it writes `RunFiles.log` itself."""
        ...

    def check_options(self, options: Mapping[str, Any]) -> str | None:
        """Say what is wrong with the ``bench_options`` of a preset, and what would be right; None if nothing is."""
        ...

    def run_config(self, base: BaseConfig, point: Point) -> dict[str, Any]:
        """Give the config of one run, built-in values that are written to `RunFiles.config` and kept with the row.

        Where ``point.compressed`` is False it is that of the baseline.
        """
        ...

    def argv(
        self, settings: BenchSettings, files: RunFiles, point: Point, config: Mapping[str, Any]
    ) -> tuple[str, ...]:
        """Give the command of one run, beginning with ``settings.command``; `config` is what `run_config` gave."""
        ...

    def recognises(self, text: str) -> bool:
        """Tell whether a recorded file looks like output of this bench, damaged or not."""
        ...

    def parse(self, text: str, *, log_file: str, repeat: int | None = None) -> tuple[Row, ...]:
        """Read every row of an output; a `TableError` that says where it is damaged.

        Rows are made by `Row.from_cells`. The gate reads the columns ``model``, ``modelSize``, ``backend``,
        ``threads``, ``llm_demo`` (lengths), ``speed(tok/s)`` and ``h2o_lossy`` (raw over kept bytes, higher is better),
        and ``conditions``: text for all else in which two rows must be alike to compare their speeds. Further
        columns are kept, and may be metrics.
        """
        ...

    def is_row_of(self, row: Row, point: Point) -> bool:
        """Tell whether a row is of the configuration of a point, or of its baseline if it is not ``compressed``."""
        ...

    def check(self, row: Row, point: Point, settings: BenchSettings | None = None) -> None:
        """Refuse a row that no verdict may rest on, by a `TableError`.

        Parameters
        ----------
        row : Row
        point : Point
            What was asked for.
        settings : BenchSettings, optional
            What the bench was told besides; None of a recorded row, of which that is not known.
        """
        ...


# -- llm_bench ------------------------------------------------------------------------------------------------------

_TABLE = re.compile(r"\s*\|\s*model\s*\|", re.ASCII)


@dataclass(frozen=True)
class LlmBench:
    """The adapter of llm_bench. Its settings are the keys of a preset, so it has no ``bench_options``."""

    name: str = LLM_BENCH
    uncompressed: str = "H2O off"
    rows_on_stdout: bool = False

    def check_options(self, options: Mapping[str, Any]) -> str | None:
        return f"{LLM_BENCH} has none: its settings are keys of the preset" if options else None

    def run_config(self, base: BaseConfig, point: Point) -> dict[str, Any]:
        return build_run_config(base, point)

    def argv(
        self, settings: BenchSettings, files: RunFiles, point: Point, config: Mapping[str, Any]
    ) -> tuple[str, ...]:
        return (
            *settings.command,
            *("-m", plain_path(files.config)),
            *("-a", settings.backend),
            *("-t", str(settings.threads)),
            *("-p", str(point.prompt_len)),
            *("-n", str(point.gen_len)),
            *("-rep", str(point.repeat)),
            *("-kv", "true"),
            *("-qatten", str(settings.attention_option)),
            *("-fp", plain_path(files.log)),
            *(("-j", plain_path(files.json)) if settings.with_json else ()),
        )

    def recognises(self, text: str) -> bool:
        return _TABLE.match(text) is not None

    def parse(self, text: str, *, log_file: str, repeat: int | None = None) -> tuple[Row, ...]:
        return parse_table(text, log_file=log_file, repeat=repeat)

    def is_row_of(self, row: Row, point: Point) -> bool:
        """Its row does not show what it was told: lengths, and whether H2O was at work, are all that can be seen."""
        lengths = (row.prompt_len, row.gen_len) == (point.prompt_len, point.gen_len)
        return lengths and is_idle(row) != point.compressed

    def check(self, row: Row, point: Point, settings: BenchSettings | None = None) -> None:
        (check_row if point.compressed else check_baseline_row)(row, point, settings)


_ADAPTERS: dict[str, BenchAdapter] = {LLM_BENCH: LlmBench()}
"""By name; plugins add theirs."""


def _truth(given: object) -> bool:
    if type(given) is not bool:
        raise TypeError(f"{given!r:.80} is neither True nor False")
    return given


def _text_or_none(given: object) -> str | None:
    if given is not None and not isinstance(given, str):
        raise TypeError(f"{given!r:.80} is no text")
    return given


def _config(given: object) -> dict[str, Any]:
    json.dumps(given, allow_nan=False)
    if not isinstance(given, dict):
        raise TypeError(f"{given!r:.80} is no dict")
    return given


def _words(given: Sequence[object]) -> tuple[str, ...]:
    words = [given] if isinstance(given, str) else list(given)
    if isinstance(given, str) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"{given!r:.80} is no command, a sequence of texts")
    return tuple(map(str, words))


def _rows(given: Sequence[object]) -> tuple[Row, ...]:
    rows = tuple(row for row in given if isinstance(row, Row))
    if len(rows) != len(given):
        raise TypeError(f"{given!r:.80} is no sequence of Row objects")
    return rows


_GIVES: Mapping[str, Callable[[Any], Any]] = {
    "check_options": _text_or_none,
    "run_config": _config,
    "argv": _words,
    "recognises": _truth,
    "parse": _rows,
    "is_row_of": _truth,
    "check": lambda given: None,
}
"""What each method of an adapter gives; a TypeError if it is something else."""


class _Named:
    """An adapter of a plugin: whatever it raises, or gives in the place of what it should, is told with its name."""

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter
        self.name, self.uncompressed = adapter.name, adapter.uncompressed
        self.rows_on_stdout = _truth(adapter.rows_on_stdout)

    def __getattr__(self, method: str) -> Any:
        call, gives = getattr(self.adapter, method), _GIVES[method]

        def named(*given: Any, **more: Any) -> Any:
            hint = "mend the adapter in its plugin"
            with blaming(f"the bench adapter {self.name} failed in {method}()", kind=TableError, hint=hint):
                return gives(call(*given, **more))

        return named


def register_adapter(adapter: BenchAdapter) -> None:
    """Make an adapter known by its name; one of the same class takes its place."""
    kind = f"{type(adapter).__module__}.{type(adapter).__qualname__}"
    with blaming(f"{kind} is no bench adapter", kind=UsageError, hint="see docs/writing-a-plugin.md"):
        made: Any = _Named(adapter)
        if not isinstance(made.name, str) or not isinstance(made.uncompressed, str) or not made.name:
            raise TypeError(f"its name is {made.name!r}, what a baseline is called {made.uncompressed!r}")
        if lacking := [method for method in _GIVES if not callable(getattr(adapter, method, None))]:
            raise TypeError(f"it lacks {', '.join(lacking)}")
    known: Any = _ADAPTERS.get(made.name, made)
    other = f"{type(getattr(known, 'adapter', known)).__module__}.{type(getattr(known, 'adapter', known)).__qualname__}"
    if other != kind:
        what, came = f"two bench adapters are called {made.name!r}", f"{other} and {kind}"
        raise UsageError(what, came=came, expected="one adapter a name")
    _ADAPTERS[made.name] = made


def get_adapter(name: str, where: str | None = None) -> BenchAdapter:
    """Return the adapter of a name."""
    if name not in _ADAPTERS:
        expected = f"one of {', '.join(sorted(_ADAPTERS))}"
        hint = did_you_mean(name, _ADAPTERS) or "a plugin adds adapters by the hook pytest_h2o_benches"
        raise UsageError("no such bench adapter", where=where, came=name, expected=expected, hint=hint)
    return _ADAPTERS[name]


def name_bench_of(text: str) -> str | None:
    """Name the bench that an output looks like; None if it looks like none that is known."""
    return next((name for name, adapter in _ADAPTERS.items() if adapter.recognises(text)), None)


# -- which rows of llm_bench a verdict may rest on ------------------------------------------------------------------

_RATIO_COLUMNS = (
    "h2o_keep",
    "h2o_lossy",
    "h2o_lossless",
    "h2o_target_keep_effective",
    "h2o_floor_keep",
    "h2o_quantized_keep",
)
_IDLE_COLUMNS = ("h2o_keep", "h2o_lossy", "h2o_floor_keep")

ESTIMATE_SLACK = 1.01
"""How far a lossy ratio may exceed ``1 / keep``: a mean of ratios is not the ratio of means (recorded: up to 0.1 %)."""

_KEEP_ROUNDING = 0.00005
"""The bench prints a keep ratio with four digits after the point."""

_AGAIN = "run this point again"


def only_row(rows: Sequence[Row], log_file: str) -> Row:
    """Return the one row of a log."""
    if len(rows) == 1:
        return rows[0]
    raise TableError(
        "a log has several rows, and nothing tells which one is meant",
        where=log_file,
        came=f"{len(rows)} rows",
        expected="one row: the bench appends, so each run needs a log of its own",
        hint="split the log, or run this point again",
    )


def check_row(row: Row, point: Point | None, settings: BenchSettings | None = None) -> None:
    """Check that a row of a run with H2O on is what was asked for, and that a verdict may rest on it."""
    _check_asked(row, point, settings)
    require_h2o(row)
    keep, *_ = (
        _measured(row, column, row.get(column), zero_is_sound=column == "h2o_floor_keep") for column in _RATIO_COLUMNS
    )
    if keep > 1:
        raise _unsound(row, "h2o_keep", f"{keep:g}", "a share of the cache, at most 1")
    if keep <= _KEEP_ROUNDING:  # below the last digit that is printed it would leave room for any lossy ratio
        raise _unsound(row, "h2o_keep", f"{keep:g}", f"a share of the cache, at least {2 * _KEEP_ROUNDING:.4f}")
    _check_contradictions(row)
    _check_rise(row)
    _check_bits(row)
    _check_put_to_the_test(row)
    _check_agreement(row)
    _check_speeds(row)
    _check_times(row)
    if is_idle(row) or _keeps_all(row, point):
        raise _idle_error(row, point, settings)
    if point is not None and (mode := coding_mode(point.lossless)) is not None:
        _check_lossless(row, point, mode)
    _check_coded_ratio(row)


LEAST_PRODUCT = 0.85
"""Raw over kept times the kept share is 1 but for 8 bytes a kept run: at least this, of the smallest model."""


@dataclass(frozen=True)
class _Spread:
    """A measured ratio, and how far a single repeat of it can be from the mean."""

    mean: float
    std: float
    rounding: float
    furthest: float

    @classmethod
    def of(cls, row: Row, column: str) -> _Spread:
        """With n repeats no value is further than std (n - 1) / sqrt(n) from their mean."""
        value, rounding = row.get(column), 0.5 * 10.0 ** -COLUMN_DECIMALS[column]
        if value is None:  # the callers have checked that it is there
            raise _unsound(row, column, "nothing", "a measured number")
        repeats, std = row.repeat or _MOST_REPEATS, value.std or 0.0
        return cls(value.mean, std, rounding, (std + rounding) * (repeats - 1) / math.sqrt(repeats) + rounding)

    @property
    def most_inverse(self) -> float:
        """The largest mean of 1 / x over repeats with this mean: a chord lies above a convex curve."""
        low, high = self.mean - self.furthest, min(1.0, self.mean + self.furthest)
        return (low + high - self.mean + self.rounding) / (low * high) if low > 0 else math.inf

    @property
    def least(self) -> float:
        return self.mean - self.std - self.rounding

    @property
    def most(self) -> float:
        return self.mean + self.std + self.rounding


_MOST_REPEATS = 10
"""Where nobody says how many there were."""


def _check_contradictions(row: Row) -> None:
    """Check the ratios of a row against each other, with room for what printing rounds and for unlike repeats."""
    keep, lossy, floor, planned = (
        _Spread.of(row, f"h2o_{name}") for name in ("keep", "lossy", "floor_keep", "quantized_keep")
    )
    over_floor = "" if floor_dominates(row) else "the engine did not say that the floor dominates (kv_h2o_log_stats)"
    reached = ESTIMATE_SLACK * keep.most_inverse
    # Each repeat keeps what it protects and what it planned; but the engine reports floor and plan of its last step,
    # and keep and lossy of its last eviction.
    for is_broken, what, came, expected in (
        (
            lossy.mean - lossy.rounding > reached,
            "its lossy ratio is above what its keep ratio leaves",
            f"h2o_lossy {lossy.mean:g} beside h2o_keep {keep.mean:g}",
            f"h2o_lossy of at most {reached:.3f}, about 1 / h2o_keep",
        ),
        (
            (lossy.mean + lossy.rounding) * (keep.mean + keep.rounding) < LEAST_PRODUCT,
            "its lossy ratio is below what its keep ratio gives",
            f"h2o_lossy {lossy.mean:g} beside h2o_keep {keep.mean:g}",
            f"h2o_lossy of at least {LEAST_PRODUCT / keep.mean:.3f}, about 1 / h2o_keep",
        ),
        (
            bool(over_floor) and keep.most < floor.least,
            "it keeps fewer tokens than it protects",
            f"h2o_keep {keep.mean:g} beside h2o_floor_keep {floor.mean:g}",
            f"h2o_keep of at least h2o_floor_keep; {over_floor}",
        ),
        (
            bool(over_floor) and lossy.mean - lossy.rounding > ESTIMATE_SLACK * floor.most_inverse,
            "its lossy ratio is above what its protected tokens leave",
            f"h2o_lossy {lossy.mean:g} beside h2o_floor_keep {floor.mean:g}",
            f"h2o_lossy of at most 1 / h2o_floor_keep; {over_floor}",
        ),
        (
            bool(over_floor) and keep.most < planned.least,
            "it keeps fewer tokens than its plan",
            f"h2o_keep {keep.mean:g} beside h2o_quantized_keep {planned.mean:g}",
            f"h2o_keep of at least h2o_quantized_keep; {over_floor}",
        ),
    ):
        if is_broken:
            raise _contradiction(row, what, came, expected)


def _check_rise(row: Row) -> None:
    """Check that a rise in perplexity is ``evicted / full - 1``, with room for what printing rounds and for spreads."""
    columns = [f"quality_ppl_{name}" for name in ("rise", "full", "evicted")]
    rise, full, evicted = ((row.get(column), last_digit(row.cells.get(column, ""))) for column in columns)
    if rise[0] is None or full[0] is None or evicted[0] is None or not math.isfinite(rise[0].mean):
        return
    (above, over), (below, under) = ((cell.mean, room + (cell.std or 0.0)) for cell, room in (evicted, full) if cell)
    room = rise[1] + (rise[0].std or 0.0) + 1e-9
    least = (above - over) / (below + under) - 1 - room if below + under > 0 else math.inf
    most = (above + over) / (below - under) - 1 + room if below > under else math.inf
    if not least <= rise[0].mean <= most:
        came = f"quality_ppl_rise {rise[0].mean:g} beside quality_ppl_full {below:g} and quality_ppl_evicted {above:g}"
        expected = "quality_ppl_evicted / quality_ppl_full - 1" + (f", {above / below - 1:g}" if below > 0 else "")
        raise _contradiction(row, "its rise in perplexity is not that of its perplexities", came, expected)


def _check_bits(row: Row) -> None:
    """Check bits a byte against perplexity: of one text their ratio is that of the logarithms of its perplexities.

    The perplexity of the full cache may not be told; then both rise, or both fall.
    """
    columns = [f"quality_{name}" for name in ("bits_per_byte_full", "bits_per_byte_evicted", "ppl_full", "ppl_rise")]
    cells = {column: _ends(row, column) for column in columns}
    full, evicted, base, rise = cells.values()
    if rise is None and base is not None and (above := _ends(row, "quality_ppl_evicted")) is not None:
        rise = (above[0] / base[1] - 1, above[1] / base[0] - 1) if base[0] > 0 else None
    if full is None or evicted is None or rise is None or full[0] <= 0 or rise[0] <= -1:
        return
    logs = (_ALMOST_0, math.inf) if base is None else [max(math.log(max(end, 1.0)), _ALMOST_0) for end in base]
    reached = [1 + math.log1p(end) / log for end in rise for log in logs]
    if not (evicted[1] / full[0] >= min(reached) and evicted[0] / full[1] <= max(reached)):
        came = ", ".join(f"{column} {row.cells[column]}" for column in columns if column in row.cells)
        expected = "bits a byte in the ratio of the logarithms of both perplexities"
        raise _contradiction(row, "its bits a byte are not those of its perplexities", came, expected)


def _check_put_to_the_test(row: Row) -> None:
    """Refuse the quality of a run in which nothing was evicted, or nothing predicted: it is that of the full cache.

    What is counted is whole, and a token has at most a plan in each layer.
    """
    tokens, evictions = row.get("quality_tokens"), row.get("quality_evictions")
    for column, cell in (("quality_tokens", tokens), ("quality_evictions", evictions)):
        if cell is not None and cell.mean % 1:
            raise _contradiction(row, "a count is no whole number", f"{column} {row.cells[column]}", "a whole number")
    if tokens is not None and evictions is not None and evictions.mean > 2 * _MOST_LAYERS * tokens.mean > 0:
        came, expected = _cells_of(row, "quality_evictions", "quality_tokens"), "at most a plan a token and layer"
        raise _contradiction(row, "it has more evictions than plans", came, expected)
    for column, least in (("quality_evictions", 0.0), ("quality_tokens", 0.0), ("quality_cache_ratio", 1.0)):
        if (cell := row.get(column)) is not None and cell.mean <= least:
            raise TableError(
                "the quality run of the row put nothing to the test",
                where=row.log_file,
                came=f"{column} {row.cells[column]}",
                expected=f"above {least:g}: tokens predicted, and others evicted before",
                hint="its text may be too short for the trigger or the protected tokens: raise quality_prompt_tokens",
            )


def _check_agreement(row: Row) -> None:
    """Check what two caches said of one text: they rank the same token first more often than by chance.

    Chance alone gives a share of 1 / perplexity. A common prefix of free text is part of what is equal in it.
    """
    names = ("top1_agreement", "greedy_prefix", "greedy_equal", "ppl_full", "ppl_evicted", "ppl_rise")
    cells = (row.get(f"quality_{name}") for name in names)
    agreed, prefix, equal, *perplexities, rise = (None if cell is None else cell.mean for cell in cells)
    least = 1 / max(filter(None, perplexities), default=math.inf)
    if least == 0 and rise is not None and rise < 1:
        least = _ALMOST_0
    if agreed is not None and agreed < least:
        what, expected = "its caches hardly ever rank the same token first", f"a share of at least {least:.3g}"
        came = _cells_of(row, "quality_top1_agreement", "quality_ppl_evicted", "quality_ppl_rise")
        raise _contradiction(row, what, came, f"{expected}, which chance gives at its perplexity")
    if prefix is not None and equal is not None and prefix > 0 and equal == 0:
        what, expected = "texts with a common prefix have no equal token", "equal tokens, or no common prefix"
        raise _contradiction(row, what, _cells_of(row, "quality_greedy_prefix", "quality_greedy_equal"), expected)


def _cells_of(row: Row, *columns: str) -> str:
    return " beside ".join(f"{column} {row.cells[column]}" for column in columns if column in row.cells)


_ALMOST_0 = 1e-9


def _ends(row: Row, column: str) -> tuple[float, float] | None:
    """The least and the most that a cell stands for: its last digit was rounded, its repeats may differ."""
    cell = row.get(column)
    if cell is None or not math.isfinite(cell.mean):
        return None
    room = last_digit(row.cells.get(column, "")) + (cell.std or 0.0) + _ALMOST_0
    return cell.mean - room, cell.mean + room


def _check_coded_ratio(row: Row) -> None:
    """Check the lossless ratio against its sizes: raw over coded is a mean of the ratios of the repeats."""
    ratio, raw, coded = (_Spread.of(row, name) for name in _CODED_COLUMNS)
    least, most = ratio.mean - ratio.furthest, ratio.mean + ratio.furthest
    if most * (coded.mean + coded.rounding) < raw.mean - raw.rounding or (
        least * (coded.mean - coded.rounding) > raw.mean + raw.rounding
    ):
        came = f"h2o_lossless {ratio.mean:g} beside {raw.mean:g} MB coded to {coded.mean:g} MB"
        expected = "about h2o_lossless_raw_mb / h2o_lossless_comp_mb"
        raise _contradiction(row, "its lossless ratio is not that of its sizes", came, expected)


_CODED_COLUMNS = ("h2o_lossless", "h2o_lossless_raw_mb", "h2o_lossless_comp_mb")


def _contradiction(row: Row, what: str, came: str, expected: str) -> TableError:
    what, hint = f"the row contradicts itself: {what}", f"the table was edited, or the bench has an error; {_AGAIN}"
    return TableError(what, where=row.log_file, came=came, expected=expected, hint=hint)


def describe_floor(row: Row) -> str | None:
    """Name a row that is not of one step: floor and plan of a step that the floor dominated, keep of an eviction."""
    keep, floor = row.get("h2o_keep"), row.get("h2o_floor_keep")
    if not floor_dominates(row) or keep is None or floor is None or keep.mean >= floor.mean:
        return None
    return (
        "floor-dominated: the protected tokens alone met the target in some steps; "
        f"h2o_floor_keep {floor.mean:g} is of the last one, h2o_keep {keep.mean:g} and h2o_lossy of an eviction before"
    )


def check_config(row: Row, config: Mapping[str, Any]) -> None:
    """Check a row against the config of its run: what that asks to be counted was counted, in blocks of its size."""
    _check_block_sizes(row, config)
    asked = (config.get(f"quality_{name}") for name in ("tokens", "windows", "greedy_tokens"))
    tokens, windows, greedy = (value if type(value) is int else None for value in asked)
    predicted = None if tokens is None else tokens * (windows or 1)
    plans = None if predicted is None else (predicted + (windows or 1)) * _MOST_LAYERS
    for column, least, most in (
        ("quality_tokens", predicted, predicted),
        ("quality_evictions", None, plans),
        ("quality_greedy_prefix", None, greedy),
    ):
        cell = row.get(column)
        if cell is None or most is None or (least or 0) <= cell.mean <= most:
            continue
        expected = f"{'at most ' if least is None else ''}{most}, as the config of the run asks"
        raise _contradiction(row, f"its {column} is not what was asked", f"{column} {row.cells[column]}", expected)


_MOST_LAYERS = 1000


def _check_block_sizes(row: Row, config: Mapping[str, Any]) -> None:
    """Check that blocks were coded in the size that the config of the run asks for, where its statistics name it."""
    mode, output = coding_mode(config), row.output
    if mode is None or output is None:
        return
    told = {**LOSSLESS_DEFAULTS, **config}
    block, most = told["kv_lossless_block_tokens"], 0
    sizes = {"kv_lossless_block_tokens": block}
    if mode == "store":
        first, step = "kv_lossless_store_bootstrap_tokens", "kv_lossless_store_grouped_step_tokens"
        named = {first: told.get(first, _PROBE_TOKENS), step: told.get(step, _GROUPED_TOKENS)}
        sizes = named if {first, step} <= told.keys() else sizes | named
    elif mode == "probe":
        most = _PROBE_TOKENS  # the first sample of a layer
    asked = {str(size) for size in sizes.values()}
    wrong = {
        tokens: count
        for tokens, count in output.coded_tokens.items()
        if tokens not in asked and not (tokens.isdecimal() and int(tokens) <= most)
    }
    if wrong:
        raise TableError(
            f"blocks were coded in another size than asked, in {mode} mode",
            where=str(row.stdout_path or row.log_file),
            came=", ".join(f"{count} x {tokens} tokens" for tokens, count in sorted(wrong.items())),
            expected=", ".join(f"{size} ({key})" for key, size in sizes.items())
            + (f", or at most {most} for the first of a layer" if most else ""),
            hint="the bench does not know the key or the mode: build it from a later state of the branch",
        )


def check_decoded(row: Row) -> None:
    """Check that as many tokens were decoded as asked, where anything tells: later engines stop at the end of text."""
    decoded = row.decoded_tokens
    if decoded is not None and row.gen_len is not None and decoded > row.gen_len + 1:  # the prompt gives one, too
        what, came = "more tokens were decoded than asked", f"{decoded:g} of {row.gen_len}"
        raise _contradiction(row, what, came, "as many as asked")
    if decoded is not None and row.gen_len is not None and decoded < row.gen_len:
        raise TableError(
            "fewer tokens were decoded than asked: speed and ratios are those of a shorter text",
            where=row.log_file,
            came=f"{decoded:g} of {row.gen_len}",
            expected="as many as asked: the table prints the length that was asked for",
            hint="the model ended its text; lower gens, or take an engine or model that goes on",
        )


def floor_dominates(row: Row) -> bool:
    """Whether the engine said of a step that the protected tokens alone reached its target."""
    return row.output is not None and row.output.floor_dominates > 0


_GROUPED_TOKENS = 256
"""In store mode a later sample has so many where nothing says it."""

_PROBE_TOKENS = 32
"""In probe mode the first sample of a layer has at most so many tokens."""


def _check_lossless(row: Row, point: Point, mode: str) -> None:
    """Check that lossless coding at run time has the columns of its mode, coded, and restored."""
    told = {**LOSSLESS_DEFAULTS, **point.lossless}
    if mode != "probe" and (missing := [name for name in COLUMN_DECIMALS if not row.cells.get(name, "").strip()]):
        raise TableError(
            f"an older binary: it has no columns of the lossless runtime mode {mode}",
            where=row.log_file,
            came=f"no {', '.join(missing)}",
            expected=f"every column that tells how the mode {mode} went",
            hint="build llm_bench from a later state of the branch, or set kv_lossless_runtime_mode to probe",
        )
    columns = ("h2o_lossless", "h2o_lossless_raw_mb", "h2o_lossless_comp_us", "h2o_lossless_decomp_us")
    ratio, raw, comp_us, decomp_us = (_measured(row, name, row.get(name), zero_is_sound=True) for name in columns)
    # The sizes of a small model are 0.00 in print; then the time says whether anything was coded.
    if ratio == 1 or (raw == 0 and comp_us == 0):
        if (cold := _cold_tokens(point, told, mode)) is not None:
            codec = told["kv_lossless_codec"]
            raise TableError(
                "lossless coding is on but did nothing: this row is no measurement of it",
                where=row.log_file,
                came=f"h2o_lossless {ratio:g}, {raw:g} MB coded in {comp_us:g} us, with kv_lossless_codec {codec}",
                expected=f"tokens coded: {cold} are cold",
                hint="look at the config: kv_lossless_codec, the scope and its layers, kv_lossless_codec_runtime; or "
                "set kv_lossless_runtime_enable to false",
            )
    elif mode != "probe" and decomp_us == 0 and not (mode == "full" and _all_decoded_before(row)):
        raise TableError(
            f"lossless coding in {mode} mode restored nothing: this row is no measurement of it",
            where=row.log_file,
            came=f"h2o_lossless_decomp_us 0 beside {raw:g} MB coded",
            expected="a restore that took time" + " or hits, and no miss, of the decode cache" * (mode == "full"),
            hint="the bench may not know this kv_lossless_runtime_mode, or generate more tokens: raise gens",
        )


def _all_decoded_before(row: Row) -> bool:
    """Whether every block came out of the cache of decoded blocks, which outlives a repeat.

    llm_bench runs the same prompt in all repeats, so that in full mode the measured ones need not decode. Store mode
    has to put the tokens back all the same, and that takes time.
    """
    names = ("h2o_lossless_decode_cache_hit", "h2o_lossless_decode_cache_miss")
    hits, misses = (_measured(row, name, row.get(name), zero_is_sound=True) for name in names)
    return hits > 0 and misses == 0


def _cold_tokens(point: Point, told: Mapping[str, Any], mode: str) -> int | None:
    """How many tokens a coded layer can hand over, if they are enough for its first sample; None if they are not.

    A layer in front holds every token but the last. Another one is cut: it has them until its first eviction, at the
    first token behind the prompt that reaches the trigger.
    """
    longest = point.prompt_len + point.gen_len - 1
    in_front = "front_n" in told["kv_lossless_scope"] and told["kv_lossless_front_n"] > 0
    if mode == "store" and told.get("kv_lossless_store_disable_front"):
        in_front = False
    if not in_front and "h2o_kept" not in told["kv_lossless_scope"]:
        return None
    length = longest if in_front else min(longest, max(point.prompt_len + 1, point.trigger_min_tokens))
    block = told["kv_lossless_block_tokens"]
    first = min(_PROBE_TOKENS, block) if mode == "probe" else block
    cold: int = length - told["kv_lossless_hot_sink_tokens"] - told["kv_lossless_hot_recent_tokens"]
    return cold if length >= point.trigger_min_tokens and cold >= first else None


def check_baseline_row(row: Row, point: Point | None, settings: BenchSettings | None = None) -> None:
    """Check that a row of a run with H2O off is what was asked for, has its speeds, and shows no eviction."""
    _check_asked(row, point, settings)
    _check_speeds(row)
    for column in _IDLE_COLUMNS:
        value = row.get(column)
        if value is not None and value.mean != 1:
            raise _unsound(row, column, row.cells[column], "1: H2O is off in a baseline")


def is_idle(row: Row) -> bool:
    """Tell whether the row shows no eviction at all: keep, lossy and floor are all exactly 1."""
    values = [row.get(column) for column in _IDLE_COLUMNS]
    return all(value is not None and value.mean == 1 for value in values)


def _keeps_all(row: Row, point: Point | None) -> bool:
    """Whether a run that was long enough evicted nothing, and not for a floor that reaches its target."""
    columns = ("h2o_keep", "h2o_lossy", "h2o_floor_keep", "h2o_target_keep_effective")
    keep, lossy, floor, target = (_Spread.of(row, column) for column in columns)
    is_long = point is not None and point.prompt_len + point.gen_len > point.trigger_min_tokens
    return is_long and keep.mean == lossy.mean == 1 and not floor_dominates(row) and floor.most < target.least


def _check_asked(row: Row, point: Point | None, settings: BenchSettings | None) -> None:
    """Check lengths, backend and threads, as far as it is known what was asked for."""
    asked: list[tuple[str, int | str | None, int | str]] = []
    if point is not None:
        asked = [("prompt length", row.prompt_len, point.prompt_len), ("generated length", row.gen_len, point.gen_len)]
    if settings is not None:
        asked.append(("backend", (row.backend or "").upper(), settings.backend.upper()))
        asked.append(("number of threads", row.threads, settings.threads))
    for name, measured, expected in asked:
        if measured == expected:
            continue
        what, came = f"the row has another {name} than asked", "no such column" if measured is None else str(measured)
        hint = "the log is of another run, or the bench ignored the option"
        if name == "backend":
            what, came = "the bench ran on another backend than asked", one_line(row.backend or "no backend column")
            hint = "the bench takes CPU for any name that it does not know or was not built with"
        raise TableError(what, where=row.log_file, came=came, expected=str(expected), hint=hint)


def _check_speeds(row: Row) -> None:
    _measured(row, "prefill speed", row.prefill_tok_per_s)
    _measured(row, "decode speed", row.decode_tok_per_s)


def _repeat_s(row: Row) -> float | None:
    """Seconds of a repeat, by its speeds; None where they or its lengths are not told."""
    lengths, speeds = (row.prompt_len, row.gen_len), (row.prefill_tok_per_s, row.decode_tok_per_s)
    if None in (*lengths, *speeds):
        return None
    parts = zip(lengths, speeds, strict=True)
    return math.fsum((count or 0) / speed.mean for count, speed in parts if speed is not None)


_TIMES_REPEAT = 10
"""No time of a part of a repeat, in whatever threads, is so many times that of the whole."""


def _check_times(row: Row) -> None:
    """Check what is counted or timed within a repeat against its length, in tokens and in seconds."""
    tokens = (row.prompt_len or 0) + (row.gen_len or 0)
    blocks = [row.get(f"h2o_lossless_decode_cache_{name}") for name in ("hit", "miss")]
    if tokens and sum(cell.mean for cell in blocks if cell is not None) > tokens**2 * _MOST_LAYERS:
        came = _cells_of(row, "h2o_lossless_decode_cache_hit", "h2o_lossless_decode_cache_miss")
        raise _contradiction(row, "it restored more blocks than it has", came, "at most each token at each step")
    repeat_s = _repeat_s(row)
    for column in COLUMN_DECIMALS if repeat_s is not None else ():
        cell = row.get(column)
        if (
            column.endswith("_us")
            and cell is not None
            and _TIMES_REPEAT * (repeat_s or 0.0) < cell.mean * 1e-6 < math.inf
        ):
            what, came = "a part of a repeat took longer than the repeat", f"{column} {row.cells[column]}"
            raise _contradiction(row, what, came, f"at most about {repeat_s:.3g} s, what its speeds leave a repeat")


def check_elapsed(row: Row) -> None:
    """Check that a launch took a time that can be."""
    if not 0 <= (row.elapsed_s or 0.0) < math.inf:
        raise _contradiction(row, "its launch took no time that can be", f"{row.elapsed_s} s", "seconds, at least 0")


def _measured(row: Row, name: str, value: Measurement | None, *, zero_is_sound: bool = False) -> float:
    """The mean of what was measured, if it is sound."""
    if value is None:
        raise _unsound(row, name, "nothing", "a measured number")
    if not math.isfinite(value.mean) or value.mean < 0 or (value.mean == 0 and not zero_is_sound):
        expected = "a finite number of at least 0" if zero_is_sound else "a finite number above 0"
        raise _unsound(row, name, f"{value.mean:g}", expected)
    return value.mean


def _unsound(row: Row, name: str, came: str, expected: str) -> TableError:
    return TableError(f"the row has no sound {name}", where=row.log_file, came=came, expected=expected, hint=_AGAIN)


def _idle_error(row: Row, point: Point | None, settings: BenchSettings | None) -> TableError:
    """Say why H2O did nothing, as far as that can be known."""
    came = f"keep{', lossy and floor' if is_idle(row) else ' and lossy'} of exactly 1"
    hint = "look at the config: kv_h2o_enable, the layer range, kv_h2o_trigger_min_tokens; and at -qatten"
    if settings is not None and (option := settings.attention_option):
        came = f"-qatten {option}, which quantises the cache and switches H2O off in this engine"
        hint = "gate with attention option 0"
    elif point is not None and point.prompt_len + point.gen_len < point.trigger_min_tokens:
        came = (
            f"a cache of at most {point.prompt_len} + {point.gen_len} tokens, and kv_h2o_trigger_min_tokens "
            f"{point.trigger_min_tokens}: it never begins"
        )
        hint = "lower h2o_trigger_min_tokens, or raise prompts or gens"
    what = "H2O is on but did nothing: this row is no measurement of it"
    return TableError(what, where=row.log_file, came=came, expected="tokens evicted", hint=hint)
