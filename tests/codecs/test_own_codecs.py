"""expbias, rowref and rowref_max: what they reach on the recordings, and their parts taken alone."""

import importlib.util
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from battery import check_decodes, check_payload_damage, check_round_trip
from goldens import check_goldens
from sample_streams import PROMPTS, ROPE, all_chunks, as_dtype, cut, measure_ratios, real_streams, worst_words
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.codecs import rowref_max
from pytest_h2o.codecs.base import Codec, DType, Rope, SideInfo, Stream
from pytest_h2o.codecs.expbias import ExpBias
from pytest_h2o.codecs.registry import get_codec
from pytest_h2o.codecs.rotation import Turner, build_rotation
from pytest_h2o.codecs.rowref import RowRef, read_turned_header
from pytest_h2o.codecs.rowref_max import (
    NUMBERS,
    PATTERNS,
    TOTAL_BITS,
    RowRefMax,
    cumulated,
    find_patterns,
    slopes_of,
)
from pytest_h2o.codecs.wire import ByteReader, read_mode
from pytest_h2o.errors import CodecError
from tests.told import error_text

CODEC, MAX = RowRef(), RowRefMax()


@pytest.mark.parametrize(
    ("codec", "front", "all_layers", "by_prompt", "every"),
    [
        (ExpBias(), 1.500, 1.303, (1.261, 1.337, 1.250), 1),
        (CODEC, 1.869, 1.446, (1.353, 1.528, 1.324), 1),
        (MAX, 2.068, 1.568, (1.448, 1.678, 1.406), 1),
    ],
    ids=["expbias", "rowref", "rowref_max"],
)
def test_recorded_dumps(
    codec: Codec, front: float, all_layers: float, by_prompt: tuple[float, ...], every: int
) -> None:
    """Ratios of all chunks, none of them larger than with adaptive_v22."""
    payloads, ratio = measure_ratios(codec)
    assert ratio(lambda chunk: chunk.layer < 2) > front
    assert ratio(lambda chunk: True) > all_layers
    for run_id, floor in zip(PROMPTS, by_prompt, strict=True):
        assert ratio(lambda chunk, run_id=run_id: chunk.run_id == run_id) > floor
    other = get_codec("adaptive_v22")
    larger = [
        (chunk.run_id, chunk.layer, chunk.stream.tensor, len(payload))
        for chunk, payload in zip(all_chunks(), payloads, strict=True)
        if len(payload) > len(other.encode(chunk.stream))
    ]
    assert larger == []
    check_decodes(codec, payloads, every=every)


def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowref_max, "compiled", lambda: None)


def _faint() -> Stream:
    """Rows that are a hundredth of an earlier one: its weight is rounded to none."""
    row = np.random.default_rng(12).normal(0, 1, (1, 1, 64))
    rows = np.concatenate([100 * row, -100 * row, *(row * sign for sign in [1, -1] * 8)])
    return Stream(rows.astype(np.float16).view(np.uint16), "v")


COMPARED = {
    "faint": _faint(),
    **{f"{s.tensor}{i}": cut(s, 0, 60) for i, s in enumerate(real_streams())},
    **{name: Stream(words[:50], "k", None, ROPE) for name, words in worst_words().items()},
    "interleaved": Stream(real_streams()[0].words[:40], "k", None, Rope(1e4, "interleaved")),
    "bf16 k": as_dtype(cut(real_streams()[0], 0, 60), "bf16"),
    "bf16 v": as_dtype(cut(real_streams()[3], 0, 60), "bf16"),
    **{f"bf16 {name}": Stream(words[:50], "k", None, ROPE, "bf16") for name, words in worst_words().items()},
    "three rows": cut(real_streams()[0], 0, 3),
    "most channels wide": Stream(np.resize(worst_words()["specials"], (2, 1, 5000)), "v"),
}


