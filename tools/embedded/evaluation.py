"""Bits a byte of the embedded model on text, by length of context, and of other compressors on the same text."""

from __future__ import annotations

import math

import torch
import zstandard
from net import Net
from torch import Tensor
from torch.nn import functional
from training import BEGIN_TOKEN


def bits_per_byte(net: Net, tokens: Tensor, text_bytes: int, window: int) -> float:
    """Bits a byte of the text behind ``tokens``, each token seen with ``window / 2`` to ``window`` tokens before it.

    Windows of ``window`` tokens, the begin mark among them, move on by half; only the second half of each counts,
    and the whole of the first, so every token counts once.
    """
    step, total = window // 2, 0.0
    with torch.no_grad():
        for start in range(0, len(tokens), step):
            if start and start + step >= len(tokens):
                break
            piece = tokens[start : start + window]
            counted = 0 if start == 0 else step
            rows = functional.pad(piece, (1, 0), value=BEGIN_TOKEN)[None]
            losses = functional.cross_entropy(net(rows[:, :-1])[0].float(), rows[0, 1:], reduction="none")
            total += float(losses[counted:].double().sum())
    return total / math.log(2) / text_bytes


def zstd_bits(text: bytes, dictionary: bytes = b"") -> float:
    """Bits a byte of ``text`` under ``zstd -19``, with ``dictionary`` as text that both sides already have."""
    known = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    window_log = max(10, math.ceil(math.log2(len(text) + len(dictionary) + 1)))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        19, source_size=len(text), dict_size=len(dictionary), window_log=window_log
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters, dict_data=known if dictionary else None)
    return 8 * len(compressor.compress(text)) / len(text)
