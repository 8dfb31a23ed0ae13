"""A launch of the bench: everything is checked first, then measured, and written only at the end.

The table and the JSON have the headers and number formats of ``llm_bench``.

What eviction costs the model: does it still predict text it has not seen, and does it still say the same.

On a piece of held-out text the first `prompt_tokens` are prefilled and the next `tokens` are predicted one after the
other, each fed in whatever was predicted (teacher forcing), while the cache evicts as it would in decoding. The same
tokens are predicted with nothing evicted. Then the model generates freely after the prompt, best token each time, with
and without eviction. One changed token changes all that follow, so the two figures of that say less. The columns:

``quality_ppl_full``, ``quality_ppl_evicted``, ``quality_ppl_rise``
    Perplexity, 2 ** (bits a token), lower is better, and its rise: evicted over full, less 1. 0.02 is 2 % worse.
``quality_bits_per_byte_full``, ``quality_bits_per_byte_evicted``
    Bits over the bytes of text that the predicted tokens stand for, lower is better.
``quality_top1_agreement``
    Share of predicted places where both caches rank the same token first, mean over the windows.
``quality_greedy_prefix``, ``quality_greedy_equal``
    Tokens that free generation has in common before the first difference, and the share of places at which its tokens
    are equal, means over the windows; only where tokens are generated.
``quality_cache_ratio``
    Bytes of the whole cache over the bytes held at the end, all layers, mean over the windows; higher is better.
``quality_tokens``, ``quality_evictions``
    Tokens predicted, and plans that evicted something. At 0 evictions nothing was put to the test.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.errors import UsageError
from pytest_h2o.files import read_regular_text
from pytest_h2o.reference.cache import EvictingCache, Watcher
from pytest_h2o.reference.config import (
    Arguments,
    BenchConfig,
    Clock,
    PolicySettings,
    lossless_settings,
    policy_settings,
)
from pytest_h2o.reference.dump import read_dump_settings
from pytest_h2o.reference.gguf import Floats, GgufFile
from pytest_h2o.reference.lossless import RuntimeLossless
from pytest_h2o.reference.model import Generated, Model, Tokenizer, Tokens, generate, read_tokenizer

DEFAULT_PROMPT = "prompt.txt"
MIB, GIB = 1 << 20, 1 << 30
PRECISION_NAMES = ("Normal", "High", "Low")


class Case(NamedTuple):
    """One row: a prompt length and a generation length, either 0 where that half is not run."""

    prompt_len: int
    gen_len: int

    @property
    def prefilled(self) -> int:
        """Generation alone starts from one token."""
        return max(1, self.prompt_len)

    @property
    def length(self) -> int:
        return self.prefilled + self.gen_len


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
"""Columns of the table, in its order."""

Series = tuple[float, ...]
"""One figure over the measured repeats."""


@dataclass(frozen=True)
class Row:
    """What was measured of a case."""

    case: Case
    speeds: tuple[Series, ...]
    """Tokens a second, higher is better: with H2O columns those of prefill and of decode, else one for what was run."""
    h2o: Mapping[str, Series] = field(default_factory=dict)
    """By column; empty with ``-kv false``."""
    extra: Mapping[str, float] = field(default_factory=dict)
    """Columns of this bench alone: figures without a spread, of six significant digits."""


@dataclass(frozen=True)
class Run:
    """What all rows of a launch share."""

    model: str
    model_bytes: int
    threads: int
    precision: int
    loading_s: float | None = None
    """None unless it is to be shown."""


def run_bench(arguments: Arguments, config: BenchConfig) -> None:
    """Measure what a command line asks for and write the table and the JSON."""
    half, values = arguments.half, config.values
    log: Callable[[str], None] | None = print if values["kv_h2o_log_stats"] else None
    file = GgufFile(config.model_path())
    cases = list(list_cases(arguments))
    longest = max(case.length for case in cases)
    if longest > file.hyper.context:
        raise UsageError(
            "the prompt and its generation are longer than the model's context",
            where=str(file.path),
            came=f"{longest} tokens",
            expected=f"at most {file.hyper.context}",
            hint="ask for fewer with -p and -n",
        )
    wants_text = values["prompt_token"] is None or values["quality_text_file"]
    tokenizer = read_tokenizer(file) if wants_text else None
    quality, held_out = _prepare_quality(config, file, tokenizer, half=half)
    policies = [policy_settings(config, file.hyper.layers, case.length) for case in cases]
    lossless = lossless_settings(config, file.hyper.layers, half=half)
    dumps = read_dump_settings(os.environ, half=half)
    prompt = prompt_tokens(config, file, tokenizer, max(case.prefilled for case in cases))

    for note in config.notes:
        print(f"warning: {note}", file=sys.stderr)
    started_s = time.perf_counter()
    with np.errstate(all="ignore"):  # what becomes no finite number shows in the logits, which are looked at
        model = Model(file)
        loading_s = time.perf_counter() - started_s if arguments.loading_time else None
        extra = measure_quality(model, tokenizer, held_out, quality) if quality and tokenizer else {}
        rows = []
        for index, (case, policy) in enumerate(zip(cases, policies, strict=True)):
            watchers: list[Watcher] = [RuntimeLossless(lossless, log)] if lossless else []
            if dumps is not None:  # cases of one launch do not write over each other
                suffix = f"_p{case.prompt_len}_g{case.gen_len}" if index else ""
                watchers.append(replace(dumps, run_id=dumps.run_id + suffix))
            clock = values["reference_clock"]
            how: dict[str, Any] = {"policy": policy, "clock": clock, "watchers": watchers, "log": log, "tell": print}
            cache = EvictingCache(model.hyper, case.length, half=half, **how)
            repeats = []
            for _ in range(arguments.repeat + 1):
                generated = generate(model, cache, prompt[: case.prefilled], case.gen_len)
                repeats.append((generated, cache.figures))
            rows.append(_row(case, repeats[1:], extra, kv_cache=arguments.kv_cache))
    run = Run(file.path.stem, file.size_bytes, arguments.threads, arguments.precision, loading_s)
    _write(arguments, render_table(run, rows), render_json(run, rows))


def list_cases(arguments: Arguments) -> Iterator[Case]:
    """The rows that a command line asks for, in the engine's order."""
    if arguments.kv_cache:
        for prompt_len in arguments.prompts:
            for gen_len in arguments.gens:
                yield Case(prompt_len, gen_len)
        return
    for prompt_len in arguments.prompts:
        yield Case(prompt_len, 0)
    for gen_len in arguments.gens:
        yield Case(0, gen_len)
    if arguments.prompt_gen != (0, 0):
        yield Case(*arguments.prompt_gen)


