"""Text that others wrote reaches a terminal without what a terminal would act on."""

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h2o.cli.main import main
from pytest_h2o.errors import (
    Fault,
    H2OError,
    PresetError,
    StoreError,
    TableError,
    UsageError,
    error_from_json,
    error_to_json,
    make_printable,
    one_line,
)
from tests.fuzz.target import check_harmless
from tests.fuzz.text_targets import SWEEP
from tests.lossless.samples import write_entry

CONTROL = "\x1b[31mred\x1b]8;;https://example.org/\x07link\x08\r\u202egnp.exe\u2066\ufeff\x9b2J\x7f"
SHOWN = r"\x1b[31mred\x1b]8;;https://example.org/\x07link\x08\r\u202egnp.exe\u2066\ufeff\x9b2J\x7f"


def test_every_part_of_an_error_is_shown_on_its_line() -> None:
    error = H2OError(CONTROL, where=f"a{CONTROL}", came="1\n  next: rm -rf /", expected="::error::no\n", hint=CONTROL)
    text = str(error)
    check_harmless(text)
    assert text.split("\n") == [
        SHOWN,
        f"  where: a{SHOWN}",
        r"  came: 1\n  next: rm -rf /",
        r"  expected: ::error::no\n",
        f"  next: {SHOWN}",
    ]


def test_long_parts_are_cut_and_long_lists_end() -> None:
    assert len(str(H2OError("what", came="x" * 10**6))) < 5000
    faults = [Fault("what", "x" * 5000, f"key{n}") for n in range(100)]
    text = str(PresetError.from_faults(faults))
    assert len(text) < 50_000
    *shown, last = text.splitlines()[1:]
    assert last == f"and {100 - len(shown)} more"


def test_a_command_shows_names_of_files_and_of_metas_harmlessly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = CONTROL.replace("/", "|")
    write_entry(tmp_path / "dump", stage=CONTROL, run_id=name)
    write_entry(tmp_path / "dump", start=8)
    out = tmp_path / f"{name}.json"
    assert main(["lossless", "--dump-dir", str(tmp_path / "dump"), "--out-json", str(out)]) == 1
    assert main(["lossless", "--dump-dir", str(tmp_path / name), "--out-json", str(tmp_path / "b.json")]) == 2
    printed = capsys.readouterr()
    for text in (printed.out, printed.err):
        check_harmless(text)
    assert SHOWN.replace("/", "|") in printed.err
    assert json.loads(out.read_text())["skipped"][0]["path"].startswith(name)  # a file keeps what was there


def test_logs_with_hostile_names_are_listed_harmlessly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(SWEEP, folder)
    (folder / f"{CONTROL.replace('/', '|')}.log").write_text("no table")
    assert main(["parse", "--log-dir", str(folder), "--out-csv", str(tmp_path / "a.csv")]) == 0
    printed = capsys.readouterr().out
    check_harmless(printed)
    assert "left out: \\x1b[31mred" in printed


@given(st.text())
def test_nothing_harmful_is_left(text: str) -> None:
    shown = make_printable(text)
    assert all(c in "\n\t" or unicodedata.category(c)[0] != "C" for c in shown)
    assert make_printable(shown) == shown


def test_escapes_are_visible() -> None:
    assert make_printable("a\x1b[0m\r\n\tb\u202e\U000e0001é ±") == "a\\x1b[0m\\x0d\n\tb\\u202e\\U000e0001é ±"


def test_one_line() -> None:
    assert one_line("  a\n b\tc\x00 ") == "a b c\\x00"
    assert one_line("x" * 300) == "x" * 199 + "…"


@pytest.mark.parametrize("value", [{}, {"kind": "Exception", "what": "x"}, {"kind": "H2OError"}, {"kind": "Sequence"}])
def test_an_error_of_another_shape_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(StoreError, match="an error of a launch was kept in another shape"):
        error_from_json(value)


def test_errors_of_every_kind_survive() -> None:
    for error in (UsageError("a", where="b"), TableError("a", argv=["x"], output_tail="t"), StoreError("a", hint="h")):
        made = error_from_json(json.loads(json.dumps(error_to_json(error))))
        assert type(made) is type(error)
        assert vars(made) == vars(error)