@pytest.mark.parametrize("name", COMPARED)
def test_compiled_and_interpreted_are_the_same_to_the_bit(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert rowref_max.compiled() is not None
    stream = COMPARED[name]
    payload = MAX.encode(stream)
    _interpreted(monkeypatch)
    assert MAX.encode(stream) == payload
    assert np.array_equal(MAX.decode(payload, stream.side_info()), stream.words)


def test_goldens_decode_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    _interpreted(monkeypatch)
    check_goldens(MAX.id)


def test_compiled_code_fuses_no_operations() -> None:
    """A fused multiplication and addition rounds once instead of twice: other bits than on a machine without one."""
    from numba import njit

    from pytest_h2o.codecs.compiled import OPTIONS

    def add_products(sums: np.ndarray, ones: np.ndarray, others: np.ndarray) -> None:
        for i in range(len(sums)):
            sums[i] += ones[i] * others[i]

    kernel = njit(**OPTIONS)(add_products)
    kernel(*np.ones((3, 8)))
    (code,) = kernel.inspect_asm().values()
    assert "mul" in code
    assert not re.search(r"fn?m(add|sub)|fml[as]", code)


def test_the_loops_are_plain_python_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not compiled, where coverage sees them: the same bytes again, and a payload that is cut ends them."""
    import numba

    from pytest_h2o.codecs import compiled

    streams = [cut(real_streams()[0], 0, 16), cut(real_streams()[1], 0, 4), COMPARED["faint"]]
    streams.append(cut(COMPARED["interleaved"], 0, 4))
    small = [replace(stream, words=stream.words[:, :1]) for stream in streams]
    small.append(Stream(np.ascontiguousarray(real_streams()[1].words[:3, :1, :32]), "v"))  # its bits fill whole bytes
    payloads = [MAX.encode(stream) for stream in small]  # the first loads what of numba must not be patched
    monkeypatch.setattr(numba, "njit", lambda **_: lambda function: function)
    spec = importlib.util.spec_from_file_location("loops", compiled.__file__)
    loops = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loops)
    monkeypatch.setattr(rowref_max, "compiled", lambda: loops)
    for stream, payload in zip(small, payloads, strict=True):
        with np.errstate(over="ignore"):
            assert MAX.encode(stream) == payload
            assert np.array_equal(MAX.decode(payload, stream.side_info()), stream.words)
    ones, weighed = np.ones(12), np.empty(12)
    instructive = loops._squares(ones, np.zeros(12), False, ones, ones, np.empty(12), weighed)
    assert (instructive, weighed[0]) == (False, 1.0)  # between two scales: the sum is taken in its own order
    for damaged in (payloads[0][:-20], payloads[0][:6] + b"\xff" + payloads[0][7:]):  # cut, or too few words are in it
        with pytest.raises(CodecError), np.errstate(over="ignore"):
            MAX.decode(damaged, small[0].side_info())


def test_damage_is_safe_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    _interpreted(monkeypatch)
    stream = cut(real_streams()[0], 0, 12)
    check_payload_damage(MAX, stream, MAX.encode(stream), samples=4)


def test_rowref_max_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    rowref_max.compiled.cache_clear()
    monkeypatch.setitem(sys.modules, "pytest_h2o.codecs.compiled", None)
    assert rowref_max.compiled() is None
    rowref_max.compiled.cache_clear()


def test_loops_are_compiled_where_nothing_can_be_kept() -> None:
    from pytest_h2o.codecs.compiled import can_cache

    def without_a_folder(cache: bool) -> Callable[[object], object]:
        raise RuntimeError("cannot cache function: no locator available")

    assert not can_cache(without_a_folder)
    assert can_cache(lambda cache: lambda function: function)


def test_numba_is_not_loaded_without_rowref_max() -> None:
    program = "import sys; from pytest_h2o.codecs.registry import BUILT_IN, get_codec; [*map(get_codec, BUILT_IN)]"
    subprocess.run([sys.executable, "-c", program + "; assert 'numba' not in sys.modules"], check=True)


def test_long_narrow_streams_take_no_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are left to rowref: a plan for each row costs more than it gains."""
    _interpreted(monkeypatch)
    words = np.random.default_rng(3).normal(0, 1, (70_000, 1, 1)).astype(np.float16).view(np.uint16)
    began = time.process_time()
    assert check_round_trip(MAX, Stream(words, "v"))[0] < 64
    assert time.process_time() - began < 20


@pytest.mark.parametrize("codec", [ExpBias(), CODEC, MAX], ids=lambda codec: codec.id)
def test_a_stream_too_large_is_refused_before_it_is_copied(codec: Codec) -> None:
    words = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint16), (1 << 20, 300, 1), (0, 0, 0))
    with pytest.raises(CodecError, match="cannot be coded"):
        codec.encode(Stream(words, "v"))


