"""Table and JSON of one launch, which must agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_h2o.bench.rows import Row, parse_table, read_rows
from pytest_h2o.errors import TableError

from .checks import check_error
from .samples import OTHER


def copy_pair(folder: Path, table: str, of_json: str) -> tuple[Path, Path]:
    (folder / "x.log").write_text(table, encoding="utf-8")
    (folder / "x.json").write_text(of_json, encoding="utf-8")
    return folder / "x.log", folder / "x.json"


def cells_of(rows: tuple[Row, ...]) -> list[dict[str, str]]:
    return [dict(row.cells) for row in rows]


TABLE, JSON = ((OTHER / f"multi.{kind}").read_text(encoding="utf-8") for kind in ("log", "json"))


def test_table_and_json_agree(tmp_path: Path) -> None:
    read = read_rows(*copy_pair(tmp_path, TABLE, JSON), log_file="x.log", repeat=2)
    assert read == parse_table(TABLE, log_file="x.log", repeat=2)


def test_a_missing_json_is_no_matter(tmp_path: Path) -> None:
    log, _ = copy_pair(tmp_path, TABLE, JSON)
    assert read_rows(log, None, log_file="x.log") == read_rows(log, tmp_path / "no.json", log_file="x.log")


def test_the_json_serves_if_the_log_is_empty(tmp_path: Path) -> None:
    read = read_rows(*copy_pair(tmp_path, "", JSON), log_file="x.log")
    assert cells_of(read) == cells_of(parse_table(TABLE, log_file="x.log"))
    assert {row.notes for row in read} == {("the log is empty; the row is from the JSON",)}


def test_the_table_serves_if_the_json_is_cut(tmp_path: Path) -> None:
    read = read_rows(*copy_pair(tmp_path, TABLE, JSON[:100]), log_file="x.log")
    assert cells_of(read) == cells_of(parse_table(TABLE, log_file="x.log"))
    assert {row.notes for row in read} == {
        ("its JSON was passed over (Unterminated string starting at); the row is from the table",)
    }


def test_a_damaged_table_is_an_error_whatever_the_json_says(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="the last row was cut"):
        read_rows(*copy_pair(tmp_path, TABLE[:-20], JSON), log_file="x.log")


@pytest.mark.parametrize(
    ("old", "new", "came"),
    [
        ('"decode_tps":56.7', '"decode_tps":57.7',
         "speed(tok/s): 212.54 ± 24.98<br>56.78 ± 2.83 in the table, 212.54 ± 24.98<br>57.78 ± 2.83 in the JSON"),
        ('"h2o_lossy_ratio":1.0', '"h2o_lossy_ratio":1.002',
         "h2o_lossy: 1.000 ± 0.000 in the table, 1.002 ± 0.000 in the JSON"),
        ('"backend":"CPU"', '"backend":"OPENCL"', "backend: CPU in the table, OPENCL in the JSON"),
    ],
)  # fmt: skip
def test_table_and_json_that_disagree(tmp_path: Path, old: str, new: str, came: str) -> None:
    assert old in JSON
    log, of_json = copy_pair(tmp_path, TABLE, JSON.replace(old, new))
    check_error(
        lambda: read_rows(log, of_json, log_file="x.log"),
        "table and JSON of one run disagree",
        "  where: x.log",
        f"  came: {came}",
        "  expected: the same rows in both",
        "  next: the bench or the disk failed while they were written: run this point again",
    )


def test_table_and_json_with_other_numbers_of_rows(tmp_path: Path) -> None:
    log, of_json = copy_pair(tmp_path, TABLE + TABLE, JSON)
    with pytest.raises(TableError) as caught:
        read_rows(log, of_json, log_file="x.log")
    assert caught.value.came == "4 rows in the table, 2 in the JSON"


def test_the_sign_of_nan_is_no_disagreement(tmp_path: Path) -> None:
    table = TABLE.replace("73.46 ± 3.81", "73.46 ± -nan").replace("1.000 ± 0.000", "-nan ± nan")
    of_json = JSON.replace('"decode_std":3.80824420573218', '"decode_std":')
    for key in ("lossy", "lossless"):
        of_json = of_json.replace(
            f'"h2o_{key}_ratio":1.0,"h2o_{key}_ratio_std":0.0', f'"h2o_{key}_ratio":,"h2o_{key}_ratio_std":'
        )
    read = read_rows(*copy_pair(tmp_path, table, of_json), log_file="x.log")
    assert {row.notes for row in read} == {()}
    infinite = TABLE.replace("270.39 ± 14.02", "inf ± inf")
    of_json = JSON.replace(
        '"prefill_tps":270.38500935417189,"prefill_std":14.022422445177279', '"prefill_tps":,"prefill_std":'
    )
    assert {row.notes for row in read_rows(*copy_pair(tmp_path, infinite, of_json), log_file="x.log")} == {()}
    with pytest.raises(TableError, match="table and JSON of one run disagree"):
        read_rows(*copy_pair(tmp_path, TABLE, of_json), log_file="x.log")
