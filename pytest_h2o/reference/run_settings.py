"""Config and model together: the settings of a run, checked against the model's layers and the run's length."""

from __future__ import annotations

from pytest_h2o.reference.gguf_file import HyperParameters
from pytest_h2o.reference.policy import PolicySettings
from pytest_h2o.reference.runtime_lossless import LosslessSettings
from pytest_h2o.reference.settings import BenchConfig


def policy_settings(config: BenchConfig, hyper: HyperParameters, length: int) -> PolicySettings | None:
    """The eviction policy for a sequence of `length` tokens; None where H2O is off.

    Raises
    ------
    UsageError
        The layer range is outside the model, or sink and recent tokens are more than there will be.
    """
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
    """What to code of the cold tokens; None where the runtime's lossless coding is off.

    Raises
    ------
    UsageError
        More front layers than the model has, or a cache that is not fp16.
    """
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
