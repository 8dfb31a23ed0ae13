"""Rows of every shape and every way in which a log, a JSON or a CSV of them can be damaged."""

import csv
import functools
import io
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from pytest_h2o.bench.rows import (
    COLUMN_DECIMALS,
    DETERMINISTIC_COLUMNS,
    H2O_COLUMNS,
    Measurement,
    Row,
    parse_json,
    parse_measurement,
    parse_table,
    read_metrics_csv,
    read_rows,
    read_table,
    render_metrics_csv,
    require_h2o,
)
from pytest_h2o.errors import TableError
from pytest_h2o.files import write_new_text

from .samples import OTHER, RECORDINGS, SWEEP, recorded_points, refusal

RUN_1 = SWEEP / "logs" / "run_0001_p512_g128_k0.28_b8_lr3.0.log"
HEADER = "| model | threads | h2o_keep |\n| ----- | ------: | -------: |\n"


def parse(text: str, repeat: int | None = None) -> tuple[Row, ...]:
    return parse_table(text, log_file="x.log", repeat=repeat)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("12.34 ± 0.56", Measurement(12.34, 0.56)),
        ("1e-05 ± 2E+1", Measurement(1e-05, 20.0)),
        ("12.34", Measurement(12.34, None)),
        ("3.00 ± -nan", Measurement(3.0, None)),
        ("3.00 ± nan", Measurement(3.0, None)),
        ("3.00 ± -nan(ind)", Measurement(3.0, None)),
        ("inf ± 1.0", Measurement(math.inf, 1.0)),
        ("-.5 ± 1.", Measurement(-0.5, 1.0)),
        ("", None),
        ("Low", None),
        ("1.0 ±", None),
        ("1.0 ± x", None),
        ("1,5", None),
        ("1_0", None),
        ("٣", None),
        ("0x10", None),
    ],
)
def test_parse_measurement(cell: str, expected: Measurement | None) -> None:
    assert parse_measurement(cell) == expected
    assert str(parse_measurement("-nan ± 0.00")) == "Measurement(mean=nan, std=0.0)"


def test_columns_come_by_name_and_others_are_kept() -> None:
    text = (
        "| loadingTime(s) | h2o_new | speed(tok/s) | threads |\n| - | - | :-: | -: |\n"
        "| 1.25 ± 0.03 | yes | 1e2 ± 1<br>5.5 ± -nan | 4 |\n"
    )
    (row,) = parse(text)
    assert row.get("loadingTime(s)") == Measurement(1.25, 0.03)
    assert (row.cells["h2o_new"], row.get("h2o_new"), row.threads) == ("yes", None, 4)
    assert (row.prefill_tok_per_s, row.decode_tok_per_s) == (Measurement(100.0, 1.0), Measurement(5.5, None))
    assert (row.model, row.backend, row.prompt_len, row.gen_len) == (None, None, None, None)


def test_what_may_stand_around_a_table() -> None:
    """Other text, a table with other columns, other line ends, and no last one."""
    text = "The device supports: fp16:0\n" + HEADER + "Drop stale plan: layer=3.\n| m | 2 | 0.5 |\n\ndone\n"
    assert [row.get("h2o_keep") for row in parse(text)] == [Measurement(0.5, None)]
    first, second = parse(HEADER + "| m | 2 | 0.5 |\n| test | t/s |\n| - | - |\n| pp16+tg8 | 9.0 ± 1.0 |\n")
    assert first.get("h2o_keep") == Measurement(0.5, None)
    assert (second.prompt_len, second.gen_len) == (16, 8)
    assert (second.prefill_tok_per_s, second.decode_tok_per_s) == (None, None)
    assert len(parse((HEADER + "| m | 2 | 0.5 |").replace("\n", "\r\n"))) == 1


