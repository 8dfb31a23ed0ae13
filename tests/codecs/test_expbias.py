from __future__ import annotations

import numpy as np
import pytest
from battery import check_decodes, check_every_chunk_not_larger
from sample_streams import PROMPTS, measure_ratios

from pytest_h2o.codecs.base import SideInfo, Stream
from pytest_h2o.codecs.expbias import ExpBias
from pytest_h2o.codecs.registry import get_codec
from pytest_h2o.errors import CodecError

CODEC = ExpBias()


def test_recorded_dumps() -> None:
    payloads, ratio = measure_ratios(CODEC)
    assert ratio(lambda chunk: chunk.layer < 2) > 1.500
    assert ratio(lambda chunk: True) > 1.303
    floors = dict(zip(PROMPTS, (1.261, 1.337, 1.250), strict=True))
    for run_id, floor in floors.items():
        assert ratio(lambda chunk, run_id=run_id: chunk.run_id == run_id) > floor
    check_every_chunk_not_larger(CODEC, payloads, get_codec("adaptive_v22"))
    check_decodes(CODEC, payloads, every=1)


def test_error_text() -> None:
    with pytest.raises(CodecError) as caught:
        CODEC.decode(b"\x03\x02", SideInfo("k", (2, 3, 64)))
    assert str(caught.value) == (
        "expbias: an axis of the shape is cut short\n"
        "  where: byte 2 of 2\n"
        "  came: 0 bytes\n"
        "  expected: 1 bytes\n"
        "  next: the payload is damaged, cut or of another codec; encode the stream again"
    )


def test_a_stream_too_large_is_refused_before_it_is_copied() -> None:
    words = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint16), (1 << 20, 300, 1), (0, 0, 0))
    with pytest.raises(CodecError, match="cannot be coded"):
        CODEC.encode(Stream(words, "v"))
