"""Which rows a verdict may rest on."""

import contextlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench import adapter
from pytest_h2o.bench.adapter import (
    BenchAdapter,
    LlmBench,
    check_baseline_row,
    check_config,
    check_decoded,
    check_elapsed,
    check_row,
    describe_floor,
    get_adapter,
    is_idle,
    only_row,
    register_adapter,
)
from pytest_h2o.bench.command import BaseConfig, BenchSettings, RunFiles
from pytest_h2o.bench.rows import COLUMN_DECIMALS, H2O_COLUMNS, Row, parse_table, read_table
from pytest_h2o.errors import TableError, UsageError
from pytest_h2o.inputs.presets import Point

from .samples import FIXTURES, OTHER, SWEEP, recorded_points, refusal
from .test_signs import summarize

POINT = recorded_points()[0]
SETTINGS = BenchSettings(("llm_bench",), threads=2)
(ROW,) = read_table(SWEEP / "logs" / f"{POINT.run_id}.log", log_file="x.log", repeat=3)
(BASELINE,) = read_table(OTHER / "baseline_h2o_off.log", log_file="b.log", repeat=3)
IDLE = {"h2o_keep": "1.0000 ± 0.0000", "h2o_lossy": "1.000 ± 0.000", "h2o_floor_keep": "1.0000 ± 0.0000"}


def changed(row: Row = ROW, **cells: str | None) -> Row:
    """A row with other cells; None takes a cell away."""
    merged = {**row.cells, **{name.replace("speed", "speed(tok/s)"): cell for name, cell in cells.items()}}
    kept = {name: cell for name, cell in merged.items() if cell is not None}
    return Row.from_cells(kept, log_file=row.log_file, repeat=row.repeat)


@dataclass(frozen=True)
class Mine(LlmBench):
    """An adapter of a plugin."""

    name: str = "mine"


ASKED: dict[str, tuple[object, ...]] = {
    "check_options": ({},),
    "run_config": (BaseConfig(Path("model.json"), {}, "x"), POINT),
    "argv": (SETTINGS, RunFiles(Path(), "x"), POINT, {}),
    "recognises": ("text",),
    "parse": ("text",),
    "is_row_of": (ROW, POINT),
    "check": (ROW, POINT),
}


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> BenchAdapter:
    monkeypatch.setattr(adapter, "_ADAPTERS", dict(adapter._ADAPTERS))
    register_adapter(Mine())
    return get_adapter("mine")