def test_blank_cells_are_missing(snapshot: SnapshotAssertion) -> None:
    (row,) = parse(HEADER + "| m |  |  |\n")
    assert (row.threads, row.get("h2o_keep")) == (None, None)
    assert refusal(lambda: require_h2o(row, ["h2o_keep"])) == snapshot


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "| m | 2 | 0.5 |\n| m | 2 |\n",
        HEADER + "| m | 2 | 0.",
        HEADER + "| m | 2 |\n| m | 2 | 0.5 |\n",
        HEADER + "| m | 2 | 0.5 | 7 |\n",
        HEADER + " m | 2 | 0.5 |\n| m | 2 | 0.5 |\n",
        HEADER + "| m | two | 0.5 |\n",
        HEADER + "| m | 2 | much |\n",
        HEADER,
        HEADER + HEADER + "| m | 2 | 0.5 |\n",
        "| m | 2 | 0.5 |\n" + HEADER,
        "| model | modelS",
        "| model | threads |\n| ---- |\n",
        "| model | model |\n| - | - |\n| a | b |\n",
        "Segmentation fault\x1b[0m\n",
        "| llm_demo |\n| - |\n| prompt=512 |\n",
        "| test |\n| - |\n| qq7 |\n",
        "| test |\n| - |\n| + |\n",
        "| speed(tok/s) |\n| - |\n| 3.0 ± 1.0 |\n",
        "| test | t/s |\n| - | - |\n| pp1 | fast |\n",
    ],
)
def test_damage_names_file_and_line(text: str, snapshot: SnapshotAssertion) -> None:
    assert refusal(lambda: parse(text)) == snapshot


def test_every_truncation_of_a_log_is_noticed() -> None:
    text = RUN_1.read_text(encoding="utf-8")
    for end in range(len(text) - 1):
        with pytest.raises(TableError):
            parse(text[:end])


