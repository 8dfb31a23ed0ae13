"""What is sampled of the cold tokens, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pytest_h2o.codecs.base import SideInfo, Stream
from pytest_h2o.codecs.gear_v3 import GearV3
from pytest_h2o.errors import RoundTripError
from pytest_h2o.reference.cache import LayerCache
from pytest_h2o.reference.policy import Plan, plan_keep
from pytest_h2o.reference.runtime_lossless import LosslessSettings, RuntimeLossless

SETTINGS = LosslessSettings(
    front_n=2,
    kept_layers=(),
    block_tokens=40,
    hot_sink_tokens=4,
    hot_recent_tokens=20,
    update_interval=5,
    trigger_min_tokens=30,
    mode="probe",
    predictors_k="raw,delta_seq,xor_seq",
    predictors_v="raw,delta_seq",
    strict=True,
)


def filled(tokens: int, capacity: int = 400) -> LayerCache:
    held = LayerCache(2, 8, capacity, half=True)
    random = np.random.RandomState(4)
    held.append(*(random.standard_normal((tokens, 2, 8)).astype(np.float32) for _ in range(2)), 0)
    return held


def decode(watcher: RuntimeLossless, held: LayerCache, steps: int, layers: tuple[int, ...] = (0,)) -> None:
    one = np.ones((1, 2, 8), dtype=np.float32)
    for _ in range(steps):
        held.append(one, one, held.length)
        for layer in layers:
            watcher.decoded(layer, held)


def taken(watcher: RuntimeLossless) -> list[tuple[int, int, int, int]]:
    return [(sample.layer, sample.kv_len, sample.start, sample.tokens) for sample in watcher.samples]


def test_probe_mode_samples_layer_0_first_32_tokens_then_blocks() -> None:
    """First at once; the second when 4 + 32 + 40 cold and 20 hot tokens are there, the third 40 tokens later."""
    watcher = RuntimeLossless(SETTINGS)
    decode(watcher, filled(60), 100, layers=(0, 1, 2))
    assert taken(watcher) == [(0, 61, 4, 32), (0, 96, 36, 40), (0, 136, 76, 40)]


def test_samples_are_an_interval_apart_even_if_many_tokens_are_cold() -> None:
    watcher = RuntimeLossless(SETTINGS)
    decode(watcher, filled(300), 12)
    assert taken(watcher) == [(0, 301, 4, 32), (0, 306, 36, 40), (0, 311, 76, 40)]


def test_full_mode_samples_blocks_of_every_layer_of_the_scope() -> None:
    watcher = RuntimeLossless(replace(SETTINGS, mode="full", kept_layers=(3,)))
    decode(watcher, filled(64), 2, layers=(0, 1, 2, 3))
    assert taken(watcher) == [(0, 65, 4, 40), (1, 65, 4, 40), (3, 65, 4, 40)]


def test_nothing_below_the_trigger_or_while_too_little_is_cold() -> None:
    watcher = RuntimeLossless(replace(SETTINGS, trigger_min_tokens=1000))
    decode(watcher, filled(300), 10)
    assert watcher.samples == []
    assert watcher.ratio == 1.0
    watcher = RuntimeLossless(SETTINGS)
    decode(watcher, filled(54), 1)
    assert watcher.samples == []


def test_a_sample_is_what_the_codec_makes_of_the_held_tokens() -> None:
    watcher = RuntimeLossless(SETTINGS)
    held = filled(60)
    decode(watcher, held, 1)
    (sample,) = watcher.samples
    codec = GearV3(predictors_k=SETTINGS.predictors_k, predictors_v=SETTINGS.predictors_v)
    keys, values = held.words(4, 36)
    assert sample.coded_bytes_k == len(codec.encode(Stream(keys, "k")))
    assert sample.coded_bytes_v == len(codec.encode(Stream(values, "v")))
    assert sample.raw_bytes == 2 * 32 * 2 * 8 * 2
    assert watcher.ratio == sample.raw_bytes / sample.coded_bytes


def test_after_an_eviction_what_was_coded_is_not_coded_again() -> None:
    watcher = RuntimeLossless(replace(SETTINGS, kept_layers=(0,), front_n=0))
    held = filled(100)
    decode(watcher, held, 1)
    target = plan_keep(101, block_tokens=1, sink_tokens=0, recent_tokens=0, ratio=1.0)
    runs = ((0, 10), (20, 81))
    held.keep(runs)
    watcher.evicted(0, Plan(target, (), runs))
    decode(watcher, held, 5)
    assert taken(watcher)[1] == (0, 96, 26, 40)
    second = watcher.samples[1]
    assert (second.first_position, second.end_position) == (36, 76)


def test_clearing_starts_again() -> None:
    watcher = RuntimeLossless(SETTINGS)
    decode(watcher, filled(60), 10)
    watcher.cleared()
    assert watcher.samples == []
    decode(watcher, filled(60), 10)
    assert taken(watcher) == [(0, 61, 4, 32)]


def test_the_logged_line() -> None:
    lines: list[str] = []
    watcher = RuntimeLossless(SETTINGS, lines.append)
    decode(watcher, filled(60), 1)
    sample = watcher.samples[0]
    assert lines == [
        f"[H2O-LOSSLESS] layer=0 kv=61 start=4 tokens=32 raw=2048 comp={sample.coded_bytes} "
        f"comp_k={sample.coded_bytes_k} comp_v={sample.coded_bytes_v} pos=4 pos_end=36 ratio={watcher.ratio:.4f}"
    ]


def damaged(original: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def decode_wrongly(self: GearV3, payload: bytes, side: SideInfo) -> np.ndarray:
        words = original(self, payload, side)
        words[2, 1, 3] ^= 1
        return words

    return decode_wrongly


def test_a_sample_that_does_not_decode_to_itself_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GearV3, "decode", damaged(GearV3.decode))
    with pytest.raises(RoundTripError) as caught:
        decode(RuntimeLossless(SETTINGS), filled(60), 1)
    message = str(caught.value)
    assert message.startswith("a sample of the cache does not decode to itself\n")
    assert "where: layer 0, K, position 4, byte 86" in message
    relaxed = RuntimeLossless(replace(SETTINGS, strict=False))
    decode(relaxed, filled(60), 1)
    assert relaxed.samples[0].decomp_us == 0
