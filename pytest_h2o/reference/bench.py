"""A launch of the bench: everything is checked first, then measured, and written only at the end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.arguments import Arguments
from pytest_h2o.reference.cache import EvictingCache, Watcher
from pytest_h2o.reference.config import BenchConfig, lossless_settings, policy_settings, read_config
from pytest_h2o.reference.dump import DumpSettings, DumpWriter, read_dump_settings
from pytest_h2o.reference.gguf import GgufFile
from pytest_h2o.reference.lossless import LosslessSettings, RuntimeLossless
from pytest_h2o.reference.measure import Repeat, h2o_series, run_repeat, speeds
from pytest_h2o.reference.model import Model, Tokenizer, Tokens, read_tokenizer
from pytest_h2o.reference.policy import PolicySettings
from pytest_h2o.reference.quality import QualitySettings, check_quality, measure_quality
from pytest_h2o.reference.table import Row, Run, Series, render_json, render_table

DEFAULT_PROMPT = "prompt.txt"


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
    if config.prompt_token is not None:
        if config.prompt_token >= file.hyper.vocabulary:
            raise config.fault(
                "the prompt's token is none of the model's",
                "prompt_token",
                config.prompt_token,
                f"0 to {file.hyper.vocabulary - 1}",
            )
        return np.full(length, config.prompt_token, dtype=np.int64)
    if tokenizer is None:
        raise ValueError("a text prompt needs a tokenizer")
    if config.prompt_file is not None:
        text = read_text(config.prompt_file, "prompt_file")
    else:
        text = resources.files("pytest_h2o.reference").joinpath(DEFAULT_PROMPT).read_text("utf-8")
    return np.resize(np.array(tokenizer.encode(text), dtype=np.int64), length)


@dataclass(frozen=True)
class Case:
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


@dataclass(frozen=True)
class _Launch:
    """All that was read and checked before anything is measured."""

    arguments: Arguments
    config: BenchConfig
    file: GgufFile
    cases: tuple[Case, ...]
    policies: tuple[PolicySettings | None, ...]
    lossless: LosslessSettings | None
    dumps: DumpSettings | None
    prompt: Tokens
    tokenizer: Tokenizer | None
    quality: QualitySettings | None
    quality_text: tuple[int, ...]

    @property
    def half(self) -> bool:
        return self.arguments.precision == 2

    @property
    def log(self) -> Callable[[str], None] | None:
        return print if self.config.values["kv_h2o_log_stats"] else None


def run_bench(arguments: Arguments) -> None:
    """Measure what a command line asks for and write the table and the JSON."""
    launch = _prepare(arguments)
    for note in launch.config.notes:
        print(f"warning: {note}", file=sys.stderr)
    started_s = time.perf_counter()
    model = Model(launch.file)
    loading_s = time.perf_counter() - started_s
    extra: dict[str, float] = {}
    if launch.quality is not None and launch.tokenizer is not None:
        extra = measure_quality(model, launch.tokenizer, launch.quality_text, launch.quality).columns()
    rows = [
        _measure_case(launch, model, index, case, policy, extra)
        for index, (case, policy) in enumerate(zip(launch.cases, launch.policies, strict=True))
    ]
    run = Run(
        model=launch.config.model_path.stem,
        model_bytes=launch.file.size_bytes,
        threads=arguments.threads,
        precision=arguments.precision,
        loading_s=loading_s if arguments.loading_time else None,
    )
    _write(arguments, run, rows)


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


def _prepare(arguments: Arguments) -> _Launch:
    _check_arguments(arguments)
    if arguments.model is None:
        raise UsageError("no model was named", expected="-m CONFIG", hint="name the config of a model with -m")
    config = read_config(arguments.model)
    file = GgufFile(config.model_path)
    cases = tuple(list_cases(arguments))
    longest = max(case.length for case in cases)
    if longest > file.hyper.context:
        raise UsageError(
            "the prompt and its generation are longer than the model's context",
            where=str(config.model_path),
            came=f"{longest} tokens",
            expected=f"at most {file.hyper.context}",
            hint="ask for fewer with -p and -n",
        )
    half = arguments.precision == 2
    wants_text = config.prompt_token is None or config.quality_text_file is not None
    tokenizer = read_tokenizer(file) if wants_text else None
    quality, text = _prepare_quality(config, file, tokenizer, half=half)
    return _Launch(
        arguments=arguments,
        config=config,
        file=file,
        cases=cases,
        policies=tuple(policy_settings(config, file.hyper, case.length) for case in cases),
        lossless=lossless_settings(config, file.hyper, half=half),
        dumps=read_dump_settings(os.environ),
        prompt=prompt_tokens(config, file, tokenizer, max(case.prefilled for case in cases)),
        tokenizer=tokenizer,
        quality=quality,
        quality_text=text,
    )


def _check_arguments(arguments: Arguments) -> None:
    other = [name for name in arguments.backends if name.lower() != "cpu"]
    if other:
        raise UsageError(
            "the reference bench runs on the CPU alone", where="-a", came=other[0], expected="cpu", hint="leave out -a"
        )
    if arguments.quant_attention:
        raise UsageError(
            "the reference bench has no quantised cache",
            where="-qatten",
            came=str(arguments.quant_attention),
            expected="0",
            hint="leave out -qatten: with it the engine switches H2O off, so there is nothing to gate",
        )
    for flag, path in (("-fp", arguments.file_print), ("-j", arguments.json_file)):
        if path is None:
            continue
        target = path if path.exists() else path.parent
        if path.is_dir() or not target.exists() or not os.access(target, os.W_OK):
            raise UsageError(
                "the result cannot be written", where=f"{flag} {path}", expected="a file in a folder that is there"
            )


def _prepare_quality(
    config: BenchConfig, file: GgufFile, tokenizer: Tokenizer | None, *, half: bool
) -> tuple[QualitySettings | None, tuple[int, ...]]:
    if config.quality_text_file is None or tokenizer is None:
        return None, ()
    values = config.values
    prompt, tokens = values["quality_prompt_tokens"], values["quality_tokens"]
    settings = QualitySettings(
        prompt_tokens=prompt,
        tokens=tokens,
        windows=values["quality_windows"],
        greedy_tokens=values["quality_greedy_tokens"],
        policy=policy_settings(config, file.hyper, prompt + tokens),
        ranking=values["reference_policy"],
        clock=values["quality_clock"],
        seed=values["reference_seed"],
        half=half,
    )
    text = tuple(tokenizer.encode(read_text(config.quality_text_file, "quality_text_file")))
    check_quality(len(text), file.hyper.context, settings)
    return settings, text


def _measure_case(
    launch: _Launch,
    model: Model,
    index: int,
    case: Case,
    policy: PolicySettings | None,
    extra: dict[str, float],
) -> Row:
    values = launch.config.values
    lossless = RuntimeLossless(launch.lossless, launch.log) if launch.lossless else None
    watchers: list[Watcher] = [lossless] if lossless else []
    if launch.dumps is not None:
        watchers.append(DumpWriter(_dump_of_case(launch.dumps, index, case), half=launch.half))
    cache = EvictingCache(
        model.hyper,
        case.length,
        half=launch.half,
        policy=policy,
        ranking=values["reference_policy"],
        clock=values["reference_clock"],
        seed=values["reference_seed"],
        watchers=watchers,
        log=launch.log,
    )
    prompt = launch.prompt[: case.prefilled]
    repeats = [run_repeat(model, cache, prompt, case.gen_len, lossless) for _ in range(launch.arguments.repeat + 1)]
    return _row(case, repeats[1:], extra, kv_cache=launch.arguments.kv_cache)


def _row(case: Case, repeats: list[Repeat], extra: dict[str, float], *, kv_cache: bool) -> Row:
    if kv_cache:
        both = speeds(repeats, case.prompt_len, case.gen_len)
        return Row(case.prompt_len, case.gen_len, both, h2o_series(repeats), extra)
    seconds = [repeat.prefill_s * (case.prompt_len > 0) + repeat.decode_s * (case.gen_len > 0) for repeat in repeats]
    tokens = case.prompt_len + case.gen_len
    return Row(case.prompt_len, case.gen_len, (Series(tuple(tokens / elapsed_s for elapsed_s in seconds)),))


def _dump_of_case(dumps: DumpSettings, index: int, case: Case) -> DumpSettings:
    """The first case has the run id as it was given, so that cases of one launch do not write over each other."""
    if not index:
        return dumps
    run_id = f"{dumps.run_id}_p{case.prompt_len}_g{case.gen_len}"
    return DumpSettings(dumps.root, run_id, dumps.stage, dumps.max_tokens)


def _write(arguments: Arguments, run: Run, rows: list[Row]) -> None:
    """Append the table in one write; put the JSON beside its place and rename it."""
    table = render_table(run, rows)
    try:
        if arguments.json_file is not None:
            beside = Path(f"{arguments.json_file}.{os.getpid()}.part")
            beside.write_text(render_json(run, rows), "utf-8")
            beside.replace(arguments.json_file)
        if arguments.file_print is None:
            print(table, end="")
        else:
            with arguments.file_print.open("a", encoding="utf-8") as file:
                file.write(table)
    except OSError as error:
        raise UsageError("the result cannot be written", where=str(error.filename), came=error.strerror) from error