def test_a_log_that_is_no_text_too_large_empty_or_not_there(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    (tmp_path / "x.log").write_bytes(b"| a |\xff")
    (tmp_path / "large.log").touch()
    os.truncate(tmp_path / "large.log", 1 << 40)  # a hole: nothing of it must come into memory
    for path in (tmp_path / "x.log", tmp_path / "large.log", tmp_path / "y.log", OTHER / "missing_model.log"):
        assert refusal(functools.partial(read_table, path, log_file=path.name)) == snapshot


@pytest.mark.parametrize("encoding", ["gbk", "latin-1", "cp1252", "utf-16", "utf-8-sig"])
def test_what_terminals_and_editors_make_of_a_log_is_read(encoding: str, tmp_path: Path) -> None:
    """The one sign that is not ASCII there is ±."""
    text = RUN_1.read_text(encoding="utf-8")
    (tmp_path / "x.log").write_bytes(text.replace("\n", "\r\n").encode(encoding))
    assert read_table(tmp_path / "x.log", log_file="x") == read_table(RUN_1, log_file="x")
    damaged = text.encode().replace("±".encode(), b"\xc2", 1)
    (tmp_path / "x.log").write_bytes(damaged)
    with pytest.raises(TableError, match="a byte that is not UTF-8 at offset"):
        read_table(tmp_path / "x.log")


numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
cell_texts = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="|\n\r"), max_size=8).map(str.strip)


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, list[dict[str, str]]]:
    columns = draw(st.lists(st.sampled_from([*H2O_COLUMNS, "model", "power", "x y"]), min_size=1, unique=True))
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        row = {}
        for column in columns:
            mean, std = draw(numbers), draw(numbers)
            row[column] = f"{mean!r} ± {std:.3f}" if column.startswith("h2o") else draw(cell_texts)
        rows.append(row)
    lines = ["| " + " | ".join(columns) + " |", "|" + " ---: |" * len(columns)]
    lines += ["| " + " | ".join(row[column] for column in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n", rows


@given(tables(), st.sampled_from([None, 1, 3]))
def test_what_was_printed_is_read(table: tuple[str, list[dict[str, str]]], repeat: int | None) -> None:
    text, expected = table
    rows = parse(text, repeat)
    assert [row.cells for row in rows] == expected
    for row, cells in zip(rows, expected, strict=True):
        for column in DETERMINISTIC_COLUMNS:
            value = row.get(column)
            if column in cells:
                mean, std = (float(part) for part in cells[column].split(" ± "))
                assert value == Measurement(mean, None if repeat == 1 else std)
            else:
                assert value is None


def test_first_run_of_the_sweep() -> None:
    (row,) = read_table(RUN_1, log_file="logs/run_0001.log", repeat=3)
    assert (row.model, row.backend, row.threads, row.log_file) == ("smol_mnn", "CPU", 2, "logs/run_0001.log")
    assert (row.prompt_len, row.gen_len) == (512, 128)
    assert row.prefill_tok_per_s == Measurement(333.20, 19.41)
    assert row.decode_tok_per_s == Measurement(62.08, 11.44)
    assert row.get("h2o_lossy") == Measurement(2.961, 0.026)
    assert row.get("h2o_lossless_fallback") == Measurement(0.0, 0.0)
    assert row.cells["h2o_keep"] == "0.3377 ± 0.0030"
    assert row.cells["modelSize"] == "144.60 MiB"
    assert list(row.cells)[:8] == [
        "model", "modelSize", "backend", "threads", "precision", "llm_demo", "speed(tok/s)", "h2o_keep",
    ]  # fmt: skip
    assert list(row.cells)[7:] == list(COLUMN_DECIMALS)
    require_h2o(row)


def test_log_without_cache_use_has_one_speed_a_row(snapshot: SnapshotAssertion) -> None:
    prefill, decode = read_table(OTHER / "kv_false.log")
    assert (prefill.prompt_len, prefill.gen_len) == (128, None)
    assert (prefill.prefill_tok_per_s, prefill.decode_tok_per_s) == (Measurement(253.22, 2.23), None)
    assert (decode.prompt_len, decode.gen_len) == (None, 32)
    assert (decode.prefill_tok_per_s, decode.decode_tok_per_s) == (None, Measurement(86.52, 4.73))
    assert decode.get("h2o_lossy") is None
    assert refusal(lambda: require_h2o(decode)) == snapshot


def parse_results(*results: dict[str, object], **head: object) -> tuple[Row, ...]:
    return parse_json(json.dumps({**head, "results": list(results)}), log_file="x.json")


def test_json_without_cache_use(snapshot: SnapshotAssertion) -> None:
    """A number beyond all floats is infinite."""
    rows = parse_results(
        {"type": "prefill", "prompt_len": 16, "tps": 12.345, "std": 0.5},
        {"type": "decode", "generate_len": 8, "tps": 5, "std": 0.25, "loading_time": 1.5, "loading_time_std": 0.125},
        {"type": "prefill_and_decode", "prompt_len": 16, "generate_len": 8},
        {"type": "decode", "generate_len": 8, "tps": 10**400, "std": 1},
        modelSize=1.5, precision=1, useMmap=True,
    )  # fmt: skip
    assert [(row.cells, row.prefill_tok_per_s, row.decode_tok_per_s) for row in rows] == snapshot


def test_json_with_numbers_that_its_writer_could_not_print() -> None:
    text = (OTHER / "multi.json").read_text(encoding="utf-8")
    text = text.replace('"decode_std":3.80824420573218', '"decode_std":', 1)
    text = text.replace('"h2o_keep_ratio":1.0', '"h2o_keep_ratio":', 1)
    text = text.replace('"h2o_lossless_decode_cache_miss_std":0.0}', '"h2o_lossless_decode_cache_miss_std":}', 1)
    first, _ = parse_json(text, log_file="x.json")
    assert first.decode_tok_per_s == Measurement(73.46, None)
    assert str(first.get("h2o_keep")) == "Measurement(mean=nan, std=0.0)"
    assert first.get("h2o_lossless_decode_cache_miss") == Measurement(0.0, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"results": [',
        "[" * 100000,
        "9" * 5000,
        "[]",
        "{}",
        '{"results": []}',
        '{"results": [1]}',
        '{"results": [{}]}',
        '{"model": 3, "results": [{}]}',
        '{"threads": true, "results": [{}]}',
        '{"results": [{"type": "decode", "generate_len": 8, "tps": "5"}]}',
    ],
    ids=lambda text: text[:40],
)
def test_json_that_is_damaged(text: str, snapshot: SnapshotAssertion) -> None:
    assert refusal(lambda: parse_json(text, log_file="x.json")) == snapshot


def copy_pair(folder: Path, table: str, of_json: str) -> tuple[Path, Path]:
    (folder / "x.log").write_text(table, encoding="utf-8")
    (folder / "x.json").write_text(of_json, encoding="utf-8")
    return folder / "x.log", folder / "x.json"


TABLE, JSON = ((OTHER / f"multi.{kind}").read_text(encoding="utf-8") for kind in ("log", "json"))


def test_one_of_them_serves_if_the_other_is_missing_or_empty(tmp_path: Path) -> None:
    log, _ = copy_pair(tmp_path, TABLE, JSON)
    assert read_rows(log, None, log_file="x.log") == read_rows(log, tmp_path / "no.json", log_file="x.log")
    read = read_rows(*copy_pair(tmp_path, "", JSON), log_file="x.log")
    assert [dict(row.cells) for row in read] == [dict(row.cells) for row in parse(TABLE)]
    assert {row.notes for row in read} == {("the log is empty; the row is from the JSON",)}


@pytest.mark.parametrize("damage", ["", "cut", "{}", "[1]", "\0", "pipe", "folder", "link"])
def test_a_damaged_json_is_an_error_whatever_the_table_says(tmp_path: Path, damage: str) -> None:
    log, of_json = copy_pair(tmp_path, TABLE, JSON[:100] if damage == "cut" else damage)
    make = {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda path: path.symlink_to(path)}
    if damage in make:
        of_json.unlink()
        make[damage](of_json)  # type: ignore[operator]
    with pytest.raises(TableError) as caught:
        read_rows(log, of_json, log_file="x.log")
    assert str(of_json) in (caught.value.where or "")


RISE = '"h2o_keep_ratio":1.0,"quality_ppl_rise":'


@pytest.mark.parametrize(
    ("table", "of_json", "came"),
    [
        (None, "0.0123456789", "0.0123457"),
        (None, '0.25,"quality_ppl_rise_std":0.5', "0.25 ± 0.5"),
        (None, "", "nan"),
        (None, '"x"', None),
        (None, "null", None),
        ("0.0123", "0.0123456789", "0.0123"),
        ("0.0123", "0.0124456789", None),
        ("nan", "", "nan"),
        ("0.0123", "", None),
        ("n/a", "0.0123", None),
    ],
)
def test_quality_that_only_the_json_has_is_read(
    tmp_path: Path, table: str | None, of_json: str, came: str | None
) -> None:
    lines = TABLE.splitlines(keepends=True)
    if table is not None:
        for number, cell in enumerate((" quality_ppl_rise |\n", " --- |\n", *[f" {table} |\n"] * (len(lines) - 2))):
            lines[number] = lines[number].rstrip("\n") + cell
    log, path = copy_pair(tmp_path, "".join(lines), JSON.replace('"h2o_keep_ratio":1.0,', f"{RISE}{of_json},"))
    if came is not None:
        assert [row.cells["quality_ppl_rise"] for row in read_rows(log, path, log_file="x.log")] == [came] * 2
        return
    with pytest.raises(TableError, match=r"another value than it writes|table and JSON of one run disagree"):
        read_rows(log, path, log_file="x.log")


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


def recorded_rows() -> list[Row]:
    names = [f"logs/{point.run_id}.log" for point in recorded_points()]
    return [row for name in names for row in read_table(SWEEP / name, log_file=name, repeat=3)]


def test_csv_equals_the_recorded_one() -> None:
    text = render_metrics_csv(recorded_rows())
    ours, theirs = (
        list(csv.DictReader(io.StringIO(given, newline="")))
        for given in (text, (RECORDINGS / "h2o_metrics.expected.csv").read_bytes().decode())
    )
    assert ours == theirs
    header = text.split("\r\n")[0].split(",")
    table = list(read_table(SWEEP / f"logs/{recorded_points()[0].run_id}.log")[0].cells)
    assert [column for column in header if column.startswith("h2o_")] == [c for c in table if c.startswith("h2o_")]
    assert header[-2:] == ["log_file", "precision"]
    assert {(row.prompt_len, row.gen_len, row.threads) for row in recorded_rows()} == {(512, 128, 2)}


@pytest.mark.parametrize(
    "text",
    ["", "a,a\n1,2\n", "model,threads\n", "model,threads\nm,2\nm\n", "model,threads\nm,two\n", 'model,threads\n"m,2\n'],
)
def test_csv_that_is_damaged(tmp_path: Path, text: str, snapshot: SnapshotAssertion) -> None:
    (tmp_path / "m.csv").write_text(text)
    assert refusal(lambda: read_metrics_csv(tmp_path / "m.csv")).replace(str(tmp_path), "") == snapshot


def test_other_logs(snapshot: SnapshotAssertion) -> None:
    """Their speeds; what is off keeps all, and of one repeat no spread is known."""
    for name in ("appended", "baseline_h2o_off", "baseline_h2o_off_after", "multi"):
        rows = read_table(OTHER / f"{name}.log")
        assert [(row.prefill_tok_per_s, row.decode_tok_per_s) for row in rows] == snapshot(name=name)
        assert all(row.get("h2o_keep") == Measurement(1.0, 0.0) for row in rows)
    (once,) = read_table(OTHER / "baseline_h2o_off.log", repeat=1)
    assert (once.decode_tok_per_s, once.get("h2o_keep")) == (Measurement(56.02, None), Measurement(1.0, None))


def test_json_cells_have_the_decimals_of_the_table() -> None:
    def decimals(cell: str) -> tuple[int, ...]:
        return tuple(len(number.partition(".")[2]) for number in cell.split(" ± "))

    logs = [*(SWEEP / "logs").glob("*.log"), OTHER / "appended.log", OTHER / "multi.log"]
    rows = [row for log in logs for row in read_table(log)]
    seen = {(column, decimals(row.cells[column])) for row in rows for column in COLUMN_DECIMALS}
    assert seen == {(column, (count, count)) for column, count in COLUMN_DECIMALS.items()}
    assert {decimals(part) for row in rows for part in row.cells["speed(tok/s)"].split("<br>")} == {(2, 2)}


def test_table_and_json_agree(tmp_path: Path) -> None:
    """What only the JSON tells is kept beside the table."""
    log, beside = copy_pair(tmp_path, TABLE, JSON)
    of_table, of_json = parse(TABLE, 2), parse_json(JSON, log_file="x.log", repeat=2)
    assert read_rows(log, beside, log_file="x.log", repeat=2) == of_table == of_json
    assert [list(row.cells.items()) for row in of_json] == [list(row.cells.items()) for row in of_table]
    document = json.loads(JSON)
    document["results"][0] |= {"decode_tokens": 12.5, "decode_tokens_std": 0.5}
    beside.write_text(json.dumps(document))
    told, untold = read_rows(log, beside, log_file="x.log")
    assert (told.decoded_tokens, told.cells["decode_tokens"]) == (12.5, "12.50 ± 0.50")
    assert (untold.decoded_tokens, "decode_tokens" in untold.cells) == (None, False)


@pytest.mark.parametrize(
    ("table", "old", "new"),
    [
        (TABLE, '"decode_tps":56.7', '"decode_tps":57.7'),
        (TABLE, '"h2o_lossy_ratio":1.0', '"h2o_lossy_ratio":1.002'),
        (TABLE, '"backend":"CPU"', '"backend":"OPENCL"'),
        (TABLE + TABLE, "", ""),
        (TABLE[:-20], "", ""),
    ],
    ids=["speed", "ratio", "backend", "rows", "cut"],
)
def test_table_and_json_that_disagree_or_a_table_that_is_damaged(
    tmp_path: Path, table: str, old: str, new: str, snapshot: SnapshotAssertion
) -> None:
    assert old in JSON
    log, of_json = copy_pair(tmp_path, table, JSON.replace(old, new) if old else JSON)
    assert refusal(lambda: read_rows(log, of_json, log_file="x.log")) == snapshot


def test_csv_is_read_back(tmp_path: Path) -> None:
    """Rows of unlike binaries keep what they lack."""
    rows = recorded_rows()
    write_new_text(tmp_path / "m.csv", render_metrics_csv(rows))
    assert list(read_metrics_csv(tmp_path / "m.csv", repeat=3)) == rows
    old = Row.from_cells({"model": 'a "b", c', "h2o_keep": "0.5"}, log_file="old.log")
    new = Row.from_cells({"model": "m", "zeta": "1", "alpha": "2\n3"}, log_file="new.log")
    write_new_text(tmp_path / "n.csv", render_metrics_csv([old, new]))
    assert (tmp_path / "n.csv").read_text(encoding="utf-8").split("\n")[0] == "model,h2o_keep,log_file,alpha,zeta"
    assert read_metrics_csv(tmp_path / "n.csv") == (old, new)