@pytest.mark.parametrize("method", ASKED)
@pytest.mark.parametrize(
    "raised", [ZeroDivisionError("x"), SystemExit(0), TableError("said well"), 3, "text", [1], {1: {2}}]
)
def test_whatever_goes_wrong_in_an_adapter_is_told_with_its_name(
    method: str, raised: object, mine: BenchAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misbehave(*given: object, **more: object) -> object:
        if isinstance(raised, BaseException):
            raise raised
        return raised

    monkeypatch.setattr(Mine, method, misbehave)
    if method == "check" and not isinstance(raised, BaseException):
        assert mine.check(ROW, POINT) is None  # type: ignore[func-returns-value]
    elif (method, raised) == ("check_options", "text"):
        assert mine.check_options({}) == "text"
    else:
        with pytest.raises(TableError) as caught:
            getattr(mine, method)(*ASKED[method])
        assert caught.value is raised or caught.value.what == f"the bench adapter mine failed in {method}()"


def test_what_is_no_adapter_is_refused() -> None:
    for lacks in ({"name": 3}, {"name": ""}, {"rows_on_stdout": None}, {"uncompressed": None}):
        with pytest.raises(UsageError, match="is no bench adapter"):
            register_adapter(Mine(**lacks))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no attribute 'uncompressed'"):
        register_adapter(SimpleNamespace(name="x", parse=len))  # type: ignore[arg-type]


def test_recorded_rows_are_sound() -> None:
    for point in recorded_points():
        (row,) = read_table(SWEEP / "logs" / f"{point.run_id}.log")
        check_row(row, point, SETTINGS)
    check_row(ROW, None)
    check_baseline_row(BASELINE, POINT, replace(SETTINGS, backend="CPU"))
    without = {name: None for name in BASELINE.cells if name.startswith("h2o")}
    check_baseline_row(changed(BASELINE, **without), POINT)


UNSOUND: list[dict[str, str | None]] = [
    {"llm_demo": "prompt=256<br>decode=128"},
    {"llm_demo": "prompt=512<br>decode=64"},
    {"llm_demo": None},
    {"threads": "4"},
    {"threads": None},
    {"backend": None},
    {"h2o_lossy": "nan ± nan"},
    {"h2o_lossy": "inf ± 0.0"},
    {"h2o_lossy": "0.000 ± 0.000"},
    {"h2o_keep": "-0.1 ± 0.0"},
    {"h2o_keep": "0.00005", "h2o_lossy": "99999"},
    {"h2o_keep": "1e-300", "h2o_lossy": "1e300"},
    {"h2o_keep": "1.2 ± 0.0"},
    {"h2o_floor_keep": "-1"},
    {"h2o_lossless": "-nan ± 0"},
    {"speed": None},
    {"speed": "1 ± 0<br>inf ± nan"},
    {"quality_evictions": "0"},
    {"quality_tokens": "0.0"},
    {"quality_cache_ratio": "1.000"},
]


def test_rows_that_no_verdict_may_rest_on(snapshot: SnapshotAssertion) -> None:
    told = {str(cells): refusal(partial(check_row, changed(**cells), POINT, SETTINGS)) for cells in UNSOUND}
    assert told == snapshot


def test_idle_rows_say_why(snapshot: SnapshotAssertion) -> None:
    row = changed(**IDLE)
    assert is_idle(row)
    assert not is_idle(ROW)
    assert refusal(lambda: check_row(row, replace(POINT, trigger_min_tokens=641))) == snapshot
    assert refusal(lambda: check_row(row, POINT)) == snapshot
    assert refusal(lambda: check_row(changed(h2o_codec_us=None), POINT)) == snapshot


def test_a_row_that_keeps_all_for_no_floor_is_idle() -> None:
    row = changed(h2o_keep="1.0000 ± 0.0000", h2o_lossy="1.000 ± 0.000", h2o_floor_keep="0.0500 ± 0.0000")
    with pytest.raises(TableError, match="H2O is on but did nothing") as caught:
        check_row(row, POINT)
    assert caught.value.came == "keep and lossy of exactly 1"
    check_row(replace(row, output=summarize("[H2O] floor-keep dominates target: kv=80\n")), POINT)
    check_row(row, replace(POINT, trigger_min_tokens=640))
    check_row(row, None)


def test_a_baseline_with_h2o_on_is_none(snapshot: SnapshotAssertion) -> None:
    assert refusal(lambda: check_baseline_row(ROW, POINT)) == snapshot
    with pytest.raises(TableError, match="another generated length"):
        check_baseline_row(changed(BASELINE, llm_demo="prompt=512<br>decode=1"), POINT)


def test_only_row(snapshot: SnapshotAssertion) -> None:
    assert only_row([ROW], "x.log") is ROW
    assert refusal(lambda: only_row(read_table(OTHER / "appended.log"), "appended.log")) == snapshot


@pytest.mark.parametrize(("keep", "lossy"), [("0.2960 ± 0.0", "30.380 ± 0.0"), ("1.0000 ± 0.0", "3.380 ± 0.0")])
def test_a_row_that_contradicts_itself(keep: str, lossy: str, snapshot: SnapshotAssertion) -> None:
    assert refusal(lambda: check_row(changed(h2o_keep=keep, h2o_lossy=lossy), POINT)) == snapshot


SELF = "the row contradicts itself: "


@pytest.mark.parametrize(
    ("cells", "what"),
    [
        ({"keep": "0.3000 ± 0.0", "lossy": "2.100 ± 0.0"}, "its lossy ratio is below what its keep ratio gives"),
        ({"keep": "0.0016 ± 0.0", "lossy": "600.000 ± 0.0"}, "it keeps fewer tokens than it protects"),
        ({"floor_keep": "0.3379 ± 0.0", "keep": "0.3377 ± 0.0"}, "it keeps fewer tokens than it protects"),
        ({"quantized_keep": "0.3379 ± 0.0", "keep": "0.3377 ± 0.0"}, "it keeps fewer tokens than its plan"),
        (
            {"keep": "0.5000 ± 0.706", "lossy": "50.000 ± 60.0"},
            "its lossy ratio is above what its protected tokens leave",
        ),
        ({"keep": "0.6520 ± 0.4920", "lossy": "2.200 ± 1.6190"}, "its lossy ratio is above what its keep ratio leaves"),
        ({"lossless": "3.800 ± 0.0"}, "its lossless ratio is not that of its sizes"),
        ({"lossless": "1.750 ± 0.0"}, "its lossless ratio is not that of its sizes"),
    ],
    ids=str,
)
def test_ratios_that_cannot_stand_in_one_row(cells: dict[str, str], what: str) -> None:
    sizes = {"h2o_lossless_raw_mb": "0.05 ± 0.00", "h2o_lossless_comp_mb": "0.02 ± 0.00", "h2o_lossless": "2.504 ± 0.0"}
    row = replace(changed(**{**sizes, **{f"h2o_{name}": cell for name, cell in cells.items()}}), repeat=2)
    with pytest.raises(TableError) as caught:
        check_row(row, None)
    assert caught.value.what == SELF + what


@pytest.mark.parametrize(
    ("rise", "full", "evicted", "is_sound"),
    [
        ("0.001", "10", "20", False),
        ("1.0", "10", "20", True),
        ("0.00296830", "18.3112", "18.3656", True),
        ("0.00306830", "18.3112", "18.3656", False),
        ("0.0034", "18.3", "18.4", True),
        ("0.02", "18.30", "18.40", False),
        ("0.02", "18.30", "18.40 ± 0.30", True),
        ("1e-3", "1.00000e+1", "1.00100e+1", True),
        ("0.001", "inf", "20", False),
        ("0.001", "10", "nan", False),
        ("0.001", "-10", "20", False),
        ("nan", "10", "20", True),
    ],
)
def test_a_rise_in_perplexity_is_that_of_its_perplexities(rise: str, full: str, evicted: str, is_sound: bool) -> None:
    row = changed(quality_ppl_rise=rise, quality_ppl_full=full, quality_ppl_evicted=evicted)
    if is_sound:
        return check_row(row, POINT)
    with pytest.raises(TableError) as caught:
        check_row(row, POINT)
    assert caught.value.what == SELF + "its rise in perplexity is not that of its perplexities"
    came = f"quality_ppl_rise {float(rise):g} beside quality_ppl_full {float(full):g} and quality_ppl_evicted "
    assert (caught.value.came or "").startswith(came)
    return None


BITS = ("quality_bits_per_byte_full", "quality_bits_per_byte_evicted", "quality_ppl_rise", "quality_ppl_full")


@pytest.mark.parametrize(
    ("cells", "is_sound"),
    [
        (("1.67114", "1.67284", "0.00296830", "18.3112"), True),
        (("1.67114", "1.67294", "0.00296830", "18.3112"), False),
        (("1.67114", "1.67274", "0.00296830", "18.3112"), False),
        (("1.67114", "1.67284", "-0.00296830", "18.3112"), False),
        (("1.67114", "1.80000", "0.00296830", "18.3112"), False),
        (("1.67", "1.67", "0.00296830", "18.3112"), True),
        (("1.67114", "1.66944", "-0.00296830", "18.3"), True),
        (("1.67114", "1.80000", "0.00296830", None), True),
        (("1.67114", "1.67000", "0.00296830", None), False),
        (("1.67114", "1.67284", None, "18.3112"), True),
        (("0", "0", "0.00296830", "18.3112"), True),
    ],
)
def test_bits_a_byte_are_those_of_the_perplexities(cells: tuple[str | None, ...], is_sound: bool) -> None:
    row = changed(**{name: cell for name, cell in zip(BITS, cells, strict=True) if cell is not None})
    with contextlib.nullcontext() if is_sound else pytest.raises(TableError, match="its bits a byte are not those of"):
        check_row(row, POINT)


def test_bits_a_byte_are_held_against_perplexities_without_their_rise() -> None:
    row = dict(zip(BITS, ("1.67114", "1.67284"), strict=False)) | {"quality_ppl_full": "18.3112"}
    check_row(changed(**row, quality_ppl_evicted="18.3656"), POINT)
    with pytest.raises(TableError, match="its bits a byte are not those of"):
        check_row(changed(**row, quality_ppl_evicted="18.3956"), POINT)


def test_a_row_of_several_steps_is_sound_where_the_engine_said_that_the_floor_dominates(
    snapshot: SnapshotAssertion,
) -> None:
    said = summarize("[H2O] floor-keep dominates target: kv=270 target=85 floor=86 (sink=16 recent=64 block=8)\n" * 3)
    cells = {"h2o_floor_keep": "0.5000 ± 0.0", "h2o_quantized_keep": "0.5000 ± 0.0"}
    with pytest.raises(TableError, match="it keeps fewer tokens than it protects") as caught:
        check_row(changed(**cells), POINT)
    assert "the engine did not say that the floor dominates (kv_h2o_log_stats)" in str(caught.value)
    row = replace(changed(**cells), output=said)
    check_row(row, POINT)
    assert describe_floor(row) == snapshot
    assert describe_floor(replace(ROW, output=said)) is None


STATISTICS = "[H2O-LOSSLESS] layer=0 kv=520 start=16 tokens={} raw=1 attempt_comp=1 eff_comp=1 mode=1\n"
CODES = {**dict.fromkeys(("kv_lossless_enable", "kv_lossless_runtime_enable"), True), "kv_lossless_block_tokens": 64}
STEPS = {"kv_lossless_store_bootstrap_tokens": 16, "kv_lossless_store_grouped_step_tokens": 96}


@pytest.mark.parametrize(
    ("mode", "config", "sound", "wrong"),
    [
        ("probe", {}, (8, 32, 64), 48),
        (None, {}, (32, 64), 33),
        ("full", {}, (64,), 32),
        ("store", STEPS, (16, 96), 64),
        ("store", {}, (32, 256, 64), 128),
    ],
)
def test_blocks_have_the_size_that_was_asked_for(
    mode: str | None, config: dict[str, int], sound: tuple[int, ...], wrong: int
) -> None:
    told = {**CODES, **config, "kv_lossless_runtime_mode": mode}
    row = replace(ROW, output=summarize("".join(map(STATISTICS.format, sound))))
    check_config(row, told)
    check_config(ROW, told)
    bad = replace(ROW, output=summarize("".join(map(STATISTICS.format, (*sound, wrong, wrong)))))
    check_config(bad, {**told, "kv_lossless_enable": False})
    with pytest.raises(TableError, match="blocks were coded in another size than asked") as caught:
        check_config(bad, told)
    assert caught.value.came == f"2 x {wrong} tokens"


PPL = {"quality_ppl_full": "15", "quality_ppl_evicted": "15.1", "quality_top1_agreement": "0.9"}
QUALITY = {"quality_tokens": 64, "quality_windows": 2, "quality_greedy_tokens": 32}


@pytest.mark.parametrize(
    ("sound", "worse", "what"),
    [
        (PPL, PPL | {"quality_top1_agreement": "0.06"}, "its caches hardly ever rank the same token first"),
        (PPL | {"quality_top1_agreement": "0.07"}, PPL | {"quality_top1_agreement": "0.0"}, "its caches hardly ever"),
        ({"quality_top1_agreement": "0", "quality_ppl_rise": "3"}, {"quality_top1_agreement": "0",
          "quality_ppl_rise": "0.01"}, "its caches hardly ever"),
        ({"quality_greedy_prefix": "0.5", "quality_greedy_equal": "0.02"}, {"quality_greedy_prefix": "0.5",
          "quality_greedy_equal": "0.0000"}, "texts with a common prefix have no equal token"),
        ({"quality_tokens": "128"}, {"quality_tokens": "127"}, "its quality_tokens is not what was asked"),
        ({"quality_tokens": "128"}, {"quality_tokens": "9999"}, "its quality_tokens is not what was asked"),
        ({"quality_evictions": "9000"}, {"quality_evictions": "1e9"}, "its quality_evictions is not what was asked"),
        ({"quality_greedy_prefix": "32"}, {"quality_greedy_prefix": "32.1"}, "its quality_greedy_prefix is not what"),
        ({"quality_tokens": "128"}, {"quality_tokens": "127.5"}, "a count is no whole number"),
        ({"quality_tokens": "128", "quality_evictions": "9"}, {"quality_tokens": "128", "quality_evictions": "3e5"},
         "it has more evictions than plans"),
        ({"h2o_lossless_decode_cache_hit": "4e8"}, {"h2o_lossless_decode_cache_hit": "5e8"}, "it restored more blocks"),
        ({"decode_tokens": "129"}, {"decode_tokens": "130"}, "more tokens were decoded than asked"),
        ({"decode_tokens": "128"}, {"decode_tokens": "9999"}, "more tokens were decoded than asked"),
        ({"h2o_evict_us": "3e7"}, {"h2o_evict_us": "7e7"}, "a part of a repeat took longer than the repeat"),
    ],
)  # fmt: skip
def test_a_row_is_held_against_what_was_asked_and_against_itself(
    sound: dict[str, str], worse: dict[str, str], what: str
) -> None:
    def check(cells: dict[str, str]) -> None:
        row = changed(**cells)
        check_row(row, POINT, SETTINGS)
        check_config(row, QUALITY)
        check_decoded(row)
        check_config(row, {})

    check(sound)
    with pytest.raises(TableError, match=f"the row contradicts itself: {what}"):
        check(worse)
    with pytest.raises(TableError, match="its launch took no time that can be"):
        check_elapsed(replace(ROW, elapsed_s=-1.0))


def test_fewer_tokens_than_asked_are_told() -> None:
    check_decoded(ROW)
    check_decoded(changed(decode_tokens="128.00 ± 0.00"))
    told = summarize("decode tokens num = 128\ndecode tokens num = 53\n")
    for row in (changed(decode_tokens="53.00 ± 0.00"), replace(ROW, output=told)):
        with pytest.raises(TableError, match="fewer tokens were decoded than asked") as caught:
            check_decoded(row)
        assert caught.value.came == "53 of 128"


UNLIKE = {"h2o_keep": "0.6520 ± 0.4920", "h2o_lossy": "2.145 ± 1.619", "h2o_quantized_keep": "0.6520 ± 0.4920"}


LOW = dict.fromkeys(("h2o_floor_keep", "h2o_quantized_keep"), "0.0010 ± 0.0")


@pytest.mark.parametrize(
    "cells",
    [
        {"h2o_floor_keep": "0.0000 ± 0.0000"},
        {**IDLE, "h2o_floor_keep": "0.9000 ± 0.0000"},  # its floor binds
        UNLIKE,  # repeats: one evicted nothing, one kept 0.304: 1.0 and 3.29 make 2.145 ± 1.619, keep 0.652 ± 0.492
        # A mean of ratios may be a little above the ratio of means.
        *(
            {"h2o_keep": f"{keep} ± 0.0", "h2o_lossy": f"{lossy} ± 0.0", **LOW}
            for keep, lossy in (("0.2960", "3.400"), ("0.0010", "1040.000"), ("1.0000", "1.010"))
        ),
    ],
    ids=str,
)
def test_rows_that_a_verdict_may_rest_on(cells: dict[str, str]) -> None:
    row = changed(**cells)
    check_row(replace(row, repeat=2), POINT)
    assert describe_floor(row) is None


SHORT = replace(recorded_points()[0], gen_len=64, recent_tokens=64)
HOT = {"kv_lossless_hot_recent_tokens": 64, "kv_lossless_hot_sink_tokens": 16, "kv_lossless_block_tokens": 64}
BOTH = {"kv_lossless_scope": "front_n_and_h2o_kept", "kv_lossless_runtime_mode": "store", **HOT}
NOTHING = {
    "h2o_lossless": "1.000 ± 0.000",
    "h2o_lossless_raw_mb": "0.00 ± 0.00",
    "h2o_lossless_comp_mb": "0.00 ± 0.00",
    "h2o_lossless_comp_us": "0.00 ± 0.00",
    "h2o_lossless_decomp_us": "0.00 ± 0.00",
}


def with_lossless(point: Point, **keys: object) -> Point:
    return replace(point, lossless={**point.lossless, **{f"kv_lossless_{key}": value for key, value in keys.items()}})


def engine_rows() -> dict[str, Row]:
    text = (FIXTURES / "recordings" / "other" / "engine_modes.log").read_text(encoding="utf-8")
    rows = parse_table(text, log_file="engine_modes.log", repeat=3)
    return dict(zip(("probe", "store", "store_lr3.2", "ratio"), rows, strict=True))


ENGINE = engine_rows()
STORE = replace(SHORT, lossless={**SHORT.lossless, **BOTH})
FULL = with_lossless(STORE, runtime_mode="full")


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("probe", with_lossless(SHORT, runtime_mode="probe")),
        ("store", STORE),
        ("store_lr3.2", STORE),
        ("ratio", recorded_points()[0]),
    ],
)
def test_recorded_rows_of_every_mode_are_sound(name: str, point: Point) -> None:
    check_row(ENGINE[name], point)