def read_text(path: Path, key: str) -> str:
    """Text of a file that the config names."""
    where = f"{key}: {path}"
    try:
        text = read_regular_text(path)
    except OSError as error:
        raise UsageError("a text of the config cannot be read", where=where, came=error.strerror) from error
    except UnicodeDecodeError as error:
        what = "a text of the config is no UTF-8"
        raise UsageError(what, where=where, came=str(error), expected="UTF-8 text") from error
    if not text.strip():
        raise UsageError("a text of the config is empty", where=where, expected="text")
    return text


def prompt_tokens(config: BenchConfig, file: GgufFile, tokenizer: Tokenizer | None, length: int) -> Tokens:
    """A prompt of exactly `length` tokens: real text, or one token repeated if the config asks for that.

    A text that is shorter is said again from its start.
    """
    token = config.values["prompt_token"]
    if token is None and tokenizer is not None:
        named = config.file("prompt_file")
        shipped = resources.files("pytest_h2o.reference").joinpath(DEFAULT_PROMPT)
        text = read_text(named, "prompt_file") if named else shipped.read_text("utf-8")
        return np.resize(np.array(tokenizer.encode(text), dtype=np.int64), length)
    if token >= file.hyper.vocabulary:
        expected = f"0 to {file.hyper.vocabulary - 1}"
        raise config.fault("the prompt's token is none of the model's", "prompt_token", token, expected)
    return np.full(length, token, dtype=np.int64)


