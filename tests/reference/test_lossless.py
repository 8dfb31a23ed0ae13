"""What is sampled of the cold tokens, and when."""

import threading
from typing import Any

import numpy as np
import pytest

from pytest_h2o.codecs.base import SideInfo, Stream
from pytest_h2o.codecs.gear_v3 import GearV3
from pytest_h2o.errors import RoundTripError
from pytest_h2o.reference.cache import LayerCache
from pytest_h2o.reference.config import LosslessSettings, PolicySettings
from pytest_h2o.reference.lossless import RuntimeLossless
from pytest_h2o.reference.policy import Plan, plan_keep
from tests.told import error_text

SETTINGS = LosslessSettings(
    front_n=2,
    kept_layers=(),
    first_tokens=32,
    step_tokens=40,
    hot_sink_tokens=4,
    hot_recent_tokens=20,
    update_interval=5,
    trigger_min_tokens=30,
    async_threads=0,
    max_queue=256,
    decode_cache_blocks=64,
    runtime_mode="probe",
    predictors_k="raw,delta_seq,xor_seq",
    predictors_v="raw,delta_seq",
    strict_roundtrip_check=True,
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


@pytest.fixture
def coding(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """While it is not set, what codes waits."""
    go, encode = threading.Event(), GearV3.encode

    def held_back(self: GearV3, stream: Stream) -> bytes:
        assert go.wait(10)
        return encode(self, stream)

    monkeypatch.setattr(GearV3, "encode", held_back)
    return go


@pytest.mark.parametrize(
    ("changed", "held", "steps", "samples"),
    [
        # Layer 0 alone. The second when 4 + 32 + 40 cold and 20 hot tokens are there, the third 40 tokens later.
        ({}, 60, 100, [(0, 61, 4, 32), (0, 96, 36, 40), (0, 136, 76, 40)]),
        # Many tokens are cold: an interval apart.
        ({}, 300, 12, [(0, 301, 4, 32), (0, 306, 36, 40), (0, 311, 76, 40)]),
        # Blocks of every layer of the scope.
        (
            {"runtime_mode": "full", "first_tokens": 40, "kept_layers": (3,)},
            64,
            2,
            [(0, 65, 4, 40), (1, 65, 4, 40), (3, 65, 4, 40)],
        ),
        # Below the trigger, and while too little is cold.
        ({"trigger_min_tokens": 1000}, 300, 10, []),
        ({}, 54, 1, []),
    ],
)
def test_what_is_sampled_and_when(
    changed: dict[str, Any], held: int, steps: int, samples: list[tuple[int, int, int, int]]
) -> None:
    watcher = RuntimeLossless(SETTINGS._replace(**changed))
    decode(watcher, filled(held), steps, layers=(0,) if held == 300 else (0, 1, 2, 3))
    assert taken(watcher) == samples
    assert ("h2o_lossless" in watcher.finish()) == bool(samples)


def test_a_sample_is_what_the_codec_makes_of_the_held_tokens() -> None:
    lines: list[str] = []
    watcher = RuntimeLossless(SETTINGS, lines.append)
    held = filled(60)
    decode(watcher, held, 1)
    (sample,) = watcher.samples
    codec = GearV3(predictors_k=SETTINGS.predictors_k, predictors_v=SETTINGS.predictors_v)
    keys, values = held.words(4, 36)
    assert sample.coded_bytes_k == len(codec.encode(Stream(keys, "k")))
    assert sample.coded_bytes_v == len(codec.encode(Stream(values, "v")))
    assert lines == [
        f"[H2O-LOSSLESS] layer=0 kv=61 start=4 tokens=32 raw=2048 comp={sample.coded_bytes} "
        f"comp_k={sample.coded_bytes_k} comp_v={sample.coded_bytes_v} pos=4 pos_end=36 "
        f"ratio={2048 / sample.coded_bytes:.4f}"
    ]
    assert sample.raw_bytes == 2 * 32 * 2 * 8 * 2
    figures = watcher.finish()
    assert figures["h2o_lossless"] == sample.raw_bytes / sample.coded_bytes
    assert figures["h2o_lossless_raw_mb"] == 2048 / 2**20
    assert figures["h2o_lossless_comp_mb"] == sample.coded_bytes / 2**20
    assert figures["h2o_lossless_decode_cache_miss"] == 1
    assert figures["h2o_codec_us"] == figures["h2o_lossless_comp_us"] == sample.comp_us


def test_after_an_eviction_what_was_coded_is_not_coded_again() -> None:
    watcher = RuntimeLossless(SETTINGS._replace(kept_layers=(0,), front_n=0))
    held = filled(100)
    decode(watcher, held, 1)
    target = plan_keep(101, PolicySettings(1, 0, 0, 1.0, 0))
    runs = ((0, 10), (20, 81))
    held.keep(runs)
    watcher.evicted(0, Plan(target, (), runs))
    decode(watcher, held, 5)
    assert taken(watcher)[1] == (0, 96, 26, 40)
    second = watcher.samples[1]
    assert (second.first_position, second.end_position) == (36, 76)


def test_a_sample_that_does_not_decode_to_itself_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the thread that decodes, and in another one."""
    original = GearV3.decode

    def decode_wrongly(self: GearV3, payload: bytes, side: SideInfo) -> np.ndarray:
        words = original(self, payload, side)
        words[2, 1, 3] ^= 1
        return words

    monkeypatch.setattr(GearV3, "decode", decode_wrongly)
    message = error_text(RoundTripError, decode, RuntimeLossless(SETTINGS), filled(60), 1)
    assert message.startswith("a sample of the cache does not decode to itself\n")
    assert "where: layer 0, K, position 4, byte 86" in message
    for changed in ({"strict_roundtrip_check": False}, {"runtime_mode": "store"}):
        with pytest.raises(RoundTripError, match="does not decode to itself"):
            code_elsewhere({"runtime_mode": "full", **changed})


def code_elsewhere(changed: dict[str, Any]) -> None:
    watcher = RuntimeLossless(SETTINGS._replace(async_threads=1, **changed))
    decode(watcher, filled(60), 1)
    watcher.finish()


@pytest.mark.parametrize("threads", [1, 3])
def test_other_threads_code_the_same_samples_in_the_same_order(threads: int) -> None:
    lines: dict[int, list[str]] = {0: [], threads: []}
    for number, told in lines.items():
        held = filled(60)
        watcher = RuntimeLossless(SETTINGS._replace(runtime_mode="full", async_threads=number), told.append)
        decode(watcher, held, 100)
        assert watcher.finish()["h2o_lossless_async_queue_peak"] <= number * 3
        assert len(watcher.samples) == 3
    assert lines[threads] == lines[0] != []


def test_a_full_queue_skips_a_sample_and_tries_it_again(coding: threading.Event) -> None:
    watcher = RuntimeLossless(SETTINGS._replace(async_threads=1, max_queue=1, runtime_mode="full"))
    held = filled(200)
    decode(watcher, held, 12)  # three samples are due, and the first is still being coded
    coding.set()
    watcher._await(watcher._queue[0])
    decode(watcher, held, 5)
    figures = watcher.finish()
    assert [sample.start for sample in watcher.samples] == [4, 36]
    assert figures["h2o_lossless_backpressure_skip"] == 2
    assert figures["h2o_lossless_queue_peak"] == figures["h2o_lossless_async_queue_peak"] == 1


@pytest.mark.parametrize("mode", ["probe", "full"])
def test_what_stays_in_place_is_decoded_once(mode: Any) -> None:
    """A later repeat, of the same words, finds its blocks in the cache, unless that is too small."""
    for most, later in ((64, "hit"), (1, "miss"), (0, "miss")):
        settings = SETTINGS._replace(runtime_mode=mode, strict_roundtrip_check=False, decode_cache_blocks=most)
        watcher = RuntimeLossless(settings)
        for found in ("miss", later):
            watcher.cleared()
            decode(watcher, filled(200), 30)
            figures = watcher.finish()
            count = len(watcher.samples)
            assert figures[f"h2o_lossless_decode_cache_{found}"] == count > 1
            assert (figures["h2o_lossless_decomp_us"] > 0) == (found == "miss")


def test_store_mode_drops_what_it_coded_and_restores_it_when_it_is_needed() -> None:
    settings = SETTINGS._replace(runtime_mode="store", async_threads=1, strict_roundtrip_check=False)
    watcher, held = RuntimeLossless(settings), filled(60)
    before = held.keys.copy(), held.values.copy()
    decode(watcher, held, 1)  # the first sample is taken, 4 to 36
    assert not np.isnan(held.keys).any()
    decode(watcher, held, 1)  # and dropped at the end of the next call
    for tensor in (held.keys, held.values):
        assert sorted(set(np.nonzero(np.isnan(tensor))[1])) == list(range(4, 36))
    watcher.needed(1, held)  # another layer
    assert np.isnan(held.keys).any()
    watcher.needed(0, held)
    for tensor, was in zip((held.keys, held.values), before, strict=True):
        np.testing.assert_array_equal(tensor[:, :60], was)
    figures = watcher.finish()
    assert (figures["h2o_lossless_decode_cache_hit"], figures["h2o_lossless_decode_cache_miss"]) == (0, 1)
    assert figures["h2o_lossless_decomp_us"] > 0


def test_what_an_eviction_moves_before_it_is_dropped_stays() -> None:
    watcher = RuntimeLossless(SETTINGS._replace(runtime_mode="store", front_n=1))
    held = filled(60)
    decode(watcher, held, 1)
    runs = ((0, 10), (20, 41))
    held.keep(runs)
    watcher.evicted(0, Plan(plan_keep(61, PolicySettings(1, 0, 0, 1.0, 0)), (), runs))
    decode(watcher, held, 1)
    assert not np.isnan(held.keys).any()


def test_decoding_waits_for_the_block_that_it_is_to_drop(coding: threading.Event) -> None:
    threading.Timer(0.05, coding.set).start()
    watcher = RuntimeLossless(SETTINGS._replace(async_threads=1, runtime_mode="store"))
    decode(watcher, filled(60), 2)
    assert watcher.finish()["h2o_lossless_async_wait_us"] >= 10_000


def test_words_are_those_of_the_moment_when_they_were_taken(coding: threading.Event) -> None:
    """The cache moves its tokens while another thread still has to code them."""
    sizes: list[list[int]] = []
    for waits in (False, True):
        coding.clear() if waits else coding.set()
        held = filled(60)
        held.keys[:, :40] = held.values[:, :40] = 1.0
        watcher = RuntimeLossless(SETTINGS._replace(async_threads=1, runtime_mode="full"))
        decode(watcher, held, 1)
        held.keep([(40, 20)])  # numbers that do not compress take the place of ones that do
        coding.set()
        watcher.finish()
        sizes.append([sample.coded_bytes for sample in watcher.samples])
    assert sizes[0] == sizes[1]
    assert sizes[0][0] < 200


@pytest.mark.parametrize("threads", [0, 1])
def test_clearing_starts_again(threads: int, coding: threading.Event) -> None:
    """What was not finished is forgotten as well."""
    threading.Timer(0.05, coding.set).start()
    watcher = RuntimeLossless(SETTINGS._replace(async_threads=threads, runtime_mode="full"))
    decode(watcher, filled(60), 10)
    watcher.cleared()
    assert watcher.finish() == {"h2o_lossless_backpressure_skip": 0}
    assert watcher.samples == []
    decode(watcher, filled(60), 10)
    watcher.finish()
    assert taken(watcher) == [(0, 61, 4, 32)]
