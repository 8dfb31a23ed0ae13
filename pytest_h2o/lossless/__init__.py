"""The offline evaluation: KV dumps, cut into streams, coded, counted and decoded again.

`evaluate_lossless` is the whole of it. Ratios are raw fp16 bytes over coded bytes, every byte of framing counted;
higher is better. What is counted is the length of bytes that were really written, and with ``verify`` they are decoded
and compared bit for bit.
"""

from __future__ import annotations

from pytest_h2o.lossless.evaluate import evaluate_lossless
from pytest_h2o.lossless.framing import decode_tensor, encode_tensor
from pytest_h2o.lossless.result import LayerBytes, LosslessResult, refuse_skips
from pytest_h2o.lossless.settings import LosslessSettings

__all__ = [
    "LayerBytes",
    "LosslessResult",
    "LosslessSettings",
    "decode_tensor",
    "encode_tensor",
    "evaluate_lossless",
    "refuse_skips",
]