def _prepare_quality(
    config: BenchConfig, file: GgufFile, tokenizer: Tokenizer | None, *, half: bool
) -> tuple[QualitySettings | None, Sequence[int]]:
    """How to measure and the tokens of the held-out text; None and nothing if the config names none."""
    path, values = config.file("quality_text_file"), config.values
    if path is None or tokenizer is None:
        return None, ()
    counts = {name: values[f"quality_{name}"] for name in ("prompt_tokens", "tokens", "windows", "greedy_tokens")}
    policy = policy_settings(config, file.hyper.layers, counts["prompt_tokens"] + counts["tokens"])
    settings = QualitySettings(**counts, policy=policy, clock=values["quality_clock"], half=half)
    text = tokenizer.encode(read_text(path, "quality_text_file"))
    check_quality(len(text), file.hyper.context, settings)
    return settings, text


def _row(
    case: Case,
    repeats: Sequence[tuple[Generated, Mapping[str, float]]],
    extra: Mapping[str, float],
    *,
    kv_cache: bool,
) -> Row:
    if kv_cache:
        prefill = tuple(case.prompt_len / one.prefill_s for one, _ in repeats)
        decode = tuple(case.gen_len / one.decode_s for one, _ in repeats)
        h2o = {
            name: tuple(float(figures.get(name, column.idle)) for _, figures in repeats)
            for name, column in H2O_COLUMNS.items()
        }
        return Row(case, (prefill, decode), h2o, extra)
    seconds = [one.prefill_s * (case.prompt_len > 0) + one.decode_s * (case.gen_len > 0) for one, _ in repeats]
    return Row(case, (tuple(sum(case) / elapsed_s for elapsed_s in seconds),))


def _write(arguments: Arguments, table: str, results: str) -> None:
    """Append the table in one write; put the JSON beside its place and rename it."""
    try:
        if arguments.json_file is not None:
            beside = Path(f"{arguments.json_file}.{os.getpid()}.part")
            beside.write_text(results, "utf-8")
            beside.replace(arguments.json_file)
        if arguments.file_print is None:
            print(table, end="")
        else:
            with arguments.file_print.open("a", encoding="utf-8") as file:
                file.write(table)
    except OSError as error:
        raise UsageError("the result cannot be written", where=str(error.filename), came=error.strerror) from error


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
    prompt_len, gen_len = row.case
    result: dict[str, object] = {
        "type": names[prompt_len > 0, gen_len > 0],
        "prompt_len": prompt_len,
        "generate_len": gen_len,
    }
    keys = (("prefill_tps", "prefill_std"), ("decode_tps", "decode_std")) if row.h2o else (("tps", "std"),)
    for (mean, std), speed in zip(keys, row.speeds, strict=True):
        result[mean], result[std] = statistics.fmean(speed), _deviation(speed)
    for name, series in row.h2o.items():
        key = H2O_COLUMNS[name].key
        result[key], result[f"{key}_std"] = statistics.fmean(series), _deviation(series)
    result.update(row.extra)
    if run.loading_s is not None:
        result["loading_time"], result["loading_time_std"] = run.loading_s, 0.0
    return result


def _cells(run: Run, row: Row) -> list[tuple[str, str, str]]:
    """Header, rule and text of each column, padded as the engine pads them."""
    size = f"{run.model_bytes / GIB:.2f} GiB" if run.model_bytes >= GIB else f"{run.model_bytes / MIB:.2f} MiB"
    prompt_len, gen_len = row.case
    cells = [
        _cell("model", 30, run.model, right=False),
        _cell("modelSize", 10, size),
        _cell("backend", 10, "CPU", right=False),
        _cell("threads", 5, str(run.threads)),  # the engine's header is wider than its cells
        _cell("precision", 10, PRECISION_NAMES[run.precision], right=False),
    ]
    if row.h2o:
        cells.append(_cell("llm_demo", 10, f"prompt={prompt_len}<br>decode={gen_len}", right=False))
        speeds = "<br>".join(_spread(speed, 2) for speed in row.speeds)
        cells.append(_cell("speed(tok/s)", 12, speeds, right=False))
        for name, series in row.h2o.items():
            cells.append(_cell(name, max(10, len(name)), _spread(series, H2O_COLUMNS[name].decimals)))
        cells += [_cell(name, len(name), f"{value:.6g}") for name, value in row.extra.items()]
    else:
        parts = [f"pp{prompt_len}"] * (prompt_len > 0) + [f"tg{gen_len}"] * (gen_len > 0)
        cells += [_cell("test", 13, "+".join(parts), right=False), _cell("t/s", 10, _spread(row.speeds[0], 2))]
    if run.loading_s is not None:
        cells.append(_cell("loadingTime(s)", 14, _spread((run.loading_s,), 2)))
    return cells


