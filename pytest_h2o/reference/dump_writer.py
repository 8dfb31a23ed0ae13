"""KV dumps of a run, in the layout of a bench that was built to write them.

``DIR/RUN_ID/layer_{L}/meta_t{a}_{b}.json`` with ``k_t{a}_{b}.bin`` and ``v_t{a}_{b}.bin``: K and V of the tokens from
a up to b, little-endian, C order ``[seq_len, kv_heads, head_dim]``, as they were before any eviction. A prefill is one
entry a layer, a decoded token one entry. The environment asks for them:

``MNN_KV_DUMP_DIR``
    Where; unset, empty or ``off``: no dump.
``MNN_KV_DUMP_RUN_ID``
    Name of the run, ``run`` if unset. A folder of that name must not exist: two runs in one cannot be told apart.
``MNN_KV_DUMP_STAGE``
    ``prefill``, ``decode`` or ``both`` (if unset).
``MNN_KV_DUMP_MAX_TOKENS``
    Tokens at this position and after are left out; 0 (if unset) for no such bound.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytest_h2o.errors import UsageError
from pytest_h2o.reference.eviction import Watcher
from pytest_h2o.reference.gguf_file import Floats
from pytest_h2o.reference.model import Stage

STAGES = ("prefill", "decode", "both")


@dataclass(frozen=True)
class DumpSettings:
    """Where and what to dump; `max_tokens` 0 means all."""

    root: Path
    run_id: str
    stage: str
    max_tokens: int

    def wants(self, stage: Stage) -> bool:
        return self.stage in (stage, "both")


def read_dump_settings(environment: Mapping[str, str]) -> DumpSettings | None:
    """What the environment asks for; None if it asks for no dump.

    Raises
    ------
    UsageError
        A value is impossible, or the run's folder is there already.
    """
    root = environment.get("MNN_KV_DUMP_DIR", "")
    if root in ("", "off"):
        return None
    run_id = environment.get("MNN_KV_DUMP_RUN_ID") or "run"
    if run_id in (".", "..") or "/" in run_id or os.sep in run_id:
        raise _refused("MNN_KV_DUMP_RUN_ID", run_id, "the name of one folder", "leave out slashes")
    stage = environment.get("MNN_KV_DUMP_STAGE") or "both"
    if stage not in STAGES:
        raise _refused("MNN_KV_DUMP_STAGE", stage, ", ".join(STAGES), "set it to one of these or unset it")
    bound = environment.get("MNN_KV_DUMP_MAX_TOKENS") or "0"
    if not (bound.isascii() and bound.isdigit()):
        raise _refused("MNN_KV_DUMP_MAX_TOKENS", bound, "a number of tokens, 0 for all", "set it to a whole number")
    if (Path(root) / run_id).exists():
        raise _refused("MNN_KV_DUMP_RUN_ID", run_id, "a run that is not there yet", f"remove {Path(root) / run_id}")
    return DumpSettings(Path(root), run_id, stage, int(bound))


def _refused(name: str, came: str, expected: str, hint: str) -> UsageError:
    where = f"environment, {name}"
    return UsageError("the dump of the KV cache cannot be made", where=where, came=came, expected=expected, hint=hint)


class DumpWriter(Watcher):
    """Writes what a cache takes in until it is cleared: every later repeat takes in the same.

    Parameters
    ----------
    settings : DumpSettings
    half : bool
        fp16, rounded from float32 to nearest even; else float32.
    """

    def __init__(self, settings: DumpSettings, *, half: bool) -> None:
        self._settings, self._half = settings, half
        self._begun = self._ended = False

    def cleared(self) -> None:
        self._ended = self._begun

    def written(self, layer: int, keys: Floats, values: Floats, first_position: int, stage: Stage) -> None:
        settings = self._settings
        self._begun = True
        tokens = len(keys)
        if settings.max_tokens:
            tokens = min(tokens, settings.max_tokens - first_position)
        if self._ended or tokens < 1 or not settings.wants(stage):
            return
        folder = settings.root / settings.run_id / f"layer_{layer}"
        span = f"t{first_position}_{first_position + tokens}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, tensor in (("k", keys), ("v", values)):
                (folder / f"{name}_{span}.bin").write_bytes(self._to_bytes(tensor[:tokens]))
            meta = self._meta(layer, first_position, tokens, keys.shape, span, stage)
            (folder / f"meta_{span}.json").write_text(json.dumps(meta, indent=2) + "\n", "utf-8")
        except OSError as error:
            raise UsageError(
                "the dump of the KV cache cannot be written",
                where=str(folder),
                came=error.strerror,
                hint="set MNN_KV_DUMP_DIR to a folder that can be written, or to off",
            ) from error

    def _to_bytes(self, tensor: NDArray[np.float32]) -> bytes:
        return tensor.astype("<f2" if self._half else "<f4").tobytes()

    def _meta(
        self, layer: int, start: int, tokens: int, shape: tuple[int, ...], span: str, stage: Stage
    ) -> dict[str, object]:
        return {
            "layer_id": layer,
            "seq_start": start,
            "seq_len": tokens,
            "seq_end_exclusive": start + tokens,
            "kv_heads": shape[1],
            "head_dim": shape[2],
            "bytes_per_elem": 2 if self._half else 4,
            "dtype": "fp16" if self._half else "fp32",
            "add": shape[0],
            "tensor_seq_len": shape[0],
            "quant_key": False,
            "quant_value": False,
            "flash_attention": False,
            "stage": stage,
            "run_id": self._settings.run_id,
            "k_file": f"k_{span}.bin",
            "v_file": f"v_{span}.bin",
        }
