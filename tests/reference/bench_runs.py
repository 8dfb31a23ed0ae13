"""Launches of the bench on synthetic models."""

import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from synthetic_model import SyntheticShape, write_gguf

from pytest_h2o.reference import __main__ as command
from pytest_h2o.reference.gguf import HyperParameters

ROOT = Path(__file__).parents[2]
HYPER = HyperParameters(4, 32, 48, 4, 2, 8, 260, 512, 10000.0, 1e-5)
"""That of the default synthetic model."""

SMALL_H2O = {
    "kv_h2o_enable": True,
    "kv_h2o_layer_start": 1,
    "kv_h2o_block_tokens": 4,
    "kv_h2o_sink_tokens": 4,
    "kv_h2o_recent_tokens": 12,
    "kv_h2o_update_interval": 4,
    "kv_h2o_trigger_min_tokens": 32,
}
SMALL_LOSSLESS = {
    "kv_lossless_enable": True,
    "kv_lossless_codec": "gear_delta",
    "kv_lossless_runtime_enable": True,
    "kv_lossless_runtime_mode": "full",
    "kv_lossless_front_n": 1,
    "kv_lossless_block_tokens": 16,
    "kv_lossless_hot_recent_tokens": 12,
    "kv_lossless_hot_sink_tokens": 4,
    "kv_lossless_strict_roundtrip_check": True,
}


def write_config(folder: Path, shape: SyntheticShape | None = None, **values: Any) -> Path:
    """A model and its config in `folder`."""
    write_gguf(folder / "tiny.gguf", shape)
    path = folder / "config.json"
    path.write_text(json.dumps({"llm_model": "tiny.gguf", **values}), "utf-8")
    return path


class Done(NamedTuple):
    code: int
    out: str
    err: str


def run(*argv: object, **environment: str) -> Done:
    """The bench in this process, on one thread."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), mock.patch.dict(os.environ, environment):
        code = command.main([*map(str, argv), "-t", "1"])
    return Done(code, without_floor(out.getvalue()), err.getvalue())


def without_floor(text: str) -> str:
    """An output without the line that says that protected tokens alone met the target in a step."""
    return "".join(line for line in text.splitlines(True) if "floor-keep dominates target" not in line)


def measure(folder: Path, config: Path, *argv: object) -> dict[str, Any]:
    """The one row of a launch, as its JSON has it; ``-p`` and ``-n`` are those of `argv`."""
    result = folder / "out.json"
    done = run("-m", config, *argv, "-rep", 1, "-kv", "true", "-fp", folder / "out.log", "-j", result)
    assert done == (0, "", "")
    (row,) = json.loads(result.read_text("utf-8"))["results"]
    return dict(row)