def refuse(row: Row, point: Point) -> TableError:
    with pytest.raises(TableError) as caught:
        check_row(row, point)
    return caught.value


@pytest.mark.parametrize(
    "cells", [NOTHING, {"h2o_lossless": "1.000 ± 0.000"}, {k: NOTHING[k] for k in list(NOTHING)[1:]}]
)
@pytest.mark.parametrize("mode", ["probe", "full", "store", None])
def test_lossless_that_did_nothing_is_no_measurement(mode: str | None, cells: dict[str, str]) -> None:
    point = with_lossless(STORE, runtime_mode=mode)
    error = refuse(changed(ENGINE["store"], **cells), point)
    assert error.what == "lossless coding is on but did nothing: this row is no measurement of it"
    assert error.expected == "tokens coded: 495 are cold"


@pytest.mark.parametrize(
    ("keys", "one_less"),
    [
        ({"enable": False}, None),
        ({"runtime_enable": False}, None),
        ({"scope": "none"}, None),
        ({"scope": "front_n", "front_n": 0}, None),
        ({"scope": "front_n", "hot_recent_tokens": 496}, 495),  # 63 cold of 64
        ({"runtime_mode": "probe", "hot_recent_tokens": 528}, 527),  # 31 of 32
        ({"scope": "h2o_kept", "hot_recent_tokens": 434}, 433),  # a cut layer has 513 tokens at most: 63 of 64
        ({"store_disable_front": True, "hot_recent_tokens": 434}, 433),
    ],
    ids=str,
)
def test_nothing_is_coded_where_nothing_is_to_be(keys: dict[str, Any], one_less: int | None) -> None:
    """One token more has to be."""
    row = changed(ENGINE["store"], **NOTHING)
    check_row(row, with_lossless(STORE, **keys))
    if one_less is not None:
        assert "did nothing" in refuse(row, with_lossless(STORE, **{**keys, "hot_recent_tokens": one_less})).what


