"""Base config of a model and a sweep point -> the config JSON of one run of the bench.

The engine opens ``base_dir + field`` for its six files. A config written elsewhere must therefore carry an
absolute `base_dir` that ends in ``/``, and each file as a path relative to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from pytest_h2o.errors import UsageError, can_name_file
from pytest_h2o.files import TooLarge, read_regular_text
from pytest_h2o.inputs.presets import Point

PATH_FIELDS: Mapping[str, str] = {
    "llm_config": "llm_config.json",
    "llm_model": "llm.mnn",
    "llm_weight": "llm.mnn.weight",
    "embedding_file": "embeddings_bf16.bin",
    "tokenizer_file": "tokenizer.txt",
    "context_file": "context.json",
}
"""The fields that the engine opens under `base_dir`, with the names that it uses if they are absent."""

LOSSLESS_DEFAULTS: Mapping[str, object] = {
    "kv_lossless_enable": False,
    "kv_lossless_scope": "front_n",
    "kv_lossless_front_n": 2,
    "kv_lossless_codec": "none",
    "kv_lossless_runtime_enable": False,
    "kv_lossless_block_tokens": 128,
    "kv_lossless_hot_recent_tokens": 256,
    "kv_lossless_hot_sink_tokens": 16,
    "kv_lossless_codec_runtime": "fp16_gear_predictive_v3",
    "kv_lossless_predictors_k": "raw,delta_seq,xor_seq,pair_delta",
    "kv_lossless_predictors_v": "raw,delta_seq,xor_seq",
    "kv_lossless_async_threads": 1,
    "kv_lossless_max_queue": 256,
    "kv_lossless_decode_cache_blocks": 64,
    "kv_lossless_strict_roundtrip_check": False,
}
"""The lossless keys that every generated config sets, in this order, with the engine's defaults."""

_MAX_CONFIG_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class BaseConfig:
    """The config JSON of a model as the user has it."""

    path: Path
    """The file, absolute."""
    values: Mapping[str, Any]
    """Its keys and values, in the file's order."""
    source: str
    """Who named it, for messages: an option, an ini key, a preset."""

    @property
    def base_dir(self) -> Path:
        """Folder that the model's files are relative to: absolute, symbolic links resolved.

        A relative `base_dir` is relative to the folder of the config; an absent or empty one is that folder.
        """
        folder = self.path.parent / str(self.values.get("base_dir", "")).replace("\\", "/")
        return Path(os.path.realpath(folder))


def read_base_config(path: str | os.PathLike[str], source: str = "base config") -> BaseConfig:
    """Read the base config of a model."""
    file = Path(path).absolute()
    values = _read_object(file, source)
    base_dir = values.get("base_dir", "")
    if not isinstance(base_dir, str) or not can_name_file(base_dir):
        raise _refusal(file, source, f"base_dir is {base_dir!r}", "a folder name as text")
    return BaseConfig(file, values, source)


def build_run_config(base: BaseConfig, point: Point) -> dict[str, Any]:
    """Build the config of one run: the base config with the model's place, and every H2O and lossless key set.

    Of a baseline H2O, lossless and its runtime are switched off, and nothing else is set. Key order is that of the base
    config, then base_dir, the kv_h2o_* keys, the kv_lossless_* keys (listed ones first, then others that the preset
    names), then the model files that the base config left to their defaults.
    """
    base_dir = base.base_dir
    config = {**base.values, "base_dir": base_dir.as_posix().rstrip("/") + "/"}
    for field in PATH_FIELDS:
        value = config.get(field)
        if isinstance(value, str) and value:
            if not can_name_file(value):
                raise _refusal(base.path, base.source, f"{field} is {value!r}", "a file name")
            # Resolved first: ".." behind a symbolic link would lead the engine into another folder than it led us.
            target = os.path.realpath(base_dir / value.replace("\\", "/"))
            config[field] = os.path.relpath(target, base_dir).replace(os.sep, "/")
    switched_off = dict.fromkeys(("kv_h2o_enable", "kv_lossless_enable", "kv_lossless_runtime_enable"), False)
    config |= point_keys(point) if point.compressed else switched_off
    return config | {field: name for field, name in PATH_FIELDS.items() if field not in config}


