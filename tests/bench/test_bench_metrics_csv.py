"""Rows as CSV and back."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pytest_h2o.bench.rows import Row, read_metrics_csv, read_table, render_metrics_csv, write_metrics_csv
from pytest_h2o.errors import StoreError, TableError

from .samples import RECORDINGS, SWEEP, recorded_points


def recorded_rows() -> list[Row]:
    names = [f"logs/{point.run_id}.log" for point in recorded_points()]
    return [row for name in names for row in read_table(SWEEP / name, log_file=name, repeat=3)]


def test_csv_equals_the_recorded_one() -> None:
    text = render_metrics_csv(recorded_rows())
    with (RECORDINGS / "h2o_metrics.expected.csv").open(encoding="utf-8", newline="") as file:
        expected = list(csv.DictReader(file))
    assert [list(row.items()) for row in csv.DictReader(text.splitlines())] == [list(row.items()) for row in expected]
    assert text.encode() == (RECORDINGS / "h2o_metrics.expected.csv").read_bytes()


def test_csv_is_read_back(tmp_path: Path) -> None:
    rows = recorded_rows()
    write_metrics_csv(tmp_path / "m.csv", rows)
    read = read_metrics_csv(tmp_path / "m.csv", repeat=3)
    assert list(read) == rows
    with pytest.raises(StoreError, match="a file that exists would be overwritten"):
        write_metrics_csv(tmp_path / "m.csv", rows)


def test_rows_of_unlike_binaries_keep_what_they_lack(tmp_path: Path) -> None:
    old = Row.from_cells({"model": 'a "b", c', "h2o_keep": "0.5"}, log_file="old.log")
    new = Row.from_cells({"model": "m", "zeta": "1", "alpha": "2\n3"}, log_file="new.log")
    write_metrics_csv(tmp_path / "m.csv", [old, new])
    assert (tmp_path / "m.csv").read_text(encoding="utf-8").split("\n")[0] == "model,h2o_keep,log_file,alpha,zeta"
    assert read_metrics_csv(tmp_path / "m.csv") == (old, new)
    assert read_metrics_csv(tmp_path / "m.csv")[1].get("h2o_keep") is None


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ("", "a CSV has no sound header", ":1"),
        ("a,a\n1,2\n", "a CSV has no sound header", ":1"),
        ("model,threads\n", "a CSV has no row", ""),
        ("model,threads\nm,2\nm\n", "a row of a CSV is damaged", ":3"),
        ("model,threads\nm,two\n", "the cell of threads cannot be read", ":2"),
        ('model,threads\n"m,2\n', "a CSV cannot be read", ":2"),
    ],
)
def test_csv_that_is_damaged(tmp_path: Path, text: str, what: str, where: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(TableError) as caught:
        read_metrics_csv(path)
    assert (caught.value.what, caught.value.where) == (what, f"{path}{where}")
