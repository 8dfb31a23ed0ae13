"""The command line of the bench: the flags of ``llm_bench``. No import but the standard library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

USAGE = """\
usage: python -m pytest_h2o.reference [options]

A Llama-style model in numpy behind the command line of llm_bench.

  -h, --help
  -m, --model CONFIG            config of the model, a JSON file; llm_model in it names a GGUF file
  -a, --backends cpu            cpu is the only one; any other is an error
  -c, --precision 0|1|2         2 (default): a KV cache of fp16; 0, 1: of fp32. Computed with in fp32 all the same
  -t, --threads N               threads of the linear algebra (default 4)
  -p, --n-prompt N[,N...]       prompt lengths in tokens (default 512)
  -n, --n-gen N[,N...]          generated tokens (default 128)
  -pg PP,TG                     one more prompt and generation, with -kv false (default 0,0: none)
  -rep, --n-repeat N            measured repeats, after one that is thrown away (default 5)
  -kv, --kv-cache true|false    true: each prompt with each generation, with the columns of H2O (default false)
  -fp, --file-print FILE        append the table to a file (default stdout)
  -j, --json FILE               write the results as JSON, over what is there
  -load, --loading-time true|false   true: a column for the time to load the model
  -qatten, --quant-attention 0  a quantised cache is not known here; any other value is an error
  -mmp, --mmap 0|1              taken and without effect: a model is always memory-mapped
  -dyo, -mr, -scn N             taken and without effect
"""


class ArgumentsError(Exception):
    """A flag that is not known, or whose value cannot be read."""


@dataclass(frozen=True)
class Arguments:
    """A command line that was read."""

    model: Path | None = None
    backends: tuple[str, ...] = ("cpu",)
    precision: int = 2
    threads: int = 4
    prompts: tuple[int, ...] = (512,)
    gens: tuple[int, ...] = (128,)
    prompt_gen: tuple[int, int] = (0, 0)
    repeat: int = 5
    kv_cache: bool = False
    file_print: Path | None = None
    json_file: Path | None = None
    loading_time: bool = False
    quant_attention: int = 0
    mmap: bool = False
    help: bool = field(default=False)


_FLAGS = {
    "-m": "model", "--model": "model",
    "-a": "backends", "--backends": "backends",
    "-c": "precision", "--precision": "precision",
    "-t": "threads", "--threads": "threads",
    "-p": "prompts", "--n-prompt": "prompts",
    "-n": "gens", "--n-gen": "gens",
    "-pg": "prompt_gen",
    "-rep": "repeat", "--n-repeat": "repeat",
    "-kv": "kv_cache", "--kv-cache": "kv_cache",
    "-fp": "file_print", "--file-print": "file_print",
    "-j": "json_file", "--json": "json_file",
    "-load": "loading_time", "--loading-time": "loading_time",
    "-qatten": "quant_attention", "--quant-attention": "quant_attention",
    "-mmp": "mmap", "--mmap": "mmap",
    "-dyo": "", "--dynamicOption": "",
    "-mr": "", "--mixedSme2NeonRatio": "",
    "-scn": "", "--sme-core-num": "",
}  # fmt: skip

_RANGES = {
    "precision": (0, 2),
    "threads": (1, 1024),
    "repeat": (1, 100_000),
    "quant_attention": (0, 2),
    "mmap": (0, 1),
    "prompts": (1, 1 << 24),
    "gens": (1, 1 << 24),
    "prompt_gen": (0, 1 << 24),
}


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Read a command line; of a flag that stands twice the last one counts."""
    values: dict[str, object] = {}
    rest = iter(argv)
    for flag in rest:
        if flag in ("-h", "--help"):
            return Arguments(help=True)
        if flag not in _FLAGS:
            raise ArgumentsError(f"error: invalid parameter for argument: {flag}")
        text = next(rest, None)
        if text is None:
            raise ArgumentsError(f"error: no value for argument: {flag}")
        name = _FLAGS[flag]
        if name:
            values[name] = _parse_value(flag, name, text)
    return Arguments(**values)  # type: ignore[arg-type]


def _parse_value(flag: str, name: str, text: str) -> object:
    if name in ("model", "json_file"):
        return Path(text)
    if name == "file_print":
        return None if text == "stdout" else Path(text)
    if name == "backends":
        return tuple(text.split(","))
    if name in ("kv_cache", "loading_time"):
        if text.lower() not in ("true", "false", "1", "0"):
            raise ArgumentsError(f"error: invalid value for argument: {flag} {text} (expected true or false)")
        return text.lower() in ("true", "1")
    least, most = _RANGES[name]
    numbers = [_parse_number(flag, part, least, most) for part in text.split(",")]
    if name in ("prompts", "gens"):
        return tuple(numbers)
    if len(numbers) != (2 if name == "prompt_gen" else 1):
        raise ArgumentsError(f"error: invalid value for argument: {flag} {text} (too many or too few numbers)")
    if name == "mmap":
        return bool(numbers[0])
    return tuple(numbers) if name == "prompt_gen" else numbers[0]


def _parse_number(flag: str, text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise ArgumentsError(
            f"error: invalid value for argument: {flag} {text} (expected a whole number from {least} to {most})"
        )
    return int(text)