def point_keys(point: Point) -> dict[str, Any]:
    """Give every H2O and lossless key that the config of a point sets, in order, whatever the model."""
    h2o = {
        "kv_h2o_enable": True,
        "kv_h2o_layer_start": point.h2o_layer_start,
        "kv_h2o_layer_end": point.h2o_layer_end,
        "kv_h2o_block_tokens": point.block_tokens,
        "kv_h2o_sink_tokens": point.sink_tokens,
        "kv_h2o_recent_tokens": point.recent_tokens,
        "kv_h2o_target_keep_ratio": point.keep_ratio,
        "kv_h2o_target_mode": point.h2o_target_mode,
        "kv_h2o_target_lossy_ratio": point.h2o_target_lossy_ratio,
        "kv_h2o_ema_alpha": point.ema_alpha,
        "kv_h2o_update_interval": point.update_interval,
        "kv_h2o_trigger_min_tokens": point.trigger_min_tokens,
        "kv_h2o_log_stats": point.h2o_log_stats,
    }
    return {**h2o, **LOSSLESS_DEFAULTS, **point.lossless}


def without_quality(base: BaseConfig) -> BaseConfig:
    """The same model, with nothing measured beside speed: a launch that is timed against another."""
    return replace(base, values={key: value for key, value in base.values.items() if not key.startswith("quality_")})


def layer_count(base: BaseConfig) -> int | None:
    """Read the number of transformer layers from the model's llm_config; None if it says none, or several."""
    values = _llm_config(base)
    counts = [values.get(key) for key in ("layer_nums", "num_hidden_layers", "n_layer", "num_layers", "n_layers")]
    found = {count for count in counts if type(count) is int and count > 0}
    return found.pop() if len(found) == 1 else None


def advise_layer_nums(base: BaseConfig | None) -> str | None:
    """Say what to add where a config lacks ``layer_nums``, by which llm_bench keeps its state; None if it has it."""
    if base is None or "layer_nums" in {**_llm_config(base), **base.values}:
        return None
    layers = layer_count(base) or "N"
    return (
        "the config of the model has no layer_nums, so the engine counts 32 layers and applies plans to the wrong "
        f'ones: add "layer_nums": {layers} to it' + (", N being the number of its layers" if layers == "N" else "")
    )


def rope_theta(base: BaseConfig) -> float | None:
    """Read the base of RoPE's frequencies, ``rope_theta``, from the model's llm_config."""
    values = _llm_config(base)
    theta = values.get("rope_theta")
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not 1 <= theta <= 1e12:
        return None
    return None if values.get("rope_scaling") else float(theta)


def _llm_config(base: BaseConfig) -> dict[str, Any]:
    """What the model says of itself; nothing where that cannot be read."""
    name = base.values.get("llm_config", PATH_FIELDS["llm_config"])
    if not isinstance(name, str) or not name or not can_name_file(name):
        return {}
    try:
        return _read_object(base.base_dir / name.replace("\\", "/"), "llm_config")
    except UsageError:
        # The engine itself says what is wrong with that file when it is launched; here it only means: not known.
        return {}


def _read_object(path: Path, source: str) -> dict[str, Any]:
    """Read a JSON file that holds one object, each key once."""
    where, what, expected = str(path), "is not JSON", "a JSON object"
    try:
        text = read_regular_text(path, _MAX_CONFIG_BYTES)
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
        if isinstance(value, dict):
            return value
        kinds: dict[type, str] = {str: "text", list: "list"}
        kind = kinds.get(type(value)) or f"value {json.dumps(value)[:40]}"
        what, came, expected = "cannot be used", f"a JSON {kind}", "a JSON object, { … }"
    except UnicodeDecodeError as error:
        came = f"a byte that is not UTF-8 at offset {error.start}"
        what, expected = "cannot be used", "JSON text in UTF-8"
    except TooLarge as error:
        what, came, expected = "cannot be used", str(error.strerror), f"a config of at most {_MAX_CONFIG_BYTES} bytes"
    except OSError as error:
        what, came, expected = "cannot be read", error.strerror or str(error), "a file that can be read"
    except json.JSONDecodeError as error:
        where, came = f"{path}:{error.lineno}:{error.colno}", error.msg
    except RecursionError:
        came = "values nested too deeply"
    except ValueError as error:
        came = str(error)
    raise _refusal(where, source, came, expected, what=what)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys the engine reads as we do."""
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"the value {name}, which JSON does not have")


def _refusal(where: Path | str, source: str, came: str, expected: str, *, what: str = "cannot be used") -> UsageError:
    what, hint = f"the config of the model ({source}) {what}", "give the config.json of an exported model"
    return UsageError(what, where=str(where), came=came, expected=expected, hint=hint)