@pytest.mark.parametrize(
    ("codec", "payload", "shape"),
    [
        (ExpBias(), b"\x03\x02", (2, 3, 64)),
        (CODEC, b"\x20\x05\x01\x01" + b"\x00" + b"\x00" + b"\x80\x00" + b"\x01" * 4 + bytes(10), (5, 1, 1)),
    ],
    ids=["cut short", "a long chain"],
)
def test_damage_is_named(
    codec: Codec, payload: bytes, shape: tuple[int, int, int], snapshot: SnapshotAssertion
) -> None:
    assert error_text(CodecError, codec.decode, payload, SideInfo("v", shape)) == snapshot


def _keys(rope: Rope, positions: np.ndarray, repeats: int) -> Stream:
    """Keys of few distinct tokens, turned to their positions as a runtime would, in float64."""
    rng = np.random.default_rng(8)
    tokens = rng.normal(0, 1, (len(positions) // repeats + 1, 2, 32)) + rng.normal(0, 3, (1, 2, 32))
    rows = tokens[rng.integers(0, len(tokens), len(positions))]
    angle = positions[:, None] * rope.theta ** (-np.arange(16) / 16)
    cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    turned = np.empty_like(rows)
    first, second = (slice(0, 16), slice(16, 32)) if rope.pairing == "half" else (slice(0, 32, 2), slice(1, 32, 2))
    turned[..., first] = rows[..., first] * cos - rows[..., second] * sin
    turned[..., second] = rows[..., first] * sin + rows[..., second] * cos
    return Stream(turned.astype(np.float16).view(np.uint16), "k", positions, rope)


@pytest.mark.parametrize("rope", [Rope(1e4), Rope(1e6, "interleaved"), Rope(54_321.25)])
def test_the_rotation_between_two_positions_is_removed(rope: Rope) -> None:
    positions = np.arange(100, 400)
    stream = _keys(rope, positions, repeats=8)
    turned_back = len(check_round_trip(CODEC, stream))
    as_they_are = len(check_round_trip(CODEC, Stream(stream.words, "v", positions)))
    assert turned_back < 0.7 * as_they_are


@pytest.mark.parametrize("rope", [Rope(1e4), Rope(1e5), Rope(5e5, "interleaved")])
def test_an_unknown_rotation_is_found(rope: Rope) -> None:
    stream = _keys(rope, np.arange(300), repeats=8)
    unknown = Stream(stream.words, "k")
    assert abs(len(check_round_trip(CODEC, unknown)) - len(CODEC.encode(stream))) <= 2


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (None, Rope(1e5)),  # found: it is that of the recordings
        (Rope(1e5), Rope(1e5)),
        (Rope(77_777.5, "interleaved"), Rope(77_777.5, "interleaved")),
        (Rope(0.5), None),  # no rotation can be built from it
    ],
    ids=str,
)
def test_the_rotation_that_was_used_is_in_the_header(given: Rope | None, written: Rope | None) -> None:
    stream = next(chunk.stream for chunk in all_chunks() if chunk.stream.tensor == "k")
    reader = ByteReader(CODEC.encode(replace(stream, rope=given)))
    read_mode(reader, stream.side_info(), CODEC.id)
    rope, positions = read_turned_header(reader, stream.side_info())
    assert rope == written
    if rope is not None:
        assert np.array_equal(positions, stream.positions)


def test_keys_that_are_not_finite_are_not_turned() -> None:
    stream = _keys(Rope(1e4), np.arange(200), repeats=8)
    words = stream.words.copy()
    words[50, 1, 3] = 0x7E01
    check_round_trip(CODEC, replace(stream, words=words))


def test_segments_and_jumps_of_position(monkeypatch: pytest.MonkeyPatch) -> None:
    positions = np.concatenate([np.arange(7), np.arange(500), np.arange(100_000, 100_093)])
    check_round_trip(CODEC, _keys(Rope(1e4), positions, repeats=5))
    monkeypatch.setattr(rowref_max, "SEGMENT_ROWS", 40)
    tokens = np.random.default_rng(10).normal(0, 1, (20, 1, 60)).astype(np.float16).view(np.uint16)
    for rows in (40, 42):
        check_round_trip(MAX, Stream(np.resize(tokens, (rows, 1, 60)) ^ 1, "v"))