HIT, MISS = "h2o_lossless_decode_cache_hit", "h2o_lossless_decode_cache_miss"


@pytest.mark.parametrize(
    ("point", "cache"),
    [
        (STORE, {}),
        (FULL, {HIT: "0.00 ± 0.00"}),
        (FULL, {MISS: "1.00 ± 0.00"}),  # a miss is decoded
    ],
)
def test_a_mode_that_restores_nothing_is_no_measurement(point: Point, cache: dict[str, str]) -> None:
    row = changed(ENGINE["store"], h2o_lossless_decomp_us="0.00 ± 0.00", **cache)
    what = "lossless coding in MODE mode restored nothing: this row is no measurement of it"
    assert refuse(row, point).what == what.replace("MODE", str(point.lossless["kv_lossless_runtime_mode"]))
    check_row(row, with_lossless(point, runtime_mode="probe"))


def test_full_mode_may_find_all_that_it_coded_decoded_by_an_earlier_repeat(engine_recordings: Path) -> None:
    """As the engine did beside its dump: 2 hits, no miss, no time."""
    text = (engine_recordings / "dump" / "run.log").read_text("utf-8")
    (row,) = parse_table(text, log_file="run.log", repeat=1)
    point = replace(FULL, prompt_len=256, gen_len=24, trigger_min_tokens=128)
    check_row(row, point)
    with pytest.raises(TableError, match="restored nothing"):
        check_row(row, with_lossless(point, runtime_mode="store"))


