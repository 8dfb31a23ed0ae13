"""A launch of the bench: everything is checked first, then measured, and written only at the end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.cache import EvictingCache, Watcher
from pytest_h2o.reference.config import Arguments, BenchConfig, lossless_settings, policy_settings
from pytest_h2o.reference.dump import DumpSettings, DumpWriter, read_dump_settings
from pytest_h2o.reference.gguf import GgufFile
from pytest_h2o.reference.lossless import RuntimeLossless
from pytest_h2o.reference.measure import Repeat, h2o_series, run_repeat
from pytest_h2o.reference.model import Model, Tokenizer, Tokens, read_tokenizer
from pytest_h2o.reference.quality import QualitySettings, check_quality, measure_quality
from pytest_h2o.reference.table import Row, Run, Series, render_json, render_table

DEFAULT_PROMPT = "prompt.txt"


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
    dumps = read_dump_settings(os.environ)
    prompt = prompt_tokens(config, file, tokenizer, max(case.prefilled for case in cases))

    for note in config.notes:
        print(f"warning: {note}", file=sys.stderr)
    started_s = time.perf_counter()
    model = Model(file)
    loading_s = time.perf_counter() - started_s if arguments.loading_time else None
    extra = measure_quality(model, tokenizer, held_out, quality).columns() if quality and tokenizer else {}
    rows = []
    for index, (case, policy) in enumerate(zip(cases, policies, strict=True)):
        watchers: list[Watcher] = [RuntimeLossless(lossless, log)] if lossless else []
        if dumps is not None:
            watchers.append(DumpWriter(_dump_of_case(dumps, index, case), half=half))
        clock = values["reference_clock"]
        cache = EvictingCache(
            model.hyper, case.length, half=half, policy=policy, clock=clock, watchers=watchers, log=log
        )
        ours = prompt[: case.prefilled]
        repeats = [run_repeat(model, cache, ours, case.gen_len) for _ in range(arguments.repeat + 1)]
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
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError("a text of the config cannot be read", where=f"{key}: {path}", came=error.strerror) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            "a text of the config is no UTF-8", where=f"{key}: {path}", came=str(error), expected="UTF-8 text"
        ) from error
    if not text.strip():
        raise UsageError("a text of the config is empty", where=f"{key}: {path}", expected="text")
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
    prompt, tokens = values["quality_prompt_tokens"], values["quality_tokens"]
    settings = QualitySettings(
        prompt_tokens=prompt,
        tokens=tokens,
        windows=values["quality_windows"],
        greedy_tokens=values["quality_greedy_tokens"],
        policy=policy_settings(config, file.hyper.layers, prompt + tokens),
        clock=values["quality_clock"],
        half=half,
    )
    text = tokenizer.encode(read_text(path, "quality_text_file"))
    check_quality(len(text), file.hyper.context, settings)
    return settings, text


def _row(case: Case, repeats: list[Repeat], extra: dict[str, float], *, kv_cache: bool) -> Row:
    if kv_cache:
        prefill = Series(tuple(case.prompt_len / repeat.prefill_s for repeat in repeats))
        decode = Series(tuple(case.gen_len / repeat.decode_s for repeat in repeats))
        return Row(*case, (prefill, decode), h2o_series(repeats), extra)
    seconds = [repeat.prefill_s * (case.prompt_len > 0) + repeat.decode_s * (case.gen_len > 0) for repeat in repeats]
    return Row(*case, (Series(tuple(sum(case) / elapsed_s for elapsed_s in seconds)),))


def _dump_of_case(dumps: DumpSettings, index: int, case: Case) -> DumpSettings:
    """The first case has the run id as it was given, so that cases of one launch do not write over each other."""
    return replace(dumps, run_id=f"{dumps.run_id}_p{case.prompt_len}_g{case.gen_len}") if index else dumps


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
