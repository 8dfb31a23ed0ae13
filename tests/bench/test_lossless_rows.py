"""Rows with lossless coding at run time: recorded ones of every mode are sound, one that did nothing is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_h2o.bench.adapter import check_row
from pytest_h2o.bench.rows import COLUMN_DECIMALS, H2O_COLUMNS, Row, parse_table
from pytest_h2o.errors import TableError
from pytest_h2o.inputs.presets import Point

from .samples import FIXTURES, recorded_points
from .test_adapter import ROW, changed

SHORT = replace(recorded_points()[0], gen_len=64, recent_tokens=64)
HOT = {"kv_lossless_hot_recent_tokens": 64, "kv_lossless_hot_sink_tokens": 16, "kv_lossless_block_tokens": 64}
BOTH = {"kv_lossless_scope": "front_n_and_h2o_kept", "kv_lossless_runtime_mode": "store", **HOT}
IDLE = {
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


@pytest.mark.parametrize("cells", [IDLE, {"h2o_lossless": "1.000 ± 0.000"}, {k: IDLE[k] for k in list(IDLE)[1:]}])
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
    row = changed(ENGINE["store"], **IDLE)
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
    row = changed(ENGINE["store"], **IDLE)
    check_row(row, replace(STORE, trigger_min_tokens=576))
    assert "did nothing" in refuse(row, replace(STORE, trigger_min_tokens=575)).what
    small = {"h2o_lossless_raw_mb": "0.00 ± 0.00", "h2o_lossless_comp_mb": "0.00 ± 0.00"}
    check_row(changed(ENGINE["store"], **small), STORE)
    for column in (HIT, MISS):
        row = changed(ENGINE["store"], **{"h2o_lossless_decomp_us": "0.00 ± 0.00", column: "nan ± nan"})
        assert refuse(row, FULL).what == f"the row has no sound {column}"