@pytest.mark.parametrize("point", [STORE, FULL], ids=["store", "full"])
@pytest.mark.parametrize("column", [name for name in COLUMN_DECIMALS if name not in H2O_COLUMNS])
def test_a_column_of_the_mode_that_is_missing_is_an_older_binary(column: str, point: Point) -> None:
    error = refuse(changed(ENGINE["store"], **{column: None}), point)
    assert error.what.startswith("an older binary: it has no columns of the lossless runtime mode ")
    assert error.came == f"no {column}"
    check_row(changed(**{column: None}), recorded_points()[0])


@pytest.mark.parametrize("value", ["nan ± nan", "inf ± 0.00", "-1.00 ± 0.00"])
@pytest.mark.parametrize("column", ["h2o_lossless_raw_mb", "h2o_lossless_comp_us", "h2o_lossless_decomp_us"])
def test_a_value_that_cannot_be_is_not_sound(column: str, value: str) -> None:
    assert refuse(changed(ROW, **{column: value}), recorded_points()[0]).what == f"the row has no sound {column}"


def test_a_cache_below_the_trigger_and_a_small_model_code_nothing_that_shows() -> None:
    row = changed(ENGINE["store"], **NOTHING)
    check_row(row, replace(STORE, trigger_min_tokens=576))
    assert "did nothing" in refuse(row, replace(STORE, trigger_min_tokens=575)).what
    small = {"h2o_lossless_raw_mb": "0.00 ± 0.00", "h2o_lossless_comp_mb": "0.00 ± 0.00"}
    check_row(changed(ENGINE["store"], **small), STORE)
    for column in (HIT, MISS):
        row = changed(ENGINE["store"], **{"h2o_lossless_decomp_us": "0.00 ± 0.00", column: "nan ± nan"})
        assert refuse(row, FULL).what == f"the row has no sound {column}"