@pytest.mark.parametrize("theta", [1.0, 1e4, 123_456.789])
@pytest.mark.parametrize("head_dim", [2, 64, 128])
def test_cosine_and_sine_are_rounded_to_a_step(theta: float, head_dim: int) -> None:
    rotation = build_rotation(Rope(theta), head_dim)
    distances = np.array([*range(-300, 300), -1_000_000, 131_072, 999_999])
    cos, sin = rotation.cos_sin(distances)
    angle = distances[:, None] * theta ** (-np.arange(head_dim // 2) / (head_dim // 2))
    assert np.abs(cos[:, : head_dim // 2] - np.cos(angle)).max() < 2.0**-16 * 1.01
    assert np.abs(sin[:, head_dim // 2 :] - np.sin(angle)).max() < 2.0**-16 * 1.01
    assert np.array_equal(sin[:, : head_dim // 2], -sin[:, head_dim // 2 :])
    assert np.array_equal(cos * 2**15, np.rint(cos * 2**15))


def test_recorded_angles() -> None:
    """Frequencies and table entries are part of the format: they must never change."""
    rotation = build_rotation(Rope(1e5), 64)
    assert rotation.steps[:2] == (2935890503282001226, 2048754186989806249)
    cos, sin = rotation.cos_sin(np.array([1, 191, 5000]))
    assert (cos[:, [0, 9, 31]] * 2**15).tolist() == [[17705, 32743, 32768], [-26339, 11506, 32768], [5068, 4574, 32684]]
    assert (sin[:, [32, 41, 63]] * 2**15).tolist() == [[27573, 1286, 0], [19494, 30682, 90], [-32374, 32447, 2346]]


@pytest.mark.parametrize("heads", [3, 300])
@pytest.mark.parametrize("far", [0, 1000])
@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_rows_are_turned(pairing: str, far: int, heads: int) -> None:
    """Near and far distances, with rows too wide for a table of them as well."""
    rotation = build_rotation(Rope(1e4, pairing), 8)  # type: ignore[arg-type]
    rows = np.random.default_rng(0).normal(0, 1, (20, heads, 8)).astype(np.float32)
    distances = np.arange(20) * 3 - 30 + far
    turned = Turner(rotation, heads).turn(rows.reshape(20, -1).copy(), distances).reshape(rows.shape)
    first, second = rotation.first_and_second(1)
    pairs = rows[..., first] + 1j * rows[..., second]
    expected = pairs * np.exp(1j * distances[:, None, None] * 1e4 ** (-np.arange(4) / 4))
    assert np.abs(turned[..., first] - expected.real).max() < 1e-3
    assert np.abs(turned[..., second] - expected.imag).max() < 1e-3


def test_very_wide_rows_are_left_to_rowref() -> None:
    words = np.random.default_rng(11).normal(0, 1, (3, 1, (1 << 14) + 1)).astype(np.float16).view(np.uint16)
    assert check_round_trip(MAX, Stream(words, "v"))[0] != 64


@pytest.mark.parametrize(
    ("expected", "variance"), [(-3.25, 2.0**-30), (65504.0, 2.0**40), (1e-7, 2.0**-90), (2.0, 2.0**70)]
)
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_every_word_has_a_share_of_the_distribution(expected: float, variance: float, dtype: DType) -> None:
    """Whatever is expected, all 65,536 patterns can be coded, and found again."""
    patterns = np.arange(PATTERNS, dtype=np.int64)
    slope = slopes_of(np.full(PATTERNS, variance))
    mean = np.full(PATTERNS, expected)
    edges = NUMBERS[dtype].edges
    low = cumulated(patterns, mean, slope, edges)
    high = cumulated(patterns + 1, mean, slope, edges)
    assert (low[0], high[-1]) == (0, 1 << TOTAL_BITS)
    assert np.array_equal(low[1:], high[:-1])
    assert (high > low).all()
    for slots in (low, high - 1):
        found, begin, width = find_patterns(slots, mean, slope, 0, NUMBERS[dtype])
        assert np.array_equal(found, patterns)
        assert np.array_equal(begin, low)
        assert np.array_equal(width, high - low)
    found, _, _ = find_patterns(low, mean, slope, 8, NUMBERS[dtype])
    assert np.array_equal(found, patterns & ~255)


def test_recorded_shares() -> None:
    """Payloads decode with these numbers alone: they must never change."""
    slopes = slopes_of(np.array([2.0**-30, 0.3, 1.0, 7.5, 2.0**33])).tolist()
    expected = [230078893540.50363, 12917590.334104616, 7021450.608535877, 2582194.2040300136, 75.7585958719197]
    assert slopes == expected
    boundary = np.array([20000, 32768, 47000, 48128, 50000])
    shares = cumulated(boundary, np.full(5, 0.5), slopes_of(np.full(5, 0.3)), NUMBERS["fp16"].edges)
    assert shares.tolist() == [1834889, 2983266, 8074732, 13807480, 16760673]