def _deviation(series: Series) -> float:
    """Sample standard deviation; 0 for one value, as the engine prints it though it is not known then."""
    return statistics.stdev(series) if len(series) > 1 else 0.0


def _spread(series: Series, decimals: int) -> str:
    return f"{statistics.fmean(series):.{decimals}f} ± {_deviation(series):.{decimals}f}"


def _cell(name: str, width: int, text: str, *, right: bool = True) -> tuple[str, str, str]:
    """Header, rule and text of one column; its width is counted in bytes, since the engine pads with printf."""
    spaces = " " * (width - len(text.encode("utf-8")))
    if right:
        return name.rjust(width), "-" * (width - 1) + ":", spaces + text
    return name.ljust(width), "-" * width, text + spaces


_ROWS_AT_ONCE = 64
"""Positions whose logits are held at a time: a vocabulary is large."""


@dataclass(frozen=True)
class QualitySettings:
    """How to measure, all counts in tokens."""

    prompt_tokens: int
    """Prefilled."""
    tokens: int
    """Predicted after them."""
    windows: int
    """How many such pieces of the text."""
    greedy_tokens: int
    """Generated freely."""
    policy: PolicySettings | None
    """None evicts nothing."""
    clock: Clock = "layer"
    half: bool = True
    """A cache of fp16, on both sides of the comparison."""

    @property
    def window_tokens(self) -> int:
        return self.prompt_tokens + self.tokens

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return self.prompt_tokens + max(self.tokens, self.greedy_tokens)


def measure_quality(
    model: Model, tokenizer: Tokenizer, text: Sequence[int], settings: QualitySettings
) -> dict[str, float]:
    """The columns, of six significant digits, from windows that follow each other from the start of a text."""
    check_quality(len(text), model.hyper.context, settings)
    full = EvictingCache(model.hyper, settings.longest, half=settings.half)
    evicting = EvictingCache(
        model.hyper, settings.longest, half=settings.half, policy=settings.policy, clock=settings.clock
    )
    pieces = np.array(text[: settings.windows * settings.window_tokens], dtype=np.int64).reshape(settings.windows, -1)
    windows = [_measure_window(model, tokenizer, tokens, settings, full, evicting) for tokens in pieces]
    found = {name: [window[name] for window in windows] for name in windows[0]}
    bits_full, bits_evicted, text_bytes = (sum(found.pop(name)) for name in ("full", "evicted", "text_bytes"))
    evictions = sum(found.pop("evictions"))
    predicted = settings.windows * settings.tokens
    ppl_full, ppl_evicted = (_perplexity(bits / predicted) for bits in (bits_full, bits_evicted))
    columns = {
        "ppl_full": ppl_full,
        "ppl_evicted": ppl_evicted,
        "ppl_rise": ppl_evicted / ppl_full - 1.0,
        "bits_per_byte_full": bits_full / text_bytes,
        "bits_per_byte_evicted": bits_evicted / text_bytes,
        **{name: float(np.mean(each)) for name, each in found.items()},
        "tokens": predicted,
        "evictions": evictions,
    }
    for name, value in columns.items():
        if not math.isfinite(value):
            raise model.fault(f"{name} of {value} on the held-out text")
    return {f"quality_{name}": float(f"{value:.6g}") for name, value in columns.items()}


def _measure_window(
    model: Model,
    tokenizer: Tokenizer,
    tokens: Tokens,
    settings: QualitySettings,
    full: EvictingCache,
    evicting: EvictingCache,
) -> dict[str, float]:
    """Sums of bits, bytes and evictions, and the columns that are means over the windows."""
    prompt, targets = np.split(tokens, [settings.prompt_tokens])
    bits_full, best_full = predict_full(model, tokens, len(targets), full)
    evicting.clear()
    logits = model.logits(model.prefill(prompt, evicting)[-1])
    bits_evicted, best_evicted = predict_decoded(model, logits, targets, evicting)
    found = {
        "full": bits_full,
        "evicted": bits_evicted,
        "text_bytes": tokenizer.byte_length(targets.tolist()),
        "evictions": evicting.evictions,
        "top1_agreement": float(np.mean(best_full == best_evicted)),
    }
    cache_ratio = evicting.full_bytes / evicting.held_bytes
    if settings.greedy_tokens:
        said = (generate(model, cache, prompt, settings.greedy_tokens).tokens for cache in (full, evicting))
        found["greedy_prefix"], found["greedy_equal"] = compare_tokens(*said)
    return {**found, "cache_ratio": cache_ratio}


def _perplexity(bits: float) -> float:
    """Of so many bits a token."""
    try:
        return float(2.0**bits)
    except OverflowError:
        return math.inf


def check_quality(text_tokens: int, context: int, settings: QualitySettings) -> None:
    """Raise `UsageError` if a text or a context is too short for `settings`."""
    needed = settings.windows * settings.window_tokens
    if text_tokens < needed:
        raise UsageError(
            "the held-out text is too short",
            came=f"{text_tokens} tokens",
            expected=f"{needed}: {settings.windows} windows of {settings.window_tokens}",
            hint="name a longer quality_text_file, or ask for fewer quality_tokens or quality_windows",
        )
    if settings.longest > context:
        raise UsageError(
            "the quality measurement is longer than the model's context",
            came=f"{settings.longest} tokens",
            expected=f"at most {context}",
            hint="ask for fewer quality_prompt_tokens, quality_tokens or quality_greedy_tokens",
        )


def compare_tokens(first: Sequence[int], second: Sequence[int]) -> tuple[float, float]:
    """Length of the common prefix in tokens, and share of equal places, of two texts of equal length."""
    equal = np.array(first) == np.array(second)
    prefix = int(np.argmin(equal)) if not equal.all() else len(equal)
    return float(prefix), float(equal.mean())


def token_bits(logits: Floats, targets: Tokens) -> NDArray[np.float64]:
    """Bits that each target costs, ``[tokens]``: minus log2 of its probability by logits ``[tokens, vocabulary]``.

    Nan or inf where the logits are no finite numbers.
    """
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=-1, keepdims=True)
    totals = np.log(np.exp(exact).sum(axis=-1))
    bits: NDArray[np.float64] = (totals - exact[np.arange(len(targets)), targets]) / math.log(2.0)
    return bits


def predict_full(model: Model, tokens: Tokens, count: int, cache: EvictingCache) -> tuple[float, Tokens]:
    """Bits of the last `count` tokens and the best token at each place, all in one prefill."""
    cache.clear()
    hidden = model.prefill(tokens[:-1], cache)[-count:]
    targets = tokens[-count:]
    bits, best = 0.0, []
    for start in range(0, count, _ROWS_AT_ONCE):
        logits = model.logits(hidden[start : start + _ROWS_AT_ONCE])
        bits += float(token_bits(logits, targets[start : start + _ROWS_AT_ONCE]).sum())
        best.append(logits.argmax(axis=-1))
    return bits, np.concatenate(best)


def predict_decoded(model: Model, logits: Floats, targets: Tokens, cache: EvictingCache) -> tuple[float, Tokens]:
    """The same token by token, on a cache that holds the prompt, whose last token gave `logits`, ``[vocabulary]``."""
    bits, best = 0.0, []
    for place in range(len(targets)):
        if place:
            logits = model.decode(int(targets[place - 1]), cache)
        bits += float(token_bits(logits[None], targets[place : place + 1])[0])
        best.append(int(np.argmax(logits)))
    return bits, np.array(best)
